//! What the journal's records and the public status have in common, as Avro writes it.
//!
//! Records are serialised by position, as in [`super::encode`]: fields in the schema's order.

use std::time::Duration;

use serde::ser::{Serialize, SerializeSeq, Serializer};

use crate::core::dedupe::Counts;
use crate::core::journal::{OutOffsets, OutTopic};

/// The names of counts in the schemas, in their order.
pub(super) const COUNT_NAMES: [&str; 10] =
    ["fetched", "published", "duplicate", "revised", "late", "dead", "unfinished", "beyondHorizon", "outside", "held"];

/// The counts in the order of [`COUNT_NAMES`].
pub(super) fn counts_in_order(counts: &Counts) -> [u64; COUNT_NAMES.len()] {
    let &Counts { published, duplicate, revised, dead, unfinished, beyond_horizon, outside, held, late } = counts;
    [counts.fetched(), published, duplicate, revised, late, dead, unfinished, beyond_horizon, outside, held]
}

/// The topic's role in the journal and in the status.
pub(super) const fn role(topic: OutTopic) -> &'static str {
    match topic {
        OutTopic::Legs => "legs",
        OutTopic::DeadLetters => "dead-letters",
    }
}

/// A number as Avro's `long`. No count comes near the largest.
pub(super) fn long(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A duration as Avro's `long`, in milliseconds.
pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// `bytes`; serde takes a slice for a list otherwise.
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

impl Serialize for Bytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

/// The record `Counts`.
pub(super) struct CountsRecord<'a>(pub(super) &'a Counts);

impl Serialize for CountsRecord<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        counts_in_order(self.0).map(long).serialize(serializer)
    }
}

/// The array of records `OutOffset`.
pub(super) struct OffsetsArray<'a>(pub(super) &'a OutOffsets);

impl Serialize for OffsetsArray<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let ends = &self.0.0;
        let mut array = serializer.serialize_seq(Some(ends.len()))?;
        for (&(topic, partition), end) in ends {
            array.serialize_element(&(role(topic), partition, end))?;
        }
        array.end()
    }
}

/// Writes a record's fields by position: `record!(serializer, a, b, c)`.
macro_rules! record {
    ($serializer:expr, $($field:expr),+ $(,)?) => {{
        let mut record = $serializer.serialize_tuple([$(stringify!($field)),+].len())?;
        $(record.serialize_element($field)?;)+
        record.end()
    }};
}
pub(super) use record;
