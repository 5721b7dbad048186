//! A window that was read whole: its rows, each once, and their order.
//!
//! Legs go by the time at which they were disconnected, then by their call IDs and leg IDs; what is no leg comes last. In
//! this order chunks survive kills: what was published is the beginning of it.

use std::collections::hash_map::Entry;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::ahead::{Room, chunk_len};
use crate::connector::rows::prepare::{Prepared, What};
use crate::connector::write::request::{JudgedRows, RowPlace, Rows};
use crate::core::chunk::is_astray;
use crate::core::dead_letter::Reason;
use crate::core::leg::TimeBasis;
use crate::core::shape::Shape;
use crate::core::time::{UtcMillis, Window};
use crate::core::zone::{Contradiction, ZoneTally};
use crate::hooks::{self, Mutant};

/// The rows of a window, of one pass over its pages or of two.
pub(crate) struct WholeWindow {
    /// The span of time that the query asked for, margins included.
    asked: Window,
    basis: TimeBasis,
    /// What kinds of rows the newest pass has seen.
    shape: Shape,
    /// How often it has seen each row that is no leg, by half its key.
    dead: FxHashMap<u64, u64>,
    pages: Vec<Arc<Prepared>>,
    places: Vec<RowPlace>,
    /// How many of the rows, once they are in order, were taken for transactions.
    taken: usize,
    /// Each row that is there: half its key, and of a leg its content.
    rows: FxHashMap<u64, u64>,
    /// Legs that are there with another content, too.
    changed: FxHashSet<(u64, u64)>,
    /// Every row of the second pass, by the halves of their keys; of the first pass all are in `rows`.
    second: Option<FxHashSet<u64>>,
    /// Kept until all of it is published.
    pub(crate) room: Option<Room>,
}

/// What the rows of a window say.
pub(crate) struct Said {
    pub(crate) shape: Shape,
    pub(crate) contradiction: Option<Contradiction>,
    /// Why the first row is no leg that is none.
    pub(crate) dead_for: Option<Reason>,
}

impl WholeWindow {
    pub(crate) fn new(asked: Window, basis: TimeBasis) -> Self {
        Self {
            asked,
            basis,
            shape: Shape::default(),
            dead: FxHashMap::default(),
            pages: Vec::new(),
            places: Vec::new(),
            taken: 0,
            rows: FxHashMap::default(),
            changed: FxHashSet::default(),
            second: None,
            room: None,
        }
    }

    /// The span of time that the query asked for, margins included.
    pub(crate) const fn asked(&self) -> Window {
        self.asked
    }

    /// Begins a second pass over the window's pages.
    pub(crate) fn begin_second_pass(&mut self) {
        self.second = Some(FxHashSet::default());
        (self.shape, self.dead) = (Shape::default(), FxHashMap::default());
    }

    /// Takes in a page, but for the rows that are there already.
    pub(crate) fn add(&mut self, page: Prepared) {
        let (number, before) = (self.pages.len(), self.places.len());
        for index in 0..page.len() {
            let ready = page.row(index).ready();
            let content = match &ready.what {
                What::Leg(leg, _) => {
                    self.shape.astray += u64::from(is_astray(leg.at, leg.disconnected, self.asked, self.basis));
                    leg.fingerprint.bits()
                }
                What::Dead(_) => {
                    self.shape.no_legs += 1;
                    *self.dead.entry(ready.key.half()).or_default() += 1;
                    0
                }
                What::Unfinished => 0,
            };
            self.shape.rows += 1;
            if self.is_new(ready.key.half(), content)
                && let (Ok(page), Ok(row)) = (u32::try_from(number), u32::try_from(index))
            {
                self.places.push(RowPlace { page, row });
            }
        }
        if self.places.len() > before {
            self.pages.push(Arc::new(page));
        }
    }

    /// Takes note of a row, and says whether it was not there with this content.
    fn is_new(&mut self, key: u64, content: u64) -> bool {
        self.second.iter_mut().for_each(|second| _ = second.insert(key));
        match self.rows.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(content);
                true
            }
            Entry::Occupied(entry) => *entry.get() != content && self.changed.insert((key, content)),
        }
    }

    /// How many distinct rows the newest pass has seen.
    pub(crate) fn rows_of_pass(&self) -> u64 {
        self.second.as_ref().map_or(self.rows.len(), FxHashSet::len) as u64
    }

    /// Puts the rows into the order in which they are published.
    pub(crate) fn sort(&mut self) {
        if hooks::is_mutant(Mutant::AsItComes) {
            return;
        }
        let row = |place: &RowPlace| self.pages[place.page as usize].row(place.row as usize);
        self.places.sort_by_cached_key(|place| row(place).time());
        for same in self.places.chunk_by_mut(|a, b| row(a).time() == row(b).time()) {
            // Legs that are all known come again as they were: none of them is published.
            if same.len() > 1 && same.iter().any(|place| row(place).has_message()) {
                same.sort_by(|a, b| row(a).cmp_ids(row(b)));
            }
        }
    }

    /// How many rows the next transaction takes, at most `rows_max`; `None` when none is left.
    pub(crate) fn chunk_len(&self, rows_max: usize) -> Option<usize> {
        Some(chunk_len(&self.pages, &self.places[self.taken..], rows_max)).filter(|count| *count > 0)
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

    /// All rows, and how often each came that is no leg.
    pub(crate) fn judged(&self) -> JudgedRows {
        JudgedRows::Whole(Rows { pages: self.pages.clone(), places: self.places.clone() }, self.dead.clone())
    }

    /// What the rows say.
    pub(crate) fn says(&self) -> Said {
        let (mut zone, mut dead_for) = (ZoneTally::default(), None);
        for place in &self.places {
            let row = self.pages[place.page as usize].row(place.row as usize);
            match &row.ready().what {
                What::Leg(leg, _) => zone.note(leg.texts, || row.contradiction()),
                What::Dead(reason) => _ = dead_for.get_or_insert(*reason),
                What::Unfinished => {}
            }
        }
        Said { shape: self.shape, contradiction: zone.contradiction(), dead_for }
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
