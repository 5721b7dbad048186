//! A unit's progress: its two watermarks, its coverage and its floor, and the rule that moves them.
//!
//! ```text
//!   disconnect time ─────────────────────────────────────────────────────────────▶
//!        floor                 final_to              complete_to        bound   now
//!          │◀──── horizon ────────▶│◀───── overlap ──────▶│◀── settle ──▶│
//!   identities are forgotten   only late legs        read once;       read, but may
//!   below, where covered       still appear          read again       still be filling
//! ```
//!
//! Every value here is stored and only ever moves forward; no clock takes part in forgetting.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::coverage::Coverage;
use super::time::{UtcMillis, Window};
use crate::hooks::{self, Mutant};

/// How long after a leg's disconnect the source may still be filling in.
#[derive(Clone, Copy, Debug)]
pub struct Delays {
    /// How long a window rests before it counts as read once.
    pub settle: Duration,
    /// How long it is read again after that before it counts as final.
    pub overlap: Duration,
    /// How long identities are remembered below `final_to`.
    pub horizon: Duration,
}

impl Delays {
    /// How far a leg lies behind the newest published one at the most, unless it is marked late: room for what the API shows
    /// late, and for two polls of `interval`, one of which may be slow.
    pub fn behind_max(&self, interval: Duration) -> Duration {
        self.overlap + self.settle + interval * 2
    }
}

/// How far a unit has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Everything below was read once to the last page after the settle delay.
    pub complete_to: UtcMillis,
    /// Everything below was read again after settle and overlap; the next window starts here.
    pub final_to: UtcMillis,
    /// Identities below may be forgotten, where covered.
    pub floor: UtcMillis,
    /// What was read and published completely.
    pub coverage: Coverage,
}

impl Progress {
    /// The progress of a unit whose reading starts at `start`.
    pub fn starting_at(start: UtcMillis, delays: &Delays) -> Self {
        Self { complete_to: start, final_to: start, floor: start.minus(delays.horizon), coverage: Coverage::default() }
    }

    /// Its watermarks.
    pub const fn marks(&self) -> Marks {
        Marks { complete_to: self.complete_to, final_to: self.final_to }
    }

    /// Moves the watermarks after `read` was read to its last page by a read begun at `begun`.
    ///
    /// A watermark only moves on from where it is: a read that starts beyond it says nothing of what lies
    /// between, nor does one that was begun later than the read of what lies between.
    ///
    /// ```text
    ///   final_to                complete_to
    ///      │   first read, begun at t   │ second read, begun later
    ///      [──────────────────────┊─────)[──────────────)      ┊ t − settle − overlap: final so far,
    ///                             ┊                              whatever the second read sees
    /// ```
    pub fn advance(&mut self, read: Window, begun: UtcMillis, delays: &Delays) {
        self.reach(&Reach::of(read, begun, delays), delays);
    }

    /// The same, where it is known how far the watermarks would move.
    pub fn reach(&mut self, reach: &Reach, delays: &Delays) {
        let mut marks = self.marks();
        marks.reach(reach);
        if marks.complete_to > self.complete_to {
            self.coverage.add(Window::new(self.final_to, marks.complete_to));
        }
        (self.complete_to, self.final_to) = (marks.complete_to, marks.final_to);
        self.floor = self.floor.max(self.final_to.minus(delays.horizon));
    }
}

/// The two watermarks alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// As [`Progress::complete_to`].
    pub complete_to: UtcMillis,
    /// As [`Progress::final_to`].
    pub final_to: UtcMillis,
}

impl Marks {
    /// Both at the same instant.
    pub const fn at(start: UtcMillis) -> Self {
        Self { complete_to: start, final_to: start }
    }

    /// Moves them on, each if it lies in what was read.
    pub fn reach(&mut self, reach: &Reach) {
        if reach.from <= self.complete_to {
            self.complete_to = self.complete_to.max(reach.complete_to);
        }
        if reach.from <= self.final_to || hooks::is_mutant(Mutant::FirstReadIsFinal) {
            self.final_to = self.final_to.max(reach.final_to);
        }
    }
}

/// How far a read moves the watermarks of a unit, if they have come to its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// The beginning of what was read.
    pub from: UtcMillis,
    /// Up to here it was read once after the settle delay.
    pub complete_to: UtcMillis,
    /// Up to here it was read once after settle and overlap.
    pub final_to: UtcMillis,
}

impl Reach {
    /// Of a window that was read to its last page by a read begun at `begun`.
    pub fn of(read: Window, begun: UtcMillis, delays: &Delays) -> Self {
        let settled = begun.minus(delays.settle);
        let (complete_to, final_to) = (read.end.min(settled), read.end.min(settled.minus(delays.overlap)));
        Self { from: read.start, complete_to, final_to }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAYS: Delays = Delays {
        settle: Duration::from_secs(60),
        overlap: Duration::from_secs(1800),
        horizon: Duration::from_secs(86_400),
    };

    fn at(seconds: i64) -> UtcMillis {
        UtcMillis::new(seconds * 1000)
    }

    #[test]
    fn a_fresh_window_is_complete_after_settle_and_final_after_overlap() {
        let mut progress = Progress::starting_at(at(100_000), &DELAYS);
        progress.advance(Window::new(at(100_000), at(103_000)), at(103_001), &DELAYS);
        assert_eq!(progress.complete_to, at(102_941));
        assert_eq!(progress.final_to, at(101_141));
        assert_eq!(progress.floor, at(101_141 - 86_400));
        assert_eq!(progress.coverage.windows(), [Window::new(at(100_000), at(102_941))]);
    }

    #[test]
    fn an_old_window_is_final_at_once() {
        let mut progress = Progress::starting_at(at(0), &DELAYS);
        progress.advance(Window::new(at(0), at(3600)), at(1_000_000), &DELAYS);
        assert_eq!((progress.complete_to, progress.final_to), (at(3600), at(3600)));
    }

    #[test]
    fn a_later_read_makes_nothing_final_that_an_earlier_one_saw() {
        let mut progress = Progress::starting_at(at(0), &DELAYS);
        progress.advance(Window::new(at(0), at(10_000)), at(10_100), &DELAYS);
        assert_eq!(progress.final_to, at(10_100 - 1_860));
        progress.advance(Window::new(at(10_000), at(10_010)), at(11_000), &DELAYS);
        assert_eq!(progress.complete_to, at(10_010));
        assert_eq!(progress.final_to, at(10_100 - 1_860), "the first read was begun before its legs were due");
    }

    #[test]
    fn a_read_beyond_a_hole_moves_nothing() {
        let mut progress = Progress::starting_at(at(0), &DELAYS);
        let before = progress.clone();
        progress.advance(Window::new(at(3_600), at(7_200)), at(100_000), &DELAYS);
        assert_eq!(progress, before);
    }

    #[test]
    fn nothing_moves_backwards_when_the_clock_does() {
        let mut progress = Progress::starting_at(at(0), &DELAYS);
        progress.advance(Window::new(at(0), at(9_000)), at(10_000), &DELAYS);
        let before = progress.clone();
        progress.advance(Window::new(before.final_to, at(9_000)), at(5_000), &DELAYS);
        assert_eq!(progress, before);
    }
}
