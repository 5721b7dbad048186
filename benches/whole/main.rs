//! The whole connector, measured: the daemon as a child process, a real Apache Kafka, an API that costs nothing to ask.
//!
//! ```text
//!   cargo bench --bench whole -- [pipeline] [--legs N]
//! ```

#![allow(clippy::print_stdout, clippy::expect_used, reason = "a program for a terminal; what cannot be set up ends it")]

mod connector;
mod limit;
mod tape;

#[path = "../../tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use call_legs::clock::{Clock, SystemClock};

use connector::Rig;
use tape::{Server, Tape};

const SPAN: Duration = Duration::from_secs(3 * 3600);

fn argument(name: &str, default: u64) -> u64 {
    let mut arguments = std::env::args().skip_while(|argument| argument != name).skip(1);
    arguments.next().map_or(default, |value| value.parse().expect("a number"))
}

fn main() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let legs = argument("--legs", 500_000);
    let bootstrap = support::kafka::kafka().bootstrap().to_owned();
    let now = SystemClock.now();
    let started = Instant::now();
    let tape = Arc::new(Tape::render(legs, SPAN, now, 1));
    println!("{} legs, {} MB of JSON, rendered in {:.1?}", tape.len(), tape.json_bytes() >> 20, started.elapsed());
    runtime.block_on(async {
        for delivery in ["exactly-once", "at-least-once"] {
            pipeline(&bootstrap, &tape, delivery, now).await;
        }
    });
}

async fn pipeline(bootstrap: &str, tape: &Arc<Tape>, delivery: &str, now: call_legs::core::time::UtcMillis) {
    let server = Server::start(Arc::clone(tape)).await;
    let quoted = format!("{delivery:?}");
    let rig = Rig::new(
        delivery,
        &server.base_url(),
        bootstrap,
        &[("kafka.delivery", &quoted), ("poll.start_from", "\"now-4h\""), ("poll.overlap", "\"5h\"")],
    );
    let mut connector = rig.start();
    server.asked(1).await;
    let before = connector.used();
    let started = Instant::now();
    server.allow_poll();
    connector.reaches("call_legs_rows_total", "result=\"published\"", tape.len() as f64).await;
    let took = started.elapsed();
    server.asked(2).await;
    let after = connector.used();
    let n = tape.len() as f64;
    println!(
        "{delivery}: {:.0} legs/s, {:.0} legs/CPU-s, peak {} MiB",
        n / took.as_secs_f64(),
        n / (after.cpu - before.cpu).as_secs_f64(),
        after.rss_peak_bytes >> 20
    );
    let started = Instant::now();
    server.allow_poll();
    connector.reaches("call_legs_rows_total", "result=\"duplicate\"", n).await;
    let took = started.elapsed();
    server.asked(3).await;
    let last = connector.used();
    println!(
        "  duplicates only: {:.0} rows/s, {:.0} rows/CPU-s, peak {} MiB",
        n / took.as_secs_f64(),
        n / (last.cpu - after.cpu).as_secs_f64(),
        last.rss_peak_bytes >> 20
    );
    connector.terminate();
    if delivery == "exactly-once" {
        let records = limit::read(bootstrap, &rig.topic);
        assert_eq!(records.len(), tape.len(), "every leg is in the topic");
        // A topic of the same shape: that of a connector that never polls.
        let bare = Rig::new("bare", &server.base_url(), bootstrap, &[("poll.start_from", "\"now\"")]);
        let connector = bare.start();
        tokio::time::sleep(Duration::from_secs(5)).await;
        connector.terminate();
        let producing = tokio::task::spawn_blocking({
            let (bootstrap, topic) = (bootstrap.to_owned(), bare.topic.clone());
            move || limit::produce(&bootstrap, &topic, &records)
        });
        let took = producing.await.expect("the bare producer ends");
        println!("  bare producer: {:.0} legs/s", n / took.as_secs_f64());
        server.open();
        let text = |at: call_legs::core::time::UtcMillis| {
            at.to_datetime().expect("a date").format("%Y-%m-%d %H:%M:%S").to_string()
        };
        let (bytes, took) =
            limit::download(&server.base_url(), &text(now.minus(SPAN * 2)), &text(now.plus(SPAN))).await;
        println!("  bare download: {:.0} legs/s, {} MB", n / took.as_secs_f64(), bytes >> 20);
    }
}
