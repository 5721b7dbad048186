//! A journal page before it has a number: what one transaction is to remember of a unit.

use super::coverage::Coverage;
use super::hours::PageHours;
use super::identity::{Fingerprint, KeyHash};
use super::journal::{Chain, Entry, Nonce, Page, Seq, UnitProgress};
use super::time::UtcMillis;
use super::watermark::Progress;

/// A page before it has a number.
#[derive(Clone, Debug)]
pub struct PageDraft {
    unit: String,
    generation: u32,
    first: UtcMillis,
    last: UtcMillis,
    legs: Vec<Entry>,
    dead: Vec<KeyHash>,
    /// What was not published before.
    hours: PageHours,
}

impl PageDraft {
    /// An empty page of a unit in this generation.
    pub fn new(unit: String, generation: u32) -> Self {
        let (first, last) = (UtcMillis::new(i64::MAX), UtcMillis::new(i64::MIN));
        Self { unit, generation, first, last, legs: Vec::new(), dead: Vec::new(), hours: PageHours::default() }
    }

    /// Adds an entry that no page has, of a row at `at` on the axis of the windows.
    pub fn add_new(&mut self, entry: Entry, at: UtcMillis, is_dead: bool) {
        self.hours.note(at, is_dead);
        self.add(entry, at, is_dead);
    }

    /// Adds an entry, that of a leg published before among them, of a row at `at` on the axis of the windows.
    pub fn add(&mut self, entry: Entry, at: UtcMillis, is_dead: bool) {
        self.first = self.first.min(at);
        self.last = self.last.max(at);
        if is_dead {
            self.dead.push(entry.key);
        } else {
            self.legs.push(entry);
        }
    }

    /// Has the page remembered until the floor has come to `at`.
    pub fn keep_to(&mut self, at: UtcMillis) {
        self.last = self.last.max(at);
    }

    /// Makes the page's unit one of `units`, in the page's generation, where a lost journal is rebuilt.
    pub fn belong_to(&self, units: &mut Vec<UnitProgress>, source: u64) {
        if let Some(known) = units.iter_mut().find(|known| known.unit == self.unit) {
            known.generation = self.generation.max(known.generation);
            return;
        }
        // A unit that is no longer read: as far as its legs tell.
        let (complete_to, final_to, floor) = (self.last, self.last, self.last);
        let progress = Progress { complete_to, final_to, floor, coverage: Coverage::default() };
        units.push(UnitProgress { generation: self.generation, ..UnitProgress::new(&self.unit, progress, source) });
    }

    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.legs.len() + self.dead.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The entries of legs.
    pub fn legs(&self) -> &[Entry] {
        &self.legs
    }

    /// The dead rows.
    pub fn dead(&self) -> &[KeyHash] {
        &self.dead
    }

    /// The time of the oldest row, and by when the page may be forgotten.
    #[cfg(test)]
    pub const fn span(&self) -> (UtcMillis, UtcMillis) {
        (self.first, self.last)
    }

    /// How many legs were not published for the unit before.
    #[cfg(test)]
    pub fn published(&self) -> u64 {
        self.hours.0.values().map(|rows| rows.published).sum()
    }

    /// The page with its number, behind the page with this chain; at least once it bears its writer's nonce.
    ///
    /// A page has one version of the fingerprint. Of entries of another, as of legs adopted after a change of the privacy
    /// policy, it has none.
    pub fn numbered(self, seq: Seq, writer: Option<Nonce>, chain_before: Chain) -> Page {
        let Self { unit, generation, first, last, mut legs, dead, hours } = self;
        let newest = legs.iter().rev().find_map(|entry| entry.seen.fingerprint);
        let fingerprint_version = newest.map_or(Fingerprint::VERSION, Fingerprint::version);
        for entry in &mut legs {
            entry.seen.fingerprint = entry.seen.fingerprint.filter(|print| print.version() == fingerprint_version);
        }
        Page { seq, writer, unit, generation, first, last, fingerprint_version, legs, dead, hours, chain_before }
    }
}

#[cfg(test)]
mod tests {
    use super::super::dedupe::Seen;
    use super::*;

    #[test]
    fn a_page_has_the_version_of_its_newest_fingerprint_and_no_others() {
        let (plain, keyed) = (Fingerprint::from_bits(7), Fingerprint::keyed(1, 7));
        let kept = |fingerprints: &[Fingerprint]| {
            let mut draft = PageDraft::new("a".to_owned(), 0);
            for fingerprint in fingerprints {
                let seen = Seen { fingerprint: Some(*fingerprint), revision: 0 };
                draft.add_new(Entry { key: KeyHash([1; 16]), seen }, UtcMillis::new(1), false);
            }
            let page = draft.numbered(1, None, Chain::default());
            let kept: Vec<_> = page.legs.iter().map(|entry| entry.seen.fingerprint).collect();
            (page.fingerprint_version, kept)
        };
        assert_eq!(kept(&[]), (Fingerprint::VERSION, vec![]));
        assert_eq!(kept(&[plain, plain]), (Fingerprint::VERSION, vec![Some(plain); 2]));
        assert_eq!(kept(&[plain, keyed]), (Fingerprint::KEYED_VERSION, vec![None, Some(keyed)]));
    }
}
