//! The crash matrix: the process dies at every step of a transaction, and comes back in four ways.
//!
//! Whatever happens, a read_committed consumer finds no leg missing and none twice, and the view equals the journal.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use call_legs::sandbox::Sandbox;

use super::rig::{Rig, SMALL_WINDOWS, assert_complete, identities, sandbox_settings};
use super::support::kafka::{Kafka, kafka};
use super::watch::Watch;

/// Where it dies: before anything is published, and in the third transaction that holds legs.
const POINTS: [&str; 8] = [
    "initialised",
    "claimed",
    "begun:3",
    "leg-acknowledged:27",
    "legs-acknowledged:3",
    "progress-sent:3",
    "committing:3",
    "committed:3",
];

const LEGS: u64 = 90;

/// Transactions that nobody interrupts are open for less.
const EXPECTED_MIN: Duration = Duration::from_millis(300);

fn rig(sandbox: Sandbox, bootstrap: &str) -> Rig {
    Rig::new(sandbox, bootstrap, &SMALL_WINDOWS)
}

async fn sandbox() -> Sandbox {
    Sandbox::start(sandbox_settings(LEGS, Duration::from_secs(3600))).await.unwrap()
}

/// Runs the daemon to its death at `point`.
fn die(rig: &Rig, point: &str) {
    let status = rig.start_to_die_at(point).ended();
    assert_eq!(status.signal(), Some(9), "{point}: {status}; {}", rig.last_words());
}

/// Polls to the end and compares the topic with the API.
async fn assert_exactly_once(rig: &Rig, bootstrap: &str, case: &str) {
    rig.polled_whole(1).await;
    let verified = rig.run(&["state", "verify"]);
    let said = String::from_utf8_lossy(&verified.stdout).into_owned();
    assert!(
        said.contains("the view equals the journal"),
        "{case}: {said}{}",
        String::from_utf8_lossy(&verified.stderr)
    );
    eprintln!("{case}");
    assert_complete(&identities(bootstrap, &rig.topic).await, &rig.true_identities(), false);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_and_restarted() {
    for point in POINTS {
        let rig = rig(sandbox().await, kafka().bootstrap());
        die(&rig, point);
        let _daemon = rig.start();
        assert_exactly_once(&rig, kafka().bootstrap(), &format!("{point}, restarted")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_and_restarted_without_its_store() {
    for point in POINTS {
        let rig = rig(sandbox().await, kafka().bootstrap());
        die(&rig, point);
        std::fs::remove_dir_all(rig.state_dir().join("store")).unwrap();
        let _daemon = rig.start();
        assert_exactly_once(&rig, kafka().bootstrap(), &format!("{point}, restarted without the store")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_another_instance_stands_by() {
    for point in POINTS {
        let owner = rig(sandbox().await, kafka().bootstrap());
        let standby = owner.sibling();
        let _second;
        if ["initialised", "claimed"].contains(&point) {
            die(&owner, point);
            _second = standby.start();
        } else {
            // Nothing to publish until the other one stands by.
            owner.sandbox.faults().set_outage(true);
            let first = owner.start_to_die_at(point);
            owner.until("owner", async || owner.log().contains("this instance owns the journal")).await;
            _second = standby.start();
            standby.until("standby", async || standby.log().contains("standing by: another instance")).await;
            owner.sandbox.faults().set_outage(false);
            assert_eq!(first.ended().signal(), Some(9), "{point}");
        }
        assert_exactly_once(&standby, kafka().bootstrap(), &format!("{point}, taken over")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_the_broker_restarts() {
    let broker = Kafka::start_private();
    for point in POINTS {
        let rig = rig(sandbox().await, broker.bootstrap());
        die(&rig, point);
        broker.kill();
        broker.start();
        let _daemon = rig.start();
        assert_exactly_once(&rig, broker.bootstrap(), &format!("{point}, the broker restarted")).await;
    }
}

/// What a transaction has left open keeps read_committed consumers waiting: until the owner is back, or until
/// the brokers end it.
#[tokio::test(flavor = "multi_thread")]
async fn readers_wait_for_the_next_owner_or_for_the_brokers_whichever_comes_first() {
    for is_restarted in [true, false] {
        let rig = rig(sandbox().await, kafka().bootstrap());
        let watch = Watch::start(kafka().bootstrap(), &rig.topic, 3);
        die(&rig, "legs-acknowledged:3");
        let _daemon = is_restarted.then(|| rig.start());
        rig.until("an end of the wait", async || watch.stalls().iter().any(|stall| *stall > EXPECTED_MIN)).await;
        eprintln!("restarted: {is_restarted}: readers waited for {:?}", watch.stalls().last());
    }
}
