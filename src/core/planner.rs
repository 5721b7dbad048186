//! A poll's plan: the window from the final watermark to the bound, cut into pieces, oldest first.
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

    /// The next piece to read, `None` when the poll is through.
    pub fn next_piece(&mut self) -> Option<Piece> {
        if self.bound <= self.next_start {
            return None;
        }
        let end = self.next_start.plus(self.window_max).min(self.bound);
        let window = Window::new(self.next_start, end);
        self.next_start = end;
        Some(Piece { window, how: if end == self.bound { How::Poll } else { How::CatchUp } })
    }
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
        let mut cycle = Cycle::plan(&progress, at(9000), HOUR);
        let pieces: Vec<Piece> = std::iter::from_fn(|| cycle.next_piece()).collect();
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
        assert_eq!(Cycle::plan(&progress, at(100), HOUR).next_piece(), None);
        assert_eq!(Cycle::plan(&progress, at(50), HOUR).next_piece(), None);
    }

    proptest! {
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
                let mut cycle = Cycle::plan(&progress, bound(at(now)), Duration::from_secs(window_max_s));
                let mut outcomes = outcomes.into_iter().cycle();
                while let Some(piece) = cycle.next_piece() {
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
