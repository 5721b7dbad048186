//! How soon a consumer has a leg that the API shows, how soon a start publishes, and what waiting costs.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use call_legs::clock::{Clock, SystemClock};
use call_legs::core::time::UtcMillis;
use call_legs::sandbox::dataset::DatasetSettings;
use call_legs::sandbox::{Sandbox, Settings};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use super::connector::Rig;
use super::tape::{Server, Tape};

/// How many polls show new legs, a second apart.
const POLLS: usize = 100;

/// How many each.
const LEGS_A_POLL: usize = 5;

/// For how long the connector is left alone.
const IDLE: Duration = Duration::from_secs(60);

pub(crate) struct Measured {
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) legs: usize,
    /// From the process's start to the first leg that a consumer has, with a view that is up to date.
    pub(crate) start: Duration,
    /// Of a core, without calls, by the default pace.
    pub(crate) idle: f64,
}

/// How old legs are when a consumer has them.
pub(crate) struct Fresh {
    pub(crate) interval: &'static str,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) legs: usize,
}

/// A leg at the consumer.
#[derive(Clone, Copy)]
struct Arrival {
    at: Instant,
    /// Since its disconnect, which is the record's time.
    age: Duration,
}

/// Reads what is committed and notes when.
struct Watch {
    arrivals: Arc<Mutex<Vec<Arrival>>>,
    is_over: Arc<AtomicBool>,
    reading: Option<JoinHandle<()>>,
}

impl Watch {
    fn start(bootstrap: &str, topic: &str) -> Self {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("group.id", "bench-watch")
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .create()
            .expect("a consumer");
        let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(30)).expect("the topic's metadata");
        let mut assignment = TopicPartitionList::new();
        for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
            assignment.add_partition_offset(topic, partition.id(), Offset::Beginning).expect("a partition");
        }
        consumer.assign(&assignment).expect("an assignment");
        let arrivals = Arc::new(Mutex::new(Vec::new()));
        let is_over = Arc::new(AtomicBool::new(false));
        let reading = {
            let (arrivals, is_over) = (Arc::clone(&arrivals), Arc::clone(&is_over));
            std::thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    if let Some(message) = consumer.poll(Duration::from_millis(100)) {
                        let message = message.expect("the topic's records come");
                        assert!(message.payload().is_some(), "a leg");
                        let ended = UtcMillis::new(message.timestamp().to_millis().expect("a record has a time"));
                        lock(&arrivals).push(Arrival { at: Instant::now(), age: SystemClock.now().since(ended) });
                    }
                }
            })
        };
        Self { arrivals, is_over, reading: Some(reading) }
    }

    /// When each leg arrived, once there are so many.
    async fn arrivals(&self, legs: usize) -> Vec<Arrival> {
        loop {
            let arrivals = lock(&self.arrivals).clone();
            if arrivals.len() >= legs {
                return arrivals;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = self.reading.take().map(JoinHandle::join);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) async fn measure(bootstrap: &str, now: UtcMillis) -> Measured {
    let tape = Arc::new(Tape::render((POLLS * LEGS_A_POLL + 10) as u64, Duration::from_secs(600), now, 2));
    let server = Server::start(Arc::clone(&tape)).await;
    server.show_only(0);
    let settings = [("poll.start_from", "\"now-1h\""), ("poll.overlap", "\"2h\"")];
    let rig = Rig::new("latency", &server.base_url(), bootstrap, &settings);
    let mut connector = rig.start();
    server.asked(1).await;
    let watch = Watch::start(bootstrap, &rig.topic);
    let mut shown: HashMap<usize, Instant> = HashMap::new();
    for poll in 1..=POLLS {
        // Between a poll that asks and its answer: what is shown now is new to it.
        server.show_only(poll * LEGS_A_POLL);
        server.allow_poll();
        server.asked(poll + 1).await;
        connector.must_run();
        shown.insert(poll, server.first_shown());
    }
    let arrivals = watch.arrivals(POLLS * LEGS_A_POLL).await;
    // Polls wait for one another, so legs arrive poll by poll.
    let mut waits: Vec<Duration> =
        arrivals.iter().enumerate().map(|(index, arrival)| arrival.at - shown[&(index / LEGS_A_POLL + 1)]).collect();
    waits.sort();
    connector.terminate();

    server.show_only(POLLS * LEGS_A_POLL + 1);
    server.open();
    let begun = Instant::now();
    let connector = rig.start();
    let arrivals = watch.arrivals(POLLS * LEGS_A_POLL + 1).await;
    let start = arrivals.last().expect("a leg").at - begun;
    connector.terminate();

    let pace = [("poll.interval", "\"2m\""), ("poll.settle", "\"1m\""), ("poll.start_from", "\"now-1h\"")];
    let rig = Rig::new("idle", &server.base_url(), bootstrap, &pace);
    server.show_only(0);
    let connector = rig.start();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let before = connector.used().cpu;
    tokio::time::sleep(IDLE).await;
    let idle = (connector.used().cpu - before).as_secs_f64() / IDLE.as_secs_f64();
    connector.terminate();
    let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize];
    Measured { p50: at(0.5), p99: at(0.99), legs: waits.len(), start, idle }
}

/// How old the legs of three PBXs are, five a second together, at a consumer: over `span`, from when polls are live.
pub(crate) async fn freshness(bootstrap: &str, interval: &'static str, span: Duration) -> Fresh {
    let dataset =
        DatasetSettings { legs: 1_000, span: Duration::from_secs(600), rate: 5.0, ..DatasetSettings::default() };
    let listen = ([127, 0, 0, 1], 0).into();
    let sandbox = Sandbox::start(Settings { listen, dataset, ..Settings::default() }).await.expect("the simulated API");
    let (url, units) = (sandbox.base_url().to_owned(), format!("{:?}", sandbox.api().pbxes()));
    let every = format!("{interval:?}");
    let settings = [
        ("source.pbx_ids", units.as_str()),
        ("source.requests_per_minute", "60"),
        ("source.page_size", "1000"),
        ("poll.interval", every.as_str()),
        ("poll.settle", "\"1m\""),
        ("poll.start_from", "\"now-10m\""),
    ];
    let rig = Rig::new(&format!("fresh-{interval}"), &url, bootstrap, &settings);
    let connector = rig.start();
    // The first poll catches up.
    tokio::time::sleep(Duration::from_secs(20)).await;
    let watch = Watch::start(bootstrap, &rig.topic);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = lock(&watch.arrivals).len();
    tokio::time::sleep(span).await;
    let mut ages: Vec<Duration> = lock(&watch.arrivals)[before..].iter().map(|arrival| arrival.age).collect();
    connector.terminate();
    ages.sort();
    let at = |share: f64| ages[((ages.len() - 1) as f64 * share) as usize];
    Fresh { interval, p50: at(0.5), p99: at(0.99), legs: ages.len() }
}
