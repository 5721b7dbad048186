//! The least that the connector's user must be allowed, on a Kafka that allows nothing by itself.
//!
//! `secured::rules` is what docs/operate.md says. With it everything works, and without any one of it something is refused
//! in a sentence that names it.

use std::time::Duration;

use call_legs::sandbox::{Sandbox, Settings};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;

use super::rig::{Rig, assert_complete, identities, read_committed, sandbox_settings};
use super::secured::{allow, file, mutual, rig, rule, rules, scram, text, user};
use super::support::secured::{Change, Secured, secured};

/// Creates a connector's topics as an administrator who lets it create none.
async fn create_topics(kafka: &Secured, topic: &str) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", kafka.kafka.bootstrap()).create().unwrap();
    let names = ["", ".dead-letter", ".status", ".journal"].map(|suffix| format!("{topic}{suffix}"));
    let policies = ["delete", "delete", "compact", "compact"];
    let topics = names.iter().zip(policies);
    let topics: Vec<NewTopic<'_>> = topics
        .map(|(name, policy)| NewTopic::new(name, 1, TopicReplication::Fixed(1)).set("cleanup.policy", policy))
        .collect();
    for created in admin.create_topics(&topics, &AdminOptions::new()).await.unwrap() {
        created.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn by_a_certificate_and_with_topics_that_are_there_nothing_need_be_created() {
    let kafka = secured();
    let issued = kafka.authority.issue("frank").unwrap();
    let rig = rig(&kafka.mutual, &mutual(kafka, &issued)).await;
    let mut rules = rules("frank", &rig.topic);
    rules.retain(|rule| rule.operation != "CREATE");
    kafka.change(&allow(rules));
    create_topics(kafka, &rig.topic).await;

    let checked = rig.run(&["check"]);
    assert!(checked.status.success() && !text(&checked).contains("warn"), "{}", text(&checked));
    for _ in 0..2 {
        let daemon = rig.start();
        rig.polled_since_start().await;
        daemon.kill();
    }
    assert!(rig.log().contains("delivery=\"exactly-once\""), "{}", rig.log());
    assert_complete(&identities(kafka.kafka.bootstrap(), &rig.topic).await, &rig.true_identities(), false);
    for arguments in [&["tail", "--from-beginning", "--until-end"][..], &["state", "show"], &["dead-letters", "list"]] {
        let output = rig.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
    }
    let feed = ["tail", "--status", "--from-beginning", "--until-end"];
    let name = format!("{}.status", rig.topic);
    let refused = rig.run(&feed);
    assert_eq!(refused.status.code(), Some(4), "{}", text(&refused));
    let expected = format!("topic {name}: Kafka does not let this user read it: grant READ on it");
    assert!(text(&refused).contains(&expected), "{}", text(&refused));
    kafka.change(&[Change::Allow(rule("frank", "READ", "TOPIC", &name))]);
    let told = rig.run(&feed);
    assert!(told.status.success() && text(&told).contains("acme-east"), "{}", text(&told));
    let audited = rig.run(&["audit", "--from", "now-2h", "--to", "now-1m"]);
    assert!(text(&audited).contains("legs of ["), "{}", text(&audited));
}

/// Where a right is missing on topics that are not there yet: the rule, what is said of it, and whether that ends the daemon.
#[tokio::test(flavor = "multi_thread")]
async fn each_right_that_is_missing_is_named() {
    let kafka = secured();
    let password = file("correct-horse\n");
    let cases = [
        (
            "CREATE",
            "",
            "does not exist and cannot be created (TopicAuthorizationFailed (Broker: Topic authorization failed)): create it, grant CREATE on it",
            true,
        ),
        ("WRITE", "", ": Kafka does not let this user write to it: grant WRITE on it", false),
        (
            "WRITE",
            ".status",
            ".status: Kafka does not let this user see it: grant READ, WRITE and DESCRIBE_CONFIGS",
            true,
        ),
        ("WRITE", ".journal", ".journal: Kafka does not let this user write to it: grant WRITE on it", false),
        (
            "READ",
            ".journal",
            ".journal: Kafka does not let this user read it (TopicAuthorizationFailed (Broker: Topic authorization failed)): grant READ on it",
            false,
        ),
        ("DESCRIBE_CONFIGS", "", ": its settings cannot be read (grant DESCRIBE_CONFIGS)", false),
        ("WRITE", ".journal.0", "does not let this user write with the transactional id", false),
    ];
    let mut changes = vec![user("grace", "correct-horse")];
    let mut rigs = Vec::new();
    for (operation, suffix, expected, ends) in cases {
        let rig = rig(&kafka.sasl, &scram(kafka, "grace", &password)).await;
        let name = format!("{}{suffix}", rig.topic);
        let mut rules = rules("grace", &rig.topic);
        let all = rules.len();
        rules.retain(|rule| (rule.operation, &rule.name) != (operation, &name));
        assert_eq!(rules.len(), all - 1);
        changes.extend(allow(rules));
        rigs.push((rig, expected, ends));
    }
    kafka.change(&changes);
    for (rig, expected, ends) in rigs {
        let daemon = rig.start();
        rig.until(expected, async || rig.log().contains(expected)).await;
        if ends {
            assert_eq!(daemon.ended().code(), Some(4), "{}", rig.last_words());
        } else if expected.contains("DESCRIBE_CONFIGS") {
            rig.polled_whole(1).await;
            let checked = rig.run(&["check"]);
            let said = text(&checked);
            assert!(
                checked.status.success() && said.contains("warn  kafka: topic ") && said.contains(expected),
                "{said}"
            );
        }
    }
}

/// A restart reads the topics of legs and dead letters from where the journal accounts for them.
#[tokio::test(flavor = "multi_thread")]
async fn legs_and_dead_letters_have_to_be_readable_for_a_restart() {
    let kafka = secured();
    let password = file("correct-horse\n");
    kafka.change(&[user("heidi", "correct-horse")]);
    let settings = scram(kafka, "heidi", &password);
    let settings: Vec<&str> = settings.iter().map(String::as_str).chain(["dead_letter.max_ratio = 1"]).collect();
    for suffix in ["", ".dead-letter"] {
        let faults = "garbage=10%".parse().unwrap();
        let sandbox = Settings { faults, ..sandbox_settings(300, Duration::from_secs(3600)) };
        let rig = Rig::new(Sandbox::start(sandbox).await.unwrap(), &kafka.sasl, &settings);
        kafka.change(&allow(rules("heidi", &rig.topic)));
        let daemon = rig.start();
        rig.polled_whole(1).await;
        daemon.kill();
        let name = format!("{}{suffix}", rig.topic);
        assert!(!read_committed(kafka.kafka.bootstrap(), &name).is_empty());

        let reading = rule("heidi", "READ", "TOPIC", &name);
        kafka.change(&[Change::Withdraw(reading.clone())]);
        let daemon = rig.start();
        let expected = format!("topic {name}: Kafka does not let this user read it");
        rig.until(&expected, async || rig.log().contains(&expected)).await;
        // It waits, and goes on when it may.
        kafka.change(&[Change::Allow(reading)]);
        rig.polled_since_start().await;
        daemon.kill();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_nothing_is_told_so_by_check() {
    let kafka = secured();
    let password = file("correct-horse\n");
    let rig = rig(&kafka.sasl, &scram(kafka, "ivan", &password)).await;
    kafka.change(&[user("ivan", "correct-horse")]);
    let checked = rig.run(&["check"]);
    let said = text(&checked);
    assert_eq!(checked.status.code(), Some(4), "{said}");
    for suffix in ["", ".dead-letter", ".status", ".journal"] {
        let expected = format!(
            "FAIL  kafka: topic {}{suffix}: Kafka does not let this user see it: grant READ, WRITE and DESCRIBE_CONFIGS on it",
            rig.topic
        );
        assert!(said.contains(&expected), "{said}");
    }
}
