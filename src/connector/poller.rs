//! One unit's loop: plan a poll, read its pieces, move the watermarks, pause.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::fault::Fault;
use super::publisher::{Publisher, Read};
use super::{Pace, first_progress};
use crate::clock::Clock;
use crate::config::StartFrom;
use crate::core::dedupe::Counts;
use crate::core::journal::UnitProgress;
use crate::core::leg::How;
use crate::core::pagination::{PageMeta, Scroll, Step};
use crate::core::planner::{Cycle, Piece, bound};
use crate::core::query::{QueryBounds, query_bounds};
use crate::core::retry::Backoff;
use crate::core::time::{UtcMillis, Window};
use crate::core::watermark::Progress;
use crate::sink::Cluster;
use crate::source::{Failure, Page, Recovery, Source, SourceError};
use crate::store::View;
use crate::telemetry::metrics::{UnitLabel, UnitResultLabels};
use crate::telemetry::status::UnitState;
use crate::telemetry::{Metrics, StatusBoard};

/// How often a request is sent before the poll is given up and the unit pauses.
const ATTEMPTS_MAX: u32 = 6;

/// Between attempts at the same request.
const REQUEST_BACKOFF: Backoff = Backoff { first: Duration::from_millis(500), max: Duration::from_secs(30) };

/// Between polls while the source does not answer.
const UNREACHABLE_BACKOFF: Backoff = Backoff { first: Duration::from_secs(5), max: Duration::from_secs(60) };

/// Between polls while the source refuses us: an operator has to act, and logins may be counted.
const REFUSED_BACKOFF: Backoff = Backoff { first: Duration::from_secs(5), max: Duration::from_secs(300) };

/// A longer pause within a poll is shown and not only counted.
const WORTH_SHOWING: Duration = Duration::from_secs(10);

/// Polls one unit.
pub(super) struct Poller<S, C: Cluster, V> {
    pub(super) unit: String,
    pub(super) start_from: Option<StartFrom>,
    pub(super) source: Arc<S>,
    pub(super) publisher: Arc<Mutex<Publisher<C, V>>>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) pace: Pace,
    pub(super) status: StatusBoard,
    pub(super) metrics: Arc<Metrics>,
    pub(super) stop: CancellationToken,
}

/// How a poll ended.
enum PollEnd {
    /// Every piece was read whole.
    Whole,
    /// What could be read was published; the watermarks wait, and why.
    Held(UnitState, String),
}

/// Why a poll was given up.
enum PollError {
    Source(SourceError),
    /// The unit was rewound while it was read: what was planned is void.
    Replaced,
    Fault(Fault),
}

impl From<SourceError> for PollError {
    fn from(error: SourceError) -> Self {
        Self::Source(error)
    }
}

impl From<Fault> for PollError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl<S: Source, C: Cluster, V: View> Poller<S, C, V> {
    /// Polls until told to stop.
    pub(super) async fn run(self) -> Result<(), Fault> {
        let mut failures = 0;
        loop {
            let started = Instant::now();
            let mut counts = Counts::default();
            let ended = self.poll(&mut counts).await;
            let pause = match ended {
                Ok(end) => {
                    failures = 0;
                    let progress = self.progress().await;
                    self.report_end(end, counts, progress.as_ref().map(|unit| &unit.progress));
                    self.pace.interval.saturating_sub(started.elapsed())
                }
                Err(PollError::Source(error)) => {
                    failures += 1;
                    self.report_failure(&error, failures, counts)
                }
                Err(PollError::Replaced) => Duration::ZERO,
                Err(PollError::Fault(Fault::Stopped)) => return Ok(()),
                Err(PollError::Fault(fault)) => return Err(fault),
            };
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Reads everything from the final watermark to now, oldest first.
    ///
    /// A piece that fails leaves a hole in front of which the watermarks stay, and newer pieces are
    /// read all the same; when the next one fails too, it is not the piece.
    async fn poll(&self, counts: &mut Counts) -> Result<PollEnd, PollError> {
        // The login's answer tells the server's clock, by which the poll is bounded.
        self.log_in().await?;
        let UnitProgress { generation, mut progress, .. } = self.started().await?;
        let bound = bound(self.earlier_now(self.clock.now()));
        let mut cycle = Cycle::plan(&progress, bound, self.pace.window_max);
        let mut held = None;
        let mut failed: Option<SourceError> = None;
        let mut is_anything_read = false;
        while let Some(piece) = cycle.next_piece() {
            is_anything_read = true;
            let begun_local = self.clock.now();
            let begun_before = self.earlier_now(begun_local);
            match self.read_piece(piece, counts).await {
                Err(PollError::Source(error)) if error.recovery != Recovery::Refused && failed.is_none() => {
                    tracing::warn!(unit = self.unit, window = %piece.window, "a window could not be read: {error}");
                    failed = Some(error);
                }
                Err(error) => return Err(error),
                Ok(Step::Broken(fault)) => {
                    tracing::warn!(unit = self.unit, window = %piece.window, %fault, "a window could not be read whole; it is read again with the next poll");
                    held.get_or_insert((UnitState::SourceIncomplete, format!("window {}: {fault}", piece.window)));
                }
                Ok(_) if self.clocks_differ() => {
                    held.get_or_insert((UnitState::ClockSkew, self.describe_skew()));
                }
                Ok(_) => {
                    // The answers have told the server's clock anew; the smaller reading counts.
                    let begun = begun_before.min(self.earlier_now(begun_local)).floor_second();
                    let before = progress.clone();
                    progress.advance(piece.window, begun, &self.pace.delays);
                    if progress != before
                        && !self.publisher.lock().await.advance(&self.unit, generation, &progress).await?
                    {
                        return Err(PollError::Replaced);
                    }
                    // Only now, so that a unit with a hole or without a source never looks well in between.
                    if piece.how == How::CatchUp && held.is_none() && failed.is_none() {
                        self.show(UnitState::CatchingUp, "");
                    }
                }
            }
        }
        if let Some(error) = failed {
            return Err(error.into());
        }
        if !is_anything_read {
            // Asks all the same, so that a clock that went backwards is noticed.
            let just_now = Window::new(bound.minus(Duration::from_secs(1)), bound);
            self.fetch(&self.bounds(just_now)?, None).await?;
            if self.clocks_differ() {
                held = Some((UnitState::ClockSkew, self.describe_skew()));
            }
        }
        Ok(held.map_or(PollEnd::Whole, |(state, detail)| PollEnd::Held(state, detail)))
    }

    async fn progress(&self) -> Option<UnitProgress> {
        self.publisher.lock().await.progress(&self.unit).cloned()
    }

    /// The unit's progress; one that was never read is begun, and at once, so that "now-24h" means the first start's now.
    async fn started(&self) -> Result<UnitProgress, PollError> {
        let mut publisher = self.publisher.lock().await;
        if publisher.progress(&self.unit).is_none_or(|unit| !unit.is_started()) {
            let now = self.earlier_now(self.clock.now());
            let progress = first_progress(&self.unit, publisher.ledger(), now, self.start_from, &self.pace)?;
            publisher.begin(&self.unit, progress).await?;
        }
        let begun = publisher.progress(&self.unit).cloned();
        begun.ok_or_else(|| Fault::Doubtful("a unit that was begun is not in the journal".to_owned()).into())
    }

    /// Reads a piece, once more if the first pass was not whole.
    async fn read_piece(&self, piece: Piece, counts: &mut Counts) -> Result<Step, PollError> {
        let bounds = self.bounds(piece.window)?;
        match self.read_pass(piece, &bounds, counts).await {
            Ok(Step::Broken(fault)) => {
                tracing::info!(unit = self.unit, window = %piece.window, %fault, "reading the window again");
                self.read_pass(piece, &bounds, counts).await
            }
            Err(PollError::Source(error)) if error.recovery == Recovery::Reread => {
                tracing::info!(unit = self.unit, window = %piece.window, %error, "reading the window again");
                self.read_pass(piece, &bounds, counts).await
            }
            end => end,
        }
    }

    fn bounds(&self, window: Window) -> Result<QueryBounds, SourceError> {
        query_bounds(window, self.pace.time_zone).ok_or_else(|| {
            SourceError::refused(format!("window {window} is outside the calendar: check this machine's clock"))
        })
    }

    /// One pass over a window's pages: the next one is fetched while this one is published.
    async fn read_pass(&self, piece: Piece, bounds: &QueryBounds, counts: &mut Counts) -> Result<Step, PollError> {
        let (pages, received) = mpsc::channel(1);
        let (fetched, published) =
            tokio::join!(self.scroll(bounds, pages), self.publish_pages(piece, bounds.asked, received, counts));
        published?;
        fetched
    }

    async fn scroll(&self, bounds: &QueryBounds, pages: mpsc::Sender<(Page, UtcMillis)>) -> Result<Step, PollError> {
        let mut scroll = Scroll::default();
        let mut cursor = None;
        loop {
            let page = self.fetch(bounds, cursor.as_deref()).await?;
            tracing::debug!(unit = self.unit, rows = page.len(), total = page.total, "page");
            let step = scroll.on_page(PageMeta { rows: page.len(), total: page.total, cursor: page.cursor.as_deref() });
            if !page.is_empty() && pages.send((page, self.clock.now())).await.is_err() {
                // The publishing side has given up and says why.
                return Err(Fault::Stopped.into());
            }
            match step {
                Step::Next(next) => cursor = Some(next),
                end => return Ok(end),
            }
        }
    }

    async fn publish_pages(
        &self,
        piece: Piece,
        asked: Window,
        mut pages: mpsc::Receiver<(Page, UtcMillis)>,
        counts: &mut Counts,
    ) -> Result<(), PollError> {
        while let Some((page, seen_at)) = pages.recv().await {
            let read = Read { unit: &self.unit, piece, asked, seen_at };
            let mut publisher = self.publisher.lock().await;
            // Told to stop, nothing new begins; what another unit has under way ends first.
            if self.stop.is_cancelled() {
                return Err(Fault::Stopped.into());
            }
            *counts += publisher.publish(&page, read).await?;
        }
        Ok(())
    }

    /// One page, however often it has to be asked for within reason.
    async fn fetch(&self, bounds: &QueryBounds, cursor: Option<&str>) -> Result<Page, PollError> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let sent = Instant::now();
            let answer = self.until_stopped(self.source.fetch(&self.unit, bounds, cursor)).await?;
            self.note_request(answer.as_ref().map_or_else(|error| error.failure.as_str(), |_| "ok"), sent);
            match answer {
                Ok(page) => return Ok(page),
                Err(error) => self.pause_or_give_up(error, attempts).await?,
            }
        }
    }

    /// A token, however often it has to be asked for within reason.
    async fn log_in(&self) -> Result<(), PollError> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            match self.until_stopped(self.source.log_in()).await? {
                Ok(()) => return Ok(()),
                Err(error) => self.pause_or_give_up(error, attempts).await?,
            }
        }
    }

    /// Waits until the same request is worth sending again, or gives the error back.
    async fn pause_or_give_up(&self, error: SourceError, attempts: u32) -> Result<(), PollError> {
        let Recovery::Retry { after } = error.recovery else { return Err(error.into()) };
        if attempts >= ATTEMPTS_MAX {
            return Err(error.into());
        }
        let pause = after.unwrap_or_else(|| REQUEST_BACKOFF.pause(attempts, self.clock.dice()));
        if pause >= WORTH_SHOWING {
            tracing::warn!(unit = self.unit, again_in_s = pause.as_secs(), "waiting: {error}");
            self.show(state_of(error.failure), &error.to_string());
        } else {
            tracing::debug!(unit = self.unit, %error, attempts, pause_ms = pause.as_millis(), "the request is sent again");
        }
        self.until_stopped(tokio::time::sleep(pause)).await
    }

    async fn until_stopped<R>(&self, work: impl Future<Output = R>) -> Result<R, PollError> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Fault::Stopped.into()),
            result = work => Ok(result),
        }
    }

    /// The smaller of the local and the server's time, when the local clock shows `local`.
    fn earlier_now(&self, local: UtcMillis) -> UtcMillis {
        self.source.skew().map_or(local, |skew| skew.earlier_now(local))
    }

    fn clocks_differ(&self) -> bool {
        let skew = self.source.skew();
        self.metrics.clock_skew.set(skew.map_or(0.0, |skew| skew.seconds()));
        skew.is_some_and(|skew| skew.exceeds(self.pace.clock_tolerance))
    }

    fn describe_skew(&self) -> String {
        let seconds = self.source.skew().map_or(0.0, |skew| skew.seconds());
        format!(
            "the source's clock is {:.0} s {} ours, beyond poll.clock_tolerance: legs are published, the watermarks wait; check this machine's time synchronisation",
            seconds.abs(),
            if seconds > 0.0 { "ahead of" } else { "behind" }
        )
    }

    fn show(&self, state: UnitState, detail: &str) {
        self.status.update_unit(&self.unit, |status| {
            status.state = state;
            detail.clone_into(&mut status.detail);
        });
    }

    /// Shows, counts and logs how a poll ended.
    fn report_end(&self, end: PollEnd, counts: Counts, progress: Option<&Progress>) {
        let result = match end {
            PollEnd::Whole => {
                self.show(UnitState::Ok, "");
                let now = self.clock.now();
                self.status.update_unit(&self.unit, |status| status.last_poll_ok = Some(now));
                self.metrics
                    .last_poll_ok
                    .get_or_create(&UnitLabel { unit: self.unit.clone() })
                    .set(now.as_seconds_f64());
                "ok"
            }
            PollEnd::Held(state, detail) => {
                if state == UnitState::ClockSkew {
                    tracing::warn!(unit = self.unit, "{detail}");
                }
                self.show(state, &detail);
                if state == UnitState::ClockSkew { "clock_skew" } else { "incomplete" }
            }
        };
        self.count_poll(result);
        tracing::info!(
            unit = self.unit,
            result,
            published = counts.published,
            duplicate = counts.duplicate,
            revised = counts.revised,
            dead = counts.dead,
            unfinished = counts.unfinished,
            beyond_horizon = counts.beyond_horizon,
            outside = counts.outside,
            late = counts.late,
            complete_to = progress.map(|progress| display(progress.complete_to)),
            final_to = progress.map(|progress| display(progress.final_to)),
            "poll"
        );
    }

    /// Shows, counts and logs a poll that was given up, and says how long to pause.
    fn report_failure(&self, error: &SourceError, failures: u32, counts: Counts) -> Duration {
        let backoff = if error.failure == Failure::Refused { REFUSED_BACKOFF } else { UNREACHABLE_BACKOFF };
        let pause = match error.recovery {
            Recovery::Retry { after: Some(after) } => after,
            _ => backoff.pause(failures, self.clock.dice()),
        };
        self.show(state_of(error.failure), &error.to_string());
        self.count_poll(error.failure.as_str());
        tracing::warn!(
            unit = self.unit,
            failures,
            published = counts.published,
            again_in_s = pause.as_secs(),
            "the poll failed: {error}"
        );
        pause
    }

    fn count_poll(&self, result: &'static str) {
        self.metrics.polls.get_or_create(&UnitResultLabels { unit: self.unit.clone(), result }).inc();
    }

    fn note_request(&self, result: &'static str, sent: Instant) {
        self.metrics.source_requests.get_or_create(&UnitResultLabels { unit: self.unit.clone(), result }).inc();
        self.metrics
            .source_request_duration
            .get_or_create(&UnitLabel { unit: self.unit.clone() })
            .observe(sent.elapsed().as_secs_f64());
    }
}

fn state_of(failure: Failure) -> UnitState {
    match failure {
        Failure::Refused => UnitState::SourceAuth,
        Failure::RateLimited => UnitState::SourceRateLimited,
        Failure::Cursor => UnitState::SourceIncomplete,
        Failure::Unreachable => UnitState::SourceUnreachable,
    }
}
