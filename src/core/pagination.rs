//! The protocol of one scroll through a window's pages: when to ask for the next, and whether it was whole.
//!
//! The API's cursor is opaque and promises nothing, so a scroll ends by its own rules: at an empty
//! page, at a closing cursor, at a missing one if as many rows came as were announced, at a short page that
//! completes what was announced, and, as a fault, at a cursor that was seen before or at far more rows than the total announced. A page with rows that
//! has neither a cursor nor a total ends nothing: rows may follow that nobody can ask for.

use std::collections::HashSet;
use std::fmt;

/// The cursor that the API sends on its closing page.
pub const CLOSING_CURSOR: &str = "No Data";

/// A scroll that was promised no total may not go on for longer than this.
const PAGES_MAX: u32 = 100_000;

/// What a page says about its place in the scroll.
#[derive(Clone, Copy, Debug)]
pub struct PageMeta<'a> {
    /// How many rows the page holds.
    pub rows: usize,
    /// How many rows the whole query has, as the page announces it.
    pub total: Option<u64>,
    /// Where the next page starts.
    pub cursor: Option<&'a str>,
    /// Whether one of its rows stands for a part of the body of which nobody knows how many rows it holds.
    pub is_torn: bool,
    /// Whether the source has shown a longer page, so that it could have put more rows on this one.
    pub is_short: bool,
}

/// What to do after a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask for the page at this cursor.
    Next(String),
    /// The window was read to its last page.
    Whole,
    /// The scroll ended, but the window was not read whole.
    Broken(Fault),
}

/// Why a scroll cannot vouch for its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It ended with fewer rows than announced.
    FewerRowsThanTotal {
        /// Rows read.
        rows: u64,
        /// Rows announced.
        total: u64,
    },
    /// A page sent a cursor that an earlier page of the scroll had sent.
    RepeatedCursor,
    /// It went on far beyond the announced total.
    Endless {
        /// Rows read until it was given up.
        rows: u64,
    },
    /// A page with rows had neither a cursor nor a total, so it may not have been the last.
    OpenEnd,
    /// A page's rows could not be told apart.
    Torn,
}

impl Fault {
    /// Whether a shorter window may end well: the same one ends no better.
    pub const fn is_mended_by_halves(&self) -> bool {
        matches!(self, Self::OpenEnd | Self::Torn)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FewerRowsThanTotal { rows, total } => {
                write!(f, "the source announced {total} rows and delivered {rows}")
            }
            Self::RepeatedCursor => f.write_str("the source sent the same page cursor twice"),
            Self::Endless { rows } => write!(f, "the source's pages did not end after {rows} rows"),
            Self::OpenEnd => f.write_str(
                "the source sent a page with rows and with neither a page cursor nor a total that can be read, so more rows may follow",
            ),
            Self::Torn => f.write_str("the source sent a page in which no row's end can be found from some place on"),
        }
    }
}

/// One pass over the pages of a window.
#[derive(Debug, Default)]
pub struct Scroll {
    pages: u32,
    rows: u64,
    /// The least of the first page's total and the newest: rows that appear while paging lie above
    /// the cursor and are the next poll's, rows that vanish cannot be delivered.
    first_total: Option<u64>,
    newest_total: Option<u64>,
    cursors: HashSet<String>,
    /// Whether a part of a body counts as one row, so that no total can be held against the rows.
    is_torn: bool,
}

impl Scroll {
    /// Takes note of a page and says what comes next.
    pub fn on_page(&mut self, page: PageMeta<'_>) -> Step {
        self.pages += 1;
        self.rows += page.rows as u64;
        self.is_torn |= page.is_torn;
        // A total of fewer rows than the page itself has is none.
        let total = page.total.filter(|total| page.rows as u64 <= *total);
        if self.pages == 1 {
            self.first_total = total;
        }
        if page.rows == 0 {
            return if self.is_torn { Step::Whole } else { self.end() };
        }
        self.newest_total = total;
        let cursor = match page.cursor.filter(|cursor| !cursor.trim().is_empty()) {
            Some(CLOSING_CURSOR) => return self.end(),
            Some(cursor) => cursor,
            None if self.announced().is_none() => return Step::Broken(Fault::OpenEnd),
            None => return self.end(),
        };
        if !self.cursors.insert(cursor.to_owned()) {
            return Step::Broken(Fault::RepeatedCursor);
        }
        // A total may be capped at a page's end, but hardly within a page.
        let totals = [self.first_total, self.newest_total];
        if page.is_short && !self.is_torn && totals == [Some(self.rows); 2] {
            return Step::Whole;
        }
        if self.is_endless(page.rows) {
            return Step::Broken(Fault::Endless { rows: self.rows });
        }
        Step::Next(cursor.to_owned())
    }

    fn end(&self) -> Step {
        match self.announced() {
            Some(total) if self.rows < total => Step::Broken(Fault::FewerRowsThanTotal { rows: self.rows, total }),
            _ => Step::Whole,
        }
    }

    /// How many rows there should be, as far as announced and countable.
    pub fn total(&self) -> Option<u64> {
        self.announced().filter(|_| !self.is_torn)
    }

    fn announced(&self) -> Option<u64> {
        match (self.first_total, self.newest_total) {
            (Some(first), Some(newest)) => Some(first.min(newest)),
            (first, newest) => first.or(newest),
        }
    }

    fn is_endless(&self, page_rows: usize) -> bool {
        let announced = self.first_total.max(self.newest_total);
        // Twice the total and ten pages leave room for a busy window that grows while it is read.
        let allowed = announced.map_or(u64::MAX, |total| total.saturating_mul(2).saturating_add(10 * page_rows as u64));
        self.rows > allowed || self.pages >= PAGES_MAX
    }
}

/// Which pages to ask for around a row whose end cannot be found, in a window that cannot be shorter.
///
/// ```text
///   as usual   [ good good good | torn ........
///   3 rows     [ good good good ]
///   1 row                       [ torn ]  twice the same: taken as it is
///   as usual                             [ good ...
/// ```
#[derive(Debug, Default)]
pub struct PageSize {
    /// As many as a page may have where none is torn.
    usual: Option<usize>,
    rows: Option<usize>,
    torn: Option<String>,
    looks: u32,
}

/// What to do about a page whose rows cannot be told apart from some place on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Torn {
    /// Ask for the page again, in the size that is asked for now.
    AskAgain,
    /// It stays as it is: the rest of its body counts as one row.
    Take,
    /// It comes otherwise each time.
    GiveUp,
}

/// How often a page of one row is asked for until it comes twice the same.
const LOOKS_MAX: u32 = 4;

impl PageSize {
    /// Pages of at most so many rows; `None` for as many as the source is usually asked for.
    pub fn at_most(usual: Option<usize>) -> Self {
        Self { usual, ..Self::default() }
    }

    /// How many rows a page may have; `None` for as many as usual.
    pub fn rows(&self) -> Option<usize> {
        self.rows.or(self.usual)
    }

    /// Whether a page of so many rows is shorter than the source could have made it, of which one of `longest` is known.
    pub fn is_short(&self, rows: usize, longest: usize) -> bool {
        rows < self.rows().map_or(longest, |asked| longest.min(asked))
    }

    /// Takes note of a page that was torn after so many good rows, before `rest`.
    pub fn on_torn(&mut self, good: usize, rest: &str) -> Torn {
        if self.rows != Some(1) {
            // Where the good rows cannot be had by themselves either, the source decides about its pages.
            self.rows = Some(if self.rows.is_none() { good.max(1) } else { 1 });
            return Torn::AskAgain;
        }
        self.looks += 1;
        let is_same = self.torn.as_deref() == Some(rest);
        self.torn = Some(rest.to_owned());
        match (is_same, self.looks < LOOKS_MAX) {
            (true, _) => Torn::Take,
            (false, true) => Torn::AskAgain,
            (false, false) => Torn::GiveUp,
        }
    }

    /// Takes note of a page that is used: behind the good rows the torn one comes, and behind that one usual pages.
    pub fn on_used(&mut self) {
        let rows = self.rows.filter(|rows| *rows > 1).map(|_| 1);
        *self = Self { usual: self.usual, rows, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    /// Feeds pages of (rows, total, cursor) and gives the last step.
    fn scroll(pages: &[(usize, Option<u64>, Option<&str>)]) -> Step {
        let mut scroll = Scroll::default();
        let mut step = Step::Whole;
        for (index, &(rows, total, cursor)) in pages.iter().enumerate() {
            step = scroll.on_page(PageMeta { rows, total, cursor, is_torn: false, is_short: false });
            assert!(matches!(step, Step::Next(_)) == (index + 1 < pages.len()), "ended at page {index}: {step:?}");
        }
        step
    }

    #[test]
    fn ends_whole_at_the_closing_page() {
        assert_eq!(
            scroll(&[(50, Some(81), Some("a")), (31, Some(81), Some("b")), (0, Some(0), Some("No Data"))]),
            Step::Whole
        );
    }

    #[test]
    fn ends_whole_at_a_missing_or_closing_cursor() {
        assert_eq!(scroll(&[(50, Some(81), Some("a")), (31, Some(81), None)]), Step::Whole);
        assert_eq!(scroll(&[(50, Some(81), Some("a")), (31, Some(81), Some(""))]), Step::Whole);
        assert_eq!(scroll(&[(31, Some(31), Some("No Data"))]), Step::Whole);
        assert_eq!(scroll(&[(0, Some(0), Some("No Data"))]), Step::Whole);
        assert_eq!(scroll(&[(3, None, Some("a")), (0, None, None)]), Step::Whole);
    }

    #[test]
    fn fewer_rows_than_the_total_is_not_whole() {
        let fault = |rows, total| Step::Broken(Fault::FewerRowsThanTotal { rows, total });
        assert_eq!(
            scroll(&[(50, Some(81), Some("a")), (30, Some(81), Some("b")), (0, Some(0), Some("No Data"))]),
            fault(80, 81)
        );
        assert_eq!(scroll(&[(0, Some(5), Some("No Data"))]), fault(0, 5));
    }

    #[test]
    fn totals_that_change_while_paging_hold_nothing_up() {
        assert_eq!(
            scroll(&[(50, Some(81), Some("a")), (31, Some(90), Some("b")), (0, Some(0), Some("No Data"))]),
            Step::Whole
        );
        assert_eq!(
            scroll(&[(50, Some(81), Some("a")), (30, Some(80), Some("b")), (0, Some(0), Some("No Data"))]),
            Step::Whole
        );
    }

    #[test]
    fn a_repeated_cursor_and_an_endless_scroll_are_faults() {
        assert_eq!(
            scroll(&[(5, Some(99), Some("a")), (5, Some(99), Some("b")), (5, Some(99), Some("a"))]),
            Step::Broken(Fault::RepeatedCursor)
        );
        let mut scroll = Scroll::default();
        let endless = (0..100)
            .map(|n| {
                scroll.on_page(PageMeta {
                    rows: 10,
                    total: Some(20),
                    cursor: Some(&n.to_string()),
                    is_torn: false,
                    is_short: false,
                })
            })
            .find(|step| !matches!(step, Step::Next(_)));
        assert_eq!(endless, Some(Step::Broken(Fault::Endless { rows: 150 })));
    }

    #[test]
    fn a_page_with_neither_cursor_nor_total_ends_nothing() {
        let open = Step::Broken(Fault::OpenEnd);
        assert_eq!(scroll(&[(3, None, None)]), open);
        assert_eq!(scroll(&[(1, None, Some(" "))]), open);
        assert_eq!(scroll(&[(3, None, Some("a")), (1, None, None)]), open);
        assert_eq!(scroll(&[(3, Some(2), None)]), open, "a total of fewer rows than the page has is none");
        let fewer = Step::Broken(Fault::FewerRowsThanTotal { rows: 6, total: 9 });
        assert_eq!(scroll(&[(3, Some(9), Some("a")), (3, None, None)]), fewer);
        for end in [&[(3, Some(3), None)][..], &[(3, None, Some("No Data"))], &[(0, None, None)]] {
            assert_eq!(scroll(end), Step::Whole);
        }
    }

    #[test]
    fn a_short_page_that_completes_what_was_announced_ends_the_window_and_a_full_one_does_not() {
        let page = |rows, total, is_short| PageMeta { rows, total, cursor: Some("a"), is_torn: false, is_short };
        let next = Step::Next("a".to_owned());
        for (rows, total, is_short, expected) in [
            (3, Some(3), true, &Step::Whole),
            (3, Some(3), false, &next),
            (3, Some(4), true, &next),
            (3, None, true, &next),
        ] {
            assert_eq!(Scroll::default().on_page(page(rows, total, is_short)), *expected);
        }
        let mut growing = Scroll::default();
        growing.on_page(page(3, Some(5), false));
        let more = PageMeta { cursor: Some("b"), ..page(2, Some(6), true) };
        assert_eq!(growing.on_page(more), Step::Next("b".to_owned()), "a row has appeared meanwhile");
    }

    #[test]
    fn where_a_part_counts_as_one_row_the_closing_page_decides() {
        let mut scroll = Scroll::default();
        let torn = PageMeta { rows: 1, total: Some(9), cursor: Some("a"), is_torn: true, is_short: true };
        assert_eq!(scroll.on_page(torn), Step::Next("a".to_owned()));
        assert_eq!(
            scroll.on_page(PageMeta { rows: 0, total: Some(0), cursor: None, is_torn: false, is_short: false }),
            Step::Whole
        );
        assert_eq!(scroll.total(), None);
        let last = Scroll::default().on_page(PageMeta { cursor: None, ..torn });
        assert_eq!(last, Step::Broken(Fault::FewerRowsThanTotal { rows: 1, total: 9 }));
        assert_eq!(
            Scroll::default().on_page(PageMeta { cursor: None, total: None, ..torn }),
            Step::Broken(Fault::OpenEnd)
        );
    }

    #[test]
    fn around_a_torn_row_pages_are_small_and_usual_again_behind_it() {
        let mut size = PageSize::default();
        assert_eq!((size.on_torn(7, "x…"), size.rows()), (Torn::AskAgain, Some(7)));
        size.on_used();
        assert_eq!((size.rows(), size.on_torn(0, "x")), (Some(1), Torn::AskAgain));
        assert_eq!((size.on_torn(0, "x"), size.rows()), (Torn::Take, Some(1)));
        size.on_used();
        assert_eq!(size.rows(), None);
    }

    #[test]
    fn a_page_that_is_as_long_as_it_may_be_is_not_short() {
        let usual = PageSize::default();
        assert!(usual.is_short(99, 100) && !usual.is_short(100, 100) && !usual.is_short(5, 0));
        let mut cut = PageSize::at_most(Some(60));
        assert!(cut.is_short(59, 100) && !cut.is_short(60, 100) && cut.is_short(39, 40) && !cut.is_short(40, 40));
        assert_eq!((cut.on_torn(7, "x"), cut.rows()), (Torn::AskAgain, Some(7)));
        assert!(!cut.is_short(7, 100));
        cut.on_used();
        cut.on_used();
        assert_eq!(cut.rows(), Some(60));
    }

    #[test]
    fn a_source_that_decides_about_its_pages_is_not_asked_for_ever() {
        let mut size = PageSize::default();
        let same: Vec<Torn> = (0..4).map(|_| size.on_torn(2, "same")).collect();
        assert_eq!(same, [Torn::AskAgain, Torn::AskAgain, Torn::AskAgain, Torn::Take]);
        let mut size = PageSize::default();
        let other: Vec<Torn> = (0..6).map(|look| size.on_torn(2, &look.to_string())).collect();
        assert_eq!(other[..5], [Torn::AskAgain; 5]);
        assert_eq!(other[5], Torn::GiveUp);
    }

    proptest! {
        /// Whatever pages there are: a window ends whole at an empty page or a closing cursor, or with as many rows as a
        /// total that is not smaller than its own page.
        #[test]
        fn no_scroll_ends_whole_without_a_word_of_it(
            pages in vec((
                0..5_usize,
                select(vec![None, None, Some(0), Some(1), Some(4), Some(9)]),
                select(vec![None, Some(""), Some("a"), Some("b"), Some("c"), Some("No Data")]),
            ), 1..8),
        ) {
            let mut scroll = Scroll::default();
            let (mut rows, mut totals) = (0, Vec::new());
            for (count, total, cursor) in pages {
                rows += count as u64;
                totals.extend(total.filter(|total| count as u64 <= *total && count > 0));
                match scroll.on_page(PageMeta { rows: count, total, cursor, is_torn: false, is_short: false }) {
                    Step::Next(_) => continue,
                    Step::Whole => {
                        let is_said = count == 0 || cursor == Some(CLOSING_CURSOR);
                        prop_assert!(is_said || totals.iter().any(|total| *total <= rows));
                    }
                    Step::Broken(_) => {}
                }
                break;
            }
        }
    }
}
