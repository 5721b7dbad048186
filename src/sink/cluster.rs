//! The Kafka cluster: asks it for its id and the ends of partitions, and opens producers and readers.
//!
//! Two consumers are kept for the questions. Both are asked for ends, and only what they may see tells
//! their answers apart: a reader of committed records is told the last stable offset. They live on one
//! thread, since asking blocks and since librdkafka's news pile up in a client that nobody polls.

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use tokio::sync::oneshot;

use super::client::{self, Context};
use super::committed::KafkaReader;
use super::producer::{self, KafkaProducer};
use super::topics::Topics;
use super::trouble::{self, Trouble};
use super::{Cluster, Destination, Ends, SinkError, Stretch};
use crate::config;
use crate::core::journal::Delivery;
use crate::core::time::UtcMillis;
use crate::telemetry::KafkaFigures;

/// How long one question to the brokers may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long brokers may take to agree on a topic that was just created, or on a partition's new leader.
const SETTLE_WAIT_MAX: Duration = Duration::from_secs(10);
const SETTLE_POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How often the consumers are polled while nobody asks.
const IDLE_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// A real cluster.
pub struct KafkaCluster {
    kafka: config::Kafka,
    topics: Arc<Topics>,
    transactional_id: String,
    questions: mpsc::Sender<Question>,
    /// What the contexts of its clients are made from.
    context: Context,
    trouble: Trouble,
}

impl KafkaCluster {
    /// A cluster with these topics; its clients connect in their own time.
    pub fn new(kafka: &config::Kafka, topics: Topics) -> Result<Self, SinkError> {
        let trouble = Trouble::default();
        let context = Context::new(kafka)?;
        let askers = Askers::new(kafka, &context.within(&trouble), &trouble)?;
        let (questions, asked) = mpsc::channel::<Question>();
        thread::Builder::new()
            .name("kafka-questions".to_owned())
            .spawn({
                let (kafka, context, trouble) = (kafka.clone(), context.clone(), trouble.clone());
                move || askers.answer(&asked, &kafka, &context, &trouble)
            })
            .map_err(|error| SinkError::Unavailable(format!("questions to Kafka need a thread: {error}")))?;
        // Derived, so that nobody can configure two connectors to write one journal side by side.
        let transactional_id = transactional_id(&topics.journal.name);
        Ok(Self { kafka: kafka.clone(), topics: Arc::new(topics), transactional_id, questions, context, trouble })
    }

    /// What its producers tell.
    pub fn figures(&self) -> Arc<KafkaFigures> {
        self.context.figures()
    }

    /// The topics, with what was read of their limits.
    pub fn topics(&self) -> &Topics {
        &self.topics
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Askers) -> Result<T, SinkError> + Send + 'static,
    ) -> Result<T, SinkError> {
        let (reply, answered) = oneshot::channel();
        let question: Question = Box::new(move |askers| {
            // Whoever has stopped waiting keeps nobody else waiting.
            if !reply.is_closed() {
                let _ = reply.send(question(askers));
            }
        });
        // A thread that is gone drops the question, and with it the sender of its reply.
        let _ = self.questions.send(question);
        answered
            .await
            .unwrap_or_else(|_| Err(SinkError::Unavailable("the thread that asks Kafka has ended".to_owned())))
    }
}

impl Cluster for KafkaCluster {
    type Producer = KafkaProducer;
    type Reader = KafkaReader;

    async fn id(&self) -> Result<String, SinkError> {
        self.ask(|askers| {
            askers.uncommitted.client().fetch_cluster_id(TIMEOUT).ok_or_else(|| {
                askers.take_news();
                askers.uncommitted.context().failed("Kafka does not tell its cluster's id")
            })
        })
        .await
    }

    async fn producer(&self, delivery: Delivery) -> Result<KafkaProducer, SinkError> {
        let transactional_id = match delivery {
            Delivery::ExactlyOnce => Some(self.transactional_id.as_str()),
            Delivery::AtLeastOnce => None,
        };
        let settings = producer::settings(&self.kafka, &self.topics, transactional_id)?;
        KafkaProducer::start(settings, self.context.within(&self.trouble), Arc::clone(&self.topics)).await
    }

    async fn ends(&self, destination: Destination) -> Result<Vec<Ends>, SinkError> {
        let topics = Arc::clone(&self.topics);
        self.ask(move |askers| askers.ends(&topics.of(destination).name)).await
    }

    async fn read(&self, destination: Destination, stretches: Vec<Stretch>) -> Result<KafkaReader, SinkError> {
        let topic = self.topics.of(destination).name.clone();
        KafkaReader::open(client::settings(&self.kafka)?, self.context.within(&self.trouble), topic, stretches)
    }

    fn trouble(&self) -> Option<String> {
        self.trouble.newest()
    }

    fn message_bytes_max(&self, destination: Destination) -> usize {
        self.topics.of(destination).message_bytes_max
    }

    fn takes_timestamp(&self, destination: Destination, timestamp: UtcMillis, now: UtcMillis) -> bool {
        self.topics.of(destination).timestamps.take(timestamp, now)
    }
}

fn asker(kafka: &config::Kafka, isolation: &str, context: &Context) -> Result<Arc<BaseConsumer<Context>>, SinkError> {
    let mut settings = client::settings(kafka)?;
    settings.set("isolation.level", isolation);
    client::create(&settings, context)
}

type Question = Box<dyn FnOnce(&Askers) + Send>;

/// Whom to ask.
struct Askers {
    committed: Arc<BaseConsumer<Context>>,
    uncommitted: Arc<BaseConsumer<Context>>,
}

impl Askers {
    fn new(kafka: &config::Kafka, context: &Context, trouble: &Trouble) -> Result<Self, SinkError> {
        Ok(Self {
            committed: asker(kafka, "read_committed", &context.within(trouble))?,
            uncommitted: asker(kafka, "read_uncommitted", &context.within(trouble))?,
        })
    }

    /// Answers until nobody can ask any more.
    fn answer(
        mut self,
        questions: &mpsc::Receiver<Question>,
        kafka: &config::Kafka,
        context: &Context,
        trouble: &Trouble,
    ) {
        loop {
            match questions.recv_timeout(IDLE_POLL_INTERVAL) {
                Ok(question) => {
                    self.renew_if_kept_out(kafka, context, trouble);
                    question(&self);
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
            self.take_news();
        }
    }

    /// Makes consumers anew that cannot get in: librdkafka keeps the password and the certificates that it was
    /// given, whatever is in their files by now.
    fn renew_if_kept_out(&mut self, kafka: &config::Kafka, context: &Context, trouble: &Trouble) {
        if ![&self.committed, &self.uncommitted].iter().any(|consumer| consumer.context().trouble.is_kept_out()) {
            return;
        }
        match Self::new(kafka, context, trouble) {
            Ok(renewed) => *self = renewed,
            // They are tried as they are until their files are there again.
            Err(error) => tracing::debug!("no new clients to ask Kafka: {error}"),
        }
    }

    /// Hands librdkafka's log lines and errors to the contexts.
    fn take_news(&self) {
        [&self.committed, &self.uncommitted].into_iter().for_each(|consumer| client::take_news(consumer));
    }

    fn ends(&self, topic: &str) -> Result<Vec<Ends>, SinkError> {
        let start = Instant::now();
        loop {
            let error = match self.ends_now(topic) {
                Ok(ends) => return Ok(ends),
                Err(Unsettled::For(error)) if start.elapsed() < SETTLE_WAIT_MAX => error,
                Err(Unsettled::For(error) | Unsettled::Failed(error)) => return Err(error),
            };
            tracing::debug!(topic, "not settled yet: {error}");
            thread::sleep(SETTLE_POLL_INTERVAL);
        }
    }

    fn ends_now(&self, topic: &str) -> Result<Vec<Ends>, Unsettled> {
        let mut ends = Vec::new();
        for partition in self.partitions(topic)? {
            let of = |consumer: &BaseConsumer<Context>| {
                consumer.fetch_watermarks(topic, partition, TIMEOUT).map_err(|error| {
                    self.take_news();
                    let unsettled = error.rdkafka_error_code().filter(|code| is_unsettled(*code));
                    unsettled.map_or_else(
                        || Unsettled::Failed(consumer.context().unanswered(&error)),
                        |code| Unsettled::For(SinkError::Unavailable(format!("topic {topic}: {code}"))),
                    )
                })
            };
            // In this order the stable offset cannot lie beyond the high watermark.
            let (_, stable) = of(&self.committed)?;
            let (low, high) = of(&self.uncommitted)?;
            ends.push(Ends { partition, low, stable: stable.max(low), high });
        }
        ends.sort_unstable_by_key(|end| end.partition);
        Ok(ends)
    }

    fn partitions(&self, topic: &str) -> Result<Vec<i32>, Unsettled> {
        let metadata = self.uncommitted.fetch_metadata(Some(topic), TIMEOUT).map_err(|error| {
            self.take_news();
            Unsettled::Failed(self.uncommitted.context().unanswered(&error))
        })?;
        let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else {
            return Err(Unsettled::For(SinkError::Unavailable(format!("topic {topic}: Kafka says nothing about it"))));
        };
        match found.error().map(RDKafkaErrorCode::from) {
            None => Ok(found.partitions().iter().map(|partition| partition.id()).collect()),
            Some(code) if trouble::is_refusal(code) => Err(Unsettled::Failed(SinkError::Refused(format!(
                "topic {topic}: Kafka does not let this user read it: grant READ on it"
            )))),
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                Err(Unsettled::For(SinkError::Refused(format!(
                    "topic {topic} does not exist: call-legs run has not created it yet, or it was deleted"
                ))))
            }
            Some(code) => Err(Unsettled::For(SinkError::Unavailable(format!("topic {topic}: {code}")))),
        }
    }
}

/// The transactional id of the connector with this journal.
pub(super) fn transactional_id(journal: &str) -> String {
    format!("{journal}.0")
}

/// Why there is no answer yet.
enum Unsettled {
    /// The brokers disagree, or have nobody to ask; soon they will not.
    For(SinkError),
    /// They do not answer, or refuse.
    Failed(SinkError),
}

fn is_unsettled(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{
        LeaderNotAvailable, NotLeaderForPartition, UnknownPartition, UnknownTopic, UnknownTopicOrPartition,
    };
    matches!(
        code,
        LeaderNotAvailable | NotLeaderForPartition | UnknownPartition | UnknownTopic | UnknownTopicOrPartition
    )
}
