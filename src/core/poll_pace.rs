//! How often units are polled where the budget of requests decides it: `poll.interval = "auto"`.
//!
//! Polls take half of the budget; the rest is for sweeps, catch-ups and backfills. All units have the same interval: what
//! their polls cost, as it was measured, divided by what they may cost.
//!
//! Where the overlap takes requests of its own, most polls read only what is new, and the overlap is read every 90 s. The
//! guarantees count with [`INTERVAL_MAX`] from one read of the overlap to the next, which leaves a poll 30 s.

use std::collections::BTreeMap;
use std::time::Duration;

/// Units are polled no more often than this.
pub const INTERVAL_MIN: Duration = Duration::from_secs(5);

/// Units are polled no less often than this, and from one read of an overlap to the next it takes no longer.
pub const INTERVAL_MAX: Duration = Duration::from_secs(120);

/// From one read of an overlap that takes requests of its own to the next.
const OVERLAP_EVERY: Duration = Duration::from_secs(90);

/// The part of the budget that polls take.
const SHARE: f64 = 0.5;

/// How much a newly measured cost counts beside the ones before.
const NEWEST_WEIGHT: f64 = 0.25;

/// The API asked for fewer requests: polls come half as often, up to so many times.
const SLOWER_MAX: u32 = 5;

/// Without another such answer for so long, polls come twice as often again.
const CALM: Duration = Duration::from_secs(300);

/// The interval that is chosen for all units. Time comes in as a monotonic duration.
#[derive(Clone, Debug)]
pub struct PollPace {
    requests_per_minute: u32,
    costs: BTreeMap<String, Cost>,
    /// How many times the interval is doubled.
    slower: u32,
    /// When that was last changed.
    changed_at: Duration,
}

/// What a poll of a unit costs, in requests.
#[derive(Clone, Copy, Debug)]
struct Cost {
    /// The read of what is new.
    new: f64,
    /// The read of the overlap; 0 while both are one page.
    overlap: f64,
    /// Reads of the overlap before it was due, since nothing new was shown: so many requests in each poll.
    undue: f64,
}

/// The requests of one poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollCost {
    /// What is new and the overlap were read at once.
    Together(usize),
    /// What is new was read alone.
    New(usize),
    /// What is new was read, then the overlap.
    Apart {
        /// For what is new.
        new: usize,
        /// For the overlap.
        overlap: usize,
        /// Whether the overlap was due. Else it was read because what is new showed no leg.
        is_due: bool,
    },
}

impl PollPace {
    /// The pace of these units, each of which is taken to cost one request until a poll was measured.
    pub fn new(requests_per_minute: u32, units: impl IntoIterator<Item = String>) -> Self {
        let costs = units.into_iter().map(|unit| (unit, Cost { new: 1.0, overlap: 0.0, undue: 0.0 })).collect();
        Self { requests_per_minute, costs, slower: 0, changed_at: Duration::ZERO }
    }

    /// Takes note of what a live poll of a unit has cost.
    pub fn note(&mut self, unit: &str, cost: PollCost) {
        let Some(known) = self.costs.get_mut(unit) else { return };
        let (new, overlap, undue) = match cost {
            PollCost::Together(requests) => (requests, Some(0), 0),
            PollCost::New(requests) => (requests, None, 0),
            PollCost::Apart { new, overlap, is_due } => (new, Some(overlap), if is_due { 0 } else { overlap }),
        };
        let towards = |known: f64, measured: usize| known + (measured as f64 - known) * NEWEST_WEIGHT;
        known.new = towards(known.new, new.max(1));
        known.undue = towards(known.undue, undue);
        if let Some(overlap) = overlap {
            known.overlap = if overlap == 0 { 0.0 } else { towards(known.overlap, overlap) };
        }
    }

    /// The API asked for fewer requests. Several units are told so at once: that counts once in an interval.
    pub fn note_rate_limited(&mut self, now: Duration) {
        let is_told_again = self.slower > 0 && now.saturating_sub(self.changed_at) < self.interval(now);
        if !is_told_again {
            self.slower = (self.slower + 1).min(SLOWER_MAX);
            self.changed_at = now;
        }
    }

    /// From the beginning of one poll of a unit to that of the next.
    pub fn interval(&mut self, now: Duration) -> Duration {
        while self.slower > 0 && self.changed_at + CALM <= now {
            self.slower -= 1;
            self.changed_at += CALM;
        }
        let (new, overlaps) = self.cost();
        let overlaps_a_minute = overlaps * 60.0 / OVERLAP_EVERY.as_secs_f64();
        let left_a_minute = (f64::from(self.requests_per_minute) * SHARE - overlaps_a_minute).max(f64::MIN_POSITIVE);
        let seconds = 60.0 * new / left_a_minute * f64::from(1 << self.slower);
        let (least, most) = (INTERVAL_MIN.as_secs_f64(), INTERVAL_MAX.as_secs_f64());
        Duration::from_secs_f64(seconds.clamp(least, most))
    }

    /// Whether a poll has to read the overlap, which was last read so long ago, if the next poll follows after `interval`.
    pub fn is_overlap_due(last: Option<Duration>, interval: Duration) -> bool {
        last.is_none_or(|last| last + interval > OVERLAP_EVERY)
    }

    /// How many requests a poll of every unit takes, and a read of every overlap that is due.
    fn cost(&self) -> (f64, f64) {
        let sum = |part: fn(&Cost) -> f64| self.costs.values().map(part).sum();
        (sum(|cost| cost.new + cost.undue), sum(|cost| cost.overlap))
    }

    /// How often the interval was doubled because the API asked for fewer requests, as a factor.
    pub const fn slowdown(&self) -> u32 {
        1 << self.slower
    }

    /// Why the interval is as it is.
    pub fn reason(&self) -> String {
        let (new, overlap) = self.cost();
        let polls = format!("{new:.1} requests for a poll of every unit");
        let overlap = if overlap > 0.0 { format!(", {overlap:.1} for the overlap every 90 s") } else { String::new() };
        let budget = self.requests_per_minute;
        let slower = match self.slowdown() {
            1 => String::new(),
            factor => format!("; {factor} times longer, since the API has asked for fewer requests"),
        };
        format!("{polls}{overlap}, from half of source.requests_per_minute = {budget}{slower}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: Duration = Duration::ZERO;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn pace(requests_per_minute: u32, units: usize) -> PollPace {
        PollPace::new(requests_per_minute, (0..units).map(|unit| format!("unit-{unit}")))
    }

    #[test]
    fn three_units_of_one_page_are_polled_every_six_seconds() {
        assert_eq!(pace(60, 3).interval(START), seconds(6));
        assert_eq!(pace(60, 1).interval(START), INTERVAL_MIN, "never more often");
        assert_eq!(pace(60, 1_000).interval(START), INTERVAL_MAX, "never less often");
    }

    #[test]
    fn an_overlap_of_many_pages_makes_polls_rarer_and_is_not_read_by_each() {
        let mut pace = pace(60, 1);
        for _ in 0..50 {
            pace.note("unit-0", PollCost::Apart { new: 1, overlap: 30, is_due: true });
        }
        // 20 requests a minute for the overlap, 10 are left for polls.
        let interval = pace.interval(START);
        assert!((5_900..=6_100).contains(&interval.as_millis()), "{interval:?}");
        assert!(PollPace::is_overlap_due(None, interval));
        assert!(!PollPace::is_overlap_due(Some(seconds(80)), interval));
        assert!(PollPace::is_overlap_due(Some(seconds(86)), interval));
        pace.note("unit-0", PollCost::New(1));
        assert!(pace.reason().contains("for the overlap every 90 s"), "{}", pace.reason());
        pace.note("unit-0", PollCost::Together(1));
        assert!(!pace.reason().contains("overlap"), "{}", pace.reason());
    }

    #[test]
    fn overlaps_that_are_read_before_they_are_due_make_polls_rarer_while_they_are() {
        let mut pace = pace(60, 1);
        for _ in 0..50 {
            pace.note("unit-0", PollCost::Apart { new: 1, overlap: 20, is_due: false });
        }
        assert!(pace.interval(START) > seconds(60), "{:?}", pace.interval(START));
        for _ in 0..50 {
            pace.note("unit-0", PollCost::New(1));
        }
        assert!(pace.interval(START) < seconds(6), "{:?}", pace.interval(START));
    }

    #[test]
    fn it_is_slower_after_a_refusal_for_the_rate_and_faster_again_later() {
        let mut pace = pace(60, 3);
        pace.note_rate_limited(seconds(10));
        pace.note_rate_limited(seconds(11));
        assert_eq!((pace.interval(seconds(12)), pace.slowdown()), (seconds(12), 2), "three units, one refusal");
        pace.note_rate_limited(seconds(30));
        assert_eq!(pace.interval(seconds(30)), seconds(24));
        assert!(pace.reason().ends_with("4 times longer, since the API has asked for fewer requests"));
        assert_eq!(pace.interval(seconds(330)), seconds(12));
        assert_eq!(pace.interval(seconds(630)), seconds(6));
        for told in 0..1_000 {
            pace.note_rate_limited(seconds(1_000 + told * 120));
        }
        assert_eq!(pace.interval(seconds(121_000)), INTERVAL_MAX);
    }

    proptest! {
        #[test]
        fn polls_keep_to_half_of_the_budget_unless_that_is_too_small(
            budget in 1_u32..6_000,
            costs in prop::collection::vec((1_usize..40, 0_usize..60), 1..50),
            limited in 0_u32..8,
        ) {
            let mut pace = pace(budget, costs.len());
            for (unit, (new, overlap)) in costs.iter().enumerate() {
                for _ in 0..40 {
                    pace.note(&format!("unit-{unit}"), PollCost::Apart { new: *new, overlap: *overlap, is_due: true });
                }
            }
            for told in 0..limited {
                pace.note_rate_limited(seconds(u64::from(told) * 130));
            }
            let now = seconds(u64::from(limited) * 130);
            let interval = pace.interval(now);
            prop_assert!((INTERVAL_MIN..=INTERVAL_MAX).contains(&interval));
            let sum = |part: fn(&(usize, usize)) -> usize| costs.iter().map(part).sum::<usize>() as f64;
            let a_minute = sum(|cost| cost.0) * 60.0 / interval.as_secs_f64() + sum(|cost| cost.1) * 60.0 / 90.0;
            prop_assert!(interval == INTERVAL_MAX || a_minute <= f64::from(budget) * 0.51, "{a_minute} of {budget}");
        }
    }
}
