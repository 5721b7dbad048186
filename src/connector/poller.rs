//! One unit's loop: plan a poll, read its pieces, move the watermarks, pause.

use std::time::Duration;

use tokio::time::Instant;
use tracing::Span;
use tracing::field::Empty;

use super::batch::Sightings;
use super::fault::Fault;
use super::first_progress;
use super::reader::{Ended, Pass, ReadError, WindowReader, state_of};
use super::stage::{count, root, stage, traced};
use crate::config::StartFrom;
use crate::core::dead_letter::Reason;
use crate::core::dedupe::Counts;
use crate::core::journal::UnitProgress;
use crate::core::leg::How;
use crate::core::planner::{Cycle, bound};
use crate::core::time::Window;
use crate::core::watermark::Progress;
use crate::core::zone::Contradiction;
use crate::sink::Cluster;
use crate::source::{Recovery, Source, SourceError};
use crate::store::View;
use crate::telemetry::Streak;
use crate::telemetry::labels::UnitResultLabels;
use crate::telemetry::recent::PollNote;
use crate::telemetry::status::UnitState;

/// How often a long poll says how far it has come.
const CATCHING_UP_TOLD: Duration = Duration::from_secs(30);

/// A leg or two may have been taken back; that all of these were is less likely than that the API shows nothing.
const TELLING_LEGS: u64 = 5;

/// Polls one unit.
pub(super) struct Poller<S, C: Cluster, V> {
    pub(super) reader: WindowReader<S, C, V>,
    pub(super) start_from: Option<StartFrom>,
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
            Self::Held(UnitState::SourceInvalid, _) => "invalid",
            Self::Held(UnitState::SourceTimeZone, _) => "time_zone",
            Self::Held(..) => "incomplete",
        }
    }
}

impl<S: Source, C: Cluster, V: View> Poller<S, C, V> {
    /// Polls until told to stop.
    pub(super) async fn run(self) -> Result<(), Fault> {
        let mut failures = 0;
        loop {
            let started = Instant::now();
            let mut counts = Counts::default();
            let live = self.reader.traffic.begin_live();
            let span = root!("poll", unit = self.reader.unit, result = Empty, rows = Empty, published = Empty);
            let ended = traced(span.clone(), self.poll(&mut counts)).await;
            drop(live);
            note_trace(span, &ended, counts);
            let pause = match ended {
                Ok(end) => {
                    failures = 0;
                    let progress = self.reader.progress().await;
                    self.report_end(end, counts, progress.as_ref().map(|unit| &unit.progress), started.elapsed());
                    self.reader.pace.interval.saturating_sub(started.elapsed())
                }
                Err(ReadError::Source(error)) => {
                    failures += 1;
                    self.report_failure(&error, failures, counts, started.elapsed())
                }
                Err(ReadError::Replaced) => Duration::ZERO,
                Err(ReadError::Fault(Fault::Stopped)) => return Ok(()),
                Err(ReadError::Fault(fault)) => return Err(fault),
            };
            tokio::select! {
                biased;
                () = self.reader.stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Reads everything from the final watermark to now, oldest first.
    ///
    /// A piece that fails leaves a hole in front of which the watermarks stay, and newer pieces are
    /// read all the same; when the next one fails too, it is not the piece.
    async fn poll(&self, counts: &mut Counts) -> Result<PollEnd, ReadError> {
        // The login's answer tells the server's clock, by which the poll is bounded.
        self.reader.log_in().await?;
        let UnitProgress { generation, mut progress, .. } = self.started().await?;
        let bound = bound(self.reader.earlier_now(self.reader.clock.now()));
        let mut cycle = stage!("plan", unit = self.reader.unit, from = %progress.final_to, to = %bound)
            .in_scope(|| Cycle::plan(&progress, bound, self.reader.pace.window_max));
        let mut held = None;
        let mut contradiction: Option<(Window, Contradiction)> = None;
        let mut failed: Option<SourceError> = None;
        let mut is_anything_read = false;
        let mut told: Option<Instant> = None;
        while let Some(piece) = cycle.next_piece() {
            is_anything_read = true;
            let begun_local = self.reader.clock.now();
            let begun_before = self.reader.earlier_now(begun_local);
            let mut pass = Pass { piece, generation, rows_max: None, counts, sightings: Sightings::default() };
            let read = self.reader.read(&mut pass).await;
            // What follows is in doubt, too, whether or not its rows say so.
            contradiction = contradiction.or(pass.sightings.contradiction.map(|found| (piece.window, found)));
            match read {
                Err(ReadError::Source(error)) if error.recovery != Recovery::Refused && failed.is_none() => {
                    // The newer windows are read first; then this is told with the poll's end.
                    tracing::debug!(unit = self.reader.unit, window = %piece.window, "a window could not be read: {error}");
                    failed = Some(error.of(piece.window));
                }
                Err(error) => return Err(error),
                Ok(Ended::Broken(fault)) => {
                    tracing::debug!(unit = self.reader.unit, window = %piece.window, %fault, "a window could not be read whole");
                    let detail = format!("window {} could not be read whole, and is read again: {fault}", piece.window);
                    held.get_or_insert((UnitState::SourceIncomplete, detail));
                }
                Ok(_) if pass.sightings.held > 0 => {
                    held.get_or_insert((
                        UnitState::SourceInvalid,
                        describe_held(pass.sightings.held, pass.sightings.held_for),
                    ));
                }
                Ok(_)
                    if pass.sightings.rows.is_empty()
                        && let Some(known) = self.known_within(piece.window).await =>
                {
                    held.get_or_insert((UnitState::SourceEmpty, describe_empty(piece.window, known)));
                }
                Ok(_) if self.reader.clocks_differ() => {
                    held.get_or_insert((UnitState::ClockSkew, self.reader.describe_skew()));
                }
                Ok(_) if let Some((window, found)) = contradiction => {
                    let detail = self.reader.describe_contradiction(window, found);
                    held.get_or_insert((UnitState::SourceTimeZone, detail));
                }
                Ok(_) => {
                    // The answers have told the server's clock anew; the smaller reading counts.
                    let begun = begun_before.min(self.reader.earlier_now(begun_local)).floor_second();
                    let mut publisher = self.reader.publisher.lock().await;
                    let advanced = publisher.advance(&self.reader.unit, generation, piece.window, begun).await?;
                    drop(publisher);
                    let Some(advanced) = advanced else { return Err(ReadError::Replaced) };
                    progress = advanced;
                    // Only now, so that a unit with a hole or without a source never looks well in between.
                    if piece.how == How::CatchUp && held.is_none() && failed.is_none() {
                        self.reader.show(UnitState::CatchingUp, "");
                        if told.is_none_or(|told| told.elapsed() >= CATCHING_UP_TOLD) {
                            told = Some(Instant::now());
                            let published = counts.published;
                            tracing::info!(unit = self.reader.unit, complete_to = %progress.complete_to, to = %bound, published, "catching up");
                        }
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
            self.reader.ask(just_now).await?;
            if self.reader.clocks_differ() {
                held = Some((UnitState::ClockSkew, self.reader.describe_skew()));
            }
        }
        Ok(held.map_or(PollEnd::Whole, |(state, detail)| PollEnd::Held(state, detail)))
    }

    /// How many legs were published of a window, where they are so many that an API without any is not believed.
    async fn known_within(&self, window: Window) -> Option<u64> {
        let publisher = self.reader.publisher.lock().await;
        let known = publisher.ledger().entries_within(&self.reader.unit, window);
        (known >= TELLING_LEGS).then_some(known)
    }

    /// The unit's progress; one that was never read is begun, and at once, so that "now-24h" means the first start's now.
    async fn started(&self) -> Result<UnitProgress, ReadError> {
        let mut publisher = self.reader.publisher.lock().await;
        if publisher.progress(&self.reader.unit).is_none_or(|unit| !unit.is_started()) {
            let now = self.reader.earlier_now(self.reader.clock.now());
            let progress =
                first_progress(&self.reader.unit, publisher.ledger(), now, self.start_from, &self.reader.pace)?;
            publisher.begin(&self.reader.unit, progress).await?;
        }
        let begun = publisher.progress(&self.reader.unit).cloned();
        begun.ok_or_else(|| Fault::Doubtful("a unit that was begun is not in the journal".to_owned()).into())
    }

    /// Shows, counts and logs how a poll ended.
    fn report_end(&self, end: PollEnd, counts: Counts, progress: Option<&Progress>, took: Duration) {
        let result = end.result();
        match end {
            PollEnd::Whole => {
                if let Some(Streak { failures, lasted }) = self.reader.trouble().works() {
                    let lasted_s = lasted.as_secs();
                    tracing::info!(unit = self.reader.unit, failures, lasted_s, "the polls read everything again");
                }
                self.reader.show(UnitState::Ok, "");
                let now = self.reader.clock.now();
                self.reader.status.update_unit(&self.reader.unit, |status| status.last_poll_ok = Some(now));
            }
            PollEnd::Held(state, detail) => {
                if let Some(Streak { failures, .. }) = self.reader.trouble().failed(state.as_str()) {
                    tracing::warn!(unit = self.reader.unit, failures, "{detail}");
                }
                self.reader.show(state, &detail);
            }
        }
        self.note_poll(result, counts, took);
        tracing::info!(
            unit = self.reader.unit,
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
        let pause = self.reader.pause_after(error, failures);
        self.reader.show(state_of(error.failure), &error.to_string());
        self.note_poll(error.failure.as_str(), counts, took);
        let (unit, published, again_in_s) = (&self.reader.unit, counts.published, pause.as_secs());
        // A request that was worth waiting for counts, too.
        match self.reader.trouble().failed(error.failure.as_str()) {
            Some(Streak { failures, lasted }) => {
                let lasted_s = lasted.as_secs();
                tracing::warn!(unit, failures, lasted_s, published, again_in_s, "the poll failed: {error}");
            }
            None => tracing::debug!(unit, published, again_in_s, "the poll failed: {error}"),
        }
        pause
    }

    fn note_poll(&self, result: &'static str, counts: Counts, took: Duration) {
        self.reader.metrics.polls.get_or_create(&UnitResultLabels { unit: self.reader.unit.clone(), result }).inc();
        let poll = PollNote {
            at: self.reader.clock.now(),
            result: result.to_owned(),
            fetched: counts.fetched(),
            published: counts.published,
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        };
        self.reader.status.note(&self.reader.unit, |recent| recent.note_poll(poll));
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

fn describe_empty(window: Window, known: u64) -> String {
    format!(
        "the source shows no row of window {window}, of which {known} were published: it has lost them, or shows nothing at all, and then new ones neither; \
         the watermarks wait until it shows something. If they are gone for good, call-legs state accept goes on"
    )
}

fn describe_held(held: u64, because: Option<Reason>) -> String {
    let because = because.map(|reason| format!(", the first because {reason}")).unwrap_or_default();
    format!(
        "too many of the newest rows cannot be legs, more than dead_letter.max_ratio allows: {held} of this window are held back{because}. \
         They are read again, legs are published, the watermarks wait; look whether the API has changed, or raise dead_letter.max_ratio to bury them"
    )
}
