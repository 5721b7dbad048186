//! The examples of consumers in `config/examples` but the one with Kafka Streams (`downstream`), each fed by the connector: the
//! alarm comes, once a queue, for calls and not for legs; and silence is never taken for quiet phones.

use std::path::Path;
use std::time::{Duration, Instant};

use call_legs::sandbox::dataset::DatasetSettings;
use call_legs::sandbox::{Sandbox, Settings};
use chrono::{DateTime, SecondsFormat};
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::{Value, json};
use tempfile::{NamedTempFile, TempDir};

use super::arrivals::Arrivals;
use super::downstream::row;
use super::rig::{Rig, sandbox_settings, variable};
use super::support::PATIENCE;
use super::support::example::{self, Running};
use super::support::kafka::kafka;
use super::support::registry::registry;

const PBX: &str = "acmecorppbx";
/// Of the alarm, in seconds.
const WINDOW: i64 = 15;
/// So many abandoned calls within the window are an alarm.
const CALLS: usize = 3;
const PARTITIONS: i32 = 3;

fn text(millis: i64) -> String {
    DateTime::from_timestamp_millis(millis).unwrap().to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Set: Flink and Spark are run, too.
const LARGE: &str = "CALL_LEGS_TEST_EXAMPLES";
const MINUTE_MS: i64 = 60_000;

/// The calls of a queue around `now`: three that were abandoned within the window, the third of them only at `third`, among legs
/// that say nothing, or the same once more.
fn rows(now: i64, third: i64) -> Vec<Value> {
    let mut rows = vec![
        // Before the window of what follows.
        row(("11", "1", None), "Sales", "Abandoned", now - 20_000),
        row(("12", "1", None), "Sales", "Abandoned", now - 19_000),
        // One call: two legs of its own, and one that was transferred back to the queue.
        row(("21", "1", None), "Sales", "Abandoned", now - 3_000),
        row(("21", "2", None), "Sales", "Abandoned", now - 2_900),
        row(("22", "1", Some("21")), "Sales", "Abandoned", now - 2_500),
        row(("31", "1", None), "Sales", "Abandoned", now - 2_000),
        row(("41", "1", None), "Sales", "-", now - 1_500),
        row(("51", "1", None), "Sales", "-", now - 1_000),
        row(("61", "1", None), "Support", "Abandoned", now - 900),
        row(("62", "1", None), "Support", "Abandoned", now - 800),
        row(("71", "1", None), "Sales", "Abandoned", now - 700),
        row(("81", "1", None), "Sales", "Abandoned", third),
    ];
    rows[7]["abandoned"] = json!(null);
    // An agent whom the queue rang.
    rows[10]["callee"] = json!("120088");
    rows
}

async fn world(rows: &[Value], overlap: &str) -> Rig {
    let replay = NamedTempFile::new().unwrap();
    std::fs::write(replay.path(), rows.iter().map(Value::to_string).collect::<Vec<_>>().join("\n")).unwrap();
    let settings = sandbox_settings(0, Duration::from_mins(30));
    let settings = Settings { replay: Some(replay.path().to_owned()), dataset: DatasetSettings::default(), ..settings };
    let sandbox = Sandbox::start(settings).await.unwrap();
    let keys = [
        "poll.start_from = \"now-30m\"",
        &format!("poll.overlap = {overlap:?}"),
        "avro.framing = \"confluent\"",
        &format!("avro.schema_registry_url = {:?}", registry().url()),
        &format!("kafka.partitions = {PARTITIONS}"),
    ];
    Rig::new(sandbox, kafka().bootstrap(), &keys)
}

/// Writes to the topic of legs what is no leg, and takes it back.
fn write_uncommitted(topic: &str) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", kafka().bootstrap()).set("transactional.id", format!("{topic}-foreign"));
    let producer: BaseProducer = config.create().unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    producer.begin_transaction().unwrap();
    for partition in 0..PARTITIONS {
        producer.send(BaseRecord::<(), str>::to(topic).partition(partition).payload("no leg")).unwrap();
    }
    producer.flush(PATIENCE).unwrap();
    producer.abort_transaction(PATIENCE).unwrap();
}

/// The lines that an example has printed, as far as one `holds`.
fn lines(output: &Path, holds: impl Fn(&str) -> bool) -> Vec<String> {
    let printed = std::fs::read_to_string(output).unwrap();
    printed.lines().filter(|line| holds(line)).map(str::to_owned).collect()
}

/// `alarm.py` beside a rig.
struct Alarm {
    output: NamedTempFile,
    running: Running,
}

impl Alarm {
    fn start(rig: &Rig) -> Self {
        let output = NamedTempFile::new().unwrap();
        let arguments = [
            ("--bootstrap-servers", kafka().bootstrap()),
            ("--registry", registry().url()),
            ("--topic", &rig.topic),
            ("--window", &WINDOW.to_string()),
            ("--calls", &CALLS.to_string()),
        ];
        let arguments: Vec<String> =
            arguments.into_iter().flat_map(|(name, value)| [name.to_owned(), value.to_owned()]).collect();
        let running = example::alarm(&arguments, output.path());
        Self { output, running }
    }

    /// What it has said, without the time, where the word is `word`.
    fn said(&self, word: &str) -> Vec<String> {
        let lines = lines(self.output.path(), |line| line.contains(&format!("Z {word} ")));
        lines.into_iter().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
    }

    async fn until_said(&mut self, rig: &Rig, word: &str, times: usize) {
        rig.until(&format!("{word:?} from alarm.py"), async || {
            self.running.assert_running();
            self.said(word).len() >= times
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn alarm_py_counts_calls_and_tells_a_blind_connector_and_one_that_is_down_from_quiet_phones() {
    // Their start is not to eat up the time until the third call.
    let _started = (kafka(), registry(), example::python_of_alarm());
    let started = Instant::now();
    let now = chrono::Utc::now().timestamp_millis();
    let third = now + 6_000;
    let rig = world(&rows(now, third), "1m").await;
    let daemon = rig.start();
    rig.polled_since_start().await;
    let arrivals = Arrivals::start(kafka().bootstrap(), &rig.topic, PARTITIONS, third);
    let mut alarm = Alarm::start(&rig);
    write_uncommitted(&rig.topic);

    alarm.until_said(&rig, "sees", 1).await;
    alarm.until_said(&rig, "ALARM", 1).await;
    let expected = format!("ALARM {PBX}: Sales: 3 calls abandoned from {} to {}", text(now - 3_000), text(third));
    assert_eq!(alarm.said("ALARM"), [&*expected]);
    report_delay(&alarm, &arrivals);

    rig.sandbox.faults().set_outage(true);
    // A restart forgets what was said, and counts what was read before.
    let mut again = Alarm::start(&rig);
    again.until_said(&rig, "ALARM", 1).await;
    assert_eq!(again.said("ALARM"), [&*expected]);
    alarm.until_said(&rig, "blind", 1).await;
    assert!(alarm.said("blind")[0].starts_with(&format!("blind {PBX}: source_unreachable, all is read to ")));
    rig.sandbox.faults().set_outage(false);
    alarm.until_said(&rig, "sees", 2).await;
    for alarm in [&mut alarm, &mut again] {
        alarm.until_said(&rig, "over", 1).await;
    }
    rig.sandbox.faults().set_mix("expired=100%".parse().unwrap());
    alarm.until_said(&rig, "blind", 2).await;
    assert!(alarm.said("blind")[1].starts_with(&format!("blind {PBX}: source_auth, all is read to ")));
    daemon.kill();
    alarm.until_said(&rig, "connector down", 1).await;
    assert!(alarm.said("connector down")[0].starts_with(&format!("connector down {PBX}: no status since ")));

    eprintln!("{}", std::fs::read_to_string(alarm.output.path()).unwrap());
    eprintln!("{:.1} s in all", started.elapsed().as_secs_f64());

    // Nothing else was an alarm, and what is not known was said.
    for alarm in [&alarm, &again] {
        assert_eq!(alarm.said("ALARM").len(), 1);
        let unknown = format!("unknown {PBX}: Sales: call 51, leg 51/1 has abandoned = None");
        assert_eq!(alarm.said("unknown"), [unknown]);
    }
}

/// Prints how long the third call's leg took from a consumer's receipt to the alarm.
fn report_delay(alarm: &Alarm, arrivals: &Arrivals) {
    let line = &lines(alarm.output.path(), |line| line.contains(" ALARM "))[0];
    let said = DateTime::parse_from_rfc3339(line.split(' ').next().unwrap()).unwrap().timestamp_millis();
    for leg in arrivals.live() {
        let (age, delay) = (leg.freshness(), said - leg.received);
        eprintln!("alarm.py: {delay} ms after another consumer had the leg, which was {age} ms old then");
    }
}

/// A connector that has read twelve minutes ago what is an alarm in windows of five minutes, of five calls; and reads on, so that
/// watermarks move.
struct Past {
    rig: Rig,
    minute: i64,
}

impl Past {
    async fn new() -> Self {
        let _started = (kafka(), registry());
        let now = chrono::Utc::now().timestamp_millis();
        let minute = (now - 12 * MINUTE_MS).div_euclid(MINUTE_MS) * MINUTE_MS;
        let mut rows = rows(minute + MINUTE_MS / 2, minute + MINUTE_MS / 2 + 8_000);
        rows.extend((0..600).map(|second| {
            let call = (1_000 + second).to_string();
            row((&call, "1", None), "Calm", "-", now - 10_000 + second * 1_000)
        }));
        Self { rig: world(&rows, "5s").await, minute }
    }

    /// The bound of the order, in seconds.
    async fn order_within(&self) -> f64 {
        self.rig.metric("call_legs_order_within_seconds", "").await
    }

    /// The windows with all five calls: when each starts and ends.
    fn windows(&self, format: &str) -> Vec<(String, String)> {
        let text = |at| DateTime::from_timestamp_millis(at).unwrap().format(format).to_string();
        let starts = (0..5).rev().map(|minutes| self.minute - minutes * MINUTE_MS);
        starts.map(|start| (text(start), text(start + 5 * MINUTE_MS))).collect()
    }

    /// Waits until an example has said as many lines with `word` as there are windows, and gives them.
    async fn until_said(&self, running: &mut Running, output: &Path, word: &str) -> Vec<String> {
        let started = Instant::now();
        let said = || lines(output, |line| line.contains(word));
        self.rig
            .until(&format!("{word:?}"), async || {
                running.assert_running();
                said().len() >= 5
            })
            .await;
        eprintln!("{:.1} s from the start to the verdicts:\n{}", started.elapsed().as_secs_f64(), said().join("\n"));
        said()
    }
}

/// Whether the examples with large downloads are to be run; says so if not.
fn is_large_run(name: &str) -> bool {
    let is_set = variable(LARGE).is_some_and(|value| value > 0);
    if !is_set {
        eprintln!("NOT CHECKED: {name} (a large download); {LARGE}=1 runs it");
    }
    is_set
}

#[tokio::test(flavor = "multi_thread")]
async fn alarm_sql_counts_calls_in_flink() {
    if !is_large_run("config/examples/alarm.sql with Flink") {
        return;
    }
    let past = Past::new().await;
    let _daemon = past.rig.start();
    past.rig.polled_since_start().await;
    write_uncommitted(&past.rig.topic);
    let mut sql = include_str!("../../config/examples/alarm.sql").to_owned();
    for (default, ours) in [
        ("'localhost:9092'", format!("'{}'", kafka().bootstrap())),
        ("'http://localhost:8081'", format!("'{}'", registry().url())),
        ("'topic' = 'call-legs'", format!("'topic' = '{}'", past.rig.topic)),
        ("INTERVAL '35' MINUTE", format!("INTERVAL '{}' SECOND", past.order_within().await)),
    ] {
        assert_eq!(sql.matches(default).count(), 1, "{default}");
        sql = sql.replace(default, &ours);
    }
    let (file, output) = (NamedTempFile::new().unwrap(), NamedTempFile::new().unwrap());
    std::fs::write(file.path(), sql).unwrap();
    let mut running = example::flink(file.path(), output.path());
    let said = past.until_said(&mut running, output.path(), "| +I |").await;
    let expected = past.windows("%F %T.000");
    let expected = expected.iter().map(|(start, end)| [start, end, PBX, "Sales", "5", "1"].map(str::to_owned));
    let cells = said.iter().map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        [2, 3, 4, 5, 6, 7].map(|place| cells[place].to_owned())
    });
    assert_eq!(cells.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn spark_py_counts_calls() {
    if !is_large_run("config/examples/spark.py") {
        return;
    }
    let past = Past::new().await;
    let _daemon = past.rig.start();
    past.rig.polled_since_start().await;
    write_uncommitted(&past.rig.topic);
    let checkpoint = TempDir::new().unwrap();
    let arguments = [
        ("--bootstrap-servers", kafka().bootstrap()),
        ("--registry", registry().url()),
        ("--topic", &past.rig.topic),
        ("--order-within", &past.order_within().await.to_string()),
        ("--checkpoint", &checkpoint.path().to_string_lossy()),
    ];
    let arguments: Vec<String> =
        arguments.into_iter().flat_map(|(name, value)| [name.to_owned(), value.to_owned()]).collect();
    let output = NamedTempFile::new().unwrap();
    let mut running = example::spark(&arguments, output.path());
    let mut said = past.until_said(&mut running, output.path(), "ALARM ").await;
    said.sort();
    let expected = past
        .windows("%FT%TZ")
        .into_iter()
        .map(|(start, end)| format!("ALARM {PBX}: Sales: 5 calls abandoned from {start} to {end}, 1 more are unknown"));
    assert_eq!(said, expected.collect::<Vec<_>>());
}
