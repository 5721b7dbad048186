//! The publisher against a sink that refuses and fails on request, and the real store.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::publisher::{Destinations, Publisher, Read};
use crate::clock::SystemClock;
use crate::codec::Framing;
use crate::core::dead_letter::Reason;
use crate::core::dedupe::Counts;
use crate::core::identity::KeyHash;
use crate::core::leg::How;
use crate::core::planner::Piece;
use crate::core::time::{UtcMillis, Window};
use crate::core::watermark::{Delays, Progress};
use crate::sink::{Destination, Message, Sent, Sink, SinkError};
use crate::source::Page;
use crate::source::wire::{self, Row};
use crate::store::{SledStore, Store};
use crate::telemetry::{Metrics, StatusBoard};

const DAY: Duration = Duration::from_secs(86_400);
const DELAYS: Delays = Delays { settle: Duration::from_secs(60), overlap: Duration::from_secs(1800), horizon: DAY };

/// Takes everything but keys that it was told to refuse, after as many failures as it was told.
#[derive(Clone, Default)]
struct Broker(Arc<Mutex<BrokerState>>);

#[derive(Default)]
struct BrokerState {
    stored: Vec<Message>,
    refused_keys: Vec<&'static str>,
    failures_left: u32,
}

impl Broker {
    fn with(&self, change: impl FnOnce(&mut BrokerState)) {
        change(&mut self.0.lock().unwrap());
    }

    fn stored(&self, destination: Destination) -> usize {
        self.0.lock().unwrap().stored.iter().filter(|message| message.destination == destination).count()
    }
}

impl Sink for Broker {
    /// While it fails, it stores every other message and acknowledges that.
    async fn publish(&self, batch: &[Message]) -> Sent {
        let mut state = self.0.lock().unwrap();
        if state.failures_left > 0 {
            state.failures_left -= 1;
            let (stored, failed): (Vec<usize>, Vec<usize>) = (0..batch.len()).partition(|position| position % 2 == 1);
            state.stored.extend(stored.into_iter().map(|position| batch[position].clone()));
            return Sent { refused: Vec::new(), failed, error: Some(SinkError::Unavailable("away".to_owned())) };
        }
        let is_refused = |message: &Message| state.refused_keys.iter().any(|key| key.as_bytes() == message.key);
        let refused: Vec<usize> = (0..batch.len()).filter(|position| is_refused(&batch[*position])).collect();
        let taken = batch.iter().enumerate().filter(|(position, _)| !refused.contains(position));
        let taken: Vec<Message> = taken.map(|(_, message)| message.clone()).collect();
        state.stored.extend(taken);
        let refused = refused.into_iter().map(|position| (position, Reason::Timestamp)).collect();
        Sent { refused, ..Sent::default() }
    }

    fn trouble(&self) -> Option<String> {
        None
    }

    fn message_bytes_max(&self, _: Destination) -> usize {
        4_000
    }
}

struct World {
    broker: Broker,
    store: Arc<SledStore>,
    publisher: Publisher<Broker, SledStore>,
    _dir: TempDir,
}

fn world() -> World {
    let dir = TempDir::new().unwrap();
    let broker = Broker::default();
    let store = Arc::new(SledStore::open(dir.path()).unwrap());
    let destinations = Destinations {
        sink: broker.clone(),
        store: Arc::clone(&store),
        framing: Framing::SingleObject { fingerprint: 0 },
    };
    let publisher = Publisher::new(
        destinations,
        Arc::new(SystemClock),
        StatusBoard::default(),
        Arc::new(Metrics::default()),
        CancellationToken::new(),
    );
    World { broker, store, publisher, _dir: dir }
}

fn at(seconds: i64) -> UtcMillis {
    UtcMillis::new(seconds * 1000)
}

fn row(call_id: &str, disconnected_s: i64, caller: &str) -> String {
    format!(
        r#"{{"callId":"{call_id}","legId":"1","pbxId":"acme","caller":"{caller}","disconnectedTimeUTC":{}}}"#,
        disconnected_s * 1000
    )
}

fn page(rows: &[String]) -> Page {
    wire::page(Bytes::from(format!(r#"{{"data":[{}]}}"#, rows.join(",")))).unwrap()
}

impl World {
    async fn publish(&mut self, page: &Page) -> Counts {
        let progress = Progress::starting_at(at(0), &DELAYS);
        let piece = Piece { window: Window::new(at(0), at(100_000)), how: How::Poll };
        let read = Read { unit: "acme", piece, progress: &progress, seen_at: at(100_000) };
        self.publisher.publish(page, read).await.unwrap()
    }
}

#[tokio::test]
async fn a_leg_too_large_for_the_topic_is_one_dead_letter_however_often_it_is_polled() {
    let mut world = world();
    let page = page(&[row("1", 50, &"x".repeat(5_000)), row("2", 50, "1001")]);
    for published in [1, 0, 0] {
        let counts = world.publish(&page).await;
        assert_eq!((counts.published, counts.duplicate, counts.dead), (published, 1 - published, 1));
    }
    assert_eq!((world.broker.stored(Destination::Legs), world.broker.stored(Destination::DeadLetters)), (1, 1));
    let longest = world.broker.0.lock().unwrap().stored.iter().map(Message::size_bytes).max();
    assert!(longest <= Some(4_000), "the dead letter is cut at the message limit");
}

#[tokio::test]
async fn a_leg_that_the_brokers_refuse_is_one_dead_letter_and_its_neighbours_get_through() {
    let mut world = world();
    world.broker.with(|broker| broker.refused_keys = vec!["2"]);
    let page = page(&["1", "2", "3"].map(|call_id| row(call_id, 50, "1001")));
    let first = world.publish(&page).await;
    assert_eq!((first.published, first.dead), (2, 1));
    let again = world.publish(&page).await;
    assert_eq!((again.published, again.duplicate, again.dead), (0, 2, 1));
    assert_eq!((world.broker.stored(Destination::Legs), world.broker.stored(Destination::DeadLetters)), (2, 1));
    world.broker.with(|broker| broker.refused_keys.clear());
    assert_eq!(world.publish(&page).await.published, 1, "a dead letter does not keep the mended leg away");
}

#[tokio::test(start_paused = true)]
async fn only_what_failed_is_sent_again() {
    let mut world = world();
    world.broker.with(|broker| broker.failures_left = 9);
    let rows: Vec<String> = (0..100).map(|call_id| row(&call_id.to_string(), 50, "1001")).collect();
    let page = page(&rows);
    let counts = world.publish(&page).await;
    assert_eq!((counts.published, world.broker.stored(Destination::Legs)), (100, 100), "each once");
    assert_eq!(world.publish(&page).await.duplicate, 100, "and remembered");
}

#[tokio::test]
async fn a_page_holds_every_row_in_one_count() {
    let mut world = world();
    let rows = [
        row("1", 50, "1001"),
        row("1", 50, "1001"),
        row("1", 50, "1002"),
        "null".to_owned(),
        "null".to_owned(),
        row("2", 0, "1001").replace("}", r#","status":"In Progress"}"#),
    ];
    let counts = world.publish(&page(&rows)).await;
    let expected = Counts { published: 1, duplicate: 1, revised: 1, dead: 2, unfinished: 1, beyond_horizon: 0 };
    assert_eq!(counts, expected);
    assert_eq!(world.broker.stored(Destination::DeadLetters), 1, "a distinct row once");
    assert_eq!(world.publish(&page(&rows[2..3])).await.duplicate, 1, "a revision counts once");
}

#[tokio::test]
async fn what_a_unit_behind_still_needs_is_not_forgotten_when_another_is_ahead() {
    let mut world = world();
    let raw = row("1", 50, "1001");
    world.publish(&page(std::slice::from_ref(&raw))).await;
    let behind = Progress::starting_at(at(0), &DELAYS);
    let ahead = Progress::starting_at(at(30 * 86_400), &DELAYS);
    world.publisher.commit("behind", &behind).await.unwrap();

    // A restart: both units are recovered, and only the one that is ahead gets to commit.
    let World { broker, store, _dir, .. } = world;
    let destinations =
        Destinations { sink: broker, store: Arc::clone(&store), framing: Framing::SingleObject { fingerprint: 0 } };
    let mut publisher = Publisher::new(
        destinations,
        Arc::new(SystemClock),
        StatusBoard::default(),
        Arc::new(Metrics::default()),
        CancellationToken::new(),
    );
    assert_eq!(publisher.recover("behind").await.unwrap(), Some(behind));
    assert_eq!(publisher.recover("ahead").await.unwrap(), None);
    publisher.commit("ahead", &ahead).await.unwrap();
    let Row::Leg(leg) = wire::row(raw.as_bytes()) else { panic!() };
    assert!(store.seen(&[KeyHash::of_leg(&leg)]).unwrap()[0].is_some());
}
