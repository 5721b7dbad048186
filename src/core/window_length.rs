//! How long windows are: about as long as it takes to have the rows of one transaction.

use std::time::Duration;

use super::time::Window;

/// The shortest window: the API's bounds are whole seconds.
pub const SPAN_MIN: Duration = Duration::from_secs(1);

/// How long the next window of a unit is: about as long as has so many rows as one page of the journal.
#[derive(Clone, Copy, Debug)]
pub struct WindowLength {
    next: Duration,
    /// The longest that the source takes, as far as that is known.
    max: Duration,
    /// The longest that is ever asked for.
    longest: Duration,
    /// The newest window that had too many rows, and how many.
    cut: Option<(Window, u64)>,
    /// How many windows were read since the source has refused one for its length, or since a longer one was allowed again.
    good: u32,
    /// After so many of them a longer one is tried.
    good_wanted: u32,
    /// The longest that the source takes for sure, while a longer one is tried.
    sure: Option<Duration>,
}

/// After so many windows one of four times the length is tried again; after twice as many each time that this is refused.
const GOOD_WINDOWS: u32 = 10;

/// A source that takes longer windows again is noticed after so many at the latest.
const GOOD_WINDOWS_MAX: u32 = 320;

/// So many rows a window is to have at most: one that is cut to four fifths of it goes into one transaction.
pub const WINDOW_ROWS: u64 = 6_000;

/// A window is this much longer than the one before at the most.
const GROWTH_MAX: u32 = 4;

impl WindowLength {
    /// Begins with the longest window that is asked for.
    pub const fn new(longest: Duration) -> Self {
        let good_wanted = GOOD_WINDOWS;
        Self { next: longest, max: longest, longest, cut: None, good: 0, good_wanted, sure: None }
    }

    /// The length of the next window.
    pub const fn next(&self) -> Duration {
        self.next
    }

    /// The longest that the source takes, as far as that is known.
    pub const fn max(&self) -> Duration {
        self.max
    }

    /// Takes note of a window that has more rows than it is to have, so that it is read in shorter ones; `false` where
    /// that is of no use: one of half the length has hardly fewer.
    pub fn on_too_many(&mut self, window: Window, rows: u64, rows_wanted: u64) -> bool {
        let longer = self.cut.replace((window, rows)).filter(|(longer, _)| longer.start == window.start);
        let is_useless = |(longer, before): (Window, u64)| {
            window.length() * 2 <= longer.length() && rows.saturating_mul(4) > before.saturating_mul(3)
        };
        if longer.is_some_and(is_useless) {
            return false;
        }
        self.next = in_proportion(window, rows, rows_wanted).min(window.length() / 2).max(SPAN_MIN);
        true
    }

    /// Takes note of a window that is to be read in halves.
    pub fn halve(&mut self, window: Window) {
        self.next = (window.length() / 2).max(SPAN_MIN);
    }

    /// Takes note of a window that was read, with so many rows.
    pub fn on_read(&mut self, window: Window, rows: u64, rows_wanted: u64) {
        if self.sure.is_some_and(|sure| window.length() > sure) {
            (self.good_wanted, self.sure) = (GOOD_WINDOWS, None);
        }
        self.good += 1;
        if self.good >= self.good_wanted && self.max < self.longest {
            self.sure.get_or_insert(self.max);
            (self.good, self.max) = (0, self.max.saturating_mul(GROWTH_MAX).min(self.longest));
        }
        let longest = window.length().max(self.next).saturating_mul(GROWTH_MAX);
        self.next = in_proportion(window, rows, rows_wanted).min(longest).min(self.max).max(SPAN_MIN);
    }

    /// Takes note of a window that the source refuses for its length.
    pub fn on_refused(&mut self, window: Window) {
        self.good = 0;
        if self.sure.take().is_some() {
            self.good_wanted = (self.good_wanted * 2).min(GOOD_WINDOWS_MAX);
        }
        self.max = (window.length() / GROWTH_MAX).max(SPAN_MIN);
        self.next = self.next.min(self.max);
    }
}

/// How long a window has so many rows as are wanted, with some room; in whole seconds.
fn in_proportion(window: Window, rows: u64, rows_wanted: u64) -> Duration {
    let seconds = u128::from(window.length().as_secs()) * u128::from(rows_wanted) * 4 / (u128::from(rows.max(1)) * 5);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::super::time::UtcMillis;
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn at(seconds: i64) -> UtcMillis {
        UtcMillis::new(seconds * 1_000)
    }

    #[test]
    fn a_window_that_has_hardly_fewer_rows_when_it_is_short_is_not_cut_again() {
        let mut length = WindowLength::new(HOUR);
        let window = |length: &WindowLength| Window::new(at(0), at(0).plus(length.next()));
        assert!(length.on_too_many(window(&length), 10_000, 5_000));
        assert!(!length.on_too_many(window(&length), 9_000, 5_000), "the source does not look at the bounds");
        assert!(length.on_too_many(Window::new(at(9), at(99)), 9_000, 5_000), "another window");
    }

    #[test]
    fn a_length_that_the_source_refuses_is_tried_again_after_ten_good_windows() {
        let mut length = WindowLength::new(HOUR * 24);
        let window = |length: &WindowLength| Window::new(at(0), at(0).plus(length.next()));
        length.on_refused(window(&length));
        assert_eq!(length.next(), HOUR * 6);
        for _ in 0..9 {
            length.on_read(window(&length), 1, 5_000);
            assert_eq!(length.next(), HOUR * 6);
        }
        length.on_read(window(&length), 1, 5_000);
        assert_eq!(length.next(), HOUR * 24);
        let (mut refused, mut takes) = (0, HOUR * 6);
        for read in 0..2_000 {
            if read == 1_500 {
                takes = HOUR * 24;
            }
            while length.next() > takes {
                refused += 1;
                length.on_refused(window(&length));
            }
            length.on_read(window(&length), 1, 5_000);
        }
        assert!((5..15).contains(&refused), "ever less often: {refused} times");
        assert_eq!(length.next(), HOUR * 24, "a source that takes longer windows again is noticed");
        assert_eq!(length.good_wanted, GOOD_WINDOWS);
    }
}
