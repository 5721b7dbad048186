//! An apply, step by step: what comes becomes recent entries and runs, what is no longer needed goes.
//!
//! ```text
//!   stage    runs are written and durable, if any are due     ┐ a crash leaves files that nobody lists,
//!   commit   one batch: pages, entries, head, list of runs    │ and the old head
//!   clean    pages, entries and files that are not listed     ┘ or the new one, and files that nobody lists
//! ```
//!
//! After a step that fails what is in memory is no longer what is on disk: the files are to be closed.

use std::collections::BTreeMap;

use sled::Batch;

use super::files::{FILTER_BITS, Files, Result, Unusable, delete, sync_dir};
use super::filter::folds;
use super::head::{Kept, Record, put_entries, put_page};
use super::merge::{due, merge};
use super::packed::{PageRef, pack_meta, page_key};
use super::run::{Run, run_path};
use super::run_writer::{Plan, RunWriter};
use crate::core::journal::{Entry, Page};
use crate::core::ledger::{Head, PageId, PageMeta};

/// The next head with all that belongs to it; see [`Files::commit`].
pub(super) struct Staged {
    record: Record,
    batch: Batch,
}

impl Files {
    /// Remembers the pages, then the head, then forgets.
    pub(super) fn apply(&mut self, pages: &[Page], head: Head) -> Result<()> {
        let staged = self.stage(pages, head)?;
        self.commit(staged)?;
        self.clean()
    }

    /// The first step: everything but the head. What is on disk still counts as it was.
    pub(super) fn stage(&mut self, pages: &[Page], head: Head) -> Result<Staged> {
        debug_assert!(pages.iter().all(|page| page.seq <= head.last_seq), "a page beyond its head would be lost");
        let mut kept = self.record.as_ref().map(|record| record.kept.clone()).unwrap_or_default();
        let runs_before = kept.next_run;
        let oldest_before = kept.oldest;
        kept.oldest = kept.oldest.max(head.oldest_needed_seq());
        let mut batch = Batch::default();
        let mut unsaved: Vec<(PageId, Vec<Entry>)> = Vec::new();
        let mut coming = 0;
        let new = self.new_pages(pages, &mut kept, &mut batch)?;
        self.set_units(&kept);
        for (id, page) in new {
            let entries = self.entries_that_count(page)?;
            coming += entries.len();
            if self.recent.len() > 0 && self.recent.len() + entries.len() > self.sizes.recent {
                self.write_recent(&mut kept)?;
                unsaved.clear();
            }
            let unit = kept.unit(&page.unit)?;
            let page = PageRef { seq: page.seq, unit, generation: page.generation, entries: 0 };
            self.recent.insert(page, entries.iter().copied());
            unsaved.push((id, entries));
        }
        // What comes in bulk goes to a run at once: it need not be written twice.
        if coming.min(self.recent.len()) > self.sizes.recent / 2 {
            self.write_recent(&mut kept)?;
            unsaved.clear();
        }
        for (id, entries) in unsaved {
            put_entries(&mut batch, &mut kept, id, &entries, self.sizes.chunk);
        }
        let (mut pages, mut entries) = (0, 0);
        for page in self.head.pages((oldest_before, Some(kept.oldest)), &kept.units) {
            pages += 1;
            entries += u64::from(page?.1.entries);
        }
        kept.pages = kept.pages.saturating_sub(pages);
        kept.entries = kept.entries.saturating_sub(entries);
        self.drop_forgotten(&kept);
        self.merge_due(&mut kept)?;
        if kept.next_run != runs_before {
            sync_dir(&self.dir).map_err(|error| self.refused("write", &self.dir, &error))?;
        }
        kept.runs = self.runs.iter().map(|run| run.record).collect();
        Ok(Staged { record: Record { head, kept }, batch })
    }

    /// The pages that are needed and not known yet, which are noted.
    fn new_pages<'a>(&self, pages: &'a [Page], kept: &mut Kept, batch: &mut Batch) -> Result<Vec<(PageId, &'a Page)>> {
        let mut new = Vec::new();
        let mut metas: BTreeMap<PageId, Vec<u8>> = BTreeMap::new();
        let oldest = kept.oldest;
        for page in pages.iter().filter(|page| page.seq >= oldest) {
            let id = (page.seq, page.writer);
            let meta = PageMeta::of(page);
            let key = page_key(id);
            let packed = pack_meta(&key, &meta, kept.unit(&meta.unit)?);
            let known = match metas.get(&id) {
                Some(known) => Some(known.as_slice().into()),
                None => self.head.page(&key)?,
            };
            match known {
                Some(known) if *known == *packed => {}
                Some(_) => {
                    return Err(Unusable::Damaged(format!("page {} differs from what was applied before", id.0)));
                }
                None => {
                    kept.pages += 1;
                    kept.entries += u64::from(meta.entries);
                    put_page(batch, id, packed.clone());
                    metas.insert(id, packed);
                    new.push((id, page));
                }
            }
        }
        Ok(new)
    }

    /// A page's entries without those that a newer page in a run has taken over: of two writers' pages one
    /// may come late, and what is looked for is found in the newest place first.
    fn entries_that_count(&self, page: &Page) -> Result<Vec<Entry>> {
        let mut entries = Vec::with_capacity(page.legs.len() + page.dead.len());
        entries.extend(page.entries());
        if page.seq < self.newest_in_runs() {
            let keys: Vec<_> = entries.iter().map(|entry| entry.key).collect();
            let mut known = self.find(&keys)?.into_iter();
            entries.retain(|_| known.next().flatten().is_none_or(|known| known.seq <= page.seq));
        }
        Ok(entries)
    }

    /// Makes a run of the recent entries.
    fn write_recent(&mut self, kept: &mut Kept) -> Result<()> {
        let (pages, entries) = self.recent.sorted(kept.oldest);
        if !entries.is_empty() {
            let plan = self.plan(kept, 0, entries.len() as u64);
            let mut writer = RunWriter::create(&self.dir, plan, pages, &self.sizes)?;
            writer.write_all(&entries)?;
            let run = writer.finish()?;
            self.runs.push(run);
        }
        std::mem::swap(&mut self.recent, &mut self.before);
        self.recent.clear();
        kept.epoch += 1;
        kept.chunks = 0;
        self.fold_filters();
        Ok(())
    }

    fn plan(&self, kept: &mut Kept, level: u8, entries_max: u64) -> Plan {
        let number = kept.next_run;
        kept.next_run += 1;
        let entries = self.runs.iter().map(|run| run.record.entries).sum::<u64>() + entries_max;
        let filter_bits = (self.sizes.filter_bytes as f64 * 8.0 / entries as f64).min(FILTER_BITS);
        Plan { number, level, entries_max, filter_bits }
    }

    fn drop_forgotten(&mut self, kept: &Kept) {
        for run in self.runs.extract_if(.., |run| run.record.newest < kept.oldest) {
            self.obsolete.push(run.record.number);
        }
    }

    /// Merges runs for as long as any are due.
    fn merge_due(&mut self, kept: &mut Kept) -> Result<()> {
        while let Some((range, level)) = due(&self.runs, kept.entries, kept.oldest, &self.sizes) {
            let at = range.start;
            let mut inputs: Vec<Run> = self.runs.drain(range).collect();
            // Before the new one takes its place.
            inputs.iter_mut().for_each(|run| run.filter.clear());
            let needed = inputs.iter().map(|run| run.record.entries - run.forgotten(kept.oldest)).sum();
            let plan = self.plan(kept, level, needed);
            if let Some(run) = merge(&self.dir, &inputs, plan, kept.oldest, &self.sizes)? {
                self.runs.insert(at, run);
            }
            self.obsolete.extend(inputs.iter().map(|run| run.record.number));
            self.fold_filters();
        }
        Ok(())
    }

    fn fold_filters(&mut self) {
        let filters = self.runs.iter().map(|run| (run.record.entries, run.filter.shape().blocks));
        let folds = folds(&filters.collect::<Vec<_>>(), self.sizes.filter_bytes);
        for (run, folds) in self.runs.iter_mut().zip(folds) {
            (0..folds).for_each(|_| run.filter.fold());
        }
    }

    /// The second step: the head with all that it says, all or nothing and durable when it returns.
    pub(super) fn commit(&mut self, staged: Staged) -> Result<()> {
        self.head.write(staged.batch, &staged.record)?;
        self.record = Some(staged.record);
        self.mark()
    }

    /// The third step: what the head no longer needs. What a crash leaves of it is nobody's.
    pub(super) fn clean(&mut self) -> Result<()> {
        let Some(record) = &self.record else { return Ok(()) };
        self.head.forget(&record.kept)?;
        // In the first half of an epoch less has to be copied.
        let is_little = (record.kept.chunks as usize * self.sizes.chunk) < self.sizes.recent / 2;
        if is_little && self.head.is_bloated(&record.kept, self.sizes.head_slack) {
            self.head.renew(&self.dir, &record.kept)?;
        }
        for number in std::mem::take(&mut self.obsolete) {
            let path = run_path(&self.dir, number);
            delete(&path).map_err(|error| self.refused("delete", &path, &error))?;
        }
        Ok(())
    }
}
