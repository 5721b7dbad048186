//! The journal's records from their data: fields in the order of their schemas.
//!
//! Data that only a bug or damage can have written are refused: coverage out of order, counts that
//! do not add up, a partition listed twice. Keys and headers are the parent's matter.

use std::collections::BTreeMap;
use std::time::Duration;

use thiserror::Error;

use crate::codec::datum::{DatumError, DatumReader};
use crate::codec::values::role;
use crate::core::coverage::Coverage;
use crate::core::dedupe::Counts;
use crate::core::hours::{Compared, ComparedDay, Day, Hour, HourRows, PageHours};
use crate::core::identity::KeyHash;
use crate::core::journal::{
    Backfill, BackfillState, Chain, Change, ChangeKind, Claim, Delivery, Entry, Genesis, Nonce, OutOffsets, OutTopic,
    Page, Record, ReplayOutcome, Replayed, Swept, UnitProgress,
};
use crate::core::lateness::{BUCKETS, Lateness};
use crate::core::time::{UtcMillis, Window};
use crate::core::watermark::Progress;

/// Why a datum is no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum ReadError {
    #[error(transparent)]
    Datum(#[from] DatumError),
    #[error("its {field} is a word that this version does not know")]
    Word { field: &'static str },
    #[error("its coverage is not in ascending order")]
    Coverage,
    #[error("a partition is listed twice")]
    Partition,
    #[error("its counts do not add up")]
    Counts,
    #[error("its measures of lateness cannot be")]
    Lateness,
    #[error("its sweeps are not in ascending order")]
    Sweeps,
    #[error("its hours are not in ascending order, or not those of a day")]
    Hours,
}

pub(super) fn genesis(datum: &[u8]) -> Result<Record, ReadError> {
    let mut reader = DatumReader::new(datum);
    let genesis = Genesis {
        journal: nonce(&mut reader)?,
        cluster: text(&mut reader)?,
        fingerprint_version: reader.number()?,
        at: instant(&mut reader)?,
        out_offsets: out_offsets(&mut reader)?,
        version: text(&mut reader)?,
    };
    reader.end()?;
    Ok(Record::Genesis(genesis))
}

pub(super) fn claim(datum: &[u8]) -> Result<Record, ReadError> {
    let mut reader = DatumReader::new(datum);
    let claim = Claim {
        nonce: nonce(&mut reader)?,
        process: nonce(&mut reader)?,
        instance: nonce(&mut reader)?,
        host: text(&mut reader)?,
        admin: text(&mut reader)?,
        version: text(&mut reader)?,
        delivery: word(&mut reader, "delivery", [Delivery::ExactlyOnce, Delivery::AtLeastOnce], Delivery::as_str)?,
        beat_ms: reader.number()?,
        is_released: reader.boolean()?,
        at: instant(&mut reader)?,
    };
    reader.end()?;
    Ok(Record::Claim(claim))
}

pub(super) fn page(datum: &[u8]) -> Result<Record, ReadError> {
    let mut reader = DatumReader::new(datum);
    let seq = reader.number()?;
    let writer = reader.nullable(nonce)?;
    let unit = text(&mut reader)?;
    let generation = reader.number()?;
    let first = instant(&mut reader)?;
    let last = instant(&mut reader)?;
    let fingerprint_version = reader.number()?;
    let entries = reader.pieces()?;
    let dead = reader.pieces()?;
    let hours = page_hours(&mut reader)?;
    let chain_before = Chain(reader.array()?);
    reader.end()?;
    Ok(Record::Page(Page {
        seq,
        writer,
        unit,
        generation,
        first,
        last,
        fingerprint_version,
        legs: entries.iter().map(|bytes| Entry::from_bytes(bytes, fingerprint_version)).collect(),
        dead: dead.iter().copied().map(KeyHash).collect(),
        hours,
        chain_before,
    }))
}

pub(super) fn progress(datum: &[u8]) -> Result<Record, ReadError> {
    let mut reader = DatumReader::new(datum);
    let progress = UnitProgress {
        unit: text(&mut reader)?,
        generation: reader.number()?,
        progress: Progress {
            complete_to: instant(&mut reader)?,
            final_to: instant(&mut reader)?,
            floor: instant(&mut reader)?,
            coverage: coverage(&mut reader)?,
        },
        source: u64::from_be_bytes(reader.array()?),
        last_seq: reader.number()?,
        chain: Chain(reader.array()?),
        oldest_needed_seq: reader.number()?,
        out_offsets: out_offsets(&mut reader)?,
        counts: counts(&mut reader)?,
        lateness: lateness(&mut reader)?,
        sweeps: sweeps(&mut reader)?,
        change: reader.nullable(change)?,
    };
    reader.end()?;
    Ok(Record::Progress(progress))
}

pub(super) fn backfill(datum: &[u8]) -> Result<Record, ReadError> {
    let mut reader = DatumReader::new(datum);
    let states = [BackfillState::Running, BackfillState::Done, BackfillState::Cancelled];
    let backfill = Backfill {
        id: nonce(&mut reader)?,
        unit: text(&mut reader)?,
        window: Window::new(instant(&mut reader)?, instant(&mut reader)?),
        state: word(&mut reader, "state", states, BackfillState::as_str)?,
        at: instant(&mut reader)?,
        counts: counts(&mut reader)?,
    };
    reader.end()?;
    Ok(Record::Backfill(backfill))
}

pub(super) fn day(datum: &[u8]) -> Result<Record, ReadError> {
    let mut reader = DatumReader::new(datum);
    let day = ComparedDay {
        unit: text(&mut reader)?,
        generation: reader.number()?,
        day: Day(reader.number()?),
        hours: hours(&mut reader)?,
    };
    reader.end()?;
    Ok(Record::Day(day))
}

fn hours(reader: &mut DatumReader<'_>) -> Result<BTreeMap<u8, Compared>, ReadError> {
    let mut hours: BTreeMap<u8, Compared> = BTreeMap::new();
    reader.items(|item| {
        let hour: u8 = item.number()?;
        let compared = Compared { seen: item.number()?, rows: hour_rows(item)? };
        let follows = hours.last_key_value().is_none_or(|(before, _)| *before < hour);
        if !follows || hour > 23 {
            return Err(ReadError::Hours);
        }
        hours.insert(hour, compared);
        Ok(())
    })?;
    Ok(hours)
}

fn page_hours(reader: &mut DatumReader<'_>) -> Result<PageHours, ReadError> {
    let mut hours = PageHours::default();
    reader.items(|item| {
        let hour = Hour::new(item.long()?);
        let rows = hour_rows(item)?;
        if hours.0.last_key_value().is_some_and(|(before, _)| hour <= *before) {
            return Err(ReadError::Hours);
        }
        hours.0.insert(hour, rows);
        Ok(())
    })?;
    Ok(hours)
}

fn hour_rows(reader: &mut DatumReader<'_>) -> Result<HourRows, ReadError> {
    Ok(HourRows { published: reader.number()?, dead: reader.number()? })
}

pub(super) fn replayed(datum: &[u8]) -> Result<Record, ReadError> {
    let mut reader = DatumReader::new(datum);
    let partition = reader.number()?;
    let offset = reader.long()?;
    let row = KeyHash(reader.array()?);
    let fingerprint_version = reader.number()?;
    let entry = Entry::from_bytes(&reader.array()?, fingerprint_version);
    let unit = text(&mut reader)?;
    let outcomes = [ReplayOutcome::Published, ReplayOutcome::Known];
    let outcome = word(&mut reader, "outcome", outcomes, ReplayOutcome::as_str)?;
    let at = instant(&mut reader)?;
    reader.end()?;
    Ok(Record::Replayed(Replayed { partition, offset, row, fingerprint_version, entry, unit, outcome, at }))
}

fn text(reader: &mut DatumReader<'_>) -> Result<String, ReadError> {
    Ok(reader.text()?.to_owned())
}

fn nonce(reader: &mut DatumReader<'_>) -> Result<Nonce, ReadError> {
    Ok(Nonce(reader.array()?))
}

fn instant(reader: &mut DatumReader<'_>) -> Result<UtcMillis, ReadError> {
    Ok(UtcMillis::new(reader.long()?))
}

/// A text that names one of `values`.
fn word<T: Copy, const N: usize>(
    reader: &mut DatumReader<'_>,
    field: &'static str,
    values: [T; N],
    name: impl Fn(T) -> &'static str,
) -> Result<T, ReadError> {
    let found = reader.text()?;
    values.into_iter().find(|value| name(*value) == found).ok_or(ReadError::Word { field })
}

fn out_offsets(reader: &mut DatumReader<'_>) -> Result<OutOffsets, ReadError> {
    let mut ends = OutOffsets::default();
    reader.items(|item| {
        let topic = word(item, "topic", [OutTopic::Legs, OutTopic::DeadLetters], role)?;
        let partition = item.number()?;
        match ends.0.insert((topic, partition), item.long()?) {
            None => Ok(()),
            Some(_) => Err(ReadError::Partition),
        }
    })?;
    Ok(ends)
}

fn coverage(reader: &mut DatumReader<'_>) -> Result<Coverage, ReadError> {
    let mut coverage = Coverage::default();
    reader.items(|item| {
        let window = Window::new(instant(item)?, instant(item)?);
        // In order, each is added at the end, so that also a damaged datum costs little time.
        let follows = coverage.windows().last().is_none_or(|before| before.end < window.start);
        if window.is_empty() || !follows {
            return Err(ReadError::Coverage);
        }
        coverage.add(window);
        Ok(())
    })?;
    Ok(coverage)
}

fn counts(reader: &mut DatumReader<'_>) -> Result<Counts, ReadError> {
    let fetched: u64 = reader.number()?;
    let counts = Counts {
        published: reader.number()?,
        duplicate: reader.number()?,
        revised: reader.number()?,
        late: reader.number()?,
        dead: reader.number()?,
        unfinished: reader.number()?,
        beyond_horizon: reader.number()?,
        outside: reader.number()?,
        held: reader.number()?,
    };
    let sum = counts.named().iter().try_fold(0_u64, |sum, (_, count)| sum.checked_add(*count));
    if sum == Some(fetched) { Ok(counts) } else { Err(ReadError::Counts) }
}

fn lateness(reader: &mut DatumReader<'_>) -> Result<Lateness, ReadError> {
    let mut buckets: Vec<u64> = Vec::new();
    reader.items(|item| {
        if buckets.len() == BUCKETS {
            return Err(ReadError::Lateness);
        }
        buckets.push(item.number()?);
        Ok(())
    })?;
    let is_sum_known = buckets.iter().try_fold(0_u64, |sum, count| sum.checked_add(*count)).is_some();
    if buckets.last() == Some(&0) || !is_sum_known {
        return Err(ReadError::Lateness);
    }
    Ok(Lateness {
        buckets,
        by_overlap: reader.number()?,
        by_sweep: reader.number()?,
        unmeasured: reader.number()?,
        closest: reader.nullable(duration)?,
    })
}

fn sweeps(reader: &mut DatumReader<'_>) -> Result<Vec<Swept>, ReadError> {
    let mut sweeps: Vec<Swept> = Vec::new();
    reader.items(|item| {
        let swept = Swept { lookback: duration(item)?, at: instant(item)? };
        if sweeps.last().is_some_and(|before| swept.lookback <= before.lookback) {
            return Err(ReadError::Sweeps);
        }
        sweeps.push(swept);
        Ok(())
    })?;
    Ok(sweeps)
}

fn duration(reader: &mut DatumReader<'_>) -> Result<Duration, ReadError> {
    Ok(Duration::from_millis(reader.number()?))
}

fn change(reader: &mut DatumReader<'_>) -> Result<Change, ReadError> {
    let kinds = [ChangeKind::Started, ChangeKind::Rewound, ChangeKind::Accepted, ChangeKind::Adopted];
    Ok(Change { what: word(reader, "change", kinds, ChangeKind::as_str)?, at: instant(reader)? })
}
