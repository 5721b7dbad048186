//! The wall clock and the dice, as a value that a simulation can replace.

use chrono::Utc;

use crate::core::time::UtcMillis;

/// Tells the present instant and draws random numbers. Pauses and time-outs use tokio's clock, which tests can pause.
pub trait Clock: Send + Sync + 'static {
    /// Now, in UTC.
    fn now(&self) -> UtcMillis;

    /// A random number in `[0, 1)`, to spread pauses.
    fn dice(&self) -> f64;

    /// Sixteen random bytes that nobody else has drawn.
    fn nonce(&self) -> [u8; 16];
}

/// The clock of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> UtcMillis {
        Utc::now().into()
    }

    fn dice(&self) -> f64 {
        rand::random()
    }

    fn nonce(&self) -> [u8; 16] {
        rand::random()
    }
}
