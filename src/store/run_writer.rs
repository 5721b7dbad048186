//! Writes a run: bucket by bucket in the order of the keys, so that memory does not grow with it.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use super::files::{Result, Sizes, Unusable};
use super::filter::{Filter, Probe, Shape};
use super::lock::open_own;
use super::packed::{PackedEntry, PageRef, Section, check_section, section_hasher};
use super::run::{RUN_PREFIX, Run, RunRecord, bucket_of, run_path};

/// How much is handed to the system at once, in bytes.
const WRITE_BYTES: usize = 128 << 10;

/// A run under way.
pub(super) struct RunWriter {
    record: RunRecord,
    file: BufWriter<File>,
    starts: Vec<u32>,
    pages: Vec<PageRef>,
    filter: Filter,
    bucket: Vec<u8>,
}

/// How a run is to be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) number: u64,
    pub(super) level: u8,
    /// The most entries there can be.
    pub(super) entries_max: u64,
    /// How many bits of the filter each of those is worth.
    pub(super) filter_bits: f64,
}

impl RunWriter {
    /// Begins a run whose entries refer to `pages`, which are ordered by their numbers.
    pub(super) fn create(dir: &Path, plan: Plan, mut pages: Vec<PageRef>, sizes: &Sizes) -> Result<Self> {
        let path = run_path(dir, plan.number);
        let file = open_own(File::options().read(true).write(true).create(true).truncate(true), &path);
        let file = file.map_err(|error| refused(plan.number, &error))?;
        pages.iter_mut().for_each(|page| page.entries = 0);
        let shape = Shape::new(plan.entries_max, plan.filter_bits);
        let buckets = u32::try_from(plan.entries_max / sizes.bucket).unwrap_or(u32::MAX).max(1);
        let record = RunRecord {
            number: plan.number,
            salt: rand::random(),
            level: plan.level,
            entries: 0,
            buckets,
            pages: 0,
            filter_blocks: shape.blocks,
            filter_probes: shape.probes,
            newest: pages.last().map_or(0, |page| page.seq),
        };
        let starts = Vec::with_capacity(buckets as usize);
        let file = BufWriter::with_capacity(WRITE_BYTES, file);
        Ok(Self { record, file, starts, pages, filter: Filter::new(shape), bucket: Vec::new() })
    }

    /// How many buckets there are.
    pub(super) fn buckets(&self) -> u32 {
        self.record.buckets
    }

    /// Writes the entries of all buckets; they are ordered by their keys, each once.
    pub(super) fn write_all(&mut self, mut entries: &[PackedEntry]) -> Result<()> {
        for bucket in 0..self.record.buckets {
            let inside = entries.iter().take_while(|entry| bucket_of(&entry.key, self.record.buckets) == bucket);
            let (inside, rest) = entries.split_at(inside.count());
            self.write_bucket(inside)?;
            entries = rest;
        }
        Ok(())
    }

    /// Writes the next bucket, whose entries these are, ordered by their keys, each once.
    pub(super) fn write_bucket(&mut self, entries: &[PackedEntry]) -> Result<()> {
        let too_large = |_| Unusable::Damaged("a run has more entries than it can hold".to_owned());
        self.bucket.clear();
        for entry in entries {
            self.bucket.extend_from_slice(&entry.to_bytes());
            self.filter.insert(Probe::of(&entry.key));
            if let Some(page) = self.pages.get_mut(entry.page as usize) {
                page.entries += 1;
            }
        }
        let number = u32::try_from(self.starts.len()).map_err(too_large)?;
        let sum = check_section(self.record.salt, Section::Bucket(number), &self.bucket);
        self.bucket.extend_from_slice(&sum.to_be_bytes());
        self.starts.push(u32::try_from(self.record.entries).map_err(too_large)?);
        self.record.entries += entries.len() as u64;
        self.file.write_all(&self.bucket).map_err(|error| refused(self.record.number, &error))
    }

    /// Ends it: durable when it returns, but for its name in the directory.
    pub(super) fn finish(mut self) -> Result<Run> {
        let number = self.record.number;
        self.record.pages =
            u32::try_from(self.pages.len()).map_err(|_| Unusable::Damaged("too many pages".to_owned()))?;
        let starts: Vec<u8> = self.starts.iter().flat_map(|start| start.to_be_bytes()).collect();
        let pages: Vec<u8> = self.pages.iter().flat_map(|page| page.to_bytes()).collect();
        self.write_section(Section::Starts, &starts)?;
        self.write_section(Section::Pages, &pages)?;
        let mut hasher = section_hasher(self.record.salt, Section::Filter);
        for piece in self.filter.to_bytes() {
            hasher.update(&piece);
            self.file.write_all(&piece).map_err(|error| refused(number, &error))?;
        }
        let written = self.file.write_all(&hasher.digest().to_be_bytes());
        written.map_err(|error| refused(number, &error))?;
        let refused = |error: std::io::Error| refused(number, &error);
        let file = self.file.into_inner().map_err(|error| refused(error.into_error()))?;
        file.sync_all().map_err(refused)?;
        Ok(Run { record: self.record, file, starts: self.starts, pages: self.pages, filter: self.filter })
    }

    fn write_section(&mut self, section: Section, content: &[u8]) -> Result<()> {
        let sum = check_section(self.record.salt, section, content).to_be_bytes();
        let written = self.file.write_all(content).and_then(|()| self.file.write_all(&sum));
        written.map_err(|error| refused(self.record.number, &error))
    }
}

fn refused(number: u64, error: &std::io::Error) -> Unusable {
    Unusable::Damaged(format!("{RUN_PREFIX}{number}: cannot write: {error}"))
}
