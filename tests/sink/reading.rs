//! What a reading of stretches delivers, and what it leaves out.

use call_legs::core::journal::Delivery;
use call_legs::sink::{Cluster, Destination, KafkaCluster, Message, Packing, Producer, Stretch};

use crate::rig::{self, configuration, leg, read, shared_cluster, texts, unused_name};
use crate::support::kafka::kafka;

async fn write(cluster: &KafkaCluster, texts: &[&str]) {
    let mut producer = cluster.producer(Delivery::ExactlyOnce).await.unwrap();
    let batch: Vec<Message> = texts.iter().map(|text| leg(text)).collect();
    producer.begin().await.unwrap();
    producer.send(&batch, Packing::Shared).await.unwrap();
    producer.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_stretch_is_delivered() {
    let cluster = shared_cluster().await;
    // Offsets 0 to 3, a marker at 4, 5 and 6, a marker at 7.
    write(&cluster, &["a", "b", "c", "d"]).await;
    write(&cluster, &["e", "f"]).await;
    for (from, until, expected) in [
        (0, 8, "abcdef"),
        (1, 3, "bc"),
        (3, 6, "de"),
        (4, 5, ""),
        (4, 6, "e"),
        (7, 8, ""),
        (5, 5, ""),
        (6, 2, ""),
        (0, 7, "abcdef"),
    ] {
        let stretch = Stretch { partition: 0, from, until };
        let records = read(&cluster, Destination::Legs, vec![stretch]).await.unwrap();
        assert_eq!(texts(&records).concat(), expected, "{stretch:?}");
    }
    assert_eq!(read(&cluster, Destination::Legs, Vec::new()).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_partition_is_read_to_its_own_end_in_its_order() {
    let mut settings = configuration(kafka().bootstrap(), &unused_name());
    settings.partitions = 5;
    let cluster = rig::cluster(&settings).await;
    let mut producer = cluster.producer(Delivery::ExactlyOnce).await.unwrap();
    for round in 0..5 {
        let batch: Vec<Message> = (0..1_000).map(|number| leg(&format!("{}", round * 1_000 + number))).collect();
        producer.begin().await.unwrap();
        producer.send(&batch, Packing::Shared).await.unwrap();
        producer.commit().await.unwrap();
    }
    let ends = cluster.ends(Destination::Legs).await.unwrap();
    assert_eq!(ends.iter().map(|end| end.partition).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    let records = rig::read_all(&cluster, Destination::Legs).await;
    assert_eq!(records.len(), 5_000);
    for end in ends {
        let offsets = records.iter().filter(|record| record.place.partition == end.partition);
        assert!(offsets.clone().count() > 800);
        assert!(offsets.map(|record| record.place.offset).is_sorted());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_longer_kept_is_passed_over() {
    use rdkafka::admin::{AdminClient, AdminOptions};
    use rdkafka::client::DefaultClientContext;
    use rdkafka::{ClientConfig, Offset, TopicPartitionList};

    let cluster = shared_cluster().await;
    write(&cluster, &["a", "b", "c", "d"]).await;
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", kafka().bootstrap()).create().unwrap();
    let mut before = TopicPartitionList::new();
    before.add_partition_offset(&cluster.topics().legs.name, 0, Offset::Offset(2)).unwrap();
    admin.delete_records(&before, &AdminOptions::new()).await.unwrap();

    assert_eq!(rig::ends(&cluster, Destination::Legs).await.low, 2);
    for (from, until, expected) in [(0, 5, "cd"), (1, 3, "c"), (0, 2, ""), (0, 1, "")] {
        let records = read(&cluster, Destination::Legs, vec![Stretch { partition: 0, from, until }]).await.unwrap();
        assert_eq!(texts(&records).concat(), expected, "{from} {until}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_tells_its_id() {
    let cluster = shared_cluster().await;
    let id = cluster.id().await.unwrap();
    assert!(!id.is_empty());
    assert_eq!(cluster.id().await.unwrap(), id);
}
