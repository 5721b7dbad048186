//! Taking over: self-test, claim, fold, read-back. Nothing is published before it is through.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use tokio::time::Instant;

use super::claim;
use super::owner::{Decision, Owner, Session};
use super::transaction::PAGE_ENTRIES_MAX;
use crate::config;
use crate::connector::fault::{Fault, JournalFault};
use crate::core::dedupe::Seen;
use crate::core::identity::{Fingerprint, KeyHash};
use crate::core::journal::{Claim, Delivery, Entry, Genesis, Nonce, OutOffsets, OutTopic, Trace};
use crate::core::page_draft::PageDraft;
use crate::hooks::{self, Mutant};
use crate::sink::{
    Cluster, Destination, Ends, Message, Packing, Producer, ProducerError, Reader, SinkError, StoredRecord, Stretch,
};
use crate::store::View;

/// How many records are looked up at once while the topics are read back.
const LOOKED_UP_AT_ONCE: usize = 1_000;

/// A record of a topic of legs that the journal does not know.
struct Found {
    key: KeyHash,
    trace: Trace,
    is_dead: bool,
    /// Whether no page has any revision of it.
    is_new: bool,
}

impl<C: Cluster, V: View> Owner<C, V> {
    /// Becomes the owner: fences whoever was it, and learns everything that was published.
    pub(crate) async fn take_over(&mut self) -> Result<Session<C::Producer>, Fault> {
        let before = self.follower.catch_up().await?;
        self.yield_to_newer_claim()?;
        // What an operator has to decide about is refused before anybody is fenced for it.
        self.check_source()?;
        self.check_cluster().await?;
        self.check_out().await?;
        let delivery = self.delivery().await?;
        if self.follower.ledger.head.genesis.is_none() {
            // The self-test takes its time, and another process may have been faster.
            self.follower.catch_up().await?;
            self.yield_to_newer_claim()?;
        }
        let mut watch = StopWatch::start();
        let mut producer = self.follower.cluster.producer(delivery).await?;
        hooks::point("initialised");
        let init_ms = watch.lap_ms();
        let claim = self.new_claim(delivery, false);
        let offset = claim::write(&mut producer, &self.follower.codec, &claim).await?;
        hooks::point("claimed");
        let claim_ms = watch.lap_ms();
        let mut session =
            Session { producer, delivery, claim, adopted: Vec::new(), out_offsets: OutOffsets::default() };
        if hooks::is_mutant(Mutant::ReadBeforeInit) {
            self.follower.ledger.head.next_offset = before.stable.max(self.follower.ledger.head.next_offset);
            self.follower.ledger.head.claim = Some(session.claim.clone());
        } else {
            self.read_journal_to(offset, &mut session).await?;
        }
        let journal_ms = watch.lap_ms();
        if let Err(fault) = self.read_topics(&mut session).await {
            if matches!(fault, Fault::Journal(_)) {
                // Nobody should have to wait for the silence of one that cannot go on.
                session.claim.is_released = true;
                let _ = claim::write(&mut session.producer, &self.follower.codec, &session.claim).await;
            }
            return Err(fault);
        }
        let adopted: usize = session.adopted.iter().map(PageDraft::len).sum();
        tracing::info!(
            delivery = delivery.as_str(),
            pages = self.follower.ledger.pages.len(),
            last_seq = self.follower.ledger.head.last_seq,
            adopted,
            init_ms,
            claim_ms,
            journal_ms,
            read_back_ms = watch.lap_ms(),
            "this instance owns the journal"
        );
        self.status.update(|status| status.delivery = Some(delivery));
        Ok(session)
    }

    /// Reads the journal up to our own claim: what comes after it is ours.
    async fn read_journal_to(&mut self, offset: i64, session: &mut Session<C::Producer>) -> Result<(), Fault> {
        let Session { producer, claim, .. } = session;
        let codec = Arc::clone(&self.follower.codec);
        let reading = self.follower.read_to(offset + 1);
        let seen = claim::repeated_during(producer, &codec, claim, self.terms.beat, Vec::new, reading).await?;
        if seen.iter().any(|seen| seen.nonce == claim.nonce && seen.offset == offset) {
            Ok(())
        } else {
            Err(Fault::Doubtful("our claim did not get into the journal".to_owned()))
        }
    }

    /// Whether the journal is whole, and what the topics of legs hold beyond it.
    async fn read_topics(&mut self, session: &mut Session<C::Producer>) -> Result<(), Fault> {
        self.follower.ledger.check().map_err(|what| JournalFault::Inconsistent { what })?;
        session.out_offsets = self.follower.ledger.head.out_offsets.clone();
        if self.follower.ledger.head.genesis.is_none() {
            return if self.decision == Some(Decision::Adopt) { Ok(()) } else { self.check_out_is_empty().await };
        }
        if hooks::is_mutant(Mutant::ProgressFirst) {
            return Ok(());
        }
        let Session { producer, claim, .. } = session;
        let (codec, beat) = (Arc::clone(&self.follower.codec), self.terms.beat);
        let (adopted, out_offsets) =
            claim::repeated_during(producer, &codec, claim, beat, Vec::new, self.read_back()).await?;
        (session.adopted, session.out_offsets) = (adopted, out_offsets);
        Ok(())
    }

    /// Gives way if another process has claimed since we looked last: starting again would fence it, and it us, for ever.
    pub(crate) fn yield_to_newer_claim(&self) -> Result<(), Fault> {
        let claim = self.follower.ledger.head.claim.as_ref();
        let is_newer =
            |claim: &Claim| claim.process != self.terms.identity.process && Some(claim.nonce) != self.accepted_claim;
        if claim.is_some_and(is_newer) { Err(Fault::Yielded) } else { Ok(()) }
    }

    /// Which guarantee is given: what the journal has recorded, or for a new one what the cluster proves to be able to.
    async fn delivery(&self) -> Result<Delivery, Fault> {
        use config::Delivery as Asked;
        let recorded = self.follower.ledger.head.genesis.as_ref().and(self.follower.ledger.head.claim.as_ref());
        match (self.terms.delivery, recorded.map(|claim| claim.delivery)) {
            (Asked::AtLeastOnce, recorded) => {
                if recorded == Some(Delivery::ExactlyOnce) {
                    tracing::warn!("kafka.delivery = \"at-least-once\" weakens a journal that was kept exactly once");
                }
                Ok(Delivery::AtLeastOnce)
            }
            (Asked::ExactlyOnce, Some(Delivery::AtLeastOnce)) => self.self_test().await.map(|()| Delivery::ExactlyOnce),
            (Asked::ExactlyOnce, Some(Delivery::ExactlyOnce)) => Ok(Delivery::ExactlyOnce),
            (Asked::Auto, Some(recorded)) => Ok(recorded),
            (asked, None) => match self.self_test().await {
                Ok(()) => Ok(Delivery::ExactlyOnce),
                Err(Fault::Sink(SinkError::NoTransactions(reason))) if asked == Asked::Auto => {
                    tracing::warn!("{reason}: delivery is at least once");
                    Ok(Delivery::AtLeastOnce)
                }
                Err(fault) => Err(fault),
            },
        }
    }

    /// Whether the cluster fences: a transaction whose producer has a successor must not come through.
    async fn self_test(&self) -> Result<(), Fault> {
        let cluster = &self.follower.cluster;
        let mut first = cluster.producer(Delivery::ExactlyOnce).await?;
        let key = format!("x/{}", Nonce(self.clock.nonce()));
        let marker = Message::journal(key.into_bytes(), Some(Vec::new()));
        let in_doubt = |error: ProducerError| Fault::Doubtful(format!("self-test: {error}"));
        first.begin().await.map_err(in_doubt)?;
        let places = first.send(std::slice::from_ref(&marker), Packing::Shared).await.map_err(in_doubt)?;
        let _second = cluster.producer(Delivery::ExactlyOnce).await?;
        let not_exactly_once = |what: &str| {
            Fault::Sink(SinkError::NoTransactions(format!(
                "the cluster takes transactions but {what}, so exactly once is not to be had on it"
            )))
        };
        match first.commit().await {
            Err(ProducerError::Fenced(_)) => {}
            Ok(()) => return Err(not_exactly_once("does not fence a producer that has a successor")),
            // A time-out is no verdict.
            Err(error) => return Err(in_doubt(error)),
        }
        for place in places {
            let stretch = Stretch { partition: place.partition, from: place.offset, until: place.offset + 1 };
            let mut reader = cluster.read(Destination::Journal, vec![stretch]).await?;
            while let Some(records) = reader.next().await? {
                if records.iter().any(|record| record.key == marker.key) {
                    return Err(not_exactly_once("delivers what was not committed"));
                }
            }
        }
        tracing::info!("self-test passed: the cluster fences, and hides what was not committed");
        Ok(())
    }

    /// A claim of this process.
    fn new_claim(&self, delivery: Delivery, is_released: bool) -> Claim {
        let identity = &self.terms.identity;
        Claim {
            nonce: Nonce(self.clock.nonce()),
            process: identity.process,
            instance: identity.instance,
            host: identity.host.clone(),
            admin: identity.admin.clone(),
            version: identity.version.clone(),
            delivery,
            beat_ms: u32::try_from(self.terms.beat.as_millis()).unwrap_or(u32::MAX),
            is_released,
            at: self.clock.now(),
        }
    }

    /// Whether the journal is one of this cluster.
    async fn check_cluster(&self) -> Result<(), Fault> {
        if let Some(genesis) = &self.follower.ledger.head.genesis {
            let here = self.follower.cluster.id().await?;
            if genesis.cluster != here {
                return Err(JournalFault::OtherCluster { journal: genesis.cluster.clone(), here }.into());
            }
        }
        Ok(())
    }

    /// Other settings of the source mean another coverage, which an operator has to decide about.
    fn check_source(&self) -> Result<(), Fault> {
        if !self.is_source_checked {
            return Ok(());
        }
        let known = self.terms.units.iter().filter_map(|unit| self.follower.ledger.head.units.get(unit));
        match known.filter(|unit| unit.is_started()).find(|unit| unit.source != self.terms.source) {
            Some(unit) => Err(JournalFault::SourceChanged { unit: unit.unit.clone() }.into()),
            None => Ok(()),
        }
    }

    /// Whether the topics of legs are those that the journal speaks of.
    async fn check_out(&self) -> Result<(), Fault> {
        for topic in [OutTopic::Legs, OutTopic::DeadLetters] {
            self.check_ends(topic, &self.follower.cluster.ends(topic.into()).await?)?;
        }
        Ok(())
    }

    fn check_ends(&self, topic: OutTopic, all: &[Ends]) -> Result<(), Fault> {
        if self.decision == Some(Decision::OutShrunk) {
            return Ok(());
        }
        let known = &self.follower.ledger.head.out_offsets.0;
        for (&(_, partition), &end) in known.iter().filter(|((known, _), _)| *known == topic) {
            let high = all.iter().find(|ends| ends.partition == partition).map_or(-1, |ends| ends.high);
            if high < end {
                let suffix = if topic == OutTopic::Legs { "" } else { ".dead-letter" };
                let topic = format!("{}{suffix}", self.terms.topic);
                return Err(JournalFault::OutShrunk { topic, partition, end: high.max(0), known: end }.into());
            }
        }
        Ok(())
    }

    /// A new journal is only begun beside topics that nobody has written to.
    async fn check_out_is_empty(&self) -> Result<(), Fault> {
        for (destination, suffix) in
            [(Destination::Legs, ""), (Destination::DeadLetters, ".dead-letter"), (Destination::Status, ".status")]
        {
            let ends = self.follower.cluster.ends(destination).await?;
            if ends.iter().any(|ends| ends.high > 0) {
                return Err(JournalFault::JournalMissing { topic: format!("{}{suffix}", self.terms.topic) }.into());
            }
        }
        Ok(())
    }

    /// The genesis of a new journal.
    pub(crate) async fn genesis(&self) -> Result<Genesis, Fault> {
        Ok(Genesis {
            journal: Nonce(self.clock.nonce()),
            cluster: self.follower.cluster.id().await?,
            fingerprint_version: Fingerprint::VERSION,
            at: self.clock.now(),
            // Empty: what is in the topics, if they are adopted, is read back from their beginnings.
            out_offsets: OutOffsets::default(),
            version: self.terms.identity.version.clone(),
        })
    }

    /// Reads the topics of legs from where the journal has accounted for them to their ends, and
    /// adopts what the journal does not know.
    ///
    /// With it the design is clean even if no doubtful commit is ever noticed: whatever came through of
    /// a torn transaction is found here before anything is published.
    async fn read_back(&self) -> Result<(Vec<PageDraft>, OutOffsets), Fault> {
        let known = self.follower.ledger.head.out_offsets.clone();
        let mut out_offsets = OutOffsets::default();
        let mut found = Vec::new();
        for topic in [OutTopic::Legs, OutTopic::DeadLetters] {
            let all = self.follower.cluster.ends(topic.into()).await?;
            self.check_ends(topic, &all)?;
            let stretches = all.iter().map(|ends| {
                let from = known.0.get(&(topic, ends.partition)).copied().unwrap_or(ends.low).min(ends.high);
                Stretch { partition: ends.partition, from, until: ends.high }
            });
            let mut reader = self.follower.cluster.read(topic.into(), stretches.collect()).await?;
            while let Some(records) = reader.next().await? {
                for chunk in records.chunks(LOOKED_UP_AT_ONCE) {
                    found.extend(self.unknown(chunk, topic == OutTopic::DeadLetters).await?);
                }
            }
            all.iter().for_each(|ends| out_offsets.raise(topic, ends.partition, ends.high));
        }
        if hooks::is_mutant(Mutant::NoAdoption) {
            found.clear();
        }
        Ok((pages_of(found, self.decision == Some(Decision::Adopt)), out_offsets))
    }

    /// Which of these records are ours and not in the journal.
    async fn unknown(&self, records: &[StoredRecord], is_dead: bool) -> Result<Vec<Found>, Fault> {
        let tag = Trace::journal_tag(&self.terms.journal);
        let ours: Vec<Found> = records
            .iter()
            .filter_map(|record| {
                let key = KeyHash(record.header(KeyHash::HEADER)?.try_into().ok()?);
                let trace = Trace::from_bytes(record.header(Trace::HEADER)?)?;
                (trace.journal == tag).then_some(Found { key, trace, is_dead, is_new: true })
            })
            .collect();
        let known = self.follower.find(ours.iter().map(|found| found.key).collect()).await?;
        let is_unknown = |(found, known): &(Found, Option<crate::store::Remembered>)| {
            known.as_ref().is_none_or(|known| known.seen.revision < found.trace.seen.revision)
        };
        let unknown = ours.into_iter().zip(known).filter(is_unknown);
        Ok(unknown.map(|(found, known)| Found { is_new: known.is_none(), ..found }).collect())
    }
}

/// Times the steps of a take-over.
struct StopWatch(Instant);

impl StopWatch {
    fn start() -> Self {
        Self(Instant::now())
    }

    /// Milliseconds since the start or the last lap.
    fn lap_ms(&mut self) -> u64 {
        let lap = self.0.elapsed();
        self.0 = Instant::now();
        u64::try_from(lap.as_millis()).unwrap_or(u64::MAX)
    }
}

/// Pages of what was found, a unit and generation each.
///
/// Where a lost journal is rebuilt, all generations of a unit count: what was published is not published again.
fn pages_of(found: Vec<Found>, is_rebuilding: bool) -> Vec<PageDraft> {
    let mut newest: BTreeMap<String, u32> = BTreeMap::new();
    for found in &found {
        let known = newest.entry(found.trace.unit.clone()).or_default();
        *known = found.trace.generation.max(*known);
    }
    let mut by_unit: BTreeMap<(String, u32), Vec<Found>> = BTreeMap::new();
    for found in found {
        let generation = if is_rebuilding { newest[&found.trace.unit] } else { found.trace.generation };
        by_unit.entry((found.trace.unit.clone(), generation)).or_default().push(found);
    }
    let mut pages = Vec::new();
    for ((unit, generation), found) in by_unit {
        // Of a leg that was torn together with its revisions the first counts.
        let mut counted: HashSet<KeyHash> = HashSet::new();
        for chunk in found.chunks(PAGE_ENTRIES_MAX) {
            let mut page = PageDraft::new(unit.clone(), generation);
            for found in chunk {
                let seen = if found.is_dead { Seen { fingerprint: None, revision: 0 } } else { found.trace.seen };
                let entry = Entry { key: found.key, seen };
                if found.is_new && counted.insert(found.key) {
                    page.add_new(entry, found.trace.at, found.is_dead);
                } else {
                    page.add(entry, found.trace.at, found.is_dead);
                }
            }
            pages.push(page);
        }
    }
    pages
}
