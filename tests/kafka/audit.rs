//! `audit`: that it finds a finished run equal, and every kind of damage that is done to it.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Output;
use std::time::Duration;

use call_legs::sandbox::api::TrueLeg;
use call_legs::sandbox::dataset::DatasetSettings;
use call_legs::sandbox::{Sandbox, Settings};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::message::{Message, OwnedMessage};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::util::Timeout;
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;

use super::rig::{Rig, identities, identity, read_committed, sandbox_settings};
use super::support::kafka::kafka;
use super::support::registry::registry;

const LEGS: u64 = 120;
const HOUR: Duration = Duration::from_secs(3600);
const PERSONAL: [&str; 8] =
    ["caller", "callerName", "callee", "calleeName", "callerId", "dnis", "sipCallId", "departments"];

async fn rig(settings: &[&str]) -> Rig {
    rig_of(sandbox_settings(LEGS, HOUR), settings).await
}

async fn rig_of(sandbox: Settings, settings: &[&str]) -> Rig {
    let rig = Rig::new(Sandbox::start(sandbox).await.unwrap(), kafka().bootstrap(), settings);
    // The newest leg, too, has to lie in the period that is audited.
    tokio::time::sleep(Duration::from_secs(5)).await;
    rig
}

/// A run over legs half of which change later and rows of which a tenth is rubbish, and then twenty minutes gone by: all
/// that was going to change has changed. Ours is the clock that counts, being the earlier one.
async fn after_changes() -> Rig {
    let settings = sandbox_settings(300, HOUR);
    let dataset = DatasetSettings { revised_share: 0.5, ..settings.dataset.clone() };
    let settings = Settings { dataset, faults: "garbage=10%".parse().unwrap(), ..settings };
    let rig = rig_of(settings, &["dead_letter.max_ratio = 1"]).await;
    run_once(&rig).await;
    rig.sandbox.set_now(rig.sandbox.now().plus(Duration::from_secs(1_200)));
    rig
}

fn shown(rig: &Rig) -> Vec<TrueLeg> {
    rig.sandbox.api().legs_visible(rig.sandbox.now(), chrono_tz::UTC).collect()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Compares the two hours before the last seconds, and expects this exit code; gives the JSON, and all that was printed.
fn audit(rig: &Rig, exit: i32) -> (Value, String) {
    let audited = rig.run(&["audit", "--from", "now-2h", "--to", "now-3s", "--json"]);
    assert_eq!(audited.status.code(), Some(exit), "{}", text(&audited));
    (serde_json::from_slice(&audited.stdout).unwrap(), text(&audited))
}

/// The counts that are not 0.
fn counts(report: &Value) -> BTreeMap<String, u64> {
    let total = report["total"].as_object().unwrap().iter();
    total.map(|(name, count)| (name.clone(), count.as_u64().unwrap())).filter(|(_, count)| *count > 0).collect()
}

fn expected(counts: &[(&str, u64)]) -> BTreeMap<String, u64> {
    counts.iter().filter(|(_, count)| *count > 0).map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

fn legs(rig: &Rig) -> Vec<OwnedMessage> {
    read_committed(kafka().bootstrap(), &rig.topic)
}

/// A connector that has read everything, and is gone.
async fn run_once(rig: &Rig) {
    let daemon = rig.start();
    rig.polled_whole(2).await;
    assert!(daemon.terminate().0.success());
}

/// Writes a copy of a record, headers and all, as some other program could.
async fn copy(record: &OwnedMessage, partition: i32) {
    let producer: FutureProducer = ClientConfig::new().set("bootstrap.servers", kafka().bootstrap()).create().unwrap();
    let copied = FutureRecord::to(record.topic())
        .partition(partition)
        .key(record.key().unwrap())
        .payload(record.payload().unwrap())
        .timestamp(record.timestamp().to_millis().unwrap())
        .headers(record.headers().unwrap().clone());
    producer.send(copied, Timeout::Never).await.unwrap();
}

/// Deletes a partition's records before an offset, as retention does.
async fn delete_before(topic: &str, partition: i32, end: Offset) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", kafka().bootstrap()).create().unwrap();
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset(topic, partition, end).unwrap();
    admin.delete_records(&offsets, &AdminOptions::new()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_equal_beside_the_live_daemon_and_after_it() {
    let rig = rig(&[]).await;
    let daemon = rig.start();
    rig.polled_whole(1).await;
    let (report, _) = audit(&rig, 0);
    assert_eq!(counts(&report), expected(&[("api", LEGS), ("topic", LEGS)]), "{report}");
    assert_eq!(report["equal"], true);

    assert!(daemon.terminate().0.success());
    let audited = rig.run(&["audit", "--from", "now-2h"]);
    let said = String::from_utf8_lossy(&audited.stdout).into_owned();
    assert!(audited.status.success(), "{}", text(&audited));
    let verdict = said.lines().last().unwrap();
    assert!(verdict.starts_with(&format!("Equal: all {LEGS} legs of [")), "{said}");
    assert!(said.starts_with("day "), "{said}");
    for told in [
        " records of Kafka and ",
        "Reads the API with at most 3000 requests a minute: half of source.requests_per_minute",
    ] {
        assert!(String::from_utf8_lossy(&audited.stderr).contains(told), "{}", text(&audited));
    }

    let east = rig.true_identities_of("acme-east").len() as u64;
    let one = rig.run(&["audit", "--from", "now-2h", "--to", "now-3s", "--unit", "acme-east", "--json"]);
    let one: Value = serde_json::from_slice(&one.stdout).unwrap();
    assert_eq!(counts(&one), expected(&[("api", east), ("topic", east)]), "the other units' legs are not extra");

    // Nobody became the owner for it.
    assert!(text(&rig.run(&["state", "show"])).contains("given up on purpose"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_there_twice_or_in_another_partition_is_found() {
    let rig = rig(&[]).await;
    run_once(&rig).await;
    let records = legs(&rig);
    copy(&records[5], records[5].partition()).await;
    let (report, _) = audit(&rig, 6);
    assert_eq!(counts(&report), expected(&[("api", LEGS), ("topic", LEGS), ("twice", 1)]));
    let difference = &report["differences"][0];
    assert_eq!(difference["kind"], "twice");
    assert_eq!(difference["callId"].as_str().unwrap().as_bytes(), records[5].key().unwrap());
    assert_eq!(difference["partition"], records[5].partition());
    assert!(difference["offset"].as_i64().unwrap() > records[5].offset(), "the later one");

    copy(&records[9], (records[9].partition() + 1) % 3).await;
    let (report, _) = audit(&rig, 6);
    assert_eq!(counts(&report), expected(&[("api", LEGS), ("topic", LEGS), ("twice", 2), ("disorder", 1)]));
    assert_eq!(report["differences"].as_array().unwrap().last().unwrap()["kind"], "scattered");
}

#[tokio::test(flavor = "multi_thread")]
async fn legs_that_the_topic_lacks_are_missing() {
    let rig = rig(&["poll.start_from = \"now-30m\""]).await;
    run_once(&rig).await;
    let truth: BTreeSet<_> = rig.true_identities().into_iter().collect();
    let published = identities(kafka().bootstrap(), &rig.topic).await;
    let never_read = truth.iter().filter(|identity| !published.contains_key(*identity)).count() as u64;
    assert!(0 < never_read && never_read < LEGS, "{never_read}");
    let (report, said) = audit(&rig, 6);
    let counted = [("api", LEGS), ("topic", LEGS - never_read), ("missing", never_read), ("neverRead", never_read)];
    assert_eq!(counts(&report), expected(&counted));
    assert!(said.contains("does not claim to have read"), "{said}");
    let listed = report["differences"].as_array().unwrap();
    assert_eq!(listed.len(), 20);
    let is_missing = |leg: &&TrueLeg| !published.contains_key(&identity(&leg.pbx_id, &leg.call_id, &leg.leg_id));
    let missing: BTreeSet<String> = shown(&rig).iter().filter(is_missing).map(|leg| leg.call_id.clone()).collect();
    assert!(listed.iter().all(|difference| missing.contains(difference["callId"].as_str().unwrap())));

    // What retention has deleted is missing, too, and what was read is told apart from it.
    let oldest = legs(&rig).into_iter().find(|record| record.partition() == 0).unwrap();
    delete_before(&rig.topic, 0, Offset::Offset(oldest.offset() + 1)).await;
    let (report, said) = audit(&rig, 6);
    let total = counts(&report);
    // Of what lies after the final watermark nothing is due.
    let lost = total["missing"] - never_read + total.get("notDue").copied().unwrap_or(0);
    assert_eq!((lost, total["neverRead"], total["topic"]), (1, never_read, LEGS - never_read - 1), "{total:?}");
    assert!(said.contains("the oldest records of partitions 0 are no longer kept"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn legs_that_were_revised_since_are_listed_and_no_difference() {
    let rig = after_changes().await;
    let (report, said) = audit(&rig, 0);
    let published = rig.run(&["tail", "--from-beginning", "--until-end"]);
    let published: BTreeMap<(String, String, String), Value> = String::from_utf8_lossy(&published.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .map(|record: Value| {
            let id = |name: &str| record[name].as_str().unwrap().to_owned();
            ((id("pbxId"), id("callId"), id("legId")), record)
        })
        .collect();
    let is_revised = |leg: &TrueLeg| {
        let id = (leg.pbx_id.clone(), leg.call_id.clone(), leg.leg_id.clone());
        let Some(record) = published.get(&id) else { return false };
        let row: Value = serde_json::from_str(&leg.current().json).unwrap();
        // Of rows that are no more usable nothing can be said.
        row["callId"].is_string()
            && row.as_object().unwrap().iter().any(|(name, value)| {
                let is_number_taken_as_text = name == "legId" && value.is_number();
                let is_never_connected = name == "connectTimeUTC" && *value == 0;
                let is_unknown = record.get(name).is_none();
                !is_number_taken_as_text && !is_never_connected && !is_unknown && record[name] != *value
            })
    };
    let revised = shown(&rig).iter().filter(|leg| is_revised(leg)).count() as u64;
    assert!(revised > 0, "half of the legs change");
    assert_eq!(counts(&report).get("revised"), Some(&revised), "{said}");
    let listed = report["revised"].as_array().unwrap();
    assert_eq!(listed.len() as u64, revised.min(20));
    assert!(listed.iter().all(|leg| !leg["fields"].as_array().unwrap().is_empty()), "{said}");
    assert_eq!(report["differences"], Value::Array(vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn rubbish_is_looked_for_among_the_dead_letters() {
    let rig = after_changes().await;
    let is_no_leg = |json: &String| {
        let row: Value = serde_json::from_str(json).unwrap();
        !row["callId"].is_string() || !row["disconnectedTimeUTC"].is_number()
    };
    let rows: BTreeSet<String> = shown(&rig).iter().map(|leg| leg.current().json.clone()).filter(is_no_leg).collect();
    assert!(rows.len() > 1);
    let (report, said) = audit(&rig, 0);
    assert_eq!(counts(&report).get("dead"), Some(&(rows.len() as u64)), "each distinct row: {said}");

    delete_before(&format!("{}.dead-letter", rig.topic), 0, Offset::End).await;
    let (report, said) = audit(&rig, 6);
    let total = counts(&report);
    assert!(total["unburied"] > 0 && !total.contains_key("dead"), "{total:?}");
    assert!(said.contains(".dead-letter: the oldest records of partitions "), "{said}");
    assert_eq!(report["differences"][0]["kind"], "unburied");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_told_nothing_personal_is() {
    let rig = after_changes().await;
    let records = legs(&rig);
    // Not one of partition 1, whose oldest records are deleted next: a single copy would be left.
    let in_first = records.iter().find(|record| record.partition() == 0).unwrap();
    copy(in_first, 2).await;
    let in_second = records.iter().find(|record| record.partition() == 1).unwrap();
    delete_before(&rig.topic, 1, Offset::Offset(in_second.offset() + 9)).await;
    delete_before(&format!("{}.dead-letter", rig.topic), 0, Offset::End).await;
    let (report, json) = audit(&rig, 6);
    for count in ["missing", "revised", "twice", "disorder", "unburied"] {
        assert!(counts(&report).contains_key(count), "{count}: {report}");
    }
    let lines = text(&rig.run(&["audit", "--from", "now-2h", "--to", "now-3s"]));
    assert!(lines.contains("NOT EQUAL: "), "{lines}");

    let mut personal = BTreeSet::new();
    for row in shown(&rig).iter().flat_map(|leg| &leg.versions) {
        let row: Value = serde_json::from_str(&row.json).unwrap();
        for name in PERSONAL {
            match &row[name] {
                Value::String(value) => drop(personal.insert(value.clone())),
                Value::Array(values) => personal.extend(values.iter().filter_map(Value::as_str).map(str::to_owned)),
                _ => {}
            }
        }
    }
    // Shorter ones, such as extensions, are in any number.
    personal.retain(|value| value.chars().count() >= 5);
    assert!(personal.len() > 100, "{}", personal.len());
    for value in personal {
        assert!(!json.contains(&value) && !lines.contains(&value), "{value}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_generation_is_no_duplicate_and_records_may_be_framed_for_a_registry() {
    let registry_url = format!("avro.schema_registry_url = {:?}", registry().url());
    let rig = rig(&["avro.framing = \"confluent\"", &registry_url]).await;
    run_once(&rig).await;
    let rewound = rig.run(&["state", "rewind", "--unit", "acme-east", "--to", "now-2h", "--yes"]);
    assert!(rewound.status.success(), "{}", text(&rewound));
    let east = rig.true_identities_of("acme-east").len() as u64;
    // What was published before is still there; nothing of the unit is due.
    assert_eq!(counts(&audit(&rig, 0).0), expected(&[("api", LEGS), ("topic", LEGS)]));
    run_once(&rig).await;
    assert_eq!(legs(&rig).len() as u64, LEGS + east);
    assert_eq!(counts(&audit(&rig, 0).0), expected(&[("api", LEGS), ("topic", LEGS)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_allpbxes_has_published_counts_for_the_names_after_it() {
    let mut rig = rig(&["source.pbx_ids = [\"allpbxes\"]"]).await;
    let names = format!("{:?}", rig.sandbox.api().pbxes());
    let daemon = rig.start();
    rig.until("polls", async || rig.whole_polls_of_all().await >= 2.0).await;
    assert!(daemon.terminate().0.success());
    assert_eq!(counts(&audit(&rig, 0).0), expected(&[("api", LEGS), ("topic", LEGS)]));
    rig.set("source.pbx_ids", &names);
    run_once(&rig).await;
    let (report, _) = audit(&rig, 0);
    assert_eq!(counts(&report), expected(&[("api", LEGS), ("topic", LEGS)]));
    assert!(report["days"].as_array().unwrap().iter().any(|day| day["unit"] == "acme-east"), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_that_do_not_add_up_are_never_called_equal() {
    let rig = rig(&[]).await;
    run_once(&rig).await;
    rig.sandbox.faults().set_mix("short=100%".parse().unwrap());
    let (report, _) = audit(&rig, 6);
    assert!(report["unread"][0]["reason"].as_str().unwrap().contains("rows and delivered"), "{report}");
    let total = counts(&report);
    assert!(total["uncompared"] > 0 && !total.contains_key("extra"), "{total:?}");
    rig.sandbox.faults().set_mix("500=20%,cut=20%,429=10%".parse().unwrap());
    let (report, _) = audit(&rig, 0);
    assert_eq!(counts(&report), expected(&[("api", LEGS), ("topic", LEGS)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_compared_is_refused_with_its_exit_code() {
    let mut rig = rig(&[]).await;
    let refused = |rig: &Rig, arguments: &[&str], exit: i32, why: &str| {
        let output = rig.run(&[&["audit"], arguments].concat());
        let said = text(&output);
        assert_eq!(output.status.code(), Some(exit), "{arguments:?}: {said}");
        assert!(said.contains(why), "{arguments:?}: {said}");
    };
    let period = ["--from", "now-2h", "--to", "now-3s"];
    refused(&rig, &["--from", "now-2h", "--to", "now+1h"], 2, "give an instant");
    refused(&rig, &["--from", "now-2h", "--to", "now"], 2, "less poll.settle");
    refused(&rig, &["--from", "now-2h", "--to", "now-3h"], 2, "is empty");
    refused(&rig, &[&period[..], &["--unit", "nonesuch"]].concat(), 2, "is no entry of source.pbx_ids");
    refused(&rig, &period, 4, "does not exist");
    run_once(&rig).await;
    let cut = rig.run(&["audit", "--from", "2001-01-01T00:00:00Z", "--to", "now-729d"]);
    assert_eq!(cut.status.code(), Some(6), "{}", text(&cut));
    assert!(text(&cut).contains("no longer shows [2001-01-01T00:00:00Z"), "{}", text(&cut));
    rig.set("source.password", "\"wrong\"");
    refused(&rig, &period, 3, "source.password");
    rig.set("source.password", &format!("{:?}", rig.sandbox.api().credentials().password.clone()));
    rig.set("kafka.bootstrap_servers", "\"127.0.0.1:1\"");
    refused(&rig, &period, 4, "Kafka");
}
