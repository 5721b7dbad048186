//! `state`: what the journal says, whether the view equals it, and the deliberate changes.
//!
//! What changes something is asked of the running owner, over its admin port with the token that it
//! keeps in the state directory. Where no owner runs, the command becomes the owner for as long as it takes.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use tokio_util::sync::CancellationToken;

use super::{load, look, owner, print_line};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, StartFrom};
use crate::connector::{Order, preview_rewind, read_journal};
use crate::core::feed::BEATS_MISSED_MAX;
use crate::core::hours::{Agreement, Hour, HourCounts};
use crate::core::lateness::Lateness;
use crate::core::ledger::Ledger;
use crate::core::words::{count, exact, length, setting};
use crate::daemon;
use crate::error::{Ended, Exit, OrExit};
use crate::sink::KafkaCluster;
use crate::sink::topics::Topics;
use crate::telemetry::StatusBoard;

#[derive(Debug, Args)]
pub(super) struct StateArgs {
    #[command(subcommand)]
    command: StateCommand,
}

#[derive(Debug, Args)]
struct Place {
    /// The TOML file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Debug, Subcommand)]
enum StateCommand {
    /// Print what the journal says: owner, units, watermarks, coverage, pages; changes nothing
    Show(Place),
    /// Compare the view in the state directory with the journal
    Verify(Place),
    /// Delete the view and build it anew from the journal
    Rebuild(Place),
    /// Read a unit again from an instant on, and publish its legs a second time; without --yes only say what that is
    Rewind {
        #[command(flatten)]
        place: Place,
        /// The unit: an entry of source.pbx_ids
        #[arg(long, value_name = "UNIT")]
        unit: String,
        /// From where: an instant in RFC 3339, or a time ago such as now-6h
        #[arg(long, value_name = "T", value_parser = instant)]
        to: StartFrom,
        /// Do it
        #[arg(long)]
        yes: bool,
    },
    /// Go on although the source's filters have changed or the topic of legs was truncated, and end what is held
    Accept {
        #[command(flatten)]
        place: Place,
        /// The unit; without it all of them
        #[arg(long, value_name = "UNIT")]
        unit: Option<String>,
    },
    /// Rebuild a lost journal from the headers of the legs in the topic
    Adopt(Place),
}

pub(super) fn instant(text: &str) -> Result<StartFrom, String> {
    StartFrom::parse(text).ok_or_else(|| "give an instant such as 2026-02-03T09:00:00Z, or now-6h".to_owned())
}

pub(super) async fn run(arguments: StateArgs) -> Result<(), Ended> {
    let (place, order) = match arguments.command {
        StateCommand::Show(place) => return show(&look(&place.config)?).await,
        StateCommand::Verify(place) => (place, Order::Verify),
        StateCommand::Rebuild(place) => (place, Order::Rebuild),
        StateCommand::Rewind { place, unit, to, yes } => {
            (place, Order::Rewind { unit, to: to.resolve(SystemClock.now()).at, confirmed: yes })
        }
        StateCommand::Accept { place, unit } => (place, Order::Accept { unit }),
        StateCommand::Adopt(place) => (place, Order::Adopt),
    };
    let config = load(&place.config)?;
    let done = match owner::give(&config, &order).await? {
        Some(done) => done,
        None => match order {
            Order::Verify => daemon::verify(&config).await?,
            Order::Rewind { unit, to, confirmed: false } => {
                let ledger = read_journal(&cluster(&config)?).await?;
                preview_rewind(&ledger, &config.source.pbx_ids, &unit, to).or_exit(Exit::Usage)?
            }
            order => {
                eprintln!("no daemon of this configuration runs here: becoming the owner for this order");
                daemon::carry_out(config, order, StatusBoard::default(), CancellationToken::new(), |_| {}).await?
            }
        },
    };
    print_line(done.trim_end())
}

/// For those who only read: no topic is created or changed.
pub(super) fn cluster(config: &Config) -> Result<KafkaCluster, Ended> {
    let topics = Topics::assumed(&config.kafka.topic, &config.kafka.journal);
    KafkaCluster::new(&config.kafka, topics).or_exit(Exit::Sink)
}

async fn show(config: &Config) -> Result<(), Ended> {
    let ledger = read_journal(&cluster(config)?).await?;
    for line in describe(&ledger, &config.kafka.journal, config.poll.settle) {
        print_line(&line)?;
    }
    Ok(())
}

fn describe(ledger: &Ledger, topic: &str, settle: Duration) -> Vec<String> {
    let head = &ledger.head;
    let Some(genesis) = &head.genesis else { return vec![format!("journal {topic}: empty")] };
    let mut lines =
        vec![format!("journal {topic}: {} begun {} on cluster {}", genesis.journal, genesis.at, genesis.cluster)];
    if let Some(claim) = &head.claim {
        let silence_s = u64::from(claim.beat_ms) * u64::from(BEATS_MISSED_MAX) / 1_000;
        let what = if claim.is_released {
            "given up on purpose".to_owned()
        } else {
            format!("admin port {}; gone if nothing is written for {silence_s} s", claim.admin)
        };
        lines.push(format!(
            "owner: {} since {}, {}, version {} ({what})",
            claim.host,
            claim.at,
            claim.delivery.as_str(),
            claim.version
        ));
    }
    let entries: u64 = ledger.pages.values().map(|page| u64::from(page.entries)).sum();
    let oldest = ledger.pages.first_key_value().map_or(head.last_seq + 1, |((seq, _), _)| *seq);
    lines.push(format!("pages: {oldest} to {}, {entries} identities remembered", head.last_seq));
    for unit in head.units.values() {
        if !unit.is_started() {
            lines.push(format!("unit {}: not read yet", unit.unit));
            continue;
        }
        let progress = &unit.progress;
        lines.push(format!(
            "unit {}: complete to {}, final to {}, remembered from {} on, generation {}",
            unit.unit, progress.complete_to, progress.final_to, progress.floor, unit.generation
        ));
        let covered: Vec<String> = progress.coverage.windows().iter().map(ToString::to_string).collect();
        lines.push(format!(
            "  covered: {}",
            if covered.is_empty() { "nothing yet".to_owned() } else { covered.join(" ") }
        ));
        let counts: Vec<String> = unit.counts.named().iter().map(|(name, count)| format!("{name} {count}")).collect();
        lines.push(format!("  rows: {} = {}; late {}", unit.counts.fetched(), counts.join(" + "), unit.counts.late));
        lines.push(format!("  late: {}", describe_lateness(&unit.lateness, settle)));
        lines.extend(describe_hours(head.hours(&unit.unit)).map(|hours| format!("  hours: {hours}")));
        for swept in &unit.sweeps {
            lines.push(format!("  swept {} back: {}", exact(swept.lookback), swept.at));
        }
        if let Some(change) = &unit.change {
            lines.push(format!("  {} {}", change.what.as_str(), change.at));
        }
    }
    for backfill in head.backfills.values() {
        let unit = head.units.get(&backfill.unit);
        let holes = unit.map(|unit| unit.progress.coverage.holes(backfill.window)).unwrap_or_default();
        let left: Duration = holes.iter().map(|hole| hole.length()).sum();
        lines.push(format!(
            "backfill {} of unit {}: {} {}, asked for {}, {} published, {} of it left",
            backfill.id,
            backfill.unit,
            backfill.window,
            backfill.state.as_str(),
            backfill.at,
            backfill.counts.published,
            length(left)
        ));
    }
    lines
}

/// How the hours that sweeps have read compare with what was published.
fn describe_hours(hours: impl Iterator<Item = (Hour, HourCounts)>) -> Option<String> {
    /// More are as much in the journal, and `audit` shows them.
    const SHOWN_MAX: usize = 5;
    let compared: Vec<(Hour, HourCounts)> =
        hours.filter(|(_, counts)| counts.agreement() != Agreement::NotCompared).collect();
    if compared.is_empty() {
        return None;
    }
    let differs = |(_, counts): &&(Hour, HourCounts)| counts.agreement() != Agreement::Same;
    let differing: Vec<String> = compared
        .iter()
        .filter(differs)
        .map(|(hour, counts)| {
            let seen = counts.compared.map(|compared| compared.seen).unwrap_or_default();
            format!("{hour} {} published, {seen} seen", counts.rows.published)
        })
        .collect();
    let shown = differing.iter().take(SHOWN_MAX).cloned().collect::<Vec<_>>().join("; ");
    Some(match differing.len() {
        0 => format!("{} read as a whole by sweeps, each with as many legs as were published", compared.len()),
        count => format!("{} read as a whole by sweeps, of which {count} differ: {shown}", compared.len()),
    })
}

fn describe_lateness(lateness: &Lateness, settle: Duration) -> String {
    let found = format!("{} found by the overlap, {} by sweeps", lateness.by_overlap, lateness.by_sweep);
    match lateness.recommend(settle) {
        None => format!("{found}; nothing measured yet"),
        Some(recommended) => format!(
            "{found}; poll.overlap = {} finds 99.9 % of all, with a confidence of {:.0} % from {}",
            setting(recommended.overlap),
            recommended.confidence * 100.0,
            count(lateness.samples(), "leg")
        ),
    }
}
