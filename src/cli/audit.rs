//! `audit`: whether the topic holds what the API shows, leg by leg.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use tokio::time::{Instant, MissedTickBehavior};

use super::state::{cluster, instant};
use super::{load, print_line};
use crate::audit::{self, AuditError, Progress, Question};
use crate::clock::{Clock, SystemClock};
use crate::codec::{Decoder, schema};
use crate::config::StartFrom;
use crate::daemon;
use crate::error::{Ended, Exit, OrExit};
use crate::source::Api;

/// How often it is told on standard error how much was read.
const TOLD_EVERY: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub(super) struct AuditArgs {
    /// The TOML file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// From which disconnect time on: an instant in RFC 3339, or a time ago such as now-48h
    #[arg(long, value_name = "T", value_parser = instant)]
    from: StartFrom,
    /// Up to which, itself not included; at least poll.settle ago
    #[arg(long, value_name = "T", value_parser = instant)]
    to: StartFrom,
    /// Only this unit: an entry of source.pbx_ids
    #[arg(long, value_name = "UNIT")]
    unit: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: AuditArgs) -> Result<(), Ended> {
    let config = load(&arguments.config)?;
    let units = match arguments.unit {
        None => config.source.pbx_ids.clone(),
        Some(unit) if config.source.pbx_ids.contains(&unit) => vec![unit],
        Some(unit) => {
            let known = config.source.pbx_ids.join(", ");
            return Err(anyhow!("--unit: {unit} is no entry of source.pbx_ids, which has {known}"))
                .or_exit(Exit::Usage);
        }
    };
    let source_settings = daemon::source_fingerprint(&config.source);
    let question = Question::new(&config, source_settings, units, arguments.from, arguments.to);
    question.check(SystemClock.now()).or_exit(Exit::Usage)?;
    let source = Api::new(config.source.clone()).or_exit(Exit::Usage)?;
    let cluster = cluster(&config)?;
    let registry = config.avro.framing.registry().map(daemon::registry).transpose().or_exit(Exit::Usage)?;
    let decoder = Decoder::new(schema::call_leg(), registry.map(Arc::new));
    let progress = Progress::default();

    let comparing = audit::run(&question, &source, &cluster, &decoder, &SystemClock, &progress);
    tokio::pin!(comparing);
    let mut tell = tokio::time::interval_at(Instant::now() + TOLD_EVERY, TOLD_EVERY);
    tell.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let report = loop {
        tokio::select! {
            biased;
            report = &mut comparing => break report.map_err(ended_by)?,
            _ = tell.tick() => eprintln!("{progress}"),
        }
    };
    eprintln!("{progress}");
    if arguments.json {
        print_line(&report.json().to_string())?;
    } else {
        report.lines().iter().try_for_each(|line| print_line(line))?;
    }
    if report.is_equal() {
        Ok(())
    } else {
        Err(anyhow!("topic and API are not equal, or could not be compared whole")).or_exit(Exit::Differences)
    }
}

fn ended_by(error: AuditError) -> Ended {
    let exit = match &error {
        AuditError::Period(_) => Exit::Usage,
        AuditError::Source(_) => Exit::Source,
        AuditError::Sink(_) | AuditError::Decode(_) => Exit::Sink,
        AuditError::Journal(_) | AuditError::NoJournal(_) => Exit::State,
    };
    Ended { exit, error: error.into() }
}
