//! Legs that turn up late: found by the overlap, found by a sweep, and measured.

use std::collections::BTreeMap;
use std::time::Duration;

use call_legs::sandbox::Sandbox;
use call_legs::sandbox::dataset::DatasetSettings;
use serde_json::Value;

use super::rig::{Rig, identities, identity, sandbox_settings};
use super::support::kafka::kafka;

/// The newest status of each unit.
pub(super) fn feed(rig: &Rig) -> BTreeMap<String, Value> {
    let tailed = rig.run(&["tail", "--status", "--from-beginning", "--until-end"]);
    let lines = String::from_utf8(tailed.stdout).unwrap();
    let statuses = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    statuses.map(|status| (status["unit"].as_str().unwrap().to_owned(), status)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn legs_later_than_the_overlap_are_found_by_sweeps_once_and_measured() {
    let mut settings = sandbox_settings(0, Duration::from_secs(3600));
    let late = Duration::from_secs(30);
    settings.dataset = DatasetSettings { rate: 6.0, late, late_share: 0.3, ..settings.dataset };
    let sandbox = Sandbox::start(settings).await.unwrap();
    let keys =
        ["poll.overlap = \"5s\"", "poll.start_from = \"now-1m\"", "sweeps = [{every = \"3s\", lookback = \"10m\"}]"];
    let rig = Rig::new(sandbox, kafka().bootstrap(), &keys);
    let daemon = rig.start();
    let found = async |by: &str| rig.metric("call_legs_found_late_total", &format!("by=\"{by}\"")).await;
    rig.until("legs found by sweeps", async || found("sweep").await >= 30.0 && found("overlap").await >= 10.0).await;

    // What is visible now is in the topic as soon as every unit was swept once more.
    let expected = rig.true_identities();
    let swept = || rig.log().matches("lookback_s=600").count();
    let before = swept();
    rig.until("two more sweeps of each unit", async || swept() >= before + 2 * 3).await;
    let in_topic = identities(kafka().bootstrap(), &rig.topic).await;
    assert!(expected.iter().all(|identity| in_topic.contains_key(identity)), "a leg that is visible is missing");
    assert!(in_topic.values().all(|times| *times == 1), "each once");
    daemon.terminate();

    let tailed = rig.run(&["tail", "--from-beginning", "--until-end"]);
    let lines = String::from_utf8(tailed.stdout).unwrap();
    let legs: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let by_sweep: Vec<&Value> = legs.iter().filter(|leg| leg["ingest"]["how"] == "sweep").collect();
    assert!(by_sweep.len() >= 30 && by_sweep.iter().all(|leg| leg["ingest"]["late"] == true));
    assert!(legs.iter().filter(|leg| leg["ingest"]["how"] != "sweep").all(|leg| leg["ingest"]["late"] == false));

    let mut counted = 0;
    for status in feed(&rig).into_values() {
        let lateness = &status["lateness"];
        counted += lateness["bySweep"].as_u64().unwrap();
        let recommended = lateness["recommendedOverlapMs"].as_u64().unwrap();
        // Up to half a minute late, seen by a sweep some seconds after, and a bucket is up to a fifth too wide.
        assert!((20_000..60_000).contains(&recommended), "{lateness}");
        assert!(lateness["closestToEdgeMs"].as_u64().unwrap() < 5_000, "{lateness}");
    }
    assert_eq!(counted, by_sweep.len() as u64, "the feed counts what the records say");
    let shown = String::from_utf8(rig.run(&["state", "show"]).stdout).unwrap();
    assert!(shown.contains("% of all, with a confidence of") && shown.contains("swept 10 min back"), "{shown}");
    assert!(rig.log().contains("near the edge of poll.overlap"), "warned before sweeps are needed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_is_never_whole_does_not_keep_older_ones_from_being_swept() {
    let span = Duration::from_secs(120);
    let mut settings = sandbox_settings(600, span);
    // Denser from the start on: there a minute has more than one page, and before it has not.
    settings.dataset =
        DatasetSettings { rate: 100.0, late: Duration::from_secs(45), late_share: 1.0, ..settings.dataset };
    let bootstrap = kafka().bootstrap();
    let sandbox = Sandbox::start(settings).await.unwrap();
    let origin = sandbox.now();
    let keys = [
        "poll.overlap = \"2s\"",
        "poll.max_window = \"1m\"",
        "poll.start_from = \"now-3m\"",
        "source.page_size = 330",
        "sweeps = [{every = \"2s\", lookback = \"1h\"}]",
    ];
    let rig = Rig::new(sandbox, bootstrap, &keys);
    let _daemon = rig.start();
    rig.polled_whole(1).await;
    // From now on no second page can be had.
    rig.sandbox.faults().set_mix("loop=100%".parse().unwrap());
    let older = || {
        let legs = rig.sandbox.api().legs_visible(rig.sandbox.now(), chrono_tz::UTC);
        let older = legs.filter(|leg| leg.disconnect < origin);
        older.map(|leg| identity(&leg.pbx_id, &leg.call_id, &leg.leg_id)).collect::<Vec<_>>()
    };
    rig.until("all legs to be visible", async || older().len() == 600).await;
    rig.until("older legs found by sweeps", async || {
        let found = identities(bootstrap, &rig.topic).await;
        older().iter().all(|identity| found.contains_key(identity))
    })
    .await;
    assert!(rig.log().contains("a window could not be swept whole"), "it is about sweeps that are never done");
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_hours_are_compared_with_the_api_and_the_journal_keeps_what_was_seen() {
    let sandbox = Sandbox::start(sandbox_settings(900, Duration::from_secs(3 * 3600))).await.unwrap();
    let keys =
        ["poll.overlap = \"5s\"", "poll.start_from = \"now-3h\"", "sweeps = [{every = \"2s\", lookback = \"4h\"}]"];
    let rig = Rig::new(sandbox, kafka().bootstrap(), &keys);
    let daemon = rig.start();
    let show = || String::from_utf8(rig.run(&["state", "show"]).stdout).unwrap();
    let same = "read as a whole by sweeps, each with as many legs as were published";
    rig.until("whole hours of each unit to be compared", async || show().matches(same).count() == 3).await;
    assert_eq!(rig.metric("call_legs_periods_differing", "").await, 0.0);
    daemon.terminate();

    let tailed = rig.run(&["tail", "--journal", "--from-beginning", "--until-end"]);
    let lines = String::from_utf8(tailed.stdout).unwrap();
    let records: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let seen = |record: &Value| {
        let hours = record["record"]["hours"].as_array().unwrap();
        assert!(hours.iter().all(|hour| hour["seen"] == hour["published"]), "{record}");
        hours.iter().map(|hour| hour["seen"].as_u64().unwrap()).sum::<u64>()
    };
    let seen: u64 = records.iter().filter(|record| record["record"]["record"] == "hours").map(seen).sum();
    assert!(seen > 0, "the journal has the hours with their legs");
}
