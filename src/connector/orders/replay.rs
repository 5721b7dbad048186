//! Replay: dead letters whose row this version takes for a leg go the way of every other leg, each once.
//!
//! ```text
//!   survey ─▶ rows read again ─▶ ┌ a step of the writer ──────────────────────────────────────────┐
//!   (a task of its own, minutes) │ what came since: topic, journal, view ─▶ decide ─▶ encode ─▶   │ ─▶ next
//!                                │ legs, page, `r/…`, progress: one transaction                   │
//!                                └────────────────────────────────────────────────────────────────┘
//! ```
//!
//! A letter is done with when the journal has its record `r/<partition>/<offset>`, written in the leg's own transaction.
//! After a kill or a doubtful answer the same is looked at again: where the record is, its leg is. Where only the leg came
//! through, of a transaction that was torn, the read-back has adopted it, and it is known.
//!
//! A page never spans what is not covered, since it would be needed for as long as that is so: the legs of a transaction,
//! which may be months apart, go on a page for each stretch of coverage.
//!
//! A replayed row counts in its unit's counts once more, as `published` or `duplicate`: as `dead` it was counted when it
//! was read. Rows that stay dead are not counted. How late a replayed leg is says nothing of the source and is not measured.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::survey::{Candidate, ReplayTerms, Survey};
use crate::codec::JournalCodec;
use crate::connector::fault::{ConnectorError, Fault, OrderError};
use crate::connector::write::request::Read;
use crate::connector::write::transaction::Draft;
use crate::connector::write::writer::{ALONE_MAX, Committed, Writer};
use crate::core::chunk::LegFacts;
use crate::core::dead_letter::DeadRows;
use crate::core::dead_letter::Reason;
use crate::core::dedupe::{Counts, Seen};
use crate::core::identity::{Fingerprint, KeyHash};
use crate::core::journal::{Entry, Record, ReplayOutcome, Replayed, UnitProgress};
use crate::core::leg::{How, Leg};
use crate::core::page_draft::PageDraft;
use crate::core::planner::Piece;
use crate::core::replay::{Fate, Tally, Verdict};
use crate::core::time::{UtcMillis, Window};
use crate::core::zone::Texts;
use crate::sink::{Cluster, Destination, Message, Packing, Reader, StoredRecord};
use crate::source::wire::{self, Row};
use crate::store::View;

/// How many letters go into one transaction.
const LETTERS_MAX: usize = 1_000;

/// How many records may have come since the survey before they are looked at beside the writer.
const BEHIND_MAX: i64 = 5_000;

/// How many legs the brokers may refuse: each costs a transaction and a take-over.
const REFUSED_MAX: usize = 100;

/// A replay under way.
pub(crate) struct Replay<C> {
    pub(crate) steps: mpsc::Sender<ReplayStep>,
    pub(crate) cluster: Arc<C>,
    pub(crate) terms: ReplayTerms,
    /// Whether to do it, or only to say what it would do.
    pub(crate) is_confirmed: bool,
    pub(crate) stop: CancellationToken,
}

/// Letters for the writer: those of one transaction, and what is known of them, which comes back with the answer.
pub(crate) struct ReplayStep {
    letters: Vec<StoredRecord>,
    course: ReplayCourse,
    reply: oneshot::Sender<ReplayCourse>,
}

/// What is known while letters are replayed.
pub(crate) struct ReplayCourse {
    survey: Survey,
    refused: BTreeMap<(i32, i64), Reason>,
}

fn failed(fault: &Fault) -> OrderError {
    OrderError::Failed(format!("{fault}; what was replayed is in the journal: give the order again to go on"))
}

impl<C: Cluster> Replay<C> {
    /// Does it; gives what was done, in lines for the operator.
    pub(crate) async fn run(self) -> Result<String, OrderError> {
        let Self { steps, cluster, terms, is_confirmed, stop } = self;
        let codec = JournalCodec::new();
        let survey = unless_stopped(&stop, Survey::take(&*cluster, &codec, &terms)).await?;
        if !is_confirmed {
            return Ok(unconfirmed(&survey.forecast()));
        }
        let stretches = survey.stretches();
        let mut course = ReplayCourse { survey, refused: BTreeMap::new() };
        let mut reader = unless_stopped(&stop, cluster.read(Destination::DeadLetters, stretches)).await?;
        while let Some(records) = unless_stopped(&stop, reader.next()).await? {
            let letters: Vec<StoredRecord> =
                records.into_iter().filter(|record| course.survey.candidate(record).is_some()).collect();
            for letters in letters.chunks(LETTERS_MAX) {
                let survey = &mut course.survey;
                while unless_stopped(&stop, survey.records_behind(&*cluster)).await? > BEHIND_MAX {
                    unless_stopped(&stop, survey.catch_up_beside(&*cluster, &codec)).await?;
                }
                if course.refused.len() > REFUSED_MAX {
                    let done = course.survey.tally;
                    return Err(OrderError::Failed(format!(
                        "the brokers refuse too many of the legs: the rest was left alone. Of those before:\n{done}"
                    )));
                }
                course = write(&steps, letters.to_vec(), course).await?;
            }
        }
        let done = course.survey.tally;
        tracing::info!(
            published = done.of(Fate::Published),
            known = done.of(Fate::Known),
            still_dead = done.of(Fate::StillDead),
            in_doubt = done.of(Fate::InDoubt),
            "dead letters were replayed"
        );
        Ok(done.to_string())
    }
}

/// Has the writer replay letters.
async fn write(
    steps: &mpsc::Sender<ReplayStep>,
    letters: Vec<StoredRecord>,
    course: ReplayCourse,
) -> Result<ReplayCourse, OrderError> {
    let (reply, answer) = oneshot::channel();
    steps.send(ReplayStep { letters, course, reply }).await.map_err(|_| failed(&Fault::Stopped))?;
    answer.await.map_err(|_| failed(&Fault::Stopped))
}

async fn unless_stopped<R, E: Into<Fault>>(
    stop: &CancellationToken,
    step: impl Future<Output = Result<R, E>>,
) -> Result<R, OrderError> {
    tokio::select! {
        biased;
        () = stop.cancelled() => Err(failed(&Fault::Stopped)),
        // What a reader of Kafka comes across is the order's matter.
        done = step => done.map_err(|error| failed(&error.into())),
    }
}

fn unconfirmed(forecast: &Tally) -> String {
    format!("a replay would find {forecast}\nNothing was changed: add --yes to do it")
}

/// What a replay would do, read from Kafka alone; nothing is claimed or written. What the brokers or the topic's limits
/// would refuse counts as published.
///
/// # Errors
/// When Kafka does not answer, or the journal cannot be read.
pub async fn preview_replay<C: Cluster>(cluster: &C, terms: &ReplayTerms) -> Result<String, ConnectorError> {
    let survey = Survey::take(cluster, &JournalCodec::new(), terms).await?;
    Ok(unconfirmed(&survey.forecast()))
}

/// Letters put together into a transaction.
#[derive(Default)]
struct Revival {
    messages: Vec<Message>,
    /// For each message the letter that it came from.
    letters: Vec<usize>,
    pages: BTreeMap<(String, UtcMillis), PageDraft>,
    notes: Vec<Record>,
    counts: BTreeMap<String, Counts>,
    /// Of every letter, in their order.
    fates: Vec<Fate>,
}

impl<C: Cluster, V: View> Writer<C, V> {
    /// Replays letters, and answers.
    ///
    /// # Errors
    /// Only when the ownership ends; then there is no answer.
    pub(crate) async fn replay_step(&mut self, step: ReplayStep) -> Result<(), Fault> {
        let ReplayStep { letters, mut course, reply } = step;
        self.replay(&letters, &mut course.survey, &mut course.refused).await?;
        self.show();
        let _ = reply.send(course);
        Ok(())
    }

    /// Publishes what is new of some letters, in one transaction or in several, and counts every letter.
    async fn replay(
        &mut self,
        letters: &[StoredRecord],
        survey: &mut Survey,
        refused: &mut BTreeMap<(i32, i64), Reason>,
    ) -> Result<(), Fault> {
        // What this call has tried to replay, and may have: no earlier replay's.
        let mut attempted: BTreeMap<String, Counts> = BTreeMap::new();
        let mut tried: BTreeSet<(i32, i64)> = BTreeSet::new();
        let mut packing = Packing::Shared;
        loop {
            self.owner.own().await?;
            let revived = match self.look_again(survey).await {
                Ok(()) => self.revive(letters, survey, refused, &tried).await,
                Err(fault) => Err(fault),
            };
            let revived = match revived {
                Ok(revived) => revived,
                Err(fault) => {
                    self.owner.recover_from(fault).await?;
                    continue;
                }
            };
            if revived.notes.is_empty() {
                attempted.iter().for_each(|(unit, counts)| self.note_counts(unit, *counts));
                revived.fates.iter().for_each(|fate| survey.tally.add(*fate));
                return Ok(());
            }
            let units = revived.counts.iter().filter_map(|(unit, counts)| {
                let mut unit = self.with_uncommitted(self.progress(unit)?);
                unit.counts += *counts;
                Some(unit)
            });
            let draft = Draft {
                units: units.collect(),
                messages: &revived.messages,
                packing: Some(packing),
                pages: revived.pages.into_values().collect(),
                notes: revived.notes,
                ..Draft::default()
            };
            match self.commit_or_refuse(draft).await? {
                Committed::Through => {
                    revived.counts.iter().for_each(|(unit, counts)| self.note_counts(unit, *counts));
                    revived.fates.iter().for_each(|fate| survey.tally.add(*fate));
                    return Ok(());
                }
                Committed::InDoubt => {
                    attempted = revived.counts;
                    tried.extend(letters.iter().map(|letter| (letter.place.partition, letter.place.offset)));
                }
                Committed::Refused(positions) => {
                    let letter_at =
                        |position: usize| revived.letters.get(position).and_then(|letter| letters.get(*letter));
                    let known =
                        positions.into_iter().filter_map(|(position, reason)| Some((letter_at(position)?, reason)));
                    refused
                        .extend(known.map(|(letter, reason)| ((letter.place.partition, letter.place.offset), reason)));
                    if letters.len() > ALONE_MAX {
                        return self.replay_by_few(letters, survey, refused).await;
                    }
                    packing = Packing::Alone;
                }
            }
        }
    }

    /// Replays letters a few at a time: one acknowledgement a record must fit into a transaction's time.
    async fn replay_by_few(
        &mut self,
        letters: &[StoredRecord],
        survey: &mut Survey,
        refused: &mut BTreeMap<(i32, i64), Reason>,
    ) -> Result<(), Fault> {
        for part in letters.chunks(ALONE_MAX) {
            if refused.len() > REFUSED_MAX {
                break;
            }
            Box::pin(self.replay(part, survey, refused)).await?;
        }
        Ok(())
    }

    /// Learns what was published and replayed since: little, since a replay looks beside the writer before each step. The
    /// claim is not repeated meanwhile.
    async fn look_again(&self, survey: &mut Survey) -> Result<(), Fault> {
        let follower = &self.owner.follower;
        survey.catch_up(&*follower.cluster, &follower.codec, follower.ledger.head.next_offset).await
    }

    /// Parses, decides about and encodes letters.
    async fn revive(
        &self,
        letters: &[StoredRecord],
        survey: &Survey,
        refused: &BTreeMap<(i32, i64), Reason>,
        tried: &BTreeSet<(i32, i64)>,
    ) -> Result<Revival, Fault> {
        let candidates: Vec<Option<&Candidate>> = letters.iter().map(|letter| survey.candidate(letter)).collect();
        let keys = candidates.iter().map(|candidate| candidate.map_or(KeyHash([0; 16]), |known| known.key)).collect();
        let stored = self.owner.follower.find(keys).await?;
        let mut revival = Revival::default();
        // Two letters may be of one leg.
        let mut in_batch = BTreeSet::new();
        for (index, ((letter, candidate), stored)) in letters.iter().zip(candidates).zip(stored).enumerate() {
            let place = (letter.place.partition, letter.place.offset);
            let raw = letter.payload.as_deref().unwrap_or_default();
            let (Some(candidate), Row::Leg(mut leg)) = (candidate, wire::row(raw)) else {
                revival.fates.push(Fate::StillDead);
                continue;
            };
            if let Some(outcome) = survey.replayed.outcome(letter.place, candidate.row) {
                revival.fates.push(match outcome {
                    _ if !tried.contains(&place) => Fate::Replayed,
                    ReplayOutcome::Published => Fate::Published,
                    ReplayOutcome::Known => Fate::Known,
                });
                continue;
            }
            let Some(unit) = self.progress(&candidate.unit).filter(|unit| unit.is_started()) else {
                revival.fates.push(Fate::UnitNotRead);
                continue;
            };
            let entry = self.revived_entry(candidate, &mut leg);
            let is_remembered = stored.is_some() || in_batch.contains(&candidate.key);
            let outcome = match survey.verdict(candidate, is_remembered) {
                Verdict::InDoubt => {
                    revival.fates.push(Fate::InDoubt);
                    continue;
                }
                Verdict::Known => ReplayOutcome::Known,
                Verdict::Publish => {
                    let message = match refused.get(&place) {
                        Some(_) => None,
                        None => self.revived_message(&leg, candidate, entry),
                    };
                    let Some(message) = message else {
                        revival.fates.push(Fate::StillDead);
                        continue;
                    };
                    revival.messages.push(message);
                    revival.letters.push(index);
                    in_batch.insert(candidate.key);
                    let page = (candidate.unit.clone(), stretch_of(unit, candidate.at));
                    let page = revival
                        .pages
                        .entry(page)
                        .or_insert_with(|| PageDraft::new(candidate.unit.clone(), unit.generation));
                    page.add_new(entry, candidate.at, false);
                    ReplayOutcome::Published
                }
            };
            revival.note(outcome, candidate, self.late_before(&candidate.unit));
            revival.notes.push(Record::Replayed(Replayed {
                partition: place.0,
                offset: place.1,
                row: candidate.row,
                fingerprint_version: entry.seen.fingerprint.map_or(0, Fingerprint::version),
                entry,
                unit: candidate.unit.clone(),
                outcome,
                at: self.now(),
            }));
        }
        Ok(revival)
    }

    /// What is to be remembered of a letter's leg, which is treated unless it was when it was buried.
    fn revived_entry(&self, candidate: &Candidate, leg: &mut Leg<'_>) -> Entry {
        let privacy = &self.terms.privacy;
        if !candidate.is_treated {
            privacy.treat(leg);
        }
        Entry { key: candidate.key, seen: Seen { fingerprint: Some(privacy.fingerprint(leg)), revision: 0 } }
    }

    /// The message of a letter's leg, if it can be one now.
    fn revived_message(&self, leg: &Leg<'_>, candidate: &Candidate, entry: Entry) -> Option<Message> {
        let found = LegFacts {
            fingerprint: entry.seen.fingerprint?,
            at: candidate.at,
            disconnected: leg.disconnected,
            texts: Texts::Silent,
            is_in_progress: leg.is_in_progress(),
        };
        self.encode(leg, found, candidate.seen_at, entry, &self.making(read(candidate))).ok()
    }
}

impl Revival {
    fn note(&mut self, outcome: ReplayOutcome, candidate: &Candidate, late_before: UtcMillis) {
        let counts = self.counts.entry(candidate.unit.clone()).or_default();
        match outcome {
            ReplayOutcome::Published => {
                counts.published += 1;
                counts.late += u64::from(candidate.at < late_before);
                self.fates.push(Fate::Published);
            }
            ReplayOutcome::Known => {
                counts.duplicate += 1;
                self.fates.push(Fate::Known);
            }
        }
    }
}

/// As if the leg's own second had been read when its row was.
fn read(candidate: &Candidate) -> Read<'_> {
    let start = candidate.at.floor_second();
    let window = Window::new(start, UtcMillis::new(start.as_millis() + 1_000));
    Read {
        unit: &candidate.unit,
        piece: Piece { window, how: How::Replay },
        asked: window,
        begun_at: candidate.seen_at,
        makes_final_to: window.end,
        looked_to: window.end,
        dead_rows: DeadRows::Buried,
    }
}

/// Where the stretch of coverage begins that `at` lies in; without coverage it lies alone, in its second.
fn stretch_of(unit: &UnitProgress, at: UtcMillis) -> UtcMillis {
    let windows = unit.progress.coverage.windows();
    windows.iter().find(|window| window.contains(at)).map_or(at.floor_second(), |window| window.start)
}
