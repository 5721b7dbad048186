//! What arrives in Kafka, seen by a consumer that shares no code with the connector.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use call_legs::sandbox::dataset::DatasetSettings;
use call_legs::sandbox::{Sandbox, Settings};
use serde_json::{Value, json};

use super::rig::{Rig, identity, sandbox_settings};
use super::support::kafka::kafka;
use super::support::read_topic::{Framing, Isolation, read_topic_with_java};
use super::support::registry::registry;

const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/seed-sample.json");
const SCHEMA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/schemas/call-leg.avsc");

/// The vendor's sample reply, served as recorded.
async fn replayed() -> Sandbox {
    let settings = Settings { replay: Some(SAMPLE.into()), ..sandbox_settings(0, Duration::ZERO) };
    let now = chrono::DateTime::parse_from_rfc3339("2022-02-03T15:00:00Z").unwrap().to_utc();
    Sandbox::start(Settings { now: Some(now.into()), ..settings }).await.unwrap()
}

/// The sandbox's clock shows 2022, ours does not: beyond the tolerance legs are published all the same.
const IN_2022: [&str; 3] =
    ["poll.start_from = \"2022-02-03T14:00:00Z\"", "poll.max_window = \"30d\"", "source.pbx_ids = [\"acmecorppbx\"]"];

fn sample_rows() -> Vec<Value> {
    let sample: Value = serde_json::from_str(&std::fs::read_to_string(SAMPLE).unwrap()).unwrap();
    sample["data"].as_array().unwrap().clone()
}

/// Every field of a record equals the row's, connect times of 0 and the provenance aside.
fn assert_equals_row(value: &Value, row: &Value) {
    let row = row.as_object().unwrap();
    assert_eq!(row.len(), 49);
    for (name, expected) in row {
        assert_eq!(value[name], *expected, "{name}");
    }
    assert_eq!(value["extra"], json!({}));
    assert_eq!(value.as_object().unwrap().len(), 51);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_vendors_sample_arrives_with_every_field() {
    let rig = Rig::new(replayed().await, kafka().bootstrap(), &IN_2022);
    let _daemon = rig.start();
    rig.until("published legs", async || rig.metric("call_legs_rows_total", "result=\"published\"").await >= 2.0).await;

    let schema = Path::new(SCHEMA);
    let framing = Framing::SingleObject { schemas: &[schema] };
    let messages = read_topic_with_java(kafka().bootstrap(), &rig.topic, framing, Isolation::ReadCommitted);
    assert_eq!(messages.len(), 2);
    for row in sample_rows() {
        let call_id = row["callId"].as_str().unwrap();
        let message = messages.iter().find(|message| message["key"] == call_id).expect("the key is the callId");
        assert_equals_row(&message["value"], &row);
        assert_eq!(message["timestamp"], row["disconnectedTimeUTC"]);
        assert_eq!(message["partition"], message["javaPartition"], "partitioned as Java partitions");
        let expected: String = identity("acmecorppbx", call_id, "1").iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(message["headers"]["call-legs-identity"]["hex"], expected);
        let ingest = &message["value"]["ingest"];
        assert_eq!(
            (&ingest["how"], &ingest["late"], &ingest["revision"]),
            (&json!("catch-up"), &json!(false), &json!(0))
        );
        let disconnected = row["disconnectedTimeUTC"].as_i64().unwrap();
        assert!(
            ingest["windowStart"].as_i64().unwrap() <= disconnected
                && disconnected < ingest["windowEnd"].as_i64().unwrap()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn confluent_framing_goes_through_a_real_registry() {
    let url = registry().url();
    let registry_url = format!("avro.schema_registry_url = {url:?}");
    let settings = [IN_2022.as_slice(), &["avro.framing = \"confluent\"", &registry_url]].concat();
    let rig = Rig::new(replayed().await, kafka().bootstrap(), &settings);
    let _daemon = rig.start();
    rig.until("published legs", async || rig.metric("call_legs_rows_total", "result=\"published\"").await >= 2.0).await;

    let messages = read_topic_with_java(
        kafka().bootstrap(),
        &rig.topic,
        Framing::Confluent { registry: url },
        Isolation::ReadCommitted,
    );
    assert_eq!(messages.len(), 2);
    for row in sample_rows() {
        let message = messages.iter().find(|message| message["key"] == row["callId"]).unwrap();
        assert_equals_row(&message["value"], &row);
    }
    let tailed = rig.run(&["tail", "--from-beginning", "--until-end"]);
    assert_eq!(
        String::from_utf8_lossy(&tailed.stdout).lines().count(),
        2,
        "{}",
        String::from_utf8_lossy(&tailed.stderr)
    );
    let checked = rig.run(&["check"]);
    assert!(String::from_utf8_lossy(&checked.stdout).contains("has our schema under id"), "{checked:?}");
    let registered = rig.run(&["schema", "--register"]);
    let subject = format!("{}-value: schema id ", rig.topic);
    assert!(String::from_utf8_lossy(&registered.stdout).starts_with(&subject), "{registered:?}");
}

/// Also across a restart that has lost the store.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_leg_is_published_again_with_the_next_revision_once_a_change() {
    let mut settings = sandbox_settings(0, Duration::from_secs(3600));
    let changes =
        DatasetSettings { rate: 4.0, revised_share: 0.5, revised_within: Duration::from_secs(12), ..settings.dataset };
    settings.dataset = changes;
    let sandbox = Sandbox::start(settings).await.unwrap();
    let rig = Rig::new(sandbox, kafka().bootstrap(), &["policy.revisions = \"publish\"", "poll.start_from = \"now\""]);
    let revised = async || rig.metric("call_legs_rows_total", "result=\"revised\"").await;
    let daemon = rig.start();
    rig.until("changed legs", async || revised().await >= 20.0).await;
    daemon.kill();
    std::fs::remove_dir_all(rig.state_dir().join("store")).unwrap();
    let daemon = rig.start();
    rig.until("more changed legs", async || revised().await >= 20.0).await;
    daemon.terminate();

    let messages = read_topic_with_java(
        kafka().bootstrap(),
        &rig.topic,
        Framing::SingleObject { schemas: &[Path::new(SCHEMA)] },
        Isolation::ReadCommitted,
    );
    let mut legs: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
    for message in &messages {
        let identity = message["headers"]["call-legs-identity"]["hex"].as_str().unwrap();
        legs.entry(identity.to_owned()).or_default().push(&message["value"]);
    }
    let is_changed = |leg: &Value| leg["accountCode"] == "AC-4711";
    for revisions in legs.values() {
        for (number, leg) in revisions.iter().enumerate() {
            assert_eq!(leg["ingest"]["revision"], number, "in order and without a gap");
        }
        assert!(revisions.windows(2).all(|pair| is_changed(pair[0]) != is_changed(pair[1])), "each says something new");
    }
    assert!(
        legs.values().filter(|revisions| revisions.len() > 1).count() >= 30,
        "changed before and after the restart"
    );
    assert!(legs.values().any(|revisions| revisions.len() > 2), "some changed back");
}

#[tokio::test(flavor = "multi_thread")]
async fn rubbish_rows_become_dead_letters_once_and_their_neighbours_get_through() {
    let faults = "garbage=10%".parse().unwrap();
    let sandbox =
        Sandbox::start(Settings { faults, ..sandbox_settings(300, Duration::from_secs(3600)) }).await.unwrap();
    let rig = Rig::new(sandbox, kafka().bootstrap(), &["poll.overlap = \"2h\"", "dead_letter.max_ratio = 1"]);
    let _daemon = rig.start();
    rig.polled_whole(3).await;

    let dead = read_topic_with_java(
        kafka().bootstrap(),
        &format!("{}.dead-letter", rig.topic),
        Framing::Raw,
        Isolation::ReadCommitted,
    );
    assert!(!dead.is_empty(), "a tenth of 300 rows is rubbish, some of it beyond use");
    let mut keys: Vec<String> = dead.iter().map(|message| message["key"].to_string()).collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), dead.len(), "each distinct row once, though it was polled three times");
    for message in &dead {
        let headers = &message["headers"];
        for name in ["error-code", "error-message", "unit", "window", "row-bytes"] {
            assert!(headers[format!("call-legs-{name}")]["text"].is_string(), "{name} in {headers}");
        }
        let bytes: usize = headers["call-legs-row-bytes"]["text"].as_str().unwrap().parse().unwrap();
        assert_eq!(message["value"].as_str().unwrap().len(), bytes * 2, "the raw row, in hexadecimal");
    }
    let legs = read_topic_with_java(
        kafka().bootstrap(),
        &rig.topic,
        Framing::SingleObject { schemas: &[Path::new(SCHEMA)] },
        Isolation::ReadCommitted,
    );
    assert!(
        legs.len() + dead.len() >= 300 - 30 && legs.len() >= 255,
        "{} legs, {} dead letters",
        legs.len(),
        dead.len()
    );
    assert!(legs.iter().any(|leg| leg["value"]["extra"] != json!({})), "oddities that do no harm are kept in extra");
}
