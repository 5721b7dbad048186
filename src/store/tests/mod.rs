//! The view against a model of it: what it keeps, what a crash leaves of it, and damaged files.

mod crashes;
mod damage;
mod keeping;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::files::Sizes;
use super::slice::SliceRecord;
use super::{Remembered, SledView, StoreError, View};
use crate::core::dedupe::{Counts, Seen};
use crate::core::hours::{Compared, ComparedDay, Day, Hour, HourRows, PageHours};
use crate::core::identity::{Fingerprint, KeyHash};
use crate::core::journal::{Entry, Nonce, OutOffsets, Page, Record, Seq, Swept, UnitProgress};
use crate::core::lateness::Lateness;
use crate::core::ledger::Ledger;
use crate::core::time::{UtcMillis, Window};
use crate::core::watermark::{Delays, Progress};

/// Small enough that every kind of thing happens.
const SMALL: Sizes = Sizes { recent: 100, bucket: 8, chunk: 16, slack: 600 << 10 };
const PATIENCE: Duration = Duration::from_secs(15);

fn key(number: u32) -> KeyHash {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&number.wrapping_mul(0x9e37_79b9).to_be_bytes());
    bytes[12..].copy_from_slice(&number.to_be_bytes());
    KeyHash(bytes)
}

fn entry(number: u32, content: u64) -> Entry {
    // A fingerprint without any bits stands for none.
    let seen = Seen { fingerprint: Some(Fingerprint::from_bits(content + 1)), revision: content as u8 };
    Entry { key: key(number), seen }
}

/// The journal as its owner writes it, and what the view should answer.
#[derive(Clone, Default)]
struct Model {
    ledger: Ledger,
    entries: BTreeMap<KeyHash, Remembered>,
    /// Every page, with the ledger as it was then.
    history: Vec<(Page, Ledger)>,
}

impl Model {
    fn new() -> Self {
        let mut model = Self::default();
        model.write(Record::Genesis(crate::core::journal::Genesis {
            journal: Nonce([1; 16]),
            cluster: "cluster".to_owned(),
            fingerprint_version: Fingerprint::VERSION,
            at: UtcMillis::new(0),
            out_offsets: OutOffsets::default(),
            version: "0".to_owned(),
        }));
        // The head holds all that the journal can say.
        model.write(Record::Backfill(crate::core::journal::Backfill {
            id: Nonce([7; 16]),
            unit: "a".to_owned(),
            window: Window::new(UtcMillis::new(0), UtcMillis::new(1_000)),
            state: crate::core::journal::BackfillState::Running,
            at: UtcMillis::new(0),
            counts: Counts::default(),
        }));
        let compared = Compared { seen: 1, rows: HourRows { published: 2, dead: 0 } };
        let (unit, day, hours) = ("a".to_owned(), Day(20_000), [(7, compared)].into());
        model.write(Record::Day(ComparedDay { unit, generation: 3, day, hours }));
        model
    }

    fn write(&mut self, record: Record) {
        self.ledger.take(self.ledger.head.next_offset, &record).unwrap();
    }

    fn page(&mut self, unit: &str, legs: Vec<Entry>) -> Page {
        self.page_of(unit, legs, Fingerprint::VERSION)
    }

    /// A page written under a privacy policy.
    fn keyed(&mut self, unit: &str, numbers: std::ops::Range<u32>, content: u32) -> Page {
        let seen = Seen { fingerprint: Some(Fingerprint::keyed(1, content)), revision: 1 };
        let legs = numbers.map(|number| Entry { key: key(number), seen }).collect();
        self.page_of(unit, legs, Fingerprint::KEYED_VERSION)
    }

    fn page_of(&mut self, unit: &str, legs: Vec<Entry>, fingerprint_version: u8) -> Page {
        let seq = self.ledger.head.last_seq + 1;
        let page = Page {
            seq,
            writer: None,
            unit: unit.to_owned(),
            generation: 3,
            first: UtcMillis::new(seq as i64 * 10),
            last: UtcMillis::new(seq as i64 * 10 + 5),
            fingerprint_version,
            dead: vec![key(1_000_000 + seq as u32)],
            legs,
            hours: PageHours([(Hour::new(seq as i64 / 10), HourRows { published: 1, dead: 1 })].into()),
            chain_before: self.ledger.head.chain,
        };
        self.write(Record::Page(page.clone()));
        for entry in page.entries() {
            let seen = Remembered { seen: entry.seen, seq, unit: unit.into(), generation: 3 };
            self.entries.insert(entry.key, seen);
        }
        self.history.push((page.clone(), self.ledger.clone()));
        page
    }

    fn numbers(&mut self, unit: &str, numbers: std::ops::Range<u32>, content: u64) -> Page {
        self.page(unit, numbers.map(|number| entry(number, content)).collect())
    }

    fn forget_below(&mut self, oldest_needed_seq: Seq) {
        let delays = Delays { settle: Duration::ZERO, overlap: Duration::ZERO, horizon: Duration::ZERO };
        self.write(Record::Progress(UnitProgress {
            generation: 3,
            last_seq: self.ledger.head.last_seq,
            chain: self.ledger.head.chain,
            oldest_needed_seq,
            lateness: Lateness { buckets: vec![1, 2], closest: Some(Duration::from_secs(3)), ..Lateness::default() },
            sweeps: vec![Swept { lookback: Duration::from_secs(60), at: UtcMillis::new(5) }],
            ..UnitProgress::new("a", Progress::starting_at(UtcMillis::new(0), &delays), 0)
        }));
    }

    /// The view answers as the model does, for every key; what is forgotten may still be remembered.
    async fn check(&self, view: &SledView) -> Result<(), String> {
        let fault = |error: StoreError| format!("FAULT {error}");
        let ledger = view.load().await.map_err(fault)?.unwrap_or_default();
        if ledger != self.ledger {
            return Err(format!("another ledger: {:?}, not {:?}", ledger.head.last_seq, self.ledger.head.last_seq));
        }
        let mut keys: Vec<KeyHash> = self.entries.keys().copied().collect();
        keys.push(KeyHash([0xee; 16]));
        let found = view.find(keys.clone()).await.map_err(fault)?;
        for (key, found) in keys.iter().zip(&found) {
            let expected = self.entries.get(key);
            let is_needed = |seen: &&Remembered| seen.seq >= self.ledger.head.oldest_needed_seq();
            if found.as_ref() != expected && (found.is_some() || expected.filter(is_needed).is_some()) {
                return Err(format!("{key:?} is {found:?}, not {expected:?}"));
            }
        }
        let mut all: BTreeMap<KeyHash, Remembered> = all(view).await.map_err(fault)?;
        for (key, found) in keys.iter().zip(found) {
            if all.remove(key) != found {
                return Err(format!("all and find differ about {key:?}"));
            }
        }
        if all.is_empty() { Ok(()) } else { Err(format!("{} too many", all.len())) }
    }
}

fn open(dir: &Path) -> SledView {
    SledView::open_with(dir, SMALL, PATIENCE).unwrap()
}

async fn all(view: &SledView) -> Result<BTreeMap<KeyHash, Remembered>, StoreError> {
    let mut all = BTreeMap::new();
    loop {
        let entries = view.entries_after(all.last_key_value().map(|(key, _)| *key)).await?;
        if entries.is_empty() {
            return Ok(all);
        }
        for (key, known) in entries {
            assert!(all.insert(key, known).is_none() && *all.last_key_value().unwrap().0 == key, "in their order");
        }
    }
}

async fn apply(view: &SledView, model: &Model, pages: Vec<Page>) {
    view.apply(pages, model.ledger.head.clone()).await.unwrap();
}

/// The numbers of the slices' databases.
fn databases(dir: &Path) -> Vec<u64> {
    let mut databases = super::disk::numbered(&dir.join("store"), "slices-").unwrap();
    databases.sort_unstable();
    databases
}

/// What the head says of the slices, oldest first.
fn records(view: SledView) -> Vec<SliceRecord> {
    view.into_files().slices.all.iter().map(|slice| slice.record).collect()
}

/// The numbers of the slices' trees, in all databases.
fn trees(dir: &Path) -> Vec<u64> {
    let mut trees = Vec::new();
    for database in databases(dir) {
        let names = sled::open(dir.join(format!("store/slices-{database}"))).unwrap().tree_names();
        let names = names.iter().map(|name| String::from_utf8_lossy(name).into_owned());
        trees.extend(names.filter_map(|name| Some(name.strip_prefix("slice-")?.parse::<u64>().unwrap())));
    }
    trees.sort_unstable();
    trees
}

/// Changes a value of a slice behind the view's back, or removes it.
fn poke(dir: &Path, slice: SliceRecord, kind: u8, number: u32, change: impl FnOnce(Vec<u8>) -> Option<Vec<u8>>) {
    let db = sled::open(dir.join(format!("store/slices-{}", slice.database))).unwrap();
    let tree = db.open_tree(format!("slice-{}", slice.number)).unwrap();
    let [a, b, c, d] = number.to_be_bytes();
    let key = [kind, a, b, c, d];
    match change(tree.get(key).unwrap().unwrap().to_vec()) {
        Some(value) => tree.insert(key, value).unwrap(),
        None => tree.remove(key).unwrap(),
    };
    db.flush().unwrap();
}

/// A view of some pages in several slices and some in none, closed.
async fn filled() -> (TempDir, Model) {
    let dir = tempfile::tempdir().unwrap();
    let view = open(dir.path());
    let mut model = Model::new();
    for number in 0..20 {
        let unit = if number % 3 == 0 { "b" } else { "a" };
        let page = model.numbers(unit, number * 30..number * 30 + 45, u64::from(number));
        apply(&view, &model, vec![page]).await;
    }
    model.check(&view).await.unwrap();
    drop(view);
    let files = open(dir.path()).into_files();
    let slices: Vec<SliceRecord> = files.slices.all.iter().map(|slice| slice.record).collect();
    assert!(slices.len() > 6 && files.recent.len() > 20, "{slices:?}");
    drop(files);
    (dir, model)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to)
        } else {
            assert!(fs::copy(entry.path(), to).is_ok())
        }
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// Opens damaged files: either all is as it was, or it is known not to be, and the view works again.
/// Says whether the view survived.
async fn is_survived(dir: &Path, model: &Model) -> bool {
    is_survived_within(dir, model, PATIENCE).await
}

async fn is_survived_within(dir: &Path, model: &Model, patience: Duration) -> bool {
    let view = match SledView::open_with(dir, SMALL, patience) {
        Ok(view) => view,
        Err(StoreError::Hangs { .. }) => {
            assert!(files(&dir.join("store")).is_empty(), "what hangs is deleted");
            SledView::open_with(dir, SMALL, PATIENCE).unwrap()
        }
        Err(error) => panic!("{error}"),
    };
    let is_whole = match view.load().await.unwrap() {
        None => false,
        Some(found) => is_brought_up_to_date(&view, &found, model).await,
    };
    if !is_whole {
        view.wipe().await.unwrap();
    }
    // It can be used at once.
    let mut model = if is_whole { model.clone() } else { Model::new() };
    let page = model.numbers("a", 5000..5010, 1);
    apply(&view, &model, vec![page]).await;
    model.check(&view).await.unwrap();
    drop(view);
    model.check(&open(dir)).await.unwrap();
    is_whole
}

/// Less of the head may be left than there was: an older view, to be brought up to date as after a crash.
async fn is_brought_up_to_date(view: &SledView, found: &Ledger, model: &Model) -> bool {
    let known = model.history.iter().position(|(_, ledger)| ledger == found).expect("a ledger that was");
    let missing: Vec<Page> = model.history[known + 1..].iter().map(|(page, _)| page.clone()).collect();
    let applied = view.apply(missing, model.ledger.head.clone()).await;
    match applied.map_err(|error| format!("FAULT {error}")).and(model.check(view).await) {
        Ok(()) => true,
        Err(reason) if reason.starts_with("FAULT") => false,
        Err(reason) => panic!("a wrong answer that looks right: {reason}"),
    }
}

fn heads(dir: &Path) -> Vec<u64> {
    let mut heads = super::disk::numbered(&dir.join("store"), "head-").unwrap();
    heads.sort_unstable();
    heads
}
