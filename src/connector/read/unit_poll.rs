//! One poll of one unit: which windows are read whole, which page by page, and which in shorter ones.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::clocks::{Clocks, ReadStart};
use super::merger::Membership;
use super::paged_read::PagedRead;
use super::pending_window::{PendingWindow, PublishedWindow};
use super::plan::PlannedRead;
use super::poll_progress::{PollProgress, ReadOutcome};
use super::poll_report::PollEnd;
use super::read_error::ReadError;
use super::scroll::{PagesSeen, Scroller, WholeMax};
use super::unit::UnitContext;
use super::whole_read::WholeRead;
use crate::core::planner::{LiveReads, Piece};
use crate::core::poll::{Hold, WindowEnd};
use crate::core::poll_pace::PollCost;
use crate::core::time::{UtcMillis, Window};
use crate::core::window_length::{SPAN_MIN, WindowLength};
use crate::hooks::{self, Mutant};
use crate::source::Source;
use crate::telemetry::labels::UnitLabel;

/// A window with more rows than this is read in halves: the identities of a window's rows are in memory while it is read.
const WINDOW_ROWS_MAX: u64 = 250_000;

/// What the newest poll says of how the next one is read.
pub(super) struct Pacing {
    pub(super) length: WindowLength,
    /// Whether what is new and the overlap are likely to be one page together.
    pub(super) is_one_page: bool,
    /// When the newest poll began that has read the overlap.
    pub(super) overlap_read: Option<Instant>,
    /// When the newest poll began that the log has told of.
    pub(super) told: Option<Instant>,
    /// How many rows a page may have, as far as that is known.
    pub(super) page_rows: usize,
    /// While the unit is behind.
    pub(super) membership: Option<Membership>,
}

/// A poll under way.
pub(super) struct UnitPoll<'a, S> {
    pub(super) unit: &'a Arc<UnitContext>,
    pub(super) scroller: &'a Arc<Scroller<S>>,
    pub(super) clocks: &'a Clocks<S>,
    pub(super) pacing: &'a mut Pacing,
    pub(super) bound: UtcMillis,
    pub(super) began: Instant,
    /// What it reads, if the unit is live.
    pub(super) reads: LiveReads,
    pub(super) cost: Requests,
    pub(super) whole_max: WholeMax,
    pub(super) progress: PollProgress,
    pub(super) pending: Option<PendingWindow>,
    /// Pages of the windows that were read whole.
    pub(super) seen: PagesSeen,
    pub(super) is_anything_read: bool,
}

/// How many pages a poll has asked for.
#[derive(Clone, Copy, Default)]
pub(super) struct Requests {
    /// Of windows that are read whole: of what is new.
    new: usize,
    /// Of windows that are published page by page: of the overlap.
    overlap: usize,
}

/// Whether a window is read in shorter ones.
enum Shorter {
    No,
    Yes,
    Impossible,
}

impl Requests {
    fn of(self, reads: LiveReads) -> PollCost {
        let Self { new, overlap } = self;
        match reads {
            LiveReads::Together => PollCost::Together(new + overlap),
            LiveReads::New if overlap == 0 => PollCost::New(new),
            LiveReads::New | LiveReads::Apart => PollCost::Apart { new, overlap, is_due: reads == LiveReads::Apart },
        }
    }
}

impl Pacing {
    /// Takes note of a live poll: of the pages of what it read whole, and of all its rows.
    fn note(&mut self, seen: PagesSeen, rows: u64) {
        if seen.with_rows > 1 {
            // The source puts fewer on a page than it is asked for.
            self.page_rows = self.page_rows.min(seen.longest);
        }
        self.is_one_page = seen.with_rows <= 1 && rows <= self.page_rows as u64;
    }
}

impl<S: Source> UnitPoll<'_, S> {
    /// Reads all windows of the poll.
    pub(super) async fn read(&mut self) -> Result<PollEnd, ReadError> {
        while let Some(piece) = self.next_window() {
            self.is_anything_read = true;
            let start = self.clocks.read_start();
            let planned = self.progress.planned(piece, start);
            if self.progress.poll.windows().is_read_whole() {
                self.read_whole(planned, start).await?;
            } else {
                self.settle().await?;
                self.read_by_pages(planned, start).await?;
            }
        }
        self.settle().await?;
        self.end().await
    }

    /// The next window. Where what is new shows no leg, the overlap tells quiet phones from an API that shows nothing.
    fn next_window(&mut self) -> Option<Piece> {
        let poll = &mut self.progress.poll;
        let planned = self.unit.next_window(|torn| poll.next(torn));
        let is_in_doubt = || poll.shows_no_legs() && self.progress.failed.is_none();
        if planned.is_some() || !is_in_doubt() || !poll.windows().add_overlap() {
            return planned;
        }
        self.unit.next_window(|torn| poll.next(torn))
    }

    /// Reads a window whole, and begins to publish it. Meanwhile the window before is published.
    async fn read_whole(&mut self, planned: PlannedRead, start: ReadStart) -> Result<(), ReadError> {
        let reading = WholeRead::read(self.scroller, planned, self.whole_max);
        tokio::pin!(reading);
        let read = loop {
            tokio::select! {
                biased;
                published = PendingWindow::published(&mut self.pending) => self.note_published(published?).await?,
                read = &mut reading => break read?,
            }
        };
        self.progress.note_requests(planned.piece.window, read.pages.requests);
        self.cost.new += read.pages.requests;
        self.seen.add(read.pages);
        let is_whole = matches!(read.ended, Ok(WindowEnd::Whole));
        match self.is_to_be_shorter(&read).await? {
            Shorter::No => {
                self.settle().await?;
                self.take(read, start).await?;
            }
            Shorter::Yes => {}
            Shorter::Impossible => {
                self.settle().await?;
                self.read_by_pages(planned, start).await?;
            }
        }
        if !is_whole {
            // What is read next depends on it.
            self.settle().await?;
        }
        Ok(())
    }

    /// Whether a window that was read is read in shorter ones instead of being published.
    async fn is_to_be_shorter(&mut self, read: &WholeRead) -> Result<Shorter, ReadError> {
        let window = read.planned.piece.window;
        let poll = &mut self.progress.poll;
        match &read.ended {
            Ok(WindowEnd::TooManyRows(rows)) if window.length() > SPAN_MIN => {
                tracing::debug!(unit = self.unit.name, %window, rows, "a window has too many rows and is read in shorter ones");
                let Some(cycle) = poll.recut() else {
                    poll.halve(read.planned.piece);
                    return Ok(Shorter::Yes);
                };
                if cycle.length().on_too_many(window, *rows, self.unit.pace.window_rows) {
                    cycle.take_back(window);
                    return Ok(Shorter::Yes);
                }
                Ok(self.out_of_order(window))
            }
            Ok(WindowEnd::TooManyRows(_)) => Ok(self.out_of_order(window)),
            Err(error)
                if read.pages.with_rows == 0 && self.scroller.fetcher.is_for_the_length(error, window).await? =>
            {
                let Some(cycle) = poll.recut() else { return Ok(Shorter::No) };
                cycle.take_back(window);
                cycle.length().on_refused(window);
                Ok(Shorter::Yes)
            }
            _ => Ok(Shorter::No),
        }
    }

    /// Counts a window that is published page by page although its rows should come in order.
    fn out_of_order(&self, window: Window) -> Shorter {
        let unit = &self.unit.name;
        tracing::debug!(unit, %window, "a window has too many rows, however short: it is published page by page, out of order");
        self.unit.metrics.unordered_windows.get_or_create(&UnitLabel { unit: unit.clone() }).inc();
        Shorter::Impossible
    }

    /// Takes note of a window that was read whole, and begins to publish it.
    async fn take(&mut self, mut read: WholeRead, start: ReadStart) -> Result<(), ReadError> {
        let PlannedRead { piece, leniency, .. } = read.planned;
        let (ended, judgement, begun) = (read.ended.clone(), read.judgement, self.clocks.begun(start));
        let is_whole = ended == Ok(WindowEnd::Whole);
        let clocks_differ = is_whole && self.clocks.differ();
        if is_whole {
            let length = self.progress.poll.windows().length();
            length.on_read(piece.window, judgement.shape.rows, self.unit.pace.window_rows);
        }
        let has_failed = ended.is_err();
        let outcome = ReadOutcome { piece, ended, judgement, leniency, begun, clocks_differ };
        if has_failed && read.pages.with_rows == 0 {
            // There is nothing to publish, and nothing that the other units should wait for.
            self.progress.note(outcome).await?;
            return Ok(());
        }
        // What was read before a fault is published before the fault is told.
        let outcome = if has_failed || hooks::is_mutant(Mutant::BegunWhenPublished) {
            Some(outcome)
        } else {
            read.reaches = self.progress.note(outcome).await?;
            None
        };
        self.pending = Some(PendingWindow::publish(read, outcome, self.pacing.membership.as_ref(), self.unit));
        Ok(())
    }

    /// Waits until the pending window is published, and takes note of it.
    async fn settle(&mut self) -> Result<(), ReadError> {
        if self.pending.is_some() {
            let published = PendingWindow::published(&mut self.pending).await?;
            self.note_published(published).await?;
        }
        Ok(())
    }

    /// Takes note of a window that was read whole and is published.
    async fn note_published(&mut self, published: PublishedWindow) -> Result<(), ReadError> {
        let PublishedWindow { piece, outcome, counts, reaches } = published;
        self.progress.counts += counts;
        let Some(mut outcome) = outcome else { return self.progress.settle(piece, reaches).await };
        if hooks::is_mutant(Mutant::BegunWhenPublished) {
            outcome.begun = self.unit.clock.now().floor_second();
        }
        self.progress.note_published(outcome).await
    }

    /// Reads a window and publishes it page by page.
    async fn read_by_pages(&mut self, planned: PlannedRead, start: ReadStart) -> Result<(), ReadError> {
        let PlannedRead { piece, leniency, .. } = planned;
        let rows_max = (piece.window.length() > SPAN_MIN).then_some(WINDOW_ROWS_MAX);
        let mut read = PagedRead::new(planned, rows_max, &mut self.progress.counts);
        let ended = match read.read(self.scroller).await {
            Ok(ended) => Ok(ended),
            Err(ReadError::Source(error)) => Err(error),
            Err(error) => return Err(error),
        };
        let PagedRead { tally, requests, doubt, .. } = read;
        self.progress.note_requests(piece.window, requests);
        if self.progress.poll.windows().is_read_whole() {
            self.cost.new += requests;
        } else {
            self.cost.overlap += requests;
        }
        let begun = self.clocks.begun(start);
        let clocks_differ = ended == Ok(WindowEnd::Whole) && self.clocks.differ();
        if let Some(membership) = &self.pacing.membership {
            membership.note_read(piece.window);
        }
        let judgement = tally.judgement(doubt);
        self.progress.note_published(ReadOutcome { piece, ended, judgement, leniency, begun, clocks_differ }).await
    }

    /// Ends a poll all of whose windows were read.
    async fn end(&mut self) -> Result<PollEnd, ReadError> {
        let progress = &mut self.progress;
        self.pacing.length = *progress.poll.windows().length();
        if let Some(error) = progress.failed.take() {
            return Err(error.into());
        }
        let is_overlap_read = self.reads != LiveReads::New || self.cost.overlap > 0;
        if is_overlap_read {
            self.pacing.overlap_read = Some(self.began);
        }
        if progress.looked_to.is_some() {
            if is_overlap_read {
                self.pacing.note(self.seen, progress.rows);
            }
            self.unit.timer.note(&self.unit.name, self.cost.of(self.reads));
        }
        let mut hold = progress.close().await?;
        if !self.is_anything_read {
            // Asks all the same, so that a clock that went backwards is noticed.
            let just_now = Window::new(self.bound.minus(Duration::from_secs(1)), self.bound);
            self.scroller.fetcher.ask(just_now).await?;
            hold = self.clocks.differ().then_some(Hold::ClockSkew);
        }
        Ok(hold.map_or(PollEnd::Whole, |hold| PollEnd::held(hold, || self.clocks.describe_skew())))
    }
}
