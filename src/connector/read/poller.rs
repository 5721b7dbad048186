//! One unit's loop: plan a poll, read its pieces, move the watermarks, pause.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::Span;
use tracing::field::Empty;

use super::window::{Pass, ReadError, WindowReader, state_of};
use crate::config::StartFrom;
use crate::connector::fault::Fault;
use crate::connector::stage::{count, root, stage, traced};
use crate::connector::write::request::{FirstStart, Lane, ReadWindow, Request};
use crate::core::dead_letter::Reason;
use crate::core::dedupe::Counts;
use crate::core::journal::UnitProgress;
use crate::core::leg::How;
use crate::core::parts::SPAN_MIN;
use crate::core::planner::{Cycle, Piece, bound};
use crate::core::poll::{Hold, Outcome, Poll, WindowEnd, WindowRead, WindowTally};
use crate::core::time::{UtcMillis, Window};
use crate::core::watermark::{Delays, Progress};
use crate::source::{Recovery, Source, SourceError};
use crate::telemetry::Streak;
use crate::telemetry::labels::UnitResultLabels;
use crate::telemetry::recent::PollNote;
use crate::telemetry::status::UnitState;

/// How often a long poll says how far it has come.
const CATCHING_UP_TOLD: Duration = Duration::from_secs(30);

/// A window with more rows than this is read in halves: the identities of a window's rows are in memory while it is read.
const WINDOW_ROWS_MAX: u64 = 250_000;

/// Polls one unit.
pub(crate) struct Poller<S> {
    pub(crate) reader: WindowReader<S>,
    pub(crate) start_from: Option<StartFrom>,
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
    /// Polls until told to stop.
    pub(crate) async fn run(self) -> Result<(), Fault> {
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
                    let progress = self.reader.progress();
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
        let started = self.started().await?;
        let (generation, mut progress) = (started.generation, started.progress.clone());
        let bound = bound(self.reader.earlier_now(self.reader.clock.now()));
        let cycle = stage!("plan", unit = self.reader.unit, from = %progress.final_to, to = %bound)
            .in_scope(|| Cycle::plan(&progress, bound, self.reader.pace.window_max));
        let mut poll = Poll::new(cycle);
        let mut failed: Option<SourceError> = None;
        let mut is_anything_read = false;
        let mut told: Option<Instant> = None;
        while let Some(piece) = self.reader.next_window(|torn| poll.next(torn)) {
            is_anything_read = true;
            let begun_local = self.reader.clock.now();
            let begun_before = self.reader.earlier_now(begun_local);
            let mut pass = self.pass(piece, generation, progress.final_to, begun_before, counts);
            let end = match self.reader.read(&mut pass).await {
                Ok(end) => Some(end),
                // The newer windows are read first; then this is told with the poll's end.
                Err(ReadError::Source(error)) if error.recovery != Recovery::Refused && failed.is_none() => {
                    tracing::debug!(unit = self.reader.unit, window = %piece.window, "a window could not be read: {error}");
                    failed = Some(error.of(piece.window));
                    None
                }
                Err(error) => return Err(error),
            };
            let Pass { tally, requests, .. } = pass;
            // The answers have told the server's clock anew; the smaller reading counts.
            let begun = begun_before.min(self.reader.earlier_now(begun_local)).floor_second();
            let legs_known = match end {
                // Only then does it matter: it was read whole, and nothing has shown a row.
                Some(WindowEnd::Whole) if poll.shows_no_rows() && tally.rows.is_empty() => {
                    self.legs_known(piece.window).await?
                }
                _ => 0,
            };
            let clocks_differ = end == Some(WindowEnd::Whole) && self.reader.clocks_differ();
            let read = WindowRead { piece, end, tally: &tally, requests, begun, clocks_differ, legs_known };
            match poll.note(&read) {
                Outcome::Waits => {}
                Outcome::Halved => {
                    tracing::debug!(unit = self.reader.unit, window = %piece.window, ?end, "a window of a poll is halved");
                }
                Outcome::Advance(windows) => {
                    progress = self.advance(generation, windows).await?.unwrap_or(progress);
                    // Only now, so that a unit with a hole or without a source never looks well in between.
                    if piece.how == How::CatchUp && poll.is_smooth() {
                        self.tell_catching_up(&progress, bound, counts.published, &mut told);
                    }
                }
            }
        }
        if let Some(error) = failed {
            return Err(error.into());
        }
        self.advance(generation, poll.close()).await?;
        let mut hold = poll.hold();
        if !is_anything_read {
            // Asks all the same, so that a clock that went backwards is noticed.
            let just_now = Window::new(bound.minus(Duration::from_secs(1)), bound);
            self.reader.ask(just_now).await?;
            hold = self.reader.clocks_differ().then_some(Hold::ClockSkew);
        }
        Ok(hold.map_or(PollEnd::Whole, |hold| self.held(hold)))
    }

    /// A read of a window that is still to be made.
    fn pass<'a>(
        &self,
        piece: Piece,
        generation: u32,
        final_to: UtcMillis,
        begun: UtcMillis,
        counts: &'a mut Counts,
    ) -> Pass<'a> {
        let rows_max = (piece.window.length() > SPAN_MIN).then_some(WINDOW_ROWS_MAX);
        // As of the beginning: what the answers tell of the server's clock makes less final, never more.
        let Delays { settle, overlap, .. } = self.reader.pace.delays;
        let makes_final_to = begun.minus(settle).minus(overlap);
        let tally = WindowTally::default();
        Pass { piece, generation, final_to, makes_final_to, rows_max, counts, tally, requests: 0 }
    }

    /// How many legs of a window the journal knows.
    async fn legs_known(&self, window: Window) -> Result<u64, Fault> {
        let unit = self.reader.unit.clone();
        self.reader.writer.ask(Lane::Live, |reply| Request::PublishedWithin(unit, window, reply)).await
    }

    /// Shows and, from time to time, says how far a long poll has come.
    fn tell_catching_up(&self, progress: &Progress, bound: UtcMillis, published: u64, told: &mut Option<Instant>) {
        self.reader.show(UnitState::CatchingUp, "");
        if told.is_none_or(|told| told.elapsed() >= CATCHING_UP_TOLD) {
            *told = Some(Instant::now());
            tracing::info!(unit = self.reader.unit, complete_to = %progress.complete_to, to = %bound, published, "catching up");
        }
    }

    /// Why the watermarks wait, as a state and in words.
    fn held(&self, hold: Hold) -> PollEnd {
        let (state, detail) = match hold {
            Hold::Incomplete(window, fault) => (
                UnitState::SourceIncomplete,
                format!("window {window} could not be read whole, and is read again: {fault}"),
            ),
            Hold::Invalid(held, because) => (UnitState::SourceInvalid, describe_held(held, because)),
            Hold::ClockSkew => (UnitState::ClockSkew, self.reader.describe_skew()),
            Hold::TimeZone(window, found) => {
                (UnitState::SourceTimeZone, self.reader.describe_contradiction(window, found))
            }
            Hold::Empty(since, known) => (UnitState::SourceEmpty, describe_empty(since, known)),
        };
        PollEnd::Held(state, detail)
    }

    /// Takes windows for read, each from the beginning of its read on; gives the unit's progress if there were any.
    async fn advance(&self, generation: u32, windows: Vec<(Window, UtcMillis)>) -> Result<Option<Progress>, ReadError> {
        let mut progress = None;
        for (window, begun) in windows {
            let read = ReadWindow { unit: self.reader.unit.clone(), generation, window, begun };
            let advanced = self.reader.writer.ask(Lane::Live, |reply| Request::Advance(read, reply)).await?;
            progress = Some(advanced.ok_or(ReadError::Replaced)?);
        }
        Ok(progress)
    }

    /// The unit's progress; one that was never read is begun, and at once, so that "now-24h" means the first start's now.
    async fn started(&self) -> Result<Arc<UnitProgress>, ReadError> {
        if let Some(known) = self.reader.progress().filter(|unit| unit.is_started()) {
            return Ok(known);
        }
        let now = self.reader.earlier_now(self.reader.clock.now());
        let start = FirstStart { unit: self.reader.unit.clone(), now, start_from: self.start_from };
        Ok(Arc::new(self.reader.writer.ask(Lane::Live, |reply| Request::Begin(start, reply)).await?))
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

fn describe_empty(since: UtcMillis, known: u64) -> String {
    format!(
        "the source shows no row since {since}, and {known} legs of that time were published: it has lost them, or shows nothing at all, and then new \
         ones neither; the watermarks wait until it shows something. If they are gone for good, call-legs state accept goes on"
    )
}

fn describe_held(held: u64, because: Option<Reason>) -> String {
    let because = because.map(|reason| format!(", the first because {reason}")).unwrap_or_default();
    format!(
        "too many of the newest rows cannot be legs, more than dead_letter.max_ratio allows: {held} of this window are held back{because}. \
         They are read again, legs are published, the watermarks wait; look whether the API has changed, or raise dead_letter.max_ratio to bury them"
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
