//! Words: one sentence that says how things are, and what a person reads best of an instant.

use std::time::Duration;

use super::shown::{Headline, Level, RoleShown, Snapshot, UnitSnapshot};
use crate::core::feed::BEATS_MISSED_MAX;
use crate::core::time::UtcMillis;
use crate::core::words::length;

/// A start that waits longer is worth a look.
const START_SLOW: Duration = Duration::from_secs(30);

/// A poll that takes less is not worth a word, whatever the interval.
const POLL_SLOW: Duration = Duration::from_secs(10);

/// So many intervals without a poll that ended are worth a word.
const POLLS_MISSED: u64 = 3;

/// Says how things are: the most urgent first.
pub(super) fn headline(snapshot: &Snapshot) -> Headline {
    let say = |level, sentence| Headline { level, sentence };
    if !snapshot.stuck.is_empty() {
        let steps = snapshot.stuck.join(", ");
        return say(Level::Bad, format!("Stuck in: {steps}. Restart this process: nothing is lost."));
    }
    if snapshot.stopping {
        return say(Level::Working, "Stopping, as it was told to.".to_owned());
    }
    if let Some(waiting_for) = &snapshot.waiting_for {
        let waited = snapshot.at.since(snapshot.started_at);
        let level = if waited < START_SLOW { Level::Working } else { Level::Bad };
        return say(level, format!("Starting for {}, and nothing is read yet: {waiting_for}.", length(waited)));
    }
    if let Some(trouble) = &snapshot.disk_trouble {
        let waited = length(Duration::from_millis(snapshot.disk_waiting_ms));
        let sentence = format!(
            "The disk of state.dir has not done its work for {waited}: {trouble}. Free space on it, or mend it. Until then polls wait, and \
             nothing is lost."
        );
        return say(Level::Bad, sentence);
    }
    match snapshot.role {
        RoleShown::Owner => {}
        RoleShown::Starting => {
            let trouble = snapshot.kafka_trouble.as_ref().map(|trouble| format!(": {trouble}")).unwrap_or_default();
            let level = if trouble.is_empty() { Level::Working } else { Level::Bad };
            return say(level, format!("Starting: taking over the journal{trouble}."));
        }
        RoleShown::StandingBy => {
            let silence = Duration::from_millis(snapshot.next_beat_ms) * BEATS_MISSED_MAX;
            let owner = snapshot.publisher.as_ref().map_or("another instance", |publisher| &publisher.host);
            let takes_over = format!("takes over if that is silent for {}", length(silence));
            let admin =
                snapshot.publisher.as_ref().map(|publisher| format!(" ({})", publisher.admin)).unwrap_or_default();
            return say(Level::Working, format!("Standing by: {owner}{admin} publishes. This instance {takes_over}."));
        }
    }
    let up_to = up_to(snapshot);
    if snapshot.is_kafka_slow() {
        let waited = length(Duration::from_millis(snapshot.kafka_waiting_ms));
        let sentence = format!("Kafka has not acknowledged for {waited}: polls wait, nothing is lost. {up_to}");
        return say(Level::Bad, sentence);
    }
    if let Some(sentence) = of_bad_units(snapshot) {
        let is_only_starting = snapshot.units.iter().all(|unit| unit.good || unit.is_starting());
        return say(if is_only_starting { Level::Working } else { Level::Bad }, format!("{sentence} {up_to}"));
    }
    if snapshot.units.iter().any(|unit| unit.state == "catching_up") {
        let behind = snapshot.complete_to().map(|to| length(snapshot.at.since(to)));
        let behind = behind.map(|behind| format!(", {behind} behind")).unwrap_or_default();
        return say(Level::Working, format!("Catching up{behind}: older legs are read first. {up_to}"));
    }
    let newest = snapshot.units.iter().filter_map(|unit| unit.last_poll_ok).min();
    let Some(newest) = newest else { return say(Level::Working, up_to) };
    let ago = snapshot.at.since(newest);
    let published: u64 = snapshot.units.iter().filter_map(|unit| unit.polls.last()).map(|poll| poll.published).sum();
    if ago > Duration::from_millis(snapshot.poll_interval_ms * POLLS_MISSED).max(POLL_SLOW) {
        let repeating = snapshot.units.iter().find(|unit| !unit.repeating.is_empty());
        let why = repeating.map_or("one takes long", |unit| &unit.repeating);
        return say(Level::Working, format!("{up_to} No poll has ended for {}: {why}.", length(ago)));
    }
    say(Level::Good, format!("{up_to} Last poll {} ago, {published} new.", length(ago)))
}

fn up_to(snapshot: &Snapshot) -> String {
    match snapshot.complete_to() {
        Some(to) => format!("All legs up to {} are in the topic.", clock(to, snapshot.at)),
        None => "Nothing has been read to its end yet.".to_owned(),
    }
}

/// What is wrong with units, the most frequent state first; `None` if nothing is.
fn of_bad_units(snapshot: &Snapshot) -> Option<String> {
    let bad: Vec<&UnitSnapshot> = snapshot.units.iter().filter(|unit| !unit.good).collect();
    // What only begins is not what is wrong, where something is.
    let first = *bad.iter().find(|unit| !unit.is_starting()).or(bad.first())?;
    let same: Vec<&UnitSnapshot> = bad.into_iter().filter(|unit| unit.state == first.state).collect();
    let which = match (same.len(), snapshot.units.len()) {
        (_, 1) => format!("unit {}", first.unit),
        (some, all) if some == all => format!("all {all} units"),
        (1, _) => format!("unit {}", first.unit),
        (some, all) => format!("{some} of {all} units"),
    };
    let since = same.iter().filter_map(|unit| unit.since).min();
    let since = since.map(|since| format!(" since {}", clock(since, snapshot.at))).unwrap_or_default();
    let why = common_detail(&same).map(|detail| format!(": {}", detail.trim_end_matches('.'))).unwrap_or_default();
    let goes_on = if goes_on_by_itself(&first.state) { " Nothing is lost: polls go on by themselves." } else { "" };
    let next = same.iter().filter_map(|unit| unit.tried_again_at).filter(|at| *at > snapshot.at).min();
    let next = next.map(|at| format!(" Next try at {}.", clock(at, snapshot.at))).unwrap_or_default();
    Some(format!("{} ({which}{since}){why}.{goes_on}{next}", what(&first.state)))
}

/// Why the API does not answer these units or refuses them, where that is the same for all: it is said once then.
fn common_detail<'a>(units: &[&'a UnitSnapshot]) -> Option<&'a str> {
    let first = units.first().filter(|unit| unit.state == "source_auth" || goes_on_by_itself(&unit.state))?;
    let detail = first.detail.as_str();
    (!detail.is_empty() && units.iter().all(|unit| unit.detail == detail)).then_some(detail)
}

/// Whether it is over as soon as the API does its work again.
fn goes_on_by_itself(state: &str) -> bool {
    matches!(state, "source_unreachable" | "source_rate_limited")
}

/// What a state that is not good means, in words.
fn what(state: &str) -> &'static str {
    match state {
        "starting" => "No poll has ended yet",
        "source_unreachable" => "The 8x8 API does not answer, or not as it should",
        "source_auth" => "The 8x8 API refuses the connector: somebody has to act",
        "source_rate_limited" => "The 8x8 API asks for fewer requests",
        "source_incomplete" => "The 8x8 API's answers are not whole: legs are published, the watermarks wait",
        "source_empty" => {
            "The 8x8 API shows nothing where it had shown legs: quiet phones look otherwise, the watermarks wait"
        }
        "source_invalid" => "What the 8x8 API shows is not believed: its legs are published, the watermarks wait",
        "source_time_zone" => {
            "The 8x8 API's times contradict source.time_zone: legs are published, the watermarks wait"
        }
        "clock_skew" => "The clocks of the 8x8 API and of this machine differ: legs are published, the watermarks wait",
        _ => "Something is wrong",
    }
}

/// An instant for a person who reads it at `now`: the time of day, in UTC, and the date if that is another one.
pub fn clock(at: UtcMillis, now: UtcMillis) -> String {
    let (Some(at_utc), Some(now_utc)) = (at.to_datetime(), now.to_datetime()) else { return at.to_string() };
    let format = if at_utc.date_naive() == now_utc.date_naive() { "%H:%M:%S UTC" } else { "%Y-%m-%d %H:%M:%S UTC" };
    at_utc.format(format).to_string()
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::tests::{NOON_AND_A_BIT, snapshot};
    use super::super::status::{Role, Status, UnitState};
    use super::*;
    use tokio::time::Instant;

    fn said(change: impl FnOnce(&mut Status)) -> (Level, String) {
        let Headline { level, sentence } = snapshot(change).headline;
        (level, sentence)
    }

    fn in_state(state: UnitState) -> impl FnOnce(&mut Status) {
        move |status| status.units.values_mut().for_each(|unit| unit.state = state)
    }

    #[test]
    fn says_how_things_are_in_one_sentence() {
        const READ: &str = "All legs up to 14:31:10 UTC are in the topic.";
        assert_eq!(said(|_| {}), (Level::Good, format!("{READ} Last poll 40 s ago, 12 new.")));
        assert_eq!(
            said(in_state(UnitState::CatchingUp)),
            (Level::Working, format!("Catching up, 100 s behind: older legs are read first. {READ}"))
        );
        assert_eq!(
            said(in_state(UnitState::SourceAuth)),
            (
                Level::Bad,
                format!(
                    "The 8x8 API refuses the connector: somebody has to act (unit acme-east since 13:32:50 UTC). {READ}"
                )
            )
        );
        assert_eq!(
            said(|status| status.role = Role::StandingBy { owner: "host-b".to_owned(), admin: "host-b:1".to_owned() }),
            (
                Level::Working,
                "Standing by: host-b (host-b:1) publishes. This instance takes over if that is silent for 30 s."
                    .to_owned()
            )
        );
        assert_eq!(
            said(|status| status.waiting_for = Some("no broker answers".to_owned())),
            (Level::Bad, "Starting for 2 h, and nothing is read yet: no broker answers.".to_owned())
        );
    }

    #[test]
    fn an_api_that_is_down_is_told_once_with_its_cause_and_the_next_try() {
        let down = |details: [&str; 2]| {
            said(|status| {
                let unit = status.units["acme-east"].clone();
                for (name, detail) in ["acme-east", "acme-west"].into_iter().zip(details) {
                    let mut unit = unit.clone();
                    unit.enter(UnitState::SourceUnreachable, detail, NOON_AND_A_BIT.minus(Duration::from_secs(60)));
                    unit.tried_again_at = Some(NOON_AND_A_BIT.plus(Duration::from_secs(30)));
                    status.units.insert(name.to_owned(), unit);
                }
            })
            .1
        };
        assert_eq!(
            down(["the connection was refused"; 2]),
            "The 8x8 API does not answer, or not as it should (all 2 units since 14:31:50 UTC): the connection was refused. Nothing is \
             lost: polls go on by themselves. Next try at 14:33:20 UTC. All legs up to 14:31:10 UTC are in the topic."
        );
        assert!(!down(["a reset", "a time-out"]).contains("reset"), "each unit says its own");
    }

    #[tokio::test(start_paused = true)]
    async fn kafka_comes_before_the_api() {
        let since = Instant::now();
        tokio::time::advance(Duration::from_secs(45)).await;
        let (level, sentence) = said(|status| {
            in_state(UnitState::SourceUnreachable)(status);
            status.publishing_since = Some(since);
            status.sink_trouble = Some("all brokers are down".to_owned());
        });
        assert_eq!(level, Level::Bad);
        assert!(
            sentence.starts_with("Kafka has not acknowledged for 45 s: polls wait, nothing is lost."),
            "{sentence}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_disk_comes_before_kafka_whatever_the_role() {
        let since = Instant::now();
        tokio::time::advance(Duration::from_secs(3)).await;
        for role in
            [Role::Starting, Role::Owner, Role::StandingBy { owner: "host-b".to_owned(), admin: "host-b:1".to_owned() }]
        {
            let (level, sentence) = said(|status| {
                status.role = role;
                status.sink_trouble = Some("all brokers are down".to_owned());
                status.disk_trouble = Some((since, "No space left on device".to_owned()));
            });
            assert_eq!(level, Level::Bad);
            assert_eq!(
                sentence,
                "The disk of state.dir has not done its work for 3 s: No space left on device. Free space on it, or mend it. Until then polls wait, and nothing is lost."
            );
        }
    }

    #[test]
    fn units_are_counted_by_what_is_wrong_with_them() {
        let (_, sentence) = said(|status| {
            let unit = status.units["acme-east"].clone();
            for (name, state) in
                [("a", UnitState::Starting), ("b", UnitState::SourceUnreachable), ("c", UnitState::SourceUnreachable)]
            {
                let mut unit = unit.clone();
                unit.state = state;
                status.units.insert(name.to_owned(), unit);
            }
        });
        assert!(sentence.contains("(2 of 4 units since 13:32:50 UTC)"), "{sentence}");
    }

    #[test]
    fn every_state_has_words() {
        for state in UnitState::ALL.into_iter().filter(|state| !state.is_good()) {
            let words = what(state.as_str());
            assert_ne!(words, what("another"), "{state}");
            let row = format!("| `{}", words.split(':').next().unwrap_or_default());
            let page = include_str!("../../docs/operate.md");
            assert!(page.contains(&row), "docs/operate.md should have a row that begins {row}");
        }
    }

    #[test]
    fn times_are_short() {
        let at = |ago_s| clock(NOON_AND_A_BIT.minus(Duration::from_secs(ago_s)), NOON_AND_A_BIT);
        assert_eq!(at(0), "14:32:50 UTC");
        assert_eq!(at(86_400), "2025-11-24 14:32:50 UTC");
    }
}
