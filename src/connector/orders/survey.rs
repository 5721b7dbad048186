//! The survey before a replay: which dead letters hold a leg now, and which of those legs are in the topic.
//!
//! ```text
//!   topic of legs   [low ───────────────── H) ┈┈┈┈┈┈┈┈┈┈┈▶       1. where it ends: H
//!   dead letters    [low ───────────────────)                    2. parsed again
//!   journal         g p/1 … r/… s/a ────────)                    3. what is remembered, what was replayed
//!   topic of legs   [low ───────────────── H)                    4. only if something may be forgotten
//! ```
//!
//! It only reads from Kafka, and needs neither the view nor the owner, so polls go on beside it however long it takes,
//! and it serves whoever only asks. In this order it is certain up to H: what lies below the last stable offset H of
//! the topic is of transactions whose pages lie below the journal's end, which is taken after it. What was published
//! since, the owner looks up before each of its transactions: from H on in the topic, and in its view.
//!
//! Of the letters only facts are kept, some 100 bytes each; their rows are read a second time when they are published.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use super::dead_letters::{DeadLetter, ReplayedLetters, committed};
use crate::codec::JournalCodec;
use crate::connector::fault::{Fault, JournalFault};
use crate::connector::write::follower::{decode, stretch};
use crate::core::chunk::is_after;
use crate::core::dead_letter::Reason;
use crate::core::identity::KeyHash;
use crate::core::journal::{Page, Record, Seq, Trace};
use crate::core::ledger::Ledger;
use crate::core::leg::{TimeBasis, time_of};
use crate::core::privacy::Privacy;
use crate::core::replay::{Evidence, Fate, Tally, Verdict, decide, may_be_forgotten, time_in};
use crate::core::time::{UtcMillis, Window};
use crate::sink::{Cluster, Destination, Place, Reader, StoredRecord, Stretch};
use crate::source::wire::{self, Row};

/// How far a query reaches beyond its window at the most: where clocks are changed, an hour and some more.
const ASKED_BEYOND: Duration = Duration::from_secs(2 * 3600);

/// What is surveyed.
#[derive(Clone, Debug)]
pub struct ReplayTerms {
    /// The journal's topic.
    pub journal: String,
    /// The units that are read.
    pub units: Vec<String>,
    /// On which of a leg's times the windows are cut.
    pub time_basis: TimeBasis,
    /// How personal values are treated.
    pub privacy: Privacy,
    /// Only letters of this reason.
    pub reason: Option<Reason>,
    /// Whether those in doubt are published, too.
    pub is_forced: bool,
}

/// A dead letter that holds a leg now.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    /// The hash of its row.
    pub(crate) row: KeyHash,
    /// The leg's identity.
    pub(crate) key: KeyHash,
    pub(crate) unit: String,
    /// The leg's time on the axis of the windows.
    pub(crate) at: UtcMillis,
    /// When its row was read.
    pub(crate) seen_at: UtcMillis,
    /// Whether the letter's row was treated when it was written: it must not be treated again.
    pub(crate) is_treated: bool,
    pub(crate) may_be_forgotten: bool,
}

/// What a survey has found; its knowledge of the topic and of replays is kept up to date by whoever goes on with it.
pub(crate) struct Survey {
    is_forced: bool,
    candidates: BTreeMap<(i32, i64), Candidate>,
    /// The candidates' legs.
    wanted: HashSet<KeyHash>,
    /// Those of them that are remembered or in the topic.
    known: HashSet<KeyHash>,
    pub(crate) replayed: ReplayedLetters,
    /// By partition: up to where the topic of legs is accounted for.
    legs_to: BTreeMap<i32, i64>,
    journal_to: i64,
    is_topic_whole: bool,
    /// What became of all others, and of the candidates as they are done with.
    pub(crate) tally: Tally,
}

impl Survey {
    pub(crate) async fn take<C: Cluster>(
        cluster: &C,
        codec: &JournalCodec,
        terms: &ReplayTerms,
    ) -> Result<Self, Fault> {
        let legs_to = cluster.ends(Destination::Legs).await?.iter().map(|ends| (ends.partition, ends.stable)).collect();
        let mut survey = Self {
            is_forced: terms.is_forced,
            candidates: BTreeMap::new(),
            wanted: HashSet::new(),
            known: HashSet::new(),
            replayed: ReplayedLetters::default(),
            legs_to,
            journal_to: 0,
            is_topic_whole: true,
            tally: Tally::default(),
        };
        survey.read_letters(cluster, terms).await?;
        let ledger = survey.read_journal(cluster, codec).await?;
        survey.drop_hopeless(&ledger, &terms.units);
        let unknown = |candidate: &&Candidate| !survey.is_known(candidate.key);
        if survey.candidates.values().filter(unknown).any(|candidate| candidate.may_be_forgotten) {
            survey.search_topic(cluster).await?;
        }
        Ok(survey)
    }

    async fn read_letters<C: Cluster>(&mut self, cluster: &C, terms: &ReplayTerms) -> Result<(), Fault> {
        let tag = Trace::journal_tag(&terms.journal);
        let ends = cluster.ends(Destination::DeadLetters).await?;
        let mut reader = cluster.read(Destination::DeadLetters, committed(&ends)).await?;
        while let Some(records) = reader.next().await? {
            for record in &records {
                let letter = DeadLetter::of(record, tag);
                if terms.reason.is_some_and(|wanted| letter.reason != Some(wanted)) {
                    continue;
                }
                match parse(record, letter, terms) {
                    Ok(candidate) => {
                        self.wanted.insert(candidate.key);
                        self.candidates.insert((record.place.partition, record.place.offset), candidate);
                    }
                    Err(fate) => self.tally.add(fate),
                }
            }
        }
        Ok(())
    }

    async fn read_journal<C: Cluster>(&mut self, cluster: &C, codec: &JournalCodec) -> Result<Ledger, Fault> {
        let ends = cluster.ends(Destination::Journal).await?.first().copied().ok_or(JournalFault::Gone)?;
        let mut ledger = Ledger::default();
        let mut remembered: HashMap<KeyHash, Vec<(Seq, String, u32)>> = HashMap::new();
        let mut reader = cluster.read(Destination::Journal, stretch(ends.low, ends.high)).await?;
        while let Some(records) = reader.next().await? {
            for stored in records {
                let record = decode(codec, &stored)?;
                ledger.take(stored.place.offset, &record).map_err(|what| JournalFault::Inconsistent { what })?;
                match &record {
                    Record::Page(page) => self.note_page(page, &mut remembered),
                    Record::Replayed(replayed) => self.replayed.take(replayed),
                    _ => {}
                }
            }
        }
        ledger.check().map_err(|what| JournalFault::Inconsistent { what })?;
        self.journal_to = ends.high;
        let live = remembered
            .into_iter()
            .filter(|(_, pages)| pages.iter().any(|(seq, unit, generation)| ledger.is_live(*seq, unit, *generation)));
        self.known.extend(live.map(|(key, _)| key));
        Ok(ledger)
    }

    fn note_page(&self, page: &Page, remembered: &mut HashMap<KeyHash, Vec<(Seq, String, u32)>>) {
        for entry in page.legs.iter().filter(|entry| self.wanted.contains(&entry.key)) {
            remembered.entry(entry.key).or_default().push((page.seq, page.unit.clone(), page.generation));
        }
    }

    /// Takes out what is done with, and what nobody would remember.
    fn drop_hopeless(&mut self, ledger: &Ledger, units: &[String]) {
        let Self { candidates, replayed, tally, .. } = self;
        candidates.retain(|&(partition, offset), candidate| {
            if replayed.outcome(Place { partition, offset }, candidate.row).is_some() {
                tally.add(Fate::Replayed);
                return false;
            }
            let known = ledger.head.units.get(&candidate.unit);
            let Some(unit) = known.filter(|unit| unit.is_started() && units.contains(&unit.unit)) else {
                tally.add(Fate::UnitNotRead);
                return false;
            };
            let all = ledger.head.units.values().map(|unit| &unit.progress);
            candidate.may_be_forgotten = may_be_forgotten(candidate.at, &unit.progress, all);
            true
        });
    }

    /// Looks for the candidates' legs in all that the topic keeps below where it is accounted for.
    async fn search_topic<C: Cluster>(&mut self, cluster: &C) -> Result<(), Fault> {
        tracing::info!(legs = self.wanted.len(), "a replay searches the topic for legs that may be forgotten");
        let all = cluster.ends(Destination::Legs).await?;
        let kept = all.iter().map(|ends| {
            let until = self.legs_to.get(&ends.partition).copied().unwrap_or(ends.low);
            Stretch { partition: ends.partition, from: ends.low.min(until), until }
        });
        self.look_for_legs(cluster, kept.collect()).await?;
        // What is deleted while it is read counts, too.
        self.is_topic_whole = cluster.ends(Destination::Legs).await?.iter().all(|ends| ends.low == 0);
        Ok(())
    }

    async fn look_for_legs<C: Cluster>(&mut self, cluster: &C, stretches: Vec<Stretch>) -> Result<(), Fault> {
        let mut reader = cluster.read(Destination::Legs, stretches).await?;
        while let Some(records) = reader.next().await? {
            let keys = records.iter().filter_map(|record| record.header(KeyHash::HEADER)?.try_into().ok().map(KeyHash));
            let found: Vec<KeyHash> = keys.filter(|key| self.wanted.contains(key)).collect();
            self.known.extend(found);
        }
        Ok(())
    }

    /// Takes in what was published and replayed since, up to where the journal was read by its owner.
    pub(crate) async fn catch_up<C: Cluster>(
        &mut self,
        cluster: &C,
        codec: &JournalCodec,
        journal_to: i64,
    ) -> Result<(), Fault> {
        if self.journal_to < journal_to {
            self.replayed.read(cluster, codec, self.journal_to, journal_to).await?;
            self.journal_to = journal_to;
        }
        let ends = cluster.ends(Destination::Legs).await?;
        let rest = ends.iter().map(|ends| Stretch {
            partition: ends.partition,
            from: self.legs_to.get(&ends.partition).copied().unwrap_or(0).max(ends.low),
            until: ends.high,
        });
        self.look_for_legs(cluster, rest.filter(|rest| rest.from < rest.until).collect()).await?;
        for ends in ends {
            self.legs_to.insert(ends.partition, ends.high);
        }
        Ok(())
    }

    /// Takes in what is known to be published and replayed by now, without its owner.
    pub(crate) async fn catch_up_beside<C: Cluster>(&mut self, cluster: &C, codec: &JournalCodec) -> Result<(), Fault> {
        let journal = cluster.ends(Destination::Journal).await?;
        self.catch_up(cluster, codec, journal.first().map_or(0, |ends| ends.stable)).await
    }

    /// How many records of topic and journal it has still to look at.
    pub(crate) async fn records_behind<C: Cluster>(&self, cluster: &C) -> Result<i64, Fault> {
        let ends = cluster.ends(Destination::Legs).await?;
        let behind = |ends: &crate::sink::Ends| ends.stable - self.legs_to.get(&ends.partition).copied().unwrap_or(0);
        let legs: i64 = ends.iter().map(behind).filter(|behind| *behind > 0).sum();
        let journal = cluster.ends(Destination::Journal).await?;
        let journal = journal.first().map_or(0, |ends| ends.stable - self.journal_to);
        Ok(legs + journal.max(0))
    }

    /// The candidate that a record of the dead letters' topic is.
    pub(crate) fn candidate(&self, record: &StoredRecord) -> Option<&Candidate> {
        let candidate = self.candidates.get(&(record.place.partition, record.place.offset))?;
        let row = record.header(KeyHash::HEADER)?;
        (row == candidate.row.0).then_some(candidate)
    }

    fn is_known(&self, key: KeyHash) -> bool {
        self.known.contains(&key) || self.replayed.has_leg(key)
    }

    /// What becomes of a candidate; the view may know more than was read.
    pub(crate) fn verdict(&self, candidate: &Candidate, is_remembered: bool) -> Verdict {
        let evidence = Evidence {
            is_known: is_remembered || self.is_known(candidate.key),
            may_be_forgotten: candidate.may_be_forgotten,
            is_topic_whole: self.is_topic_whole,
        };
        decide(evidence, self.is_forced)
    }

    /// Where the candidates lie, from the first to the last of each partition.
    pub(crate) fn stretches(&self) -> Vec<Stretch> {
        let mut stretches: BTreeMap<i32, Stretch> = BTreeMap::new();
        for &(partition, offset) in self.candidates.keys() {
            let first = Stretch { partition, from: offset, until: offset };
            stretches.entry(partition).or_insert(first).until = offset + 1;
        }
        stretches.into_values().collect()
    }

    /// What a replay would do now.
    pub(crate) fn forecast(&self) -> Tally {
        let mut tally = self.tally.clone();
        let mut published = BTreeSet::new();
        for candidate in self.candidates.values() {
            tally.add(match self.verdict(candidate, published.contains(&candidate.key)) {
                Verdict::Known => Fate::Known,
                Verdict::InDoubt => Fate::InDoubt,
                Verdict::Publish => {
                    published.insert(candidate.key);
                    Fate::Published
                }
            });
        }
        tally
    }
}

/// The candidate that a letter is, or why it is none.
fn parse(record: &StoredRecord, letter: DeadLetter, terms: &ReplayTerms) -> Result<Candidate, Fate> {
    let Some(unit) = letter.unit else { return Err(Fate::Foreign) };
    let (basis, privacy) = (terms.time_basis, &terms.privacy);
    let raw = record.payload.as_deref().unwrap_or_default();
    // The hash of a treated row is that of the row as it came, which is not there to be hashed.
    let is_treated = letter.policy.is_some();
    let is_right = || [privacy.dead_row(raw), KeyHash::of_dead_row(raw)].contains(&letter.row);
    if letter.is_truncated || !(is_treated || is_right()) {
        return Err(Fate::Damaged);
    }
    if is_treated && letter.policy != privacy.id() {
        return Err(Fate::OtherPolicy);
    }
    let Row::Leg(leg) = wire::row(raw) else { return Err(Fate::StillDead) };
    let at = time_of(&leg, basis);
    let asked = |window: Window| Window::new(window.start.minus(ASKED_BEYOND), window.end.plus(ASKED_BEYOND));
    if letter.window.is_some_and(|window| is_after(at, leg.disconnected, asked(window).end, basis)) {
        // The poll of its time reads it.
        return Err(Fate::StillDead);
    }
    let at = letter.window.map_or(at, |window| time_in(at, window, asked(window)));
    let key = KeyHash::of_leg(&leg);
    Ok(Candidate { row: letter.row, key, unit, at, seen_at: letter.at, is_treated, may_be_forgotten: false })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::privacy::{Target, Treatment};

    fn terms(time_basis: TimeBasis, privacy: Privacy) -> ReplayTerms {
        let (journal, units) = ("j".to_owned(), vec!["u".to_owned()]);
        ReplayTerms { journal, units, time_basis, privacy, reason: None, is_forced: false }
    }

    #[test]
    fn a_letter_that_was_treated_is_replayed_under_its_own_policy_only() {
        let policy = |name: &str| {
            let rules = [(Target::named(name).unwrap(), Treatment::Hash)];
            Privacy::new(&rules, b"0123456789abcdef")
        };
        let (none, one, other) = (Privacy::default(), policy("caller"), policy("callee"));
        let raw = br#"{"callId":"1","legId":"1","disconnectedTimeUTC":1700000000000,"caller":"x"}"#;
        let at = UtcMillis::new(1_700_000_000_000);
        let fate = |row: KeyHash, written_by: &Privacy, now: &Privacy| {
            let (place, payload) = (Place { partition: 0, offset: 0 }, Some(raw.to_vec()));
            let record = StoredRecord { place, key: Vec::new(), payload, timestamp: at, headers: Vec::new() };
            let unit = Some("u".to_owned());
            let (bytes, policy) = (raw.len() as u64, written_by.id());
            let letter =
                DeadLetter { place, at, unit, row, reason: None, window: None, bytes, is_truncated: false, policy };
            let terms = terms(TimeBasis::Disconnect, now.clone());
            parse(&record, letter, &terms).map(|candidate| candidate.is_treated)
        };
        let (plain, keyed) = (KeyHash::of_dead_row(raw), one.dead_row(b"the row as it came"));
        assert_eq!(fate(plain, &none, &none), Ok(false));
        assert_eq!(fate(plain, &none, &one), Ok(false), "it is treated when it is published");
        assert_eq!(fate(one.dead_row(raw), &none, &one), Ok(false), "a row that was not to be withheld");
        assert_eq!(fate(keyed, &none, &one), Err(Fate::Damaged));
        assert_eq!(fate(keyed, &one, &one), Ok(true));
        assert_eq!([&other, &none].map(|now| fate(keyed, &one, now)), [Err(Fate::OtherPolicy), Err(Fate::OtherPolicy)]);
    }

    #[test]
    fn a_letter_of_a_row_from_after_its_query_stays_dead() {
        let second = |second: i64| UtcMillis::new(1_700_000_000_000 + second * 1_000);
        let window = Window::new(second(0), second(60));
        let fate = |at: i64, basis| {
            let disconnected = second(at).as_millis();
            let raw = format!(r#"{{"callId":"1","legId":"1","disconnectedTimeUTC":{disconnected}}}"#).into_bytes();
            let (row, place) = (KeyHash::of_dead_row(&raw), Place { partition: 0, offset: 0 });
            let record =
                StoredRecord { place, key: Vec::new(), payload: Some(raw), timestamp: second(61), headers: Vec::new() };
            let letter = DeadLetter {
                place,
                at: second(61),
                unit: Some("u".to_owned()),
                row,
                reason: None,
                window: Some(window),
                bytes: 0,
                is_truncated: false,
                policy: None,
            };
            parse(&record, letter, &terms(basis, Privacy::default())).map(|candidate| candidate.at)
        };
        assert_eq!(fate(30, TimeBasis::Disconnect), Ok(second(30)));
        assert_eq!(fate(61, TimeBasis::Disconnect), Ok(second(61)), "in the margin");
        assert_eq!(fate(-86_400, TimeBasis::Disconnect), Ok(window.start), "a row from before is a leg like others");
        assert_eq!(fate(86_400, TimeBasis::Disconnect), Err(Fate::StillDead));
        assert_eq!(fate(86_400, TimeBasis::Connect), Ok(UtcMillis::new(window.end.as_millis() - 1)), "never connected");
    }
}
