//! The topics: verified, created where missing, and read for the limits that bind the producer.
//!
//! Nothing is ever created by accident: the clients here and in the producer forbid automatic
//! creation, so that a misspelt name is an error and not a topic with the wrong settings.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;

use super::SinkError;
use super::client::{self, Context};
use crate::config;

/// What follows the topic's name in that of its dead letters.
pub const DEAD_LETTER_SUFFIX: &str = ".dead-letter";

/// What a broker takes where the topic does not say.
const MESSAGE_BYTES_MAX: usize = 1_048_588;

/// How long one question to the brokers may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The limits of one topic.
#[derive(Clone, Debug)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// How many partitions it has.
    pub partitions: usize,
    /// The largest record batch it takes, in bytes.
    pub message_bytes_max: usize,
    /// How long it keeps records; `None` for ever, or unknown.
    pub retention: Option<Duration>,
    /// What a user should know about it.
    pub warnings: Vec<String>,
}

/// The connector's topics.
#[derive(Clone, Debug)]
pub struct Topics {
    /// The legs.
    pub legs: Topic,
    /// Rows that cannot be legs.
    pub dead_letters: Topic,
}

impl Topics {
    /// Topics that somebody else has created, with a broker's usual limits.
    pub fn assumed(legs: &str) -> Self {
        let topic = |name: String| Topic {
            name,
            partitions: 1,
            message_bytes_max: MESSAGE_BYTES_MAX,
            retention: None,
            warnings: Vec::new(),
        };
        Self { legs: topic(legs.to_owned()), dead_letters: topic(dead_letters(legs)) }
    }

    /// The largest record batch that any of them takes.
    pub fn message_bytes_max(&self) -> usize {
        self.legs.message_bytes_max.max(self.dead_letters.message_bytes_max)
    }

    /// The largest record batch that all of them take.
    pub fn message_bytes_min(&self) -> usize {
        self.legs.message_bytes_max.min(self.dead_letters.message_bytes_max)
    }

    /// What a user should know about them.
    pub fn warnings(&self) -> impl Iterator<Item = &str> {
        self.legs.warnings.iter().chain(&self.dead_letters.warnings).map(String::as_str)
    }
}

/// The name of the dead letters' topic.
pub fn dead_letters(legs: &str) -> String {
    format!("{legs}{DEAD_LETTER_SUFFIX}")
}

/// Questions to the cluster about topics.
pub struct TopicAdmin {
    admin: AdminClient<Context>,
    /// Metadata is asked of a consumer, since asking as a producer may create the topic.
    metadata: BaseConsumer<Context>,
    context: Context,
}

impl TopicAdmin {
    /// Clients by these settings; they connect in their own time.
    pub fn new(kafka: &config::Kafka) -> Result<Self, SinkError> {
        let settings = client::settings(kafka)?;
        let context = Context::default();
        Ok(Self {
            admin: AdminClient::from_config_and_context(&settings, context.clone()).map_err(client::refused)?,
            metadata: BaseConsumer::from_config_and_context(&settings, context.clone()).map_err(client::refused)?,
            context,
        })
    }

    /// How many partitions a topic has; `None` when it does not exist. Blocks for up to ten seconds.
    pub fn partitions(&self, name: &str) -> Result<Option<usize>, SinkError> {
        let metadata = self.metadata.fetch_metadata(Some(name), TIMEOUT).map_err(|error| {
            let what = self.context.trouble.explain(&format!("Kafka does not answer ({error})"));
            if self.context.trouble.is_refusal() { SinkError::Refused(what) } else { SinkError::Unavailable(what) }
        })?;
        let Some(topic) = metadata.topics().iter().find(|topic| topic.name() == name) else { return Ok(None) };
        match topic.error().map(RDKafkaErrorCode::from) {
            None => Ok(Some(topic.partitions().len())),
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Ok(None),
            Some(RDKafkaErrorCode::TopicAuthorizationFailed) => Err(SinkError::Refused(format!(
                "topic {name}: Kafka does not let this user see it: grant DESCRIBE and WRITE on it"
            ))),
            Some(code) => Err(SinkError::Unavailable(format!("topic {name}: {code}"))),
        }
    }

    /// Verifies the connector's topics and creates those that are missing.
    pub async fn ensure(self, kafka: &config::Kafka) -> Result<Topics, SinkError> {
        let admin = std::sync::Arc::new(self);
        Ok(Topics {
            legs: admin.ensure_topic(&kafka.topic, kafka.partitions, kafka).await?,
            dead_letters: admin.ensure_topic(&dead_letters(&kafka.topic), 1, kafka).await?,
        })
    }

    async fn ensure_topic(
        self: &std::sync::Arc<Self>,
        name: &str,
        partitions: i32,
        kafka: &config::Kafka,
    ) -> Result<Topic, SinkError> {
        let existing = match self.look_up(name).await? {
            Some(found) => found,
            None => {
                self.create(name, partitions, kafka).await?;
                tracing::info!(topic = name, partitions, "created the topic");
                usize::try_from(partitions).unwrap_or(1)
            }
        };
        self.describe(name, existing).await
    }

    /// [`TopicAdmin::partitions`] off the async workers.
    pub async fn look_up(self: &std::sync::Arc<Self>, name: &str) -> Result<Option<usize>, SinkError> {
        let (admin, name) = (std::sync::Arc::clone(self), name.to_owned());
        tokio::task::spawn_blocking(move || admin.partitions(&name))
            .await
            .unwrap_or_else(|error| Err(SinkError::Unavailable(error.to_string())))
    }

    async fn create(&self, name: &str, partitions: i32, kafka: &config::Kafka) -> Result<(), SinkError> {
        // -1 leaves it to the broker.
        let replication = TopicReplication::Fixed(kafka.replication_factor.unwrap_or(-1));
        let topic = kafka
            .topic_config
            .iter()
            .fold(NewTopic::new(name, partitions, replication), |topic, (key, value)| topic.set(key, value));
        let options = AdminOptions::new().request_timeout(Some(TIMEOUT)).operation_timeout(Some(TIMEOUT));
        let results = self.admin.create_topics([&topic], &options).await;
        match results.map(|results| results.into_iter().next()) {
            Ok(Some(Ok(_)) | None) => Ok(()),
            Ok(Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists)))) => Ok(()),
            Ok(Some(Err((
                _,
                code @ (RDKafkaErrorCode::RequestTimedOut
                | RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::NotController
                | RDKafkaErrorCode::InvalidReplicationFactor),
            )))) => Err(SinkError::Unavailable(format!(
                "topic {name} does not exist and cannot be created now ({code}): are all brokers up, and no fewer than kafka.replication_factor?"
            ))),
            Ok(Some(Err((_, code)))) => Err(SinkError::Refused(format!(
                "topic {name} does not exist and cannot be created ({code}): create it, grant CREATE on it, or mend kafka.partitions, kafka.replication_factor and kafka.topic_config"
            ))),
            Err(error) => {
                Err(SinkError::Unavailable(format!("topic {name} does not exist, and its creation failed: {error}")))
            }
        }
    }

    /// Reads a topic's limits; a topic that does not let itself be described gets the usual ones.
    pub async fn describe(&self, name: &str, partitions: usize) -> Result<Topic, SinkError> {
        let options = AdminOptions::new().request_timeout(Some(TIMEOUT));
        let described = self.admin.describe_configs([&ResourceSpecifier::Topic(name)], &options).await;
        let described = described.map(|results| results.into_iter().next());
        let mut topic = Topic {
            name: name.to_owned(),
            partitions,
            message_bytes_max: MESSAGE_BYTES_MAX,
            retention: None,
            warnings: Vec::new(),
        };
        let settings = match described {
            Ok(Some(Ok(settings))) => settings,
            Ok(Some(Err(
                RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed,
            ))) => {
                topic.warnings.push(format!(
                    "topic {name}: its settings cannot be read (grant DESCRIBE_CONFIGS); the usual limits are assumed"
                ));
                return Ok(topic);
            }
            // Unknown is not the same as good: a compacted topic would lose legs.
            Ok(Some(Err(code))) => {
                return Err(SinkError::Unavailable(format!("topic {name}: its settings cannot be read: {code}")));
            }
            Ok(None) => return Err(SinkError::Unavailable(format!("topic {name}: Kafka describes no settings"))),
            Err(error) => {
                return Err(SinkError::Unavailable(format!("topic {name}: its settings cannot be read: {error}")));
            }
        };
        let value = |key: &str| settings.get(key).and_then(|entry| entry.value.as_deref());
        if value("cleanup.policy").is_some_and(|policy| policy.contains("compact")) {
            return Err(SinkError::Refused(format!(
                "topic {name} is compacted, which would delete all but the last leg of each call: set its cleanup.policy to delete, or name another topic"
            )));
        }
        if let Some(bytes) = value("max.message.bytes").and_then(|bytes| bytes.parse().ok()) {
            // librdkafka takes no other limits.
            topic.message_bytes_max = usize::clamp(bytes, 1_000, 1_000_000_000);
        }
        topic.retention = retention(&settings);
        Ok(topic)
    }
}

fn retention(settings: &ConfigResource) -> Option<Duration> {
    let millis = settings.get("retention.ms")?.value.as_deref()?.parse::<u64>().ok()?;
    Some(Duration::from_millis(millis))
}
