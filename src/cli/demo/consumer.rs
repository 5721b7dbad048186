//! What a consumer reads: each leg as it comes, and at the end the topics as a whole.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::anyhow;
use rdkafka::message::{Message as _, OwnedMessage};
use serde_json::Value as Json;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::verdict::Identity;
use crate::codec::{Decoder, schema};
use crate::config;
use crate::error::{Ended, Exit, OrExit};
use crate::sink::SinkError;
use crate::sink::reader::{From, TopicReader};

/// Between attempts to open a topic that the connector has not created yet.
const OPENED_EVERY: Duration = Duration::from_millis(200);

/// How many records may wait to be shown.
const WAITING_MAX: usize = 1_000;

/// How long a topic may take to be read again at the end.
const READ_BACK_MAX: Duration = Duration::from_secs(20);

/// Reads the topic of legs.
pub(super) struct Consumer {
    kafka: config::Kafka,
    decoder: Decoder,
    records: mpsc::Receiver<OwnedMessage>,
    _reading: AbortOnDropHandle<()>,
    /// Per partition, the offset behind the newest record that was shown.
    shown: HashMap<i32, i64>,
}

impl Consumer {
    /// Starts to read, as soon as the connector has created the topic.
    pub(super) fn start(kafka: &config::Kafka) -> Self {
        let (read, records) = mpsc::channel(WAITING_MAX);
        let settings = kafka.clone();
        let reading = tokio::spawn(async move {
            let mut reader = loop {
                match open(&settings, &settings.topic).await {
                    Ok(reader) => break reader,
                    Err(_) => tokio::time::sleep(OPENED_EVERY).await,
                }
            };
            // What is refused now is said at the end, when the topic is read again.
            while let Ok(record) = reader.next().await {
                let Some(record) = record else { continue };
                if read.send(record).await.is_err() {
                    return;
                }
            }
        });
        Self {
            kafka: kafka.clone(),
            decoder: Decoder::new(schema::call_leg(), None),
            records,
            _reading: AbortOnDropHandle::new(reading),
            shown: HashMap::new(),
        }
    }

    /// The next leg, whenever it comes.
    pub(super) async fn next(&mut self) -> Result<Json, Ended> {
        match self.records.recv().await {
            Some(record) => {
                self.shown.insert(record.partition(), record.offset() + 1);
                self.decode(&record).await
            }
            None => std::future::pending().await,
        }
    }

    /// Reads the topic from its beginning to its end: how often each leg is in it, and the legs that were not shown yet.
    pub(super) async fn read_again(&self) -> Result<(HashMap<Identity, u64>, Vec<Json>), Ended> {
        let (mut legs, mut not_shown) = (HashMap::new(), Vec::new());
        for record in whole(&self.kafka, &self.kafka.topic).await? {
            let leg = self.decode(&record).await?;
            *legs.entry(identity(&leg)).or_default() += 1;
            if self.shown.get(&record.partition()).is_none_or(|shown| *shown <= record.offset()) {
                not_shown.push(leg);
            }
        }
        Ok((legs, not_shown))
    }

    async fn decode(&self, record: &OwnedMessage) -> Result<Json, Ended> {
        self.decoder.decode(record.payload().unwrap_or_default()).await.or_exit(Exit::Internal)
    }
}

fn identity(leg: &Json) -> Identity {
    let text = |field: &str| leg[field].as_str().unwrap_or_default().to_owned();
    (text("pbxId"), text("callId"), text("legId"))
}

/// All records of a topic.
///
/// # Errors
/// When Kafka does not show them in time.
pub(super) async fn whole(kafka: &config::Kafka, topic: &str) -> Result<Vec<OwnedMessage>, Ended> {
    let reading = async {
        let mut reader = open(kafka, topic).await?;
        let mut records = Vec::new();
        while let Some(record) = reader.next().await? {
            records.push(record);
        }
        Ok::<_, SinkError>(records)
    };
    let why = match tokio::time::timeout(READ_BACK_MAX, reading).await {
        Ok(Ok(records)) => return Ok(records),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("it was not read to its end within {} s", READ_BACK_MAX.as_secs()),
    };
    Err(anyhow!("topic {topic} cannot be read back, so nothing is said of what is in it: {why}")).or_exit(Exit::Sink)
}

async fn open(kafka: &config::Kafka, topic: &str) -> Result<TopicReader, SinkError> {
    let (kafka, topic) = (kafka.clone(), topic.to_owned());
    tokio::task::spawn_blocking(move || TopicReader::open(&kafka, &topic, From::Beginning))
        .await
        .unwrap_or_else(|ended| Err(ended.into()))
}
