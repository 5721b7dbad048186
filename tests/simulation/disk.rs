//! A state directory: the view of the journal in memory, which outlives its process as far as it was written.
//!
//! Each step of an application is a crossing at which the process can be killed: what was written before stays, what
//! was to come is not there. Between incarnations it can be deleted or replaced by an older copy, and at any time it
//! can break.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use call_legs::core::identity::KeyHash;
use call_legs::core::journal::{Nonce, Page, Seq};
use call_legs::core::ledger::{Head, Ledger, PageId, PageMeta};
use call_legs::store::{Remembered, StoreError, View};

use crate::life::Life;
use crate::seed::{Run, lock, sleep};

/// How many entries it hands over at once: few, so that those who want all have to ask again.
const ENTRIES_AT_ONCE: usize = 5;

/// What is on the disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Files {
    /// What was applied last.
    pub(crate) head: Option<Head>,
    /// The pages, those of an unfinished application among them.
    pub(crate) pages: BTreeMap<PageId, PageMeta>,
    /// The entries, likewise.
    pub(crate) entries: BTreeMap<KeyHash, Remembered>,
}

/// A disk.
pub(crate) struct Disk {
    run: Arc<Run>,
    files: Mutex<Files>,
    copy: Mutex<Option<Files>>,
    is_broken: Mutex<bool>,
    /// The id in the state directory; another one where the directory was deleted.
    instance: Mutex<Nonce>,
}

impl Disk {
    /// An empty one.
    pub(crate) fn new(run: Arc<Run>) -> Arc<Self> {
        let disk = Self {
            run,
            files: Mutex::default(),
            copy: Mutex::default(),
            is_broken: Mutex::default(),
            instance: Mutex::default(),
        };
        disk.new_instance();
        Arc::new(disk)
    }

    fn new_instance(&self) {
        *lock(&self.instance) = Nonce(nonce(&self.run));
    }

    /// The id in the state directory.
    pub(crate) fn instance(&self) -> Nonce {
        *lock(&self.instance)
    }

    /// What is on it.
    pub(crate) fn files(&self) -> Files {
        lock(&self.files).clone()
    }

    /// Deletes the store, and with `with_instance` the whole directory.
    pub(crate) fn delete(&self, with_instance: bool) {
        *lock(&self.files) = Files::default();
        *lock(&self.is_broken) = false;
        if with_instance {
            self.new_instance();
        }
    }

    /// Makes a copy to come back to.
    pub(crate) fn back_up(&self) {
        *lock(&self.copy) = Some(self.files());
    }

    /// Puts the copy back, if there is one.
    pub(crate) fn restore(&self) {
        if let Some(copy) = lock(&self.copy).clone() {
            *lock(&self.files) = copy;
        }
    }

    /// Makes everything fail until it is wiped.
    pub(crate) fn break_down(&self) {
        *lock(&self.is_broken) = true;
    }

    /// The disk as a life of a process sees it.
    pub(crate) fn seen_by(self: &Arc<Self>, life: &Arc<Life>) -> SimView {
        SimView { disk: Arc::clone(self), life: Arc::clone(life) }
    }
}

/// Sixteen bytes that the dice decide.
pub(crate) fn nonce(run: &Run) -> [u8; 16] {
    let (high, low) = run.throw(|dice| (dice.roll(), dice.roll()));
    ((u128::from(high) << 64) | u128::from(low)).to_be_bytes()
}

/// The view as one life of a process sees it.
pub(crate) struct SimView {
    disk: Arc<Disk>,
    life: Arc<Life>,
}

impl SimView {
    /// A step: the process may die before it and after it.
    async fn step<R>(&self, work: impl FnOnce(&mut Files) -> R) -> Result<R, StoreError> {
        self.life.cross().await;
        if *lock(&self.disk.is_broken) {
            return Err(StoreError::Broken {
                path: PathBuf::from("simulated"),
                reason: "so it was decided".to_owned(),
            });
        }
        let result = work(&mut lock(&self.disk.files));
        let time = self.disk.run.throw(|dice| Duration::from_micros(dice.between(50, 3_000).unsigned_abs()));
        sleep(time).await;
        self.life.cross().await;
        Ok(result)
    }
}

impl View for SimView {
    async fn load(&self) -> Result<Option<Ledger>, StoreError> {
        self.step(|files| {
            let head = files.head.clone()?;
            let oldest = head.oldest_needed_seq();
            let applied = |seq: Seq| oldest <= seq && seq <= head.last_seq;
            let pages = files.pages.iter().filter(|((seq, _), _)| applied(*seq));
            let pages = pages.map(|(id, page)| (*id, page.clone())).collect();
            Some(Ledger::of(head, pages))
        })
        .await
    }

    async fn find(&self, keys: Vec<KeyHash>) -> Result<Vec<Option<Remembered>>, StoreError> {
        self.step(|files| keys.iter().map(|key| files.entries.get(key).cloned()).collect()).await
    }

    async fn apply(&self, pages: Vec<Page>, head: Head) -> Result<(), StoreError> {
        for page in pages {
            self.step(|files| write_page(files, &page)).await?;
        }
        let oldest = head.oldest_needed_seq();
        self.step(|files| files.head = Some(head)).await?;
        self.step(|files| {
            files.entries.retain(|_, entry| entry.seq >= oldest);
            files.pages.retain(|(seq, _), _| *seq >= oldest);
        })
        .await
    }

    async fn wipe(&self) -> Result<(), StoreError> {
        self.life.cross().await;
        self.disk.delete(false);
        self.disk.run.note(format_args!("life {} wipes its view", self.life.number));
        self.life.cross().await;
        Ok(())
    }

    async fn entries_after(&self, after: Option<KeyHash>) -> Result<Vec<(KeyHash, Remembered)>, StoreError> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.step(|files| {
            let entries = files.entries.range((from, Bound::Unbounded)).take(ENTRIES_AT_ONCE);
            entries.map(|(key, entry)| (*key, entry.clone())).collect()
        })
        .await
    }
}

fn write_page(files: &mut Files, page: &Page) {
    let meta = PageMeta::of(page);
    files.pages.insert((page.seq, page.writer), meta);
    for entry in page.entries() {
        let new = Remembered {
            seen: entry.seen,
            seq: page.seq,
            unit: page.unit.as_str().into(),
            generation: page.generation,
        };
        let known = files.entries.entry(entry.key).or_insert_with(|| new.clone());
        if known.seq <= new.seq {
            *known = new;
        }
    }
}
