//! Backfills in the journal: which one comes next, how far each has come.

use super::request::CoveredWindow;
use super::transaction::Draft;
use super::writer::Writer;
use crate::connector::fault::Fault;
use crate::core::journal::{Backfill, BackfillState, Nonce, Record};
use crate::core::planner::backfill_holes;
use crate::sink::Cluster;
use crate::store::View;
use crate::telemetry::status::BackfillStatus;

/// How many backfills that have ended are kept in the journal.
const BACKFILLS_KEPT: usize = 20;

impl<C: Cluster, V: View> Writer<C, V> {
    /// The backfill of a unit that comes next.
    pub(crate) fn next_backfill(&self, unit: &str) -> Option<Backfill> {
        let known = self.ledger().head.backfills.values();
        let running = known.filter(|known| known.unit == unit && known.state == BackfillState::Running);
        running.min_by_key(|known| (known.at, known.id)).cloned()
    }

    /// Whether backfills of a unit have nothing to read at present.
    pub(crate) fn has_nothing_to_backfill(&self, unit: &str) -> bool {
        let Some(known) = self.progress(unit) else { return true };
        let running = self
            .ledger()
            .head
            .backfills
            .values()
            .filter(|backfill| backfill.unit == unit && backfill.state == BackfillState::Running);
        running.into_iter().all(|backfill| {
            backfill_holes(backfill.window, &known.progress).is_empty()
                && !known.progress.coverage.holes(backfill.window).is_empty()
        })
    }

    /// Shows how far a backfill has come.
    pub(crate) fn show_backfill(&self, id: Nonce) {
        let Some(backfill) = self.ledger().head.backfills.get(&id) else { return };
        let coverage = self.progress(&backfill.unit).map(|unit| unit.progress.coverage.clone()).unwrap_or_default();
        let left_ms = coverage.holes(backfill.window).iter().map(|hole| hole.length().as_millis()).sum::<u128>();
        let shown = BackfillStatus {
            id,
            unit: backfill.unit.clone(),
            window: backfill.window,
            left_ms: u64::try_from(left_ms).unwrap_or(u64::MAX),
            windows: self.status.read().backfills.get(&id).map_or(0, |shown| shown.windows),
            state: backfill.state,
            counts: backfill.counts,
            trouble: None,
        };
        self.status.update(|status| {
            status.backfills.insert(id, shown);
        });
    }

    /// Commits that a backfill has read a window whole; `false` when the unit was rewound meanwhile.
    pub(crate) async fn cover(&mut self, covered: &CoveredWindow) -> Result<bool, Fault> {
        let &CoveredWindow { ref unit, generation, window, backfill, counts } = covered;
        loop {
            self.owner.own().await?;
            let Some(known) = self.progress(unit).filter(|known| known.generation == generation) else {
                return Ok(false);
            };
            if known.progress.coverage.holes(window).is_empty() {
                // A doubtful attempt had come through.
                return Ok(true);
            }
            let mut unit = self.with_uncommitted(known);
            unit.progress.coverage.add(window);
            let further = self.ledger().head.backfills.get(&backfill).cloned().map(|mut backfill| {
                backfill.counts += counts;
                Record::Backfill(backfill)
            });
            let draft = Draft { notes: further.into_iter().collect(), units: vec![unit], ..Draft::default() };
            if self.commit_with_feeds(draft).await? {
                self.show_backfill(backfill);
                let count = |shown: &mut BackfillStatus| shown.windows += 1;
                self.status.update(|status| status.backfills.get_mut(&backfill).into_iter().for_each(count));
                return Ok(true);
            }
        }
    }

    /// Commits what an operator wants backfilled, or what became of it.
    pub(crate) async fn note_backfill(&mut self, backfill: &Backfill) -> Result<(), Fault> {
        loop {
            self.owner.own().await?;
            if self.ledger().head.backfills.get(&backfill.id) == Some(backfill) {
                self.show_backfill(backfill.id);
                return Ok(());
            }
            // Those of long ago are of no interest any more.
            let known = self.ledger().head.backfills.values();
            let mut ended: Vec<&Backfill> = known.filter(|known| known.state != BackfillState::Running).collect();
            ended.sort_by_key(|known| std::cmp::Reverse(known.at));
            let forgotten = ended.iter().skip(BACKFILLS_KEPT).map(|known| Record::BackfillForgotten(known.id));
            let notes = forgotten.chain([Record::Backfill(backfill.clone())]).collect();
            let units = self.progress(&backfill.unit).map(|unit| self.with_uncommitted(unit)).into_iter().collect();
            if self.commit_with_feeds(Draft { notes, units, ..Draft::default() }).await? {
                self.show_backfill(backfill.id);
                return Ok(());
            }
        }
    }
}
