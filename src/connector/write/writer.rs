//! The writer: rows become a transaction, and so does every step of a unit's progress.
//!
//! One for all units, owned by one task, which has it do one step after the other. Whatever is doubtful is looked at
//! again: after a take-over the same rows are planned anew against what the journal then says, so that what came through
//! is not sent twice. A step ends when its outcome is known, and with an error only when the ownership ends.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::owner::{Decision, Owner, Ownership, acknowledged};
use super::request::Shown;
use super::transaction::{CommitError, Draft};
use crate::clock::Clock;
use crate::codec::Framing;
use crate::config::MessageTimestamp;
use crate::connector::fault::Fault;
use crate::connector::rows::leg_message::LegWriter;
use crate::core::dead_letter::{Decided, Reason};
use crate::core::dedupe::{Counts, Revisions};
use crate::core::feed::{UnitFeed, state};
use crate::core::identity::KeyHash;
use crate::core::journal::{Change, ChangeKind, Delivery, Nonce, OutOffsets, Record, UnitProgress};
use crate::core::ledger::Ledger;
use crate::core::leg::TimeBasis;
use crate::core::privacy::Privacy;
use crate::core::time::UtcMillis;
use crate::core::watermark::{Delays, Progress};
use crate::sink::Cluster;
use crate::store::View;
use crate::telemetry::{Metrics, Repeated, StatusBoard};

/// When a transaction counts as overdue; a broker's restart takes about as long.
const OVERDUE_AFTER: Duration = Duration::from_secs(10);

/// How often it is said again.
const OVERDUE_REPEATED: Duration = Duration::from_secs(300);

/// How long a row that the brokers refuse is not offered again; then the topic may have been mended.
pub(crate) const REFUSED_KEPT: Duration = Duration::from_secs(3600);

/// How many rows go into one transaction when each is sent in a record batch of its own.
pub(crate) const ALONE_MAX: usize = 100;

/// How records are made; fixed for the life of the process.
#[derive(Clone, Debug)]
pub struct RecordTerms {
    /// What stands before each datum.
    pub framing: Framing,
    /// What a record's timestamp is.
    pub timestamp: MessageTimestamp,
    /// On which of a leg's times the windows are cut.
    pub time_basis: TimeBasis,
    /// Settle, overlap and horizon.
    pub delays: Delays,
    /// A leg between whose two bounds of lateness there is more was found after a pause, and is no measure.
    pub apart_max: Duration,
    /// How far a leg lies behind the newest at the most, unless it is marked late; `None` where no order is promised.
    pub behind_max: Option<Duration>,
    /// What becomes of a leg whose content changed after it was published.
    pub revisions: Revisions,
    /// The share of a window's rows that may be dead.
    pub dead_ratio_max: f64,
    /// How personal values are treated.
    pub privacy: Privacy,
    /// Whether dead letters hold also rows that cannot be read, and so cannot be treated.
    pub are_unreadable_rows_shown: bool,
}

/// What the journal is owned for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Purpose {
    /// Whether it is one order of an operator only.
    pub(crate) is_an_order: bool,
    /// What an operator has decided about a journal that would be refused.
    pub(crate) decision: Option<Decision>,
    /// Whether what is read has to be what was read before.
    pub(crate) is_source_checked: bool,
}

impl Purpose {
    /// To poll, sweep and beat.
    pub(crate) const READING: Self = Self { is_an_order: false, decision: None, is_source_checked: true };
}

/// What became of a draft.
pub(crate) enum Committed {
    /// It came through.
    Through,
    /// It may have: whatever is needed before it is looked at again was done.
    InDoubt,
    /// The brokers refuse messages at these positions for their content; nothing of it came through.
    Refused(Vec<(usize, Reason)>),
}

/// Owns session, ledger and view, and writes for all units.
pub(crate) struct Writer<C: Cluster, V> {
    pub(crate) owner: Owner<C, V>,
    pub(crate) terms: RecordTerms,
    pub(crate) leg_writer: LegWriter,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) status: StatusBoard,
    pub(crate) metrics: Arc<Metrics>,
    /// Counted, and not yet in any progress.
    pub(crate) uncommitted: BTreeMap<String, Counts>,
    /// Rows that the brokers have refused for their content, by the hash of their bytes: each refusal
    /// costs a transaction and a take-over, so they are not offered again for a while.
    pub(crate) refused: HashMap<KeyHash, (Reason, Instant)>,
    /// By unit: which of the newest rows were dead.
    pub(crate) decided: HashMap<String, Decided>,
    /// By unit: oddities of rows, each kind of which is told ever less often while they go on coming.
    pub(crate) oddities_told: BTreeMap<String, Repeated>,
    /// When it was said of a unit that its legs come near the overlap's edge.
    pub(crate) warned: BTreeMap<String, Instant>,
    /// By unit: when its status was last written with its legs.
    pub(crate) told: BTreeMap<String, Instant>,
    /// Since when it owns the journal for an operator's order only: nothing polls then, and that is on purpose.
    for_an_order_since: Option<UtcMillis>,
    /// Whether this process has begun the journal.
    pub(crate) has_begun: bool,
    shown: watch::Sender<Shown>,
}

impl<C: Cluster, V: View> Writer<C, V> {
    pub(crate) fn new(
        owner: Owner<C, V>,
        terms: RecordTerms,
        clock: Arc<dyn Clock>,
        status: StatusBoard,
        metrics: Arc<Metrics>,
    ) -> Self {
        let leg_writer = LegWriter::new(terms.framing, &owner.terms.journal);
        Self {
            owner,
            terms,
            leg_writer,
            clock,
            status,
            metrics,
            uncommitted: BTreeMap::new(),
            refused: HashMap::new(),
            decided: HashMap::new(),
            oddities_told: BTreeMap::new(),
            warned: BTreeMap::new(),
            told: BTreeMap::new(),
            for_an_order_since: None,
            has_begun: false,
            shown: watch::Sender::default(),
        }
    }

    /// Shows every unit's progress as it is.
    pub(crate) fn show(&self) {
        let Ledger { head, newest, .. } = self.ledger();
        let (units, newest, wipes) = (&head.units, *newest, self.owner.follower.wipes);
        self.shown.send_if_modified(|shown| {
            let known = (shown.wipes, shown.newest, shown.units.len());
            shown.units.retain(|name, _| units.contains_key(name));
            (shown.wipes, shown.newest) = (wipes, newest);
            let mut is_modified = known != (wipes, newest, shown.units.len());
            for (name, unit) in units {
                if shown.units.get(name).is_none_or(|known| **known != *unit) {
                    shown.units.insert(name.clone(), Arc::new(unit.clone()));
                    is_modified = true;
                }
            }
            is_modified
        });
    }

    /// What the writer shows, as it changes.
    pub(crate) fn shown(&self) -> watch::Receiver<Shown> {
        self.shown.subscribe()
    }

    /// Gives the journal up without another word.
    pub(crate) async fn give_up(&mut self) -> Result<(), Fault> {
        self.owner.give_up().await
    }

    /// Waits until nobody else owns the journal, takes over, and begins a new journal where there is none.
    ///
    /// An operator's order may have decided about what would be refused.
    pub(crate) async fn open(&mut self, purpose: Purpose) -> Result<(), Fault> {
        self.for_an_order_since = purpose.is_an_order.then(|| self.clock.now());
        self.owner.decision = purpose.decision;
        self.owner.is_source_checked = purpose.is_source_checked;
        self.owner.stand_by().await?;
        self.owner.own().await?;
        while self.owner.follower.ledger.head.genesis.is_none() {
            let opened = match self.owner.genesis().await {
                Ok(genesis) => {
                    tracing::info!(journal = %genesis.journal, "beginning a new journal");
                    self.has_begun = true;
                    let units = self.owner.terms.units.iter().map(|unit| self.unstarted(unit)).collect();
                    let draft = Draft { genesis: Some(Record::Genesis(genesis)), units, ..Draft::default() };
                    self.owner.commit(draft).await
                }
                Err(fault) => Err(fault.into()),
            };
            if self.go_on_after(opened).await? && self.owner.decision == Some(Decision::Adopt) {
                // Taking over once more reads the topics back, now that there is a journal.
                self.owner.ownership = Ownership::TakingOver;
            }
            self.owner.own().await?;
        }
        self.announce_all();
        // A command changes nothing but what it was asked for.
        if !purpose.is_an_order {
            self.tell_of_units_no_longer_read().await?;
        }
        self.show();
        Ok(())
    }

    /// A unit's progress; `None` for one that is not in the journal.
    pub(crate) fn progress(&self, unit: &str) -> Option<&UnitProgress> {
        self.owner.follower.ledger.head.units.get(unit)
    }

    /// What the journal adds up to.
    pub(crate) fn ledger(&self) -> &Ledger {
        &self.owner.follower.ledger
    }

    /// Before which time a unit's leg is marked late.
    pub(crate) fn late_before(&self, unit: &str) -> UtcMillis {
        self.ledger().late_before(unit, self.terms.behind_max)
    }

    /// Writes every unit's progress and status, so that readers see that the connector lives.
    pub(crate) async fn beat(&mut self) -> Result<(), Fault> {
        loop {
            self.owner.own().await?;
            let units = self.owner.terms.units.iter().filter_map(|unit| self.progress(unit));
            let mut units: Vec<UnitProgress> = units.map(|unit| self.with_uncommitted(unit)).collect();
            if units.is_empty() {
                // None of the configured units was ever read: the journal shows all the same that we live.
                units = self.ledger().head.units.values().cloned().collect();
            }
            if self.commit_progress(units).await? {
                return Ok(());
            }
        }
    }

    /// Says that the connector stops on purpose, and gives the journal up.
    pub(crate) async fn release(&mut self) -> Result<(), Fault> {
        if !self.owner.ownership.is_owning() {
            return Ok(());
        }
        let units: Vec<UnitProgress> = self
            .owner
            .terms
            .units
            .iter()
            .filter_map(|unit| self.progress(unit))
            .map(|unit| self.with_uncommitted(unit))
            .collect();
        let feeds = units.iter().map(|unit| self.feed_in(unit, state::STOPPED, self.clock.now())).collect();
        let committed = self.owner.commit(Draft { units, feeds, ..Draft::default() }).await;
        if committed.is_err() {
            return Ok(());
        }
        self.owner.give_up().await
    }

    /// Commits units as an operator has changed them.
    pub(crate) async fn change(&mut self, units: Vec<UnitProgress>) -> Result<(), Fault> {
        loop {
            self.owner.own().await?;
            let changed = units.iter().map(|unit| self.with_uncommitted(unit)).collect();
            if self.commit_progress(changed).await? {
                return Ok(());
            }
        }
    }

    /// Starts a unit whose published legs were adopted, from the oldest of them on.
    pub(crate) async fn start_adopted(&mut self, unit: &str, oldest: UtcMillis) -> Result<(), Fault> {
        let known = self.progress(unit).cloned().unwrap_or_else(|| self.unstarted(unit));
        let progress = Progress::starting_at(oldest, &self.terms.delays);
        let change = Some(Change { what: ChangeKind::Adopted, at: self.clock.now() });
        let source = self.owner.terms.source;
        self.change(vec![UnitProgress { progress, source, change, ..known }]).await
    }

    /// Empties the view and builds it anew from the journal.
    pub(crate) async fn start_over(&mut self) -> Result<(), Fault> {
        self.owner.own().await?;
        let feeds = self.feeds_now();
        self.owner.rebuild_view(feeds).await
    }

    pub(crate) fn units(&self) -> Vec<String> {
        self.owner.terms.units.clone()
    }

    pub(crate) fn source(&self) -> u64 {
        self.owner.terms.source
    }

    pub(crate) fn nonce(&self) -> Nonce {
        Nonce(self.clock.nonce())
    }

    pub(crate) fn now(&self) -> UtcMillis {
        self.clock.now()
    }

    /// Whether a commit came through; after a doubtful one whatever is needed before the same is tried again.
    async fn go_on_after(&mut self, committed: Result<(), CommitError>) -> Result<bool, Fault> {
        match committed {
            Ok(()) => Ok(true),
            Err(CommitError::Fault(fault)) => self.owner.recover_from(fault).await.map(|()| false),
            // Only legs and dead letters are refused for their content, and those are looked at before.
            Err(CommitError::Content(_)) => {
                let what = "Kafka refuses a record of the journal or the status for its content";
                self.owner.recover_from(Fault::Doubtful(what.to_owned())).await.map(|()| false)
            }
        }
    }

    /// Commits units' progress and status; `false` when it was doubtful and is to be tried again.
    pub(crate) async fn commit_progress(&mut self, units: Vec<UnitProgress>) -> Result<bool, Fault> {
        self.commit_with_feeds(Draft { units, ..Draft::default() }).await
    }

    /// Commits a draft without legs, and with it the status of its units; `false` as in [`Self::commit_progress`].
    pub(crate) async fn commit_with_feeds(&mut self, draft: Draft<'_>) -> Result<bool, Fault> {
        match self.commit_or_refuse(draft).await? {
            Committed::Through => Ok(true),
            Committed::InDoubt => Ok(false),
            // Only legs and dead letters are refused for their content.
            Committed::Refused(_) => self.go_on_after(Err(CommitError::Content(Vec::new()))).await,
        }
    }

    /// Commits a draft, and with it the status of its units.
    pub(crate) async fn commit_or_refuse(&mut self, mut draft: Draft<'_>) -> Result<Committed, Fault> {
        let configured = self.units();
        for left in self.ledger().left_behind(&configured) {
            match draft.units.iter_mut().find(|unit| unit.unit == left.unit) {
                Some(unit) => unit.progress.floor = left.progress.floor,
                None => draft.units.push(left),
            }
        }
        let units = &draft.units;
        // Of units that are no longer read it was said that they stopped.
        let mut feeds: Vec<UnitFeed> =
            units.iter().filter(|unit| configured.contains(&unit.unit)).map(|unit| self.feed(unit)).collect();
        // A unit that was added and never read yet is told of, too.
        for unit in configured {
            if self.progress(&unit).is_none() && !feeds.iter().any(|feed| feed.unit == unit) {
                let unstarted = self.unstarted(&unit);
                feeds.push(self.feed(&unstarted));
            }
        }
        let attempted: Vec<(String, Counts)> = units.iter().map(|unit| (unit.unit.clone(), unit.counts)).collect();
        let draft = Draft { feeds, ..draft };
        let committed = commit_watched(&mut self.owner, draft, &self.status).await;
        if let Err(CommitError::Content(positions)) = committed {
            return Ok(Committed::Refused(positions));
        }
        let is_through = self.go_on_after(committed).await?;
        if !is_through {
            // What was counted must not be counted again where it came through after all.
            self.owner.own().await?;
        }
        for (unit, counts) in attempted {
            if is_through || self.progress(&unit).is_some_and(|known| known.counts == counts) {
                self.uncommitted.remove(&unit);
            }
            self.announce(&unit);
        }
        Ok(if is_through { Committed::Through } else { Committed::InDoubt })
    }

    /// A unit's progress with what was counted since it was last written.
    pub(crate) fn with_uncommitted(&self, unit: &UnitProgress) -> UnitProgress {
        let mut unit = unit.clone();
        unit.counts += self.uncommitted.get(&unit.unit).copied().unwrap_or_default();
        unit
    }

    pub(crate) fn note_uncommitted(&mut self, unit: &str, counts: Counts) {
        *self.uncommitted.entry(unit.to_owned()).or_default() += counts;
    }

    /// A unit that the journal knows by name only.
    pub(crate) fn unstarted(&self, unit: &str) -> UnitProgress {
        let progress = Progress::starting_at(UtcMillis::new(0), &self.terms.delays);
        UnitProgress::new(unit, progress, self.owner.terms.source)
    }

    /// Units that were taken out of the configuration stopped on purpose: silence would mean that we are down.
    async fn tell_of_units_no_longer_read(&mut self) -> Result<(), Fault> {
        loop {
            self.owner.own().await?;
            let head = &self.owner.follower.ledger.head;
            let retired = head.units.values().filter(|unit| !self.owner.terms.units.contains(&unit.unit));
            let units: Vec<UnitProgress> = retired.cloned().collect();
            if units.is_empty() {
                return Ok(());
            }
            let now = self.clock.now();
            let feeds = units.iter().map(|unit| self.feed_in(unit, state::STOPPED, now)).collect();
            let committed = self.owner.commit(Draft { units, feeds, ..Draft::default() }).await;
            if self.go_on_after(committed).await? {
                return Ok(());
            }
        }
    }

    /// The statuses of all units as they are.
    pub(crate) fn feeds_now(&self) -> Vec<UnitFeed> {
        let units = self.owner.terms.units.iter().filter_map(|unit| self.progress(unit));
        let units: Vec<UnitProgress> = units.map(|unit| self.with_uncommitted(unit)).collect();
        units.iter().map(|unit| self.feed(unit)).collect()
    }

    pub(crate) fn feed(&self, unit: &UnitProgress) -> UnitFeed {
        if let Some(since) = self.for_an_order_since {
            return self.feed_in(unit, state::STOPPED, since);
        }
        let status = self.status.read();
        let (shown, since) = status.units.get(&unit.unit).map(|unit| (unit.state, unit.since)).unwrap_or_default();
        self.feed_in(unit, shown.as_str(), since.unwrap_or_else(|| self.clock.now()))
    }

    fn feed_in(&self, unit: &UnitProgress, state: &str, since: UtcMillis) -> UnitFeed {
        let identity = &self.owner.terms.identity;
        let status = self.status.read();
        UnitFeed {
            unit: unit.unit.clone(),
            generation: unit.generation,
            complete_to: unit.progress.complete_to,
            final_to: unit.progress.final_to,
            behind_max: self.terms.behind_max,
            state: state.to_owned(),
            since,
            last_poll_ok: status.units.get(&unit.unit).and_then(|status| status.last_poll_ok),
            at: self.clock.now(),
            next_beat_ms: u32::try_from(self.owner.terms.beat.as_millis()).unwrap_or(u32::MAX),
            counts: unit.counts,
            out_offsets: OutOffsets::default(),
            owner: identity.process,
            host: identity.host.clone(),
            delivery: status.delivery.unwrap_or(Delivery::AtLeastOnce),
            version: identity.version.clone(),
            lateness: unit.lateness.clone(),
            recommended: unit.lateness.recommend(self.terms.delays.settle),
        }
    }
}

/// Commits, and says so when the brokers or the disk take long.
pub(crate) async fn commit_watched<C: Cluster, V: View>(
    owner: &mut Owner<C, V>,
    draft: Draft<'_>,
    status: &StatusBoard,
) -> Result<(), CommitError> {
    let cluster = Arc::clone(&owner.follower.cluster);
    let committing = owner.commit(draft);
    tokio::pin!(committing);
    let mut overdue = tokio::time::interval_at(Instant::now() + OVERDUE_AFTER, OVERDUE_REPEATED);
    let begun = Instant::now();
    // Kept over failures: what counts is since when nothing got through.
    status.update(|status| {
        status.publishing_since.get_or_insert(begun);
    });
    loop {
        tokio::select! {
            biased;
            committed = &mut committing => {
                if committed.is_ok() {
                    acknowledged(status);
                }
                return committed;
            }
            _ = overdue.tick() => {
                let Some(since) = status.read().publishing_since else {
                    let waited_s = begun.elapsed().as_secs();
                    tracing::warn!(waited_s, "the disk of state.dir takes long to write: until it has, polls wait, and nothing is lost");
                    status.blame_disk("what Kafka has acknowledged is still being written".to_owned());
                    continue;
                };
                let waited_s = since.elapsed().as_secs();
                let trouble = cluster.trouble().unwrap_or_else(|| "no reason given".to_owned());
                tracing::warn!(waited_s, "Kafka does not acknowledge ({trouble}): until it does, polls wait, nothing is lost, and they go on by themselves");
                status.update(|status| status.sink_trouble = Some(trouble));
            }
        }
    }
}
