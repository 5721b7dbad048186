//! The results of the last queries, kept so that each page need not search and sort again.
//!
//! A memo changes how long an answer takes and never what it says: what it keeps is a function of
//! its key.

use std::sync::{Arc, Mutex, PoisonError};

use crate::sandbox::dataset::{Dataset, Entry, Filter};

/// How many results are kept: more than one client pages through at a time.
const RESULTS_MAX: usize = 8;

/// How many entries all results may hold together, about 120 MB; the newest one is always kept.
const ENTRIES_MAX: usize = 3_000_000;

/// Longer than any leg lasts: a window that lies further back no longer changes with time.
const SETTLED_MS: i64 = 2 * 60 * 60 * 1_000;

const MINUTE_MS: i64 = 60_000;

#[derive(Debug)]
struct Known {
    filter: Filter,
    horizon: i64,
    entries: Arc<[Entry]>,
}

/// The results of the last queries, newest last.
#[derive(Debug, Default)]
pub(super) struct Memo(Mutex<Vec<Known>>);

impl Memo {
    /// What `filter` lets through by `now` and for up to a minute longer.
    pub(super) fn select(&self, dataset: &Dataset, filter: &Filter, now: i64) -> Arc<[Entry]> {
        let minute = (now.div_euclid(MINUTE_MS) + 1).saturating_mul(MINUTE_MS);
        let horizon = minute.min(filter.end.saturating_add(SETTLED_MS));
        if let Some(entries) = self.recall(filter, horizon) {
            return entries;
        }
        // Not under the lock: a second client that asks the same meanwhile works in vain, and
        // others need not wait.
        let entries: Arc<[Entry]> = dataset.select(filter, horizon).into();
        let known = Known { filter: filter.clone(), horizon, entries: Arc::clone(&entries) };
        let mut results = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        results.push(known);
        while results.len() > 1 && (results.len() > RESULTS_MAX || total(&results) > ENTRIES_MAX) {
            results.remove(0);
        }
        entries
    }

    fn recall(&self, filter: &Filter, horizon: i64) -> Option<Arc<[Entry]>> {
        let mut results = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = results.iter().position(|known| known.horizon == horizon && known.filter == *filter)?;
        let known = results.remove(found);
        let entries = Arc::clone(&known.entries);
        results.push(known);
        Some(entries)
    }
}

fn total(results: &[Known]) -> usize {
    results.iter().map(|known| known.entries.len()).sum()
}
