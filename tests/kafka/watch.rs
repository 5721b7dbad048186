//! Watches a topic from outside: for how long its records wait before a read_committed consumer can have them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

/// How often it looks; shorter waits are seen by chance only.
const EVERY: Duration = Duration::from_millis(10);

/// A thread that looks until this is dropped.
pub(super) struct Watch {
    is_stopped: Arc<AtomicBool>,
    stalls: Arc<Mutex<Vec<Duration>>>,
}

impl Watch {
    pub(super) fn start(bootstrap: &str, topic: &str, partitions: i32) -> Self {
        let consumer = |isolation: &str| -> BaseConsumer {
            let mut config = ClientConfig::new();
            config.set("bootstrap.servers", bootstrap).set("isolation.level", isolation);
            config.create().unwrap()
        };
        let (committed, all) = (consumer("read_committed"), consumer("read_uncommitted"));
        let watch = Self { is_stopped: Arc::default(), stalls: Arc::default() };
        let (is_stopped, stalls) = (Arc::clone(&watch.is_stopped), Arc::clone(&watch.stalls));
        let topic = topic.to_owned();
        std::thread::spawn(move || {
            let mut since: BTreeMap<i32, (i64, Instant)> = BTreeMap::new();
            let end = |consumer: &BaseConsumer, partition| {
                consumer.fetch_watermarks(&topic, partition, Duration::from_secs(5)).ok().map(|(_, end)| end)
            };
            while !is_stopped.load(Ordering::Relaxed) {
                for partition in 0..partitions {
                    // Asked second, it may be ahead, but is behind only while something is open.
                    let (Some(high), Some(stable)) = (end(&all, partition), end(&committed, partition)) else {
                        continue;
                    };
                    match since.get(&partition) {
                        Some((at, _)) if *at == stable && stable < high => {}
                        known => {
                            stalls.lock().unwrap().extend(known.map(|(_, began)| began.elapsed()));
                            since.remove(&partition);
                            if stable < high {
                                since.insert(partition, (stable, Instant::now()));
                            }
                        }
                    }
                }
                std::thread::sleep(EVERY);
            }
        });
        watch
    }

    /// All that have ended, shortest first.
    pub(super) fn stalls(&self) -> Vec<Duration> {
        let mut stalls = self.stalls.lock().unwrap().clone();
        stalls.sort();
        stalls
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::Relaxed);
    }
}
