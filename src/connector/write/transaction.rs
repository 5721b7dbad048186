//! One transaction: legs and dead letters, then their page, progress last, and the status.
//!
//! ```text
//!   begin ─▶ legs, dead letters ─▶ their places ─▶ pages, progress, tombstones, status ─▶ commit ─▶ view
//! ```
//!
//! Everything in it is in memory before it begins: no transaction waits for HTTP. A page waits until its legs are
//! acknowledged, since a late commit of the transaction before would make them known although they are nowhere. What
//! comes behind it in the journal does not wait: one partition keeps its order.

use super::hourly::SeenHours;
use super::owner::{Owner, Ownership, Session, acknowledged};
use crate::codec::{FeedEncoder, Framing};
use crate::connector::fault::Fault;
use crate::connector::stage::{Failed, count, stage, traced};
use crate::core::dead_letter::Reason;
use crate::core::feed::UnitFeed;
use crate::core::journal::{Chain, Delivery, Nonce, OutOffsets, OutTopic, Page, Record, Seq, UnitProgress, page_key};
use crate::core::page_draft::PageDraft;
use crate::hooks::{self, Mutant};
use crate::sink::{Cluster, Destination, Message, Packing, Place, Producer, ProducerError};
use crate::store::View;

/// How many entries a page holds at most: 24 bytes each, so some 120 kB.
pub(crate) const PAGE_ENTRIES_MAX: usize = 5_000;

/// How many adopted pages go into one transaction: some 6 MB.
const ADOPTED_AT_ONCE_MAX: usize = 50;

/// How many pages are forgotten in one transaction: each costs a record.
const FORGOTTEN_AT_ONCE_MAX: usize = 500;

/// What is to be committed.
#[derive(Default)]
pub(crate) struct Draft<'a> {
    /// Legs and dead letters.
    pub(crate) messages: &'a [Message],
    /// Whether they may share record batches.
    pub(crate) packing: Option<Packing>,
    /// What they are, and what else is to be remembered.
    pub(crate) pages: Vec<PageDraft>,
    /// A new journal's first record.
    pub(crate) genesis: Option<Record>,
    /// What else the journal is told: of backfills, and of dead letters that were replayed.
    pub(crate) notes: Vec<Record>,
    /// What sweeps have seen of whole hours.
    pub(crate) seen: Vec<SeenHours>,
    /// The units' progress; page numbers and ends are filled in here.
    pub(crate) units: Vec<UnitProgress>,
    /// The units' status; ends are filled in here.
    pub(crate) feeds: Vec<UnitFeed>,
}

/// Why a draft was not committed.
#[derive(Debug)]
pub(crate) enum CommitError {
    /// Messages at these positions are refused for their content; the transaction is given up.
    Content(Vec<(usize, Reason)>),
    /// Anything else.
    Fault(Fault),
}

impl Failed for CommitError {
    fn failure(&self) -> Option<String> {
        match self {
            Self::Content(_) => Some("the brokers refuse records for their content".to_owned()),
            Self::Fault(fault) => fault.failure(),
        }
    }
}

impl From<Fault> for CommitError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<ProducerError> for CommitError {
    fn from(error: ProducerError) -> Self {
        match error {
            ProducerError::Content(rows) => Self::Content(rows),
            other => Self::Fault(Fault::Doubtful(other.to_string())),
        }
    }
}

impl<C: Cluster, V: View> Owner<C, V> {
    /// Commits a draft, after taking over where there is no session, and tells the view.
    ///
    /// An error leaves no session. After [`Fault::Doubtful`] the draft may be committed or not: the
    /// caller takes over, which tells, and looks again.
    pub(crate) async fn commit(&mut self, draft: Draft<'_>) -> Result<(), CommitError> {
        let (messages, pages) = (count(draft.messages.len()), count(draft.pages.len()));
        traced(stage!("commit", messages, pages), self.transact(draft)).await
    }

    async fn transact(&mut self, draft: Draft<'_>) -> Result<(), CommitError> {
        let Some(mut session) = self.ownership.take_session() else {
            return Err(Fault::Doubtful("no session".to_owned()).into());
        };
        if session.delivery == Delivery::AtLeastOnce {
            // Without fencing, the journal alone tells whether somebody else has come.
            self.follower.catch_up().await?;
            self.yield_to_newer_claim()?;
        }
        let written = self.write(&mut session, draft).await;
        #[cfg(feature = "test-hooks")]
        if hooks::is_mutant(Mutant::AbortAfterUnknownCommit)
            && matches!(&written, Err(CommitError::Fault(Fault::Doubtful(_))))
        {
            // What it believes to be aborted is sent again, without a look at the journal.
            let _ = session.producer.abort().await;
            session.producer = self.follower.cluster.producer(session.delivery).await.map_err(Fault::from)?;
            self.ownership = Ownership::Owning(session);
            return written.map(|_| ());
        }
        let written = written?;
        if session.delivery == Delivery::AtLeastOnce {
            // Somebody else's records may lie between ours: all are read, none is skipped.
            let end = written.iter().map(|(offset, _)| offset + 1).max().unwrap_or(0);
            self.follower.read_to(end).await?;
            self.yield_to_newer_claim()?;
        } else {
            // From here on the disk is waited for.
            acknowledged(&self.status);
            self.follower.apply(written).await?;
        }
        self.ownership = Ownership::Owning(session);
        self.gets_on();
        Ok(())
    }

    /// The transaction; gives the journal's records with their offsets.
    async fn write(
        &self,
        session: &mut Session<C::Producer>,
        mut draft: Draft<'_>,
    ) -> Result<Vec<(i64, Record)>, CommitError> {
        let writer = (session.delivery == Delivery::AtLeastOnce).then_some(session.claim.nonce);
        let head = &self.follower.ledger.head;
        // Tests kill transactions that hold legs; beats would make the count a matter of time.
        let point = if draft.messages.is_empty() { |_: &str| {} } else { hooks::point };
        session.producer.begin().await?;
        point("begun");

        if !draft.messages.is_empty() && session.delivery == Delivery::ExactlyOnce {
            // Kafka adds the journal's partition to the transaction together with those of the legs, and not only once
            // they are acknowledged, which took as long again as all that is written then.
            let (key, payload) = self.follower.codec.encode(&Record::Nothing);
            session.producer.hand_over(&Message::journal(key, payload)).await?;
        }
        let mut out_offsets = session.out_offsets.clone();
        let mut journal: Vec<(i64, Record)> = Vec::new();
        if hooks::is_mutant(Mutant::ProgressFirst) {
            let records = self.progress_records(&draft, head.last_seq + 1, head.chain, &out_offsets);
            journal.extend(self.write_journal(session, records, Vec::new()).await.map_err(doubt)?);
        }
        // What the read-back has adopted comes before any progress that speaks of what was read back.
        let rest = session.adopted.split_off(session.adopted.len().min(ADOPTED_AT_ONCE_MAX));
        let adopted = std::mem::replace(&mut session.adopted, rest);
        let (mut seq, mut chain) = (head.last_seq, head.chain);
        let mut records: Vec<Record> = draft.genesis.take().into_iter().collect();
        if let Some(Record::Genesis(genesis)) = records.first() {
            chain = genesis.journal.into();
        }
        for page in adopted.into_iter().chain(draft.pages.drain(..).filter(|page| !page.is_empty())) {
            seq += 1;
            let page = page.numbered(seq, writer, chain);
            chain = page.chain();
            records.push(Record::Page(page));
        }
        if hooks::is_mutant(Mutant::PageBeforeLegs) {
            let pages = std::mem::take(&mut records);
            journal.extend(self.write_journal(session, pages, Vec::new()).await.map_err(doubt)?);
        }
        let places = session.producer.send(draft.messages, draft.packing.unwrap_or(Packing::Shared)).await?;
        raise(&mut out_offsets, draft.messages, &places)?;
        point("legs-acknowledged");
        if hooks::is_mutant(Mutant::ApplyBeforeCommit) {
            self.apply_too_early(&records).await?;
        }
        // While some of what was adopted is left, the topics are not accounted for.
        let accounted = if session.adopted.is_empty() { out_offsets.clone() } else { head.out_offsets.clone() };
        let status = self.status_messages(session.delivery, &mut draft, &accounted);
        let forgettable = self.forgettable();
        records.extend(self.day_records(&draft.seen));
        records.append(&mut draft.notes);
        if !hooks::is_mutant(Mutant::ProgressFirst) {
            records.extend(self.progress_records(&draft, seq, chain, &accounted));
        }
        // Behind what says that the pages are no longer needed.
        let others = forgettable.iter().map(tombstone).chain(status).collect();
        // A refusal speaks of our own records now, not of any row.
        journal.extend(self.write_journal(session, records, others).await.map_err(doubt)?);
        point("progress-sent");
        if !draft.messages.is_empty() {
            hooks::point_soon("committing");
        }
        session.producer.commit().await?;
        point("committed");
        session.out_offsets = out_offsets;
        Ok(journal)
    }

    fn progress_records(
        &self,
        draft: &Draft<'_>,
        last_seq: Seq,
        chain: Chain,
        out_offsets: &OutOffsets,
    ) -> Vec<Record> {
        let oldest_needed_seq = self.oldest_needed_seq();
        let fill = |unit: &UnitProgress| {
            let unit = unit.clone();
            Record::Progress(UnitProgress {
                last_seq,
                chain,
                oldest_needed_seq,
                out_offsets: out_offsets.clone(),
                ..unit
            })
        };
        draft.units.iter().map(fill).collect()
    }

    /// The pages that this transaction forgets, oldest first.
    fn forgettable(&self) -> Vec<(Seq, Option<Nonce>)> {
        let ledger = &self.follower.ledger;
        let below = ledger.forgettable_below(&self.terms.units);
        let pages = ledger.pages.keys().take_while(|(seq, _)| *seq < below);
        pages.take(FORGOTTEN_AT_ONCE_MAX).copied().collect()
    }

    fn oldest_needed_seq(&self) -> Seq {
        let oldest = self.follower.ledger.head.oldest_needed_seq();
        self.forgettable().last().map_or(oldest, |(seq, _)| (seq + 1).max(oldest))
    }

    fn status_messages(&self, delivery: Delivery, draft: &mut Draft<'_>, out_offsets: &OutOffsets) -> Vec<Message> {
        let message = |mut feed: UnitFeed| {
            feed.out_offsets.clone_from(out_offsets);
            feed.delivery = delivery;
            status_message(&feed, &self.feed_encoder, &self.terms.status_framing)
        };
        draft.feeds.drain(..).map(message).collect()
    }

    /// Sends records to the journal, and behind them in one go what else there is; gives the records with their offsets.
    async fn write_journal(
        &self,
        session: &mut Session<C::Producer>,
        records: Vec<Record>,
        others: Vec<Message>,
    ) -> Result<Vec<(i64, Record)>, ProducerError> {
        let encoded = records.iter().map(|record| self.follower.codec.encode(record));
        let messages = encoded.map(|(key, payload)| Message::journal(key, payload)).chain(others);
        let messages: Vec<Message> = messages.collect();
        let places = session.producer.send(&messages, Packing::Shared).await?;
        Ok(places.into_iter().map(|place| place.offset).zip(records).collect())
    }

    /// For a mutant only.
    async fn apply_too_early(&self, records: &[Record]) -> Result<(), Fault> {
        let pages = records.iter().filter_map(|record| match record {
            Record::Page(page) => Some(page.clone()),
            _ => None,
        });
        let pages: Vec<Page> = pages.collect();
        let mut head = self.follower.ledger.head.clone();
        head.last_seq = pages.last().map_or(head.last_seq, |page| page.seq);
        head.chain = pages.last().map_or(head.chain, Page::chain);
        Ok(self.follower.view.apply(pages, head).await?)
    }
}

/// What deletes a page.
fn tombstone(&(seq, writer): &(Seq, Option<Nonce>)) -> Message {
    Message::journal(page_key(seq, writer).into_bytes(), None)
}

/// A unit's status as the feed has it.
pub(crate) fn status_message(feed: &UnitFeed, encoder: &FeedEncoder, framing: &Framing) -> Message {
    let mut payload = Vec::with_capacity(512);
    encoder.encode(feed, framing, &mut payload);
    Message {
        destination: Destination::Status,
        key: feed.unit.clone().into(),
        payload: Some(payload.into()),
        timestamp: Some(feed.at),
        headers: Vec::new(),
    }
}

/// What a producer says of our own records is never about a row.
fn doubt(error: ProducerError) -> Fault {
    Fault::Doubtful(error.to_string())
}

/// Takes note of where messages lie; where that is behind what was there already, the topic is another one.
fn raise(out_offsets: &mut OutOffsets, messages: &[Message], places: &[Place]) -> Result<(), Fault> {
    let before = out_offsets.clone();
    for (message, place) in messages.iter().zip(places) {
        let topic = match message.destination {
            Destination::Legs => OutTopic::Legs,
            Destination::DeadLetters => OutTopic::DeadLetters,
            Destination::Status | Destination::Journal => continue,
        };
        if before.0.get(&(topic, place.partition)).is_some_and(|end| place.offset < *end) {
            return Err(Fault::Doubtful(
                "a topic of legs ends before where we had written: it was created again".to_owned(),
            ));
        }
        out_offsets.raise(topic, place.partition, place.offset + 1);
    }
    Ok(())
}
