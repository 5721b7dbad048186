//! What librdkafka tells of the producer now and then: how much waits, how long brokers take, how many requests fail.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The newest figures of the producer; written by its client, read for each page of metrics.
#[derive(Debug, Default)]
pub struct KafkaFigures {
    queued: AtomicU64,
    round_trip_us: AtomicU64,
    failed: AtomicU64,
    /// The client that told last, and how many failed requests it has counted.
    newest: Mutex<(String, u64)>,
}

impl KafkaFigures {
    /// Takes note of what a client tells, by its name: messages that wait, the longest mean round trip of a broker, and all
    /// requests that have failed since the client was made.
    pub fn note(&self, client: &str, queued: u64, round_trip: Duration, failed: u64) {
        self.queued.store(queued, Ordering::Relaxed);
        self.round_trip_us.store(u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let before = if newest.0 == client { newest.1 } else { 0 };
        self.failed.fetch_add(failed.saturating_sub(before), Ordering::Relaxed);
        *newest = (client.to_owned(), failed);
    }

    /// Messages that wait in the producer for a broker.
    pub fn queued(&self) -> u64 {
        self.queued.load(Ordering::Relaxed)
    }

    /// The longest mean round trip of a broker.
    pub fn round_trip(&self) -> Duration {
        Duration::from_micros(self.round_trip_us.load(Ordering::Relaxed))
    }

    /// Requests that have failed, of all clients.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_requests_add_up_over_clients_that_count_anew() {
        let figures = KafkaFigures::default();
        let note = |client, failed| figures.note(client, 7, Duration::from_millis(2), failed);
        for (client, failed) in [("producer-1", 2), ("producer-1", 5), ("producer-2", 1), ("producer-2", 1)] {
            note(client, failed);
        }
        assert_eq!((figures.failed(), figures.queued()), (6, 7));
        assert_eq!(figures.round_trip(), Duration::from_millis(2));
    }
}
