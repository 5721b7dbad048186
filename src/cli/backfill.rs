//! `backfill`: a past period, read by the owner as far as it was never read; shown while it goes on.
//!
//! Ending the command ends what it shows, and not the backfill, unless no daemon runs: then the command is the owner.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::progress::{self, SHOWN_EVERY};
use super::state::{cluster, instant};
use super::{load, owner, print_line};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, MessageTimestamp, StartFrom};
use crate::connector::{Order, preview_backfill, read_journal};
use crate::core::journal::BackfillState;
use crate::core::time::{UtcMillis, Window};
use crate::core::words::{count, exact, length};
use crate::daemon;
use crate::error::{Ended, Exit, OrExit};
use crate::sink::Destination;
use crate::sink::topics::TopicAdmin;
use crate::telemetry::StatusBoard;
use crate::telemetry::status::BackfillStatus;

#[derive(Debug, Args)]
pub(super) struct BackfillArgs {
    /// The TOML file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// From which disconnect time on: an instant in RFC 3339, or a time ago such as now-90d
    #[arg(long, value_name = "T", value_parser = instant, required_unless_present = "cancel")]
    from: Option<StartFrom>,
    /// Up to which, itself not included
    #[arg(long, value_name = "T", value_parser = instant, required_unless_present = "cancel")]
    to: Option<StartFrom>,
    /// Only this unit: an entry of source.pbx_ids
    #[arg(long, value_name = "UNIT")]
    unit: Option<String>,
    /// Say what would be read, and read nothing
    #[arg(long)]
    dry_run: bool,
    /// Return as soon as the owner has taken it
    #[arg(long)]
    detach: bool,
    /// Publish also what the topic's retention deletes at once, or what a unit that is no longer read may have published
    #[arg(long)]
    force: bool,
    /// End the backfills that are not done; what they have read stays read
    #[arg(long, conflicts_with_all = ["from", "to", "dry_run", "detach", "force"])]
    cancel: bool,
}

pub(super) async fn run(arguments: BackfillArgs, stop: CancellationToken) -> Result<(), Ended> {
    let config = load(&arguments.config)?;
    let unit = arguments.unit.clone();
    let (Some(from), Some(to)) = (arguments.from, arguments.to) else {
        let order = Order::CancelBackfills { unit };
        let done = match owner::give(&config, &order).await? {
            Some(done) => done,
            None => daemon::carry_out(config, order, StatusBoard::default(), stop, |_| {}).await?,
        };
        return print_line(done.trim_end());
    };
    let now = SystemClock.now();
    let (from, to) = (from.resolve(now), to.resolve(now));
    if from.clamped {
        eprintln!("unavailable: the API shows nothing before {}, two years ago; what is older is not read", from.at);
    }
    check_retention(&config, from.at, now, arguments.force).await?;
    let order = Order::Backfill {
        unit: unit.clone(),
        from: from.at,
        to: to.at,
        confirmed: !arguments.dry_run,
        forced: arguments.force,
    };
    match owner::give(&config, &order).await? {
        Some(done) => {
            print_line(done.trim_end())?;
            if arguments.dry_run || arguments.detach { Ok(()) } else { follow_owner(&config, &stop).await }
        }
        None if arguments.dry_run => {
            let ledger = read_journal(&cluster(&config)?).await?;
            let window = Window::new(from.at, to.at);
            let said = preview_backfill(&ledger, &config.source.pbx_ids, unit.as_deref(), window, now, arguments.force);
            print_line(&said.or_exit(Exit::Usage)?)
        }
        None if arguments.detach => {
            Err(anyhow!("--detach: no daemon of this configuration runs here that could go on with it"))
                .or_exit(Exit::State)
        }
        None => {
            eprintln!("no daemon of this configuration runs here: becoming the owner until it is read");
            let status = StatusBoard::default();
            let shown = status.clone();
            let reading = daemon::carry_out(config, order, status, stop, |said| eprintln!("{}", said.trim_end()));
            tokio::pin!(reading);
            let mut display = Display::new();
            loop {
                tokio::select! {
                    biased;
                    done = &mut reading => return done.map(|_| display.end(&all(&shown))),
                    () = tokio::time::sleep(SHOWN_EVERY) => display.show(&all(&shown)),
                }
            }
        }
    }
}

fn all(status: &StatusBoard) -> Vec<BackfillStatus> {
    status.read().backfills.values().cloned().collect()
}

/// Shows the owner's backfills until none is left.
async fn follow_owner(config: &Config, stop: &CancellationToken) -> Result<(), Ended> {
    let mut display = Display::new();
    loop {
        let Some(backfills) = owner::backfills(config).await? else {
            return Err(anyhow!("the owner has ended; the backfill goes on when it runs again")).or_exit(Exit::State);
        };
        // An owner that has just started again has not looked at any yet.
        if !backfills.is_empty() && !backfills.iter().any(|backfill| backfill.state == BackfillState::Running) {
            display.end(&backfills);
            return Ok(());
        }
        display.show(&backfills);
        tokio::select! {
            biased;
            () = stop.cancelled() => {
                eprintln!("the backfill goes on; call-legs backfill --cancel ends it");
                return Ok(());
            }
            () = tokio::time::sleep(SHOWN_EVERY) => {}
        }
    }
}

/// Refuses what Kafka would delete before anyone reads it.
async fn check_retention(config: &Config, from: UtcMillis, now: UtcMillis, is_forced: bool) -> Result<(), Ended> {
    if is_forced || config.kafka.timestamp != MessageTimestamp::Disconnect {
        return Ok(());
    }
    let admin = Arc::new(TopicAdmin::new(&config.kafka).or_exit(Exit::Sink)?);
    let name = &config.kafka.topic;
    let Some(partitions) = admin.look_up(name).await.or_exit(Exit::Sink)? else { return Ok(()) };
    let topic = admin.describe(Destination::Legs, name, partitions).await.or_exit(Exit::Sink)?;
    match topic.retention.filter(|retention| *retention < now.since(from)) {
        None => Ok(()),
        Some(retention) => Err(anyhow!(
            "topic {name}: its retention.ms of {} is shorter than the age of the oldest legs to be read, which Kafka may delete before anyone reads them: raise it, or go on with --force",
            exact(retention)
        ))
        .or_exit(Exit::Usage),
    }
}

/// What is shown of backfills.
struct Display {
    progress: progress::Display,
    begun: Instant,
    /// What was read before it looked.
    before: Option<(u64, u64)>,
}

impl Display {
    fn new() -> Self {
        Self { progress: progress::Display::new(), begun: Instant::now(), before: None }
    }

    fn show(&mut self, backfills: &[BackfillStatus]) {
        let running: Vec<&BackfillStatus> =
            backfills.iter().filter(|backfill| backfill.state == BackfillState::Running).collect();
        if running.is_empty() {
            return;
        }
        let (share, line) = self.describe(&running);
        self.progress.show(share, line);
    }

    /// How much of all is read, and that in words.
    fn describe(&mut self, running: &[&BackfillStatus]) -> (f64, String) {
        let sum = |of: fn(&BackfillStatus) -> u64| running.iter().map(|backfill| of(backfill)).sum::<u64>();
        let all_ms = sum(|backfill| u64::try_from(backfill.window.length().as_millis()).unwrap_or(u64::MAX));
        let left_ms = sum(|backfill| backfill.left_ms);
        let published = sum(|backfill| backfill.counts.published);
        let (left_before, published_before) = *self.before.get_or_insert((left_ms, published));
        let seconds = self.begun.elapsed().as_secs_f64().max(0.001);
        let read_ms = left_before.saturating_sub(left_ms);
        let share = 1.0 - left_ms as f64 / all_ms.max(1) as f64;
        let rate = published.saturating_sub(published_before) as f64 / seconds;
        let left = if read_ms == 0 {
            "time left unknown".to_owned()
        } else {
            let left = Duration::from_secs((seconds * left_ms as f64 / read_ms as f64) as u64);
            format!("{} left", length(left))
        };
        let trouble = running.iter().find_map(|backfill| backfill.trouble.as_deref());
        let trouble = trouble.map(|trouble| format!("; waiting: {trouble}")).unwrap_or_default();
        let (units, windows) = (running.len() as u64, sum(|backfill| backfill.windows));
        (
            share,
            format!(
                "{:.1} % of the time of {} read in {}, {} published, {rate:.0} legs/s, {left}{trouble}",
                share * 100.0,
                count(units, "unit"),
                count(windows, "window"),
                count(published, "leg"),
            ),
        )
    }

    /// What came of it.
    fn end(&self, backfills: &[BackfillStatus]) {
        self.progress.end();
        for backfill in backfills {
            let counts = &backfill.counts;
            eprintln!(
                "unit {}: backfill of {} is {}: {} published, {} duplicate, {} dead, {} beyond the horizon",
                backfill.unit,
                backfill.window,
                backfill.state.as_str(),
                counts.published,
                counts.duplicate,
                counts.dead,
                counts.beyond_horizon
            );
        }
    }
}
