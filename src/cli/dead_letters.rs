//! `dead-letters`: rows that could not be legs, told of without their content, and replayed when a version takes them.
//!
//! A replay is the owner's, asked over its admin port; where none runs, the command becomes the owner for it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::state::cluster;
use super::{load, owner, print_line};
use crate::connector::{DeadLetter, Order, ReplayTerms, list_dead_letters, preview_replay};
use crate::core::dead_letter::Reason;
use crate::core::time::Window;
use crate::core::words::count;
use crate::daemon;
use crate::error::{Ended, Exit, OrExit};
use crate::telemetry::StatusBoard;

#[derive(Debug, Args)]
pub(super) struct DeadLettersArgs {
    #[command(subcommand)]
    command: DeadLettersCommand,
}

#[derive(Debug, Subcommand)]
enum DeadLettersCommand {
    /// Tell of each dead letter, but nothing of its row; changes nothing
    List {
        /// The TOML file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Only those with this error code
        #[arg(long, value_name = "CODE", value_parser = codes())]
        code: Option<String>,
        /// Print a JSON object for each, and one at the end for all
        #[arg(long)]
        json: bool,
    },
    /// Parse them again, and publish those that are legs to this version; without --yes only say what that would be
    Replay {
        /// The TOML file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Only those with this error code
        #[arg(long, value_name = "CODE", value_parser = codes())]
        code: Option<String>,
        /// Do it
        #[arg(long)]
        yes: bool,
        /// Publish also legs that may have been published before, of which the topic has lost the records
        #[arg(long)]
        force: bool,
    },
}

fn codes() -> PossibleValuesParser {
    PossibleValuesParser::new(Reason::ALL.map(Reason::code))
}

pub(super) async fn run(arguments: DeadLettersArgs, stop: CancellationToken) -> Result<(), Ended> {
    match arguments.command {
        DeadLettersCommand::List { config, code, json } => {
            let config = load(&config)?;
            let cluster = cluster(&config)?;
            tokio::select! {
                biased;
                () = stop.cancelled() => Ok(()),
                listed = list(&cluster, &config.kafka.journal, reason(code.as_deref()), json) => listed,
            }
        }
        DeadLettersCommand::Replay { config, code, yes, force } => {
            let config = load(&config)?;
            let order = Order::Replay { code: code.clone(), confirmed: yes, forced: force };
            let done = match owner::give(&config, &order).await? {
                Some(done) => done,
                None if yes => {
                    eprintln!("no daemon of this configuration runs here: becoming the owner for this order");
                    daemon::carry_out(config, order, StatusBoard::default(), stop, |_| {}).await?
                }
                None => {
                    let terms = ReplayTerms {
                        journal: config.kafka.journal.clone(),
                        units: config.source.pbx_ids.clone(),
                        time_basis: config.source.time_basis,
                        privacy: config.privacy.policy().or_exit(Exit::Usage)?,
                        reason: reason(code.as_deref()),
                        is_forced: force,
                    };
                    let cluster = cluster(&config)?;
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => return Ok(()),
                        said = preview_replay(&cluster, &terms) => said?,
                    }
                }
            };
            print_line(done.trim_end())
        }
    }
}

fn reason(code: Option<&str>) -> Option<Reason> {
    code.and_then(Reason::from_code)
}

/// How many letters of one code there are.
#[derive(Clone, Copy, Debug, Default)]
struct Summary {
    letters: u64,
    replayed: u64,
    truncated: u64,
}

async fn list(
    cluster: &impl crate::sink::Cluster,
    journal: &str,
    wanted: Option<Reason>,
    is_json: bool,
) -> Result<(), Ended> {
    let mut codes: BTreeMap<&'static str, Summary> = BTreeMap::new();
    let mut printed = Ok(());
    let listing = list_dead_letters(cluster, journal, |letter, is_replayed| {
        if wanted.is_some() && letter.reason != wanted || printed.is_err() {
            return;
        }
        let summary = codes.entry(code(letter)).or_default();
        summary.letters += 1;
        summary.replayed += u64::from(is_replayed);
        summary.truncated += u64::from(letter.is_truncated);
        printed = print_line(&if is_json { as_json(letter, is_replayed) } else { as_text(letter, is_replayed) });
    });
    listing.await?;
    printed?;
    if is_json {
        let codes: serde_json::Map<_, _> = codes
            .iter()
            .map(|(code, of)| {
                let Summary { letters, replayed, truncated } = of;
                ((*code).to_owned(), json!({"letters": letters, "replayed": replayed, "truncated": truncated}))
            })
            .collect();
        return print_line(&json!({"codes": codes}).to_string());
    }
    if codes.is_empty() {
        return print_line("no dead letters");
    }
    codes.iter().try_for_each(|(code, of)| {
        let Summary { letters, replayed, truncated } = of;
        let why = Reason::from_code(code).map(|reason| format!(": {reason}")).unwrap_or_default();
        print_line(&format!(
            "{code}: {}, {replayed} of them replayed, {truncated} cut short{why}",
            count(*letters, "dead letter")
        ))
    })?;
    print_line(
        "The rows are in the dead-letter topic, as they came. If the API is wrong, tell 8x8; if the topic or this version was, mend that, then call-legs dead-letters replay",
    )
}

fn code(letter: &DeadLetter) -> &'static str {
    letter.reason.map_or("unknown", Reason::code)
}

fn state(letter: &DeadLetter, is_replayed: bool) -> &'static str {
    match (&letter.unit, is_replayed) {
        (None, _) => "another connector's",
        (Some(_), true) => "replayed",
        (Some(_), false) => "not replayed",
    }
}

fn row(letter: &DeadLetter) -> String {
    letter.row.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn as_text(letter: &DeadLetter, is_replayed: bool) -> String {
    let unit = letter.unit.as_deref().unwrap_or("-");
    let window = letter.window.map_or("-".to_owned(), |window| window.to_string());
    let cut = if letter.is_truncated { " (cut short)" } else { "" };
    format!(
        "{}/{}  {}  {unit}  {window}  {}  {} bytes{cut}  {}  {}",
        letter.place.partition,
        letter.place.offset,
        letter.at,
        code(letter),
        letter.bytes,
        row(letter),
        state(letter, is_replayed)
    )
}

fn as_json(letter: &DeadLetter, is_replayed: bool) -> String {
    let instant = |of: fn(Window) -> crate::core::time::UtcMillis| letter.window.map(|window| of(window).to_string());
    json!({
        "partition": letter.place.partition,
        "offset": letter.place.offset,
        "at": letter.at.to_string(),
        "unit": letter.unit,
        "windowStart": instant(|window| window.start),
        "windowEnd": instant(|window| window.end),
        "code": code(letter),
        "bytes": letter.bytes,
        "truncated": letter.is_truncated,
        "row": row(letter),
        "state": state(letter, is_replayed),
    })
    .to_string()
}
