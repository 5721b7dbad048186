//! A process's way to the brokers: the network between the two, and librdkafka's patience, retries and answers.
//!
//! ```text
//!   client ── request ──▶ (lost │ late by up to a minute and a half) ──▶ broker
//!          ◀── answer ─── (lost │ slow) ──────────────────────────────────┘
//! ```
//!
//! A request that has left is on its way whether or not its sender still lives, waits, or has sent it again. Markers
//! and time-outs are the brokers' own messages and take their time here too.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use call_legs::core::dead_letter::Reason;
use call_legs::core::journal::Delivery;
use call_legs::core::time::UtcMillis;
use call_legs::sink::{
    Cluster, Destination, Ends, Message, Packing, Place, Producer, ProducerError, Reader, SinkError, StoredRecord,
    Stretch,
};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::broker::{Broker, Flavor, Happened, Refusal, Writer};
use crate::life::Life;
use crate::seed::{Run, lock, sleep};

/// `transaction.timeout.ms`.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(15);
/// `message.timeout.ms` of a transactional producer, which must be less than that of its transactions.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(14);
/// How long a blocking call takes at most.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an answer is waited for before the request is sent again.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a copy of a request may stay in the network.
const LATE_MS_MAX: i64 = 90_000;
/// For all that has no other limit.
const FOR_EVER: Duration = Duration::from_secs(30 * 24 * 3600);

/// How often what goes wrong between a client and the brokers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    /// A request that never arrives.
    pub(crate) request_lost: f64,
    /// An answer that never arrives.
    pub(crate) answer_lost: f64,
    /// A request that arrives long after it was given up.
    pub(crate) late: f64,
    /// An answer, or a marker, that takes 2.5 s.
    pub(crate) slow: f64,
    /// A question about a topic, or a read, that fails.
    pub(crate) unavailable: f64,
    /// A commit that was sent more than once is reported as doubtful although its last answer was good.
    pub(crate) doubt_noticed: f64,
}

impl Weather {
    /// Nothing goes wrong.
    pub(crate) const FAIR: Self =
        Self { request_lost: 0.0, answer_lost: 0.0, late: 0.0, slow: 0.0, unavailable: 0.0, doubt_noticed: 1.0 };
}

/// A cluster.
pub(crate) struct Kafka {
    run: Arc<Run>,
    broker: Mutex<Broker>,
    weather: Weather,
    is_up: AtomicBool,
}

enum Trouble {
    Refused(Refusal),
    NoAnswer,
}

struct Asked<T> {
    result: Result<T, Trouble>,
    /// Whether the request was sent more than once.
    was_retried: bool,
}

impl Kafka {
    /// A new, empty one.
    pub(crate) fn new(run: Arc<Run>, broker: Broker, weather: Weather) -> Arc<Self> {
        Arc::new(Self { run, broker: Mutex::new(broker), weather, is_up: AtomicBool::new(true) })
    }

    /// The brokers themselves, for checks and for tests.
    pub(crate) fn broker(&self) -> MutexGuard<'_, Broker> {
        let mut broker = lock(&self.broker);
        broker.now = self.run.now();
        broker
    }

    /// Stops or starts all brokers. What they have, they keep.
    pub(crate) fn set_up(&self, is_up: bool) {
        self.is_up.store(is_up, Ordering::SeqCst);
        self.run.note(format_args!("brokers {}", if is_up { "are back" } else { "go away" }));
    }

    /// Whether the brokers answer.
    pub(crate) fn is_up(&self) -> bool {
        self.is_up.load(Ordering::SeqCst)
    }

    /// The cluster as a life of a process sees it.
    pub(crate) fn seen_by(self: &Arc<Self>, life: &Arc<Life>) -> SimCluster {
        SimCluster { kafka: Arc::clone(self), life: Arc::clone(life) }
    }

    /// Lets the brokers' own messages go their ways.
    fn settle(self: &Arc<Self>) {
        let (unwatched, undelivered) = {
            let mut broker = self.broker();
            let markers: Vec<_> = std::mem::take(&mut broker.undelivered)
                .into_iter()
                .flat_map(|number| {
                    broker.transactions[&number].unmarked.iter().map(move |place| (number, *place)).collect::<Vec<_>>()
                })
                .collect();
            (std::mem::take(&mut broker.unwatched), markers)
        };
        for number in unwatched {
            let kafka = Arc::clone(self);
            tokio::spawn(async move {
                sleep(TRANSACTION_TIMEOUT).await;
                kafka.until_up().await;
                let is_open = kafka.broker().is_open(number);
                if is_open {
                    kafka.run.note(format_args!("transaction {number} times out"));
                    kafka.broker().time_out(number);
                    kafka.settle();
                }
            });
        }
        for (number, place) in undelivered {
            let kafka = Arc::clone(self);
            let delay = self.delay();
            tokio::spawn(async move {
                sleep(delay).await;
                kafka.until_up().await;
                kafka.broker().mark(number, place);
                kafka.run.note(format_args!("marker of transaction {number} in {:?}-{}", place.0, place.1));
            });
        }
    }

    async fn until_up(&self) {
        while !self.is_up() {
            sleep(Duration::from_millis(500)).await;
        }
    }

    fn delay(&self) -> Duration {
        let is_slow = self.run.is_faulty(self.weather.slow);
        self.run.throw(|dice| if is_slow { dice.millis(500, 2_500) } else { dice.millis(1, 5) })
    }

    /// Sends a request on its way; what comes back, if anything, comes through the channel.
    fn carry<T: Send + 'static>(
        self: &Arc<Self>,
        what: &'static str,
        life: u32,
        request: impl FnOnce(&mut Broker) -> Result<T, Refusal> + Send + 'static,
    ) -> oneshot::Receiver<Result<T, Refusal>> {
        let (sender, receiver) = oneshot::channel();
        let weather = self.weather;
        if self.run.is_faulty(weather.request_lost) {
            self.run.note(format_args!("life {life}: {what} is lost"));
            return receiver;
        }
        let is_late = self.run.is_faulty(weather.late);
        let there = if is_late {
            self.run.throw(|dice| {
                let most = *dice.pick(&[8_000, 20_000, LATE_MS_MAX]);
                dice.millis(5_000, most)
            })
        } else {
            self.run.throw(|dice| dice.millis(1, 4))
        };
        let is_answered = !self.run.is_faulty(weather.answer_lost);
        let back = self.delay();
        let kafka = Arc::clone(self);
        tokio::spawn(async move {
            sleep(there).await;
            if !kafka.is_up() {
                return;
            }
            let result = request(&mut kafka.broker());
            let outcome = result.as_ref().map(|_| ());
            let late = if is_late { " late" } else { "" };
            kafka.run.note(format_args!("life {life}: {what} arrives{late}: {outcome:?}"));
            kafka.settle();
            sleep(back).await;
            if is_answered {
                // Nobody may be waiting any more.
                let _ = sender.send(result);
            } else {
                kafka.run.note(format_args!("life {life}: the answer to {what} is lost"));
            }
        });
        receiver
    }

    /// Asks until there is an answer, or patience is at its end.
    async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        life: &Life,
        what: &'static str,
        patience: Duration,
        request: impl Fn(&mut Broker) -> Result<T, Refusal> + Clone + Send + 'static,
    ) -> Asked<T> {
        let deadline = Instant::now() + patience;
        let mut sent = 0;
        let result = loop {
            life.cross().await;
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.run.note(format_args!("life {}: {what} is given up", life.number));
                break Err(Trouble::NoAnswer);
            }
            if !self.is_up() {
                sleep(Duration::from_millis(500).min(left)).await;
                continue;
            }
            sent += 1;
            match timeout(REQUEST_TIMEOUT.min(left), self.carry(what, life.number, request.clone())).await {
                Ok(Ok(Err(Refusal::Concurrent))) => {
                    sent -= 1;
                    let pause = self.run.throw(|dice| dice.millis(10, 30));
                    sleep(pause.min(left)).await;
                }
                Ok(Ok(Ok(answer))) => break Ok(answer),
                Ok(Ok(Err(refusal))) => break Err(Trouble::Refused(refusal)),
                // The connection broke, or nothing came.
                Ok(Err(_)) | Err(_) => sleep(Duration::from_millis(100).min(left)).await,
            }
        };
        life.cross().await;
        Asked { result, was_retried: sent > 1 }
    }
}

/// The cluster as one life of a process sees it.
pub(crate) struct SimCluster {
    kafka: Arc<Kafka>,
    life: Arc<Life>,
}

impl SimCluster {
    async fn question(&self, what: &'static str) -> Result<(), SinkError> {
        self.life.cross().await;
        let delay = self.kafka.delay();
        sleep(delay).await;
        let patience = Instant::now() + Duration::from_secs(10);
        while !self.kafka.is_up() {
            if Instant::now() >= patience {
                return Err(unavailable(what));
            }
            sleep(Duration::from_millis(500)).await;
        }
        self.life.cross().await;
        if self.kafka.run.is_faulty(self.kafka.weather.unavailable) { Err(unavailable(what)) } else { Ok(()) }
    }
}

fn unavailable(what: &str) -> SinkError {
    SinkError::Unavailable(format!("{what}: no answer from the simulated brokers"))
}

impl Cluster for SimCluster {
    type Producer = SimProducer;
    type Reader = SimReader;

    async fn id(&self) -> Result<String, SinkError> {
        self.question("id").await?;
        Ok("simulated-cluster".to_owned())
    }

    async fn producer(&self, delivery: Delivery) -> Result<SimProducer, SinkError> {
        let Self { kafka, life } = self;
        life.cross().await;
        let is_transactional = delivery == Delivery::ExactlyOnce;
        let (writer, flavor) = {
            let mut broker = kafka.broker();
            (Writer { life: life.number, producer: broker.next_producer() }, broker.flavor())
        };
        let epoch = if !is_transactional {
            self.question("producer").await?;
            kafka.broker().note(Happened::Init(writer));
            None
        } else if flavor == Flavor::NoTransactions {
            self.question("producer").await?;
            return Err(SinkError::NoTransactions("the simulated brokers have none".to_owned()));
        } else {
            let asked = kafka.ask(life, "init", CALL_TIMEOUT, move |broker| broker.init(writer)).await;
            Some(asked.result.map_err(|_| unavailable("init"))?)
        };
        kafka.run.note(format_args!("life {}: producer {} has epoch {epoch:?}", life.number, writer.producer));
        Ok(SimProducer {
            kafka: Arc::clone(kafka),
            life: Arc::clone(life),
            writer,
            epoch,
            added: BTreeSet::new(),
            batches: 0,
        })
    }

    async fn ends(&self, destination: Destination) -> Result<Vec<Ends>, SinkError> {
        self.question("ends").await?;
        let mut broker = self.kafka.broker();
        broker.note(Happened::AskedEnds(self.life.number, destination));
        Ok(broker.ends(destination))
    }

    async fn read(&self, destination: Destination, stretches: Vec<Stretch>) -> Result<SimReader, SinkError> {
        self.question("read").await?;
        let mut broker = self.kafka.broker();
        let number = broker.next_producer();
        broker.note(Happened::ReadBegun(self.life.number, destination, number));
        drop(broker);
        Ok(SimReader {
            kafka: Arc::clone(&self.kafka),
            life: Arc::clone(&self.life),
            destination,
            left: stretches.into_iter().map(|stretch| (stretch.partition, (stretch.from, stretch.until))).collect(),
            number,
            is_done: false,
        })
    }

    fn trouble(&self) -> Option<String> {
        (!self.kafka.is_up()).then(|| "the simulated brokers are away".to_owned())
    }

    fn message_bytes_max(&self, _: Destination) -> usize {
        1_000_000
    }

    fn takes_timestamp(&self, _: Destination, _: UtcMillis, _: UtcMillis) -> bool {
        true
    }
}

/// A producer.
pub(crate) struct SimProducer {
    kafka: Arc<Kafka>,
    life: Arc<Life>,
    writer: Writer,
    /// `None` for one without transactions.
    epoch: Option<i32>,
    /// The partitions that this client believes to be in its transaction.
    added: BTreeSet<(Destination, i32)>,
    batches: u64,
}

impl SimProducer {
    fn error(&self, what: &'static str, trouble: Trouble) -> ProducerError {
        match trouble {
            Trouble::Refused(Refusal::Fenced) => {
                self.kafka.broker().note(Happened::ToldFenced(self.writer));
                self.kafka.run.note(format_args!("life {}: {what} finds itself fenced", self.life.number));
                ProducerError::Fenced(format!("{what}: PRODUCER_FENCED"))
            }
            Trouble::Refused(Refusal::Content) => ProducerError::Content(Vec::new()),
            Trouble::Refused(refusal @ (Refusal::InvalidState | Refusal::Concurrent)) => {
                ProducerError::Doubtful(SinkError::Unavailable(format!("{what}: {refusal:?}")))
            }
            Trouble::NoAnswer => ProducerError::Doubtful(unavailable(what)),
        }
    }

    fn note_call(&self, is_begin: bool) {
        self.kafka.broker().note(Happened::Call(self.writer, is_begin));
    }

    fn note_closed(&self) {
        self.kafka.broker().note(Happened::Closed(self.writer));
    }

    /// Record batches in the order in which they leave: in each partition that of the messages.
    fn batches(&self, messages: &[Message], packing: Packing) -> Vec<((Destination, i32), Vec<usize>)> {
        let mut waiting: BTreeMap<(Destination, i32), Vec<usize>> = BTreeMap::new();
        for (position, message) in messages.iter().enumerate() {
            let partition = self.kafka.broker().partition_for(message.destination, &message.key);
            waiting.entry(partition).or_default().push(position);
        }
        let mut batches = Vec::new();
        while !waiting.is_empty() {
            let partitions: Vec<_> = waiting.keys().copied().collect();
            let partition = self.kafka.run.throw(|dice| *dice.pick(&partitions));
            let Some(positions) = waiting.get_mut(&partition) else { continue };
            let count = match packing {
                Packing::Alone => 1,
                Packing::Shared => {
                    let whole = positions.len();
                    self.kafka
                        .run
                        .throw(|dice| if dice.chance(0.5) { whole } else { dice.between(1, whole as i64 + 1) as usize })
                }
            };
            batches.push((partition, positions.drain(..count).collect()));
            if positions.is_empty() {
                waiting.remove(&partition);
            }
        }
        batches
    }

    async fn send_all(&mut self, messages: &[Message], packing: Packing) -> Result<Vec<Place>, ProducerError> {
        let batches = self.batches(messages, packing);
        let mut places = vec![Place { partition: -1, offset: -1 }; messages.len()];
        let mut refused = Vec::new();
        let mut is_refused = false;
        for (partition, positions) in batches {
            self.batches += 1;
            let (writer, batch, epoch) = (self.writer, self.batches, self.epoch);
            if let Some(epoch) = epoch
                && !self.added.contains(&partition)
            {
                let request =
                    move |broker: &mut Broker| broker.add_partitions(writer, epoch, &BTreeSet::from([partition]));
                let asked = self.kafka.ask(&self.life, "add partitions", MESSAGE_TIMEOUT, request).await;
                asked.result.map_err(|trouble| self.error("add partitions", trouble))?;
                self.added.insert(partition);
            }
            let records: Arc<[Message]> = positions.iter().map(|position| messages[*position].clone()).collect();
            let request = move |broker: &mut Broker| match epoch {
                Some(epoch) => broker.produce(writer, epoch, batch, partition, &records),
                None => broker.produce_plain(writer, batch, partition, &records),
            };
            let patience = if epoch.is_some() { MESSAGE_TIMEOUT } else { FOR_EVER };
            match self.kafka.ask(&self.life, "produce", patience, request).await.result {
                Ok(stored) => positions.iter().zip(stored).for_each(|(position, place)| places[*position] = place),
                Err(Trouble::Refused(Refusal::Content)) => {
                    is_refused = true;
                    // Brokers name the guilty records, or only the batch.
                    if positions.len() == 1 || self.kafka.run.throw(|dice| dice.chance(0.5)) {
                        let guilty =
                            positions.iter().filter(|position| crate::broker::is_poisoned(&messages[**position]));
                        refused.extend(guilty.map(|position| (*position, Reason::Invalid)));
                    }
                }
                Err(trouble) => return Err(self.error("produce", trouble)),
            }
        }
        if is_refused {
            refused.sort_unstable_by_key(|(position, _)| *position);
            return Err(ProducerError::Content(refused));
        }
        Ok(places)
    }

    async fn end(&mut self, what: &'static str, is_commit: bool) -> Result<(), ProducerError> {
        let Some(epoch) = self.epoch else { return Ok(()) };
        if self.added.is_empty() {
            // librdkafka does not ask the brokers, so that this succeeds for anyone.
            return Ok(());
        }
        let asked = self.kafka.ask(&self.life, what, CALL_TIMEOUT, move |broker| broker.end(epoch, is_commit)).await;
        asked.result.map_err(|trouble| self.error(what, trouble))?;
        self.added.clear();
        let is_noticed = self.kafka.run.throw(|dice| dice.chance(self.kafka.weather.doubt_noticed));
        if asked.was_retried && is_noticed {
            return Err(ProducerError::Doubtful(SinkError::Unavailable(format!(
                "{what}: the connection broke meanwhile"
            ))));
        }
        Ok(())
    }
}

impl Producer for SimProducer {
    async fn begin(&mut self) -> Result<(), ProducerError> {
        self.life.cross().await;
        self.added.clear();
        Ok(())
    }

    async fn hand_over(&mut self, message: &Message) -> Result<(), ProducerError> {
        self.send(std::slice::from_ref(message), Packing::Shared).await.map(drop)
    }

    async fn send(&mut self, batch: &[Message], packing: Packing) -> Result<Vec<Place>, ProducerError> {
        self.note_call(true);
        let result = self.send_all(batch, packing).await;
        self.note_call(false);
        result
    }

    async fn commit(&mut self) -> Result<(), ProducerError> {
        self.note_call(true);
        let result = self.end("commit", true).await;
        self.note_call(false);
        if result.is_ok() {
            self.note_closed();
        }
        result
    }

    async fn abort(&mut self) -> Result<(), ProducerError> {
        let result = self.end("abort", false).await;
        self.note_closed();
        result
    }
}

impl Drop for SimProducer {
    fn drop(&mut self) {
        self.note_closed();
    }
}

/// Reads committed records.
pub(crate) struct SimReader {
    kafka: Arc<Kafka>,
    life: Arc<Life>,
    destination: Destination,
    /// By partition: the position and the end.
    left: BTreeMap<i32, (i64, i64)>,
    number: u64,
    is_done: bool,
}

impl Reader for SimReader {
    async fn next(&mut self) -> Result<Option<Vec<StoredRecord>>, SinkError> {
        let deadline = Instant::now() + CALL_TIMEOUT;
        loop {
            self.life.cross().await;
            let delay = self.kafka.delay();
            sleep(delay).await;
            self.life.cross().await;
            if self.kafka.run.is_faulty(self.kafka.weather.unavailable) || Instant::now() >= deadline {
                return Err(unavailable("fetch"));
            }
            if self.kafka.is_up() {
                let limit = self.kafka.run.throw(|dice| dice.between(1, 40) as usize);
                let mut broker = self.kafka.broker();
                let mut fetched = Vec::new();
                for (partition, (position, until)) in &mut self.left {
                    let (records, next) = broker.fetch((self.destination, *partition), *position, *until, limit);
                    *position = next;
                    fetched.extend(records);
                }
                self.left.retain(|_, (position, until)| *position < *until);
                if !fetched.is_empty() {
                    return Ok(Some(fetched));
                }
                if self.left.is_empty() {
                    if !self.is_done {
                        self.is_done = true;
                        broker.note(Happened::ReadDone(self.life.number, self.destination, self.number));
                    }
                    return Ok(None);
                }
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for SimReader {
    fn drop(&mut self) {
        if !self.is_done {
            self.kafka.broker().note(Happened::ReadDropped(self.life.number, self.destination, self.number));
        }
    }
}
