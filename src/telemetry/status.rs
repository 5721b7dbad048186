//! How things are: a plain value that the connector updates and the admin port renders.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use super::recent::Recent;
use crate::core::dedupe::Counts;
use crate::core::journal::{BackfillState, Delivery, Nonce, OutOffsets};
use crate::core::lateness::{Lateness, Recommendation};
use crate::core::time::{UtcMillis, Window};

/// Kafka may take this long to acknowledge before readiness fails: broker restarts are shorter.
const ACKNOWLEDGEMENT_PATIENCE: Duration = Duration::from_secs(30);

/// The state of one unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnitState {
    /// Not polled yet.
    #[default]
    Starting,
    /// The newest poll read its window whole.
    Ok,
    /// Reading older windows first.
    CatchingUp,
    /// No answer, or broken ones.
    SourceUnreachable,
    /// Credentials, rights or parameters were refused.
    SourceAuth,
    /// The source asks for fewer requests.
    SourceRateLimited,
    /// The newest poll could not read its window whole: the watermarks wait.
    SourceIncomplete,
    /// The newest poll found nothing where legs were published: the watermarks wait.
    SourceEmpty,
    /// What a window shows is not believed: its dead rows are held back, the watermarks wait.
    SourceInvalid,
    /// The rows' zoned texts contradict our idea of the time zone: legs are published, the watermarks wait.
    SourceTimeZone,
    /// The server's clock and ours differ too much: legs are published, the watermarks wait.
    ClockSkew,
}

impl UnitState {
    /// All there are.
    pub const ALL: [Self; 11] = [
        Self::Starting,
        Self::Ok,
        Self::CatchingUp,
        Self::SourceUnreachable,
        Self::SourceAuth,
        Self::SourceRateLimited,
        Self::SourceIncomplete,
        Self::SourceEmpty,
        Self::SourceInvalid,
        Self::SourceTimeZone,
        Self::ClockSkew,
    ];

    /// The name in the status and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ok => "ok",
            Self::CatchingUp => "catching_up",
            Self::SourceUnreachable => "source_unreachable",
            Self::SourceAuth => "source_auth",
            Self::SourceRateLimited => "source_rate_limited",
            Self::SourceIncomplete => "source_incomplete",
            Self::SourceEmpty => "source_empty",
            Self::SourceInvalid => "source_invalid",
            Self::SourceTimeZone => "source_time_zone",
            Self::ClockSkew => "clock_skew",
        }
    }

    /// Whether a unit in this state does its work.
    pub const fn is_good(self) -> bool {
        matches!(self, Self::Ok | Self::CatchingUp)
    }
}

impl fmt::Display for UnitState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How one unit is.
#[derive(Clone, Debug, Default)]
pub struct UnitStatus {
    /// Its state.
    pub state: UnitState,
    /// Since when; `None` before anything was said of it.
    pub since: Option<UtcMillis>,
    /// What an operator should know about a state that is not good.
    pub detail: String,
    /// Why a request is being repeated, while one is.
    pub repeating: String,
    /// When the source is asked again, while a failure is waited out.
    pub tried_again_at: Option<UtcMillis>,
    /// The soft watermark.
    pub complete_to: Option<UtcMillis>,
    /// The hard watermark.
    pub final_to: Option<UtcMillis>,
    /// When a poll last read its window whole.
    pub last_poll_ok: Option<UtcMillis>,
    /// When the newest poll began that has come to an end.
    pub polled: Option<UtcMillis>,
    /// What polls do not believe, oldest first, and how many rows of it at least.
    pub held: Vec<(Window, u64)>,
    /// What became of all rows since the start.
    pub counts: Counts,
    /// What the journal says of it; `None` before this process has read that.
    pub journaled: Option<Arc<Journaled>>,
}

impl UnitState {
    /// Whether the source is read, and what it shows is not believed.
    pub const fn is_not_believed(self) -> bool {
        matches!(self, Self::SourceEmpty | Self::SourceInvalid | Self::SourceIncomplete | Self::SourceTimeZone)
    }
}

impl UnitStatus {
    /// Puts the unit into a state, at an instant.
    pub fn enter(&mut self, state: UnitState, detail: &str, at: UtcMillis) {
        if self.state != state || self.since.is_none() {
            self.since = Some(at);
        }
        self.state = state;
        self.tried_again_at = None;
        detail.clone_into(&mut self.detail);
    }
}

/// What the journal says of a unit beside its watermarks.
#[derive(Clone, Debug, Default)]
pub struct Journaled {
    /// Increased by each rewind.
    pub generation: u32,
    /// What became of all rows since the unit's first start.
    pub counts: Counts,
    /// What was read and published completely, oldest first.
    pub coverage: Vec<Window>,
    /// What the watermarks promise lies below these ends.
    pub out_offsets: OutOffsets,
    /// How late its legs are.
    pub lateness: Lateness,
    /// The overlap that would find nearly all of them.
    pub recommended: Option<Recommendation>,
    /// Whole hours of which a sweep has seen fewer legs than were published, and more.
    pub hours_differing: (u64, u64),
    /// Whole hours that a sweep has compared.
    pub hours_compared: u64,
}

/// How a backfill is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackfillStatus {
    /// Its number.
    pub id: Nonce,
    /// The unit.
    pub unit: String,
    /// The period that was asked for.
    pub window: Window,
    /// How much of it is not yet covered, in milliseconds.
    pub left_ms: u64,
    /// How many windows were read since the owner's start.
    pub windows: u64,
    /// What became of it.
    pub state: BackfillState,
    /// What became of the rows read so far.
    pub counts: Counts,
    /// Why it does not come on, while it does not.
    pub trouble: Option<String>,
}

/// What this process is to the journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Not known yet.
    #[default]
    Starting,
    /// It publishes.
    Owner,
    /// Another one does.
    StandingBy {
        /// The owner's host name.
        owner: String,
        /// Where its admin port listens.
        admin: String,
    },
}

/// How often units are polled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PollPaceShown {
    /// From the beginning of one poll of a unit to that of the next.
    pub interval: Duration,
    /// Why; `None` where it is as it was configured.
    pub reason: Option<String>,
    /// By which factor it is longer because the API has asked for fewer requests.
    pub slowdown: u32,
}

/// How the whole connector is.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Where the admin port listens, once it does.
    pub admin: Option<String>,
    /// How often units are polled, once they are.
    pub poll_pace: Option<PollPaceShown>,
    /// What start-up waits for; `None` when it is through.
    pub waiting_for: Option<String>,
    /// What this process is to the journal.
    pub role: Role,
    /// Since when it owns the journal, while it does.
    pub owner_since: Option<UtcMillis>,
    /// How it publishes, once that is known.
    pub delivery: Option<Delivery>,
    /// Whether it was told to stop.
    pub stopping: bool,
    /// Since when Kafka owes an acknowledgement.
    pub publishing_since: Option<Instant>,
    /// The newest trouble with Kafka while it lasts.
    pub sink_trouble: Option<String>,
    /// Since when the disk of the state directory does not do its work, and how that shows. Kafka owes nothing then.
    pub disk_trouble: Option<(Instant, String)>,
    /// A step that must end within bounded time: its name and its deadline.
    pub bounded_steps: BTreeMap<u64, (&'static str, Instant)>,
    /// By name.
    pub units: BTreeMap<String, UnitStatus>,
    /// Those that this process has looked at, by number.
    pub backfills: BTreeMap<Nonce, BackfillStatus>,
}

impl Status {
    /// Why the connector is not doing its work, empty when it is.
    pub fn reasons_not_ready(&self, now: Instant) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.stopping {
            reasons.push("stopping".to_owned());
        }
        if let Some(waiting_for) = &self.waiting_for {
            reasons.push(format!("starting: {waiting_for}"));
        }
        if let Some((since, trouble)) = &self.disk_trouble {
            reasons.push(format!("disk: no work done for {} s: {trouble}", now.duration_since(*since).as_secs()));
        }
        if let Role::StandingBy { owner, admin } = &self.role {
            reasons.push(format!("standing by: {owner} publishes (its admin port: {admin})"));
            reasons
                .extend(self.sink_trouble.iter().map(|trouble| format!("kafka: the journal is not read: {trouble}")));
            return reasons;
        }
        if self.role == Role::Starting && self.waiting_for.is_none() {
            reasons.push("starting: taking over the journal".to_owned());
        }
        let waited = self.publishing_since.map(|since| now.duration_since(since));
        if let Some(waited) = waited.filter(|waited| *waited >= ACKNOWLEDGEMENT_PATIENCE) {
            let trouble = self.sink_trouble.as_deref().unwrap_or("no reason given");
            reasons.push(format!("kafka: no acknowledgement for {} s: {trouble}", waited.as_secs()));
        }
        if self.waiting_for.is_none() {
            let bad = self.units.iter().filter(|(_, unit)| !unit.state.is_good());
            reasons.extend(bad.map(|(name, unit)| match unit.detail.as_str() {
                "" => format!("unit {name}: {}", unit.state),
                detail => format!("unit {name}: {}: {detail}", unit.state),
            }));
        }
        reasons
    }

    /// Whether it stands by with a view that is up to date, so that it could take over at once: ready for what starts and
    /// replaces instances, although it publishes nothing.
    pub fn is_warm_standby(&self) -> bool {
        let is_standing_by = matches!(self.role, Role::StandingBy { .. });
        let has_trouble = self.sink_trouble.is_some() || self.disk_trouble.is_some();
        is_standing_by && !has_trouble && !self.stopping && self.waiting_for.is_none()
    }

    /// The steps that should have ended by now: a worker is stuck.
    pub fn stuck(&self, now: Instant) -> Vec<&'static str> {
        self.bounded_steps.values().filter(|(_, deadline)| *deadline < now).map(|(name, _)| *name).collect()
    }

    /// What became of all rows of all units since the start.
    pub fn counts(&self) -> Counts {
        self.units.values().fold(Counts::default(), |mut sum, unit| {
            sum += unit.counts;
            sum
        })
    }
}

/// Where the connector writes how it is and what it did lately, and others read it.
#[derive(Clone, Debug)]
pub struct StatusBoard {
    now: Arc<watch::Sender<Status>>,
    /// By unit.
    recent: Arc<watch::Sender<BTreeMap<String, Recent>>>,
}

impl Default for StatusBoard {
    fn default() -> Self {
        Self { now: Arc::new(watch::Sender::new(Status::default())), recent: Arc::default() }
    }
}

impl StatusBoard {
    /// How things are now.
    pub fn read(&self) -> Status {
        self.now.borrow().clone()
    }

    /// A receiver that is told of each change.
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.now.subscribe()
    }

    /// Changes how things are.
    pub fn update(&self, change: impl FnOnce(&mut Status)) {
        self.now.send_modify(change);
    }

    /// Says that the disk of the state directory does not do its work: it is waited for, and not Kafka.
    pub fn blame_disk(&self, trouble: String) {
        self.update(|status| {
            let since = status.disk_trouble.take().map_or_else(Instant::now, |(since, _)| since);
            status.disk_trouble = Some((since, trouble));
            (status.publishing_since, status.sink_trouble) = (None, None);
        });
    }

    /// Changes how one unit is.
    pub fn update_unit(&self, unit: &str, change: impl FnOnce(&mut UnitStatus)) {
        self.now.send_modify(|status| change(status.units.entry(unit.to_owned()).or_default()));
    }

    /// What each unit did lately.
    pub fn recent(&self) -> BTreeMap<String, Recent> {
        self.recent.borrow().clone()
    }

    /// Takes note of what a unit did.
    pub fn note(&self, unit: &str, note: impl FnOnce(&mut Recent)) {
        self.recent.send_modify(|recent| note(recent.entry(unit.to_owned()).or_default()));
    }

    /// Announces a step that has to end within `limit`; it has when the guard is dropped.
    pub fn bounded_step(&self, name: &'static str, limit: Duration) -> BoundedStep {
        let mut number = 0;
        self.now.send_modify(|status| {
            number = status.bounded_steps.last_key_value().map_or(0, |(last, _)| last + 1);
            status.bounded_steps.insert(number, (name, Instant::now() + limit));
        });
        BoundedStep { board: self.clone(), number }
    }
}

/// A step under way.
#[derive(Debug)]
pub struct BoundedStep {
    board: StatusBoard,
    number: u64,
}

impl Drop for BoundedStep {
    fn drop(&mut self) {
        self.board.update(|status| {
            status.bounded_steps.remove(&self.number);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn readiness_gives_every_reason() {
        let board = StatusBoard::default();
        board.update_unit("acme", |unit| unit.state = UnitState::Ok);
        assert_eq!(board.read().reasons_not_ready(Instant::now()), ["starting: taking over the journal"]);
        board.update(|status| status.role = Role::Owner);
        assert_eq!(board.read().reasons_not_ready(Instant::now()), [] as [&str; 0]);
        board.update(|status| status.publishing_since = Some(Instant::now()));
        board.update_unit("other", |unit| {
            unit.state = UnitState::SourceAuth;
            unit.detail = "wrong key".to_owned();
        });
        assert_eq!(board.read().reasons_not_ready(Instant::now()), ["unit other: source_auth: wrong key"]);
        tokio::time::advance(Duration::from_secs(31)).await;
        assert_eq!(
            board.read().reasons_not_ready(Instant::now())[0],
            "kafka: no acknowledgement for 31 s: no reason given"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_is_blamed_at_once_and_kafka_no_longer() {
        let board = StatusBoard::default();
        board.update(|status| {
            status.role = Role::Owner;
            (status.publishing_since, status.sink_trouble) = (Some(Instant::now()), Some("slow".to_owned()));
        });
        tokio::time::advance(Duration::from_secs(40)).await;
        board.blame_disk("No space left on device".to_owned());
        tokio::time::advance(Duration::from_secs(2)).await;
        board.blame_disk("Input/output error".to_owned());
        assert_eq!(
            board.read().reasons_not_ready(Instant::now()),
            ["disk: no work done for 2 s: Input/output error"],
            "since the first trouble, with the newest words"
        );
        board.update(|status| status.role = Role::StandingBy { owner: "b".to_owned(), admin: "b:1".to_owned() });
        assert!(board.read().reasons_not_ready(Instant::now())[0].starts_with("disk: "), "a standby has a disk, too");
    }

    #[test]
    fn a_standby_is_warm_while_nothing_keeps_it_from_taking_over() {
        let standing_by = Role::StandingBy { owner: "b".to_owned(), admin: "b:1".to_owned() };
        let warm = Status { role: standing_by, ..Status::default() };
        assert!(warm.is_warm_standby());
        let now = Instant::now();
        for (what, change) in [
            ("an owner", (|status: &mut Status| status.role = Role::Owner) as fn(&mut Status)),
            ("one that starts", |status| status.role = Role::Starting),
            ("one that stops", |status| status.stopping = true),
            ("one that waits", |status| status.waiting_for = Some("the registry".to_owned())),
            ("one that cannot read the journal", |status| status.sink_trouble = Some("brokers are down".to_owned())),
            ("one whose disk is full", |status| status.disk_trouble = Some((Instant::now(), "full".to_owned()))),
        ] {
            let mut status = warm.clone();
            change(&mut status);
            assert!(!status.is_warm_standby(), "{what}");
        }
        assert_eq!(warm.reasons_not_ready(now), ["standing by: b publishes (its admin port: b:1)"]);
        let cut_off = Status { sink_trouble: Some("brokers are down".to_owned()), ..warm };
        assert_eq!(cut_off.reasons_not_ready(now)[1], "kafka: the journal is not read: brokers are down");
    }

    #[test]
    fn the_operators_page_says_of_each_state_whether_it_is_ready() {
        let page = include_str!("../../docs/operate.md");
        for state in UnitState::ALL {
            let row = format!("| `{state}` | {} |", if state.is_good() { "ready" } else { "not ready" });
            assert!(
                page.lines().any(|line| line.starts_with(&row)),
                "docs/operate.md should have a row that begins {row}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_is_stuck_only_while_it_lasts_beyond_its_limit() {
        let board = StatusBoard::default();
        let step = board.bounded_step("store", Duration::from_secs(60));
        tokio::time::advance(Duration::from_secs(59)).await;
        assert!(board.read().stuck(Instant::now()).is_empty());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(board.read().stuck(Instant::now()), ["store"]);
        drop(step);
        assert!(board.read().stuck(Instant::now()).is_empty());
    }
}
