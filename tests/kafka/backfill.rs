//! Past periods that an operator asks for: read once, whatever becomes of the owner meanwhile.

use std::time::Duration;

use call_legs::sandbox::Sandbox;
use call_legs::sandbox::dataset::DatasetSettings;

use super::rig::{Rig, assert_complete, identities, sandbox_settings};
use super::support::kafka::kafka;

const HOUR: Duration = Duration::from_secs(3600);

/// Legs of twenty hours, the last of which is read live.
async fn rig(legs: u64, settings: &[&str]) -> Rig {
    let settings = [&["poll.start_from = \"now-1h\"", "source.page_size = 500", "sweeps = []"], settings].concat();
    let sandbox = Sandbox::start(sandbox_settings(legs, HOUR * 20)).await.unwrap();
    Rig::new(sandbox, kafka().bootstrap(), &settings)
}

fn backfill(rig: &Rig, more: &[&str]) -> (i32, String) {
    let output = rig.run(&[&["backfill", "--from", "now-21h", "--to", "now"], more].concat());
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap(), said)
}

/// Whether all of it is read, as a dry run says.
fn is_read(rig: &Rig) -> bool {
    let (exit, said) = backfill(rig, &["--dry-run"]);
    exit == 2 && said.contains("has read all of") && !said.contains("still to read")
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_daemon_the_command_reads_it_itself() {
    let mut rig = rig(3_000, &[]).await;
    let daemon = rig.start();
    rig.polled_whole(1).await;
    daemon.terminate();
    rig.set("source.simplified", "true");
    let (exit, said) = backfill(&rig, &[]);
    assert!(exit == 5 && said.contains("state accept"), "other filters would count as read: {said}");
    rig.set("source.simplified", "false");
    let (exit, said) = backfill(&rig, &["--detach"]);
    assert!(exit == 5 && said.contains("no daemon"), "{said}");
    let (exit, said) = backfill(&rig, &[]);
    assert!(exit == 0 && said.contains("becoming the owner") && said.contains("is done: "), "{said}");
    assert!(is_read(&rig));
    let _daemon = rig.start();
    rig.polled_whole(1).await;
    assert_complete(&identities(kafka().bootstrap(), &rig.topic).await, &rig.true_identities(), false);
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_live_legs_it_is_followed_cancelled_and_refused_where_kafka_would_delete_it() {
    let mut settings = sandbox_settings(20_000, HOUR * 20);
    settings.dataset = DatasetSettings { rate: 2.0, ..settings.dataset };
    let keys = [
        "poll.start_from = \"now-1h\"",
        "source.page_size = 100",
        "poll.max_window = \"30m\"",
        "source.requests_per_minute = 600",
        "kafka.topic_config.\"retention.ms\" = 7200000",
    ];
    let rig = Rig::new(Sandbox::start(settings).await.unwrap(), kafka().bootstrap(), &keys);
    let _daemon = rig.start();
    rig.polled_whole(1).await;
    let (exit, said) = backfill(&rig, &[]);
    assert!(exit == 2 && said.contains("retention.ms of 2 h") && said.contains("--force"), "{said}");
    let (exit, said) = backfill(&rig, &["--force", "--detach"]);
    assert!(exit == 0, "{said}");
    let before = rig.whole_polls_of_all().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(rig.whole_polls_of_all().await > before, "polls go on meanwhile");
    assert!(!is_read(&rig), "it takes longer than that");
    let cancelled = rig.run(&["backfill", "--cancel"]);
    assert!(String::from_utf8_lossy(&cancelled.stdout).contains("3 backfills are cancelled"), "{cancelled:?}");
    let (exit, said) = backfill(&rig, &["--unit", "nonesuch", "--force"]);
    assert!(exit == 2 && said.contains("nonesuch is not read"), "{said}");
    let (exit, said) = backfill(&rig, &["--unit", "acme-labs", "--force"]);
    assert!(exit == 0 && said.contains("unit acme-labs: backfill of") && said.contains("is done: "), "{said}");
}
