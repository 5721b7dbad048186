//! The journal's records as JSON, for a human's eyes: `tail --journal`.
//!
//! Fields are named as in the schemas; hashes are hexadecimal, instants RFC 3339, and of a page's
//! entries only their number is shown. Nothing reads this back.

use serde_json::{Map, Value as Json, json};

use crate::codec::values::{COUNT_NAMES, counts_in_order, millis, role};
use crate::core::dedupe::Counts;
use crate::core::hours::Compared;
use crate::core::journal::{Nonce, OutOffsets, Record};

/// The record as an object whose first member, `record`, names its kind.
#[expect(clippy::too_many_lines, reason = "one arm a record, each of which is a table of its fields")]
pub fn to_json(record: &Record) -> Json {
    match record {
        Record::Genesis(genesis) => json!({
            "record": "genesis",
            "journal": genesis.journal.to_string(),
            "cluster": genesis.cluster,
            "fingerprintVersion": genesis.fingerprint_version,
            "at": genesis.at.to_string(),
            "outOffsets": out_offsets(&genesis.out_offsets),
            "version": genesis.version,
        }),
        Record::Claim(claim) => json!({
            "record": "claim",
            "nonce": claim.nonce.to_string(),
            "process": claim.process.to_string(),
            "instance": claim.instance.to_string(),
            "host": claim.host,
            "admin": claim.admin,
            "version": claim.version,
            "delivery": claim.delivery.as_str(),
            "beatMs": claim.beat_ms,
            "released": claim.is_released,
            "at": claim.at.to_string(),
        }),
        Record::Page(page) => json!({
            "record": "page",
            "seq": page.seq,
            "writer": page.writer.map(|writer| writer.to_string()),
            "unit": page.unit,
            "generation": page.generation,
            "first": page.first.to_string(),
            "last": page.last.to_string(),
            "fingerprintVersion": page.fingerprint_version,
            "entries": page.legs.len(),
            "dead": page.dead.len(),
            "hours": page.hours.0.iter().map(|(hour, rows)| {
                json!({"hour": hour.to_string(), "published": rows.published, "dead": rows.dead})
            }).collect::<Vec<_>>(),
            "chainBefore": Nonce(page.chain_before.0).to_string(),
        }),
        Record::Progress(unit) => json!({
            "record": "progress",
            "unit": unit.unit,
            "generation": unit.generation,
            "completeTo": unit.progress.complete_to.to_string(),
            "finalTo": unit.progress.final_to.to_string(),
            "floor": unit.progress.floor.to_string(),
            "coverage": unit.progress.coverage.windows().iter().map(|window| {
                json!({"start": window.start.to_string(), "end": window.end.to_string()})
            }).collect::<Vec<_>>(),
            "source": format!("{:016x}", unit.source),
            "lastSeq": unit.last_seq,
            "chain": Nonce(unit.chain.0).to_string(),
            "oldestNeededSeq": unit.oldest_needed_seq,
            "outOffsets": out_offsets(&unit.out_offsets),
            "counts": counts(&unit.counts),
            "lateness": {
                "samples": unit.lateness.samples(),
                "byOverlap": unit.lateness.by_overlap,
                "bySweep": unit.lateness.by_sweep,
                "unmeasured": unit.lateness.unmeasured,
                "closestMs": unit.lateness.closest.map(millis),
            },
            "sweeps": unit.sweeps.iter().map(|swept| {
                json!({"lookbackMs": millis(swept.lookback), "at": swept.at.to_string()})
            }).collect::<Vec<_>>(),
            "change": unit.change.as_ref().map(|change| {
                json!({"what": change.what.as_str(), "at": change.at.to_string()})
            }),
        }),
        Record::Backfill(backfill) => json!({
            "record": "backfill",
            "id": backfill.id.to_string(),
            "unit": backfill.unit,
            "start": backfill.window.start.to_string(),
            "end": backfill.window.end.to_string(),
            "state": backfill.state.as_str(),
            "at": backfill.at.to_string(),
            "counts": counts(&backfill.counts),
        }),
        Record::BackfillForgotten(id) => json!({"record": "backfill-forgotten", "id": id.to_string()}),
        Record::Day(day) => json!({
            "record": "hours",
            "unit": day.unit,
            "generation": day.generation,
            "day": day.day.to_string(),
            "hours": day.hours.iter().map(|(hour, Compared { seen, rows })| {
                json!({"hour": hour, "seen": seen, "published": rows.published, "dead": rows.dead})
            }).collect::<Vec<_>>(),
        }),
        Record::DayForgotten(unit, day) => {
            json!({"record": "hours-forgotten", "unit": unit, "day": day.to_string()})
        }
        Record::Replayed(replayed) => json!({
            "record": "replayed",
            "partition": replayed.partition,
            "offset": replayed.offset,
            "row": Nonce(replayed.row.0).to_string(),
            "fingerprintVersion": replayed.fingerprint_version,
            "entry": replayed.entry.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
            "unit": replayed.unit,
            "outcome": replayed.outcome.as_str(),
            "at": replayed.at.to_string(),
        }),
        Record::Nothing => json!({"record": "nothing"}),
    }
}

fn out_offsets(offsets: &OutOffsets) -> Vec<Json> {
    offsets
        .0
        .iter()
        .map(|(&(topic, partition), end)| json!({"topic": role(topic), "partition": partition, "offset": end}))
        .collect()
}

fn counts(counts: &Counts) -> Json {
    let named = COUNT_NAMES.iter().zip(counts_in_order(counts));
    Json::Object(named.map(|(name, count)| ((*name).to_owned(), json!(count))).collect::<Map<_, _>>())
}
