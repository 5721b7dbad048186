//! A window read whole: all its rows are in memory, put into order and judged, before the first of them is published.

use std::sync::Arc;

use super::ahead::Ahead;
use super::doubt::{doubt, judge};
use super::plan::PlannedRead;
use super::read_error::ReadError;
use super::scroll::{PagesSeen, PassEnd, ScrollMax, ScrollResult, Scroller, WholeMax};
use super::unit::UnitContext;
use super::whole::{Said, WholeWindow};
use crate::connector::fault::Fault;
use crate::connector::write::request::{Lane, UnitRows, Verdict};
use crate::connector::write::transaction::PAGE_ENTRIES_MAX;
use crate::core::dead_letter::DeadRows;
use crate::core::dedupe::Counts;
use crate::core::poll::{Judgement, WindowEnd};
use crate::core::query::QueryBounds;
use crate::core::shape::Doubt;
use crate::core::time::UtcMillis;
use crate::core::watermark::Reach;
use crate::source::{Source, SourceError};

/// A window that was read whole and is not published yet.
pub(crate) struct WholeRead {
    pub(crate) planned: PlannedRead,
    rows: WholeWindow,
    /// When the newest pass began.
    begun_at: UtcMillis,
    pub(crate) ended: Result<WindowEnd, SourceError>,
    pub(crate) pages: PagesSeen,
    /// What is thought of the window.
    pub(crate) judgement: Judgement,
    /// How far the unit has come once the window is published.
    pub(crate) reaches: Vec<Reach>,
}

impl WholeRead {
    /// Reads a window, once more if the first pass was not whole and the second may be. A read that breaks off keeps its rows.
    ///
    /// # Errors
    /// Only such as leave nothing to publish.
    pub(super) async fn read<S: Source>(
        scroller: &Scroller<S>,
        planned: PlannedRead,
        max: WholeMax,
    ) -> Result<Self, ReadError> {
        let (window, unit) = (planned.piece.window, &scroller.fetcher.unit);
        let bounds = scroller.fetcher.bounds(window)?;
        let no_rows = || WholeWindow::new(bounds.asked, unit.pace.belief.time_basis);
        let mut read = Self::new(planned, no_rows(), unit.clock.now());
        for is_second in [false, true] {
            if is_second {
                read.rows.begin_second_pass();
            }
            let ended = read.read_once(scroller, &bounds, max).await;
            let is_read_again = !is_second && scroller.is_read_again(window, &ended, read.rows.rows_of_pass());
            read.ended = match ended {
                Ok(PassEnd { end, .. }) => Ok(end),
                Err(ReadError::Source(error)) => Err(error),
                Err(error) => return Err(error),
            };
            if !is_read_again {
                break;
            }
        }
        if matches!(read.ended, Ok(WindowEnd::TooManyRows(_))) {
            scroller.forget_rows();
            // With the rows goes their room, which the next read waits for.
            read.rows = no_rows();
        } else {
            read.rows.sort();
            read.judge(unit).await?;
        }
        Ok(read)
    }

    fn new(planned: PlannedRead, rows: WholeWindow, begun_at: UtcMillis) -> Self {
        Self {
            planned,
            rows,
            begun_at,
            ended: Ok(WindowEnd::Whole),
            pages: PagesSeen::default(),
            judgement: Judgement::default(),
            reaches: Vec::new(),
        }
    }

    /// One pass over the window's pages, all of which are kept.
    async fn read_once<S: Source>(
        &mut self,
        scroller: &Scroller<S>,
        bounds: &QueryBounds,
        max: WholeMax,
    ) -> Result<PassEnd, ReadError> {
        let unit = &scroller.fetcher.unit;
        let origin = self.planned.origin(unit);
        let (pages, mut received) = Ahead::channel();
        self.begun_at = unit.clock.now();
        // The second pass has the room of the first.
        let max = WholeMax { takes_room: max.takes_room && self.rows.room.is_none(), ..max };
        let keeping = async {
            while let Some(page) = received.recv().await {
                self.rows.add(page.ready().await?);
            }
            Ok::<(), Fault>(())
        };
        let (scrolled, kept) = tokio::join!(scroller.scroll(bounds, pages, &origin, ScrollMax::Whole(max)), keeping);
        kept?;
        let ScrollResult { end, pages, is_torn, room } = scrolled?;
        self.rows.room = self.rows.room.take().or(room);
        self.pages.add(pages);
        unit.torn().note(self.planned.piece.window, is_torn);
        Ok(end)
    }

    /// Judges the window before its first row is published.
    async fn judge(&mut self, unit: &UnitContext) -> Result<(), Fault> {
        let Said { shape, contradiction, dead_for } = self.rows.says();
        let mut doubt = doubt(shape, self.planned.leniency, &unit.pace.belief);
        self.planned.dead_rows = if shape.no_legs == 0 {
            DeadRows::Buried
        } else if doubt.is_some() {
            DeadRows::Held
        } else {
            let Verdict { dead_rows, undecided } = judge(unit, self.planned, self.rows.judged()).await?;
            doubt = (dead_rows == DeadRows::Held).then_some(Doubt::Dead(undecided, dead_for));
            dead_rows
        };
        self.judgement = Judgement { shape, contradiction, doubt };
        Ok(())
    }

    /// Publishes the window by itself; gives what became of its rows, and how far the unit has come if that did not go
    /// with them.
    pub(super) async fn publish(mut self, unit: Arc<UnitContext>) -> Result<(Counts, Vec<Reach>), ReadError> {
        let mut counts = Counts::default();
        while let Some(count) = self.rows.chunk_len(PAGE_ENTRIES_MAX) {
            counts += unit.publish(Lane::Live, self.take_unit_rows(&unit.name, count, true)).await?.0;
        }
        Ok((counts, self.reaches))
    }

    /// The rows that are still to be published.
    pub(super) const fn rows(&self) -> &WholeWindow {
        &self.rows
    }

    /// So many of the first rows, for a transaction. How far the unit has come goes with the last rows of a window, if
    /// all of the window may be published now (`is_whole`).
    pub(super) fn take_unit_rows(&mut self, unit: &str, count: usize, is_whole: bool) -> UnitRows {
        let rows = self.rows.take(count);
        let is_last = is_whole && self.rows.first_time().is_none();
        let reaches = if is_last { std::mem::take(&mut self.reaches) } else { Vec::new() };
        UnitRows { reaches, ..self.planned.unit_rows(unit, self.rows.asked(), self.begun_at, rows) }
    }

    /// A window without a row.
    #[cfg(test)]
    pub(super) fn empty(piece: crate::core::planner::Piece) -> Self {
        use crate::core::course::Leniency;
        use crate::core::leg::TimeBasis;
        let planned = PlannedRead::older(piece, 0, piece.window.start, Leniency::None);
        Self::new(planned, WholeWindow::new(piece.window, TimeBasis::Disconnect), piece.window.start)
    }
}
