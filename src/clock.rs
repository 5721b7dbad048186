//! The wall clock, as a value that a simulation can replace.

use chrono::Utc;

use crate::core::time::UtcMillis;

/// Tells the present instant. Pauses and time-outs use tokio's clock, which tests can pause.
pub trait Clock: Send + Sync + 'static {
    /// Now, in UTC.
    fn now(&self) -> UtcMillis;
}

/// The clock of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> UtcMillis {
        Utc::now().into()
    }
}
