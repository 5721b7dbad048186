//! The request budget: at most so many requests in any minute.
//!
//! A token bucket whose size and refill add up to the limit, so that a burst and what follows it
//! never exceed it within any sixty seconds. Time comes in as a monotonic duration.

use std::time::Duration;

/// A token bucket over a minute.
#[derive(Clone, Debug)]
pub struct Budget {
    capacity: f64,
    refill_per_second: f64,
    tokens: f64,
    refilled_at: Duration,
}

impl Budget {
    /// A full bucket of at most `requests_per_minute` requests in any sixty seconds.
    pub fn new(requests_per_minute: u32, now: Duration) -> Self {
        let limit = f64::from(requests_per_minute.max(1));
        let capacity = (limit / 4.0).max(1.0);
        // With a limit of one the bucket alone uses it up, and half a token a minute follows.
        let refill_per_second = (limit - capacity).max(0.5) / 60.0;
        Self { capacity, refill_per_second, tokens: capacity, refilled_at: now }
    }

    /// Takes a request out of the budget and says how long to wait before sending it.
    ///
    /// Requests are promised in the order of the calls: each waits behind those before it.
    pub fn take(&mut self, now: Duration) -> Duration {
        let elapsed = now.saturating_sub(self.refilled_at).as_secs_f64();
        self.tokens = (self.tokens + elapsed * self.refill_per_second).min(self.capacity);
        self.refilled_at = now.max(self.refilled_at);
        self.tokens -= 1.0;
        if self.tokens >= 0.0 { Duration::ZERO } else { Duration::from_secs_f64(-self.tokens / self.refill_per_second) }
    }
}

/// How many requests in a minute polls take, one in each `interval` for each unit whose overlap has so many rows: one for
/// what is new, and one for each page of the overlap. An overlap that is not a whole page is read with what is new.
pub fn polls_take(interval: Duration, page_rows: u64, overlap_rows: impl IntoIterator<Item = u64>) -> f64 {
    let a_poll = |rows: u64| if rows < page_rows { 1 } else { 1 + rows.div_ceil(page_rows.max(1)) };
    let requests: u64 = overlap_rows.into_iter().map(a_poll).sum();
    requests as f64 * 60.0 / interval.as_secs_f64().max(0.001)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_minute_ever_holds_more_than_the_limit(
            limit in 1u32..200,
            gaps_ms in prop::collection::vec(0u64..5_000, 1..400),
        ) {
            let mut budget = Budget::new(limit, Duration::ZERO);
            let mut now = Duration::ZERO;
            let mut sent = Vec::new();
            for gap in gaps_ms {
                now += Duration::from_millis(gap);
                sent.push(now + budget.take(now));
            }
            for (index, start) in sent.iter().enumerate() {
                let within = sent[index..].iter().filter(|at| **at - *start < Duration::from_millis(59_999)).count();
                prop_assert!(within <= limit as usize + 1, "{within} within a minute of {start:?}");
            }
        }
    }

    #[test]
    fn polls_take_a_request_and_one_for_each_page_of_a_long_overlap() {
        let in_a_minute = |seconds, rows: &[u64]| polls_take(Duration::from_secs(seconds), 1_000, rows.iter().copied());
        assert_eq!(in_a_minute(120, &[0]), 0.5);
        assert_eq!(in_a_minute(10, &[0, 999, 1_000]), 6.0 * 4.0);
        assert_eq!(in_a_minute(60, &[2_500]), 4.0);
    }
}
