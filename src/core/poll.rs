//! A poll's reads, added up: what of it counts as read, and why the watermarks wait.
//!
//! What is not believed is held (see [`super::course`]), and newer windows are read all the same.

use std::mem;

use rustc_hash::FxHashSet;

use super::chunk::ChunkPlan;
use super::dead_letter::Reason;
use super::identity::KeyHash;
use super::pagination::Fault;
use super::parts::{Parts, TornWindows};
use super::planner::Piece;
use super::shape::{Doubt, Shape};
use super::time::{UtcMillis, Window};
use super::zone::{Contradiction, ZoneTally};

/// A leg or two may have been taken back; that all of these were is less likely than that the API shows nothing.
pub const TELLING_LEGS: u64 = 5;

/// What is thought of a window by its rows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Judgement {
    /// What kinds of rows there are.
    pub shape: Shape,
    /// How they contradict our idea of the zone, if they do.
    pub contradiction: Option<Contradiction>,
    /// Why it is not believed.
    pub doubt: Option<Doubt>,
}

/// What a pass over a window's pages has seen.
#[derive(Clone, Debug, Default)]
pub struct WindowTally {
    /// Distinct rows, by the halves of their keys: a window has many.
    pub rows: FxHashSet<u64>,
    /// What kinds of rows there were, repeated ones among them.
    pub shape: Shape,
    /// Dead rows that were held back.
    pub held: u64,
    /// Why the first of them is dead.
    pub held_for: Option<Reason>,
    /// Of a sweep, the unit's own legs that were published.
    pub legs: FxHashSet<KeyHash>,
    /// What its rows say of the zone; those that contradict are legs like others.
    pub zone: ZoneTally,
}

impl WindowTally {
    /// Adds what became of a chunk of rows with these keys.
    pub fn add(&mut self, chunk: &ChunkPlan, keys: impl Iterator<Item = KeyHash>) {
        self.rows.extend(keys.map(|key| key.half()));
        self.shape += chunk.shape;
        self.held += chunk.counts.held;
        self.held_for = self.held_for.or(chunk.held_for);
        self.legs.extend(&chunk.swept);
        self.zone.add(chunk.zone);
    }

    /// What is thought of the window, which is not believed for this reason, if dead rows are none.
    pub fn judgement(&self, doubt: Option<Doubt>) -> Judgement {
        Judgement { shape: self.shape, contradiction: self.contradiction(), doubt: self.dead_doubt().or(doubt) }
    }

    /// Why it is not believed, if dead rows were held back.
    pub fn dead_doubt(&self) -> Option<Doubt> {
        (self.held > 0).then_some(Doubt::Dead(self.held, self.held_for))
    }

    /// How the window contradicts our idea of the zone, if it does.
    pub fn contradiction(&self) -> Option<Contradiction> {
        self.zone.contradiction()
    }
}

/// How the read of a window ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowEnd {
    /// With its last page, and with as many rows as were announced.
    Whole,
    /// Otherwise; the rows that were there are published.
    Broken(Fault),
    /// Before any was published: it has more rows than are wanted at once, so many at least.
    TooManyRows(u64),
}

/// What a read of a window has shown.
#[derive(Clone, Copy, Debug)]
pub struct WindowRead {
    /// The window.
    pub piece: Piece,
    /// How the read ended; `None` if the source did not answer.
    pub end: Option<WindowEnd>,
    /// What its rows say.
    pub judgement: Judgement,
    /// When the read began, on the earlier of the two clocks.
    pub begun: UtcMillis,
    /// Whether the two clocks are further apart than is tolerated.
    pub clocks_differ: bool,
    /// How many legs of the window were published, and can be expected to be shown still.
    pub legs_known: u64,
    /// Whether an older window follows of which legs may be known: then one without rows waits for it.
    pub is_before_overlap: bool,
}

/// What follows from a read of a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is read again in halves.
    Halved,
    /// It has no good row: what the other windows have says whether it counts as read.
    Waits,
    /// It is not believed, and the watermarks wait before it; why, where it did not just fail.
    Held(Option<Hold>),
    /// These windows count as read, each by a read that began then, oldest first.
    Advance(Vec<(Window, UtcMillis)>),
}

/// Why the watermarks wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// A window could not be read whole.
    Incomplete(Window, Fault),
    /// A window was read whole and is not believed.
    Invalid(Window, Doubt),
    /// The two clocks are too far apart.
    ClockSkew,
    /// A window's rows contradict our idea of the zone.
    TimeZone(Window, Contradiction),
    /// No window since then had a good row, and so many legs of them were published.
    Empty(UtcMillis, u64),
}

/// A poll of one unit.
#[derive(Debug)]
pub struct Poll<I> {
    parts: Parts<I>,
    hold: Option<Hold>,
    contradiction: Option<(Window, Contradiction)>,
    has_failed: bool,
    /// Whether any window had a good row, also one that was not read whole.
    shows_legs: bool,
    /// Legs that were published of the empty windows.
    legs_known: u64,
    /// Windows that were read whole and without a good row, though legs were published of them or of those before: quiet
    /// phones, or an API that shows nothing. A good row in any window of the same poll tells them apart.
    empty: Vec<(Window, UtcMillis)>,
}

impl<I: Iterator<Item = Piece>> Poll<I> {
    /// A poll of these pieces, in their order.
    pub fn new(pieces: I) -> Self {
        Self::in_doubt(pieces, None)
    }

    /// The same, where an older window that is not read again has contradicted our idea of the zone.
    pub fn in_doubt(pieces: I, contradiction: Option<(Window, Contradiction)>) -> Self {
        Self {
            parts: Parts::new(pieces),
            hold: None,
            contradiction,
            has_failed: false,
            shows_legs: false,
            legs_known: 0,
            empty: Vec::new(),
        }
    }

    /// The next window to read, `None` when all is read.
    pub fn next(&mut self, torn: &TornWindows) -> Option<Piece> {
        self.parts.next(torn)
    }

    /// The windows that are left, where the newest was one of them and not a part of one, so that it may be cut otherwise.
    pub fn recut(&mut self) -> Option<&mut I> {
        self.parts.recut()
    }

    /// The windows that are left.
    pub const fn windows(&mut self) -> &mut I {
        self.parts.pieces()
    }

    /// Takes a window back, to be read in halves.
    pub fn halve(&mut self, piece: Piece) {
        self.parts.halve(piece);
    }

    /// Takes note of how many pages of the newest window were asked for; `is_again` if it was held before.
    pub fn note_requests(&mut self, requests: usize, is_again: bool) {
        self.parts.note_requests(requests, is_again);
    }

    /// Takes note of a read, and says what follows from it.
    pub fn note(&mut self, read: &WindowRead) -> Outcome {
        let WindowRead { piece, judgement: Judgement { shape, contradiction, doubt }, .. } = *read;
        self.shows_legs |= shape.good() > 0;
        // What follows a window that contradicts is in doubt, too, whether or not its rows say so.
        self.contradiction = self.contradiction.or(contradiction.map(|found| (piece.window, found)));
        match read.end {
            None => {
                self.has_failed = true;
                Outcome::Held(None)
            }
            Some(WindowEnd::TooManyRows(_)) => {
                self.parts.halve(piece);
                Outcome::Halved
            }
            // Its rows are published; whether there are more its halves tell.
            Some(WindowEnd::Broken(fault)) if fault.is_mended_by_halves() && self.parts.halve_within(piece) => {
                Outcome::Halved
            }
            Some(WindowEnd::Broken(fault)) => self.wait(Hold::Incomplete(piece.window, fault)),
            Some(WindowEnd::Whole) if read.clocks_differ => {
                self.wait(Hold::ClockSkew);
                Outcome::Held(None)
            }
            Some(WindowEnd::Whole) => match (self.contradiction, doubt) {
                (_, Some(doubt @ Doubt::Dead(..))) => self.wait(Hold::Invalid(piece.window, doubt)),
                (Some((window, found)), _) => self.wait(Hold::TimeZone(window, found)),
                (None, Some(doubt)) => self.wait(Hold::Invalid(piece.window, doubt)),
                (None, None) => self.take(read),
            },
        }
    }

    /// Takes note of why the watermarks wait; the first reason is told.
    fn wait(&mut self, hold: Hold) -> Outcome {
        self.hold.get_or_insert(hold);
        Outcome::Held(Some(hold))
    }

    /// Takes a window for read, and those without a good row before it; unless it has none either.
    fn take(&mut self, read: &WindowRead) -> Outcome {
        let taken = (read.piece.window, read.begun);
        if !self.shows_legs {
            self.legs_known += read.legs_known;
            if self.legs_known > 0 || read.is_before_overlap {
                self.empty.push(taken);
                return Outcome::Waits;
            }
        }
        let mut windows = mem::take(&mut self.empty);
        windows.push(taken);
        windows.sort();
        Outcome::Advance(windows)
    }

    /// Whether no window had a good row, so that it matters how many legs are known.
    pub const fn shows_no_legs(&self) -> bool {
        !self.shows_legs
    }

    /// Whether every window so far was read, and in one part.
    pub const fn is_smooth(&self) -> bool {
        self.hold.is_none() && !self.has_failed && !self.parts.is_narrowing()
    }

    /// Ends the poll: gives the empty windows that count as read after all, oldest first.
    pub fn close(&mut self) -> Vec<(Window, UtcMillis)> {
        let mut windows = mem::take(&mut self.empty);
        windows.sort();
        match windows.first().filter(|_| !self.shows_legs && self.legs_known >= TELLING_LEGS) {
            Some((first, _)) => {
                self.hold.get_or_insert(Hold::Empty(first.start, self.legs_known));
                Vec::new()
            }
            None => windows,
        }
    }

    /// Why the watermarks wait, if they do.
    pub const fn hold(&self) -> Option<Hold> {
        self.hold
    }
}

#[cfg(test)]
mod tests {
    use chrono_tz::Tz;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::coverage::Coverage;
    use super::super::leg::How;
    use super::super::zone::Texts;
    use super::*;

    fn at(second: i64) -> UtcMillis {
        UtcMillis::new(second * 1_000)
    }

    fn window(from: i64, to: i64) -> Window {
        Window::new(at(from), at(to))
    }

    fn piece(from: i64, to: i64) -> Piece {
        Piece { window: window(from, to), how: How::Poll }
    }

    fn tally(rows: u64) -> WindowTally {
        WindowTally { shape: Shape { rows, ..Shape::default() }, ..WindowTally::default() }
    }

    fn contradicting() -> WindowTally {
        let found = Contradiction { position: 0, zone: Tz::UTC, written_s: 3_600, expected_s: 0, apart_ms: 3_600_000 };
        let mut tally = tally(1);
        tally.zone.note(Texts::Contradict, || Some(found));
        tally
    }

    /// Notes how the next window ended, at second 300 and with one request.
    fn note(
        poll: &mut Poll<impl Iterator<Item = Piece>>,
        end: Option<WindowEnd>,
        tally: &WindowTally,
        legs_known: u64,
    ) -> Outcome {
        let piece = poll.next(&TornWindows::default()).unwrap();
        let read = WindowRead {
            piece,
            end,
            judgement: tally.judgement(None),
            begun: at(300),
            clocks_differ: false,
            legs_known,
            is_before_overlap: false,
        };
        poll.note_requests(1, false);
        poll.note(&read)
    }

    fn poll(windows: i64) -> Poll<impl Iterator<Item = Piece>> {
        Poll::new((0..windows).map(|index| piece(index * 100, (index + 1) * 100)))
    }

    const WHOLE: Option<WindowEnd> = Some(WindowEnd::Whole);

    #[test]
    fn a_window_that_fails_leaves_a_hole_and_the_newer_ones_are_read() {
        let (mut poll, shown) = (poll(3), tally(1));
        assert_eq!(note(&mut poll, None, &tally(0), 0), Outcome::Held(None));
        assert!(!poll.is_smooth());
        assert_eq!(note(&mut poll, WHOLE, &shown, 0), Outcome::Advance(vec![(window(100, 200), at(300))]));
        let few = Fault::FewerRowsThanTotal { rows: 1, total: 2 };
        let incomplete = Some(Hold::Incomplete(window(200, 300), few));
        assert_eq!(note(&mut poll, Some(WindowEnd::Broken(few)), &shown, 0), Outcome::Held(incomplete));
        assert_eq!(poll.hold(), incomplete);
        assert!(poll.close().is_empty() && poll.next(&TornWindows::default()).is_none());
    }

    #[test]
    fn a_poll_without_a_row_is_not_believed_where_legs_are_known() {
        let (mut poll, empty) = (poll(3), tally(0));
        assert_eq!(note(&mut poll, WHOLE, &empty, 3), Outcome::Waits);
        assert_eq!(note(&mut poll, WHOLE, &empty, 2), Outcome::Waits);
        assert_eq!(note(&mut poll, WHOLE, &empty, 0), Outcome::Waits, "nor what follows");
        assert!(poll.close().is_empty());
        assert_eq!(poll.hold(), Some(Hold::Empty(at(0), 5)));
    }

    #[test]
    fn a_few_legs_may_have_been_taken_back_and_a_first_read_of_quiet_phones_is_quiet() {
        let (mut doubted, empty) = (poll(2), tally(0));
        assert_eq!(note(&mut doubted, WHOLE, &empty, 0), Outcome::Advance(vec![(window(0, 100), at(300))]));
        assert_eq!(note(&mut doubted, WHOLE, &empty, 4), Outcome::Waits);
        assert_eq!((doubted.close(), doubted.hold()), (vec![(window(100, 200), at(300))], None));
    }

    #[test]
    fn a_row_anywhere_in_the_poll_makes_quiet_windows_quiet() {
        let (mut poll, empty) = (poll(3), tally(0));
        assert_eq!(note(&mut poll, WHOLE, &empty, 30), Outcome::Waits);
        let few = Fault::FewerRowsThanTotal { rows: 1, total: 2 };
        note(&mut poll, Some(WindowEnd::Broken(few)), &tally(1), 0);
        assert!(!poll.shows_no_legs());
        let both = vec![(window(0, 100), at(300)), (window(200, 300), at(300))];
        assert_eq!(note(&mut poll, WHOLE, &empty, 30), Outcome::Advance(both));
    }

    #[test]
    fn a_contradiction_holds_what_follows_and_the_first_reason_is_told() {
        let mut poll = poll(4);
        assert!(matches!(note(&mut poll, WHOLE, &contradicting(), 0), Outcome::Held(Some(Hold::TimeZone(..)))));
        let hold = poll.hold();
        assert!(matches!(hold, Some(Hold::TimeZone(first, _)) if first == window(0, 100)));
        assert_eq!(note(&mut poll, WHOLE, &tally(1), 0), Outcome::Held(hold));
        let held = WindowTally { held: 3, held_for: Some(Reason::CallId), ..tally(3) };
        let doubt = Doubt::Dead(3, Some(Reason::CallId));
        assert_eq!(note(&mut poll, WHOLE, &held, 0), Outcome::Held(Some(Hold::Invalid(window(200, 300), doubt))));
        assert_eq!(poll.hold(), hold);
        let mut next = Poll::in_doubt(
            [piece(300, 400)].into_iter(),
            Some((window(0, 100), contradicting().contradiction().unwrap())),
        );
        assert_eq!(note(&mut next, WHOLE, &tally(1), 0), Outcome::Held(hold), "nor is what is newer believed later");
    }

    #[test]
    fn clocks_that_differ_hold_until_the_next_poll() {
        let mut skewed = poll(1);
        let (piece, tally) = (skewed.next(&TornWindows::default()).unwrap(), tally(1));
        let read = WindowRead {
            piece,
            end: WHOLE,
            judgement: tally.judgement(None),
            begun: at(300),
            clocks_differ: true,
            legs_known: 0,
            is_before_overlap: false,
        };
        assert_eq!((skewed.note(&read), skewed.hold()), (Outcome::Held(None), Some(Hold::ClockSkew)));
    }

    #[test]
    fn rows_that_are_not_good_make_no_window_quiet() {
        let bad = WindowTally { shape: Shape { rows: 3, no_legs: 3, astray: 0 }, ..WindowTally::default() };
        let mut doubted = poll(2);
        assert_eq!(note(&mut doubted, WHOLE, &bad, 5), Outcome::Waits);
        assert_eq!(note(&mut doubted, WHOLE, &tally(0), 0), Outcome::Waits);
        assert_eq!((doubted.close(), doubted.hold()), (Vec::new(), Some(Hold::Empty(at(0), 5))));
    }

    #[test]
    fn a_window_is_halved_where_that_may_mend_it() {
        let mut poll = poll(1);
        assert_eq!(note(&mut poll, Some(WindowEnd::TooManyRows(9)), &tally(0), 0), Outcome::Halved);
        assert_eq!(note(&mut poll, Some(WindowEnd::Broken(Fault::OpenEnd)), &tally(3), 0), Outcome::Halved);
        assert_eq!(poll.hold(), None);
        assert_eq!(note(&mut poll, WHOLE, &tally(1), 0), Outcome::Advance(vec![(window(0, 25), at(300))]));
    }

    #[test]
    fn what_is_new_and_empty_waits_for_the_overlap() {
        let read = |poll: &mut Poll<_>, rows, legs_known, is_before_overlap| {
            let piece = poll.next(&TornWindows::default()).unwrap();
            let tally = tally(rows);
            let begun = at(300);
            poll.note(&WindowRead {
                piece,
                end: WHOLE,
                judgement: tally.judgement(None),
                begun,
                clocks_differ: false,
                legs_known,
                is_before_overlap,
            })
        };
        let poll = || Poll::new([piece(100, 200), piece(0, 100)].into_iter());
        let both = vec![(window(0, 100), at(300)), (window(100, 200), at(300))];
        let mut quiet = poll();
        assert_eq!(read(&mut quiet, 0, 0, true), Outcome::Waits);
        assert_eq!(read(&mut quiet, 3, 0, false), Outcome::Advance(both.clone()));
        let mut hidden = poll();
        assert_eq!(read(&mut hidden, 0, 0, true), Outcome::Waits);
        assert_eq!(read(&mut hidden, 0, 5, false), Outcome::Waits);
        assert_eq!((hidden.close(), hidden.hold()), (Vec::new(), Some(Hold::Empty(at(0), 5))));
        let mut few = poll();
        assert_eq!(read(&mut few, 0, 0, true), Outcome::Waits);
        assert_eq!(read(&mut few, 0, 4, false), Outcome::Waits);
        assert_eq!((few.close(), few.hold()), (both, None));
    }

    fn ends() -> impl Strategy<Value = (Option<WindowEnd>, u64, u64)> {
        let few = Fault::FewerRowsThanTotal { rows: 1, total: 2 };
        let end = prop_oneof![
            6 => Just(WHOLE),
            1 => Just(None),
            1 => Just(Some(WindowEnd::TooManyRows(9))),
            1 => Just(Some(WindowEnd::Broken(Fault::OpenEnd))),
            1 => Just(Some(WindowEnd::Broken(few))),
        ];
        (end, 0u64..2, prop_oneof![Just(0u64), Just(7)])
    }

    proptest! {
        #[test]
        fn every_window_counts_as_read_once_or_something_holds(ends in vec(ends(), 1..60)) {
            let whole = window(0, 2_000);
            let mut poll = Poll::new((0..4).map(|index| piece(index * 500, (index + 1) * 500)));
            let mut ends = ends.into_iter();
            let (mut read, mut failed, mut shows_rows) = (Coverage::default(), false, false);
            let take = |windows: Vec<(Window, UtcMillis)>, read: &mut Coverage| {
                for (window, _) in windows {
                    assert_eq!(read.holes(window), [window], "twice");
                    read.add(window);
                }
            };
            while let Some(piece) = poll.next(&TornWindows::default()) {
                let (mut end, rows, legs_known) = ends.next().unwrap_or((WHOLE, 1, 0));
                if end == Some(WindowEnd::TooManyRows(9)) && piece.window.length() <= super::super::window_length::SPAN_MIN {
                    end = WHOLE;
                }
                let tally = tally(if end == Some(WindowEnd::TooManyRows(9)) { 0 } else { rows });
                shows_rows |= tally.shape.rows > 0;
                failed |= end.is_none();
                let read_now = WindowRead {
                    piece, end, judgement: tally.judgement(None), begun: at(300), clocks_differ: false, legs_known, is_before_overlap: false,
                };
                poll.note_requests(1, false);
                match poll.note(&read_now) {
                    Outcome::Advance(windows) => {
                        prop_assert_eq!(end, WHOLE);
                        prop_assert!(windows.is_sorted());
                        take(windows, &mut read);
                    }
                    Outcome::Halved => prop_assert!(end != WHOLE && end.is_some()),
                    Outcome::Held(why) => prop_assert!(end != WHOLE && why.is_some() == end.is_some()),
                    Outcome::Waits => {}
                }
            }
            take(poll.close(), &mut read);
            let is_whole = read.holes(whole).is_empty();
            prop_assert_eq!(is_whole, poll.hold().is_none() && !failed);
            if matches!(poll.hold(), Some(Hold::Empty(..))) {
                prop_assert!(!shows_rows);
            }
        }
    }
}
