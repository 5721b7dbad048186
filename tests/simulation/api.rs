//! The call-legs API: which legs there are, when each can be seen, and pages of them over an unreliable line.
//!
//! ```text
//!   start ───── disconnected ── visible ───────── revised            true time
//!                     └─ lateness ─┘                                 mostly seconds, sometimes beyond the overlap
//! ```
//!
//! Rows descend by start time and the cursor is the last row's key, so a row that appears above the cursor is missed
//! by that pass, while totals already count it. What the API leaves open, the seed decides.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use call_legs::core::identity::{Fingerprint, KeyHash};
use call_legs::core::query::QueryBounds;
use call_legs::core::skew::Skew;
use call_legs::core::time::{UtcMillis, Window};
use call_legs::source::wire::{Page, Row, page, row};
use call_legs::source::{Source, SourceError};
use chrono::{NaiveDateTime, TimeZone};
use chrono_tz::Tz;

use crate::life::Life;
use crate::seed::{Dice, Run, lock, sleep};

/// What a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sort {
    /// A leg.
    Leg,
    /// A leg that the brokers will not take until they are mended.
    Poisoned,
    /// A row that is no leg.
    Rubbish,
}

/// A row of the report and the truth about it.
#[derive(Clone, Debug)]
pub(crate) struct TrueLeg {
    /// The PBX it belongs to.
    pub(crate) unit: String,
    /// What it is.
    pub(crate) sort: Sort,
    /// When the call began; rows are ordered by it.
    pub(crate) start: UtcMillis,
    /// When the leg ended; windows are about it.
    pub(crate) disconnected: UtcMillis,
    /// From when on, in true time, the API shows it.
    pub(crate) visible: UtcMillis,
    /// From when on it says something else.
    pub(crate) revised: Option<UtcMillis>,
    /// From when on it is shown as a call under way, without a disconnect time, if it is.
    pub(crate) under_way: Option<UtcMillis>,
    /// Whether it says that it is in progress, with its disconnect time, until it is revised.
    pub(crate) is_in_progress: bool,
    /// Whether it is also shown to queries that end up to a minute before it.
    pub(crate) is_astray: bool,
    /// The identity; of rubbish, that of its dead letter.
    pub(crate) key: KeyHash,
    /// Its content before and after it is revised; of a leg.
    pub(crate) contents: Option<[Fingerprint; 2]>,
    /// What a dead letter of it would be called, in each of its versions.
    pub(crate) dead_keys: Vec<KeyHash>,
    /// Whether nobody can tell where it ends.
    pub(crate) is_endless: bool,
    /// Orders rows of one start time.
    number: u64,
    first: String,
    second: String,
}

impl TrueLeg {
    /// Makes it a row without an end.
    fn make_endless(&mut self) {
        let raw = match self.number % 4 {
            0 => format!(r#"{{"callId":"{}","callerName":"5" tall","pbxId":"{}"}}"#, self.number, self.unit),
            1 => format!(r#"{{"callId":"{}","pbxId":"{}\"}}"#, self.number, self.unit),
            2 => format!(r#"{{"callId":"{}","departments":["a","pbxId":"{}"}}"#, self.number, self.unit),
            _ => format!(r#"{{"callId":"{}","pbxId":"{}""#, self.number, self.unit),
        };
        let key = KeyHash::of_dead_row(raw.as_bytes());
        (self.sort, self.key, self.contents, self.dead_keys) = (Sort::Rubbish, key, None, vec![key]);
        // In every query of a minute it would have each second of that minute read by itself.
        (self.revised, self.under_way, self.is_in_progress, self.is_astray) = (None, None, false, false);
        (self.first, self.second) = (raw.clone(), raw);
        self.is_endless = true;
    }

    fn raw_at(&self, now: UtcMillis) -> &str {
        if self.revised.is_some_and(|revised| revised <= now) { &self.second } else { &self.first }
    }

    fn is_astray_in(&self, end: UtcMillis) -> bool {
        self.is_astray && end < self.disconnected && self.disconnected.since(end) < Duration::from_secs(60)
    }
}

/// How a query's bounds are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bounds {
    /// Both belong to the answer.
    Inclusive,
    /// Neither does.
    Exclusive,
    /// The first does, and a leg's milliseconds do not count.
    WholeSeconds,
}

/// Where a page lies in its pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Within,
    /// It has the last rows: no more are on the next one.
    LastRows,
    /// It has none.
    Closing,
}

/// How a total is written.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Total {
    /// As a whole number.
    Number,
    /// As a text.
    Text,
    /// As a fraction of nothing.
    Fraction,
}

impl Total {
    fn of(self, rows: usize) -> String {
        match self {
            Self::Number => rows.to_string(),
            Self::Text => format!("\"{rows}\""),
            Self::Fraction => format!("{rows}.0"),
        }
    }
}

/// What a page says of itself where it says nothing.
const ODD_METAS: [&str; 6] = [
    "",
    r#""meta":null,"#,
    r#""meta":"ok","#,
    r#""meta":[],"#,
    r#""meta":{"totalRecordCount":"many"},"#,
    r#""meta":{"totalRecordCount":null,"scrollId":""},"#,
];

/// What the API is asked to be like.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    /// The units.
    pub(crate) units: Vec<String>,
    /// How long there are legs for, and how long before the run there were.
    pub(crate) before: Duration,
    /// See above.
    pub(crate) after: Duration,
    /// Mean time between a unit's legs.
    pub(crate) between_legs: Duration,
    /// Each unit has so many times fewer legs than the one before.
    pub(crate) sparser: u32,
    /// The overlap that the connector is given: what is later than this is late.
    pub(crate) overlap: Duration,
    /// The zone that bounds are in.
    pub(crate) zone: Tz,
    /// A request that gets no answer, or 5xx.
    pub(crate) unreachable: f64,
    /// A request that comes too soon.
    pub(crate) rate_limited: f64,
    /// A cursor that is not accepted.
    pub(crate) cursor_refused: f64,
    /// A page that says neither how many rows there are nor where the next one begins.
    pub(crate) odd_meta: f64,
    /// A row that is so broken that nobody finds its end.
    pub(crate) endless: f64,
}

/// One read of a query from its first page to its last, as the caller got it.
#[derive(Clone, Debug)]
pub(crate) struct Pass {
    /// Who read.
    pub(crate) life: u32,
    /// Which unit.
    pub(crate) unit: String,
    /// The query without the second by which it is widened.
    pub(crate) window: Window,
    /// When its first page was put together, in true time.
    pub(crate) begun: UtcMillis,
    /// When its last page was received.
    pub(crate) ended: Option<UtcMillis>,
}

/// How the API as a whole fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// It answers, but for the faults of the seed.
    Well,
    /// It does not answer.
    Down,
    /// It refuses the credentials.
    Refusing,
    /// It answers 429 to everything.
    Limiting,
    /// Whatever it is asked for, it shows rows that are no legs.
    Babbling,
    /// Whatever it is asked for, it shows the same legs of another time.
    Repeating,
}

struct State {
    mood: Mood,
    ahead_ms: i64,
    passes: Vec<Pass>,
    /// By life, unit and query: the newest pass. A poll and a sweep of one unit may be under way at once.
    reading: BTreeMap<(u32, String, String), usize>,
    /// Legs that it does not show any more.
    hidden: BTreeSet<KeyHash>,
}

/// The API.
pub(crate) struct Api {
    run: Arc<Run>,
    setting: Setting,
    bounds: Bounds,
    rows_max: usize,
    /// How totals are written.
    total: Total,
    legs: Vec<TrueLeg>,
    state: Mutex<State>,
}

impl Api {
    /// An API whose legs the run's dice decide.
    pub(crate) fn new(run: Arc<Run>, setting: Setting) -> Arc<Self> {
        let epoch = run.now();
        let legs = run.throw(|dice| legs(dice, &setting, epoch));
        let bounds = run.throw(|dice| *dice.pick(&[Bounds::Inclusive, Bounds::Exclusive, Bounds::WholeSeconds]));
        let rows_max = run.throw(|dice| dice.between(3, 25) as usize);
        let total = run.throw(|dice| *dice.pick(&[Total::Number, Total::Number, Total::Text, Total::Fraction]));
        run.note(format_args!(
            "api: {} legs, {bounds:?}, {rows_max} rows a page, {total:?}, {:?}",
            legs.len(),
            setting
        ));
        let state = State {
            mood: Mood::Well,
            ahead_ms: 0,
            passes: Vec::new(),
            reading: BTreeMap::new(),
            hidden: BTreeSet::new(),
        };
        Arc::new(Self { run, setting, bounds, rows_max, total, legs, state: Mutex::new(state) })
    }

    /// The truth.
    pub(crate) fn legs(&self) -> &[TrueLeg] {
        &self.legs
    }

    /// Every read so far.
    pub(crate) fn passes(&self) -> Vec<Pass> {
        self.state().passes.clone()
    }

    /// Changes how it fares.
    pub(crate) fn set_mood(&self, mood: Mood) {
        self.state().mood = mood;
        self.run.note(format_args!("api is {mood:?}"));
    }

    /// Sets its clock so far ahead of the true time.
    pub(crate) fn set_ahead_ms(&self, ahead_ms: i64) {
        self.state().ahead_ms = ahead_ms;
        self.run.note(format_args!("api's clock is {ahead_ms} ms ahead"));
    }

    /// Shows these legs no more, and all others.
    pub(crate) fn hide(&self, legs: BTreeSet<KeyHash>) {
        self.run.note(format_args!("api hides {} legs", legs.len()));
        self.state().hidden = legs;
    }

    /// The API as a life of a process sees it.
    pub(crate) fn seen_by(self: &Arc<Self>, life: &Arc<Life>) -> SimSource {
        SimSource { api: Arc::clone(self), life: Arc::clone(life), skew: Mutex::new(None) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn instant(&self, text: &str) -> Option<UtcMillis> {
        let local = NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S").ok()?;
        Some(self.setting.zone.from_local_datetime(&local).earliest()?.to_utc().into())
    }

    fn is_asked(&self, start: UtcMillis, end: UtcMillis, at: UtcMillis) -> bool {
        match self.bounds {
            Bounds::Inclusive => start <= at && at <= end,
            Bounds::Exclusive => start < at && at < end,
            Bounds::WholeSeconds => start <= at.floor_second() && at.floor_second() < end,
        }
    }

    /// The body of a page, now; `None` when the cursor is not one.
    fn body(
        &self,
        unit: &str,
        bounds: &QueryBounds,
        cursor: Option<&str>,
        rows_max: Option<usize>,
    ) -> Option<(String, Place)> {
        let now = self.run.now();
        let (start, end) = (self.instant(&bounds.start)?, self.instant(&bounds.end)?);
        if let Some(babble) = self.babble(unit, Window::new(start, end), cursor.is_some()) {
            return Some((babble, Place::Within));
        }
        let hidden = self.state().hidden.clone();
        let mut rows: Vec<(&TrueLeg, String)> = self
            .legs
            .iter()
            .filter(|leg| leg.unit == unit && !hidden.contains(&leg.key))
            .filter_map(|leg| {
                if leg.visible <= now {
                    let is_shown = self.is_asked(start, end, leg.disconnected) || leg.is_astray_in(end);
                    is_shown.then(|| (leg, leg.raw_at(now).to_owned()))
                } else {
                    let is_shown =
                        leg.under_way.is_some_and(|from| from <= now) && self.is_asked(start, end, leg.start);
                    is_shown.then(|| (leg, under_way(leg)))
                }
            })
            .collect();
        rows.sort_by_key(|(leg, _)| std::cmp::Reverse((leg.start, leg.number)));
        let total = rows.len();
        if let Some(cursor) = cursor {
            let (start, number) = cursor.split_once('_')?;
            let after = (UtcMillis::new(start.parse().ok()?), number.parse().ok()?);
            rows.retain(|(leg, _)| (leg.start, leg.number) < after);
        }
        let rows_max = rows_max.unwrap_or(usize::MAX).min(self.rows_max);
        let place = if rows.len() > rows_max { Place::Within } else { Place::LastRows };
        rows.truncate(rows_max);
        Some(match rows.last() {
            None => (r#"{"meta":{"totalRecordCount":0,"scrollId":"No Data"},"data":[]}"#.to_owned(), Place::Closing),
            Some((last, _)) => {
                let cursor = format!("{}_{}", last.start.as_millis(), last.number);
                let data: Vec<&str> = rows.iter().map(|(_, raw)| raw.as_str()).collect();
                let total = self.total.of(total);
                let meta = format!(r#"{{"totalRecordCount":{total},"scrollId":"{cursor}"}}"#);
                (format!(r#"{{"meta":{meta},"data":[{}]}}"#, data.join(",")), place)
            }
        })
    }

    /// What it shows whatever it is asked for, if it does; as it says, that is all there is.
    fn babble(&self, unit: &str, asked: Window, is_further: bool) -> Option<String> {
        let mood = self.state().mood;
        let now = self.run.now();
        let is_elsewhere = |leg: &&TrueLeg| {
            leg.sort == Sort::Leg && leg.unit == unit && leg.visible <= now && !asked.contains(leg.disconnected)
        };
        let rows: Vec<String> = match mood {
            Mood::Repeating => {
                let margin = Duration::from_secs(2);
                let asked = Window::new(asked.start.minus(margin), asked.end.plus(margin));
                let legs = self.legs.iter().filter(is_elsewhere).filter(|leg| !asked.contains(leg.disconnected));
                legs.take(30).map(|leg| leg.raw_at(now).to_owned()).collect()
            }
            Mood::Babbling => Vec::new(),
            _ => return None,
        };
        let rows = if rows.len() < 5 { BABBLE.map(str::to_owned).to_vec() } else { rows };
        let (rows, cursor) = if is_further { (Vec::new(), "No Data") } else { (rows, "1_1") };
        let (total, data) = (rows.len(), rows.join(","));
        Some(format!(r#"{{"meta":{{"totalRecordCount":{total},"scrollId":"{cursor}"}},"data":[{data}]}}"#))
    }
}

/// Rows that are no legs, of any time.
const BABBLE: [&str; 7] = [
    "null",
    "{}",
    "[[[[[]]]]]",
    r#""legs""#,
    r#"{"a":1}"#,
    r#"{"call":{"id":"1","leg":"1"}}"#,
    r#"{"callId":{},"legId":[]}"#,
];

/// The same page with another meta.
fn with_meta(body: &str, meta: &str) -> String {
    body.split_once(r#""data":"#).map_or_else(String::new, |(_, data)| format!(r#"{{{meta}"data":{data}"#))
}

fn under_way(leg: &TrueLeg) -> String {
    let start = leg.start.as_millis();
    format!(
        r#"{{"callId":"{}","legId":"1","startTimeUTC":{start},"disconnectedTimeUTC":0,"status":"In Progress","pbxId":"{}"}}"#,
        call_id(leg.sort, leg.number),
        leg.unit
    )
}

fn call_id(sort: Sort, number: u64) -> String {
    // The same call ids come from every PBX.
    if sort == Sort::Poisoned { format!("666{number}") } else { format!("{}", 1_635_571_000_000 + number) }
}

fn legs(dice: &mut Dice, setting: &Setting, epoch: UtcMillis) -> Vec<TrueLeg> {
    let mut legs = Vec::new();
    let mut between_ms = setting.between_legs.as_millis() as i64;
    let overlap_ms = setting.overlap.as_millis() as i64;
    for unit in &setting.units {
        let mut at = epoch.minus(setting.before);
        let mut number = 0;
        while at < epoch.plus(setting.after) {
            // Calls come in bursts, and some end in the same millisecond.
            at = at.plus(if dice.chance(0.2) { dice.millis(0, 1500) } else { dice.millis(0, 2 * between_ms) });
            number += 1;
            let mut leg = leg(dice, unit, number, at, overlap_ms);
            if dice.chance(setting.endless) {
                leg.make_endless();
            }
            legs.push(leg);
        }
        between_ms *= i64::from(setting.sparser);
    }
    legs
}

fn leg(dice: &mut Dice, unit: &str, number: u64, disconnected: UtcMillis, overlap_ms: i64) -> TrueLeg {
    let start =
        disconnected.minus(if dice.chance(0.05) { dice.millis(0, 3_600_000) } else { dice.millis(1_000, 300_000) });
    let lateness = match dice.unit() {
        x if x < 0.6 => dice.millis(0, 20_000),
        x if x < 0.9 => dice.millis(0, overlap_ms / 2),
        x if x < 0.96 => dice.millis(0, overlap_ms),
        x if x < 0.99 => dice.millis(overlap_ms, 3 * overlap_ms),
        _ => dice.millis(overlap_ms, 20 * overlap_ms),
    };
    let visible = disconnected.plus(lateness);
    let sort = match dice.unit() {
        x if x < 0.03 => Sort::Rubbish,
        x if x < 0.05 => Sort::Poisoned,
        _ => Sort::Leg,
    };
    let is_in_progress = sort == Sort::Leg && dice.chance(0.05);
    let is_revised = sort != Sort::Rubbish && (is_in_progress || dice.chance(0.1));
    let revised = is_revised.then(|| visible.plus(dice.millis(0, 2 * overlap_ms)));
    let under_way = (sort == Sort::Leg && dice.chance(0.05)).then(|| start.plus(dice.millis(0, 60_000)));
    let talk_ms = dice.between(0, 100_000);
    let regular = |talk_ms: i64, status: &str| {
        format!(
            r#"{{"callId":"{}","legId":"1","startTimeUTC":{},"connectTimeUTC":0,"disconnectedTimeUTC":{},"talkTimeMS":{talk_ms},"caller":"+1555{number:07}","direction":"Incoming","status":"{status}","pbxId":"{unit}"}}"#,
            call_id(sort, number),
            start.as_millis(),
            disconnected.as_millis(),
        )
    };
    let (first, second) = if sort == Sort::Rubbish {
        let raw = match dice.between(0, 6) {
            0 => format!(
                r#"{{"callId":null,"legId":"1","startTimeUTC":{},"n":{number},"pbxId":"{unit}"}}"#,
                start.as_millis()
            ),
            1 => format!(r#""{unit} {number}""#),
            2 => format!(
                r#"{{"callId":"{}","legId":"9","disconnectedTimeUTC":"soon","pbxId":"{unit}"}}"#,
                call_id(sort, number)
            ),
            3 => format!("{{\"callId\":\"{number}\",\"callerName\":\"a\tb\",\"pbxId\":\"{unit}\"}}"),
            4 => format!(r#"{{"callId":"{number}","talkTimeMS":NaN,"pbxId":"{unit}"}}"#),
            _ => {
                format!(r#"{{"callId":"{}","legId":"8","status":"Completed","pbxId":"{unit}"}}"#, call_id(sort, number))
            }
        };
        (raw.clone(), raw)
    } else {
        let written = *dice.pick(&["In Progress", "IN_PROGRESS", "in-progress"]);
        (regular(talk_ms, if is_in_progress { written } else { "Completed" }), regular(talk_ms + 1, "Completed"))
    };
    let is_astray = sort == Sort::Leg && dice.chance(0.03);
    let fingerprint = |raw: &str| match row(raw.as_bytes()) {
        Row::Leg(leg) => Some(Fingerprint::of_leg(&leg)),
        Row::Unfinished | Row::Dead(_) => None,
    };
    let contents = fingerprint(&first).zip(fingerprint(&second)).map(|(first, second)| [first, second]);
    let key = match row(first.as_bytes()) {
        Row::Leg(leg) => KeyHash::of_leg(&leg),
        Row::Unfinished | Row::Dead(_) => KeyHash::of_dead_row(first.as_bytes()),
    };
    let dead_keys = vec![KeyHash::of_dead_row(first.as_bytes()), KeyHash::of_dead_row(second.as_bytes())];
    TrueLeg {
        unit: unit.to_owned(),
        sort,
        start,
        disconnected,
        visible,
        revised,
        under_way,
        is_in_progress,
        is_astray,
        key,
        contents,
        dead_keys,
        is_endless: false,
        number,
        first,
        second,
    }
}

/// The API as one life of a process sees it.
pub(crate) struct SimSource {
    api: Arc<Api>,
    life: Arc<Life>,
    skew: Mutex<Option<Skew>>,
}

impl SimSource {
    /// There and back, with everything that can go wrong on the way; `answer` is made in between.
    async fn request<T>(&self, answer: impl FnOnce() -> Result<T, SourceError>) -> Result<T, SourceError> {
        let Self { api, life, .. } = self;
        life.cross().await;
        let sent = life.now();
        let (there, back) = api.run.throw(|dice| (dice.millis(20, 150), dice.millis(20, 250)));
        sleep(there).await;
        let is_lost = api.run.is_faulty(api.setting.unreachable);
        let is_answer_lost = api.run.is_faulty(api.setting.unreachable);
        let is_limited = api.run.is_faulty(api.setting.rate_limited);
        let (mood, ahead_ms) = {
            let state = api.state();
            (state.mood, state.ahead_ms)
        };
        if is_lost || mood == Mood::Down {
            sleep(api.run.throw(|dice| dice.millis(10, 5_000))).await;
            life.cross().await;
            return Err(SourceError::unreachable("no answer from the simulated API"));
        }
        let date = UtcMillis::new(api.run.now().as_millis() + ahead_ms).floor_second();
        let answer = if mood == Mood::Refusing {
            Err(SourceError::refused("the simulated API refuses the key"))
        } else if is_limited || mood == Mood::Limiting {
            let after = api.run.throw(|dice| dice.chance(0.7).then(|| dice.millis(1_000, 20_000)));
            Err(SourceError::rate_limited("429 from the simulated API", after))
        } else {
            answer()
        };
        sleep(back).await;
        life.cross().await;
        if is_answer_lost {
            return Err(SourceError::unreachable("the simulated API's answer was cut short"));
        }
        *lock(&self.skew) = Some(Skew::observed(sent, life.now(), date));
        answer
    }

    fn pass_begins(&self, unit: &str, bounds: &QueryBounds) {
        let (Some(start), Some(end)) = (self.api.instant(&bounds.start), self.api.instant(&bounds.end)) else { return };
        let second = Duration::from_secs(1);
        let pass = Pass {
            life: self.life.number,
            unit: unit.to_owned(),
            window: Window::new(start.plus(second), end.minus(second)),
            begun: self.api.run.now(),
            ended: None,
        };
        let mut state = self.api.state();
        state.passes.push(pass);
        let newest = state.passes.len() - 1;
        state.reading.insert(self.reading(unit, bounds), newest);
    }

    fn reading(&self, unit: &str, bounds: &QueryBounds) -> (u32, String, String) {
        (self.life.number, unit.to_owned(), format!("{}/{}", bounds.start, bounds.end))
    }

    /// The pass may end here; it may also go on to the closing page.
    fn pass_may_end(&self, unit: &str, bounds: &QueryBounds) {
        let now = self.api.run.now();
        let mut state = self.api.state();
        if let Some(&pass) = state.reading.get(&self.reading(unit, bounds)) {
            state.passes[pass].ended = Some(now);
        }
    }
}

impl Source for SimSource {
    async fn log_in(&self) -> Result<(), SourceError> {
        self.request(|| Ok(())).await
    }

    async fn fetch(
        &self,
        unit: &str,
        bounds: &QueryBounds,
        cursor: Option<&str>,
        rows: Option<usize>,
    ) -> Result<Page, SourceError> {
        let api = &self.api;
        let (body, place) = self
            .request(|| {
                let refused = || SourceError::cursor_refused("400 from the simulated API");
                if cursor.is_some() && self.api.run.is_faulty(self.api.setting.cursor_refused) {
                    return Err(refused());
                }
                if cursor.is_none() {
                    self.pass_begins(unit, bounds);
                }
                let (body, place) = api.body(unit, bounds, cursor, rows).ok_or_else(refused)?;
                let odd = api.run.is_faulty(api.setting.odd_meta);
                let odd = odd.then(|| api.run.throw(|dice| *dice.pick(&ODD_METAS)));
                // Nobody can tell then that these are the last rows.
                let place = if odd.is_some() && place == Place::LastRows { Place::Within } else { place };
                Ok((odd.map_or(body.clone(), |meta| with_meta(&body, meta)), place))
            })
            .await?;

        self.api.run.note(format_args!(
            "life {}: page of {unit} {}..{} at {cursor:?}: {} bytes",
            self.life.number,
            bounds.start,
            bounds.end,
            body.len()
        ));
        let page = page(body.into_bytes()).map_err(|error| SourceError::unreachable(error.to_string()))?;
        // Behind a row without an end nobody sees any.
        if place == Place::Closing || (place == Place::LastRows && page.rest().is_none()) {
            self.pass_may_end(unit, bounds);
        }
        Ok(page)
    }

    fn skew(&self) -> Option<Skew> {
        *lock(&self.skew)
    }
}
