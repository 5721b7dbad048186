//! The journal's records as serde sees them: by position, in the order of their schemas' fields.
//!
//! The values are `core`'s; headers, keys and schemas are the parent's matter.

use std::collections::BTreeMap;

use serde::ser::{Serialize, SerializeSeq, SerializeTuple, Serializer};

use crate::codec::values::{Bytes, CountsRecord, OffsetsArray, long, millis, record};
use crate::core::coverage::Coverage;
use crate::core::hours::{Compared, ComparedDay, HourRows, PageHours};
use crate::core::journal::{Backfill, Claim, Entry, Genesis, Page, Replayed, Swept, UnitProgress};
use crate::core::lateness::Lateness;

pub(super) struct GenesisRecord<'a>(pub(super) &'a Genesis);

impl Serialize for GenesisRecord<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let genesis = self.0;
        record!(
            serializer,
            &Bytes(&genesis.journal.0),
            &genesis.cluster,
            &i32::from(genesis.fingerprint_version),
            &genesis.at.as_millis(),
            &OffsetsArray(&genesis.out_offsets),
            &genesis.version,
        )
    }
}

pub(super) struct ClaimRecord<'a>(pub(super) &'a Claim);

impl Serialize for ClaimRecord<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let claim = self.0;
        record!(
            serializer,
            &Bytes(&claim.nonce.0),
            &Bytes(&claim.process.0),
            &Bytes(&claim.instance.0),
            &claim.host,
            &claim.admin,
            &claim.version,
            claim.delivery.as_str(),
            &claim.beat_ms,
            &claim.is_released,
            &claim.at.as_millis(),
        )
    }
}

/// A page, its entries put together as bytes.
pub(super) struct PageRecord<'a> {
    page: &'a Page,
    entries: Vec<u8>,
    dead: Vec<u8>,
}

impl<'a> PageRecord<'a> {
    pub(super) fn new(page: &'a Page) -> Self {
        // Piece by piece: byte by byte a page took milliseconds.
        let mut entries = Vec::with_capacity(page.legs.len() * Entry::BYTES);
        page.legs.iter().for_each(|entry| entries.extend_from_slice(&entry.to_bytes()));
        let mut dead = Vec::with_capacity(page.dead.len() * 16);
        page.dead.iter().for_each(|key| dead.extend_from_slice(&key.0));
        Self { page, entries, dead }
    }

    pub(super) fn entry_bytes(&self) -> usize {
        self.entries.len() + self.dead.len()
    }
}

impl Serialize for PageRecord<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let page = self.page;
        record!(
            serializer,
            &long(page.seq),
            &page.writer.as_ref().map(|writer| Bytes(&writer.0)),
            &page.unit,
            &page.generation,
            &page.first.as_millis(),
            &page.last.as_millis(),
            &i32::from(page.fingerprint_version),
            &Bytes(&self.entries),
            &Bytes(&self.dead),
            &PageHoursArray(&page.hours),
            &Bytes(&page.chain_before.0),
        )
    }
}

pub(super) struct ProgressRecord<'a>(pub(super) &'a UnitProgress);

impl Serialize for ProgressRecord<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let unit = self.0;
        record!(
            serializer,
            &unit.unit,
            &unit.generation,
            &unit.progress.complete_to.as_millis(),
            &unit.progress.final_to.as_millis(),
            &unit.progress.floor.as_millis(),
            &CoverageArray(&unit.progress.coverage),
            &Bytes(&unit.source.to_be_bytes()),
            &long(unit.last_seq),
            &Bytes(&unit.chain.0),
            &long(unit.oldest_needed_seq),
            &OffsetsArray(&unit.out_offsets),
            &CountsRecord(&unit.counts),
            &LatenessRecord(&unit.lateness),
            &SweepsArray(&unit.sweeps),
            &unit.change.as_ref().map(|change| (change.what.as_str(), change.at.as_millis())),
        )
    }
}

pub(super) struct BackfillRecord<'a>(pub(super) &'a Backfill);

impl Serialize for BackfillRecord<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let backfill = self.0;
        record!(
            serializer,
            &Bytes(&backfill.id.0),
            &backfill.unit,
            &backfill.window.start.as_millis(),
            &backfill.window.end.as_millis(),
            backfill.state.as_str(),
            &backfill.at.as_millis(),
            &CountsRecord(&backfill.counts),
        )
    }
}

pub(super) struct DayRecord<'a>(pub(super) &'a ComparedDay);

impl Serialize for DayRecord<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let day = self.0;
        record!(serializer, &day.unit, &day.generation, &day.day.0, &HoursArray(&day.hours),)
    }
}

struct HoursArray<'a>(&'a BTreeMap<u8, Compared>);

impl Serialize for HoursArray<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut array = serializer.serialize_seq(Some(self.0.len()))?;
        for (hour, counts) in self.0 {
            let Compared { seen, rows: HourRows { published, dead } } = *counts;
            array.serialize_element(&(i32::from(*hour), long(seen), long(published), long(dead)))?;
        }
        array.end()
    }
}

struct PageHoursArray<'a>(&'a PageHours);

impl Serialize for PageHoursArray<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let hours = &self.0.0;
        let mut array = serializer.serialize_seq(Some(hours.len()))?;
        for (hour, rows) in hours {
            array.serialize_element(&(hour.number(), long(rows.published), long(rows.dead)))?;
        }
        array.end()
    }
}

pub(super) struct ReplayedRecord<'a>(pub(super) &'a Replayed);

impl Serialize for ReplayedRecord<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let replayed = self.0;
        record!(
            serializer,
            &replayed.partition,
            &replayed.offset,
            &Bytes(&replayed.row.0),
            &i32::from(replayed.fingerprint_version),
            &Bytes(&replayed.entry.to_bytes()),
            &replayed.unit,
            replayed.outcome.as_str(),
            &replayed.at.as_millis(),
        )
    }
}

struct LatenessRecord<'a>(&'a Lateness);

impl Serialize for LatenessRecord<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let lateness = self.0;
        let buckets: Vec<i64> = lateness.buckets.iter().copied().map(long).collect();
        record!(
            serializer,
            &buckets,
            &long(lateness.by_overlap),
            &long(lateness.by_sweep),
            &long(lateness.unmeasured),
            &lateness.closest.map(millis),
        )
    }
}

struct SweepsArray<'a>(&'a [Swept]);

impl Serialize for SweepsArray<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut array = serializer.serialize_seq(Some(self.0.len()))?;
        for swept in self.0 {
            array.serialize_element(&(millis(swept.lookback), swept.at.as_millis()))?;
        }
        array.end()
    }
}

struct CoverageArray<'a>(&'a Coverage);

impl Serialize for CoverageArray<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let windows = self.0.windows();
        let mut array = serializer.serialize_seq(Some(windows.len()))?;
        for window in windows {
            array.serialize_element(&(window.start.as_millis(), window.end.as_millis()))?;
        }
        array.end()
    }
}
