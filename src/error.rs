//! How the program ends: its exit codes, and an error that carries one.

use std::process::ExitCode;

/// The exit codes; docs/operate.md says what to do about each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// A defect of the program.
    Internal = 1,
    /// The command line or the configuration.
    Usage = 2,
    /// The source refuses.
    Source = 3,
    /// Kafka or the schema registry refuses.
    Sink = 4,
    /// The state directory or the journal cannot be used, or belongs to another instance.
    State = 5,
    /// The audit found differences, or could not compare everything.
    Differences = 6,
    /// The connector that was asked is not ready, or does not answer.
    NotReady = 7,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// What ends a command, and with which exit code.
#[derive(Debug)]
pub struct Ended {
    /// The exit code.
    pub exit: Exit,
    /// What happened, where, and what to do.
    pub error: anyhow::Error,
}

/// Gives an error the exit code it ends the program with.
pub trait OrExit<T> {
    /// With this exit code.
    fn or_exit(self, exit: Exit) -> Result<T, Ended>;
}

impl<T, E: Into<anyhow::Error>> OrExit<T> for Result<T, E> {
    fn or_exit(self, exit: Exit) -> Result<T, Ended> {
        self.map_err(|error| Ended { exit, error: error.into() })
    }
}
