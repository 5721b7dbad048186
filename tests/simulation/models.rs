//! The models' own tests: that they do what Kafka and the API do where it hurts.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use call_legs::core::dedupe::Seen;
use call_legs::core::hours::PageHours;
use call_legs::core::identity::KeyHash;
use call_legs::core::journal::{Chain, Delivery, Entry, Page};
use call_legs::core::ledger::Head;
use call_legs::core::pagination::{PageMeta, Scroll, Step};
use call_legs::core::query::query_bounds;
use call_legs::core::time::{UtcMillis, Window};
use call_legs::sink::{
    Cluster, Destination, Message, Packing, Producer, ProducerError, Reader, SinkError, StoredRecord, Stretch,
};
use call_legs::source::wire::{Row, row};
use call_legs::source::{Failure, Source};
use call_legs::store::{StoreError, View};
use proptest::prelude::*;

use crate::api::{Api, Mood, Setting, Sort};
use crate::broker::{Broker, Fate, Flavor, Refusal, Writer};
use crate::cluster::{Kafka, SimCluster, SimProducer, Weather};
use crate::disk::Disk;
use crate::life::Life;
use crate::seed::{Run, sleep};

const OUT: (Destination, i32) = (Destination::Legs, 0);
const JOURNAL: (Destination, i32) = (Destination::Journal, 0);

fn message(destination: Destination, key: &str) -> Message {
    Message {
        destination,
        key: key.to_owned().into(),
        payload: Some(key.to_owned().into()),
        timestamp: None,
        headers: Vec::new(),
    }
}

fn writer(producer: u64) -> Writer {
    Writer { life: producer as u32, producer }
}

/// A producer that talks to the broker without a network.
struct Direct {
    writer: Writer,
    epoch: i32,
    batch: u64,
    added: BTreeSet<(Destination, i32)>,
}

impl Direct {
    fn init(broker: &mut Broker) -> Self {
        let writer = writer(broker.next_producer());
        let epoch = loop {
            match broker.init(writer) {
                Ok(epoch) => break epoch,
                Err(Refusal::Concurrent) => deliver(broker),
                Err(refusal) => panic!("{refusal:?}"),
            }
        };
        Self { writer, epoch, batch: 0, added: BTreeSet::new() }
    }

    fn send(&mut self, broker: &mut Broker, partition: (Destination, i32), key: &str) -> Result<i64, Refusal> {
        if !self.added.contains(&partition) {
            broker.add_partitions(self.writer, self.epoch, &BTreeSet::from([partition]))?;
            self.added.insert(partition);
        }
        self.batch += 1;
        let places = broker.produce(self.writer, self.epoch, self.batch, partition, &[message(partition.0, key)])?;
        Ok(places[0].offset)
    }

    fn commit(&mut self, broker: &mut Broker) -> Result<(), Refusal> {
        broker.end(self.epoch, true)?;
        self.added.clear();
        Ok(())
    }
}

/// Writes all markers that are due.
fn deliver(broker: &mut Broker) {
    let unmarked =
        |transaction: &crate::broker::Transaction| transaction.fate != Fate::Open && !transaction.unmarked.is_empty();
    let due: Vec<u64> =
        broker.transactions.iter().filter(|(_, known)| unmarked(known)).map(|(number, _)| *number).collect();
    for number in due {
        for place in broker.transactions[&number].unmarked.clone() {
            broker.mark(number, place);
        }
    }
}

fn keys(records: &[StoredRecord]) -> Vec<String> {
    records.iter().map(|record| String::from_utf8(record.key.clone()).unwrap()).collect()
}

fn committed(broker: &Broker, partition: (Destination, i32)) -> Vec<String> {
    keys(&broker.fetch(partition, 0, i64::MAX, usize::MAX).0)
}

fn kafka() -> Broker {
    Broker::new(Flavor::Kafka, 1, 1)
}

#[test]
fn a_committed_transaction_is_seen_and_an_open_one_holds_readers_back() {
    let mut broker = kafka();
    let mut producer = Direct::init(&mut broker);
    assert_eq!(producer.send(&mut broker, OUT, "a"), Ok(0));
    assert!(committed(&broker, OUT).is_empty());
    let ends = broker.ends(Destination::Legs)[0];
    assert_eq!((ends.stable, ends.high), (0, 1));
    producer.commit(&mut broker).unwrap();
    assert!(committed(&broker, OUT).is_empty(), "decided, but its marker is under way");
    deliver(&mut broker);
    assert_eq!(committed(&broker, OUT), ["a"]);
    assert_eq!(broker.ends(Destination::Legs)[0].stable, 2);
}

#[test]
fn markers_come_partition_by_partition() {
    let mut broker = kafka();
    let mut producer = Direct::init(&mut broker);
    producer.send(&mut broker, OUT, "leg").unwrap();
    producer.send(&mut broker, JOURNAL, "page").unwrap();
    producer.commit(&mut broker).unwrap();
    broker.mark(1, JOURNAL);
    assert_eq!((committed(&broker, OUT).len(), committed(&broker, JOURNAL).len()), (0, 1));
    assert_eq!(producer.send(&mut broker, OUT, "next"), Err(Refusal::Concurrent));
    assert_eq!(broker.end(producer.epoch, true), Err(Refusal::Concurrent));
    broker.mark(1, OUT);
    assert_eq!(broker.end(producer.epoch, true), Ok(()), "a repeated commit of a complete transaction");
    assert_eq!(broker.end(producer.epoch, false), Err(Refusal::InvalidState));
}

#[test]
fn init_aborts_what_is_open_and_fences_its_producer() {
    let mut broker = kafka();
    let mut old = Direct::init(&mut broker);
    old.send(&mut broker, OUT, "lost").unwrap();
    let mut new = Direct::init(&mut broker);
    assert_eq!(broker.transactions[&1].fate, Fate::Aborted);
    assert_eq!(old.send(&mut broker, OUT, "zombie"), Err(Refusal::Fenced));
    assert_eq!(old.send(&mut broker, JOURNAL, "zombie"), Err(Refusal::Fenced));
    assert_eq!(old.commit(&mut broker), Err(Refusal::Fenced));
    new.send(&mut broker, OUT, "kept").unwrap();
    new.commit(&mut broker).unwrap();
    deliver(&mut broker);
    assert_eq!(committed(&broker, OUT), ["kept"]);
}

#[test]
fn init_waits_for_a_commit_under_way() {
    let mut broker = kafka();
    let mut old = Direct::init(&mut broker);
    old.send(&mut broker, OUT, "a").unwrap();
    old.commit(&mut broker).unwrap();
    assert_eq!(broker.init(writer(9)), Err(Refusal::Concurrent));
    deliver(&mut broker);
    assert!(broker.init(writer(9)).is_ok());
    assert_eq!(committed(&broker, OUT), ["a"]);
}

#[test]
fn a_late_commit_ends_a_part_of_a_later_transaction() {
    // KAFKA-17754, as in delivery_model.py, mutant A.
    let mut broker = kafka();
    let mut producer = Direct::init(&mut broker);
    producer.send(&mut broker, JOURNAL, "claim").unwrap();
    producer.commit(&mut broker).unwrap();
    deliver(&mut broker);
    producer.send(&mut broker, OUT, "leg").unwrap();
    let late = broker.end(producer.epoch, true);
    assert_eq!(late, Ok(()));
    deliver(&mut broker);
    assert_eq!(committed(&broker, OUT), ["leg"], "without its page");
    assert_eq!(producer.send(&mut broker, OUT, "second leg"), Err(Refusal::InvalidState), "KIP-890 part 1");
    assert!(producer.send(&mut broker, JOURNAL, "page").is_ok(), "a first write begins a new transaction unasked");
    producer.commit(&mut broker).unwrap();
    deliver(&mut broker);
    assert_eq!(committed(&broker, JOURNAL), ["claim", "page"]);
}

#[test]
fn a_timed_out_transaction_fences_its_own_producer() {
    let mut broker = kafka();
    let mut producer = Direct::init(&mut broker);
    producer.send(&mut broker, OUT, "slow").unwrap();
    broker.time_out(1);
    deliver(&mut broker);
    assert_eq!(producer.commit(&mut broker), Err(Refusal::Fenced));
    assert!(committed(&broker, OUT).is_empty());
}

#[test]
fn copies_of_a_batch_count_once() {
    let mut broker = kafka();
    let producer = Direct::init(&mut broker);
    broker.add_partitions(producer.writer, producer.epoch, &BTreeSet::from([OUT])).unwrap();
    let send = |broker: &mut Broker| broker.produce(producer.writer, producer.epoch, 1, OUT, &[message(OUT.0, "a")]);
    let first = send(&mut broker).unwrap();
    assert_eq!(send(&mut broker).unwrap(), first);
    assert_eq!(broker.ends(Destination::Legs)[0].high, 1);
}

#[test]
fn compaction_keeps_the_newest_committed_record_of_each_key() {
    let mut broker = kafka();
    let mut producer = Direct::init(&mut broker);
    for key in ["a", "b", "a"] {
        producer.send(&mut broker, JOURNAL, key).unwrap();
        producer.commit(&mut broker).unwrap();
        deliver(&mut broker);
    }
    producer.send(&mut broker, JOURNAL, "b").unwrap();
    let mut producer = Direct::init(&mut broker);
    broker.compact(JOURNAL, i64::MAX, UtcMillis::default());
    assert_eq!(committed(&broker, JOURNAL), ["b", "a"], "an aborted record replaces nothing");
    producer.send(&mut broker, JOURNAL, "b").unwrap();
    assert_eq!(committed(&broker, JOURNAL), ["b", "a"]);
}

#[derive(Clone, Debug)]
enum Act {
    Init(usize),
    Send(usize, bool),
    Commit(usize),
    LateCommit(usize),
    Mark(usize),
    TimeOut,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        1 => (0..3usize).prop_map(Act::Init),
        6 => (0..3usize, any::<bool>()).prop_map(|(who, is_out)| Act::Send(who, is_out)),
        3 => (0..3usize).prop_map(Act::Commit),
        1 => (0..3usize).prop_map(Act::LateCommit),
        6 => (0..3usize).prop_map(Act::Mark),
        1 => Just(Act::TimeOut),
    ]
}

proptest! {
    /// Whatever three producers do, readers see committed records only, each once, in order; and all of them in the end.
    #[test]
    fn readers_never_see_what_is_not_committed(acts in prop::collection::vec(act(), 1..120)) {
        let mut broker = kafka();
        let mut producers: Vec<Direct> = (0..3).map(|_| Direct::init(&mut broker)).collect();
        let mut due: Vec<(u64, (Destination, i32))> = Vec::new();
        let mut sent = 0;
        for act in acts {
            match act {
                Act::Init(who) => producers[who] = Direct::init(&mut broker),
                Act::Send(who, is_out) => {
                    sent += 1;
                    let place = if is_out { OUT } else { JOURNAL };
                    let _ = producers[who].send(&mut broker, place, &sent.to_string());
                }
                Act::Commit(who) => {
                    let _ = producers[who].commit(&mut broker);
                }
                Act::LateCommit(who) => {
                    let _ = broker.end(producers[who].epoch, true);
                }
                Act::Mark(which) => {
                    if which < due.len() {
                        let (number, place) = due.remove(which);
                        broker.mark(number, place);
                    }
                }
                Act::TimeOut => {
                    let newest = broker.transactions.keys().next_back().copied().unwrap_or(0);
                    broker.time_out(newest);
                }
            }
            for number in std::mem::take(&mut broker.undelivered) {
                due.extend(broker.transactions[&number].unmarked.iter().map(|place| (number, *place)));
            }
            for place in [OUT, JOURNAL] {
                let seen = committed(&broker, place);
                let log = &broker.partitions[&place];
                let truth: Vec<String> = (0..log.stable())
                    .filter_map(|offset| log.record(offset))
                    .filter(|stored| broker.is_committed(stored))
                    .map(|stored| String::from_utf8(stored.message.key.to_vec()).unwrap())
                    .collect();
                prop_assert_eq!(seen, truth);
            }
        }
        for (number, place) in due {
            broker.mark(number, place);
        }
        let last = Direct::init(&mut broker);
        prop_assert!(last.epoch >= 3 && broker.is_settled());
        for place in [OUT, JOURNAL] {
            prop_assert_eq!(broker.partitions[&place].stable(), broker.partitions[&place].high());
        }
    }
}

struct Rig {
    run: Arc<Run>,
    kafka: Arc<Kafka>,
}

impl Rig {
    fn new(seed: u64, weather: Weather) -> Self {
        let run = Arc::new(Run::new(seed, false));
        let kafka = Kafka::new(Arc::clone(&run), Broker::new(Flavor::Kafka, 3, 1), weather);
        Self { run, kafka }
    }

    fn client(&self, number: u32) -> (Arc<Life>, SimCluster) {
        let life = Life::plain(&self.run, number);
        let cluster = self.kafka.seen_by(&life);
        (life, cluster)
    }
}

async fn publish(producer: &mut SimProducer, keys: &[&str]) -> Result<(), ProducerError> {
    producer.begin().await?;
    let legs: Vec<Message> = keys.iter().map(|key| message(Destination::Legs, key)).collect();
    producer.send(&legs, Packing::Shared).await?;
    producer.send(&[message(Destination::Journal, keys[0])], Packing::Shared).await?;
    producer.commit().await
}

async fn read(cluster: &SimCluster, destination: Destination) -> Result<Vec<String>, SinkError> {
    let ends = cluster.ends(destination).await?;
    let stretches = ends.iter().map(|end| Stretch { partition: end.partition, from: 0, until: end.high }).collect();
    let mut reader = cluster.read(destination, stretches).await?;
    let mut found = Vec::new();
    while let Some(records) = reader.next().await? {
        assert!(!records.is_empty());
        found.extend(keys(&records));
    }
    found.sort();
    Ok(found)
}

#[tokio::test(start_paused = true)]
async fn a_cluster_passes_the_test_of_a_cluster() {
    let rig = Rig::new(1, Weather::FAIR);
    let (_, cluster) = rig.client(1);
    let mut first = cluster.producer(Delivery::ExactlyOnce).await.unwrap();
    first.begin().await.unwrap();
    let places = first.send(&[message(Destination::Journal, "x/1")], Packing::Shared).await.unwrap();
    assert_eq!(places[0].offset, 0);
    let second = cluster.producer(Delivery::ExactlyOnce).await.unwrap();
    assert!(matches!(first.commit().await, Err(ProducerError::Fenced(_))));
    assert_eq!(read(&cluster, Destination::Journal).await.unwrap(), [""; 0]);
    drop(second);
}

#[tokio::test(start_paused = true)]
async fn one_that_only_pretends_does_not_pass_it() {
    let run = Arc::new(Run::new(1, false));
    let kafka = Kafka::new(Arc::clone(&run), Broker::new(Flavor::Pretends, 1, 1), Weather::FAIR);
    let cluster = kafka.seen_by(&Life::plain(&run, 1));
    let mut first = cluster.producer(Delivery::ExactlyOnce).await.unwrap();
    first.begin().await.unwrap();
    first.send(&[message(Destination::Journal, "x/1")], Packing::Shared).await.unwrap();
    let _second = cluster.producer(Delivery::ExactlyOnce).await.unwrap();
    assert!(first.commit().await.is_ok());
    assert_eq!(read(&cluster, Destination::Journal).await.unwrap(), ["x/1"]);
}

#[tokio::test(start_paused = true)]
async fn a_fair_network_publishes_and_reads_everything() {
    let rig = Rig::new(2, Weather::FAIR);
    let (_, cluster) = rig.client(1);
    let mut producer = cluster.producer(Delivery::ExactlyOnce).await.unwrap();
    publish(&mut producer, &["a", "b", "c"]).await.unwrap();
    publish(&mut producer, &["d"]).await.unwrap();
    assert_eq!(read(&cluster, Destination::Legs).await.unwrap(), ["a", "b", "c", "d"]);
    assert!(rig.run.elapsed() < Duration::from_secs(1), "{:?}", rig.run.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_empty_commit_succeeds_even_for_a_fenced_producer() {
    let rig = Rig::new(3, Weather::FAIR);
    let (_, cluster) = rig.client(1);
    let mut old = cluster.producer(Delivery::ExactlyOnce).await.unwrap();
    let _new = cluster.producer(Delivery::ExactlyOnce).await.unwrap();
    old.begin().await.unwrap();
    assert_eq!(old.commit().await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_reader_waits_for_an_open_transaction_until_the_brokers_give_it_up() {
    let rig = Rig::new(4, Weather::FAIR);
    let (life, cluster) = rig.client(1);
    let mut producer = cluster.producer(Delivery::ExactlyOnce).await.unwrap();
    producer.begin().await.unwrap();
    producer.send(&[message(Destination::Legs, "a")], Packing::Shared).await.unwrap();
    life.kill();
    let (_, other) = rig.client(2);
    assert!(read(&other, Destination::Legs).await.unwrap().is_empty());
    assert!(rig.run.elapsed() > Duration::from_secs(14), "{:?}", rig.run.elapsed());
}

#[tokio::test(start_paused = true)]
async fn brokers_that_are_away_are_waited_for_and_keep_what_they_have() {
    let rig = Rig::new(5, Weather::FAIR);
    let (_, cluster) = rig.client(1);
    let mut producer = cluster.producer(Delivery::ExactlyOnce).await.unwrap();
    publish(&mut producer, &["a"]).await.unwrap();
    rig.kafka.set_up(false);
    assert!(matches!(read(&cluster, Destination::Legs).await, Err(SinkError::Unavailable(_))));
    assert!(matches!(publish(&mut producer, &["b"]).await, Err(ProducerError::Doubtful(_))));
    assert!(matches!(cluster.producer(Delivery::ExactlyOnce).await, Err(SinkError::Unavailable(_))));
    rig.kafka.set_up(true);
    assert_eq!(read(&cluster, Destination::Legs).await.unwrap(), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn the_writes_of_a_killed_process_without_transactions_may_land_later() {
    let rig = Rig::new(6, Weather { late: 1.0, ..Weather::FAIR });
    let (life, cluster) = rig.client(1);
    let mut producer = cluster.producer(Delivery::AtLeastOnce).await.unwrap();
    let sending = tokio::spawn(async move { producer.send(&[message(Destination::Legs, "a")], Packing::Shared).await });
    sleep(Duration::from_millis(100)).await;
    life.kill();
    sending.abort();
    rig.run.heal(true);
    let (_, other) = rig.client(2);
    assert!(read(&other, Destination::Legs).await.unwrap().is_empty());
    sleep(Duration::from_secs(120)).await;
    assert_eq!(read(&other, Destination::Legs).await.unwrap(), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn refused_records_are_named_when_they_are_alone() {
    let rig = Rig::new(7, Weather::FAIR);
    let (_, cluster) = rig.client(1);
    let mut producer = cluster.producer(Delivery::ExactlyOnce).await.unwrap();
    producer.begin().await.unwrap();
    let batch = ["a", "6661", "b"].map(|key| message(Destination::Legs, key));
    let refused = producer.send(&batch, Packing::Alone).await;
    assert!(
        matches!(&refused, Err(ProducerError::Content(guilty)) if guilty.iter().map(|(position, _)| *position).eq([1])),
        "{refused:?}"
    );
}

/// In foul weather the network does everything that the design has to live with.
#[tokio::test(start_paused = true)]
async fn foul_weather_splits_transactions_and_loses_answers() {
    let (mut split, mut doubtful, mut fenced) = (0, 0, 0);
    for seed in 0..120 {
        let weather = Weather {
            request_lost: 0.02,
            answer_lost: 0.02,
            late: 0.06,
            slow: 0.02,
            unavailable: 0.02,
            doubt_noticed: 0.0,
        };
        let rig = Rig::new(seed, weather);
        let (_, cluster) = rig.client(1);
        let Ok(mut producer) = cluster.producer(Delivery::ExactlyOnce).await else { continue };
        for round in 0..20 {
            let names: Vec<String> = (0..3).map(|number| format!("{round}-{number}")).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            match publish(&mut producer, &names).await {
                Ok(()) => continue,
                Err(ProducerError::Doubtful(_)) => doubtful += 1,
                Err(ProducerError::Fenced(_)) => fenced += 1,
                Err(ProducerError::Content(_)) => panic!(),
            }
            match cluster.producer(Delivery::ExactlyOnce).await {
                Ok(new) => producer = new,
                Err(_) => break,
            }
        }
        drop(producer);
        rig.run.heal(true);
        sleep(Duration::from_secs(120)).await;
        let legs: Vec<String> = read(&cluster, Destination::Legs).await.unwrap();
        let pages = read(&cluster, Destination::Journal).await.unwrap();
        let whole = |page: &String| {
            let round = page.split_once('-').unwrap().0;
            (0..3).all(|number| legs.contains(&format!("{round}-{number}")))
        };
        assert!(pages.iter().all(whole), "seed {seed}: a page without its legs");
        split += usize::from(legs.len() > 3 * pages.len());
    }
    assert!(split > 0 && doubtful > 0, "{split} split, {doubtful} doubtful, {fenced} fenced");
}

fn setting() -> Setting {
    Setting {
        units: vec!["pbx0".to_owned(), "pbx1".to_owned()],
        before: Duration::from_secs(3600),
        after: Duration::from_secs(4 * 3600),
        between_legs: Duration::from_secs(20),
        sparser: 1,
        overlap: Duration::from_secs(600),
        zone: chrono_tz::America::Denver,
        unreachable: 0.0,
        rate_limited: 0.0,
        cursor_refused: 0.0,
        odd_meta: 0.0,
        endless: 0.0,
    }
}

/// Reads a window from its first page to its last, the keys of its legs and dead rows.
async fn scroll(source: &impl Source, unit: &str, window: Window, pause: Duration) -> (Vec<KeyHash>, Step) {
    let bounds = query_bounds(window, chrono_tz::America::Denver).unwrap();
    let mut scroll = Scroll::default();
    let mut cursor: Option<String> = None;
    let mut found = Vec::new();
    loop {
        let page = source.fetch(unit, &bounds, cursor.as_deref(), None).await.unwrap();
        for raw in page.rows().map(str::as_bytes) {
            match row(raw) {
                Row::Leg(leg) if window.contains(leg.disconnected) => found.push(KeyHash::of_leg(&leg)),
                Row::Dead(_) => found.push(KeyHash::of_dead_row(raw)),
                Row::Leg(_) | Row::Unfinished => {}
            }
        }
        match scroll.on_page(PageMeta {
            rows: page.len(),
            total: page.total,
            cursor: page.cursor.as_deref(),
            is_torn: false,
            is_short: false,
        }) {
            Step::Next(next) => cursor = Some(next),
            step => return (found, step),
        }
        sleep(pause).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_quiet_window_is_read_whole_whatever_the_bounds_mean() {
    for seed in 0..12 {
        let run = Arc::new(Run::new(seed, false));
        let api = Api::new(Arc::clone(&run), setting());
        let source = api.seen_by(&Life::plain(&run, 1));
        let start = run.now();
        sleep(Duration::from_secs(8 * 3600)).await;
        let window = Window::new(start.plus(Duration::from_secs(600)), start.plus(Duration::from_secs(3000)));
        let (mut found, step) = scroll(&source, "pbx0", window, Duration::ZERO).await;
        assert_eq!(step, Step::Whole);
        let in_window = |leg: &&crate::api::TrueLeg| leg.unit == "pbx0" && window.contains(leg.disconnected);
        let mut expected: Vec<KeyHash> =
            api.legs().iter().filter(in_window).filter(|leg| leg.visible <= run.now()).map(|leg| leg.key).collect();
        // Of rubbish the window's edges are not known.
        let sorts = |key: &KeyHash| api.legs().iter().find(|leg| leg.key == *key).map(|leg| leg.sort);
        found.retain(|key| sorts(key) != Some(Sort::Rubbish));
        expected.retain(|key| sorts(key) != Some(Sort::Rubbish));
        found.sort();
        expected.sort();
        assert!(expected.len() > 20, "seed {seed}");
        assert_eq!(found, expected, "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn rows_that_appear_above_the_cursor_are_missed_by_that_pass() {
    let mut missed = 0;
    for seed in 0..10 {
        let run = Arc::new(Run::new(seed, false));
        let api = Api::new(Arc::clone(&run), setting());
        let source = api.seen_by(&Life::plain(&run, 1));
        let window = Window::new(run.now().minus(Duration::from_secs(1800)), run.now());
        let (found, _) = scroll(&source, "pbx1", window, Duration::from_secs(20)).await;
        let now = run.now();
        let pass = api.passes().pop().unwrap();
        assert_eq!(pass.window, window);
        assert!(pass.ended.is_some());
        for leg in api.legs().iter().filter(|leg| leg.unit == "pbx1" && window.contains(leg.disconnected)) {
            assert!(leg.visible > pass.begun || found.contains(&leg.key), "visible when the pass began");
            missed += usize::from(leg.visible <= now && !found.contains(&leg.key));
        }
    }
    assert!(missed > 0);
}

#[tokio::test(start_paused = true)]
async fn the_api_fails_in_every_way() {
    let run = Arc::new(Run::new(3, false));
    let api =
        Api::new(Arc::clone(&run), Setting { unreachable: 0.1, rate_limited: 0.1, cursor_refused: 0.2, ..setting() });
    let source = api.seen_by(&Life::plain(&run, 1));
    let bounds =
        query_bounds(Window::new(run.now().minus(Duration::from_secs(3000)), run.now()), chrono_tz::UTC).unwrap();
    let mut failures = Vec::new();
    for _ in 0..200 {
        if let Err(error) = source.fetch("pbx0", &bounds, Some("9999999999999_1"), None).await {
            failures.push(error.failure);
        }
    }
    for failure in [Failure::Unreachable, Failure::RateLimited, Failure::Cursor] {
        assert!(failures.contains(&failure), "{failure:?}");
    }
    run.heal(true);
    assert_eq!(source.fetch("pbx0", &bounds, Some("No Data"), None).await.unwrap_err().failure, Failure::Cursor);
    api.set_mood(Mood::Refusing);
    assert_eq!(source.log_in().await.unwrap_err().failure, Failure::Refused);
    api.set_mood(Mood::Well);
    api.set_ahead_ms(120_000);
    source.log_in().await.unwrap();
    let skew = source.skew().unwrap();
    assert!(skew.exceeds(Duration::from_secs(100)) && !skew.exceeds(Duration::from_secs(125)));
}

#[test]
fn legs_are_of_every_kind() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let run = Arc::new(Run::new(1, false));
        let legs = Api::new(run, setting()).legs().to_vec();
        let overlap = Duration::from_secs(600);
        let count = |of: fn(&crate::api::TrueLeg) -> bool| legs.iter().filter(|leg| of(leg)).count();
        assert!(count(|leg| leg.sort == Sort::Rubbish) > 3);
        assert!(count(|leg| leg.sort == Sort::Poisoned) > 0);
        assert!(count(|leg| leg.revised.is_some()) > 10);
        assert!(count(|leg| leg.under_way.is_some()) > 10);
        assert!(count(|leg| leg.is_in_progress) > 10);
        assert!(count(|leg| leg.is_astray) > 10);
        assert!(legs.iter().any(|leg| leg.visible > leg.disconnected.plus(overlap)));
        let keys: BTreeSet<KeyHash> = legs.iter().map(|leg| leg.key).collect();
        assert_eq!(keys.len(), legs.len());
    });
}

fn page_of(seq: u64, first: u8) -> Page {
    let seen = Seen { fingerprint: None, revision: 0 };
    Page {
        seq,
        writer: None,
        unit: "pbx0".to_owned(),
        generation: 0,
        first: UtcMillis::new(1),
        last: UtcMillis::new(2),
        fingerprint_version: 0,
        legs: (0..3).map(|number| Entry { key: KeyHash([first + number; 16]), seen }).collect(),
        dead: Vec::new(),
        hours: PageHours::default(),
        chain_before: Chain::default(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_disk_keeps_what_was_written_before_a_kill_and_nothing_after() {
    let pages = vec![page_of(1, 1), page_of(2, 10)];
    let head = Head { last_seq: 2, next_offset: 7, ..Head::default() };
    let mut seen = BTreeSet::new();
    for dies_at in 1..12 {
        let run = Arc::new(Run::new(1, false));
        let disk = Disk::new(Arc::clone(&run));
        let life = Arc::new(Life::new(Arc::clone(&run), 1, Arc::default(), Some(dies_at)));
        let view = disk.seen_by(&life);
        let done = tokio::time::timeout(Duration::from_secs(1), view.apply(pages.clone(), head.clone())).await;
        let files = disk.files();
        seen.insert((files.entries.len(), files.head.is_some(), done.is_ok()));
        assert!(files.head.is_none() || files.entries.len() == 6, "the head comes last");
        let view = disk.seen_by(&Life::plain(&run, 2));
        let loaded = view.load().await.unwrap();
        assert_eq!(loaded.map(|ledger| ledger.pages.len()), files.head.is_some().then_some(2));
        view.apply(pages.clone(), head.clone()).await.unwrap();
        let entries = view.entries_after(None).await.unwrap();
        let rest = view.entries_after(entries.last().map(|(key, _)| *key)).await.unwrap();
        assert_eq!(entries.len() + rest.len(), 6, "the same again changes nothing");
    }
    assert_eq!(
        seen,
        BTreeSet::from([(0, false, false), (3, false, false), (6, false, false), (6, true, false), (6, true, true)])
    );
}

#[tokio::test(start_paused = true)]
async fn a_broken_disk_refuses_until_it_is_wiped() {
    let run = Arc::new(Run::new(1, false));
    let disk = Disk::new(Arc::clone(&run));
    let view = disk.seen_by(&Life::plain(&run, 1));
    view.apply(vec![page_of(1, 1)], Head { last_seq: 1, ..Head::default() }).await.unwrap();
    disk.break_down();
    assert!(matches!(view.find(vec![KeyHash([1; 16])]).await, Err(StoreError::Broken { .. })));
    view.wipe().await.unwrap();
    assert_eq!(view.find(vec![KeyHash([1; 16])]).await.unwrap(), [None]);
    assert!(view.load().await.unwrap().is_none());
}
