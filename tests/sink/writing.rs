//! What a producer tells of what it has written.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use call_legs::core::dead_letter::Reason;
use call_legs::core::journal::Delivery;
use call_legs::core::time::UtcMillis;
use call_legs::sink::{Cluster, Destination, Message, Packing, Producer, ProducerError, StoredRecord};

use sha2::{Digest, Sha256};

use crate::rig::{self, configuration, leg, message, read_all, shared_cluster, unused_name};
use crate::support::kafka::kafka;

fn now() -> UtcMillis {
    UtcMillis::new(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis().try_into().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn places_are_where_the_messages_lie() {
    let mut settings = configuration(kafka().bootstrap(), &unused_name());
    settings.partitions = 4;
    let cluster = rig::cluster(&settings).await;
    let batch: Vec<Message> = (0..3_000)
        .map(|number| match number % 7 {
            0 => message(Destination::Status, &number.to_string()),
            3 => message(Destination::DeadLetters, &number.to_string()),
            _ => leg(&number.to_string()),
        })
        .collect();
    for delivery in [Delivery::ExactlyOnce, Delivery::AtLeastOnce] {
        let mut producer = cluster.producer(delivery).await.unwrap();
        producer.begin().await.unwrap();
        let places = producer.send(&batch, Packing::Shared).await.unwrap();
        producer.commit().await.unwrap();
        assert_eq!(places.len(), batch.len());
        for destination in [Destination::Legs, Destination::Status, Destination::DeadLetters] {
            let records = read_all(&cluster, destination).await;
            let sent = places.iter().zip(&batch).filter(|(_, message)| message.destination == destination);
            for (place, message) in sent {
                let is_it = |record: &&StoredRecord| record.place == *place;
                assert_eq!(records.iter().find(is_it).unwrap().key, message.key);
            }
        }
    }
    // Twice 3,000, less nothing: each of the two wrote all.
    let legs = read_all(&cluster, Destination::Legs).await;
    assert_eq!(legs.len(), 2 * batch.iter().filter(|message| message.destination == Destination::Legs).count());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_transactions_each_message_is_visible_at_once() {
    let cluster = shared_cluster().await;
    let mut producer = cluster.producer(Delivery::AtLeastOnce).await.unwrap();
    producer.begin().await.unwrap();
    let places = producer.send(&[leg("one"), leg("two")], Packing::Alone).await.unwrap();
    assert_eq!(places.iter().map(|place| place.offset).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(rig::texts(&read_all(&cluster, Destination::Legs).await), ["one", "two"]);
    producer.commit().await.unwrap();
    // There is no marker of a commit, and no fencing either.
    let mut second = cluster.producer(Delivery::AtLeastOnce).await.unwrap();
    second.send(&[leg("three")], Packing::Shared).await.unwrap();
    producer.send(&[leg("four")], Packing::Shared).await.unwrap();
    assert_eq!(rig::ends(&cluster, Destination::Legs).await.high, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_for_its_timestamp_is_named() {
    let mut settings = configuration(kafka().bootstrap(), &unused_name());
    settings.topic_config.insert("message.timestamp.before.max.ms".to_owned(), "3600000".to_owned());
    let cluster = rig::cluster(&settings).await;
    let now = now();
    let old = now.minus(Duration::from_secs(2 * 3600));
    assert!(!cluster.takes_timestamp(Destination::Legs, old, now), "{:?}", cluster.topics());
    assert!(cluster.takes_timestamp(Destination::Legs, now.minus(Duration::from_secs(3630)), now));
    assert!(cluster.takes_timestamp(Destination::Journal, old, now));

    let batch: Vec<Message> = (0..5)
        .map(|number| Message { timestamp: Some(if number == 3 { old } else { now }), ..leg(&number.to_string()) })
        .collect();
    for delivery in [Delivery::ExactlyOnce, Delivery::AtLeastOnce] {
        for packing in [Packing::Shared, Packing::Alone] {
            let mut producer = cluster.producer(delivery).await.unwrap();
            producer.begin().await.unwrap();
            let outcome = producer.send(&batch, packing).await;
            // Together, all of them are refused for the one; alone, that one is.
            let guilty = if packing == Packing::Alone { vec![(3, Reason::Timestamp)] } else { Vec::new() };
            assert_eq!(outcome, Err(ProducerError::Content(guilty)), "{delivery:?} {packing:?}");
        }
    }
    // What came before the refused one was acknowledged, and is in a transaction that is never committed.
    let mut producer = cluster.producer(Delivery::ExactlyOnce).await.unwrap();
    producer.begin().await.unwrap();
    producer.send(&batch[..3], Packing::Alone).await.unwrap();
    producer.commit().await.unwrap();
    // At-least-once alone: the first three; at the end: three.
    assert_eq!(read_all(&cluster, Destination::Legs).await.len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_named() {
    let mut settings = configuration(kafka().bootstrap(), &unused_name());
    settings.topic_config.insert("max.message.bytes".to_owned(), "2000".to_owned());
    let cluster = rig::cluster(&settings).await;
    assert_eq!(cluster.message_bytes_max(Destination::Legs), 2000);
    assert!(cluster.message_bytes_max(Destination::Journal) > 1_000_000);
    // Brokers measure what is compressed, so this must not compress.
    let noise: Vec<u8> =
        (0..400_u32).flat_map(|number| <[u8; 32]>::from(Sha256::digest(number.to_be_bytes()))).collect();
    let enormous = vec![0; 2_000_000];
    let mut batch: Vec<Message> = (0..100).map(|number| leg(&format!("{number:0100}"))).collect();
    for (payload, position) in [(noise, 20), (enormous, 70)] {
        batch[position].payload = Some(payload.into());
        let mut producer = cluster.producer(Delivery::ExactlyOnce).await.unwrap();
        producer.begin().await.unwrap();
        let outcome = producer.send(&batch, Packing::Shared).await;
        assert_eq!(outcome, Err(ProducerError::Content(vec![(position, Reason::TooLarge)])));
        let mut producer = cluster.producer(Delivery::ExactlyOnce).await.unwrap();
        producer.begin().await.unwrap();
        let outcome = producer.send(&batch, Packing::Alone).await;
        assert_eq!(outcome, Err(ProducerError::Content(vec![(position, Reason::TooLarge)])));
        batch[position].payload = None;
    }
    let mut producer = cluster.producer(Delivery::ExactlyOnce).await.unwrap();
    producer.begin().await.unwrap();
    // Batches of many are kept below the smallest limit: what is small enough alone is never refused together.
    producer.send(&batch, Packing::Shared).await.unwrap();
    producer.commit().await.unwrap();
    assert_eq!(read_all(&cluster, Destination::Legs).await.len(), 100);
}

/// No time is asserted, since machines differ: a tenth of a second here is librdkafka's wrapper waiting for nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_takes_milliseconds() {
    let cluster = shared_cluster().await;
    let mut producer = cluster.producer(Delivery::ExactlyOnce).await.unwrap();
    // Brokers let a transaction wait while the markers of the one before are written, hence the pauses.
    for (rounds, size, pause) in [(50, 1, 0), (50, 1, 100), (20, 5_000, 0), (10, 5_000, 100)] {
        let batch: Vec<Message> = (0..size)
            .map(|number| Message { payload: Some(format!("{number}:").repeat(80).into()), ..leg(&number.to_string()) })
            .collect();
        let (mut sends, mut commits) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            producer.begin().await.unwrap();
            let start = Instant::now();
            producer.send(&batch, Packing::Shared).await.unwrap();
            sends.push(start.elapsed());
            let start = Instant::now();
            producer.commit().await.unwrap();
            commits.push(start.elapsed());
        }
        for times in [&mut sends, &mut commits] {
            times.sort_unstable();
        }
        println!(
            "{rounds} transactions of {size}, {pause} ms apart: send median {:?}, worst {:?}; commit median {:?}, worst {:?}",
            sends[rounds / 2],
            sends[rounds - 1],
            commits[rounds / 2],
            commits[rounds - 1]
        );
    }
}
