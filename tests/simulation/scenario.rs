//! A run from its seed to its verdict.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use call_legs::codec::JournalCodec;
use call_legs::core::hours::{Agreement, Hour, HourCounts};
use call_legs::core::identity::{Fingerprint, KeyHash};
use call_legs::core::journal::{Page, Record, Trace};
use call_legs::hooks::{Mutant, with_mutant};
use call_legs::sink::Destination;

use crate::api::{Mood, Sort, TrueLeg};
use crate::broker::{Broker, Slot};
use crate::connector::{AvroCodec, program};
use crate::invariants::Checker;
use crate::seed::{Run, sleep};
use crate::world::{Plan, World};

/// What became of a run.
pub(crate) struct Outcome {
    /// What is wrong.
    pub(crate) wrong: Vec<String>,
    /// A hash of all that happened, and how much that was.
    pub(crate) trace: (u64, u64),
    /// The end of the trace.
    pub(crate) tail: String,
}

/// What happens in a run; gives what is wrong.
pub(crate) type Play =
    for<'a> fn(&'a mut World, &'a mut Checker<AvroCodec>) -> Pin<Box<dyn Future<Output = Vec<String>> + 'a>>;

/// Runs a seed on this thread; `change` may change its plan.
pub(crate) fn simulate(
    seed: u64,
    is_printing: bool,
    mutant: Option<Mutant>,
    play: Play,
    change: impl Fn(&mut Plan),
) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime");
    with_mutant(mutant, || {
        runtime.block_on(async {
            let run = Arc::new(Run::new(seed, is_printing));
            let mut plan = run.throw(Plan::draw);
            change(&mut plan);
            let mut world = World::new(Arc::clone(&run), plan, program());
            let mut checker = Checker::new(AvroCodec::new());
            let mut wrong = play(&mut world, &mut checker).await;
            wrong.truncate(5);
            wrong.iter().for_each(|what| run.note(format_args!("WRONG {what}")));
            Outcome { wrong, trace: run.trace_hash(), tail: run.tail() }
        })
    })
}

/// All kinds of trouble, then none: what must always hold, and what must hold in the end.
pub(crate) fn all_kinds<'a>(
    world: &'a mut World,
    checker: &'a mut Checker<AvroCodec>,
) -> Pin<Box<dyn Future<Output = Vec<String>> + 'a>> {
    Box::pin(play_all_kinds(world, checker))
}

/// One kind of trouble after the other: what the feed says meanwhile.
pub(crate) fn one_by_one<'a>(
    world: &'a mut World,
    checker: &'a mut Checker<AvroCodec>,
) -> Pin<Box<dyn Future<Output = Vec<String>> + 'a>> {
    Box::pin(play_one_by_one(world, checker))
}

/// Processes are told to stop while they wait: for the API, and for brokers that are away.
pub(crate) fn stopped_while_waiting<'a>(
    world: &'a mut World,
    checker: &'a mut Checker<AvroCodec>,
) -> Pin<Box<dyn Future<Output = Vec<String>> + 'a>> {
    Box::pin(play_stopped_while_waiting(world, checker))
}

/// Units catch up, at a first start and after a kill and some hours without any process: in which order their legs come.
pub(crate) fn caught_up<'a>(
    world: &'a mut World,
    checker: &'a mut Checker<AvroCodec>,
) -> Pin<Box<dyn Future<Output = Vec<String>> + 'a>> {
    Box::pin(play_caught_up(world, checker))
}

/// Legs vanish from the API and come back: what the hours say, and how often they are read for it.
pub(crate) fn some_vanish<'a>(
    world: &'a mut World,
    checker: &'a mut Checker<AvroCodec>,
) -> Pin<Box<dyn Future<Output = Vec<String>> + 'a>> {
    Box::pin(play_some_vanish(world, checker))
}

async fn start_all(world: &mut World) {
    for number in 0..world.processes.len() {
        world.start(number, None);
        let pause = world.run.throw(|dice| dice.millis(0, 20_000));
        sleep(pause).await;
    }
}

async fn play_one_by_one(world: &mut World, checker: &mut Checker<AvroCodec>) -> Vec<String> {
    let mut wrong = Vec::new();
    // No states at all: the feed must show that nobody writes it.
    let mut expect = |world: &World, when: &str, states: &[&str]| {
        let differs = checker.check_feed(world, states);
        if states.is_empty() && !differs.iter().any(|what| what.contains(" old")) {
            wrong.push(format!("{when}, and the feed looks fresh"));
        } else if !states.is_empty() {
            wrong.extend(differs.into_iter().map(|what| format!("{when}: {what}")));
        }
    };
    let well = ["ok", "catching_up"];
    // Longer than the longest pause between two polls.
    let soon = world.plan.interval + Duration::from_secs(360);
    world.run.heal(true);
    start_all(world).await;
    sleep(soon).await;
    expect(world, "at first", &well);
    for (mood, state) in
        [(Mood::Down, "source_unreachable"), (Mood::Refusing, "source_auth"), (Mood::Limiting, "source_rate_limited")]
    {
        world.api.set_mood(mood);
        sleep(soon).await;
        expect(world, "the API is not well", &[state]);
        for number in 0..world.processes.len() {
            world.kill(number).await;
        }
        sleep(world.plan.beat * 3 + Duration::from_secs(1)).await;
        expect(world, "nobody runs", &[]);
        start_all(world).await;
        sleep(soon).await;
        expect(world, "the API is still not well", &[state]);
        world.api.set_mood(Mood::Well);
        sleep(soon).await;
        expect(world, "the API is well again", &well);
    }
    world.api.set_ahead_ms(3_600_000);
    sleep(soon).await;
    expect(world, "the API's clock is wrong", &["clock_skew"]);
    world.api.set_ahead_ms(0);
    sleep(soon).await;
    expect(world, "the API's clock is right again", &well);
    world.kafka.set_up(false);
    sleep(world.plan.beat * 4).await;
    expect(world, "the brokers are away", &[]);
    world.kafka.set_up(true);
    sleep(soon).await;
    expect(world, "the brokers are back", &well);
    wrong
}

async fn play_stopped_while_waiting(world: &mut World, checker: &mut Checker<AvroCodec>) -> Vec<String> {
    let mut wrong = Vec::new();
    world.run.heal(true);
    let soon = world.plan.interval + Duration::from_secs(360);
    for is_kafka_away in [false, true] {
        start_all(world).await;
        sleep(soon).await;
        world.api.set_mood(if is_kafka_away { Mood::Well } else { Mood::Limiting });
        world.kafka.set_up(!is_kafka_away);
        sleep(soon).await;
        // A step that is under way ends first: a question to brokers that are away takes its time.
        let patience = Duration::from_secs(if is_kafka_away { 60 } else { 2 });
        for number in 0..world.processes.len() {
            if !world.stop(number, patience).await {
                wrong.push(format!("a process does not stop within {patience:?}, Kafka is away: {is_kafka_away}"));
            }
        }
        world.api.set_mood(Mood::Well);
        world.kafka.set_up(true);
    }
    start_all(world).await;
    sleep(soon).await;
    wrong.extend(checker.check(world));
    wrong.extend(checker.check_healed(world));
    wrong
}

async fn play_caught_up(world: &mut World, checker: &mut Checker<AvroCodec>) -> Vec<String> {
    let mut wrong = Vec::new();
    world.run.heal(true);
    for _ in 0..2 {
        let began = (world.kafka.broker().events(), world.run.now());
        world.start(0, None);
        sleep(Duration::from_secs(1_800)).await;
        wrong.extend(checker.check(world));
        wrong.extend(checker.check_healed(world));
        wrong.extend(checker.check_in_order(world, began));
        world.kill(0).await;
        sleep(Duration::from_secs(3 * 3600)).await;
    }
    wrong
}

/// An upgrade after which fingerprints are made otherwise: nothing is a revision by that, and later changes are noticed.
pub(crate) fn another_version<'a>(
    world: &'a mut World,
    checker: &'a mut Checker<AvroCodec>,
) -> Pin<Box<dyn Future<Output = Vec<String>> + 'a>> {
    Box::pin(play_another_version(world, checker))
}

async fn play_all_kinds(world: &mut World, checker: &mut Checker<AvroCodec>) -> Vec<String> {
    start_all(world).await;
    for step in 0..world.plan.steps {
        if step == world.plan.mended_after {
            world.mend();
        }
        world.step().await;
        world.reap_all();
        let wrong = checker.check(world);
        if !wrong.is_empty() {
            return wrong;
        }
    }
    world.heal();
    world.mend();
    let orders = world.orders;
    for _ in 0..5 {
        world.order().await;
    }
    // Long enough for the longest pause of a back-off, for what is late in the network, and for several polls.
    // A row without an end takes three polls until it is found, and each may lie in what was missed.
    let endless = world.api.legs().iter().filter(|leg| leg.is_endless).count();
    let looked_for = world.plan.interval * 3 * u32::try_from(endless).unwrap_or(u32::MAX);
    sleep(Duration::from_secs(if endless > 0 { 1_500 } else { 600 }) + looked_for).await;
    world.reap_all();
    let mut wrong = checker.check(world);
    if world.orders == orders {
        wrong.push("nobody carries out an order, without any trouble".to_owned());
    }
    wrong.extend(checker.check_healed(world));
    if !wrong.is_empty() {
        return wrong;
    }
    let buried = world.kafka.broker().events();
    match world.replay().await {
        Some(Ok(_)) => wrong.extend(checker.check_replayed(world, buried)),
        answer => wrong.push(format!("dead letters are not replayed, without any trouble: {answer:?}")),
    }
    // I11: without any store nothing changes.
    for number in 0..world.processes.len() {
        world.kill(number).await;
        world.processes[number].disk.delete(false);
        world.start(number, None);
    }
    sleep(Duration::from_secs(300)).await;
    wrong.extend(checker.check_read(world));
    for number in 0..world.processes.len() {
        if !world.stop(number, Duration::from_secs(60)).await {
            wrong.push("a process does not stop within a minute, without any trouble".to_owned());
        }
    }
    sleep(Duration::from_secs(5)).await;
    world.reap_all();
    wrong.extend(checker.check_all(world));
    wrong.extend(checker.check_feed(world, &["stopped"]));
    wrong
}

async fn play_some_vanish(world: &mut World, checker: &mut Checker<AvroCodec>) -> Vec<String> {
    let mut wrong = Vec::new();
    world.run.heal(true);
    start_all(world).await;
    let unit = world.plan.units[0].clone();
    let Some(sweep) = world.plan.sweeps.first().copied() else { return vec!["no sweep is planned".to_owned()] };
    // One that is under way ends, and a whole one follows.
    let soon = sweep.every * 2 + Duration::from_secs(300);
    sleep(soon).await;
    let compared: BTreeMap<Hour, HourCounts> =
        checker.hours(world, &unit).into_iter().filter(|(_, counts)| counts.compared.is_some()).collect();
    if compared.is_empty() {
        return vec!["no hour was swept".to_owned()];
    }
    wrong.extend(
        compared
            .iter()
            .filter(|(_, counts)| counts.agreement() != Agreement::Same)
            .map(|(hour, counts)| format!("{hour}: {counts:?}, and all is well")),
    );
    let of_hour = |leg: &&TrueLeg, hour: &Hour| leg.unit == unit && hour.window().contains(leg.disconnected);
    // An hour that is at rest: a row that turns up meanwhile would be another reason to read it again.
    let swept_since = world.run.now().minus(sweep.every * 3 / 2);
    let is_at_rest =
        |hour: &Hour| world.api.legs().iter().filter(|leg| of_hour(leg, hour)).all(|leg| leg.visible < swept_since);
    let Some((hour, before)) = compared.into_iter().rev().find(|(hour, _)| is_at_rest(hour)) else { return wrong };
    let hidden: BTreeSet<_> = world
        .api
        .legs()
        .iter()
        .filter(|leg| leg.sort == Sort::Leg && of_hour(leg, &hour))
        .take(2)
        .map(|leg| leg.key)
        .collect();
    let missing = hidden.len() as u64;
    world.api.hide(hidden);
    let reads = |world: &World| world.api.passes().iter().filter(|pass| pass.window == hour.window()).count();
    for (what, seen, agreement, reads_a_sweep) in [
        ("some have vanished", before.rows.published - missing, Agreement::Fewer, 2),
        ("some are still gone", before.rows.published - missing, Agreement::Fewer, 1),
        ("all are back", before.rows.published, Agreement::Same, 1),
    ] {
        if what == "all are back" {
            world.api.hide(BTreeSet::new());
        }
        // The next sweep begins after this, and none after the next is done before it is looked at.
        let reads_before = reads(world);
        let deadline = world.run.now().plus(sweep.every * 4);
        while reads(world) == reads_before {
            if deadline < world.run.now() {
                wrong.push(format!("{what}: {hour} is not read any more"));
                return wrong;
            }
            sleep(Duration::from_secs(1)).await;
        }
        sleep(sweep.every / 2).await;
        let counts = checker.hours(world, &unit).get(&hour).copied().unwrap_or_default();
        if counts.compared.is_none_or(|compared| compared.seen != seen) || counts.agreement() != agreement {
            wrong.push(format!("{what}: {counts:?} of {hour}, not {seen} seen and {agreement:?}"));
        }
        let read = reads(world) - reads_before;
        if read != reads_a_sweep {
            wrong.push(format!("{what}: {hour} was read {read} times, not {reads_a_sweep}"));
        }
    }
    wrong.extend(checker.check(world));
    wrong
}

/// Makes the journal's pages those of another version of the fingerprint.
fn age(broker: &mut Broker) {
    let codec = JournalCodec::new();
    let slots = broker.partitions.get_mut(&(Destination::Journal, 0)).into_iter().flat_map(|log| &mut log.slots);
    for slot in slots {
        let Slot::Record(stored) = slot else { continue };
        let message = &mut stored.message;
        if let Ok(Record::Page(page)) = codec.decode(&message.key, message.payload.as_deref()) {
            let page = Page { fingerprint_version: Fingerprint::VERSION - 1, ..page };
            message.payload = codec.encode(&Record::Page(page)).1.map(Into::into);
        }
    }
}

/// The legs of which the topic has a revision.
fn revised(broker: &Broker) -> BTreeSet<KeyHash> {
    let records = broker.of(Destination::Legs).flat_map(|(_, log)| (0..log.stable()).filter_map(|at| log.record(at)));
    let header = |stored: &crate::broker::Stored, name: &str| {
        stored.message.headers.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_vec())
    };
    records
        .filter(|stored| {
            let trace = header(stored, Trace::HEADER).and_then(|trace| Trace::from_bytes(&trace));
            trace.is_some_and(|trace| trace.seen.revision > 0)
        })
        .filter_map(|stored| Some(KeyHash(header(stored, KeyHash::HEADER)?.try_into().ok()?)))
        .collect()
}

async fn play_another_version(world: &mut World, checker: &mut Checker<AvroCodec>) -> Vec<String> {
    let mut wrong = Vec::new();
    world.run.heal(true);
    start_all(world).await;
    sleep(Duration::from_secs(1200)).await;
    world.stop(0, Duration::from_secs(60)).await;
    world.reap_all();
    let before = revised(&world.kafka.broker());
    age(&mut world.kafka.broker());
    // The view's layout names the version, so it is built anew.
    world.processes[0].disk.delete(false);
    let upgraded = world.run.now();
    world.start(0, None);
    sleep(world.plan.interval * 3 + Duration::from_secs(60)).await;
    let entries = world.processes[0].disk.files().entries;
    let (mut adopted, mut are_any) = (BTreeSet::new(), false);
    let read_again = upgraded.minus(world.plan.delays.overlap / 2);
    let is_read_again =
        |leg: &&TrueLeg| leg.sort == Sort::Leg && leg.visible < upgraded && read_again <= leg.disconnected;
    for leg in world.api.legs().iter().filter(is_read_again) {
        are_any = true;
        let Some(entry) = entries.get(&leg.key) else { continue };
        adopted.insert(leg.key);
        if entry.seen.fingerprint.is_none() {
            wrong.push(format!("its content is not known again: {leg:?}"));
        }
    }
    if are_any && adopted.is_empty() {
        wrong.push("no leg was read again".to_owned());
    }
    sleep(world.plan.delays.overlap).await;
    let after = revised(&world.kafka.broker());
    for leg in world.api.legs().iter().filter(|leg| leg.sort == Sort::Leg) {
        let is_revised = after.contains(&leg.key) && !before.contains(&leg.key);
        if is_revised && leg.revised.is_none_or(|revised| world.run.now() < revised) {
            wrong.push(format!("revised by the upgrade alone: {leg:?}"));
        }
    }
    wrong.extend(checker.check(world).into_iter().filter(|what| !what.ends_with("changed, and it is not published")));
    wrong
}
