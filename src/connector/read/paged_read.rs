//! A window read page by page: the rows of a page are published while the next pages are on their way.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::ahead::{Ahead, Queue, Underway};
use super::doubt::{doubt, judge};
use super::plan::PlannedRead;
use super::read_error::ReadError;
use super::scroll::{PassEnd, ScrollMax, ScrollResult, Scroller};
use super::unit::UnitContext;
use crate::connector::fault::Fault;
use crate::connector::write::request::{JudgedRows, Lane, UnitRows};
use crate::connector::write::transaction::PAGE_ENTRIES_MAX;
use crate::core::dead_letter::{DeadRows, Undecided};
use crate::core::dedupe::Counts;
use crate::core::poll::{WindowEnd, WindowTally};
use crate::core::query::QueryBounds;
use crate::core::shape::Doubt;
use crate::core::time::{UtcMillis, Window};
use crate::source::Source;

/// How many rows of an older period go into one transaction: then a poll that is due comes first.
const OLD_ROWS_MAX: usize = 1_000;

/// A window that is read page by page, and what came of it so far.
pub(super) struct PagedRead<'a> {
    planned: PlannedRead,
    /// A window that announces more rows is not read.
    rows_max: Option<u64>,
    /// What became of the rows, summed up over all passes.
    counts: &'a mut Counts,
    /// What the newest pass has seen.
    pub(super) tally: WindowTally,
    /// How many pages were asked for, over all passes.
    pub(super) requests: usize,
    /// Why the window is not believed, if it was read whole.
    pub(super) doubt: Option<Doubt>,
}

impl<'a> PagedRead<'a> {
    /// A read that has not begun. What becomes of the window's rows is added to `counts`.
    pub(super) fn new(planned: PlannedRead, rows_max: Option<u64>, counts: &'a mut Counts) -> Self {
        Self { planned, rows_max, counts, tally: WindowTally::default(), requests: 0, doubt: None }
    }

    /// Reads the window, once more if the first pass was not whole and the second may be.
    ///
    /// Its legs are published as they come. Whether its dead rows are buried is known at its end: then it is read once more.
    pub(super) async fn read<S: Source>(&mut self, scroller: &Arc<Scroller<S>>) -> Result<WindowEnd, ReadError> {
        let (window, unit) = (self.planned.piece.window, &scroller.fetcher.unit);
        let bounds = scroller.fetcher.bounds(window)?;
        let published = self.counts.published;
        let first = self.read_once(scroller, &bounds).await;
        let mut ended = if scroller.is_read_again(window, &first, self.tally.rows.len() as u64) {
            // If a row comes twice in this pass too, the API has it twice.
            self.read_once(scroller, &bounds).await?
        } else {
            first?
        };
        self.doubt = doubt(self.tally.shape, self.planned.leniency, &unit.pace.belief);
        if self.tally.held > 0 && self.doubt.is_none() {
            let counted = Undecided { dead: self.tally.held, legs: 0, published: self.counts.published - published };
            if judge(unit, self.planned, JudgedRows::Counted(counted)).await?.dead_rows == DeadRows::Buried {
                self.planned.dead_rows = DeadRows::Buried;
                ended = self.read_once(scroller, &bounds).await?;
            }
        }
        self.doubt = self.tally.dead_doubt().or(self.doubt);
        Ok(ended.end)
    }

    /// One pass over the window's pages.
    async fn read_once<S: Source>(
        &mut self,
        scroller: &Arc<Scroller<S>>,
        bounds: &QueryBounds,
    ) -> Result<PassEnd, ReadError> {
        self.tally = WindowTally::default();
        let unit = &scroller.fetcher.unit;
        let (pages, received) = Ahead::channel();
        let origin = self.planned.origin(unit);
        let (begun_at, max) = (unit.clock.now(), ScrollMax::Rows(self.rows_max));
        let scrolling = {
            let (scroller, bounds) = (Arc::clone(scroller), bounds.clone());
            let scrolling = async move { scroller.scroll(&bounds, pages, &origin, max).await };
            // A task of its own, so that neither waits while the other computes.
            AbortOnDropHandle::new(tokio::spawn(scrolling.in_current_span()))
        };
        self.publish_pages(unit, bounds.asked, begun_at, received).await?;
        let ScrollResult { end, pages, is_torn, .. } = scrolling.await.map_err(Fault::from)??;
        self.requests += pages.requests;
        unit.torn().note(self.planned.piece.window, is_torn);
        Ok(end)
    }

    async fn publish_pages(
        &mut self,
        unit: &UnitContext,
        asked: Window,
        begun_at: UtcMillis,
        mut pages: mpsc::Receiver<Underway>,
    ) -> Result<(), ReadError> {
        let planned = self.planned;
        let is_live = planned.piece.how.is_live();
        let (lane, rows_max) = if is_live { (Lane::Live, PAGE_ENTRIES_MAX) } else { (Lane::Old, OLD_ROWS_MAX) };
        let mut queue = Queue::default();
        while queue.fill(&mut pages, rows_max).await? {
            let rows = queue.chunk(rows_max);
            let taken = rows.places.len();
            let tally = Some(Box::new(std::mem::take(&mut self.tally)));
            let rows = UnitRows { tally, ..planned.unit_rows(&unit.name, asked, begun_at, rows) };
            let (counts, tally) = unit.publish(lane, rows).await?;
            *self.counts += counts;
            self.tally = tally.map(|tally| *tally).unwrap_or_default();
            queue.drop_first(taken);
        }
        Ok(())
    }
}
