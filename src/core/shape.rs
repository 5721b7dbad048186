//! Whether a window that was read whole is believed: by what kinds of rows it has, as it shows them.
//!
//! A good row is a leg of the span that was asked for, margins included, or a call that is still going on.

use std::ops::AddAssign;

use super::dead_letter::Reason;
use super::leg::TimeBasis;
use crate::hooks::{self, Mutant};

/// So many rows without a good one are not legs of that time.
const NONE_GOOD_ROWS: u64 = 5;

/// Fewer rows outside the span that was asked for are never too many.
const ASTRAY_MIN: u64 = 20;

/// When a window that was read whole is believed.
#[derive(Clone, Copy, Debug)]
pub struct Belief {
    /// `dead_letter.max_ratio`: the share of rows that may be dead, or lie outside the span that was asked for.
    pub ratio_max: f64,
    /// On which of a leg's times the windows are cut.
    pub time_basis: TimeBasis,
}

/// What kinds of rows a window has, as often as they come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// All of them.
    pub rows: u64,
    /// Rows that are no legs.
    pub no_legs: u64,
    /// Legs whose time lies outside the span that was asked for, margins included.
    pub astray: u64,
}

/// Why a window is not believed although it was read whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// Too many of its rows are no legs: so many are held back, the first for this reason.
    Dead(u64, Option<Reason>),
    /// None of so many rows is a leg of the time that was asked for, or a call still going on.
    NoneGood(u64),
    /// Of so many rows too many are legs of another time than was asked for.
    Astray {
        /// Such legs.
        astray: u64,
        /// All rows.
        rows: u64,
    },
}

impl Shape {
    /// How many rows are good: legs of the time that was asked for, or calls still going on.
    pub fn good(&self) -> u64 {
        if hooks::is_mutant(Mutant::AnyRowIsGood) {
            return self.rows;
        }
        self.rows.saturating_sub(self.no_legs + self.astray)
    }

    /// The same where dead rows are let pass.
    pub const fn without_dead_rows(&self) -> Self {
        Self { rows: self.rows - self.no_legs, no_legs: 0, astray: self.astray }
    }

    /// Why a window with these rows is not believed, but for the share of dead ones.
    pub fn doubt(&self, belief: &Belief) -> Option<Doubt> {
        let Self { rows, astray, .. } = *self;
        if rows >= NONE_GOOD_ROWS && self.good() == 0 {
            return Some(Doubt::NoneGood(rows));
        }
        #[expect(clippy::cast_precision_loss, reason = "rows of a window")]
        let is_share_exceeded = astray as f64 > belief.ratio_max * rows as f64;
        let is_astray = astray >= ASTRAY_MIN && is_share_exceeded && belief.time_basis == TimeBasis::Disconnect;
        is_astray.then_some(Doubt::Astray { astray, rows })
    }
}

impl AddAssign for Shape {
    fn add_assign(&mut self, other: Self) {
        self.rows += other.rows;
        self.no_legs += other.no_legs;
        self.astray += other.astray;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BELIEF: Belief = Belief { ratio_max: 0.05, time_basis: TimeBasis::Disconnect };

    fn shape(rows: u64, no_legs: u64, astray: u64) -> Shape {
        Shape { rows, no_legs, astray }
    }

    #[test]
    fn a_window_without_a_good_row_or_with_too_many_of_another_time_is_not_believed() {
        for (shape, expected) in [
            (shape(0, 0, 0), None),
            (shape(4, 4, 0), None),
            (shape(5, 5, 0), Some(Doubt::NoneGood(5))),
            (shape(5, 4, 0), None),
            (shape(5, 2, 3), Some(Doubt::NoneGood(5))),
            (shape(400, 0, 20), None),
            (shape(399, 0, 20), Some(Doubt::Astray { astray: 20, rows: 399 })),
            (shape(30, 0, 19), None),
        ] {
            assert_eq!(shape.doubt(&BELIEF), expected, "{shape:?}");
        }
        let by_connect = Belief { time_basis: TimeBasis::Connect, ..BELIEF };
        assert_eq!(shape(100, 0, 99).doubt(&by_connect), None, "nobody knows by what it was found");
        assert_eq!(shape(100, 0, 99).doubt(&Belief { ratio_max: 1.0, ..BELIEF }), None);
        assert_eq!(shape(100, 0, 100).doubt(&Belief { ratio_max: 1.0, ..BELIEF }), Some(Doubt::NoneGood(100)));
        assert_eq!(shape(7, 7, 0).without_dead_rows().doubt(&BELIEF), None);
        assert_eq!(shape(12, 7, 5).without_dead_rows().doubt(&BELIEF), Some(Doubt::NoneGood(5)));
    }
}
