//! One unit's loop: plan a poll, read its pieces, move the watermarks, pause.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::field::Empty;
use tracing::{Instrument, Span};

use super::Pace;
use super::ahead::{CATCH_UP_BYTES, LIVE_BYTES};
use super::clocks::{Clocks, ReadStart};
use super::doubt::{describe_contradiction, describe_doubt};
use super::merger::{Membership, MergeHandle, PublishResult};
use super::paged_read::PagedRead;
use super::plan::{PlannedRead, first_dead_rows};
use super::read_error::{ReadError, state_of};
use super::scroll::{PagesSeen, Scroller, WholeMax};
use super::unit::UnitContext;
use super::whole_read::WholeRead;
use crate::config::StartFrom;
use crate::connector::fault::Fault;
use crate::connector::stage::{count, root, stage, traced};
use crate::connector::write::request::{FirstStart, Lane, Reached, Request, Shown};
use crate::core::course::{Course, Leniency};
use crate::core::dedupe::Counts;
use crate::core::journal::UnitProgress;
use crate::core::leg::How;
use crate::core::parts::SPAN_MIN;
use crate::core::planner::{Cycle, Piece, WindowLength, bound, time_left};
use crate::core::poll::{Hold, Judgement, Outcome, Poll, WindowEnd, WindowRead};
use crate::core::time::{UtcMillis, Window};
use crate::core::watermark::{Delays, Progress, Reach};
use crate::hooks::{self, Mutant};
use crate::source::{Recovery, Source, SourceError};
use crate::telemetry::Streak;
use crate::telemetry::labels::{UnitLabel, UnitResultLabels};
use crate::telemetry::recent::PollNote;
use crate::telemetry::status::UnitState;

/// How often a long poll says how far it has come.
const CATCHING_UP_TOLD: Duration = Duration::from_secs(30);

/// A window with more rows than this is read in halves: the identities of a window's rows are in memory while it is read.
const WINDOW_ROWS_MAX: u64 = 250_000;

/// Polls one unit.
pub(crate) struct Poller<S> {
    unit: Arc<UnitContext>,
    scroller: Arc<Scroller<S>>,
    clocks: Clocks<S>,
    merge: MergeHandle,
    membership: Option<Membership>,
    start_from: Option<StartFrom>,
}

/// What polls have in common, and what the newest says of the next.
struct Pacing {
    length: WindowLength,
    /// How they go on where windows are held; from the first poll on.
    course: Option<Course>,
    /// When an operator had last accepted what the source shows, as of the newest poll.
    accepted_at: Option<UtcMillis>,
    /// Whether what is new and the overlap are likely to be one page together.
    is_one_page: bool,
    /// How many rows a page may have, as far as that is known.
    page_rows: usize,
    /// While the unit is behind.
    membership: Option<Membership>,
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

/// A poll under way.
struct Reads<'a> {
    generation: u32,
    /// As of the newest window that counts as read.
    course: &'a mut Course,
    /// As of the newest window that is published.
    settled: &'a mut Course,
    /// How far the unit is final, as the journal has it.
    final_to: UtcMillis,
    /// How far the unit was complete before a live poll, behind all holds.
    looked_to: Option<UtcMillis>,
    /// When an operator has last accepted what the source shows.
    accepted_at: Option<UtcMillis>,
    /// When the poll began, and where, behind all holds.
    began: (Instant, UtcMillis),
    bound: UtcMillis,
    poll: Poll<Cycle>,
    counts: &'a mut Counts,
    whole_max: WholeMax,
    failed: Option<SourceError>,
    is_anything_read: bool,
    told: Option<Instant>,
    /// Pages of what was read whole.
    seen: PagesSeen,
    /// All rows.
    rows: u64,
}

impl Reads<'_> {
    const fn is_live(&self) -> bool {
        self.looked_to.is_some()
    }

    /// A read of a window that is still to be made.
    fn planned(&self, piece: Piece, start: ReadStart, delays: &Delays) -> PlannedRead {
        // As of the beginning: what the answers tell of the server's clock makes less final, never more.
        let &Delays { settle, overlap, .. } = delays;
        let leniency = self.course.leniency(piece.window, start.earlier, self.accepted_at);
        let looked_to = self.course.looked_to(piece.window);
        PlannedRead {
            piece,
            generation: self.generation,
            final_to: self.final_to,
            makes_final_to: start.earlier.minus(settle).minus(overlap),
            looked_to: self.looked_to.map_or(looked_to, |before| before.min(looked_to)),
            leniency,
            dead_rows: first_dead_rows(leniency),
        }
    }
}

/// A window that was read.
struct Read {
    piece: Piece,
    ended: Result<WindowEnd, SourceError>,
    judgement: Judgement,
    leniency: Leniency,
    begun: UtcMillis,
    clocks_differ: bool,
}

/// A window that was read whole and is being published.
struct Publishing {
    piece: Piece,
    /// What is taken note of once its rows are published.
    read: Option<Read>,
    publishing: PendingRows,
}

/// How its rows are published.
enum PendingRows {
    /// In the order of all units that catch up.
    Merged(oneshot::Receiver<PublishResult>),
    Alone(AbortOnDropHandle<PublishResult>),
}

/// A window that was read whole and is published.
struct Published {
    publishing: Publishing,
    counts: Counts,
    /// How far the unit has come, if that did not go with the rows.
    reaches: Vec<Reach>,
}

impl Publishing {
    /// Waits for the end of what is being published; for ever where nothing is.
    async fn ended(publishing: &mut Option<Self>) -> Result<Published, ReadError> {
        let Some(Self { publishing: rows, .. }) = publishing else { return std::future::pending().await };
        let ended = match rows {
            PendingRows::Merged(rows) => rows.await.map_err(|_| Fault::Stopped)?,
            PendingRows::Alone(rows) => rows.await.map_err(Fault::from)?,
        };
        let Some(publishing) = publishing.take() else { return std::future::pending().await };
        let (counts, reaches) = ended?;
        Ok(Published { publishing, counts, reaches })
    }
}

/// Whether a window is read in shorter ones.
enum Shorter {
    No,
    Yes,
    Impossible,
}

/// How a poll ended.
enum PollEnd {
    /// Every piece was read whole.
    Whole,
    /// What could be read was published; the watermarks wait, and why.
    Held(UnitState, String),
}

impl PollEnd {
    /// In a word, as metrics have it.
    const fn result(&self) -> &'static str {
        match self {
            Self::Whole => "ok",
            Self::Held(UnitState::ClockSkew, _) => "clock_skew",
            Self::Held(UnitState::SourceEmpty, _) => "empty",
            Self::Held(UnitState::SourceInvalid, _) => "invalid",
            Self::Held(UnitState::SourceTimeZone, _) => "time_zone",
            Self::Held(..) => "incomplete",
        }
    }
}

impl<S: Source> Poller<S> {
    /// A poller of a unit that takes part in the merge from the beginning: until it is clear that the unit is not behind,
    /// the others wait for it.
    pub(crate) fn new(
        scroller: Arc<Scroller<S>>,
        merge: MergeHandle,
        membership: Membership,
        start_from: Option<StartFrom>,
    ) -> Self {
        let unit = Arc::clone(&scroller.fetcher.unit);
        let clocks = Clocks { unit: Arc::clone(&unit), source: Arc::clone(&scroller.fetcher.source) };
        Self { unit, scroller, clocks, merge, membership: Some(membership), start_from }
    }

    /// Polls until told to stop.
    pub(crate) async fn run(mut self) -> Result<(), Fault> {
        let mut failures = 0;
        let Pace { window_max, page_rows, .. } = self.unit.pace;
        let mut pacing = Pacing {
            length: WindowLength::new(window_max),
            course: None,
            accepted_at: None,
            is_one_page: false,
            page_rows,
            membership: self.membership.take(),
        };
        loop {
            let started = Instant::now();
            let mut counts = Counts::default();
            let live = self.scroller.fetcher.live.begin();
            let span = root!("poll", unit = self.unit.name, result = Empty, rows = Empty, published = Empty);
            let ended = traced(span.clone(), self.poll(&mut counts, &mut pacing)).await;
            drop(live);
            note_trace(span, &ended, counts);
            if ended.is_err() {
                // What was read and is not published comes in order all the same.
                self.scroller.ahead.forget();
            }
            let pause = match ended {
                Ok(end) => {
                    failures = 0;
                    let progress = self.unit.progress();
                    self.report_end(end, counts, progress.as_ref().map(|unit| &unit.progress), started.elapsed());
                    self.unit.pace.interval.saturating_sub(started.elapsed())
                }
                Err(ReadError::Source(error)) => {
                    if let Some(membership) = pacing.membership.as_ref().filter(|_| error.recovery == Recovery::Refused)
                    {
                        membership.note_refused();
                    }
                    if let Some(course) = &mut pacing.course {
                        course.end_poll(false);
                    }
                    failures += 1;
                    self.report_failure(&error, failures, counts, started.elapsed())
                }
                Err(ReadError::Replaced) => {
                    // It is read from elsewhere.
                    (pacing.membership, pacing.course) = (None, None);
                    Duration::ZERO
                }
                Err(ReadError::Fault(Fault::Stopped)) => return Ok(()),
                Err(ReadError::Fault(fault)) => return Err(fault),
            };
            tokio::select! {
                biased;
                () = self.unit.stop.cancelled() => return Ok(()),
                () = self.accepted_after(pacing.accepted_at) => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Waits until an operator accepts what the source shows, again or for the first time.
    async fn accepted_after(&self, known: Option<UtcMillis>) {
        let mut shown = self.unit.writer.shown();
        let accepted_at = |shown: &Shown| shown.units.get(&self.unit.name).and_then(|unit| unit.accepted_at());
        if shown.wait_for(|shown| accepted_at(shown) > known).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Reads what is new, and the overlap; or everything from the final watermark on, where the unit is behind.
    ///
    /// A window that fails is held, and newer windows are read all the same; when the next one fails too, it is not the window.
    async fn poll(&self, counts: &mut Counts, pacing: &mut Pacing) -> Result<PollEnd, ReadError> {
        // The login's answer tells the server's clock, by which the poll is bounded.
        self.scroller.fetcher.log_in().await?;
        let started = self.started().await?;
        pacing.accepted_at = started.accepted_at();
        let begun = self.unit.clock.now();
        let bound = bound(self.clocks.now());
        let mut course = match pacing.course.take() {
            Some(course) => course,
            None => Course::new(started.generation, &started.progress),
        };
        course.begin_poll(started.generation, &started.progress, started.accepted_at());
        let mut settled = course.clone();
        let polled = self.poll_from(&started, bound, (&mut course, &mut settled), counts, pacing).await;
        // A window that was believed, and was not published when the poll was given up, is read again.
        let course = if polled.is_ok() { course } else { settled };
        self.unit.status.update_unit(&self.unit.name, |status| {
            status.polled = Some(begun);
            status.held =
                course.holds().iter().filter(|hold| hold.why.is_some()).map(|hold| (hold.window, hold.rows)).collect();
        });
        pacing.course = Some(course);
        polled
    }

    /// Reads all windows of a poll.
    async fn poll_from(
        &self,
        started: &UnitProgress,
        bound: UtcMillis,
        courses: (&mut Course, &mut Course),
        counts: &mut Counts,
        pacing: &mut Pacing,
    ) -> Result<PollEnd, ReadError> {
        let mut reads = self.plan(started, bound, courses, counts, pacing);
        let mut publishing: Option<Publishing> = None;
        while let Some(piece) = self.unit.next_window(|torn| reads.poll.next(torn)) {
            reads.is_anything_read = true;
            let start = self.clocks.read_start();
            let planned = reads.planned(piece, start, &self.unit.pace.delays);
            if !reads.poll.windows().is_read_whole() {
                self.settle(&mut publishing, &mut reads).await?;
                self.read_by_pages(planned, start, &mut reads, pacing.membership.as_ref()).await?;
                continue;
            }
            let collecting = WholeRead::read(&self.scroller, planned, reads.whole_max);
            tokio::pin!(collecting);
            let collected = loop {
                tokio::select! {
                    biased;
                    published = Publishing::ended(&mut publishing) => self.note_published(published?, &mut reads).await?,
                    collected = &mut collecting => break collected?,
                }
            };
            reads.poll.note_requests(collected.pages.requests, reads.course.is_held(piece.window));
            reads.seen.add(collected.pages);
            let is_whole = matches!(collected.ended, Ok(WindowEnd::Whole));
            match self.is_to_be_shorter(&collected, &mut reads).await? {
                Shorter::No => {
                    self.settle(&mut publishing, &mut reads).await?;
                    publishing = self.take(collected, start, &mut reads, pacing.membership.as_ref()).await?;
                }
                Shorter::Yes => {}
                Shorter::Impossible => {
                    self.settle(&mut publishing, &mut reads).await?;
                    self.read_by_pages(planned, start, &mut reads, pacing.membership.as_ref()).await?;
                }
            }
            if !is_whole {
                // What is read next depends on it.
                self.settle(&mut publishing, &mut reads).await?;
            }
        }
        self.settle(&mut publishing, &mut reads).await?;
        self.end(reads, pacing).await
    }

    fn plan<'a>(
        &self,
        started: &UnitProgress,
        bound: UtcMillis,
        (course, settled): (&'a mut Course, &'a mut Course),
        counts: &'a mut Counts,
        pacing: &mut Pacing,
    ) -> Reads<'a> {
        let (pace, now, newest) = (&self.unit.pace, self.unit.clock.now(), course.newest());
        let is_behind = pace.is_behind(newest.complete_to, bound);
        let cycle = stage!("plan", unit = self.unit.name, from = %newest.final_to, to = %bound).in_scope(|| {
            let cycle = if is_behind {
                Cycle::behind(newest, bound, &pace.delays, pacing.length)
            } else {
                Cycle::live(newest, bound, pacing.is_one_page, pacing.length)
            };
            cycle.with_holds(course.due(now), course.before_holds())
        });
        if is_behind && !hooks::is_mutant(Mutant::UnitAfterUnit) {
            let join = || self.merge.join(&self.unit.name, newest.final_to);
            pacing.membership.get_or_insert_with(join);
        } else {
            pacing.membership = None;
        }
        // Two windows of each unit are in memory: one is read while the other is published.
        let share = |membership: &Membership| CATCH_UP_BYTES / 2 / membership.members();
        let bytes = pacing.membership.as_ref().map_or(LIVE_BYTES, share);
        Reads {
            generation: started.generation,
            looked_to: (!is_behind).then_some(newest.complete_to),
            final_to: started.progress.final_to,
            accepted_at: started.accepted_at(),
            began: (Instant::now(), newest.final_to),
            bound,
            poll: Poll::in_doubt(cycle, course.contradiction(now)),
            course,
            settled,
            counts,
            whole_max: WholeMax { rows: pace.window_rows, bytes, takes_room: !is_behind },
            failed: None,
            is_anything_read: false,
            told: None,
            seen: PagesSeen::default(),
            rows: 0,
        }
    }

    /// Whether a window that was read is read in shorter ones instead of being published.
    async fn is_to_be_shorter(&self, collected: &WholeRead, reads: &mut Reads<'_>) -> Result<Shorter, ReadError> {
        let window = collected.planned.piece.window;
        let unit = &self.unit.name;
        match &collected.ended {
            Ok(WindowEnd::TooManyRows(rows)) if window.length() > SPAN_MIN => {
                tracing::debug!(unit, %window, rows, "a window has too many rows and is read in shorter ones");
                let Some(cycle) = reads.poll.recut() else {
                    reads.poll.halve(collected.planned.piece);
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
                if collected.pages.with_rows == 0 && self.scroller.fetcher.is_for_the_length(error, window).await? =>
            {
                let Some(cycle) = reads.poll.recut() else { return Ok(Shorter::No) };
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

    /// Takes note of a window that was read whole, and begins to publish it, beside the read of the next one.
    async fn take(
        &self,
        mut collected: WholeRead,
        start: ReadStart,
        reads: &mut Reads<'_>,
        membership: Option<&Membership>,
    ) -> Result<Option<Publishing>, ReadError> {
        let PlannedRead { piece, leniency, .. } = collected.planned;
        let (ended, judgement, begun) = (collected.ended.clone(), collected.judgement, self.clocks.begun(start));
        let (is_whole, rows) = (ended == Ok(WindowEnd::Whole), judgement.shape.rows);
        let read = Read { piece, ended, judgement, leniency, begun, clocks_differ: is_whole && self.clocks.differ() };
        if is_whole {
            reads.poll.windows().length().on_read(piece.window, rows, self.unit.pace.window_rows);
        }
        // What was read before a fault is published before it is told.
        let is_noted_later = read.ended.is_err() || hooks::is_mutant(Mutant::BegunWhenPublished);
        if read.ended.is_err() && collected.pages.with_rows == 0 {
            // There is nothing to publish, and nothing that the other units should wait for.
            self.note(read, reads).await?;
            return Ok(None);
        }
        let read = if is_noted_later {
            Some(read)
        } else {
            collected.reaches = self.note(read, reads).await?;
            None
        };
        let publishing = match membership {
            Some(membership) => PendingRows::Merged(membership.offer(collected)),
            None => {
                let publishing = collected.publish(Arc::clone(&self.unit)).in_current_span();
                PendingRows::Alone(AbortOnDropHandle::new(tokio::spawn(publishing)))
            }
        };
        Ok(Some(Publishing { piece, read, publishing }))
    }

    /// Waits until the window that is being published is, and takes note of it.
    async fn settle(&self, publishing: &mut Option<Publishing>, reads: &mut Reads<'_>) -> Result<(), ReadError> {
        if publishing.is_some() {
            let published = Publishing::ended(publishing).await?;
            self.note_published(published, reads).await?;
        }
        Ok(())
    }

    /// Reads a window and publishes it page by page.
    async fn read_by_pages(
        &self,
        planned: PlannedRead,
        start: ReadStart,
        reads: &mut Reads<'_>,
        membership: Option<&Membership>,
    ) -> Result<(), ReadError> {
        let piece = planned.piece;
        let rows_max = (piece.window.length() > SPAN_MIN).then_some(WINDOW_ROWS_MAX);
        let mut read = PagedRead::new(planned, rows_max, reads.counts);
        let ended = match read.read(&self.scroller).await {
            Ok(ended) => Ok(ended),
            Err(ReadError::Source(error)) => Err(error),
            Err(error) => return Err(error),
        };
        let PagedRead { tally, requests, doubt, .. } = read;
        reads.poll.note_requests(requests, reads.course.is_held(piece.window));
        let begun = self.clocks.begun(start);
        let clocks_differ = ended == Ok(WindowEnd::Whole) && self.clocks.differ();
        if let Some(membership) = membership {
            membership.note_read(piece.window);
        }
        let (judgement, leniency) = (tally.judgement(doubt), planned.leniency);
        let reaches = self.note(Read { piece, ended, judgement, leniency, begun, clocks_differ }, reads).await?;
        self.advance(reads.generation, reaches).await?;
        reads.settled.clone_from(reads.course);
        self.tell_catching_up(piece, reads);
        Ok(())
    }

    /// Takes note of a window that was published whole.
    async fn note_published(&self, published: Published, reads: &mut Reads<'_>) -> Result<(), ReadError> {
        let Published { publishing: Publishing { piece, read, .. }, counts, mut reaches } = published;
        *reads.counts += counts;
        if let Some(mut read) = read {
            if hooks::is_mutant(Mutant::BegunWhenPublished) {
                read.begun = self.unit.clock.now().floor_second();
            }
            reaches = self.note(read, reads).await?;
        }
        self.advance(reads.generation, reaches).await?;
        reads.settled.clone_from(reads.course);
        self.tell_catching_up(piece, reads);
        Ok(())
    }

    /// Takes note of a window that was read; gives how far the unit has come once it is published.
    async fn note(&self, read: Read, reads: &mut Reads<'_>) -> Result<Vec<Reach>, ReadError> {
        let Read { piece, ended, mut judgement, leniency, begun, clocks_differ } = read;
        reads.rows += judgement.shape.rows;
        let end = match ended {
            // As far as the source shows it, that is all there is.
            Ok(WindowEnd::Broken(_)) if leniency == Leniency::Accepted => Some(WindowEnd::Whole),
            Ok(end) => Some(end),
            // The newer windows are read first; then this is told with the poll's end.
            Err(error) if error.recovery != Recovery::Refused && reads.failed.is_none() => {
                tracing::debug!(unit = self.unit.name, window = %piece.window, "a window could not be read: {error}");
                reads.failed = Some(error.of(piece.window));
                None
            }
            Err(error) => return Err(error.into()),
        };
        if leniency == Leniency::Accepted {
            judgement.contradiction = None;
        }
        let legs_known = match end {
            // Only then does it matter: it was read whole, and nothing has shown a good row.
            Some(WindowEnd::Whole) if reads.poll.shows_no_legs() && judgement.shape.good() == 0 => {
                self.unit.legs_known(Lane::Live, piece.window).await?
            }
            _ => 0,
        };
        let is_before_overlap = reads.looked_to.is_some_and(|looked_to| looked_to <= piece.window.start)
            && reads.poll.windows().has_overlap_left();
        let noted = WindowRead { piece, end, judgement, begun, clocks_differ, legs_known, is_before_overlap };
        let Pace { interval, ref delays, .. } = self.unit.pace;
        match reads.poll.note(&noted) {
            Outcome::Waits => {}
            Outcome::Held(Some(_)) if hooks::is_mutant(Mutant::HoldsPass) => {
                return Ok(self.believe(reads.course, vec![(piece.window, begun)]));
            }
            Outcome::Held(why) => {
                tracing::debug!(unit = self.unit.name, window = %piece.window, ?why, "a window is held");
                reads.course.hold(piece.window, why, begun, interval, delays);
            }
            Outcome::Halved => {
                tracing::debug!(unit = self.unit.name, window = %piece.window, ?end, "a window of a poll is halved");
            }
            Outcome::Advance(windows) => {
                if leniency == Leniency::Released {
                    self.tell_released(piece.window);
                }
                return Ok(self.believe(reads.course, windows));
            }
        }
        Ok(Vec::new())
    }

    /// How far the unit has come once these windows are published, each by a read that began then.
    fn believe(&self, course: &mut Course, windows: Vec<(Window, UtcMillis)>) -> Vec<Reach> {
        let believe = |(window, begun)| course.believe(window, begun, &self.unit.pace.delays);
        windows.into_iter().flat_map(believe).collect()
    }

    /// Ends a poll all of whose windows were read.
    async fn end(&self, reads: Reads<'_>, pacing: &mut Pacing) -> Result<PollEnd, ReadError> {
        let is_live = reads.is_live();
        let Reads { generation, course, bound, mut poll, failed, seen, rows, is_anything_read, .. } = reads;
        pacing.length = *poll.windows().length();
        if let Some(error) = failed {
            return Err(error.into());
        }
        if is_live {
            pacing.note(seen, rows);
        }
        self.advance(generation, self.believe(course, poll.close())).await?;
        let mut hold = poll.hold();
        let is_all_in_doubt = matches!(hold, Some(Hold::Empty(..) | Hold::ClockSkew | Hold::TimeZone(..)));
        course.end_poll(!is_all_in_doubt && course.is_newest_believed());
        self.unit.good_polls.store(course.good_polls(), Ordering::Relaxed);
        hold = hold.or_else(|| course.why().and_then(|held| held.why));
        if !is_anything_read {
            // Asks all the same, so that a clock that went backwards is noticed.
            let just_now = Window::new(bound.minus(Duration::from_secs(1)), bound);
            self.scroller.fetcher.ask(just_now).await?;
            hold = self.clocks.differ().then_some(Hold::ClockSkew);
        }
        Ok(hold.map_or(PollEnd::Whole, |hold| self.held(hold)))
    }

    /// Says and counts that a window passes although it has too many dead rows.
    fn tell_released(&self, window: Window) {
        let unit = &self.unit.name;
        self.unit.metrics.released_windows.get_or_create(&UnitLabel { unit: unit.clone() }).inc();
        tracing::warn!(
            unit,
            %window,
            "its dead rows were held for six hours, in which newer windows were read well: they are dead letters now, and the window passes"
        );
    }

    /// Shows and, from time to time, says how far a long poll has come.
    fn tell_catching_up(&self, piece: Piece, reads: &mut Reads<'_>) {
        // A unit with a hole or without a source never looks well in between.
        if piece.how != How::CatchUp || !reads.poll.is_smooth() || reads.course.why().is_some() {
            return;
        }
        let (complete_to, published) = (reads.course.newest().complete_to, reads.counts.published);
        let (began, from) = reads.began;
        let left = time_left(Window::new(from, reads.bound), complete_to, began.elapsed());
        let left = left.map(|left| humantime::format_duration(Duration::from_secs(left.as_secs())).to_string());
        let takes = left.as_ref().map(|left| format!("it will take some {left} more")).unwrap_or_default();
        self.unit.show(UnitState::CatchingUp, &takes);
        if reads.told.is_none_or(|told| told.elapsed() >= CATCHING_UP_TOLD) {
            reads.told = Some(Instant::now());
            let to = reads.bound;
            tracing::info!(unit = self.unit.name, %complete_to, %to, published, left, "catching up");
        }
    }

    /// Why the watermarks wait, as a state and in words.
    fn held(&self, hold: Hold) -> PollEnd {
        let (state, detail) = match hold {
            Hold::Incomplete(window, fault) => (
                UnitState::SourceIncomplete,
                format!("window {window} could not be read whole, and is read again: {fault}"),
            ),
            Hold::Invalid(window, doubt) => (UnitState::SourceInvalid, describe_doubt(window, doubt)),
            Hold::ClockSkew => (UnitState::ClockSkew, self.clocks.describe_skew()),
            Hold::TimeZone(window, found) => (UnitState::SourceTimeZone, describe_contradiction(window, found)),
            Hold::Empty(since, known) => (UnitState::SourceEmpty, describe_empty(since, known)),
        };
        PollEnd::Held(state, detail)
    }

    /// Moves the journal's watermarks.
    async fn advance(&self, generation: u32, reaches: Vec<Reach>) -> Result<(), ReadError> {
        if reaches.is_empty() {
            return Ok(());
        }
        let reached = Reached { unit: self.unit.name.clone(), generation, reaches };
        let advanced = self.unit.writer.ask(Lane::Live, |reply| Request::Advance(reached, reply)).await?;
        advanced.map(|_| ()).ok_or(ReadError::Replaced)
    }

    /// The unit's progress; one that was never read is begun, and at once, so that "now-24h" means the first start's now.
    async fn started(&self) -> Result<Arc<UnitProgress>, ReadError> {
        if let Some(known) = self.unit.progress().filter(|unit| unit.is_started()) {
            return Ok(known);
        }
        let now = self.clocks.now();
        let start = FirstStart { unit: self.unit.name.clone(), now, start_from: self.start_from };
        Ok(Arc::new(self.unit.writer.ask(Lane::Live, |reply| Request::Begin(start, reply)).await?))
    }

    /// Shows, counts and logs how a poll ended.
    fn report_end(&self, end: PollEnd, counts: Counts, progress: Option<&Progress>, took: Duration) {
        let result = end.result();
        match end {
            PollEnd::Whole => {
                if let Some(Streak { failures, lasted }) = self.unit.trouble().works() {
                    let lasted_s = lasted.as_secs();
                    tracing::info!(unit = self.unit.name, failures, lasted_s, "the polls read everything again");
                }
                self.unit.show(UnitState::Ok, "");
                let now = self.unit.clock.now();
                self.unit.status.update_unit(&self.unit.name, |status| status.last_poll_ok = Some(now));
            }
            PollEnd::Held(state, detail) => {
                if let Some(Streak { failures, .. }) = self.unit.trouble().failed(state.as_str()) {
                    tracing::warn!(unit = self.unit.name, failures, "{detail}");
                }
                self.unit.show(state, &detail);
            }
        }
        self.note_poll(result, counts, took);
        tracing::info!(
            unit = self.unit.name,
            result,
            published = counts.published,
            duplicate = counts.duplicate,
            revised = counts.revised,
            dead = counts.dead,
            unfinished = counts.unfinished,
            beyond_horizon = counts.beyond_horizon,
            outside = counts.outside,
            held = counts.held,
            late = counts.late,
            complete_to = progress.map(|progress| display(progress.complete_to)),
            final_to = progress.map(|progress| display(progress.final_to)),
            "poll"
        );
    }

    /// Shows, counts and logs a poll that was given up, and says how long to pause.
    fn report_failure(&self, error: &SourceError, failures: u32, counts: Counts, took: Duration) -> Duration {
        let pause = self.scroller.fetcher.pause_after(error, failures);
        self.unit.show(state_of(error.failure), &error.to_string());
        self.note_poll(error.failure.as_str(), counts, took);
        let (unit, published, again_in_s) = (&self.unit.name, counts.published, pause.as_secs());
        // A request that was worth waiting for counts, too.
        match self.unit.trouble().failed(error.failure.as_str()) {
            Some(Streak { failures, lasted }) => {
                let lasted_s = lasted.as_secs();
                tracing::warn!(unit, failures, lasted_s, published, again_in_s, "the poll failed: {error}");
            }
            None => tracing::debug!(unit, published, again_in_s, "the poll failed: {error}"),
        }
        pause
    }

    fn note_poll(&self, result: &'static str, counts: Counts, took: Duration) {
        self.unit.metrics.polls.get_or_create(&UnitResultLabels { unit: self.unit.name.clone(), result }).inc();
        let poll = PollNote {
            at: self.unit.clock.now(),
            result: result.to_owned(),
            fetched: counts.fetched(),
            published: counts.published,
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        };
        self.unit.status.note(&self.unit.name, |recent| recent.note_poll(poll));
    }
}

/// Ends the span of a poll.
fn note_trace(span: Span, ended: &Result<PollEnd, ReadError>, counts: Counts) {
    let result = match ended {
        Ok(end) => Some(end.result()),
        Err(ReadError::Source(error)) => Some(error.failure.as_str()),
        Err(ReadError::Replaced | ReadError::Fault(_)) => None,
    };
    span.record("result", result);
    span.record("rows", count(counts.fetched()));
    span.record("published", count(counts.published));
}

fn describe_empty(since: UtcMillis, known: u64) -> String {
    format!(
        "the source shows no leg since {since}, and {known} legs of that time were published: it has lost them, or shows nothing at all, and then new \
         ones neither; the watermarks wait until it shows something. If they are gone for good, call-legs state accept goes on"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_that_holds_has_a_result_of_its_own() {
        use crate::telemetry::labels::POLL_RESULTS;
        let results = [
            (UnitState::SourceIncomplete, "incomplete"),
            (UnitState::SourceEmpty, "empty"),
            (UnitState::SourceInvalid, "invalid"),
            (UnitState::SourceTimeZone, "time_zone"),
            (UnitState::ClockSkew, "clock_skew"),
        ];
        for (state, expected) in results {
            let result = PollEnd::Held(state, String::new()).result();
            assert!(result == expected && POLL_RESULTS.contains(&result), "{state}: {result}");
        }
    }
}
