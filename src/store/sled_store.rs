//! The store on sled: a small database for progress, and one for each UTC day of identities.
//!
//! ```text
//!   <state.dir>/store/progress/           "layout" → 1, unit → progress as JSON
//!   <state.dir>/store/identities-<day>/   key hash (16 bytes) → fingerprint version, fingerprint (7), revision
//! ```
//!
//! sled never gives disk space back to the file system, so forgetting is deleting a day's directory.
//! Batches stay small because sled keeps memory in proportion to its largest ones.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use sled::{Batch, Db, Mode};

use super::{Entry, Store, StoreError};
use crate::core::dedupe::Seen;
use crate::core::identity::{Fingerprint, KeyHash};
use crate::core::time::{UtcMillis, Window};
use crate::core::watermark::Progress;

const LAYOUT: &str = "1";
const LAYOUT_KEY: &[u8] = b"\0layout";
const DAY_PREFIX: &str = "identities-";
const DAY_MS: i64 = 86_400_000;

/// Large batches of random keys cost sled memory that it never returns: at 800,000 keys a day and this
/// cache, batches of 500 took 1 GiB in a day and batches of 100 stayed below 72 MiB.
const BATCH_MAX: usize = 100;

/// Per database; about ten are open at the default horizon.
const CACHE_BYTES: u64 = 8 << 20;

/// The identity store and the units' progress in a state directory.
pub struct SledStore {
    dir: PathBuf,
    progress: Db,
    /// By days since the epoch.
    days: Mutex<BTreeMap<i64, Db>>,
}

impl SledStore {
    /// Opens what is below `state_dir`, or starts an empty store there.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        let dir = state_dir.join("store");
        fs::create_dir_all(&dir).map_err(|source| StoreError::Io { doing: "create", path: dir.clone(), source })?;
        let progress = open(&dir.join("progress"))?;
        let store = Self { days: Mutex::new(open_days(&dir)?), dir, progress };
        match store.progress.get(LAYOUT_KEY).map_err(|error| store.broken("progress", &error))? {
            Some(found) if found == LAYOUT => {}
            Some(found) => {
                let found = String::from_utf8_lossy(&found).into_owned();
                return Err(StoreError::Layout { path: store.dir, found, expected: LAYOUT });
            }
            None => {
                let written = store.progress.insert(LAYOUT_KEY, LAYOUT).and_then(|_| store.progress.flush());
                written.map_err(|error| store.broken("progress", &error))?;
            }
        }
        Ok(store)
    }

    fn broken(&self, database: &str, error: &sled::Error) -> StoreError {
        StoreError::Broken { path: self.dir.join(database), reason: error.to_string() }
    }

    fn days(&self) -> MutexGuard<'_, BTreeMap<i64, Db>> {
        // The map is whole at every instant: entries come and go one at a time.
        self.days.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The open databases, newest day first: handles that stay valid while a day is dropped.
    fn newest_first(&self) -> Vec<(i64, Db)> {
        self.days().iter().rev().map(|(day, db)| (*day, db.clone())).collect()
    }

    fn day(&self, day: i64) -> Result<Db, StoreError> {
        let mut days = self.days();
        if let Some(db) = days.get(&day) {
            return Ok(db.clone());
        }
        let db = open(&self.dir.join(format!("{DAY_PREFIX}{day}")))?;
        days.insert(day, db.clone());
        Ok(db)
    }
}

impl Store for SledStore {
    fn seen(&self, keys: &[KeyHash]) -> Result<Vec<Option<Seen>>, StoreError> {
        let days = self.newest_first();
        let find = |key: &KeyHash| {
            for (day, db) in &days {
                if let Some(value) =
                    db.get(key.0).map_err(|error| self.broken(&format!("{DAY_PREFIX}{day}"), &error))?
                {
                    return Ok(decode_seen(&value));
                }
            }
            Ok(None)
        };
        keys.iter().map(find).collect()
    }

    fn remember(&self, entries: &[Entry]) -> Result<(), StoreError> {
        let mut by_day: BTreeMap<i64, Vec<&Entry>> = BTreeMap::new();
        for entry in entries {
            by_day.entry(entry.at.as_millis().div_euclid(DAY_MS)).or_default().push(entry);
        }
        for (day, entries) in by_day {
            let db = self.day(day)?;
            let broken = |error| self.broken(&format!("{DAY_PREFIX}{day}"), &error);
            for chunk in entries.chunks(BATCH_MAX) {
                let mut batch = Batch::default();
                for entry in chunk {
                    batch.insert(&entry.key.0, &encode_seen(entry.seen));
                }
                db.apply_batch(batch).map_err(broken)?;
            }
            db.flush().map_err(broken)?;
        }
        Ok(())
    }

    fn progress(&self, unit: &str) -> Result<Option<Progress>, StoreError> {
        let Some(bytes) = self.progress.get(unit).map_err(|error| self.broken("progress", &error))? else {
            return Ok(None);
        };
        let stored: StoredProgress = serde_json::from_slice(&bytes).map_err(|error| StoreError::Broken {
            path: self.dir.join("progress"),
            reason: format!("the progress of unit {unit} cannot be read: {error}"),
        })?;
        Ok(Some(stored.into()))
    }

    fn set_progress(&self, unit: &str, progress: &Progress) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(&StoredProgress::from(progress))
            .map_err(|error| StoreError::Broken { path: self.dir.join("progress"), reason: error.to_string() })?;
        let written = self.progress.insert(unit, bytes).and_then(|_| self.progress.flush());
        written.map(|_| ()).map_err(|error| self.broken("progress", &error))
    }

    fn forget_below(&self, floor: UtcMillis) -> Result<(), StoreError> {
        let first_kept = floor.as_millis().div_euclid(DAY_MS);
        let dropped: Vec<i64> = {
            let mut days = self.days();
            let kept = days.split_off(&first_kept);
            std::mem::replace(&mut *days, kept).into_keys().collect()
        };
        for day in dropped {
            let path = self.dir.join(format!("{DAY_PREFIX}{day}"));
            fs::remove_dir_all(&path).map_err(|source| StoreError::Io { doing: "delete", path, source })?;
        }
        Ok(())
    }
}

fn open_days(dir: &Path) -> Result<BTreeMap<i64, Db>, StoreError> {
    let io = |source| StoreError::Io { doing: "read", path: dir.to_owned(), source };
    let mut days = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(day) = name.strip_prefix(DAY_PREFIX).and_then(|day| day.parse().ok()) {
            days.insert(day, open(&path)?);
        }
    }
    Ok(days)
}

fn open(path: &Path) -> Result<Db, StoreError> {
    sled::Config::new()
        .path(path)
        .cache_capacity(CACHE_BYTES)
        .mode(Mode::LowSpace)
        // Flushed by hand, after each batch: a background flush would only add writes.
        .flush_every_ms(None)
        .open()
        .map_err(|error| StoreError::Broken { path: path.to_owned(), reason: error.to_string() })
}

fn encode_seen(seen: Seen) -> [u8; 9] {
    let mut value = [0; 9];
    if let Some(fingerprint) = seen.fingerprint {
        value[0] = Fingerprint::VERSION;
        value[1..8].copy_from_slice(&fingerprint.bits().to_be_bytes()[1..]);
    }
    value[8] = seen.revision;
    value
}

fn decode_seen(value: &[u8]) -> Option<Seen> {
    let value: &[u8; 9] = value.try_into().ok()?;
    let mut bits = [0; 8];
    bits[1..].copy_from_slice(&value[1..8]);
    let known = value[0] == Fingerprint::VERSION;
    Some(Seen { fingerprint: known.then(|| Fingerprint::from_bits(u64::from_be_bytes(bits))), revision: value[8] })
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StoredProgress {
    complete_to_ms: i64,
    final_to_ms: i64,
    floor_ms: i64,
    coverage_ms: Vec<(i64, i64)>,
}

impl From<&Progress> for StoredProgress {
    fn from(progress: &Progress) -> Self {
        let windows = progress.coverage.windows().iter();
        Self {
            complete_to_ms: progress.complete_to.as_millis(),
            final_to_ms: progress.final_to.as_millis(),
            floor_ms: progress.floor.as_millis(),
            coverage_ms: windows.map(|window| (window.start.as_millis(), window.end.as_millis())).collect(),
        }
    }
}

impl From<StoredProgress> for Progress {
    fn from(stored: StoredProgress) -> Self {
        let windows = stored.coverage_ms.into_iter();
        Self {
            complete_to: UtcMillis::new(stored.complete_to_ms),
            final_to: UtcMillis::new(stored.final_to_ms),
            floor: UtcMillis::new(stored.floor_ms),
            coverage: windows.map(|(start, end)| Window::new(UtcMillis::new(start), UtcMillis::new(end))).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u8, day: i64) -> Entry {
        let seen = Seen { fingerprint: Some(Fingerprint::from_bits(u64::from(number) << 48 | 7)), revision: number };
        Entry { key: KeyHash([number; 16]), at: UtcMillis::new(day * DAY_MS + 5), seen }
    }

    #[test]
    fn identities_and_progress_survive_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let mut progress = Progress {
            complete_to: UtcMillis::new(30),
            final_to: UtcMillis::new(20),
            floor: UtcMillis::new(-10),
            coverage: [Window::new(UtcMillis::new(1), UtcMillis::new(30))].into_iter().collect(),
        };
        {
            let store = SledStore::open(dir.path()).unwrap();
            store.remember(&[entry(1, 20_000), entry(2, 20_001)]).unwrap();
            store.set_progress("acme", &progress).unwrap();
            progress.complete_to = UtcMillis::new(40);
            store.set_progress("other", &progress).unwrap();
        }
        let store = SledStore::open(dir.path()).unwrap();
        let seen = store.seen(&[KeyHash([2; 16]), KeyHash([9; 16]), KeyHash([1; 16])]).unwrap();
        assert_eq!(seen, [Some(entry(2, 0).seen), None, Some(entry(1, 0).seen)]);
        assert_eq!(store.progress("other").unwrap(), Some(progress));
        assert_eq!(store.progress("acme").unwrap().unwrap().complete_to, UtcMillis::new(30));
        assert_eq!(store.progress("nobody").unwrap(), None);
    }

    #[test]
    fn days_below_the_floor_are_forgotten_and_their_files_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let store = SledStore::open(dir.path()).unwrap();
        store.remember(&[entry(1, 20_000), entry(2, 20_001), entry(3, -1)]).unwrap();
        store.forget_below(UtcMillis::new(20_001 * DAY_MS + 100)).unwrap();
        let known: Vec<bool> =
            store.seen(&[1, 2, 3].map(|n| KeyHash([n; 16]))).unwrap().iter().map(Option::is_some).collect();
        assert_eq!(known, [false, true, false], "a day is kept until the floor has left it");
        assert!(
            !dir.path().join("store/identities-20000").exists() && dir.path().join("store/identities-20001").exists()
        );
        store.remember(&[entry(1, 20_000)]).unwrap();
        assert!(store.seen(&[KeyHash([1; 16])]).unwrap()[0].is_some(), "a dropped day can be written again");
    }

    #[test]
    fn more_entries_than_a_batch_takes_are_all_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let store = SledStore::open(dir.path()).unwrap();
        let entries: Vec<Entry> = (0..1201u32)
            .map(|number| {
                let mut key = [0; 16];
                key[..4].copy_from_slice(&number.to_be_bytes());
                Entry { key: KeyHash(key), ..entry(1, 20_000) }
            })
            .collect();
        store.remember(&entries).unwrap();
        let keys: Vec<KeyHash> = entries.iter().map(|entry| entry.key).collect();
        assert!(store.seen(&keys).unwrap().iter().all(Option::is_some));
    }

    #[test]
    fn a_fingerprint_of_another_version_is_remembered_as_unknown() {
        let mut value = encode_seen(entry(1, 0).seen);
        value[0] = Fingerprint::VERSION + 1;
        assert_eq!(decode_seen(&value), Some(Seen { fingerprint: None, revision: 1 }));
    }

    #[test]
    fn another_layout_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        SledStore::open(dir.path()).unwrap().progress.insert(LAYOUT_KEY, "99").unwrap();
        let refused = SledStore::open(dir.path()).map(|_| ()).unwrap_err();
        assert!(refused.to_string().contains("layout 99"), "{refused}");
    }
}
