//! The producer: idempotent, acknowledged by all replicas, bounded in flight.
//!
//! Batches are waited for by counting delivery reports, not by one future a message. Time-outs of
//! single messages are off: the producer keeps a message, and with it the guarantee that a retry is
//! stored once, for as long as the brokers are away.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use tokio::sync::Notify;

use super::client::{self, Context};
use super::topics::Topics;
use super::{Destination, Message, Sent, Sink, SinkError};
use crate::config;
use crate::core::dead_letter::Reason;

/// How many messages librdkafka may hold; more have to wait, and with them the pages behind.
const QUEUED_MESSAGES_MAX: &str = "20000";
/// How many KiB of messages librdkafka may hold.
const QUEUED_KIB_MAX: &str = "65536";
/// librdkafka's own default.
const BATCH_BYTES_MAX: usize = 1_000_000;
/// How long to wait for room in librdkafka's queue before looking again.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(5);

/// Publishes to the legs' topic and the dead letters'.
pub struct KafkaSink {
    settings: ClientConfig,
    topics: Topics,
    timestamp: config::MessageTimestamp,
    producer: Mutex<Option<ThreadedProducer<Reports>>>,
}

impl KafkaSink {
    /// A sink to `topics`; the producer connects in its own time.
    pub fn new(kafka: &config::Kafka, topics: Topics) -> Result<Self, SinkError> {
        let mut settings = ClientConfig::new();
        settings
            .set("compression.type", "zstd")
            .set("linger.ms", "5")
            .set("queue.buffering.max.messages", QUEUED_MESSAGES_MAX)
            .set("queue.buffering.max.kbytes", QUEUED_KIB_MAX);
        for (name, value) in client::settings(kafka)?.config_map() {
            settings.set(name, value);
        }
        settings
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("message.timeout.ms", "0")
            // As Java's clients partition, so that joins on callId meet.
            .set("partitioner", "murmur2_random")
            // librdkafka does not split: a batch that is larger than a topic takes is refused whole.
            .set("batch.size", topics.message_bytes_min().min(BATCH_BYTES_MAX).to_string())
            .set("message.max.bytes", topics.message_bytes_max().to_string())
            .set_log_level(RDKafkaLogLevel::Info);
        let sink = Self { settings, topics, timestamp: kafka.timestamp, producer: Mutex::new(None) };
        drop(sink.connected()?);
        Ok(sink)
    }

    fn slot(&self) -> MutexGuard<'_, Option<ThreadedProducer<Reports>>> {
        self.producer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The producer, a new one where the last was given up.
    fn connected(&self) -> Result<ThreadedProducer<Reports>, SinkError> {
        let mut slot = self.slot();
        if let Some(producer) = &*slot {
            return Ok(producer.clone());
        }
        let producer =
            ThreadedProducer::from_config_and_context(&self.settings, Reports::default()).map_err(client::refused)?;
        Ok(slot.insert(producer).clone())
    }

    /// Gives the producer up; what it still holds is not sent.
    fn give_up(&self) {
        let producer = self.slot().take();
        // Its end waits for its threads, which may be busy resolving names: nothing for an async worker.
        std::thread::spawn(move || drop(producer));
    }

    fn topic(&self, destination: Destination) -> &str {
        match destination {
            Destination::Legs => &self.topics.legs.name,
            Destination::DeadLetters => &self.topics.dead_letters.name,
        }
    }
}

impl Drop for KafkaSink {
    fn drop(&mut self) {
        self.give_up();
    }
}

impl Sink for KafkaSink {
    async fn publish(&self, batch: &[Message]) -> Sent {
        let mut sent = Sent::default();
        let mut pending: Vec<usize> = (0..batch.len()).collect();
        while !pending.is_empty() {
            let mut suspects = Vec::new();
            let mut innocents = Vec::new();
            for (position, code) in self.send(batch, &pending, &mut sent).await {
                match code {
                    RDKafkaErrorCode::InvalidDifferentRecord => innocents.push(position),
                    _ => suspects.push(position),
                }
            }
            // Brokers refuse whole record batches, and not all of them say which record is guilty.
            // Sent alone, only the guilty one is refused.
            if innocents.len() == pending.len() {
                suspects.append(&mut innocents);
            }
            for position in suspects {
                for (position, code) in self.send(batch, &[position], &mut sent).await {
                    sent.refused.push((position, content_fault(code).unwrap_or(Reason::Invalid)));
                }
            }
            pending = innocents;
        }
        if sent.error.is_some() {
            self.give_up();
        }
        sent
    }

    fn trouble(&self) -> Option<String> {
        let slot = self.slot();
        slot.as_ref()?.context().client.trouble.newest().map(|(_, reason)| reason)
    }

    fn message_bytes_max(&self, destination: Destination) -> usize {
        match destination {
            Destination::Legs => self.topics.legs.message_bytes_max,
            Destination::DeadLetters => self.topics.dead_letters.message_bytes_max,
        }
    }
}

impl KafkaSink {
    /// Sends the messages at `positions`, waits for all reports, and gives those whose record batch
    /// was refused for the content of a record in it; all other failures are added to `sent`.
    async fn send(&self, batch: &[Message], positions: &[usize], sent: &mut Sent) -> Vec<(usize, RDKafkaErrorCode)> {
        let producer = match self.connected() {
            Ok(producer) => producer,
            Err(error) => {
                sent.failed.extend(positions);
                sent.error = Some(error);
                return Vec::new();
            }
        };
        let reports = Arc::new(BatchReports::new(positions.len()));
        for &position in positions {
            let mut record = self.record(&batch[position], Delivery { reports: Arc::clone(&reports), position });
            while let Err((error, returned)) = producer.send(record) {
                match error.rdkafka_error_code() {
                    Some(RDKafkaErrorCode::QueueFull) => tokio::time::sleep(QUEUE_FULL_PAUSE).await,
                    code => {
                        reports.report(position, Some(code.unwrap_or(RDKafkaErrorCode::Fail)));
                        break;
                    }
                }
                record = returned;
            }
        }
        let (about_content, failed): (Vec<_>, Vec<_>) =
            reports.all().await.into_iter().partition(|(_, code)| is_about_content(*code));
        if let Some((_, code)) = failed.first() {
            let what = format!("Kafka did not take {} of {} messages ({code})", failed.len(), positions.len());
            sent.error = Some(if is_lasting(*code) { SinkError::Refused(what) } else { SinkError::Unavailable(what) });
            sent.failed.extend(failed.iter().map(|(position, _)| *position));
        }
        about_content
    }

    fn record<'a>(&'a self, message: &'a Message, delivery: Delivery) -> BaseRecord<'a, [u8], [u8], Box<Delivery>> {
        let headers = message
            .headers
            .iter()
            .fold(OwnedHeaders::new_with_capacity(message.headers.len()), |headers, (key, value)| {
                headers.insert(Header { key, value: Some(value) })
            });
        let record = BaseRecord::with_opaque_to(self.topic(message.destination), Box::new(delivery))
            .key(message.key.as_slice())
            .payload(message.payload.as_slice())
            .headers(headers);
        match self.timestamp {
            config::MessageTimestamp::Disconnect => record.timestamp(message.timestamp.as_millis()),
            config::MessageTimestamp::Publish => record,
        }
    }
}

/// Whether a record batch was refused for what is in it.
fn is_about_content(code: RDKafkaErrorCode) -> bool {
    code == RDKafkaErrorCode::InvalidDifferentRecord || content_fault(code).is_some()
}

/// What is wrong with a message that would be refused however often it is sent.
fn content_fault(code: RDKafkaErrorCode) -> Option<Reason> {
    match code {
        RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessageSize => Some(Reason::TooLarge),
        RDKafkaErrorCode::InvalidTimestamp => Some(Reason::Timestamp),
        RDKafkaErrorCode::InvalidRecord => Some(Reason::Invalid),
        _ => None,
    }
}

/// Refusals that only an operator can mend.
fn is_lasting(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{
        ClusterAuthorizationFailed, TopicAuthorizationFailed, UnknownTopic, UnknownTopicOrPartition,
    };
    matches!(code, ClusterAuthorizationFailed | TopicAuthorizationFailed | UnknownTopic | UnknownTopicOrPartition)
}

/// The delivery reports of one batch.
struct BatchReports {
    outstanding: AtomicUsize,
    failures: Mutex<Vec<(usize, RDKafkaErrorCode)>>,
    complete: Notify,
}

impl BatchReports {
    fn new(messages: usize) -> Self {
        Self { outstanding: AtomicUsize::new(messages), failures: Mutex::new(Vec::new()), complete: Notify::new() }
    }

    fn report(&self, position: usize, failure: Option<RDKafkaErrorCode>) {
        if let Some(code) = failure {
            self.failures.lock().unwrap_or_else(PoisonError::into_inner).push((position, code));
        }
        if self.outstanding.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.complete.notify_one();
        }
    }

    /// Waits for every report and gives the failures.
    async fn all(&self) -> Vec<(usize, RDKafkaErrorCode)> {
        while self.outstanding.load(Ordering::Acquire) > 0 {
            self.complete.notified().await;
        }
        std::mem::take(&mut self.failures.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Which message of which batch a delivery report is about.
struct Delivery {
    reports: Arc<BatchReports>,
    position: usize,
}

/// Hands delivery reports to the batches they belong to.
#[derive(Default)]
struct Reports {
    client: Context,
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.client.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.client.error(error, reason);
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<Delivery>;

    fn delivery(&self, result: &DeliveryResult<'_>, delivery: Self::DeliveryOpaque) {
        let failure =
            result.as_ref().err().map(|(error, _)| error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail));
        delivery.reports.report(delivery.position, failure);
    }
}
