//! The whole connector, measured: the daemon as a child process, a real Apache Kafka, an API that costs nothing to ask.
//!
//! ```text
//!   cargo bench --bench whole                                     everything, some eight minutes
//!   cargo bench --bench whole -- pipeline --legs 500000 --rounds 1
//!   cargo bench --bench whole -- latency
//!   cargo bench --bench whole -- growth --largest 1000000        without the 10 million identities
//!   cargo bench --bench whole -- freshness                        only when it is named: twelve minutes
//! ```
//!
//! `CALL_LEGS_BENCH_BINARY` names another binary to measure. Figures of one run can be compared with one another;
//! those of two runs, or of two machines, hardly.

#![allow(clippy::excessive_nesting, reason = "a measurement is one story, told from its beginning")]
#![allow(clippy::print_stdout, clippy::expect_used, reason = "a program for a terminal; what cannot be set up ends it")]
#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "figures")]

mod connector;
mod growth;
mod latency;
mod limit;
mod pipeline;
mod report;
#[path = "../../tests/support/mod.rs"]
mod support;
mod tape;

use std::sync::Arc;
use std::time::Duration;

use call_legs::clock::{Clock, SystemClock};
use tokio::runtime::Runtime;

use tape::Tape;

/// Half an hour at 28 legs a second: what a large company's polls read again each time.
const OVERLAP_LEGS: u64 = 50_000;

/// What the command line asks for.
struct Wanted {
    parts: Vec<String>,
    legs: u64,
    rounds: usize,
    largest: u64,
}

impl Wanted {
    fn read() -> Self {
        // Cargo adds an argument of its own.
        let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
        let number = |name: &str, default: u64| {
            let value = arguments.iter().skip_while(|argument| *argument != name).nth(1);
            value.map_or(default, |value| value.parse().expect("a whole number"))
        };
        let known = |argument: &&String| {
            ["pipeline", "duplicates", "latency", "growth", "freshness"].contains(&argument.as_str())
        };
        Self {
            parts: arguments.iter().filter(known).cloned().collect(),
            legs: number("--legs", 1_000_000),
            rounds: usize::try_from(number("--rounds", 3)).expect("few rounds"),
            largest: number("--largest", 10_000_000),
        }
    }

    fn includes(&self, part: &str) -> bool {
        self.parts.is_empty() || self.parts.iter().any(|known| known == part)
    }
}

fn main() {
    let wanted = Wanted::read();
    let runtime = Runtime::new().expect("a runtime");
    let bootstrap = support::kafka::kafka().bootstrap().to_owned();
    let now = SystemClock.now();
    println!("Measured: {}", connector::binary().display());
    report::heading();
    if wanted.includes("pipeline") {
        let tape = Arc::new(Tape::render(wanted.legs, pipeline::SPAN, now, 1));
        let (mut exactly, mut at_least, mut limits) = (Vec::new(), Vec::new(), Vec::new());
        runtime.block_on(async {
            for round in 0..wanted.rounds {
                let (run, topic) = pipeline::run(&bootstrap, &tape, "exactly-once", round).await;
                exactly.push(run);
                at_least.push(pipeline::run(&bootstrap, &tape, "at-least-once", round).await.0);
                let records = limit::read(&bootstrap, &topic);
                assert_eq!(records.len(), tape.len(), "every leg is in the topic");
                limits.push(pipeline::limit(&bootstrap, &tape, Arc::new(records), now).await);
            }
        });
        report::pipeline(&exactly, &at_least, &limits);
    }
    if wanted.includes("duplicates") {
        let tape = Arc::new(Tape::render(OVERLAP_LEGS, pipeline::SPAN, now, 4));
        let rates: Vec<f64> =
            (0..wanted.rounds).map(|_| runtime.block_on(pipeline::duplicates(&bootstrap, &tape))).collect();
        report::duplicates(tape.len(), &rates);
    }
    if wanted.includes("latency") {
        report::latency(&runtime.block_on(latency::measure(&bootstrap, now)));
    }
    if wanted.parts.iter().any(|part| part == "freshness") {
        for (interval, minutes) in [("auto", 3), ("2m", 8)] {
            let span = Duration::from_secs(minutes * 60);
            report::freshness(&runtime.block_on(latency::freshness(&bootstrap, interval, span)));
        }
    }
    if wanted.includes("growth") {
        let sizes = [1_000_000, 10_000_000].into_iter().filter(|size| *size <= wanted.largest);
        let measured: Vec<_> = sizes.map(|size| runtime.block_on(growth::measure(&bootstrap, size, now))).collect();
        report::growth(&measured);
    }
}
