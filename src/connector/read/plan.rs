//! A read as it was planned: which window, as of which progress of the unit, and what of the window is believed.

use std::sync::Arc;

use super::unit::UnitContext;
use crate::connector::rows::leg_message::Origin;
use crate::connector::write::request::{Rows, UnitRows};
use crate::core::course::Leniency;
use crate::core::dead_letter::DeadRows;
use crate::core::planner::Piece;
use crate::core::time::{UtcMillis, Window};

/// A read as it was planned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlannedRead {
    pub(crate) piece: Piece,
    /// The unit's generation when the read was planned.
    pub(crate) generation: u32,
    /// How far the unit was final when the read was planned.
    pub(crate) final_to: UtcMillis,
    /// How far the unit is final at the most once the piece is read.
    pub(crate) makes_final_to: UtcMillis,
    /// How far the unit was complete before the poll: what older legs of it are measured by.
    pub(crate) looked_to: UtcMillis,
    /// What of the window is believed in any case.
    pub(crate) leniency: Leniency,
    /// What becomes of the window's dead rows.
    pub(crate) dead_rows: DeadRows,
}

impl PlannedRead {
    /// A read of an older period of a unit that is final to `final_to`.
    pub(super) const fn older(piece: Piece, generation: u32, final_to: UtcMillis, leniency: Leniency) -> Self {
        let dead_rows = first_dead_rows(leniency);
        Self { piece, generation, final_to, makes_final_to: final_to, looked_to: final_to, leniency, dead_rows }
    }

    /// What the messages of the read's legs say.
    pub(super) fn origin(&self, unit: &UnitContext) -> Arc<Origin> {
        let &Self { piece, generation, final_to, .. } = self;
        let behind = unit.writer.newest().zip(unit.pace.behind_max).map(|(newest, max)| newest.minus(max));
        let late_before = behind.map_or(final_to, |behind| behind.max(final_to));
        Arc::new(Origin { unit: unit.name.clone(), piece, generation, late_before })
    }

    /// Rows of the read, as the writer takes them. A query for `asked` has shown them, in a pass that began at `begun_at`.
    pub(super) fn unit_rows(self, unit: &str, asked: Window, begun_at: UtcMillis, rows: Rows) -> UnitRows {
        let Self { piece, generation, makes_final_to, looked_to, dead_rows, .. } = self;
        UnitRows {
            unit: unit.to_owned(),
            generation,
            piece,
            asked,
            begun_at,
            makes_final_to,
            looked_to,
            dead_rows,
            rows,
            reaches: Vec::new(),
            tally: None,
        }
    }
}

/// What becomes of the dead rows of a window that is not judged yet.
pub(super) const fn first_dead_rows(leniency: Leniency) -> DeadRows {
    match leniency {
        Leniency::None => DeadRows::Held,
        Leniency::Released | Leniency::Accepted => DeadRows::Buried,
    }
}
