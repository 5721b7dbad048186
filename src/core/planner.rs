//! The plans of polls, sweeps and backfills: which windows are read.
//!
//! A live poll reads what is new first, and whole, so that it is published in order; then the overlap, in which only what
//! the API shows late is new. A unit that is behind reads everything in one go, oldest first.
//!
//! ```text
//!                 final_to            complete_to            bound
//!   live              [─── overlap ──────)[──── new, first ────)
//!   behind            [── window ──)[── window ──)[── window ──)
//! ```
//!
//! How long a window is follows from how many rows it has: see [`WindowLength`].

use std::collections::VecDeque;
use std::time::Duration;

use super::leg::How;
use super::time::{UtcMillis, Window};
use super::watermark::{Delays, Marks, Progress};
use super::window_length::WindowLength;
use crate::hooks::{self, Mutant};

/// One window of a poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// What is read.
    pub window: Window,
    /// Newest or older.
    pub how: How,
}

/// A poll of one unit: which windows are left.
///
/// A window that is not believed is held, and the windows behind it are still read and published, so that new legs keep
/// flowing (see [`super::course`]).
#[derive(Clone, Debug)]
pub struct Cycle {
    /// What is read, in this order, each from its beginning.
    spans: VecDeque<Span>,
    /// The overlap, where it is read only if what is new shows no leg.
    unplanned: Option<Window>,
    /// Whether the newest window is read whole.
    is_whole: bool,
    length: WindowLength,
}

/// What a live poll reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LiveReads {
    /// What is new and the overlap at once: they are likely to be one page.
    Together,
    /// What is new, then the overlap.
    Apart,
    /// What is new. The overlap is read if that shows no leg: quiet phones, or an API that shows nothing.
    New,
}

/// A span of time that is read in one window or more.
#[derive(Clone, Copy, Debug)]
struct Span {
    left: Window,
    /// Whether its windows are read whole before they are published; else they are published page by page.
    is_whole: bool,
}

impl Cycle {
    /// Plans a live poll up to `bound`, the first instant that is not asked for.
    pub fn live(newest: Marks, bound: UtcMillis, reads: LiveReads, length: WindowLength) -> Self {
        let Marks { complete_to, final_to } = newest;
        let new = (Window::new(complete_to, bound), true);
        let overlap = Window::new(final_to, complete_to.min(bound));
        match reads {
            LiveReads::Together => Self::of([(Window::new(final_to, bound), true)], length),
            LiveReads::Apart => Self::of([new, (overlap, false)], length),
            LiveReads::New => {
                Self { unplanned: (overlap.start < overlap.end).then_some(overlap), ..Self::of([new], length) }
            }
        }
    }

    /// Plans a poll of a unit that is behind: everything from the final watermark on, oldest first.
    pub fn behind(newest: Marks, bound: UtcMillis, delays: &Delays, length: WindowLength) -> Self {
        // A page of the journal that spans it would say nothing of how many legs the overlap is known to have.
        if hooks::is_mutant(Mutant::FromCompleteTo) {
            return Self::live(newest, bound, LiveReads::Apart, length);
        }
        let final_to = newest.final_to;
        let edge = bound.minus(delays.settle).minus(delays.overlap).max(final_to);
        Self::of([(Window::new(final_to, edge), true), (Window::new(edge, bound), true)], length)
    }

    /// The same poll, which then reads once more what is held, and what lies before the first hold and is not final.
    pub fn with_holds(mut self, due: Vec<Window>, before: Option<Window>) -> Self {
        let due = due.into_iter().map(|left| Span { left, is_whole: true });
        let before = before.into_iter().map(|left| Span { left, is_whole: false });
        let overlap = self.spans.iter().position(|span| !span.is_whole).unwrap_or(self.spans.len());
        let overlap = self.spans.split_off(overlap);
        self.spans.extend(due.chain(overlap).chain(before));
        self
    }

    fn of(spans: impl IntoIterator<Item = (Window, bool)>, length: WindowLength) -> Self {
        let spans = spans.into_iter().filter(|(left, _)| left.start < left.end);
        Self {
            spans: spans.map(|(left, is_whole)| Span { left, is_whole }).collect(),
            unplanned: None,
            is_whole: true,
            length,
        }
    }

    /// Whether the newest window is read whole before its first row is published; else it is published page by page.
    pub const fn is_read_whole(&self) -> bool {
        self.is_whole
    }

    /// How long the next window is.
    pub const fn length(&mut self) -> &mut WindowLength {
        &mut self.length
    }

    /// Whether windows are left that are published page by page, or may be read after all.
    pub fn has_overlap_left(&self) -> bool {
        self.unplanned.is_some() || self.spans.iter().any(|span| !span.is_whole)
    }

    /// Has the overlap read after all; `false` where nothing is left of it.
    pub fn add_overlap(&mut self) -> bool {
        let overlap = self.unplanned.take().map(|left| Span { left, is_whole: false });
        self.spans.extend(overlap);
        overlap.is_some()
    }

    /// Takes back the newest window, which was to be read whole: it is read in shorter ones.
    pub fn take_back(&mut self, window: Window) {
        match self.spans.front_mut().filter(|span| span.left.start == window.end && span.is_whole) {
            Some(span) => span.left.start = window.start,
            None => self.spans.push_front(Span { left: window, is_whole: true }),
        }
    }
}

impl Iterator for Cycle {
    type Item = Piece;

    /// The next window to read, `None` when the poll is through.
    fn next(&mut self) -> Option<Piece> {
        let Span { left, is_whole } = self.spans.front_mut()?;
        let length = if *is_whole { self.length.next() } else { self.length.max() };
        let window = Window::new(left.start, left.start.plus(length).min(left.end));
        self.is_whole = *is_whole;
        left.start = window.end;
        if left.start >= left.end {
            self.spans.pop_front();
        }
        // What is newer than this one is still to be read.
        let is_behind = self.spans.iter().any(|span| window.end <= span.left.start);
        Some(Piece { window, how: if is_behind { How::CatchUp } else { How::Poll } })
    }
}

/// How long a catch-up over `span` will still take, that has come to `read_to` after `elapsed`: as fast as it has come so far.
/// `None` while nobody can say.
pub fn time_left(span: Window, read_to: UtcMillis, elapsed: Duration) -> Option<Duration> {
    let (covered, left) = (read_to.since(span.start), span.end.since(read_to));
    let seconds = elapsed.as_secs_f64() * left.as_secs_f64() / covered.as_secs_f64();
    (covered > Duration::ZERO && seconds.is_finite()).then(|| Duration::try_from_secs_f64(seconds).ok()).flatten()
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
    use super::super::window_length::WINDOW_ROWS;
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

    fn seconds(cycle: Cycle) -> Vec<(i64, i64, How)> {
        let second = |at: UtcMillis| at.as_millis() / 1_000;
        cycle.map(|Piece { window, how }| (second(window.start), second(window.end), how)).collect()
    }

    /// From which second on each window is, and whether it is read whole.
    fn wholes(mut cycle: Cycle) -> Vec<(i64, bool)> {
        let mut wholes = Vec::new();
        while let Some(piece) = cycle.next() {
            wholes.push((piece.window.start.as_millis() / 1_000, cycle.is_read_whole()));
        }
        wholes
    }

    #[test]
    fn a_unit_that_is_behind_reads_everything_oldest_first_and_no_window_spans_the_beginning_of_the_overlap() {
        let progress = Progress::starting_at(at(0), &DELAYS);
        let cycle = Cycle::behind(progress.marks(), at(9000), &DELAYS, WindowLength::new(HOUR));
        let expected = [(0, 3600, How::CatchUp), (3600, 7140, How::CatchUp), (7140, 9000, How::Poll)];
        assert_eq!(seconds(cycle), expected);
    }

    #[test]
    fn a_live_poll_reads_what_is_new_first_and_whole() {
        let progress = Progress { complete_to: at(8000), ..Progress::starting_at(at(6200), &DELAYS) };
        let live = |reads| Cycle::live(progress.marks(), at(8120), reads, WindowLength::new(HOUR));
        let (apart, together) = (|| live(LiveReads::Apart), || live(LiveReads::Together));
        assert_eq!(wholes(apart()), [(8000, true), (6200, false)]);
        assert_eq!(seconds(apart()), [(8000, 8120, How::Poll), (6200, 8000, How::Poll)]);
        assert!(apart().has_overlap_left() && !together().has_overlap_left());
        assert_eq!((wholes(together()), seconds(together())), (vec![(6200, true)], vec![(6200, 8120, How::Poll)]));
    }

    #[test]
    fn the_overlap_is_read_after_all_where_what_is_new_shows_no_leg() {
        let newest = Marks { complete_to: at(8000), final_to: at(6200) };
        let mut cycle = Cycle::live(newest, at(8120), LiveReads::New, WindowLength::new(HOUR));
        assert_eq!(wholes(cycle.clone()), [(8000, true)]);
        cycle.next();
        assert!(cycle.has_overlap_left(), "what is new waits for it where it shows no leg");
        assert!(cycle.add_overlap() && !cycle.add_overlap());
        assert_eq!(wholes(cycle), [(6200, false)]);
        let mut at_the_start = Cycle::live(Marks::at(at(8000)), at(8120), LiveReads::New, WindowLength::new(HOUR));
        assert!(!at_the_start.has_overlap_left() && !at_the_start.add_overlap());
    }

    #[test]
    fn what_is_held_is_read_again_behind_what_is_new_and_before_the_overlap() {
        let newest = Marks { complete_to: at(8000), final_to: at(6200) };
        let window = |from, to| Window::new(at(from), at(to));
        let cycle = Cycle::live(newest, at(8120), LiveReads::Apart, WindowLength::new(HOUR))
            .with_holds(vec![window(5000, 5100), window(3000, 3100)], Some(window(4900, 5000)));
        let expected = [(8000, true), (5000, true), (3000, true), (6200, false), (4900, false)];
        assert_eq!(wholes(cycle), expected);
    }

    #[test]
    fn a_bound_behind_the_watermark_asks_for_nothing() {
        let progress = Progress::starting_at(at(100), &DELAYS);
        for bound in [at(100), at(50)] {
            assert_eq!(Cycle::behind(progress.marks(), bound, &DELAYS, WindowLength::new(HOUR)).next(), None);
            assert_eq!(Cycle::live(progress.marks(), bound, LiveReads::Apart, WindowLength::new(HOUR)).next(), None);
        }
    }

    #[test]
    fn a_window_of_too_many_rows_is_cut_in_proportion_and_a_sparse_one_followed_by_a_longer_one() {
        let progress = Progress::starting_at(at(0), &DELAYS);
        let mut cycle = Cycle::behind(progress.marks(), at(500_000), &DELAYS, WindowLength::new(HOUR * 100));
        let first = cycle.next().unwrap().window;
        assert_eq!(first, Window::new(at(0), at(360_000)));
        cycle.take_back(first);
        cycle.length().on_too_many(first, 100_000, 5_000);
        let first = cycle.next().unwrap().window;
        assert_eq!(first, Window::new(at(0), at(14_400)));
        cycle.length().on_read(first, 10, 5_000);
        assert_eq!(cycle.next().unwrap().window, Window::new(at(14_400), at(14_400 * 5)));
    }

    /// Catches up over a span, a second a request, when there are so many rows a second; gives after each window how long
    /// it took and how long it would still take.
    fn catch_up(span: Window, rows_per_second: impl Fn(UtcMillis) -> f64) -> Vec<(f64, Option<Duration>)> {
        const PAGE_ROWS: u64 = 1_000;
        let max = HOUR * 24 * 31;
        let mut cycle = Cycle::behind(Marks::at(span.start), span.end, &DELAYS, WindowLength::new(max));
        let (mut requests, mut course) = (0u64, Vec::new());
        while let Some(Piece { window, .. }) = cycle.next() {
            let rows = (rows_per_second(window.start) * window.length().as_secs_f64()) as u64;
            if rows > WINDOW_ROWS && cycle.length().on_too_many(window, rows, WINDOW_ROWS) {
                requests += 1;
                cycle.take_back(window);
                continue;
            }
            requests += 1 + rows / PAGE_ROWS;
            cycle.length().on_read(window, rows, WINDOW_ROWS);
            course.push((requests as f64, time_left(span, window.end, Duration::from_secs(requests))));
        }
        course
    }

    #[test]
    fn how_long_a_catch_up_still_takes_is_known_within_a_factor_of_two() {
        let days = |days: i64| Window::new(at(0), at(days * 86_400));
        let office = |at: UtcMillis| if (at.as_millis() / 3_600_000) % 24 < 12 { 3.0 } else { 0.1 };
        for course in [catch_up(days(3), |_| 2.0), catch_up(days(730), |_| 90.0 / 63e6), catch_up(days(60), office)] {
            let all = course.last().unwrap().0;
            for share in [0.25, 0.5, 0.75] {
                let (elapsed, left) = course.iter().find(|(elapsed, _)| *elapsed >= all * share).unwrap();
                let (left, true_left) = (left.unwrap().as_secs_f64(), all - elapsed);
                assert!(
                    left <= true_left * 2.0 + 1.0 && true_left <= left * 2.0 + 1.0,
                    "{share}: {left} for {true_left} of {all}"
                );
            }
        }
        assert_eq!(time_left(days(3), at(0), HOUR), None);
    }

    #[test]
    fn two_years_with_ninety_legs_take_few_requests() {
        let two_years = Window::new(at(0), at(730 * 86_400));
        let requests = catch_up(two_years, |_| 90.0 / 63e6).last().unwrap().0;
        assert!(requests <= 60.0, "{requests}");
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
                let length = WindowLength::new(Duration::from_secs(window_max_s));
                let cycle = if outcomes.next().unwrap() {
                    Cycle::behind(progress.marks(), bound(at(now)), &DELAYS, length)
                } else {
                    let reads = if outcomes.next().unwrap() { LiveReads::Together } else { LiveReads::Apart };
                    Cycle::live(progress.marks(), bound(at(now)), reads, length)
                };
                for piece in cycle {
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
