//! A secured Kafka: TLS, SCRAM and client certificates, what keeps the connector out, and how it gets in again.

use std::process::Output;
use std::time::Duration;

use call_legs::sandbox::Sandbox;
use call_legs::sink::rights::{Resource, Right, rights};
use call_legs::sink::topics::journal;
use tempfile::NamedTempFile;

use super::rig::{Rig, assert_complete, identities, sandbox_settings};
use super::support::certificates::{Authority, Issued};
use super::support::secured::{Change, Rule, Secured, secured};

pub(super) fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

async fn small_sandbox() -> Sandbox {
    Sandbox::start(sandbox_settings(50, Duration::from_secs(3600))).await.unwrap()
}

/// A world whose connector reaches a secured Kafka at `address`.
pub(super) async fn rig(address: &str, settings: &[String]) -> Rig {
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    Rig::new(small_sandbox().await, address, &settings)
}

/// The settings of a user who comes by SCRAM over TLS, with the password in a file.
pub(super) fn scram(kafka: &Secured, user: &str, password: &NamedTempFile) -> Vec<String> {
    vec![
        property("security.protocol", "sasl_ssl"),
        property("sasl.mechanism", "SCRAM-SHA-512"),
        property("sasl.username", user),
        property("ssl.ca.location", &kafka.authority.certificate().to_string_lossy()),
        format!("kafka.sasl_password_file = {:?}", password.path()),
    ]
}

/// The settings of a user who comes by a certificate.
pub(super) fn mutual(kafka: &Secured, user: &Issued) -> Vec<String> {
    vec![
        property("security.protocol", "ssl"),
        property("ssl.ca.location", &kafka.authority.certificate().to_string_lossy()),
        property("ssl.certificate.location", &user.certificate.to_string_lossy()),
        property("ssl.key.location", &user.key.to_string_lossy()),
    ]
}

fn property(name: &str, value: &str) -> String {
    format!("kafka.properties.\"{name}\" = {value:?}")
}

pub(super) fn file(content: &str) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), content).unwrap();
    file
}

pub(super) fn user(name: &str, password: &str) -> Change {
    Change::User { name: name.to_owned(), password: password.to_owned() }
}

/// What a user needs for a connector with this topic, by the list that `kafka acls` prints.
pub(super) fn rules(user: &str, topic: &str) -> Vec<Rule> {
    let of = |right: Right| {
        let kind = match right.resource {
            Resource::Topic => "TOPIC",
            Resource::TransactionalId => "TRANSACTIONAL_ID",
        };
        right.operations.into_iter().map(|operation| rule(user, operation, kind, &right.name)).collect::<Vec<_>>()
    };
    rights(topic, &journal(topic)).into_iter().flat_map(of).collect()
}

pub(super) fn rule(user: &str, operation: &'static str, kind: &'static str, name: &str) -> Rule {
    Rule { user: user.to_owned(), operation, kind, name: name.to_owned() }
}

pub(super) fn allow(rules: Vec<Rule>) -> Vec<Change> {
    rules.into_iter().map(Change::Allow).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn legs_arrive_once_by_scram_over_tls() {
    let kafka = secured();
    let password = file("correct-horse\n");
    let rig = rig(&kafka.sasl, &scram(kafka, "alice", &password)).await;
    kafka.change(&[vec![user("alice", "correct-horse")], allow(rules("alice", &rig.topic))].concat());

    let daemon = rig.start();
    rig.polled_whole(1).await;
    let checked = rig.run(&["check"]);
    assert!(checked.status.success() && text(&checked).contains("3 partitions"), "{}", text(&checked));
    let (status, _) = daemon.terminate();
    assert!(status.success());
    assert!(rig.log().contains("delivery=\"exactly-once\""), "{}", rig.log());
    assert_complete(&identities(kafka.kafka.bootstrap(), &rig.topic).await, &rig.true_identities(), false);
    for arguments in [&["tail", "--from-beginning", "--until-end"][..], &["state", "show"]] {
        let output = rig.run(arguments);
        assert!(output.status.success(), "{}", text(&output));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_the_connector_out_is_said_in_one_sentence_without_the_password() {
    let kafka = secured();
    kafka.change(&[user("carol", "correct-horse")]);
    let wrong = file("battery-staple\n");
    let right = file("correct-horse\n");
    let issued = kafka.authority.issue("mallory").unwrap();
    let stranger = Authority::create().unwrap();
    let foreign = stranger.issue("mallory").unwrap();
    let name_of = |path: &std::path::Path| path.to_string_lossy().into_owned();

    let by_password = scram(kafka, "carol", &right);
    let by_certificate = mutual(kafka, &issued);
    let with = |base: &[String], name: &str, value: &str| [base, &[property(name, value)]].concat();
    let elsewhere = kafka.sasl.replace("127.0.0.1", "localhost");
    let cases = [
        (&kafka.sasl, scram(kafka, "carol", &wrong), "refuses the user (…): check kafka.properties.sasl.username"),
        (
            &kafka.sasl,
            with(&by_password, "sasl.mechanism", "SCRAM-SHA-256"),
            "does not take this SASL mechanism (…): change kafka.properties.sasl.mechanism",
        ),
        (
            &kafka.sasl,
            with(&by_password, "ssl.ca.location", &name_of(&stranger.certificate())),
            "is not trusted: it is signed by an unknown authority",
        ),
        (&elsewhere, by_password.clone(), "is for another name"),
        (
            &kafka.sasl,
            with(&by_password, "security.protocol", "sasl_plaintext"),
            "closes every connection without a word: if it goes on, check kafka.properties.security.protocol",
        ),
        (
            &kafka.kafka.bootstrap().to_owned(),
            by_password.clone(),
            "check kafka.properties.security.protocol, and the port",
        ),
        (
            &kafka.mutual,
            by_certificate[..2].to_vec(),
            "refuses this client's certificate, or misses it (…): name a certificate that it trusts",
        ),
        (
            &kafka.mutual,
            mutual(kafka, &foreign),
            "refuses this client's certificate, or misses it (…): name a certificate",
        ),
        (
            &kafka.mutual,
            with(&by_certificate, "ssl.key.location", &name_of(&foreign.key)),
            "kafka.properties: what ssl.key.location names cannot be used (…): it must be a PEM file",
        ),
        (
            &kafka.mutual,
            with(&by_certificate, "ssl.certificate.location", "/nonesuch"),
            "kafka.properties: what ssl.certificate.location names cannot be used",
        ),
        (
            &kafka.sasl,
            with(&by_password, "ssl.ca.location", "/nonesuch"),
            "kafka.properties: what ssl.ca.location names cannot be used",
        ),
    ];
    // Each waits as long as a question may take: side by side.
    let mut checks = Vec::new();
    for (address, settings, expected) in cases {
        let rig = rig(address, &settings).await;
        let checked = tokio::task::spawn_blocking(move || rig.run(&["check"]));
        checks.push((address, checked, expected));
    }
    for (address, checked, expected) in checks {
        let checked = checked.await.unwrap();
        let said = text(&checked);
        assert_eq!(checked.status.code(), Some(4), "{expected}: {said}");
        let failures: Vec<&str> = said.lines().filter(|line| line.starts_with("FAIL")).collect();
        // What stands for … is a library's, and changes with it.
        let is_said = |line: &str| expected.split('…').all(|part| line.contains(part));
        assert!(matches!(failures[..], [line] if is_said(line)), "{expected} in\n{said}");
        let place = [address.as_str(), "kafka.properties: ", "kafka.bootstrap_servers"];
        assert!(place.iter().any(|place| failures[0].contains(place)), "{address} in\n{said}");
        assert!(!said.contains("battery-staple") && !said.contains("correct-horse"), "{said}");
    }
    let reading =
        rig(&kafka.sasl, &scram(kafka, "carol", &wrong)).await.run(&["tail", "--from-beginning", "--until-end"]);
    assert!(text(&reading).contains("refuses the user"), "{}", text(&reading));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_waited_for_until_its_file_is_mended() {
    let kafka = secured();
    let password = file("battery-staple\n");
    let rig = rig(&kafka.sasl, &scram(kafka, "dave", &password)).await;
    kafka.change(&[vec![user("dave", "correct-horse")], allow(rules("dave", &rig.topic))].concat());

    let daemon = rig.start();
    rig.until("refusal", async || rig.page("/readyz").await.is_some_and(|(_, page)| page.contains("refuses the user")))
        .await;
    assert!(rig.log().contains("WARN waiting: Kafka at "), "{}", rig.log());
    std::fs::write(password.path(), "correct-horse\n").unwrap();
    rig.polled_whole(1).await;
    assert!(daemon.terminate().0.success());
    assert!(!rig.log().contains("battery-staple") && !rig.log().contains("correct-horse"));
    assert_complete(&identities(kafka.kafka.bootstrap(), &rig.topic).await, &rig.true_identities(), false);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_is_replaced_while_it_runs_is_read_again_by_every_client() {
    outlives_its_password("auto").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_replaced_at_least_once_as_well() {
    outlives_its_password("at-least-once").await;
}

/// Of the clients some live on: the producer, and those that ask for ends. Readers are made anew each time.
async fn outlives_its_password(delivery: &str) {
    let kafka = Secured::start();
    let password = file("correct-horse\n");
    let settings = [scram(&kafka, "erin", &password), vec![format!("kafka.delivery = {delivery:?}")]].concat();
    let rig = rig(&kafka.sasl, &settings).await;
    kafka.change(&[vec![user("erin", "correct-horse")], allow(rules("erin", &rig.topic))].concat());
    let daemon = rig.start();
    rig.polled_whole(1).await;

    // Connections stay as they are until they break: then nobody gets in, until the file has the new password too.
    kafka.change(&[user("erin", "battery-staple")]);
    kafka.kafka.stop();
    kafka.kafka.start();
    rig.until("refusal", async || rig.log().contains("refuses the user")).await;
    std::fs::write(password.path(), "battery-staple\n").unwrap();
    rig.polled_whole(2).await;
    rig.until("readiness", async || rig.page("/readyz").await.is_some_and(|(status, _)| status == 200)).await;
    assert_eq!(rig.log().matches("call-legs starts").count(), 1, "it is the same process");
    assert!(daemon.terminate().0.success());
    assert_complete(&identities(kafka.kafka.bootstrap(), &rig.topic).await, &rig.true_identities(), false);
}
