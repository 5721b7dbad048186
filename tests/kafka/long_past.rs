//! A long past is read while legs go on coming live and the owner is killed: in the end topic and API are equal.
//!
//! Small in every test run. `CALL_LEGS_BACKFILL_LEGS`, `CALL_LEGS_BACKFILL_DAYS` and `CALL_LEGS_BACKFILL_KILLS` make it
//! larger, `CALL_LEGS_BACKFILL_RPM` is the request budget; CONTRIBUTING.md has the full size. It prints what it measures: how
//! fresh live legs are without and with the backfill, how fast it was, and what it took. Nothing of that is asserted, but
//! that polls went on.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use call_legs::sandbox::Sandbox;
use call_legs::sandbox::dataset::DatasetSettings;
use chrono::{DateTime, SecondsFormat};

use super::arrivals::{Arrival, Arrivals, describe, now};
use super::rig::{Daemon, Identity, Rig, each_committed, identities, identity, sandbox_settings, variable};
use super::support::kafka::kafka;

const PARTITIONS: i32 = 3;
const INTERVAL_S: u64 = 2;
/// Live legs in a second.
const RATE: f64 = 10.0;
/// A poll every so many intervals while the daemon was up is what is asked for, as machines are slow at times.
const INTERVALS_A_POLL_MAX: u64 = 5;

/// When an owner was killed, and when all units of the next one had been polled.
#[derive(Clone, Copy)]
struct Outage {
    from: i64,
    to: i64,
}

/// Kills the owner, and has the next one poll all units.
async fn replace<'r>(rig: &'r Rig, daemon: Daemon<'r>) -> (Daemon<'r>, Outage) {
    let from = now();
    daemon.kill();
    let daemon = rig.start();
    rig.polled_since_start().await;
    (daemon, Outage { from, to: now() })
}

/// Says how fresh live legs were from when polls had caught up until the backfill was asked for, and from then until it
/// was done.
fn print_freshness(live: &[Arrival], (settled, asked, done): (i64, i64, i64), outages: &[Outage]) {
    let is_disturbed = |leg: &Arrival| outages.iter().any(|outage| leg.overlaps(outage.from, outage.to));
    let before = live.iter().filter(|leg| settled <= leg.disconnected && leg.received < asked);
    let beside: Vec<Arrival> =
        live.iter().filter(|leg| asked <= leg.disconnected && leg.received < done).copied().collect();
    eprintln!("live legs without the backfill: {}", describe(before.copied()));
    eprintln!("beside it, no kill on their way: {}", describe(beside.iter().filter(|leg| !is_disturbed(leg)).copied()));
    eprintln!("beside it, all: {}", describe(beside.iter().copied()));
    let outages: Vec<i64> = outages.iter().map(|outage| outage.to - outage.from).collect();
    eprintln!("from a kill to the next whole poll of each unit: {outages:?} ms");
}

fn instant(ms: i64) -> String {
    DateTime::from_timestamp_millis(ms).unwrap().to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn bytes_below(path: &Path) -> u64 {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(of) if of.is_dir() => bytes_below(&entry.path()),
            Ok(of) => of.len(),
            Err(_) => 0,
        })
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_beside_live_legs_goes_on_after_every_kill_and_reads_everything_once() {
    let legs = variable("CALL_LEGS_BACKFILL_LEGS").unwrap_or(20_000);
    let days = variable("CALL_LEGS_BACKFILL_DAYS").unwrap_or(1);
    let kills = variable("CALL_LEGS_BACKFILL_KILLS").unwrap_or(3);
    let budget = variable("CALL_LEGS_BACKFILL_RPM").unwrap_or(3_000);
    let span = Duration::from_hours(24 * days);
    let window_s = (span.as_secs() / 100).clamp(60, 31 * 86_400);
    let keys = [
        "poll.start_from = \"now-1h\"",
        "poll.overlap = \"5s\"",
        "source.page_size = 500",
        "sweeps = []",
        &format!("poll.interval = \"{INTERVAL_S}s\""),
        &format!("poll.max_window = \"{window_s}s\""),
        &format!("source.requests_per_minute = {budget}"),
        &format!("kafka.partitions = {PARTITIONS}"),
    ];
    let mut settings = sandbox_settings(legs, span);
    settings.dataset = DatasetSettings { rate: RATE, ..settings.dataset };
    let bootstrap = kafka().bootstrap();
    let origin = now();
    let rig = Rig::new(Sandbox::start(settings).await.unwrap(), bootstrap, &keys);
    let mut daemon = rig.start();
    rig.polled_since_start().await;
    let settled = now();
    let arrivals = Arrivals::start(bootstrap, &rig.topic, PARTITIONS, origin);
    // Legs enough to compare those with that come meanwhile.
    tokio::time::sleep(Duration::from_secs(3 + legs / 20_000)).await;

    let from = instant(origin - i64::try_from(span.as_millis()).unwrap() - 60_000);
    let period = ["backfill", "--from", &from, "--to", "now"];
    let asked_for = rig.run(&[&period[..], &["--detach"]].concat());
    assert!(asked_for.status.success(), "{asked_for:?}");
    let (asked, begun) = (now(), Instant::now());
    let (mut outages, mut memory_peaks_kib) = (Vec::new(), Vec::new());
    for kill in 1..=kills {
        rig.until("legs to kill the owner by", async || arrivals.past() >= legs * kill / (kills + 1)).await;
        memory_peaks_kib.push(daemon.memory_peak_kib());
        let (next, outage) = replace(&rig, daemon).await;
        daemon = next;
        outages.push(outage);
    }
    rig.until("the past's legs", async || arrivals.past() >= legs).await;
    // Its own last words are in the journal, too.
    rig.until("backfills of all units done", async || rig.log().matches("a backfill is done").count() >= 3).await;
    let (done, took) = (now(), begun.elapsed());
    let read = rig.run(&[&period[..], &["--dry-run"]].concat());
    assert!(String::from_utf8_lossy(&read.stderr).contains("has read all of"), "{read:?}");

    // Until what has ended by now is final.
    for unit in rig.sandbox.api().pbxes() {
        let label = format!("unit=\"{unit}\"");
        let final_to = async || rig.metric("call_legs_final_to_timestamp_seconds", &label).await;
        rig.until("the last legs to be final", async || final_to().await * 1_000.0 > done as f64).await;
    }
    memory_peaks_kib.push(daemon.memory_peak_kib());
    assert!(daemon.terminate().0.success());

    let state_bytes = bytes_below(&rig.state_dir());
    let (mut journal_records, mut journal_bytes) = (0, 0);
    each_committed(bootstrap, &format!("{}.journal", rig.topic), |record| {
        journal_records += 1;
        journal_bytes += record.payload_len() + record.key_len();
    });
    eprintln!(
        "{legs} legs of {days} days, {kills} kills: {took:.1?}, {:.0} legs/s; the owners took {memory_peaks_kib:?} KiB at most, their state \
         {state_bytes} bytes, the journal {journal_bytes} bytes in {journal_records} records",
        legs as f64 / took.as_secs_f64()
    );
    print_freshness(&arrivals.live(), (settled, asked, done), &outages);
    let outage_ms: i64 = outages.iter().map(|outage| outage.to - outage.from).sum();
    let up_s = u64::try_from(done - origin - outage_ms).unwrap() / 1_000;
    for unit in rig.sandbox.api().pbxes() {
        let line =
            |line: &&str| line.contains(" poll unit=") && line.contains(&format!("unit=\"{unit}\" result=\"ok\""));
        let polls = rig.log().lines().filter(line).count() as u64;
        eprintln!(
            "{unit}: {polls} whole polls in {up_s} s of owners that were not just starting, one in {INTERVAL_S} s planned"
        );
        assert!(
            polls > kills && polls >= up_s / (INTERVAL_S * INTERVALS_A_POLL_MAX),
            "{unit}: {polls} polls in {up_s} s"
        );
    }

    let began = Instant::now();
    let (audited, audit_kib) = rig.run_watched(&["audit", "--from", &from, "--to", &instant(done)]);
    let said = String::from_utf8_lossy(&audited.stdout).into_owned();
    eprintln!(
        "the audit took {:.1?} and {audit_kib} KiB: {}",
        began.elapsed(),
        said.lines().last().unwrap_or_default()
    );
    assert!(audited.status.success(), "{said}{}", String::from_utf8_lossy(&audited.stderr));
    assert!(said.contains("Equal: all "), "{said}");

    // Beside the audit, which is the connector's own: by the sandbox's truth, and by the identities that docs/consume.md tells.
    let visible = rig.sandbox.api().legs_visible(rig.sandbox.now(), chrono_tz::UTC);
    let due = visible.filter(|leg| leg.disconnect.as_millis() < done);
    let due: BTreeSet<Identity> = due.map(|leg| identity(&leg.pbx_id, &leg.call_id, &leg.leg_id)).collect();
    let found = identities(bootstrap, &rig.topic).await;
    let missing = due.iter().filter(|identity| !found.contains_key(*identity)).count();
    let repeated = found.values().filter(|count| **count > 1).count();
    assert_eq!((missing, repeated), (0, 0), "missing, repeated of {} legs", due.len());
    assert!(due.len() as u64 > legs);
}
