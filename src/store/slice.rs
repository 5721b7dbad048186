//! Slices: entries that are not the newest, each slice a sled tree that never changes.
//!
//! | key | value |
//! |---|---|
//! | `b` and a number | a bucket: the entries whose keys lie in this part of the keys' range, by key |
//! | `m` and a number | a part of what an open slice has in memory: the table of its pages, then its filter |
//!
//! Keys are hashes, so the buckets are filled evenly. Each value ends with a checksum over the slice's random number, the
//! key and the content: a value of another slice, or of an older one under the same name, is noticed. Every bucket is
//! written, also an empty one: a bucket that is missing is damage, not an unknown key.
//!
//! A slice is forgotten by dropping its tree: sled has room for the next one then. sled gives no disk space back. So
//! where a database is longer than its slices explain, they are moved to another one, some with each apply, and the database
//! is deleted when none is left in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sled::{Db, Tree};
use xorf::{BinaryFuse16, Filter};

use super::database::{insert_all, open_database};
use super::disk::{Result, Unusable, damaged, delete, numbered, sync_dir};
use super::packed::{PackedEntry, PageRef, checked, with_check};
use super::recent::{Recent, SortedEntries};
use crate::core::identity::KeyHash;
use crate::core::journal::Seq;

/// The names of the databases' directories begin with it.
const DATABASE_PREFIX: &str = "slices-";

/// How many bytes an entry takes in a database at the most, while slices come and go.
const ENTRY_BYTES_MAX: u64 = 56;

/// How many slices one apply moves: each takes some 50 ms.
const MOVED_AT_ONCE: usize = 4;

/// How many bytes one part of what is kept in memory has: sled keeps what was read until so many other values are read, and
/// a node of 17 values that is longer than 128 KiB would become a file of its own, which sled does not sync.
const PART_BYTES: usize = 1024;

/// What the head says of a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SliceRecord {
    /// Names its tree.
    pub(super) number: u64,
    /// Names its database.
    pub(super) database: u64,
    /// Drawn when it was written.
    pub(super) salt: u64,
    pub(super) entries: u32,
    pub(super) buckets: u32,
    /// How many pages its entries refer to.
    pub(super) pages: u32,
    /// The newest of its pages.
    pub(super) newest: Seq,
}

/// An open slice.
pub(super) struct Slice {
    pub(super) record: SliceRecord,
    tree: Tree,
    /// Ordered by their numbers.
    pub(super) pages: Vec<PageRef>,
    filter: BinaryFuse16,
}

/// The bucket of a key, among so many.
fn bucket_of(key: &KeyHash, buckets: u32) -> u32 {
    let high = u128::from_be_bytes(key.0) >> 64;
    u32::try_from((high * u128::from(buckets)) >> 64).unwrap_or(u32::MAX)
}

/// A key as filters see it.
pub(super) fn probe(key: &KeyHash) -> u64 {
    let number = u128::from_be_bytes(key.0);
    (number as u64) ^ ((number >> 64) as u64).rotate_left(32)
}

fn filter_of(probes: &[u64]) -> Result<BinaryFuse16> {
    BinaryFuse16::try_from(probes).map_err(|error| Unusable::Damaged(format!("a filter: {error}")))
}

fn tree_key(kind: u8, number: u32) -> [u8; 5] {
    let [a, b, c, d] = number.to_be_bytes();
    [kind, a, b, c, d]
}

fn tree_name(number: u64) -> String {
    format!("slice-{number}")
}

impl Slice {
    /// Writes a slice to a database. It is durable when this returns.
    fn write(db: &Db, record: SliceRecord, sorted: SortedEntries) -> Result<Self> {
        let SortedEntries { pages, entries } = sorted;
        let mut probes: Vec<u64> = entries.iter().map(|entry| probe(&entry.key)).collect();
        // The filter cannot be built of a key that comes twice.
        probes.sort_unstable();
        probes.dedup();
        let filter = filter_of(&probes)?;
        let tree = db.open_tree(tree_name(record.number))?;
        let slice = Self { record, tree, pages, filter };
        let mut rest = entries.as_slice();
        let buckets = (0..record.buckets).map(|bucket| {
            let count = rest.partition_point(|entry| bucket_of(&entry.key, record.buckets) <= bucket);
            let (these, others) = rest.split_at(count);
            rest = others;
            (tree_key(b'b', bucket), these.iter().flat_map(|entry| entry.to_bytes()).collect())
        });
        let memory = slice.memory();
        let parts = (0..).zip(memory.chunks(PART_BYTES)).map(|(part, bytes)| (tree_key(b'm', part), bytes.to_vec()));
        let values =
            buckets.chain(parts).map(|(key, content)| Ok((key.to_vec(), with_check(&slice.place(&key), content))));
        insert_all(&slice.tree, values)?;
        db.flush()?;
        Ok(slice)
    }

    /// Copies its values to another database, and is the copy then. It is durable when this returns.
    fn move_to(&mut self, db: &Db, number: u64) -> Result<()> {
        let tree = db.open_tree(tree_name(self.record.number))?;
        insert_all(&tree, self.tree.iter())?;
        db.flush()?;
        self.tree = tree;
        self.record.database = number;
        Ok(())
    }

    /// Opens a slice, and checks what it has in memory; buckets are checked when they are read.
    fn open(db: &Db, record: SliceRecord) -> Result<Self> {
        let tree = db.open_tree(tree_name(record.number))?;
        // Its type has no constructor of its parts.
        let filter = filter_of(&[0])?;
        let mut slice = Self { record, tree, pages: Vec::new(), filter };
        let mut memory = Vec::new();
        for part in 0.. {
            let bytes = slice.value(b'm', part)?;
            memory.extend_from_slice(&bytes);
            if bytes.len() < PART_BYTES {
                break;
            }
        }
        slice.remember(&memory).map_or_else(|| damaged("the memory of a slice"), |()| Ok(slice))
    }

    /// What is kept in memory, in bytes. Its last part is shorter than the others.
    fn memory(&self) -> Vec<u8> {
        let descriptor = &self.filter.descriptor;
        let mut bytes: Vec<u8> = self.pages.iter().flat_map(|page| page.to_bytes()).collect();
        bytes.extend_from_slice(&descriptor.seed.to_be_bytes());
        for number in [descriptor.segment_length, descriptor.segment_length_mask, descriptor.segment_count_length] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        bytes.extend(self.filter.fingerprints.iter().flat_map(|print| print.to_be_bytes()));
        if bytes.len().is_multiple_of(PART_BYTES) {
            bytes.push(0);
        }
        bytes
    }

    fn remember(&mut self, memory: &[u8]) -> Option<()> {
        let (pages, rest) = memory.split_at_checked(self.record.pages as usize * PageRef::BYTES)?;
        self.pages = pages.as_chunks().0.iter().map(PageRef::from_bytes).collect();
        let (seed, rest) = rest.split_first_chunk()?;
        let (numbers, rest) = rest.split_first_chunk::<12>()?;
        let mut numbers = numbers.as_chunks().0.iter().map(|number| u32::from_be_bytes(*number));
        let descriptor = &mut self.filter.descriptor;
        descriptor.seed = u64::from_be_bytes(*seed);
        descriptor.segment_length = numbers.next()?;
        descriptor.segment_length_mask = numbers.next()?;
        descriptor.segment_count_length = numbers.next()?;
        self.filter.fingerprints = rest.as_chunks().0.iter().map(|print| u16::from_be_bytes(*print)).collect();
        Some(())
    }

    /// Where a value belongs, for its checksum.
    fn place(&self, key: &[u8; 5]) -> [u8; 13] {
        let mut place = [0; 13];
        place[..8].copy_from_slice(&self.record.salt.to_be_bytes());
        place[8..].copy_from_slice(key);
        place
    }

    fn value(&self, kind: u8, number: u32) -> Result<sled::IVec> {
        let key = tree_key(kind, number);
        let value = self.tree.get(key)?;
        let content =
            value.as_ref().and_then(|value| Some(value.subslice(0, checked(&self.place(&key), value)?.len())));
        let Some(content) = content else {
            return damaged(&format!("a value of slice {}", self.record.number));
        };
        Ok(content)
    }

    /// Whether it may hold a key; `false` is certain.
    pub(super) fn may_hold(&self, probe: u64) -> bool {
        self.filter.contains(&probe)
    }

    /// Looks for the keys with these numbers, each bucket once.
    pub(super) fn find(
        &self,
        keys: &[KeyHash],
        candidates: &mut [u32],
        mut found: impl FnMut(u32, PackedEntry, PageRef) -> Result<()>,
    ) -> Result<()> {
        candidates.sort_unstable_by_key(|number| keys[*number as usize]);
        let bucket = |number: &u32| bucket_of(&keys[*number as usize], self.record.buckets);
        for candidates in candidates.chunk_by(|a, b| bucket(a) == bucket(b)) {
            let content = self.value(b'b', bucket(&candidates[0]))?;
            let entries: &[[u8; PackedEntry::BYTES]] = content.as_chunks().0;
            for number in candidates {
                let key = &keys[*number as usize];
                if let Ok(place) = entries.binary_search_by(|entry| entry[..16].cmp(&key.0)) {
                    let entry = PackedEntry::from_bytes(&entries[place]);
                    found(*number, entry, self.page(&entry)?)?;
                }
            }
        }
        Ok(())
    }

    /// Hands over the entries whose keys lie in `[from, until)`, by their keys.
    pub(super) fn within(
        &self,
        from: &KeyHash,
        until: Option<&KeyHash>,
        mut take: impl FnMut(PackedEntry),
    ) -> Result<()> {
        for bucket in bucket_of(from, self.record.buckets)..self.record.buckets {
            let content = self.value(b'b', bucket)?;
            for bytes in content.as_chunks().0 {
                let entry = PackedEntry::from_bytes(bytes);
                if until.is_some_and(|until| entry.key >= *until) {
                    return Ok(());
                }
                if entry.key >= *from {
                    take(entry);
                }
            }
        }
        Ok(())
    }

    /// All of its entries, as recent ones.
    pub(super) fn recent(&self) -> Result<Recent> {
        let mut entries = Vec::with_capacity(self.record.entries as usize);
        self.within(&KeyHash([0; 16]), None, |entry| entries.push(entry))?;
        if entries.len() != self.record.entries as usize {
            return damaged("the number of a slice's entries");
        }
        Ok(Recent::of_slice(self.pages.clone(), entries))
    }

    /// The page that an entry refers to.
    pub(super) fn page(&self, entry: &PackedEntry) -> Result<PageRef> {
        let page = self.pages.get(entry.page as usize);
        page.map_or_else(|| damaged("the page of an entry"), |page| Ok(*page))
    }
}

/// The slices, oldest first, and their databases.
pub(super) struct Slices {
    dir: PathBuf,
    /// How many entries a bucket has on the average.
    bucket: usize,
    /// How much a database may grow beyond its slices, in bytes.
    slack: u64,
    pub(super) all: Vec<Slice>,
    /// Forgotten slices whose trees are not dropped yet.
    forgotten: Vec<SliceRecord>,
    databases: BTreeMap<u64, Db>,
}

impl Slices {
    /// No slices yet.
    pub(super) fn new(dir: &Path, bucket: usize, slack: u64) -> Self {
        let (all, forgotten, databases) = (Vec::new(), Vec::new(), BTreeMap::new());
        Self { dir: dir.to_owned(), bucket, slack, all, forgotten, databases }
    }

    /// Opens the slices that the head lists, and drops all others. Says `alive` after each.
    pub(super) fn open(&mut self, records: impl Iterator<Item = SliceRecord>, alive: &mut dyn FnMut()) -> Result<()> {
        for record in records {
            // Where the database is not there, it is an empty one: the slice's values are missing.
            let db = self.database(record.database)?;
            self.all.push(Slice::open(&db, record)?);
            alive();
        }
        for (number, db) in &self.databases {
            let listed = self.all.iter().filter(|slice| slice.record.database == *number);
            let listed: Vec<String> = listed.map(|slice| tree_name(slice.record.number)).collect();
            let is_listed = |name: &sled::IVec| listed.iter().any(|listed| listed.as_bytes() == &**name);
            // The process died before the head listed them, or before they were dropped.
            for name in db.tree_names().iter().filter(|name| name.starts_with(b"slice-") && !is_listed(name)) {
                db.drop_tree(name)?;
            }
        }
        self.drop_forgotten()
    }

    fn database(&mut self, number: u64) -> Result<Db> {
        if let Some(db) = self.databases.get(&number) {
            return Ok(db.clone());
        }
        let db = open_database(&self.path(number))?;
        self.databases.insert(number, db.clone());
        Ok(db)
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{DATABASE_PREFIX}{number}"))
    }

    /// The number of the database for the next slice.
    fn next_database(&self) -> u64 {
        let newest = self.databases.keys().next_back();
        newest.map_or(0, |newest| if self.is_too_long(*newest) { newest + 1 } else { *newest })
    }

    /// Whether a database is longer than its slices explain.
    fn is_too_long(&self, number: u64) -> bool {
        let slices = self.all.iter().filter(|slice| slice.record.database == number);
        let needed: u64 = slices.map(|slice| u64::from(slice.record.entries) * ENTRY_BYTES_MAX).sum();
        let file = fs::metadata(self.path(number).join("db")).map_or(0, |metadata| metadata.len());
        file > needed + self.slack
    }

    /// Moves some slices out of databases that are too long. Their trees there stay until the head no longer lists them.
    pub(super) fn give_back(&mut self) -> Result<()> {
        for _ in 0..MOVED_AT_ONCE {
            let Some(at) = self.all.iter().position(|slice| self.is_too_long(slice.record.database)) else { break };
            let number = self.next_database();
            let db = self.database(number)?;
            let before = self.all[at].record;
            self.all[at].move_to(&db, number)?;
            self.sync(number)?;
            self.forgotten.push(before);
        }
        Ok(())
    }

    /// Makes a slice of entries, which is listed when the head says so.
    pub(super) fn seal(&mut self, number: u64, sorted: SortedEntries) -> Result<()> {
        let database = self.next_database();
        let db = self.database(database)?;
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let record = SliceRecord {
            number,
            database,
            salt: rand::random(),
            entries: count(sorted.entries.len()),
            buckets: count(sorted.entries.len().div_ceil(self.bucket)),
            pages: count(sorted.pages.len()),
            newest: sorted.pages.last().map_or(0, |page| page.seq),
        };
        self.all.push(Slice::write(&db, record, sorted)?);
        self.sync(database)
    }

    /// Makes the names of a database and of its files durable.
    fn sync(&self, number: u64) -> Result<()> {
        let synced = sync_dir(&self.path(number)).and_then(|()| sync_dir(&self.dir));
        synced.map_err(|error| Unusable::Damaged(error.to_string()))
    }

    /// Lets go of the slices whose pages are all older; their trees stay until the head no longer lists them.
    pub(super) fn forget(&mut self, oldest: Seq) {
        let forgotten = self.all.extract_if(.., |slice| slice.record.newest < oldest);
        self.forgotten.extend(forgotten.map(|slice| slice.record));
    }

    /// Drops the trees of forgotten slices, and deletes the databases in which no slice is left.
    pub(super) fn drop_forgotten(&mut self) -> Result<()> {
        let is_needed = |number: u64| self.all.iter().any(|slice| slice.record.database == number);
        self.databases.retain(|number, _| is_needed(*number));
        for record in std::mem::take(&mut self.forgotten) {
            if let Some(db) = self.databases.get(&record.database) {
                db.drop_tree(tree_name(record.number))?;
            }
        }
        for number in numbered(&self.dir, DATABASE_PREFIX)? {
            if !self.databases.contains_key(&number) {
                delete(&self.path(number)).map_err(|error| Unusable::Damaged(error.to_string()))?;
            }
        }
        Ok(())
    }

    /// The newest page of any slice.
    pub(super) fn newest(&self) -> Seq {
        self.all.iter().map(|slice| slice.record.newest).max().unwrap_or_default()
    }
}
