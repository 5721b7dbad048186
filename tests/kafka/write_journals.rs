//! Writes what `journals` reads: a small whole journal and a state directory of this build, once in each delivery mode.
//!
//! It only does so when `CALL_LEGS_WRITE_JOURNALS=1` is set, and never over what is there:
//!
//! ```text
//! CALL_LEGS_WRITE_JOURNALS=1 cargo test --test kafka write_journals -- --nocapture
//! ```

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use call_legs::sandbox::dataset::DatasetSettings;
use call_legs::sandbox::{Sandbox, Settings};
use chrono::{DateTime, TimeDelta, Timelike, Utc};
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Headers, Message};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::dead_letters::{bury, count, said};
use super::journals::{JOURNALS, SETTINGS, SWEPT, Stored, TOPICS, summary, swept_whole};
use super::rig::{Rig, read_committed, sandbox_settings};
use super::support::kafka::Kafka;

const UNITS: &str = "[\"acme-east\", \"acme-west\", \"acme-labs\"]";
/// Live legs are revised within this time.
const REVISED_WITHIN: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn write_journals_if_asked_to() {
    if std::env::var("CALL_LEGS_WRITE_JOURNALS").as_deref() != Ok("1") {
        eprintln!("CALL_LEGS_WRITE_JOURNALS=1 is not set: nothing is written");
        return;
    }
    let kafka = Kafka::start_private();
    for delivery in ["exactly-once", "at-least-once"] {
        let dir = Path::new(JOURNALS).join(format!("{}-{delivery}", env!("CARGO_PKG_VERSION")));
        assert!(!dir.exists(), "{} is there: every later build reads it, so it is not written again", dir.display());
        eprintln!("\nWRITING {}: this takes some minutes\n", dir.display());
        write(&kafka, delivery, &dir).await;
    }
}

/// A day's legs of three units, with everything that leaves a record of its own in the journal.
async fn write(kafka: &Kafka, delivery: &str, dir: &Path) {
    let origin = Utc::now();
    assert!(
        (4..23).contains(&origin.hour()),
        "from 04:00 to 23:00 UTC only: an hour of yesterday must be swept, and forgotten"
    );
    let midnight = origin.date_naive().and_hms_opt(0, 0, 0).unwrap().and_utc();
    let instant = |hours: f64| at(midnight, hours).format("%Y-%m-%dT%H:%M:%SZ").to_string();
    let mut rig = rig(kafka, delivery, origin, midnight).await;

    // East alone at first, so that its pages are the oldest; a transaction is torn.
    assert!(!rig.start_to_die_at("legs-acknowledged:2").ended().success());
    let daemon = rig.start();
    rig.until("sweep", async || rig.log().contains(SWEPT)).await;
    assert!(daemon.terminate().0.success());
    rig.set("source.pbx_ids", UNITS);
    let daemon = rig.start();
    rig.polled_since_start().await;

    // Legs that the topic refuses, and takes later; and one that it has already.
    said(&rig, &["backfill", "--unit", "acme-west", "--from", &instant(-8.0), "--to", &instant(-4.0)]);
    assert!(daemon.terminate().0.success());
    take_all_timestamps(kafka, &rig.topic).await;
    let replayed = count(&said(&rig, &["dead-letters", "replay", "--yes"]), "published");
    assert!(replayed > 0);
    let letters = read_committed(kafka.bootstrap(), &format!("{}.dead-letter", rig.topic));
    let is_east = |header: Header<'_, &[u8]>| header.value == Some(b"acme-east");
    let like = letters.iter().find(|letter| letter.headers().unwrap().iter().any(is_east)).unwrap();
    let known = rig.sandbox.api().legs_visible(at(midnight, 1.0).into(), chrono_tz::UTC).find(|leg| {
        leg.pbx_id == "acme-east" && leg.disconnect > at(midnight, -5.0).into() && leg.current().rubbish.is_none()
    });
    let row = known.unwrap().current().json.clone();
    bury(kafka.bootstrap(), like, row.as_bytes(), row.len()).await;
    let daemon = rig.start();
    rig.polled_since_start().await;
    let again = said(&rig, &["dead-letters", "replay", "--yes"]);
    assert_eq!(count(&again, "in the topic already"), 1, "{again}");

    // More backfills than are kept, and some that are cancelled.
    for half_hour in 0..8 {
        let (from, to) = (-14.0 + f64::from(half_hour) / 2.0, -13.5 + f64::from(half_hour) / 2.0);
        said(&rig, &["backfill", "--detach", "--from", &instant(from), "--to", &instant(to)]);
        rig.until("backfills to end", async || !said(&rig, &["state", "show"]).contains(" running, ")).await;
    }
    rig.sandbox.faults().set_outage(true);
    said(&rig, &["backfill", "--detach", "--from", &instant(-9.5), "--to", &instant(-8.5)]);
    said(&rig, &["backfill", "--cancel"]);
    rig.sandbox.faults().set_outage(false);

    said(&rig, &["state", "accept", "--unit", "acme-labs"]);
    said(&rig, &["state", "rewind", "--unit", "acme-east", "--to", &instant(1.0), "--yes"]);
    rig.until("the last revision", async || rig.sandbox.now() > (origin + REVISED_WITHIN * 2).into()).await;
    assert!(rig.metric("call_legs_rows_total", "result=\"revised\"").await > 0.0);
    let seen = rig.sandbox.now();
    rig.polled_whole(2).await;
    swept_whole(&rig).await;
    assert!(daemon.terminate().0.success());

    let legs = rig.sandbox.api().legs_visible(seen, chrono_tz::UTC);
    // A recording holds rows only, and `null` is none.
    let rows: Vec<String> = legs.map(|leg| leg.current().json.clone()).filter(|row| row != "null").collect();
    let about = json!({
        "delivery": delivery,
        "topic": rig.topic,
        "sandboxNow": rig.sandbox.now().as_millis(),
        "legsShown": rows.len(),
        "replayed": replayed + 1,
    });
    keep(kafka, &rig, dir, &rows.join("\n"), about);
}

fn at(midnight: DateTime<Utc>, hours: f64) -> DateTime<Utc> {
    midnight + TimeDelta::seconds((hours * 3600.0) as i64)
}

/// Legs since yesterday 10:00, few but those after the start, some changing, some rubbish; those before 18:00 are refused.
async fn rig(kafka: &Kafka, delivery: &str, origin: DateTime<Utc>, midnight: DateTime<Utc>) -> Rig {
    let span = (origin - at(midnight, -14.0)).to_std().unwrap();
    let settings = sandbox_settings(200, span);
    let dataset = DatasetSettings {
        rate: 10.0,
        live_for: Some(Duration::from_secs(1)),
        revised_share: 0.3,
        revised_within: REVISED_WITHIN,
        ..settings.dataset
    };
    let faults = "garbage=4%".parse().unwrap();
    let sandbox = Sandbox::start(Settings { dataset, faults, ..settings }).await.unwrap();
    let keys = [
        format!("kafka.topic = \"journal-{delivery}\""),
        format!("kafka.delivery = \"{delivery}\""),
        format!("poll.start_from = \"{}\"", at(midnight, -8.0).format("%Y-%m-%dT%H:%M:%SZ")),
        // Seldom, so that the journal stays small.
        "kafka.beat = \"10s\"".to_owned(),
        "poll.interval = \"5s\"".to_owned(),
        "sweeps = [{every = \"10s\", lookback = \"7d\"}]".to_owned(),
        "poll.max_window = \"4h\"".to_owned(),
        "source.pbx_ids = [\"acme-east\"]".to_owned(),
        format!(
            "kafka.topic_config.\"message.timestamp.before.max.ms\" = {}",
            (origin - at(midnight, -6.0)).num_milliseconds()
        ),
    ];
    let keys: Vec<&str> = SETTINGS.into_iter().chain(keys.iter().map(String::as_str)).collect();
    Rig::new(sandbox, kafka.bootstrap(), &keys)
}

async fn take_all_timestamps(kafka: &Kafka, topic: &str) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", kafka.bootstrap()).create().unwrap();
    let mended = AlterConfig::new(ResourceSpecifier::Topic(topic)).set("retention.ms", "-1");
    admin.alter_configs([&mended], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
}

/// Writes down the topics, the state directory without its secrets, the rows, and what the journal adds up to.
fn keep(kafka: &Kafka, rig: &Rig, dir: &Path, rows: &str, mut about: Value) {
    let beside = TempDir::new().unwrap();
    fs::create_dir_all(dir).unwrap();
    let consumer: BaseConsumer = ClientConfig::new().set("bootstrap.servers", kafka.bootstrap()).create().unwrap();
    for (suffix, file) in TOPICS {
        let topic = format!("{}{suffix}", rig.topic);
        let metadata = consumer.fetch_metadata(Some(&topic), Duration::from_secs(20)).unwrap();
        let partitions = 0..i32::try_from(metadata.topics()[0].partitions().len()).unwrap();
        let end = |id| consumer.fetch_watermarks(&topic, id, Duration::from_secs(20)).unwrap().1;
        about["ends"][file] = partitions.map(end).collect();
        let messages = read_committed(kafka.bootstrap(), &topic);
        let lines: String = messages.iter().map(|message| Stored::of(message, !suffix.is_empty()).line()).collect();
        fs::write(beside.path().join(file), lines).unwrap();
    }
    fs::write(beside.path().join("rows.json"), rows).unwrap();
    let mut tar = Command::new("tar");
    tar.args([
        "--sort=name",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--exclude=lock",
        "--exclude=admin-token",
        "-czf",
    ]);
    tar.arg(dir.join("files.tar.gz")).arg("-C").arg(rig.state_dir().parent().unwrap()).arg("state");
    tar.arg("-C").arg(beside.path()).args(["rows.json", "legs.txt", "dead-letters.txt", "journal.txt"]);
    assert!(tar.status().unwrap().success());
    let golden = json!({"written": about, "ledger": summary(beside.path())});
    fs::write(dir.join("golden.json"), serde_json::to_string_pretty(&golden).unwrap() + "\n").unwrap();
}
