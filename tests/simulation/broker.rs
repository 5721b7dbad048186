//! The broker's side of Kafka, without network and without time: partitions, one transactional id and its coordinator.
//!
//! It speaks the transaction protocol before KIP-890 part 2, as librdkafka does, so that the copies of one `EndTxn`
//! cannot be told from the next transaction's (KAFKA-17754), with KIP-890 part 1 (a write to a partition that is in no
//! transaction is refused).
//!
//! ```text
//!            add_partitions              end                    last marker
//!   Empty ─────────────────▶ Ongoing ──────────▶ Prepared ──────────────────▶ Complete
//!     ▲                         │ init, time-out    ▲                            │ add_partitions ─▶ Ongoing
//!     └─────────── init ────────┴─(epoch + 1, abort)┘                     init ──┴─▶ Empty (epoch + 1)
//! ```
//!
//! Nothing here is read by the checks but [`Broker::history`] and the raw partitions. Delays, losses and retries are
//! `cluster`'s.

use std::collections::{BTreeMap, BTreeSet};

use call_legs::core::time::UtcMillis;
use call_legs::sink::{Destination, Ends, Message, Place, StoredRecord};

/// A point in the order of everything that a broker did.
pub(crate) type Event = u64;

/// Who wrote, as the broker knows and the record does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Writer {
    /// The incarnation of a process.
    pub(crate) life: u32,
    /// The producer's number; producers are counted in the order of their creation.
    pub(crate) producer: u64,
}

/// What stands at an offset.
#[derive(Clone, Debug)]
pub(crate) enum Slot {
    /// A record.
    Record(Box<Stored>),
    /// The end of a transaction in this partition.
    Marker {
        /// Which.
        #[expect(dead_code, reason = "for whoever prints a log")]
        transaction: u64,
        /// Whether it was committed.
        #[expect(dead_code, reason = "for whoever prints a log")]
        is_commit: bool,
    },
}

/// A record in a partition.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    /// What was sent.
    pub(crate) message: Message,
    /// When, by the broker's clock.
    pub(crate) at: UtcMillis,
    /// Its place in the broker's order.
    pub(crate) event: Event,
    /// Who sent it.
    pub(crate) writer: Writer,
    /// Its transaction; `None` for one that was not sent in any.
    pub(crate) transaction: Option<u64>,
}

/// A log.
#[derive(Debug, Default)]
pub(crate) struct Partition {
    /// By offset; kept for the checks also where readers get them no longer.
    pub(crate) slots: Vec<Slot>,
    /// The first offset that is kept.
    pub(crate) low: i64,
    /// The first offset of the transaction that has no marker here yet.
    open: Option<i64>,
    /// For readers: from a transaction's first offset to its abort marker.
    aborted: Vec<(i64, i64)>,
    compacted: BTreeSet<i64>,
}

impl Partition {
    /// The offset after the last one.
    pub(crate) fn high(&self) -> i64 {
        self.slots.len() as i64
    }

    /// The first offset that a reader of committed records may not pass.
    pub(crate) fn stable(&self) -> i64 {
        self.open.unwrap_or_else(|| self.high())
    }

    /// The record at `offset`.
    pub(crate) fn record(&self, offset: i64) -> Option<&Stored> {
        match self.slots.get(usize::try_from(offset).ok()?)? {
            Slot::Record(stored) => Some(stored),
            Slot::Marker { .. } => None,
        }
    }
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Undecided.
    Open,
    /// Committed, though some markers may still be on their way.
    Committed,
    /// Aborted.
    Aborted,
}

/// A transaction.
#[derive(Clone, Debug)]
pub(crate) struct Transaction {
    /// The epoch of its producer.
    #[expect(dead_code, reason = "for whoever prints it")]
    pub(crate) epoch: i32,
    /// Who began it.
    #[expect(dead_code, reason = "for whoever prints it")]
    pub(crate) writer: Writer,
    /// What became of it.
    pub(crate) fate: Fate,
    /// When that was decided.
    pub(crate) decided: Option<Event>,
    /// Partitions whose marker is not written yet.
    pub(crate) unmarked: BTreeSet<(Destination, i32)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Empty,
    Ongoing,
    Prepared,
    Complete { is_commit: bool },
}

/// Why the broker does not do as asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// `INVALID_PRODUCER_EPOCH`, `PRODUCER_FENCED`.
    Fenced,
    /// `CONCURRENT_TRANSACTIONS`: to be tried again.
    Concurrent,
    /// `INVALID_TXN_STATE`.
    InvalidState,
    /// `INVALID_RECORD`.
    Content,
}

/// Something that the checks want to know and that no record tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Happened {
    /// A producer got its epoch.
    Init(Writer),
    /// A producer learnt that it is fenced.
    ToldFenced(Writer),
    /// A life asked where a topic ends.
    AskedEnds(u32, Destination),
    /// A life began to read.
    ReadBegun(u32, Destination, u64),
    /// It got to the end of what it wanted to read.
    ReadDone(u32, Destination, u64),
    /// It gave up.
    ReadDropped(u32, Destination, u64),
    /// A producer's call began (`true`) or ended.
    Call(Writer, bool),
    /// A life was stopped or resumed from outside.
    Paused(u32),
    /// What belongs together is committed or given up.
    Closed(Writer),
}

/// How true a cluster's transactions are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flavor {
    /// Apache Kafka.
    Kafka,
    /// Answers everything and keeps nothing: all is visible at once and nobody is fenced.
    Pretends,
    /// Refuses a transactional id.
    NoTransactions,
}

/// All brokers of a cluster as one.
pub(crate) struct Broker {
    /// Every partition of every topic.
    pub(crate) partitions: BTreeMap<(Destination, i32), Partition>,
    /// Every transaction by its number.
    pub(crate) transactions: BTreeMap<u64, Transaction>,
    /// What happened beside the records.
    pub(crate) history: Vec<(Event, UtcMillis, Happened)>,
    /// The true time, set by whoever comes to the brokers.
    pub(crate) now: UtcMillis,
    /// Transactions that were begun and whose time-out nobody watches yet.
    pub(crate) unwatched: Vec<u64>,
    /// Transactions that were decided and whose markers nobody writes yet.
    pub(crate) undelivered: Vec<u64>,
    /// Whether they find anything invalid at all.
    pub(crate) is_picky: bool,
    flavor: Flavor,
    epoch: i32,
    phase: Phase,
    current: u64,
    producers: u64,
    events: Event,
    /// Idempotence: what became of the batches, by the producer's own number for each.
    batches: BTreeMap<(u64, u64), Vec<Place>>,
}

impl Broker {
    /// An empty cluster whose topics of legs and of dead letters have so many partitions.
    pub(crate) fn new(flavor: Flavor, legs: i32, dead: i32) -> Self {
        let topics = [
            (Destination::Legs, legs),
            (Destination::DeadLetters, dead),
            (Destination::Status, 1),
            (Destination::Journal, 1),
        ];
        let partitions = topics
            .into_iter()
            .flat_map(|(topic, count)| (0..count).map(move |number| ((topic, number), Partition::default())))
            .collect();
        Self {
            partitions,
            transactions: BTreeMap::new(),
            history: Vec::new(),
            now: UtcMillis::default(),
            unwatched: Vec::new(),
            undelivered: Vec::new(),
            is_picky: true,
            flavor,
            epoch: -1,
            phase: Phase::Empty,
            current: 0,
            producers: 0,
            events: 0,
            batches: BTreeMap::new(),
        }
    }

    /// How true its transactions are.
    pub(crate) fn flavor(&self) -> Flavor {
        self.flavor
    }

    /// The number of everything that happened so far.
    pub(crate) fn events(&self) -> Event {
        self.events
    }

    /// Notes something for the checks.
    pub(crate) fn note(&mut self, what: Happened) {
        let event = self.next_event();
        self.history.push((event, self.now, what));
    }

    fn next_event(&mut self) -> Event {
        self.events += 1;
        self.events
    }

    /// A number for a new producer.
    pub(crate) fn next_producer(&mut self) -> u64 {
        self.producers += 1;
        self.producers
    }

    /// `InitProducerId`: fences everyone before and gives the epoch; to be tried again until what was open is decided.
    pub(crate) fn init(&mut self, writer: Writer) -> Result<i32, Refusal> {
        match self.phase {
            Phase::Prepared => Err(Refusal::Concurrent),
            Phase::Ongoing if self.flavor == Flavor::Kafka => {
                self.epoch += 1;
                self.prepare(false);
                Err(Refusal::Concurrent)
            }
            Phase::Ongoing | Phase::Empty | Phase::Complete { .. } => {
                self.epoch += 1;
                self.phase = Phase::Empty;
                self.note(Happened::Init(writer));
                Ok(self.epoch)
            }
        }
    }

    fn is_current(&self, epoch: i32) -> Result<(), Refusal> {
        if epoch == self.epoch || self.flavor != Flavor::Kafka { Ok(()) } else { Err(Refusal::Fenced) }
    }

    /// `AddPartitionsToTxn`: begins a transaction where none is.
    pub(crate) fn add_partitions(
        &mut self,
        writer: Writer,
        epoch: i32,
        partitions: &BTreeSet<(Destination, i32)>,
    ) -> Result<(), Refusal> {
        self.is_current(epoch)?;
        match self.phase {
            Phase::Prepared => return Err(Refusal::Concurrent),
            Phase::Ongoing => {}
            Phase::Empty | Phase::Complete { .. } => {
                self.current += 1;
                self.phase = Phase::Ongoing;
                let begun = Transaction { epoch, writer, fate: Fate::Open, decided: None, unmarked: BTreeSet::new() };
                self.transactions.insert(self.current, begun);
                self.unwatched.push(self.current);
            }
        }
        if let Some(transaction) = self.transactions.get_mut(&self.current) {
            transaction.unmarked.extend(partitions.iter().copied());
        }
        Ok(())
    }

    /// `Produce` in a transaction; `batch` is the producer's own number for this batch, whose copies count once.
    pub(crate) fn produce(
        &mut self,
        writer: Writer,
        epoch: i32,
        batch: u64,
        partition: (Destination, i32),
        messages: &[Message],
    ) -> Result<Vec<Place>, Refusal> {
        self.is_current(epoch)?;
        if let Some(places) = self.batches.get(&(writer.producer, batch)) {
            return Ok(places.clone());
        }
        let is_in = self.transactions.get(&self.current).is_some_and(|open| open.unmarked.contains(&partition));
        if self.phase != Phase::Ongoing || !is_in {
            return Err(Refusal::InvalidState);
        }
        self.append(writer, Some(self.current), batch, partition, messages)
    }

    /// `Produce` without a transaction.
    pub(crate) fn produce_plain(
        &mut self,
        writer: Writer,
        batch: u64,
        partition: (Destination, i32),
        messages: &[Message],
    ) -> Result<Vec<Place>, Refusal> {
        if let Some(places) = self.batches.get(&(writer.producer, batch)) {
            return Ok(places.clone());
        }
        self.append(writer, None, batch, partition, messages)
    }

    fn append(
        &mut self,
        writer: Writer,
        transaction: Option<u64>,
        batch: u64,
        partition: (Destination, i32),
        messages: &[Message],
    ) -> Result<Vec<Place>, Refusal> {
        if self.is_picky && messages.iter().any(is_poisoned) {
            return Err(Refusal::Content);
        }
        // A cluster that only pretends lets everything be seen at once.
        let transaction = transaction.filter(|_| self.flavor == Flavor::Kafka);
        let mut places = Vec::with_capacity(messages.len());
        for message in messages {
            let event = self.next_event();
            let Some(log) = self.partitions.get_mut(&partition) else { return Err(Refusal::InvalidState) };
            let offset = log.high();
            if transaction.is_some() {
                log.open.get_or_insert(offset);
            }
            log.slots.push(Slot::Record(Box::new(Stored {
                message: message.clone(),
                at: self.now,
                event,
                writer,
                transaction,
            })));
            places.push(Place { partition: partition.1, offset });
        }
        self.batches.insert((writer.producer, batch), places.clone());
        Ok(places)
    }

    /// `EndTxn`. Nothing in it says which transaction is meant.
    pub(crate) fn end(&mut self, epoch: i32, is_commit: bool) -> Result<(), Refusal> {
        self.is_current(epoch)?;
        match self.phase {
            _ if self.flavor != Flavor::Kafka => Ok(()),
            Phase::Ongoing => {
                self.prepare(is_commit);
                Ok(())
            }
            Phase::Prepared if self.transactions[&self.current].fate == fate(is_commit) => Err(Refusal::Concurrent),
            Phase::Complete { is_commit: was } if was == is_commit => Ok(()),
            Phase::Prepared | Phase::Complete { .. } | Phase::Empty => Err(Refusal::InvalidState),
        }
    }

    /// The coordinator loses patience with a transaction.
    pub(crate) fn time_out(&mut self, transaction: u64) {
        if self.phase == Phase::Ongoing && self.current == transaction {
            self.epoch += 1;
            self.prepare(false);
        }
    }

    /// Whether a transaction is still open.
    pub(crate) fn is_open(&self, transaction: u64) -> bool {
        self.phase == Phase::Ongoing && self.current == transaction
    }

    fn prepare(&mut self, is_commit: bool) {
        let decided = self.next_event();
        self.phase = Phase::Prepared;
        if let Some(transaction) = self.transactions.get_mut(&self.current) {
            transaction.fate = fate(is_commit);
            transaction.decided = Some(decided);
        }
        self.undelivered.push(self.current);
    }

    /// Writes the marker of a decided transaction into a partition; the last one completes it.
    pub(crate) fn mark(&mut self, number: u64, partition: (Destination, i32)) {
        let Some(transaction) = self.transactions.get_mut(&number) else { return };
        if transaction.fate == Fate::Open || !transaction.unmarked.remove(&partition) {
            return;
        }
        let is_commit = transaction.fate == Fate::Committed;
        let is_complete = transaction.unmarked.is_empty();
        if let Some(log) = self.partitions.get_mut(&partition) {
            let offset = log.high();
            log.slots.push(Slot::Marker { transaction: number, is_commit });
            if let Some(first) = log.open.take()
                && !is_commit
            {
                log.aborted.push((first, offset));
            }
        }
        self.next_event();
        if is_complete {
            self.phase = Phase::Complete { is_commit };
        }
    }

    /// The ends of a topic's partitions.
    pub(crate) fn ends(&self, topic: Destination) -> Vec<Ends> {
        self.of(topic)
            .map(|(partition, log)| Ends { partition, low: log.low, stable: log.stable(), high: log.high() })
            .collect()
    }

    /// A topic's partitions.
    pub(crate) fn of(&self, topic: Destination) -> impl Iterator<Item = (i32, &Partition)> {
        self.partitions.range((topic, 0)..=(topic, i32::MAX)).map(|((_, number), log)| (*number, log))
    }

    /// A topic's partition for a key.
    pub(crate) fn partition_for(&self, topic: Destination, key: &[u8]) -> (Destination, i32) {
        let hash = key.iter().fold(0xcbf2_9ce4_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
        let count = self.of(topic).count().max(1) as u32;
        (topic, i32::try_from((hash >> 8) % count).unwrap_or(0))
    }

    /// `Fetch` with `isolation.level=read_committed`: at most `limit` records of `[from, until)`, and where to go on.
    ///
    /// It works as a consumer does, from the list of aborted stretches and the last stable offset, not from
    /// [`Transaction::fate`].
    pub(crate) fn fetch(
        &self,
        partition: (Destination, i32),
        from: i64,
        until: i64,
        limit: usize,
    ) -> (Vec<StoredRecord>, i64) {
        let Some(log) = self.partitions.get(&partition) else { return (Vec::new(), from) };
        let mut position = from.max(log.low);
        let mut records = Vec::new();
        while position < log.stable().min(until) && records.len() < limit {
            let offset = position;
            position += 1;
            let Some(stored) = log.record(offset) else { continue };
            let is_aborted = stored.transaction.is_some()
                && log.aborted.iter().any(|(first, marker)| (*first..*marker).contains(&offset));
            if is_aborted || log.compacted.contains(&offset) {
                continue;
            }
            records.push(StoredRecord {
                place: Place { partition: partition.1, offset },
                key: stored.message.key.to_vec(),
                payload: stored.message.payload.as_deref().map(<[u8]>::to_vec),
                timestamp: stored.message.timestamp.unwrap_or(stored.at),
                headers: stored
                    .message
                    .headers
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), value.to_vec()))
                    .collect(),
            });
        }
        (records, position)
    }

    /// Compaction of a partition's first `upto` offsets: what a newer record of the same key replaces is gone, and
    /// deletions older than `deleted_before` too.
    pub(crate) fn compact(&mut self, partition: (Destination, i32), upto: i64, deleted_before: UtcMillis) {
        let Self { partitions, transactions, .. } = self;
        let Some(log) = partitions.get_mut(&partition) else { return };
        let upto = upto.min(log.stable());
        let is_committed =
            |stored: &Stored| stored.transaction.is_none_or(|number| transactions[&number].fate == Fate::Committed);
        let mut newest: BTreeMap<&[u8], i64> = BTreeMap::new();
        for offset in 0..upto {
            if let Some(stored) = log.record(offset).filter(|stored| is_committed(stored)) {
                newest.insert(&stored.message.key, offset);
            }
        }
        let gone: Vec<i64> = (0..upto)
            .filter(|offset| {
                log.record(*offset).is_some_and(|stored| {
                    !is_committed(stored)
                        || newest.get(&*stored.message.key) != Some(offset)
                        || (stored.message.payload.is_none() && stored.at < deleted_before)
                })
            })
            .collect();
        log.compacted.extend(gone);
    }

    /// Whether a record's transaction is decided for it; always, where it has none.
    pub(crate) fn is_committed(&self, stored: &Stored) -> bool {
        stored.transaction.is_none_or(|number| self.transactions[&number].fate == Fate::Committed)
    }

    /// Whether every decision has reached every partition and nothing is open.
    pub(crate) fn is_settled(&self) -> bool {
        !matches!(self.phase, Phase::Ongoing | Phase::Prepared) || self.flavor != Flavor::Kafka
    }
}

fn fate(is_commit: bool) -> Fate {
    if is_commit { Fate::Committed } else { Fate::Aborted }
}

/// What the brokers find invalid: legs of calls whose number starts so.
pub(crate) const POISON: &[u8] = b"666";

/// Whether the brokers refuse a message for its content.
pub(crate) fn is_poisoned(message: &Message) -> bool {
    message.destination == Destination::Legs && message.key.starts_with(POISON)
}
