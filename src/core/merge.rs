//! The merge of units that catch up: which rows of which unit come next.
//!
//! A partition carries the legs of all units, so units that are behind are published together, in the order of time.
//!
//! ```text
//!   dense    [───)[───)[──▶ read_to                       the front: below it every unit has been read
//!   middling [─────────────)[────────────▶ read_to
//!   sparse   [──────────────────────────────────────────▶ read_to
//!                      ┊ front
//!   published ◀────────┊ rows wait ────────────────────▶
//! ```
//!
//! Each unit has at most one window here. A window is done once all of it lies below the front and is published; its unit
//! reads the next one meanwhile. A unit that keeps the front for too long while others wait is left out, until it has
//! reached the front of the others.

use std::collections::BTreeMap;
use std::time::Duration;

use super::time::{UtcMillis, Window};

/// Rows of a window, oldest first.
pub trait SortedRows {
    /// The time of the first row; `None` when none is left.
    fn first_time(&self) -> Option<UtcMillis>;

    /// How many of the first rows, up to `max`, lie before `end`; before the end of time lie all.
    fn count_before(&self, end: UtcMillis, max: usize) -> usize;
}

/// Units that catch up, with windows of rows of the kind `R`.
#[derive(Debug)]
pub struct Merge<R> {
    members: BTreeMap<String, Member<R>>,
    /// Where the front is while others wait behind it, and since when.
    kept: Option<(UtcMillis, Duration)>,
}

#[derive(Debug)]
struct Member<R> {
    /// The end of what it has read.
    read_to: UtcMillis,
    waiting: Option<(Window, R)>,
    is_left_out: bool,
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Publish so many of the first rows of these units' windows, in one transaction.
    Publish(Vec<(String, usize)>),
    /// This unit's window is published.
    Done(String),
    /// Wait for another window, or until a unit is to be left out.
    Wait(Option<Duration>),
}

impl<R> Member<R> {
    /// Whether all of its window lies below the front, as far as that is its front, too.
    fn is_below(&self, front: UtcMillis) -> bool {
        self.waiting.as_ref().is_some_and(|(window, _)| self.is_left_out || window.end <= front)
    }
}

impl<R> Default for Merge<R> {
    fn default() -> Self {
        Self { members: BTreeMap::new(), kept: None }
    }
}

impl<R: SortedRows> Merge<R> {
    /// A unit takes part that is read from there on. One that does already stays as it is.
    pub fn join(&mut self, unit: &str, from: UtcMillis) {
        let member = || Member { read_to: from, waiting: None, is_left_out: false };
        self.members.entry(unit.to_owned()).or_insert_with(member);
    }

    /// A unit does not take part any more; what it has waiting is dropped.
    pub fn leave(&mut self, unit: &str) {
        self.members.remove(unit);
    }

    /// How many units take part.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// A unit has read a window. One that is not known takes part from now on.
    pub fn offer(&mut self, unit: &str, window: Window, rows: R) {
        self.join(unit, window.start);
        if let Some(member) = self.members.get_mut(unit) {
            member.read_to = member.read_to.max(window.end);
            member.waiting = Some((window, rows));
        }
    }

    /// A unit has read a window, and published it by itself.
    pub fn read(&mut self, unit: &str, window: Window) {
        if let Some(member) = self.members.get_mut(unit) {
            member.read_to = member.read_to.max(window.end);
        }
    }

    /// A unit cannot be read for a while: the others do not wait for it, until it has reached their front.
    pub fn leave_out(&mut self, unit: &str) {
        if let Some(member) = self.members.get_mut(unit) {
            member.is_left_out = true;
        }
    }

    /// The rows of a unit's window that are still to be published.
    pub fn rows(&mut self, unit: &str) -> Option<&mut R> {
        self.members.get_mut(unit).and_then(|member| member.waiting.as_mut()).map(|(_, rows)| rows)
    }

    /// Takes a unit's window away: it is published, or was given up.
    pub fn take(&mut self, unit: &str) -> Option<R> {
        self.members.get_mut(unit).and_then(|member| member.waiting.take()).map(|(_, rows)| rows)
    }

    /// What is to be done at `now`, of any clock that does not go back; a unit may keep the front for `patience`.
    pub fn step(&mut self, now: Duration, patience: Duration, rows_max: usize) -> Step {
        let front = self.front();
        for member in self.members.values_mut() {
            member.is_left_out &= member.read_to < front;
        }
        let front = self.front();
        let done = self.members.iter().find(|(_, member)| {
            let is_published = |(_, rows): &(Window, R)| rows.first_time().is_none();
            member.is_below(front) && member.waiting.as_ref().is_some_and(is_published)
        });
        if let Some((unit, _)) = done {
            return Step::Done(unit.clone());
        }
        let counts = self.counts(front, rows_max);
        if !counts.is_empty() {
            return Step::Publish(counts);
        }
        self.wait(now, patience, rows_max)
    }

    /// Whether all of a unit's window lies below the front.
    pub fn is_below_front(&self, unit: &str) -> bool {
        self.members.get(unit).is_some_and(|member| member.is_below(self.front()))
    }

    /// Below it every unit has been read that takes part and is not left out.
    fn front(&self) -> UtcMillis {
        let read_to = self.members.values().filter(|member| !member.is_left_out).map(|member| member.read_to);
        read_to.min().unwrap_or(UtcMillis::new(i64::MAX))
    }

    /// How many rows of each unit are the oldest `rows_max` below the front.
    fn counts(&self, front: UtcMillis, rows_max: usize) -> Vec<(String, usize)> {
        // A window ends where its last rows may be: what is no leg comes behind all legs, and with them.
        let end_of = |window: &Window| if window.end <= front { UtcMillis::new(i64::MAX) } else { front };
        let waiting = |end: UtcMillis| {
            self.members.iter().filter_map(move |(unit, member)| {
                let (window, rows) = member.waiting.as_ref()?;
                let end = if member.is_left_out { UtcMillis::new(i64::MAX) } else { end.min(end_of(window)) };
                let count = rows.count_before(end, rows_max);
                (count > 0).then(|| (unit.clone(), count))
            })
        };
        let all: Vec<(String, usize)> = waiting(UtcMillis::new(i64::MAX)).collect();
        if all.len() <= 1 || all.iter().map(|(_, count)| count).sum::<usize>() <= rows_max {
            return all;
        }
        // The greatest instant before which there are no more rows than go into one transaction.
        let times = || {
            self.members.values().filter_map(|member| member.waiting.as_ref()).filter_map(|(_, rows)| rows.first_time())
        };
        let (mut low, mut high) = (times().min().map_or(0, UtcMillis::as_millis), front.as_millis());
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            let rows: usize = waiting(UtcMillis::new(middle)).map(|(_, count)| count).sum();
            if rows <= rows_max { low = middle } else { high = middle }
        }
        let counts: Vec<(String, usize)> = waiting(UtcMillis::new(low)).collect();
        if !counts.is_empty() {
            return counts;
        }
        // More rows of the same instant than go into one transaction: unit after unit.
        waiting(UtcMillis::new(low + 1)).take(1).collect()
    }

    /// Whether units have kept the front for too long while others wait, and else for how much longer they may.
    fn wait(&mut self, now: Duration, patience: Duration, rows_max: usize) -> Step {
        let front = self.front();
        let is_waiting = self.members.values().any(|member| member.waiting.is_some());
        if !is_waiting || front == UtcMillis::new(i64::MAX) {
            self.kept = None;
            return Step::Wait(None);
        }
        let since = self.kept.filter(|(kept, _)| *kept == front).map_or(now, |(_, since)| since);
        let waited = now.saturating_sub(since);
        if waited < patience {
            self.kept = Some((front, since));
            return Step::Wait(Some(patience - waited));
        }
        self.kept = None;
        for member in self.members.values_mut().filter(|member| member.read_to == front) {
            member.is_left_out = true;
        }
        self.step(now, patience, rows_max)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(300);
    const MAX: UtcMillis = UtcMillis::new(i64::MAX);

    fn at(millis: i64) -> UtcMillis {
        UtcMillis::new(millis)
    }

    fn window(start: i64, end: i64) -> Window {
        Window::new(at(start), at(end))
    }

    impl SortedRows for Vec<i64> {
        fn first_time(&self) -> Option<UtcMillis> {
            self.first().copied().map(at)
        }

        fn count_before(&self, end: UtcMillis, max: usize) -> usize {
            self.iter().filter(|time| end == MAX || at(**time) < end).count().min(max)
        }
    }

    fn step(merge: &mut Merge<Vec<i64>>, seconds: u64) -> Step {
        merge.step(Duration::from_secs(seconds), PATIENCE, 5)
    }

    /// Publishes what comes next, and gives its rows.
    fn published(merge: &mut Merge<Vec<i64>>, step: Step) -> Vec<i64> {
        let Step::Publish(counts) = step else { panic!("{step:?}") };
        let mut rows = Vec::new();
        for (unit, count) in counts {
            rows.extend(merge.rows(&unit).unwrap().drain(..count));
        }
        rows.sort_unstable();
        rows
    }

    #[test]
    fn rows_wait_until_every_unit_has_been_read_so_far() {
        let mut merge = Merge::default();
        merge.join("dense", at(0));
        merge.join("sparse", at(0));
        merge.offer("sparse", window(0, 100), vec![5, 50]);
        assert_eq!(step(&mut merge, 0), Step::Wait(Some(PATIENCE)));
        merge.offer("dense", window(0, 10), vec![1, 2, 8]);
        let next = step(&mut merge, 1);
        assert_eq!(published(&mut merge, next), [1, 2, 5, 8]);
        assert_eq!(step(&mut merge, 1), Step::Done("dense".to_owned()));
        merge.take("dense");
        assert_eq!(step(&mut merge, 2), Step::Wait(Some(PATIENCE)));
        merge.leave("dense");
        let next = step(&mut merge, 3);
        assert_eq!(published(&mut merge, next), [50]);
        assert_eq!(step(&mut merge, 3), Step::Done("sparse".to_owned()));
    }

    #[test]
    fn units_that_keep_the_front_for_too_long_are_left_out_until_they_reach_it() {
        let mut merge = Merge::default();
        for unit in ["refused", "slow", "well"] {
            merge.join(unit, at(0));
        }
        merge.offer("well", window(0, 100), vec![7]);
        assert_eq!(step(&mut merge, 10), Step::Wait(Some(PATIENCE)));
        assert_eq!(step(&mut merge, 40), Step::Wait(Some(PATIENCE - Duration::from_secs(30))));
        let next = step(&mut merge, 310);
        assert_eq!(published(&mut merge, next), [7]);
        assert_eq!(step(&mut merge, 310), Step::Done("well".to_owned()));
        merge.take("well");
        // It is published by itself meanwhile.
        merge.offer("slow", window(0, 50), vec![3]);
        let next = step(&mut merge, 311);
        assert_eq!(published(&mut merge, next), [3]);
        assert_eq!(step(&mut merge, 311), Step::Done("slow".to_owned()));
        merge.take("slow");
        // And takes part again.
        merge.offer("slow", window(50, 120), vec![60, 110]);
        let next = step(&mut merge, 312);
        assert_eq!(published(&mut merge, next), [60], "the front is where the unit that is well has been read to");
    }

    proptest! {
        /// However windows come: each row is published once, in order, and no transaction has too many.
        #[test]
        fn all_rows_come_in_order(
            lengths in vec(vec((1_i64..60, vec(0_i64..60, 0..9)), 1..12), 1..4),
            turns in vec(0_usize..4, 0..200),
        ) {
            let mut merge = Merge::default();
            let names: Vec<String> = (0..lengths.len()).map(|unit| unit.to_string()).collect();
            names.iter().for_each(|name| merge.join(name, at(0)));
            let mut left: Vec<_> = lengths.iter().map(|windows| (0, windows.iter())).collect();
            let mut all: Vec<i64> = Vec::new();
            let mut out: Vec<i64> = Vec::new();
            let mut busy = vec![false; names.len()];
            for turn in turns.into_iter().chain((0..400).map(|turn| turn % 4)) {
                if let Some(unit) = names.get(turn).filter(|_| !busy[turn]) {
                    let (start, windows) = &mut left[turn];
                    match windows.next() {
                        Some((length, rows)) => {
                            let mut rows: Vec<i64> = rows.iter().map(|row| *start + row % length).collect();
                            rows.sort_unstable();
                            all.extend(&rows);
                            merge.offer(unit, window(*start, *start + length), rows);
                            *start += length;
                            busy[turn] = true;
                        }
                        None => merge.leave(unit),
                    }
                }
                loop {
                    match step(&mut merge, 0) {
                        Step::Publish(counts) => {
                            prop_assert!(counts.iter().map(|(_, count)| count).sum::<usize>() <= 5);
                            let rows = published(&mut merge, Step::Publish(counts));
                            prop_assert!(!rows.is_empty() && out.last() <= rows.first());
                            out.extend(rows);
                        }
                        Step::Done(unit) => {
                            prop_assert_eq!(merge.take(&unit).map(|rows| rows.len()), Some(0));
                            busy[unit.parse::<usize>().unwrap()] = false;
                        }
                        Step::Wait(_) => break,
                    }
                }
            }
            all.sort_unstable();
            prop_assert_eq!(out, all);
        }
    }
}
