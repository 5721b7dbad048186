//! What the topics are created with, and which of somebody else's are taken.

use call_legs::sink::SinkError;
use call_legs::sink::topics::{self, TopicAdmin};
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;

use crate::rig::{configuration, create_topic, ensure, unused_name};
use crate::support::kafka::kafka;

#[tokio::test(flavor = "multi_thread")]
async fn each_topic_is_created_with_settings_of_its_own() {
    let mut settings = configuration(kafka().bootstrap(), &unused_name());
    settings.partitions = 3;
    settings.topic_config.insert("retention.ms".to_owned(), "86400000".to_owned());
    let topics = ensure(&settings).await.unwrap();
    assert_eq!(topics.warnings().count(), 0);

    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", kafka().bootstrap()).create().unwrap();
    for (topic, partitions, expected) in [
        (&topics.legs, 3, vec![("cleanup.policy", "delete"), ("retention.ms", "86400000")]),
        (&topics.dead_letters, 1, vec![("cleanup.policy", "delete"), ("retention.ms", "86400000")]),
        (&topics.status, 1, vec![("cleanup.policy", "compact"), ("retention.ms", "-1")]),
        (
            &topics.journal,
            1,
            vec![
                ("cleanup.policy", "compact"),
                ("segment.bytes", "33554432"),
                ("segment.ms", "3600000"),
                ("min.cleanable.dirty.ratio", "0.1"),
                ("message.timestamp.type", "LogAppendTime"),
            ],
        ),
    ] {
        assert_eq!(topic.partitions, partitions, "{}", topic.name);
        let described = admin
            .describe_configs([&ResourceSpecifier::Topic(&topic.name)], &AdminOptions::new())
            .await
            .unwrap()
            .remove(0)
            .unwrap();
        for (key, value) in expected {
            assert_eq!(described.get(key).unwrap().value.as_deref(), Some(value), "{}: {key}", topic.name);
        }
    }
    // A second time they are found, and found good.
    let again = ensure(&settings).await.unwrap();
    assert_eq!(again.journal.name, topics::journal(&settings.topic));
    assert_eq!(again.legs.partitions, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_that_would_forget_are_refused() {
    for (suffix, partitions, policy, expected) in [
        (topics::JOURNAL_SUFFIX, 2, "compact", Some("has 2 partitions")),
        (topics::JOURNAL_SUFFIX, 1, "delete", Some("cleanup.policy=delete")),
        (topics::JOURNAL_SUFFIX, 1, "compact,delete", Some("deletes by age")),
        (topics::JOURNAL_SUFFIX, 1, "compact", None),
        ("", 1, "compact", Some("is compacted")),
        (topics::DEAD_LETTER_SUFFIX, 1, "compact", Some("is compacted")),
        (topics::STATUS_SUFFIX, 2, "compact", None),
    ] {
        let settings = configuration(kafka().bootstrap(), &unused_name());
        let name = format!("{}{suffix}", settings.topic);
        create_topic(kafka().bootstrap(), &name, partitions, &[("cleanup.policy", policy)]).await;
        match (ensure(&settings).await, expected) {
            (Ok(topics), None) => assert_eq!(topics.warnings().count(), 0),
            (Err(SinkError::Refused(sentence)), Some(expected)) => {
                assert!(sentence.contains(expected) && sentence.contains(&name), "{sentence}");
            }
            (outcome, _) => panic!("{name} {policy}: {outcome:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_that_is_not_compacted_is_a_warning() {
    let settings = configuration(kafka().bootstrap(), &unused_name());
    create_topic(kafka().bootstrap(), &topics::status(&settings.topic), 1, &[]).await;
    let topics = ensure(&settings).await.unwrap();
    let warnings: Vec<&str> = topics.warnings().collect();
    assert!(matches!(warnings.as_slice(), [warning] if warning.contains("not compacted")), "{warnings:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_for_a_topic_does_not_create_it() {
    let settings = configuration(kafka().bootstrap(), &unused_name());
    let admin = TopicAdmin::new(&settings).unwrap();
    for _ in 0..2 {
        assert_eq!(admin.partitions(&settings.topic).unwrap(), None);
    }
}
