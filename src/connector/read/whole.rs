//! A window that was read whole: its rows, each once, and their order.
//!
//! Legs go by the time at which they were disconnected, then by their call IDs and leg IDs; what is no leg comes last. In
//! this order chunks survive kills: what was published is the beginning of it.

use std::sync::Arc;

use rustc_hash::FxHashSet;

use super::ahead::{Room, chunk_len};
use crate::connector::rows::prepare::{Prepared, What};
use crate::connector::write::request::{RowPlace, Rows};
use crate::core::chunk::is_astray;
use crate::core::leg::TimeBasis;
use crate::core::poll::Shape;
use crate::core::time::{UtcMillis, Window};
use crate::hooks::{self, Mutant};

/// The rows of a window, of one pass over its pages or of two.
#[derive(Default)]
pub(crate) struct WholeWindow {
    pages: Vec<Arc<Prepared>>,
    places: Vec<RowPlace>,
    /// How many of the rows, once they are in order, were taken for transactions.
    taken: usize,
    /// Each row that is there: its key, and of a leg its content.
    rows: FxHashSet<(u64, u64)>,
    /// Every row of the newest pass, by the halves of their keys.
    pass: FxHashSet<u64>,
    /// Kept until all of it is published.
    pub(crate) room: Option<Room>,
}

impl WholeWindow {
    /// Begins a pass over the window's pages.
    pub(crate) fn begin_pass(&mut self) {
        self.pass.clear();
    }

    /// Takes in a page, but for the rows that are there already.
    pub(crate) fn add(&mut self, page: Prepared) {
        let (number, before) = (self.pages.len(), self.places.len());
        for index in 0..page.len() {
            let ready = page.row(index).ready();
            let content = match &ready.what {
                What::Leg(leg, _) => leg.fingerprint.bits(),
                What::Dead(_) | What::Unfinished => 0,
            };
            self.pass.insert(ready.key.half());
            if self.rows.insert((ready.key.half(), content))
                && let (Ok(page), Ok(row)) = (u32::try_from(number), u32::try_from(index))
            {
                self.places.push(RowPlace { page, row });
            }
        }
        if self.places.len() > before {
            self.pages.push(Arc::new(page));
        }
    }

    /// How many distinct rows the newest pass has seen.
    pub(crate) fn rows_of_pass(&self) -> u64 {
        self.pass.len() as u64
    }

    /// Puts the rows into the order in which they are published.
    pub(crate) fn sort(&mut self) {
        if hooks::is_mutant(Mutant::AsItComes) {
            return;
        }
        let row = |place: &RowPlace| self.pages[place.page as usize].row(place.row as usize);
        self.places.sort_by_cached_key(|place| row(place).time());
        for same in self.places.chunk_by_mut(|a, b| row(a).time() == row(b).time()) {
            if same.len() > 1 {
                same.sort_by_cached_key(|place| row(place).ids());
            }
        }
    }

    /// The rows of the next transaction, at most `rows_max`; they are gone then.
    pub(crate) fn take_chunk(&mut self, rows_max: usize) -> Option<Rows> {
        let count = chunk_len(&self.pages, &self.places[self.taken..], rows_max);
        (count > 0).then(|| self.take(count))
    }

    /// So many of the first rows; they are gone then.
    pub(crate) fn take(&mut self, count: usize) -> Rows {
        let end = self.places.len().min(self.taken + count);
        let places = self.places[self.taken..end].to_vec();
        self.taken = end;
        Rows { pages: self.pages.clone(), places }
    }

    /// The time of the first row; `None` when none is left.
    pub(crate) fn first_time(&self) -> Option<UtcMillis> {
        self.places.get(self.taken).map(|place| self.time(*place))
    }

    /// How many of the first rows, up to `max`, lie before `end`; before the end of time lie all.
    pub(crate) fn count_before(&self, end: UtcMillis, max: usize) -> usize {
        let left = &self.places[self.taken..];
        if end == UtcMillis::new(i64::MAX) {
            return left.len().min(max);
        }
        left.partition_point(|place| self.time(*place) < end).min(max)
    }

    /// All rows.
    pub(crate) fn all(&self) -> Rows {
        Rows { pages: self.pages.clone(), places: self.places.clone() }
    }

    /// What kinds of rows there are, where this span was asked for.
    pub(crate) fn shape(&self, asked: Window, basis: TimeBasis) -> Shape {
        let mut shape = Shape { rows: self.places.len() as u64, ..Shape::default() };
        for place in &self.places {
            match &self.pages[place.page as usize].row(place.row as usize).ready().what {
                What::Leg(leg, _) => {
                    shape.astray += u64::from(is_astray(leg.at, leg.disconnected, asked, basis));
                }
                What::Dead(_) => shape.no_legs += 1,
                What::Unfinished => {}
            }
        }
        shape
    }

    /// How many bytes so many of the first rows have.
    pub(crate) fn bytes(&self, count: usize) -> usize {
        let row_bytes = |place: &RowPlace| self.pages[place.page as usize].row(place.row as usize).raw_bytes();
        self.places[self.taken..].iter().take(count).map(row_bytes).sum()
    }

    fn time(&self, place: RowPlace) -> UtcMillis {
        self.pages[place.page as usize].row(place.row as usize).time()
    }
}
