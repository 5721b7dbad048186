//! What the parts can do alone: a bare producer, and a bare HTTP client.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};

/// A record as consumers get it, without the headers, which are the connector's own.
pub(crate) struct Record {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Option<Vec<u8>>,
    timestamp: i64,
}

/// All committed records of a topic.
pub(crate) fn read(bootstrap: &str, topic: &str) -> Vec<Record> {
    let wait = Duration::from_secs(30);
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "bench")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed")
        .create()
        .expect("a consumer");
    let metadata = consumer.fetch_metadata(Some(topic), wait).expect("the topic's metadata");
    let mut assignment = TopicPartitionList::new();
    let mut open = 0;
    for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
        open += 1;
        assignment.add_partition_offset(topic, partition.id(), Offset::Beginning).expect("a partition");
    }
    consumer.assign(&assignment).expect("an assignment");
    let mut records = Vec::new();
    while open > 0 {
        match consumer.poll(wait).expect("the topic's records come") {
            Ok(message) => records.push(Record {
                key: message.key().unwrap_or_default().to_vec(),
                value: message.payload().map(<[u8]>::to_vec),
                timestamp: message.timestamp().to_millis().unwrap_or(0),
            }),
            Err(KafkaError::PartitionEOF(_)) => open -= 1,
            Err(error) => panic!("{error}"),
        }
    }
    records
}

struct Reports(Arc<AtomicUsize>);

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        assert!(result.is_ok(), "the bare producer's records are taken");
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Sends the records with the connector's settings and nothing else; gives how long it took.
pub(crate) fn produce(bootstrap: &str, topic: &str, records: &[Record]) -> Duration {
    let delivered = Arc::new(AtomicUsize::new(0));
    let mut settings = ClientConfig::new();
    settings
        .set("bootstrap.servers", bootstrap)
        .set("compression.type", "zstd")
        .set("compression.level", "1")
        .set("linger.ms", "0")
        .set("queue.buffering.max.messages", "20000")
        .set("queue.buffering.max.kbytes", "65536")
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("partitioner", "murmur2_random");
    let producer: ThreadedProducer<Reports> =
        ThreadedProducer::from_config_and_context(&settings, Reports(Arc::clone(&delivered))).expect("a producer");
    producer.client().fetch_metadata(Some(topic), Duration::from_secs(30)).expect("the topic is there");
    let started = Instant::now();
    for record in records {
        let value = record.value.as_deref().expect("a leg");
        let mut message = BaseRecord::to(topic).key(&record.key).payload(value).timestamp(record.timestamp);
        while let Err((error, returned)) = producer.send(message) {
            assert_eq!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::QueueFull), "{error}");
            message = returned;
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    while delivered.load(Ordering::Relaxed) < records.len() {
        std::thread::sleep(Duration::from_micros(200));
    }
    started.elapsed()
}

/// Downloads every page that the connector would, one after the other, and looks at none; gives the rows' bytes and the time.
pub(crate) async fn download(base_url: &str, start: &str, end: &str) -> (usize, Duration) {
    let client = reqwest::Client::new();
    let mut cursor: Option<String> = None;
    let mut bytes = 0;
    let started = Instant::now();
    loop {
        let mut request = client.get(format!("{base_url}/v2/call-legs")).query(&[
            ("pbxId", super::tape::UNIT),
            ("startTime", start),
            ("endTime", end),
            ("timeZone", "UTC"),
            ("pageSize", "5000"),
        ]);
        if let Some(cursor) = &cursor {
            request = request.query(&[("scrollId", cursor)]);
        }
        let body = request.send().await.expect("an answer").bytes().await.expect("a body");
        bytes += body.len();
        let head = String::from_utf8_lossy(&body[..body.len().min(100)]).into_owned();
        let next = head.split("\"scrollId\":\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a cursor");
        if next == "No Data" {
            return (bytes, started.elapsed());
        }
        cursor = Some(next.to_owned());
    }
}
