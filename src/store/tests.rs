//! The view on sled, against a model of it and against damaged files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;

use super::databases::Sizes;
use super::{Remembered, SledView, StoreError, View};
use crate::core::dedupe::{Counts, Seen};
use crate::core::hours::{Compared, ComparedDay, Day, Hour, HourRows, PageHours};
use crate::core::identity::{Fingerprint, KeyHash};
use crate::core::journal::{Entry, Nonce, OutOffsets, Page, Record, Seq, Swept, UnitProgress};
use crate::core::lateness::Lateness;
use crate::core::ledger::Ledger;
use crate::core::time::{UtcMillis, Window};
use crate::core::watermark::{Delays, Progress};

const SMALL: Sizes = Sizes { min: 40, max: 400 };
const PATIENCE: Duration = Duration::from_secs(15);

fn key(number: u32) -> KeyHash {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&number.wrapping_mul(0x9e37_79b9).to_be_bytes());
    bytes[12..].copy_from_slice(&number.to_be_bytes());
    KeyHash(bytes)
}

fn entry(number: u32, content: u64) -> Entry {
    let seen = Seen { fingerprint: Some(Fingerprint::from_bits(content)), revision: content as u8 };
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
        let seq = self.ledger.head.last_seq + 1;
        let page = Page {
            seq,
            writer: None,
            unit: unit.to_owned(),
            generation: 3,
            first: UtcMillis::new(seq as i64 * 10),
            last: UtcMillis::new(seq as i64 * 10 + 5),
            fingerprint_version: Fingerprint::VERSION,
            dead: vec![key(1_000_000 + seq as u32)],
            legs,
            hours: PageHours([(Hour::new(seq as i64 / 10), HourRows { published: 1, dead: 1 })].into()),
            chain_before: self.ledger.head.chain,
        };
        self.write(Record::Page(page.clone()));
        for entry in page.entries() {
            let seen = Remembered { seen: entry.seen, seq, unit: unit.to_owned(), generation: 3 };
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
        let mut all: BTreeMap<KeyHash, Remembered> = view.all().await.map_err(fault)?.into_iter().collect();
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

async fn apply(view: &SledView, model: &Model, pages: Vec<Page>) {
    view.apply(pages, model.ledger.head.clone()).await.unwrap();
}

fn slices(dir: &Path) -> Vec<Seq> {
    let entries = fs::read_dir(dir.join("store")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut slices: Vec<Seq> =
        names.filter_map(|name| name.strip_prefix("identities-").map(|seq| seq.parse().unwrap())).collect();
    slices.sort_unstable();
    slices
}

/// A view of some pages in several slices, closed.
async fn filled() -> (TempDir, Model) {
    let dir = tempfile::tempdir().unwrap();
    let view = open(dir.path());
    let mut model = Model::new();
    for number in 0..12 {
        let unit = if number % 3 == 0 { "b" } else { "a" };
        let page = model.numbers(unit, number * 30..number * 30 + 45, u64::from(number));
        apply(&view, &model, vec![page]).await;
    }
    model.check(&view).await.unwrap();
    assert!(slices(dir.path()).len() > 3);
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
        Some(found) => {
            // Less of the head may be left than there was: an older view, to be brought up to date as after a crash.
            let known = model.history.iter().position(|(_, ledger)| *ledger == found).expect("a ledger that was");
            let missing: Vec<Page> = model.history[known + 1..].iter().map(|(page, _)| page.clone()).collect();
            let applied = view.apply(missing, model.ledger.head.clone()).await;
            match applied.map_err(|error| format!("FAULT {error}")).and(model.check(&view).await) {
                Ok(()) => true,
                Err(reason) if reason.starts_with("FAULT") => false,
                Err(reason) => panic!("a wrong answer that looks right: {reason}"),
            }
        }
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

#[tokio::test]
async fn pages_and_head_survive_reopening_and_a_wipe_leaves_nothing() {
    let (dir, mut model) = filled().await;
    let view = open(dir.path());
    model.check(&view).await.unwrap();
    let page = model.numbers("c", 100..400, 99);
    apply(&view, &model, vec![page]).await;
    model.check(&view).await.unwrap();
    view.wipe().await.unwrap();
    assert_eq!(view.load().await.unwrap(), None);
    assert_eq!(view.find(vec![key(1)]).await.unwrap(), [None]);
    assert!(view.all().await.unwrap().is_empty() && slices(dir.path()).is_empty());
    let mut model = Model::new();
    let page = model.numbers("z", 0..10, 1);
    apply(&view, &model, vec![page]).await;
    drop(view);
    model.check(&open(dir.path())).await.unwrap();
}

#[tokio::test]
async fn applying_again_changes_nothing_whatever_came_between() {
    let (dir, mut model) = filled().await;
    let view = open(dir.path());
    let first = model.numbers("a", 0..50, 7);
    apply(&view, &model, vec![first.clone()]).await;
    let second = model.numbers("b", 0..50, 8);
    apply(&view, &model, vec![second.clone()]).await;
    apply(&view, &model, vec![first.clone()]).await;
    apply(&view, &model, vec![second.clone(), first.clone()]).await;
    apply(&view, &model, vec![]).await;
    model.check(&view).await.unwrap();
    let mut other = first;
    other.last = UtcMillis::new(1);
    let refused = view.apply(vec![other], model.ledger.head.clone()).await.unwrap_err();
    assert!(matches!(refused, StoreError::Broken { .. }), "{refused}");
    assert!(matches!(view.find(vec![key(1)]).await, Err(StoreError::Broken { .. })), "until it is wiped");
    view.wipe().await.unwrap();
    assert_eq!(view.load().await.unwrap(), None);
}

#[tokio::test]
async fn two_writers_pages_of_one_number_are_both_kept() {
    let dir = tempfile::tempdir().unwrap();
    let view = open(dir.path());
    let mut model = Model::new();
    let mut pages = Vec::new();
    for writer in [1, 2] {
        let page = Page {
            seq: 1,
            writer: Some(Nonce([writer; 16])),
            legs: (0..60).map(|number| entry(number + u32::from(writer) * 1000, 1)).collect(),
            ..Model::new().numbers("a", 0..0, 0)
        };
        model.write(Record::Page(page.clone()));
        pages.push(page);
    }
    apply(&view, &model, pages.clone()).await;
    apply(&view, &model, pages).await;
    drop(view);
    let view = open(dir.path());
    assert_eq!(view.load().await.unwrap().unwrap(), model.ledger);
    let found = view.find(vec![key(1000), key(2059), key(0)]).await.unwrap();
    assert_eq!(found.iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, false]);
}

#[tokio::test]
async fn after_a_crash_between_the_steps_the_old_head_is_there_and_the_same_is_applied_again() {
    for (steps, pages_repeated_at_once) in [(1, true), (1, false), (2, true), (2, false)] {
        let (dir, mut model) = filled().await;
        let before = model.clone();
        let mut databases = open(dir.path()).into_databases();
        // Known keys again, so that what they were before is overwritten; and a full slice is ended.
        let pages = vec![model.numbers("new", 300..420, 50), model.numbers("a", 310..330, 51)];
        let between = {
            let mut between = before.clone();
            between.write(Record::Page(pages[0].clone()));
            between.ledger.head.clone()
        };
        model.forget_below(5);
        let head = model.ledger.head.clone();
        let written = databases.write_entries(&pages, head.clone()).unwrap();
        if steps == 2 {
            databases.write_head(written).unwrap();
        }
        drop(databases);
        let view = open(dir.path());
        let ledger = view.load().await.unwrap().unwrap();
        if steps == 1 {
            assert_eq!(ledger, before.ledger);
            let found = view.find(vec![key(415)]).await.unwrap();
            assert_eq!(found, [None], "not there before the head is");
        } else {
            assert_eq!(ledger, model.ledger);
        }
        if pages_repeated_at_once || steps == 2 {
            view.apply(pages, head).await.unwrap();
            drop(view);
        } else {
            view.apply(vec![pages[0].clone()], between).await.unwrap();
            drop(view);
            let view = open(dir.path());
            assert_eq!(view.load().await.unwrap().unwrap().head.last_seq, before.ledger.head.last_seq + 1);
            view.apply(vec![pages[1].clone()], head).await.unwrap();
            model.check(&view).await.unwrap();
            drop(view);
        }
        let view = open(dir.path());
        model.check(&view).await.unwrap();
        let page = model.numbers("a", 0..500, 60);
        apply(&view, &model, vec![page]).await;
        drop(view);
        model.check(&open(dir.path())).await.unwrap();
    }
}

#[tokio::test]
async fn entries_of_a_page_that_the_journal_lost_are_never_shown() {
    let (dir, mut model) = filled().await;
    let mut lost = model.clone();
    let mut databases = open(dir.path()).into_databases();
    // The slice must be one that the head has.
    let page = lost.numbers("a", 900..905, 50);
    let last = *slices(dir.path()).last().unwrap();
    databases.write_entries(&[page], lost.ledger.head.clone()).unwrap();
    drop(databases);
    assert_eq!(*slices(dir.path()).last().unwrap(), last);
    let view = open(dir.path());
    model.check(&view).await.unwrap();
    assert_eq!(view.find(vec![key(901)]).await.unwrap(), [None]);
    let page = model.numbers("a", 950..955, 50);
    let refused = view.apply(vec![page], model.ledger.head.clone()).await.unwrap_err();
    assert!(refused.to_string().contains("the journal does not have"), "{refused}");
}

#[tokio::test]
async fn forgetting_deletes_slices_and_keeps_what_is_needed() {
    let (dir, mut model) = filled().await;
    let view = open(dir.path());
    let before = slices(dir.path());
    let third = before[2];
    model.forget_below(third - 1);
    apply(&view, &model, vec![]).await;
    assert_eq!(slices(dir.path()), before[1..], "page {} is still needed", third - 1);
    model.check(&view).await.unwrap();
    model.forget_below(third);
    let page = model.numbers("a", 700..710, 1);
    apply(&view, &model, vec![page]).await;
    assert_eq!(slices(dir.path())[0], third);
    model.check(&view).await.unwrap();
    model.forget_below(model.ledger.head.last_seq + 1);
    apply(&view, &model, vec![]).await;
    assert_eq!(slices(dir.path()).len(), 1, "the newest stays");
    assert!(view.load().await.unwrap().unwrap().pages.is_empty());
    drop(view);
    let view = open(dir.path());
    model.check(&view).await.unwrap();
    let page = model.numbers("a", 800..810, 1);
    apply(&view, &model, vec![page]).await;
    model.check(&view).await.unwrap();
}

#[tokio::test]
async fn slices_stay_few_while_millions_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let view = open(dir.path());
    let mut model = Model::new();
    for number in 0..120 {
        let page = model.numbers("a", number * 20..number * 20 + 20, 1);
        if number >= 60 {
            model.forget_below(Seq::from(number - 50));
        }
        apply(&view, &model, vec![page]).await;
        assert!(slices(dir.path()).len() <= 12, "{:?}", slices(dir.path()));
    }
    model.check(&view).await.unwrap();
}

#[tokio::test]
async fn rubbish_in_any_file_is_survived() {
    let (original, model) = filled().await;
    let mut survived = 0;
    for file in files(&original.path().join("store")) {
        for seed in 0..4 {
            let dir = tempfile::tempdir().unwrap();
            copy(original.path(), dir.path());
            let path = dir.path().join(file.strip_prefix(original.path()).unwrap());
            let mut dice = StdRng::seed_from_u64(seed);
            let mut bytes = fs::read(&path).unwrap();
            let (count, end) = match seed {
                0 => (bytes.len(), bytes.len()),
                1 => (64, bytes.len()),
                // The first pages, where something is.
                2 => (64, bytes.len().min(4096)),
                _ => (1, bytes.len().min(20_000)),
            };
            for _ in 0..count {
                let place = dice.random_range(0..end.max(1));
                if let Some(byte) = bytes.get_mut(place) {
                    *byte = dice.random();
                }
            }
            fs::write(&path, bytes).unwrap();
            survived += u32::from(is_survived_within(dir.path(), &model, Duration::from_secs(4)).await);
        }
    }
    eprintln!("{survived} were not touched where it matters");
}

#[tokio::test]
async fn truncated_and_empty_files_are_survived() {
    let (original, model) = filled().await;
    for file in files(&original.path().join("store")) {
        let length = fs::metadata(&file).unwrap().len();
        for length in [0, 1, length / 2, length.saturating_sub(1), length.saturating_sub(300_000)] {
            let dir = tempfile::tempdir().unwrap();
            copy(original.path(), dir.path());
            let path = dir.path().join(file.strip_prefix(original.path()).unwrap());
            fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length).unwrap();
            is_survived_within(dir.path(), &model, Duration::from_secs(4)).await;
        }
    }
}

#[tokio::test]
async fn files_that_are_about_to_be_closed_are_waited_for() {
    let (dir, model) = filled().await;
    let open_before = open(dir.path());
    let closing = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        drop(open_before);
    });
    model.check(&open(dir.path())).await.unwrap();
    closing.join().unwrap();
}

#[tokio::test]
async fn things_in_the_wrong_place_are_survived() {
    let (original, model) = filled().await;
    let damages: [&dyn Fn(&Path); 8] = [
        &|store| fs::write(store.join("head/snap.00000000000000AA.generating"), b"half").unwrap(),
        &|store| {
            delete_all(store);
            fs::write(store, "a file").unwrap();
        },
        &|store| {
            fs::remove_dir_all(store.join("head")).unwrap();
            fs::write(store.join("head"), "a file").unwrap();
        },
        &|store| {
            fs::remove_dir_all(store.join("identities-1")).unwrap();
            fs::write(store.join("identities-1"), "a file").unwrap();
        },
        &|store| fs::remove_dir_all(store.join("identities-1")).unwrap(),
        &|store| fs::remove_dir_all(store.join("head")).unwrap(),
        &|store| fs::create_dir(store.join("opening")).unwrap(),
        &|store| fs::write(store.join("opening"), [9]).unwrap(),
    ];
    for (number, damage) in damages.iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        copy(original.path(), dir.path());
        damage(&dir.path().join("store"));
        assert!(!is_survived(dir.path(), &model).await, "{number}");
    }
    let dir = tempfile::tempdir().unwrap();
    copy(original.path(), dir.path());
    fs::create_dir(dir.path().join("store/identities-777")).unwrap();
    fs::write(dir.path().join("store/identities-888"), "x").unwrap();
    fs::write(dir.path().join("store/identities-999x"), "x").unwrap();
    fs::write(dir.path().join("store/opening"), [1]).unwrap();
    assert!(is_survived(dir.path(), &model).await, "what is nobody's harms nobody");
}

fn delete_all(path: &Path) {
    fs::remove_dir_all(path).unwrap();
}

#[tokio::test]
async fn a_changed_value_is_noticed_although_sled_has_none_to_complain_of() {
    let (original, model) = filled().await;
    let slice = slices(original.path())[1];
    let change = |database: String, key: Vec<u8>, change: fn(&mut Vec<u8>)| {
        let dir = tempfile::tempdir().unwrap();
        copy(original.path(), dir.path());
        let db = sled::open(dir.path().join("store").join(database)).unwrap();
        let mut value = db.get(&key).unwrap().unwrap().to_vec();
        change(&mut value);
        db.insert(key, value).unwrap();
        drop(db);
        dir
    };
    let known = model.entries.iter().find(|(_, entry)| entry.seq == slice).unwrap().0;
    let flip: fn(&mut Vec<u8>) = |value| value[9] ^= 1;
    for (database, key) in [
        (format!("identities-{slice}"), known.0.to_vec()),
        (format!("identities-{slice}"), b"stamp".to_vec()),
        ("head".to_owned(), b"head".to_vec()),
        ("head".to_owned(), b"id".to_vec()),
        ("head".to_owned(), [b"p".as_slice(), &slice.to_be_bytes()].concat()),
    ] {
        let dir = change(database, key, flip);
        assert!(!is_survived(dir.path(), &model).await);
    }
    let dir = change("head".to_owned(), b"layout".to_vec(), |value| value[0] = b'9');
    assert!(!is_survived(dir.path(), &model).await, "another layout");
    // While it is open, too.
    let databases = open(original.path()).into_databases();
    databases.poke(slice, known, &[1; 27]);
    assert!(databases.find(&[*known]).is_err() && databases.all().is_err());
    assert!(databases.find(&[key(999_999)]).is_ok());
}

#[tokio::test]
async fn a_missing_entry_or_page_is_noticed() {
    let (original, model) = filled().await;
    let slice = slices(original.path())[1];
    let known = model.entries.iter().find(|(_, entry)| entry.seq == slice).unwrap().0;
    for (database, key) in [
        (format!("identities-{slice}"), known.0.to_vec()),
        ("head".to_owned(), [b"p".as_slice(), &slice.to_be_bytes()].concat()),
    ] {
        let dir = tempfile::tempdir().unwrap();
        copy(original.path(), dir.path());
        sled::open(dir.path().join("store").join(database)).unwrap().remove(key).unwrap().unwrap();
        assert!(!is_survived(dir.path(), &model).await);
    }
}

#[tokio::test]
async fn an_older_copy_is_the_older_view_and_a_mixture_is_none() {
    let (original, mut model) = filled().await;
    let old = model.clone();
    let older = tempfile::tempdir().unwrap();
    copy(original.path(), older.path());
    let view = open(original.path());
    let page = model.numbers("a", 900..905, 50);
    apply(&view, &model, vec![page]).await;
    let page = model.numbers("a", 320..390, 51);
    apply(&view, &model, vec![page]).await;
    drop(view);
    let (foreign, _) = filled().await;

    let mixed = |from: &Path, name: &str| {
        let dir = tempfile::tempdir().unwrap();
        copy(original.path(), dir.path());
        delete_all(&dir.path().join("store").join(name));
        copy(&from.join("store").join(name), &dir.path().join("store").join(name));
        dir
    };
    let last = format!("identities-{}", slices(older.path()).last().unwrap());
    let foreign_slice = mixed(foreign.path(), "identities-1");
    assert_eq!(open(foreign_slice.path()).load().await.unwrap(), None, "a slice of another store");
    let foreign_head = mixed(foreign.path(), "head");
    assert_eq!(open(foreign_head.path()).load().await.unwrap(), None, "a head of another store");
    let older_slice = mixed(older.path(), &last);
    assert_eq!(open(older_slice.path()).load().await.unwrap(), None, "a slice of an older copy");
    let older_head = mixed(older.path(), "head");
    let view = open(older_head.path());
    assert_eq!(view.load().await.unwrap().unwrap(), old.ledger, "the slices are ahead, as after a crash");
    assert_eq!(view.find(vec![key(901)]).await.unwrap(), [None]);
    old.check(&open(older.path())).await.unwrap();
}

#[tokio::test]
async fn a_thread_that_gives_no_sign_of_life_is_left_and_its_files_are_deleted() {
    let (dir, _) = filled().await;
    let hangs = SledView::open_with(dir.path(), SMALL, Duration::from_micros(1)).map(|_| ()).unwrap_err();
    assert!(matches!(hangs, StoreError::Hangs { .. }), "{hangs}");
    // As the next process does, while the thread of this one may still be at it.
    assert_eq!(open(dir.path()).load().await.unwrap(), None);
}

#[tokio::test]
async fn a_database_without_its_end_is_survived_even_where_sled_spins() {
    // Larger, since only a database of some length makes sled spin when its end is missing.
    let dir = tempfile::tempdir().unwrap();
    let view = SledView::open_with(dir.path(), Sizes::default(), PATIENCE).unwrap();
    let mut model = Model::new();
    for number in 0..40 {
        let page = model.numbers("a", number * 500..number * 500 + 500, 1);
        apply(&view, &model, vec![page]).await;
    }
    drop(view);
    let mut outcomes = BTreeMap::new();
    for cut in [100_000, 300_000, 524_288, 1_000_000] {
        let dir2 = tempfile::tempdir().unwrap();
        copy(dir.path(), dir2.path());
        let path = dir2.path().join("store/identities-1/db");
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        let length = file.metadata().unwrap().len();
        file.set_len(length.saturating_sub(cut)).unwrap();
        let begun = Instant::now();
        let view = SledView::open_with(dir2.path(), SMALL, Duration::from_secs(3));
        let outcome = match &view {
            Err(StoreError::Hangs { .. }) => {
                assert!(files(&dir2.path().join("store")).is_empty());
                "hangs"
            }
            Err(error) => panic!("{error}"),
            Ok(view) => match view.load().await.unwrap() {
                None => "emptied",
                Some(_) => {
                    model.check(view).await.unwrap();
                    "whole"
                }
            },
        };
        assert!(begun.elapsed() < Duration::from_secs(10));
        *outcomes.entry(outcome).or_insert(0) += 1;
        drop(view);
        assert_eq!(open(dir2.path()).load().await.unwrap().is_some(), outcome == "whole");
    }
    eprintln!("{outcomes:?}");
}

#[derive(Clone, Debug)]
enum Step {
    /// Pages with these first keys and lengths, applied together.
    Apply(Vec<(u32, u32)>),
    /// Pages of before, again.
    Again(usize),
    Forget(u64),
    Reopen,
    /// Entries written, head not.
    Crash(u32, u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let page = || (0..300u32, 0..60u32);
    let step = prop_oneof![
        6 => prop::collection::vec(page(), 0..3).prop_map(Step::Apply),
        1 => (0..40usize).prop_map(Step::Again),
        2 => (0..8u64).prop_map(Step::Forget),
        1 => Just(Step::Reopen),
        1 => page().prop_map(|(first, count)| Step::Crash(first, count)),
    ];
    prop::collection::vec(step, 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_view_is_the_model(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let mut view = open(dir.path());
            let mut model = Model::new();
            apply(&view, &model, vec![]).await;
            let mut pages: Vec<Page> = Vec::new();
            for (number, step) in steps.into_iter().enumerate() {
                let unit = ["a", "b", "c"][number % 3];
                match step {
                    Step::Apply(new) => {
                        let new = new.into_iter().map(|(first, count)| model.numbers(unit, first..first + count, number as u64));
                        let new: Vec<Page> = new.collect();
                        pages.extend(new.clone());
                        apply(&view, &model, new).await;
                    }
                    Step::Again(from) => {
                        let again = pages[from.min(pages.len())..].iter().take(3).cloned().collect();
                        apply(&view, &model, again).await;
                    }
                    Step::Forget(kept) => {
                        let below = (model.ledger.head.last_seq + 1).saturating_sub(kept);
                        model.forget_below(below.max(model.ledger.head.oldest_needed_seq()));
                        apply(&view, &model, vec![]).await;
                    }
                    Step::Reopen => {
                        drop(view);
                        view = open(dir.path());
                    }
                    Step::Crash(first, count) => {
                        let mut databases = view.into_databases();
                        let page = model.numbers(unit, first..first + count, number as u64);
                        pages.push(page.clone());
                        drop(databases.write_entries(std::slice::from_ref(&page), model.ledger.head.clone()).unwrap());
                        drop(databases);
                        view = open(dir.path());
                        assert_ne!(view.load().await.unwrap().unwrap(), model.ledger);
                        apply(&view, &model, vec![page]).await;
                    }
                }
                model.check(&view).await.unwrap();
            }
        });
    }
}
