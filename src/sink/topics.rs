//! The topics: verified, created where missing, and read for the limits that bind the producer.
//!
//! Nothing is ever created by accident: the clients here and in the producer forbid automatic
//! creation, so that a misspelt name is an error and not a topic with the wrong settings.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::client::{self, Context};
use super::{Destination, SinkError, trouble};
use crate::config;
use crate::core::time::UtcMillis;

/// What follows the topic's name in that of its dead letters.
pub const DEAD_LETTER_SUFFIX: &str = ".dead-letter";
/// What follows the topic's name in that of the feed.
pub const STATUS_SUFFIX: &str = ".status";
/// What follows the topic's name in that of the journal, where no other is configured.
pub const JOURNAL_SUFFIX: &str = ".journal";

/// What a broker takes where the topic does not say.
const MESSAGE_BYTES_MAX: usize = 1_048_588;

/// How long one question to the brokers may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How long a new topic that says nothing of its settings is taken for one that is not there yet, and no longer
/// for one whose settings this user may not read.
const SILENT_WAIT_MAX: Duration = Duration::from_secs(2);

/// How often to look whether a new topic is shown as it was created.
const CREATED_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// How far our clock and a broker's may be apart before a timestamp is beyond doubt.
const CLOCK_DOUBT: Duration = Duration::from_secs(60);

/// The journal's settings, when it is created. It is read whole at a start without a store, so what is
/// superseded has to go soon: small segments, since only those that are full or an hour old are cleaned.
const JOURNAL_SETTINGS: [(&str, &str); 5] = [
    ("cleanup.policy", "compact"),
    ("segment.bytes", "33554432"),
    ("segment.ms", "3600000"),
    ("min.cleanable.dirty.ratio", "0.1"),
    // Its records are about what was written when, not about when calls ended.
    ("message.timestamp.type", "LogAppendTime"),
];

/// The feed's settings, when it is created: a few units' newest records, written every ten seconds.
const STATUS_SETTINGS: [(&str, &str); 4] = [
    ("cleanup.policy", "compact"),
    ("segment.bytes", "16777216"),
    ("segment.ms", "3600000"),
    ("min.cleanable.dirty.ratio", "0.1"),
];

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
    /// Whether it keeps the newest record of each key, and deletes nothing by its age.
    pub is_compacted: bool,
    /// The timestamps that it takes.
    pub timestamps: Timestamps,
    /// What a user should know about it.
    pub warnings: Vec<String>,
}

impl Topic {
    fn assumed(name: String, partitions: usize) -> Self {
        Self {
            name,
            partitions,
            message_bytes_max: MESSAGE_BYTES_MAX,
            retention: None,
            is_compacted: false,
            timestamps: Timestamps::default(),
            warnings: Vec::new(),
        }
    }
}

/// Which timestamps a topic takes: how far before and after the broker's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timestamps {
    /// `message.timestamp.before.max.ms`; `None` for any.
    pub before_max: Option<Duration>,
    /// `message.timestamp.after.max.ms`; `None` for any.
    pub after_max: Option<Duration>,
}

impl Timestamps {
    /// Whether a record with this timestamp may be taken at this time: `false` only where the limit is
    /// exceeded by more than clocks may be apart.
    pub fn take(&self, timestamp: UtcMillis, now: UtcMillis) -> bool {
        let is_within =
            |limit: Option<Duration>, age| limit.is_none_or(|limit| age <= limit.saturating_add(CLOCK_DOUBT));
        is_within(self.before_max, now.since(timestamp)) && is_within(self.after_max, timestamp.since(now))
    }
}

/// The connector's topics.
#[derive(Clone, Debug)]
pub struct Topics {
    /// The legs.
    pub legs: Topic,
    /// Rows that cannot be legs.
    pub dead_letters: Topic,
    /// The feed.
    pub status: Topic,
    /// The connector's own.
    pub journal: Topic,
}

impl Topics {
    /// Topics that somebody else has created, with a broker's usual limits.
    pub fn assumed(legs: &str, journal: &str) -> Self {
        let topic = |name: String| Topic::assumed(name, 1);
        Self {
            legs: topic(legs.to_owned()),
            dead_letters: topic(dead_letters(legs)),
            status: topic(status(legs)),
            journal: topic(journal.to_owned()),
        }
    }

    /// The topic behind a destination.
    pub fn of(&self, destination: Destination) -> &Topic {
        match destination {
            Destination::Legs => &self.legs,
            Destination::DeadLetters => &self.dead_letters,
            Destination::Status => &self.status,
            Destination::Journal => &self.journal,
        }
    }

    fn all(&self) -> [&Topic; 4] {
        [&self.legs, &self.dead_letters, &self.status, &self.journal]
    }

    /// The largest record batch that any of them takes.
    pub fn message_bytes_max(&self) -> usize {
        self.all().map(|topic| topic.message_bytes_max).into_iter().fold(0, usize::max)
    }

    /// The largest record batch that all of them take.
    pub fn message_bytes_min(&self) -> usize {
        self.all().map(|topic| topic.message_bytes_max).into_iter().fold(usize::MAX, usize::min)
    }

    /// What a user should know about them.
    pub fn warnings(&self) -> impl Iterator<Item = &str> {
        self.all().into_iter().flat_map(|topic| &topic.warnings).map(String::as_str)
    }
}

/// The name of the dead letters' topic.
pub fn dead_letters(legs: &str) -> String {
    format!("{legs}{DEAD_LETTER_SUFFIX}")
}

/// The name of the feed's topic.
pub fn status(legs: &str) -> String {
    format!("{legs}{STATUS_SUFFIX}")
}

/// The name of the journal, where no other is configured.
pub fn journal(legs: &str) -> String {
    format!("{legs}{JOURNAL_SUFFIX}")
}

/// Every topic's name.
pub fn names(kafka: &config::Kafka) -> [(Destination, String); 4] {
    [
        (Destination::Legs, kafka.topic.clone()),
        (Destination::DeadLetters, dead_letters(&kafka.topic)),
        (Destination::Status, status(&kafka.topic)),
        (Destination::Journal, kafka.journal.clone()),
    ]
}

/// A topic as it is created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Creation<'a> {
    /// How many partitions it gets.
    pub partitions: i32,
    /// How many replicas; `None` leaves it to the broker.
    pub replication_factor: Option<i32>,
    /// Its settings, where they are not the broker's.
    pub settings: Vec<(&'a str, &'a str)>,
}

/// What a topic is created with.
pub fn creation(destination: Destination, kafka: &config::Kafka) -> Creation<'_> {
    Creation {
        partitions: if destination == Destination::Legs { kafka.partitions } else { 1 },
        replication_factor: kafka.replication_factor,
        settings: settings_of(destination, kafka),
    }
}

fn settings_of(destination: Destination, kafka: &config::Kafka) -> Vec<(&str, &str)> {
    match destination {
        Destination::Legs | Destination::DeadLetters => {
            kafka.topic_config.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
        }
        Destination::Status => STATUS_SETTINGS.to_vec(),
        Destination::Journal => {
            let mut settings = JOURNAL_SETTINGS.to_vec();
            // With as many as replicas, or with two of two, one broker down would stop all writing.
            if kafka.replication_factor.is_some_and(|replicas| replicas >= 3) {
                settings.push(("min.insync.replicas", "2"));
            }
            settings
        }
    }
}

/// Questions to the cluster about topics.
pub struct TopicAdmin {
    admin: Arc<AdminClient<Context>>,
    /// Metadata is asked of a consumer, since asking as a producer may create the topic.
    metadata: Arc<BaseConsumer<Context>>,
    context: Context,
}

impl TopicAdmin {
    /// Clients by these settings; they connect in their own time.
    pub fn new(kafka: &config::Kafka) -> Result<Self, SinkError> {
        let settings = client::settings(kafka)?;
        let context = Context::new(kafka)?;
        let (admin, metadata) = (client::create(&settings, &context)?, client::create(&settings, &context)?);
        Ok(Self { admin, metadata, context })
    }

    /// How many partitions a topic has; `None` when it does not exist. Blocks for up to ten seconds.
    pub fn partitions(&self, name: &str) -> Result<Option<usize>, SinkError> {
        let metadata = self.metadata.fetch_metadata(Some(name), TIMEOUT).map_err(|error| {
            client::take_news(&self.metadata);
            self.context.unanswered(&error)
        })?;
        let Some(topic) = metadata.topics().iter().find(|topic| topic.name() == name) else { return Ok(None) };
        match topic.error().map(RDKafkaErrorCode::from) {
            None => Ok(Some(topic.partitions().len())),
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Ok(None),
            Some(RDKafkaErrorCode::TopicAuthorizationFailed) => Err(SinkError::Refused(format!(
                "topic {name}: Kafka does not let this user see it: grant READ, WRITE and DESCRIBE_CONFIGS on it, and CREATE where it is not there yet"
            ))),
            Some(code) => Err(SinkError::Unavailable(format!("topic {name}: {code}"))),
        }
    }

    /// Whether every broker answers where it says that it listens: the brokers that are named by a user may do while those
    /// do not. Blocks for up to ten seconds.
    ///
    /// # Errors
    /// With the broker and what to do about it.
    fn reach_brokers(&self) -> Result<(), SinkError> {
        // The only question that librdkafka asks of each broker. No group is called so.
        let asked = self.metadata.fetch_group_list(Some("call-legs.reached"), TIMEOUT);
        client::take_news(&self.metadata);
        if let Some(sentence) = self.context.trouble.unreached() {
            return Err(SinkError::Unavailable(sentence));
        }
        match asked {
            // A refusal is an answer.
            Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::OperationTimedOut) => {
                Err(self.context.unanswered(&error))
            }
            _ => Ok(()),
        }
    }

    /// [`TopicAdmin::reach_brokers`] off the async workers.
    pub async fn reach(self: &Arc<Self>) -> Result<(), SinkError> {
        let admin = Arc::clone(self);
        tokio::task::spawn_blocking(move || admin.reach_brokers()).await.unwrap_or_else(|ended| Err(ended.into()))
    }

    /// Why an order was not answered: mostly its broker cannot be reached, which the client that gave it does not tell.
    async fn unanswered(self: &Arc<Self>, what: String, error: &KafkaError) -> SinkError {
        match self.reach().await {
            Err(SinkError::Unavailable(why)) => SinkError::Unavailable(format!("{what}: {why}")),
            _ => SinkError::Unavailable(format!("{what}: {error}")),
        }
    }

    /// Verifies the connector's topics and creates those that are missing.
    pub async fn ensure(self: &Arc<Self>, kafka: &config::Kafka, journal: &str) -> Result<Topics, SinkError> {
        let admin = self;
        let legs = &kafka.topic;
        Ok(Topics {
            legs: admin.ensure_topic(Destination::Legs, legs, kafka).await?,
            dead_letters: admin.ensure_topic(Destination::DeadLetters, &dead_letters(legs), kafka).await?,
            status: admin.ensure_topic(Destination::Status, &status(legs), kafka).await?,
            journal: admin.ensure_topic(Destination::Journal, journal, kafka).await?,
        })
    }

    async fn ensure_topic(
        self: &Arc<Self>,
        destination: Destination,
        name: &str,
        kafka: &config::Kafka,
    ) -> Result<Topic, SinkError> {
        if let Some(existing) = self.look_up(name).await? {
            return self.describe(destination, name, existing).await;
        }
        let creation = creation(destination, kafka);
        let partitions = creation.partitions;
        self.create(name, &creation).await?;
        tracing::info!(topic = name, partitions, "created the topic");
        self.await_created(name, &creation).await?;
        self.describe(destination, name, usize::try_from(partitions).unwrap_or(1)).await
    }

    /// Waits until a topic that was just created is shown with its settings: for some moments brokers
    /// deny it, or describe it with their defaults, for which a journal would be refused.
    async fn await_created(self: &Arc<Self>, name: &str, creation: &Creation<'_>) -> Result<(), SinkError> {
        let start = Instant::now();
        loop {
            let shown = self.settings(name).await;
            let is_settled = match &shown {
                Ok(None) => start.elapsed() > SILENT_WAIT_MAX,
                Ok(Some(shown)) => creation.settings.iter().all(|(key, value)| text(shown, key) == Some(value)),
                Err(_) => false,
            };
            if is_settled {
                return Ok(());
            }
            if start.elapsed() > TIMEOUT {
                shown?;
                // Brokers may write a value otherwise than it was given.
                tracing::debug!(topic = name, "its settings are not shown as they were given");
                return Ok(());
            }
            tokio::time::sleep(CREATED_POLL_INTERVAL).await;
        }
    }

    /// [`TopicAdmin::partitions`] off the async workers.
    pub async fn look_up(self: &Arc<Self>, name: &str) -> Result<Option<usize>, SinkError> {
        let (admin, name) = (Arc::clone(self), name.to_owned());
        tokio::task::spawn_blocking(move || admin.partitions(&name)).await.unwrap_or_else(|ended| Err(ended.into()))
    }

    async fn create(self: &Arc<Self>, name: &str, creation: &Creation<'_>) -> Result<(), SinkError> {
        // -1 leaves it to the broker.
        let replication = TopicReplication::Fixed(creation.replication_factor.unwrap_or(-1));
        let topic = NewTopic::new(name, creation.partitions, replication);
        let topic = creation.settings.iter().fold(topic, |topic, (key, value)| topic.set(key, value));
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
                Err(self.unanswered(format!("topic {name} does not exist, and cannot be created now"), &error).await)
            }
        }
    }

    /// Reads the limits of the topic that is to be `destination`, and refuses one that cannot be. A topic
    /// that does not let itself be described gets the usual ones.
    pub async fn describe(
        self: &Arc<Self>,
        destination: Destination,
        name: &str,
        partitions: usize,
    ) -> Result<Topic, SinkError> {
        let mut topic = Topic::assumed(name.to_owned(), partitions);
        if destination == Destination::Journal && partitions != 1 {
            return Err(SinkError::Refused(format!(
                "the journal {name} has {partitions} partitions, which have no common order: name another in kafka.journal, or delete this one so that it is created with one"
            )));
        }
        let Some(settings) = self.settings(name).await? else {
            topic.warnings.push(format!(
                "topic {name}: its settings cannot be read (grant DESCRIBE_CONFIGS); the usual limits are assumed"
            ));
            return Ok(topic);
        };
        let policy = text(&settings, "cleanup.policy");
        topic.warnings.extend(verified(destination, name, policy)?);
        topic.is_compacted = policy == Some("compact");
        if let Some(bytes) = text(&settings, "max.message.bytes").and_then(|bytes| bytes.parse().ok()) {
            // librdkafka takes no other limits.
            topic.message_bytes_max = usize::clamp(bytes, 1_000, 1_000_000_000);
        }
        topic.retention = millis(&settings, "retention.ms");
        topic.timestamps = timestamps(&settings);
        Ok(topic)
    }

    /// A topic's settings; `None` when there are none to be seen, as where this user may not read them. Anything
    /// else unknown is an error, since it is not the same as good: a compacted topic would lose legs.
    async fn settings(self: &Arc<Self>, name: &str) -> Result<Option<ConfigResource>, SinkError> {
        let options = AdminOptions::new().request_timeout(Some(TIMEOUT));
        let described = self.admin.describe_configs([&ResourceSpecifier::Topic(name)], &options).await;
        let what = format!("topic {name}: its settings cannot be read");
        let unknown = |why: &dyn std::fmt::Display| Err(SinkError::Unavailable(format!("{what}: {why}")));
        match described.map(|results| results.into_iter().next()) {
            // rdkafka drops the brokers' refusal, which leaves a topic without any setting.
            Ok(Some(Ok(settings))) => Ok(Some(settings).filter(|settings| !settings.entries.is_empty())),
            Ok(Some(Err(code))) if trouble::is_refusal(code) => Ok(None),
            Ok(Some(Err(code))) => unknown(&code),
            Ok(None) => unknown(&"Kafka describes none"),
            Err(error) => Err(self.unanswered(what, &error).await),
        }
    }
}

/// Whether a topic with this `cleanup.policy` can be the destination: a refusal, or a warning, or nothing.
fn verified(destination: Destination, name: &str, policy: Option<&str>) -> Result<Option<String>, SinkError> {
    let Some(policy) = policy else { return Ok(None) };
    let is_compacted = policy.contains("compact");
    let deletes = policy.contains("delete");
    match destination {
        Destination::Legs | Destination::DeadLetters if is_compacted => Err(SinkError::Refused(format!(
            "topic {name} is compacted, which would delete all but the last leg of each call: set its cleanup.policy to delete, or name another topic"
        ))),
        Destination::Journal if deletes || !is_compacted => Err(SinkError::Refused(format!(
            "the journal {name} has cleanup.policy={policy}, which deletes by age what the connector has to remember: set it to compact, or name another in kafka.journal"
        ))),
        Destination::Status if !is_compacted => Ok(Some(format!(
            "topic {name} is not compacted, so it keeps every report until its retention ends: set its cleanup.policy to compact"
        ))),
        _ => Ok(None),
    }
}

fn text<'a>(settings: &'a ConfigResource, key: &str) -> Option<&'a str> {
    settings.get(key)?.value.as_deref()
}

/// A duration; `None` where it is unknown, or negative, or the greatest number: without limit.
fn millis(settings: &ConfigResource, key: &str) -> Option<Duration> {
    let millis = text(settings, key)?.parse::<u64>().ok()?;
    (millis < i64::MAX.unsigned_abs()).then(|| Duration::from_millis(millis))
}

fn timestamps(settings: &ConfigResource) -> Timestamps {
    // With LogAppendTime the broker's own clock replaces whatever was sent.
    if text(settings, "message.timestamp.type").is_some_and(|kind| kind != "CreateTime") {
        return Timestamps::default();
    }
    // Brokers before 3.6 have one limit for both sides.
    let either = millis(settings, "message.timestamp.difference.max.ms");
    let limit = |key| millis(settings, key).into_iter().chain(either).min();
    Timestamps {
        before_max: limit("message.timestamp.before.max.ms"),
        after_max: limit("message.timestamp.after.max.ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_is_refused_only_beyond_doubt() {
        let hour = Duration::from_secs(3600);
        let now = UtcMillis::new(1_700_000_000_000);
        let limits = Timestamps { before_max: Some(hour), after_max: Some(hour) };
        let second = Duration::from_secs(1);
        for (timestamp, expected) in [
            (now, true),
            (now.minus(hour + CLOCK_DOUBT), true),
            (now.minus(hour + CLOCK_DOUBT + second), false),
            (now.plus(hour + CLOCK_DOUBT), true),
            (now.plus(hour + CLOCK_DOUBT + second), false),
        ] {
            assert_eq!(limits.take(timestamp, now), expected, "{timestamp:?}");
        }
        assert!(Timestamps::default().take(UtcMillis::new(0), now));
    }

    #[test]
    fn what_a_policy_would_delete_decides_which_topic_it_suits() {
        use Destination::{DeadLetters, Journal, Legs, Status};
        let outcome = |destination, policy| match verified(destination, "topic", policy) {
            Ok(None) => "taken",
            Ok(Some(_)) => "warned",
            Err(_) => "refused",
        };
        for (policy, legs, status, journal) in [
            (Some("delete"), "taken", "warned", "refused"),
            (Some("compact"), "refused", "taken", "taken"),
            (Some("compact,delete"), "refused", "taken", "refused"),
            (Some("delete,compact"), "refused", "taken", "refused"),
            (None, "taken", "taken", "taken"),
        ] {
            assert_eq!(
                [Legs, DeadLetters, Status, Journal].map(|destination| outcome(destination, policy)),
                [legs, legs, status, journal],
                "{policy:?}"
            );
        }
    }
}
