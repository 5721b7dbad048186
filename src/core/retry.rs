//! How long to wait before trying again.

use std::time::Duration;

/// Exponential back-off with jitter.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// The longest first pause.
    pub first: Duration,
    /// The longest pause at all.
    pub max: Duration,
}

impl Backoff {
    /// The pause after the `failures`-th failure in a row (counted from 1), between half and the
    /// whole of the doubled pause; `dice` in `[0, 1)` spreads it.
    pub fn pause(&self, failures: u32, dice: f64) -> Duration {
        let doubled = self.first.saturating_mul(1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
        doubled.min(self.max).mul_f64(0.5 + 0.5 * dice.clamp(0.0, 1.0))
    }
}

/// What a server's `Retry-After` is cut to: zero would hammer it, an hour would look like an outage.
pub fn clamp_retry_after(asked: Duration) -> Duration {
    asked.clamp(Duration::from_secs(1), Duration::from_secs(300))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_the_maximum_and_never_overflow() {
        let backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_secs(300) };
        let longest = |failures| backoff.pause(failures, 1.0).as_secs();
        assert_eq!([1, 2, 3, 4].map(longest), [1, 2, 4, 8]);
        assert_eq!([9, 10, 33, u32::MAX].map(longest), [256, 300, 300, 300]);
        assert_eq!(backoff.pause(3, 0.0), Duration::from_secs(2));
    }
}
