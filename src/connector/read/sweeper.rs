//! Sweeps of one unit: slower re-reads of what polls have read for the last time, for legs that turned up later.
//!
//! ```text
//!   floor        final_to - lookback                        final_to          now
//!     │                 [────────── a sweep, in pieces ────────)[── the polls ──)
//! ```
//!
//! A sweep never reads what a poll reads at the same time, and waits with every request while a poll of any
//! unit is under way. One that is longer has also done what a shorter one would do. Each whole hour is compared with
//! what was published of it: where the numbers differ it is read once more, and then reported. A window that cannot be
//! read does not keep the older ones behind it from being read: they would fall out of the lookback meanwhile.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::Span;
use tracing::field::Empty;

use super::doubt::{describe_contradiction, describe_doubt};
use super::paged_read::PagedRead;
use super::plan::PlannedRead;
use super::read_error::ReadError;
use super::scroll::Scroller;
use super::unit::UnitContext;
use crate::connector::fault::Fault;
use crate::connector::stage::{count, root, stage, traced};
use crate::connector::write::request::{Lane, Request, SweptHours};
use crate::core::course::Leniency;
use crate::core::dedupe::Counts;
use crate::core::hours::{Agreement, Compared, Hour, HourCounts};
use crate::core::identity::KeyHash;
use crate::core::journal::{Swept, UnitProgress};
use crate::core::parts::Parts;
use crate::core::planner::{Piece, Sweep, next_sweep, remembered_from, sweep_pieces};
use crate::core::poll::WindowEnd;
use crate::core::time::Window;
use crate::core::words::exact;
use crate::core::zone::Contradiction;
use crate::source::{Recovery, Source, SourceError};

/// How often it looks whether a sweep is due, at most.
const LOOK_EVERY_MAX: Duration = Duration::from_secs(60);

/// Sweeps one unit.
pub(crate) struct Sweeper<S> {
    unit: Arc<UnitContext>,
    scroller: Arc<Scroller<S>>,
    sweeps: Vec<Sweep>,
}

impl<S: Source> Sweeper<S> {
    pub(crate) fn new(scroller: Arc<Scroller<S>>, sweeps: Vec<Sweep>) -> Self {
        Self { unit: Arc::clone(&scroller.fetcher.unit), scroller, sweeps }
    }

    /// Sweeps until told to stop.
    pub(crate) async fn run(self) -> Result<(), Fault> {
        let shortest = self.sweeps.iter().map(|sweep| sweep.every).min();
        let Some(shortest) = shortest else { return Ok(()) };
        // By lookback: sweeps that have failed, so that shorter ones get their turn before those are begun again.
        let mut held_back: BTreeMap<Duration, Instant> = BTreeMap::new();
        loop {
            let pause = (shortest / 4).min(LOOK_EVERY_MAX);
            held_back.retain(|_, until| Instant::now() < *until);
            let due = self.due(&held_back);
            let swept = match &due {
                Some((unit, sweep)) => {
                    let back = exact(sweep.lookback);
                    let span = root!("sweep", unit = self.unit.name, %back, rows = Empty, published = Empty);
                    traced(span, self.sweep(unit, *sweep)).await
                }
                None => Ok(()),
            };
            match swept {
                Ok(()) | Err(ReadError::Replaced) => {}
                Err(ReadError::Source(error)) => {
                    if let Some((_, sweep)) = due {
                        let again_in = (sweep.every / 4).max(LOOK_EVERY_MAX.min(sweep.every));
                        held_back.insert(sweep.lookback, Instant::now() + again_in);
                        let (unit, again_in_s) = (&self.unit.name, again_in.as_secs());
                        let back = exact(sweep.lookback);
                        tracing::warn!(
                            unit,
                            again_in_s,
                            "the sweep of {back} back failed and is begun again later: {error}"
                        );
                    }
                }
                Err(ReadError::Fault(Fault::Stopped)) => return Ok(()),
                Err(ReadError::Fault(fault)) => return Err(fault),
            }
            tokio::select! {
                biased;
                () = self.unit.stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// The sweep that is to be done now, and the unit as it is.
    fn due(&self, held_back: &BTreeMap<Duration, Instant>) -> Option<(Arc<UnitProgress>, Sweep)> {
        let unit = self.unit.progress().filter(|unit| unit.is_started())?;
        let now = self.unit.clock.now();
        // A sweep that was never done is due one pace after the unit's own beginning: a first start has just read it all.
        let begun = unit.change.as_ref().map_or(now, |change| change.at);
        let last = |sweep: &Sweep| unit.last_swept(sweep.lookback).unwrap_or(begun);
        let ready: Vec<Sweep> =
            self.sweeps.iter().filter(|sweep| !held_back.contains_key(&sweep.lookback)).copied().collect();
        let sweep = next_sweep(&ready, last, now)?;
        Some((unit, sweep))
    }

    async fn sweep(&self, unit: &UnitProgress, sweep: Sweep) -> Result<(), ReadError> {
        let (now, started) = (self.unit.clock.now(), Instant::now());
        let mut sums = Sums::default();
        let pieces = stage!("plan", unit = self.unit.name)
            .in_scope(|| sweep_pieces(&unit.progress, sweep.lookback, self.unit.pace.window_max));
        for pieces in pieces.chunk_by(|a, b| Hour::of(a.window.start) == Hour::of(b.window.start)) {
            self.sweep_hour(unit.generation, pieces, &mut sums).await?;
        }
        Span::current().record("rows", count(sums.counts.fetched()));
        Span::current().record("published", count(sums.counts.published));
        if let Some((window, found)) = sums.contradiction {
            // All its rows were published; what the API may have kept back is found by the sweep that agrees with us.
            let detail = describe_contradiction(window, found);
            tracing::warn!(unit = self.unit.name, "the sweep does not count and is begun again: {detail}");
            return Err(SourceError::unreachable(detail).into());
        }
        let swept = sums.trouble.is_none().then_some(Swept { lookback: sweep.lookback, at: now });
        let (generation, hours) = (unit.generation, sums.compared);
        let seen = SweptHours { unit: self.unit.name.clone(), generation, swept, hours };
        if self.unit.writer.ask(Lane::Old, |reply| Request::NoteSwept(seen, reply)).await?.is_none() {
            return Err(ReadError::Replaced);
        }
        self.report_hours(&sums.differing);
        if let Some(error) = sums.trouble {
            return Err(error.into());
        }
        self.report(sweep, started, sums.counts);
        Ok(())
    }

    /// Reads an hour, or what of it is to be swept. Where it is whole, as many legs have to be seen as were published.
    async fn sweep_hour(&self, generation: u32, pieces: &[Piece], sums: &mut Sums) -> Result<(), ReadError> {
        let Some(first) = pieces.first() else { return Ok(()) };
        let hour = Hour::of(first.window.start);
        let mut legs = HashSet::new();
        let mut is_whole = pieces.iter().map(|piece| piece.window.length()).sum::<Duration>() == hour.window().length();
        is_whole &= self.read_pieces(generation, pieces, &mut legs, sums).await?;
        if !is_whole {
            return Ok(());
        }
        let known = async || {
            let unit = self.unit.name.clone();
            self.unit.writer.ask(Lane::Old, |reply| Request::Hour(unit, hour, reply)).await
        };
        let Some(before) = known().await? else { return Ok(()) };
        let (seen, published) = (legs.len() as u64, before.rows.published);
        let is_told = before.agreement() != Agreement::NotCompared
            && before.compared.is_some_and(|compared| compared.seen == seen);
        if seen != published && !is_told {
            let unit = &self.unit.name;
            tracing::info!(unit, %hour, seen, published, "not as many legs as were published: reading the hour again");
            if !self.read_pieces(generation, pieces, &mut legs, sums).await? {
                return Ok(());
            }
        }
        let Some(HourCounts { rows, .. }) = known().await? else { return Ok(()) };
        let compared = Compared { seen: legs.len() as u64, rows };
        sums.compared.insert(hour, compared);
        if compared.seen != rows.published && !is_told {
            sums.differing.push((hour, compared));
        }
        Ok(())
    }

    /// Reads pieces of an hour, and takes note of the hour's legs; gives whether all of them could be read whole.
    async fn read_pieces(
        &self,
        generation: u32,
        pieces: &[Piece],
        legs: &mut HashSet<KeyHash>,
        sums: &mut Sums,
    ) -> Result<bool, ReadError> {
        let mut is_whole = true;
        let mut parts = Parts::new(pieces.iter().copied());
        while let Some(piece) = self.unit.next_window(|torn| parts.next(torn)) {
            // What the floor has passed meanwhile can no longer be told from what was published.
            let unit = self.unit.progress();
            if unit.as_ref().is_some_and(|unit| piece.window.start < remembered_from(&unit.progress)) {
                return Ok(false);
            }
            let accepted_at = unit.as_ref().and_then(|unit| unit.accepted_at());
            let leniency = Leniency::by_order(piece.window, accepted_at);
            let final_to = unit.map_or(piece.window.end, |unit| unit.progress.final_to);
            let planned = PlannedRead::older(piece, generation, final_to, leniency);
            let mut read = PagedRead::new(planned, None, &mut sums.counts);
            let ended = read.read(&self.scroller).await;
            parts.note_requests(read.requests, false);
            let failed_before = std::mem::take(&mut sums.has_failed);
            let trouble = match ended {
                // When the next one fails, too, it is not the window.
                Err(ReadError::Source(error)) if error.recovery != Recovery::Refused && !failed_before => {
                    tracing::warn!(unit = self.unit.name, window = %piece.window, "a window could not be swept: {error}");
                    sums.has_failed = true;
                    Some(error)
                }
                Err(error) => return Err(error),
                Ok(WindowEnd::Broken(fault)) if fault.is_mended_by_halves() && parts.halve_within(piece) => None,
                Ok(WindowEnd::Broken(fault)) => {
                    tracing::warn!(unit = self.unit.name, window = %piece.window, %fault, "a window could not be swept whole; the sweep is begun again");
                    Some(SourceError::unreachable(fault.to_string()))
                }
                Ok(_) => read.doubt.map(|doubt| {
                    let detail = describe_doubt(piece.window, doubt);
                    tracing::warn!(
                        unit = self.unit.name,
                        "a window is not believed, and the sweep is begun again: {detail}"
                    );
                    SourceError::unreachable(detail)
                }),
            };
            is_whole &= trouble.is_none();
            sums.trouble = sums.trouble.take().or(trouble);
            sums.contradiction = sums.contradiction.or(read.tally.contradiction().map(|found| (piece.window, found)));
            legs.extend(read.tally.legs);
        }
        Ok(is_whole)
    }

    fn report(&self, sweep: Sweep, started: Instant, counts: Counts) {
        let (unit, took_s, lookback_s) = (&self.unit.name, started.elapsed().as_secs(), sweep.lookback.as_secs());
        let Counts { published, revised, duplicate, dead, beyond_horizon, .. } = counts;
        if published > 0 {
            tracing::warn!(
                unit,
                lookback_s,
                took_s,
                published,
                revised,
                duplicate,
                dead,
                beyond_horizon,
                "sweep: legs were published that had turned up after the overlap; poll.overlap is too short for them"
            );
        } else {
            tracing::info!(unit, lookback_s, took_s, published, revised, duplicate, dead, beyond_horizon, "sweep");
        }
    }

    fn report_hours(&self, differing: &[(Hour, Compared)]) {
        let Some((hour, Compared { seen, rows })) = differing.first() else { return };
        let Window { start, end } = hour.window();
        tracing::warn!(
            unit = self.unit.name,
            hours = differing.len(),
            %hour,
            published = rows.published,
            seen,
            "read twice, these hours of the API do not have as many legs as were published; call-legs audit --from {start} --to {end} says which of them differ"
        );
    }
}

/// What a sweep has come across so far.
#[derive(Default)]
struct Sums {
    counts: Counts,
    /// The first window that could not be read whole: then the sweep does not count.
    trouble: Option<SourceError>,
    /// Whether the newest window failed.
    has_failed: bool,
    contradiction: Option<(Window, Contradiction)>,
    /// The whole hours.
    compared: BTreeMap<Hour, Compared>,
    /// Hours that do not have as many as were published, and of which that was not yet said.
    differing: Vec<(Hour, Compared)>,
}
