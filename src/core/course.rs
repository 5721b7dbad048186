//! How far the polls of a unit have come: to the first hold, as the journal has it; and behind each hold, as this process
//! has read on.
//!
//! ```text
//!   ── final_to ── complete_to [ held ) ── final_to ── complete_to [ held ) ── final_to ── complete_to      bound
//!      in the journal                      in memory                            in memory, the newest
//! ```
//!
//! A window that is not believed is held: it is read again, with growing pauses. Meanwhile polls go on behind it, with
//! watermarks of their own. When it is believed at last, the journal's watermarks pass over it and what was read behind it.

use std::cmp::Reverse;
use std::mem;
use std::time::Duration;

use super::poll::Hold;
use super::shape::Doubt;
use super::time::{UtcMillis, Window};
use super::watermark::{Delays, Marks, Progress, Reach};
use super::zone::Contradiction;

/// The longest pause between two reads of what is held.
const PAUSE_MAX: Duration = Duration::from_secs(1_800);

/// For so long dead rows are held while newer windows are believed; then they are buried.
const HELD_MAX: Duration = Duration::from_secs(6 * 3_600);

/// So many polls in a row have to believe their newest window before.
const GOOD_POLLS_MIN: u32 = 10;

/// How many holds are kept apart. Beyond it the oldest two become one, with all that lies between them.
const HOLDS_MAX: usize = 64;

/// So many holds a poll reads again: what is newer must not wait for them.
const DUE_MAX: usize = 4;

/// How polls go on where windows are held.
#[derive(Clone, Debug)]
pub struct Course {
    generation: u32,
    stored: Marks,
    /// Oldest first. They do not overlap, and each has the watermarks of what lies behind it.
    holds: Vec<HeldSpan>,
    /// How many polls in a row have believed their newest window.
    good_polls: u32,
}

/// A span of time that is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldSpan {
    /// What is held.
    pub window: Window,
    /// Why; `None` where that is told otherwise, and it is read again by each poll.
    pub why: Option<Hold>,
    /// How many of its rows are held back or not believed, at least.
    pub rows: u64,
    /// Since when.
    pub since: UtcMillis,
    /// When it is read again.
    pub again_at: UtcMillis,
    /// When a read of it has last begun that did not believe it.
    read_at: UtcMillis,
    /// The newest pause between two reads of it.
    pause: Duration,
    behind: Marks,
}

/// What of a window is believed in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leniency {
    /// Nothing.
    None,
    /// That dead rows are dead: they were held for long, while newer windows were believed.
    Released,
    /// Everything: an operator has accepted it.
    Accepted,
}

impl Leniency {
    /// As an operator has ordered at `accepted_at`, if ever.
    pub fn by_order(window: Window, accepted_at: Option<UtcMillis>) -> Self {
        if accepted_at.is_some_and(|at| window.end <= at) { Self::Accepted } else { Self::None }
    }

    /// As above, or because the window's dead rows were held since then.
    pub fn of(window: Window, accepted_at: Option<UtcMillis>, held_since: Option<UtcMillis>, polls: Polls) -> Self {
        let is_released = |since: UtcMillis| polls.good >= GOOD_POLLS_MIN && since.plus(HELD_MAX) <= polls.now;
        match Self::by_order(window, accepted_at) {
            Self::None if held_since.is_some_and(is_released) => Self::Released,
            by_order => by_order,
        }
    }
}

/// How the polls of a unit went of late.
#[derive(Clone, Copy, Debug)]
pub struct Polls {
    /// How many in a row have believed their newest window.
    pub good: u32,
    /// The present.
    pub now: UtcMillis,
}

impl Course {
    /// Nothing is held.
    pub fn new(generation: u32, progress: &Progress) -> Self {
        Self { generation, stored: progress.marks(), holds: Vec::new(), good_polls: 0 }
    }

    /// The course at the beginning of a poll, when the journal has this progress. What an operator has accepted at
    /// `accepted_at` is read again at once.
    pub fn begin_poll(&mut self, generation: u32, progress: &Progress, accepted_at: Option<UtcMillis>) {
        if generation != self.generation {
            *self = Self::new(generation, progress);
        }
        self.stored = progress.marks();
        let passed = self.stored.complete_to;
        self.holds.retain(|hold| hold.window.end > passed);
        // What failed last is read again with all that is newer, in the order of time.
        while self.holds.last().is_some_and(|hold| hold.why.is_none() && hold.is_newest()) {
            self.holds.pop();
        }
        for hold in &mut self.holds {
            if accepted_at.is_some_and(|at| at > hold.since) {
                hold.make_due();
            }
        }
    }

    /// The watermarks of what is newest.
    pub fn newest(&self) -> Marks {
        self.holds.last().map_or(self.stored, |hold| hold.behind)
    }

    /// What is held.
    pub fn holds(&self) -> &[HeldSpan] {
        &self.holds
    }

    /// Whether a window lies in what is held.
    pub fn is_held(&self, window: Window) -> bool {
        self.holds.iter().any(|hold| hold.window.start <= window.start && window.end <= hold.window.end)
    }

    /// Why the watermarks of the journal wait.
    pub fn why(&self) -> Option<&HeldSpan> {
        self.holds.iter().find(|hold| hold.why.is_some())
    }

    /// What is held and is to be read again at `now`: a few, which have waited longest.
    pub fn due(&self, now: UtcMillis) -> Vec<Window> {
        let mut due: Vec<&HeldSpan> = self.holds.iter().filter(|hold| hold.again_at <= now).collect();
        due.sort_by_key(|hold| (hold.read_at, Reverse(hold.window.start)));
        due.iter().take(DUE_MAX).map(|hold| hold.window).collect()
    }

    /// Why what follows is in doubt, too, where that is not read again at `now`.
    pub fn contradiction(&self, now: UtcMillis) -> Option<(Window, Contradiction)> {
        let due = self.due(now);
        let waiting = self.holds.iter().filter(|hold| !due.contains(&hold.window));
        waiting.filter_map(|hold| hold.why).find_map(|why| match why {
            Hold::TimeZone(window, found) => Some((window, found)),
            _ => None,
        })
    }

    /// What lies before the first hold and was not read for the last time. What lies between two holds waits for their end.
    pub fn before_holds(&self) -> Option<Window> {
        let first = self.holds.first()?;
        (self.stored.final_to < first.window.start).then(|| Window::new(self.stored.final_to, first.window.start))
    }

    /// How far the unit was complete before a poll, as seen from a window: what older legs of it are measured by.
    pub fn looked_to(&self, window: Window) -> UtcMillis {
        self.marks_before(self.holds.iter().take_while(|hold| hold.window.end <= window.start).count()).complete_to
    }

    /// What of a window is believed in any case.
    pub fn leniency(&self, window: Window, now: UtcMillis, accepted_at: Option<UtcMillis>) -> Leniency {
        let is_for_dead =
            |hold: &HeldSpan| matches!(hold.why, Some(Hold::Invalid(_, Doubt::Dead(..) | Doubt::NoneGood(_))));
        let contains = |hold: &HeldSpan| hold.window.start <= window.start && window.end <= hold.window.end;
        let held_since = self.holds.iter().find(|hold| is_for_dead(hold) && contains(hold)).map(|hold| hold.since);
        Leniency::of(window, accepted_at, held_since, Polls { good: self.good_polls, now })
    }

    /// Takes note of a window that was read and believed; gives how far it moves the journal's watermarks.
    pub fn believe(&mut self, window: Window, begun: UtcMillis, delays: &Delays) -> Vec<Reach> {
        let mut reached = Vec::new();
        for part in self.parts(window) {
            self.believe_part(&Reach::of(part, begun, delays), part, &mut reached);
        }
        reached
    }

    /// Takes note of a window that is not believed, by a read begun at `begun`, while polls go on every `interval`.
    pub fn hold(&mut self, window: Window, why: Option<Hold>, begun: UtcMillis, interval: Duration, delays: &Delays) {
        // What has not settled is read again by the next poll in any case.
        let end = window.end.min(begun.minus(delays.settle));
        for part in self.parts(Window::new(window.start, end.max(window.start))) {
            match self.holds.iter_mut().find(|hold| hold.window.start <= part.start && part.end <= hold.window.end) {
                Some(known) => known.is_not_believed_again(why, begun, interval),
                None => self.hold_part(part, why, begun),
            }
        }
        self.join();
    }

    /// Takes note of a poll's end: whether what is newest was believed.
    pub fn end_poll(&mut self, is_newest_believed: bool) {
        if !is_newest_believed {
            self.good_polls = 0;
            return;
        }
        self.good_polls = self.good_polls.saturating_add(1);
        if self.good_polls == 1 {
            // The source works again: what it has shown wrongly may be right now.
            self.holds.iter_mut().for_each(HeldSpan::make_due);
        }
    }

    /// How many polls in a row have believed their newest window.
    pub const fn good_polls(&self) -> u32 {
        self.good_polls
    }

    /// Whether anything was read and believed behind the newest hold.
    pub fn is_newest_believed(&self) -> bool {
        self.holds.last().is_none_or(|hold| !hold.is_newest())
    }

    /// The watermarks of what lies before a hold.
    fn marks_before(&self, hold: usize) -> Marks {
        if hold == 0 { self.stored } else { self.holds[hold - 1].behind }
    }

    /// A window, cut wherever a hold begins or ends, oldest first.
    fn parts(&self, window: Window) -> Vec<Window> {
        let edges = self.holds.iter().flat_map(|hold| [hold.window.start, hold.window.end]);
        let mut edges: Vec<UtcMillis> = edges.filter(|edge| window.start < *edge && *edge < window.end).collect();
        edges.push(window.end);
        edges.dedup();
        let mut start = window.start;
        let parts = edges.into_iter().map(|end| Window::new(std::mem::replace(&mut start, end), end));
        parts.filter(|part| !part.is_empty()).collect()
    }

    /// Moves the watermarks before the hold at `index`.
    fn reach(&mut self, index: usize, reach: &Reach, reached: &mut Vec<Reach>) {
        match index.checked_sub(1) {
            None => {
                self.stored.reach(reach);
                reached.push(*reach);
            }
            Some(before) => self.holds[before].behind.reach(reach),
        }
    }

    /// Takes note of a part that lies in a hold, or between two.
    fn believe_part(&mut self, reach: &Reach, part: Window, reached: &mut Vec<Reach>) {
        let index = self.holds.iter().take_while(|hold| hold.window.end <= part.start).count();
        let Some(hold) = self.holds.get(index).filter(|hold| hold.window.start < part.end).copied() else {
            return self.reach(index, reach, reached);
        };
        let believed_to = reach.complete_to;
        if believed_to <= part.start {
            return;
        }
        // It comes on, so nothing of what is held waits for longer than the next poll.
        self.holds.iter_mut().for_each(HeldSpan::make_due);
        if part.start > hold.window.start {
            // The older rest of it stays held, by itself.
            let behind = Marks { complete_to: believed_to, final_to: reach.final_to.max(part.start) };
            let older = HeldSpan { window: Window::new(hold.window.start, part.start), behind, ..hold };
            self.holds.insert(index, older);
            return self.shorten(index + 1, believed_to, reached);
        }
        self.reach(index, reach, reached);
        self.shorten(index, believed_to, reached);
    }

    /// Takes the beginning of a hold away; with all of it gone, what lies before it and behind it is one.
    fn shorten(&mut self, index: usize, start: UtcMillis, reached: &mut Vec<Reach>) {
        let hold = &mut self.holds[index];
        hold.window.start = start.max(hold.window.start);
        if hold.window.start < hold.window.end {
            return;
        }
        let HeldSpan { window, behind, .. } = self.holds.remove(index);
        let reach = Reach { from: window.end, complete_to: behind.complete_to, final_to: behind.final_to };
        self.reach(index, &reach, reached);
    }

    /// Holds a part of what lies between two holds, or behind the newest.
    fn hold_part(&mut self, part: Window, why: Option<Hold>, begun: UtcMillis) {
        let index = self.holds.iter().take_while(|hold| hold.window.end <= part.start).count();
        // What was believed before stays so: it is read for the last time later.
        let start = part.start.max(self.marks_before(index).complete_to);
        if start >= part.end {
            return;
        }
        let (window, behind) = (Window::new(start, part.end), Marks::at(part.end));
        let hold = HeldSpan {
            window,
            why,
            rows: rows_of(why),
            since: begun,
            again_at: begun,
            read_at: begun,
            pause: Duration::ZERO,
            behind,
        };
        self.holds.insert(index, hold);
    }

    /// Makes one hold of those between which nothing was believed.
    fn join(&mut self) {
        let mut index = 0;
        while index + 1 < self.holds.len() {
            let (older, newer) = (self.holds[index], self.holds[index + 1]);
            let is_same = older.is_newest() && older.kind() == newer.kind();
            if is_same || self.holds.len() > HOLDS_MAX {
                let window = Window::new(older.window.start, newer.window.end);
                self.holds[index] = HeldSpan {
                    window,
                    why: older.why.or(newer.why),
                    rows: older.rows + newer.rows,
                    again_at: older.again_at.min(newer.again_at),
                    behind: newer.behind,
                    ..older
                };
                self.holds.remove(index + 1);
            } else {
                index += 1;
            }
        }
    }
}

impl HeldSpan {
    /// Whether nothing was read and believed behind it.
    fn is_newest(&self) -> bool {
        self.behind.complete_to <= self.window.end
    }

    /// Has it read again by the next poll.
    const fn make_due(&mut self) {
        (self.again_at, self.pause) = (self.since, Duration::ZERO);
    }

    fn kind(&self) -> Option<mem::Discriminant<Hold>> {
        self.why.as_ref().map(mem::discriminant)
    }

    fn is_not_believed_again(&mut self, why: Option<Hold>, begun: UtcMillis, interval: Duration) {
        self.read_at = begun;
        if why.is_some() && self.again_at <= begun {
            self.pause = (self.pause * 2).clamp(interval, PAUSE_MAX.max(interval));
            // A poll begins some moments before it reads.
            self.again_at = begun.plus(self.pause - interval / 2);
        }
        (self.why, self.rows) = (why.or(self.why), self.rows.max(rows_of(why)));
    }
}

fn rows_of(why: Option<Hold>) -> u64 {
    match why {
        Some(Hold::Invalid(_, Doubt::Dead(rows, _) | Doubt::NoneGood(rows) | Doubt::Astray { astray: rows, .. })) => {
            rows
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::coverage::Coverage;
    use super::super::pagination::Fault;
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(120);
    const DELAYS: Delays = Delays {
        settle: Duration::from_secs(10),
        overlap: Duration::from_secs(100),
        horizon: Duration::from_secs(10_000),
    };

    fn at(second: i64) -> UtcMillis {
        UtcMillis::new(second * 1_000)
    }

    fn window(from: i64, to: i64) -> Window {
        Window::new(at(from), at(to))
    }

    fn started(second: i64) -> Course {
        Course::new(0, &Progress::starting_at(at(second), &DELAYS))
    }

    fn broken(from: i64, to: i64) -> Option<Hold> {
        Some(Hold::Incomplete(window(from, to), Fault::OpenEnd))
    }

    fn dead(from: i64, to: i64) -> Option<Hold> {
        Some(Hold::Invalid(window(from, to), Doubt::Dead(30, None)))
    }

    #[test]
    fn polls_go_on_behind_a_hold_and_when_it_is_believed_the_journal_passes_over_all_of_it() {
        let mut course = started(0);
        course.believe(window(0, 500), at(10_000), &DELAYS);
        course.hold(window(500, 600), broken(500, 600), at(10_000), INTERVAL, &DELAYS);
        assert!(course.believe(window(600, 9_990), at(10_000), &DELAYS).is_empty());
        assert_eq!(course.newest(), Marks { complete_to: at(9_990), final_to: at(9_890) });
        assert_eq!((course.due(at(10_000)), course.before_holds()), (vec![window(500, 600)], None));
        assert_eq!((course.looked_to(window(500, 600)), course.looked_to(window(9_990, 9_999))), (at(500), at(9_990)));
        let reached = course.believe(window(500, 600), at(10_050), &DELAYS);
        let mut progress = Progress::starting_at(at(0), &DELAYS);
        progress.advance(window(0, 500), at(10_000), &DELAYS);
        reached.iter().for_each(|reach| progress.reach(reach, &DELAYS));
        assert_eq!((progress.complete_to, progress.final_to), (at(9_990), at(9_890)));
        assert_eq!(progress.coverage.windows(), [window(0, 9_990)]);
        assert!(course.holds().is_empty() && course.newest() == progress.marks());
    }

    #[test]
    fn a_hold_that_is_believed_in_parts_shrinks_from_both_sides() {
        let mut course = started(0);
        course.hold(window(0, 300), broken(0, 300), at(10_000), INTERVAL, &DELAYS);
        course.believe(window(300, 400), at(10_000), &DELAYS);
        assert!(course.believe(window(100, 200), at(10_000), &DELAYS).is_empty());
        assert_eq!(course.due(at(10_000)), [window(200, 300), window(0, 100)]);
        course.believe(window(200, 300), at(10_000), &DELAYS);
        assert_eq!(course.due(at(10_000)), [window(0, 100)]);
        let reached = course.believe(window(0, 100), at(10_000), &DELAYS);
        assert_eq!(reached.last().map(|reach| (reach.complete_to, reach.final_to)), Some((at(400), at(400))));
    }

    #[test]
    fn a_hold_is_read_again_ever_less_often_until_the_source_works_again_or_an_operator_accepts_it() {
        let mut course = started(0);
        let progress = Progress::starting_at(at(0), &DELAYS);
        let (mut now, mut reads) = (10_000, Vec::new());
        for _ in 0..200 {
            course.begin_poll(0, &progress, None);
            if !course.due(at(now)).is_empty() || course.holds().is_empty() {
                reads.push(now);
                course.hold(window(0, 100), dead(0, 100), at(now), INTERVAL, &DELAYS);
            }
            course.believe(window(100, now - 1), at(now), &DELAYS);
            course.end_poll(true);
            now += 120;
        }
        let pauses: Vec<i64> = reads.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(pauses[..7], [120, 120, 240, 480, 960, 1_800, 1_800]);
        assert!(course.due(at(now)).is_empty() || pauses.last() == Some(&1_800));
        assert_eq!(course.leniency(window(0, 100), at(now), None), Leniency::Released, "after six hours");
        assert_eq!(course.leniency(window(50, 150), at(now), None), Leniency::None, "not of what is newer");
        course.end_poll(false);
        assert_eq!(course.leniency(window(0, 100), at(now), None), Leniency::None);
        course.end_poll(true);
        assert_eq!(course.due(at(now)), [window(0, 100)], "the source works again");
        course.hold(window(0, 100), dead(0, 100), at(now), INTERVAL, &DELAYS);
        course.hold(window(0, 100), dead(0, 100), at(now + 120), INTERVAL, &DELAYS);
        assert_eq!(course.due(at(now + 121)), []);
        course.begin_poll(0, &progress, Some(at(now)));
        assert_eq!(course.due(at(now + 121)), [window(0, 100)]);
        assert_eq!(course.leniency(window(0, 100), at(now), Some(at(now))), Leniency::Accepted);
    }

    #[test]
    fn what_just_failed_is_read_again_with_all_that_is_newer() {
        let (mut course, progress) = (started(0), Progress::starting_at(at(0), &DELAYS));
        course.hold(window(0, 100), None, at(10_000), INTERVAL, &DELAYS);
        course.begin_poll(0, &progress, None);
        assert_eq!((course.newest(), course.holds().len()), (Marks::at(at(0)), 0));
        course.hold(window(0, 100), None, at(10_000), INTERVAL, &DELAYS);
        course.believe(window(100, 200), at(10_000), &DELAYS);
        course.begin_poll(0, &progress, None);
        assert_eq!((course.newest(), course.due(at(10_000))), (Marks::at(at(200)), vec![window(0, 100)]));
        assert!(course.why().is_none(), "the failure is told otherwise");
    }

    #[test]
    fn windows_that_are_held_one_after_the_other_are_one_hold_and_a_rewind_ends_it() {
        let mut course = started(0);
        for minute in 0..200 {
            let (from, to) = (minute * 60, minute * 60 + 60);
            course.hold(window(from, to + 10), dead(from, to), at(to + 10), INTERVAL, &DELAYS);
            assert!(!course.is_newest_believed());
        }
        let held: Vec<(Window, u64)> = course.holds().iter().map(|hold| (hold.window, hold.rows)).collect();
        assert_eq!(held, [(window(0, 12_000), 6_000)]);
        course.begin_poll(1, &Progress::starting_at(at(0), &DELAYS), None);
        assert!(course.holds().is_empty());
    }

    /// What a poll makes of a window: how long it is, and whether it is believed, failed or not believed.
    fn outcome() -> impl Strategy<Value = (i64, u8)> {
        (1i64..400, prop_oneof![4 => Just(0u8), 1 => Just(1u8), 2 => Just(2u8)])
    }

    proptest! {
        /// However windows fail and are believed: the journal's watermarks pass nothing that was not read and believed so
        /// late, and once all of it is believed, they are where they would be without a hold.
        #[test]
        fn nothing_is_passed_over_that_was_not_believed(
            polls in vec((1i64..600, vec(outcome(), 1..9)), 1..30),
        ) {
            let (mut course, mut progress) = (started(0), Progress::starting_at(at(0), &DELAYS));
            let (mut complete, mut finally, mut now) = (Coverage::default(), Coverage::default(), 100);
            // A poll reads a few holds again, so all of them take some polls.
            let heal = (0..HOLDS_MAX / DUE_MAX + 3).map(|_| (2_000, vec![(100_000, 0u8)]));
            for (waited, outcomes) in polls.into_iter().chain(heal) {
                now += waited;
                course.begin_poll(0, &progress, None);
                let newest = course.newest();
                let spans = [Window::new(newest.complete_to, at(now - 1))].into_iter().chain(course.due(at(now)))
                    .chain([Window::new(newest.final_to, newest.complete_to)]).chain(course.before_holds());
                let mut outcomes = outcomes.into_iter().cycle();
                for span in spans.collect::<Vec<_>>() {
                    let mut start = span.start;
                    while start < span.end {
                        let (length, outcome) = outcomes.next().unwrap();
                        let read = Window::new(start, start.plus(Duration::from_secs(length.unsigned_abs())).min(span.end));
                        start = read.end;
                        let begun = at(now);
                        match outcome {
                            0 => {
                                let reach = Reach::of(read, begun, &DELAYS);
                                complete.add(Window::new(read.start, reach.complete_to.max(read.start)));
                                finally.add(Window::new(read.start, reach.final_to.max(read.start)));
                                for reach in course.believe(read, begun, &DELAYS) {
                                    progress.reach(&reach, &DELAYS);
                                }
                            }
                            1 => course.hold(read, None, begun, INTERVAL, &DELAYS),
                            _ => course.hold(read, broken(0, 1), begun, INTERVAL, &DELAYS),
                        }
                        let Marks { complete_to, final_to } = progress.marks();
                        prop_assert!(final_to <= complete_to);
                        prop_assert_eq!(complete.holes(window(0, complete_to.as_millis() / 1_000)), []);
                        prop_assert_eq!(finally.holes(window(0, final_to.as_millis() / 1_000)), []);
                        let ordered = course.holds().windows(2).all(|pair| pair[0].window.end <= pair[1].window.start);
                        prop_assert!(ordered && course.holds().iter().all(|hold| !hold.window.is_empty()));
                    }
                }
                course.end_poll(true);
            }
            prop_assert!(course.holds().is_empty());
            prop_assert_eq!(progress.complete_to, at(now - 10));
        }
    }
}
