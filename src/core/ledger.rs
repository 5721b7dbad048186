//! The ledger: what the journal's records add up to, and whether they are all there.
//!
//! ```text
//!   journal  g c p/1 s/a p/2 s/a p/3 s/b …       one record after the other, oldest first
//!               └──▶ head: who, how far each unit, newest page, chain, position
//!               └──▶ pages: unit, generation, first and last time of each page still needed
//! ```
//!
//! The entries themselves are kept by the store, stamped with their page's number, unit and
//! generation; [`Ledger::is_live`] says whether such an entry still counts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::hours::{ComparedDay, Day, Hour, HourCounts, UnitHours};
use super::identity::Fingerprint;
use super::journal::{Backfill, Chain, ChangeKind, Claim, Genesis, Nonce, OutOffsets, Page, Record, Seq, UnitProgress};
use super::time::{UtcMillis, Window};
use super::watermark::Progress;
use crate::hooks::{self, Mutant};

/// A page's number, and in at-least-once mode the claim it was written under.
pub type PageId = (Seq, Option<Nonce>);

/// What is kept of a page beside its entries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageMeta {
    /// The unit it was read for.
    pub unit: String,
    /// The unit's generation then.
    pub generation: u32,
    /// Whether its fingerprints are keyed.
    pub is_keyed: bool,
    /// The earliest time of its rows.
    pub first: UtcMillis,
    /// The latest.
    pub last: UtcMillis,
    /// How many entries it holds.
    pub entries: u32,
    /// How many legs it published that no page before had.
    pub published: u32,
}

impl PageMeta {
    /// What is kept of a page.
    pub fn of(page: &Page) -> Self {
        let published: u64 = page.hours.0.values().map(|hour| hour.published).sum();
        Self {
            unit: page.unit.clone(),
            generation: page.generation,
            is_keyed: page.fingerprint_version == Fingerprint::KEYED_VERSION,
            first: page.first,
            last: page.last,
            entries: u32::try_from(page.legs.len() + page.dead.len()).unwrap_or(u32::MAX),
            published: u32::try_from(published).unwrap_or(u32::MAX),
        }
    }
}

/// Everything but the pages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Which journal this is; `None` while it is empty.
    pub genesis: Option<Genesis>,
    /// The newest claim.
    pub claim: Option<Claim>,
    /// The units' newest progress.
    pub units: BTreeMap<String, UnitProgress>,
    /// The backfills that were asked for and not forgotten.
    pub backfills: BTreeMap<Nonce, Backfill>,
    /// By unit how many legs of each hour are in the topics, and how that compares with the API.
    pub hours: BTreeMap<String, UnitHours>,
    /// By unit the days of which the journal has a record.
    pub days: BTreeMap<String, BTreeSet<Day>>,
    /// The newest page; 0 when there was none.
    pub last_seq: Seq,
    /// The chain up to it.
    pub chain: Chain,
    /// The first page that was there after one that was not: all before it must be forgotten ones.
    pub missing_below: Seq,
    /// How far the topics that consumers read are accounted for, as the newest progress says.
    pub out_offsets: OutOffsets,
    /// The first offset of the journal that was not read.
    pub next_offset: i64,
}

impl Head {
    /// The oldest page that is not yet forgotten; pages start at 1.
    pub fn oldest_needed_seq(&self) -> Seq {
        self.units.values().map(|unit| unit.oldest_needed_seq).max().unwrap_or(0).max(1)
    }

    /// The hours of a unit that are counted and can still be compared, oldest first.
    pub fn hours<'a>(&'a self, unit: &'a str) -> impl Iterator<Item = (Hour, HourCounts)> + 'a {
        let hours = self.hours.get(unit).into_iter().flat_map(|unit| &unit.hours);
        hours.map(|(hour, counts)| (*hour, *counts)).filter(|(hour, _)| self.is_comparable(unit, *hour))
    }

    /// What is known of an hour of a unit; `None` where it cannot be compared with what the API shows now.
    pub fn hour(&self, unit: &str, hour: Hour) -> Option<HourCounts> {
        let known = self.hours.get(unit).and_then(|unit| unit.hours.get(&hour)).copied().unwrap_or_default();
        self.is_comparable(unit, hour).then_some(known)
    }

    /// Since an operator has accepted other settings of the source the API shows other legs.
    fn is_comparable(&self, unit: &str, hour: Hour) -> bool {
        let change = self.units.get(unit).and_then(|unit| unit.change.as_ref());
        change.is_none_or(|change| change.what != ChangeKind::Accepted || change.at <= hour.window().start)
    }
}

/// What cannot be: the journal is not what its owner has written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Inconsistency {
    /// A record before the genesis, or a second one.
    #[error("it does not begin with its first record")]
    Genesis,
    /// A page does not continue the one before.
    #[error("page {0} does not continue the page before it")]
    Chain(Seq),
    /// Pages that are needed are not there.
    #[error("pages from {from} to {to} are missing")]
    Missing {
        /// The first.
        from: Seq,
        /// The last.
        to: Seq,
    },
}

/// The fold of the journal.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Everything but the pages.
    pub head: Head,
    /// The pages that are still needed, oldest first.
    pub pages: BTreeMap<PageId, PageMeta>,
    /// The time of the newest leg that was published, as far as pages tell.
    pub newest: Option<UtcMillis>,
}

/// The newest leg may be on a page that is forgotten.
impl PartialEq for Ledger {
    fn eq(&self, other: &Self) -> bool {
        (&self.head, &self.pages) == (&other.head, &other.pages)
    }
}

impl Eq for Ledger {}

impl Ledger {
    /// What this head and these pages add up to.
    pub fn of(head: Head, pages: BTreeMap<PageId, PageMeta>) -> Self {
        let newest = pages.values().filter(|page| page.published > 0).map(|page| page.last).max();
        Self { head, pages, newest }
    }

    /// How many legs of a window were published for a unit, and can be expected to be shown still: of pages that lie in it
    /// whole, and since an operator has accepted other settings of the source.
    pub fn published_within(&self, unit: &str, window: Window) -> u64 {
        let Some(known) = self.head.units.get(unit) else { return 0 };
        let from = known.accepted_at().map_or(window.start, |at| at.max(window.start));
        let is_within = |page: &&PageMeta| {
            page.unit == unit && page.generation == known.generation && from <= page.first && page.last < window.end
        };
        self.pages.values().filter(is_within).map(|page| u64::from(page.published)).sum()
    }

    /// Before which time a unit's leg is marked late: below what is final, or further behind the newest published leg of all
    /// units than `behind_max`.
    pub fn late_before(&self, unit: &str, behind_max: Option<Duration>) -> UtcMillis {
        let final_to = self.head.units.get(unit).map(|unit| unit.progress.final_to);
        let behind_max = behind_max.filter(|_| !hooks::is_mutant(Mutant::LateBelowFinalOnly));
        // The floors tell of forgotten pages. A rewind takes the floor back: until it was ordered, there may have been legs.
        let floors = self.head.units.values().filter(|unit| unit.is_started()).map(|unit| unit.progress.floor);
        let rewinds = self.head.units.values().filter_map(|unit| unit.change.as_ref());
        let rewinds = rewinds.filter(|change| change.what == ChangeKind::Rewound).map(|change| change.at);
        let newest = self.newest.max(floors.chain(rewinds).max());
        let behind = newest.zip(behind_max).map(|(newest, behind_max)| newest.minus(behind_max));
        final_to.max(behind).unwrap_or(UtcMillis::new(i64::MIN))
    }

    /// Takes in the record at `offset`. Records must come in the journal's order.
    pub fn take(&mut self, offset: i64, record: &Record) -> Result<(), Inconsistency> {
        match record {
            Record::Genesis(genesis) => match &self.head.genesis {
                None => {
                    self.head.chain = genesis.journal.into();
                    self.head.out_offsets = genesis.out_offsets.clone();
                    self.head.genesis = Some(genesis.clone());
                }
                Some(known) if known == genesis => {}
                Some(_) => return Err(Inconsistency::Genesis),
            },
            Record::Claim(claim) => self.head.claim = Some(claim.clone()),
            Record::Page(page) => self.take_page(page)?,
            Record::Progress(progress) => self.take_progress(progress)?,
            Record::Backfill(backfill) => {
                self.head.backfills.insert(backfill.id, backfill.clone());
            }
            Record::BackfillForgotten(id) => {
                self.head.backfills.remove(id);
            }
            Record::Day(day) => self.take_day(day),
            Record::DayForgotten(unit, day) => {
                if let Some(days) = self.head.days.get_mut(unit) {
                    days.remove(day);
                    if days.is_empty() {
                        self.head.days.remove(unit);
                    }
                }
            }
            // Of those there may be many: whoever replays reads them.
            Record::Replayed(_) | Record::Nothing => {}
        }
        self.head.next_offset = offset + 1;
        Ok(())
    }

    fn take_day(&mut self, day: &ComparedDay) {
        self.head.days.entry(day.unit.clone()).or_default().insert(day.day);
        self.head.hours.entry(day.unit.clone()).or_default().take_day(day);
    }

    fn take_page(&mut self, page: &Page) -> Result<(), Inconsistency> {
        if self.head.genesis.is_none() {
            return Err(Inconsistency::Genesis);
        }
        let expected = self.head.last_seq + 1;
        match page.writer {
            None if page.seq > expected => self.head.missing_below = page.seq,
            None if page.seq < expected || page.chain_before != self.head.chain => {
                return Err(Inconsistency::Chain(page.seq));
            }
            // Two writers may have been at it for a moment: their pages are a union, and each has a chain of its own.
            Some(_) | None => {}
        }
        self.head.last_seq = self.head.last_seq.max(page.seq);
        self.head.chain = page.chain();
        if !page.hours.0.is_empty() {
            self.head.hours.entry(page.unit.clone()).or_default().take_page(page.generation, &page.hours);
        }
        if !page.legs.is_empty() {
            self.newest = self.newest.max(Some(page.last));
        }
        self.pages.insert((page.seq, page.writer), PageMeta::of(page));
        Ok(())
    }

    fn take_progress(&mut self, progress: &UnitProgress) -> Result<(), Inconsistency> {
        if progress.last_seq > self.head.last_seq {
            // Its pages are not there: forgotten ones, or lost ones, which the check tells apart.
            self.head.last_seq = progress.last_seq;
            self.head.chain = progress.chain;
            self.head.missing_below = progress.last_seq + 1;
        } else if (progress.last_seq, progress.chain) != (self.head.last_seq, self.head.chain) && !self.is_union() {
            return Err(Inconsistency::Chain(progress.last_seq));
        }
        // Each progress speaks of all partitions, so the newest alone counts: an operator may have lowered it.
        self.head.out_offsets = progress.out_offsets.clone();
        let is_union = self.is_union();
        match self.head.units.get_mut(&progress.unit) {
            // Two writers may have been at it: what either has read is read.
            Some(known) if is_union && known.generation >= progress.generation => {
                if known.generation == progress.generation {
                    known.join(progress);
                }
            }
            _ => {
                self.head.units.insert(progress.unit.clone(), progress.clone());
            }
        }
        if let Some(hours) = self.head.hours.get_mut(&progress.unit) {
            hours.forget(progress.generation, progress.progress.floor);
        }
        self.drop_forgotten();
        Ok(())
    }

    /// Whether pages of at-least-once mode are among those that are needed: two writers may have been at
    /// it for a moment, and then no single chain holds.
    fn is_union(&self) -> bool {
        self.pages.keys().next_back().is_some_and(|(_, writer)| writer.is_some())
    }

    fn drop_forgotten(&mut self) {
        let oldest = self.head.oldest_needed_seq();
        if self.pages.first_key_value().is_some_and(|((seq, _), _)| *seq < oldest) {
            self.pages = self.pages.split_off(&(oldest, None));
        }
    }

    /// After the last record: whether every page that is needed was there.
    pub fn check(&self) -> Result<(), Inconsistency> {
        let oldest = self.head.oldest_needed_seq();
        if oldest < self.head.missing_below {
            return Err(Inconsistency::Missing { from: oldest, to: self.head.missing_below - 1 });
        }
        Ok(())
    }

    /// Whether an entry of page `seq`, read for `unit` in its `generation`, still counts.
    pub fn is_live(&self, seq: Seq, unit: &str, generation: u32) -> bool {
        seq >= self.head.oldest_needed_seq()
            && self.head.units.get(unit).is_none_or(|known| known.generation == generation)
    }

    /// The oldest page that is still needed once the units have the progress they have now: every page
    /// before it is void, or lies below its unit's floor and within its coverage.
    ///
    /// Only the oldest pages are forgotten, so one that is needed keeps all behind it: what is left has no gaps.
    pub fn forgettable_below(&self, units: &[String]) -> Seq {
        let first_needed = self.pages.iter().find(|(_, page)| self.is_needed(page, units));
        first_needed.map_or(self.head.last_seq + 1, |((seq, _), _)| *seq).max(self.head.oldest_needed_seq())
    }

    fn is_needed(&self, page: &PageMeta, units: &[String]) -> bool {
        // A transaction may hold the unit's first page before its first progress.
        let Some(unit) = self.head.units.get(&page.unit) else { return true };
        if unit.generation != page.generation {
            return false;
        }
        if !units.contains(&page.unit) {
            // No longer read: needed as long as it could be put back and read on from where it was, and as
            // long as another unit may come across the same legs.
            // Not before the journal says that what is on them is below its floor.
            let until = if unit.progress.floor < unit.progress.complete_to {
                Some(unit.progress.floor)
            } else {
                self.lowest_floor(units)
            };
            return !self.is_abandoned(&page.unit, units) || until.is_none_or(|until| page.last >= until);
        }
        if hooks::is_mutant(Mutant::ExpiryByFloorAlone) {
            return page.last >= unit.progress.floor;
        }
        page.last >= unit.progress.floor || !unit.progress.coverage.spans(page.first, page.last)
    }

    fn lowest_floor(&self, units: &[String]) -> Option<UtcMillis> {
        let known = units.iter().filter_map(|name| self.head.units.get(name));
        known.map(|unit| unit.progress.floor).min()
    }

    /// Units that are no longer read and that the others have left behind: their floors go up with the others', to all
    /// that they have read in the end, so that they publish none of it again if they are put back, nor anybody else
    /// without saying so. Their pages are forgotten by that floor, once the journal has it.
    pub fn left_behind(&self, units: &[String]) -> Vec<UnitProgress> {
        let Some(lowest) = self.lowest_floor(units) else { return Vec::new() };
        let raised = |unit: &UnitProgress| {
            let floor = unit.progress.complete_to.min(lowest);
            let is_behind = unit.progress.floor < floor && self.is_abandoned(&unit.unit, units);
            is_behind.then(|| UnitProgress { progress: Progress { floor, ..unit.progress.clone() }, ..unit.clone() })
        };
        self.head.units.values().filter_map(raised).collect()
    }

    /// Whether a unit is no longer read, and so far behind those that are that its pages are forgotten.
    fn is_abandoned(&self, unit: &str, units: &[String]) -> bool {
        let Some(lowest) = self.lowest_floor(units) else { return false };
        !units.iter().any(|name| name == unit)
            && self.head.units.get(unit).is_some_and(|unit| unit.progress.final_to < lowest)
    }
}

#[cfg(test)]
mod tests {
    use super::super::hours::PageHours;
    use super::super::journal::{Change, Entry, page_key};
    use super::super::time::Window;
    use super::super::watermark::Delays;
    use super::*;
    use crate::core::dedupe::Seen;
    use crate::core::identity::{Fingerprint, KeyHash};
    use std::time::Duration;

    const DELAYS: Delays =
        Delays { settle: Duration::ZERO, overlap: Duration::from_secs(10), horizon: Duration::from_secs(100) };

    fn at(seconds: i64) -> UtcMillis {
        UtcMillis::new(seconds * 1000)
    }

    fn genesis() -> Record {
        Record::Genesis(Genesis {
            journal: Nonce([1; 16]),
            cluster: "cluster".to_owned(),
            fingerprint_version: Fingerprint::VERSION,
            at: at(0),
            out_offsets: OutOffsets::default(),
            version: "0".to_owned(),
        })
    }

    fn page(ledger: &Ledger, unit: &str, first: i64, last: i64) -> Page {
        let seen = Seen { fingerprint: Some(Fingerprint::from_bits(1)), revision: 0 };
        Page {
            seq: ledger.head.last_seq + 1,
            writer: None,
            unit: unit.to_owned(),
            generation: ledger.head.units.get(unit).map_or(0, |unit| unit.generation),
            first: at(first),
            last: at(last),
            fingerprint_version: Fingerprint::VERSION,
            legs: vec![Entry { key: KeyHash([first as u8; 16]), seen }],
            dead: Vec::new(),
            hours: PageHours::default(),
            chain_before: ledger.head.chain,
        }
    }

    fn progress(ledger: &Ledger, unit: &str, read_to: i64) -> UnitProgress {
        let mut progress = Progress::starting_at(at(0), &DELAYS);
        progress.advance(Window::new(at(0), at(read_to)), at(read_to), &DELAYS);
        UnitProgress {
            last_seq: ledger.head.last_seq,
            chain: ledger.head.chain,
            oldest_needed_seq: 1,
            ..UnitProgress::new(unit, progress, 0)
        }
    }

    impl Ledger {
        fn with(records: impl IntoIterator<Item = Record>) -> Self {
            let mut ledger = Self::default();
            for record in records {
                let offset = ledger.head.next_offset;
                ledger.take(offset, &record).unwrap();
            }
            ledger
        }

        fn write(&mut self, record: Record) {
            let offset = self.head.next_offset;
            self.take(offset, &record).unwrap();
        }
    }

    #[test]
    fn pages_must_continue_each_other() {
        let mut ledger = Ledger::with([genesis()]);
        let first = page(&ledger, "a", 1, 2);
        ledger.write(Record::Page(first.clone()));
        let mut second = page(&ledger, "a", 3, 4);
        assert_eq!(second.chain_before, first.chain());
        second.chain_before = Chain([9; 16]);
        assert_eq!(ledger.take(9, &Record::Page(second)), Err(Inconsistency::Chain(2)));
        assert_eq!(ledger.take(9, &Record::Page(first)), Err(Inconsistency::Chain(1)), "a page comes once");
    }

    #[test]
    fn only_forgotten_pages_may_be_missing() {
        let mut whole = Ledger::with([genesis()]);
        let mut records = vec![genesis()];
        for number in 1..=4 {
            let page = page(&whole, "a", number, number);
            whole.write(Record::Page(page.clone()));
            records.push(Record::Page(page));
        }
        let mut forgetful = progress(&whole, "a", 500);
        forgetful.oldest_needed_seq = 3;
        records.push(Record::Progress(forgetful));

        let without = |gone: &[Seq]| {
            let kept = records.iter().filter(|record| match record {
                Record::Page(page) => !gone.contains(&page.seq),
                _ => true,
            });
            Ledger::with(kept.cloned()).check()
        };
        assert_eq!(without(&[]), Ok(()));
        assert_eq!(without(&[1, 2]), Ok(()), "compacted away");
        assert_eq!(without(&[1]), Ok(()), "a lost tombstone is harmless");
        assert_eq!(without(&[2]), Ok(()));
        assert_eq!(without(&[3]), Err(Inconsistency::Missing { from: 3, to: 3 }));
        assert_eq!(without(&[3, 4]), Err(Inconsistency::Missing { from: 3, to: 4 }));
    }

    #[test]
    fn a_page_is_forgotten_below_the_floor_and_only_when_covered() {
        let units = ["a".to_owned(), "b".to_owned()];
        let mut ledger = Ledger::with([genesis()]);
        for (unit, first, last) in [("a", 1, 2), ("b", 1, 2), ("a", 150, 160)] {
            let page = page(&ledger, unit, first, last);
            ledger.write(Record::Page(page));
        }
        assert_eq!(ledger.forgettable_below(&units), 1, "no progress yet");
        let a = progress(&ledger, "a", 300);
        assert_eq!(a.progress.floor, at(190));
        ledger.write(Record::Progress(a));
        assert_eq!(ledger.forgettable_below(&units), 2, "b is behind");
        let b = progress(&ledger, "b", 250);
        ledger.write(Record::Progress(b));
        assert_eq!(ledger.forgettable_below(&units), 4);
        let before_coverage = page(&ledger, "a", -5, -5);
        ledger.write(Record::Page(before_coverage));
        assert_eq!(ledger.forgettable_below(&units), 4, "below the floor, but not covered");
    }

    #[test]
    fn numbers_and_chain_go_on_when_every_page_is_forgotten_and_gone() {
        let mut whole = Ledger::with([genesis()]);
        let mut kept = vec![genesis()];
        for number in 1..=3 {
            let page = page(&whole, "a", number, number);
            whole.write(Record::Page(page));
        }
        let mut forgetful = progress(&whole, "a", 500);
        forgetful.oldest_needed_seq = 4;
        whole.write(Record::Progress(forgetful.clone()));
        kept.push(Record::Progress(forgetful));
        let compacted = Ledger::with(kept);
        assert_eq!(compacted.check(), Ok(()));
        assert_eq!((compacted.head.last_seq, compacted.head.chain), (whole.head.last_seq, whole.head.chain));
        let next = page(&compacted, "a", 400, 400);
        whole.write(Record::Page(next));
        assert!(whole.is_live(4, "a", 0));
    }

    #[test]
    fn progress_of_another_history_is_noticed() {
        let mut ledger = Ledger::with([genesis()]);
        let page = page(&ledger, "a", 1, 1);
        ledger.write(Record::Page(page));
        let mut other = progress(&ledger, "a", 10);
        other.chain = Chain([9; 16]);
        assert_eq!(ledger.take(9, &Record::Progress(other)), Err(Inconsistency::Chain(1)));
    }

    #[test]
    fn forgetting_drops_the_pages_and_their_entries_no_longer_count() {
        let mut ledger = Ledger::with([genesis()]);
        for number in 1..=3 {
            let page = page(&ledger, "a", number, number);
            ledger.write(Record::Page(page));
        }
        let mut forgetful = progress(&ledger, "a", 500);
        forgetful.oldest_needed_seq = 3;
        ledger.write(Record::Progress(forgetful));
        assert_eq!(ledger.pages.keys().map(|(seq, _)| *seq).collect::<Vec<_>>(), [3]);
        assert!(!ledger.is_live(2, "a", 0) && ledger.is_live(3, "a", 0));
        assert!(!ledger.is_live(3, "a", 1), "of another generation");
    }

    #[test]
    fn a_unit_that_is_no_longer_read_is_kept_until_the_others_have_left_it_behind() {
        let mut ledger = Ledger::with([genesis()]);
        let gone = page(&ledger, "gone", 1, 2);
        ledger.write(Record::Page(gone));
        let gone = progress(&ledger, "gone", 50);
        ledger.write(Record::Progress(gone));
        let units = ["a".to_owned()];
        let near = progress(&ledger, "a", 100);
        ledger.write(Record::Progress(near));
        assert!(!ledger.is_abandoned("gone", &units));
        assert_eq!(ledger.forgettable_below(&units), 1);
        let far = progress(&ledger, "a", 1000);
        ledger.write(Record::Progress(far));
        assert!(ledger.is_abandoned("gone", &units));
        assert_eq!(ledger.forgettable_below(&units), 1, "put back now it would publish again what is on the page");
        let left = ledger.left_behind(&units);
        let floors: Vec<_> = left.iter().map(|unit| (unit.unit.as_str(), unit.progress.floor)).collect();
        assert_eq!(floors, [("gone", at(50))]);
        ledger.write(Record::Progress(left[0].clone()));
        assert_eq!(ledger.forgettable_below(&units), 2);
        assert_eq!(ledger.left_behind(&units), [], "once");
    }

    #[test]
    fn what_is_late_is_late_also_when_the_pages_before_a_rewind_are_forgotten() {
        let behind_max = Some(Duration::from_secs(100));
        let mut ledger = Ledger::with([genesis()]);
        ledger.write(Record::Page(page(&ledger, "a", 850, 900)));
        ledger.write(Record::Progress(progress(&ledger, "a", 910)));
        // So far behind the leg at 900.
        let bound = at(800);
        let change = Some(Change { what: ChangeKind::Rewound, at: at(950) });
        let rewound = UnitProgress {
            generation: 1,
            progress: Progress::starting_at(at(200), &DELAYS),
            oldest_needed_seq: 2,
            change,
            ..progress(&ledger, "a", 0)
        };
        ledger.write(Record::Progress(rewound));
        assert!(ledger.late_before("a", behind_max) >= bound);
        let after_a_restart = Ledger::of(ledger.head.clone(), ledger.pages.clone());
        assert!(after_a_restart.pages.is_empty(), "its generation is over");
        assert!(after_a_restart.late_before("a", behind_max) >= bound, "nothing else knows of the leg at 900");
    }

    #[test]
    fn pages_of_two_writers_are_a_union() {
        let mut ledger = Ledger::with([genesis()]);
        for writer in [Nonce([1; 16]), Nonce([2; 16])] {
            let mut page = page(&ledger, "a", 1, 2);
            page.seq = 1;
            page.writer = Some(writer);
            ledger.write(Record::Page(page));
        }
        assert_eq!(ledger.pages.len(), 2);
        assert_ne!(page_key(1, Some(Nonce([1; 16]))), page_key(1, Some(Nonce([2; 16]))));
    }

    #[test]
    fn only_legs_count_that_can_be_expected_to_be_shown() {
        // Pages of `acme`: first, last, published, generation.
        let known = |pages: &[(i64, i64, u32, u32)], change| {
            let mut ledger = Ledger::default();
            let progress = Progress::starting_at(at(0), &DELAYS);
            let unit = UnitProgress { generation: 1, change, ..UnitProgress::new("acme", progress, 0) };
            ledger.head.units.insert("acme".to_owned(), unit);
            for (seq, &(first, last, published, generation)) in (1..).zip(pages) {
                let (first, last, unit) = (at(first), at(last), "acme".to_owned());
                let meta = PageMeta { unit, generation, is_keyed: false, first, last, entries: 100, published };
                ledger.pages.insert((seq, None), meta);
            }
            ledger.published_within("acme", Window::new(at(0), at(100)))
        };
        assert_eq!(known(&[(10, 20, 9, 1), (30, 40, 2, 1)], None), 11);
        assert_eq!(known(&[], None), 0, "a first read of quiet phones");
        assert_eq!(known(&[(10, 20, 0, 1)], None), 0, "dead rows, and changes of known legs");
        assert_eq!(known(&[(10, 20, 9, 0)], None), 0, "what a rewind has made void");
        assert_eq!(known(&[(10, 100, 9, 1)], None), 0, "beyond the window");
        let accepted = |second| Some(Change { what: ChangeKind::Accepted, at: at(second) });
        assert_eq!(known(&[(10, 20, 9, 1)], accepted(50)), 0);
        assert_eq!(known(&[(10, 20, 9, 1)], accepted(5)), 9);
    }
}
