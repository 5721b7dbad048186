//! Hours that were read as a whole: what is written of them, and when it is forgotten.

use std::collections::BTreeMap;

use super::owner::Owner;
use crate::core::hours::{Compared, Day, Hour, UnitHours};
use crate::core::journal::{Record, UnitProgress};
use crate::sink::Cluster;
use crate::store::View;

/// Whole hours of a unit, compared with the API.
#[derive(Clone, Debug, Default)]
pub(crate) struct SeenHours {
    pub(crate) unit: String,
    pub(crate) generation: u32,
    pub(crate) hours: BTreeMap<Hour, Compared>,
}

impl<C: Cluster, V: View> Owner<C, V> {
    /// The days of these hours; and the days to be forgotten, below their units' floors.
    pub(crate) fn day_records(&self, seen: &[SeenHours]) -> Vec<Record> {
        let head = &self.follower.ledger.head;
        let mut records = Vec::new();
        let empty = UnitHours::default();
        for SeenHours { unit, generation, hours } in seen {
            let known = head.hours.get(unit).unwrap_or(&empty);
            if known.generation == *generation {
                records.extend(known.days(unit, hours).into_iter().map(Record::Day));
            }
        }
        let is_over = |unit: Option<&UnitProgress>, day: Day| unit.is_none_or(|unit| day.end() <= unit.progress.floor);
        for (unit, days) in &head.days {
            let over = days.iter().filter(|day| is_over(head.units.get(unit), **day));
            records.extend(over.map(|day| Record::DayForgotten(unit.clone(), *day)));
        }
        records
    }
}
