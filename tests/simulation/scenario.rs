//! A run from its seed to its verdict.

use std::sync::Arc;
use std::time::Duration;

use call_legs::hooks::{Mutant, with_mutant};

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

/// Runs a seed on this thread; `change` may change its plan.
pub(crate) fn simulate(seed: u64, is_printing: bool, mutant: Option<Mutant>, change: impl Fn(&mut Plan)) -> Outcome {
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

async fn play(world: &mut World, checker: &mut Checker<AvroCodec>) -> Vec<String> {
    for number in 0..world.processes.len() {
        world.start(number, None);
        let pause = world.run.throw(|dice| dice.millis(0, 20_000));
        sleep(pause).await;
    }
    for _ in 0..world.plan.steps {
        world.step().await;
        world.reap_all();
        let wrong = checker.check(world);
        if !wrong.is_empty() {
            return wrong;
        }
    }
    world.heal();
    // Long enough for the longest pause of a back-off, for what is late in the network, and for several polls.
    sleep(Duration::from_secs(600)).await;
    world.reap_all();
    let mut wrong = checker.check(world);
    wrong.extend(checker.check_healed(world));
    if !wrong.is_empty() {
        return wrong;
    }
    // I11: without any store nothing changes.
    for number in 0..world.processes.len() {
        world.kill(number).await;
        world.processes[number].disk.delete(false);
        world.start(number, None);
    }
    sleep(Duration::from_secs(300)).await;
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
