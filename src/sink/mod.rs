//! Kafka out, and back in: producers, ends of partitions, committed records.
//!
//! What is here does one thing at a time and tries once. What the steps add up to (who may write,
//! what belongs into one transaction, what follows a doubtful answer) is decided in `connector`,
//! so that a simulated cluster can stand in for Kafka below it.

pub mod client;
mod cluster;
mod committed;
mod producer;
pub mod reader;
pub mod rights;
mod sign_in;
pub mod topics;
mod trouble;

use std::future::Future;

use bytes::Bytes;
use tokio::task::JoinError;

pub use cluster::KafkaCluster;
pub use committed::KafkaReader;
pub use producer::KafkaProducer;

use crate::core::dead_letter::Reason;
use crate::core::journal::{Delivery, OutTopic};
use crate::core::time::UtcMillis;
use crate::panics;

/// One of the connector's topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Destination {
    /// The legs.
    Legs,
    /// Rows that cannot be legs.
    DeadLetters,
    /// The feed: one record a unit, for consumers.
    Status,
    /// The connector's own: one partition.
    Journal,
}

impl From<OutTopic> for Destination {
    fn from(topic: OutTopic) -> Self {
        match topic {
            OutTopic::Legs => Self::Legs,
            OutTopic::DeadLetters => Self::DeadLetters,
        }
    }
}

/// What Kafka is to store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where to.
    pub destination: Destination,
    /// Chooses the partition.
    pub key: Bytes,
    /// The value; `None` deletes the key in a compacted topic.
    pub payload: Option<Bytes>,
    /// The record's timestamp; `None` for the time of sending.
    pub timestamp: Option<UtcMillis>,
    /// Name and bytes of each header.
    pub headers: Vec<(&'static str, Bytes)>,
}

impl Message {
    /// A record of the journal.
    pub fn journal(key: Vec<u8>, payload: Option<Vec<u8>>) -> Self {
        let (key, payload) = (key.into(), payload.map(Bytes::from));
        Self { destination: Destination::Journal, key, payload, timestamp: None, headers: Vec::new() }
    }

    /// An upper bound of what the message takes in a record batch of its own, in bytes.
    pub fn size_bytes(&self) -> usize {
        // A batch header takes 61 bytes, a record's own lengths and deltas at most some 36.
        const OVERHEAD: usize = 100;
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len() + 10).sum();
        OVERHEAD + self.key.len() + self.payload.as_ref().map_or(0, Bytes::len) + headers
    }
}

/// Where an acknowledged message lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The partition.
    pub partition: i32,
    /// The offset in it.
    pub offset: i64,
}

/// A record as a reader of committed records gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    /// Where it lies.
    pub place: Place,
    /// Its key, empty when it has none.
    pub key: Vec<u8>,
    /// Its value.
    pub payload: Option<Vec<u8>>,
    /// Its timestamp.
    pub timestamp: UtcMillis,
    /// Its headers.
    pub headers: Vec<(String, Vec<u8>)>,
}

impl StoredRecord {
    /// The value of the first header called `name`.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_slice())
    }
}

/// Where a partition begins and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The partition.
    pub partition: i32,
    /// The first offset that is kept.
    pub low: i64,
    /// The last stable offset: below it no transaction is open.
    pub stable: i64,
    /// The high watermark: below it everything is replicated, open transactions among it.
    pub high: i64,
}

/// What is to be read of a partition: `[from, until)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The partition.
    pub partition: i32,
    /// The first offset; where it is no longer kept, reading starts with the first that is.
    pub from: i64,
    /// The first offset that is not wanted.
    pub until: i64,
}

/// Kafka, or a simulation of it.
pub trait Cluster: Send + Sync + 'static {
    /// See [`Producer`].
    type Producer: Producer;
    /// See [`Reader`].
    type Reader: Reader;

    /// The cluster's id.
    fn id(&self) -> impl Future<Output = Result<String, SinkError>> + Send;

    /// A new producer.
    ///
    /// With [`Delivery::ExactlyOnce`] it has the journal's transactional id: it fences every producer
    /// before it and returns when their open transaction is decided and its markers are written.
    fn producer(&self, delivery: Delivery) -> impl Future<Output = Result<Self::Producer, SinkError>> + Send;

    /// The ends of every partition of a topic, by partition.
    fn ends(&self, destination: Destination) -> impl Future<Output = Result<Vec<Ends>, SinkError>> + Send;

    /// Reads committed records of a topic.
    ///
    /// A stretch whose `until` lies beyond the last stable offset is waited for.
    fn read(
        &self,
        destination: Destination,
        stretches: Vec<Stretch>,
    ) -> impl Future<Output = Result<Self::Reader, SinkError>> + Send;

    /// The newest trouble with the brokers, in words for an operator.
    fn trouble(&self) -> Option<String>;

    /// The largest [`Message::size_bytes`] that a destination takes.
    fn message_bytes_max(&self, destination: Destination) -> usize;

    /// Whether a destination takes a record with this timestamp, at this time, beyond doubt about a minute.
    fn takes_timestamp(&self, destination: Destination, timestamp: UtcMillis, now: UtcMillis) -> bool;
}

/// Reads stretches to their ends.
pub trait Reader: Send {
    /// The next committed records, at least one, in the order of each partition; `None` once every
    /// stretch was read: its position is at its `until` or beyond, whatever lay before.
    fn next(&mut self) -> impl Future<Output = Result<Option<Vec<StoredRecord>>, SinkError>> + Send;
}

/// Writes. With transactions, anything but a clean answer leaves a producer that is to be dropped.
pub trait Producer: Send + Sync + 'static {
    /// Begins a transaction; nothing in at-least-once mode.
    fn begin(&mut self) -> impl Future<Output = Result<(), ProducerError>> + Send;

    /// Hands a message over within a transaction, and waits for nothing: the commit does.
    fn hand_over(&mut self, message: &Message) -> impl Future<Output = Result<(), ProducerError>> + Send;

    /// Sends a batch and waits, for as long as it takes, until every message is acknowledged.
    /// Gives each message's place. `packing` says whether messages may share a record batch; where they
    /// may not, sending stops at the first that is refused.
    fn send(
        &mut self,
        batch: &[Message],
        packing: Packing,
    ) -> impl Future<Output = Result<Vec<Place>, ProducerError>> + Send;

    /// Commits the transaction, when nothing is in flight; nothing in at-least-once mode.
    fn commit(&mut self) -> impl Future<Output = Result<(), ProducerError>> + Send;

    /// For a test of the cluster and for mutants only: aborts the transaction.
    #[cfg(feature = "test-hooks")]
    fn abort(&mut self) -> impl Future<Output = Result<(), ProducerError>> + Send;
}

/// How messages are packed into record batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// As is fastest.
    Shared,
    /// One message a record batch, so that brokers that refuse one refuse no other.
    Alone,
}

/// Why a producer did not do as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProducerError {
    /// A newer producer has taken the transactional id, or the brokers gave the transaction up.
    #[error("the transaction was fenced ({0})")]
    Fenced(String),
    /// Messages were refused for their content: their positions in the batch, as far as they are known.
    /// Brokers refuse a record batch whole: with [`Packing::Shared`] only what is too large is known,
    /// and the list may be empty; with [`Packing::Alone`] it is exactly the one that was refused. What
    /// became of the other messages is as doubtful as ever.
    #[error("Kafka refuses {} records for their content", .0.len())]
    Content(Vec<(usize, Reason)>),
    /// What became of the transaction is unknown, or it is known to have failed.
    #[error("{0}")]
    Doubtful(SinkError),
}

/// Why messages could not be sent or topics not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SinkError {
    /// Worth trying again; the brokers are away or busy.
    #[error("{0}")]
    Unavailable(String),
    /// An operator has to mend something.
    #[error("{0}")]
    Refused(String),
    /// The cluster has no transactions, or this user may not use them.
    #[error("{0}")]
    NoTransactions(String),
}

impl From<JoinError> for SinkError {
    fn from(ended: JoinError) -> Self {
        Self::Unavailable(format!("a thread that asked Kafka has ended: {}", panics::why(&ended)))
    }
}
