//! The invariants of docs/design.md, read off the raw logs from outside.
//!
//! ```text
//!   every slot of every partition ──▶ decoded once ──▶ those whose transaction was decided for ──▶ I1 … I14
//!   history: inits, calls, reads ─────────────────────────────────────────────────────────────▶ I7 I9 I10
//!   the API's truth: legs, passes ────────────────────────────────────────────────────────────▶ I2 I12
//!   the disks ────────────────────────────────────────────────────────────────────────────────▶ I8
//! ```
//!
//! A record counts as visible from the moment its transaction is decided, whether or not all markers are written:
//! what a reader sees in between is a matter of which partition it looks at first, and is what `out_offsets` are for
//! (I3). Compacted records are checked as if they were still there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use call_legs::core::dedupe::Revisions;
use call_legs::core::hours::{Hour, HourCounts, HourRows};
use call_legs::core::identity::KeyHash;
use call_legs::core::journal::{BackfillState, Delivery, OutTopic, Record, Trace, UnitProgress};
use call_legs::core::ledger::Ledger;
use call_legs::core::time::UtcMillis;
use call_legs::sink::{Destination, Message};
use call_legs::store::Remembered;

use crate::api::{Pass, Sort, TrueLeg};
use crate::broker::{Broker, Event, Happened, Slot, Stored, Writer};
use crate::world::World;

/// The header with the identity of a leg or a dead row.
const IDENTITY: &str = "call-legs-identity";

/// How long a transaction may do nothing while it is open; a request to the API takes at least 40 ms.
const IDLE_MAX: Duration = Duration::from_millis(35);

/// A status as the feed publishes it, as far as it is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    /// The unit.
    pub(crate) unit: String,
    /// Its generation.
    pub(crate) generation: u32,
    /// The soft watermark.
    pub(crate) complete_to: UtcMillis,
    /// The hard one.
    pub(crate) final_to: UtcMillis,
    /// What it is doing.
    pub(crate) state: String,
    /// When the next one comes at the latest.
    pub(crate) next_beat_ms: u64,
    /// Where the topics end as far as the watermarks speak of them.
    pub(crate) out_offsets: BTreeMap<(OutTopic, i32), i64>,
}

/// How the bytes are read.
pub(crate) trait Codec {
    /// A record of the journal.
    fn journal(&self, key: &[u8], payload: Option<&[u8]>) -> Result<Record, String>;
    /// A record of the feed.
    fn status(&self, payload: &[u8]) -> Result<Status, String>;
    /// Whether a leg says of itself that it is late; `None` when this codec cannot tell.
    fn is_late(&self, payload: &[u8]) -> Result<Option<bool>, String>;
}

/// A leg or a dead row, as it lies in a partition.
#[derive(Clone, Debug)]
struct Out {
    topic: OutTopic,
    partition: i32,
    offset: i64,
    event: Event,
    writer: Writer,
    key: KeyHash,
    trace: Trace,
}

struct Journalled {
    offset: i64,
    event: Event,
    at: UtcMillis,
    writer: Writer,
    record: Record,
}

struct Shown {
    event: Event,
    at: UtcMillis,
    writer: Writer,
    status: Status,
}

enum Content {
    Out(Out),
    Journal(Box<Journalled>),
    Status(Box<Shown>),
}

/// Reads the logs as they grow and says what is wrong with them.
pub(crate) struct Checker<C> {
    codec: C,
    /// By partition: how much of it was decoded, and what was found.
    decoded: BTreeMap<(Destination, i32), Vec<Option<Content>>>,
    broken: Vec<String>,
    /// How far the brokers were at the last two checks: what was checked then need not be again, but at the end.
    checked: [Event; 2],
}

/// What is committed, in the broker's order.
struct Seen<'a> {
    world: &'a World,
    broker: &'a Broker,
    out: Vec<&'a Out>,
    journal: Vec<&'a Journalled>,
    feed: Vec<&'a Shown>,
    passes: Vec<Pass>,
    is_exact: bool,
    /// Promises from before were checked already.
    since: Event,
}

impl<C: Codec> Checker<C> {
    /// A checker that has seen nothing.
    pub(crate) fn new(codec: C) -> Self {
        Self { codec, decoded: BTreeMap::new(), broken: Vec::new(), checked: [0; 2] }
    }

    fn decode(&mut self, broker: &Broker) {
        for ((topic, partition), log) in &broker.partitions {
            let known = self.decoded.entry((*topic, *partition)).or_default();
            for (offset, slot) in log.slots.iter().enumerate().skip(known.len()) {
                let content = match slot {
                    Slot::Marker { .. } => Ok(None),
                    Slot::Record(stored) => decode(&self.codec, *topic, *partition, offset as i64, stored),
                };
                known.push(content.unwrap_or_else(|error| {
                    self.broken.push(format!("unreadable record at {topic:?}-{partition}@{offset}: {error}"));
                    None
                }));
            }
        }
    }

    /// What is wrong now that was not looked at before.
    pub(crate) fn check(&mut self, world: &World) -> Vec<String> {
        let since = self.checked[0];
        self.checked = [self.checked[1], world.kafka.broker().events()];
        self.check_since(world, since)
    }

    /// Everything that is wrong.
    pub(crate) fn check_all(&mut self, world: &World) -> Vec<String> {
        self.check_since(world, 0)
    }

    fn check_since(&mut self, world: &World, since: Event) -> Vec<String> {
        let broker = world.kafka.broker();
        self.decode(&broker);
        let mut wrong = self.broken.clone();
        wrong.extend(world.failures.iter().cloned());
        let mut seen = self.seen(world, &broker);
        seen.since = since;
        match seen.fold() {
            Ok(()) => seen.check_views(&mut wrong),
            Err(error) => wrong.push(format!("I5: {error}")),
        }
        seen.check_once(&mut wrong);
        seen.check_revisions(&mut wrong);
        seen.check_times(&mut wrong);
        seen.check_complete(&mut wrong);
        seen.check_promises(&mut wrong);
        seen.check_late(&self.codec, &mut wrong);
        seen.check_order(&self.codec, &mut wrong);
        seen.check_watermarks(&mut wrong);
        seen.check_pages(&mut wrong);
        seen.check_hours(&mut wrong);
        seen.check_beginnings(&mut wrong);
        seen.check_yielding(&mut wrong);
        seen.check_idle_transactions(&mut wrong);
        wrong
    }

    /// What must be true some time after all trouble has ended, while a process runs.
    pub(crate) fn check_healed(&mut self, world: &World) -> Vec<String> {
        let broker = world.kafka.broker();
        self.decode(&broker);
        let mut wrong = Vec::new();
        let seen = self.seen(world, &broker);
        seen.check_caught_up(&mut wrong);
        seen.check_backfilled(&mut wrong);
        // One row without an end takes a few polls until it is found.
        let states = if world.plan.endless > 0.0 {
            &["ok", "catching_up", "source_incomplete"][..]
        } else {
            &["ok", "catching_up"]
        };
        seen.check_feed(states, &mut wrong);
        wrong
    }

    /// What those that run have read, by polls or sweeps, is published, as far as it is still remembered.
    pub(crate) fn check_read(&mut self, world: &World) -> Vec<String> {
        let broker = world.kafka.broker();
        self.decode(&broker);
        let seen = self.seen(world, &broker);
        let published = seen.first_events();
        let alive: BTreeSet<u32> =
            (0..world.processes.len()).filter_map(|number| world.life(number)).map(|life| life.number).collect();
        let some_time_ago = world.run.now().minus(Duration::from_secs(60));
        let mut floors: BTreeMap<&str, UtcMillis> = BTreeMap::new();
        for (_, progress) in seen.progress() {
            let floor = floors.entry(&progress.unit).or_default();
            *floor = progress.progress.floor.max(*floor);
        }
        let unread = |leg: &&TrueLeg| {
            leg.sort == Sort::Leg
                && !published.contains_key(&leg.key)
                && floors.get(leg.unit.as_str()).is_some_and(|floor| *floor <= leg.disconnected)
        };
        let mut wrong = Vec::new();
        for leg in world.api.legs().iter().filter(unread) {
            if let Some(pass) = seen.passes.iter().find(|pass| {
                alive.contains(&pass.life)
                    && pass.unit == leg.unit
                    && pass.window.contains(leg.disconnected)
                    && seen.is_due(leg, pass.begun)
                    && pass.ended.is_some_and(|ended| ended < some_time_ago)
            }) {
                wrong.push(format!("I2: {pass:?} has read {leg:?}, and it was never published"));
            }
        }
        wrong
    }

    /// What was there when a process began, at this event and instant, was published in the order of time.
    pub(crate) fn check_in_order(&mut self, world: &World, began: (Event, UtcMillis)) -> Vec<String> {
        let broker = world.kafka.broker();
        self.decode(&broker);
        let mut wrong = Vec::new();
        self.seen(world, &broker).check_caught_up_in_order(&self.codec, began, &mut wrong);
        wrong
    }

    /// Every dead letter from before `buried` whose row the brokers take by now is a leg; that it is one once, I1 says.
    pub(crate) fn check_replayed(&mut self, world: &World, buried: Event) -> Vec<String> {
        let broker = world.kafka.broker();
        self.decode(&broker);
        let seen = self.seen(world, &broker);
        let legs = seen.out.iter().filter(|out| out.topic == OutTopic::Legs);
        let published: BTreeSet<KeyHash> = legs.map(|out| out.key).collect();
        let poisoned = world.api.legs().iter().filter(|leg| leg.sort == Sort::Poisoned);
        let by_row: BTreeMap<KeyHash, &TrueLeg> =
            poisoned.flat_map(|leg| leg.dead_keys.iter().map(move |key| (*key, leg))).collect();
        let letters = seen.out.iter().filter(|out| out.topic == OutTopic::DeadLetters && out.event < buried);
        let unpublished = letters.filter_map(|out| {
            let leg = by_row.get(&out.key).filter(|leg| !published.contains(&leg.key))?;
            Some(format!("I2: {out:?} could have been replayed, and {leg:?} is not published"))
        });
        unpublished.collect()
    }

    /// What the feed must say of every unit now, freshly; `states` are the beginnings that will do.
    pub(crate) fn check_feed(&mut self, world: &World, states: &[&str]) -> Vec<String> {
        let broker = world.kafka.broker();
        self.decode(&broker);
        let mut wrong = Vec::new();
        self.seen(world, &broker).check_feed(states, &mut wrong);
        wrong
    }

    /// What the journal says of a unit's hours.
    pub(crate) fn hours(&mut self, world: &World, unit: &str) -> BTreeMap<Hour, HourCounts> {
        let broker = world.kafka.broker();
        self.decode(&broker);
        let (ledger, _) = self.seen(world, &broker).fold_until(i64::MAX).unwrap_or_default();
        ledger.head.hours(unit).collect()
    }

    fn seen<'a>(&'a self, world: &'a World, broker: &'a Broker) -> Seen<'a> {
        let mut seen = Seen {
            world,
            broker,
            out: Vec::new(),
            journal: Vec::new(),
            feed: Vec::new(),
            passes: world.api.passes(),
            is_exact: world.plan.delivery == Delivery::ExactlyOnce,
            since: 0,
        };
        for (place, contents) in &self.decoded {
            for (offset, content) in contents.iter().enumerate() {
                let is_committed =
                    broker.partitions[place].record(offset as i64).is_some_and(|stored| broker.is_committed(stored));
                match content {
                    Some(_) if !is_committed => {}
                    Some(Content::Out(out)) => seen.out.push(out),
                    Some(Content::Journal(record)) => seen.journal.push(record),
                    Some(Content::Status(status)) => seen.feed.push(status),
                    None => {}
                }
            }
        }
        seen.out.sort_by_key(|out| out.event);
        seen
    }
}

fn header<'a>(message: &'a Message, name: &str) -> Option<&'a [u8]> {
    message.headers.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_ref())
}

fn decode(
    codec: &impl Codec,
    topic: Destination,
    partition: i32,
    offset: i64,
    stored: &Stored,
) -> Result<Option<Content>, String> {
    let Stored { message, at, event, writer, .. } = stored;
    let (at, event, writer) = (*at, *event, *writer);
    Ok(match topic {
        Destination::Journal => {
            let record = codec.journal(&message.key, message.payload.as_deref())?;
            Some(Content::Journal(Box::new(Journalled { offset, event, at, writer, record })))
        }
        Destination::Status => {
            let Some(payload) = message.payload.as_deref() else { return Ok(None) };
            Some(Content::Status(Box::new(Shown { event, at, writer, status: codec.status(payload)? })))
        }
        Destination::Legs | Destination::DeadLetters => {
            let identity = header(message, IDENTITY).map(<[u8; 16]>::try_from);
            let key = match (topic, identity) {
                (_, Some(Ok(key))) => KeyHash(key),
                (Destination::DeadLetters, None) => {
                    KeyHash::of_dead_row(message.payload.as_deref().unwrap_or_default())
                }
                (_, _) => return Err(format!("no header {IDENTITY}")),
            };
            let trace = header(message, Trace::HEADER).and_then(Trace::from_bytes);
            let trace = trace.ok_or_else(|| format!("no header {}", Trace::HEADER))?;
            let topic = if topic == Destination::Legs { OutTopic::Legs } else { OutTopic::DeadLetters };
            Some(Content::Out(Out { topic, partition, offset, event, writer, key, trace }))
        }
    })
}

impl<'a> Seen<'a> {
    fn progress(&self) -> impl Iterator<Item = (&'a Journalled, &'a UnitProgress)> + '_ {
        self.journal.iter().filter_map(|entry| match &entry.record {
            Record::Progress(progress) => Some((*entry, progress)),
            _ => None,
        })
    }

    fn fold_until(&self, next_offset: i64) -> Result<(Ledger, BTreeMap<KeyHash, Remembered>), String> {
        let mut ledger = Ledger::default();
        let mut entries: BTreeMap<KeyHash, Remembered> = BTreeMap::new();
        for entry in self.journal.iter().filter(|entry| entry.offset < next_offset) {
            ledger.take(entry.offset, &entry.record).map_err(|error| format!("at offset {}: {error}", entry.offset))?;
            let Record::Page(page) = &entry.record else { continue };
            for found in page.entries() {
                let new = Remembered {
                    seen: found.seen,
                    seq: page.seq,
                    unit: page.unit.as_str().into(),
                    generation: page.generation,
                };
                let known = entries.entry(found.key).or_insert_with(|| new.clone());
                if known.seq <= new.seq {
                    *known = new;
                }
            }
        }
        entries.retain(|_, entry| ledger.is_live(entry.seq, &entry.unit, entry.generation));
        Ok((ledger, entries))
    }

    /// I5: the journal can be folded and nothing is missing.
    fn fold(&self) -> Result<(), String> {
        let (ledger, _) = self.fold_until(i64::MAX)?;
        // A page is missing for ever, but a split transaction's progress may be decided before its page.
        ledger.check().map_err(|error| error.to_string())?;
        if ledger.head.missing_below > 0 {
            return Err(format!("a page before {} was skipped", ledger.head.missing_below));
        }
        Ok(())
    }

    /// I8: each disk has what the journal has, up to where it says that it has come.
    fn check_views(&self, wrong: &mut Vec<String>) {
        for (number, process) in self.world.processes.iter().enumerate() {
            let files = process.disk.files();
            let Some(head) = &files.head else { continue };
            let (ledger, expected) = match self.fold_until(head.next_offset) {
                Ok(folded) => folded,
                Err(error) => {
                    wrong.push(format!("I8: process {number}: {error}"));
                    continue;
                }
            };
            // Where a newer page's entry has replaced an older one, the head will follow.
            let is_beyond = |entry: &Remembered| entry.seq > head.last_seq;
            let beyond: BTreeSet<KeyHash> =
                files.entries.iter().filter(|(_, entry)| is_beyond(entry)).map(|(key, _)| *key).collect();
            let live = |(_, entry): &(&KeyHash, &Remembered)| ledger.is_live(entry.seq, &entry.unit, entry.generation);
            let found: BTreeMap<_, _> =
                files.entries.iter().filter(|(key, _)| !beyond.contains(key)).filter(live).collect();
            let expected: BTreeMap<_, _> = expected.iter().filter(|(key, _)| !beyond.contains(key)).collect();
            if ledger.head.last_seq != head.last_seq || ledger.head.chain != head.chain {
                wrong.push(format!(
                    "I8: process {number} is at page {}, the journal at {} there (offset {})",
                    head.last_seq, ledger.head.last_seq, head.next_offset
                ));
            } else if found != expected {
                let (found, expected): (BTreeSet<_>, BTreeSet<_>) =
                    (found.into_keys().collect(), expected.into_keys().collect());
                wrong.push(format!(
                    "I8: process {number}'s view differs at page {}: too many {:?}, too few {:?}",
                    head.last_seq,
                    found.difference(&expected).collect::<Vec<_>>(),
                    expected.difference(&found).collect::<Vec<_>>()
                ));
            }
        }
    }

    /// I1 and I14: nothing is there twice, but for writes that landed after a newer producer was made.
    fn check_once(&self, wrong: &mut Vec<String>) {
        let mut known: BTreeMap<(OutTopic, u32, KeyHash, u8), &Out> = BTreeMap::new();
        for &out in &self.out {
            let id = (out.topic, out.trace.generation, out.key, out.trace.seen.revision);
            let Some(first) = known.insert(id, out) else { continue };
            if self.is_at_the_start(out) {
                continue;
            }
            if self.is_exact {
                wrong.push(format!("I1: twice: {first:?} and {out:?}"));
                continue;
            }
            let (older, newer) = if first.writer.producer < out.writer.producer { (first, out) } else { (out, first) };
            let created = self.created(newer.writer);
            if older.writer.producer == newer.writer.producer || created.is_none_or(|created| older.event < created) {
                wrong.push(format!("I14: twice, and not for a write in flight: {first:?} and {out:?}"));
            }
        }
    }

    /// Whether a dead letter is of a row without a time at the start of its unit: the margins of the first window and of a
    /// backfill that ends there both show the row, and more than a horizon may lie between the two.
    fn is_at_the_start(&self, out: &Out) -> bool {
        let is_it = |leg: &&TrueLeg| leg.sort == Sort::Rubbish && leg.dead_keys.contains(&out.key);
        let Some(row) = self.world.api.legs().iter().find(is_it).filter(|_| out.topic == OutTopic::DeadLetters) else {
            return false;
        };
        let margins = |start: UtcMillis| start.minus(Duration::from_secs(1))..start.plus(Duration::from_secs(2));
        self.start_of(&row.unit).is_some_and(|start| margins(start).contains(&row.disconnected))
    }

    /// From where on a unit is read.
    fn start_of(&self, unit: &str) -> Option<UtcMillis> {
        let mut started = self.progress().filter(|(_, progress)| progress.unit == unit && progress.is_started());
        started.next().map(|(_, first)| first.progress.final_to)
    }

    /// I1 of revisions: none but where they are wanted, one for each change, numbered in order, and none missing
    /// where the changed leg was read and what was read with it is accounted for.
    fn check_revisions(&self, wrong: &mut Vec<String>) {
        let is_wanted = self.world.plan.revisions == Revisions::Publish;
        let mut newest: BTreeMap<(KeyHash, u32), &Out> = BTreeMap::new();
        for &out in self.out.iter().filter(|out| out.topic == OutTopic::Legs) {
            let before = newest.insert((out.key, out.trace.generation), out).map(|before| before.trace.seen.revision);
            let revision = out.trace.seen.revision;
            let is_next = before.map_or(0, |before| before + 1) == revision;
            if self.is_exact && !is_next || revision > u8::from(is_wanted) {
                wrong.push(format!("I1: after revision {before:?} there is {out:?}"));
            }
        }
        if !is_wanted || !self.is_exact {
            return;
        }
        for leg in self.world.api.legs().iter().filter(|leg| leg.sort == Sort::Leg) {
            let (Some(revised), Some([_, content])) = (leg.revised, leg.contents) else { continue };
            let mut generations = newest.range((leg.key, 0)..=(leg.key, u32::MAX));
            let Some((_, out)) = generations.next_back() else { continue };
            let is_forgotten = || {
                let floors = self.progress().filter(|(_, progress)| progress.unit == leg.unit);
                floors.map(|(_, progress)| progress.progress.floor).max().is_some_and(|floor| leg.disconnected < floor)
            };
            if out.trace.seen.fingerprint == Some(content) || is_forgotten() {
                continue;
            }
            let has_read =
                |pass: &&Pass| pass.unit == leg.unit && revised <= pass.begun && pass.window.contains(leg.disconnected);
            // A read has two passes at the most, and reads of one window never overlap: once a pass begins after two others,
            // everything of the first is published.
            let published = self.passes.iter().filter(has_read).find(|pass| {
                let next = |pass: &Pass| {
                    let follows =
                        |next: &&Pass| next.life == pass.life && pass.ended.is_some_and(|ended| ended <= next.begun);
                    self.passes.iter().filter(has_read).find(follows)
                };
                next(pass).and_then(next).is_some_and(|last| self.stored_at(out) < last.begun)
            });
            if let Some(pass) = published {
                wrong.push(format!("I1: {pass:?} has read {leg:?} changed, and it is not published"));
            }
        }
    }

    /// A leg is published by a read of its own time or of a later one, and while it is in progress not before its time
    /// is final.
    fn check_times(&self, wrong: &mut Vec<String>) {
        let legs: BTreeMap<KeyHash, &TrueLeg> = self.world.api.legs().iter().map(|leg| (leg.key, leg)).collect();
        for out in self.out.iter().filter(|out| out.topic == OutTopic::Legs) {
            let Some(leg) = legs.get(&out.key) else { continue };
            if out.trace.at != leg.disconnected {
                wrong.push(format!("{out:?} is of a read of another time than {leg:?}"));
            }
            let is_in_progress =
                leg.is_in_progress && out.trace.seen.fingerprint == leg.contents.map(|[first, _]| first);
            // A clock that has jumped is noticed with the next answer only. Before the start every time is final.
            if is_in_progress
                && !self.world.plan.has_clock_jumps
                && self.start_of(&leg.unit).is_some_and(|start| start <= leg.disconnected)
                && self.stored_at(out) < self.promised(leg.disconnected)
            {
                wrong.push(format!("{out:?} is in progress, and its time was not final"));
            }
        }
    }

    /// Whether a read begun at an instant had to publish a leg.
    fn is_due(&self, leg: &TrueLeg, begun: UtcMillis) -> bool {
        let plan = &self.world.plan;
        let is_final = leg.disconnected.plus(plan.delays.settle + plan.delays.overlap + plan.clock_tolerance) < begun;
        let is_awaited = leg.is_in_progress && leg.revised.is_none_or(|revised| begun < revised) && !is_final;
        leg.visible <= begun && !is_awaited
    }

    fn stored_at(&self, out: &Out) -> UtcMillis {
        let topic = if out.topic == OutTopic::Legs { Destination::Legs } else { Destination::DeadLetters };
        let stored = self.broker.partitions[&(topic, out.partition)].record(out.offset);
        stored.map(|stored| stored.at).unwrap_or_default()
    }

    fn created(&self, writer: Writer) -> Option<Event> {
        let init = Happened::Init(writer);
        self.broker.history.iter().find(|(_, _, what)| *what == init).map(|(event, _, _)| *event)
    }

    /// I2: what a progress calls final is there, as far as it could be seen.
    fn check_complete(&self, wrong: &mut Vec<String>) {
        let published = self.first_events();
        let mut before: BTreeMap<&str, &UnitProgress> = BTreeMap::new();
        for (entry, progress) in self.progress() {
            let previous = before.insert(&progress.unit, progress);
            if entry.event < self.since {
                continue;
            }
            let is_final = |progress: &UnitProgress, at| {
                at < progress.progress.final_to && progress.progress.coverage.contains(at)
            };
            for leg in self.world.api.legs().iter().filter(|leg| leg.unit == progress.unit) {
                let at = leg.disconnected;
                if !is_final(progress, at) || previous.is_some_and(|previous| is_final(previous, at)) {
                    continue;
                }
                let mut names = vec![leg.key];
                if leg.sort != Sort::Leg {
                    names.extend(&leg.dead_keys);
                }
                if names.iter().any(|name| published.get(name).is_some_and(|event| *event < entry.event)) {
                    continue;
                }
                if leg.visible <= self.promised(at) {
                    wrong.push(format!(
                        "I2: final to {} at {}, and without {leg:?}",
                        progress.progress.final_to, entry.at
                    ));
                } else if let Some(pass) = self.passes.iter().find(|pass| {
                    pass.life == entry.writer.life
                        && pass.unit == leg.unit
                        && pass.window.contains(at)
                        && leg.visible <= pass.begun
                        && pass.ended.is_some_and(|ended| ended < entry.at)
                }) {
                    wrong.push(format!("I2: {pass:?} has read {leg:?}, and it is not published"));
                }
            }
        }
    }

    /// By when a leg must be visible that is to be there for certain.
    fn promised(&self, at: UtcMillis) -> UtcMillis {
        let plan = &self.world.plan;
        let wrong_clocks = if plan.has_clock_jumps { plan.clock_tolerance } else { Duration::ZERO };
        at.plus(plan.delays.settle + plan.delays.overlap).minus(wrong_clocks + Duration::from_secs(2))
    }

    fn first_events(&self) -> BTreeMap<KeyHash, Event> {
        let mut events = BTreeMap::new();
        for out in &self.out {
            events.entry(out.key).or_insert(out.event);
        }
        events
    }

    /// I3: what a status or a progress promises lies below its ends.
    fn check_promises(&self, wrong: &mut Vec<String>) {
        let promises = self
            .progress()
            .map(|(entry, progress)| {
                (
                    entry.event,
                    entry.writer,
                    &progress.unit,
                    progress.generation,
                    progress.progress.complete_to,
                    &progress.out_offsets.0,
                )
            })
            .chain(self.feed.iter().map(|shown| {
                let Status { unit, generation, complete_to, out_offsets, .. } = &shown.status;
                (shown.event, shown.writer, unit, *generation, *complete_to, out_offsets)
            }));
        for (event, writer, unit, generation, complete_to, ends) in promises.filter(|promise| promise.0 >= self.since) {
            // Without fencing an older owner's promise may still arrive, and so may its legs: neither can know of
            // what somebody else has written since that owner began.
            let begun = if self.is_exact { None } else { self.created(writer) };
            let is_spoken_of = |out: &Out| {
                self.is_exact || out.writer.producer == writer.producer || begun.is_some_and(|begun| out.event < begun)
            };
            let broken = self.out.iter().take_while(|out| out.event < event).find(|out| {
                out.trace.unit == *unit
                    && is_spoken_of(out)
                    && out.trace.generation == generation
                    && out.trace.at < complete_to
                    && ends.get(&(out.topic, out.partition)).is_none_or(|end| *end <= out.offset)
            });
            if let Some(out) = broken {
                wrong.push(format!("I3: complete to {complete_to} below {ends:?}, but there is {out:?}"));
            }
        }
    }

    /// I4: what appears where all was final says that it is late.
    fn check_late(&self, codec: &impl Codec, wrong: &mut Vec<String>) {
        let mut progress = self.progress().peekable();
        let mut newest: BTreeMap<&str, (u64, &UnitProgress)> = BTreeMap::new();
        for out in self.out.iter().filter(|out| out.topic == OutTopic::Legs) {
            while let Some((entry, next)) = progress.next_if(|(entry, _)| entry.event < out.event) {
                newest.insert(&next.unit, (entry.writer.producer, next));
            }
            let Some((producer, known)) = newest.get(out.trace.unit.as_str()) else { continue };
            // Without fencing what was in flight may arrive after a newer owner has gone on.
            if !self.is_exact && *producer > out.writer.producer {
                continue;
            }
            let at = out.trace.at;
            let is_final = known.generation == out.trace.generation
                && at < known.progress.final_to
                && known.progress.coverage.contains(at);
            if !is_final || out.trace.seen.revision > 0 {
                continue;
            }
            match self.is_late(codec, out) {
                Ok(Some(false)) => {
                    wrong.push(format!("I4: final to {}, then not late: {out:?}", known.progress.final_to));
                }
                Ok(Some(true) | None) => {}
                Err(error) => wrong.push(format!("I4: {out:?}: {error}")),
            }
        }
    }

    /// I15: what lies far behind the newest leg says that it is late.
    fn check_order(&self, codec: &impl Codec, wrong: &mut Vec<String>) {
        // Without fencing what was in flight may arrive after a newer owner has gone on.
        if !self.is_exact {
            return;
        }
        let behind_max = self.world.plan.delays.behind_max(self.world.plan.interval);
        let page = |entry: &&'_ Journalled| match &entry.record {
            Record::Page(page) if !page.legs.is_empty() => Some((entry.event, page.last)),
            _ => None,
        };
        let mut pages = self.journal.iter().filter_map(page).peekable();
        let (mut newest, mut newest_of) = (UtcMillis::new(0), BTreeMap::<i32, UtcMillis>::new());
        for out in self.out.iter().filter(|out| out.topic == OutTopic::Legs) {
            // Partitions of one transaction have no order; the page of an earlier one lies before its legs.
            while let Some((_, last)) = pages.next_if(|(event, _)| *event < out.event) {
                newest = newest.max(last);
            }
            let of_partition = newest_of.entry(out.partition).or_insert(newest);
            let before = newest.max(*of_partition);
            *of_partition = before.max(out.trace.at);
            if before.since(out.trace.at) <= behind_max {
                continue;
            }
            match self.is_late(codec, out) {
                Ok(Some(false)) => wrong
                    .push(format!("I15: {before} before it, further behind than {behind_max:?}, not late: {out:?}")),
                Ok(Some(true) | None) => {}
                Err(error) => wrong.push(format!("I15: {out:?}: {error}")),
            }
        }
    }

    fn is_late(&self, codec: &impl Codec, out: &Out) -> Result<Option<bool>, String> {
        let stored = self.broker.partitions[&(Destination::Legs, out.partition)].record(out.offset);
        codec.is_late(stored.and_then(|stored| stored.message.payload.as_deref()).unwrap_or_default())
    }

    /// I15, without faults: what was there when a process began comes in the order of time, and says that it is late only
    /// where the API had shown it late.
    fn check_caught_up_in_order(&self, codec: &impl Codec, began: (Event, UtcMillis), wrong: &mut Vec<String>) {
        let delays = self.world.plan.delays;
        let legs: BTreeMap<KeyHash, &TrueLeg> = self.world.api.legs().iter().map(|leg| (leg.key, leg)).collect();
        let was_there = |out: &&&Out| {
            let leg = legs.get(&out.key);
            let is_wanted = |leg: &&TrueLeg| leg.sort == Sort::Leg && !leg.is_in_progress && leg.visible < began.1;
            out.topic == OutTopic::Legs
                && out.event > began.0
                && out.trace.seen.revision == 0
                && leg.is_some_and(is_wanted)
        };
        let mut newest_of: BTreeMap<i32, UtcMillis> = BTreeMap::new();
        let mut count = 0;
        for out in self.out.iter().filter(was_there) {
            let Some(leg) = legs.get(&out.key) else { continue };
            let newest = newest_of.entry(out.partition).or_default();
            let is_shown_late = leg.visible.since(leg.disconnected) > delays.overlap + delays.settle;
            if is_shown_late {
                continue;
            }
            count += 1;
            if leg.disconnected < *newest {
                wrong.push(format!("I15: out of order after {newest}: {out:?}"));
            }
            if self.is_late(codec, out) == Ok(Some(true)) {
                wrong.push(format!("I15: late, and the API had shown it in time: {leg:?}"));
            }
            *newest = leg.disconnected.max(*newest);
        }
        if count < 10 {
            wrong.push(format!("only {count} legs were there"));
        }
    }

    /// I5: within a generation nothing goes back.
    fn check_watermarks(&self, wrong: &mut Vec<String>) {
        if !self.is_exact {
            return;
        }
        let mut newest: BTreeMap<(&str, u32), &UnitProgress> = BTreeMap::new();
        for (entry, now) in self.progress() {
            let Some(before) = newest.insert((&now.unit, now.generation), now) else { continue };
            let (old, new) = (&before.progress, &now.progress);
            let is_covering = old.coverage.windows().iter().all(|window| {
                new.coverage.windows().iter().any(|wider| wider.start <= window.start && window.end <= wider.end)
            });
            let falls = new.complete_to < old.complete_to
                || new.final_to < old.final_to
                || new.floor < old.floor
                || now.last_seq < before.last_seq
                || now.oldest_needed_seq < before.oldest_needed_seq
                || before
                    .out_offsets
                    .0
                    .iter()
                    .any(|(place, end)| now.out_offsets.0.get(place).is_none_or(|now| now < end));
            if falls || !is_covering {
                wrong.push(format!("I5: at offset {} it goes back from {before:?} to {now:?}", entry.offset));
            }
        }
    }

    /// I6: below the ends that the journal accounts for, the legs are those on its pages; above, a split or unfinished
    /// transaction may have left some, which are to be adopted before the ends move past them. And nothing is on a
    /// page that is not there.
    fn check_pages(&self, wrong: &mut Vec<String>) {
        let mut on_pages: BTreeMap<(KeyHash, u8), Event> = BTreeMap::new();
        let mut there: BTreeMap<(KeyHash, u8), Event> = BTreeMap::new();
        for out in &self.out {
            there.entry((out.key, out.trace.seen.revision)).or_insert(out.event);
        }
        for entry in &self.journal {
            let Record::Page(page) = &entry.record else { continue };
            for found in page.entries() {
                let name = (found.key, found.seen.revision);
                on_pages.entry(name).or_insert(entry.event);
                if there.get(&name).is_none_or(|event| *event > entry.event) {
                    wrong.push(format!("I6: page {} has {name:?}, which is nowhere", page.seq));
                }
            }
        }
        // Without fencing a write may still arrive when a newer owner has begun, which cannot know of it.
        let is_newer_claim = |entry: &Journalled, out: &Out| {
            matches!(entry.record, Record::Claim(_))
                && entry.writer.producer > out.writer.producer
                && entry.event < out.event
        };
        let is_orphan = |out: &Out| !self.is_exact && self.journal.iter().any(|entry| is_newer_claim(entry, out));
        for (entry, progress) in self.progress().filter(|(entry, _)| entry.event >= self.since) {
            for out in self.out.iter().take_while(|out| out.event < entry.event).filter(|out| !is_orphan(out)) {
                let is_accounted_for =
                    progress.out_offsets.0.get(&(out.topic, out.partition)).is_some_and(|end| out.offset < *end);
                let name = (out.key, out.trace.seen.revision);
                if is_accounted_for && on_pages.get(&name).is_none_or(|event| *event > entry.event) {
                    wrong.push(format!("I6: {:?} accounts for {out:?}, which is on no page", progress.out_offsets.0));
                    return;
                }
            }
        }
    }

    /// The hours count what is in the topics, as far as it is still remembered and accounted for: what a torn
    /// transaction has left there is counted when it is adopted.
    fn check_hours(&self, wrong: &mut Vec<String>) {
        if !self.is_exact {
            return;
        }
        let Ok((ledger, _)) = self.fold_until(i64::MAX) else { return };
        for unit in ledger.head.units.values() {
            let is_kept = |hour: &Hour| unit.progress.floor <= hour.window().start;
            let counted: BTreeMap<Hour, HourRows> = ledger
                .head
                .hours(&unit.unit)
                .filter(|(hour, _)| is_kept(hour))
                .map(|(hour, counts)| (hour, counts.rows))
                .collect();
            let all = self.hours_of(unit, |_| true);
            let ends = &ledger.head.out_offsets.0;
            let accounted =
                self.hours_of(unit, |out| ends.get(&(out.topic, out.partition)).is_some_and(|end| out.offset < *end));
            for hour in counted.keys().chain(all.keys()).filter(|hour| is_kept(hour)) {
                let of = |hours: &BTreeMap<Hour, HourRows>| hours.get(hour).copied().unwrap_or_default();
                let (least, most, counted) = (of(&accounted), of(&all), of(&counted));
                if !(least.published..=most.published).contains(&counted.published)
                    || !(least.dead..=most.dead).contains(&counted.dead)
                {
                    wrong.push(format!("{hour} of {}: {counted:?} counted, {least:?} to {most:?} there", unit.unit));
                }
            }
        }
    }

    /// How many distinct legs and dead rows of a unit there are by hour, of the records that `is_meant` says.
    fn hours_of(&self, unit: &UnitProgress, is_meant: impl Fn(&Out) -> bool) -> BTreeMap<Hour, HourRows> {
        let mut known = BTreeSet::new();
        let mut hours: BTreeMap<Hour, HourRows> = BTreeMap::new();
        let of_unit = |out: &&&Out| out.trace.unit == unit.unit && out.trace.generation == unit.generation;
        for out in self.out.iter().filter(of_unit).filter(|out| is_meant(out)) {
            if known.insert((out.topic, out.key)) {
                let rows = hours.entry(Hour::of(out.trace.at)).or_default();
                match out.topic {
                    OutTopic::Legs => rows.published += 1,
                    OutTopic::DeadLetters => rows.dead += 1,
                }
            }
        }
        hours
    }

    /// I7: before a producer's first leg there are its claim, the claim's way back through the journal, and the whole
    /// of what there is to read of legs and dead letters.
    fn check_beginnings(&self, wrong: &mut Vec<String>) {
        let mut firsts: BTreeMap<u64, Event> = BTreeMap::new();
        let mut writers: BTreeMap<u64, Writer> = BTreeMap::new();
        for ((topic, _), log) in &self.broker.partitions {
            if !matches!(topic, Destination::Legs | Destination::DeadLetters) {
                continue;
            }
            for slot in &log.slots {
                let Slot::Record(stored) = slot else { continue };
                let first = firsts.entry(stored.writer.producer).or_insert(stored.event);
                *first = stored.event.min(*first);
                writers.insert(stored.writer.producer, stored.writer);
            }
        }
        for (producer, first) in firsts {
            let writer = writers[&producer];
            let Some(created) = self.created(writer) else {
                wrong.push(format!("I7: {writer:?} writes without an init"));
                continue;
            };
            let claim = self.journal.iter().find(|entry| {
                entry.writer == writer && entry.event < first && matches!(entry.record, Record::Claim(_))
            });
            let Some(claim) = claim else {
                wrong.push(format!("I7: {writer:?} writes without a claim"));
                continue;
            };
            let between = |event: &Event| (created..first).contains(event);
            let mut asked = BTreeSet::new();
            let mut read = BTreeSet::new();
            let mut reading = BTreeSet::new();
            let mut has_read_claim = false;
            for (event, _, what) in self.broker.history.iter().filter(|(event, _, _)| between(event)) {
                match *what {
                    Happened::AskedEnds(life, topic) if life == writer.life => {
                        asked.insert(topic);
                    }
                    // Others, for a replay, may go on at the same time.
                    Happened::ReadBegun(life, _, reader) if life == writer.life && *event > claim.event => {
                        reading.insert(reader);
                    }
                    Happened::ReadDone(life, topic, reader) if life == writer.life => {
                        has_read_claim |= topic == Destination::Journal && *event > claim.event;
                        if reading.contains(&reader) {
                            read.insert(topic);
                        }
                    }
                    _ => {}
                }
            }
            // Of a topic in which there is nothing there is nothing to read.
            let is_empty = |topic| {
                !self.broker.of(topic).any(|(_, log)| {
                    log.slots.iter().any(|slot| matches!(slot, Slot::Record(stored) if stored.event < created))
                })
            };
            let is_whole = [Destination::Legs, Destination::DeadLetters]
                .into_iter()
                .all(|topic| asked.contains(&topic) && (read.contains(&topic) || is_empty(topic)));
            if !has_read_claim || !is_whole {
                wrong.push(format!(
                    "I7: {writer:?} writes before it has read (claim seen: {has_read_claim}, ends asked: {asked:?}, read: {read:?})"
                ));
            }
        }
    }

    /// I9: after a fence by a newer owner nobody takes over while that owner is alive.
    fn check_yielding(&self, wrong: &mut Vec<String>) {
        if self.world.plan.has_clock_jumps || !self.is_exact {
            return;
        }
        // By life: its newest init, and since then a fence.
        let mut newest: BTreeMap<u32, (Event, Option<Event>)> = BTreeMap::new();
        let mut known = BTreeSet::new();
        let mut producers: BTreeMap<u32, u64> = BTreeMap::new();
        for (event, at, what) in &self.broker.history {
            match what {
                // A late copy of a producer's init is nobody's decision.
                Happened::Init(writer) if !known.insert(writer.producer) => {}
                // One with a successor of its own life was fenced by that, as the self-test wants it.
                Happened::ToldFenced(writer) if producers.get(&writer.life) == Some(&writer.producer) => {
                    if let Some((_, fenced)) = newest.get_mut(&writer.life) {
                        *fenced = Some(*event);
                    }
                }
                Happened::Init(writer) => {
                    producers.insert(writer.life, writer.producer);
                    if let Some((init, Some(fenced))) = newest.insert(writer.life, (*event, None)) {
                        self.check_took_over(*writer, (init, fenced), (*event, *at), wrong);
                    }
                }
                _ => {}
            }
        }
    }

    fn check_took_over(
        &self,
        writer: Writer,
        before: (Event, Event),
        init: (Event, UtcMillis),
        wrong: &mut Vec<String>,
    ) {
        let is_foreign = |entry: &&&Journalled| entry.writer.life != writer.life && entry.event < init.0;
        let mut claims =
            self.journal.iter().filter(is_foreign).filter(|entry| matches!(entry.record, Record::Claim(_)));
        // One that was not yet committed when the fence was noticed could not be seen.
        let decided = |entry: &Journalled| {
            let stored = self.broker.partitions[&(Destination::Journal, 0)].record(entry.offset);
            let transaction = stored.and_then(|stored| stored.transaction);
            transaction.and_then(|number| self.broker.transactions[&number].decided).unwrap_or(entry.event)
        };
        // Its own claim came after whatever it has read back with it, also where its init was seen earlier by a late copy.
        let own = self.journal.iter().rfind(|entry| {
            entry.writer.life == writer.life && entry.event < before.1 && matches!(entry.record, Record::Claim(_))
        });
        let since = own.map_or(before.0, |own| own.event.max(before.0));
        let Some(claim) = claims.rfind(|entry| since < entry.event && decided(entry) < before.1) else { return };
        let newest = self.feed.iter().rfind(|shown| shown.writer.life == claim.writer.life && shown.event < init.0);
        let released = self.journal.iter().filter(is_foreign).any(|entry| {
            entry.event >= claim.event && matches!(&entry.record, Record::Claim(claim) if claim.is_released)
        });
        let is_fresh = newest.is_some_and(|shown| {
            shown.status.state != "stopped"
                && init.1.since(shown.at)
                    < Duration::from_millis(3 * shown.status.next_beat_ms).saturating_sub(Duration::from_secs(1))
        });
        if is_fresh && !released {
            wrong.push(format!("I9: {writer:?} takes over at {} although life {} is alive", init.1, claim.writer.life));
        }
    }

    /// I10: an open transaction is never idle for as long as the API takes for an answer.
    fn check_idle_transactions(&self, wrong: &mut Vec<String>) {
        if !self.is_exact {
            return;
        }
        // By life: a second producer, as in the cluster's self-test, ends what its first had open.
        let mut open: BTreeMap<u32, UtcMillis> = BTreeMap::new();
        for (_, at, what) in &self.broker.history {
            match what {
                Happened::Call(writer, true) => {
                    if let Some(since) = open.remove(&writer.life)
                        && at.since(since) > IDLE_MAX
                    {
                        wrong.push(format!("I10: {writer:?}'s transaction was idle from {since} to {at}"));
                    }
                }
                Happened::Call(writer, false) => {
                    open.insert(writer.life, *at);
                }
                Happened::Closed(writer) | Happened::Init(writer) => {
                    open.remove(&writer.life);
                }
                // Whoever is stopped from outside cannot help it.
                Happened::Paused(_) => open.clear(),
                _ => {}
            }
        }
    }

    /// I12: with a process at work and no trouble, every unit is up to date.
    fn check_caught_up(&self, wrong: &mut Vec<String>) {
        let plan = &self.world.plan;
        let newest: BTreeMap<&str, &UnitProgress> =
            self.progress().map(|(_, progress)| (progress.unit.as_str(), progress)).collect();
        // A row without an end is looked for meanwhile.
        let polls = if plan.endless > 0.0 { 8 } else { 3 };
        let expected = self.world.run.now().minus(plan.delays.settle + plan.interval * polls + Duration::from_secs(60));
        for unit in &plan.units {
            match newest.get(unit.as_str()) {
                Some(progress) if progress.progress.complete_to >= expected => {}
                Some(progress) => wrong.push(format!(
                    "I12: {unit} is complete to {} only, at {}",
                    progress.progress.complete_to,
                    self.world.run.now()
                )),
                None => wrong.push(format!("I12: {unit} was never begun")),
            }
        }
    }

    /// I12 of backfills: what polls have left behind is read.
    fn check_backfilled(&self, wrong: &mut Vec<String>) {
        let Ok((ledger, _)) = self.fold_until(i64::MAX) else { return };
        let head = &ledger.head;
        for backfill in head.backfills.values() {
            let Some(unit) = head.units.get(&backfill.unit) else { continue };
            let is_left_behind = backfill.window.end <= unit.progress.final_to;
            if is_left_behind && backfill.state == BackfillState::Running {
                wrong.push(format!("I12: not read: {backfill:?}, covered is {:?}", unit.progress.coverage));
            }
        }
    }

    /// I13: every unit's newest status is fresh, or says that it stopped, and says one of `states`.
    fn check_feed(&self, states: &[&str], wrong: &mut Vec<String>) {
        let newest: BTreeMap<&str, &&Shown> =
            self.feed.iter().map(|shown| (shown.status.unit.as_str(), shown)).collect();
        let now = self.world.run.now();
        for unit in &self.world.plan.units {
            let Some(shown) = newest.get(unit.as_str()) else {
                wrong.push(format!("I13: {unit} has no status"));
                continue;
            };
            let state = &shown.status.state;
            let age = now.since(shown.at);
            if state != "stopped" && age > Duration::from_millis(3 * shown.status.next_beat_ms) {
                wrong.push(format!("I13: {unit}'s status is {age:?} old"));
            }
            if !states.iter().any(|wanted| state.starts_with(wanted)) {
                wrong.push(format!("I13: {unit} says {state}, not {states:?}"));
            }
        }
    }
}
