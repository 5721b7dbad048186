//! A run: the entries of many pages in one file, sorted by key and never changed once the head lists it.
//!
//! ```text
//!   run-<n>   bucket 0 │ bucket 1 │ … │ where buckets begin │ the pages │ the filter
//! ```
//!
//! A bucket holds the entries whose keys lie in its part of the keys' range, packed, and a checksum; keys are
//! hashes, so buckets are filled evenly. Each checksum is salted with the run's own random number, which the
//! head holds along with the run's sizes: a file of another run, an older file of the same name, a bucket in
//! another's place or a file that was cut are all noticed, those in memory at opening, buckets when they are read.
//!
//! # Why a file and not a database
//!
//! The head is sled's; runs were measured in it, too, in the best layout that was found (each bucket a leaf of
//! its own, made room for beforehand): 2 million entries in one database, twenty of them open.
//!
//! | | sled | file |
//! |---|---|---|
//! | written, CPU an entry | 60 to 100 ns, 180 when filled in the usual way | 20 to 30 ns |
//! | disk an entry | 29 bytes, 50 when filled in the usual way | 28 bytes |
//! | reading one bucket | 20 to 80 µs: a node is up to 16 values | 2 µs |
//! | memory before anything is read | 1 to 1.7 MiB a database | the file's index |
//! | memory as buckets are read | all of them: what is read is let go of only after 64 reads in its 256th part | none |
//!
//! With that, millions of entries would neither be found fast enough nor stay within the memory they may take.
//! Nothing here needs what a database is for: a run is written once, read in place, and deleted whole.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::files::{Result, Unusable, damaged};
use super::filter::{BLOCK_BYTES, Filter, Shape};
use super::packed::{PackedEntry, PageRef, Section, check_section, key_of, section_hasher};
use crate::core::identity::KeyHash;
use crate::core::journal::Seq;

/// How much of a filter is read at once.
const PART_BLOCKS: usize = 1024;

/// A checksum's bytes.
pub(super) const SUM: usize = 8;

/// What the head says of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RunRecord {
    /// Its number, which names its file.
    pub(super) number: u64,
    /// Drawn when it was written.
    pub(super) salt: u64,
    /// How often its entries have been merged.
    pub(super) level: u8,
    pub(super) entries: u64,
    pub(super) buckets: u32,
    /// How many pages its entries refer to.
    pub(super) pages: u32,
    pub(super) filter_blocks: u32,
    pub(super) filter_probes: u8,
    /// The newest of its pages.
    pub(super) newest: Seq,
}

impl RunRecord {
    pub(super) fn shape(&self) -> Shape {
        Shape { blocks: self.filter_blocks, probes: self.filter_probes }
    }

    fn buckets_bytes(&self) -> u64 {
        self.entries * PackedEntry::BYTES as u64 + u64::from(self.buckets) * SUM as u64
    }

    fn starts_bytes(&self) -> usize {
        self.buckets as usize * size_of::<u32>()
    }

    fn pages_bytes(&self) -> usize {
        self.pages as usize * PageRef::BYTES
    }

    /// How long its file is.
    pub(super) fn file_bytes(&self) -> u64 {
        self.buckets_bytes() + (self.starts_bytes() + self.pages_bytes() + self.shape().bytes() + 3 * SUM) as u64
    }
}

/// The file of a run.
pub(super) fn run_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{RUN_PREFIX}{number}"))
}

/// What the names of the runs' files begin with.
pub(super) const RUN_PREFIX: &str = "run-";

/// The bucket of a key, among so many.
pub(super) fn bucket_of(key: &KeyHash, buckets: u32) -> u32 {
    let high = u128::from_be_bytes(key.0) >> 64;
    u32::try_from((high * u128::from(buckets)) >> 64).unwrap_or(u32::MAX)
}

/// An open run.
pub(super) struct Run {
    pub(super) record: RunRecord,
    pub(super) file: File,
    /// How many entries lie before each bucket.
    pub(super) starts: Vec<u32>,
    /// Ordered by their numbers.
    pub(super) pages: Vec<PageRef>,
    pub(super) filter: Filter,
}

impl Run {
    /// Opens it and checks all but its buckets. The filter is folded so many times.
    pub(super) fn open(dir: &Path, record: RunRecord, folds: u32) -> Result<Self> {
        let name = format!("{RUN_PREFIX}{}", record.number);
        let refused = |error: std::io::Error| Unusable::Damaged(format!("{name}: {error}"));
        let file = File::open(run_path(dir, record.number)).map_err(refused)?;
        let metadata = file.metadata().map_err(refused)?;
        if !metadata.is_file() || metadata.len() != record.file_bytes() {
            return damaged(&format!("the length of {name}"));
        }
        let mut at = record.buckets_bytes();
        let mut read = |bytes: usize, section: Section| {
            let mut content = vec![0; bytes + SUM];
            file.read_exact_at(&mut content, at).map_err(refused)?;
            at += content.len() as u64;
            let sum = content.split_off(bytes);
            if sum != check_section(record.salt, section, &content).to_be_bytes() {
                return damaged(&format!("a part of {name}"));
            }
            Ok(content)
        };
        let starts = read(record.starts_bytes(), Section::Starts)?;
        let starts: Vec<u32> = starts.as_chunks().0.iter().map(|bytes| u32::from_be_bytes(*bytes)).collect();
        let pages = read(record.pages_bytes(), Section::Pages)?;
        let pages = pages.as_chunks().0.iter().map(PageRef::from_bytes).collect();
        let filter = read_filter(&file, at, &record, folds)?;
        Ok(Self { record, file, starts, pages, filter })
    }

    /// Reads a bucket into `buffer`, which is its entries then, by their keys.
    pub(super) fn read_bucket<'a>(
        &self,
        bucket: u32,
        buffer: &'a mut Vec<u8>,
    ) -> Result<&'a [[u8; PackedEntry::BYTES]]> {
        let start = |bucket: u32| self.starts.get(bucket as usize).map(|start| u64::from(*start));
        let Some(from) = start(bucket) else { return damaged("a bucket's number") };
        let until = start(bucket + 1).unwrap_or(self.record.entries);
        let Some(entries) = until.checked_sub(from) else { return damaged("the order of buckets") };
        let bytes = entries as usize * PackedEntry::BYTES;
        buffer.resize(bytes + SUM, 0);
        let at = from * PackedEntry::BYTES as u64 + u64::from(bucket) * SUM as u64;
        let number = self.record.number;
        let read = self.file.read_exact_at(buffer, at);
        read.map_err(|error| Unusable::Damaged(format!("{RUN_PREFIX}{number}: cannot read: {error}")))?;
        let (content, sum) = buffer.split_at(bytes);
        if sum != check_section(self.record.salt, Section::Bucket(bucket), content).to_be_bytes() {
            return damaged(&format!("a bucket of {RUN_PREFIX}{number}"));
        }
        Ok(content.as_chunks().0)
    }

    /// The page that an entry refers to.
    pub(super) fn page(&self, entry: &PackedEntry) -> Result<PageRef> {
        let page = self.pages.get(entry.page as usize);
        page.map_or_else(|| damaged("the page of an entry"), |page| Ok(*page))
    }

    /// How many of its entries are on pages below `oldest`.
    pub(super) fn forgotten(&self, oldest: Seq) -> u64 {
        self.pages.iter().take_while(|page| page.seq < oldest).map(|page| u64::from(page.entries)).sum()
    }
}

/// Reads the filter at `at`, a part at a time, since it is never needed as a whole and unfolded.
fn read_filter(file: &File, mut at: u64, record: &RunRecord, folds: u32) -> Result<Filter> {
    let refused = |error: std::io::Error| Unusable::Damaged(format!("{RUN_PREFIX}{}: {error}", record.number));
    let Some(shape) = record.shape().folded(folds) else { return damaged("the shape of a filter") };
    let mut filter = Filter::new(shape);
    let mut hasher = section_hasher(record.salt, Section::Filter);
    let mut part = vec![0; PART_BLOCKS * BLOCK_BYTES];
    for from in (0..record.filter_blocks as usize).step_by(PART_BLOCKS) {
        part.truncate((record.filter_blocks as usize - from) * BLOCK_BYTES);
        file.read_exact_at(&mut part, at).map_err(refused)?;
        at += part.len() as u64;
        hasher.update(&part);
        if filter.add_bytes(from, &part, folds).is_none() {
            return damaged("the shape of a filter");
        }
    }
    let mut sum = [0; SUM];
    file.read_exact_at(&mut sum, at).map_err(refused)?;
    if sum == hasher.digest().to_be_bytes() {
        Ok(filter)
    } else {
        damaged(&format!("the filter of {RUN_PREFIX}{}", record.number))
    }
}

/// Finds a key among a bucket's entries.
pub(super) fn find_in_bucket(entries: &[[u8; PackedEntry::BYTES]], key: &KeyHash) -> Option<PackedEntry> {
    let found = entries.binary_search_by(|bytes| key_of(bytes).cmp(key)).ok()?;
    Some(PackedEntry::from_bytes(&entries[found]))
}

/// Goes through a run's entries by their keys, one bucket in memory.
pub(super) struct Cursor<'a> {
    pub(super) run: &'a Run,
    bucket: u32,
    buffer: Vec<u8>,
    /// Where in the buffer the next entry is, and where the entries end.
    next: usize,
    end: usize,
}

impl<'a> Cursor<'a> {
    /// Begins with the first key that is not below `from`.
    pub(super) fn new(run: &'a Run, from: &KeyHash) -> Self {
        Self { run, bucket: bucket_of(from, run.record.buckets), buffer: Vec::new(), next: 0, end: 0 }
    }

    /// Hands over all entries from here to `until`, which is not among them; `None` is the end.
    /// At the beginning there may be some of the first bucket that lie below what was asked for.
    pub(super) fn take_until(&mut self, until: Option<&KeyHash>, mut take: impl FnMut(PackedEntry)) -> Result<()> {
        loop {
            while self.next < self.end {
                let Some((bytes, _)) = self.buffer[self.next..].split_first_chunk() else { break };
                if until.is_some_and(|until| key_of(bytes) >= *until) {
                    return Ok(());
                }
                take(PackedEntry::from_bytes(bytes));
                self.next += PackedEntry::BYTES;
            }
            if self.bucket == self.run.record.buckets {
                return Ok(());
            }
            let entries = self.run.read_bucket(self.bucket, &mut self.buffer)?.len();
            self.bucket += 1;
            (self.next, self.end) = (0, entries * PackedEntry::BYTES);
        }
    }
}
