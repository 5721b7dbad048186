//! The connector on virtual time, over models of everything around it; one seed decides all that happens.
//!
//! `CALL_LEGS_SEEDS=n` runs so many seeds, `CALL_LEGS_SEED=x` only this one, with its trace. A seed that fails is printed
//! with its plan, what is wrong, and the end of its trace.
//!
//! | module | holds |
//! |---|---|
//! | `seed` | dice, true time, trace |
//! | `life` | an incarnation of a process, which can be killed and paused wherever it calls a model |
//! | `broker`, `cluster` | Kafka: the brokers' side without time; the network, librdkafka's patience |
//! | `api`, `disk` | the call-legs API and its truth; state directories |
//! | `world` | the plan of a seed, the processes, the schedule |
//! | `invariants` | I1 … I14 of docs/design.md, read off the raw logs |
//! | `rule` | the dedupe rule by itself, with reads that the connector does not do yet |
//! | `models` | tests of the models themselves |
//!
//! # Failures simulated
//!
//! - A process is killed at any request or answer of brokers, API and disk, or at any instant; it is paused and wakes
//!   up later, not knowing; it is stopped on purpose; it is down for hours. Two processes may run at once.
//! - Requests to the brokers are lost, arrive up to 90 s late (also after their sender's end, and after it has sent them
//!   again), their answers are lost or slow. `EndTxn` and `InitProducerId` copies count again: a late commit ends a part
//!   of a later transaction (KAFKA-17754), a late init fences the owner. Transactions time out after 15 s. Markers come
//!   partition by partition. A commit that was repeated is reported as doubtful or as good, as the seed has it.
//! - All brokers are away for a while. Journal and status are compacted, tombstones lost.
//! - Brokers refuse records for their content.
//! - Clusters without transactions, and clusters that only pretend.
//! - The API is away, refuses, asks for patience, cuts answers, refuses cursors, leaves out totals and cursors. Legs appear
//!   late, up to far beyond the overlap, above the cursor of a pass under way, as calls under way first (with or without a
//!   disconnect time), also to queries that end before them, and are revised. Rows are rubbish, no JSON, or so broken that
//!   nobody finds their end. Whether bounds belong to the answer, what milliseconds count, and how totals are written,
//!   differs by seed.
//! - Operators ask for backfills, rewinds, replays, verification and a new view at any time, also of a process that cannot carry them out. Sweeps
//!   of all paces run beside the polls. At some time the brokers take what they had refused before.
//! - The store is deleted, the whole state directory is, an older store comes back, a store breaks.
//! - Clocks of processes and of the API jump.
//!
//! # Not failures here
//!
//! - Acknowledged records are not lost, and topics are neither recreated nor truncated by anyone.
//! - The rows' order and the cursor's meaning are as inferred; rows do not change their times.
//! - A disk keeps the order of its writes.
//! - A row without a time that lies in the second before a unit's first window is buried by that window, whose margin it
//!   is in, and again by a backfill of the time before, if that comes after the row was forgotten.
//! - Of the clocks of a process and of the API one is right: two that are wrong alike cannot be told from right ones.
//!
//! # Known leaks
//!
//! - A paused process stops where it calls a model, not in between; its timers go on.
//! - A killed process's tasks run on to their next call of a model, where they stay.
//! - The network keeps one client's requests to one partition in order, and has one at a time on its way.
//! - The high watermark is the log's end: there are no replicas.
//! - Nothing here draws random numbers but by the seed, except `tokio::select!` without `biased` and the iteration of
//!   hash maps, which the connector must not let matter.

#![allow(clippy::excessive_nesting, clippy::too_many_lines, reason = "a test is one story, told from its beginning")]
#![expect(clippy::unwrap_used, reason = "what cannot be fails the test, and where")]

mod api;
mod broker;
mod cluster;
mod connector;
mod disk;
mod invariants;
mod life;
mod models;
mod rule;
mod scenario;
mod seed;
mod world;

use std::time::Duration;

use call_legs::core::dedupe::Revisions;
use call_legs::core::journal::Delivery;
use call_legs::core::planner::Sweep;
use call_legs::hooks::Mutant;

use broker::Flavor;
use scenario::{
    Outcome, Play, all_kinds, another_version, caught_up, one_by_one, simulate, some_vanish, stopped_while_waiting,
};
use world::Plan;

/// How many seeds a plain `cargo test` runs.
const SEEDS: u64 = 100;

/// Within how many seeds each mutant is caught, with much to spare.
const MUTANT_SEEDS: u64 = 300;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

fn report(seed: u64, outcome: &Outcome) -> String {
    format!("seed {seed}:\n{}\nits trace ends:\n{}", outcome.wrong.join("\n"), outcome.tail)
}

/// Runs seeds on all cores, and gives the first one that fails.
fn first_failure(
    seeds: std::ops::Range<u64>,
    mutant: Option<Mutant>,
    play: Play,
    change: impl Fn(&mut Plan) + Sync,
) -> Option<(u64, Outcome)> {
    let next = std::sync::atomic::AtomicU64::new(seeds.start);
    let failed = std::sync::Mutex::new(std::collections::BTreeMap::new());
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    if seed >= seeds.end || !seed::lock(&failed).is_empty() {
                        return;
                    }
                    let outcome = simulate(seed, false, mutant, play, &change);
                    if !outcome.wrong.is_empty() {
                        seed::lock(&failed).insert(seed, outcome);
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap().pop_first()
}

fn holds(seeds: u64, play: Play, change: impl Fn(&mut Plan) + Sync) {
    if let Some(seed) = number("CALL_LEGS_SEED") {
        // What the connector logs, too; RUST_LOG says how much.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_test_writer().try_init();
        let outcome = simulate(seed, true, None, play, change);
        assert!(outcome.wrong.is_empty(), "{}", outcome.wrong.join("\n"));
        return;
    }
    if let Some((seed, outcome)) = first_failure(0..number("CALL_LEGS_SEEDS").unwrap_or(seeds), None, play, change) {
        panic!("{}", report(seed, &outcome));
    }
}

#[test]
fn exactly_once_holds() {
    holds(SEEDS, all_kinds, |_| {});
}

#[test]
fn a_seed_decides_everything() {
    for seed in 0..6 {
        let (first, second) =
            (simulate(seed, false, None, all_kinds, |_| {}), simulate(seed, false, None, all_kinds, |_| {}));
        assert_eq!(first.trace, second.trace, "seed {seed}");
    }
}

/// Quiet, blind and stopped can be told apart by whoever has the feed alone.
#[test]
fn the_feed_tells_what_is_wrong() {
    holds(SEEDS / 5, one_by_one, |plan| plan.endless = 0.0);
}

/// Whoever is told to stop does so at once, also in the middle of a long pause, and nothing is lost by it.
#[test]
fn a_process_that_waits_stops_when_it_is_told_to() {
    holds(SEEDS / 5, stopped_while_waiting, |plan| {
        plan.endless = 0.0;
        plan.has_clock_jumps = false;
    });
}

/// Rows without an end are found within a second, buried once, and keep nothing else back.
#[test]
fn rows_without_an_end_keep_no_others_back() {
    holds(SEEDS / 5, all_kinds, |plan| plan.endless = 0.02);
}

/// A window longer than what is remembered: a row without a time must not be forgotten before its window is.
#[test]
fn a_row_without_a_time_is_buried_once() {
    holds(SEEDS / 5, all_kinds, |plan| {
        plan.delays.horizon = plan.delays.overlap;
        plan.window_max = Duration::from_secs(4 * 3600);
    });
}

/// Dense and sparse units that catch up.
fn catching_up(plan: &mut Plan) {
    plan.units = (0..3).map(|number| format!("pbx{number}")).collect();
    plan.processes = 1;
    plan.endless = 0.0;
    plan.has_clock_jumps = false;
    plan.start_ago = Duration::from_secs(4 * 3600);
    plan.sparser = 10;
}

/// Units that catch up are published together, in the order of time, however many legs each of them has.
#[test]
fn units_that_catch_up_are_published_in_the_order_of_time() {
    holds(SEEDS / 5, caught_up, catching_up);
}

/// An hour with fewer legs than were published is read twice, said once, and forgotten when they are back.
#[test]
fn an_hour_that_differs_is_read_again_and_told() {
    holds(SEEDS / 10, some_vanish, |plan| {
        plan.units.truncate(1);
        plan.processes = 1;
        plan.endless = 0.0;
        plan.has_clock_jumps = false;
        plan.start_ago = Duration::from_secs(4 * 3600);
        plan.delays.horizon = Duration::from_secs(8 * 3600);
        plan.window_max = Duration::from_secs(3600);
        plan.sweeps = vec![Sweep { every: Duration::from_secs(900), lookback: Duration::from_secs(7 * 3600) }];
    });
}

/// Fingerprints of another version compare equal to any content, once: from the next read on changes are noticed again.
#[test]
fn another_version_of_the_fingerprint_revises_nothing() {
    holds(SEEDS / 10, another_version, |plan| {
        plan.processes = 1;
        plan.has_clock_jumps = false;
        plan.revisions = Revisions::Publish;
        // There are legs in what is read again.
        plan.delays.overlap = plan.delays.overlap.max(Duration::from_secs(600));
        plan.sparser = 1;
    });
}

/// A cluster without transactions, or one that only pretends to have them: the self-test finds out, and nothing is lost.
#[test]
fn at_least_once_loses_nothing() {
    holds(SEEDS / 2, all_kinds, |plan| {
        plan.delivery = Delivery::AtLeastOnce;
        plan.flavor = Flavor::NoTransactions;
    });
}

/// What makes doubtful commits frequent, and lets none of them be noticed by the client.
fn doubtful_weather(plan: &mut Plan) {
    plan.weather.answer_lost = 0.03;
    plan.weather.late = 0.05;
    plan.weather.doubt_noticed = 0.0;
}

/// Shows that a mutant of the design would not pass: some seed notices it. Gives what was noticed.
fn caught(mutant: Mutant, change: impl Fn(&mut Plan) + Sync) -> Vec<String> {
    caught_in(mutant, all_kinds, change)
}

/// The same in another play.
fn caught_in(mutant: Mutant, play: Play, change: impl Fn(&mut Plan) + Sync) -> Vec<String> {
    let seeds = number("CALL_LEGS_SEEDS").unwrap_or(MUTANT_SEEDS);
    match first_failure(0..seeds, Some(mutant), play, change) {
        Some((seed, outcome)) => {
            eprintln!("{mutant:?} is caught by seed {seed}: {}", outcome.wrong.join("; "));
            outcome.wrong
        }
        None => panic!("{mutant:?} was not caught by {seeds} seeds"),
    }
}

#[test]
fn the_design_holds_in_the_weather_that_catches_mutants() {
    holds(SEEDS / 2, all_kinds, doubtful_weather);
}

#[test]
fn mutant_read_back_without_adoption_and_without_re_init() {
    caught(Mutant::NoAdoption, doubtful_weather);
}

#[test]
fn mutant_journal_read_before_init() {
    caught(Mutant::ReadBeforeInit, doubtful_weather);
}

#[test]
fn mutant_view_applied_before_the_commit() {
    caught(Mutant::ApplyBeforeCommit, doubtful_weather);
}

#[test]
fn mutant_client_abort_after_an_unknown_commit() {
    caught(Mutant::AbortAfterUnknownCommit, doubtful_weather);
}

#[test]
fn mutant_progress_first() {
    caught(Mutant::ProgressFirst, doubtful_weather);
}

#[test]
fn mutant_page_before_its_legs() {
    caught(Mutant::PageBeforeLegs, doubtful_weather);
}

#[test]
fn mutant_as_it_comes() {
    caught_in(Mutant::AsItComes, caught_up, catching_up);
}

#[test]
fn mutant_catching_up_from_complete_to() {
    caught_in(Mutant::FromCompleteTo, caught_up, catching_up);
}

#[test]
fn mutant_unit_after_unit() {
    caught_in(Mutant::UnitAfterUnit, caught_up, catching_up);
}

#[test]
fn mutant_late_below_what_is_final_only() {
    caught(Mutant::LateBelowFinalOnly, |plan| plan.sparser = 10);
}

#[test]
fn mutant_first_read_is_final() {
    caught(Mutant::FirstReadIsFinal, |_| {});
}

#[test]
fn mutant_any_row_is_good() {
    caught(Mutant::AnyRowIsGood, |_| {});
}

#[test]
fn mutant_holds_pass() {
    caught(Mutant::HoldsPass, |_| {});
}

#[test]
fn mutant_at_the_window_s_edge() {
    caught(Mutant::AtTheWindowsEdge, |_| {});
}

#[test]
fn mutant_begun_when_published() {
    caught(Mutant::BegunWhenPublished, catching_up);
}

#[test]
fn mutant_expiry_by_the_wall_clock() {
    caught(Mutant::ExpiryByWallClock, |plan| plan.has_clock_jumps = true);
}
