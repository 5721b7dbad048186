//! Reads committed records of known stretches, to their ends and no further.
//!
//! A reader is never told of what lies between committed records: markers of transactions, records of
//! aborted ones, holes that compaction left. That a stretch has been read whole is therefore known in
//! one of three ways: its last offset was delivered; a record beyond it came; or the partition's end
//! was reported, after the brokers had said that nothing below the stretch's end is open any more.
//!
//! ```text
//!      from                          until
//!   ────[────────────────────────────)────────▶ offsets
//!        r r m r r m                     ^
//!                  └── nothing ──┘       last stable offset, seen before the reading begins:
//!                                        the end reported after that is no earlier one
//! ```
//!
//! A leader elected meanwhile may for a moment report an earlier end. So an end counts only if the
//! partition's leader is the same before and after, and no connection broke between; otherwise what
//! is left of the stretch is read again.
//!
//! The reader assigns its partitions itself. It has a group's name, which librdkafka asks for, but
//! joins no group and commits no offset.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message as _};
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::mpsc;

use super::client::{self, Context};
use super::{Place, Reader, SinkError, StoredRecord, Stretch, trouble};
use crate::core::time::UtcMillis;

/// How long one question to the brokers may take.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(10);
/// How long nothing may come before the reading is given up. Longer than brokers need to give up a
/// transaction of ours whose producer died: 15 s, and up to 10 s until they look.
const STALL_MAX: Duration = Duration::from_secs(30);
/// How long to wait before asking again, for a stable offset that moves or for a broker that is back.
const QUESTION_PAUSE: Duration = Duration::from_millis(20);
/// How long one poll waits for a record.
const POLL_WAIT: Duration = Duration::from_millis(100);
/// The most records that are handed over at a time.
const BATCH_RECORDS_MAX: usize = 1_000;
/// About the most bytes that are handed over at a time.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How many batches may wait to be taken.
const BATCHES_WAITING_MAX: usize = 2;

/// Reads stretches of one topic.
pub struct KafkaReader {
    /// `None` once everything was read.
    batches: Option<mpsc::Receiver<Batch>>,
}

/// Records, or `None` at the end of all stretches: a thread that ends without it has not read all.
type Batch = Result<Option<Vec<StoredRecord>>, SinkError>;

impl KafkaReader {
    /// Starts to read.
    pub(super) fn open(
        mut settings: ClientConfig,
        context: Context,
        topic: String,
        mut stretches: Vec<Stretch>,
    ) -> Result<Self, SinkError> {
        stretches.retain(|stretch| stretch.from < stretch.until);
        if stretches.is_empty() {
            return Ok(Self { batches: None });
        }
        settings
            .set("group.id", "call-legs-journal")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_committed")
            // A read that cannot start where it should must fail, not skip.
            .set("auto.offset.reset", "error")
            // At a partition's end brokers answer after this long; nothing more is expected there.
            .set("fetch.wait.max.ms", "10")
            .set("queued.max.messages.kbytes", "16384")
            // With it, fetches may go to a follower, whose end may lie before the leader's.
            .remove("client.rack");
        let (batches, receiver) = mpsc::channel(BATCHES_WAITING_MAX);
        let reading = Reading { settings, context, topic, batches, progress: Instant::now() };
        thread::Builder::new()
            .name("kafka-reader".to_owned())
            .spawn(move || reading.run(stretches))
            .map_err(|error| SinkError::Unavailable(format!("a reader needs a thread: {error}")))?;
        Ok(Self { batches: Some(receiver) })
    }
}

impl Reader for KafkaReader {
    async fn next(&mut self) -> Result<Option<Vec<StoredRecord>>, SinkError> {
        let Some(batches) = &mut self.batches else { return Ok(None) };
        let batch = batches
            .recv()
            .await
            .unwrap_or_else(|| Err(SinkError::Unavailable("the reader's thread has ended before its work".to_owned())));
        if matches!(batch, Ok(None)) {
            self.batches = None;
        }
        batch
    }
}

/// Why reading ends early.
enum Stop {
    Failed(SinkError),
    /// The reader was dropped.
    Unwanted,
}

type Consuming = BaseConsumer<Context>;

/// What the reader's thread works with.
struct Reading {
    settings: ClientConfig,
    context: Context,
    topic: String,
    batches: mpsc::Sender<Batch>,
    /// When something last came, or was taken.
    progress: Instant,
}

impl Reading {
    fn run(mut self, stretches: Vec<Stretch>) {
        if let Err(Stop::Failed(error)) = self.read(stretches) {
            let _ = self.batches.blocking_send(Err(error));
        }
    }

    fn read(&mut self, mut open: Vec<Stretch>) -> Result<(), Stop> {
        loop {
            // A new consumer each time, so that no end reported to the last one is taken for this one's.
            let consumer: Arc<Consuming> = client::create(&self.settings, &self.context).map_err(Stop::Failed)?;
            let leaders = self.leaders(&consumer)?;
            for stretch in &mut open {
                self.await_stable(&consumer, stretch)?;
            }
            open.retain(|stretch| stretch.from < stretch.until);
            let breaks = self.context.breaks();
            let ended = self.read_to_ends(&consumer, open)?;
            let leaders_since = if ended.is_empty() { BTreeMap::new() } else { self.leaders(&consumer)? };
            let is_quiet = self.context.breaks() == breaks;
            let is_proven = |stretch: &Stretch| {
                let leader = leaders.get(&stretch.partition);
                is_quiet && leader.is_some() && leader == leaders_since.get(&stretch.partition)
            };
            open = ended.into_iter().filter(|stretch| !is_proven(stretch)).collect();
            if open.is_empty() {
                // Before the consumer's end, which takes a tenth of a second.
                return self.batches.blocking_send(Ok(None)).map_err(|_| Stop::Unwanted);
            }
            tracing::debug!(topic = self.topic, stretches = open.len(), "reading on: a leader may have changed");
            self.check_stall("its leaders keep changing")?;
        }
    }

    /// The leader of each partition.
    fn leaders(&self, consumer: &Consuming) -> Result<BTreeMap<i32, i32>, Stop> {
        loop {
            match consumer.fetch_metadata(Some(&self.topic), QUESTION_TIMEOUT) {
                Ok(metadata) => {
                    let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
                    return Ok(partitions.map(|partition| (partition.id(), partition.leader())).collect());
                }
                Err(error) => self.endure(consumer, error)?,
            }
            thread::sleep(QUESTION_PAUSE);
        }
    }

    /// Waits until no transaction is open below the stretch's end, and cuts off what is no longer kept.
    fn await_stable(&mut self, consumer: &Consuming, stretch: &mut Stretch) -> Result<(), Stop> {
        let mut stable_before = None;
        loop {
            match consumer.fetch_watermarks(&self.topic, stretch.partition, QUESTION_TIMEOUT) {
                Ok((low, stable)) => {
                    if stable_before != Some(stable) {
                        stable_before = Some(stable);
                        self.progress = Instant::now();
                    }
                    if stable >= stretch.until {
                        stretch.from = stretch.from.max(low);
                        return Ok(());
                    }
                    let Stretch { partition, until, .. } = *stretch;
                    self.check_stall(&format!(
                        "partition {partition} is stable up to {stable}, which is short of {until}: a transaction is open"
                    ))?;
                }
                Err(error) => self.endure(consumer, error)?,
            }
            thread::sleep(QUESTION_PAUSE);
        }
    }

    /// Delivers the stretches, and gives what was left of those whose partition reported its end first.
    fn read_to_ends(&mut self, consumer: &Consuming, stretches: Vec<Stretch>) -> Result<Vec<Stretch>, Stop> {
        if stretches.is_empty() {
            return Ok(Vec::new());
        }
        let mut assignment = TopicPartitionList::new();
        for Stretch { partition, from, .. } in &stretches {
            assignment
                .add_partition_offset(&self.topic, *partition, Offset::Offset(*from))
                .map_err(|error| self.failed(&error))?;
        }
        consumer.assign(&assignment).map_err(|error| self.failed(&error))?;

        let mut open: BTreeMap<i32, Stretch> =
            stretches.into_iter().map(|stretch| (stretch.partition, stretch)).collect();
        let mut ended = Vec::new();
        let mut batch = Vec::new();
        let mut batch_bytes = 0;
        while !open.is_empty() {
            // What is there is handed over before more is waited for.
            match consumer.poll(if batch.is_empty() { POLL_WAIT } else { Duration::ZERO }) {
                Some(Ok(message)) => {
                    self.progress = Instant::now();
                    let partition = message.partition();
                    let Some(stretch) = open.get_mut(&partition) else { continue };
                    if message.offset() >= stretch.from && message.offset() < stretch.until {
                        stretch.from = message.offset() + 1;
                        let record = stored(&message);
                        batch_bytes += record.key.len() + record.payload.as_ref().map_or(0, Vec::len);
                        batch.push(record);
                    }
                    if message.offset() + 1 >= stretch.until {
                        open.remove(&partition);
                        self.pause(consumer, partition)?;
                    }
                    if batch.len() < BATCH_RECORDS_MAX && batch_bytes < BATCH_BYTES_MAX {
                        continue;
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    self.progress = Instant::now();
                    ended.extend(open.remove(&partition));
                    continue;
                }
                Some(Err(error)) => self.endure(consumer, error)?,
                None => self.check_stall("nothing comes")?,
            }
            if !batch.is_empty() {
                self.hand_over(std::mem::take(&mut batch))?;
                batch_bytes = 0;
            }
        }
        if !batch.is_empty() {
            self.hand_over(batch)?;
        }
        Ok(ended)
    }

    /// Fetches no more of a partition while others are read.
    fn pause(&self, consumer: &Consuming, partition: i32) -> Result<(), Stop> {
        let mut partitions = TopicPartitionList::new();
        partitions.add_partition(&self.topic, partition);
        consumer.pause(&partitions).map_err(|error| self.failed(&error))
    }

    fn hand_over(&mut self, batch: Vec<StoredRecord>) -> Result<(), Stop> {
        self.batches.blocking_send(Ok(Some(batch))).map_err(|_| Stop::Unwanted)?;
        self.progress = Instant::now();
        Ok(())
    }

    /// Gives up after an error that waiting does not mend, or when it has been waited long enough.
    fn endure(&self, consumer: &Consuming, error: KafkaError) -> Result<(), Stop> {
        use RDKafkaErrorCode::{AutoOffsetReset, OffsetOutOfRange};
        match error.rdkafka_error_code() {
            Some(code) if trouble::is_refusal(code) => Err(Stop::Failed(SinkError::Refused(format!(
                "topic {}: Kafka does not let this user read it ({code}): grant READ on it",
                self.topic
            )))),
            Some(AutoOffsetReset | OffsetOutOfRange) => Err(Stop::Failed(SinkError::Unavailable(format!(
                "topic {}: records were deleted while they were to be read",
                self.topic
            )))),
            _ => {
                // Its errors become the trouble behind ours only when they are taken. Before anything
                // is assigned nothing else can come.
                if consumer.assignment().is_ok_and(|assigned| assigned.count() == 0) {
                    while consumer.poll(Duration::from_millis(1)).is_some() {}
                }
                tracing::debug!(topic = self.topic, %error, "waiting for Kafka");
                self.check_stall(&error.to_string())
            }
        }
    }

    fn check_stall(&self, what: &str) -> Result<(), Stop> {
        if self.batches.is_closed() {
            return Err(Stop::Unwanted);
        }
        if self.progress.elapsed() < STALL_MAX {
            return Ok(());
        }
        let waited = STALL_MAX.as_secs();
        let what = format!("reading {} got nowhere for {waited} s ({what})", self.topic);
        Err(Stop::Failed(self.context.failed(&what)))
    }

    fn failed(&self, error: &KafkaError) -> Stop {
        Stop::Failed(self.context.failed(&format!("topic {} cannot be read ({error})", self.topic)))
    }
}

fn stored(message: &BorrowedMessage<'_>) -> StoredRecord {
    let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
    StoredRecord {
        place: Place { partition: message.partition(), offset: message.offset() },
        key: message.key().unwrap_or_default().to_vec(),
        payload: message.payload().map(<[u8]>::to_vec),
        timestamp: UtcMillis::new(message.timestamp().to_millis().unwrap_or_default()),
        headers: headers.map(|header| (header.key.to_owned(), header.value.unwrap_or_default().to_vec())).collect(),
    }
}
