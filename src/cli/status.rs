//! `status`: the running connector's snapshot, as its status page shows it, in a terminal; where nobody answers, what the
//! connector told last in the status topic.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use rdkafka::message::Message;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use url::Url;

use super::owner::{ANSWER_BYTES_MAX, client, url_of};
use super::{look, print_line};
use crate::admin::{HEALTHZ, STATUS};
use crate::clock::{Clock, SystemClock};
use crate::codec::{Decoder, schema};
use crate::config::{Config, Secret};
use crate::core::feed::{BEATS_MISSED_MAX, state};
use crate::core::time::UtcMillis;
use crate::core::words::{count, exact, length};
use crate::daemon;
use crate::error::{Ended, Exit, OrExit};
use crate::http::{self, Fault};
use crate::sink::reader::{From, TopicReader};
use crate::sink::topics;
use crate::telemetry::recent::PollNote;
use crate::telemetry::shown::{RoleShown, Snapshot, UnitSnapshot};
use crate::telemetry::words::clock;

/// A snapshot is made at once, or not at all.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a daemon listens by default.
const URL: &str = "http://127.0.0.1:9464";

/// The status topic is compacted, and short.
const TOPIC_TIMEOUT: Duration = Duration::from_secs(30);

/// So many of the newest minutes are drawn.
const MINUTES_SHOWN: usize = 60;

/// From nothing to the most.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Where its admin port is; without it at admin.listen of the configuration, or at http://127.0.0.1:9464
    #[arg(long, value_name = "URL")]
    url: Option<Url>,
    /// The TOML file: says where the admin port is, and its token
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A file with the admin port's token, where it takes one
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    token_file: Option<PathBuf>,
    /// Print the snapshot as JSON
    #[arg(long)]
    json: bool,
    /// Only ask whether its workers are alive, as /healthz does: 0 also while it is not ready, 7 when only a restart
    /// helps. For the health check of a container
    #[arg(long, conflicts_with = "json")]
    alive: bool,
}

pub(super) async fn run(arguments: StatusArgs) -> Result<(), Ended> {
    let config = arguments.config.as_deref().map(look).transpose()?;
    let configured = config.as_ref().map(|config| url_of(config.admin.listen));
    let url = arguments.url.map(|url| url.to_string()).or(configured).unwrap_or_else(|| URL.to_owned());
    if arguments.alive {
        return print_line(alive(&url).await?.trim_end());
    }
    let secret = match (&config, arguments.token_file) {
        (Some(config), _) => config.admin.token.clone(),
        (None, Some(path)) => Some(Secret::file("--token-file".to_owned(), path)),
        (None, None) => None,
    };
    let token = secret.map(|secret| secret.read()).transpose().or_exit(Exit::Usage)?;
    let (json, snapshot) = match fetch(&url, token).await {
        Ok(answer) => answer,
        Err(ended) => {
            if ended.exit != Exit::NotReady || arguments.json {
                return Err(ended);
            }
            let Some(config) = config else {
                let more = "With --config FILE this command prints what it told last, from the status topic";
                return Err(anyhow!("{:#}. {more}", ended.error)).or_exit(Exit::NotReady);
            };
            let told = match tokio::time::timeout(TOPIC_TIMEOUT, told_last(&config)).await {
                Ok(Ok(told)) if told.is_empty() => vec!["The status topic is empty: nothing was ever told".to_owned()],
                Ok(Ok(told)) => told,
                Ok(Err(Ended { error, .. })) => vec![format!("The status topic cannot be read, either: {error:#}")],
                Err(_) => {
                    vec![format!(
                        "The status topic cannot be read, either: Kafka did not answer for {}",
                        exact(TOPIC_TIMEOUT)
                    )]
                }
            };
            told.iter().try_for_each(|line| print_line(line))?;
            return Err(ended);
        }
    };
    if arguments.json {
        print_line(&json)?;
    } else {
        describe(&snapshot).iter().try_for_each(|line| print_line(line))?;
    }
    if snapshot.ready { Ok(()) } else { Err(anyhow!("the connector is not ready")).or_exit(Exit::NotReady) }
}

/// The snapshot of whoever listens at `url`, and as it was sent.
pub(super) async fn fetch(url: &str, token: Option<SecretString>) -> Result<(String, Snapshot), Ended> {
    let (url, answer) = ask(url, STATUS, token).await?;
    let json = match answer.status.as_u16() {
        200 => String::from_utf8_lossy(&answer.body).into_owned(),
        401 => Err(anyhow!("{url}: it takes admin.token: give --config, or --token-file")).or_exit(Exit::Usage)?,
        status => Err(unknown(&url, status)).or_exit(Exit::NotReady)?,
    };
    let snapshot = serde_json::from_str(&json)
        .map_err(|error| anyhow!("{url}: what answers there is no call-legs of this version: {error}"))
        .or_exit(Exit::NotReady)?;
    Ok((json, snapshot))
}

/// What `/healthz` says while the workers are alive; an error when one is stuck, or nobody answers.
async fn alive(url: &str) -> Result<String, Ended> {
    let (url, answer) = ask(url, HEALTHZ, None).await?;
    let said = String::from_utf8_lossy(&answer.body);
    match answer.status.as_u16() {
        200 => Ok(said.into_owned()),
        503 => Err(anyhow!("{url}: the connector is {}: restart it", said.trim_end())).or_exit(Exit::NotReady),
        status => Err(unknown(&url, status)).or_exit(Exit::NotReady),
    }
}

fn unknown(url: &str, status: u16) -> anyhow::Error {
    anyhow!("{url}: HTTP {status}: it is no call-legs, or one of another version")
}

/// What the admin port at `url` answers on `path`, and the URL as it may be shown.
async fn ask(url: &str, path: &str, token: Option<SecretString>) -> Result<(String, http::Answer), Ended> {
    let base = url.trim_end_matches('/');
    let at: Url = format!("{base}{path}").parse().or_exit(Exit::Usage)?;
    let shown = without_credentials(base.parse().or_exit(Exit::Usage)?);
    let mut request = client(&at, ANSWER_TIMEOUT)?.get(at);
    if let Some(token) = token {
        request = request.bearer_auth(token.expose_secret());
    }
    let answer = http::send(request, ANSWER_BYTES_MAX).await.map_err(|error| {
        let why = if error.fault == Fault::Silent { "answers in time" } else { "listens" };
        anyhow!(
            "{shown}: nobody {why} there: the connector is down, or its admin port is elsewhere (admin.listen, --url)"
        )
    });
    Ok((shown, answer.or_exit(Exit::NotReady)?))
}

/// The URL of an admin port as it may be shown.
fn without_credentials(mut at: Url) -> String {
    // Only a URL without a host refuses, and that one holds none.
    let _ = at.set_username("").and_then(|()| at.set_password(None));
    at.as_str().trim_end_matches('/').to_owned()
}

/// What the connector told last in the status topic, a line a unit; of this and any other instance.
async fn told_last(config: &Config) -> Result<Vec<String>, Ended> {
    let registry = config.avro.framing.registry().map(daemon::registry).transpose().or_exit(Exit::Usage)?;
    let decoder = Decoder::new(schema::status(), registry.map(Arc::new));
    let (kafka, topic) = (config.kafka.clone(), topics::status(&config.kafka.topic));
    let opened = tokio::task::spawn_blocking(move || TopicReader::open(&kafka, &topic, From::Beginning)).await;
    let mut reader = opened.unwrap_or_else(|ended| Err(ended.into())).or_exit(Exit::Sink)?;
    let mut newest = BTreeMap::new();
    while let Some(message) = reader.next().await.or_exit(Exit::Sink)? {
        let status = decoder.decode(message.payload().unwrap_or_default()).await.or_exit(Exit::Sink)?;
        newest.insert(status["unit"].as_str().unwrap_or_default().to_owned(), status);
    }
    let now = SystemClock.now();
    Ok(newest.iter().map(|(unit, status)| told(unit, status, now)).collect())
}

fn told(unit: &str, status: &Value, now: UtcMillis) -> String {
    let at = |field: &str| UtcMillis::new(status[field].as_i64().unwrap_or_default());
    let silent = now.since(at("at"));
    let beat = Duration::from_millis(status["nextBeatMs"].as_u64().unwrap_or_default());
    let text = |field: &str| status[field].as_str().unwrap_or("?").to_owned();
    let what = if text("state") == state::STOPPED {
        "was stopped on purpose".to_owned()
    } else if silent > beat * BEATS_MISSED_MAX {
        format!("is down: it was {} when it told last", text("state"))
    } else {
        format!("is {}: another instance is at work", text("state"))
    };
    format!(
        "Unit {unit} {what}, by {} {} ago ({}), complete to {}",
        text("host"),
        length(silent),
        clock(at("at"), now),
        clock(at("completeTo"), now)
    )
}

fn describe(snapshot: &Snapshot) -> Vec<String> {
    let at = |at| clock(at, snapshot.at);
    let role = match (snapshot.role, snapshot.owner_since, &snapshot.publisher) {
        (RoleShown::Owner, Some(since), _) => format!("owns the journal since {}", at(since)),
        (RoleShown::StandingBy, _, Some(publisher)) => {
            format!("stands by for {}, whose admin port is {}", publisher.host, publisher.admin)
        }
        _ => "starts".to_owned(),
    };
    let delivery = snapshot.delivery.as_deref().unwrap_or("guarantee not known yet");
    let mut lines = vec![
        snapshot.headline.sentence.clone(),
        format!("{} {}, {delivery}, version {}, at {}", snapshot.host, role, snapshot.version, at(snapshot.at)),
    ];
    if let Some(reason) = &snapshot.poll_interval_reason {
        let every = length(Duration::from_millis(snapshot.poll_interval_ms));
        lines.push(format!("units are polled every {every}: {reason}"));
    }
    lines.extend(snapshot.own_reasons().map(|reason| format!("not ready: {reason}")));
    lines.extend(snapshot.kafka_trouble.iter().filter(|_| snapshot.ready).map(|trouble| format!("Kafka: {trouble}")));
    for unit in &snapshot.units {
        lines.push(String::new());
        lines.extend(describe_unit(snapshot, unit));
    }
    for backfill in &snapshot.backfills {
        let left = length(Duration::from_millis(backfill.left_ms));
        let (state, published) = (backfill.state.as_str(), backfill.counts.published);
        lines.push(format!(
            "backfill of unit {}, {}: {state}, {left} left, {published} published",
            backfill.unit, backfill.window
        ));
    }
    lines
}

fn describe_unit(snapshot: &Snapshot, unit: &UnitSnapshot) -> Vec<String> {
    let time = |at| match at {
        Some(at) => format!("{} ({} ago)", clock(at, snapshot.at), length(snapshot.at.since(at))),
        None => "not yet".to_owned(),
    };
    let (state, since) = snapshot.state_of(unit);
    let since = since.map(|since| format!(" since {}", clock(since, snapshot.at))).unwrap_or_default();
    let detail = if unit.detail.is_empty() { String::new() } else { format!(": {}", unit.detail) };
    let mut lines = vec![
        format!("unit {}: {state}{since}{detail}", unit.unit),
        format!("  complete to  {}", time(unit.complete_to)),
        format!("  final to     {}", time(unit.final_to)),
        format!("  last poll ok {}", time(unit.last_poll_ok)),
        format!("  polls        {}", strip(&unit.polls)),
        format!("  legs/min     {}", bars(unit)),
        format!(
            "  late         {} found by the overlap, {} by sweeps",
            unit.lateness.by_overlap, unit.lateness.by_sweep
        ),
    ];
    if let (Some(recommended), Some(confidence)) = (unit.lateness.recommended_overlap_ms, unit.lateness.confidence) {
        lines.push(format!(
            "  overlap      {}; {} finds 99.9 % of all legs ({:.0} % sure, from {})",
            exact(Duration::from_millis(snapshot.poll_overlap_ms)),
            exact(Duration::from_millis(recommended)),
            confidence * 100.0,
            count(unit.lateness.samples, "leg")
        ));
    }
    if !unit.repeating.is_empty() {
        lines.push(format!("  repeats      {}", unit.repeating));
    }
    if unit.hours_fewer + unit.hours_more > 0 {
        lines.push(format!(
            "  hours        {} of which the API shows fewer legs than were published, {} more: audit names them",
            unit.hours_fewer, unit.hours_more
        ));
    }
    lines.extend(
        unit.dead_letters
            .iter()
            .map(|(code, count)| format!("  dead letters {count} {code} since this process started")),
    );
    lines
}

/// The newest polls, oldest first: a dot for each that was whole.
fn strip(polls: &[PollNote]) -> String {
    let Some(last) = polls.last() else { return "none has ended yet".to_owned() };
    let cells: String = polls.iter().map(|poll| if poll.result == "ok" { '·' } else { '✗' }).collect();
    format!("{cells} newest: {}, {}, {} new", last.result, count(last.fetched, "row"), last.published)
}

fn bars(unit: &UnitSnapshot) -> String {
    let minutes = &unit.minutes[unit.minutes.len().saturating_sub(MINUTES_SHOWN)..];
    let most = minutes.iter().map(|minute| minute.published).max().unwrap_or(0);
    let bar = |published: u64| match (published, most) {
        (0, _) | (_, 0) => ' ',
        // At least the lowest, at most the highest.
        (some, most) => BARS[usize::try_from((some * 8).div_ceil(most)).unwrap_or(8).clamp(1, 8) - 1],
    };
    let drawn: String = minutes.iter().map(|minute| bar(minute.published)).collect();
    format!("{} at most {most}", drawn.trim_start())
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::StatusCode;
    use axum::routing::get;
    use tokio::net::TcpListener;

    use super::*;
    use crate::telemetry::snapshot::tests::snapshot;

    #[test]
    fn the_url_is_shown_without_credentials() {
        for (given, shown) in [
            ("http://127.0.0.1:9464", "http://127.0.0.1:9464"),
            ("https://operator:hunter2@host.example/call-legs", "https://host.example/call-legs"),
            ("http://:hunter2@[::1]:1", "http://[::1]:1"),
        ] {
            assert_eq!(without_credentials(given.parse().unwrap()), shown);
        }
    }

    #[tokio::test]
    async fn a_stuck_worker_is_not_alive_and_restarting_is_the_advice() {
        async fn served(status: StatusCode, said: &'static str) -> String {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            let url = format!("http://{}/", listener.local_addr().unwrap());
            let router = Router::new().route(HEALTHZ, get(move || async move { (status, said) }));
            tokio::spawn(async { axum::serve(listener, router).await });
            url
        }
        assert_eq!(alive(&served(StatusCode::OK, "healthy\n").await).await.unwrap(), "healthy\n");
        let stuck = served(StatusCode::SERVICE_UNAVAILABLE, "stuck in: store\n").await;
        let ended = alive(&stuck).await.unwrap_err();
        let url = stuck.trim_end_matches('/');
        assert_eq!(ended.error.to_string(), format!("{url}: the connector is stuck in: store: restart it"));
        assert_eq!(ended.exit, Exit::NotReady);
        let other = alive(&served(StatusCode::NOT_FOUND, "").await).await.unwrap_err();
        assert_eq!(other.error.to_string().split(": ").nth(1), Some("HTTP 404"));
    }

    #[test]
    fn shows_what_the_page_shows() {
        let lines = describe(&snapshot(|_| {}));
        assert_eq!(
            lines,
            [
                "All legs up to 14:31:10 UTC are in the topic. Last poll 40 s ago, 12 new.",
                "host-a owns the journal since 13:31:10 UTC, exactly-once, version 0.1.0, at 14:32:50 UTC",
                "",
                "unit acme-east: ok since 13:32:50 UTC",
                "  complete to  14:31:10 UTC (100 s ago)",
                "  final to     14:01:50 UTC (31 min ago)",
                "  last poll ok 14:32:10 UTC (40 s ago)",
                "  polls        ·✗· newest: ok, 24 rows, 12 new",
                "  legs/min     ▂   █ at most 12",
                "  late         2 found by the overlap, 1 by sweeps",
                "  overlap      30 min; 45 s finds 99.9 % of all legs (25 % sure, from 7 legs)",
                "  hours        1 of which the API shows fewer legs than were published, 0 more: audit names them",
                "  dead letters 1 call-id-unusable since this process started",
            ]
        );
    }
}
