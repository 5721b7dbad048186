//! Reads a topic as any consumer would: for `tail`, and for the demo to show what arrived.
//!
//! It assigns the partitions itself and commits nothing, so it disturbs no consumer group.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer, StreamConsumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Message as _, OwnedMessage};
use rdkafka::{Offset, TopicPartitionList};

use super::client::{self, Context};
use super::{SinkError, trouble};
use crate::config;

const TIMEOUT: Duration = Duration::from_secs(10);

/// Where reading starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The oldest record that is kept.
    Beginning,
    /// Only what comes from now on.
    End,
}

/// A consumer of all partitions of a topic.
pub struct TopicReader {
    topic: String,
    consumer: Arc<StreamConsumer<Context>>,
    context: Context,
    partitions: usize,
    /// The partitions whose end was reached and from which nothing came since.
    at_end: HashSet<i32>,
}

impl TopicReader {
    /// Starts to read. Blocks for up to ten seconds a partition.
    pub fn open(kafka: &config::Kafka, topic: &str, from: From) -> Result<Self, SinkError> {
        let mut settings = client::settings(kafka)?;
        settings
            .set("group.id", "call-legs-reader")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_committed")
            .set("fetch.wait.max.ms", "100");
        let context = Context::new(kafka)?;
        let consumer: Arc<StreamConsumer<Context>> = client::create(&settings, &context)?;
        // Asked by a consumer of its own, whose news can be taken while nothing is read.
        let asker: Arc<BaseConsumer<Context>> = client::create(&settings, &context)?;
        let unavailable = |error| {
            client::take_news(&asker);
            context.unanswered(&error)
        };
        let metadata = asker.fetch_metadata(Some(topic), TIMEOUT).map_err(unavailable)?;
        let partitions: Vec<i32> =
            metadata.topics().iter().flat_map(|topic| topic.partitions()).map(|partition| partition.id()).collect();
        if partitions.is_empty() {
            return Err(SinkError::Refused(format!("topic {topic} does not exist, or this user may not read it")));
        }
        let mut assignment = TopicPartitionList::new();
        for partition in &partitions {
            let start = match from {
                From::Beginning => Offset::Beginning,
                // Resolved now: a record that comes while the consumer connects must not be missed.
                From::End => Offset::Offset(asker.fetch_watermarks(topic, *partition, TIMEOUT).map_err(unavailable)?.1),
            };
            assignment.add_partition_offset(topic, *partition, start).map_err(unavailable)?;
        }
        consumer.assign(&assignment).map_err(unavailable)?;
        Ok(Self { topic: topic.to_owned(), consumer, context, partitions: partitions.len(), at_end: HashSet::new() })
    }

    /// The next record, whenever it comes; `None` each time the ends of all partitions are reached.
    pub async fn next(&mut self) -> Result<Option<OwnedMessage>, SinkError> {
        loop {
            match self.consumer.recv().await {
                Ok(message) => {
                    self.at_end.remove(&message.partition());
                    return Ok(Some(message.detach()));
                }
                Err(KafkaError::PartitionEOF(partition)) => {
                    if self.at_end.insert(partition) && self.at_end.len() == self.partitions {
                        return Ok(None);
                    }
                }
                Err(error)
                    if self.context.trouble.is_refusal()
                        || error.rdkafka_error_code().is_some_and(trouble::is_refusal) =>
                {
                    return Err(SinkError::Refused(format!(
                        "topic {}: Kafka does not let this user read it: grant READ on it",
                        self.topic
                    )));
                }
                // librdkafka reconnects by itself.
                Err(error) => tracing::debug!(%error, "waiting for Kafka"),
            }
        }
    }
}

/// The record's key as text, empty when it has none.
pub fn key_text(message: &OwnedMessage) -> String {
    String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned()
}
