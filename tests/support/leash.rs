//! A process that ends when the test process ends, even when that one is killed.
//!
//! Rust runs nothing at the end of a killed process and does not drop statics at the end of any. Hence a shell script
//! between the two, `leash.sh`: it reads a pipe that only the test process holds, and the kernel closes that pipe in every
//! case.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::PATIENCE;

const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// A kill and the removal of a data directory; the script gives up after five seconds.
const LET_GO_WAIT_MAX: Duration = Duration::from_secs(10);

/// What is removed when the leash is let go, as opposed to a command that ended by itself.
pub enum Leftover {
    Nothing,
    Directory(PathBuf),
    Container(String),
}

/// A running command. Dropping it kills the command and removes its leftover.
pub struct Leash {
    script: Child,
}

impl Leash {
    /// Starts `command`, whose input is empty; only its program, arguments and environment are taken over.
    pub fn spawn(command: &Command, leftover: Leftover, output: File, log: File) -> Result<Self, String> {
        let leftover = match leftover {
            Leftover::Nothing => "none".into(),
            Leftover::Directory(path) => format!("dir:{}", path.display()),
            Leftover::Container(name) => format!("container:{name}"),
        };
        let mut script = Command::new("sh");
        script.args(["-c", include_str!("leash.sh"), "leash", &leftover]);
        script.arg(command.get_program()).args(command.get_args());
        script.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        // A group of its own: Ctrl-C must reach the test process alone, or the script would not live to remove anything.
        script.process_group(0);
        let script = script.stdin(Stdio::piped()).stdout(output).stderr(log).spawn();
        Ok(Self { script: script.map_err(|error| format!("cannot run sh: {error}"))? })
    }

    /// Sends a signal, by its name without `SIG`, to the command. After `STOP` the command is at rest, where /proc tells.
    pub fn signal(&mut self, name: &str) -> Result<(), String> {
        let written = match &mut self.script.stdin {
            Some(pipe) => writeln!(pipe, "{name}"),
            None => Ok(()),
        };
        written.map_err(|error| format!("cannot send {name}: {error}"))?;
        let start = Instant::now();
        while name == "STOP" && self.rests() == Some(false) {
            if start.elapsed() > PATIENCE {
                return Err(format!("the command still runs {PATIENCE:?} after STOP"));
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    /// Whether the command is stopped; `None` where the system has no /proc that says so.
    fn rests(&self) -> Option<bool> {
        let script = self.script.id();
        let children = std::fs::read_to_string(format!("/proc/{script}/task/{script}/children")).ok()?;
        let is_stopped = |child: &str| {
            let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('T'))
        };
        Some(children.split_whitespace().any(is_stopped))
    }

    /// How the command ended, or `None` while it runs.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>, String> {
        self.script.try_wait().map_err(|error| format!("cannot wait for a process: {error}"))
    }

    /// Waits for the end of the command; `None` when it still runs after `wait_max`.
    pub fn wait(&mut self, wait_max: Duration) -> Result<Option<ExitStatus>, String> {
        let start = Instant::now();
        loop {
            let ended = self.ended()?;
            if ended.is_some() || start.elapsed() > wait_max {
                return Ok(ended);
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        drop(self.script.stdin.take());
        let _ = self.wait(LET_GO_WAIT_MAX);
    }
}

/// Runs a command to its end, or kills it after `time_max`.
pub fn run(command: &Command, output: File, log: File, time_max: Duration) -> Result<ExitStatus, String> {
    let program = command.get_program().display();
    match Leash::spawn(command, Leftover::Nothing, output, log)?.wait(time_max)? {
        Some(status) => Ok(status),
        None => Err(format!("{program} had not finished after {} s", time_max.as_secs())),
    }
}
