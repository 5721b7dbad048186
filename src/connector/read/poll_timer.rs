//! How often units are polled: every `poll.interval`, or as the budget of requests allows.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Pace;
use crate::core::poll_pace::{PollCost, PollPace};
use crate::telemetry::StatusBoard;
use crate::telemetry::status::PollPaceShown;

/// One for all units.
pub(crate) struct PollTimer {
    interval: Duration,
    auto: Option<Mutex<PollPace>>,
    started: Instant,
    status: StatusBoard,
}

impl PollTimer {
    /// The timer of these units.
    pub(crate) fn new(pace: &Pace, units: &[String], status: StatusBoard) -> Self {
        let auto = pace.poll_budget.map(|budget| Mutex::new(PollPace::new(budget, units.iter().cloned())));
        let timer = Self { interval: pace.interval, auto, started: Instant::now(), status };
        timer.show();
        timer
    }

    /// Whether the budget decides.
    pub(super) const fn is_auto(&self) -> bool {
        self.auto.is_some()
    }

    /// From the beginning of one poll of a unit to that of the next.
    pub(super) fn interval(&self) -> Duration {
        self.pace().map_or(self.interval, |mut pace| pace.interval(self.started.elapsed()))
    }

    /// Whether a poll has to read the overlap, which was last read by a poll that began then.
    pub(super) fn is_overlap_due(&self, last: Option<Instant>) -> bool {
        !self.is_auto() || PollPace::is_overlap_due(last.map(|last| last.elapsed()), self.interval())
    }

    /// Takes note of what a live poll of a unit has cost.
    pub(super) fn note(&self, unit: &str, cost: PollCost) {
        if let Some(mut pace) = self.pace() {
            pace.note(unit, cost);
        }
        self.show();
    }

    /// The API asked for fewer requests.
    pub(super) fn note_rate_limited(&self) {
        if let Some(mut pace) = self.pace() {
            pace.note_rate_limited(self.started.elapsed());
        }
        self.show();
    }

    fn pace(&self) -> Option<MutexGuard<'_, PollPace>> {
        // A poisoned lock is fine: every value in it is whole.
        self.auto.as_ref().map(|pace| pace.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn show(&self) {
        let interval = self.interval();
        let chosen = self.pace().map(|pace| (pace.reason(), pace.slowdown()));
        let (reason, slowdown) = chosen.map_or((None, 1), |(reason, slowdown)| (Some(reason), slowdown));
        self.status.update(|status| status.poll_pace = Some(PollPaceShown { interval, reason, slowdown }));
    }
}
