//! The dedupe rule by itself, with what the connector does not do yet: windows of any bounds, older ones filled in later,
//! reads that are killed between pages, long stops.
//!
//! What a leg meets is the real ledger, the real rule and the real progress; only the rows are made up.

use std::collections::BTreeMap;
use std::time::Duration;

use call_legs::core::dedupe::{Seen, Verdict, classify};
use call_legs::core::hours::PageHours;
use call_legs::core::identity::{Fingerprint, KeyHash};
use call_legs::core::journal::{Chain, Entry, Genesis, Nonce, OutOffsets, Page, Record, UnitProgress};
use call_legs::core::ledger::Ledger;
use call_legs::core::time::{UtcMillis, Window};
use call_legs::core::watermark::{Delays, Progress};
use call_legs::hooks::{Mutant, with_mutant};

use crate::seed::Dice;

const UNIT: &str = "pbx";
const DELAYS: Delays =
    Delays { settle: Duration::from_secs(1), overlap: Duration::from_secs(8), horizon: Duration::from_secs(40) };
const END: i64 = 160;
const ROWS_A_PAGE: usize = 4;

struct Leg {
    key: KeyHash,
    at: i64,
    visible: i64,
}

struct Reader {
    dice: Dice,
    legs: Vec<Leg>,
    ledger: Ledger,
    progress: Progress,
    entries: BTreeMap<KeyHash, u64>,
    published: BTreeMap<KeyHash, u32>,
}

fn at(seconds: i64) -> UtcMillis {
    UtcMillis::new(seconds * 1000)
}

fn seen() -> Seen {
    Seen { fingerprint: Some(Fingerprint::from_bits(1)), revision: 0 }
}

impl Reader {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let legs = (0..500u64)
            .map(|number| {
                let at = dice.between(0, 280) - 120;
                let mut key = [0; 16];
                key[..8].copy_from_slice(&number.to_be_bytes());
                Leg { key: KeyHash(key), at, visible: at + *dice.pick(&[0, 0, 0, 1, 2, 6, 20, 35]) }
            })
            .collect();
        let progress = Progress::starting_at(at(0), &DELAYS);
        let mut reader = Self {
            dice,
            legs,
            ledger: Ledger::default(),
            progress,
            entries: BTreeMap::new(),
            published: BTreeMap::new(),
        };
        reader.write(Record::Genesis(Genesis {
            journal: Nonce([7; 16]),
            cluster: String::new(),
            fingerprint_version: Fingerprint::VERSION,
            at: at(0),
            out_offsets: OutOffsets::default(),
            version: String::new(),
        }));
        reader
    }

    fn write(&mut self, record: Record) {
        let offset = self.ledger.head.next_offset;
        self.ledger.take(offset, &record).unwrap();
    }

    /// Writes the progress, and with it forgets what is no longer needed.
    fn write_progress(&mut self) {
        let head = &self.ledger.head;
        let (last_seq, chain) = (head.last_seq, head.chain);
        let oldest_needed_seq = self.ledger.forgettable_below(&[UNIT.to_owned()]);
        self.write(Record::Progress(UnitProgress {
            last_seq,
            chain,
            oldest_needed_seq,
            ..UnitProgress::new(UNIT, self.progress.clone(), 0)
        }));
    }

    /// Reads `[from, to)` at `now`; `false` when it was killed on the way.
    fn read(&mut self, from: i64, to: i64, now: i64, killed: f64) -> bool {
        let rows: Vec<(KeyHash, i64)> = self
            .legs
            .iter()
            .rev()
            .filter(|leg| from <= leg.at && leg.at < to && leg.visible <= now)
            .map(|leg| (leg.key, leg.at))
            .collect();
        for rows in rows.chunks(ROWS_A_PAGE) {
            let is_new = |(key, when): &&(KeyHash, i64)| {
                let known = self.entries.get(key).filter(|seq| self.ledger.is_live(**seq, UNIT, 0)).map(|_| seen());
                classify(known, Fingerprint::from_bits(1), at(*when), &self.progress) == Verdict::New
            };
            let new: Vec<(KeyHash, i64)> = rows.iter().filter(is_new).copied().collect();
            if !new.is_empty() {
                let page = self.page(&new);
                for (key, _) in &new {
                    self.entries.insert(*key, page.seq);
                    *self.published.entry(*key).or_default() += 1;
                }
                self.write(Record::Page(page));
            }
            self.write_progress();
            if self.dice.chance(killed) {
                return false;
            }
        }
        true
    }

    fn page(&self, new: &[(KeyHash, i64)]) -> Page {
        let times = || new.iter().map(|(_, when)| at(*when));
        let chain_before: Chain = self.ledger.head.chain;
        Page {
            seq: self.ledger.head.last_seq + 1,
            writer: None,
            unit: UNIT.to_owned(),
            generation: 0,
            first: times().min().unwrap(),
            last: times().max().unwrap(),
            fingerprint_version: Fingerprint::VERSION,
            legs: new.iter().map(|(key, _)| Entry { key: *key, seen: seen() }).collect(),
            dead: Vec::new(),
            hours: PageHours::default(),
            chain_before,
        }
    }

    fn step(&mut self, now: i64) {
        let final_to = self.progress.final_to.as_millis() / 1000;
        let action = self.dice.between(0, 100);
        if action < 60 {
            if self.read(final_to, now, now, 0.05) {
                self.progress.advance(Window::new(at(final_to), at(now)), at(now), &DELAYS);
            }
        } else if action < 75 {
            // A slower re-read of what was read already.
            let complete_to = self.progress.complete_to.as_millis() / 1000;
            self.read((complete_to - 60).max(0), complete_to, now, 0.1);
        } else {
            // An older stretch, as far as it is not covered; in pieces of any bounds.
            let from = self.dice.between(0, 120) - 125;
            let to = (from + self.dice.between(1, 30)).min(0);
            let covered = |second: &i64| self.progress.coverage.contains(at(*second));
            let Some(from) = (from..to).find(|second| !covered(second)) else { return };
            let to = (from..to).find(covered).unwrap_or(to);
            if self.read(from, to, now, 0.2) {
                self.progress.coverage.add(Window::new(at(from), at(to)));
            }
        }
        self.write_progress();
    }

    /// How many legs were published twice.
    fn twice(mut self) -> usize {
        let mut now = 0;
        while now < END {
            now += if self.dice.chance(0.97) { self.dice.between(1, 4) } else { self.dice.between(10, 71) };
            self.step(now);
        }
        self.published.values().filter(|count| **count > 1).count()
    }
}

fn seeds_with_repeats(mutant: Option<Mutant>) -> usize {
    with_mutant(mutant, || (0..300).filter(|seed| Reader::new(*seed).twice() > 0).count())
}

#[test]
fn the_rule_repeats_nothing() {
    assert_eq!(seeds_with_repeats(None), 0);
}

#[test]
fn mutant_expiry_by_the_floor_alone() {
    assert!(seeds_with_repeats(Some(Mutant::ExpiryByFloorAlone)) > 0);
}
