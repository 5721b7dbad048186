//! One pass over a window's pages: each is fetched, begins to be made ready, and is passed on, until the scroll ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

use super::ahead::{Ahead, Room, Underway};
use super::fetch::{Fetcher, PageQuery};
use super::read_error::ReadError;
use crate::connector::fault::Fault;
use crate::connector::rows::leg_message::Origin;
use crate::core::pagination::{Fault as ScrollFault, PageMeta, PageSize, Scroll, Step, Torn};
use crate::core::poll::WindowEnd;
use crate::core::query::QueryBounds;
use crate::core::time::Window;
use crate::source::{Recovery, Source};

/// A window that shows more rows than it has announced is taken for one of so many times as many.
const GROWTH_GUESSED: u64 = 4;

/// How many bytes a row of a page has at most, as a rule: room for the first page of a unit is taken before it is asked for.
const ROW_BYTES: usize = 2 << 10;

/// Passes over the pages of one unit's windows.
pub(crate) struct Scroller<S> {
    pub(crate) fetcher: Fetcher<S>,
    ahead: Ahead,
    /// How many rows the longest page has had, of all units.
    longest_page: Arc<AtomicUsize>,
    /// How many bytes the next window's first page may have: as many as that of the window before.
    first_page_bytes: AtomicUsize,
}

/// Which windows a pass gives up before anything of them is published.
#[derive(Clone, Copy)]
pub(super) enum ScrollMax {
    /// Windows that announce more rows than this.
    Rows(Option<u64>),
    Whole(WholeMax),
}

/// How much a window may have that is read whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WholeMax {
    pub(crate) rows: u64,
    pub(crate) bytes: usize,
    /// Whether room is taken for the window.
    pub(crate) takes_room: bool,
}

/// What came of a pass over a window's pages.
pub(super) struct ScrollResult {
    pub(super) end: PassEnd,
    pub(super) pages: PagesSeen,
    /// Whether a page could not be taken apart.
    pub(super) is_torn: bool,
    /// For all pages of the window, where it was read whole.
    pub(super) room: Option<Room>,
}

/// How a pass ended.
#[derive(Clone, Copy)]
pub(super) struct PassEnd {
    pub(super) end: WindowEnd,
    /// How many rows the window should have shown, as far as that is known.
    total: Option<u64>,
}

/// Pages of a window, over all passes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PagesSeen {
    /// How many were asked for.
    pub(crate) requests: usize,
    /// How many of them had rows.
    pub(crate) with_rows: usize,
    /// How many rows the longest had.
    pub(crate) longest: usize,
}

impl<S: Source> Scroller<S> {
    /// Passes of one unit; the length of the longest page is that of all units.
    pub(crate) fn new(fetcher: Fetcher<S>, ahead: Ahead, longest_page: Arc<AtomicUsize>) -> Self {
        let first_page_bytes = AtomicUsize::new(fetcher.unit.pace.page_rows * ROW_BYTES);
        Self { fetcher, ahead, longest_page, first_page_bytes }
    }

    /// Forgets which rows came before: some of them are not published, and are to come in order.
    pub(super) fn forget_rows(&self) {
        self.ahead.forget();
    }

    /// Fetches page after page, and passes each on.
    pub(super) async fn scroll(
        &self,
        bounds: &QueryBounds,
        pages: mpsc::Sender<Underway>,
        origin: &Arc<Origin>,
        max: ScrollMax,
    ) -> Result<ScrollResult, ReadError> {
        let unit = &self.fetcher.unit;
        let mut scroll = Scroll::default();
        let mut size = PageSize::at_most(max.page_rows(unit.pace.page_rows));
        let (mut cursor, mut seen, mut is_torn) = (None, PagesSeen::default(), false);
        let (mut rows, mut bytes) = (0, 0);
        let is_narrow = unit.torn().is_narrow(origin.piece.window);
        let mut room = None;
        if max.takes_room() {
            room = Some(self.room(self.first_page_bytes.load(Ordering::Relaxed)).await?);
        }
        let end = loop {
            let query = PageQuery { cursor: cursor.as_deref(), rows: size.rows(), is_live: origin.piece.how.is_live() };
            let mut page = self.fetcher.fetch(bounds, query).await?;
            seen.note(page.len());
            tracing::debug!(unit = unit.name, rows = page.len(), total = page.total, "page");
            (rows, bytes) = (rows + page.len() as u64, bytes + page.size_bytes());
            if let Some(rows) = max.exceeded(cursor.is_none().then_some(page.total).flatten(), rows, bytes) {
                break WindowEnd::TooManyRows(rows);
            }
            // In a longer window the rows before are used, and its halves have the others.
            let torn = page.rest().map(|rest| if is_narrow { size.on_torn(page.len(), rest) } else { Torn::GiveUp });
            is_torn |= torn.is_some();
            match torn {
                Some(Torn::AskAgain) => continue,
                Some(Torn::Take) => page.bury_rest(),
                Some(Torn::GiveUp) | None => {}
            }
            let longest = self.longest_page.fetch_max(page.len(), Ordering::Relaxed);
            let is_short = size.is_short(page.len(), longest);
            size.on_used();
            let step = match torn {
                Some(Torn::GiveUp) => Step::Broken(ScrollFault::Torn),
                _ => scroll.on_page(PageMeta {
                    rows: page.len(),
                    total: page.total,
                    cursor: page.cursor.as_deref(),
                    is_torn: torn.is_some(),
                    is_short,
                }),
            };
            if max.takes_room() && (cursor.is_none() || room.is_none()) {
                self.first_page_bytes.store(bytes, Ordering::Relaxed);
                // Nobody waits for room while holding some.
                drop(room.take());
                if !page.is_empty() {
                    room = Some(self.room(in_all(page.total, rows, bytes)).await?);
                }
            }
            if !page.is_empty() {
                let underway = match max {
                    ScrollMax::Whole(_) => self.ahead.begin_within(page, unit.clock.now(), origin),
                    ScrollMax::Rows(_) => {
                        unit.until_stopped(self.ahead.begin(page, unit.clock.now(), origin)).await??
                    }
                };
                // If nobody takes the page any more, the taker's own error says why.
                pages.send(underway).await.map_err(|_| Fault::Stopped)?;
            }
            match step {
                Step::Next(next) => cursor = Some(next),
                Step::Whole => break WindowEnd::Whole,
                Step::Broken(fault) => break WindowEnd::Broken(fault),
            }
        };
        let total = scroll.total().filter(|_| !matches!(end, WindowEnd::TooManyRows(_)));
        Ok(ScrollResult { end: PassEnd { end, total }, pages: seen, is_torn, room })
    }

    async fn room(&self, bytes: usize) -> Result<Room, ReadError> {
        Ok(self.fetcher.unit.until_stopped(self.ahead.room(bytes, true)).await??)
    }

    /// Whether a second pass over a window may end better than the first, which has seen so many distinct rows.
    pub(super) fn is_read_again(&self, window: Window, first: &Result<PassEnd, ReadError>, rows: u64) -> bool {
        let unit = &self.fetcher.unit.name;
        match first {
            Ok(PassEnd { end: WindowEnd::Broken(fault), .. }) if fault.is_mended_by_halves() => false,
            Ok(PassEnd { end: WindowEnd::Broken(fault), .. }) => {
                tracing::info!(unit, %window, %fault, "reading the window again");
                true
            }
            // Rows that move from page to page are seen twice, and may hide others that were not seen at all.
            &Ok(PassEnd { total: Some(total), .. }) if rows < total => {
                tracing::debug!(unit, %window, rows, total, "the API gave rows twice: reading the window again");
                true
            }
            Err(ReadError::Source(error)) if error.recovery == Recovery::Reread => {
                tracing::info!(unit, %window, %error, "reading the window again");
                true
            }
            _ => false,
        }
    }
}

impl PagesSeen {
    fn note(&mut self, rows: usize) {
        self.add(Self { requests: 1, with_rows: usize::from(rows > 0), longest: rows });
    }

    pub(super) fn add(&mut self, more: Self) {
        let Self { requests, with_rows, longest } = more;
        self.requests += requests;
        self.with_rows += with_rows;
        self.longest = self.longest.max(longest);
    }
}

/// However small a unit's share is, pages have so many rows.
const PAGE_ROWS_MIN: usize = 20;

impl ScrollMax {
    const fn takes_room(self) -> bool {
        matches!(self, Self::Whole(WholeMax { takes_room: true, .. }))
    }

    /// How many rows a page may have, so that it fits what the window may take; `None` for as many as usual.
    fn page_rows(self, usual: usize) -> Option<usize> {
        match self {
            Self::Whole(WholeMax { bytes, .. }) if bytes / ROW_BYTES < usual => {
                Some((bytes / ROW_BYTES).max(PAGE_ROWS_MIN))
            }
            Self::Whole(_) | Self::Rows(_) => None,
        }
    }

    /// How many rows a window has that is given up: at least so many, by what its first page announces or by what has come.
    fn exceeded(self, announced: Option<u64>, rows: u64, bytes: usize) -> Option<u64> {
        match self {
            Self::Rows(max) => announced.filter(|announced| max.is_some_and(|max| *announced > max)),
            Self::Whole(WholeMax { rows: max, bytes: bytes_max, .. }) => {
                let in_all = in_all(announced, rows, bytes);
                // Later pages announce nothing here: what has come exceeds the announcement, and nobody knows by how much.
                let is_untrue = rows > max + max / 4 || bytes > bytes_max + bytes_max / 4;
                let by_bytes = (in_all > bytes_max).then(|| scaled(max, in_all, bytes_max));
                match announced {
                    // All of the window is here.
                    Some(announced) if announced <= rows => None,
                    Some(announced) => Some(announced).filter(|announced| *announced > max).max(by_bytes),
                    None => is_untrue.then(|| rows.max(max).saturating_mul(GROWTH_GUESSED)),
                }
            }
        }
    }
}

/// How many bytes so many announced rows are, if they are as long as those that have come.
fn in_all(announced: Option<u64>, rows: u64, bytes: usize) -> usize {
    announced
        .map_or(bytes, |announced| scaled(bytes as u64, announced as usize, rows.max(1) as usize) as usize)
        .max(bytes)
}

fn scaled(value: u64, by: usize, of: usize) -> u64 {
    let scaled = u128::from(value) * by as u128 / of.max(1) as u128;
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_fits_the_share_of_its_unit() {
        let rows = |bytes| ScrollMax::Whole(WholeMax { rows: 5_000, bytes, takes_room: false }).page_rows(1_000);
        assert_eq!(rows(7 << 20), None, "as many as usual");
        assert_eq!(rows(7 << 20 >> 3), Some(448), "one of eight units that catch up together");
        assert_eq!(rows(7 << 10), Some(PAGE_ROWS_MIN), "one of a thousand");
        assert_eq!(ScrollMax::Rows(None).page_rows(1_000), None);
    }
}
