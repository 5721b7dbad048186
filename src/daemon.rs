//! The daemon: the configuration put together into a running connector.
//!
//! It waits for Kafka and the registry at the start as it does later, so that the order in which
//! containers come up does not matter, and ends only by what no waiting mends.

use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Pages};
use crate::clock::{Clock, SystemClock};
use crate::codec::registry::{self, subject_of_values};
use crate::codec::{Framing, Registry, RegistryError, schema};
use crate::config::{self, Config};
use crate::connector::{Connector, ConnectorError, Destinations, Pace, Publisher};
use crate::core::retry::Backoff;
use crate::core::watermark::Delays;
use crate::error::{Ended, Exit, OrExit};
use crate::sink::topics::{TopicAdmin, Topics};
use crate::sink::{KafkaSink, SinkError};
use crate::source::Api;
use crate::store::{SledStore, StateLock};
use crate::telemetry::{Metrics, StatusBoard};

/// Between attempts to reach what is needed at the start.
const START_BACKOFF: Backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_secs(30) };

/// How long pages under way may take after the signal to stop; ending takes a second more, and a container
/// is killed after ten.
const STOP_GRACE: Duration = Duration::from_secs(8);

/// Connecting to the registry, and a whole request to it.
const REGISTRY_TIMEOUTS: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(15));

/// How the topics are treated at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicCheck {
    /// Verified, and created where missing.
    Ensure,
    /// Taken as they are: librdkafka's mock cluster answers no questions about them.
    Assume,
}

/// Runs the connector until `stop`, or until something ends it.
pub async fn run(
    config: Config,
    topics: TopicCheck,
    status: StatusBoard,
    stop: CancellationToken,
) -> Result<(), Ended> {
    if config.kafka.delivery == config::Delivery::ExactlyOnce {
        return Err(anyhow!(
            "kafka.delivery: this version delivers at least once only: set \"auto\" or \"at-least-once\""
        ))
        .or_exit(Exit::Usage);
    }
    tracing::info!("delivery is at least once: idempotent, acknowledged by all in-sync replicas");
    status.update(|status| status.waiting_for = Some("connecting to Kafka".to_owned()));
    let _lock = StateLock::acquire(&config.state.dir).or_exit(Exit::State)?;
    let store = open_store(&config, &status).await?;
    let metrics = Arc::new(Metrics::default());
    let listener = admin::listen(config.admin.listen)
        .await
        .map_err(|error| anyhow!("admin.listen: cannot listen on {}: {error}", config.admin.listen))
        .or_exit(Exit::Usage)?;
    let pages = Pages { status: status.clone(), metrics: Arc::clone(&metrics) };
    let served = CancellationToken::new();
    let _served_while_running = served.clone().drop_guard();
    tokio::spawn(admin::serve(listener, pages, served.cancelled_owned()));

    let source = Arc::new(Api::new(config.source.clone()).or_exit(Exit::Usage)?);
    let Some((sink, framing)) = reach_kafka(&config, topics, &status, &stop).await? else {
        return Ok(());
    };
    let destinations = Destinations { sink, store: Arc::new(store), framing };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let connector = Connector {
        source,
        publisher: Publisher::new(destinations, Arc::clone(&clock), status.clone(), Arc::clone(&metrics), stop.clone()),
        clock,
        units: config.source.pbx_ids.clone(),
        pace: pace(&config),
        start_from: config.poll.start_from,
        status: status.clone(),
        metrics,
    };
    let running = connector.run(stop.clone());
    tokio::pin!(running);
    let ended = tokio::select! {
        ended = &mut running => ended,
        () = stop.cancelled() => {
            tracing::info!("stopping: pages under way are finished first");
            status.update(|status| status.stopping = true);
            match tokio::time::timeout(STOP_GRACE, running).await {
                Ok(ended) => ended,
                Err(_) => {
                    tracing::warn!("Kafka did not take the page under way in time; it is read again after the next start");
                    Ok(())
                }
            }
        }
    };
    tracing::info!("stopped");
    ended.map_err(|error| Ended { exit: exit_of(&error), error: error.into() })
}

fn exit_of(error: &ConnectorError) -> Exit {
    match error {
        ConnectorError::Store(_) => Exit::State,
        ConnectorError::NoStart(_) => Exit::Usage,
        ConnectorError::Worker(_) => Exit::Internal,
    }
}

fn pace(config: &Config) -> Pace {
    Pace {
        interval: config.poll.interval,
        window_max: config.poll.max_window,
        clock_tolerance: config.poll.clock_tolerance,
        time_zone: config.source.time_zone,
        delays: Delays { settle: config.poll.settle, overlap: config.poll.overlap, horizon: config.state.horizon },
    }
}

async fn open_store(config: &Config, status: &StatusBoard) -> Result<SledStore, Ended> {
    let _step = status.bounded_step("opening the store", Duration::from_secs(60));
    let dir = config.state.dir.clone();
    match tokio::task::spawn_blocking(move || SledStore::open(&dir)).await {
        Ok(opened) => opened.or_exit(Exit::State),
        Err(_) => {
            Err(anyhow!("state.dir: the store in {} is damaged: sled cannot open it", config.state.dir.display()))
                .or_exit(Exit::State)
        }
    }
}

/// Waits for Kafka and the registry; `None` when told to stop before they were there.
async fn reach_kafka(
    config: &Config,
    topics: TopicCheck,
    status: &StatusBoard,
    stop: &CancellationToken,
) -> Result<Option<(KafkaSink, Framing)>, Ended> {
    for attempt in 1.. {
        let reached = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(None),
            reached = reach_once(config, topics) => reached,
        };
        let waiting_for = match reached {
            Ok((topics, framing)) => {
                status.update(|status| status.waiting_for = None);
                topics.warnings().for_each(|warning| tracing::warn!("{warning}"));
                if let Some(warning) = retention_warning(&topics, config) {
                    tracing::warn!("{warning}");
                }
                let sink = KafkaSink::new(&config.kafka, topics).or_exit(Exit::Sink)?;
                return Ok(Some((sink, framing)));
            }
            Err(Reach::Wait(reason)) => reason,
            Err(Reach::Refused(error)) => return Err(Ended { exit: Exit::Sink, error }),
        };
        let pause = START_BACKOFF.pause(attempt, rand::random());
        tracing::warn!(again_in_s = pause.as_secs(), "waiting: {waiting_for}");
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
    Refused(anyhow::Error),
}

impl From<SinkError> for Reach {
    fn from(error: SinkError) -> Self {
        match error {
            SinkError::Unavailable(reason) => Self::Wait(reason),
            SinkError::Refused(_) => Self::Refused(error.into()),
        }
    }
}

impl From<RegistryError> for Reach {
    fn from(error: RegistryError) -> Self {
        if error.is_retryable() { Self::Wait(format!("{:#}", anyhow!(error))) } else { Self::Refused(error.into()) }
    }
}

async fn reach_once(config: &Config, check: TopicCheck) -> Result<(Topics, Framing), Reach> {
    let topics = match check {
        TopicCheck::Ensure => TopicAdmin::new(&config.kafka)?.ensure(&config.kafka).await?,
        TopicCheck::Assume => Topics::assumed(&config.kafka.topic),
    };
    Ok((topics, framing(config).await?))
}

/// What stands before each datum; with a registry, the id it gives our schema.
async fn framing(config: &Config) -> Result<Framing, Reach> {
    let published = schema::call_leg();
    let config::Framing::Confluent(settings) = &config.avro.framing else {
        return Ok(Framing::SingleObject { fingerprint: published.crc64_avro() });
    };
    let registry = registry(settings).map_err(Reach::Refused)?;
    let subject = subject_of_values(&config.kafka.topic);
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
    let credentials = settings.credentials.clone().map(|credentials| registry::Credentials {
        username: credentials.username,
        password: Arc::new(move || credentials.password.read().map_err(std::io::Error::other)),
    });
    let (connect_timeout, request_timeout) = REGISTRY_TIMEOUTS;
    let settings = registry::Settings {
        url: settings.url.clone(),
        credentials,
        ca_file: settings.ca_file.clone(),
        connect_timeout,
        request_timeout,
    };
    Ok(Registry::new(settings)?)
}

/// What is wrong when the topic deletes records younger than those that are to be published.
pub fn retention_warning(topics: &Topics, config: &Config) -> Option<String> {
    let retention = topics.legs.retention?;
    let now = SystemClock.now();
    let age = now.since(config.poll.start_from?.resolve(now).at);
    (config.kafka.timestamp == config::MessageTimestamp::Disconnect && age > retention).then(|| {
        format!(
            "topic {}: its retention.ms of {} is shorter than the age of the oldest legs to be published ({}), which Kafka may delete before anyone reads them: raise it, set kafka.timestamp = \"publish\", or start later",
            topics.legs.name,
            humantime::format_duration(retention),
            humantime::format_duration(Duration::from_secs(age.as_secs())),
        )
    })
}
