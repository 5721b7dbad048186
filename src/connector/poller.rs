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
use crate::core::ledger::Ledger;
use crate::core::leg::How;
use crate::core::parts::{Parts, SPAN_MIN};
use crate::core::planner::{Cycle, bound};
use crate::core::time::{UtcMillis, Window};
use crate::core::watermark::{Delays, Progress};
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

/// A window with more rows than this is read in halves: the identities of a window's rows are in memory while it is read.
const WINDOW_ROWS_MAX: u64 = 250_000;

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
            Self::Held(UnitState::SourceEmpty, _) => "empty",
            Self::Held(UnitState::SourceInvalid, _) => "invalid",
            Self::Held(UnitState::SourceTimeZone, _) => "time_zone",
            Self::Held(..) => "incomplete",
        }
    }
}

/// Windows of a poll that were read whole and without any row, though legs were published of them: quiet phones, or an
/// API that shows nothing. A row in any window of the same poll tells them apart.
#[derive(Default)]
struct Unbelieved {
    /// Whether any window of the poll had a row, also one that was not read whole.
    shows_rows: bool,
    /// Legs that were published of them.
    known: u64,
    windows: Vec<(Window, UtcMillis)>,
}

impl Unbelieved {
    /// Whether a window, read whole from `begun` on, is not to be taken for read yet.
    fn waits(&mut self, window: Window, begun: UtcMillis, ledger: &Ledger, unit: &str) -> bool {
        if self.shows_rows {
            return false;
        }
        self.known += ledger.published_within(unit, window);
        let waits = self.known > 0;
        if waits {
            self.windows.push((window, begun));
        }
        waits
    }

    /// Those that are to be taken for read after all, oldest first.
    fn believed(&mut self) -> impl Iterator<Item = (Window, UtcMillis)> + use<> {
        std::mem::take(&mut self.windows).into_iter()
    }

    /// Why the poll is not believed, in words; `None` if it is.
    fn describe(&self) -> Option<String> {
        let first = self.windows.first().filter(|_| self.known >= TELLING_LEGS)?.0.start;
        let known = self.known;
        Some(format!(
            "the source shows no row since {first}, and {known} legs of that time were published: it has lost them, or shows nothing at all, and then new \
             ones neither; the watermarks wait until it shows something. If they are gone for good, call-legs state accept goes on"
        ))
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
        let cycle = stage!("plan", unit = self.reader.unit, from = %progress.final_to, to = %bound)
            .in_scope(|| Cycle::plan(&progress, bound, self.reader.pace.window_max));
        let mut parts = Parts::new(cycle);
        let mut held = None;
        let mut contradiction: Option<(Window, Contradiction)> = None;
        let mut failed: Option<SourceError> = None;
        let mut unbelieved = Unbelieved::default();
        let mut is_anything_read = false;
        let mut told: Option<Instant> = None;
        while let Some(piece) = self.reader.next_part(&mut parts) {
            is_anything_read = true;
            let begun_local = self.reader.clock.now();
            let begun_before = self.reader.earlier_now(begun_local);
            let rows_max = (piece.window.length() > SPAN_MIN).then_some(WINDOW_ROWS_MAX);
            let final_to = progress.final_to;
            // As of the beginning: what the answers tell of the server's clock makes less final, never more.
            let Delays { settle, overlap, .. } = self.reader.pace.delays;
            let makes_final_to = begun_before.minus(settle).minus(overlap);
            let sightings = Sightings::default();
            let mut pass =
                Pass { piece, generation, final_to, makes_final_to, rows_max, counts, sightings, requests: 0 };
            let read = self.reader.read(&mut pass).await;
            parts.note_requests(pass.requests);
            // What follows is in doubt, too, whether or not its rows say so.
            unbelieved.shows_rows |= !pass.sightings.rows.is_empty();
            contradiction = contradiction.or(pass.sightings.contradiction().map(|found| (piece.window, found)));
            match read {
                Err(ReadError::Source(error)) if error.recovery != Recovery::Refused && failed.is_none() => {
                    // The newer windows are read first; then this is told with the poll's end.
                    tracing::debug!(unit = self.reader.unit, window = %piece.window, "a window could not be read: {error}");
                    failed = Some(error.of(piece.window));
                }
                Err(error) => return Err(error),
                Ok(Ended::TooManyRows) => {
                    tracing::debug!(unit = self.reader.unit, window = %piece.window, "a window of a poll is halved");
                    parts.halve(piece);
                }
                // Its rows are published; whether there are more its halves tell.
                Ok(Ended::Broken(fault)) if fault.is_mended_by_halves() && parts.halve_within(piece) => {
                    tracing::debug!(unit = self.reader.unit, window = %piece.window, %fault, "a window of a poll is halved");
                }
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
                    let publisher = self.reader.publisher.lock().await;
                    let waits = unbelieved.waits(piece.window, begun, publisher.ledger(), &self.reader.unit);
                    drop(publisher);
                    if waits {
                        continue;
                    }
                    let windows = unbelieved.believed().chain([(piece.window, begun)]);
                    progress = self.advance(generation, windows).await?.unwrap_or(progress);
                    // Only now, so that a unit with a hole or without a source never looks well in between.
                    if piece.how == How::CatchUp && held.is_none() && failed.is_none() && !parts.is_narrowing() {
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
        if let Some(detail) = unbelieved.describe() {
            held.get_or_insert((UnitState::SourceEmpty, detail));
        } else {
            self.advance(generation, unbelieved.believed()).await?;
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

    /// Takes windows for read, each from the beginning of its read on; gives the unit's progress if there were any.
    async fn advance(
        &self,
        generation: u32,
        windows: impl Iterator<Item = (Window, UtcMillis)>,
    ) -> Result<Option<Progress>, ReadError> {
        let mut progress = None;
        for (window, begun) in windows {
            let mut publisher = self.reader.publisher.lock().await;
            let advanced = publisher.advance(&self.reader.unit, generation, window, begun).await?;
            progress = Some(advanced.ok_or(ReadError::Replaced)?);
        }
        Ok(progress)
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
    use crate::core::journal::{Change, ChangeKind};
    use crate::core::ledger::PageMeta;

    fn at(second: i64) -> UtcMillis {
        UtcMillis::new(second * 1_000)
    }

    fn window(from: i64, to: i64) -> Window {
        Window::new(at(from), at(to))
    }

    /// A ledger with pages of `acme`: first, last, published, generation.
    fn ledger(pages: &[(i64, i64, u32, u32)], change: Option<Change>) -> Ledger {
        let mut ledger = Ledger::default();
        let delays = Delays { settle: Duration::ZERO, overlap: Duration::ZERO, horizon: Duration::ZERO };
        let progress = Progress::starting_at(at(0), &delays);
        let known = UnitProgress { generation: 1, change, ..UnitProgress::new("acme", progress, 0) };
        ledger.head.units.insert("acme".to_owned(), known);
        for (seq, &(first, last, published, generation)) in (1..).zip(pages) {
            let (first, last, unit) = (at(first), at(last), "acme".to_owned());
            let meta = PageMeta { unit, generation, first, last, entries: 100, published };
            ledger.pages.insert((seq, None), meta);
        }
        ledger
    }

    #[test]
    fn a_poll_without_a_row_is_not_believed_where_legs_are_known() {
        let ledger = ledger(&[(10, 20, 3, 1), (110, 120, 2, 1)], None);
        let mut unbelieved = Unbelieved::default();
        assert!(unbelieved.waits(window(0, 100), at(300), &ledger, "acme"));
        assert!(unbelieved.describe().is_none(), "three may have been taken back");
        assert!(unbelieved.waits(window(100, 200), at(300), &ledger, "acme"));
        assert!(unbelieved.waits(window(200, 300), at(300), &ledger, "acme"), "nor what follows");
        assert!(unbelieved.describe().unwrap().contains("5 legs"));
    }

    #[test]
    fn a_row_anywhere_in_the_poll_makes_quiet_windows_quiet() {
        let ledger = ledger(&[(10, 20, 30, 1)], None);
        let mut unbelieved = Unbelieved::default();
        assert!(unbelieved.waits(window(0, 100), at(300), &ledger, "acme"));
        unbelieved.shows_rows = true;
        assert!(!unbelieved.waits(window(100, 200), at(300), &ledger, "acme"));
        assert_eq!(unbelieved.believed().collect::<Vec<_>>(), [(window(0, 100), at(300))]);
        assert!(!unbelieved.waits(window(200, 300), at(300), &ledger, "acme"));
        assert!(unbelieved.describe().is_none());
    }

    #[test]
    fn only_legs_count_that_can_be_expected_to_be_shown() {
        let is_doubted = |pages: &[_], change| {
            let mut unbelieved = Unbelieved::default();
            unbelieved.waits(window(0, 100), at(300), &ledger(pages, change), "acme")
        };
        assert!(is_doubted(&[(10, 20, 9, 1)], None));
        assert!(!is_doubted(&[], None), "a first read of quiet phones");
        assert!(!is_doubted(&[(10, 20, 0, 1)], None), "dead rows, and changes of known legs");
        assert!(!is_doubted(&[(10, 20, 9, 0)], None), "what a rewind has made void");
        assert!(!is_doubted(&[(10, 100, 9, 1)], None), "beyond the window");
        let accepted = |second| Some(Change { what: ChangeKind::Accepted, at: at(second) });
        assert!(!is_doubted(&[(10, 20, 9, 1)], accepted(50)));
        assert!(is_doubted(&[(10, 20, 9, 1)], accepted(5)));
    }

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
