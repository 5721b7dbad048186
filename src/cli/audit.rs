//! `audit`: whether the topic holds what the API shows, leg by leg.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::anyhow;
use clap::Args;
use tokio::time::{Instant, MissedTickBehavior};

use super::progress::{Display, SHOWN_EVERY};
use super::state::{cluster, instant};
use super::{look, print_line};
use crate::audit::{self, AuditError, Progress, Question};
use crate::clock::{Clock, SystemClock};
use crate::codec::{Decoder, schema};
use crate::config::StartFrom;
use crate::core::words::count;
use crate::daemon;
use crate::error::{Ended, Exit, OrExit};
use crate::source::Api;

#[derive(Debug, Args)]
pub(super) struct AuditArgs {
    /// The TOML file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// From which disconnect time on: an instant in RFC 3339, or a time ago such as now-48h
    #[arg(long, value_name = "T", value_parser = instant)]
    from: StartFrom,
    /// Up to which, itself not included; at least poll.settle ago, which is the default
    #[arg(long, value_name = "T", value_parser = instant)]
    to: Option<StartFrom>,
    /// Only this unit: an entry of source.pbx_ids
    #[arg(long, value_name = "UNIT")]
    unit: Option<String>,
    /// The most requests in a minute, beside those of a daemon; half of source.requests_per_minute by default
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=6_000))]
    requests_per_minute: Option<u32>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: AuditArgs) -> Result<(), Ended> {
    let config = look(&arguments.config)?;
    config.check_files().or_exit(Exit::Usage)?;
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
    let question = Question::new(&config, source_settings, units, arguments.from, arguments.to).or_exit(Exit::Usage)?;
    question.check(SystemClock.now()).or_exit(Exit::Usage)?;
    let mut settings = config.source.clone();
    let (requests, why) = match arguments.requests_per_minute {
        Some(given) => (given, "by --requests-per-minute"),
        None => (
            (settings.requests_per_minute / 2).max(1),
            "half of source.requests_per_minute, which a daemon may use beside it; --requests-per-minute changes it",
        ),
    };
    eprintln!("Reads the API with at most {} a minute: {why}", count(u64::from(requests), "request"));
    settings.requests_per_minute = requests;
    let source = Api::new(settings).or_exit(Exit::Usage)?;
    let cluster = cluster(&config)?;
    let registry = config.avro.framing.registry().map(daemon::registry).transpose().or_exit(Exit::Usage)?;
    let decoder = Decoder::new(schema::call_leg(), registry.map(Arc::new));
    let progress = Progress::default();

    let comparing = audit::run(&question, &source, &cluster, &decoder, &SystemClock, &progress);
    tokio::pin!(comparing);
    let mut display = Display::new();
    let mut tell = tokio::time::interval_at(Instant::now() + SHOWN_EVERY, SHOWN_EVERY);
    tell.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let report = loop {
        tokio::select! {
            biased;
            report = &mut comparing => break report.map_err(ended_by)?,
            _ = tell.tick() => display.show(progress.share(), progress.to_string()),
        }
    };
    display.end();
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
