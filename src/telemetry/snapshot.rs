//! How a snapshot is taken: how the whole connector is at one instant, in the form of [`super::shown`].

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::Targets;
use super::recent::Recent;
use super::shown::{CountsShown, Elsewhere, Headline, LatenessShown, OutOffset, RoleShown, Snapshot, UnitSnapshot};
use super::status::{Journaled, Role, Status, UnitState, UnitStatus};
use super::words::headline;
use crate::config::Setting;
use crate::core::journal::OutTopic;
use crate::core::time::UtcMillis;

/// Kafka acknowledges sooner than this while all is well.
const KAFKA_SLOW: Duration = Duration::from_secs(10);

/// What does not change while the process runs.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its number, 32 hexadecimal digits: the feed's `owner`.
    pub owner: String,
    /// Its host name.
    pub host: String,
    /// The program's version.
    pub version: String,
    /// When it started.
    pub started_at: UtcMillis,
    /// How often at the latest every unit's status is written.
    pub beat: Duration,
    /// How far a leg lies behind the newest one at the most, unless it is marked late.
    pub behind_max: Option<Duration>,
    /// What the measurements are held against.
    pub targets: Targets,
    /// The effective configuration, without secrets and personal data.
    pub settings: Vec<Setting>,
}

impl Snapshot {
    /// How things are, at an instant by the wall clock and by the process's own.
    pub fn take(
        process: &Process,
        status: Status,
        mut recent: BTreeMap<String, Recent>,
        at: UtcMillis,
        now: Instant,
    ) -> Self {
        let reasons = status.reasons_not_ready(now);
        let stuck = status.stuck(now).into_iter().map(str::to_owned).collect();
        let waited = status.publishing_since.map(|since| now.duration_since(since)).unwrap_or_default();
        let disk = status.disk_trouble.map(|(since, trouble)| (now.duration_since(since), trouble));
        let (role, publisher) = match status.role {
            Role::Starting => (RoleShown::Starting, None),
            Role::Owner => (RoleShown::Owner, None),
            Role::StandingBy { owner, admin } => (RoleShown::StandingBy, Some(Elsewhere { host: owner, admin })),
        };
        let pace = status.poll_pace;
        let poll_interval = pace.as_ref().map_or(process.targets.interval, |pace| pace.interval);
        let poll_interval_reason = pace.and_then(|pace| pace.reason);
        let units = if role == RoleShown::StandingBy { BTreeMap::new() } else { status.units };
        let mut taken = Self {
            at,
            headline: Headline::default(),
            owner: process.owner.clone(),
            host: process.host.clone(),
            version: process.version.clone(),
            started_at: process.started_at,
            role,
            owner_since: status.owner_since,
            publisher,
            delivery: status.delivery.map(|delivery| delivery.as_str().to_owned()),
            next_beat_ms: millis(process.beat),
            order_within_ms: process.behind_max.map(millis),
            ready: reasons.is_empty(),
            reasons,
            stuck,
            waiting_for: status.waiting_for,
            stopping: status.stopping,
            kafka_waiting_ms: millis(waited),
            kafka_trouble: status.sink_trouble,
            disk_waiting_ms: disk.as_ref().map_or(0, |(waited, _)| millis(*waited)),
            disk_trouble: disk.map(|(_, trouble)| trouble),
            freshness_objective_ms: millis(process.targets.freshness),
            poll_interval_ms: millis(poll_interval),
            poll_interval_reason,
            poll_overlap_ms: millis(process.targets.overlap),
            units: units
                .into_iter()
                .map(|(name, unit)| {
                    let recent = recent.remove(&name).unwrap_or_default();
                    UnitSnapshot::new(name, unit, recent, at)
                })
                .collect(),
            backfills: status.backfills.into_values().collect(),
            settings: process.settings.clone(),
        };
        taken.headline = headline(&taken);
        taken
    }

    /// Why the instance is not ready, without what stands with its units.
    pub fn own_reasons(&self) -> impl Iterator<Item = &String> {
        self.reasons.iter().filter(|reason| !reason.starts_with("unit "))
    }

    /// Whether Kafka takes longer than it does while all is well.
    pub fn is_kafka_slow(&self) -> bool {
        Duration::from_millis(self.kafka_waiting_ms) >= KAFKA_SLOW
    }

    /// A unit's state in words, and since when it is so: while Kafka is waited for, since that.
    pub fn state_of<'a>(&self, unit: &'a UnitSnapshot) -> (&'a str, Option<UtcMillis>) {
        if self.is_kafka_slow() {
            return ("waits for Kafka", Some(self.at.minus(Duration::from_millis(self.kafka_waiting_ms))));
        }
        (&unit.state, unit.since)
    }

    /// Up to where all units have read everything once; `None` before that is known of each.
    pub fn complete_to(&self) -> Option<UtcMillis> {
        self.units.iter().map(|unit| unit.complete_to).min().flatten()
    }
}

impl UnitSnapshot {
    fn new(name: String, unit: UnitStatus, recent: Recent, at: UtcMillis) -> Self {
        let none = Journaled::default();
        let journaled = unit.journaled.as_deref().unwrap_or(&none);
        let offsets = journaled.out_offsets.0.iter();
        let (lateness, recommended) = (&journaled.lateness, journaled.recommended);
        Self {
            unit: name,
            state: unit.state.as_str().to_owned(),
            good: unit.state.is_good(),
            since: unit.since,
            detail: unit.detail,
            repeating: unit.repeating,
            tried_again_at: unit.tried_again_at,
            generation: journaled.generation,
            complete_to: unit.complete_to,
            final_to: unit.final_to,
            last_poll_ok: unit.last_poll_ok,
            counts: CountsShown { fetched: journaled.counts.fetched(), each: journaled.counts },
            out_offsets: offsets
                .map(|(&(topic, partition), &offset)| {
                    let topic = if topic == OutTopic::Legs { "legs" } else { "dead-letters" };
                    OutOffset { topic: topic.to_owned(), partition, offset }
                })
                .collect(),
            lateness: LatenessShown {
                samples: lateness.samples(),
                by_overlap: lateness.by_overlap,
                by_sweep: lateness.by_sweep,
                closest_to_edge_ms: lateness.closest.map(millis),
                recommended_overlap_ms: recommended.map(|recommended| millis(recommended.overlap)),
                confidence: recommended.map(|recommended| recommended.confidence),
            },
            hours_fewer: journaled.hours_differing.0,
            hours_more: journaled.hours_differing.1,
            hours_compared: journaled.hours_compared,
            coverage: journaled.coverage.clone(),
            minutes: recent.hour(at),
            polls: recent.polls.into(),
            dead_letters: recent.dead_letters,
        }
    }

    /// Whether no poll has ended yet.
    pub fn is_starting(&self) -> bool {
        self.state == UnitState::Starting.as_str()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::core::dedupe::Counts;
    use crate::core::journal::{Delivery, OutOffsets};
    use crate::core::lateness::{Lateness, Recommendation};
    use crate::core::time::Window;
    use crate::telemetry::recent::PollNote;

    /// Half past two in the afternoon.
    pub(crate) const NOON_AND_A_BIT: UtcMillis = UtcMillis::new(1_764_081_170_000);

    pub(crate) fn process() -> Process {
        Process {
            owner: "00".repeat(16),
            host: "host-a".to_owned(),
            version: "0.1.0".to_owned(),
            started_at: NOON_AND_A_BIT.minus(Duration::from_secs(7_200)),
            beat: Duration::from_secs(10),

            behind_max: Some(Duration::from_secs(2_100)),
            targets: Targets::default(),
            settings: [
                ("source.password", "from file /run/secrets/password"),
                ("kafka.topic", "call-legs"),
                ("kafka.bootstrap_servers", "kafka-1:9092"),
            ]
            .map(|(key, value)| {
                let origin = "call-legs.toml, line 3".to_owned();
                Setting { key: key.to_owned(), value: value.to_owned(), origin }
            })
            .to_vec(),
        }
    }

    /// An owner of one unit, all of whose fields say something.
    pub(crate) fn well() -> (Status, BTreeMap<String, Recent>) {
        let at = |ago_s| NOON_AND_A_BIT.minus(Duration::from_secs(ago_s));
        let counts = Counts { published: 1_200, duplicate: 340, dead: 3, ..Counts::default() };
        let journaled = Journaled {
            generation: 1,
            counts,
            coverage: vec![Window::new(at(90_000), at(50_000)), Window::new(at(40_000), at(1_860))],
            out_offsets: OutOffsets([((OutTopic::Legs, 0), 1_201), ((OutTopic::DeadLetters, 0), 3)].into()),
            lateness: Lateness { buckets: vec![3, 4], by_overlap: 2, by_sweep: 1, ..Lateness::default() },
            recommended: Some(Recommendation { overlap: Duration::from_secs(45), confidence: 0.25 }),
            hours_differing: (1, 0),
            hours_compared: 5,
        };
        let unit = UnitStatus {
            state: UnitState::Ok,
            since: Some(at(3_600)),
            complete_to: Some(at(100)),
            final_to: Some(at(1_860)),
            last_poll_ok: Some(at(40)),
            journaled: Some(journaled.into()),
            ..UnitStatus::default()
        };
        let status = Status {
            role: Role::Owner,
            owner_since: Some(at(3_700)),
            delivery: Some(Delivery::ExactlyOnce),
            units: [("acme-east".to_owned(), unit)].into(),
            ..Status::default()
        };
        let mut recent = Recent::default();
        recent.note_dead_letter("call-id-unusable");
        for (ago_s, result, published) in [(280, "ok", 3), (160, "unreachable", 0), (40, "ok", 12)] {
            let (result, fetched) = (result.to_owned(), published * 2);
            recent.note_poll(PollNote { at: at(ago_s), result, fetched, published, took_ms: 700 });
            recent.note_published(at(ago_s), published, [Duration::from_secs(95)].into_iter());
        }
        (status, [("acme-east".to_owned(), recent)].into())
    }

    pub(crate) fn snapshot(change: impl FnOnce(&mut Status)) -> Snapshot {
        let (mut status, recent) = well();
        change(&mut status);
        Snapshot::take(&process(), status, recent, NOON_AND_A_BIT, Instant::now())
    }

    #[test]
    fn what_the_feed_tells_has_the_feeds_names() {
        let snapshot = serde_json::to_value(snapshot(|_| {})).unwrap();
        let schema: serde_json::Value = serde_json::from_str(include_str!("../../schemas/status.avsc")).unwrap();
        let names = |fields: &serde_json::Value| -> Vec<String> {
            fields.as_array().unwrap().iter().map(|field| field["name"].as_str().unwrap().to_owned()).collect()
        };
        let unit = &snapshot["units"][0];
        for name in names(&schema["fields"]) {
            assert!(!snapshot[&name].is_null() || !unit[&name].is_null(), "{name} in {snapshot}");
        }
        let field = |name: &str| {
            schema["fields"].as_array().unwrap().iter().find(|field| field["name"] == name).unwrap()["type"].clone()
        };
        for (name, fields) in [("counts", &field("counts")["fields"]), ("lateness", &field("lateness")[1]["fields"])] {
            for inner in names(fields) {
                assert!(unit[name].get(&inner).is_some(), "{name}.{inner}");
            }
        }
        for inner in names(&field("outOffsets")["items"]["fields"]) {
            assert!(unit["outOffsets"][0].get(&inner).is_some(), "outOffsets.{inner}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_unit_waits_for_kafka_since_kafka_is_slow() {
        let since = Instant::now();
        tokio::time::advance(Duration::from_secs(45)).await;
        let slow = snapshot(|status| status.publishing_since = Some(since));
        let waits = Some(NOON_AND_A_BIT.minus(Duration::from_secs(45)));
        assert_eq!(slow.state_of(&slow.units[0]), ("waits for Kafka", waits));
        let well = snapshot(|_| {});
        assert_eq!(well.state_of(&well.units[0]), ("ok", Some(NOON_AND_A_BIT.minus(Duration::from_secs(3_600)))));
    }

    #[test]
    fn it_is_read_back_as_it_was() {
        let taken = serde_json::to_string(&snapshot(|_| {})).unwrap();
        let read: Snapshot = serde_json::from_str(&taken).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), taken);
    }

    #[test]
    fn what_was_an_owners_is_not_shown_while_another_one_publishes() {
        let standing_by = Role::StandingBy { owner: "host-b".to_owned(), admin: "host-b:9464".to_owned() };
        let snapshot = snapshot(|status| status.role = standing_by);
        assert!(snapshot.units.is_empty() && !snapshot.ready);
        assert_eq!(snapshot.publisher.unwrap().host, "host-b");
    }
}
