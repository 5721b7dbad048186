//! The example of a consumer, `config/examples/abandoned-calls`: what it says equals what is true, window by window, whatever
//! fails meanwhile; and it never takes an API or a connector that is down for quiet phones.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use call_legs::sandbox::dataset::DatasetSettings;
use call_legs::sandbox::{Sandbox, Settings};
use rdkafka::message::Message;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::rig::{Rig, read_committed, sandbox_settings};
use super::support::example::{Running, abandoned_calls};
use super::support::kafka::kafka;
use super::support::registry::registry;

/// Five minutes in life.
const WINDOW_MS: i64 = 5_000;
const PAST_MS: i64 = 2 * 3_600_000;
/// `poll.settle`; a leg that the API shows later than that is late.
const SETTLE_MS: i64 = 2_000;
const LATE: Duration = Duration::from_secs(10);

/// By the start of its window and its name, a queue's abandoned calls.
type Counts = BTreeMap<(i64, String), u64>;

fn window_of(millis: i64) -> i64 {
    millis.div_euclid(WINDOW_MS) * WINDOW_MS
}

fn late_ms() -> i64 {
    i64::try_from(LATE.as_millis()).unwrap()
}

fn instant(millis: i64) -> String {
    chrono::DateTime::from_timestamp_millis(millis).unwrap().to_rfc3339()
}

fn millis(text: &Value) -> i64 {
    chrono::DateTime::parse_from_rfc3339(text.as_str().unwrap()).unwrap().timestamp_millis()
}

/// An abandoned call in a queue: by queue and call, when the first of its legs ended, and whether one was shown late.
struct Abandoned {
    queue: String,
    disconnect: i64,
    is_late: bool,
}

fn truth(rig: &Rig) -> Vec<Abandoned> {
    let mut calls: BTreeMap<(String, String), Abandoned> = BTreeMap::new();
    for leg in rig.sandbox.api().legs_visible(rig.sandbox.now(), chrono_tz::UTC) {
        let row: Value = serde_json::from_str(&leg.current().json).unwrap();
        if !row["callee"].as_str().unwrap().starts_with("CallQueue") || row["abandoned"] != "Abandoned" {
            continue;
        }
        let queue = format!("{}: {}", leg.pbx_id, row["calleeName"].as_str().unwrap());
        let call = row["parentCallId"].as_str().unwrap_or(&leg.call_id).to_owned();
        let disconnect = leg.disconnect.as_millis();
        let is_late = leg.visible_at.as_millis() - disconnect > SETTLE_MS;
        let known = calls.entry((queue.clone(), call)).or_insert(Abandoned { queue, disconnect, is_late });
        known.disconnect = known.disconnect.min(disconnect);
        known.is_late |= is_late;
    }
    calls.into_values().collect()
}

/// What is true of the windows in `[from, to)`.
fn true_counts(calls: &[Abandoned], from: i64, to: i64) -> Counts {
    let mut counts = Counts::new();
    for call in calls.iter().filter(|call| from <= call.disconnect && call.disconnect < to) {
        *counts.entry((window_of(call.disconnect), call.queue.clone())).or_default() += 1;
    }
    counts
}

/// What the alarms' topic says, all of it.
#[derive(Default)]
struct Told {
    lines: BTreeSet<String>,
    /// Up to where windows have a verdict.
    judged_to: i64,
    counts: Counts,
    corrected: BTreeSet<(i64, String)>,
    /// Windows of which it was said that they are not known yet, and why.
    unknown: BTreeMap<i64, Value>,
    /// What was said of each unit, in order.
    of_units: BTreeMap<String, Vec<String>>,
}

impl Told {
    /// Reads and holds what must always hold: windows in order and without a gap from `from` on, each once; corrections that
    /// fit to what was said before.
    fn read(alarms: &str, from: i64) -> Self {
        let mut told = Self { judged_to: from, ..Self::default() };
        for message in read_committed(kafka().bootstrap(), alarms) {
            let line = String::from_utf8(message.payload().unwrap().to_vec()).unwrap();
            told.note(&serde_json::from_str(&line).unwrap());
            told.lines.insert(line);
        }
        told
    }

    fn note(&mut self, line: &Value) {
        let verdict = line["verdict"].as_str().unwrap();
        if let Some(unit) = line["unit"].as_str() {
            self.of_units.entry(unit.to_owned()).or_default().push(verdict.to_owned());
            return;
        }
        let (window, end) = (millis(&line["from"]), millis(&line["to"]));
        assert_eq!(end - window, WINDOW_MS, "{line}");
        let place = (window, line["queue"].as_str().unwrap_or_default().to_owned());
        match verdict {
            "none" => {
                assert_eq!(window, self.judged_to, "in order, without a gap: {line}");
                self.judged_to = end;
            }
            "abandoned" => {
                assert!(window == self.judged_to || end == self.judged_to, "in order, without a gap: {line}");
                self.judged_to = end;
                let calls = line["calls"].as_u64().unwrap();
                assert!(calls > 0 && self.counts.insert(place, calls).is_none(), "a queue of a window once: {line}");
            }
            "corrected" => {
                assert!(window < self.judged_to, "judged before: {line}");
                let before = self.counts.insert(place.clone(), line["calls"].as_u64().unwrap()).unwrap_or(0);
                assert_eq!(line["before"], before, "fits to what was said before: {line}");
                self.corrected.insert(place);
            }
            "not known yet" => {
                assert!(end > self.judged_to, "it is known: {line}");
                assert!(self.unknown.insert(window, line["because"].clone()).is_none(), "once a window: {line}");
            }
            _ => panic!("unknown verdict: {line}"),
        }
    }

    /// The windows in `[from, to)`.
    fn counts(&self, from: i64, to: i64) -> Counts {
        let within = self.counts.iter().filter(|((window, _), calls)| (from..to).contains(window) && **calls > 0);
        within.map(|(place, calls)| (place.clone(), *calls)).collect()
    }

    /// Whether of all three units this was the last that was said.
    fn all_are(&self, verdict: &str) -> bool {
        self.of_units.len() == 3 && self.of_units.values().all(|said| said.last().unwrap() == verdict)
    }
}

/// The example beside a rig, and the windows it is held against.
struct Downstream {
    output: NamedTempFile,
    arguments: Vec<String>,
    alarms: String,
    from: i64,
}

impl Downstream {
    fn of(rig: &Rig, from: i64) -> Self {
        let alarms = format!("{}.alarms", rig.topic);
        let arguments = vec![
            format!("bootstrap.servers={}", kafka().bootstrap()),
            format!("topic={}", rig.topic),
            format!("alarms={alarms}"),
            format!("registry={}", registry().url()),
            format!("window=PT{}S", WINDOW_MS / 1000),
            format!("from={}", instant(from)),
            // After a kill, as short as brokers allow.
            "session.timeout.ms=6000".to_owned(),
            "transaction.timeout.ms=5000".to_owned(),
        ];
        Self { output: NamedTempFile::new().unwrap(), arguments, alarms, from }
    }

    /// As Java writes it: with milliseconds only if there are any.
    fn start_text(&self) -> String {
        chrono::DateTime::from_timestamp_millis(self.from).unwrap().to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)
    }

    fn start(&self) -> Running {
        abandoned_calls().start(&self.arguments, self.output.path())
    }

    fn printed(&self) -> BTreeSet<String> {
        std::fs::read_to_string(self.output.path()).unwrap().lines().map(str::to_owned).collect()
    }

    /// Waits until what was told `holds`, and returns that; prints how long it took.
    async fn until(&self, rig: &Rig, running: &mut Running, what: &str, holds: impl Fn(&Told) -> bool) -> Told {
        let started = Instant::now();
        let mut told = Told::default();
        rig.until(what, async || {
            running.assert_running();
            told = Told::read(&self.alarms, self.from);
            holds(&told)
        })
        .await;
        eprintln!(
            "{:5.1} s until {what}: {} windows judged, {} corrected, {} not known yet",
            started.elapsed().as_secs_f64(),
            (told.judged_to - self.from) / WINDOW_MS,
            told.corrected.len(),
            told.unknown.len()
        );
        told
    }

    /// Every window before `to` has the numbers that are true, and a correction only where a leg was shown late.
    fn assert_true(&self, rig: &Rig, told: &Told, to: i64) {
        let calls = truth(rig);
        assert_eq!(told.counts(self.from, to), true_counts(&calls, self.from, to));
        let late: BTreeSet<(i64, String)> = calls
            .iter()
            .filter(|call| call.is_late)
            .map(|call| (window_of(call.disconnect), call.queue.clone()))
            .collect();
        let undue: Vec<_> = told.corrected.iter().filter(|place| place.0 < to && !late.contains(*place)).collect();
        assert!(undue.is_empty(), "judged too early, before a leg that was there: {undue:?}");
    }
}

/// The past that all tests have: two hours.
fn past(dataset: DatasetSettings) -> Settings {
    let span = Duration::from_millis(PAST_MS.unsigned_abs());
    Settings { dataset: DatasetSettings { span, ..dataset }, ..sandbox_settings(0, span) }
}

/// A sandbox, a rig that reads it from two hours ago on, the example beside it, and the sandbox's present.
async fn world(settings: Settings) -> (Rig, Downstream, i64) {
    let sandbox = Sandbox::start(settings).await.unwrap();
    let origin = sandbox.now().as_millis();
    let from = window_of(origin - PAST_MS);
    let keys = [
        &*format!("poll.start_from = {:?}", instant(from)),
        "poll.settle = \"2s\"",
        "poll.overlap = \"5s\"",
        "poll.max_window = \"10m\"",
        "policy.revisions = \"publish\"",
        "sweeps = [{every = \"3s\", lookback = \"2m\"}]",
        &format!("avro.schema_registry_url = {:?}", registry().url()),
    ];
    let rig = Rig::new(sandbox, kafka().bootstrap(), &keys);
    let down = Downstream::of(&rig, from);
    (rig, down, origin)
}

#[tokio::test(flavor = "multi_thread")]
async fn abandoned_calls_are_counted_window_by_window_and_silence_is_never_taken_for_quiet() {
    let (late, revised_within) = (LATE, Duration::from_secs(10));
    let dataset = DatasetSettings { legs: 8_000, rate: 120.0, late, late_share: 0.5, ..Default::default() };
    // Changes that say nothing new of the call, and so nothing downstream.
    let dataset = DatasetSettings { revised_share: 0.3, revised_within, ..dataset };
    let (mut rig, down, origin) = world(past(dataset)).await;
    let daemon = rig.start();

    // A kill amid what comes.
    let mut running = down.start();
    down.until(&rig, &mut running, "the first verdict", |told| told.judged_to > down.from).await;
    rig.polled_since_start().await;
    running.kill();

    // Without the API windows are judged as far as it was read, not by a clock; and why is said.
    rig.sandbox.faults().set_outage(true);
    let outage_start = rig.sandbox.now().as_millis();
    let mut running = down.start();
    let is_blind = |told: &Told| told.all_are("blind") && told.judged_to >= window_of(origin);
    let blind = down.until(&rig, &mut running, "blind", is_blind).await;
    down.assert_true(&rig, &blind, window_of(origin) - late_ms());
    let is_told = |told: &Told| told.unknown.values().any(|because| because.to_string().matches("blind").count() == 3);
    let told = down.until(&rig, &mut running, "a window that is not known because of that", is_told).await;
    assert!(told.judged_to <= outage_start, "nobody has read what came then");
    let outage_end = rig.sandbox.now().as_millis();
    rig.sandbox.faults().set_outage(false);
    down.until(&rig, &mut running, "sight again", |told| told.all_are("sees again")).await;
    let told = down.until(&rig, &mut running, "verdicts of the outage", |told| told.judged_to > outage_end).await;
    assert!(
        told.counts(window_of(outage_start) + WINDOW_MS, outage_end).values().sum::<u64>() > 0,
        "calls were abandoned meanwhile"
    );
    down.until(&rig, &mut running, "a correction", |told| !told.corrected.is_empty()).await;

    // A connector that is gone; what it writes after its return is framed otherwise.
    daemon.kill();
    down.until(&rig, &mut running, "the connector's end", |told| told.all_are("connector down")).await;
    let gone = rig.sandbox.now().as_millis();
    rig.set("avro.framing", "\"confluent\"");
    let _daemon = rig.start();
    down.until(&rig, &mut running, "sight again", |told| told.all_are("sees again")).await;
    let end = window_of(gone) + WINDOW_MS;
    let is_equal = |told: &Told| {
        let is_all_shown = told.judged_to >= end && rig.sandbox.now().as_millis() > end + late_ms();
        is_all_shown && told.counts(down.from, end) == true_counts(&truth(&rig), down.from, end)
    };
    let told = down.until(&rig, &mut running, "all late legs", is_equal).await;
    down.assert_true(&rig, &told, end);
    down.until(&rig, &mut running, "all printed", |told| told.lines.is_subset(&down.printed())).await;
}

/// The example finds a large past all at once, its statuses first. Afterwards both stop and start again, each partition ends with
/// the end of a transaction, and no leg comes that would tell how far it was read.
#[tokio::test(flavor = "multi_thread")]
async fn no_window_is_judged_before_its_legs_are_read_and_quiet_phones_are_known_to_be_quiet() {
    let (rig, down, origin) = world(past(DatasetSettings { legs: 15_000, ..Default::default() })).await;
    let daemon = rig.start();
    rig.polled_since_start().await;
    let mut running = down.start();
    let told = down.until(&rig, &mut running, "verdicts of the past", |told| told.judged_to > origin).await;
    let promise = format!("the first verdict is of the window from {}", down.start_text());
    assert!(running.log().contains(&promise), "{}", running.log());
    down.assert_true(&rig, &told, told.judged_to);

    daemon.terminate();
    down.until(&rig, &mut running, "the connector's stop", |told| told.all_are("stopped on purpose")).await;
    running.kill();
    let mut running = down.start();
    let _daemon = rig.start();
    let back = rig.sandbox.now().as_millis();
    down.until(&rig, &mut running, "sight again", |told| told.all_are("sees again")).await;
    let told = down.until(&rig, &mut running, "verdicts of the quiet", |told| told.judged_to > back).await;
    down.assert_true(&rig, &told, told.judged_to);
    assert!(told.corrected.is_empty());
}

/// A row as the vendor's sample shows one of a queue, of a call that came from another one if `parent` says so.
pub(super) fn row(
    (call, leg, parent): (&str, &str, Option<&str>),
    queue: &str,
    abandoned: &str,
    disconnect: i64,
) -> Value {
    let sample: Value = serde_json::from_str(include_str!("../data/seed-sample.json")).unwrap();
    let mut row = sample["data"][1].clone();
    assert_eq!((&row["callee"], &row["abandoned"]), (&json!("CallQueue"), &json!("Abandoned")));
    let text = |millis| chrono::DateTime::from_timestamp_millis(millis).unwrap().format("%FT%T%.3f+0000").to_string();
    for (name, lasted) in [("startTime", 3_000), ("connectTime", 2_900), ("disconnectedTime", 0)] {
        row[format!("{name}UTC")] = json!(disconnect - lasted);
        row[name] = json!(text(disconnect - lasted));
    }
    for (name, value) in [("callId", call), ("legId", leg), ("calleeName", queue), ("abandoned", abandoned)] {
        row[name] = json!(value);
    }
    row["parentCallId"] = json!(parent);
    row
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_counts_once_a_queue_however_many_of_its_legs_were_abandoned() {
    let now = chrono::Utc::now().timestamp_millis();
    let first = window_of(now - PAST_MS / 2);
    let second = first + WINDOW_MS;
    let mut rows = [
        row(("1", "1", None), "Sales", "Abandoned", first + 4_000),
        row(("1", "2", None), "Sales", "Abandoned", first + 4_500),
        row(("1", "3", None), "Sales", "Abandoned", second),
        row(("2", "1", Some("1")), "Sales", "Abandoned", second + 500),
        row(("1", "4", None), "Support", "Abandoned", second + 1_000),
        row(("3", "1", None), "Sales", "Abandoned", second + 4_999),
        row(("4", "1", None), "Sales", "-", second + 2_000),
        row(("5", "1", None), "Jane Li", "Abandoned", second + 2_000),
    ];
    rows[7]["callee"] = json!("120088");
    let replay = NamedTempFile::new().unwrap();
    std::fs::write(replay.path(), rows.iter().map(Value::to_string).collect::<Vec<_>>().join("\n")).unwrap();
    let settings = Settings { replay: Some(replay.path().to_owned()), ..past(DatasetSettings::default()) };
    let (rig, down, origin) = world(settings).await;
    let _daemon = rig.start();
    let mut running = down.start();
    let told = down.until(&rig, &mut running, "verdicts", |told| told.judged_to > origin).await;
    let one = |window, queue: &str| ((window, format!("acmecorppbx: {queue}")), 1);
    assert_eq!(told.counts, Counts::from([one(first, "Sales"), one(second, "Sales"), one(second, "Support")]));
    assert!(told.corrected.is_empty());
}
