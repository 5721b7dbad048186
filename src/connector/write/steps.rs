//! What readers ask for, step by step: each is looked at again after a doubt, until its outcome is known.

use std::collections::{BTreeMap, BTreeSet};
use std::iter::zip;

use rustc_hash::FxHashMap;

use super::hourly::SeenHours;
use super::request::{
    FirstStart, Judged, JudgedRows, PageOf, Reached, Reply, Request, Rows, RowsRequest, SweptHours, Verdict,
};
use super::transaction::Draft;
use super::writer::Writer;
use crate::config::Start;
use crate::connector::fault::Fault;
use crate::connector::rows::prepare::{ReadyRow, What};
use crate::core::dead_letter::{Decided, Undecided};
use crate::core::hours::{Compared, Hour};
use crate::core::identity::KeyHash;
use crate::core::journal::{Change, ChangeKind, Delivery, UnitProgress};
use crate::core::ledger::Ledger;
use crate::core::time::UtcMillis;
use crate::core::watermark::{Delays, Progress};
use crate::sink::Cluster;
use crate::store::View;

/// The unit that stands for every PBX of the account.
const ALL_PBXES: &str = "allpbxes";

impl<C: Cluster, V: View> Writer<C, V> {
    /// Does what a reader asks for, and answers it.
    ///
    /// # Errors
    /// Only when the ownership ends; then there is no answer.
    pub(crate) async fn step(&mut self, request: Request) -> Result<(), Fault> {
        // A ledger that was just emptied answers nothing.
        self.owner.own().await?;
        match request {
            // Without transactions some of it may come through and some not: each unit by itself.
            Request::Publish(requests) if self.is_at_least_once() => {
                for RowsRequest { units, reply } in requests {
                    let mut outcomes = Vec::with_capacity(units.len());
                    for rows in units {
                        outcomes.append(&mut self.publish(vec![rows]).await?);
                    }
                    self.answer(reply, outcomes);
                }
            }
            Request::Publish(requests) => {
                let (units, replies): (Vec<_>, Vec<_>) =
                    requests.into_iter().map(|request| (request.units, request.reply)).unzip();
                let lengths: Vec<usize> = units.iter().map(Vec::len).collect();
                let mut outcomes = self.publish(units.into_iter().flatten().collect()).await?.into_iter();
                for (reply, length) in zip(replies, lengths) {
                    self.answer(reply, outcomes.by_ref().take(length).collect());
                }
            }
            Request::Begin(start, reply) => {
                let begun = self.begin(&start).await?;
                self.answer(reply, begun);
            }
            Request::Advance(reached, reply) => {
                let progress = self.advance(&reached).await?;
                self.answer(reply, progress);
            }
            Request::Judge(judged, reply) => {
                let verdict = self.judge(judged).await?;
                self.answer(reply, verdict);
            }
            Request::NoteSwept(seen, reply) => {
                let progress = self.note_swept(&seen).await?;
                self.answer(reply, progress);
            }
            Request::Cover(covered, reply) => {
                let is_covered = self.cover(&covered).await?;
                self.answer(reply, is_covered);
            }
            Request::NoteBackfill(backfill, reply) => {
                self.note_backfill(&backfill).await?;
                self.answer(reply, ());
            }
            Request::NextBackfill(unit, reply) => {
                let backfill = self.next_backfill(&unit);
                backfill.iter().for_each(|backfill| self.show_backfill(backfill.id));
                self.answer(reply, backfill);
            }
            Request::HasBackfilled(unit, reply) => {
                let has_backfilled = self.has_nothing_to_backfill(&unit);
                self.answer(reply, has_backfilled);
            }
            Request::PublishedWithin(unit, window, reply) => {
                let published = self.ledger().published_within(&unit, window);
                self.answer(reply, published);
            }
            Request::Hour(unit, hour, reply) => {
                let known = self.ledger().head.hour(&unit, hour);
                self.answer(reply, known);
            }
            Request::WhichCount(pages, reply) => {
                let is_live = |page: &PageOf| self.ledger().is_live(page.seq, &page.unit, page.generation);
                let live = pages.iter().map(is_live).collect();
                self.answer(reply, live);
            }
        }
        Ok(())
    }

    fn is_at_least_once(&self) -> bool {
        self.owner.ownership.session().is_some_and(|session| session.delivery == Delivery::AtLeastOnce)
    }

    /// Answers a request, once everybody can see what it has changed. Whoever does not wait any more needs no answer.
    fn answer<T>(&self, reply: Reply<T>, answer: T) {
        self.show();
        let _ = reply.send(answer);
    }

    /// Starts a unit that was never read, and gives its progress; that of one that was, too.
    async fn begin(&mut self, start: &FirstStart) -> Result<UnitProgress, Fault> {
        let mut first = None;
        loop {
            self.owner.own().await?;
            let known = self.progress(&start.unit).cloned().unwrap_or_else(|| self.unstarted(&start.unit));
            // A doubtful attempt may have come through, or the view had to be built anew first.
            if known.is_started() {
                if let Some(FirstProgress { told, .. }) = first {
                    told.tell(&start.unit);
                }
                return Ok(known);
            }
            let begun = first_progress(start, self.ledger(), &self.terms.delays)?;
            let change = Some(Change { what: ChangeKind::Started, at: self.clock.now() });
            let source = self.owner.terms.source;
            let progress = begun.progress.clone();
            first = Some(begun);
            let begun = UnitProgress { progress, source, change, ..self.with_uncommitted(&known) };
            self.commit_progress(vec![begun]).await?;
        }
    }

    /// Commits what reads say of a unit's progress, and gives that; `None` when the unit was rewound meanwhile, so that
    /// they say nothing any more.
    async fn advance(&mut self, reached: &Reached) -> Result<Option<Progress>, Fault> {
        let delays = self.terms.delays;
        let advance = |unit: &mut UnitProgress| {
            reached.reaches.iter().for_each(|reach| unit.progress.reach(reach, &delays));
        };
        self.alter(&reached.unit, reached.generation, advance, &BTreeMap::new()).await
    }

    /// What becomes of a window's dead rows.
    async fn judge(&mut self, judged: Judged) -> Result<Verdict, Fault> {
        let undecided = match judged.rows {
            JudgedRows::Counted(undecided) => undecided,
            JudgedRows::Whole(rows, dead) => loop {
                self.owner.own().await?;
                match self.undecided(&rows, &dead).await {
                    Ok(undecided) => break undecided,
                    Err(fault) => self.owner.recover_from(fault).await?,
                }
            },
        };
        let none = Decided::default();
        let dead_rows = undecided.verdict(self.decided.get(&judged.unit).unwrap_or(&none), self.terms.dead_ratio_max);
        Ok(Verdict { dead_rows, undecided: undecided.dead })
    }

    /// How many of a window's rows are neither published nor buried.
    async fn undecided(&self, rows: &Rows, dead: &FxHashMap<u64, u64>) -> Result<Undecided, Fault> {
        let is_dead = |row: &ReadyRow<'_>| matches!(row.ready().what, What::Dead(_));
        let is_leg = |row: &ReadyRow<'_>| matches!(row.ready().what, What::Leg(..));
        let times = |key: &KeyHash| dead.get(&key.half()).copied().unwrap_or(1);
        let dead = self.unknown(rows.iter().filter(is_dead).map(|row| row.ready().key).collect()).await?;
        let dead = dead.iter().map(times).sum();
        // Only then does it matter.
        let legs =
            if dead == 0 { BTreeSet::new() } else { rows.iter().filter(is_leg).map(|row| row.ready().key).collect() };
        Ok(Undecided { dead, legs: self.unknown(legs).await?.len() as u64, published: 0 })
    }

    /// Those of which nothing is remembered.
    async fn unknown(&self, keys: BTreeSet<KeyHash>) -> Result<Vec<KeyHash>, Fault> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let keys: Vec<KeyHash> = keys.into_iter().collect();
        let found = self.owner.follower.find(keys.clone()).await?;
        Ok(zip(keys, found).filter(|(_, known)| known.is_none()).map(|(key, _)| key).collect())
    }

    /// Commits what a sweep has seen of whole hours, and that it was done, if it was; `None` as in [`Self::advance`].
    async fn note_swept(&mut self, seen: &SweptHours) -> Result<Option<Progress>, Fault> {
        let note = |unit: &mut UnitProgress| seen.swept.iter().for_each(|swept| unit.note_swept(*swept));
        self.alter(&seen.unit, seen.generation, note, &seen.hours).await
    }

    /// Commits a change of a unit's progress, where it changes anything, and gives what it then is.
    async fn alter(
        &mut self,
        unit: &str,
        generation: u32,
        change: impl Fn(&mut UnitProgress),
        hours: &BTreeMap<Hour, Compared>,
    ) -> Result<Option<Progress>, Fault> {
        loop {
            self.owner.own().await?;
            let Some(known) = self.progress(unit).filter(|known| known.generation == generation) else {
                return Ok(None);
            };
            let mut altered = known.clone();
            change(&mut altered);
            if altered == *known && hours.is_empty() {
                return Ok(Some(altered.progress));
            }
            let progress = altered.progress.clone();
            let altered = self.with_uncommitted(&altered);
            let hours = hours.clone();
            let seen = SeenHours { unit: unit.to_owned(), generation, hours };
            let draft = Draft { units: vec![altered], seen: vec![seen], ..Draft::default() };
            if self.commit_with_feeds(draft).await? {
                return Ok(Some(progress));
            }
        }
    }
}

/// Where a unit starts that was never read, and what is told of that once it is in the journal.
struct FirstProgress {
    progress: Progress,
    told: FirstTold,
}

enum FirstTold {
    /// It starts at `poll.start_from`, or at the edge of what the API keeps.
    AtStart(Start),
    /// It goes on where `allpbxes` had come to.
    AfterAll(UtcMillis),
    /// It starts beside others.
    BesideOthers(UtcMillis),
}

impl FirstTold {
    fn tell(&self, unit: &str) {
        match self {
            Self::AtStart(Start { at, clamped }) => {
                if *clamped {
                    tracing::warn!(unit, start = %at, "poll.start_from is older than the two years that the API keeps: starting at their edge");
                }
                tracing::info!(unit, start = %at, "reading starts");
            }
            Self::AfterAll(complete_to) => {
                tracing::info!(unit, %complete_to, "a new unit continues what was read of allpbxes");
            }
            Self::BesideOthers(start) => {
                tracing::warn!(unit, %start, "a new unit beside others starts one overlap ago, not at poll.start_from; what is older takes a rewind of this unit: call-legs state rewind");
            }
        }
    }
}

/// Where a unit starts that was never read.
///
/// In a new journal at `poll.start_from`. Beside units that were read already it continues what covers
/// it: names take over from `allpbxes`, `allpbxes` from the names; any other unit starts one overlap ago.
fn first_progress(start: &FirstStart, ledger: &Ledger, delays: &Delays) -> Result<FirstProgress, Fault> {
    let &FirstStart { ref unit, now, start_from } = start;
    let units = &ledger.head.units;
    // Also in a journal of units that were renamed before anything was read.
    if units.contains_key(unit) || !units.values().any(|unit| unit.is_started()) {
        let start = start_from.ok_or_else(|| Fault::NoStart(unit.clone()))?.resolve(now);
        return Ok(FirstProgress {
            progress: Progress::starting_at(start.at, delays),
            told: FirstTold::AtStart(start),
        });
    }
    let started = |name: &str| units.get(name).filter(|unit| unit.is_started());
    if let Some(all) = started(ALL_PBXES) {
        let told = FirstTold::AfterAll(all.progress.complete_to);
        return Ok(FirstProgress { progress: all.progress.clone(), told });
    }
    let recently = now.minus(delays.overlap + delays.settle).floor_second();
    let oldest = units.values().filter(|unit| unit.is_started()).map(|unit| unit.progress.final_to).min();
    let start = if unit == ALL_PBXES { oldest.map_or(recently, |oldest| oldest.min(recently)) } else { recently };
    Ok(FirstProgress { progress: Progress::starting_at(start, delays), told: FirstTold::BesideOthers(start) })
}
