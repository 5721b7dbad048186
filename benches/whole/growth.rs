//! How costs grow with what is remembered: a journal of many identities, written beforehand, and the connector on it.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use call_legs::codec::JournalCodec;
use call_legs::core::dedupe::Seen;
use call_legs::core::hours::{Hour, HourRows, PageHours};
use call_legs::core::identity::{Fingerprint, KeyHash};
use call_legs::core::journal::{Entry, Page, Record, UnitProgress};
use call_legs::core::ledger::Ledger;
use call_legs::core::time::{UtcMillis, Window};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::connector::{Connector, Rig};
use super::limit;
use super::tape::{Server, Tape, UNIT};

/// How many identities a page has.
const PAGE_ENTRIES: u64 = 5_000;

/// New legs, by which the cost of one is measured.
const LEGS: u64 = 300_000;

/// The share of the identities that is forgotten in the end.
const FORGOTTEN: f64 = 0.9;

/// Legs that are shown in the end only.
const HELD_BACK: usize = 100;

/// How many pages the connector forgets in one transaction.
const FORGOTTEN_AT_ONCE: u64 = 500;

/// How often it writes something at the latest.
const BEAT: Duration = Duration::from_secs(1);

const HOUR: Duration = Duration::from_secs(3600);

pub(crate) struct Measured {
    pub(crate) identities: u64,
    /// CPU time of the connector for a new leg, and for a row that is a duplicate.
    pub(crate) leg: Duration,
    pub(crate) duplicate: Duration,
    pub(crate) rss_peak_bytes: u64,
    /// Of the state directory, per identity.
    pub(crate) disk: f64,
    /// The same of those that are left after the others were forgotten.
    pub(crate) disk_after_expiry: f64,
    /// From the process's start to its first request.
    pub(crate) warm_start: Duration,
    /// Identities a second, from the journal to the first request.
    pub(crate) rebuilt: f64,
}

pub(crate) async fn measure(bootstrap: &str, identities: u64, now: UtcMillis) -> Measured {
    let tape = Arc::new(Tape::render(LEGS, HOUR, now, 3));
    let server = Server::start(Arc::clone(&tape)).await;
    server.show_only(0);
    let name = format!("growth-{identities}");
    let settings = [
        ("poll.start_from", "\"now-2h\""),
        ("poll.overlap", "\"3h\""),
        ("kafka.beat", "\"1s\""),
        // A request waits at the gate while pages are forgotten; sent again, it would count as the next poll.
        ("source.request_timeout", "\"5m\""),
    ];
    let rig = Rig::new(&name, &server.base_url(), bootstrap, &settings);
    let mut polls = 0;
    started(&rig, &server, &mut polls).await.1.terminate();

    let mut journal = Journal::read(bootstrap, &format!("{}.journal", rig.topic));
    journal.write_pages(identities, now);
    fs::remove_dir_all(rig.state_dir().join("store")).expect("the view is there");
    let (rebuilding, connector) = started(&rig, &server, &mut polls).await;
    connector.terminate();
    let mut warm_starts = Vec::new();
    for _ in 0..3 {
        let (warm_start, connector) = started(&rig, &server, &mut polls).await;
        warm_starts.push(warm_start);
        connector.terminate();
    }
    warm_starts.sort();

    let (_, mut connector) = started(&rig, &server, &mut polls).await;
    let disk = size_bytes(&rig.state_dir()) as f64 / identities as f64;
    server.show_only(tape.len() - HELD_BACK);
    let rows = (tape.len() - HELD_BACK) as f64;
    let mut costs = Vec::new();
    for result in ["result=\"published\"", "result=\"duplicate\""] {
        let before = connector.used().cpu;
        server.allow_poll();
        connector.reaches("call_legs_rows_total", result, rows).await;
        polls += 1;
        server.asked(polls).await;
        costs.push((connector.used().cpu - before).div_f64(rows));
    }
    let rss_peak_bytes = connector.used().rss_peak_bytes;
    connector.terminate();

    let left = journal.forget(bootstrap, &format!("{}.journal", rig.topic), now);
    let (_, connector) = started(&rig, &server, &mut polls).await;
    // Pages are forgotten in parts, one with each beat; the view hears of it with the next new legs.
    tokio::time::sleep(BEAT * u32::try_from(identities / PAGE_ENTRIES / FORGOTTEN_AT_ONCE + 10).expect("few beats"))
        .await;
    polls += 1;
    server.asked(polls).await;
    server.show_only(usize::MAX);
    server.allow_poll();
    polls += 1;
    server.asked(polls).await;
    let disk_after_expiry = size_bytes(&rig.state_dir()) as f64 / left as f64;
    connector.terminate();
    Measured {
        identities,
        leg: costs[0],
        duplicate: costs[1],
        rss_peak_bytes,
        disk,
        disk_after_expiry,
        warm_start: warm_starts[1],
        rebuilt: identities as f64 / rebuilding.as_secs_f64(),
    }
}

/// Starts the connector, and gives how long it took to its first request.
async fn started(rig: &Rig, server: &Server, polls: &mut usize) -> (Duration, Connector) {
    let begun = Instant::now();
    let connector = rig.start();
    *polls += 1;
    server.asked(*polls).await;
    let took = begun.elapsed();
    // Nobody waits at the gate any more once this one has gone.
    server.allow_poll();
    (took, connector)
}

fn size_bytes(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    let sizes = entries.filter_map(Result::ok).map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size_bytes(&entry.path()),
        // What is allocated, not what a sparse file claims.
        Ok(metadata) => std::os::unix::fs::MetadataExt::blocks(&metadata) * 512,
        Err(_) => 0,
    });
    sizes.sum()
}

/// A journal that is written from outside while no connector runs.
struct Journal {
    topic: String,
    ledger: Ledger,
    codec: JournalCodec,
    producer: BaseProducer,
    identities: u64,
}

impl Journal {
    fn read(bootstrap: &str, topic: &str) -> Self {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("enable.idempotence", "true")
            .set("queue.buffering.max.kbytes", "65536")
            .create()
            .expect("a producer");
        let codec = JournalCodec::new();
        let ledger = fold(&codec, bootstrap, topic);
        Self { topic: topic.to_owned(), ledger, codec, producer, identities: 0 }
    }

    fn send(&mut self, record: &Record) {
        let (key, payload) = self.codec.encode(record);
        let payload = payload.expect("a record with a value");
        let mut message = BaseRecord::to(&self.topic).key(&key).payload(&payload).partition(0);
        while let Err((error, returned)) = self.producer.send(message) {
            assert_eq!(error.rdkafka_error_code(), Some(rdkafka::error::RDKafkaErrorCode::QueueFull), "{error}");
            self.producer.poll(Duration::from_millis(10));
            message = returned;
        }
        self.producer.poll(Duration::ZERO);
        self.ledger.take(self.ledger.head.next_offset, record).expect("the records follow one another");
    }

    fn progress(&self) -> UnitProgress {
        self.ledger.head.units.get(UNIT).expect("the unit was begun").clone()
    }

    /// Pages of the day before the newest two hours, oldest first.
    fn write_pages(&mut self, identities: u64, now: UtcMillis) {
        let mut random = SmallRng::seed_from_u64(identities);
        let (from, pages) = (now.minus(HOUR * 26), identities / PAGE_ENTRIES);
        let generation = self.progress().generation;
        for page in 0..pages {
            let at = |part: u64| from.plus((HOUR * 24).mul_f64((page * 2 + part) as f64 / (pages * 2) as f64));
            let entry = |random: &mut SmallRng| Entry {
                key: KeyHash(random.random()),
                seen: Seen { fingerprint: Some(Fingerprint::from_bits(random.random())), revision: 0 },
            };
            let record = Record::Page(Page {
                seq: self.ledger.head.last_seq + 1,
                writer: None,
                unit: UNIT.to_owned(),
                generation,
                first: at(0),
                last: at(1),
                fingerprint_version: Fingerprint::VERSION,
                legs: (0..PAGE_ENTRIES).map(|_| entry(&mut random)).collect(),
                dead: Vec::new(),
                hours: PageHours([(Hour::of(at(0)), HourRows { published: PAGE_ENTRIES, dead: 0 })].into()),
                chain_before: self.ledger.head.chain,
            });
            self.send(&record);
        }
        self.identities = pages * PAGE_ENTRIES;
        let mut progress = self.progress();
        progress.progress.coverage.add(Window::new(from, progress.progress.complete_to));
        self.send_progress(progress);
    }

    fn send_progress(&mut self, progress: UnitProgress) {
        let head = &self.ledger.head;
        let (last_seq, chain) = (head.last_seq, head.chain);
        let oldest_needed_seq = head.oldest_needed_seq();
        let out_offsets = head.out_offsets.clone();
        let progress = UnitProgress { last_seq, chain, oldest_needed_seq, out_offsets, ..progress };
        self.send(&Record::Progress(progress));
        self.producer.flush(Duration::from_secs(60)).expect("the records are taken");
    }

    /// Raises the floor, so that most identities are to be forgotten; gives how many are not.
    fn forget(&mut self, bootstrap: &str, topic: &str, now: UtcMillis) -> u64 {
        self.ledger = fold(&self.codec, bootstrap, topic);
        let mut progress = self.progress();
        progress.progress.floor = now.minus(HOUR * 26).plus((HOUR * 24).mul_f64(FORGOTTEN));
        let floor = progress.progress.floor;
        self.send_progress(progress);
        let left = self.ledger.pages.values().filter(|page| page.last >= floor);
        left.map(|page| u64::from(page.entries)).sum()
    }
}

fn fold(codec: &JournalCodec, bootstrap: &str, topic: &str) -> Ledger {
    let mut ledger = Ledger::default();
    for (offset, record) in limit::read(bootstrap, topic).into_iter().enumerate() {
        let record = codec.decode(&record.key, record.value.as_deref()).expect("a record of the journal");
        ledger.take(i64::try_from(offset).expect("an offset"), &record).expect("the records follow one another");
    }
    ledger
}
