//! Whether a window that was read to its last page is believed; and if not, why, in words.

use super::plan::PlannedRead;
use super::unit::UnitContext;
use crate::connector::fault::Fault;
use crate::connector::write::request::{Judged, JudgedRows, Lane, Request, Verdict};
use crate::core::course::Leniency;
use crate::core::dead_letter::DeadRows;
use crate::core::shape::{Belief, Doubt, Shape};
use crate::core::time::Window;
use crate::core::words::count;
use crate::core::zone::Contradiction;

/// Why a window with such rows is not believed, but for the share of dead rows.
pub(super) fn doubt(shape: Shape, leniency: Leniency, belief: &Belief) -> Option<Doubt> {
    match leniency {
        Leniency::None => shape.doubt(belief),
        Leniency::Released => shape.without_dead_rows().doubt(belief),
        Leniency::Accepted => None,
    }
}

/// Has the writer decide what becomes of a window's dead rows that are not among the dead letters yet.
pub(super) async fn judge(unit: &UnitContext, planned: PlannedRead, rows: JudgedRows) -> Result<Verdict, Fault> {
    if planned.leniency != Leniency::None {
        return Ok(Verdict { dead_rows: DeadRows::Buried, undecided: 0 });
    }
    let lane = if planned.piece.how.is_live() { Lane::Live } else { Lane::Old };
    let judged = Judged { unit: unit.name.clone(), rows };
    unit.writer.ask(lane, |reply| Request::Judge(judged, reply)).await
}

/// Why a window is not believed, and what to do.
pub(super) fn describe_doubt(window: Window, doubt: Doubt) -> String {
    let found = match doubt {
        Doubt::Dead(held, reason) => {
            let because = reason.map(|reason| format!(", the first because {reason}")).unwrap_or_default();
            format!(
                "window {window}: {} cannot be legs{because}. So many of its rows are taken for a fault of the API \
                 (dead_letter.max_ratio), so they are not buried yet",
                count(held, "row")
            )
        }
        Doubt::NoneGood(rows) => format!("window {window}: none of its {rows} rows is a leg of that time"),
        Doubt::Astray { astray, rows } => format!(
            "window {window}: {astray} of its {rows} rows are legs of another time, so the API serves something else than was \
             asked for, or goes by another time than source.time_basis says"
        ),
    };
    format!(
        "{found}. Its legs are published, the watermarks wait, it is read again; look whether the API has changed. \
         To go on with what it shows: call-legs state accept"
    )
}

/// How the rows of a window contradict the zone of its query, and what to do.
pub(super) fn describe_contradiction(window: Window, contradiction: Contradiction) -> String {
    format!(
        "window {window}: the rows contradict source.time_zone: {contradiction}, so the API may read a query's times otherwise than they are meant: legs are published, the watermarks wait; {}",
        contradiction.advice()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::time::UtcMillis;

    #[test]
    fn no_text_has_a_run_of_spaces() {
        let window = Window::new(UtcMillis::new(0), UtcMillis::new(1_000));
        for doubt in [Doubt::Dead(3, None), Doubt::NoneGood(5), Doubt::Astray { astray: 20, rows: 30 }] {
            let text = describe_doubt(window, doubt);
            assert!(!text.contains("  "), "{text}");
        }
    }
}
