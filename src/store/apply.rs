//! An apply, step by step: what comes becomes recent entries and slices, what is no longer needed goes.
//!
//! ```text
//!   stage    slices that are due are written, and durable       ┐ a crash leaves slices that nobody lists,
//!   commit   one batch: pages, entries, head, list of slices    │ and the old head
//!   clean    pages and databases that are not needed            ┘ or the new one, and slices that nobody lists
//! ```
//!
//! After a step that fails what is in memory is no longer what is on disk: the files are to be closed.

use std::collections::BTreeMap;

use sled::Batch;

use super::disk::{Result, Unusable};
use super::files::Files;
use super::head::{Kept, Record, put_entries, put_page};
use super::packed::{PageRef, pack_meta, page_key};
use crate::core::identity::Fingerprint;
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
                self.seal(&mut kept)?;
                unsaved.clear();
            }
            let unit = kept.unit(&page.unit)?;
            let is_keyed = page.fingerprint_version == Fingerprint::KEYED_VERSION;
            let page = PageRef { seq: page.seq, unit, generation: page.generation, is_keyed };
            self.recent.insert(page, entries.iter().copied());
            unsaved.push((id, entries));
        }
        // What comes in bulk goes to a slice at once: it need not be written twice.
        if coming.min(self.recent.len()) > self.sizes.recent / 2 {
            self.seal(&mut kept)?;
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
        self.slices.forget(kept.oldest);
        if self.slices.all.iter().all(|slice| Some(slice.record.number) != self.before_slice) {
            self.before.clear();
            self.before_slice = None;
        }
        self.slices.give_back()?;
        kept.slices = self.slices.all.iter().map(|slice| (slice.record.number, slice.record)).collect();
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

    /// A page's entries without those that a newer page in a slice has taken over: of two writers' pages one
    /// may come late, and what is looked for is found in the newest place first.
    fn entries_that_count(&self, page: &Page) -> Result<Vec<Entry>> {
        let mut entries = Vec::with_capacity(page.legs.len() + page.dead.len());
        entries.extend(page.entries());
        if page.seq < self.slices.newest() {
            let keys: Vec<_> = entries.iter().map(|entry| entry.key).collect();
            let mut known = self.find(&keys)?.into_iter();
            entries.retain(|_| known.next().flatten().is_none_or(|known| known.seq <= page.seq));
        }
        Ok(entries)
    }

    /// Makes a slice of the recent entries.
    fn seal(&mut self, kept: &mut Kept) -> Result<()> {
        let sorted = self.recent.sorted(kept.oldest);
        self.before_slice = None;
        if !sorted.entries.is_empty() {
            self.slices.seal(kept.next_slice, sorted)?;
            self.before_slice = Some(kept.next_slice);
            kept.next_slice += 1;
        }
        std::mem::swap(&mut self.recent, &mut self.before);
        self.recent.clear();
        kept.epoch += 1;
        kept.chunks = 0;
        Ok(())
    }

    /// The second step: the head with all that it says, all or nothing and durable when it returns.
    pub(super) fn commit(&mut self, mut staged: Staged) -> Result<()> {
        self.head.write(staged.batch, self.record.as_ref(), &mut staged.record)?;
        self.record = Some(staged.record);
        self.mark()
    }

    /// The third step: what the head no longer needs. What a crash leaves of it is nobody's.
    pub(super) fn clean(&mut self) -> Result<()> {
        let Some(record) = &self.record else { return Ok(()) };
        self.head.forget(&record.kept)?;
        // In the first half of an epoch less has to be copied.
        let is_little = (record.kept.chunks as usize * self.sizes.chunk) < self.sizes.recent / 2;
        if is_little && self.head.is_bloated(&record.kept, self.sizes.slack) {
            self.head.renew(&self.dir, &record.kept)?;
        }
        self.slices.drop_forgotten()
    }
}
