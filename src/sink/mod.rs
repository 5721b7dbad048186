//! Kafka out: messages that count as sent only once the brokers have acknowledged them.
//!
//! A sink takes a batch and tries once; whether and when to try again is the caller's decision.

pub mod client;
mod producer;
pub mod reader;
pub mod topics;

use std::future::Future;

pub use producer::KafkaSink;

use crate::core::dead_letter::Reason;
use crate::core::time::UtcMillis;

/// To which of the connector's topics a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The legs.
    Legs,
    /// Rows that cannot be legs.
    DeadLetters,
}

/// What Kafka is to store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where to.
    pub destination: Destination,
    /// Chooses the partition.
    pub key: Vec<u8>,
    /// The value.
    pub payload: Vec<u8>,
    /// The record's timestamp.
    pub timestamp: UtcMillis,
    /// Name and bytes of each header.
    pub headers: Vec<(&'static str, Vec<u8>)>,
}

impl Message {
    /// An upper bound of what the message takes in a record batch of its own, in bytes.
    pub fn size_bytes(&self) -> usize {
        // A batch header takes 61 bytes, a record's own lengths and deltas at most some 36.
        const OVERHEAD: usize = 100;
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len() + 10).sum();
        OVERHEAD + self.key.len() + self.payload.len() + headers
    }
}

/// What became of a batch. A message named in neither list is stored and acknowledged.
#[derive(Debug, Default)]
pub struct Sent {
    /// The positions of messages that the brokers refuse for their content, and why.
    pub refused: Vec<(usize, Reason)>,
    /// The positions of messages that are to be sent again; they may be stored or not.
    pub failed: Vec<usize>,
    /// Why, when any failed.
    pub error: Option<SinkError>,
}

/// Where messages go: Kafka, or a simulation of it.
pub trait Sink: Send + Sync + 'static {
    /// Sends a batch and waits, for as long as it takes, until the fate of every message is known.
    fn publish(&self, batch: &[Message]) -> impl Future<Output = Sent> + Send;

    /// The newest trouble with the brokers, in words for an operator.
    fn trouble(&self) -> Option<String>;

    /// The largest [`Message::size_bytes`] that a destination takes.
    fn message_bytes_max(&self, destination: Destination) -> usize;
}

/// Why messages could not be sent or topics not be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SinkError {
    /// Worth trying again; the brokers are away or busy.
    #[error("{0}")]
    Unavailable(String),
    /// An operator has to mend something.
    #[error("{0}")]
    Refused(String),
}
