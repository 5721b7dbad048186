//! The difference between the server's clock and ours, as far as a `Date` header can tell.
//!
//! A header says only in which second the server answered, somewhere between our sending and our
//! receiving, so the difference is known as an interval.
//!
//! ```text
//!   ours     sent ─────────────────── received
//!   server          [date, date + 1 s)            somewhere in between
//! ```

use std::time::Duration;

use super::time::UtcMillis;

/// Server clock minus local clock, as an interval in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skew {
    least_ms: i64,
    most_ms: i64,
}

impl Skew {
    /// From one exchange: local times of sending and receiving, and the reply's `Date`.
    pub fn observed(sent: UtcMillis, received: UtcMillis, date: UtcMillis) -> Self {
        Self { least_ms: date.millis_since(received), most_ms: date.plus(Duration::from_secs(1)).millis_since(sent) }
    }

    /// The smaller of the local and the server's time, when the local clock shows `local`.
    pub fn earlier_now(self, local: UtcMillis) -> UtcMillis {
        UtcMillis::new(local.as_millis().saturating_add(self.least_ms.min(0)))
    }

    /// Whether the clocks certainly differ by more than `tolerance`.
    pub fn exceeds(self, tolerance: Duration) -> bool {
        let tolerance_ms = i64::try_from(tolerance.as_millis()).unwrap_or(i64::MAX);
        self.least_ms > tolerance_ms || self.most_ms < -tolerance_ms
    }

    /// The middle of the interval, in seconds: positive when the server's clock is ahead.
    pub fn seconds(self) -> f64 {
        (self.least_ms as f64 + self.most_ms as f64) / 2000.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> UtcMillis {
        UtcMillis::new(millis)
    }

    #[test]
    fn equal_clocks_never_exceed_and_barely_delay() {
        let skew = Skew::observed(at(10_400), at(10_900), at(10_000));
        assert!(!skew.exceeds(Duration::ZERO));
        assert_eq!(skew.earlier_now(at(20_000)), at(19_100));
    }

    #[test]
    fn a_local_clock_ahead_is_brought_back_and_one_behind_is_kept() {
        let ahead = Skew::observed(at(100_400), at(100_900), at(10_000));
        assert!(ahead.exceeds(Duration::from_secs(60)) && !ahead.exceeds(Duration::from_secs(90)));
        assert_eq!(ahead.earlier_now(at(101_000)), at(10_100));
        let behind = Skew::observed(at(10_400), at(10_900), at(100_000));
        assert!(behind.exceeds(Duration::from_secs(60)) && !behind.exceeds(Duration::from_secs(90)));
        assert_eq!(behind.earlier_now(at(11_000)), at(11_000));
    }

    #[test]
    fn a_slow_answer_is_not_taken_for_a_skew() {
        assert!(!Skew::observed(at(0), at(90_000), at(1_000)).exceeds(Duration::from_secs(60)));
    }
}
