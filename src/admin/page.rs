//! The status page: a snapshot as one HTML document that needs nothing else, for a phone at night as for a wall.
//!
//! It replaces its own content every few seconds, and says so when nobody answers any more. Drawings are in `drawing`.

use std::cmp::Reverse;
use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};
use url::form_urlencoded;

use super::drawing;
use crate::core::dead_letter::Reason;
use crate::core::journal::BackfillState;
use crate::core::time::UtcMillis;
use crate::core::words::{count, length};
use crate::telemetry::shown::{Level, RoleShown, Snapshot, UnitSnapshot};
use crate::telemetry::status::BackfillStatus;
use crate::telemetry::words::clock;

/// What the drawings of minutes span.
const HOUR: Duration = Duration::from_secs(3600);

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// What the page's answer allows: its own style and script by their hashes, and nothing else. The page reads itself again,
/// so both must stay allowed in every later answer.
pub(super) static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = |text: &str| STANDARD.encode(Sha256::digest(text));
    format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash(STYLE),
        hash(SCRIPT)
    )
});

/// So many units are shown one below the other; of more of them one, which the reader chooses.
const CARDS_MAX: usize = 3;

/// The minutes over which legs a minute and freshness are told in the table of units.
const NEWEST_MINUTES: usize = 10;

/// The whole document; `chosen` is the unit that the reader has opened.
pub(super) fn page(snapshot: &Snapshot, chosen: Option<&str>) -> String {
    let headline = &snapshot.headline;
    let document = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="referrer" content="no-referrer";
                noscript { meta http-equiv="refresh" content="5"; }
                title { (mark(headline.level)) " call-legs on " (snapshot.host) }
                link rel="icon" href=(icon(headline.level));
                style { (PreEscaped(STYLE)) }
            }
            body {
                p #silent .headline role="alert" hidden {}
                main {
                    (top(snapshot))
                    (units(snapshot, chosen))
                    (instance(snapshot))
                    (settings(snapshot))
                    p .faint {
                        "The same as JSON: " a href="status.json" { "status.json" } " · measured: "
                        a href="metrics" { "metrics" } " · " a href="readyz" { "readyz" } " · " a href="healthz" { "healthz" }
                    }
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    document.into_string()
}

fn top(snapshot: &Snapshot) -> Markup {
    let (headline, level) = (&snapshot.headline, class(snapshot.headline.level));
    html! {
        div class=(format!("headline {level}")) {
            h1 { span class=(format!("level {level}")) aria-hidden="true" { (mark(headline.level)) " " } (headline.sentence) }
            p .faint {
                @if snapshot.ready { "Ready" } @else { "Not ready" }
                ", at " (clock(snapshot.at, snapshot.at)) " on " (snapshot.host) (whereto(snapshot))
            }
            @let reasons: Vec<&String> = snapshot.own_reasons().collect();
            @if !reasons.is_empty() { ul { @for reason in reasons { li { (reason) } } } }
        }
    }
}

/// Which topic of which cluster it is about.
fn whereto(snapshot: &Snapshot) -> String {
    let setting = |key: &str| snapshot.settings.iter().find(|setting| setting.key == key);
    match (setting("kafka.topic"), setting("kafka.bootstrap_servers")) {
        (Some(topic), Some(servers)) => format!(", for topic {} of the Kafka at {}", topic.value, servers.value),
        _ => String::new(),
    }
}

/// A line for each unit, the worst first; then the units themselves, or the chosen one.
fn units(snapshot: &Snapshot, chosen: Option<&str>) -> Markup {
    let mut sorted: Vec<&UnitSnapshot> = snapshot.units.iter().collect();
    // The watermarks of units that are well differ by moments: those stay where they are. Of the others what never was
    // complete is worst, and then what is complete only long ago.
    let behind = |unit: &UnitSnapshot| (level(unit) != Level::Good).then_some(unit.complete_to);
    sorted.sort_by_key(|unit| (Reverse(level(unit)), behind(unit), unit.unit.as_str()));
    let is_few = sorted.len() <= CARDS_MAX;
    let cards = sorted.iter().filter(|unit| is_few || chosen == Some(unit.unit.as_str()));
    html! {
        @if sorted.len() > 1 {
            section {
                h2 { (sorted.len()) " units" }
                div .scroll {
                    table .units {
                        tr {
                            th { "unit" } th { "state" } th .number { "complete up to" } th { "newest poll" }
                            th .number { "legs a minute" } th .number { "slowest leg" }
                        }
                        @for unit in &sorted { (unit_row(snapshot, unit)) }
                    }
                }
                @if let Some(pace) = pace(snapshot) { p .faint { (pace) } }
                p .faint { "Legs a minute and the slowest leg, from disconnect to Kafka, are those of the newest " (NEWEST_MINUTES) " minutes." }
            }
        } @else if let Some(pace) = pace(snapshot) { p .faint { (pace) } }
        @for unit in cards { (unit_card(snapshot, unit)) }
    }
}

/// How often units are polled, where the connector chooses.
fn pace(snapshot: &Snapshot) -> Option<String> {
    let every = length(Duration::from_millis(snapshot.poll_interval_ms));
    snapshot.poll_interval_reason.as_ref().map(|reason| format!("Units are polled every {every}: {reason}."))
}

fn unit_row(snapshot: &Snapshot, unit: &UnitSnapshot) -> Markup {
    let ago = |at: UtcMillis| format!("{} ago", length(snapshot.at.since(at)));
    let minutes = &unit.minutes[unit.minutes.len().saturating_sub(NEWEST_MINUTES)..];
    let published: u64 = minutes.iter().map(|minute| minute.published).sum();
    let slowest = minutes.iter().filter_map(|minute| minute.slowest_ms).max();
    let name: String = form_urlencoded::byte_serialize(unit.unit.as_bytes()).collect();
    html! {
        tr {
            td { a href=(format!("?unit={name}")) { (unit.unit) } }
            td { span class=(format!("badge {}", class(level(unit)))) { (unit.state) } }
            td .number { (unit.complete_to.map_or_else(|| "not yet".to_owned(), ago)) }
            td { (unit.polls.last().map_or_else(|| "none yet".to_owned(), |poll| format!("{}, {}", poll.result, ago(poll.at)))) }
            td .number { (format!("{:.1}", published as f64 / minutes.len().max(1) as f64)) }
            td .number { (slowest.map_or_else(|| "–".to_owned(), |slowest| length(Duration::from_millis(slowest)))) }
        }
    }
}

fn level(unit: &UnitSnapshot) -> Level {
    match (unit.good, unit.is_starting(), unit.state.as_str()) {
        (_, true, _) | (true, _, "catching_up") => Level::Working,
        (true, ..) => Level::Good,
        _ => Level::Bad,
    }
}

fn unit_card(snapshot: &Snapshot, unit: &UnitSnapshot) -> Markup {
    let level = level(unit);
    let (state, state_since) = snapshot.state_of(unit);
    let time = |at: Option<UtcMillis>| {
        at.map_or_else(|| "none since this process started".to_owned(), |at| clock(at, snapshot.at))
    };
    // What was published before this instance did is not known to it.
    let since = snapshot.owner_since.filter(|since| snapshot.at.since(*since) < HOUR);
    let hour = since.map_or_else(|| "newest hour".to_owned(), |since| format!("since {}", clock(since, snapshot.at)));
    let ago =
        |at: Option<UtcMillis>| at.map(|at| format!(" ({} ago)", length(snapshot.at.since(at)))).unwrap_or_default();
    html! {
        section {
            div .top {
                h2 { (unit.unit) }
                span class=(format!("badge {}", class(if snapshot.is_kafka_slow() { Level::Working } else { level }))) { (state) }
                @if let Some(since) = state_since { span .faint { "since " (clock(since, snapshot.at)) } }
            }
            @if !unit.detail.is_empty() && !snapshot.headline.sentence.contains(unit.detail.trim_end_matches('.')) { p .detail { (unit.detail) } }
            @if !unit.repeating.is_empty() { p .faint { "A request is repeated: " (unit.repeating) } }
            dl .facts {
                (fact("Complete up to: read once", &format!("{}{}", time(unit.complete_to), ago(unit.complete_to))))
                (fact("Final up to: read again", &format!("{}{}", time(unit.final_to), ago(unit.final_to))))
                (fact("Last whole poll", &format!("{}{}", time(unit.last_poll_ok), ago(unit.last_poll_ok))))
                (fact("Late legs", &late(unit)))
                (fact("Overlap", &overlap(snapshot, unit)))
                (fact("Whole hours compared with the API", &hours(unit)))
            }
            h3 { "Newest polls" }
            (drawing::polls(&unit.polls, snapshot.at))
            div .charts {
                div { h3 { "Legs a minute, " (hour) } (drawing::legs(&unit.minutes)) }
                div {
                    h3 { "Slowest leg of each minute, from disconnect to Kafka" }
                    (drawing::freshness(&unit.minutes, snapshot.freshness_objective_ms))
                }
            }
            h3 { "What was read" }
            (drawing::coverage(unit, &snapshot.backfills, snapshot.at))
            @for backfill in snapshot.backfills.iter().filter(|backfill| backfill.unit == unit.unit) { (backfill_line(backfill)) }
            (rows(unit))
            (dead_letters(unit))
        }
    }
}

fn fact(name: &str, value: &str) -> Markup {
    html! { div { dt { (name) } dd { (value) } } }
}

fn late(unit: &UnitSnapshot) -> String {
    let late = &unit.lateness;
    format!("{} found by the overlap, {} by sweeps", late.by_overlap, late.by_sweep)
}

fn overlap(snapshot: &Snapshot, unit: &UnitSnapshot) -> String {
    let configured = length(Duration::from_millis(snapshot.poll_overlap_ms));
    match (unit.lateness.recommended_overlap_ms, unit.lateness.confidence) {
        (Some(recommended), Some(confidence)) => format!(
            "{configured}; {} finds 99.9 % ({:.0} % sure, {})",
            length(Duration::from_millis(recommended)),
            confidence * 100.0,
            count(unit.lateness.samples, "leg")
        ),
        _ => format!("{configured}; no leg measured yet"),
    }
}

fn hours(unit: &UnitSnapshot) -> String {
    match (unit.hours_fewer, unit.hours_more) {
        (0, 0) if unit.hours_compared == 0 => "none yet".to_owned(),
        (0, 0) => format!("{}, none differs", unit.hours_compared),
        (fewer, more) => {
            format!("{fewer} show fewer legs than were published, {more} show more: audit names them")
        }
    }
}

fn backfill_line(backfill: &BackfillStatus) -> Markup {
    let all_ms = backfill.window.length().as_millis().max(1);
    let share = 100.0 - 100.0 * backfill.left_ms as f64 / all_ms as f64;
    html! {
        p {
            "Backfill of " (backfill.window) ": "
            @if backfill.state == BackfillState::Running { (format!("{share:.1} % read")) } @else { (backfill.state.as_str()) }
            ", " (count(backfill.counts.published, "leg")) " published"
            @if let Some(trouble) = &backfill.trouble { "; waiting: " (trouble) }
        }
    }
}

fn rows(unit: &UnitSnapshot) -> Markup {
    html! {
        details id=(format!("rows-{}", unit.unit)) {
            summary { "Rows since the first start: " (unit.counts.fetched) ", published " (unit.counts.each.published) }
            table {
                @for (what, count) in unit.counts.each.named() {
                    tr { td { (what) } td .number { (count) } }
                }
            }
        }
    }
}

fn dead_letters(unit: &UnitSnapshot) -> Markup {
    html! {
        @if !unit.dead_letters.is_empty() {
            h3 { "Dead letters since this process started; call-legs dead-letters list tells of all" }
            div .scroll {
                table {
                    tr { th { "code" } th { "because" } th .number { "letters" } }
                    @for (code, count) in &unit.dead_letters {
                        tr {
                            td { code { (code) } }
                            td { (Reason::from_code(code).map(|reason| reason.to_string()).unwrap_or_default()) }
                            td .number { (count) }
                        }
                    }
                }
            }
        }
    }
}

fn instance(snapshot: &Snapshot) -> Markup {
    let at = |at: UtcMillis| clock(at, snapshot.at);
    let role = match (snapshot.role, snapshot.owner_since, &snapshot.publisher) {
        (RoleShown::Owner, Some(since), _) => format!("owns the journal since {}", at(since)),
        (RoleShown::Owner, None, _) => "owns the journal".to_owned(),
        (RoleShown::StandingBy, _, Some(publisher)) => {
            format!("stands by; {} publishes, its admin port is {}", publisher.host, publisher.admin)
        }
        (RoleShown::StandingBy, _, None) => "stands by".to_owned(),
        (RoleShown::Starting, ..) => "starts".to_owned(),
    };
    let kafka = match (snapshot.kafka_waiting_ms, &snapshot.kafka_trouble) {
        // One is always on its way.
        (_, None) if !snapshot.is_kafka_slow() => "acknowledges".to_owned(),
        (waiting, None) => format!("has owed an acknowledgement for {}", length(Duration::from_millis(waiting))),
        (_, Some(trouble)) if !snapshot.is_kafka_slow() => trouble.clone(),
        (waiting, Some(trouble)) => {
            format!("has owed an acknowledgement for {}: {trouble}", length(Duration::from_millis(waiting)))
        }
    };
    let disk = match &snapshot.disk_trouble {
        None => "does its work".to_owned(),
        Some(trouble) => {
            format!("has not done its work for {}: {trouble}", length(Duration::from_millis(snapshot.disk_waiting_ms)))
        }
    };
    html! {
        section {
            h2 { "This instance" }
            dl .facts {
                (fact("Host", &snapshot.host))
                (fact("Role", &role))
                (fact("Delivery", snapshot.delivery.as_deref().unwrap_or("not known yet")))
                (fact("Kafka", &kafka))
                (fact("Disk of state.dir", &disk))
                (fact("Running since", &at(snapshot.started_at)))
                (fact("Version", &snapshot.version))
                (fact("Owner, in the status topic", &snapshot.owner))
            }
        }
    }
}

fn settings(snapshot: &Snapshot) -> Markup {
    html! {
        section {
            details #settings {
                summary { "Effective configuration" }
                div .scroll {
                    table {
                        tr { th { "key" } th { "value" } th { "from" } }
                        @for setting in &snapshot.settings {
                            tr { td { code { (setting.key) } } td { (setting.value) } td .faint { (setting.origin) } }
                        }
                    }
                }
            }
        }
    }
}

const fn class(level: Level) -> &'static str {
    match level {
        Level::Good => "good",
        Level::Working => "working",
        Level::Bad => "bad",
    }
}

/// Tells the levels apart without colours.
const fn mark(level: Level) -> &'static str {
    match level {
        Level::Good => "✓",
        Level::Working => "…",
        Level::Bad => "✗",
    }
}

/// The tab's icon: a dot in the level's colour.
fn icon(level: Level) -> String {
    let colour = match level {
        Level::Good => "1a7f45",
        Level::Working => "d08b00",
        Level::Bad => "c02a2a",
    };
    format!(
        "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 10 10'%3E%3Ccircle cx='5' cy='5' r='5' fill='%23{colour}'/%3E%3C/svg%3E"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::snapshot::tests::{NOON_AND_A_BIT, snapshot};
    use crate::telemetry::status::{PollPaceShown, UnitState};

    #[test]
    fn shows_what_an_operator_looks_for() {
        let page = page(&snapshot(|_| {}), None);
        for part in [
            "All legs up to 14:31:10 UTC are in the topic. Last poll 40 s ago, 12 new.",
            "acme-east",
            "14:01:50 UTC (31 min ago)",
            "30 min; 45 s finds 99.9 % (25 % sure, 7 legs)",
            "1 show fewer legs than were published",
            "exactly-once",
            "owns the journal since 13:31:10 UTC",
            "on host-a, for topic call-legs of the Kafka at kafka-1:9092",
            "from file /run/secrets/password",
        ] {
            assert!(page.contains(part), "{part} in\n{page}");
        }
    }

    #[test]
    fn a_cause_that_the_headline_names_is_not_repeated_for_each_unit() {
        let page = page(
            &snapshot(|status| {
                let unit = status.units["acme-east"].clone();
                for name in ["acme-east", "acme-west"] {
                    let mut unit = unit.clone();
                    unit.enter(UnitState::SourceUnreachable, "the connection was refused", NOON_AND_A_BIT);
                    status.units.insert(name.to_owned(), unit);
                }
            }),
            None,
        );
        assert_eq!(page.matches("the connection was refused").count(), 1, "{page}");
    }

    #[test]
    fn what_others_wrote_is_text_and_no_markup() {
        let page = page(
            &snapshot(|status| {
                status.units.values_mut().for_each(|unit| {
                    unit.state = UnitState::SourceAuth;
                    unit.detail = "<script>alert(1)</script>".to_owned();
                });
            }),
            None,
        );
        assert!(page.contains("&lt;script&gt;alert(1)") && !page.contains("<script>alert"));
    }

    #[test]
    fn many_units_are_a_table_with_the_worst_first_and_one_is_opened() {
        let snapshot = snapshot(|status| {
            let known = status.units["acme-east"].clone();
            for number in 0..30 {
                status.units.insert(format!("pbx {number:02}&co"), known.clone());
            }
            let failing = status.units.get_mut("pbx 17&co").unwrap();
            failing.state = UnitState::SourceAuth;
            let behind = status.units.get_mut("pbx 09&co").unwrap();
            (behind.state, behind.complete_to) = (UnitState::CatchingUp, Some(UtcMillis::new(0)));
        });
        let row = |page: &str, unit: &str| page.find(&format!("<a href=\"?unit={unit}\">")).unwrap();
        let closed = page(&snapshot, None);
        let (failing, behind, well) =
            (row(&closed, "pbx+17%26co"), row(&closed, "pbx+09%26co"), row(&closed, "acme-east"));
        assert!(failing < behind && behind < well);
        assert!(!closed.contains("What was read"), "no unit is opened");
        let opened = page(&snapshot, Some("pbx 17&co"));
        assert_eq!(opened.matches("What was read").count(), 1);
        assert!(opened.contains("<h2>pbx 17&amp;co</h2>"));
        assert!(!page(&snapshot, Some("<script>")).contains("<script>alert"));
    }

    #[test]
    fn a_thousand_units_are_a_page_of_less_than_half_a_megabyte() {
        let snapshot = snapshot(|status| {
            let known = status.units["acme-east"].clone();
            status.units.extend((0..1_000).map(|number| (format!("pbx-{number:04}"), known.clone())));
        });
        let bytes = page(&snapshot, Some("pbx-0500")).len();
        assert!(bytes < 500_000, "{bytes}");
    }

    #[test]
    fn how_often_units_are_polled_is_shown_where_the_connector_chooses() {
        let chosen = snapshot(|status| {
            let (interval, reason) = (Duration::from_secs(6), Some("3.0 requests for a poll of every unit".to_owned()));
            status.poll_pace = Some(PollPaceShown { interval, reason, slowdown: 1 });
        });
        assert!(page(&chosen, None).contains("Units are polled every 6 s: 3.0 requests for a poll of every unit."));
        assert!(!page(&snapshot(|_| {}), None).contains("are polled every"));
    }

    #[test]
    fn nothing_is_fetched_from_elsewhere() {
        let page = page(&snapshot(|_| {}), None);
        let links = page.split(['"', '\'']).filter(|part| part.contains("//") && part.starts_with("http"));
        assert_eq!(links.collect::<Vec<_>>(), ["http://www.w3.org/2000/svg"], "the name of SVG is no address");
    }
}
