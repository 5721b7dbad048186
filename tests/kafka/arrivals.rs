//! A consumer that takes down when it gets which leg: how fresh live legs are, and how much of the past has come.
//!
//! A record's timestamp is its leg's disconnect time, as long as `kafka.timestamp` has its default.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

/// How long it waits for a record before it looks whether it is to stop.
const WAIT: Duration = Duration::from_millis(100);

/// A live leg that has come; milliseconds since the epoch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) disconnected: i64,
    pub(super) received: i64,
}

impl Arrival {
    /// Milliseconds from the leg's end to the consumer.
    pub(super) fn freshness(self) -> i64 {
        self.received - self.disconnected
    }

    /// Whether it was on its way at some time from `from` to `to`.
    pub(super) fn overlaps(self, from: i64, to: i64) -> bool {
        self.disconnected < to && from < self.received
    }
}

/// A thread that consumes until this is dropped.
pub(super) struct Arrivals {
    is_stopped: Arc<AtomicBool>,
    live: Arc<Mutex<Vec<Arrival>>>,
    past: Arc<AtomicU64>,
}

impl Arrivals {
    /// Consumes a topic that exists, from its beginning; what ended before `origin` is past, the rest live.
    pub(super) fn start(bootstrap: &str, topic: &str, partitions: i32, origin: i64) -> Self {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", bootstrap).set("isolation.level", "read_committed").set("group.id", "arrivals");
        let consumer: BaseConsumer = config.set("enable.auto.commit", "false").create().unwrap();
        let mut assignment = TopicPartitionList::new();
        for partition in 0..partitions {
            assignment.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
        }
        consumer.assign(&assignment).unwrap();
        let arrivals = Self { is_stopped: Arc::default(), live: Arc::default(), past: Arc::default() };
        let (is_stopped, live) = (Arc::clone(&arrivals.is_stopped), Arc::clone(&arrivals.live));
        let past = Arc::clone(&arrivals.past);
        std::thread::spawn(move || {
            while !is_stopped.load(Ordering::Relaxed) {
                let Some(Ok(message)) = consumer.poll(WAIT) else { continue };
                let disconnected = message.timestamp().to_millis().unwrap();
                if disconnected < origin {
                    past.fetch_add(1, Ordering::Relaxed);
                } else {
                    live.lock().unwrap().push(Arrival { disconnected, received: now() });
                }
            }
        });
        arrivals
    }

    /// How many records of the past have come.
    pub(super) fn past(&self) -> u64 {
        self.past.load(Ordering::Relaxed)
    }

    /// The live legs that have come.
    pub(super) fn live(&self) -> Vec<Arrival> {
        self.live.lock().unwrap().clone()
    }
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::Relaxed);
    }
}

/// Milliseconds since the epoch.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

/// How many there are and how fresh they were, in words.
pub(super) fn describe(arrivals: impl Iterator<Item = Arrival>) -> String {
    let mut freshness: Vec<i64> = arrivals.map(Arrival::freshness).collect();
    freshness.sort_unstable();
    let Some(last) = freshness.len().checked_sub(1) else { return "none".to_owned() };
    let share = |percent: usize| freshness[last * percent / 100];
    let (count, longest) = (freshness.len(), freshness[last]);
    format!("{count} legs: p50 {} ms, p90 {} ms, p99 {} ms, longest {longest} ms", share(50), share(90), share(99))
}
