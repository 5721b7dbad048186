//! Pieces in parts: a window that cannot be read as it is is read in halves, and those in halves again.
//!
//! ```text
//!   piece            [────────────────────────────────)
//!   in halves        [───────────────)[───────────────)     each is read, and counts as read, by itself
//!   and halves       [───────)[──────)        ╎
//!                     read                    ╎ waits
//! ```
//!
//! A window of too many rows is halved for as long as it has too many. One whose pages do not end well, or
//! cannot be taken apart, is halved within a number of requests, and what does not end well then is told.

use std::time::Duration;

use super::planner::Piece;
use super::time::Window;
use super::window_length::SPAN_MIN;

/// How many requests a poll may spend on windows in halves, the first one included.
const REQUESTS_MAX: usize = 16;

/// How many windows with a torn page are remembered.
const TORN_MAX: usize = 64;

/// Pieces, and the parts of them that are still to be read.
#[derive(Debug)]
pub struct Parts<I> {
    pieces: I,
    /// Parts of a piece that is cut around what is known to be torn, the next one last.
    cut: Vec<Piece>,
    halves: Vec<Piece>,
    /// Whether the newest part is a half.
    is_half: bool,
    /// Whether the newest part is a piece as it is.
    is_uncut: bool,
    requests: usize,
}

impl<I: Iterator<Item = Piece>> Parts<I> {
    /// The parts of these pieces, in their order.
    pub fn new(pieces: I) -> Self {
        Self { pieces, cut: Vec::new(), halves: Vec::new(), is_half: false, is_uncut: false, requests: 0 }
    }

    /// The next window to read, `None` when all is read.
    pub fn next(&mut self, torn: &TornWindows) -> Option<Piece> {
        (self.is_half, self.is_uncut) = (false, false);
        if let Some(half) = self.halves.pop() {
            self.is_half = true;
            return Some(half);
        }
        if self.cut.is_empty() {
            self.cut = torn.cut(self.pieces.next()?);
            self.cut.reverse();
            self.is_uncut = self.cut.len() == 1;
        }
        self.cut.pop()
    }

    /// The pieces, where the newest part is a whole one of them, which may be cut otherwise.
    pub fn recut(&mut self) -> Option<&mut I> {
        self.is_uncut.then_some(&mut self.pieces)
    }

    /// The pieces that are left.
    pub const fn pieces(&mut self) -> &mut I {
        &mut self.pieces
    }

    /// Takes note of how many requests the newest part took; `is_again` if it did not end well before.
    pub fn note_requests(&mut self, requests: usize, is_again: bool) {
        // Of the read that has shown a window to be in need of halves only one request counts: it was to be read anyway.
        self.requests += if self.is_half { requests } else { usize::from(is_again) };
    }

    /// Whether any window was halved because it did not end well.
    pub const fn is_narrowing(&self) -> bool {
        self.requests > 0
    }

    /// Takes a window back, to be read in halves.
    pub fn halve(&mut self, Piece { window, how }: Piece) {
        let half = Duration::from_secs(window.length().as_secs() / 2).max(SPAN_MIN);
        let middle = window.start.plus(half).min(window.end);
        let halves = [Window::new(middle, window.end), Window::new(window.start, middle)];
        self.halves.extend(halves.into_iter().filter(|half| !half.is_empty()).map(|window| Piece { window, how }));
    }

    /// The same as long as there are requests left for it, and for what waits; `false` when the window stays as it is.
    pub fn halve_within(&mut self, piece: Piece) -> bool {
        let spent = self.requests + usize::from(!self.is_half);
        let is_possible = piece.window.length() > SPAN_MIN && spent + self.halves.len() + 2 <= REQUESTS_MAX;
        if is_possible {
            self.requests = spent;
            self.halve(piece);
        }
        is_possible
    }
}

/// Where pages are torn, as closely as that is known: these windows are read by themselves, so that what is around them
/// need not be halved again.
#[derive(Debug, Default)]
pub struct TornWindows(Vec<TornWindow>);

#[derive(Clone, Copy, Debug)]
struct TornWindow {
    window: Window,
    /// Whether it was found second by second.
    is_narrow: bool,
}

impl TornWindows {
    /// Whether a window is as short as can be, or known to be torn in each of its seconds: then its pages are made smaller.
    pub fn is_narrow(&self, window: Window) -> bool {
        let holds = |known: &TornWindow| known.window.start <= window.start && window.end <= known.window.end;
        window.length() <= SPAN_MIN || self.0.iter().any(|known| known.is_narrow && holds(known))
    }

    /// Takes note of a window that was read: whether it has a torn page.
    pub fn note(&mut self, mut window: Window, is_torn: bool) {
        let is_narrow = self.is_narrow(window);
        self.0.retain(|known| known.window.end <= window.start || window.end <= known.window.start);
        if !is_torn {
            return;
        }
        // A torn row is in the margins of its neighbours, too: one read serves all three.
        self.0.retain(|known| {
            let is_beside = known.window.end == window.start || window.end == known.window.start;
            let joins = is_narrow && known.is_narrow && is_beside;
            if joins {
                window = Window::new(known.window.start.min(window.start), known.window.end.max(window.end));
            }
            !joins
        });
        self.0.push(TornWindow { window, is_narrow });
        if self.0.len() > TORN_MAX {
            self.0.remove(0);
        }
    }

    /// A piece, cut wherever one of them begins or ends, oldest first.
    pub fn cut(&self, Piece { window, how }: Piece) -> Vec<Piece> {
        let ends = self.0.iter().flat_map(|torn| [torn.window.start, torn.window.end]);
        let mut ends: Vec<_> = ends.filter(|end| window.start < *end && *end < window.end).collect();
        ends.push(window.end);
        ends.sort();
        ends.dedup();
        let mut start = window.start;
        let mut part = |end| Piece { window: Window::new(std::mem::replace(&mut start, end), end), how };
        ends.into_iter().map(&mut part).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::coverage::Coverage;
    use super::super::leg::How;
    use super::super::planner::{Cycle, bound};
    use super::super::time::UtcMillis;
    use super::super::watermark::{Delays, Progress};
    use super::super::window_length::WindowLength;
    use super::*;

    fn at(second: i64) -> UtcMillis {
        UtcMillis::new(second * 1_000)
    }

    fn piece(start: i64, end: i64) -> Piece {
        Piece { window: Window::new(at(start), at(end)), how: How::Poll }
    }

    fn seconds(piece: Piece) -> (i64, i64) {
        (piece.window.start.as_millis() / 1_000, piece.window.end.as_millis() / 1_000)
    }

    #[test]
    fn a_window_of_too_many_rows_is_halved_until_it_has_few_and_the_next_ones_are_whole() {
        let mut parts = Parts::new([piece(0, 3_600), piece(3_600, 6_001)].into_iter());
        let mut read = Vec::new();
        while let Some(part) = parts.next(&TornWindows::default()) {
            let (start, end) = seconds(part);
            if start < 1_000 && end - start > 900 { parts.halve(part) } else { read.push((start, end)) }
        }
        assert_eq!(read, [(0, 900), (900, 1_800), (1_800, 3_600), (3_600, 6_001)]);
    }

    #[test]
    fn a_window_of_a_second_is_never_halved() {
        let mut parts = Parts::new([piece(0, 2)].into_iter());
        let torn = TornWindows::default();
        let whole = parts.next(&torn).unwrap();
        assert!(parts.halve_within(whole));
        for second in [(0, 1), (1, 2)] {
            let part = parts.next(&torn).unwrap();
            assert_eq!(seconds(part), second);
            assert!(!parts.halve_within(part));
        }
        assert_eq!(parts.next(&torn), None);
    }

    #[test]
    fn what_is_torn_is_read_by_itself_until_it_is_mended() {
        let mut torn = TornWindows::default();
        let cut = |torn: &TornWindows| torn.cut(piece(0, 60)).into_iter().map(seconds).collect::<Vec<_>>();
        assert_eq!(cut(&torn), [(0, 60)]);
        torn.note(piece(16, 32).window, true);
        assert_eq!(cut(&torn), [(0, 16), (16, 32), (32, 60)]);
        torn.note(piece(16, 24).window, false);
        torn.note(piece(30, 31).window, true);
        assert_eq!(cut(&torn), [(0, 30), (30, 31), (31, 60)]);
        assert!(!torn.is_narrow(piece(30, 32).window) && torn.is_narrow(piece(40, 41).window));
        for second in [32, 31, 40] {
            torn.note(piece(second, second + 1).window, true);
        }
        assert_eq!(cut(&torn), [(0, 30), (30, 33), (33, 40), (40, 41), (41, 60)]);
        assert!(torn.is_narrow(piece(30, 33).window) && !torn.is_narrow(piece(30, 34).window));
        torn.note(piece(30, 33).window, true);
        assert_eq!(cut(&torn), [(0, 30), (30, 33), (33, 40), (40, 41), (41, 60)]);
        torn.note(piece(30, 33).window, false);
        torn.note(piece(40, 41).window, false);
        assert_eq!(cut(&torn), [(0, 60)]);
    }

    #[test]
    fn not_everything_that_is_torn_is_remembered() {
        let mut torn = TornWindows::default();
        (0..1_000).for_each(|second| torn.note(piece(second * 2, second * 2 + 1).window, true));
        assert_eq!(torn.0.len(), TORN_MAX);
        (0..1_000).for_each(|second| torn.note(piece(second, second + 1).window, true));
        assert!(torn.0.len() <= TORN_MAX && torn.is_narrow(piece(0, 1_000).window));
    }

    proptest! {
        /// Whatever is halved: every instant is read once, in order, and within so many requests.
        #[test]
        fn parts_are_the_pieces(
            lengths in vec(1_i64..5_000, 1..4),
            badness in vec(any::<bool>(), 1..40),
            pages in vec(1_usize..3, 1..7),
            known in vec((0_i64..9_000, 1_i64..400), 0..5),
        ) {
            let mut start = 0;
            let pieces: Vec<Piece> = lengths.iter().map(|length| { start += length; piece(start - length, start) }).collect();
            let mut torn = TornWindows::default();
            known.into_iter().for_each(|(start, length)| torn.note(piece(start, start + length).window, true));
            let mut parts = Parts::new(pieces.clone().into_iter());
            let (mut badness, mut pages) = (badness.into_iter().cycle(), pages.into_iter().cycle());
            let (mut done, mut end, mut spent) = (Coverage::default(), 0, 0);
            while let Some(part) = parts.next(&torn) {
                let requests = pages.next().unwrap();
                spent += if parts.is_half { requests } else { 0 };
                parts.note_requests(requests, false);
                if badness.next().unwrap() && parts.halve_within(part) {
                    continue;
                }
                prop_assert_eq!(seconds(part).0, end);
                end = seconds(part).1;
                done.add(part.window);
                prop_assert!(pieces.iter().any(|piece| piece.window.start <= part.window.start && part.window.end <= piece.window.end));
            }
            prop_assert_eq!(end, start);
            prop_assert_eq!(done.windows(), &[piece(0, start).window]);
            // Those that waited may take a page more than one.
            prop_assert!(spent <= 2 * REQUESTS_MAX, "{}", spent);
        }

        /// Whichever parts end well, in however many polls: no watermark passes one that did not.
        #[test]
        fn what_did_not_end_well_is_never_declared_read(
            polls in vec((1_i64..20_000, vec(any::<bool>(), 1..8)), 1..8),
            window_max_s in 60_u64..7_200,
        ) {
            let [settle, overlap, horizon] = [60, 1_800, 86_400].map(Duration::from_secs);
            let delays = Delays { settle, overlap, horizon };
            let mut progress = Progress::starting_at(at(0), &delays);
            let (mut read, mut now) = (Coverage::default(), 0);
            for (waited, outcomes) in polls {
                now += waited;
                let mut ends_well = outcomes.into_iter().cycle();
                let length = WindowLength::new(Duration::from_secs(window_max_s));
                let mut parts = Parts::new(Cycle::behind(progress.marks(), bound(at(now)), &delays, length));
                while let Some(part) = parts.next(&TornWindows::default()) {
                    parts.note_requests(1, false);
                    if ends_well.next().unwrap() {
                        read.add(part.window);
                        progress.advance(part.window, at(now), &delays);
                    } else {
                        parts.halve_within(part);
                    }
                }
                let whole = Window::new(at(0), progress.complete_to);
                let is_read = |first: &Window| first.start <= whole.start && whole.end <= first.end;
                prop_assert!(whole.is_empty() || read.windows().first().is_some_and(is_read));
            }
        }

        /// With pages that never end well, in windows of any length.
        #[test]
        fn sixteen_requests_are_enough_for_halves(length in 1_i64..1_000_000) {
            let mut parts = Parts::new([piece(0, length)].into_iter());
            let mut requests = 0;
            while let Some(part) = parts.next(&TornWindows::default()) {
                requests += 1;
                parts.note_requests(1, false);
                parts.halve_within(part);
            }
            prop_assert!(requests <= REQUESTS_MAX, "{}", requests);
            prop_assert!(length < 128 || requests == REQUESTS_MAX - 1, "{}", requests);
        }
    }
}
