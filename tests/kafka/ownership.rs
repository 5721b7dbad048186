//! Who publishes, and from what: two instances, a paused owner, a state directory that is lost, damaged or old.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use call_legs::sandbox::Sandbox;
use call_legs::sandbox::dataset::DatasetSettings;

use super::rig::{Rig, identities, sandbox_settings};
use super::support::kafka::kafka;

const HOUR: Duration = Duration::from_secs(3600);

async fn rig(legs: u64, settings: &[&str]) -> Rig {
    Rig::new(Sandbox::start(sandbox_settings(legs, HOUR)).await.unwrap(), kafka().bootstrap(), settings)
}

/// Legs go on coming: those that are visible now are in the topic two polls later, and none is there twice.
async fn assert_each_once(rig: &Rig) {
    let expected = rig.true_identities();
    rig.polled_whole(2).await;
    let found = identities(kafka().bootstrap(), &rig.topic).await;
    let missing = expected.iter().filter(|identity| !found.contains_key(*identity)).count();
    let repeated = found.values().filter(|count| **count > 1).count();
    assert_eq!((missing, repeated), (0, 0), "missing, repeated of {} legs", expected.len());
}

/// New legs come at this rate, so that there is always something to publish.
async fn live_rig() -> Rig {
    let mut settings = sandbox_settings(200, HOUR);
    settings.dataset = DatasetSettings { rate: 20.0, ..settings.dataset };
    Rig::new(Sandbox::start(settings).await.unwrap(), kafka().bootstrap(), &["poll.start_from = \"now-2h\""])
}

#[tokio::test(flavor = "multi_thread")]
async fn one_publishes_and_the_other_stands_by_and_takes_over() {
    let first = live_rig().await;
    let second = first.sibling();
    let owner = first.start();
    first.polled_whole(1).await;
    let _standby = second.start();
    second
        .until("standby", async || second.page("/readyz").await.is_some_and(|(_, page)| page.contains("standing by")))
        .await;
    assert_eq!(second.page("/healthz").await.unwrap().0, 200, "a standby is healthy");
    // As kubelet asks: a rollout ends when both are ready. Who asks for the owner is told that it is not this one.
    for (instance, owner) in [(&first, 200), (&second, 503)] {
        assert_eq!(instance.page("/readyz").await.unwrap().0, 200);
        assert_eq!(instance.page("/readyz?owner").await.unwrap().0, owner);
    }
    assert_eq!(second.metric("call_legs_owner", "").await, 0.0);

    let killed = Instant::now();
    owner.kill();
    second.until("take-over", async || second.metric("call_legs_owner", "").await == 1.0).await;
    eprintln!("taken over {:?} after the owner's death, at a beat of one second", killed.elapsed());
    second.polled_whole(2).await;

    // A supervisor restarts the first: it stands by, and nobody is fenced.
    let restarted = first.start();
    first
        .until("standby", async || first.page("/readyz").await.is_some_and(|(_, page)| page.contains("standing by")))
        .await;
    second.polled_whole(3).await;
    assert!(!second.log().contains("has taken over"), "{}", second.last_words());
    let (status, _) = restarted.terminate();
    assert!(status.success());
    assert_each_once(&second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_owner_that_wakes_up_yields() {
    let first = live_rig().await;
    let second = first.sibling();
    let owner = first.start();
    first.polled_whole(1).await;
    let _standby = second.start();
    second.until("standby", async || second.log().contains("standing by")).await;
    owner.signal("STOP");
    second.until("take-over", async || second.metric("call_legs_owner", "").await == 1.0).await;
    second.polled_whole(1).await;
    owner.signal("CONT");
    first
        .until("yield", async || first.page("/readyz").await.is_some_and(|(_, page)| page.contains("standing by")))
        .await;
    second.polled_whole(3).await;
    assert_eq!(second.metric("call_legs_owner", "").await, 1.0);
    assert_eq!(
        (first.metric("call_legs_owner", "").await, first.metric("call_legs_fenced_total", "").await),
        (0.0, 1.0)
    );
    let (_, metrics) = first.page("/metrics").await.unwrap();
    for series in ["call_legs_unit_state{", "call_legs_complete_to_timestamp_seconds{"] {
        assert!(!metrics.contains(series), "what it was as an owner would look like a lag: {metrics}");
    }
    assert!(!second.log().contains("has taken over"), "the new owner is left alone: {}", second.last_words());
    assert_each_once(&second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_stopped_on_purpose_is_not_waited_for() {
    let first = rig(50, &["kafka.beat = \"10s\""]).await;
    let second = first.sibling();
    let owner = first.start();
    first.polled_whole(1).await;
    let (status, _) = owner.terminate();
    assert!(status.success());
    let _next = second.start();
    second.polled_whole(1).await;
    assert!(!second.log().contains("standing by"), "{}", second.last_words());
    assert_each_once(&second).await;
}

/// Every file below a directory.
fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(dir).unwrap().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_directory_may_be_lost_damaged_or_old() {
    let rig = live_rig().await;
    let daemon = rig.start();
    rig.polled_whole(1).await;
    daemon.kill();
    let old = tempfile::tempdir().unwrap();
    copy(&rig.state_dir().join("store"), old.path());

    let store = rig.state_dir().join("store");
    type Damage<'a> = (&'a str, Box<dyn Fn() + 'a>);
    let damages: Vec<Damage<'_>> = vec![
        ("deleted", Box::new(|| fs::remove_dir_all(rig.state_dir()).unwrap())),
        (
            "random bytes in every file",
            Box::new(|| files(&store).iter().for_each(|file| fs::write(file, [0x5a; 70_000]).unwrap())),
        ),
        (
            "half-written snapshots",
            Box::new(|| {
                for file in files(&store).iter().filter(|file| file.ends_with("db")) {
                    fs::write(file.with_file_name("snap.0000000000000FFF.generating"), [1; 100]).unwrap();
                }
            }),
        ),
        (
            "cut files",
            Box::new(|| {
                for file in files(&store) {
                    let length = fs::metadata(&file).unwrap().len();
                    let opened = fs::File::options().write(true).open(&file).unwrap();
                    opened.set_len(length.saturating_sub(300_000)).unwrap();
                }
            }),
        ),
        (
            "an older copy",
            Box::new(|| {
                fs::remove_dir_all(&store).unwrap();
                copy(old.path(), &store);
            }),
        ),
    ];
    for (what, damage) in damages {
        damage();
        if what == "random bytes in every file" {
            let verified = rig.run(&["state", "verify"]);
            let said = String::from_utf8_lossy(&verified.stderr);
            assert_eq!(verified.status.code(), Some(5), "{verified:?}");
            assert!(said.contains("is damaged") && said.lines().count() == 1, "{said}");
        }
        let daemon = rig.start();
        rig.polled_whole(2).await;
        eprintln!("{what}");
        assert_each_once(&rig).await;
        let verified = rig.run(&["state", "verify"]);
        assert!(
            String::from_utf8_lossy(&verified.stdout).contains("the view equals the journal"),
            "{what}: {verified:?}"
        );
        daemon.kill();
    }
    assert!(!rig.log().contains("panicked at") && !rig.log().contains("a defect"), "{}", rig.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_named_everywhere_and_kafka_nowhere() {
    let rig = live_rig().await;
    let daemon = rig.start_on_a_disk_that_may_fill();
    rig.polled_whole(1).await;

    daemon.limit_files(Some(1));
    rig.until("word of the disk", async || {
        let page = rig.page("/readyz").await;
        page.is_some_and(|(status, page)| status == 503 && page.contains("disk: ") && page.contains("File too large"))
    })
    .await;
    rig.until("warning of it", async || rig.log().contains(" WARN the disk of state.dir does not do its work")).await;
    for _ in 0..30 {
        let (_, readyz) = rig.page("/readyz").await.unwrap();
        assert!(!readyz.contains("kafka"), "{readyz}");
        assert_eq!(rig.metric("call_legs_kafka_waiting_seconds", "").await, 0.0);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(rig.metric("call_legs_disk_waiting_seconds", "").await > 2.0);
    let (_, status) = rig.page("/status.json").await.unwrap();
    assert!(status.contains("\"sentence\":\"The disk of state.dir has not done its work for "), "{status}");
    assert!(!rig.log().contains("Kafka does not acknowledge"), "{}", rig.log());

    daemon.limit_files(None);
    rig.polled_whole(2).await;
    rig.until("readiness", async || rig.page("/readyz").await.is_some_and(|(status, _)| status == 200)).await;
    assert_eq!(rig.metric("call_legs_disk_waiting_seconds", "").await, 0.0);
    assert_eq!(rig.log().matches("call-legs starts").count(), 1, "it is the same process");
    assert!(!rig.log().contains("panicked at") && !rig.log().contains("a defect"), "{}", rig.log());
    assert_each_once(&rig).await;
    assert!(daemon.terminate().0.success());
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target)
        } else {
            fs::copy(entry.path(), target).map(|_| ()).unwrap()
        }
    }
}
