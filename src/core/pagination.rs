//! The protocol of one scroll through a window's pages: when to ask for the next, and whether it was whole.
//!
//! The API's cursor is opaque and promises nothing, so a scroll ends by its own rules: at an empty
//! page, at a missing or closing cursor, and, as a fault, at a cursor that was seen before or at far
//! more rows than the total announced.

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
#[derive(Clone, Debug, PartialEq, Eq)]
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
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FewerRowsThanTotal { rows, total } => {
                write!(f, "the source announced {total} rows and delivered {rows}")
            }
            Self::RepeatedCursor => f.write_str("the source sent the same page cursor twice"),
            Self::Endless { rows } => write!(f, "the source's pages did not end after {rows} rows"),
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
}

impl Scroll {
    /// Takes note of a page and says what comes next.
    pub fn on_page(&mut self, page: PageMeta<'_>) -> Step {
        self.pages += 1;
        self.rows += page.rows as u64;
        if self.pages == 1 {
            self.first_total = page.total;
        }
        if page.rows == 0 {
            return self.end();
        }
        self.newest_total = page.total;
        let Some(cursor) = page.cursor.filter(|cursor| !cursor.is_empty() && *cursor != CLOSING_CURSOR) else {
            return self.end();
        };
        if !self.cursors.insert(cursor.to_owned()) {
            return Step::Broken(Fault::RepeatedCursor);
        }
        if self.is_endless(page.rows) {
            return Step::Broken(Fault::Endless { rows: self.rows });
        }
        Step::Next(cursor.to_owned())
    }

    fn end(&self) -> Step {
        match self.total() {
            Some(total) if self.rows < total => Step::Broken(Fault::FewerRowsThanTotal { rows: self.rows, total }),
            _ => Step::Whole,
        }
    }

    /// How many rows there should be, as far as announced.
    pub fn total(&self) -> Option<u64> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds pages of (rows, total, cursor) and gives the last step.
    fn scroll(pages: &[(usize, Option<u64>, Option<&str>)]) -> Step {
        let mut scroll = Scroll::default();
        let mut step = Step::Whole;
        for (index, &(rows, total, cursor)) in pages.iter().enumerate() {
            step = scroll.on_page(PageMeta { rows, total, cursor });
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
            .map(|n| scroll.on_page(PageMeta { rows: 10, total: Some(20), cursor: Some(&n.to_string()) }))
            .find(|step| !matches!(step, Step::Next(_)));
        assert_eq!(endless, Some(Step::Broken(Fault::Endless { rows: 150 })));
    }
}
