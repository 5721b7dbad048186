//! The view's files: a small database for what changes, and slices of entries for what does not. All of it is sled.
//!
//! ```text
//!   <state.dir>/store/head-<n>/    the head, the pages, the entries of pages that are in no slice   (head)
//!   <state.dir>/store/slices-<n>/  slices: entries of many pages, by key, never changed             (slice)
//!
//!   apply ──▶ recent entries, in memory ──enough──▶ slice                               (recent, slice)
//!      └────▶ head: pages, their entries, the list of slices; one batch, one flush              (apply)
//! ```
//!
//! sled's batch makes an apply atomic: before it the slices that it lists are written and durable, after it what it
//! no longer lists is deleted. What it does not list is nobody's, and deleted at opening.
//!
//! A key is looked for among the recent entries, then in the slices from the newest to the oldest. A filter in
//! memory says of nearly every slice that it does not have the key; where it may, one bucket of the slice is read.
//! The entries of the newest slice stay in memory, too: it is they that polls read again.
//!
//! Nothing is read that is not checked, and nothing that is missing is taken for unknown: see [`super::slice`] and
//! [`super::packed`]. What happens when something cannot be used is decided in [`super::sled_view`].

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Remembered;
use super::disk::{Result, Unusable, damaged};
use super::head::{HeadDb, Kept, Record};
use super::lock::open_own;
use super::packed::{PackedSeen, PageRef, fingerprint_version, unpack_entry};
use super::recent::Recent;
use super::slice::{Slice, Slices, probe};
use crate::core::identity::KeyHash;
use crate::core::journal::Entry;
use crate::core::ledger::Ledger;

/// There once anything was applied: without it an empty database is a new one, and with it one that has lost everything.
const APPLIED_FILE: &str = "applied";

/// About how many entries [`Files::entries_after`] hands over at once.
const HANDED_OVER: u64 = 20_000;

/// How much of what there may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// The most entries in memory before they become a slice; as many again stay there afterwards.
    pub(super) recent: usize,
    /// How many entries a bucket has on the average.
    pub(super) bucket: usize,
    /// How many entries one value of the head's database has.
    pub(super) chunk: usize,
    /// How much a database may grow beyond what its content explains, in bytes.
    pub(super) slack: u64,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            // What fills a table of 2^17 places.
            recent: 114_688,
            bucket: 64,
            chunk: super::packed::CHUNK_ENTRIES,
            slack: 16 << 20,
        }
    }
}

/// The open files.
pub(super) struct Files {
    pub(super) dir: PathBuf,
    pub(super) sizes: Sizes,
    pub(super) head: HeadDb,
    /// `None` until the first apply.
    pub(super) record: Option<Record>,
    /// The record's units.
    pub(super) units: Vec<Arc<str>>,
    /// The entries that are in no slice.
    pub(super) recent: Recent,
    /// The entries of the slice that was sealed last.
    pub(super) before: Recent,
    /// That slice's number; `None` when it is forgotten.
    pub(super) before_slice: Option<u64>,
    /// The record's slices; during an apply the next record's.
    pub(super) slices: Slices,
    /// Whether [`APPLIED_FILE`] is there.
    is_marked: bool,
}

impl Files {
    /// Opens what is in `dir`, or creates it, and checks all but the buckets of most slices, which are checked when
    /// they are read. Says `alive` whenever something was done.
    pub(super) fn open(dir: &Path, sizes: Sizes, alive: &mut dyn FnMut()) -> Result<Self> {
        let (head, record) = HeadDb::open(dir)?;
        alive();
        let is_marked = dir.join(APPLIED_FILE).exists();
        if is_marked && record.is_none() {
            return damaged("the head");
        }
        let mut files = Self {
            dir: dir.to_owned(),
            sizes,
            head,
            record: None,
            units: Vec::new(),
            recent: Recent::default(),
            before: Recent::default(),
            before_slice: None,
            slices: Slices::new(dir, sizes.bucket, sizes.slack),
            is_marked,
        };
        if let Some(record) = record {
            files.read_recent(&record.kept, alive)?;
            files.set_units(&record.kept);
            files.slices.open(record.kept.slices.values().copied(), alive)?;
            if let Some(slice) = files.slices.all.last() {
                files.before = slice.recent()?;
                files.before_slice = Some(slice.record.number);
            }
            files.record = Some(record);
        } else {
            files.slices.open(std::iter::empty(), alive)?;
        }
        Ok(files)
    }

    /// Reads the pages and the entries that are in no slice, and checks that they are all there.
    fn read_recent(&mut self, kept: &Kept, alive: &mut dyn FnMut()) -> Result<()> {
        let mut parts = BTreeMap::new();
        self.head.recent(kept, |id, entries| parts.entry(id).or_insert_with(Vec::new).extend_from_slice(entries))?;
        let (mut pages, mut entries) = (0_u64, 0);
        for page in self.head.pages((kept.oldest, None), &kept.units) {
            let (id, meta, unit) = page?;
            pages += 1;
            entries += u64::from(meta.entries);
            if let Some(entries) = parts.remove(&id) {
                let page = PageRef { seq: id.0, unit, generation: meta.generation, is_keyed: meta.is_keyed };
                let version = fingerprint_version(meta.is_keyed);
                let entries = entries.iter().map(|bytes| Entry::from_bytes(bytes, version));
                self.recent.insert(page, entries);
            }
            if pages % 10_000 == 0 {
                alive();
            }
        }
        if (pages, entries) != (kept.pages, kept.entries) {
            return damaged("the list of pages");
        }
        // What is left is forgotten.
        if parts.keys().any(|id| id.0 >= kept.oldest) {
            return damaged("the page of recent entries");
        }
        Ok(())
    }

    /// Remembers, outside of the database, that it is not empty.
    pub(super) fn mark(&mut self) -> Result<()> {
        if !self.is_marked {
            let path = self.dir.join(APPLIED_FILE);
            open_own(File::options().write(true).create(true).truncate(false), &path)
                .map_err(|error| self.refused("write", &path, &error))?;
            self.is_marked = true;
        }
        Ok(())
    }

    pub(super) fn set_units(&mut self, kept: &Kept) {
        let new = kept.units.values().skip(self.units.len()).map(|unit| Arc::from(unit.as_str()));
        self.units.extend(new);
    }

    pub(super) fn refused(&self, doing: &str, path: &Path, error: &std::io::Error) -> Unusable {
        let path = path.strip_prefix(&self.dir).unwrap_or(path);
        Unusable::Damaged(format!("cannot {doing} {}: {error}", path.display()))
    }

    /// The ledger as it was applied last.
    pub(super) fn load(&self) -> Result<Option<Ledger>> {
        let Some(record) = &self.record else { return Ok(None) };
        let pages = self.head.pages((record.kept.oldest, None), &record.kept.units);
        let pages = pages.map(|page| page.map(|(id, meta, _)| (id, meta))).collect::<Result<_>>()?;
        Ok(Some(Ledger::of(record.head.clone(), pages)))
    }

    /// What is remembered of each key, on pages that are not forgotten.
    pub(super) fn find(&self, keys: &[KeyHash]) -> Result<Vec<Option<Remembered>>> {
        let oldest = self.record.as_ref().map_or(0, |record| record.kept.oldest);
        let mut found = self.find_any(keys)?;
        for slot in &mut found {
            *slot = slot.take().filter(|known| known.seq >= oldest);
        }
        Ok(found)
    }

    fn find_any(&self, keys: &[KeyHash]) -> Result<Vec<Option<Remembered>>> {
        let mut found: Vec<Option<Remembered>> = Vec::with_capacity(keys.len());
        let mut missing: Vec<(u64, u32)> = Vec::new();
        for (number, key) in (0..).zip(keys) {
            let known = self.recent.get(key).or_else(|| self.before.get(key));
            let known = known.map(|(seen, page)| self.remembered(*key, seen, page)).transpose()?;
            if known.is_none() {
                missing.push((probe(key), number));
            }
            found.push(known);
        }
        let mut candidates: Vec<u32> = Vec::new();
        let in_memory = |slice: &&Slice| Some(slice.record.number) == self.before_slice;
        for slice in self.slices.all.iter().rev().filter(|slice| !in_memory(slice)) {
            candidates.clear();
            let may_be_there = missing.iter().filter(|(probe, _)| slice.may_hold(*probe));
            candidates.extend(may_be_there.map(|(_, number)| *number));
            if candidates.is_empty() {
                continue;
            }
            slice.find(keys, &mut candidates, |number, entry, page| {
                found[number as usize] = Some(self.remembered(entry.key, entry.seen, page)?);
                Ok(())
            })?;
            missing.retain(|(_, number)| found[*number as usize].is_none());
        }
        Ok(found)
    }

    fn remembered(&self, key: KeyHash, seen: PackedSeen, page: PageRef) -> Result<Remembered> {
        let Some(unit) = self.units.get(usize::from(page.unit)) else { return damaged("the table of units") };
        let unit = Arc::clone(unit);
        let seen = unpack_entry(key, seen, page.is_keyed).seen;
        Ok(Remembered { seen, seq: page.seq, unit, generation: page.generation })
    }

    /// What [`Self::find`] would find of the keys that follow `after`, in their order: some of them, and none
    /// only at the end.
    pub(super) fn entries_after(&self, after: Option<KeyHash>) -> Result<Vec<(KeyHash, Remembered)>> {
        let sealed: u64 = self.slices.all.iter().map(|slice| u64::from(slice.record.entries)).sum();
        let total = sealed + self.recent.len() as u64;
        let step = u128::MAX / u128::from(total / HANDED_OVER + 1);
        let mut from = match after.map(|key| u128::from_be_bytes(key.0).checked_add(1)) {
            None => 0,
            Some(Some(next)) => next,
            Some(None) => return Ok(Vec::new()),
        };
        loop {
            let until = from.checked_add(step).filter(|until| *until < u128::MAX);
            let found = self.entries_within(key_at(from), until.map(key_at))?;
            match until {
                Some(until) if found.is_empty() => from = until,
                _ => return Ok(found),
            }
        }
    }

    fn entries_within(&self, from: KeyHash, until: Option<KeyHash>) -> Result<Vec<(KeyHash, Remembered)>> {
        let is_within = |key: &KeyHash| from <= *key && until.is_none_or(|until| *key < until);
        let mut found: Vec<(KeyHash, PackedSeen, PageRef)> =
            self.recent.iter().filter(|(key, ..)| is_within(key)).collect();
        for slice in self.slices.all.iter().rev() {
            let mut packed = Vec::new();
            slice.within(&from, until.as_ref(), |entry| packed.push(entry))?;
            for entry in packed {
                found.push((entry.key, entry.seen, slice.page(&entry)?));
            }
        }
        // Stable: of equal keys the newest comes first and stays.
        found.sort_by_key(|(key, ..)| *key);
        found.dedup_by_key(|(key, ..)| *key);
        let oldest = self.record.as_ref().map_or(0, |record| record.kept.oldest);
        found.retain(|(_, _, page)| page.seq >= oldest);
        found.into_iter().map(|(key, seen, page)| Ok((key, self.remembered(key, seen, page)?))).collect()
    }
}

fn key_at(number: u128) -> KeyHash {
    KeyHash(number.to_be_bytes())
}
