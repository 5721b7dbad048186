//! `check`: validates the configuration and asks API, Kafka, registry and collector once; prints a line for each.
//!
//! It writes nothing anywhere and takes no lock, so it works beside a live daemon.

use std::fmt::Display;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use rustix::fs::{Access, access};
use rustix::io::Errno;
use serde::Serialize;
use serde_json::json;
use tokio::net::TcpListener;

use super::owner::url_of;
use super::state::cluster;
use super::{print_line, status};
use crate::clock::{Clock, SystemClock};
use crate::codec::registry::subject_of_values;
use crate::codec::{RegistryError, schema};
use crate::config::{self, Config, Secret};
use crate::connector::{ConnectorError, read_journal};
use crate::core::journal::UnitProgress;
use crate::core::ledger::Ledger;
use crate::core::query::query_bounds;
use crate::core::time::Window;
use crate::core::words::{count, exact};
use crate::daemon::{self, retention_warning};
use crate::error::{Ended, Exit, OrExit};
use crate::sink::client::check_properties;
use crate::sink::topics::{self, Creation, Topic, TopicAdmin};
use crate::sink::{Destination, SinkError};
use crate::source::{Api, Source};
use crate::telemetry::otlp::Otlp;

/// The window of the request that is tried for each unit.
const TRIED_WINDOW: Duration = Duration::from_secs(600);

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The TOML file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Check the configuration alone: ask nobody, and need no file that holds a secret
    #[arg(long)]
    offline: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What came of one check.
#[derive(Serialize)]
struct Finding {
    check: String,
    /// `ok`, `warn` or `failed`.
    result: &'static str,
    text: String,
}

/// What was found, and the exit code of the first failure.
struct Findings {
    is_json: bool,
    all: Vec<Finding>,
    first_failure: Option<Exit>,
    failures: u32,
}

impl Findings {
    fn ok(&mut self, what: &str, detail: impl Display) -> Result<(), Ended> {
        self.add("ok", what, &detail)
    }

    fn warn(&mut self, what: &str, detail: impl Display) -> Result<(), Ended> {
        self.add("warn", what, &detail)
    }

    fn fail(&mut self, exit: Exit, what: &str, detail: impl Display) -> Result<(), Ended> {
        self.first_failure.get_or_insert(exit);
        self.failures += 1;
        self.add("failed", what, &detail)
    }

    fn add(&mut self, result: &'static str, what: &str, detail: &dyn Display) -> Result<(), Ended> {
        let finding = Finding { check: what.to_owned(), result, text: detail.to_string() };
        let printed = if self.is_json {
            Ok(())
        } else {
            let word = if result == "failed" { "FAIL" } else { result };
            print_line(&format!("{word:<4}  {what}: {}", finding.text))
        };
        self.all.push(finding);
        printed
    }

    fn end(self) -> Result<(), Ended> {
        if self.is_json {
            let exit = self.first_failure.map_or(0, |exit| exit as u8);
            let said = json!({ "ok": self.failures == 0, "exitCode": exit, "checks": self.all });
            print_line(&said.to_string())?;
        }
        match self.first_failure {
            None => Ok(()),
            Some(exit) => Err(anyhow!("{} of the checks failed", self.failures)).or_exit(exit),
        }
    }
}

pub(super) async fn run(arguments: CheckArgs) -> Result<(), Ended> {
    let CheckArgs { config: path, offline, json } = arguments;
    let mut findings = Findings { is_json: json, all: Vec::new(), first_failure: None, failures: 0 };
    let config = match Config::read(Some(&path), std::env::vars_os()) {
        Ok(config) => config,
        Err(error) => {
            error.problems().iter().try_for_each(|problem| findings.fail(Exit::Usage, "configuration", problem))?;
            return findings.end();
        }
    };
    findings.ok("configuration", path.display())?;
    for warning in config.warnings() {
        findings.warn("configuration", warning)?;
    }
    if offline {
        check_offline(&config, &mut findings)?;
    } else {
        check_online(&config, &mut findings).await?;
    }
    findings.end()
}

/// What the configuration says by itself.
fn check_offline(config: &Config, findings: &mut Findings) -> Result<(), Ended> {
    for problem in config.check_files().err().iter().flat_map(|error| error.problems()) {
        findings.warn("configuration", format!("{problem}; run needs it"))?;
    }
    if config.state.dir.is_none() {
        findings.warn("state directory", NO_STATE_DIR)?;
    }
    if config.poll.start_from.is_none() {
        findings
            .warn("first read", "poll.start_from is not set, which the first start needs: set it to \"now-24h\"")?;
    }
    match check_properties(&config.kafka) {
        Ok(()) => findings.ok("kafka", "librdkafka takes kafka.properties")?,
        Err(error) => findings.fail(Exit::Sink, "kafka", error)?,
    }
    check_requests(config, &[], findings)?;
    findings.ok("everything else", "not tried: --offline asks nobody")
}

async fn check_online(config: &Config, findings: &mut Findings) -> Result<(), Ended> {
    if let Err(error) = config.check_files() {
        return error.problems().iter().try_for_each(|problem| findings.fail(Exit::Usage, "configuration", problem));
    }
    check_state(config, findings)?;
    check_admin(config, findings).await?;
    check_source(config, findings).await?;
    check_kafka(config, findings).await?;
    check_registry(config, findings).await?;
    check_collector(config, findings).await
}

const NO_STATE_DIR: &str = "state.dir is not set, which run needs";

fn check_state(config: &Config, findings: &mut Findings) -> Result<(), Ended> {
    let Some(dir) = &config.state.dir else { return findings.warn("state directory", NO_STATE_DIR) };
    // The daemon creates what is missing, so the nearest directory that exists is the one that counts.
    let absolute = std::path::absolute(dir).unwrap_or_else(|_| dir.clone());
    let existing = absolute.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    let writable =
        if existing.is_dir() { access(existing, Access::WRITE_OK | Access::EXEC_OK) } else { Err(Errno::NOTDIR) };
    match writable {
        Ok(()) if existing == absolute => findings.ok("state directory", format!("{} can be written", dir.display())),
        Ok(()) => findings.ok("state directory", format!("{} will be created", dir.display())),
        Err(error) => findings.fail(
            Exit::State,
            "state directory",
            format!("state.dir: {} cannot be written ({error}): change its owner or name another", existing.display()),
        ),
    }
}

/// Whether the polls' requests are within the budget, with these rows in each unit's overlap.
fn check_requests(config: &Config, overlap_rows: &[u64], findings: &mut Findings) -> Result<(), Ended> {
    let polls = config.poll_requests(overlap_rows);
    if polls.is_too_many() { findings.warn("requests", polls) } else { findings.ok("requests", polls) }
}

/// Whether the admin port can be listened on, or is a running call-legs' already.
async fn check_admin(config: &Config, findings: &mut Findings) -> Result<(), Ended> {
    let address = config.admin.listen;
    if !address.ip().is_loopback() && config.admin.token.is_none() {
        let open = "is open to the network without admin.token: whoever reaches it may look (and not order)";
        findings.warn("admin port", format!("admin.listen: {address} {open}"))?;
    }
    let error = match TcpListener::bind(address).await {
        Ok(_) => return findings.ok("admin port", format!("{address} is free")),
        Err(error) => error,
    };
    let fails = format!("admin.listen: cannot listen on {address} ({error}): name another address");
    if error.kind() != ErrorKind::AddrInUse {
        return findings.fail(Exit::Usage, "admin port", fails);
    }
    let token = config.admin.token.as_ref().map(Secret::read).transpose().or_exit(Exit::Usage)?;
    match status::fetch(&url_of(address), token).await {
        Ok((_, running)) => {
            findings.ok("admin port", format!("{address} is a call-legs' that runs: {}", running.headline.sentence))
        }
        Err(_) => findings.fail(Exit::Usage, "admin port", fails),
    }
}

async fn check_source(config: &Config, findings: &mut Findings) -> Result<(), Ended> {
    let mut settings = config.source.clone();
    settings.page_size = 1;
    let source = Api::new(settings).or_exit(Exit::Usage)?;
    if let Err(error) = source.log_in().await {
        findings.fail(Exit::Source, "token", error)?;
        return findings.warn("reports", "not tried without a token");
    }
    findings.ok("token", "the source gives one")?;
    let now = SystemClock.now().floor_second();
    let Some(bounds) = query_bounds(Window::new(now.minus(TRIED_WINDOW), now), config.source.time_zone) else {
        return findings.fail(Exit::Usage, "clock", format!("this machine's clock shows {now}"));
    };
    let mut overlap_rows = Vec::new();
    for unit in &config.source.pbx_ids {
        let what = format!("report of unit {unit}");
        match source.fetch(unit, &bounds, None, None).await {
            Ok(page) => {
                let rows = page.total.unwrap_or(page.len() as u64);
                overlap_rows.push((rows as f64 * config.poll.overlap.div_duration_f64(TRIED_WINDOW)) as u64);
                findings.ok(&what, format!("{} in the last ten minutes", count(rows, "leg")))?;
            }
            Err(error) => findings.fail(Exit::Source, &what, error)?,
        }
    }
    check_requests(config, &overlap_rows, findings)?;
    if let Some(skew) = source.skew() {
        if skew.exceeds(config.poll.clock_tolerance) {
            findings.fail(
                Exit::Source,
                "clock",
                format!("the source's clock is {:.0} s from ours, beyond poll.clock_tolerance: the watermarks would wait; check time synchronisation", skew.seconds()),
            )?;
        } else {
            findings.ok("clock", "agrees with the source's")?;
        }
    }
    Ok(())
}

async fn check_kafka(config: &Config, findings: &mut Findings) -> Result<(), Ended> {
    let admin = match TopicAdmin::new(&config.kafka) {
        Ok(admin) => std::sync::Arc::new(admin),
        Err(error) => return findings.fail(Exit::Sink, "kafka", error),
    };
    // The brokers that are named may answer where the others, or the same by another name, do not.
    match admin.reach().await {
        Ok(()) => findings.ok("kafka", "every broker answers at its advertised listener")?,
        Err(error) => return findings.fail(Exit::Sink, "kafka", error),
    }
    let mut described = Vec::new();
    let mut has_journal = None;
    for (destination, name) in topics::names(&config.kafka) {
        let what = format!("topic {name}");
        let found = admin.look_up(&name).await;
        if let (Destination::Journal, Ok(found)) = (destination, &found) {
            has_journal = Some(found.is_some());
        }
        match found {
            Ok(Some(partitions)) => match admin.describe(destination, &name, partitions).await {
                Ok(topic) => {
                    findings.ok(&what, describe(&topic))?;
                    described.push((destination, topic));
                }
                Err(error) => findings.fail(Exit::Sink, "kafka", error)?,
            },
            Ok(None) => findings.ok(&what, describe_creation(&topics::creation(destination, &config.kafka)))?,
            Err(error @ SinkError::Unavailable(_)) => return findings.fail(Exit::Sink, "kafka", error),
            // The sentence names the topic itself.
            Err(error) => findings.fail(Exit::Sink, "kafka", error)?,
        }
    }
    for warning in described.iter().flat_map(|(_, topic)| &topic.warnings) {
        findings.warn("kafka", warning)?;
    }
    let legs = described.iter().find(|(destination, _)| *destination == Destination::Legs);
    if let Some(warning) = legs.and_then(|(_, legs)| retention_warning(legs, config)) {
        findings.warn("kafka", warning)?;
    }
    check_start(config, has_journal, findings).await
}

/// Whether it is known where the first read begins: that is asked once, before anything was read.
///
/// Whether there is a journal is `None` where Kafka does not say.
async fn check_start(config: &Config, has_journal: Option<bool>, findings: &mut Findings) -> Result<(), Ended> {
    if let Some(start_from) = config.poll.start_from {
        let at = start_from.resolve(SystemClock.now()).at;
        return findings.ok("first read", format!("of a unit that was never read: from {at} on (poll.start_from)"));
    }
    let ledger = match has_journal {
        Some(true) => read_journal(&cluster(config)?).await,
        Some(false) => Ok(Ledger::default()),
        None => {
            return findings
                .warn("first read", "poll.start_from is not set, and Kafka does not say whether it is needed");
        }
    };
    match ledger {
        Ok(ledger) if ledger.head.units.values().any(UnitProgress::is_started) => {
            findings.ok("first read", "the journal says how far each unit was read")
        }
        Ok(_) => {
            let unit = config.source.pbx_ids.first().cloned().unwrap_or_default();
            findings.fail(Exit::Usage, "first read", ConnectorError::NoStart(unit))
        }
        Err(error) => {
            let Ended { exit, error } = error.into();
            findings.fail(exit, "first read", format!("{error:#}"))
        }
    }
}

fn describe_creation(creation: &Creation<'_>) -> String {
    let replicas = match creation.replication_factor {
        Some(factor) => count(u64::from(factor.unsigned_abs()), "replica"),
        None => "the broker's number of replicas".to_owned(),
    };
    let partitions = count(u64::from(creation.partitions.unsigned_abs()), "partition");
    let settings: String = creation.settings.iter().map(|(key, value)| format!(", {key}={value}")).collect();
    format!("does not exist; run creates it with {partitions}, {replicas}{settings}")
}

fn describe(topic: &Topic) -> String {
    let retention = match topic.retention {
        _ if topic.is_compacted => "compacted".to_owned(),
        Some(retention) => format!("kept for {}", exact(retention)),
        None => "kept for ever".to_owned(),
    };
    format!(
        "{}, {retention}, records up to {} bytes",
        count(topic.partitions as u64, "partition"),
        topic.message_bytes_max
    )
}

async fn check_registry(config: &Config, findings: &mut Findings) -> Result<(), Ended> {
    let config::Framing::Confluent(settings) = &config.avro.framing else {
        return findings.ok("schema registry", "not needed for single-object framing");
    };
    let registry = daemon::registry(settings).or_exit(Exit::Usage)?;
    let subject = subject_of_values(&config.kafka.topic);
    match registry.lookup(&subject, schema::call_leg().compact()).await {
        Ok(id) => return findings.ok("schema registry", format!("subject {subject} has our schema under id {id}")),
        Err(RegistryError::NotFound { .. }) => {}
        Err(error) => return findings.fail(Exit::Sink, "schema registry", format!("{:#}", anyhow!(error))),
    }
    if !settings.register {
        return findings.fail(
            Exit::Sink,
            "schema registry",
            format!("subject {subject} lacks our schema and avro.register is false: register it with call-legs schema --register"),
        );
    }
    match registry.incompatibilities(&subject, schema::call_leg().compact()).await {
        Ok(reasons) if reasons.is_empty() => {
            findings.ok("schema registry", format!("subject {subject} will take our schema"))
        }
        Ok(reasons) => findings.fail(
            Exit::Sink,
            "schema registry",
            format!("subject {subject} refuses our schema: {}", reasons.join("; ")),
        ),
        Err(error) => findings.fail(Exit::Sink, "schema registry", format!("{:#}", anyhow!(error))),
    }
}

/// No leg waits for it, so it fails nothing.
async fn check_collector(config: &Config, findings: &mut Findings) -> Result<(), Ended> {
    let Some(endpoint) = &config.telemetry.otlp_endpoint else { return Ok(()) };
    match Otlp::new(endpoint.clone()).or_exit(Exit::Usage)?.probe().await {
        Ok(()) => findings.ok("collector", "takes traces"),
        Err(why) => findings.warn("collector", format!("telemetry.otlp_endpoint: {why}; legs do not wait for it")),
    }
}
