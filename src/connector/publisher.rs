//! Publish, then commit: the one place that writes to Kafka and to the store.
//!
//! A page's identities are remembered only after Kafka has acknowledged its messages, and a unit's
//! progress is stored only after all of its pages. A crash in between leaves legs in Kafka that the
//! store does not know: they are published again, never lost.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::codec::{Framing, LegEncoder};
use crate::core::dead_letter::Reason;
use crate::core::dedupe::{Counts, Seen, Verdict, classify};
use crate::core::identity::{Fingerprint, KeyHash};
use crate::core::leg::{How, Ingest, Leg};
use crate::core::planner::Piece;
use crate::core::retry::Backoff;
use crate::core::time::{UtcMillis, Window};
use crate::core::watermark::Progress;
use crate::sink::{Destination, Message, Sent, Sink, SinkError};
use crate::source::wire::{self, Page, Row};
use crate::store::{Entry, Store, StoreError};
use crate::telemetry::metrics::{UnitLabel, UnitResultLabels};
use crate::telemetry::{Metrics, StatusBoard};

/// A step of the store that takes longer is stuck.
const STORE_STEP_MAX: Duration = Duration::from_secs(60);

/// Between attempts to publish the same batch.
const SINK_BACKOFF: Backoff = Backoff { first: Duration::from_millis(500), max: Duration::from_secs(60) };

/// When acknowledgements count as overdue; a broker's restart takes about as long.
const OVERDUE_AFTER: Duration = Duration::from_secs(10);

/// How often it is said again.
const OVERDUE_REPEATED: Duration = Duration::from_secs(300);

/// How many messages go out before the next are encoded; bounds memory whatever the page size.
const CHUNK_MAX: usize = 5_000;

/// Where messages go and what is remembered of them.
pub struct Destinations<K, T> {
    /// Kafka.
    pub sink: K,
    /// The identities and the units' progress.
    pub store: Arc<T>,
    /// What stands before each datum.
    pub framing: Framing,
}

/// Writes to Kafka and to the store; one for all units.
pub struct Publisher<K, T> {
    destinations: Destinations<K, T>,
    encoder: LegEncoder,
    clock: Arc<dyn Clock>,
    floors: HashMap<String, UtcMillis>,
    status: StatusBoard,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
}

/// In what context a page was read.
#[derive(Clone, Copy, Debug)]
pub struct Read<'a> {
    /// The unit.
    pub unit: &'a str,
    /// The window and the kind of read.
    pub piece: Piece,
    /// The unit's progress before the read.
    pub progress: &'a Progress,
    /// When the page was received.
    pub seen_at: UtcMillis,
}

/// Why a page was not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It was told to stop.
    #[error("stopped before the page was published")]
    Stopped,
}

/// Messages of one page on their way, and what to remember of them once they are there.
#[derive(Default)]
struct Batch<'p> {
    messages: Vec<Message>,
    /// For each message, in the same order.
    origins: Vec<Origin<'p>>,
    /// What is remembered without a message: other content of a known leg.
    revised: Vec<Entry>,
}

struct Origin<'p> {
    raw: &'p [u8],
    entry: Entry,
}

impl<K: Sink, T: Store> Publisher<K, T> {
    /// A publisher that writes there.
    pub fn new(
        destinations: Destinations<K, T>,
        clock: Arc<dyn Clock>,
        status: StatusBoard,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) -> Self {
        Self { destinations, encoder: LegEncoder::new(), clock, floors: HashMap::new(), status, metrics, stop }
    }

    /// A unit's stored progress. To be asked for every unit before anything is committed: what one
    /// unit still needs must not be forgotten because another has come further.
    pub async fn recover(&mut self, unit: &str) -> Result<Option<Progress>, StoreError> {
        let name = unit.to_owned();
        let progress = self.in_store(move |store| store.progress(&name)).await?;
        if let Some(progress) = &progress {
            self.floors.insert(unit.to_owned(), progress.floor);
            self.announce(unit, progress);
        }
        Ok(progress)
    }

    /// Publishes what is new on a page, remembers it, and counts every row.
    pub async fn publish(&mut self, page: &Page, read: Read<'_>) -> Result<Counts, PublishError> {
        let mut counts = Counts::default();
        let rows: Vec<&[u8]> = page.rows().collect();
        for chunk in rows.chunks(CHUNK_MAX) {
            if self.stop.is_cancelled() {
                return Err(PublishError::Stopped);
            }
            counts += self.publish_chunk(chunk, read).await?;
        }
        self.count(read.unit, counts);
        Ok(counts)
    }

    /// Stores a unit's progress after everything that it vouches for was published.
    pub async fn commit(&mut self, unit: &str, progress: &Progress) -> Result<(), StoreError> {
        self.floors.insert(unit.to_owned(), progress.floor);
        let floor = self.floors.values().min().copied().unwrap_or(progress.floor);
        let (name, stored) = (unit.to_owned(), progress.clone());
        self.in_store(move |store| {
            store.set_progress(&name, &stored)?;
            store.forget_below(floor)
        })
        .await?;
        self.announce(unit, progress);
        Ok(())
    }

    fn announce(&self, unit: &str, progress: &Progress) {
        self.status.update_unit(unit, |status| {
            status.complete_to = Some(progress.complete_to);
            status.final_to = Some(progress.final_to);
        });
        let label = UnitLabel { unit: unit.to_owned() };
        self.metrics.complete_to.get_or_create(&label).set(progress.complete_to.as_seconds_f64());
        self.metrics.final_to.get_or_create(&label).set(progress.final_to.as_seconds_f64());
    }

    async fn publish_chunk(&self, rows: &[&[u8]], read: Read<'_>) -> Result<Counts, PublishError> {
        let mut counts = Counts::default();
        let mut legs = Vec::with_capacity(rows.len());
        let mut dead = Vec::new();
        for raw in rows {
            match wire::row(raw) {
                Row::Leg(leg) => legs.push((*raw, KeyHash::of_leg(&leg), leg)),
                Row::Dead(reason) => dead.push((*raw, reason)),
                Row::Unfinished => counts.unfinished += 1,
            }
        }
        let keys: Vec<KeyHash> = legs.iter().map(|(_, key, _)| *key).collect();
        let stored = self.in_store(move |store| store.seen(&keys)).await?;

        let mut batch = Batch::default();
        // A leg may come twice on a page.
        let mut in_batch: HashMap<KeyHash, Seen> = HashMap::new();
        for ((raw, key, leg), stored) in legs.into_iter().zip(stored) {
            let seen = in_batch.get(&key).copied().or(stored);
            let fingerprint = Fingerprint::of_leg(&leg);
            let now_seen = Seen { fingerprint: Some(fingerprint), revision: seen.map_or(0, |seen| seen.revision) };
            let entry = Entry { key, at: forgotten_by(leg.disconnected, read.piece.window), seen: now_seen };
            match classify(seen, fingerprint, leg.disconnected, read.progress) {
                Verdict::Duplicate => counts.duplicate += 1,
                Verdict::BeyondHorizon => counts.beyond_horizon += 1,
                Verdict::Revised => {
                    counts.revised += 1;
                    in_batch.insert(key, now_seen);
                    batch.revised.push(entry);
                }
                Verdict::New => match self.encode(&leg, entry, read) {
                    Ok(message) => {
                        counts.published += 1;
                        in_batch.insert(key, now_seen);
                        batch.messages.push(message);
                        batch.origins.push(Origin { raw, entry });
                    }
                    Err(reason) => dead.push((raw, reason)),
                },
            }
        }
        counts.dead += dead.len() as u64;
        self.bury(&mut batch, dead, read).await?;
        self.send(batch, &mut counts, read).await?;
        Ok(counts)
    }

    /// The message of a new leg, or why the topic cannot take it.
    fn encode(&self, leg: &Leg<'_>, entry: Entry, read: Read<'_>) -> Result<Message, Reason> {
        let ingest = Ingest {
            first_seen: read.seen_at,
            how: read.piece.how,
            late: leg.disconnected < read.progress.final_to,
            revision: entry.seen.revision,
            window: read.piece.window,
        };
        let mut payload = Vec::with_capacity(640);
        self.destinations.framing.write_header(&mut payload);
        self.encoder.encode(leg, &ingest, &mut payload).map_err(|error| {
            tracing::warn!(unit = read.unit, %error, "a leg cannot be encoded and goes to the dead letters");
            Reason::Invalid
        })?;
        let message = Message {
            destination: Destination::Legs,
            key: leg.call_id().as_bytes().to_vec(),
            payload,
            timestamp: leg.disconnected,
            headers: vec![("call-legs-identity", entry.key.0.to_vec())],
        };
        let bytes_max = self.destinations.sink.message_bytes_max(Destination::Legs);
        if message.size_bytes() <= bytes_max { Ok(message) } else { Err(Reason::TooLarge) }
    }

    /// Adds to a batch what is not yet among the dead letters.
    async fn bury<'p>(
        &self,
        batch: &mut Batch<'p>,
        dead: Vec<(&'p [u8], Reason)>,
        read: Read<'_>,
    ) -> Result<(), StoreError> {
        if dead.is_empty() {
            return Ok(());
        }
        let keys: Vec<KeyHash> = dead.iter().map(|(raw, _)| KeyHash::of_dead_row(raw)).collect();
        let looked_up = keys.clone();
        let stored = self.in_store(move |store| store.seen(&looked_up)).await?;
        let mut in_batch = HashSet::new();
        for ((key, stored), (raw, reason)) in keys.into_iter().zip(stored).zip(dead) {
            if stored.is_none() && in_batch.insert(key) {
                batch.messages.push(self.dead_letter(key, raw, reason, read));
                let seen = Seen { fingerprint: None, revision: 0 };
                batch.origins.push(Origin { raw, entry: Entry { key, at: read.piece.window.start, seen } });
            }
        }
        Ok(())
    }

    fn dead_letter(&self, key: KeyHash, raw: &[u8], reason: Reason, read: Read<'_>) -> Message {
        let row_hash: String = key.0.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut message = Message {
            destination: Destination::DeadLetters,
            key: row_hash.clone().into_bytes(),
            payload: Vec::new(),
            timestamp: read.seen_at,
            headers: vec![
                ("call-legs-error-code", reason.code().into()),
                ("call-legs-error-message", reason.to_string().into()),
                ("call-legs-unit", read.unit.into()),
                ("call-legs-window", format!("{}/{}", read.piece.window.start, read.piece.window.end).into()),
                ("call-legs-row-bytes", raw.len().to_string().into()),
                ("call-legs-row-hash", row_hash.into_bytes()),
            ],
        };
        let bytes_max = self.destinations.sink.message_bytes_max(Destination::DeadLetters);
        let room = bytes_max.saturating_sub(message.size_bytes());
        message.payload = raw[..raw.len().min(room)].to_vec();
        message
    }

    /// Publishes a batch, however long Kafka is away, and remembers what is acknowledged.
    ///
    /// Only what failed is sent again. What the brokers refuse for its content comes around once more
    /// as a dead letter.
    async fn send<'p>(&self, mut batch: Batch<'p>, counts: &mut Counts, read: Read<'_>) -> Result<(), PublishError> {
        let revised = std::mem::take(&mut batch.revised);
        let started = Instant::now();
        self.status.update(|status| status.publishing_since = Some(started));
        let mut failures = 0;
        while !batch.messages.is_empty() {
            let sent = self.publish_watched(&batch.messages).await;
            let reasons: HashMap<usize, Reason> = sent.refused.into_iter().collect();
            let failed: HashSet<usize> = sent.failed.into_iter().collect();
            let mut acknowledged = Vec::new();
            let mut dead = Vec::new();
            let mut again = Batch::default();
            for (position, (message, origin)) in batch.messages.into_iter().zip(batch.origins).enumerate() {
                if failed.contains(&position) {
                    again.messages.push(message);
                    again.origins.push(origin);
                    continue;
                }
                match (reasons.get(&position), message.destination) {
                    (None, destination) => {
                        if destination == Destination::Legs {
                            self.note_freshness(&message, read);
                        }
                        acknowledged.push(origin.entry);
                    }
                    (Some(reason), Destination::Legs) => {
                        counts.published -= 1;
                        counts.dead += 1;
                        dead.push((origin.raw, *reason));
                    }
                    (Some(reason), Destination::DeadLetters) => {
                        // Not remembered: it comes again with the next poll, and so does this line.
                        tracing::warn!(
                            unit = read.unit,
                            code = reason.code(),
                            "the dead-letter topic refuses a row: check its max.message.bytes"
                        );
                    }
                }
            }
            self.remember(acknowledged).await?;
            batch = again;
            self.bury(&mut batch, dead, read).await?;
            if let Some(error) = sent.error {
                failures += 1;
                self.pause_after(&error, failures).await?;
            }
        }
        self.acknowledged(started);
        // After the first publications: a leg may be new and revised on the same page.
        self.remember(revised).await?;
        Ok(())
    }

    async fn remember(&self, entries: Vec<Entry>) -> Result<(), StoreError> {
        if entries.is_empty() {
            return Ok(());
        }
        self.in_store(move |store| store.remember(&entries)).await
    }

    /// Notes that everything sent since `started` is acknowledged.
    fn acknowledged(&self, started: Instant) {
        let was_troubled = self.status.read().sink_trouble.is_some();
        self.status.update(|status| {
            status.publishing_since = None;
            status.sink_trouble = None;
        });
        if was_troubled {
            tracing::info!(after_s = started.elapsed().as_secs(), "Kafka acknowledges again");
        }
        self.metrics.publish_duration.observe(started.elapsed().as_secs_f64());
    }

    /// Publishes, and says so when the acknowledgements are overdue.
    async fn publish_watched(&self, messages: &[Message]) -> Sent {
        let sink = &self.destinations.sink;
        let started = Instant::now();
        let publishing = sink.publish(messages);
        tokio::pin!(publishing);
        let mut overdue = tokio::time::interval_at(started + OVERDUE_AFTER, OVERDUE_REPEATED);
        loop {
            tokio::select! {
                biased;
                sent = &mut publishing => return sent,
                _ = overdue.tick() => {
                    let waited_s = started.elapsed().as_secs();
                    let trouble = sink.trouble().unwrap_or_else(|| "no reason given".to_owned());
                    tracing::warn!(waited_s, messages = messages.len(), "Kafka owes acknowledgements, and polls wait for them: {trouble}");
                    self.status.update(|status| status.sink_trouble = Some(trouble));
                }
            }
        }
    }

    async fn pause_after(&self, error: &SinkError, failures: u32) -> Result<(), PublishError> {
        let pause = SINK_BACKOFF.pause(failures, rand::random());
        tracing::warn!(failures, %error, again_in_s = pause.as_secs(), "Kafka did not take everything; the rest is sent again");
        self.status.update(|status| status.sink_trouble = Some(error.to_string()));
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(PublishError::Stopped),
            () = tokio::time::sleep(pause) => Ok(()),
        }
    }

    fn note_freshness(&self, message: &Message, read: Read<'_>) {
        if read.piece.how == How::Poll {
            let histogram = self.metrics.freshness.get_or_create(&UnitLabel { unit: read.unit.to_owned() });
            histogram.observe(self.clock.now().since(message.timestamp).as_secs_f64());
        }
    }

    fn count(&self, unit: &str, counts: Counts) {
        self.status.update_unit(unit, |status| status.counts += counts);
        for (result, count) in counts.named() {
            self.metrics.rows.get_or_create(&UnitResultLabels { unit: unit.to_owned(), result }).inc_by(count);
        }
    }

    /// Runs a step of the store off the async workers, as one that must end.
    async fn in_store<R: Send + 'static>(
        &self,
        step: impl FnOnce(&T) -> Result<R, StoreError> + Send + 'static,
    ) -> Result<R, StoreError> {
        let _step = self.status.bounded_step("store", STORE_STEP_MAX);
        let store = Arc::clone(&self.destinations.store);
        match tokio::task::spawn_blocking(move || step(&store)).await {
            Ok(result) => result,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }
}

/// By when an identity may be forgotten: a disconnect time outside the window, which the API's
/// filter should not let through, counts as the window's edge.
fn forgotten_by(disconnected: UtcMillis, window: Window) -> UtcMillis {
    disconnected.clamp(window.start, window.end)
}
