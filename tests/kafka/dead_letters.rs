//! Dead letters: told of without their rows, and replayed, each leg once, when the topic or a version takes them.

use std::collections::BTreeSet;
use std::process::Output;
use std::time::Duration;

use call_legs::core::identity::KeyHash;
use call_legs::core::leg::FIELDS;
use call_legs::core::time::UtcMillis;
use call_legs::sandbox::dataset::DatasetSettings;
use call_legs::sandbox::{Sandbox, Settings};
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::message::{Header, Headers, Message, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::util::Timeout;
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;

use super::rig::{Rig, assert_complete, command, identities, identity, read_committed, sandbox_settings};
use super::support::kafka::kafka;

const HOUR: Duration = Duration::from_secs(3600);
const LEGS: usize = 300;

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

pub(super) fn said(rig: &Rig, arguments: &[&str]) -> String {
    let output = rig.run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output));
    text(&output)
}

/// How many letters met a fate, of which a replay tells in such words.
pub(super) fn count(said: &str, words: &str) -> usize {
    let line =
        said.lines().find(|line| line.trim_start().trim_start_matches(char::is_numeric).trim().starts_with(words));
    line.map_or(0, |line| line.split_whitespace().next().unwrap().parse().unwrap())
}

fn dead_letters(rig: &Rig) -> Vec<OwnedMessage> {
    read_committed(kafka().bootstrap(), &format!("{}.dead-letter", rig.topic))
}

/// A run over legs of three hours into a topic that takes none older than one, and that takes them all afterwards; they
/// are not read again. Gives how many are dead letters.
async fn refused_and_mended(settings: &[&str]) -> (Rig, usize) {
    let settings = [
        &[
            "kafka.topic_config.\"message.timestamp.before.max.ms\" = 3600000",
            "poll.start_from = \"now-4h\"",
            "poll.overlap = \"1m\"",
            "sweeps = []",
        ],
        settings,
    ]
    .concat();
    let sandbox = Sandbox::start(sandbox_settings(LEGS as u64, HOUR * 3)).await.unwrap();
    let rig = Rig::new(sandbox, kafka().bootstrap(), &settings);
    let daemon = rig.start();
    rig.polled_whole(2).await;
    let written = rig.metric("call_legs_dead_letters_total", "").await;
    assert!(daemon.terminate().0.success());
    let dead = dead_letters(&rig).len();
    assert_eq!(written, dead as f64, "each letter counts once");
    assert!((100..LEGS).contains(&dead), "{dead}");
    assert_eq!(identities(kafka().bootstrap(), &rig.topic).await.len(), LEGS - dead);

    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", kafka().bootstrap()).create().unwrap();
    let mended = AlterConfig::new(ResourceSpecifier::Topic(&rig.topic))
        .set("message.timestamp.before.max.ms", "9223372036854775807")
        .set("retention.ms", "-1");
    admin.alter_configs([&mended], &AdminOptions::new()).await.unwrap();
    (rig, dead)
}

async fn assert_each_once(rig: &Rig) {
    assert_complete(&identities(kafka().bootstrap(), &rig.topic).await, &rig.true_identities(), false);
}

/// The span of a second in which a row's call ended, as a letter names its window; `None` for a row without an end.
fn window_of(row: &[u8]) -> Option<String> {
    let ended = serde_json::from_slice::<Value>(row).ok()?["disconnectedTimeUTC"].as_i64()?;
    let [start, end] = [ended, ended + 1_000].map(UtcMillis::new);
    Some(format!("{start}/{end}"))
}

/// A dead letter with another one's headers, but those that speak of its row.
pub(super) async fn bury(bootstrap: &str, like: &OwnedMessage, row: &[u8], bytes: usize) {
    let key = KeyHash::of_dead_row(row).0;
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    let (bytes, window) = (bytes.to_string(), window_of(row));
    let headers = like.headers().unwrap().iter().fold(OwnedHeaders::new(), |headers, header| {
        let value = match header.key {
            KeyHash::HEADER => Some(&key[..]),
            "call-legs-row-hash" => Some(hex.as_bytes()),
            "call-legs-row-bytes" => Some(bytes.as_bytes()),
            "call-legs-window" => window.as_ref().map(String::as_bytes).or(header.value),
            _ => header.value,
        };
        headers.insert(Header { key: header.key, value })
    });
    let producer: FutureProducer = ClientConfig::new().set("bootstrap.servers", bootstrap).create().unwrap();
    let record = FutureRecord::to(like.topic()).key(&hex).payload(row).headers(headers);
    producer.send(record, Timeout::Never).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_topic_takes_by_now_is_replayed_once_beside_the_live_daemon() {
    let (rig, dead) = refused_and_mended(&[]).await;
    let listed = said(&rig, &["dead-letters", "list"]);
    assert_eq!(listed.lines().filter(|line| line.ends_with("not replayed")).count(), dead, "{listed}");
    assert!(listed.contains(&format!("timestamp-refused: {dead} dead letters, 0 of them replayed")), "{listed}");

    let forecast = said(&rig, &["dead-letters", "replay"]);
    assert_eq!(count(&forecast, "published"), dead, "{forecast}");
    assert!(forecast.contains("Nothing was changed: add --yes"), "{forecast}");
    let daemon = rig.start();
    rig.polled_whole(1).await;
    assert_eq!(said(&rig, &["dead-letters", "replay"]), forecast, "the owner says the same");
    assert_eq!(identities(kafka().bootstrap(), &rig.topic).await.len(), LEGS - dead, "and has published none");
    let other = said(&rig, &["dead-letters", "replay", "--yes", "--code", "leg-id-unusable"]);
    assert!(other.starts_with("0 dead letters"), "{other}");

    let replayed = said(&rig, &["dead-letters", "replay", "--yes"]);
    assert_eq!(count(&replayed, "published"), dead, "{replayed}");
    assert!(!replayed.contains("becoming the owner"), "{replayed}");
    assert_each_once(&rig).await;
    let again = said(&rig, &["dead-letters", "replay", "--yes"]);
    assert_eq!((count(&again, "published"), count(&again, "replayed before")), (0, dead), "{again}");
    rig.polled_whole(1).await;
    assert_each_once(&rig).await;
    // What it has counted adds up: each dead row once as dead and once as published.
    assert_eq!(rig.metric("call_legs_rows_total", "result=\"published\"").await, dead as f64);
    daemon.terminate();

    let tailed = said(&rig, &["tail", "--from-beginning", "--until-end"]);
    let how = |line: &str| serde_json::from_str::<Value>(line).unwrap()["ingest"]["how"].clone();
    assert_eq!(tailed.lines().filter(|line| how(line) == "replay").count(), dead);
    let listed = said(&rig, &["dead-letters", "list", "--json"]);
    let objects: Vec<Value> = listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(objects.iter().filter(|letter| letter["state"] == "replayed").count(), dead, "{listed}");
    assert_eq!(objects.last().unwrap()["codes"]["timestamp-refused"]["replayed"], dead, "{listed}");
    assert!(said(&rig, &["state", "verify"]).contains("the view equals the journal"));
    let audited = said(&rig, &["audit", "--from", "now-3h", "--to", "now-1m"]);
    assert!(audited.contains("Equal: all"), "{audited}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_daemon_kills_at_every_step_of_a_replay_lose_and_repeat_nothing() {
    let (rig, dead) = refused_and_mended(&[]).await;
    for point in ["claimed", "begun", "legs-acknowledged", "progress-sent", "committing", "committing", "committed"] {
        let output = command()
            .args(["dead-letters", "replay", "--yes", "--config"])
            .arg(rig.config())
            .env("CALL_LEGS_DIE_AT", point)
            .output()
            .unwrap();
        let has_died = output.status.code().is_none();
        // Once it is through there is nothing left to die over.
        assert!(has_died || point.starts_with("commit"), "{point}: {}", text(&output));
    }
    let last = said(&rig, &["dead-letters", "replay", "--yes"]);
    assert_eq!((count(&last, "published"), count(&last, "replayed before")), (0, dead), "{last}");
    assert!(last.contains("becoming the owner"), "{last}");
    assert_each_once(&rig).await;
    std::fs::remove_dir_all(rig.state_dir().join("store")).unwrap();
    let _daemon = rig.start();
    rig.polled_whole(1).await;
    let last = said(&rig, &["dead-letters", "replay", "--yes"]);
    assert_eq!((count(&last, "published"), count(&last, "replayed before")), (0, dead), "{last}");
    assert_each_once(&rig).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_be_forgotten_is_looked_for_in_the_topic() {
    let (rig, dead) = refused_and_mended(&["state.horizon = \"2m\""]).await;
    let letters = dead_letters(&rig);
    let published = identities(kafka().bootstrap(), &rig.topic).await;
    // As an older version could have called it: a row whose leg was published since, and is forgotten.
    let before = rig.sandbox.now().minus(Duration::from_secs(1_200));
    let rows: Vec<String> = rig
        .sandbox
        .api()
        .legs_visible(before, chrono_tz::UTC)
        .filter(|leg| published.contains_key(&identity(&leg.pbx_id, &leg.call_id, &leg.leg_id)))
        .map(|leg| leg.current().json.clone())
        .collect();
    assert!(rows.len() > 5, "{}", rows.len());
    bury(kafka().bootstrap(), &letters[0], rows[0].as_bytes(), rows[0].len()).await;
    bury(kafka().bootstrap(), &letters[0], rows[0].as_bytes(), rows[0].len()).await;
    bury(kafka().bootstrap(), &letters[0], rows[1].as_bytes(), rows[1].len() + 1).await;
    let replayed = said(&rig, &["dead-letters", "replay", "--yes"]);
    let counted =
        ["published", "in the topic already", "cut short, withheld or altered"].map(|words| count(&replayed, words));
    assert_eq!(counted, [dead, 2, 1], "{replayed}");
    assert_each_once(&rig).await;
    let again = said(&rig, &["dead-letters", "replay", "--yes"]);
    assert_eq!((count(&again, "published"), count(&again, "replayed before")), (0, dead + 2), "{again}");
    let listed = said(&rig, &["dead-letters", "list"]);
    assert!(
        listed.contains("(cut short)") && listed.contains(&format!("{} of them replayed, 1 cut", dead + 2)),
        "{listed}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_topic_may_have_lost_is_in_doubt_until_it_is_forced() {
    let (rig, dead) = refused_and_mended(&["state.horizon = \"2m\""]).await;
    let first = read_committed(kafka().bootstrap(), &rig.topic).into_iter().next().unwrap();
    let lost = identity_of(&first);
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", kafka().bootstrap()).create().unwrap();
    let mut offsets = TopicPartitionList::new();
    let end = Offset::Offset(first.offset() + 1);
    offsets.add_partition_offset(&rig.topic, first.partition(), end).unwrap();
    admin.delete_records(&offsets, &AdminOptions::new()).await.unwrap();

    let doubted = said(&rig, &["dead-letters", "replay", "--yes"]);
    assert_eq!((count(&doubted, "published"), count(&doubted, "in doubt")), (0, dead), "{doubted}");
    assert_eq!(identities(kafka().bootstrap(), &rig.topic).await.len(), LEGS - dead - 1);
    let forced = said(&rig, &["dead-letters", "replay", "--yes", "--force"]);
    assert_eq!((count(&forced, "published"), count(&forced, "in doubt")), (dead, 0), "{forced}");
    let expected: Vec<_> = rig.true_identities().into_iter().filter(|leg| *leg != lost).collect();
    assert_complete(&identities(kafka().bootstrap(), &rig.topic).await, &expected, false);
}

fn identity_of(message: &OwnedMessage) -> [u8; 16] {
    let header = message.headers().unwrap().iter().find(|header| header.key == KeyHash::HEADER).unwrap();
    header.value.unwrap().try_into().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_rows_that_stay_dead_nothing_personal_is_told() {
    let settings = sandbox_settings(LEGS as u64, HOUR);
    let dataset = DatasetSettings { revised_share: 0.5, ..settings.dataset.clone() };
    let settings = Settings { dataset, faults: "garbage=20%".parse().unwrap(), ..settings };
    let keys = ["dead_letter.max_ratio = 1", "poll.start_from = \"now-2h\""];
    let rig = Rig::new(Sandbox::start(settings).await.unwrap(), kafka().bootstrap(), &keys);
    let daemon = rig.start();
    rig.polled_whole(1).await;
    daemon.terminate();
    let letters = dead_letters(&rig);
    assert!(letters.len() > 10, "{}", letters.len());
    let before = identities(kafka().bootstrap(), &rig.topic).await;
    let replayed = said(&rig, &["dead-letters", "replay", "--yes"]);
    assert_eq!((count(&replayed, "published"), count(&replayed, "still dead")), (0, letters.len()), "{replayed}");
    assert_eq!(identities(kafka().bootstrap(), &rig.topic).await, before);

    let all = [
        said(&rig, &["dead-letters", "list"]),
        said(&rig, &["dead-letters", "list", "--json"]),
        said(&rig, &["tail", "--journal", "--from-beginning", "--until-end"]),
        replayed,
    ]
    .concat();
    assert_eq!(all.lines().filter(|line| line.ends_with("not replayed")).count(), letters.len(), "{all}");
    let mut personal = BTreeSet::new();
    for letter in &letters {
        let Ok(Value::Object(row)) = serde_json::from_slice::<Value>(letter.payload().unwrap()) else { continue };
        let names = FIELDS.iter().filter(|field| field.personal).map(|field| field.name);
        personal.extend(names.filter_map(|name| row.get(name)?.as_str()).map(str::to_owned));
    }
    // Shorter ones, such as extensions, are in any number.
    personal.retain(|value| value.chars().count() >= 5);
    assert!(personal.len() > 20, "{}", personal.len());
    for value in personal {
        assert!(!all.contains(&value), "{value}");
    }
}
