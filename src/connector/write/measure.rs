//! Measures: what status and metrics show of a unit, and what is warned of, once something was committed.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::request::Read;
use super::writer::Writer;
use crate::core::chunk::ChunkPlan;
use crate::core::dead_letter::Reason;
use crate::core::dedupe::Counts;
use crate::core::hours::Agreement;
use crate::core::journal::UnitProgress;
use crate::core::lateness::{self, Lateness};
use crate::core::leg::How;
use crate::core::time::UtcMillis;
use crate::sink::Cluster;
use crate::store::View;
use crate::telemetry::freshness::LegTimes;
use crate::telemetry::labels::{BY_OVERLAP, BY_SWEEP, UnitFoundLabels, UnitLabel, UnitResultLabels};
use crate::telemetry::status::Journaled;

/// Less of the overlap left than this part of it is worth a warning.
const NEAR_THE_EDGE: u32 = 5;

/// After how long it is said again.
const WARNED_AGAIN: Duration = Duration::from_secs(3600);

impl<C: Cluster, V: View> Writer<C, V> {
    /// Shows how far every configured unit has come.
    pub(crate) fn announce_all(&self) {
        self.owner.terms.units.iter().for_each(|unit| self.announce(unit));
    }

    /// Shows how far a unit has come, and how late its legs are.
    pub(crate) fn announce(&self, unit: &str) {
        // Of one that is no longer read nobody polls a state.
        if !self.owner.terms.units.iter().any(|known| known == unit) {
            return;
        }
        let Some(known) = self.progress(unit).filter(|unit| unit.is_started()) else { return };
        let journaled = self.journaled(known);
        self.metrics.show_hours(unit, journaled.hours_differing);
        self.status.update_unit(unit, |status| {
            status.complete_to = Some(known.progress.complete_to);
            status.final_to = Some(known.progress.final_to);
            status.journaled = Some(Arc::new(journaled));
        });
        let label = UnitLabel { unit: unit.to_owned() };
        if let Some(recommended) = known.lateness.recommend(self.terms.delays.settle) {
            self.metrics.recommended_overlap.get_or_create(&label).set(recommended.overlap.as_secs_f64());
            self.metrics.recommended_overlap_confidence.get_or_create(&label).set(recommended.confidence);
        }
        if let Some(closest) = known.lateness.closest {
            self.metrics.overlap_left.get_or_create(&label).set(closest.as_secs_f64());
        }
    }

    /// What the journal says of a unit, and what was counted since it was last written.
    fn journaled(&self, unit: &UnitProgress) -> Journaled {
        let unit = self.with_uncommitted(unit);
        let hours = || self.ledger().head.hours(&unit.unit).map(|(_, counts)| counts.agreement());
        let differing = |wanted| hours().filter(|agreement| *agreement == wanted).count() as u64;
        Journaled {
            generation: unit.generation,
            counts: unit.counts,
            coverage: unit.progress.coverage.windows().to_vec(),
            out_offsets: self.owner.ownership.session().map(|session| session.out_offsets.clone()).unwrap_or_default(),
            hours_compared: hours().filter(|agreement| *agreement != Agreement::NotCompared).count() as u64,
            hours_differing: (differing(Agreement::Fewer), differing(Agreement::More)),
            recommended: unit.lateness.recommend(self.terms.delays.settle),
            lateness: unit.lateness,
        }
    }

    /// Counts how late a batch's legs were, and warns before the overlap is too short.
    fn note_late(&mut self, lateness: &Lateness, unit: &str) {
        let histogram = self.metrics.lateness.get_or_create(&UnitLabel { unit: unit.to_owned() });
        for (bucket, count) in lateness.buckets.iter().enumerate() {
            (0..*count).for_each(|_| histogram.observe(lateness::edge(bucket).as_secs_f64()));
        }
        for (by, count) in [(BY_OVERLAP, lateness.by_overlap), (BY_SWEEP, lateness.by_sweep)] {
            let labels = UnitFoundLabels { unit: unit.to_owned(), by };
            self.metrics.found_late.get_or_create(&labels).inc_by(count);
        }
        let Some(left) = lateness.closest.filter(|left| *left < self.terms.delays.overlap / NEAR_THE_EDGE) else {
            return;
        };
        if self.warned.get(unit).is_some_and(|warned| warned.elapsed() < WARNED_AGAIN) {
            return;
        }
        self.warned.insert(unit.to_owned(), Instant::now());
        let known = self.progress(unit).and_then(|unit| unit.lateness.recommend(self.terms.delays.settle));
        tracing::warn!(
            unit,
            left_s = left.as_secs(),
            overlap_s = self.terms.delays.overlap.as_secs(),
            recommended_s = known.map(|known| known.overlap.as_secs()),
            "a leg turned up near the edge of poll.overlap: later ones are found by sweeps only; raise poll.overlap"
        );
    }

    /// Shows what became of some of a unit's rows.
    pub(crate) fn note_counts(&self, unit: &str, counts: Counts) {
        self.status.update_unit(unit, |status| status.counts += counts);
        for (result, count) in counts.named() {
            let labels = UnitResultLabels { unit: unit.to_owned(), result };
            self.metrics.rows.get_or_create(&labels).inc_by(count);
        }
    }

    /// Counts a chunk's rows, and how fresh its legs were when Kafka had them.
    pub(crate) fn note_published(&mut self, plan: &ChunkPlan, read: Read<'_>, started: Option<Instant>) {
        self.note_counts(read.unit, plan.counts);
        self.note_late(&plan.lateness, read.unit);
        let Some(started) = started else { return };
        self.decided.entry(read.unit.to_owned()).or_default().note(plan.counts.published, plan.buried.len() as u64);
        let label = UnitLabel { unit: read.unit.to_owned() };
        self.metrics.dead_letters.get_or_create(&label).inc_by(plan.buried.len() as u64);
        self.tell_of_dead_letters(read.unit, &plan.buried);
        self.tell_of_oddities(read.unit, plan);
        self.metrics.publish_duration.observe(started.elapsed().as_secs_f64());
        let committed = self.clock.now();
        let legs = self.awaited(plan, read, committed);
        self.metrics.note_freshness(read.unit, &legs);
        // A sweep looks where polls have long stopped to look: its wait says nothing of theirs.
        if matches!(read.piece.how, How::Poll | How::CatchUp) {
            self.metrics.note_stages(read.unit, &legs, self.terms.apart_max);
        }
        self.status.note(read.unit, |recent| {
            recent.note_published(committed, plan.counts.published, legs.iter().map(LegTimes::freshness));
            plan.buried.iter().for_each(|reason| recent.note_dead_letter(reason.code()));
        });
    }

    /// Tells of new dead letters, with the reason of the first.
    fn tell_of_dead_letters(&mut self, unit: &str, buried: &[Reason]) {
        let Some(reason) = buried.first() else { return };
        if self.is_to_be_told(unit, reason.code()) {
            let (letters, code) = (buried.len(), reason.code());
            tracing::warn!(
                unit,
                letters,
                code,
                "rows are no legs and went to the dead letters: {reason}; call-legs dead-letters list tells of all"
            );
        }
    }

    /// Counts and tells of legs that were published although something of them is odd.
    fn tell_of_oddities(&mut self, unit: &str, plan: &ChunkPlan) {
        let label = UnitLabel { unit: unit.to_owned() };
        let (legs, slips) = (plan.in_progress, plan.slips);
        self.metrics.text_slips.get_or_create(&label).inc_by(slips);
        self.metrics.published_in_progress.get_or_create(&label).inc_by(legs);
        if slips > 0 && self.is_to_be_told(unit, "text_slips") {
            tracing::warn!(
                unit,
                legs = slips,
                "legs were published whose text of a time is not the instant in milliseconds beside it: the milliseconds count"
            );
        }
        if legs > 0 && self.is_to_be_told(unit, "in_progress") {
            tracing::warn!(
                unit,
                legs,
                "legs were published while they are still In Progress, since their time is final now: what the API says of them later is a change"
            );
        }
    }

    /// Whether an oddity of a unit's rows is told now: each kind of them is told ever less often.
    fn is_to_be_told(&mut self, unit: &str, kind: &str) -> bool {
        self.oddities_told.entry(unit.to_owned()).or_default().failed(kind).is_some()
    }

    /// A batch's legs that were awaited, and when what became of them.
    fn awaited(&self, plan: &ChunkPlan, read: Read<'_>, committed: UtcMillis) -> Vec<LegTimes> {
        let Some(unit) = self.progress(read.unit).filter(|_| read.piece.how != How::Backfill) else {
            return Vec::new();
        };
        // What was there before the unit was begun, or is repeated, was never to be fresh.
        let awaited_from = unit.change.as_ref().map_or(UtcMillis::new(i64::MIN), |change| change.at);
        let looked = unit.progress.complete_to.plus(self.terms.delays.settle);
        let awaited = plan.disconnected.iter().filter(|(at, _)| *at >= awaited_from);
        awaited
            .map(|&(disconnected, seen)| LegTimes { disconnected, looked, begun: read.begun_at, seen, committed })
            .collect()
    }
}
