//! One test's topics on a cluster, messages for them, and what a reader finds there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use call_legs::config;
use call_legs::sink::topics::{self, TopicAdmin, Topics};
use call_legs::sink::{Cluster, Destination, Ends, KafkaCluster, Message, Reader, SinkError, StoredRecord, Stretch};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;

use crate::support::PATIENCE;

/// A name that no other test of this process or another uses.
pub(crate) fn unused_name() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    format!("sink-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// The configuration of a topic with one partition.
pub(crate) fn configuration(bootstrap: &str, topic: &str) -> config::Kafka {
    config::Kafka {
        beat: std::time::Duration::from_secs(10),
        journal: String::new(),
        bootstrap_servers: bootstrap.split(',').map(str::to_owned).collect(),
        topic: topic.to_owned(),
        partitions: 1,
        replication_factor: None,
        timestamp: config::MessageTimestamp::Disconnect,
        delivery: config::Delivery::ExactlyOnce,
        sasl_password: None,
        oauth: None,
        oauth_extensions: config::Properties::default(),
        topic_config: BTreeMap::new(),
        properties: config::Properties::default(),
    }
}

/// Verifies or creates the topics, for as long as the brokers are still agreeing on them.
pub(crate) async fn ensure(kafka: &config::Kafka) -> Result<Topics, SinkError> {
    let start = Instant::now();
    loop {
        match Arc::new(TopicAdmin::new(kafka).unwrap()).ensure(kafka, &topics::journal(&kafka.topic)).await {
            Err(SinkError::Unavailable(_)) if start.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            outcome => return outcome,
        }
    }
}

/// A cluster with topics of the caller's own.
pub(crate) async fn cluster(kafka: &config::Kafka) -> KafkaCluster {
    KafkaCluster::new(kafka, ensure(kafka).await.unwrap()).unwrap()
}

/// The shared broker's, with one partition a topic.
pub(crate) async fn shared_cluster() -> KafkaCluster {
    cluster(&configuration(crate::support::kafka::kafka().bootstrap(), &unused_name())).await
}

/// Creates a topic as somebody else would.
pub(crate) async fn create_topic(bootstrap: &str, name: &str, partitions: i32, settings: &[(&str, &str)]) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", bootstrap).create().unwrap();
    let topic = settings
        .iter()
        .fold(NewTopic::new(name, partitions, TopicReplication::Fixed(1)), |topic, (key, value)| topic.set(key, value));
    let results = admin.create_topics([&topic], &AdminOptions::new()).await.unwrap();
    results.into_iter().next().unwrap().unwrap();
}

pub(crate) fn message(destination: Destination, text: &str) -> Message {
    Message {
        destination,
        key: text.to_owned().into(),
        payload: Some(text.to_owned().into()),
        timestamp: None,
        headers: vec![("header", text.to_owned().into())],
    }
}

pub(crate) fn leg(text: &str) -> Message {
    message(Destination::Legs, text)
}

pub(crate) fn texts(records: &[StoredRecord]) -> Vec<String> {
    records.iter().map(|record| String::from_utf8(record.key.clone()).unwrap()).collect()
}

/// The ends of the only partition.
pub(crate) async fn ends(cluster: &KafkaCluster, destination: Destination) -> Ends {
    let ends = cluster.ends(destination).await.unwrap();
    assert_eq!(ends.len(), 1);
    ends[0]
}

/// Everything committed of a topic, up to what is its high watermark now.
pub(crate) async fn read_all(cluster: &KafkaCluster, destination: Destination) -> Vec<StoredRecord> {
    let ends = cluster.ends(destination).await.unwrap();
    let stretches = ends.iter().map(|end| Stretch { partition: end.partition, from: 0, until: end.high }).collect();
    read(cluster, destination, stretches).await.unwrap()
}

/// All records of stretches.
pub(crate) async fn read(
    cluster: &KafkaCluster,
    destination: Destination,
    stretches: Vec<Stretch>,
) -> Result<Vec<StoredRecord>, SinkError> {
    let mut reader = cluster.read(destination, stretches).await?;
    let mut records = Vec::new();
    while let Some(batch) = reader.next().await? {
        assert!(!batch.is_empty() && batch.len() <= 1_000);
        records.extend(batch);
    }
    assert_eq!(reader.next().await?, None);
    Ok(records)
}
