//! Nothing lost, nothing repeated: a faulty API, Kafka and the API away, kills and restarts.

use std::time::Duration;

use call_legs::sandbox::dataset::DatasetSettings;
use call_legs::sandbox::{Sandbox, Settings};

use super::rig::{Rig, assert_complete, identities, read_committed, sandbox_settings};
use super::support::kafka::{Kafka, kafka};
use super::support::read_topic::{Framing, Isolation, read_topic_with_java};

const DAY: Duration = Duration::from_secs(86_400);

/// 30 % of the requests go wrong in every way that requests do.
const FAULTS: &str = "429=4%,500=4%,503=4%,reset=4%,cut=4%,html=4%,empty=2%,expired=4%";

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_thousand_legs_come_through_a_faulty_api_once_each() {
    let settings = Settings { faults: FAULTS.parse().unwrap(), ..sandbox_settings(200_000, DAY) };
    let rig = Rig::new(Sandbox::start(settings).await.unwrap(), kafka().bootstrap(), &["source.page_size = 2000"]);
    let daemon = rig.start();
    rig.polled_whole(1).await;
    let expected = rig.true_identities();
    assert_eq!(expected.len(), 200_000);
    assert_complete(&identities(kafka().bootstrap(), &rig.topic).await, &expected, false);

    rig.polled_whole(1).await;
    let (status, _) = daemon.terminate();
    assert!(status.success());
    assert_complete(&identities(kafka().bootstrap(), &rig.topic).await, &expected, false);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minute_without_kafka_and_one_without_the_api_lose_nothing() {
    let mut settings = sandbox_settings(2_000, Duration::from_secs(1800));
    settings.dataset = DatasetSettings { rate: 20.0, late: Duration::from_secs(60), ..settings.dataset };
    let broker = Kafka::start_private();
    let rig = Rig::new(Sandbox::start(settings).await.unwrap(), broker.bootstrap(), &["poll.start_from = \"now-1h\""]);
    let _daemon = rig.start();
    rig.polled_whole(1).await;

    broker.stop();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let (status, reason) = rig.page("/readyz").await.unwrap();
    assert!(status == 503 && reason.contains("kafka"), "{status} {reason}");
    assert_eq!(rig.page("/healthz").await.unwrap().0, 200, "a Kafka that is away is no reason to restart us");
    broker.start();
    rig.polled_whole(1).await;

    rig.sandbox.faults().set_outage(true);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let (status, reason) = rig.page("/readyz").await.unwrap();
    assert!(status == 503 && reason.contains("source_unreachable"), "{status} {reason}");
    rig.sandbox.faults().set_outage(false);
    rig.polled_whole(1).await;

    let expected = rig.true_identities();
    // The poll under way has begun before, and none asks for the newest two seconds.
    rig.polled_whole(4).await;
    assert!(expected.len() > 4_000, "20 legs a second came while parts were away: {}", expected.len());
    let found = identities(broker.bootstrap(), &rig.topic).await;
    let missing = expected.iter().filter(|identity| !found.contains_key(*identity)).count();
    let repeated = found.values().filter(|count| **count > 1).count();
    assert_eq!((missing, repeated), (0, 0), "missing, repeated of {}", expected.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_restart_repeats_nothing_and_a_kill_loses_nothing() {
    let rig = Rig::new(
        Sandbox::start(sandbox_settings(20_000, DAY)).await.unwrap(),
        kafka().bootstrap(),
        &["source.page_size = 100"],
    );
    let daemon = rig.start();
    rig.until("some published legs", async || {
        rig.metric("call_legs_rows_total", "result=\"published\"").await >= 1_000.0
    })
    .await;
    let (status, took) = daemon.terminate();
    assert!(status.success(), "{status} after {took:?}");
    let halfway = identities(kafka().bootstrap(), &rig.topic).await;
    assert!(halfway.len() < 20_000, "it was stopped in the middle");
    assert!(halfway.values().all(|count| *count == 1));

    let daemon = rig.start();
    rig.until("some more", async || rig.metric("call_legs_rows_total", "result=\"published\"").await >= 1_000.0).await;
    assert!(
        identities(kafka().bootstrap(), &rig.topic).await.values().all(|count| *count == 1),
        "a clean restart repeats nothing"
    );
    daemon.kill();

    let _daemon = rig.start();
    rig.polled_whole(1).await;
    // At least once: what Kafka took right before the kill may be there twice.
    assert_complete(&identities(kafka().bootstrap(), &rig.topic).await, &rig.true_identities(), true);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_that_do_not_add_up_are_published_and_hold_the_watermarks() {
    let rig = Rig::new(
        Sandbox::start(sandbox_settings(3_000, Duration::from_secs(3600))).await.unwrap(),
        kafka().bootstrap(),
        &["poll.start_from = \"now-90m\"", "source.page_size = 20"],
    );
    for fault in ["short", "loop"] {
        rig.sandbox.faults().set_mix(format!("{fault}=100%").parse().unwrap());
        let daemon = rig.start();
        rig.until("state", async || {
            rig.page("/readyz").await.is_some_and(|(_, page)| page.matches("source_incomplete").count() == 3)
        })
        .await;
        // The second time all that a loop shows may have been published before.
        let published = rig.metric("call_legs_rows_total", "result=\"published\"").await;
        let duplicate = rig.metric("call_legs_rows_total", "result=\"duplicate\"").await;
        assert!(published > 0.0 || (fault == "loop" && duplicate > 0.0), "{fault}: what was read is published");
        assert_eq!(rig.whole_polls_of_all().await, 0.0, "{fault}: no window was whole");
        daemon.kill();
        std::fs::remove_dir_all(rig.state_dir().join("store")).unwrap();
    }
    rig.sandbox.faults().set_mix("0%".parse().unwrap());
    let _daemon = rig.start();
    rig.polled_whole(1).await;
    assert_complete(&identities(kafka().bootstrap(), &rig.topic).await, &rig.true_identities(), true);
}

/// The watermarks wait from the first poll on, and again later on, when there is something to sweep.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_contradict_the_time_zone_are_published_and_hold_the_watermarks() {
    let mut settings = sandbox_settings(900, Duration::from_secs(3600));
    settings.dataset = DatasetSettings { rate: 3.0, ..settings.dataset };
    let keys = [
        "source.time_zone = \"America/New_York\"",
        "poll.start_from = \"now-90m\"",
        "poll.max_window = \"30m\"",
        "sweeps = [{every = \"2s\", lookback = \"1h\"}]",
    ];
    let rig = Rig::new(Sandbox::start(settings).await.unwrap(), kafka().bootstrap(), &keys);
    let complete_to = async || rig.metric("call_legs_complete_to_timestamp_seconds", "acme-east").await;
    let held_polls = async || rig.metric("call_legs_polls_total", "result=\"time_zone\"").await;
    let contradicted = async || {
        let page = rig.page("/readyz").await.unwrap_or_default();
        page.0 == 503 && page.1.matches("source_time_zone").count() == 3
    };
    let swept = || rig.log().matches("lookback_s=3600").count();

    rig.sandbox.faults().set_mix("zone=100%".parse().unwrap());
    let daemon = rig.start();
    rig.until("state", contradicted).await;
    // Before the first leg there is no row, and so nothing that contradicts.
    let before = complete_to().await;
    let expected = rig.true_identities();
    let polls = held_polls().await;
    rig.until("some more polls of each unit", async || held_polls().await >= polls + 15.0).await;
    assert_eq!(complete_to().await, before, "the watermarks wait");
    assert_eq!(rig.whole_polls_of_all().await, 0.0);
    let found = identities(kafka().bootstrap(), &rig.topic).await;
    assert!(expected.len() >= 900 && expected.iter().all(|identity| found.contains_key(identity)), "the legs come");
    let (_, reasons) = rig.page("/readyz").await.unwrap();
    for text in [&reasons, &rig.log()] {
        let is_right = ["-0300", "-0400"].iter().any(|offset| {
            text.contains(&format!("disconnectedTime has the offset {offset} where America/New_York has -0"))
        });
        assert!(is_right && text.contains("set source.time_zone = \"UTC\""), "{reasons}");
    }
    let tailed = rig.run(&["tail", "--status", "--from-beginning", "--until-end"]);
    assert!(String::from_utf8_lossy(&tailed.stdout).contains("\"source_time_zone\""), "the feed says so");

    rig.sandbox.faults().set_mix("0%".parse().unwrap());
    rig.polled_whole(1).await;
    assert!(complete_to().await > before + 3_000.0, "mended, the watermarks move on");
    assert_eq!(rig.page("/readyz").await.unwrap().0, 200);
    let sweeps = swept();
    rig.until("sweeps", async || swept() >= sweeps + 3).await;

    rig.sandbox.faults().set_mix("zone=100%".parse().unwrap());
    rig.until("state", contradicted).await;
    let says =
        |unit: &String| rig.log().lines().any(|line| line.contains("sweep does not count") && line.contains(unit));
    rig.until("a sweep of each unit that does not count", async || rig.sandbox.api().pbxes().iter().all(says)).await;
    let before = swept();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(swept(), before, "none is done");

    rig.sandbox.faults().set_mix("0%".parse().unwrap());
    rig.polled_whole(2).await;
    rig.until("sweeps", async || swept() > before).await;
    let expected = rig.true_identities();
    rig.polled_whole(2).await;
    daemon.terminate();
    let found = identities(kafka().bootstrap(), &rig.topic).await;
    assert!(expected.iter().all(|identity| found.contains_key(identity)), "nothing is missing");
    assert!(found.values().all(|times| *times == 1), "each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_the_brokers_refuse_are_dead_letters_and_repeat_nothing() {
    let settings = [
        "kafka.topic_config.\"message.timestamp.before.max.ms\" = 3600000",
        "poll.start_from = \"now-4h\"",
        "poll.overlap = \"5h\"",
    ];
    let sandbox = Sandbox::start(sandbox_settings(300, Duration::from_secs(3 * 3600))).await.unwrap();
    let rig = Rig::new(sandbox, kafka().bootstrap(), &settings);
    let _daemon = rig.start();
    rig.polled_whole(3).await;
    let legs = identities(kafka().bootstrap(), &rig.topic).await;
    assert!((50..200).contains(&legs.len()), "about a third is young enough: {}", legs.len());
    assert!(legs.values().all(|count| *count == 1), "their neighbours are there once");
    let dead = read_topic_with_java(
        kafka().bootstrap(),
        &format!("{}.dead-letter", rig.topic),
        Framing::Raw,
        Isolation::ReadCommitted,
    );
    assert_eq!(legs.len() + dead.len(), 300, "each row is in exactly one of the topics");
    assert!(dead.iter().all(|message| message["headers"]["call-legs-error-code"]["text"] == "timestamp-refused"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_rubbish_is_held_back_until_it_is_allowed() {
    let faults = "garbage=60%".parse().unwrap();
    let settings = Settings { faults, ..sandbox_settings(3_000, Duration::from_secs(3600)) };
    let mut rig = Rig::new(Sandbox::start(settings).await.unwrap(), kafka().bootstrap(), &[]);
    let daemon = rig.start();
    rig.until("rows held back", async || rig.metric("call_legs_polls_total", "result=\"invalid\"").await >= 6.0).await;
    let (status, reason) = rig.page("/readyz").await.unwrap();
    assert!(status == 503 && reason.contains("source_invalid") && reason.contains("dead_letter.max_ratio"), "{reason}");
    let dead_letters = format!("{}.dead-letter", rig.topic);
    let buried = read_committed(kafka().bootstrap(), &dead_letters).len();
    assert!(buried < 60, "only those before there were too many, of each of three units: {buried}");
    let published = identities(kafka().bootstrap(), &rig.topic).await.len();
    assert!(published > 0, "legs are published all the same");
    let whole = rig.metric("call_legs_polls_total", "unit=\"acme-east\",result=\"ok\"").await;
    assert!(whole < 1.0, "and the watermarks wait");
    daemon.terminate();

    rig.set("dead_letter.max_ratio", "1");
    let _daemon = rig.start();
    rig.polled_whole(1).await;
    assert!(read_committed(kafka().bootstrap(), &dead_letters).len() > buried);
    let found = identities(kafka().bootstrap(), &rig.topic).await;
    // Some rubbish is a leg all the same.
    assert!(rig.true_identities().iter().all(|leg| found.contains_key(leg)) && found.values().all(|times| *times == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_shows_nothing_any_more_is_not_taken_for_quiet_phones() {
    let mut settings = sandbox_settings(600, Duration::from_secs(3600));
    settings.dataset = DatasetSettings { rate: 10.0, ..settings.dataset };
    let rig = Rig::new(Sandbox::start(settings).await.unwrap(), kafka().bootstrap(), &[]);
    let _daemon = rig.start();
    rig.polled_whole(2).await;
    rig.sandbox.faults().set_mix("blank=100%".parse().unwrap());
    rig.until("word of every unit", async || {
        rig.page("/readyz").await.is_some_and(|(_, page)| page.matches("source_empty").count() == 3)
    })
    .await;
    let (_, page) = rig.page("/readyz").await.unwrap();
    assert!(page.contains("the source shows no leg since"), "{page}");
    // What comes meanwhile is found without a sweep, since the watermarks have waited.
    tokio::time::sleep(Duration::from_secs(3)).await;
    rig.sandbox.faults().set_mix("0%".parse().unwrap());
    let expected = rig.true_identities();
    rig.polled_whole(4).await;
    assert_eq!(rig.page("/readyz").await.unwrap().0, 200);
    let found = identities(kafka().bootstrap(), &rig.topic).await;
    let missing = expected.iter().filter(|leg| !found.contains_key(*leg)).count();
    let repeated = found.values().filter(|times| **times > 1).count();
    assert_eq!((missing, repeated), (0, 0), "missing, repeated of {} legs", expected.len());
    assert_eq!(rig.metric("call_legs_found_late_total", "by=\"sweep\"").await, 0.0);
}
