//! Rows that are odd in one field each, among others that are not: what of them is published, how, and that none holds the rest.

use std::io::Write;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use call_legs::sandbox::{Sandbox, Settings};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::odd_http::{Answer, front};
use super::rig::{Rig, sandbox_settings};
use super::support::kafka::kafka;
use super::support::read_topic::{Framing, Isolation, read_topic_with_java};

const SCHEMA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/schemas/call-leg.avsc");

/// How many rows have nothing odd.
const PLAIN: usize = 20;

fn text(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%dT%H:%M:%S%.3f%z").to_string()
}

/// A row that ended at an instant, with some of its fields replaced.
fn row(call_id: &str, ended: DateTime<Utc>, odd: Value) -> Value {
    let began = ended - TimeDelta::seconds(24);
    let mut row = json!({
        "callId": call_id, "legId": "1",
        "startTimeUTC": began.timestamp_millis(), "startTime": text(began),
        "connectTimeUTC": 0, "connectTime": "0",
        "disconnectedTimeUTC": ended.timestamp_millis(), "disconnectedTime": text(ended),
        "talkTimeMS": 0, "status": "Completed", "pbxId": "acme", "callTime": 24_000,
    });
    odd.as_object().unwrap().iter().for_each(|(name, value)| row[name] = value.clone());
    row
}

/// A sandbox that shows these rows.
async fn showing(rows: &[Value]) -> (Sandbox, NamedTempFile) {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(json!({ "data": rows }).to_string().as_bytes()).unwrap();
    let settings = Settings { replay: Some(file.path().to_owned()), ..sandbox_settings(0, Duration::ZERO) };
    (Sandbox::start(settings).await.unwrap(), file)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_odd_row_is_published_as_it_is_to_be_and_holds_nothing() {
    let (recent, long_ago) = (Utc::now() - TimeDelta::seconds(90), Utc::now() - TimeDelta::minutes(40));
    let mut rows: Vec<Value> = (0..PLAIN).map(|number| row(&format!("1{number}"), long_ago, json!({}))).collect();
    let ms = long_ago.timestamp_millis();
    rows.extend([
        row("microseconds", long_ago, json!({ "startTimeUTC": 1_795_780_050_000_000_i64 })),
        row("huge", long_ago, json!({ "callTime": 9_007_199_254_740_993_i64 })),
        row("float", long_ago, json!({ "disconnectedTimeUTC": ms as f64, "talkTimeMS": 1_500.0 })),
        row("text", long_ago, json!({ "disconnectedTimeUTC": ms.to_string() })),
        row("never begun", long_ago, json!({ "startTimeUTC": 0 })),
        row("slip", long_ago, json!({ "disconnectedTime": text(long_ago + TimeDelta::seconds(2)) })),
        row("an hour", long_ago, json!({ "disconnectedTime": text(long_ago + TimeDelta::hours(1)) })),
        row("lasting", long_ago, json!({ "status": "in-progress" })),
        row("ringing", recent, json!({ "status": "Ringing" })),
        row("awaited", recent, json!({ "status": "In Progress" })),
    ]);
    let (sandbox, _file) = showing(&rows).await;
    let rig = Rig::new(sandbox, kafka().bootstrap(), &["poll.start_from = \"now-2h\"", "poll.max_window = \"6h\""]);
    let _daemon = rig.start();
    rig.polled_whole(2).await;

    let expected = rows.len() - 1;
    let schema = Path::new(SCHEMA);
    let framing = Framing::SingleObject { schemas: &[schema] };
    let messages = read_topic_with_java(kafka().bootstrap(), &rig.topic, framing, Isolation::ReadCommitted);
    assert_eq!(messages.len(), expected, "one is awaited");
    let value = |call_id: &str| {
        let found = messages.iter().find(|message| message["key"] == call_id);
        &found.unwrap_or_else(|| panic!("{call_id} is not there"))["value"]
    };
    for (call_id, field, kept) in
        [("microseconds", "startTimeUTC", "1795780050000000"), ("huge", "callTime", "9007199254740993")]
    {
        assert_eq!((&value(call_id)[field], &value(call_id)["extra"]), (&json!(null), &json!({ field: kept })));
    }
    for call_id in ["float", "text"] {
        assert_eq!((&value(call_id)["disconnectedTimeUTC"], &value(call_id)["extra"]), (&json!(ms), &json!({})));
    }
    assert_eq!(value("float")["talkTimeMS"], 1_500);
    assert_eq!((&value("never begun")["startTimeUTC"], &value("never begun")["extra"]), (&json!(null), &json!({})));
    assert_eq!(value("lasting")["status"], "in-progress");
    assert_eq!(rig.metric("call_legs_text_slips_total", "").await, 2.0);
    assert_eq!(rig.metric("call_legs_published_in_progress_total", "").await, 1.0);
    assert!(rig.metric("call_legs_rows_total", "result=\"unfinished\"").await >= 1.0);
    assert_eq!(rig.metric("call_legs_rows_total", "result=\"dead\"").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn accepting_ends_a_hold_and_says_what_was_held_and_where_the_watermark_has_moved() {
    let ended = Utc::now() - TimeDelta::minutes(40);
    let an_hour_off = json!({ "disconnectedTime": text(ended + TimeDelta::hours(1)) });
    let (sandbox, _file) = showing(&[row("1", ended, an_hour_off)]).await;
    let rig = Rig::new(sandbox, kafka().bootstrap(), &["poll.start_from = \"now-2h\"", "poll.max_window = \"6h\""]);
    let _daemon = rig.start();
    rig.until("state", async || rig.metric("call_legs_unit_state", "state=\"source_time_zone\"").await == 1.0).await;
    let accept = || String::from_utf8_lossy(&rig.run(&["state", "accept"]).stdout).into_owned();
    let said = accept();
    for part in ["accepted for acme", "was held", "completeTo has moved from "] {
        assert!(said.contains(part), "{part} in {said}");
    }
    rig.until("a poll that believes it", async || rig.whole_polls_of_all().await >= 1.0).await;
    let said = accept();
    for part in ["nothing was changed", "unit acme: nothing to accept, its state is ok"] {
        assert!(said.contains(part), "{part} in {said}");
    }
}

/// Adds a call that goes on for some seconds, with an end of three seconds ago that moves along until it is over.
fn with_a_call_that_goes_on(answer: &mut Answer) {
    static BEGAN: OnceLock<DateTime<Utc>> = OnceLock::new();
    if answer.is_token || answer.has_cursor {
        return;
    }
    let (began, now) = (*BEGAN.get_or_init(Utc::now), Utc::now());
    let is_over = now - began > TimeDelta::seconds(15);
    let ended = if is_over { began + TimeDelta::seconds(14) } else { now - TimeDelta::seconds(3) };
    let status = if is_over { "Completed" } else { "In Progress" };
    let mut page: Value = serde_json::from_str(&answer.body).unwrap();
    let rows = page["data"].as_array_mut().unwrap();
    rows.push(row("moving", ended, json!({ "status": status })));
    let total = rows.len();
    page["meta"]["totalRecordCount"] = json!(total);
    answer.body = page.to_string();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_end_moves_along_is_published_once_and_when_it_is_over() {
    let (sandbox, _file) = showing(&[row("1", Utc::now() - TimeDelta::minutes(10), json!({}))]).await;
    let base_url = format!("source.base_url = {:?}", front(&sandbox.base_url(), with_a_call_that_goes_on).await);
    let rig = Rig::new(sandbox, kafka().bootstrap(), &[&base_url, "poll.start_from = \"now-1h\""]);
    let _daemon = rig.start();
    let unfinished = "result=\"unfinished\"";
    rig.until("the call to go on", async || rig.metric("call_legs_rows_total", unfinished).await >= 2.0).await;
    rig.until("the call's end", async || rig.metric("call_legs_rows_total", "result=\"published\"").await >= 2.0).await;
    let polls = rig.whole_polls_of_all().await;
    rig.until("more polls", async || rig.whole_polls_of_all().await >= polls + 2.0).await;

    let schema = Path::new(SCHEMA);
    let framing = Framing::SingleObject { schemas: &[schema] };
    let messages = read_topic_with_java(kafka().bootstrap(), &rig.topic, framing, Isolation::ReadCommitted);
    let of_the_call: Vec<&Value> = messages.iter().filter(|message| message["key"] == "moving").collect();
    assert!(matches!(of_the_call[..], [one] if one["value"]["status"] == "Completed"), "{of_the_call:?}");
    assert_eq!(rig.metric("call_legs_rows_total", "result=\"revised\"").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn backfills_and_sweeps_judge_the_zone_as_polls_do() {
    let (few, many) = (Utc::now() - TimeDelta::hours(5), Utc::now() - TimeDelta::hours(9));
    let an_hour_off = |ended| json!({ "disconnectedTime": text(ended + TimeDelta::hours(1)) });
    let mut rows: Vec<Value> = (0..PLAIN).map(|number| row(&format!("1{number}"), few, json!({}))).collect();
    rows.extend([
        row("a slip", few, json!({ "disconnectedTime": text(few + TimeDelta::seconds(2)) })),
        row("one of many", few, an_hour_off(few)),
        row("one of two", many, an_hour_off(many)),
        row("two of two", many, json!({})),
    ]);
    let (sandbox, _file) = showing(&rows).await;
    let settings = ["poll.start_from = \"now-1h\"", "sweeps = [{every = \"3s\", lookback = \"1d\"}]"];
    let rig = Rig::new(sandbox, kafka().bootstrap(), &settings);
    let _daemon = rig.start();
    rig.polled_whole(1).await;

    let done = rig.run(&["backfill", "--from", "now-6h", "--to", "now-4h"]);
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(
        done.status.success() && said.contains("is done: 22 published"),
        "a tenth and less holds nothing: {done:?}"
    );
    let swept = || rig.log().lines().filter(|line| line.contains(" sweep unit=")).count();
    let before = swept();
    rig.until("sweeps of it", async || swept() > before + 1).await;

    let begun = rig.run(&["backfill", "--detach", "--from", "now-10h", "--to", "now-8h"]);
    assert!(begun.status.success(), "{begun:?}");
    rig.until("the contradiction", async || rig.log().contains("the rows contradict source.time_zone")).await;
    let again = rig.run(&["backfill", "--dry-run", "--from", "now-10h", "--to", "now-8h"]);
    assert!(String::from_utf8_lossy(&again.stdout).contains("still to read"), "it waits: {again:?}");
    let polls = rig.whole_polls_of_all().await;
    rig.until("polls beside it", async || rig.whole_polls_of_all().await > polls).await;
}
