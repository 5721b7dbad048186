//! The order in which legs come, as an event-time job sees it: Kafka Streams on the real broker.

use std::time::Duration;

use call_legs::sandbox::Sandbox;
use call_legs::sandbox::dataset::DatasetSettings;

use super::rig::{Rig, identities, sandbox_settings};
use super::support::kafka::kafka;
use super::support::late_records::late_records;

/// Catches up over a past of so many legs in all; gives how many of those of `units` come too late, and how many there are.
async fn late_of(dataset: DatasetSettings, units: &[&str]) -> (u64, usize) {
    let past = format!("poll.start_from = \"now-{}m\"", dataset.span.as_secs() / 60 + 10);
    let settings = call_legs::sandbox::Settings { dataset, ..sandbox_settings(1, Duration::from_secs(3600)) };
    let sandbox = Sandbox::start(settings).await.unwrap();
    let units_read = format!("source.pbx_ids = {units:?}");
    let rig = Rig::new(sandbox, kafka().bootstrap(), &[&past, &units_read, "kafka.partitions = 2"]);
    let _daemon = rig.start();
    for unit in units {
        let label = format!("unit=\"{unit}\",result=\"ok\"");
        rig.until(&format!("the end of the catch-up of {unit}"), async || {
            rig.metric("call_legs_polls_total", &label).await >= 1.0
        })
        .await;
    }
    let expected: Vec<_> = units.iter().flat_map(|unit| rig.true_identities_of(unit)).collect();
    let found = identities(kafka().bootstrap(), &rig.topic).await;
    assert!(expected.iter().all(|leg| found.contains_key(leg)), "of {} legs", expected.len());
    let within = rig.metric("call_legs_leg_behind_seconds_bucket", "le=\"0.0\"").await;
    let all = rig.metric("call_legs_leg_behind_seconds_count", "").await;
    assert!(all > 0.0 && (all - within).abs() < f64::EPSILON, "{within} of {all} are in order by our own measure");
    let (topic, legs) = (rig.topic.clone(), found.len());
    let late = tokio::task::spawn_blocking(move || late_records(kafka().bootstrap(), &topic, legs)).await.unwrap();
    (late, legs)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_leg_of_a_catch_up_is_late_for_an_event_time_job() {
    let span = Duration::from_secs(3 * 3600);
    let dataset = DatasetSettings { legs: 20_000, span, pbxes: vec!["acme".to_owned()], ..DatasetSettings::default() };
    assert_eq!(late_of(dataset, &["acme"]).await, (0, 20_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_leg_is_late_where_a_dense_unit_and_a_sparse_one_catch_up_together() {
    // The first of fifty has 99 times as many as the last.
    let pbxes: Vec<String> = (1..=50).map(|number| format!("pbx-{number}")).collect();
    let dataset =
        DatasetSettings { legs: 250_000, span: Duration::from_secs(12 * 3600), pbxes, ..DatasetSettings::default() };
    let (late, legs) = late_of(dataset, &["pbx-1", "pbx-50"]).await;
    assert!(late == 0 && legs > 5_000, "{late} of {legs}");
}
