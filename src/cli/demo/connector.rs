//! The connector of a demo: a process of its own, so that it can be killed as machines kill.
//!
//! It ends with the process that started it, whatever becomes of that one: its standard input is a pipe whose other end
//! only that process holds.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::cli::{owner, status};
use crate::config::{self, Config};
use crate::core::dedupe::Counts;
use crate::core::time::UtcMillis;
use crate::daemon::{self, TopicCheck};
use crate::error::{Ended, Exit, OrExit};
use crate::telemetry::shown::Snapshot;
use crate::telemetry::{StatusBoard, logging};

/// How often the connector is asked how it is.
const ASKED_EVERY: Duration = Duration::from_millis(500);

/// Is the connector until told to stop, or until whoever started it has ended.
pub(super) async fn run(path: &Path, stop: CancellationToken) -> Result<(), Ended> {
    logging::start("warn", config::LogFormat::Text, None);
    let no_variables: [(String, String); 0] = [];
    let config = Config::load(Some(path), no_variables).or_exit(Exit::Usage)?;
    let starter_is_gone = stop.clone();
    thread::spawn(move || {
        // An error is an end as well.
        let _ = io::stdin().read_to_end(&mut Vec::new());
        starter_is_gone.cancel();
    });
    let is_embedded = config.kafka.delivery == config::Delivery::AtLeastOnce;
    // The embedded Kafka answers no questions about topics.
    let check = if is_embedded { TopicCheck::Assume } else { TopicCheck::Ensure };
    daemon::run(config, check, StatusBoard::default(), None, stop).await
}

/// A connector that was started.
pub(super) struct Child {
    pid: Pid,
    ended: JoinHandle<io::Result<ExitStatus>>,
    /// Its exit code, once it has ended by itself.
    code: Option<i32>,
    /// The last line that it wrote to standard error.
    last_line: JoinHandle<String>,
    /// Closed when this is dropped, which ends the connector.
    _tie: Option<ChildStdin>,
}

impl Child {
    /// Starts a connector with the configuration at `path`.
    pub(super) fn start(path: &Path) -> Result<Self, Ended> {
        let program = std::env::current_exe().context("this program's file is not found").or_exit(Exit::Internal)?;
        let mut child = Command::new(program)
            .args(["demo", "--connector"])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Ctrl-C is for the demo, which stops it.
            .process_group(0)
            .spawn()
            .context("the connector's process cannot be started")
            .or_exit(Exit::Internal)?;
        let pid = Pid::from_child(&child);
        let tie = child.stdin.take();
        let log = child.stderr.take();
        let last_line = tokio::task::spawn_blocking(move || {
            let lines = log.into_iter().flat_map(|log| BufReader::new(log).lines()).map_while(Result::ok);
            lines.last().unwrap_or_default()
        });
        let ended = tokio::task::spawn_blocking(move || child.wait());
        Ok(Self { pid, ended, code: None, last_line, _tie: tie })
    }

    pub(super) fn id(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Sends a signal, unless it has ended.
    pub(super) fn signal(&self, signal: Signal) {
        if !self.ended.is_finished() {
            // One that ends just now needs none.
            let _ = kill_process(self.pid, signal);
        }
    }

    /// Waits for its end.
    pub(super) async fn ended(&mut self) {
        // How it ended is asked for only where it ended by itself: see `why`.
        self.code = (&mut self.ended).await.ok().and_then(Result::ok).and_then(|status| status.code());
    }

    /// Why it has ended by itself: its last words, and its exit code.
    pub(super) async fn why(self) -> Ended {
        let words = self.last_line.await.unwrap_or_default();
        let words = words.trim_start_matches("call-legs: ");
        let exits = [Exit::Usage, Exit::Source, Exit::Sink, Exit::State];
        let exit = exits.into_iter().find(|exit| self.code == Some(*exit as i32)).unwrap_or(Exit::Internal);
        Ended { exit, error: anyhow!("the connector has ended by itself: {words}") }
    }
}

/// What a connector has told of itself, through kills and restarts.
#[derive(Clone, Debug, Default)]
pub(super) struct Watched {
    /// Rows that were dropped, since they were published before with the same content.
    pub(super) repeats: u64,
    /// Legs whose content has changed since they were published.
    pub(super) revised: u64,
    /// Rows that went to the dead letters.
    pub(super) dead: u64,
    /// The process that told last, and how many of these rows were its own.
    dead_of: (String, u64),
    /// When the newest poll began that read its window whole, of each unit.
    pub(super) polled: BTreeMap<String, UtcMillis>,
    /// The guarantee that it publishes with.
    pub(super) delivery: Option<String>,
}

impl Watched {
    fn note(&mut self, snapshot: &Snapshot) {
        let sum = |of: fn(&Counts) -> u64| snapshot.units.iter().map(|unit| of(&unit.counts.each)).sum();
        // Until a new process has read the journal it shows zeros.
        self.repeats = self.repeats.max(sum(|counts| counts.duplicate));
        self.revised = self.revised.max(sum(|counts| counts.revised));
        let dead = snapshot.units.iter().flat_map(|unit| unit.dead_letters.values()).sum();
        let known = if self.dead_of.0 == snapshot.owner { self.dead_of.1 } else { 0 };
        self.dead += dead - known;
        self.dead_of = (snapshot.owner.clone(), dead);
        self.delivery = snapshot.delivery.clone().or(self.delivery.take());
        for unit in &snapshot.units {
            let Some(whole) = unit.polls.iter().rev().find(|poll| poll.result == "ok") else { continue };
            self.polled.insert(unit.unit.clone(), whole.at.minus(Duration::from_millis(whole.took_ms)));
        }
    }
}

/// Asks the connector again and again how it is, for as long as the second value is kept.
pub(super) fn watch(config: &Config) -> (watch::Receiver<Watched>, AbortOnDropHandle<()>) {
    let (told, watched) = watch::channel(Watched::default());
    let url = owner::url_of(config.admin.listen);
    let asking = tokio::spawn(async move {
        loop {
            // While it is down nobody answers.
            if let Ok((_, snapshot)) = status::fetch(&url, None).await {
                told.send_modify(|watched| watched.note(&snapshot));
            }
            tokio::time::sleep(ASKED_EVERY).await;
        }
    });
    (watched, AbortOnDropHandle::new(asking))
}
