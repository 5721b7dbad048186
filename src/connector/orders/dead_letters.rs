//! Dead letters as they lie in their topic, and what the journal says of those that were replayed.
//!
//! What can be told of a letter is told without its row: nothing here gives out a text that a row could have brought.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, Utc};

use crate::codec::JournalCodec;
use crate::connector::fault::{ConnectorError, Fault, JournalFault};
use crate::connector::rows::dead_row::PRIVACY_HEADER;
use crate::connector::write::follower::{decode, stretch};
use crate::core::dead_letter::Reason;
use crate::core::identity::KeyHash;

use crate::core::journal::{REPLAYED_PREFIX, Record, ReplayOutcome, Replayed, Trace};
use crate::core::privacy::PolicyId;
use crate::core::time::{UtcMillis, Window};
use crate::sink::{Cluster, Destination, Ends, Place, Reader, StoredRecord, Stretch};

/// A dead letter, but for its row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Where it lies.
    pub place: Place,
    /// When it was written: its row was read then.
    pub at: UtcMillis,
    /// The unit that its row was read for; `None` for a letter that is not of this journal's connector.
    pub unit: Option<String>,
    /// The hash of its row; zeros where a foreign letter has none.
    pub row: KeyHash,
    /// Why its row could not be a leg; `None` for a reason that this version does not know.
    pub reason: Option<Reason>,
    /// The window that was read.
    pub window: Option<Window>,
    /// How long its row is, in bytes.
    pub bytes: u64,
    /// Whether it holds no more than a part of it.
    pub is_truncated: bool,
    /// The privacy policy by which its row was treated; `None` where it holds the row as it came.
    pub policy: Option<PolicyId>,
}

impl DeadLetter {
    /// What a record of the dead letters' topic says; `tag` is the journal's own.
    pub(crate) fn of(record: &StoredRecord, tag: [u8; 4]) -> Self {
        let trace = record.header(Trace::HEADER).and_then(Trace::from_bytes).filter(|trace| trace.journal == tag);
        let text = |name: &str| record.header(name).and_then(|value| std::str::from_utf8(value).ok());
        let row = record.header(KeyHash::HEADER).and_then(|key| key.try_into().ok()).map(KeyHash);
        let held = record.payload.as_ref().map_or(0, Vec::len) as u64;
        let bytes = text("call-legs-row-bytes").and_then(|bytes| bytes.parse().ok()).unwrap_or(held);
        Self {
            place: record.place,
            at: record.timestamp,
            unit: trace.filter(|_| row.is_some()).map(|trace| trace.unit),
            row: row.unwrap_or(KeyHash([0; 16])),
            reason: text("call-legs-error-code").and_then(Reason::from_code),
            window: text("call-legs-window").and_then(window),
            bytes,
            is_truncated: held < bytes,
            policy: text(PRIVACY_HEADER).and_then(PolicyId::parse),
        }
    }
}

fn window(text: &str) -> Option<Window> {
    let instant = |text| Some(UtcMillis::from(DateTime::parse_from_rfc3339(text).ok()?.with_timezone(&Utc)));
    let (start, end) = text.split_once('/')?;
    Some(Window::new(instant(start)?, instant(end)?))
}

/// The dead letters that were replayed, as the journal has them.
#[derive(Debug, Default)]
pub(crate) struct ReplayedLetters {
    by_place: HashMap<(i32, i64), (KeyHash, ReplayOutcome)>,
    legs: BTreeSet<KeyHash>,
}

impl ReplayedLetters {
    pub(crate) fn take(&mut self, replayed: &Replayed) {
        self.by_place.insert((replayed.partition, replayed.offset), (replayed.row, replayed.outcome));
        self.legs.insert(replayed.entry.key);
    }

    /// What became of the letter of `row` at `place`; of another one there it is not known.
    pub(crate) fn outcome(&self, place: Place, row: KeyHash) -> Option<ReplayOutcome> {
        let (known, outcome) = self.by_place.get(&(place.partition, place.offset))?;
        (*known == row).then_some(*outcome)
    }

    /// Whether a letter of this leg was replayed.
    pub(crate) fn has_leg(&self, key: KeyHash) -> bool {
        self.legs.contains(&key)
    }

    /// Reads what the journal says of them in `[from, until)`.
    pub(crate) async fn read<C: Cluster>(
        &mut self,
        cluster: &C,
        codec: &JournalCodec,
        from: i64,
        until: i64,
    ) -> Result<(), Fault> {
        let mut reader = cluster.read(Destination::Journal, stretch(from, until)).await?;
        while let Some(records) = reader.next().await? {
            for stored in records.iter().filter(|stored| stored.key.starts_with(REPLAYED_PREFIX.as_bytes())) {
                if let Record::Replayed(replayed) = decode(codec, stored)? {
                    self.take(&replayed);
                }
            }
        }
        Ok(())
    }
}

/// All that is committed of a topic now.
pub(crate) fn committed(ends: &[Ends]) -> Vec<Stretch> {
    ends.iter().map(|ends| Stretch { partition: ends.partition, from: ends.low, until: ends.stable }).collect()
}

/// Tells of every dead letter, partition by partition as they are read, and whether it was replayed. Nothing is claimed.
///
/// # Errors
/// When Kafka does not answer, or the journal cannot be read.
pub async fn list_dead_letters<C: Cluster>(
    cluster: &C,
    journal: &str,
    mut tell: impl FnMut(&DeadLetter, bool),
) -> Result<(), ConnectorError> {
    list(cluster, journal, &mut tell).await.map_err(ConnectorError::from)
}

async fn list<C: Cluster>(cluster: &C, journal: &str, tell: &mut impl FnMut(&DeadLetter, bool)) -> Result<(), Fault> {
    let ends = cluster.ends(Destination::Journal).await?.first().copied().ok_or(JournalFault::Gone)?;
    let mut replayed = ReplayedLetters::default();
    replayed.read(cluster, &JournalCodec::new(), ends.low, ends.stable).await?;
    let tag = Trace::journal_tag(journal);
    let ends = cluster.ends(Destination::DeadLetters).await?;
    let mut reader = cluster.read(Destination::DeadLetters, committed(&ends)).await?;
    while let Some(records) = reader.next().await? {
        for record in &records {
            let letter = DeadLetter::of(record, tag);
            let is_replayed = letter.unit.is_some() && replayed.outcome(letter.place, letter.row).is_some();
            tell(&letter, is_replayed);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::dedupe::Seen;
    use crate::core::journal::Entry;

    fn record(headers: &[(&str, &[u8])], payload: &[u8]) -> StoredRecord {
        StoredRecord {
            place: Place { partition: 1, offset: 7 },
            key: Vec::new(),
            payload: Some(payload.to_vec()),
            timestamp: UtcMillis::new(5),
            headers: headers.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect(),
        }
    }

    fn trace(journal: [u8; 4]) -> Vec<u8> {
        let seen = Seen { fingerprint: None, revision: 0 };
        Trace { journal, seen, generation: 0, at: UtcMillis::new(3), unit: "acme".to_owned() }.to_bytes()
    }

    #[test]
    fn a_letter_is_told_of_without_any_text_of_its_headers_but_known_words() {
        let start = UtcMillis::new(1_643_898_420_000);
        let window = Window::new(start, UtcMillis::new(1_643_898_472_253));
        let header = format!("{}/{}", window.start, window.end);
        let headers: [(&str, &[u8]); 5] = [
            (KeyHash::HEADER, &[9; 16]),
            (Trace::HEADER, &trace([1; 4])),
            ("call-legs-error-code", b"leg-id-unusable"),
            ("call-legs-window", header.as_bytes()),
            ("call-legs-row-bytes", b"8"),
        ];
        let letter = DeadLetter::of(&record(&headers, b"[\"row\"]"), [1; 4]);
        let expected = DeadLetter {
            place: Place { partition: 1, offset: 7 },
            at: UtcMillis::new(5),
            unit: Some("acme".to_owned()),
            row: KeyHash([9; 16]),
            reason: Some(Reason::LegId),
            window: Some(window),
            bytes: 8,
            is_truncated: true,
            policy: None,
        };
        assert_eq!(letter, expected);
        assert_eq!(DeadLetter::of(&record(&headers, b"[\"row\"]"), [2; 4]).unit, None, "another journal's");

        let odd: [(&str, &[u8]); 5] = [
            (KeyHash::HEADER, b"short"),
            (Trace::HEADER, &trace([1; 4])),
            ("call-legs-error-code", b"+15551234"),
            ("call-legs-window", b"MARK SMITH/now"),
            ("call-legs-row-bytes", b"many"),
        ];
        let letter = DeadLetter::of(&record(&odd, b"row"), [1; 4]);
        assert_eq!((letter.unit, letter.reason, letter.window), (None, None, None));
        assert_eq!((letter.bytes, letter.is_truncated), (3, false));
    }

    #[test]
    fn another_letter_at_the_place_of_a_replayed_one_is_another_one() {
        let mut letters = ReplayedLetters::default();
        let seen = Seen { fingerprint: None, revision: 0 };
        letters.take(&Replayed {
            partition: 1,
            offset: 7,
            row: KeyHash([9; 16]),
            fingerprint_version: 0,
            entry: Entry { key: KeyHash([8; 16]), seen },
            unit: "acme".to_owned(),
            outcome: ReplayOutcome::Known,
            at: UtcMillis::new(5),
        });
        let place = Place { partition: 1, offset: 7 };
        assert_eq!(letters.outcome(place, KeyHash([9; 16])), Some(ReplayOutcome::Known));
        assert_eq!(letters.outcome(place, KeyHash([8; 16])), None);
        assert_eq!(letters.outcome(Place { partition: 0, offset: 7 }, KeyHash([9; 16])), None);
        assert!(letters.has_leg(KeyHash([8; 16])) && !letters.has_leg(KeyHash([9; 16])));
    }
}
