//! Coverage: the set of half-open disconnect-time intervals that were read and published completely.
//!
//! Kept as sorted, disjoint, non-touching windows, so that equal sets are equal values.

use serde::{Deserialize, Serialize};

use super::time::{UtcMillis, Window};

/// A set of instants as sorted disjoint windows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage(Vec<Window>);

impl Coverage {
    /// The set as windows, oldest first.
    pub fn windows(&self) -> &[Window] {
        &self.0
    }

    /// Whether `instant` is in the set.
    pub fn contains(&self, instant: UtcMillis) -> bool {
        let after = self.0.partition_point(|window| window.start <= instant);
        after > 0 && self.0[after - 1].contains(instant)
    }

    /// Whether every instant from `first` to `last`, both included, is in the set.
    pub fn spans(&self, first: UtcMillis, last: UtcMillis) -> bool {
        let after = self.0.partition_point(|window| window.start <= first);
        after > 0 && self.0[after - 1].contains(first) && self.0[after - 1].contains(last)
    }

    /// What of `window` is not in the set, oldest first.
    pub fn holes(&self, window: Window) -> Vec<Window> {
        let mut holes = Vec::new();
        let mut from = window.start;
        for known in self.0.iter().filter(|known| window.start < known.end && known.start < window.end) {
            if from < known.start {
                holes.push(Window::new(from, known.start));
            }
            from = known.end;
        }
        if from < window.end {
            holes.push(Window::new(from, window.end));
        }
        holes
    }

    /// Takes everything from `end` on out of the set.
    pub fn cut(&mut self, end: UtcMillis) {
        self.0.retain(|window| window.start < end);
        if let Some(last) = self.0.last_mut() {
            last.end = last.end.min(end);
        }
    }

    /// Adds a window, merging what it overlaps or touches.
    ///
    /// ```text
    ///   before   [──)   [───)      [──)
    ///   add          [────────)
    ///   after    [──)[────────)    [──)      touching ends merge too
    /// ```
    pub fn add(&mut self, window: Window) {
        if window.is_empty() {
            return;
        }
        let first = self.0.partition_point(|known| known.end < window.start);
        let last = self.0.partition_point(|known| known.start <= window.end);
        let merged = self.0[first..last]
            .iter()
            .fold(window, |sum, known| Window::new(sum.start.min(known.start), sum.end.max(known.end)));
        self.0.splice(first..last, [merged]);
    }
}

impl FromIterator<Window> for Coverage {
    fn from_iter<I: IntoIterator<Item = Window>>(windows: I) -> Self {
        let mut coverage = Self::default();
        windows.into_iter().for_each(|window| coverage.add(window));
        coverage
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn window(start: i64, end: i64) -> Window {
        Window::new(UtcMillis::new(start), UtcMillis::new(end))
    }

    proptest! {
        #[test]
        fn is_the_union_of_what_was_added(windows in prop::collection::vec((0i64..60, 0i64..60), 0..12)) {
            let windows: Vec<Window> = windows.into_iter().map(|(a, b)| window(a, b)).collect();
            let coverage: Coverage = windows.iter().copied().collect();
            for at in (0..60).map(UtcMillis::new) {
                prop_assert_eq!(coverage.contains(at), windows.iter().any(|window| window.contains(at)));
            }
            for first in 0..60 {
                for last in first..60 {
                    let all = (first..=last).all(|at| coverage.contains(UtcMillis::new(at)));
                    prop_assert_eq!(coverage.spans(UtcMillis::new(first), UtcMillis::new(last)), all);
                }
            }
            for pair in coverage.windows().windows(2) {
                prop_assert!(pair[0].end < pair[1].start, "sorted, disjoint and not touching");
            }
        }

        #[test]
        fn holes_are_what_is_not_covered(
            windows in prop::collection::vec((0i64..60, 0i64..60), 0..12), start in 0i64..60, end in 0i64..60,
        ) {
            let coverage: Coverage = windows.into_iter().map(|(a, b)| window(a, b)).collect();
            let asked = window(start, end);
            let holes = coverage.holes(asked);
            for at in (0..60).map(UtcMillis::new) {
                let is_hole = holes.iter().filter(|hole| hole.contains(at)).count();
                prop_assert_eq!(is_hole, usize::from(asked.contains(at) && !coverage.contains(at)));
            }
            prop_assert!(holes.iter().all(|hole| !hole.is_empty()));
        }

        #[test]
        fn nothing_is_left_from_a_cut_on(windows in prop::collection::vec((0i64..60, 0i64..60), 0..12), end in 0i64..60) {
            let coverage: Coverage = windows.into_iter().map(|(a, b)| window(a, b)).collect();
            let mut cut = coverage.clone();
            cut.cut(UtcMillis::new(end));
            for at in 0..60 {
                let instant = UtcMillis::new(at);
                prop_assert_eq!(cut.contains(instant), at < end && coverage.contains(instant));
            }
            prop_assert!(cut.windows().iter().all(|window| !window.is_empty()));
        }
    }
}
