//! Freshness: how long a published leg took from its disconnect to Kafka, and where that time went.
//!
//! ```text
//!   disconnected ── looked at, not there ── poll begins ── page received ── committed
//!        │                    └─ poll wait ─────┴─ fetch ─────┴─ publish ──────┘
//!        └── API delay, at most ──────────────────────────────┘
//!        └── freshness ────────────────────────────────────────────────────────┘
//! ```
//!
//! When a leg became visible is only sampled: somewhere between the poll that did not show it and the page that did. So
//! poll wait and fetch are also part of the API delay, of which they are what may be ours: freshness is API delay plus
//! publish, and the true API delay lies between the two bounds.

use std::time::Duration;

use crate::core::lateness;
use crate::core::time::UtcMillis;

/// When what became of a leg, by this machine's clock but for the first.
#[derive(Clone, Copy, Debug)]
pub struct LegTimes {
    /// When it was disconnected.
    pub disconnected: UtcMillis,
    /// When the newest poll began that had not shown it.
    pub looked: UtcMillis,
    /// When the read of the window began that showed it.
    pub begun: UtcMillis,
    /// When its page was received.
    pub seen: UtcMillis,
    /// When Kafka had its transaction.
    pub committed: UtcMillis,
}

/// Where a leg's time went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stages {
    /// From the disconnect to the page that showed it; `None` after a pause, which says nothing of the API.
    pub api_delay: Option<Duration>,
    /// From when it can have been visible at the earliest to the beginning of the read that showed it.
    pub poll_wait: Duration,
    /// From there to the page that showed it.
    pub fetch: Duration,
    /// From there to Kafka's acknowledgement.
    pub publish: Duration,
}

impl LegTimes {
    /// From the disconnect to Kafka's acknowledgement.
    pub fn freshness(&self) -> Duration {
        self.committed.since(self.disconnected)
    }

    /// Where the time went; a leg whose bounds of visibility are further apart than `apart_max` is no measure of the API.
    pub fn stages(&self, apart_max: Duration) -> Stages {
        Stages {
            api_delay: lateness::at_most(self.disconnected, self.looked, self.seen, apart_max),
            poll_wait: self.begun.since(self.disconnected.max(self.looked)),
            fetch: self.seen.since(self.begun),
            publish: self.committed.since(self.seen),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> UtcMillis {
        UtcMillis::new(seconds * 1000)
    }

    fn times(disconnected: i64, looked: i64) -> LegTimes {
        LegTimes {
            disconnected: at(disconnected),
            looked: at(looked),
            begun: at(220),
            seen: at(223),
            committed: at(224),
        }
    }

    const APART_MAX: Duration = Duration::from_secs(360);

    #[test]
    fn a_leg_that_an_earlier_poll_did_not_show_has_waited_since_that_poll() {
        let times = times(50, 100);
        let seconds = Duration::from_secs;
        let stages = times.stages(APART_MAX);
        assert_eq!(
            stages,
            Stages { api_delay: Some(seconds(173)), poll_wait: seconds(120), fetch: seconds(3), publish: seconds(1) }
        );
        assert_eq!(times.freshness(), stages.api_delay.unwrap() + stages.publish);
        let known_to_be_the_apis = stages.api_delay.unwrap() - stages.poll_wait - stages.fetch;
        assert_eq!(known_to_be_the_apis, seconds(50), "looked for so long after its disconnect, and not there");
    }

    #[test]
    fn a_leg_that_nobody_has_looked_for_has_waited_since_its_disconnect() {
        assert_eq!(times(150, 100).stages(APART_MAX).poll_wait, Duration::from_secs(70));
    }

    #[test]
    fn after_a_pause_the_wait_is_ours_and_the_api_is_not_measured() {
        let stages = times(-5_000, -4_900).stages(APART_MAX);
        assert_eq!((stages.api_delay, stages.poll_wait), (None, Duration::from_secs(5_120)));
    }

    #[test]
    fn clocks_that_differ_make_no_time_negative() {
        let times = times(300, 100);
        assert_eq!((times.freshness(), times.stages(APART_MAX).poll_wait), (Duration::ZERO, Duration::ZERO));
    }
}
