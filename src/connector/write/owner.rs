//! The owner of a journal: the one process that may publish, for as long as nobody else claims.
//!
//! ```text
//!             ┌───────── doubt ◀────────────┐
//!             ▼                             │
//!   stand by ─▶ take over ─▶ read back ─▶ commit, commit, commit …
//!      ▲                                    │
//!      └──────── a newer foreign claim ◀────┘
//! ```
//!
//! After anything but a clean answer the producer is dropped and everything is learned anew from the
//! journal; nothing is ever aborted by us. How it is done stands in `takeover.rs` and `transaction.rs`.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::claim;
use super::follower::Follower;
use crate::clock::Clock;
use crate::codec::{FeedEncoder, Framing};
use crate::config;
use crate::connector::fault::{Fault, JournalFault};
use crate::core::feed::BEATS_MISSED_MAX;
use crate::core::journal::{Claim, Delivery, Nonce, OutOffsets};
use crate::core::page_draft::PageDraft;
use crate::core::retry::Backoff;
use crate::hooks::{self, Mutant};
use crate::sink::{Cluster, SinkError};
use crate::store::{StoreError, View};
use crate::telemetry::{Repeated, Role, StatusBoard, Streak};

/// Between attempts to take over, or to go on after a doubtful answer.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(200), max: Duration::from_secs(60) };

/// How often a standby looks for a sign of life.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Who this process is, as claims name it.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The state directory: the same after a restart.
    pub instance: Nonce,
    /// This process.
    pub process: Nonce,
    /// The host's name.
    pub host: String,
    /// Where the admin port listens, `host:port`.
    pub admin: String,
    /// The program's version.
    pub version: String,
}

/// What an owner works by; fixed for the life of the process.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Who we are.
    pub identity: Identity,
    /// The units that are read.
    pub units: Vec<String>,
    /// The guarantee that is asked for.
    pub delivery: config::Delivery,
    /// How often at the latest every unit's status is written.
    pub beat: Duration,
    /// The journal's topic.
    pub journal: String,
    /// The legs' topic and that of the dead letters, for messages to an operator.
    pub topic: String,
    /// A hash of the settings that decide which legs the source shows.
    pub source: u64,
    /// What stands before a status.
    pub status_framing: Framing,
}

/// What is needed to publish, from a take-over to the first doubt.
pub(crate) struct Session<P> {
    pub(crate) producer: P,
    pub(crate) delivery: Delivery,
    pub(crate) claim: Claim,
    /// Found in the topics and not in the journal: goes into the first transaction.
    pub(crate) adopted: Vec<PageDraft>,
    /// How far the topics are accounted for: read back, or written by us since.
    pub(crate) out_offsets: OutOffsets,
}

/// Who may write: a transaction takes the session out and puts it back only after a clean answer, so that every fault
/// leaves no session behind, and never half of one.
///
/// ```text
///   StandingBy ─ nobody else is at work ─▶ TakingOver ─ read back ─▶ Owning ─ given up ─▶ Released
///       ▲                                    │    ▲                    │
///       └──── another process has claimed ───┘    └─── doubt, fault ───┘
/// ```
pub(crate) enum Ownership<P> {
    /// Another process may be at work.
    StandingBy,
    /// Nobody else is at work; what was published has to be learnt anew.
    TakingOver,
    /// Everything is known, and this process alone can write.
    Owning(Session<P>),
    /// It was given up on purpose.
    Released,
}

impl<P> Ownership<P> {
    /// Whether this process can write.
    pub(crate) const fn is_owning(&self) -> bool {
        matches!(self, Self::Owning(_))
    }

    /// What is needed to write.
    pub(crate) const fn session(&self) -> Option<&Session<P>> {
        match self {
            Self::Owning(session) => Some(session),
            Self::StandingBy | Self::TakingOver | Self::Released => None,
        }
    }

    /// Takes the session out, for a step that may fail: until it is put back, this process has to take over again.
    pub(crate) fn take_session(&mut self) -> Option<Session<P>> {
        match std::mem::replace(self, Self::TakingOver) {
            Self::Owning(session) => Some(session),
            other => {
                *self = other;
                None
            }
        }
    }
}

/// Owns the journal, or waits for it.
pub(crate) struct Owner<C: Cluster, V> {
    pub(crate) follower: Follower<C, V>,
    pub(crate) terms: Terms,
    pub(crate) feed_encoder: FeedEncoder,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) status: StatusBoard,
    pub(crate) stop: CancellationToken,
    pub(crate) ownership: Ownership<C::Producer>,
    /// Set once another process has taken over from this one: from then on it waits like any other.
    has_yielded: bool,
    /// The newest claim that we have decided to follow; a newer one of another process is to be given way to.
    pub(crate) accepted_claim: Option<Nonce>,
    /// What an operator has decided about a journal that would be refused.
    pub(crate) decision: Option<Decision>,
    /// Whether a change of the source's settings is refused: not while an operator decides about it.
    pub(crate) is_source_checked: bool,
    /// Failures in a row.
    failures: u32,
    /// What keeps it from getting on.
    repeated: Repeated,
}

/// An operator's decision about what is refused without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// A topic that ends before where the journal has published: go on behind its end.
    OutShrunk,
    /// A journal that is empty beside topics that are not: adopt what is in them.
    Adopt,
}

impl<C: Cluster, V: View> Owner<C, V> {
    pub(crate) fn new(
        cluster: Arc<C>,
        view: Arc<V>,
        terms: Terms,
        clock: Arc<dyn Clock>,
        status: StatusBoard,
        stop: CancellationToken,
    ) -> Self {
        let follower = Follower::new(cluster, view, status.clone());
        let feed_encoder = FeedEncoder::new();
        Self {
            follower,
            terms,
            feed_encoder,
            clock,
            status,
            stop,
            ownership: Ownership::StandingBy,
            has_yielded: false,
            accepted_claim: None,
            decision: None,
            is_source_checked: true,
            failures: 0,
            repeated: Repeated::default(),
        }
    }

    /// Returns when nobody else owns the journal: at once, or after as many missed beats as it takes.
    /// Until then the view is kept warm.
    pub(crate) async fn stand_by(&mut self) -> Result<(), Fault> {
        let mut watched: Option<(u64, Instant)> = None;
        loop {
            match self.follower.catch_up().await {
                Ok(_) => {
                    self.gets_on();
                    // Records count, not the position: that moves also when the brokers give up what a dead owner had begun.
                    let position = self.follower.records_read;
                    let Some(claim) = self.foreign_claim() else { return self.accept_claim() };
                    let (_, since) = *match &mut watched {
                        Some(known) if known.0 == position => known,
                        _ => watched.insert((position, Instant::now())),
                    };
                    let silent = since.elapsed();
                    let silence_max = Duration::from_millis(u64::from(claim.beat_ms)) * BEATS_MISSED_MAX;
                    if silent >= silence_max {
                        tracing::warn!(owner = %claim.host, silent_s = silent.as_secs(), "the owner gives no sign of life: taking over");
                        return self.accept_claim();
                    }
                    self.show_standing_by(claim.host.clone(), claim.admin.clone());
                    self.pause(WATCH_EVERY).await?;
                }
                Err(fault) => {
                    // Not seeing it is no silence of the owner's.
                    watched = None;
                    self.recover_from(fault).await?;
                }
            }
        }
    }

    fn accept_claim(&mut self) -> Result<(), Fault> {
        self.accepted_claim = self.follower.ledger.head.claim.as_ref().map(|claim| claim.nonce);
        self.ownership = Ownership::TakingOver;
        self.status.update(|status| status.role = Role::Starting);
        Ok(())
    }

    fn show_standing_by(&self, host: String, admin: String) {
        let role = Role::StandingBy { owner: host, admin };
        if self.status.read().role != role {
            if let Role::StandingBy { owner, admin } = &role {
                tracing::info!(owner, admin, "standing by: another instance publishes; the view is kept warm");
            }
            self.status.update(|status| status.role = role);
        }
    }

    /// The newest claim, if it is another process's that may still be at work and that has to be waited for.
    fn foreign_claim(&self) -> Option<&Claim> {
        let identity = &self.terms.identity;
        let claim = self.follower.ledger.head.claim.as_ref()?;
        let is_ours = claim.process == identity.process;
        // The state directory's lock tells that our own predecessor is gone.
        let is_predecessor = claim.instance == identity.instance && !self.has_yielded;
        (!is_ours && !is_predecessor && !claim.is_released).then_some(claim)
    }

    /// Takes note that a commit came through, or that the journal was read: owning it alone proves little.
    pub(crate) fn gets_on(&mut self) {
        self.failures = 0;
        self.status.update(|status| (status.sink_trouble, status.disk_trouble) = (None, None));
        if let Some(Streak { failures, lasted }) = self.repeated.works() {
            tracing::info!(
                failures,
                lasted_s = lasted.as_secs(),
                "polls go on: Kafka and the disk of state.dir do their work again"
            );
        }
    }

    /// Does what a fault asks for, and gives back the faults that end the owner's work.
    pub(crate) async fn recover_from(&mut self, fault: Fault) -> Result<(), Fault> {
        if hooks::is_mutant(Mutant::AbortAfterUnknownCommit) && self.ownership.is_owning() {
            return Ok(());
        }
        self.ownership = Ownership::TakingOver;
        let (kind, what) = match fault {
            Fault::Yielded => {
                self.ownership = Ownership::StandingBy;
                self.has_yielded = true;
                return Err(Fault::Yielded);
            }
            Fault::Stopped | Fault::Journal(_) | Fault::NoStart(_) | Fault::Worker(_) => return Err(fault),
            Fault::Sink(SinkError::NoTransactions(reason)) => return Err(JournalFault::NoTransactions(reason).into()),
            Fault::Store(error) if error.is_waited_for() => return self.recover_from_disk(&error).await,
            Fault::Store(_) => return Err(fault),
            Fault::Sink(error) => ("kafka", error.to_string()),
            Fault::Doubtful(what) => ("doubtful", what),
        };
        self.failures += 1;
        let pause = BACKOFF.pause(self.failures, self.clock.dice());
        if self.failures == 1 {
            tracing::info!(again_in_ms = pause.as_millis(), "starting over from the journal: {what}");
        } else if self.repeated.failed(kind).is_some() {
            let (failures, again_in_s) = (self.failures, pause.as_secs());
            tracing::warn!(failures, again_in_s, "{}", until_mended(&what));
        }
        self.status.update(|status| (status.sink_trouble, status.disk_trouble) = (Some(what), None));
        self.pause(pause).await
    }

    /// Empties a view that cannot be used, so that it is built anew from the journal. A disk that is full may refuse that,
    /// too: then it is tried again.
    async fn recover_from_disk(&mut self, error: &StoreError) -> Result<(), Fault> {
        let emptied = match self.follower.start_over().await {
            Err(Fault::Store(error)) if error.is_waited_for() => Err(error),
            emptied => Ok(emptied?),
        };
        self.failures += 1;
        let what = emptied.err().map_or_else(|| error.to_string(), |error| error.to_string());
        if self.repeated.failed("disk").is_some() {
            let failures = self.failures;
            tracing::warn!(
                failures,
                "the disk of state.dir does not do its work: {what}. Free space on it, or mend it. Until then polls wait, and nothing is lost: the store is built anew from the journal"
            );
        }
        self.status.blame_disk(what);
        self.pause(BACKOFF.pause(self.failures, self.clock.dice())).await
    }

    pub(crate) async fn pause(&self, length: Duration) -> Result<(), Fault> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Fault::Stopped),
            () = tokio::time::sleep(length) => Ok(()),
        }
    }

    /// Ends the session with a claim that says so, so that nobody has to wait for our silence.
    pub(crate) async fn give_up(&mut self) -> Result<(), Fault> {
        if let Some(mut session) = self.ownership.take_session() {
            self.ownership = Ownership::Released;
            session.claim.is_released = true;
            claim::write(&mut session.producer, &self.follower.codec, &session.claim).await?;
        }
        Ok(())
    }
}

/// What keeps the owner from publishing, which is mostly a Kafka that is away, and what follows from it.
fn until_mended(cause: &str) -> String {
    format!("{cause}. Until that is over polls wait, nothing is lost, and the connector tries again by itself")
}

/// Kafka owes nothing any more.
pub(crate) fn acknowledged(status: &StatusBoard) {
    status.update(|status| {
        status.publishing_since = None;
        status.sink_trouble = None;
    });
}

#[cfg(test)]
mod tests {
    use super::until_mended;

    #[test]
    fn a_kafka_that_is_away_is_named_first_and_the_journal_not_at_all() {
        let said = until_mended("Kafka does not answer: b:9092: Connection refused");
        assert!(said.starts_with("Kafka does not answer: b:9092: Connection refused. "), "{said}");
        assert!(said.contains("nothing is lost") && !said.contains("journal"), "{said}");
    }
}
