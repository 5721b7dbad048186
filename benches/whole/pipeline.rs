//! The whole way of many legs, from the API's pages to committed records, beside what its parts can do alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use call_legs::core::time::UtcMillis;

use super::connector::Rig;
use super::limit::{self, Record};
use super::tape::{Server, Tape};

/// How far back the tape reaches.
pub(crate) const SPAN: Duration = Duration::from_secs(3 * 3600);

/// One run of the connector over a tape.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// New legs a second, and per second of the connector's CPU time.
    pub(crate) legs_s: f64,
    pub(crate) legs_cpu_s: f64,
    /// The same of rows that are all duplicates, more of them than are remembered by their bytes.
    pub(crate) duplicates_s: f64,
    pub(crate) duplicates_cpu_s: f64,
    pub(crate) rss_peak_bytes: u64,
}

/// The parts alone, in legs a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    pub(crate) produced_s: f64,
    pub(crate) downloaded_s: f64,
}

/// A run with a topic and a journal of its own, and the topic.
pub(crate) async fn run(bootstrap: &str, tape: &Arc<Tape>, delivery: &str, number: usize) -> (Run, String) {
    let server = Server::start(Arc::clone(tape)).await;
    let quoted = format!("{delivery:?}");
    let settings = [("kafka.delivery", quoted.as_str()), ("poll.start_from", "\"now-4h\""), ("poll.overlap", "\"5h\"")];
    let rig = Rig::new(&format!("{delivery}-{number}"), &server.base_url(), bootstrap, &settings);
    let mut connector = rig.start();
    let rows = tape.len() as f64;
    let mut rates = Vec::new();
    for (poll, result) in [(1, "result=\"published\""), (2, "result=\"duplicate\"")] {
        server.asked(poll).await;
        let before = connector.used().cpu;
        let started = Instant::now();
        server.allow_poll();
        connector.reaches("call_legs_rows_total", result, rows).await;
        let took = started.elapsed();
        // Until the next one begins, everything that belongs to this one is done.
        server.asked(poll + 1).await;
        rates.push((rows / took.as_secs_f64(), rows / (connector.used().cpu - before).as_secs_f64()));
    }
    let rss_peak_bytes = connector.used().rss_peak_bytes;
    connector.terminate();
    let [(legs_s, legs_cpu_s), (duplicates_s, duplicates_cpu_s)] = rates[..] else { panic!("two polls") };
    (Run { legs_s, legs_cpu_s, duplicates_s, duplicates_cpu_s, rss_peak_bytes }, rig.topic)
}

/// Polls of an overlap in which every row is known, as most are from day to day.
const KNOWN_POLLS: usize = 20;

/// Rows per second of CPU time in polls that find nothing new.
pub(crate) async fn duplicates(bootstrap: &str, tape: &Arc<Tape>) -> f64 {
    let server = Server::start(Arc::clone(tape)).await;
    let settings = [("poll.start_from", "\"now-4h\""), ("poll.overlap", "\"5h\"")];
    let rig = Rig::new("duplicates", &server.base_url(), bootstrap, &settings);
    let connector = rig.start();
    server.asked(1).await;
    server.allow_poll();
    server.asked(2).await;
    let before = connector.used().cpu;
    for poll in 2..2 + KNOWN_POLLS {
        server.allow_poll();
        server.asked(poll + 1).await;
    }
    let rows = (tape.len() * KNOWN_POLLS) as f64;
    let cost = (connector.used().cpu - before).as_secs_f64();
    assert!(connector.metric("call_legs_rows_total", "result=\"duplicate\"").await >= rows, "all were known");
    connector.terminate();
    rows / cost
}

/// What the parts can do alone, with the records of a run.
pub(crate) async fn limit(bootstrap: &str, tape: &Arc<Tape>, records: Arc<Vec<Record>>, now: UtcMillis) -> Limit {
    let server = Server::start(Arc::clone(tape)).await;
    server.open();
    // A topic of the same shape: that of a connector that has nothing to publish.
    let rig = Rig::new("bare", &server.base_url(), bootstrap, &[("poll.start_from", "\"now\"")]);
    let connector = rig.start();
    server.asked(1).await;
    connector.terminate();
    let rows = tape.len() as f64;
    let producing = {
        let (bootstrap, topic) = (bootstrap.to_owned(), rig.topic.clone());
        tokio::task::spawn_blocking(move || limit::produce(&bootstrap, &topic, &records))
    };
    let produced = producing.await.expect("the bare producer ends");
    let text = |at: UtcMillis| at.to_datetime().expect("a date").format("%Y-%m-%d %H:%M:%S").to_string();
    let (bytes, downloaded) =
        limit::download(&server.base_url(), &text(now.minus(SPAN * 2)), &text(now.plus(SPAN))).await;
    assert!(bytes >= tape.json_bytes() - tape.len(), "all rows were downloaded");
    Limit { produced_s: rows / produced.as_secs_f64(), downloaded_s: rows / downloaded.as_secs_f64() }
}
