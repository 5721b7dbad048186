//! The legs that the simulated API knows: out of a seed, or recorded from the real one.
//!
//! ```text
//!   seed, origin ─▶ generated ─┐             window, now
//!                              ├─▶ Dataset ──────────────▶ entries in the reply's order ─▶ JSON rows
//!   recorded file ─▶ recorded ─┘
//! ```
//!
//! A dataset never changes and reads no clock: what is visible is a function of the instant asked
//! for, also in the future. It knows nothing about requests, pages or faults.

use std::collections::HashMap;
use std::time::Duration;

use chrono_tz::Tz;

use crate::core::time::UtcMillis;

mod call;
mod generated;
mod people;
mod recorded;
mod render;
#[cfg(test)]
mod tests;

use generated::Generated;
use recorded::Recorded;
pub use recorded::ReplayError;

/// Which legs a seed yields.
#[derive(Clone, Debug, PartialEq)]
pub struct DatasetSettings {
    /// Everything follows from this number and the origin.
    pub seed: u64,
    /// How many legs have their disconnect time in `[origin - span, origin)`.
    pub legs: u64,
    /// How far the past reaches; stretched where legs would lie denser than ten a millisecond.
    pub span: Duration,
    /// Legs per second from the origin on; at most 10,000.
    pub rate: f64,
    /// For how long legs go on ending from the origin on, up to two blocks of 64 legs more; none: for ever.
    pub live_for: Option<Duration>,
    /// How long after its end a leg may become visible. Zero: every leg is visible when it ends.
    pub late: Duration,
    /// The share of legs that become visible anywhere within `late`; the others take up to two
    /// seconds, or `late` if that is less.
    pub late_share: f64,
    /// The share of legs whose content changes after they became visible. A quarter of them change
    /// back later. Times and identity stay.
    pub revised_share: f64,
    /// How long after it became visible a leg may change.
    pub revised_within: Duration,
    /// The PBXs' names. A call may have the callId of another one on another PBX.
    pub pbxes: Vec<String>,
}

impl Default for DatasetSettings {
    fn default() -> Self {
        Self {
            seed: 1,
            legs: 10_000,
            span: Duration::from_hours(24),
            rate: 0.0,
            live_for: None,
            late: Duration::ZERO,
            late_share: 0.1,
            revised_share: 0.0,
            revised_within: Duration::from_mins(10),
            pbxes: super::PBX_NAMES.map(str::to_owned).to_vec(),
        }
    }
}

/// The legs that the API knows.
#[derive(Debug)]
pub struct Dataset {
    source: Source,
    pbxes: Vec<String>,
}

#[derive(Debug)]
enum Source {
    Generated(Generated),
    Recorded(Recorded),
}

impl Dataset {
    /// The legs of a seed: `settings.legs` before `origin`, and from there on at `settings.rate`.
    /// Without a PBX name the default ones are used.
    pub fn generated(mut settings: DatasetSettings, origin: UtcMillis) -> Self {
        if settings.pbxes.is_empty() {
            settings.pbxes = DatasetSettings::default().pbxes;
        }
        let pbxes = settings.pbxes.clone();
        Self { source: Source::Generated(Generated::new(settings, origin)), pbxes }
    }

    /// Rows recorded from the real API, served as they are. `rows` is a whole reply
    /// (`{"meta":…,"data":[…]}`), several of them one after the other, or rows one after the
    /// other, as in JSON lines.
    ///
    /// A row becomes visible at its disconnect time; one without is visible from its start time
    /// and found by it. Of rows with the same pbxId, callId and legId the last one counts. The
    /// PBXs are those that the rows name.
    pub fn replay(rows: &str) -> Result<Self, ReplayError> {
        let recorded = Recorded::parse(rows)?;
        let pbxes = recorded.pbxes().to_vec();
        Ok(Self { source: Source::Recorded(recorded), pbxes })
    }

    /// The PBXs' names.
    pub fn pbxes(&self) -> &[String] {
        &self.pbxes
    }

    /// Whether the rows are recorded ones.
    pub fn is_replay(&self) -> bool {
        matches!(self.source, Source::Recorded(_))
    }

    /// Everything that `filter` may let through before `horizon`, in the reply's order.
    pub(super) fn select(&self, filter: &Filter, horizon: i64) -> Vec<Entry> {
        match &self.source {
            Source::Generated(generated) => generated.select(filter, horizon, |leg| {
                filter.names_nobody() || {
                    let (caller, callee) = render::parties(generated.settings().seed, leg);
                    filter.admits(&caller, &callee)
                }
            }),
            Source::Recorded(recorded) => recorded.select(filter),
        }
    }

    /// Every leg that can be visible before `end`; of recorded rows those with a disconnect time.
    pub(super) fn entries_until(&self, end: i64) -> Box<dyn Iterator<Item = Entry> + '_> {
        match &self.source {
            Source::Generated(generated) => Box::new(generated.entries_until(end)),
            Source::Recorded(recorded) => Box::new(recorded.entries()),
        }
    }

    /// Reads entries as the reply shows them at `now`, with its texts in `zone`.
    pub(super) fn reader(&self, zone: Tz) -> Reader<'_> {
        Reader { dataset: self, zone, blocks: HashMap::new() }
    }
}

/// By which instant a query finds legs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Basis {
    Disconnect,
    Connect,
}

/// What a query lets through, with its bounds made half-open.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Filter {
    pub(super) basis: Basis,
    pub(super) start: i64,
    pub(super) end: i64,
    /// Positions in [`Dataset::pbxes`].
    pub(super) pbxes: Vec<u16>,
    pub(super) simplified: bool,
    /// Whether legs that have not ended are found too, by their start time.
    pub(super) unfinished: bool,
    pub(super) caller: Vec<String>,
    pub(super) callee: Vec<String>,
    pub(super) either: Vec<String>,
}

impl Filter {
    fn contains(&self, instant: i64) -> bool {
        self.start <= instant && instant < self.end
    }

    fn shows(&self, start: i64, connect: Option<i64>, end: Option<i64>) -> Shown {
        let instant = match (self.basis, end) {
            (_, None) => Some(start),
            (Basis::Disconnect, _) => end,
            (Basis::Connect, _) => connect,
        };
        Shown {
            finished: instant.is_some_and(|instant| self.contains(instant)),
            unfinished: self.unfinished && self.contains(start),
        }
    }

    fn names_nobody(&self) -> bool {
        self.caller.is_empty() && self.callee.is_empty() && self.either.is_empty()
    }

    /// Whether the parties' texts match. A label such as `Voicemail (120088)` matches by the
    /// extension it names.
    fn admits(&self, caller: &str, callee: &str) -> bool {
        fn is(text: &str, values: &[String]) -> bool {
            let named = text.strip_suffix(')').and_then(|text| text.rsplit_once('('));
            values.iter().any(|value| text == value || named.is_some_and(|(_, n)| n == value))
        }
        (self.caller.is_empty() || is(caller, &self.caller))
            && (self.callee.is_empty() || is(callee, &self.callee))
            && (self.either.is_empty() || is(caller, &self.either) || is(callee, &self.either))
    }
}

/// In which states a query finds a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    finished: bool,
    unfinished: bool,
}

impl Shown {
    const NEVER: Self = Self { finished: false, unfinished: false };
    const ALWAYS: Self = Self { finished: true, unfinished: false };
}

/// A leg in a query's result: where it is in the order and in the dataset, and when it shows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) start: i64,
    pub(super) visible_at: i64,
    /// The callId's number, or the rank of a recorded row.
    call: u64,
    place: u64,
    leg: u8,
    shown: Shown,
}

impl Entry {
    /// Whether a query at `now` finds the leg.
    pub(super) fn is_shown(&self, now: i64) -> bool {
        if self.visible_at <= now { self.shown.finished } else { self.shown.unfinished && self.start <= now }
    }
}

/// What a cursor remembers of the last row of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) start: i64,
    pub(super) call: String,
    pub(super) leg: String,
}

/// What the truth says about a leg.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) pbx: String,
    pub(super) call: String,
    pub(super) leg: String,
    pub(super) start: i64,
    pub(super) end: Option<i64>,
    pub(super) revised_at: [Option<i64>; 2],
}

/// Reads entries of a dataset; remembers the blocks of the legs read last.
pub(super) struct Reader<'a> {
    dataset: &'a Dataset,
    zone: Tz,
    blocks: HashMap<i64, Vec<generated::Leg>>,
}

/// How many blocks a reader remembers: as much as a page of 7,000 rows needs.
const READER_BLOCKS_MAX: usize = 1_024;

impl Reader<'_> {
    fn leg(&mut self, generated: &Generated, entry: &Entry) -> generated::Leg {
        let (block, ordinal) = Generated::locate(entry);
        if self.blocks.len() >= READER_BLOCKS_MAX && !self.blocks.contains_key(&block) {
            self.blocks.clear();
        }
        self.blocks.entry(block).or_insert_with(|| generated.legs(block))[ordinal]
    }

    /// Appends the JSON of the entry's row at `now`.
    pub(super) fn write(&mut self, entry: &Entry, now: i64, out: &mut String) {
        match &self.dataset.source {
            Source::Generated(generated) => {
                let leg = self.leg(generated, entry);
                let revisions = generated.revisions(&leg);
                let revised = revisions.iter().flatten().filter(|at| **at <= now).count() == 1;
                let page = render::Context {
                    seed: generated.settings().seed,
                    zone: self.zone,
                    pbx: &self.dataset.pbxes[usize::from(leg.pbx)],
                };
                if entry.visible_at <= now {
                    render::finished(&page, &leg, revised, out);
                } else {
                    render::in_progress(&page, &leg, now, out);
                }
            }
            Source::Recorded(recorded) => out.push_str(recorded.json(entry)),
        }
    }

    /// The entry's place in the order.
    pub(super) fn key(&self, entry: &Entry) -> Key {
        let (call, leg) = match &self.dataset.source {
            Source::Generated(_) => (entry.call.to_string(), entry.leg.to_string()),
            Source::Recorded(recorded) => recorded.ids(entry),
        };
        Key { start: entry.start, call, leg }
    }

    /// What is true about the entry.
    pub(super) fn facts(&mut self, entry: &Entry) -> Facts {
        let Key { start, call, leg } = self.key(entry);
        let (pbx, end, revised_at) = match &self.dataset.source {
            Source::Generated(generated) => {
                let found = self.leg(generated, entry);
                (found.pbx, Some(found.end), generated.revisions(&found))
            }
            Source::Recorded(recorded) => {
                let (pbx, end) = recorded.pbx_and_end(entry);
                (pbx, end, [None, None])
            }
        };
        let pbx = self.dataset.pbxes.get(usize::from(pbx)).cloned().unwrap_or_default();
        Facts { pbx, call, leg, start, end, revised_at }
    }
}

impl Key {
    /// Whether a row at `self` comes before a row at `other`: later start first, then callId and
    /// legId upwards.
    pub(super) fn is_before(&self, other: &Self) -> bool {
        (other.start, &self.call, &self.leg) < (self.start, &other.call, &other.leg)
    }
}
