//! What happens beside the legs: faults of the API, repeats that were dropped, the kill of the connector.

use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Demo;
use super::connector::{Child, Watched};
use super::screen::Tone;
use super::verdict::Happened;
use crate::core::time::UtcMillis;
use crate::core::words::count;
use crate::error::Ended;
use crate::sandbox::faults::Kind;

/// How often repeats are told: every poll has some.
const REPEATS_TOLD_EVERY: Duration = Duration::from_secs(10);

/// Tells what has happened since it told last.
pub(super) struct News<'a> {
    demo: &'a Demo,
    watched: watch::Receiver<Watched>,
    /// How many faults of each kind were told.
    faults: [u64; Kind::ALL.len()],
    repeats: u64,
    repeats_told: Instant,
    dead: u64,
    kills: u64,
    /// When the connector was started again, until it answers.
    restarted: Option<UtcMillis>,
}

impl<'a> News<'a> {
    pub(super) fn new(demo: &'a Demo, watched: watch::Receiver<Watched>) -> Self {
        let (faults, repeats_told) = ([0; Kind::ALL.len()], Instant::now());
        Self { demo, watched, faults, repeats: 0, repeats_told, dead: 0, kills: 0, restarted: None }
    }

    /// Kills the connector as a machine would, and starts it again.
    pub(super) async fn kill(&mut self, mut connector: Child) -> Result<Child, Ended> {
        connector.signal(Signal::KILL);
        connector.ended().await;
        self.kills += 1;
        self.say(Tone::Kill, &format!("kill -9 of the connector (process {})", connector.id()))?;
        let again = Child::start(&self.demo.path)?;
        self.restarted = Some(self.demo.sandbox.now());
        self.say(
            Tone::Good,
            &format!("started again (process {}): it reads its journal in Kafka and goes on", again.id()),
        )?;
        Ok(again)
    }

    /// Tells what is new.
    pub(super) fn tell(&mut self) -> Result<(), Ended> {
        for (kind, told) in Kind::ALL.into_iter().zip(&mut self.faults) {
            let times = self.demo.sandbox.faults().count(kind) - *told;
            *told += times;
            if times > 0 {
                let again = if times == 1 { String::new() } else { format!(" ({times} times)") };
                let words = format!("{}{again}: the connector asks again", what(kind));
                self.demo.screen.event(self.demo.sandbox.now(), Tone::Fault, &words)?;
            }
        }
        let watched = self.watched.borrow().clone();
        if watched.dead > self.dead {
            let rows = count(watched.dead - self.dead, "row");
            self.dead = watched.dead;
            self.say(Tone::Fault, &format!("{rows} cannot be legs: to the dead-letter topic"))?;
        }
        if self.restarted.is_some_and(|at| watched.polled.values().any(|polled| *polled > at)) {
            let waited = self.restarted.take().map_or(0, |at| self.demo.sandbox.now().since(at).as_secs());
            self.say(Tone::Good, &format!("the connector polls again, {waited} s after its start"))?;
        }
        if watched.repeats > self.repeats && self.repeats_told.elapsed() >= REPEATS_TOLD_EVERY {
            let rows = count(watched.repeats - self.repeats, "row");
            (self.repeats, self.repeats_told) = (watched.repeats, Instant::now());
            self.say(Tone::Quiet, &format!("{rows} came again with the overlap of polls: dropped"))?;
        }
        Ok(())
    }

    /// What the connector has told last, and all that happened.
    pub(super) fn end(self, dead_letters: u64) -> (Watched, Happened) {
        let watched = self.watched.borrow().clone();
        let faults = Kind::ALL.into_iter().map(|kind| self.demo.sandbox.faults().count(kind)).sum();
        let happened =
            Happened { dead_letters, repeats: watched.repeats, revised: watched.revised, faults, kills: self.kills };
        (watched, happened)
    }

    fn say(&self, tone: Tone, words: &str) -> Result<(), Ended> {
        self.demo.screen.event(self.demo.sandbox.now(), tone, words)
    }
}

/// A fault in words.
fn what(kind: Kind) -> &'static str {
    match kind {
        Kind::TooMany => "the API answers 429",
        Kind::ServerError => "the API answers 500",
        Kind::Unavailable => "the API answers 503",
        Kind::Reset | Kind::Outage => "the API resets the connection",
        Kind::Cut => "the API breaks off in an answer",
        Kind::Html => "a gateway's page comes in place of an answer",
        Kind::Empty => "the API answers with nothing",
        Kind::Slow => "the API answers late",
        Kind::Expired => "the API declares the token expired",
        Kind::Short => "the API leaves out rows of a page",
        Kind::Loop => "the API repeats a cursor",
        Kind::Drift => "the API changes the order of its rows",
        Kind::Zone => "the API writes its times in another zone",
        Kind::Blank => "the API shows no row at all",
        Kind::Garbage => "a row is no leg",
    }
}
