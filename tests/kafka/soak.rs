//! A randomised soak: kills every few seconds, a store that gets lost, a broker that restarts, a faulty API.
//!
//! `CALL_LEGS_SOAK_MINUTES` makes it longer than the half minute that every test run has. The seed is
//! printed, and `CALL_LEGS_SOAK_SEED` sets it; what the machine's scheduler adds is not repeated by it.

use std::time::{Duration, Instant};

use call_legs::sandbox::api::TrueLeg;
use call_legs::sandbox::dataset::DatasetSettings;
use call_legs::sandbox::{Sandbox, Settings};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::rig::{Daemon, Rig, identities, identity, sandbox_settings, variable};
use super::support::kafka::Kafka;
use super::watch::Watch;

const FAULTS: &str = "429=1%,500=2%,503=1%,reset=2%,cut=2%,html=1%,empty=1%,garbage=1%";

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_and_nothing_repeated_whatever_is_killed() {
    let length = variable("CALL_LEGS_SOAK_MINUTES").map_or(Duration::from_secs(30), |m| Duration::from_secs(60 * m));
    let seed = variable("CALL_LEGS_SOAK_SEED").unwrap_or_else(rand::random);
    eprintln!("CALL_LEGS_SOAK_SEED={seed}");
    let mut dice = StdRng::seed_from_u64(seed);

    let mut settings =
        Settings { faults: FAULTS.parse().unwrap(), ..sandbox_settings(5_000, Duration::from_secs(3600)) };
    settings.dataset = DatasetSettings { rate: 30.0, late: Duration::from_secs(120), ..settings.dataset };
    let broker = Kafka::start_private();
    // A leg turns up at most two minutes late, and its row is mended ten minutes after that, if it is rubbish first.
    let keys = ["poll.start_from = \"now-2h\"", "poll.overlap = \"15m\"", "source.page_size = 50"];
    let first = Rig::new(Sandbox::start(settings).await.unwrap(), broker.bootstrap(), &keys);
    let second = first.sibling();

    let watch = Watch::start(broker.bootstrap(), &first.topic, 3);
    let started = Instant::now();
    let (mut kills, mut stores, mut restarts) = (0, 0, 0);
    let rigs = [&first, &second];
    let mut daemons: [Option<Daemon<'_>>; 2] = [Some(first.start()), None];
    while started.elapsed() < length {
        tokio::time::sleep(Duration::from_millis(dice.random_range(500..6_000))).await;
        let which = usize::from(dice.random_bool(0.3));
        match daemons[which].take() {
            Some(daemon) => {
                daemon.kill();
                kills += 1;
                if dice.random_bool(0.3) {
                    // The store, or the whole directory, which holds the instance's number too.
                    let dir = rigs[which].state_dir();
                    let lost = if dice.random_bool(0.5) { dir.join("store") } else { dir };
                    if std::fs::remove_dir_all(lost).is_ok() {
                        stores += 1;
                    }
                }
                if which == 0 || dice.random_bool(0.5) {
                    daemons[which] = Some(rigs[which].start());
                }
            }
            None => daemons[which] = Some(rigs[which].start()),
        }
        if dice.random_bool(0.04) {
            if dice.random_bool(0.5) {
                broker.kill()
            } else {
                broker.stop()
            }
            tokio::time::sleep(Duration::from_millis(dice.random_range(0..3_000))).await;
            broker.start();
            restarts += 1;
        }
    }
    drop(daemons);
    first.sandbox.faults().set_mix("0%".parse().unwrap());
    let _last = first.start();
    // Every leg that is visible now is due, and one more poll has them all.
    first.polled_whole(1).await;
    let expected = first.true_identities();
    first.polled_whole(2).await;
    let found = identities(broker.bootstrap(), &first.topic).await;
    let lost = expected.iter().filter(|identity| !found.contains_key(*identity)).count();
    let repeated = found.values().filter(|count| **count > 1).count();
    eprintln!(
        "{} legs in {:?}: {kills} kills, {stores} lost stores, {restarts} restarts of the broker; lost {lost}, duplicate {repeated}",
        expected.len(),
        started.elapsed()
    );
    let stalls = watch.stalls();
    eprintln!(
        "readers stalled {} times that could be seen: median {:?}, longest {:?}",
        stalls.len(),
        stalls.get(stalls.len() / 2),
        stalls.last()
    );
    let legs = first.sandbox.api().legs_visible(first.sandbox.now(), chrono_tz::UTC);
    let is_lost = |leg: &TrueLeg| {
        let identity = identity(&leg.pbx_id, &leg.call_id, &leg.leg_id);
        expected.contains(&identity) && !found.contains_key(&identity)
    };
    for leg in legs.filter(is_lost) {
        let times: Vec<String> = leg.versions.iter().map(|version| format!("{version:?}")).collect();
        eprintln!(
            "lost: a leg of {}, disconnected {}, visible {}, {times:?}",
            leg.pbx_id, leg.disconnect, leg.visible_at
        );
    }
    assert_eq!((lost, repeated), (0, 0), "{}", if lost > 0 { first.log() + &second.log() } else { String::new() });
    let verified = first.run(&["state", "verify"]);
    assert!(String::from_utf8_lossy(&verified.stdout).contains("the view equals the journal"), "{verified:?}");
    // What ended before has been shown for long, however late it was.
    let audited = first.run(&["audit", "--from", "now-3h", "--to", "now-150s"]);
    let said = String::from_utf8_lossy(&audited.stdout).into_owned();
    eprintln!("{}", said.lines().last().unwrap_or_default());
    assert!(audited.status.success(), "{said}{}", String::from_utf8_lossy(&audited.stderr));
}
