//! The plans of polls, sweeps and backfills: which windows are read.
//!
//! A poll is the window from the final watermark to the bound, cut into pieces, oldest first.
//!
//! ```text
//!   final_to                                              bound
//!      [── max_window ──)[── max_window ──)[── the rest ────)
//!       catch-up          catch-up          poll
//! ```

use std::time::Duration;

use super::leg::How;
use super::time::{UtcMillis, Window};
use super::watermark::Progress;

/// One window of a poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// What is read.
    pub window: Window,
    /// Newest or older.
    pub how: How,
}

/// A poll of one unit: which pieces are left.
///
/// A piece that could not be read to its end leaves a hole; the pieces behind it are still read and
/// published, so that new legs keep flowing, but the watermarks stay in front of the hole
/// (see [`Progress::advance`]).
#[derive(Clone, Debug)]
pub struct Cycle {
    next_start: UtcMillis,
    bound: UtcMillis,
    window_max: Duration,
}

impl Cycle {
    /// Plans a poll up to `bound`, the first instant that is not asked for.
    pub fn plan(progress: &Progress, bound: UtcMillis, window_max: Duration) -> Self {
        Self { next_start: progress.final_to, bound, window_max }
    }
}

impl Iterator for Cycle {
    type Item = Piece;

    /// The next piece to read, `None` when the poll is through.
    fn next(&mut self) -> Option<Piece> {
        if self.bound <= self.next_start {
            return None;
        }
        let end = self.next_start.plus(self.window_max).min(self.bound);
        let window = Window::new(self.next_start, end);
        self.next_start = end;
        Some(Piece { window, how: if end == self.bound { How::Poll } else { How::CatchUp } })
    }
}

/// A slower re-read of what polls have read for the last time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// From the beginning of one to that of the next.
    pub every: Duration,
    /// How far before the final watermark it begins.
    pub lookback: Duration,
}

/// Of the sweeps that are due at `now` the one that reaches furthest; `last` says when each was last done.
pub fn next_sweep(sweeps: &[Sweep], last: impl Fn(&Sweep) -> UtcMillis, now: UtcMillis) -> Option<Sweep> {
    // A clock that was set back must not keep a sweep from ever being due again.
    let is_due = |sweep: &&Sweep| last(sweep).plus(sweep.every) <= now || now < last(sweep);
    sweeps.iter().filter(is_due).max_by_key(|sweep| sweep.lookback).copied()
}

/// From where on a window can be read again, and everything in the margin of its query is still remembered.
pub fn remembered_from(progress: &Progress) -> UtcMillis {
    // The margin is a second; near a repeated hour rows without a time are left out, counted.
    progress.floor.plus(Duration::from_secs(2))
}

/// The windows of a sweep, newest first: what is covered between `lookback` before the final watermark and that
/// itself, as far as identities are remembered; cut at whole hours and to `window_max`.
pub fn sweep_pieces(progress: &Progress, lookback: Duration, window_max: Duration) -> Vec<Piece> {
    let end = progress.final_to;
    let start = end.minus(lookback).max(remembered_from(progress)).floor_second();
    let mut pieces = Vec::new();
    for covered in progress.coverage.windows() {
        let mut from = covered.start.max(start);
        let end = covered.end.min(end);
        while from < end {
            let to = next_hour(from).min(from.plus(window_max)).min(end);
            pieces.push(Piece { window: Window::new(from, to), how: How::Sweep });
            from = to;
        }
    }
    pieces.reverse();
    pieces
}

/// What a backfill of `asked` has still to read, oldest first: what is neither covered nor still read by polls.
pub fn backfill_holes(asked: Window, progress: &Progress) -> Vec<Window> {
    let end = asked.end.min(progress.final_to);
    if end <= asked.start { Vec::new() } else { progress.coverage.holes(Window::new(asked.start, end)) }
}

fn next_hour(at: UtcMillis) -> UtcMillis {
    const HOUR_MS: i64 = 3_600_000;
    UtcMillis::new((at.as_millis().div_euclid(HOUR_MS) + 1) * HOUR_MS)
}

/// The first instant that a poll begun at `now` does not ask for: the current second may still be filling.
pub fn bound(now: UtcMillis) -> UtcMillis {
    now.floor_second().minus(Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::super::watermark::Delays;
    use super::*;
    use proptest::prelude::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const DELAYS: Delays = Delays {
        settle: Duration::from_secs(60),
        overlap: Duration::from_secs(1800),
        horizon: Duration::from_secs(86_400),
    };

    fn at(seconds: i64) -> UtcMillis {
        UtcMillis::new(seconds * 1000)
    }

    #[test]
    fn only_the_newest_piece_is_a_poll() {
        let progress = Progress::starting_at(at(0), &DELAYS);
        let cycle = Cycle::plan(&progress, at(9000), HOUR);
        let pieces: Vec<Piece> = cycle.collect();
        assert_eq!(
            pieces,
            [
                Piece { window: Window::new(at(0), at(3600)), how: How::CatchUp },
                Piece { window: Window::new(at(3600), at(7200)), how: How::CatchUp },
                Piece { window: Window::new(at(7200), at(9000)), how: How::Poll },
            ]
        );
    }

    #[test]
    fn a_bound_behind_the_watermark_asks_for_nothing() {
        let progress = Progress::starting_at(at(100), &DELAYS);
        assert_eq!(Cycle::plan(&progress, at(100), HOUR).next(), None);
        assert_eq!(Cycle::plan(&progress, at(50), HOUR).next(), None);
    }

    #[test]
    fn of_the_sweeps_that_are_due_the_longest_is_done() {
        let hourly = Sweep { every: HOUR, lookback: HOUR * 6 };
        let daily = Sweep { every: HOUR * 24, lookback: HOUR * 24 };
        let next = |last_hourly: i64, last_daily: i64, now: i64| {
            let last = |sweep: &Sweep| at(if *sweep == hourly { last_hourly } else { last_daily });
            next_sweep(&[hourly, daily], last, at(now))
        };
        assert_eq!(next(0, 0, 3599), None);
        assert_eq!(next(0, 0, 3600), Some(hourly));
        assert_eq!(next(80_000, 0, 86_400), Some(daily));
        assert_eq!(next(90_000, 90_000, 80_000), Some(daily), "the clock was set back");
    }

    #[test]
    fn a_sweep_is_cut_at_hours_and_stays_where_it_is_covered_and_remembered() {
        let mut progress = Progress::starting_at(at(5000), &DELAYS);
        progress.coverage.add(Window::new(at(0), at(1000)));
        progress.advance(Window::new(at(5000), at(20_000)), at(20_000), &DELAYS);
        let final_to = 20_000 - 60 - 1800;
        assert_eq!(progress.final_to, at(final_to));
        let pieces = sweep_pieces(&progress, HOUR * 5, HOUR);
        let windows: Vec<(i64, i64)> = pieces
            .iter()
            .map(|piece| (piece.window.start.as_millis() / 1000, piece.window.end.as_millis() / 1000))
            .collect();
        let hours = [(18_000, final_to), (14_400, 18_000), (10_800, 14_400), (7_200, 10_800), (5_000, 7_200)];
        assert_eq!(windows, [hours.as_slice(), &[(140, 1000)]].concat());
    }

    proptest! {
        /// Every instant that is covered, remembered and final is in exactly one piece.
        #[test]
        fn a_sweep_reads_what_is_covered_once(
            covered in prop::collection::vec((0i64..40_000, 0i64..9_000), 0..5),
            final_to in 0i64..50_000,
            floor in -10_000i64..50_000,
            lookback_s in 1u64..50_000,
            window_max_s in 60u64..7_200,
        ) {
            let coverage = covered.into_iter().map(|(start, length)| Window::new(at(start), at(start + length))).collect();
            let progress = Progress { complete_to: at(final_to), final_to: at(final_to), floor: at(floor), coverage };
            let window_max = Duration::from_secs(window_max_s);
            let pieces = sweep_pieces(&progress, Duration::from_secs(lookback_s), window_max);
            for piece in &pieces {
                prop_assert!(!piece.window.is_empty() && piece.window.end.since(piece.window.start) <= window_max.min(HOUR));
            }
            let start = (final_to - lookback_s as i64).max(floor + 2);
            for second in (0..50_000).step_by(97).map(at) {
                let times = pieces.iter().filter(|piece| piece.window.contains(second)).count();
                let is_wanted = progress.coverage.contains(second) && at(start) <= second && second < at(final_to);
                prop_assert_eq!(times, usize::from(is_wanted));
            }
        }

        /// Whichever pieces fail, in however many cycles, every instant below `complete_to` lay in a piece that was read.
        #[test]
        fn no_hole_is_ever_declared_read(
            cycles in prop::collection::vec((1i64..20_000, prop::collection::vec(any::<bool>(), 1..8)), 1..10),
            window_max_s in 60u64..7200,
        ) {
            let mut progress = Progress::starting_at(at(0), &DELAYS);
            let mut read = super::super::coverage::Coverage::default();
            let mut now = 0;
            for (waited, outcomes) in cycles {
                now += waited;
                let mut outcomes = outcomes.into_iter().cycle();
                for piece in Cycle::plan(&progress, bound(at(now)), Duration::from_secs(window_max_s)) {
                    if outcomes.next().unwrap() {
                        read.add(piece.window);
                        let before = progress.clone();
                        progress.advance(piece.window, at(now), &DELAYS);
                        prop_assert!(progress.final_to >= before.final_to && progress.complete_to >= before.complete_to);
                    }
                }
                prop_assert!(progress.final_to <= progress.complete_to);
                let whole = Window::new(at(0), progress.complete_to);
                prop_assert!(whole.is_empty() || read.windows().first().is_some_and(|first| first.start <= whole.start && whole.end <= first.end));
                let expected: &[Window] = if whole.is_empty() { &[] } else { &[whole] };
                prop_assert_eq!(progress.coverage.windows(), expected);
            }
        }
    }
}
