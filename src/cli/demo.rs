//! `demo`: the whole way on one machine, every part real but the API and, unless one is named, Kafka.
//!
//! ```text
//!   sandbox API ──▶ connector ──▶ Kafka ──▶ consumer ──▶ standard output, a JSON line a leg
//!                       └── status ──────────────────▶ standard error, the running summary
//! ```

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use rdkafka::message::Message as _;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::print_line;
use crate::codec::{Decoder, schema};
use crate::config::{self, Config};
use crate::core::dedupe::Counts;
use crate::daemon::{self, TopicCheck};
use crate::error::{Ended, Exit, OrExit};
use crate::panics;
use crate::sandbox::api::{Credentials, Rules};
use crate::sandbox::dataset::DatasetSettings;
use crate::sandbox::faults::FaultMix;
use crate::sandbox::{self, Sandbox};
use crate::sink::SinkError;
use crate::sink::reader::{From, TopicReader};
use crate::sink::topics;
use crate::telemetry::{StatusBoard, logging};

/// What the topic's name begins with; each demo has one of its own, so that none finds another's journal.
const TOPIC: &str = "call-legs-demo";
const PARTITIONS: i32 = 3;
const SUMMARY_EVERY: Duration = Duration::from_secs(5);

/// How long the consumer may take to read what the connector has published, at the end.
const READ_BACK_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// End after this long; without it, at Ctrl-C
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
    /// Use this Kafka instead of the embedded one
    #[arg(long, value_name = "HOST:PORT")]
    bootstrap_servers: Option<String>,
    /// New legs a second in the simulated API
    #[arg(long, value_name = "LEGS", default_value = "3")]
    rate: f64,
    /// Legs of the last hour that the simulated API already has
    #[arg(long, value_name = "LEGS", default_value = "60")]
    legs: u64,
    /// Faults of the simulated API, as in the sandbox command
    #[arg(long, value_name = "MIX", default_value = "500=3%,cut=3%,garbage=2%")]
    faults: FaultMix,
}

pub(super) async fn run(arguments: DemoArgs, interrupted: CancellationToken) -> Result<(), Ended> {
    logging::start("warn", config::LogFormat::Text, None);
    let api = Sandbox::start(sandbox_settings(&arguments))
        .await
        .context("the sandbox cannot be started")
        .or_exit(Exit::Internal)?;
    let topic = format!("{TOPIC}-{}", chrono::Utc::now().format("%Y%m%d-%H%M%S"));
    let (embedded, bootstrap_servers) = kafka(&arguments, &topic)?;
    let state = tempfile::tempdir().or_exit(Exit::State)?;
    // The mock cluster takes transactions, but neither fences nor hides what was not committed.
    let delivery = if embedded.is_some() { "at-least-once" } else { "auto" };
    let config = configuration(&api, &bootstrap_servers, &topic, delivery, &state.path().display().to_string())
        .or_exit(Exit::Internal)?;
    say(&format!(
        "simulated API at {}, {} at {bootstrap_servers}, topic {topic}; a leg is one line of JSON on standard output",
        api.base_url(),
        if embedded.is_some() { "embedded Kafka (librdkafka's mock cluster: at least once here)" } else { "Kafka" },
    ));

    let status = StatusBoard::default();
    let stop = interrupted.child_token();
    let check = if embedded.is_some() { TopicCheck::Assume } else { TopicCheck::Ensure };
    let kafka = config.kafka.clone();
    let connector = tokio::spawn(daemon::run(config, check, status.clone(), None, stop.clone()));
    let ended = show(&arguments, kafka, &status, &stop, connector).await;
    api.stop().await;
    ended
}

/// Legs of the last hour and new ones, some of them late, changing or rubbish.
fn sandbox_settings(arguments: &DemoArgs) -> sandbox::Settings {
    sandbox::Settings {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        dataset: DatasetSettings {
            legs: arguments.legs,
            span: Duration::from_secs(3600),
            rate: arguments.rate,
            late: Duration::from_secs(10),
            revised_share: 0.05,
            revised_within: Duration::from_secs(20),
            ..DatasetSettings::default()
        },
        rules: Rules { unfinished: true, ..Rules::default() },
        faults: arguments.faults.clone(),
        ..sandbox::Settings::default()
    }
}

/// Prints legs and summaries until the time is up, then stops the connector and adds up.
async fn show(
    arguments: &DemoArgs,
    kafka: config::Kafka,
    status: &StatusBoard,
    stop: &CancellationToken,
    mut connector: tokio::task::JoinHandle<Result<(), Ended>>,
) -> Result<(), Ended> {
    let mut reader = open(&kafka, stop).await?;
    if let Some(admin) = status.read().admin {
        say(&format!("its status page, while it runs: http://{admin}/"));
    }
    let decoder = Decoder::new(schema::call_leg(), None);
    let deadline = arguments.duration.map(|duration| Instant::now() + duration);
    let mut summary = tokio::time::interval_at(Instant::now() + SUMMARY_EVERY, SUMMARY_EVERY);
    let mut read_back = 0u64;
    let mut give_up_at = None;
    loop {
        let published = status.read().counts().published;
        if connector.is_finished() && read_back >= published {
            break;
        }
        tokio::select! {
            biased;
            () = stop.cancelled(), if give_up_at.is_none() => give_up_at = Some(Instant::now() + READ_BACK_MAX),
            () = until(deadline), if give_up_at.is_none() => stop.cancel(),
            () = until(give_up_at) => break,
            _ = summary.tick() => say(&running_summary(status.read().counts(), read_back)),
            message = reader.next() => {
                if let Some(message) = message.or_exit(Exit::Sink)? {
                    let leg = decoder.decode(message.payload().unwrap_or_default()).await.or_exit(Exit::Internal)?;
                    print_line(&leg.to_string())?;
                    read_back += 1;
                }
            }
            // With the connector ended, what it published may still be on its way to the reader.
            _ = tokio::time::sleep(Duration::from_millis(50)), if connector.is_finished() => {}
        }
    }
    stop.cancel();
    (&mut connector)
        .await
        .map_err(|ended| anyhow!("the connector has ended: {}", panics::why(&ended)))
        .or_exit(Exit::Internal)??;
    say(&final_summary(status.read().counts(), read_back));
    Ok(())
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// A reader of the demo's topic, as soon as the connector has created it.
async fn open(kafka: &config::Kafka, stop: &CancellationToken) -> Result<TopicReader, Ended> {
    loop {
        match open_once(kafka).await {
            Ok(reader) => return Ok(reader),
            Err(error) if stop.is_cancelled() => return Err(error).or_exit(Exit::Sink),
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

async fn open_once(kafka: &config::Kafka) -> Result<TopicReader, SinkError> {
    let kafka = kafka.clone();
    tokio::task::spawn_blocking(move || TopicReader::open(&kafka, &kafka.topic, From::Beginning))
        .await
        .unwrap_or_else(|ended| Err(ended.into()))
}

type Embedded = MockCluster<'static, DefaultProducerContext>;

fn kafka(arguments: &DemoArgs, topic: &str) -> Result<(Option<Embedded>, String), Ended> {
    if let Some(servers) = &arguments.bootstrap_servers {
        return Ok((None, servers.clone()));
    }
    let cluster = MockCluster::new(1).context("the embedded Kafka cannot be started").or_exit(Exit::Internal)?;
    let topics = [
        (topic.to_owned(), PARTITIONS),
        (topics::dead_letters(topic), 1),
        (topics::status(topic), 1),
        (topics::journal(topic), 1),
    ];
    for (topic, partitions) in topics {
        cluster
            .create_topic(&topic, partitions, 1)
            .context("the embedded Kafka makes no topic")
            .or_exit(Exit::Internal)?;
    }
    let servers = cluster.bootstrap_servers();
    Ok((Some(cluster), servers))
}

fn configuration(
    api: &Sandbox,
    bootstrap_servers: &str,
    topic: &str,
    delivery: &str,
    state_dir: &str,
) -> anyhow::Result<Config> {
    let Credentials { api_key, username, password } = api.api().credentials();
    let toml = format!(
        r#"
        [source]
        base_url = "{url}"
        api_key = "{api_key}"
        username = "{username}"
        password = "{password}"
        requests_per_minute = 1200
        [poll]
        interval = "2s"
        overlap = "30s"
        settle = "2s"
        start_from = "now-1h"
        [kafka]
        bootstrap_servers = "{bootstrap_servers}"
        topic = "{topic}"
        partitions = {PARTITIONS}
        delivery = "{delivery}"
        [avro]
        framing = "single-object"
        [state]
        dir = '{state_dir}'
        [admin]
        listen = "127.0.0.1:0"
        "#,
        url = api.base_url(),
    );
    let no_variables: [(String, String); 0] = [];
    Config::parse("the demo's configuration", &toml, no_variables).map_err(|error| anyhow!(error))
}

fn running_summary(counts: Counts, read_back: u64) -> String {
    let named: Vec<String> = counts.named().iter().map(|(name, count)| format!("{name} {count}")).collect();
    format!("fetched {} = {}; read back from Kafka {read_back}", counts.fetched(), named.join(" + "))
}

fn final_summary(counts: Counts, read_back: u64) -> String {
    let meanings = [
        "new, in the topic, acknowledged by Kafka",
        "published before with the same content: polls overlap",
        "published before, content changed since",
        "no usable callId, legId or disconnect time: in the dead-letter topic",
        "calls still going on: awaited",
        "older than what is remembered",
        "beyond the window's ends: read with the neighbouring windows",
        "too many that cannot be legs: held back, read again",
    ];
    let mut text = format!("\n  {:>8}  rows fetched from the API, each in exactly one of:\n", counts.fetched());
    for ((name, count), meaning) in counts.named().iter().zip(meanings) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {count:>8}    {name:<15} {meaning}");
    }
    let _ = write!(text, "  {read_back:>8}  legs read back from Kafka by a consumer and decoded");
    text
}

fn say(text: &str) {
    eprintln!("demo: {text}");
}
