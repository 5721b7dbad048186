//! The topic's side: every committed record of legs and dead letters, from its beginning to where it ends now.
//!
//! Records are read as any consumer reads them. What counts is what this journal's connector has
//! published, which their trace says; of a leg its identity, a few hashes and its place are kept.

use std::collections::BTreeSet;

use serde_json::Value as Json;
use xxhash_rust::xxh3::xxh3_64;

use super::compare::{Buried, Published, Records, UnitIndex};
use super::content::Parts;
use super::progress::{AuditError, Progress};
use crate::codec::{DecodeError, Decoder};
use crate::core::identity::KeyHash;
use crate::core::journal::Trace;
use crate::core::time::Window;
use crate::sink::{Cluster, Destination, Reader, StoredRecord, Stretch};

/// Which records count.
pub(super) struct Scope<'a> {
    /// What stands for the journal in traces.
    pub(super) journal: [u8; 4],
    /// The units that are compared.
    pub(super) units: &'a [String],
    /// Legs outside are not kept.
    pub(super) kept: Window,
}

impl Scope<'_> {
    fn unit(&self, name: &str) -> Option<UnitIndex> {
        let position = self.units.iter().position(|unit| unit == name)?;
        UnitIndex::try_from(position).ok()
    }
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) records: Records,
    /// Partitions of legs whose beginning is no longer kept.
    pub(super) cut: BTreeSet<i32>,
    /// The same of dead letters.
    pub(super) dead_cut: BTreeSet<i32>,
    /// Records that this journal's connector has not published.
    pub(super) foreign: u64,
}

/// Reads both topics.
///
/// # Errors
/// When Kafka or the schema registry does not answer, or refuses.
pub(super) async fn read<C: Cluster>(
    cluster: &C,
    decoder: &Decoder,
    scope: &Scope<'_>,
    progress: &Progress,
) -> Result<Found, AuditError> {
    let mut found = Found::default();
    for destination in [Destination::Legs, Destination::DeadLetters] {
        let ends = cluster.ends(destination).await?;
        let cut = ends.iter().filter(|ends| ends.low > 0).map(|ends| ends.partition).collect();
        // What is open at the high watermark is waited for: it may be what the journal speaks of.
        let stretches =
            ends.iter().map(|ends| Stretch { partition: ends.partition, from: ends.low, until: ends.high }).collect();
        let mut reader = cluster.read(destination, stretches).await?;
        while let Some(batch) = reader.next().await? {
            progress.add_records(batch.len());
            for record in &batch {
                let Some((key, trace)) = ours(record, scope.journal) else {
                    found.foreign += 1;
                    continue;
                };
                let unit = scope.unit(&trace.unit);
                if destination == Destination::DeadLetters {
                    found.records.dead.push(Buried { key, at: trace.at, generation: trace.generation, unit });
                } else if scope.kept.contains(trace.at) {
                    found.records.legs.push(Published {
                        key,
                        content: parts(record, decoder).await?.map(|(parts, _)| parts.content()),
                        fingerprint: trace.seen.fingerprint,
                        call: xxh3_64(&record.key),
                        at: trace.at,
                        partition: record.place.partition,
                        offset: record.place.offset,
                        generation: trace.generation,
                        revision: trace.seen.revision,
                        unit,
                        is_shown: false,
                    });
                }
            }
        }
        *(if destination == Destination::Legs { &mut found.cut } else { &mut found.dead_cut }) = cut;
    }
    Ok(found)
}

/// The identity and the trace of a record, if this journal's connector has published it.
fn ours(record: &StoredRecord, journal: [u8; 4]) -> Option<(KeyHash, Trace)> {
    let key = KeyHash(record.header(KeyHash::HEADER)?.try_into().ok()?);
    let trace = Trace::from_bytes(record.header(Trace::HEADER)?)?;
    (trace.journal == journal).then_some((key, trace))
}

/// What a record says, and the record; `None` when it cannot be decoded.
async fn parts(record: &StoredRecord, decoder: &Decoder) -> Result<Option<(Parts, Json)>, DecodeError> {
    match decoder.decode(record.payload.as_deref().unwrap_or_default()).await {
        Ok(json) => Ok(Parts::of_record(&json, &record.key).map(|parts| (parts, json))),
        // Without the registry nothing can be said of any record; what is wrong with one is that one's.
        Err(error @ (DecodeError::Registry { .. } | DecodeError::NoRegistry { .. })) => Err(error),
        Err(_) => Ok(None),
    }
}

/// A leg's record looked at once more: its parts, callId and legId; `None` when it is gone or cannot be decoded.
pub(super) async fn look_again<C: Cluster>(
    cluster: &C,
    decoder: &Decoder,
    (partition, offset): (i32, i64),
) -> Result<Option<(Parts, String, String)>, AuditError> {
    let stretch = Stretch { partition, from: offset, until: offset + 1 };
    let mut reader = cluster.read(Destination::Legs, vec![stretch]).await?;
    let mut found = None;
    while let Some(batch) = reader.next().await? {
        for record in &batch {
            found = parts(record, decoder).await?;
        }
    }
    Ok(found.map(|(parts, json)| {
        let text = |name: &str| json.get(name).and_then(Json::as_str).unwrap_or_default().to_owned();
        (parts, text("callId"), text("legId"))
    }))
}
