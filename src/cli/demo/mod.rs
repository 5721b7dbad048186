//! `demo`: the whole way on one machine, every part real but the API and, unless one is named, Kafka.
//!
//! ```text
//!   sandbox API ──▶ connector ──▶ Kafka ──▶ consumer ──▶ a line a leg
//!        │          (a process, killed in the middle)         │
//!        └──── each leg that it has shown ──── compared ──────┘
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `connector` | the connector's process: started, killed, stopped, asked how it is |
//! | `consumer` | the legs as they come, and the topics read again at the end |
//! | `news` | what happens beside the legs: faults, repeats, the kill |
//! | `screen` | the lines: for a person at a terminal, or as JSON |
//! | `verdict` | what the API has shown beside what the topic holds, and the sentence about it |

mod connector;
mod consumer;
mod news;
mod screen;
mod verdict;

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use self::connector::Child;
use self::consumer::Consumer;
use self::news::News;
use self::screen::Screen;
use self::verdict::Verdict;
use super::owner::url_of;
use crate::config::{self, Config};
use crate::core::journal::Delivery;
use crate::error::{Ended, Exit, OrExit};
use crate::sandbox::api::{Credentials, Rules};
use crate::sandbox::dataset::DatasetSettings;
use crate::sandbox::faults::FaultMix;
use crate::sandbox::{self, Sandbox};
use crate::sink::topics::{self, TopicAdmin};

/// What the topic's name begins with; each demo has one of its own, so that none finds another's journal.
const TOPIC: &str = "call-legs-demo";
const PARTITIONS: i32 = 3;

/// How often faults and repeats are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A shorter demo has no time for a kill.
const KILL_WITHIN_MIN: Duration = Duration::from_secs(10);

/// When the connector is killed in a demo without an end.
const KILL_AFTER: Duration = Duration::from_secs(15);

/// How long the connector may take to stop: it gives what is under way eight seconds, and takes a moment to end.
const STOP_MAX: Duration = Duration::from_secs(15);

/// Where temporary files go that are kept in memory.
const SHARED_MEMORY: &str = "/dev/shm";

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// End after this long; without it, at Ctrl-C
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
    /// Use this Kafka instead of the embedded one
    #[arg(long, value_name = "HOST:PORT")]
    bootstrap_servers: Option<String>,
    /// Print each leg as a line of JSON, as into a pipe; what else happens goes to standard error
    #[arg(long)]
    json: bool,
    /// New legs a second in the simulated API
    #[arg(long, value_name = "LEGS", default_value = "1")]
    rate: f64,
    /// Legs of the last hour that the simulated API already has
    #[arg(long, value_name = "LEGS", default_value = "6")]
    legs: u64,
    /// Faults of the simulated API, as in the sandbox command
    #[arg(long, value_name = "MIX", default_value = "500=4%,cut=4%,garbage=2%")]
    faults: FaultMix,
    /// Be the connector of a demo that runs, with this configuration
    #[arg(long, value_name = "FILE", hide = true)]
    connector: Option<PathBuf>,
}

/// Runs the demo until its time is up, or until `interrupted`, and says what came of it.
pub(super) async fn run(arguments: DemoArgs, interrupted: CancellationToken) -> Result<(), Ended> {
    if let Some(config) = &arguments.connector {
        return connector::run(config, interrupted).await;
    }
    let dir = writable_dir()?;
    let topic = format!("{TOPIC}-{}", chrono::Utc::now().format("%Y%m%d-%H%M%S"));
    let (embedded, bootstrap_servers) = kafka(&arguments, &topic)?;
    let sandbox = Sandbox::start(sandbox_settings(&arguments));
    let sandbox = sandbox.await.context("the simulated API cannot be started").or_exit(Exit::Internal)?;
    let text = configuration(&sandbox, &bootstrap_servers, &topic, embedded.is_some(), dir.path())?;
    let no_variables: [(String, String); 0] = [];
    let config = Config::parse("the demo's configuration", &text, no_variables).or_exit(Exit::Usage)?;
    let path = dir.path().join("demo.toml");
    std::fs::write(&path, text).context("the demo's configuration cannot be written").or_exit(Exit::State)?;
    if embedded.is_none() {
        answers(&config.kafka, &bootstrap_servers, &interrupted).await?;
    }
    let demo = Demo {
        screen: Screen::new(arguments.json, sandbox.api().pbxes()),
        sandbox,
        config,
        path,
        is_embedded: embedded.is_some(),
    };
    demo.introduce()?;
    let ended = demo.run(arguments.duration, interrupted).await;
    demo.sandbox.stop().await;
    ended
}

/// All parts but the connector's process and the consumer.
struct Demo {
    screen: Screen,
    sandbox: Sandbox,
    config: Config,
    /// Where the configuration is for the connector.
    path: PathBuf,
    is_embedded: bool,
}

impl Demo {
    fn introduce(&self) -> Result<(), Ended> {
        let kafka = if self.is_embedded { "an embedded Kafka" } else { "your Kafka" };
        let a_leg = if self.screen.is_json() {
            "Each leg that the consumer reads is a line of JSON on standard output."
        } else {
            "Each line is a leg that the consumer has read; its delay counts from the call's end."
        };
        self.screen.say(&format!("A simulated 8x8 API, {kafka}, the connector and a consumer."))?;
        self.screen.say(a_leg)?;
        self.screen.say(&format!("How the connector is, while it runs: {}/", url_of(self.config.admin.listen)))?;
        self.screen.head()
    }

    /// Shows what happens until the time is up, kills the connector in the middle, and adds up.
    async fn run(&self, duration: Option<Duration>, interrupted: CancellationToken) -> Result<(), Ended> {
        let began = Instant::now();
        let deadline = duration.map(|duration| began + duration);
        let mut kill_at = match duration {
            Some(duration) if duration < KILL_WITHIN_MIN => None,
            Some(duration) => Some(began + duration / 2),
            None => Some(began + KILL_AFTER),
        };
        let mut connector = Child::start(&self.path)?;
        let mut consumer = Consumer::start(&self.config.kafka);
        let (watched, _asking) = connector::watch(&self.config);
        let mut news = News::new(self, watched);
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = interrupted.cancelled() => break,
                () = until(deadline) => break,
                () = connector.ended() => return Err(connector.why().await),
                () = until(kill_at) => {
                    kill_at = None;
                    connector = news.kill(connector).await?;
                }
                leg = consumer.next() => self.screen.leg(&leg?, self.sandbox.now())?,
                _ = look.tick() => news.tell()?,
            }
        }
        connector.signal(Signal::TERM);
        if tokio::time::timeout(STOP_MAX, connector.ended()).await.is_err() {
            connector.signal(Signal::KILL);
            connector.ended().await;
        }
        self.add_up(&consumer, news).await
    }

    /// Reads the topics again, and says how they are beside what the API has shown.
    async fn add_up(&self, consumer: &Consumer, news: News<'_>) -> Result<(), Ended> {
        let kafka = &self.config.kafka;
        let (legs, not_shown) = consumer.read_again().await?;
        not_shown.iter().try_for_each(|leg| self.screen.leg(leg, self.sandbox.now()))?;
        let dead_letters = consumer::whole(kafka, &topics::dead_letters(&kafka.topic)).await?.len() as u64;
        let (watched, happened) = news.end(dead_letters);
        let truth = self.sandbox.api().legs_visible(self.sandbox.now(), chrono_tz::UTC);
        let verdict = Verdict::of(truth, &watched.polled, legs);
        let is_exactly_once = watched.delivery.as_deref() == Some(Delivery::ExactlyOnce.as_str());

        let (came, happened) = (verdict.sentence(is_exactly_once, &kafka.topic), happened.sentence());
        self.screen.say(&format!("\n{came}\n{happened}\n{}", self.next_command(is_exactly_once)))?;
        if verdict.is_kept(is_exactly_once) {
            Ok(())
        } else {
            Err(anyhow!("the topic is not as promised")).or_exit(Exit::Differences)
        }
    }

    fn next_command(&self, is_exactly_once: bool) -> String {
        let name = std::env::args().next().unwrap_or_else(|| "call-legs".to_owned());
        if self.is_embedded {
            return format!(
                "At least once, since the embedded Kafka (librdkafka's mock) has no transactions that hold. On a real one each \
                 leg is there exactly once:\n\n  {name} demo --bootstrap-servers HOST:PORT"
            );
        }
        let why = if is_exactly_once { "" } else { "At least once, since this Kafka has no transactions that hold. " };
        format!(
            "{why}With your own account: fill in config/call-legs.toml, and try it:\n\n  {name} check --config config/call-legs.toml"
        )
    }
}

/// A directory for the connector's state, gone when the demo ends.
fn writable_dir() -> Result<TempDir, Ended> {
    let make = |dir: &Path| tempfile::Builder::new().prefix("call-legs-demo-").tempdir_in(dir);
    // Memory can be written also where the file system of a container cannot.
    let made = make(&std::env::temp_dir()).or_else(|error| make(Path::new(SHARED_MEMORY)).map_err(|_| error));
    made.map_err(|error| {
        anyhow!(
            "neither {} nor {SHARED_MEMORY} can be written ({error}), and the connector keeps its state in a directory: set \
             TMPDIR to one that this user may write",
            std::env::temp_dir().display()
        )
    })
    .or_exit(Exit::State)
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

type Embedded = MockCluster<'static, DefaultProducerContext>;

/// An embedded Kafka, unless one is named, and where Kafka is.
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

/// Whether the Kafka that was named answers; the daemon would wait for it for ever.
async fn answers(kafka: &config::Kafka, named: &str, interrupted: &CancellationToken) -> Result<(), Ended> {
    let admin = Arc::new(TopicAdmin::new(kafka).or_exit(Exit::Usage)?);
    let asking = async {
        admin.look_up(&kafka.topic).await?;
        admin.reach().await
    };
    tokio::select! {
        answer = asking => answer,
        () = interrupted.cancelled() => return Err(anyhow!("interrupted")).or_exit(Exit::Internal),
    }
    .map_err(|error| {
        anyhow!(
            "--bootstrap-servers {named}: {error}. The demo cannot begin without it: start it or correct the address; \
             without --bootstrap-servers the demo brings a Kafka of its own"
        )
    })
    .or_exit(Exit::Sink)
}

fn configuration(
    sandbox: &Sandbox,
    bootstrap_servers: &str,
    topic: &str,
    is_embedded: bool,
    dir: &Path,
) -> Result<String, Ended> {
    let Credentials { api_key, username, password } = sandbox.api().credentials();
    // The mock cluster takes transactions, but neither fences nor hides what was not committed.
    let delivery = if is_embedded { "at-least-once" } else { "auto" };
    // The same after a restart, so that the page is found where it was.
    let admin = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let admin = admin.context("no port of 127.0.0.1 is free for the status page").or_exit(Exit::Internal)?;
    Ok(format!(
        r#"
        [source]
        base_url = "{url}"
        api_key = "{api_key}"
        username = "{username}"
        password = "{password}"
        pbx_ids = {pbxes:?}
        requests_per_minute = 1200
        [poll]
        interval = "2s"
        overlap = "30s"
        settle = "2s"
        start_from = "now-2h"
        [kafka]
        bootstrap_servers = "{bootstrap_servers}"
        topic = "{topic}"
        partitions = {PARTITIONS}
        delivery = "{delivery}"
        beat = "1s"
        [avro]
        framing = "single-object"
        [state]
        dir = '{state}'
        [admin]
        listen = "{admin}"
        "#,
        url = sandbox.base_url(),
        pbxes = sandbox.api().pbxes(),
        state = dir.join("state").display(),
    ))
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
