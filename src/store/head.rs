//! The head's database, in sled: what changes with every apply, whole or not at all.
//!
//! | key | value |
//! |---|---|
//! | `layout` | the version of all this |
//! | `id` | a number of the store's own |
//! | `head` | the [`Record`] as JSON, but for its parts, which have keys of their own |
//! | `U`, `H`, `D` and a unit | its progress, its hours, the days of which the journal has a record |
//! | `F` and an id | a backfill |
//! | `N` and a number | the name of the unit with this number |
//! | `S` and a number | a slice |
//! | `p` and a page's id | the page without its entries |
//! | `e` and a number | some entries of a page that is not in a slice yet |
//!
//! Only parts that have changed are written. The head has a checksum of all of them: none is missing, and none is old.
//!
//! When the recent entries are in a slice, an epoch ends, and those of the next are written over them, from the
//! first number on: what sled has room for once it need not make room for again, and each is written about twice
//! where new keys would be written three times and then deleted. The head says how many count, and each value
//! says of which epoch it is.
//!
//! sled never gives disk space back to the file system, and where values are written over again it does not use
//! all of it again either: 7 bytes for each entry that passed through were left behind. So a database that has
//! grown by more than its content is written anew, at the end of an epoch, and deleted when the new one is whole.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sled::{Batch, Db, IVec};

use super::database::{insert_all, open_database, remove_all};
use super::disk::{Result, Unusable, damaged, delete, numbered, sync_dir};
use super::packed::{
    check, checked, chunk_key, pack_chunk, page_id, page_key, page_keys, unpack_chunk, unpack_meta, with_check,
};
use super::slice::SliceRecord;
use crate::core::identity::Fingerprint;
use crate::core::journal::{Entry, Nonce, Seq};
use crate::core::ledger::{Head, PageId, PageMeta};

/// Before the databases' numbers in the names of their directories.
const HEAD_PREFIX: &str = "head-";

/// Where layouts before 6 had it.
const OLD_HEAD_DIR: &str = "head";

const LAYOUT_KEY: &[u8] = b"layout";
const ID_KEY: &[u8] = b"id";
const HEAD_KEY: &[u8] = b"head";

/// The first bytes of the keys of the record's parts.
const PARTS: &[u8] = b"UDHFNS";

/// What a page takes in sled when pages have come and gone for long, and how many records lie in its file then.
const PAGE_BYTES_MAX: u64 = 512;
const RECORDS_MAX: u64 = 16;

/// The layout's version: increased when older files can no longer be read; they are then rebuilt from the
/// journal. So they are for another version of the fingerprint, which entries do not carry.
fn layout() -> String {
    format!("7.{}", Fingerprint::VERSION)
}

/// What the head's database holds beside pages and entries; written at once, and so always whole.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) head: Head,
    pub(super) kept: Kept,
}

/// What is kept beside the head.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// The units' names by their number in entries.
    pub(super) units: BTreeMap<u16, String>,
    /// The oldest page that is kept; unlike the head's it never falls.
    pub(super) oldest: Seq,
    /// How many pages are kept.
    pub(super) pages: u64,
    /// How many entries those have.
    pub(super) entries: u64,
    /// The slices by their numbers, oldest first.
    pub(super) slices: BTreeMap<u64, SliceRecord>,
    /// The next slice's number; none comes twice.
    pub(super) next_slice: u64,
    /// Increased when the recent entries are in a slice.
    pub(super) epoch: u64,
    /// In how many values they are until then.
    pub(super) chunks: u64,
    /// Of all parts.
    parts_sum: u64,
}

impl Kept {
    /// The number of a unit, which it gets when it has none.
    pub(super) fn unit(&mut self, name: &str) -> Result<u16> {
        if let Some((number, _)) = self.units.iter().find(|(_, unit)| *unit == name) {
            return Ok(*number);
        }
        let number = u16::try_from(self.units.len());
        let number = number.map_err(|_| Unusable::Damaged("there are more units than it can hold".to_owned()))?;
        self.units.insert(number, name.to_owned());
        Ok(number)
    }
}

impl Record {
    /// The record without its parts.
    fn trunk(&self) -> Self {
        let Head { genesis, claim, last_seq, chain, missing_below, out_offsets, next_offset, .. } = self.head.clone();
        let head = Head { genesis, claim, last_seq, chain, missing_below, out_offsets, next_offset, ..Head::default() };
        Self { head, kept: Kept { units: BTreeMap::new(), slices: BTreeMap::new(), ..self.kept.clone() } }
    }

    /// Puts a part where it belongs; `None` if it is none.
    fn take_part(&mut self, key: &[u8], json: &[u8]) -> Option<()> {
        fn value<T: DeserializeOwned>(json: &[u8]) -> Option<T> {
            serde_json::from_slice(json).ok()
        }
        let (kind, name) = key.split_first()?;
        let unit = || String::from_utf8(name.to_vec()).ok();
        match kind {
            b'U' => drop(self.head.units.insert(unit()?, value(json)?)),
            b'H' => drop(self.head.hours.insert(unit()?, value(json)?)),
            b'D' => drop(self.head.days.insert(unit()?, value(json)?)),
            b'F' => drop(self.head.backfills.insert(Nonce(name.try_into().ok()?), value(json)?)),
            b'N' => drop(self.kept.units.insert(u16::from_be_bytes(name.try_into().ok()?), value(json)?)),
            b'S' => drop(self.kept.slices.insert(u64::from_be_bytes(name.try_into().ok()?), value(json)?)),
            _ => return None,
        }
        Some(())
    }
}

/// The open database.
pub(super) struct HeadDb {
    db: Db,
    path: PathBuf,
    number: u64,
    /// How long the record was when it was written last.
    record_bytes: u64,
    /// The checksums of the record's parts.
    sums: BTreeMap<Vec<u8>, u64>,
}

impl HeadDb {
    /// Opens the newest that is whole, or creates one, and reads its record. The others are deleted.
    pub(super) fn open(dir: &Path) -> Result<(Self, Option<Record>)> {
        if dir.join(OLD_HEAD_DIR).exists() {
            return Err(Unusable::OtherLayout("it has an older layout".to_owned()));
        }
        let mut numbers = numbered(dir, HEAD_PREFIX)?;
        numbers.sort_unstable();
        let mut opened = None;
        while let Some(number) = numbers.pop() {
            if opened.is_none() {
                let path = head_path(dir, number);
                let db = open_database(&path)?;
                // Where there is another one, this one was not finished.
                if numbers.is_empty() || db.get(LAYOUT_KEY)?.is_some() {
                    opened = Some((db, path, number));
                    continue;
                }
            }
            delete(&head_path(dir, number)).map_err(|error| Unusable::Damaged(error.to_string()))?;
        }
        let (db, path, number) = match opened {
            Some(opened) => opened,
            None => (open_database(&head_path(dir, 0))?, head_path(dir, 0), 0),
        };
        let mut opened = Self { db, path, number, record_bytes: 0, sums: BTreeMap::new() };
        let record = opened.read_record()?;
        Ok((opened, record))
    }

    fn read_record(&mut self) -> Result<Option<Record>> {
        let layout = layout();
        match self.db.get(LAYOUT_KEY)? {
            Some(found) if *found == *layout.as_bytes() => {
                let id = self.db.get(ID_KEY)?;
                if id.as_deref().and_then(|id| checked(ID_KEY, id)).is_none_or(|id| id.len() != 16) {
                    return damaged("the store's id");
                }
            }
            Some(found) => {
                let found = String::from_utf8_lossy(&found);
                let is_one = !found.is_empty() && found.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
                let reason = format!("it has layout {found}");
                return Err(if is_one { Unusable::OtherLayout(reason) } else { Unusable::Damaged(reason) });
            }
            None => {
                let mut batch = Batch::default();
                batch.insert(LAYOUT_KEY, layout.as_bytes());
                batch.insert(ID_KEY, with_check(ID_KEY, rand::random::<[u8; 16]>().to_vec()));
                self.db.apply_batch(batch)?;
                self.db.flush()?;
            }
        }
        let Some(bytes) = self.db.get(HEAD_KEY)? else { return Ok(None) };
        let record = checked(HEAD_KEY, &bytes).and_then(|json| serde_json::from_slice(json).ok());
        let Some(mut record) = record else { return damaged("the head") };
        self.read_parts(&mut record)?;
        Ok(Some(record))
    }

    fn read_parts(&mut self, record: &mut Record) -> Result<()> {
        for item in PARTS.iter().flat_map(|kind| self.db.scan_prefix([*kind])) {
            let (key, value) = item?;
            if checked(&key, &value).and_then(|json| record.take_part(&key, json)).is_none() {
                return damaged("a part of the head");
            }
            self.sums.insert(key.to_vec(), check(&key, &value));
        }
        if self.parts_sum() == record.kept.parts_sum { Ok(()) } else { damaged("the list of the head's parts") }
    }

    fn parts_sum(&self) -> u64 {
        self.sums.values().fold(0, |sum, part| sum ^ part)
    }

    /// Whether its file is longer by more than `slack` than what its content explains.
    pub(super) fn is_bloated(&self, kept: &Kept, slack: u64) -> bool {
        let file = fs::metadata(self.path.join("db")).map_or(0, |metadata| metadata.len());
        file > slack + kept.pages * PAGE_BYTES_MAX + self.record_bytes * RECORDS_MAX
    }

    /// Writes all that is needed to a new database, which takes this one's place.
    pub(super) fn renew(&mut self, dir: &Path, kept: &Kept) -> Result<()> {
        let refused = |error: std::io::Error| Unusable::Damaged(error.to_string());
        let number = self.number + 1;
        let path = head_path(dir, number);
        delete(&path).map_err(refused)?;
        let db = open_database(&path)?;
        let chunks = self.db.range(chunk_key(0)..chunk_key(kept.chunks));
        let parts = PARTS.iter().flat_map(|kind| self.db.scan_prefix([*kind]));
        insert_all(&db, self.db.range(page_keys(kept.oldest, None)).chain(chunks).chain(parts))?;
        // All that was before it has to be there when this is.
        db.flush()?;
        let mut batch = Batch::default();
        for key in [LAYOUT_KEY, ID_KEY, HEAD_KEY] {
            let Some(value) = self.db.get(key)? else { return damaged("the head") };
            batch.insert(key, value);
        }
        db.apply_batch(batch)?;
        db.flush()?;
        sync_dir(&path).and_then(|()| sync_dir(dir)).map_err(refused)?;
        let (record_bytes, sums) = (self.record_bytes, std::mem::take(&mut self.sums));
        let old = std::mem::replace(self, Self { db, path, number, record_bytes, sums });
        drop(old.db);
        delete(&old.path).map_err(refused)
    }

    /// The bytes under a page's key.
    pub(super) fn page(&self, key: &[u8]) -> Result<Option<IVec>> {
        Ok(self.db.get(key)?)
    }

    /// The pages in `[from, to)` with their units' numbers, in order.
    pub(super) fn pages(
        &self,
        range: (Seq, Option<Seq>),
        units: &BTreeMap<u16, String>,
    ) -> impl Iterator<Item = Result<(PageId, PageMeta, u16)>> {
        self.db.range(page_keys(range.0, range.1)).map(|item| {
            let (key, value) = item?;
            let page = page_id(&key).zip(unpack_meta(&key, &value, units));
            page.map_or_else(|| damaged("a page"), |(id, (meta, unit))| Ok((id, meta, unit)))
        })
    }

    /// Reads the recent entries back, and checks that they are all there. They come in parts.
    pub(super) fn recent(&self, kept: &Kept, mut take: impl FnMut(PageId, &[[u8; Entry::BYTES]])) -> Result<()> {
        for number in 0..kept.chunks {
            let key = chunk_key(number);
            let value = self.db.get(key)?;
            let chunk = value.as_deref().and_then(|value| unpack_chunk(&key, kept.epoch, value));
            let Some((id, entries)) = chunk else { return damaged("a part of the recent entries") };
            take(id, entries);
        }
        Ok(())
    }

    /// Writes the record, of its parts those that differ from `before`, along with what the batch has: all or nothing, and
    /// durable when it returns.
    pub(super) fn write(&mut self, mut batch: Batch, before: Option<&Record>, record: &mut Record) -> Result<()> {
        let none = Record::default();
        let before = before.unwrap_or(&none);
        let (old, new) = (&before.head, &record.head);
        let bytes = |name: &String| name.as_bytes().to_vec();
        self.put_changes(&mut batch, b'U', bytes, &old.units, &new.units)?;
        self.put_changes(&mut batch, b'H', bytes, &old.hours, &new.hours)?;
        self.put_changes(&mut batch, b'D', bytes, &old.days, &new.days)?;
        self.put_changes(&mut batch, b'F', |id| id.0.to_vec(), &old.backfills, &new.backfills)?;
        let (old, new) = (&before.kept, &record.kept);
        self.put_changes(&mut batch, b'N', |unit| unit.to_be_bytes().to_vec(), &old.units, &new.units)?;
        self.put_changes(&mut batch, b'S', |slice| slice.to_be_bytes().to_vec(), &old.slices, &new.slices)?;
        record.kept.parts_sum = self.parts_sum();
        let json = to_json(&record.trunk())?;
        self.record_bytes = json.len() as u64;
        batch.insert(HEAD_KEY, with_check(HEAD_KEY, json));
        self.db.apply_batch(batch)?;
        self.db.flush()?;
        Ok(())
    }

    fn put_changes<K: Ord, V: Serialize + PartialEq>(
        &mut self,
        batch: &mut Batch,
        kind: u8,
        name: impl Fn(&K) -> Vec<u8>,
        before: &BTreeMap<K, V>,
        now: &BTreeMap<K, V>,
    ) -> Result<()> {
        let key = |id: &K| [vec![kind], name(id)].concat();
        for (id, value) in now.iter().filter(|(id, value)| before.get(id) != Some(value)) {
            let key = key(id);
            let bytes = with_check(&key, to_json(value)?);
            self.sums.insert(key.clone(), check(&key, &bytes));
            batch.insert(key, bytes);
        }
        for id in before.keys().filter(|id| !now.contains_key(id)) {
            let key = key(id);
            self.sums.remove(&key);
            batch.remove(key);
        }
        Ok(())
    }

    /// Deletes what the record no longer needs. What a crash leaves of it is nobody's.
    pub(super) fn forget(&self, kept: &Kept) -> Result<()> {
        remove_all(&self.db, self.db.range(page_keys(0, Some(kept.oldest))).keys())
    }
}

/// Adds a page's entries to a batch, in parts of so many each, behind the parts that there are.
pub(super) fn put_entries(batch: &mut Batch, kept: &mut Kept, id: PageId, entries: &[Entry], part: usize) {
    for entries in entries.chunks(part) {
        let key = chunk_key(kept.chunks);
        batch.insert(&key, pack_chunk(&key, kept.epoch, id, entries));
        kept.chunks += 1;
    }
}

/// Adds a page to a batch.
pub(super) fn put_page(batch: &mut Batch, id: PageId, packed: Vec<u8>) {
    batch.insert(page_key(id), packed);
}

fn to_json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| Unusable::Damaged(error.to_string()))
}

fn head_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{HEAD_PREFIX}{number}"))
}
