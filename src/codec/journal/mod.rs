//! The journal's records as Kafka keeps them: a key in text, a value in Avro's single-object encoding.
//!
//! ```text
//!   key          value
//!   g            Genesis              schemas/journal-genesis.avsc
//!   c            Claim                schemas/journal-claim.avsc
//!   p/…          Page, or none        schemas/journal-page.avsc       none: forgotten
//!   s/<unit>     Progress             schemas/journal-progress.avsc
//!   b/<id>       Backfill, or none    schemas/journal-backfill.avsc   none: of no interest any more
//!   h/<unit>/<day>  Day, or none  schemas/journal-hours.avsc     none: below the floor
//!   r/<p>/<o>    Replayed             schemas/journal-replayed.avsc
//!   x/<nonce>    anything             of the self-test
//!   x/           none                 opens the partition for what follows in its transaction
//! ```
//!
//! The value's header names its schema, and the key has to be the one that its content asks for.
//! There is no schema evolution here: the journal is this program's own, and a schema that it does
//! not know is refused. A version that changes one of these schemas has to keep a way of reading
//! the old one, in `read`. What the records add up to is `core::ledger`'s matter.

mod json;
mod read;
#[cfg(test)]
mod tests;
mod write;

use apache_avro::writer::datum::GenericDatumWriter;
use serde::Serialize;
use thiserror::Error;

pub use json::to_json;

use super::framing::{Framed, Framing, FramingError};
use super::schema::{self, PublishedSchema};
use crate::core::hours::Day;
use crate::core::journal::{Nonce, REPLAYED_PREFIX, Record, page_key, replayed_key};

/// How much of a foreign key an error shows, in characters.
const KEY_SHOWN_MAX: usize = 80;

/// Encodes and decodes the journal. Build it once: it resolves the schemas.
pub struct JournalCodec {
    genesis: Kind,
    claim: Kind,
    page: Kind,
    progress: Kind,
    backfill: Kind,
    hours: Kind,
    replayed: Kind,
}

/// One kind of record.
struct Kind {
    writer: GenericDatumWriter<'static>,
    fingerprint: u64,
}

impl Kind {
    fn new(schema: &'static PublishedSchema) -> Self {
        Self { writer: schema.writer(), fingerprint: schema.crc64_avro() }
    }

    fn encode(&self, record: &impl Serialize, room: usize) -> Vec<u8> {
        let mut payload = Vec::with_capacity(room);
        Framing::SingleObject { fingerprint: self.fingerprint }.write_header(&mut payload);
        // Every value of the types fits the schemas, which a property test holds.
        self.writer.write_ser(&mut payload, record).expect("a journal's record fits its schema");
        payload
    }
}

impl JournalCodec {
    /// A codec, to be kept and shared.
    pub fn new() -> Self {
        Self {
            genesis: Kind::new(schema::journal_genesis()),
            claim: Kind::new(schema::journal_claim()),
            page: Kind::new(schema::journal_page()),
            progress: Kind::new(schema::journal_progress()),
            backfill: Kind::new(schema::journal_backfill()),
            hours: Kind::new(schema::journal_hours()),
            replayed: Kind::new(schema::journal_replayed()),
        }
    }

    /// The record's key and its value; without a value it is a tombstone.
    pub fn encode(&self, record: &Record) -> (Vec<u8>, Option<Vec<u8>>) {
        /// Room for all of a page but its entries and its unit, and for most other records.
        const ROOM: usize = 160;
        let payload = match record {
            Record::Genesis(genesis) => Some(self.genesis.encode(&write::GenesisRecord(genesis), ROOM)),
            Record::Claim(claim) => Some(self.claim.encode(&write::ClaimRecord(claim), ROOM)),
            Record::Page(page) => {
                let record = write::PageRecord::new(page);
                Some(self.page.encode(&record, ROOM + page.unit.len() + record.entry_bytes()))
            }
            Record::Progress(progress) => Some(self.progress.encode(&write::ProgressRecord(progress), ROOM)),
            Record::Backfill(backfill) => Some(self.backfill.encode(&write::BackfillRecord(backfill), ROOM)),
            Record::Day(day) => Some(self.hours.encode(&write::DayRecord(day), ROOM)),
            Record::Replayed(replayed) => Some(self.replayed.encode(&write::ReplayedRecord(replayed), ROOM)),
            Record::BackfillForgotten(_) | Record::DayForgotten(..) | Record::Nothing => None,
        };
        (record.key().into_bytes(), payload)
    }

    /// The record of a key and its value.
    ///
    /// # Errors
    /// When it is none of this program's records: of an unknown kind or schema, damaged, or under
    /// another key than its content's. Any bytes may be given; nothing is allocated for lengths
    /// that they only announce.
    pub fn decode(&self, key: &[u8], payload: Option<&[u8]>) -> Result<Record, JournalDecodeError> {
        let key = std::str::from_utf8(key).map_err(|_| JournalDecodeError::UnknownKey { key: shown(key) })?;
        if key.starts_with("x/") {
            return Ok(Record::Nothing);
        }
        let is_backfill = key.strip_prefix("b/").is_some_and(|id| Nonce::parse(id).is_some());
        let hours = key.strip_prefix("h/").and_then(|rest| rest.rsplit_once('/'));
        let hours = hours.and_then(|(unit, day)| Some((unit, Day::parse(day)?)));
        let is_known = is_page_key(key) || is_replayed_key(key) || is_backfill || hours.is_some();
        if !(key == "g" || key == "c" || key.starts_with("s/") || is_known) {
            return Err(JournalDecodeError::UnknownKey { key: shown(key.as_bytes()) });
        }
        let Some(payload) = payload else {
            return match key.split_once('/') {
                Some(("h", _)) => {
                    Ok(hours.map_or(Record::Nothing, |(unit, day)| Record::DayForgotten(unit.to_owned(), day)))
                }
                Some(("b", id)) => Ok(Nonce::parse(id).map_or(Record::Nothing, Record::BackfillForgotten)),
                Some(("r" | "s", _)) => Err(JournalDecodeError::NoValue { key: key.to_owned() }),
                Some(_) => Ok(Record::Nothing),
                None => Err(JournalDecodeError::NoValue { key: key.to_owned() }),
            };
        };
        let record = self.decode_payload(payload)?;
        if record.key() == key {
            Ok(record)
        } else {
            Err(JournalDecodeError::WrongKey { key: shown(key.as_bytes()), expected: shown(record.key().as_bytes()) })
        }
    }

    fn decode_payload(&self, payload: &[u8]) -> Result<Record, JournalDecodeError> {
        let Framed { framing, datum } = Framed::parse(payload)?;
        let Framing::SingleObject { fingerprint } = framing else {
            return Err(JournalDecodeError::Foreign);
        };
        let (kind, record) = match fingerprint {
            _ if fingerprint == self.page.fingerprint => ("page", read::page(datum)),
            _ if fingerprint == self.progress.fingerprint => ("progress", read::progress(datum)),
            _ if fingerprint == self.backfill.fingerprint => ("backfill", read::backfill(datum)),
            _ if fingerprint == self.hours.fingerprint => ("day", read::day(datum)),
            _ if fingerprint == self.replayed.fingerprint => ("replayed", read::replayed(datum)),
            _ if fingerprint == self.claim.fingerprint => ("claim", read::claim(datum)),
            _ if fingerprint == self.genesis.fingerprint => ("genesis", read::genesis(datum)),
            _ => return Err(JournalDecodeError::UnknownFingerprint { found: fingerprint }),
        };
        record.map_err(|error| JournalDecodeError::Datum { kind, reason: error.to_string() })
    }
}

impl Default for JournalCodec {
    fn default() -> Self {
        Self::new()
    }
}

fn is_page_key(key: &str) -> bool {
    let Some(rest) = key.strip_prefix("p/") else { return false };
    let (writer, seq) = match rest.split_once('/') {
        Some((writer, seq)) => (Some(writer), seq),
        None => (None, rest),
    };
    let Ok(seq) = seq.parse() else { return false };
    // The key is rebuilt, since parsing also takes other spellings of the same numbers.
    writer.is_none_or(|writer| Nonce::parse(writer).is_some()) && page_key(seq, writer.and_then(Nonce::parse)) == key
}

fn is_replayed_key(key: &str) -> bool {
    let place = key.strip_prefix(REPLAYED_PREFIX).and_then(|place| place.split_once('/'));
    let Some((partition, offset)) =
        place.and_then(|(partition, offset)| partition.parse().ok().zip(offset.parse().ok()))
    else {
        return false;
    };
    replayed_key(partition, offset) == key
}

fn shown(key: &[u8]) -> String {
    String::from_utf8_lossy(key).chars().take(KEY_SHOWN_MAX).collect()
}

/// A record of the journal topic that this program cannot read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum JournalDecodeError {
    /// The key is of no kind that this version writes.
    #[error(
        "the journal's key {key:?} is of an unknown kind: it was written by another version of call-legs, or by something else"
    )]
    UnknownKey {
        /// The key's beginning.
        key: String,
    },
    /// A tombstone where there can be none.
    #[error("the journal's record {key:?} has no value")]
    NoValue {
        /// The key.
        key: String,
    },
    /// The value has no header of a known framing.
    #[error("a record of the journal cannot be read")]
    Framing(#[from] FramingError),
    /// The value is in Confluent's wire format.
    #[error("a record of the journal is in Confluent's wire format: it was written by something else than call-legs")]
    Foreign,
    /// The value's schema is none of this version's.
    #[error("the journal's schema of fingerprint {found:016x} is unknown: written by another version of call-legs")]
    UnknownFingerprint {
        /// The CRC-64-AVRO fingerprint in the value.
        found: u64,
    },
    /// The bytes are no value of the schema.
    #[error("a {kind} of the journal is damaged: {reason}")]
    Datum {
        /// The kind of record.
        kind: &'static str,
        /// What does not fit, without any value.
        reason: String,
    },
    /// The content belongs under another key.
    #[error("the journal's record {key:?} has the content of {expected:?}")]
    WrongKey {
        /// The record's key, its beginning.
        key: String,
        /// The content's key, its beginning.
        expected: String,
    },
}
