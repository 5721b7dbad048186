//! The daemon: the configuration put together into a running connector.
//!
//! It waits for Kafka and the registry at the start as it does later, so that the order in which
//! containers come up does not matter, and ends only by what no waiting mends.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use xxhash_rust::xxh3::xxh3_64;

use crate::admin::{self, Keys, Pages};
use crate::clock::{Clock, SystemClock};
use crate::codec::registry::{self, Authorization, subject_of_values};
use crate::codec::{Framing, PublishedSchema, Registry, RegistryError, schema};
use crate::config::{self, Config, Secret, SignIn};
use crate::connector::{
    Connector, ConnectorError, Identity, JournalFault, Order, OrderRequest, Pace, RecordTerms, Terms, verify_view,
};
use crate::core::journal::Nonce;
use crate::core::leg::TimeBasis;
use crate::core::retry::Backoff;
use crate::core::shape::Belief;
use crate::core::watermark::Delays;
use crate::core::window_length;
use crate::core::words::{exact, length};
use crate::error::{Ended, Exit, OrExit};
use crate::oauth::TokenClient;
use crate::panics;
use crate::sink::topics::{self, Topic, TopicAdmin, Topics};
use crate::sink::{KafkaCluster, SinkError};
use crate::source::Api;
use crate::store::{Instance, SledView, StateLock, StoreError, Token};
use crate::telemetry::otlp::Otlp;
use crate::telemetry::snapshot::Process;
use crate::telemetry::{Metrics, Repeated, StatusBoard, Streak, Targets};

/// Between attempts to reach what is needed at the start.
const START_BACKOFF: Backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_secs(30) };

/// How long transactions under way may take after the signal to stop; ending takes a second more, telling a collector of it
/// another one at most, and a container is killed after ten.
const STOP_GRACE: Duration = Duration::from_secs(8);

/// Connecting to the registry, and a whole request to it.
const REGISTRY_TIMEOUTS: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(15));

/// How many operators' orders may wait; more are asked to come again.
const ORDERS_WAITING_MAX: usize = 4;

/// The program's version.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// This process, as others see it.
struct Myself {
    process: Nonce,
    host: String,
    /// Where its admin port listens.
    admin: String,
}

impl Myself {
    fn new(admin: String) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self { process: Nonce(SystemClock.nonce()), host, admin }
    }
}

/// How the topics are treated at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicCheck {
    /// Verified, and created where missing.
    Ensure,
    /// The same, unless nothing was ever read and `poll.start_from` is missing: then nothing is created.
    EnsureToPoll,
    /// Taken as they are: librdkafka's mock cluster answers no questions about them.
    Assume,
}

/// Runs the connector until `stop`, or until something ends it. What it does is told by `otlp`, where there is one.
pub async fn run(
    config: Config,
    topics: TopicCheck,
    status: StatusBoard,
    otlp: Option<&mut Otlp>,
    stop: CancellationToken,
) -> Result<(), Ended> {
    status.update(|status| status.waiting_for = Some("connecting to Kafka".to_owned()));
    let dir = config.state_dir().or_exit(Exit::Usage)?;
    let _lock = StateLock::acquire(dir).or_exit(Exit::State)?;
    let token = Arc::new(Token::create(dir, rand::random()).or_exit(Exit::State)?);
    let targets = Targets {
        freshness: config.freshness.objective,
        interval: config.poll.interval.longest(),
        overlap: config.poll.overlap,
        settle: config.poll.settle,
        order_within: behind_max(&config),
    };
    let metrics = Arc::new(Metrics::new(targets));
    let listener = admin::listen(config.admin.listen)
        .await
        .map_err(|error| anyhow!("admin.listen: cannot listen on {}: {error}", config.admin.listen))
        .or_exit(Exit::Usage)?;
    let myself = Myself::new(listener.local_addr().unwrap_or(config.admin.listen).to_string());
    status.update(|status| status.admin = Some(myself.admin.clone()));
    let process = Process {
        owner: myself.process.to_string(),
        host: myself.host.clone(),
        version: VERSION.to_owned(),
        started_at: SystemClock.now(),
        beat: config.kafka.beat,
        behind_max: behind_max(&config),
        targets,
        settings: config.settings().to_vec(),
    };
    if let Some(otlp) = otlp {
        otlp.start(&process, Arc::clone(&metrics), status.clone());
    }
    let (orders, ordered) = mpsc::channel(ORDERS_WAITING_MAX);
    let keys = Keys { owner: token, looking: config.admin.token.clone() };
    let (status_shown, shown) = (status.clone(), Arc::clone(&metrics));
    let pages = Pages { status: status_shown, metrics: shown, process: Arc::new(process), keys, orders };
    let served = CancellationToken::new();
    let _served_while_running = served.clone().drop_guard();
    tokio::spawn(admin::serve(listener, pages, served.cancelled_owned()));

    let Some(connector) = connector(&config, topics, myself, &status, metrics, ordered, &stop).await? else {
        return Ok(());
    };
    let running = connector.run(stop.clone());
    tokio::pin!(running);
    let ended = tokio::select! {
        ended = &mut running => ended,
        () = stop.cancelled() => {
            tracing::info!("stopping: what is under way is finished first");
            status.update(|status| status.stopping = true);
            match tokio::time::timeout(STOP_GRACE, running).await {
                Ok(ended) => ended,
                Err(_) => {
                    tracing::warn!("Kafka did not take what is under way in time; it is read again after the next start");
                    Ok(())
                }
            }
        }
    };
    tracing::info!("stopped");
    ended.map_err(Ended::from)
}

/// Becomes the owner for one order: for commands, while no daemon of this configuration runs.
///
/// A backfill is read to its end, or until `stop`; `asked` is told before that.
pub async fn carry_out(
    config: Config,
    order: Order,
    status: StatusBoard,
    stop: CancellationToken,
    asked: impl FnOnce(&str),
) -> Result<String, Ended> {
    let _lock = StateLock::acquire(config.state_dir().or_exit(Exit::Usage)?).or_exit(Exit::State)?;
    let (_orders, ordered) = mpsc::channel(1);
    let myself = Myself::new("none (a command)".to_owned());
    let connector =
        connector(&config, TopicCheck::Ensure, myself, &status, Arc::new(Metrics::default()), ordered, &stop).await?;
    match connector {
        Some(connector) => connector.carry_out(order, stop, asked).await.map_err(Ended::from),
        None => Err(anyhow!("stopped")).or_exit(Exit::Internal),
    }
}

/// Compares the view with the journal, for commands, while no daemon works on the state directory.
pub async fn verify(config: &Config) -> Result<String, Ended> {
    let dir = config.state_dir().or_exit(Exit::Usage)?;
    let _lock = StateLock::acquire(dir).or_exit(Exit::State)?;
    let view = match tokio::task::block_in_place(|| SledView::look(dir)) {
        // After an upgrade: there is nothing to compare, and nothing wrong.
        Err(other @ StoreError::OtherLayout { .. }) => return Ok(other.to_string()),
        view => view.or_exit(Exit::State)?,
    };
    let topics = Topics::assumed(&config.kafka.topic, &config.kafka.journal);
    let cluster = KafkaCluster::new(&config.kafka, topics).or_exit(Exit::Sink)?;
    verify_view(Arc::new(cluster), Arc::new(view)).await.map_err(Ended::from)
}

/// The parts put together; `None` when told to stop before Kafka was there.
async fn connector(
    config: &Config,
    topics: TopicCheck,
    myself: Myself,
    status: &StatusBoard,
    metrics: Arc<Metrics>,
    orders: mpsc::Receiver<OrderRequest>,
    stop: &CancellationToken,
) -> Result<Option<Connector<Api, KafkaCluster, SledView>>, Ended> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let privacy = config.privacy.policy().or_exit(Exit::Usage)?;
    let dir = config.state_dir().or_exit(Exit::Usage)?;
    let instance = Instance::load_or_create(dir, clock.nonce()).or_exit(Exit::State)?;
    let view = open_view(dir, status).await?;
    let source = Arc::new(Api::new(config.source.clone()).or_exit(Exit::Usage)?);
    let Some((cluster, framings)) = reach_kafka(config, topics, status, stop).await? else {
        return Ok(None);
    };
    metrics.show_kafka(cluster.figures());
    let identity = Identity {
        instance,
        process: myself.process,
        host: myself.host,
        admin: myself.admin,
        version: VERSION.to_owned(),
    };
    let terms = Terms {
        identity,
        units: config.source.pbx_ids.clone(),
        delivery: config.kafka.delivery,
        beat: config.kafka.beat,
        journal: config.kafka.journal.clone(),
        topic: config.kafka.topic.clone(),
        source: source_fingerprint(&config.source),
        status_framing: framings.status,
    };
    let delays = delays(config);
    let behind_max = behind_max(config);
    let records = RecordTerms {
        framing: framings.legs,
        timestamp: config.kafka.timestamp,
        time_basis: config.source.time_basis,
        delays,
        apart_max: config.poll.interval.longest() * 3,
        behind_max,
        revisions: config.policy.revisions,
        dead_ratio_max: config.dead_letter.max_ratio,
        privacy,
        are_unreadable_rows_shown: config.dead_letter.raw,
    };
    Ok(Some(Connector {
        source,
        cluster: Arc::new(cluster),
        view: Arc::new(view),
        clock,
        terms,
        records,
        pace: Pace {
            interval: config.poll.interval.longest(),
            poll_budget: (config.poll.interval == config::PollInterval::Auto)
                .then_some(config.source.requests_per_minute),
            window_max: config.poll.max_window,
            behind_max,
            request_every: Duration::from_secs(60) / config.source.requests_per_minute.max(1),
            window_rows: window_length::WINDOW_ROWS,
            page_rows: usize::try_from(config.source.page_size).unwrap_or(usize::MAX),
            clock_tolerance: config.poll.clock_tolerance,
            sweeps: config.sweeps.clone(),
            time_zone: config.source.time_zone,
            delays,
            belief: Belief { ratio_max: config.dead_letter.max_ratio, time_basis: config.source.time_basis },
        },
        start_from: config.poll.start_from,
        status: status.clone(),
        metrics,
        orders,
    }))
}

/// A hash of what decides which legs the source shows: with other settings, what was read covers something else.
pub fn source_fingerprint(source: &config::Source) -> u64 {
    // These words are in journals: with others, what was read would count as read with other settings.
    let basis = match source.time_basis {
        TimeBasis::Disconnect => "Disconnect",
        TimeBasis::Connect => "Connect",
    };
    let mut text = format!("{basis} {}", source.simplified);
    for filter in [&source.callers, &source.callees, &source.callers_or_callees] {
        let mut values: Vec<&str> = filter.iter().map(String::as_str).collect();
        values.sort_unstable();
        text.push('\n');
        text.push_str(&values.join(","));
    }
    xxh3_64(text.as_bytes())
}

impl From<ConnectorError> for Ended {
    fn from(error: ConnectorError) -> Self {
        let exit = match &error {
            ConnectorError::Sink(_) | ConnectorError::Journal(JournalFault::NoTransactions(_)) => Exit::Sink,
            ConnectorError::Store(_) | ConnectorError::Journal(_) | ConnectorError::OwnerAlive { .. } => Exit::State,
            ConnectorError::NoStart(_) => Exit::Usage,
            ConnectorError::Order(_) => Exit::Usage,
            ConnectorError::Worker(_) => Exit::Internal,
        };
        Ended { exit, error: error.into() }
    }
}

async fn open_view(dir: &Path, status: &StatusBoard) -> Result<SledView, Ended> {
    let _step = status.bounded_step("opening the store", Duration::from_secs(60));
    let dir = dir.to_owned();
    match tokio::task::spawn_blocking(move || SledView::open(&dir)).await {
        Ok(Err(error @ StoreError::Hangs { .. })) => {
            tracing::warn!("{error}; starting again by itself");
            let Err(error) = start_again();
            Err(error).or_exit(Exit::State)
        }
        Ok(opened) => opened.or_exit(Exit::State),
        Err(ended) => Err(anyhow!("state.dir: opening the store failed: {}", panics::why(&ended))).or_exit(Exit::State),
    }
}

/// Replaces this process by a new one with the same arguments: a thread that hangs in sled ends no other way.
fn start_again() -> std::io::Result<std::convert::Infallible> {
    let mut arguments = std::env::args_os();
    let _name = arguments.next();
    Err(std::process::Command::new(std::env::current_exe()?).args(arguments).exec())
}

/// What stands before the data of each topic that consumers read.
struct Framings {
    legs: Framing,
    status: Framing,
}

/// Waits for Kafka and the registry; `None` when told to stop before they were there.
async fn reach_kafka(
    config: &Config,
    topics: TopicCheck,
    status: &StatusBoard,
    stop: &CancellationToken,
) -> Result<Option<(KafkaCluster, Framings)>, Ended> {
    let mut repeated = Repeated::default();
    for attempt in 1.. {
        let reached = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(None),
            reached = reach_once(config, topics) => reached,
        };
        let waiting_for = match reached {
            Ok((topics, framings)) => {
                if let Some(Streak { lasted, .. }) = repeated.works() {
                    tracing::info!(waited_s = lasted.as_secs(), "what was waited for is there");
                }
                status.update(|status| status.waiting_for = None);
                topics.warnings().for_each(|warning| tracing::warn!("{warning}"));
                if let Some(warning) = retention_warning(&topics.legs, config) {
                    tracing::warn!("{warning}");
                }
                let cluster = KafkaCluster::new(&config.kafka, topics).or_exit(Exit::Sink)?;
                return Ok(Some((cluster, framings)));
            }
            Err(Reach::Wait(reason)) => reason,
            Err(Reach::Refused(ended)) => return Err(ended),
        };
        let pause = START_BACKOFF.pause(attempt, rand::random());
        // What follows the first colon differs from one attempt to the next.
        let kind = waiting_for.split(": ").next().unwrap_or_default();
        if let Some(Streak { failures, .. }) = repeated.failed(kind) {
            tracing::warn!(failures, again_in_s = pause.as_secs(), "waiting: {waiting_for}");
        }
        status.update(|status| status.waiting_for = Some(waiting_for));
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(pause) => {}
        }
    }
    Ok(None)
}

enum Reach {
    Wait(String),
    Refused(Ended),
}

impl From<SinkError> for Reach {
    fn from(error: SinkError) -> Self {
        match error {
            SinkError::Unavailable(reason) => Self::Wait(reason),
            SinkError::Refused(_) | SinkError::NoTransactions(_) => {
                Self::Refused(Ended { exit: Exit::Sink, error: error.into() })
            }
        }
    }
}

impl From<RegistryError> for Reach {
    fn from(error: RegistryError) -> Self {
        let (is_retryable, error) = (error.is_retryable(), anyhow!(error));
        if is_retryable { Self::Wait(format!("{error:#}")) } else { Self::Refused(Ended { exit: Exit::Sink, error }) }
    }
}

async fn reach_once(config: &Config, check: TopicCheck) -> Result<(Topics, Framings), Reach> {
    let topics = match check {
        TopicCheck::Ensure | TopicCheck::EnsureToPoll => {
            let admin = Arc::new(TopicAdmin::new(&config.kafka)?);
            let needs_start = check == TopicCheck::EnsureToPoll && config.poll.start_from.is_none();
            if needs_start && admin.look_up(&config.kafka.journal).await?.is_none() {
                let unit = config.source.pbx_ids.first().cloned().unwrap_or_default();
                return Err(Reach::Refused(ConnectorError::NoStart(unit).into()));
            }
            admin.ensure(&config.kafka, &config.kafka.journal).await?
        }
        TopicCheck::Assume => Topics::assumed(&config.kafka.topic, &config.kafka.journal),
    };
    let framings = Framings {
        legs: framing(config, schema::call_leg(), &config.kafka.topic).await?,
        status: framing(config, schema::status(), &topics::status(&config.kafka.topic)).await?,
    };
    Ok((topics, framings))
}

/// What stands before each datum; with a registry, the id it gives the schema.
async fn framing(config: &Config, published: &PublishedSchema, topic: &str) -> Result<Framing, Reach> {
    let config::Framing::Confluent(settings) = &config.avro.framing else {
        return Ok(Framing::SingleObject { fingerprint: published.crc64_avro() });
    };
    let registry = registry(settings).map_err(|error| Reach::Refused(Ended { exit: Exit::Sink, error }))?;
    let subject = subject_of_values(topic);
    let schema_id = if settings.register {
        registry.register(&subject, published.compact()).await?
    } else {
        registry.lookup(&subject, published.compact()).await?
    };
    tracing::info!(subject, schema_id, "the schema registry knows the schema");
    Ok(Framing::Confluent { schema_id })
}

/// A client of the configured schema registry.
pub fn registry(settings: &config::Registry) -> anyhow::Result<Registry> {
    let source =
        |secret: Secret| -> registry::PasswordSource { Arc::new(move || secret.read().map_err(std::io::Error::other)) };
    let authorization = match settings.sign_in.clone() {
        None => None,
        Some(SignIn::Basic(config::Credentials { username, password })) => {
            Some(Authorization::Basic(registry::Credentials { username, password: source(password) }))
        }
        Some(SignIn::Token(token)) => Some(Authorization::Bearer(source(token))),
        Some(SignIn::OAuth(oauth)) => {
            Some(Authorization::OAuth(Arc::new(TokenClient::new(oauth, "the schema registry")?)))
        }
    };
    let (connect_timeout, request_timeout) = REGISTRY_TIMEOUTS;
    let settings = registry::Settings {
        url: settings.url.clone(),
        authorization,
        identity: settings.identity.clone(),
        ca_file: settings.ca_file.clone(),
        connect_timeout,
        request_timeout,
    };
    Ok(Registry::new(settings)?)
}

/// What is wrong when the topic deletes records younger than those that are to be published.
pub fn retention_warning(legs: &Topic, config: &Config) -> Option<String> {
    let retention = legs.retention?;
    let now = SystemClock.now();
    let age = now.since(config.poll.start_from?.resolve(now).at);
    (config.kafka.timestamp == config::MessageTimestamp::Disconnect && age > retention).then(|| {
        format!(
            "topic {}: its retention.ms of {} is shorter than the age of the oldest legs to be published ({}), which Kafka may delete before anyone reads them: raise it, set kafka.timestamp = \"publish\", or start later",
            legs.name,
            exact(retention),
            length(age),
        )
    })
}

fn delays(config: &Config) -> Delays {
    Delays { settle: config.poll.settle, overlap: config.poll.overlap, horizon: config.state.horizon }
}

/// How far a leg lies behind the newest one at the most, unless it is marked late; `None` where no order is promised.
fn behind_max(config: &Config) -> Option<Duration> {
    let is_in_order = config.source.time_basis == TimeBasis::Disconnect;
    is_in_order.then(|| delays(config).behind_max(config.poll.interval.longest()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values that are in journals: a version that has others refuses every one of them.
    #[test]
    fn the_source_is_recognised_by_every_later_version() {
        for (settings, known) in [
            ("", 0x8327_1306_ba53_3259),
            ("source.time_basis = \"connect\"\nsource.simplified = true", 0x263c_113c_7e3a_c54d),
            ("source.simplified = true\nsource.callers = [\"102\", \"101\"]", 0xd663_ed26_d808_c8f9),
            ("source.time_basis = \"connect\"\nsource.callees = [\"2\", \"9\"]", 0x68d2_2498_4cde_a6bd),
            ("source.callers_or_callees = [\"Anonymous\", \"+15550001234\"]", 0x85b1_e6c1_c97d_4918),
        ] {
            let text = format!(
                "source.api_key = \"k\"\nsource.username = \"u\"\nsource.password = \"p\"\nkafka.bootstrap_servers = \"k\"\navro.framing = \"single-object\"\nstate.dir = \"/tmp/s\"\npoll.overlap = \"12h\"\n{settings}"
            );
            let no_variables: [(String, String); 0] = [];
            let config = Config::parse("test", &text, no_variables).unwrap();
            assert_eq!(source_fingerprint(&config.source), known, "{settings}");
        }
    }
}
