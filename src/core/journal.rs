//! The journal's records: what the connector writes beside the legs, so that it can start from Kafka alone.
//!
//! ```text
//!   g            genesis     which journal this is, on which cluster
//!   c            claim       who owns it now
//!   p/<seq>      page        identities that one transaction published, chained to the page before
//!   s/<unit>     progress    how far a unit has come, written last in every transaction
//!   b/<id>       backfill    a past period that an operator wants read
//!   h/<unit>/<day>  hours    how many legs of each hour the API showed, beside what was published
//!   r/<p>/<o>    replayed    a dead letter that has become a leg, by its partition and offset; kept for ever
//!   x/<nonce>    marker      of the self-test; means nothing
//! ```
//!
//! These are values; their bytes are the codec's matter, what they add up to is [`super::ledger`]'s.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::dedupe::{Counts, Seen};
use super::hours::{ComparedDay, Day, PageHours};
use super::identity::{Fingerprint, KeyHash};
use super::lateness::Lateness;
use super::time::{UtcMillis, Window};
use super::watermark::Progress;

/// A random number that nobody else has drawn: of a journal, a claim, a process.
///
/// As text, also as a key of JSON, it is 32 lowercase hexadecimal digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Nonce(pub [u8; 16]);

impl From<Nonce> for String {
    fn from(nonce: Nonce) -> Self {
        nonce.to_string()
    }
}

impl TryFrom<String> for Nonce {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("not 32 hexadecimal digits")
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Nonce {
    /// From its hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        let mut bytes = [0; 16];
        if digits.len() != 32 {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

/// The number of a page; the first is 1.
pub type Seq = u64;

/// How strong the guarantee is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Delivery {
    /// One transaction for legs, page, progress and status.
    ExactlyOnce,
    /// Idempotent and acknowledged, without transactions.
    AtLeastOnce,
}

impl Delivery {
    /// The name in configuration, logs, status and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ExactlyOnce => "exactly-once",
            Self::AtLeastOnce => "at-least-once",
        }
    }
}

/// The topics that consumers read, as far as positions in them are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum OutTopic {
    /// The legs.
    Legs,
    /// Rows that cannot be legs.
    DeadLetters,
}

/// Ends of partitions: the first offset that is not yet accounted for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Vec<(OutTopic, i32, i64)>", from = "Vec<(OutTopic, i32, i64)>")]
pub struct OutOffsets(pub BTreeMap<(OutTopic, i32), i64>);

impl OutOffsets {
    /// Raises a partition's end; it never falls.
    pub fn raise(&mut self, topic: OutTopic, partition: i32, end: i64) {
        let known = self.0.entry((topic, partition)).or_insert(end);
        *known = end.max(*known);
    }

    /// Raises every partition to what `other` has.
    pub fn raise_all(&mut self, other: &Self) {
        other.0.iter().for_each(|(&(topic, partition), &end)| self.raise(topic, partition, end));
    }
}

impl From<OutOffsets> for Vec<(OutTopic, i32, i64)> {
    fn from(offsets: OutOffsets) -> Self {
        offsets.0.into_iter().map(|((topic, partition), end)| (topic, partition, end)).collect()
    }
}

impl From<Vec<(OutTopic, i32, i64)>> for OutOffsets {
    fn from(ends: Vec<(OutTopic, i32, i64)>) -> Self {
        Self(ends.into_iter().map(|(topic, partition, end)| ((topic, partition), end)).collect())
    }
}

/// The first record: which journal this is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Genesis {
    /// The journal's own number; the chain of pages starts from it.
    pub journal: Nonce,
    /// The id of the cluster that it was created on.
    pub cluster: String,
    /// What the entries' fingerprints are.
    pub fingerprint_version: u8,
    /// When it was created, by the owner's clock.
    pub at: UtcMillis,
    /// Where the topics that consumers read ended then.
    pub out_offsets: OutOffsets,
    /// The program's version.
    pub version: String,
}

/// Who may write from here on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// This claim's number.
    pub nonce: Nonce,
    /// The process that claims; a number of its own at each start.
    pub process: Nonce,
    /// The state directory that it works on: the same after a restart.
    pub instance: Nonce,
    /// Its host name.
    pub host: String,
    /// Where its admin port listens, `host:port`.
    pub admin: String,
    /// The program's version.
    pub version: String,
    /// How it publishes.
    pub delivery: Delivery,
    /// The owner writes something at least this often, in milliseconds.
    pub beat_ms: u32,
    /// Whether the owner has given the journal up: it stopped on purpose.
    pub is_released: bool,
    /// When, by its clock.
    pub at: UtcMillis,
}

/// An identity that was published, as a page lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Of the leg or of the dead row.
    pub key: KeyHash,
    /// What is known of it; a dead row has no fingerprint.
    pub seen: Seen,
}

impl Entry {
    /// The bytes of an entry on a page: the hash, 7 bytes of fingerprint, a byte of revision.
    pub const BYTES: usize = 24;

    /// Its bytes on a page.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..16].copy_from_slice(&self.key.0);
        let bits = self.seen.fingerprint.map_or(0, Fingerprint::bits);
        bytes[16..23].copy_from_slice(&bits.to_be_bytes()[1..]);
        bytes[23] = self.seen.revision;
        bytes
    }

    /// From its bytes on a page written with fingerprints of `version`, which is 0 for dead rows.
    pub fn from_bytes(bytes: &[u8; Self::BYTES], version: u8) -> Self {
        let mut bits = [0; 8];
        bits[1..].copy_from_slice(&bytes[16..23]);
        // No bits at all stand for an unknown content, as of a leg adopted from another version.
        let bits = Some(u64::from_be_bytes(bits)).filter(|bits| *bits != 0);
        let fingerprint = bits.and_then(|bits| Fingerprint::of_version(bits, version));
        let key = KeyHash(std::array::from_fn(|index| bytes[index]));
        Self { key, seen: Seen { fingerprint, revision: bytes[23] } }
    }
}

/// What a transaction published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Its number, without gaps in one journal.
    pub seq: Seq,
    /// At-least-once only: the claim under which it was written, which keeps two writers' pages apart.
    pub writer: Option<Nonce>,
    /// The unit it was read for.
    pub unit: String,
    /// The unit's generation then.
    pub generation: u32,
    /// The earliest time of its rows, on the axis of the windows.
    pub first: UtcMillis,
    /// The latest. A dead row without a time keeps the page until the floor has passed all that may show the row.
    pub last: UtcMillis,
    /// The fingerprints' version; where it is not ours, entries compare equal to any content.
    pub fingerprint_version: u8,
    /// The legs.
    pub legs: Vec<Entry>,
    /// The dead rows.
    pub dead: Vec<KeyHash>,
    /// What of it no page before had, by hour.
    pub hours: PageHours,
    /// The chain up to the page before.
    pub chain_before: Chain,
}

impl Page {
    /// All its entries, legs and dead rows.
    pub fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        let dead = self.dead.iter().map(|key| Entry { key: *key, seen: Seen { fingerprint: None, revision: 0 } });
        self.legs.iter().copied().chain(dead)
    }

    /// The chain up to and with this page.
    pub fn chain(&self) -> Chain {
        let mut hash = Sha256::new();
        hash.update(self.chain_before.0);
        hash.update(self.seq.to_be_bytes());
        hash.update(u32::try_from(self.unit.len()).unwrap_or(u32::MAX).to_be_bytes());
        hash.update(&self.unit);
        hash.update(self.generation.to_be_bytes());
        hash.update(self.first.as_millis().to_be_bytes());
        hash.update(self.last.as_millis().to_be_bytes());
        for entry in &self.legs {
            hash.update(entry.key.0);
        }
        hash.update([0xff; 4]);
        for key in &self.dead {
            hash.update(key.0);
        }
        let digest = hash.finalize();
        Chain(std::array::from_fn(|index| digest[index]))
    }
}

/// A hash over everything published so far; each page carries that of the page before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Chain(pub [u8; 16]);

impl From<Nonce> for Chain {
    fn from(journal: Nonce) -> Self {
        Self(journal.0)
    }
}

/// A deliberate change of a unit's progress, and the newest only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What was done.
    pub what: ChangeKind,
    /// When, by the owner's clock.
    pub at: UtcMillis,
}

/// What an operator, or a change of the configuration, did to a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChangeKind {
    /// It was read for the first time.
    Started,
    /// It is to be published again from an instant on.
    Rewound,
    /// It goes on although the source's filters have changed.
    Accepted,
    /// It was rebuilt from the legs' own headers.
    Adopted,
}

impl ChangeKind {
    /// The name in the journal and in what `state show` prints.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Rewound => "rewound",
            Self::Accepted => "accepted",
            Self::Adopted => "adopted",
        }
    }
}

/// How far a unit has come, and with it the whole connector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitProgress {
    /// The unit.
    pub unit: String,
    /// Increased by each rewind; pages of an older one are void.
    pub generation: u32,
    /// Watermarks, coverage and floor.
    pub progress: Progress,
    /// A hash of the settings that decide which legs the source shows.
    pub source: u64,
    /// The newest page.
    pub last_seq: Seq,
    /// The chain up to it: what the next page continues, also when this one is forgotten and gone.
    pub chain: Chain,
    /// The oldest page that is not yet forgotten.
    pub oldest_needed_seq: Seq,
    /// How far the topics that consumers read are accounted for.
    pub out_offsets: OutOffsets,
    /// What became of all rows since the unit's first start.
    pub counts: Counts,
    /// How late its legs are.
    pub lateness: Lateness,
    /// When which sweep was last done, shortest first.
    pub sweeps: Vec<Swept>,
    /// The newest deliberate change.
    pub change: Option<Change>,
}

/// A sweep that was read whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swept {
    /// How far before the final watermark it began.
    pub lookback: Duration,
    /// When it began, by the owner's clock.
    pub at: UtcMillis,
}

impl UnitProgress {
    /// A unit of which nothing is known but this; `source` is the hash of the source's settings.
    pub fn new(unit: &str, progress: Progress, source: u64) -> Self {
        Self {
            unit: unit.to_owned(),
            generation: 0,
            progress,
            source,
            last_seq: 0,
            chain: Chain::default(),
            oldest_needed_seq: 0,
            out_offsets: OutOffsets::default(),
            counts: Counts::default(),
            lateness: Lateness::default(),
            sweeps: Vec::new(),
            change: None,
        }
    }

    /// Takes in what another writer has written of the same unit and generation: the greater of each.
    pub fn join(&mut self, other: &Self) {
        self.progress.complete_to = self.progress.complete_to.max(other.progress.complete_to);
        self.progress.final_to = self.progress.final_to.max(other.progress.final_to);
        self.progress.floor = self.progress.floor.max(other.progress.floor);
        other.progress.coverage.windows().iter().for_each(|window| self.progress.coverage.add(*window));
        self.source = other.source;
        if other.last_seq >= self.last_seq {
            (self.last_seq, self.chain) = (other.last_seq, other.chain);
        }
        self.oldest_needed_seq = self.oldest_needed_seq.max(other.oldest_needed_seq);
        self.out_offsets.raise_all(&other.out_offsets);
        if other.counts.fetched() >= self.counts.fetched() {
            self.counts = other.counts;
            self.lateness = other.lateness.clone();
        }
        for swept in &other.sweeps {
            let known = self.sweeps.iter().find(|known| known.lookback == swept.lookback).map(|known| known.at);
            self.note_swept(Swept { at: known.map_or(swept.at, |known| known.max(swept.at)), ..*swept });
        }
        self.change = other.change.clone().or_else(|| self.change.take());
    }

    /// Takes note of a sweep: it has also done what shorter ones do.
    pub fn note_swept(&mut self, swept: Swept) {
        let known = self.sweeps.iter().position(|known| known.lookback == swept.lookback);
        if known.is_none() {
            self.sweeps.push(swept);
            self.sweeps.sort_by_key(|known| known.lookback);
        }
        // Not the later of both: after a clock that was ahead it would stay due for ever.
        self.sweeps.iter_mut().filter(|known| known.lookback <= swept.lookback).for_each(|known| known.at = swept.at);
    }

    /// When everything from `lookback` before the final watermark on was last swept.
    pub fn last_swept(&self, lookback: Duration) -> Option<UtcMillis> {
        self.sweeps.iter().filter(|swept| lookback <= swept.lookback).map(|swept| swept.at).max()
    }

    /// When an operator has last accepted what is there, if nothing was ordered since.
    pub fn accepted_at(&self) -> Option<UtcMillis> {
        self.change.as_ref().filter(|change| change.what == ChangeKind::Accepted).map(|change| change.at)
    }

    /// Whether it was ever read: a unit of a new journal is known before its start is.
    pub fn is_started(&self) -> bool {
        self.change.is_some()
    }
}

/// A past period that an operator wants read. How far it has come, the unit's coverage says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backfill {
    /// Its number.
    pub id: Nonce,
    /// The unit.
    pub unit: String,
    /// The period, on the axis of the windows.
    pub window: Window,
    /// Whether it is still to be read.
    pub state: BackfillState,
    /// When it was asked for, by the owner's clock.
    pub at: UtcMillis,
    /// What became of the rows that it has read.
    pub counts: Counts,
}

/// What became of a backfill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BackfillState {
    /// It is read, or waits for another one.
    Running,
    /// All of its period is covered.
    Done,
    /// An operator has ended it.
    Cancelled,
}

impl BackfillState {
    /// The name in the journal and for operators.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A dead letter whose row is in the topic of legs, written in one transaction with the leg.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// The dead letter's partition.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
    /// The hash of its row, so that another letter at the same place, of a topic created again, is not taken for it.
    pub row: KeyHash,
    /// The fingerprint's version; 0 without one.
    pub fingerprint_version: u8,
    /// The leg.
    pub entry: Entry,
    /// The unit it was read for.
    pub unit: String,
    /// What became of it.
    pub outcome: ReplayOutcome,
    /// When, by the owner's clock.
    pub at: UtcMillis,
}

/// What became of a dead letter that has become a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayOutcome {
    /// It was published.
    Published,
    /// Its leg was in the topic already.
    Known,
}

impl ReplayOutcome {
    /// The name in the journal.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Known => "known",
        }
    }
}

/// A record of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// `g`
    Genesis(Genesis),
    /// `c`
    Claim(Claim),
    /// `p/…`
    Page(Page),
    /// `s/<unit>`
    Progress(UnitProgress),
    /// `b/<id>`
    Backfill(Backfill),
    /// `b/<id>` without a value: of no interest any more.
    BackfillForgotten(Nonce),
    /// `h/<unit>/<day>`
    Day(ComparedDay),
    /// `h/<unit>/<day>` without a value: below the unit's floor.
    DayForgotten(String, Day),
    /// `r/<partition>/<offset>`
    Replayed(Replayed),
    /// `s/<unit>` without a value: a unit that is no longer read and was forgotten.
    /// `x/<nonce>`, and pages without a value.
    Nothing,
}

impl Record {
    /// The record's key in the journal.
    pub fn key(&self) -> String {
        match self {
            Self::Genesis(_) => "g".to_owned(),
            Self::Claim(_) => "c".to_owned(),
            Self::Page(page) => page_key(page.seq, page.writer),
            Self::Progress(progress) => format!("s/{}", progress.unit),
            Self::Backfill(backfill) => format!("b/{}", backfill.id),
            Self::BackfillForgotten(id) => format!("b/{id}"),
            Self::Day(day) => format!("h/{}/{}", day.unit, day.day),
            Self::DayForgotten(unit, day) => format!("h/{unit}/{day}"),
            Self::Replayed(replayed) => replayed_key(replayed.partition, replayed.offset),
            Self::Nothing => "x/".to_owned(),
        }
    }
}

/// What the keys of replayed dead letters begin with.
pub const REPLAYED_PREFIX: &str = "r/";

/// The key of a replayed dead letter.
pub fn replayed_key(partition: i32, offset: i64) -> String {
    format!("{REPLAYED_PREFIX}{partition}/{offset}")
}

/// The key of a page.
pub fn page_key(seq: Seq, writer: Option<Nonce>) -> String {
    match writer {
        None => format!("p/{seq}"),
        Some(writer) => format!("p/{writer}/{seq}"),
    }
}

/// What a leg's record says to the connector itself, in the header [`Trace::HEADER`]: enough to adopt
/// a record that the journal does not know. Private; its layout may change with the version byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// A hash of the journal topic's name: two journals may share a topic of legs.
    pub journal: [u8; 4],
    /// What is known of the leg or dead row.
    pub seen: Seen,
    /// The unit's generation.
    pub generation: u32,
    /// The row's time on the axis of the windows.
    pub at: UtcMillis,
    /// The unit.
    pub unit: String,
}

impl Trace {
    /// The header's name.
    pub const HEADER: &'static str = "call-legs-trace";
    const LAYOUT: u8 = 1;
    const FIXED: usize = 26;

    /// What stands for a journal in its legs' traces.
    pub fn journal_tag(topic: &str) -> [u8; 4] {
        let digest = Sha256::digest(topic);
        std::array::from_fn(|index| digest[index])
    }

    /// The header's value.
    pub fn to_bytes(&self) -> Vec<u8> {
        Self::bytes_of(self.journal, self.seen, self.generation, self.at, &self.unit)
    }

    /// The header's value for a trace of these parts, in the order of the fields.
    pub fn bytes_of(journal: [u8; 4], seen: Seen, generation: u32, at: UtcMillis, unit: &str) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::FIXED + unit.len());
        Self::append(journal, seen, generation, at, unit, &mut bytes);
        bytes
    }

    /// Appends the same to `bytes`.
    pub fn append(journal: [u8; 4], seen: Seen, generation: u32, at: UtcMillis, unit: &str, bytes: &mut Vec<u8>) {
        bytes.push(Self::LAYOUT);
        bytes.push(seen.fingerprint.map_or(0, Fingerprint::version));
        bytes.extend_from_slice(&seen.fingerprint.map_or(0, Fingerprint::bits).to_be_bytes()[1..]);
        bytes.push(seen.revision);
        bytes.extend_from_slice(&generation.to_be_bytes());
        bytes.extend_from_slice(&at.as_millis().to_be_bytes());
        bytes.extend_from_slice(&journal);
        bytes.extend_from_slice(unit.as_bytes());
    }

    /// From a header's value; `None` when it is none of ours.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (fixed, unit) = bytes.split_at_checked(Self::FIXED)?;
        if fixed[0] != Self::LAYOUT {
            return None;
        }
        let mut bits = [0; 8];
        bits[1..].copy_from_slice(&fixed[2..9]);
        let fingerprint = Fingerprint::of_version(u64::from_be_bytes(bits), fixed[1]);
        Some(Self {
            seen: Seen { fingerprint, revision: fixed[9] },
            generation: u32::from_be_bytes(fixed[10..14].try_into().ok()?),
            at: UtcMillis::new(i64::from_be_bytes(fixed[14..22].try_into().ok()?)),
            journal: fixed[22..26].try_into().ok()?,
            unit: std::str::from_utf8(unit).ok()?.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seen(bits: u64, revision: u8) -> Seen {
        Seen { fingerprint: Some(Fingerprint::from_bits(bits)), revision }
    }

    fn fingerprints() -> impl Strategy<Value = Fingerprint> {
        let version = prop::sample::select(vec![Fingerprint::VERSION, Fingerprint::KEYED_VERSION]);
        (1u64..1 << 56, version).prop_map(|(bits, version)| Fingerprint::of_version(bits, version).unwrap())
    }

    proptest! {
        #[test]
        fn an_entry_comes_back_from_its_bytes(key: [u8; 16], fingerprint in fingerprints(), revision: u8) {
            let entry = Entry { key: KeyHash(key), seen: Seen { fingerprint: Some(fingerprint), revision } };
            prop_assert_eq!(Entry::from_bytes(&entry.to_bytes(), fingerprint.version()), entry);
        }

        #[test]
        fn a_trace_comes_back_from_its_bytes(fingerprint in prop::option::of(fingerprints()), revision: u8, generation: u32, at: i64, journal: [u8; 4], unit in ".*") {
            let seen = Seen { fingerprint, revision };
            let trace = Trace { journal, seen, generation, at: UtcMillis::new(at), unit };
            prop_assert_eq!(Trace::from_bytes(&trace.to_bytes()), Some(trace));
        }

        #[test]
        fn any_bytes_are_a_trace_or_none(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = Trace::from_bytes(&bytes);
        }
    }

    #[test]
    fn fingerprints_of_another_version_are_not_read() {
        let entry = Entry { key: KeyHash([1; 16]), seen: seen(7, 2) };
        let read = Entry::from_bytes(&entry.to_bytes(), Fingerprint::VERSION + 1);
        assert_eq!(read.seen, Seen { fingerprint: None, revision: 2 });
    }

    #[test]
    fn a_sweep_is_also_the_shorter_ones_and_a_clock_set_back_counts() {
        let swept = |hours: u64, at: i64| Swept { lookback: Duration::from_secs(hours * 3600), at: UtcMillis::new(at) };
        let at = UtcMillis::default();
        let progress = Progress { complete_to: at, final_to: at, floor: at, coverage: Default::default() };
        let mut unit = UnitProgress::new("a", progress, 0);
        unit.note_swept(swept(6, 100));
        unit.note_swept(swept(24, 200));
        assert_eq!(unit.sweeps, [swept(6, 200), swept(24, 200)]);
        unit.note_swept(swept(6, 300));
        assert_eq!(unit.sweeps, [swept(6, 300), swept(24, 200)]);
        assert_eq!(unit.last_swept(Duration::from_secs(3600)), Some(UtcMillis::new(300)));
        unit.note_swept(swept(24, 50));
        assert_eq!(unit.sweeps, [swept(6, 50), swept(24, 50)], "the clock was ahead when it was noted");
    }

    #[test]
    fn keys_are_as_documented() {
        let writer = Nonce::parse("000102030405060708090a0b0c0d0e0f").unwrap();
        assert_eq!(page_key(7, None), "p/7");
        assert_eq!(page_key(7, Some(writer)), "p/000102030405060708090a0b0c0d0e0f/7");
        assert_eq!(Record::DayForgotten("a/b".to_owned(), Day(0)).key(), "h/a/b/1970-01-01");
        assert_eq!(replayed_key(2, 70_000), "r/2/70000");
        assert_eq!(Nonce::parse("short"), None);
    }
}
