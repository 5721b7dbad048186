//! Lateness: how long after its disconnect a leg is first visible, and what that asks of the overlap.
//!
//! ```text
//!   disconnected ─────── looked at, not there ─────── seen          visibility is only sampled:
//!        └────────────── at least ─┘                   │            the truth lies in between
//!        └────────────────────────── at most ──────────┘            what is counted: the safe side
//! ```
//!
//! A sample whose two bounds are far apart, as after a pause, says nothing and is only numbered. Backfills are
//! no samples.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::time::UtcMillis;

/// Ratio of one bucket's upper edge to the one before; what a quantile is too large by at most.
const GROWTH: f64 = 1.2;

/// How many buckets there are: up to 36 days, and one for everything beyond.
pub const BUCKETS: usize = 84;

/// With more samples than this all are halved, so that what the API did long ago fades.
const SAMPLES_MAX: u64 = 1_000_000;

/// The share of legs that the recommended overlap is to find.
const QUANTILE: f64 = 0.999;

/// How certain a recommendation is to cover that share, once there are legs enough.
const CONFIDENCE: f64 = 0.95;

/// By which read a late leg was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It was not there yet to be found earlier.
    AtOnce,
    /// By reading once more what had been read: thanks to the overlap.
    ByOverlap,
    /// After the overlap, by a sweep.
    BySweep,
}

/// What was measured of one unit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lateness {
    /// Samples by bucket, up to the last one that is not empty.
    pub buckets: Vec<u64>,
    /// Legs found thanks to the overlap.
    pub by_overlap: u64,
    /// Legs found by a sweep.
    pub by_sweep: u64,
    /// Legs found after a pause too long to tell when they became visible.
    pub unmeasured: u64,
    /// How much of the overlap was left when the latest leg was found thanks to it.
    pub closest: Option<Duration>,
}

/// An overlap that would have been long enough.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recommendation {
    /// To be used as `poll.overlap`; whole seconds.
    pub overlap: Duration,
    /// The probability that it finds 99.9 % of all legs, if they go on being as late as they were.
    pub confidence: f64,
}

impl Lateness {
    /// Takes a sample: at most how late a leg was, or that it cannot be told.
    pub fn note(&mut self, found: Found, at_most: Option<Duration>) {
        match found {
            Found::AtOnce => {}
            Found::ByOverlap => self.by_overlap += 1,
            Found::BySweep => self.by_sweep += 1,
        }
        let Some(at_most) = at_most else {
            self.unmeasured += 1;
            return;
        };
        let bucket = bucket_of(at_most);
        if self.buckets.len() <= bucket {
            self.buckets.resize(bucket + 1, 0);
        }
        self.buckets[bucket] += 1;
        self.fade();
    }

    /// Takes note of how much of the overlap was left when a leg was found thanks to it.
    pub fn note_left(&mut self, left: Duration) {
        self.closest = Some(self.closest.map_or(left, |closest| closest.min(left)));
    }

    /// Adds what was measured elsewhere.
    pub fn add(&mut self, other: &Self) {
        if self.buckets.len() < other.buckets.len() {
            self.buckets.resize(other.buckets.len(), 0);
        }
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(sum, count)| *sum += count);
        self.by_overlap += other.by_overlap;
        self.by_sweep += other.by_sweep;
        self.unmeasured += other.unmeasured;
        if let Some(left) = other.closest {
            self.note_left(left);
        }
        self.fade();
    }

    /// How many legs were measured, as far as they have not faded.
    pub fn samples(&self) -> u64 {
        self.buckets.iter().sum()
    }

    fn fade(&mut self) {
        if self.samples() > SAMPLES_MAX {
            self.buckets.iter_mut().for_each(|count| *count /= 2);
            // What is not there any more must not be written either: equal measurements are equal values.
            let used = self.buckets.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
            self.buckets.truncate(used);
        }
    }

    /// The overlap that finds 99.9 % of all legs, when a read trusts nothing younger than `settle`; `None` without
    /// samples.
    ///
    /// The order statistic that lies above the quantile with the wanted confidence; with fewer than about 3,000
    /// samples that is the largest, and the confidence is what those allow.
    pub fn recommend(&self, settle: Duration) -> Option<Recommendation> {
        let samples = self.samples();
        if samples == 0 {
            return None;
        }
        let above = exceedances_allowed(samples);
        let mut left = above;
        let bucket = (0..self.buckets.len()).rev().find(|bucket| {
            let count = self.buckets[*bucket];
            let is_here = left < count;
            left = left.saturating_sub(count);
            is_here
        })?;
        let overlap = edge(bucket).saturating_sub(settle).max(Duration::from_secs(1));
        let confidence = 1.0 - binomial_at_most(above, samples);
        Some(Recommendation { overlap, confidence })
    }
}

fn bucket_of(lateness: Duration) -> usize {
    (0..BUCKETS - 1).find(|bucket| lateness <= edge(*bucket)).unwrap_or(BUCKETS - 1)
}

/// A bucket's upper edge, in whole seconds; that of the last one is only what it is called.
pub fn edge(bucket: usize) -> Duration {
    // The exponent is below a hundred.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small and positive")]
    let seconds = GROWTH.powi(i32::try_from(bucket).unwrap_or(i32::MAX)).ceil() as u64;
    Duration::from_secs(seconds)
}

/// How many samples may lie above the one that is an upper bound of the quantile.
fn exceedances_allowed(samples: u64) -> u64 {
    let mut allowed = 0;
    while binomial_at_most(allowed + 1, samples) <= 1.0 - CONFIDENCE {
        allowed += 1;
    }
    allowed
}

/// The probability that of so many legs at most `count` are later than the quantile.
fn binomial_at_most(count: u64, samples: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a million samples at most")]
    let (n, p) = (samples as f64, 1.0 - QUANTILE);
    // By their logarithms: the first terms are too small for a number.
    let mut term = n * QUANTILE.ln();
    let mut sum = term.exp();
    for k in 1..=count.min(samples) {
        #[expect(clippy::cast_precision_loss, reason = "a million samples at most")]
        let k = k as f64;
        term += ((n - k + 1.0) / k).ln() + (p / QUANTILE).ln();
        sum += term.exp();
    }
    sum.min(1.0)
}

/// At most how late a leg was that was disconnected at `at`, looked for at `looked` and first seen at `seen`; `None`
/// when that is too far from how late it was at least.
pub fn at_most(at: UtcMillis, looked: UtcMillis, seen: UtcMillis, apart_max: Duration) -> Option<Duration> {
    let (least, most) = (looked.since(at), seen.since(at));
    (most.saturating_sub(least) <= apart_max).then_some(most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn buckets_hold_what_their_edges_say() {
        assert_eq!(bucket_of(Duration::ZERO), 0);
        assert_eq!((bucket_of(seconds(1)), bucket_of(Duration::from_millis(1001))), (0, 1));
        assert_eq!(bucket_of(seconds(365 * 86_400)), BUCKETS - 1);
        assert!(edge(BUCKETS - 2) > seconds(30 * 86_400), "the longest overlap that can be configured");
        for bucket in 1..BUCKETS - 1 {
            assert!(edge(bucket) >= edge(bucket - 1));
        }
    }

    #[test]
    fn a_wide_sample_is_none() {
        let at = |s: i64| UtcMillis::new(s * 1000);
        assert_eq!(at_most(at(100), at(90), at(130), seconds(40)), Some(seconds(30)), "not looked for before");
        assert_eq!(at_most(at(100), at(120), at(130), seconds(10)), Some(seconds(30)));
        assert_eq!(at_most(at(100), at(120), at(131), seconds(10)), None);
    }

    #[test]
    fn few_samples_recommend_the_largest_and_say_how_little_that_is_worth() {
        let mut lateness = Lateness::default();
        assert_eq!(lateness.recommend(Duration::ZERO), None);
        (0..100).for_each(|_| lateness.note(Found::AtOnce, Some(seconds(3))));
        lateness.note(Found::ByOverlap, Some(seconds(1000)));
        let recommended = lateness.recommend(seconds(60)).unwrap();
        assert!((seconds(940)..seconds(1200)).contains(&recommended.overlap), "{recommended:?}");
        assert!((recommended.confidence - (1.0 - 0.999_f64.powi(101))).abs() < 1e-9);
    }

    #[test]
    fn many_samples_leave_out_what_is_beyond_the_quantile() {
        let mut lateness = Lateness::default();
        for number in 0..20_000 {
            // One in ten thousand is an hour late.
            lateness.note(Found::AtOnce, Some(seconds(if number % 10_000 == 0 { 3600 } else { 10 })));
        }
        let recommended = lateness.recommend(Duration::ZERO).unwrap();
        assert!(recommended.overlap < seconds(20), "{recommended:?}");
        assert!(recommended.confidence >= 0.95);
    }

    #[test]
    fn old_samples_fade() {
        let mut lateness = Lateness { buckets: vec![SAMPLES_MAX, 0, 1], ..Lateness::default() };
        lateness.note(Found::AtOnce, Some(seconds(1)));
        assert_eq!(lateness.buckets, [SAMPLES_MAX / 2]);
    }

    proptest! {
        /// What is recommended is not below the sample's own quantile, and not needlessly above its largest.
        #[test]
        fn the_recommendation_lies_between_quantile_and_largest(
            mut lates in prop::collection::vec(1u64..100_000, 1..6_000),
        ) {
            let mut lateness = Lateness::default();
            lates.iter().for_each(|late| lateness.note(Found::AtOnce, Some(seconds(*late))));
            lates.sort_unstable();
            let index = (lates.len() * 999).div_ceil(1000) - 1;
            let recommended = lateness.recommend(Duration::ZERO).unwrap().overlap;
            prop_assert!(recommended >= seconds(lates[index]));
            prop_assert!(recommended.as_secs_f64() <= lates.last().copied().unwrap_or(0) as f64 * GROWTH + 2.0);
        }

        #[test]
        fn adding_is_noting_both(a in prop::collection::vec(0u64..10_000, 0..50), b in prop::collection::vec(0u64..10_000, 0..50)) {
            let of = |lates: &[u64]| {
                let mut lateness = Lateness::default();
                for late in lates {
                    lateness.note(Found::ByOverlap, Some(seconds(*late)));
                    lateness.note_left(seconds(*late));
                }
                lateness
            };
            let mut sum = of(&a);
            sum.add(&of(&b));
            prop_assert_eq!(sum, of(&[a, b].concat()));
        }
    }
}
