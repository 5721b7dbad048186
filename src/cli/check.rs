//! `check`: validates the configuration and asks API, Kafka, registry and collector once; prints a line for each.
//!
//! It writes nothing anywhere and takes no lock, so it works beside a live daemon.

use std::fmt::Display;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use anyhow::anyhow;
use rustix::fs::{Access, access};
use rustix::io::Errno;
use tokio::net::TcpListener;

use super::owner::url_of;
use super::{load, print_line, status};
use crate::clock::{Clock, SystemClock};
use crate::codec::registry::subject_of_values;
use crate::codec::{RegistryError, schema};
use crate::config::{self, Config, Secret};
use crate::core::query::query_bounds;
use crate::core::time::Window;
use crate::core::words::{count, exact};
use crate::daemon::{self, retention_warning};
use crate::error::{Ended, Exit, OrExit};
use crate::sink::topics::{self, Topic, TopicAdmin};
use crate::sink::{Destination, SinkError};
use crate::source::{Api, Source};
use crate::telemetry::otlp::Otlp;

/// The window of the request that is tried for each unit.
const TRIED_WINDOW: Duration = Duration::from_secs(600);

/// What was found, and the exit code of the first failure.
struct Findings {
    first_failure: Option<Exit>,
    failures: u32,
}

impl Findings {
    fn ok(&mut self, what: &str, detail: impl Display) -> Result<(), Ended> {
        print_line(&format!("ok    {what}: {detail}"))
    }

    fn warn(&mut self, what: &str, detail: impl Display) -> Result<(), Ended> {
        print_line(&format!("warn  {what}: {detail}"))
    }

    fn fail(&mut self, exit: Exit, what: &str, detail: impl Display) -> Result<(), Ended> {
        self.first_failure.get_or_insert(exit);
        self.failures += 1;
        print_line(&format!("FAIL  {what}: {detail}"))
    }
}

pub(super) async fn run(path: &Path) -> Result<(), Ended> {
    let config = load(path)?;
    let mut findings = Findings { first_failure: None, failures: 0 };
    findings.ok("configuration", path.display())?;
    for warning in config.warnings() {
        findings.warn("configuration", warning)?;
    }
    check_state(&config, &mut findings)?;
    check_admin(&config, &mut findings).await?;
    check_source(&config, &mut findings).await?;
    check_kafka(&config, &mut findings).await?;
    check_registry(&config, &mut findings).await?;
    check_collector(&config, &mut findings).await?;
    match findings.first_failure {
        None => Ok(()),
        Some(exit) => Err(anyhow!("{} of the checks failed", findings.failures)).or_exit(exit),
    }
}

fn check_state(config: &Config, findings: &mut Findings) -> Result<(), Ended> {
    let dir = &config.state.dir;
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
    for unit in &config.source.pbx_ids {
        let what = format!("report of unit {unit}");
        match source.fetch(unit, &bounds, None, None).await {
            Ok(page) => findings.ok(
                &what,
                format!("{} in the last ten minutes", count(page.total.unwrap_or(page.len() as u64), "leg")),
            )?,
            Err(error) => findings.fail(Exit::Source, &what, error)?,
        }
    }
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
    for (destination, name) in topics::names(&config.kafka) {
        let what = format!("topic {name}");
        match admin.look_up(&name).await {
            Ok(Some(partitions)) => match admin.describe(destination, &name, partitions).await {
                Ok(topic) => {
                    findings.ok(&what, describe(&topic))?;
                    described.push((destination, topic));
                }
                Err(error) => findings.fail(Exit::Sink, "kafka", error)?,
            },
            Ok(None) => findings.ok(&what, "does not exist; run creates it")?,
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
    Ok(())
}

fn describe(topic: &Topic) -> String {
    let retention = topic
        .retention
        .map_or_else(|| "kept for ever".to_owned(), |retention| format!("kept for {}", exact(retention)));
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
