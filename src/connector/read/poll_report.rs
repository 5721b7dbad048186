//! What is told of a poll: in the unit's status, in metrics, in the log and in its trace.

use std::time::Duration;

use tokio::time::Instant;
use tracing::Span;

use super::doubt::{describe_contradiction, describe_doubt};
use super::read_error::{ReadError, state_of};
use super::unit::UnitContext;
use crate::connector::stage::count;
use crate::core::dedupe::Counts;
use crate::core::planner::time_left;
use crate::core::poll::Hold;
use crate::core::time::{UtcMillis, Window};
use crate::core::words::length;
use crate::source::SourceError;
use crate::telemetry::Streak;
use crate::telemetry::labels::UnitResultLabels;
use crate::telemetry::recent::PollNote;
use crate::telemetry::status::UnitState;

/// How often a long poll says how far it has come.
const CATCHING_UP_TOLD: Duration = Duration::from_secs(30);

/// How a poll ended.
pub(super) enum PollEnd {
    /// Every piece was read whole.
    Whole,
    /// What could be read was published; the watermarks wait, and why.
    Held(UnitState, String),
}

/// A poll that has ended.
pub(super) struct PollReport<'a> {
    pub(super) unit: &'a UnitContext,
    /// What became of the poll's rows.
    pub(super) counts: Counts,
    pub(super) took: Duration,
    /// Whether the log tells of it if all went well.
    pub(super) is_told: bool,
}

/// A long poll that is under way.
pub(super) struct CatchUpReport {
    began: Instant,
    /// What the poll reads, behind all holds.
    span: Window,
    /// When the log last said how far the poll has come.
    told: Option<Instant>,
}

impl PollEnd {
    /// The watermarks wait. `describe_skew` says how far the clocks are apart.
    pub(super) fn held(hold: Hold, describe_skew: impl FnOnce() -> String) -> Self {
        let (state, detail) = match hold {
            Hold::Incomplete(window, fault) => (
                UnitState::SourceIncomplete,
                format!("window {window} could not be read whole, and is read again: {fault}"),
            ),
            Hold::Invalid(window, doubt) => (UnitState::SourceInvalid, describe_doubt(window, doubt)),
            Hold::ClockSkew => (UnitState::ClockSkew, describe_skew()),
            Hold::TimeZone(window, found) => (UnitState::SourceTimeZone, describe_contradiction(window, found)),
            Hold::Empty(since, known) => (UnitState::SourceEmpty, describe_empty(since, known)),
        };
        Self::Held(state, detail)
    }

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

impl PollReport<'_> {
    /// Shows, counts and logs how the poll ended.
    pub(super) fn end(&self, end: PollEnd) {
        let &Self { unit, counts, .. } = self;
        let progress = unit.progress();
        let progress = progress.as_ref().map(|unit| &unit.progress);
        let result = end.result();
        match end {
            PollEnd::Whole => {
                if let Some(Streak { failures, lasted }) = unit.trouble().works() {
                    let lasted_s = lasted.as_secs();
                    tracing::info!(unit = unit.name, failures, lasted_s, "the polls read everything again");
                }
                unit.show(UnitState::Ok, "");
                let now = unit.clock.now();
                unit.status.update_unit(&unit.name, |status| status.last_poll_ok = Some(now));
            }
            PollEnd::Held(state, detail) => {
                if let Some(Streak { failures, .. }) = unit.trouble().failed(state.as_str()) {
                    tracing::warn!(unit = unit.name, failures, "{detail}");
                }
                unit.show(state, &detail);
            }
        }
        self.count(result);
        if !self.is_told && result == "ok" {
            tracing::debug!(unit = unit.name, "a poll found nothing new");
            return;
        }
        tracing::info!(
            unit = unit.name,
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

    /// Shows, counts and logs that the poll was given up, and that the next one comes after `pause`.
    pub(super) fn failure(&self, error: &SourceError, pause: Duration) {
        self.unit.show_failure(state_of(error.failure), &error.to_string(), pause);
        self.count(error.failure.as_str());
        let (unit, published, again_in_s) = (&self.unit.name, self.counts.published, pause.as_secs());
        // A request that was worth waiting for counts, too.
        match self.unit.trouble().failed(error.failure.as_str()) {
            Some(Streak { failures, lasted }) => {
                let lasted_s = lasted.as_secs();
                tracing::warn!(unit, failures, lasted_s, published, again_in_s, "the poll failed: {error}");
            }
            None => tracing::debug!(unit, published, again_in_s, "the poll failed: {error}"),
        }
    }

    fn count(&self, result: &'static str) {
        let &Self { unit, counts, took, .. } = self;
        unit.metrics.polls.get_or_create(&UnitResultLabels { unit: unit.name.clone(), result }).inc();
        let poll = PollNote {
            at: unit.clock.now(),
            result: result.to_owned(),
            fetched: counts.fetched(),
            published: counts.published,
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        };
        unit.status.note(&unit.name, |recent| recent.note_poll(poll));
    }
}

impl CatchUpReport {
    /// A poll of `span` begins.
    pub(super) fn begin(span: Window) -> Self {
        Self { began: Instant::now(), span, told: None }
    }

    /// Shows and, from time to time, logs how far the poll has come.
    pub(super) fn tell(&mut self, unit: &UnitContext, complete_to: UtcMillis, published: u64) {
        let left = time_left(self.span, complete_to, self.began.elapsed());
        let left = left.map(length);
        let takes = left.as_ref().map(|left| format!("it will take some {left} more")).unwrap_or_default();
        unit.show(UnitState::CatchingUp, &takes);
        if self.told.is_none_or(|told| told.elapsed() >= CATCHING_UP_TOLD) {
            self.told = Some(Instant::now());
            let to = self.span.end;
            tracing::info!(unit = unit.name, %complete_to, %to, published, left, "catching up");
        }
    }
}

/// Ends the span of a poll.
pub(super) fn end_span(span: Span, ended: &Result<PollEnd, ReadError>, counts: Counts) {
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
