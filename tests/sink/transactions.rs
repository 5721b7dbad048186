//! What others see of a transaction, and when.

use std::time::{Duration, Instant};

use call_legs::core::journal::Delivery;
use call_legs::sink::{
    Cluster, Destination, KafkaCluster, KafkaProducer, Packing, Producer, ProducerError, SinkError, Stretch,
};

use crate::rig::{self, configuration, ends, leg, message, read, read_all, shared_cluster, texts, unused_name};
use crate::support::PATIENCE;
use crate::support::kafka::Kafka;

async fn producer(cluster: &KafkaCluster) -> KafkaProducer {
    cluster.producer(Delivery::ExactlyOnce).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_is_read_and_what_is_aborted_is_not() {
    let cluster = shared_cluster().await;
    let mut producer = producer(&cluster).await;
    for (text, is_committed) in [("first", true), ("second", false), ("third", true), ("fourth", false)] {
        producer.begin().await.unwrap();
        let batch = [leg(text), message(Destination::Journal, text)];
        producer.send(&batch, Packing::Shared).await.unwrap();
        if is_committed {
            producer.commit().await.unwrap();
        } else {
            producer.abort().await.unwrap();
        }
    }
    for destination in [Destination::Legs, Destination::Journal] {
        // Four records and four markers, the last two of them never delivered: the reading ends all the same.
        let end = ends(&cluster, destination).await;
        assert_eq!((end.low, end.stable, end.high), (0, 8, 8));
        let records = read_all(&cluster, destination).await;
        assert_eq!(texts(&records), ["first", "third"]);
        assert_eq!(records[1].place.offset, 4);
        assert_eq!(records[1].header("header"), Some(b"third".as_slice()));
    }
    assert_eq!(read_all(&cluster, Destination::Status).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_producer_fences_the_one_before_and_decides_its_transaction() {
    let cluster = shared_cluster().await;
    let mut old = producer(&cluster).await;
    old.begin().await.unwrap();
    old.send(&[leg("old")], Packing::Shared).await.unwrap();
    let open = ends(&cluster, Destination::Legs).await;
    assert_eq!((open.stable, open.high), (0, 1));

    let mut new = producer(&cluster).await;
    // The init has returned: nothing of the old producer is open any more.
    let decided = ends(&cluster, Destination::Legs).await;
    assert_eq!((decided.stable, decided.high), (2, 2));
    let refused = old.commit().await;
    assert!(matches!(refused, Err(ProducerError::Fenced(_))), "{refused:?}");

    new.begin().await.unwrap();
    new.send(&[leg("new")], Packing::Shared).await.unwrap();
    new.commit().await.unwrap();
    assert_eq!(texts(&read_all(&cluster, Destination::Legs).await), ["new"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fenced_producer_can_send_nothing() {
    let cluster = shared_cluster().await;
    let mut old = producer(&cluster).await;
    old.begin().await.unwrap();
    old.send(&[leg("old")], Packing::Shared).await.unwrap();
    let _new = producer(&cluster).await;
    let refused = old.send(&[leg("older")], Packing::Shared).await;
    assert!(matches!(refused, Err(ProducerError::Fenced(_))), "{refused:?}");
    assert_eq!(texts(&read_all(&cluster, Destination::Legs).await), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reading_waits_for_the_open_transactions_below_its_end() {
    let cluster = shared_cluster().await;
    let mut producer = producer(&cluster).await;
    producer.begin().await.unwrap();
    producer.send(&[leg("slow")], Packing::Shared).await.unwrap();
    let stretch = Stretch { partition: 0, from: 0, until: ends(&cluster, Destination::Legs).await.high };

    let reading = read(&cluster, Destination::Legs, vec![stretch]);
    tokio::pin!(reading);
    let early = tokio::time::timeout(Duration::from_millis(500), &mut reading).await;
    assert!(early.is_err(), "{early:?}");
    producer.commit().await.unwrap();
    let records = tokio::time::timeout(PATIENCE, reading).await.unwrap().unwrap();
    assert_eq!(texts(&records), ["slow"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_outlives_its_time_is_given_up_and_its_producer_fenced() {
    let cluster = shared_cluster().await;
    let mut producer = producer(&cluster).await;
    producer.begin().await.unwrap();
    producer.send(&[leg("late")], Packing::Shared).await.unwrap();
    let start = Instant::now();
    while ends(&cluster, Destination::Legs).await.stable == 0 {
        assert!(start.elapsed() < PATIENCE, "the brokers keep the transaction open");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let refused = producer.commit().await;
    assert!(matches!(refused, Err(ProducerError::Fenced(_))), "{refused:?}");
    assert_eq!(read_all(&cluster, Destination::Legs).await, []);
}

/// A stopped broker is told from a stuck client: nothing here takes as long as that, and nothing is left behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_goes_away_leaves_a_doubt_and_a_new_producer_works_when_it_is_back() {
    let kafka = Kafka::start_private();
    let cluster = rig::cluster(&configuration(kafka.bootstrap(), &unused_name())).await;
    let mut producer = cluster.producer(Delivery::ExactlyOnce).await.unwrap();
    producer.begin().await.unwrap();
    producer.send(&[leg("doubtful")], Packing::Shared).await.unwrap();

    kafka.stop();
    let start = Instant::now();
    let outcome = producer.commit().await;
    assert!(matches!(outcome, Err(ProducerError::Doubtful(_))), "{outcome:?}");
    println!("the doubt came after {:?}: {}", start.elapsed(), outcome.unwrap_err());
    assert!(cluster.trouble().is_some());
    drop(producer);
    let start = Instant::now();
    let stretch = Stretch { partition: 0, from: 0, until: 1 };
    let (none, nothing, no_ends) = tokio::join!(
        cluster.producer(Delivery::ExactlyOnce),
        read(&cluster, Destination::Legs, vec![stretch]),
        cluster.ends(Destination::Legs)
    );
    let errors = [none.err().unwrap(), nothing.unwrap_err(), no_ends.unwrap_err()];
    println!("nothing goes after {:?}: {errors:?}", start.elapsed());
    assert!(errors.iter().all(|error| matches!(error, SinkError::Unavailable(_))));

    kafka.start();
    let start = Instant::now();
    let mut producer = loop {
        match cluster.producer(Delivery::ExactlyOnce).await {
            Ok(producer) => break producer,
            Err(error) => assert!(start.elapsed() < PATIENCE, "{error}"),
        }
    };
    producer.begin().await.unwrap();
    producer.send(&[leg("certain")], Packing::Shared).await.unwrap();
    producer.commit().await.unwrap();
    assert_eq!(texts(&read_all(&cluster, Destination::Legs).await), ["certain"]);
    assert_eq!(cluster.trouble(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_send_to_a_broker_that_went_away_ends_in_bounded_time() {
    let kafka = Kafka::start_private();
    let cluster = rig::cluster(&configuration(kafka.bootstrap(), &unused_name())).await;
    let mut producer = cluster.producer(Delivery::ExactlyOnce).await.unwrap();
    producer.begin().await.unwrap();
    producer.send(&[leg("one")], Packing::Shared).await.unwrap();
    kafka.pause();
    let start = Instant::now();
    let outcome = producer.send(&[leg("two")], Packing::Shared).await;
    assert!(matches!(outcome, Err(ProducerError::Doubtful(_))), "{outcome:?}");
    println!("the send ended after {:?}: {}", start.elapsed(), outcome.unwrap_err());
    kafka.resume();
}
