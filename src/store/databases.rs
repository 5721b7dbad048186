//! The view's files: a small database for the head and the pages, and slices of identities.
//!
//! ```text
//!   <state.dir>/store/head/                "layout", "id" of the store, "head" as JSON, one key a page
//!   <state.dir>/store/identities-<seq>/    key hash → entry; a stamp.  Pages from <seq> to the next slice's
//! ```
//!
//! sled never gives disk space back to the file system, so forgetting is deleting a slice's directory.
//! Pages are forgotten in the order of their numbers, whatever the time of their rows: so a slice is a
//! range of page numbers, not a day. It ends when it holds a part of what is needed, there are never many
//! (a backfill of a year makes no more of them than a week of live calls), and the newest slice that knows
//! a key knows its newest page.
//!
//! ```text
//!   apply   slice: stamp "begun", entries, stamp "done", flush ──▶ head, pages, all stamps, flush ──▶ forget
//!                                                             ▲
//!                     a crash before this leaves the slice ahead of the head, which the same apply mends
//! ```
//!
//! A slice whose stamp is neither what the head says nor ahead of it comes from another copy or lost
//! something; so does one whose count is not its stamp's. Then nothing here is trusted. A slice that is
//! ahead must be mended before the head has passed it: if the journal goes on with other pages than
//! those, it has lost them, and the slice with it. Until then what lies beyond the head is not shown.
//!
//! What happens when something cannot be used is decided in [`super::sled_view`].

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sled::{Batch, Db, Mode};

use super::Remembered;
use super::packed::{PackedEntry, Stamp, pack_meta, page_id, page_key, page_keys, seal, unpack_meta, unseal};
use crate::core::identity::KeyHash;
use crate::core::journal::{Nonce, Page, Seq};
use crate::core::ledger::{Head, Ledger, PageId, PageMeta};

/// Increased when older files can no longer be read; they are then rebuilt from the journal.
const LAYOUT: &[u8] = b"5";
const LAYOUT_KEY: &[u8] = b"layout";
const ID_KEY: &[u8] = b"id";
const HEAD_KEY: &[u8] = b"head";

const HEAD_DIR: &str = "head";
const SLICE_PREFIX: &str = "identities-";

/// Large batches of random keys cost sled memory that it never returns: at 800,000 keys a day and this
/// cache, batches of 500 took 1 GiB in a day and batches of 100 stayed below 72 MiB.
const BATCH_MAX: usize = 100;

/// Per database; about ten are open at the default horizon.
const CACHE_BYTES: u64 = 8 << 20;

/// How long this process may take to let go of files that it had open before; no other process has them,
/// since it would hold the state directory's lock.
const CLOSING_MAX: Duration = Duration::from_secs(5);

/// Why the files cannot be used, in words for a log line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unusable(pub(super) String);

type Result<T, E = Unusable> = std::result::Result<T, E>;

impl From<sled::Error> for Unusable {
    fn from(error: sled::Error) -> Self {
        Self(error.to_string())
    }
}

fn damaged<T>(what: &str) -> Result<T> {
    Err(Unusable(format!("{what} is not what was written")))
}

/// How much a slice takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// Below this a slice is not worth its files, in keys.
    pub(super) min: u64,
    /// Above this deleting and checking one takes long, in keys.
    pub(super) max: u64,
}

impl Default for Sizes {
    fn default() -> Self {
        // 19 MB and 190 MB on disk.
        Self { min: 100_000, max: 1_000_000 }
    }
}

/// What the head's database holds beside the pages; written at once, and so always whole.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Record {
    head: Head,
    /// The units' names by their number in entries.
    units: Vec<String>,
    /// The slices by their first page, as they were left.
    slices: BTreeMap<Seq, Stamp>,
    /// The oldest page that is kept; unlike the head's it never falls.
    oldest: Seq,
    /// How many pages are kept.
    pages: u64,
    /// How many entries those have.
    entries: u64,
}

impl Record {
    fn unit(&mut self, name: &str) -> Result<u16> {
        let number = self.units.iter().position(|unit| unit == name).unwrap_or_else(|| {
            self.units.push(name.to_owned());
            self.units.len() - 1
        });
        u16::try_from(number).map_err(|_| Unusable("there are more units than it can hold".to_owned()))
    }

    /// The slice that holds a page; the first holds everything below its own first page too.
    fn slice_of(&self, seq: Seq) -> Option<Seq> {
        self.slices.range(..=seq).next_back().or_else(|| self.slices.first_key_value()).map(|(start, _)| *start)
    }
}

struct Slice {
    db: Db,
    /// As it is on disk, but for the count, which is always right.
    stamp: Stamp,
}

/// The open databases.
pub(super) struct Databases {
    dir: PathBuf,
    sizes: Sizes,
    id: Nonce,
    head: Db,
    /// `None` until the first apply.
    record: Option<Record>,
    slices: BTreeMap<Seq, Slice>,
}

/// An apply's next head, whose entries are written; see [`Databases::write_head`].
pub(super) struct Written {
    record: Record,
    pages: BTreeMap<PageId, PageMeta>,
}

impl Databases {
    /// Opens what is in `dir`, or creates it, and checks all of it. Says `alive` whenever something was done.
    pub(super) fn open(dir: &Path, sizes: Sizes, alive: &mut dyn FnMut()) -> Result<Self> {
        let head = open_database(&dir.join(HEAD_DIR))?;
        alive();
        let (id, record) = match head.get(LAYOUT_KEY)? {
            Some(layout) if layout == LAYOUT => {
                let id = head.get(ID_KEY)?;
                let id = id.as_deref().and_then(unseal).and_then(|id| id.try_into().ok()).map(Nonce);
                let Some(id) = id else { return damaged("the store's id") };
                (id, read_record(&head)?)
            }
            Some(layout) => {
                let layout = String::from_utf8_lossy(&layout).into_owned();
                return Err(Unusable(format!("it has layout {layout}")));
            }
            None => {
                let id = Nonce(rand::random());
                let mut batch = Batch::default();
                batch.insert(LAYOUT_KEY, LAYOUT);
                batch.insert(ID_KEY, seal(&id.0));
                head.apply_batch(batch)?;
                head.flush()?;
                (id, None)
            }
        };
        let mut databases = Self { dir: dir.to_owned(), sizes, id, head, record, slices: BTreeMap::new() };
        databases.check_pages(alive)?;
        let recorded = databases.record.iter().flat_map(|record| &record.slices);
        let recorded: Vec<(Seq, Stamp)> = recorded.map(|(start, stamp)| (*start, *stamp)).collect();
        for (start, stamp) in recorded {
            let slice = databases.open_slice(start, stamp, alive)?;
            databases.slices.insert(start, slice);
        }
        databases.delete_unknown()?;
        Ok(databases)
    }

    fn check_pages(&self, alive: &mut dyn FnMut()) -> Result<()> {
        let Some(record) = &self.record else { return Ok(()) };
        let pages = read_pages(&self.head, record, alive)?;
        let entries = pages.values().map(|page| u64::from(page.entries)).sum::<u64>();
        if (pages.len() as u64, entries) != (record.pages, record.entries) {
            return damaged("the list of pages");
        }
        Ok(())
    }

    fn open_slice(&self, start: Seq, recorded: Stamp, alive: &mut dyn FnMut()) -> Result<Slice> {
        let path = self.slice_dir(start);
        if !path.is_dir() {
            return Err(Unusable(format!("{SLICE_PREFIX}{start} is missing")));
        }
        let db = open_database(&path)?;
        alive();
        let Some((id, mut stamp)) = db.get(Stamp::KEY)?.as_deref().and_then(Stamp::from_bytes) else {
            return damaged(&format!("the stamp of {SLICE_PREFIX}{start}"));
        };
        let head_offset = self.record.as_ref().map_or(0, |record| record.head.next_offset);
        if id != self.id || (stamp != recorded && stamp.offset <= head_offset) {
            return Err(Unusable(format!("{SLICE_PREFIX}{start} and the head are not of the same copy")));
        }
        let mut count = 0;
        for item in db.iter() {
            let (key, value) = item?;
            if *key != *Stamp::KEY {
                entry(&key, &value)?;
                count += 1;
            }
            if count % 10_000 == 0 {
                alive();
            }
        }
        if stamp.done && count != stamp.count {
            return damaged(&format!("the content of {SLICE_PREFIX}{start}"));
        }
        stamp.count = count;
        Ok(Slice { db, stamp })
    }

    /// Slices that the head no longer has or does not have yet: the apply that begins one is repeated.
    fn delete_unknown(&self) -> Result<()> {
        let entries = fs::read_dir(&self.dir).map_err(|error| self.refused("read", &self.dir, &error))?;
        for entry in entries {
            let path = entry.map_err(|error| self.refused("read", &self.dir, &error))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let start = name.strip_prefix(SLICE_PREFIX).and_then(|start| start.parse().ok());
            if start.is_some_and(|start| !self.slices.contains_key(&start)) {
                delete(&path).map_err(|error| self.refused("delete", &path, &error))?;
            }
        }
        Ok(())
    }

    fn refused(&self, doing: &str, path: &Path, error: &std::io::Error) -> Unusable {
        let path = path.strip_prefix(&self.dir).unwrap_or(path);
        Unusable(format!("cannot {doing} {}: {error}", path.display()))
    }

    fn slice_dir(&self, start: Seq) -> PathBuf {
        self.dir.join(format!("{SLICE_PREFIX}{start}"))
    }

    /// The ledger as it was applied last.
    pub(super) fn load(&self) -> Result<Option<Ledger>> {
        let Some(record) = &self.record else { return Ok(None) };
        let pages = read_pages(&self.head, record, &mut || {})?;
        Ok(Some(Ledger { head: record.head.clone(), pages }))
    }

    /// What is remembered of each key.
    pub(super) fn find(&self, keys: &[KeyHash]) -> Result<Vec<Option<Remembered>>> {
        let Some(record) = &self.record else { return Ok(vec![None; keys.len()]) };
        let find = |key: &KeyHash| {
            for slice in self.slices.values().rev() {
                if let Some(value) = slice.db.get(key.0)? {
                    let found = entry(&key.0, &value)?;
                    if found.seq <= record.head.last_seq {
                        return remembered(record, found).map(Some);
                    }
                }
            }
            Ok(None)
        };
        keys.iter().map(find).collect()
    }

    /// Everything that [`Self::find`] would find, by key.
    pub(super) fn all(&self) -> Result<Vec<(KeyHash, Remembered)>> {
        let Some(record) = &self.record else { return Ok(Vec::new()) };
        let mut found: Vec<(KeyHash, PackedEntry)> = Vec::new();
        for slice in self.slices.values().rev() {
            for item in slice.db.iter() {
                let (key, value) = item?;
                if *key != *Stamp::KEY {
                    let entry = entry(&key, &value)?;
                    let Ok(key) = (*key).try_into() else { return damaged("a key") };
                    found.push((KeyHash(key), entry));
                }
            }
        }
        found.retain(|(_, entry)| entry.seq <= record.head.last_seq);
        // Stable: of equal keys the newest slice's comes first and stays.
        found.sort_by_key(|(key, _)| *key);
        found.dedup_by_key(|(key, _)| *key);
        found.into_iter().map(|(key, entry)| Ok((key, remembered(record, entry)?))).collect()
    }

    /// Remembers the pages, then the head, then forgets.
    pub(super) fn apply(&mut self, pages: &[Page], head: Head) -> Result<()> {
        let written = self.write_entries(pages, head)?;
        self.write_head(written)?;
        self.forget()
    }

    /// Puts bytes where an entry belongs.
    #[cfg(test)]
    pub(super) fn poke(&self, slice: Seq, key: &KeyHash, bytes: &[u8]) {
        self.slices[&slice].db.insert(key.0, bytes).unwrap();
    }

    /// The first step: the entries, durable when it returns. The head is as it was.
    pub(super) fn write_entries(&mut self, pages: &[Page], head: Head) -> Result<Written> {
        debug_assert!(pages.iter().all(|page| page.seq <= head.last_seq), "a page beyond its head would not be found");
        let mut record = self.record.clone().unwrap_or_default();
        let known_to = record.head.last_seq;
        let read_to = self.record.as_ref().map_or(i64::MIN, |record| record.head.next_offset);
        record.oldest = record.oldest.max(head.oldest_needed_seq());
        let oldest = record.oldest;
        let mut metas = BTreeMap::new();

        // Pages that nobody needs any more are passed by, but a slice that is ahead may be about them.
        let mut by_slice: BTreeMap<Seq, Vec<&Page>> = BTreeMap::new();
        let mut coming: BTreeMap<Seq, u64> = BTreeMap::new();
        for page in pages.iter().filter(|page| page.seq >= oldest) {
            record.unit(&page.unit)?;
            let start = match record.slice_of(page.seq) {
                Some(start) if page.seq <= known_to || !self.is_full(start, &coming, &record) => start,
                _ => {
                    // Its stamp follows when it is written.
                    let stamp = Stamp { offset: head.next_offset, chain: page.chain(), count: 0, done: false };
                    record.slices.entry(page.seq).or_insert(stamp);
                    page.seq
                }
            };
            by_slice.entry(start).or_default().push(page);
            let meta = PageMeta::of(page);
            *coming.entry(start).or_default() += u64::from(meta.entries);
            metas.insert((page.seq, page.writer), meta);
        }
        let mut ahead = BTreeMap::new();
        for (start, slice) in self.slices.iter().filter(|(_, slice)| slice.stamp.offset > read_to) {
            if pages.iter().any(|page| page.chain() == slice.stamp.chain) {
                by_slice.entry(*start).or_default();
            } else if head.next_offset < slice.stamp.offset {
                ahead.insert(*start, slice.stamp);
            } else {
                return Err(Unusable(format!("{SLICE_PREFIX}{start} has pages that the journal does not have")));
            }
        }

        for (start, pages) in by_slice {
            let last = pages.last().map(|page| page.chain());
            let known = self.slices.get(&start).map(|slice| slice.stamp.chain);
            let (offset, chain) = match ahead.get(&start) {
                Some(ahead) => (ahead.offset, ahead.chain),
                None => (head.next_offset, last.or(known).unwrap_or_default()),
            };
            let stamp = Stamp { offset, chain, count: 0, done: false };
            let stamp = self.write_slice(start, &pages, stamp, &mut record, known_to)?;
            record.slices.insert(start, stamp);
        }
        record.head = head;
        Ok(Written { record, pages: metas })
    }

    fn is_full(&self, start: Seq, coming: &BTreeMap<Seq, u64>, record: &Record) -> bool {
        let count = self.slices.get(&start).map_or(0, |slice| slice.stamp.count) + coming.get(&start).unwrap_or(&0);
        count >= (record.entries / 4).clamp(self.sizes.min, self.sizes.max)
    }

    fn write_slice(
        &mut self,
        start: Seq,
        pages: &[&Page],
        mut stamp: Stamp,
        record: &mut Record,
        known_to: Seq,
    ) -> Result<Stamp> {
        let mut entries: BTreeMap<KeyHash, PackedEntry> = BTreeMap::new();
        for page in pages {
            let unit = record.unit(&page.unit)?;
            for entry in page.entries() {
                let packed = PackedEntry { seen: entry.seen, seq: page.seq, unit, generation: page.generation };
                let known = entries.entry(entry.key).or_insert(packed);
                if known.seq <= page.seq {
                    *known = packed;
                }
            }
        }
        if !self.slices.contains_key(&start) {
            let slice = self.create_slice(start)?;
            self.slices.insert(start, slice);
        }
        let id = self.id;
        let Some(slice) = self.slices.get_mut(&start) else { return damaged("the list of slices") };
        let mut missing: Vec<(KeyHash, PackedEntry, bool)> = Vec::new();
        for (key, packed) in entries {
            let known = slice.db.get(key.0)?.map(|value| entry(&key.0, &value)).transpose()?;
            // What lies beyond the head was left by a crash and will be written again.
            let is_newer = known.is_some_and(|known| packed.seq < known.seq && known.seq <= known_to);
            if !is_newer && known != Some(packed) {
                missing.push((key, packed, known.is_none()));
            }
        }
        let is_settled =
            slice.stamp.done && slice.stamp.offset <= stamp.offset && record.slices.get(&start) == Some(&slice.stamp);
        if missing.is_empty() && is_settled {
            return Ok(slice.stamp);
        }
        stamp.count = slice.stamp.count;
        // The first batch says that more is to come, the last that it came: they are in sled's log in this order.
        let mut batch = Batch::default();
        batch.insert(Stamp::KEY, stamp.to_bytes(id));
        for chunk in missing.chunks(BATCH_MAX) {
            for (key, packed, is_new) in chunk {
                batch.insert(&key.0, &packed.to_bytes(key));
                stamp.count += u64::from(*is_new);
            }
            slice.db.apply_batch(std::mem::take(&mut batch))?;
        }
        stamp.done = true;
        slice.db.insert(Stamp::KEY, stamp.to_bytes(id))?;
        slice.db.flush()?;
        slice.stamp = stamp;
        Ok(stamp)
    }

    fn create_slice(&self, start: Seq) -> Result<Slice> {
        let path = self.slice_dir(start);
        delete(&path).map_err(|error| self.refused("delete", &path, &error))?;
        let stamp = Stamp { offset: 0, chain: Default::default(), count: 0, done: false };
        Ok(Slice { db: open_database(&path)?, stamp })
    }

    /// The second step: the head and the pages, all or nothing and durable when it returns.
    pub(super) fn write_head(&mut self, written: Written) -> Result<()> {
        let Written { mut record, pages } = written;
        let mut batch = Batch::default();
        for (id, meta) in pages {
            let key = page_key(id);
            let packed = pack_meta(&key, &meta, record.unit(&meta.unit)?);
            match self.head.get(&key)? {
                Some(known) if *known == *packed => {}
                Some(_) => return Err(Unusable(format!("page {} differs from what was applied before", id.0))),
                None => {
                    record.pages += 1;
                    record.entries += u64::from(meta.entries);
                    batch.insert(key, packed);
                }
            }
        }
        let (before, oldest) = (self.record.as_ref().map_or(0, |before| before.oldest), record.oldest);
        for item in self.head.range(page_keys(before, Some(oldest))) {
            let (key, value) = item?;
            let Some(meta) = unpack_meta(&key, &value, &record.units) else { return damaged("a page") };
            record.pages = record.pages.saturating_sub(1);
            record.entries = record.entries.saturating_sub(u64::from(meta.entries));
        }
        // A slice is done with when the next one begins at or below the oldest page that is needed.
        if let Some(first_kept) = record.slices.range(..=oldest).next_back().map(|(start, _)| *start) {
            record.slices = record.slices.split_off(&first_kept);
        }
        let json = serde_json::to_vec(&record).map_err(|error| Unusable(error.to_string()))?;
        batch.insert(HEAD_KEY, seal(&json));
        self.head.apply_batch(batch)?;
        self.head.flush()?;
        self.record = Some(record);
        Ok(())
    }

    /// The third step: what the head no longer needs. What a crash leaves of it is nobody's.
    pub(super) fn forget(&mut self) -> Result<()> {
        let Some(record) = &self.record else { return Ok(()) };
        let mut forgotten = self.head.range(page_keys(0, Some(record.oldest))).keys();
        loop {
            let mut batch = Batch::default();
            let mut is_empty = true;
            for key in forgotten.by_ref().take(BATCH_MAX) {
                batch.remove(key?);
                is_empty = false;
            }
            if is_empty {
                break;
            }
            self.head.apply_batch(batch)?;
        }
        let dropped: Vec<Seq> =
            self.slices.keys().filter(|start| !record.slices.contains_key(start)).copied().collect();
        for start in dropped {
            self.slices.remove(&start);
            let path = self.slice_dir(start);
            delete(&path).map_err(|error| self.refused("delete", &path, &error))?;
        }
        Ok(())
    }
}

fn entry(key: &[u8], value: &[u8]) -> Result<PackedEntry> {
    let found = key.try_into().ok().and_then(|key| PackedEntry::from_bytes(&KeyHash(key), value));
    found.map_or_else(|| damaged("an entry"), Ok)
}

fn remembered(record: &Record, entry: PackedEntry) -> Result<Remembered> {
    let PackedEntry { seen, seq, unit, generation } = entry;
    let Some(unit) = record.units.get(usize::from(unit)).cloned() else { return damaged("the table of units") };
    Ok(Remembered { seen, seq, unit, generation })
}

fn read_record(head: &Db) -> Result<Option<Record>> {
    let Some(bytes) = head.get(HEAD_KEY)? else { return Ok(None) };
    let record = unseal(&bytes).and_then(|json| serde_json::from_slice(json).ok());
    record.map_or_else(|| damaged("the head"), |record| Ok(Some(record)))
}

fn read_pages(head: &Db, record: &Record, alive: &mut dyn FnMut()) -> Result<BTreeMap<PageId, PageMeta>> {
    let mut pages = BTreeMap::new();
    for item in head.range(page_keys(record.oldest, None)) {
        let (key, value) = item?;
        let page = page_id(&key).zip(unpack_meta(&key, &value, &record.units));
        let Some((id, meta)) = page else { return damaged("a page") };
        pages.insert(id, meta);
        if pages.len() % 10_000 == 0 {
            alive();
        }
    }
    Ok(pages)
}

fn open_database(path: &Path) -> Result<Db> {
    let config = sled::Config::new()
        .path(path)
        .cache_capacity(CACHE_BYTES)
        .mode(Mode::LowSpace)
        // Flushed by hand, after each apply: a background flush would only add writes.
        .flush_every_ms(None);
    let since = Instant::now();
    loop {
        match config.open() {
            Ok(db) => return Ok(db),
            // sled has no kind for it. Work that was under way when the view was dropped ends first.
            Err(error) if error.to_string().contains("could not acquire lock") && since.elapsed() < CLOSING_MAX => {
                thread::sleep(Duration::from_millis(50));
            }
            Err(error) => {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                return Err(Unusable(format!("{name}: {error}")));
            }
        }
    }
}

/// Deletes whatever is at the path, if anything is.
pub(super) fn delete(path: &Path) -> std::io::Result<()> {
    let deleted = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match deleted {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        deleted => deleted,
    }
}
