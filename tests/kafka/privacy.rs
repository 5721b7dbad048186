//! A privacy policy: no byte of any topic holds a treated value or an unkeyed hash of one, and its changes revise nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use aho_corasick::AhoCorasick;
use call_legs::core::identity::{Fingerprint, KeyHash};
use call_legs::sandbox::{Sandbox, Settings};
use call_legs::source::wire::{self, Row};
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::sign::Signer;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::message::{Headers, Message, OwnedMessage};
use serde_json::Value;
use sha2::{Digest, Sha256};
use xxhash_rust::xxh3::xxh3_64;

use super::dead_letters::{count, said};
use super::rig::{Rig, identities, read_committed, sandbox_settings};
use super::support::kafka::kafka;

const HOUR: Duration = Duration::from_secs(3600);
const LEGS: u64 = 400;
const KEY: &str = "a key that only the test knows";

/// What the policy treats.
const TREATED: [&str; 8] =
    ["caller", "callerName", "callee", "calleeName", "callerId", "dnis", "sipCallId", "departments"];

/// Shorter values are in any number.
const TELLING: usize = 7;

/// The topics' bytes: of each record key, value and headers, one behind the other.
fn all_bytes(rig: &Rig) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for suffix in ["", ".dead-letter", ".journal", ".status"] {
        let topic = format!("{}{suffix}", rig.topic);
        let records = read_committed(kafka().bootstrap(), &topic);
        assert!(!records.is_empty(), "{topic}");
        all.extend(records.iter().map(|record| (format!("{topic}@{}", record.offset()), bytes_of(record))));
    }
    all
}

fn bytes_of(record: &OwnedMessage) -> Vec<u8> {
    let headers = record.headers().into_iter().flat_map(|headers| headers.iter());
    let headers = headers.flat_map(|header| [header.key.as_bytes(), b"=", header.value.unwrap_or_default(), b"\n"]);
    let parts = [record.key().unwrap_or_default(), b"\n", record.payload().unwrap_or_default(), b"\n"];
    parts.into_iter().chain(headers).flatten().copied().collect()
}

/// Every row that the API has shown.
fn rows(rig: &Rig) -> BTreeSet<String> {
    let legs = rig.sandbox.api().legs_visible(rig.sandbox.now(), chrono_tz::UTC);
    legs.flat_map(|leg| leg.versions.into_iter().map(|version| version.json)).collect()
}

/// The texts in a value, at any depth.
fn take_texts(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::String(text) => drop(found.insert(text.clone())),
        Value::Array(items) => items.iter().for_each(|item| take_texts(item, found)),
        Value::Object(members) => members.values().for_each(|member| take_texts(member, found)),
        _ => {}
    }
}

/// The values of treated fields that no other field holds as well.
fn treated_values(rows: &BTreeSet<String>) -> BTreeSet<String> {
    let (mut treated, mut others) = (BTreeSet::new(), BTreeSet::new());
    for row in rows {
        let Ok(Value::Object(row)) = serde_json::from_str(row) else { continue };
        for (name, value) in &row {
            take_texts(value, if TREATED.contains(&name.as_str()) { &mut treated } else { &mut others });
        }
    }
    treated.retain(|value| value.len() >= TELLING && !others.iter().any(|other| other.contains(value)));
    treated
}

/// What must not be in any topic: values, and what is computed of them without a key.
fn secrets(rows: &BTreeSet<String>) -> Vec<Vec<u8>> {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into_bytes();
    let mut secrets = Vec::new();
    for value in treated_values(rows) {
        let (sha, xxh3) = (Sha256::digest(&value), xxh3_64(value.as_bytes()).to_be_bytes());
        secrets.extend([sha[..16].to_vec(), hex(&sha[..16]), xxh3[1..].to_vec(), hex(&xxh3), value.into_bytes()]);
    }
    for row in rows {
        let hash = KeyHash::of_dead_row(row.as_bytes()).0;
        secrets.extend([hash.to_vec(), hex(&hash)]);
        if let Row::Leg(leg) = wire::row(row.as_bytes()) {
            secrets.push(Fingerprint::of_leg(&leg).bits().to_be_bytes()[1..].to_vec());
        }
    }
    secrets
}

fn assert_nothing_is_told(rig: &Rig) {
    let rows = rows(rig);
    let secrets = secrets(&rows);
    assert!(secrets.len() > 3_000, "{}", secrets.len());
    let search = AhoCorasick::new(&secrets).unwrap();
    assert!(rows.iter().filter(|row| search.is_match(row.as_str())).count() > 300, "it finds what is there");
    for (place, bytes) in all_bytes(rig) {
        if let Some(found) = search.find(&bytes) {
            panic!("{place} holds {:?}", String::from_utf8_lossy(&secrets[found.pattern().as_usize()]));
        }
    }
}

/// The documented hash, computed by another library.
fn hmac(value: &str) -> String {
    let key = PKey::hmac(KEY.as_bytes()).unwrap();
    let mut signer = Signer::new(MessageDigest::sha256(), &key).unwrap();
    signer.update(value.as_bytes()).unwrap();
    signer.sign_to_vec().unwrap().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn published(rig: &Rig) -> Vec<Value> {
    let tailed = said(rig, &["tail", "--from-beginning", "--until-end"]);
    tailed.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Every published leg holds what the policy makes of its row, however it came into the topic.
fn assert_treated(rig: &Rig) {
    let legs = rig.sandbox.api().legs_visible(rig.sandbox.now(), chrono_tz::UTC);
    let rows: Vec<Value> = legs.filter_map(|leg| serde_json::from_str(&leg.current().json).ok()).collect();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    for leg in published(rig) {
        let row = rows.iter().find(|row| row["callId"] == leg["callId"] && row["pbxId"] == leg["pbxId"]);
        let same_leg = |row: &&Value| {
            let id = &row["legId"];
            [text(id).unwrap_or_default(), id.to_string()].contains(&text(&leg["legId"]).unwrap())
        };
        let of_call = rows.iter().filter(|row| row["callId"] == leg["callId"] && row["pbxId"] == leg["pbxId"]);
        let Some(row) = of_call.into_iter().find(same_leg).or(row) else { panic!("{leg} has no row") };
        assert_eq!(text(&leg["caller"]), text(&row["caller"]).map(|caller| hmac(&caller)), "{leg}");
        assert_eq!((&leg["callerName"], &leg["calleeName"]), (&Value::Null, &Value::Null));
        assert_eq!(leg["extra"], serde_json::json!({}));
        let dialled = text(&leg["dnis"]).unwrap_or_default();
        assert!(dialled.len() < 5 || dialled.starts_with('*'), "{dialled}");
    }
}

async fn replayable(rig: &Rig) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", kafka().bootstrap()).create().unwrap();
    let mended = AlterConfig::new(ResourceSpecifier::Topic(&rig.topic))
        .set("message.timestamp.before.max.ms", "9223372036854775807")
        .set("retention.ms", "-1");
    admin.alter_configs([&mended], &AdminOptions::new()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_topic_tells_what_a_policy_treats_and_no_change_of_it_revises_a_leg() {
    let settings = Settings { faults: "garbage=20%".parse().unwrap(), ..sandbox_settings(LEGS, HOUR * 2) };
    let keys = [
        "privacy.drop = [\"callerName\", \"calleeName\", \"extra\"]",
        "privacy.hash = [\"caller\", \"callee\", \"sipCallId\", \"departments\"]",
        "privacy.mask = { callerId = 4, dnis = 4 }",
        "dead_letter.max_ratio = 1",
        // The older half becomes dead letters, which the topic takes later.
        "kafka.topic_config.\"message.timestamp.before.max.ms\" = 3600000",
        "poll.start_from = \"now-3h\"",
        "poll.overlap = \"40m\"",
        "sweeps = []",
    ];
    let mut rig = Rig::new(Sandbox::start(settings).await.unwrap(), kafka().bootstrap(), &keys);
    let key_file = rig.state_dir().with_file_name("privacy-key");
    std::fs::write(&key_file, format!("{KEY}\n")).unwrap();
    rig.set("privacy.key_file", &format!("{key_file:?}"));
    let daemon = rig.start();
    rig.polled_whole(2).await;
    assert!(daemon.terminate().0.success());
    assert_nothing_is_told(&rig);

    // What was treated when it was buried is not treated again when it is replayed.
    replayable(&rig).await;
    let replayed = said(&rig, &["dead-letters", "replay", "--yes"]);
    assert!(count(&replayed, "published") > 50, "{replayed}");
    assert!(count(&replayed, "still dead") > 5, "{replayed}");
    assert_treated(&rig);
    assert_nothing_is_told(&rig);
    let audited = said(&rig, &["audit", "--from", "now-2h", "--to", "now-1m"]);
    assert!(audited.contains("Equal: all") && !audited.contains("another [privacy]"), "{audited}");

    // Other rules, then another key.
    let legs = identities(kafka().bootstrap(), &rig.topic).await;
    let letters = |rig: &Rig| read_committed(kafka().bootstrap(), &format!("{}.dead-letter", rig.topic)).len();
    let buried = letters(&rig);
    rig.set("privacy.drop", "[\"callerName\", \"calleeName\", \"extra\", \"caller\"]");
    rig.set("privacy.hash", "[\"callee\", \"sipCallId\", \"departments\"]");
    for step in ["other rules", "another key"] {
        let daemon = rig.start();
        rig.polled_whole(2).await;
        let rows = async |result: &str| rig.metric("call_legs_rows_total", &format!("result=\"{result}\"")).await;
        assert!(rows("duplicate").await > 50.0, "{step}: legs are read again");
        assert_eq!(rows("revised").await, 0.0, "{step}");
        assert!(daemon.terminate().0.success());
        let now = identities(kafka().bootstrap(), &rig.topic).await;
        assert!(legs.keys().all(|leg| now[leg] == 1), "{step}: nothing is published twice");
        let audited = rig.run(&["audit", "--from", "now-2h", "--to", "now-1m"]);
        let audited = String::from_utf8_lossy(&audited.stdout).into_owned();
        assert!(audited.contains("another [privacy] or key"), "{step}: {audited}");
        let verdict = audited.lines().last().unwrap();
        if step == "other rules" {
            assert!(verdict.starts_with("Equal: all"), "{audited}");
        } else {
            // The rows that were buried under the old key are not recognised by the new one.
            let differences = verdict.strip_prefix("NOT EQUAL: ").and_then(|verdict| verdict.split(';').next());
            assert!(differences.is_some_and(|said| said.ends_with(" unburied") && !said.contains(',')), "{audited}");
        }
        let replayed = said(&rig, &["dead-letters", "replay"]);
        assert!(count(&replayed, "treated under another [privacy]") > 5, "{step}: {replayed}");
        if step == "other rules" {
            assert_eq!(letters(&rig), buried, "no dead row is buried again under the same key");
            std::fs::write(&key_file, "another key that nobody knows\n").unwrap();
        }
    }
    assert_nothing_is_told(&rig);
    let verified = said(&rig, &["state", "verify"]);
    assert!(verified.contains("the view equals the journal"), "{verified}");

    // Without its key nothing is compared.
    std::fs::remove_file(&key_file).unwrap();
    let refused = rig.run(&["audit", "--from", "now-2h", "--to", "now-1m"]);
    let refusal = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{refusal}");
    assert!(refusal.contains("privacy.key_file") && refusal.contains("cannot be read"), "{refusal}");
}
