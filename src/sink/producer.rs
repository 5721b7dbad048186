//! The producer: idempotent, acknowledged by all replicas, with the journal's transactional id or without.
//!
//! Batches are waited for by counting delivery reports, not by one future a message. librdkafka's
//! transactional calls block, up to half a minute while Kafka is away, so each producer has a thread
//! for them. Nothing is tried twice here and nothing aborted: after any answer but a clean one the
//! caller drops the producer, and finds out from Kafka what became of the transaction.

use std::io;
use std::slice;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext, PurgeConfig};
use rdkafka::statistics::Statistics;
use tokio::sync::{Notify, oneshot};

use super::client::{self, Context};
use super::topics::Topics;
use super::trouble::Trouble;
use super::{Destination, Message, Packing, Place, Producer, ProducerError, SinkError, trouble};
use crate::config;
use crate::core::dead_letter::Reason;
use crate::hooks;

/// How many messages librdkafka may hold; more have to wait, and with them the pages behind.
const QUEUED_MESSAGES_MAX: &str = "20000";
/// How many KiB of messages librdkafka may hold.
const QUEUED_KIB_MAX: &str = "65536";
/// librdkafka's own default.
const BATCH_BYTES_MAX: usize = 1_000_000;
/// How long to wait for company before a record batch is sent. Every transaction waits for its last
/// record, and all are enqueued at once: waiting 1 ms or 5 ms made 5,000 records no faster.
const LINGER_MS: &str = "0";
/// zstd's level, where the user says nothing of compression: at its own default, 3, legs were 3 % smaller and the whole
/// connector took a tenth more CPU time.
const COMPRESSION_LEVEL: &str = "1";
/// What a user may set otherwise.
const DEFAULTS: [(&str, &str); 5] = [
    // Queue, round trips and failures, for /metrics.
    ("statistics.interval.ms", "15000"),
    ("compression.type", "zstd"),
    ("linger.ms", LINGER_MS),
    ("queue.buffering.max.messages", QUEUED_MESSAGES_MAX),
    ("queue.buffering.max.kbytes", QUEUED_KIB_MAX),
];
/// How long to wait for room in librdkafka's queue before looking again.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(5);

/// After how long brokers give a transaction up. Since nothing is ever aborted, this bounds how long
/// the readers wait for one whose producer has died.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a transactional call waits for the brokers.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// After how many seconds a call that should have given up by itself is taken for stuck.
const CALL_STUCK_SECONDS: u32 = 60;
/// How long librdkafka may take to hand over what it has received, once every report is in.
const QUIET_WAIT_MAX: Duration = Duration::from_secs(5);
/// How often, and how often in a row, a producer is found kept out before it is given up: half a minute.
const KEPT_OUT_LOOK_INTERVAL: Duration = Duration::from_secs(5);
const KEPT_OUT_LOOKS: u32 = 6;
const QUIET_POLL_INTERVAL: Duration = Duration::from_micros(100);

type Client = BaseProducer<Reports>;

/// How long to wait for a delivery report, at a time. rdkafka spends the last millisecond of each wait spinning: its own
/// thread, which waits a tenth of a second at a time, took one percent of a core for nothing.
const REPORTS_WAIT: Duration = Duration::from_secs(1);

/// The settings of a producer to these topics, transactional with an id.
pub(super) fn settings(
    kafka: &config::Kafka,
    topics: &Topics,
    transactional_id: Option<&str>,
) -> Result<ClientConfig, SinkError> {
    let mut settings = client::settings(kafka)?;
    // Not the other way round: a map of settings that is copied has lost its passwords, which rdkafka hides.
    if ["compression.type", "compression.level"].iter().all(|name| settings.get(name).is_none()) {
        settings.set("compression.level", COMPRESSION_LEVEL);
    }
    for (name, value) in DEFAULTS {
        if settings.get(name).is_none() {
            settings.set(name, value);
        }
    }
    settings
        .set("enable.idempotence", "true")
        .set("acks", "all")
        // As Java's clients partition, so that joins on callId meet.
        .set("partitioner", "murmur2_random")
        // librdkafka does not split: a batch that is larger than a topic takes is refused whole.
        .set("batch.size", topics.message_bytes_min().min(BATCH_BYTES_MAX).to_string())
        .set("message.max.bytes", topics.message_bytes_max().to_string())
        .set_log_level(RDKafkaLogLevel::Info);
    match transactional_id {
        Some(id) => make_transactional(&mut settings, id),
        // Without a time-out the producer keeps a message, and with it the guarantee that a retry is
        // stored once, for as long as the brokers are away.
        None => {
            settings.set("message.timeout.ms", "0");
        }
    }
    Ok(settings)
}

/// A message's own time-out is then the transaction's: librdkafka takes no longer one.
fn make_transactional(settings: &mut ClientConfig, id: &str) {
    let timeout = TRANSACTION_TIMEOUT.as_millis();
    settings.set("transactional.id", id).set("transaction.timeout.ms", timeout.to_string());
    let socket_timeout = settings.get("socket.timeout.ms").and_then(|millis| millis.parse::<u128>().ok());
    if socket_timeout.is_some_and(|millis| millis > timeout) {
        // librdkafka refuses one that outlasts the transaction.
        settings.set("socket.timeout.ms", timeout.to_string());
    }
}

/// Publishes to the connector's topics.
pub struct KafkaProducer {
    client: Handle,
    /// To the thread of the transactional calls; `None` in at-least-once mode.
    calls: Option<mpsc::Sender<Call>>,
    topics: Arc<Topics>,
}

/// A transactional call, and whom to answer.
struct Call {
    what: What,
    reply: oneshot::Sender<Result<(), ProducerError>>,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Begin,
    Commit,
    #[cfg(feature = "test-hooks")]
    Abort,
}

impl What {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Begin => "begin a transaction",
            Self::Commit => "commit the transaction",
            #[cfg(feature = "test-hooks")]
            Self::Abort => "abort the transaction",
        }
    }
}

impl KafkaProducer {
    /// Connects a producer, and with a transactional id fences those before it.
    pub(super) async fn start(
        settings: ClientConfig,
        context: Context,
        topics: Arc<Topics>,
    ) -> Result<Self, SinkError> {
        let is_transactional = settings.get("transactional.id").is_some();
        let (ready, started) = oneshot::channel();
        let (calls, to_do) = mpsc::channel();
        thread::Builder::new()
            .name("kafka-producer".to_owned())
            .spawn(move || run(&settings, context, ready, &to_do))
            .map_err(|error| SinkError::Unavailable(format!("a producer needs a thread: {error}")))?;
        let client = answer("start a producer", started).await.unwrap_or_else(|| Err(thread_has_ended()))?;
        Ok(Self { client, calls: is_transactional.then_some(calls), topics })
    }

    async fn call(&self, what: What) -> Result<(), ProducerError> {
        let Some(calls) = &self.calls else { return Ok(()) };
        let (reply, answered) = oneshot::channel();
        // A thread that is gone drops the call, and with it the sender of its reply.
        let _ = calls.send(Call { what, reply });
        let answer = answer(what.as_str(), answered).await;
        answer.unwrap_or_else(|| Err(ProducerError::Doubtful(thread_has_ended())))
    }

    /// Sends messages that may share record batches.
    async fn send_together(&self, batch: &[Message]) -> Result<Vec<Place>, ProducerError> {
        let reports = Arc::new(BatchReports::new(batch));
        let number = self.client.context().begin_batch(&reports);
        let mut messages = batch.iter().enumerate();
        for (position, message) in messages.by_ref() {
            if let Err(code) = self.enqueue(message, Delivery { batch: number, position }).await {
                reports.report(position, Err(code));
                if content_fault(code).is_none() {
                    break;
                }
            }
        }
        // A producer that takes one message no more takes none.
        messages.for_each(|(position, _)| reports.report(position, Err(RDKafkaErrorCode::PurgeQueue)));

        let outcomes = tokio::select! {
            outcomes = reports.all() => outcomes,
            () = kept_out(&self.client.context().client.trouble) => {
                let what = format!("Kafka lets this producer in no more, and owes it {} messages", batch.len());
                return Err(ProducerError::Doubtful(self.client.context().client.failed(&what)));
            }
        };
        let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
        if failed == 0 {
            self.client.context().client.relieved();
            return Ok(outcomes.into_iter().filter_map(Result::ok).collect());
        }
        Err(self.failed(&outcomes, failed))
    }

    /// Hands a message to librdkafka, and waits while its queue is full.
    async fn enqueue(&self, message: &Message, delivery: Delivery) -> Result<(), RDKafkaErrorCode> {
        let mut record = self.record(message, delivery);
        while let Err((error, returned)) = self.client.send(record) {
            match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::QueueFull) => tokio::time::sleep(QUEUE_FULL_PAUSE).await,
                code => return Err(code.unwrap_or(RDKafkaErrorCode::Fail)),
            }
            record = returned;
        }
        Ok(())
    }

    fn record<'a>(&'a self, message: &'a Message, delivery: Delivery) -> BaseRecord<'a, [u8], [u8], usize> {
        let headers = message
            .headers
            .iter()
            .fold(OwnedHeaders::new_with_capacity(message.headers.len()), |headers, (key, value)| {
                headers.insert(Header { key, value: Some(value.as_ref()) })
            });
        let mut record = BaseRecord::with_opaque_to(&self.topics.of(message.destination).name, delivery.to_opaque())
            .key(message.key.as_ref())
            .headers(headers);
        if let Some(payload) = &message.payload {
            record = record.payload(payload.as_ref());
        }
        match message.timestamp {
            Some(timestamp) => record.timestamp(timestamp.as_millis()),
            None => record,
        }
    }

    /// What the reports of a batch say of which some are of failures.
    fn failed(&self, outcomes: &[Result<Place, RDKafkaErrorCode>], failed: usize) -> ProducerError {
        let codes = || outcomes.iter().filter_map(|outcome| outcome.as_ref().err().copied());
        // One failure takes others with it, whose reports say nothing of their own.
        let telling = codes().find(|code| !is_consequence(*code)).unwrap_or(RDKafkaErrorCode::PurgeQueue);
        let what = format!("Kafka did not take {failed} of {} messages ({telling})", outcomes.len());
        let error = failure(&self.client, &what, Some(telling));
        if matches!(error, ProducerError::Doubtful(_)) && codes().any(is_about_content) {
            // Brokers refuse record batches whole, and it cannot be seen which messages shared one. Only
            // what is too large had its own, since a batch of several is kept to what every topic takes.
            let is_certain = |reason: &Reason| outcomes.len() == 1 || *reason == Reason::TooLarge;
            let faults = outcomes.iter().map(|outcome| outcome.err().and_then(content_fault)).enumerate();
            let guilty = faults.filter_map(|(position, fault)| Some((position, fault.filter(is_certain)?)));
            return ProducerError::Content(guilty.collect());
        }
        error
    }
}

impl Producer for KafkaProducer {
    async fn begin(&mut self) -> Result<(), ProducerError> {
        self.call(What::Begin).await
    }

    async fn hand_over(&mut self, message: &Message) -> Result<(), ProducerError> {
        self.enqueue(message, Delivery::NOBODYS).await.map_err(|code| {
            let what = format!("Kafka's client does not take a message ({code})");
            failure(&self.client, &what, Some(code))
        })
    }

    async fn send(&mut self, batch: &[Message], packing: Packing) -> Result<Vec<Place>, ProducerError> {
        if packing == Packing::Shared {
            return self.send_together(batch).await;
        }
        let mut places = Vec::with_capacity(batch.len());
        for (position, message) in batch.iter().enumerate() {
            match self.send_together(slice::from_ref(message)).await {
                Ok(place) => places.extend(place),
                Err(ProducerError::Content(guilty)) => {
                    let reason = guilty.first().map_or(Reason::Invalid, |(_, reason)| *reason);
                    return Err(ProducerError::Content(vec![(position, reason)]));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(places)
    }

    async fn commit(&mut self) -> Result<(), ProducerError> {
        self.call(What::Commit).await
    }

    #[cfg(feature = "test-hooks")]
    async fn abort(&mut self) -> Result<(), ProducerError> {
        self.call(What::Abort).await
    }
}

/// A client that gives up what it has not sent when it is dropped. It ends when its threads notice, which may be busy
/// resolving names: nobody waits for that.
struct Handle(Arc<Client>);

impl std::ops::Deref for Handle {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.0
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // At once, so that a successor's read finds all that this one has sent.
        self.0.purge(PurgeConfig::default().queue().inflight());
    }
}

/// Takes a client's delivery reports and news, for as long as anybody else has the client.
fn take_reports(client: &Arc<Client>) -> io::Result<()> {
    let client = Arc::downgrade(client);
    let take = move || {
        while let Some(client) = client.upgrade() {
            client.poll(REPORTS_WAIT);
        }
    };
    thread::Builder::new().name("kafka-reports".to_owned()).spawn(take).map(drop)
}

/// The life of a producer's own thread: starts it, does its transactional calls, and ends with it.
fn run(
    settings: &ClientConfig,
    context: Context,
    ready: oneshot::Sender<Result<Handle, SinkError>>,
    calls: &mpsc::Receiver<Call>,
) {
    let client = match connect(settings, context) {
        Ok(client) => client,
        Err(error) => {
            let _ = ready.send(Err(error));
            return;
        }
    };
    if ready.send(Ok(Handle(Arc::clone(&client)))).is_err() || settings.get("transactional.id").is_none() {
        return;
    }
    let breaks_before = client.context().client.breaks();
    while let Ok(Call { what, reply }) = calls.recv() {
        let outcome = match what {
            What::Begin => begin(&client, breaks_before),
            What::Commit => commit(&client, breaks_before),
            #[cfg(feature = "test-hooks")]
            What::Abort => client.abort_transaction(CALL_TIMEOUT).map_err(|error| call_failed(&client, what, &error)),
        };
        let _ = reply.send(outcome);
    }
}

/// Creates the client, and with a transactional id waits until all before it are fenced.
fn connect(settings: &ClientConfig, context: Context) -> Result<Arc<Client>, SinkError> {
    let client = Client::from_config_and_context(settings, Reports::new(context)).map_err(client::refused)?;
    let client = Arc::new(client);
    client.context().client.keep_signed_in(&client);
    take_reports(&client).map_err(|error| SinkError::Unavailable(format!("a producer needs a thread: {error}")))?;
    if let Some(id) = settings.get("transactional.id") {
        client.init_transactions(CALL_TIMEOUT).map_err(|error| {
            let code = match client.client().fatal_error() {
                Some((code, _)) => Some(code),
                None => error.rdkafka_error_code(),
            };
            init_failed(&client.context().client, id, code, &error)
        })?;
    }
    Ok(client)
}

fn init_failed(context: &Context, id: &str, code: Option<RDKafkaErrorCode>, error: &KafkaError) -> SinkError {
    use RDKafkaErrorCode::{
        InvalidTransactionTimeout, NotImplemented, TransactionalIdAuthorizationFailed, UnsupportedFeature,
        UnsupportedForMessageFormat, UnsupportedVersion,
    };
    match code {
        Some(TransactionalIdAuthorizationFailed) => SinkError::NoTransactions(format!(
            "Kafka does not let this user write with the transactional id {id}: grant WRITE on it, or set kafka.delivery to at-least-once"
        )),
        Some(code @ (UnsupportedFeature | UnsupportedVersion | UnsupportedForMessageFormat | NotImplemented)) => {
            SinkError::NoTransactions(format!(
                "this Kafka has no transactions ({code}): use one that has, or set kafka.delivery to at-least-once"
            ))
        }
        Some(InvalidTransactionTimeout) => SinkError::Refused(format!(
            "Kafka takes no transactions of {} s: raise the brokers' transaction.max.timeout.ms",
            TRANSACTION_TIMEOUT.as_secs()
        )),
        Some(code) if trouble::is_refusal(code) => SinkError::Refused(format!(
            "Kafka does not let this user write ({code}): grant WRITE on the connector's topics and IDEMPOTENT_WRITE on the cluster"
        )),
        _ => context.failed(&format!("no producer could be started ({error})")),
    }
}

fn begin(client: &Client, breaks_before: u64) -> Result<(), ProducerError> {
    check_breaks(client, breaks_before)?;
    client.begin_transaction().map_err(|error| call_failed(client, What::Begin, &error))
}

fn commit(client: &Client, breaks_before: u64) -> Result<(), ProducerError> {
    // A commit waits a tenth of a second as soon as it finds anything in flight.
    if !is_quiet(client) {
        let what = "messages are in flight although every report is in";
        return Err(ProducerError::Doubtful(client.context().client.failed(what)));
    }
    client.commit_transaction(CALL_TIMEOUT).map_err(|error| call_failed(client, What::Commit, &error))?;
    check_breaks(client, breaks_before)
}

/// Ends a producer's use once a connection has broken, even if all went well: a request that was sent
/// twice may still arrive, and by the protocol that librdkafka speaks decide a later transaction
/// (KAFKA-17754), from which only a new producer is safe. Counted over the producer's whole life, since
/// librdkafka does not repeat within half a minute that a connection broke again.
fn check_breaks(client: &Client, breaks_before: u64) -> Result<(), ProducerError> {
    // News come through the same queue as reports.
    is_quiet(client);
    if client.context().client.breaks() == breaks_before {
        return Ok(());
    }
    let what = "a connection to Kafka broke, after which a new producer is needed";
    Err(ProducerError::Doubtful(SinkError::Unavailable(what.to_owned())))
}

/// Returns when a producer has not got in for as long as no starting broker takes: with the password that is in
/// its file by now a new one might. Without a transaction nothing else would end the wait for reports.
async fn kept_out(trouble: &Trouble) {
    let mut looks = 0;
    while looks < KEPT_OUT_LOOKS {
        tokio::time::sleep(KEPT_OUT_LOOK_INTERVAL).await;
        looks = if trouble.is_kept_out() { looks + 1 } else { 0 };
    }
}

/// Waits until librdkafka holds nothing, neither messages nor news.
fn is_quiet(client: &Client) -> bool {
    let start = Instant::now();
    while client.in_flight_count() > 0 {
        if start.elapsed() > QUIET_WAIT_MAX {
            return false;
        }
        thread::sleep(QUIET_POLL_INTERVAL);
    }
    true
}

fn call_failed(client: &Client, what: What, error: &KafkaError) -> ProducerError {
    failure(client, &format!("cannot {} ({error})", what.as_str()), error.rdkafka_error_code())
}

/// What a failure with this code means, and with whatever the client holds against itself.
fn failure(client: &Client, what: &str, code: Option<RDKafkaErrorCode>) -> ProducerError {
    if code.is_some_and(is_fenced) {
        return ProducerError::Fenced(what.to_owned());
    }
    match client.client().fatal_error() {
        Some((code, words)) if is_fenced(code) => ProducerError::Fenced(words),
        Some((_, words)) => ProducerError::Doubtful(doubt(client, code, &format!("{what}: {words}"))),
        None => ProducerError::Doubtful(doubt(client, code, what)),
    }
}

fn doubt(client: &Client, code: Option<RDKafkaErrorCode>, what: &str) -> SinkError {
    match code {
        Some(code) if trouble::is_refusal(code) => {
            return SinkError::Refused(format!("{what}: grant WRITE on the connector's topics"));
        }
        Some(code) if is_lasting(code) => return SinkError::Refused(what.to_owned()),
        _ => {}
    }
    client.context().client.failed(what)
}

/// Waits for what a thread that may block has to say; `None` when it has ended without a word.
async fn answer<T>(what: &str, mut reply: oneshot::Receiver<T>) -> Option<T> {
    // By ticks and not by the clock: a process that was stopped for an hour must not find its calls stuck.
    for _ in 0..CALL_STUCK_SECONDS {
        if let Ok(answered) = tokio::time::timeout(Duration::from_secs(1), &mut reply).await {
            return answered.ok();
        }
    }
    tracing::error!(
        "librdkafka has not returned for {CALL_STUCK_SECONDS} s, asked to {what}: the process ends here, to be started again"
    );
    std::process::abort()
}

fn thread_has_ended() -> SinkError {
    SinkError::Unavailable("the producer's thread has ended".to_owned())
}

/// Whether a newer producer has taken over, or the brokers gave the transaction up.
fn is_fenced(code: RDKafkaErrorCode) -> bool {
    matches!(code, RDKafkaErrorCode::Fenced | RDKafkaErrorCode::ProducerFenced | RDKafkaErrorCode::InvalidProducerEpoch)
}

/// Whether a message failed because another one, or the producer, did.
fn is_consequence(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{Fatal, InvalidDifferentRecord, PurgeInflight, PurgeQueue, State};
    matches!(code, Fatal | InvalidDifferentRecord | PurgeInflight | PurgeQueue | State)
}

/// Whether a record batch was refused for what is in it.
fn is_about_content(code: RDKafkaErrorCode) -> bool {
    code == RDKafkaErrorCode::InvalidDifferentRecord || content_fault(code).is_some()
}

/// What is wrong with a message that would be refused however often it is sent.
fn content_fault(code: RDKafkaErrorCode) -> Option<Reason> {
    match code {
        RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessageSize => Some(Reason::TooLarge),
        RDKafkaErrorCode::InvalidTimestamp => Some(Reason::Timestamp),
        RDKafkaErrorCode::InvalidRecord => Some(Reason::Invalid),
        _ => None,
    }
}

/// Refusals that only an operator can mend.
fn is_lasting(code: RDKafkaErrorCode) -> bool {
    matches!(code, RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition)
}

/// The delivery reports of one batch.
struct BatchReports {
    /// Tests kill the process after so many acknowledgements of such a batch.
    has_legs: bool,
    outstanding: AtomicUsize,
    outcomes: Mutex<Vec<Result<Place, RDKafkaErrorCode>>>,
    complete: Notify,
}

impl BatchReports {
    fn new(batch: &[Message]) -> Self {
        Self {
            has_legs: batch.iter().any(|message| message.destination == Destination::Legs),
            outstanding: AtomicUsize::new(batch.len()),
            outcomes: Mutex::new(vec![Err(RDKafkaErrorCode::Fail); batch.len()]),
            complete: Notify::new(),
        }
    }

    fn report(&self, position: usize, outcome: Result<Place, RDKafkaErrorCode>) {
        if let Some(slot) = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner).get_mut(position) {
            *slot = outcome;
        }
        if self.outstanding.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.complete.notify_one();
        }
    }

    /// Waits for every report and gives them by position.
    async fn all(&self) -> Vec<Result<Place, RDKafkaErrorCode>> {
        while self.outstanding.load(Ordering::Acquire) > 0 {
            self.complete.notified().await;
        }
        std::mem::take(&mut self.outcomes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Which message of which batch a delivery report is about. It goes with the message as a number, since there are
/// millions of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Delivery {
    batch: usize,
    position: usize,
}

impl Delivery {
    /// Of a message that no batch waits for: the first batch is number 1.
    const NOBODYS: Self = Self { batch: 0, position: 0 };

    /// No batch comes near so many messages.
    const POSITION_BITS: u32 = usize::BITS / 2;

    const fn to_opaque(self) -> usize {
        self.batch << Self::POSITION_BITS | self.position
    }

    const fn from_opaque(opaque: usize) -> Self {
        let position = opaque & ((1 << Self::POSITION_BITS) - 1);
        Self { batch: opaque >> Self::POSITION_BITS, position }
    }
}

/// Hands delivery reports to the batch they belong to.
struct Reports {
    client: Context,
    /// The newest batch and its number. Those before it are complete, or were given up.
    newest: Mutex<(usize, Option<Arc<BatchReports>>)>,
}

impl Reports {
    fn new(client: Context) -> Self {
        Self { client, newest: Mutex::new((0, None)) }
    }

    /// Takes reports for another batch from here on; gives its number.
    fn begin_batch(&self, reports: &Arc<BatchReports>) -> usize {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        // What is left of a batch whose number comes again, four thousand million batches later, is long gone.
        newest.0 = (newest.0 + 1) & (usize::MAX >> Delivery::POSITION_BITS);
        newest.1 = Some(Arc::clone(reports));
        newest.0
    }

    fn reports_of(&self, batch: usize) -> Option<Arc<BatchReports>> {
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        newest.1.as_ref().filter(|_| newest.0 == batch).map(Arc::clone)
    }
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.client.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.client.error(error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        self.client.stats(statistics);
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: usize) {
        let Delivery { batch, position } = Delivery::from_opaque(opaque);
        let Some(reports) = self.reports_of(batch) else { return };
        let outcome = match result {
            // A repeated request that the brokers remember no longer is acknowledged without a place.
            Ok(message) if message.offset() < 0 => Err(RDKafkaErrorCode::NoOffset),
            Ok(message) => Ok(Place { partition: message.partition(), offset: message.offset() }),
            Err((error, _)) => Err(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail)),
        };
        if reports.has_legs && outcome.is_ok() {
            hooks::point("leg-acknowledged");
        }
        reports.report(position, outcome);
    }
}

/// librdkafka's own cluster in memory serves for answers that a real one gives only when it is broken
/// or forbids something. What is visible after them it does not know.
#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::DefaultProducerContext;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    use super::*;

    fn kafka(bootstrap: &str) -> config::Kafka {
        config::Kafka {
            bootstrap_servers: vec![bootstrap.to_owned()],
            topic: "legs".to_owned(),
            partitions: 1,
            replication_factor: None,
            timestamp: config::MessageTimestamp::Disconnect,
            delivery: config::Delivery::Auto,
            journal: "legs.journal".to_owned(),
            beat: Duration::from_secs(10),
            sasl_password: None,
            oauth: None,
            oauth_extensions: config::Properties::default(),
            topic_config: BTreeMap::new(),
            properties: config::Properties::default(),
        }
    }

    fn topics() -> Topics {
        Topics::assumed("legs", "legs.journal")
    }

    fn mock() -> MockCluster<'static, DefaultProducerContext> {
        MockCluster::new(1).unwrap()
    }

    fn transactional(mock: &MockCluster<'static, DefaultProducerContext>) -> ClientConfig {
        settings(&kafka(&mock.bootstrap_servers()), &topics(), Some("legs.journal.0")).unwrap()
    }

    async fn started(mock: &MockCluster<'static, DefaultProducerContext>) -> KafkaProducer {
        KafkaProducer::start(transactional(mock), Context::default(), Arc::new(topics())).await.unwrap()
    }

    fn leg() -> Message {
        Message {
            destination: Destination::Legs,
            key: b"key".as_slice().into(),
            payload: None,
            timestamp: None,
            headers: Vec::new(),
        }
    }

    #[test]
    fn a_report_finds_its_message_and_none_of_another_batch() {
        for delivery in [Delivery { batch: 1, position: 0 }, Delivery { batch: 0xffff_ffff, position: 0xffff_ffff }] {
            assert_eq!(Delivery::from_opaque(delivery.to_opaque()), delivery);
        }
        let reports = Reports::new(Context::default());
        let [first, second] = [(); 2].map(|()| Arc::new(BatchReports::new(&[leg()])));
        let numbers = [&first, &second].map(|batch| reports.begin_batch(batch));
        assert!(reports.reports_of(numbers[0]).is_none(), "it was given up");
        assert!(reports.reports_of(numbers[1]).is_some_and(|found| Arc::ptr_eq(&found, &second)));
    }

    #[test]
    fn batches_are_kept_to_what_every_topic_takes_and_messages_to_what_any_does() {
        let mut topics = topics();
        topics.status.message_bytes_max = 5_000;
        topics.journal.message_bytes_max = 7_000_000;
        let settings = settings(&kafka("localhost"), &topics, None).unwrap();
        assert_eq!(settings.get("batch.size"), Some("5000"));
        assert_eq!(settings.get("message.max.bytes"), Some("7000000"));
        assert_eq!(settings.get("message.timeout.ms"), Some("0"));
        assert_eq!(settings.get("transactional.id"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_producer_is_given_up_that_is_kept_out_for_longer_than_brokers_take_to_start() {
        let trouble = Trouble::default();
        let refused = || {
            trouble.set(RDKafkaErrorCode::Authentication, "ssl://b:9092/1: SASL authentication error: no (after 1ms)")
        };
        let waited = async |long| tokio::time::timeout(long, kept_out(&trouble)).await.is_ok();
        assert!(!waited(Duration::from_secs(3600)).await, "nothing keeps it out");
        refused();
        assert!(!waited(Duration::from_secs(20)).await, "not for long");
        assert!(waited(Duration::from_secs(60)).await);
        trouble.clear();
        assert!(!waited(Duration::from_secs(3600)).await, "it got in");
    }

    #[test]
    fn a_user_s_settings_and_secrets_come_before_the_defaults() {
        let mut kafka = kafka("localhost");
        kafka.sasl_password = config::Secret::value("kafka.sasl_password".to_owned(), "hunter2");
        kafka.properties = config::Properties::from_iter([("linger.ms", "7"), ("ssl.key.password", "swordfish")]);
        let settings = settings(&kafka, &topics(), None).unwrap();
        for (name, expected) in [
            ("sasl.password", "hunter2"),
            ("ssl.key.password", "swordfish"),
            ("linger.ms", "7"),
            ("compression.type", "zstd"),
        ] {
            assert_eq!(settings.get(name), Some(expected), "{name}");
        }
    }

    #[test]
    fn the_level_of_compression_is_ours_only_where_the_user_says_nothing_of_it() {
        for (given, kind, level) in [
            (None, "zstd", Some("1")),
            (Some(("compression.type", "gzip")), "gzip", None),
            (Some(("compression.type", "zstd")), "zstd", None),
            (Some(("compression.level", "9")), "zstd", Some("9")),
        ] {
            let mut kafka = kafka("localhost");
            kafka.properties = config::Properties::from_iter(given);
            let settings = settings(&kafka, &topics(), None).unwrap();
            assert_eq!(settings.get("compression.type"), Some(kind), "{given:?}");
            assert_eq!(settings.get("compression.level"), level, "{given:?}");
        }
    }

    #[test]
    fn librdkafka_takes_the_settings_whatever_the_users_time_out() {
        for (given, expected) in [(None, None), (Some("5000"), Some("5000")), (Some("60000"), Some("15000"))] {
            let mut settings = settings(&kafka("localhost"), &topics(), None).unwrap();
            settings.remove("message.timeout.ms");
            if let Some(given) = given {
                settings.set("socket.timeout.ms", given);
            }
            make_transactional(&mut settings, "id");
            assert_eq!(settings.get("socket.timeout.ms"), expected);
            let created: Result<Client, KafkaError> =
                Client::from_config_and_context(&settings, Reports::new(Context::default()));
            assert!(created.is_ok(), "{:?}", created.err());
        }
    }

    #[test]
    fn what_an_init_is_refused_for_decides_what_can_be_done() {
        type Expected = fn(&SinkError) -> bool;
        let cases: [(RDKafkaRespErr, Expected); 3] = [
            (
                RDKafkaRespErr::RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
                |error| matches!(error, SinkError::NoTransactions(sentence) if sentence.contains("legs.journal.0")),
            ),
            (
                RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED,
                |error| matches!(error, SinkError::Refused(sentence) if sentence.contains("grant")),
            ),
            (
                RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_TRANSACTION_TIMEOUT,
                |error| matches!(error, SinkError::Refused(sentence) if sentence.contains("transaction.max.timeout.ms")),
            ),
        ];
        for (answer, is_expected) in cases {
            let mock = mock();
            mock.request_errors(RDKafkaApiKey::InitProducerId, &[answer]);
            let error = connect(&transactional(&mock), Context::default()).err().unwrap();
            assert!(is_expected(&error), "{answer:?}: {error:?}");
        }
    }

    #[test]
    fn the_other_verdicts_of_an_init_are_told_apart() {
        let error = KafkaError::Global(RDKafkaErrorCode::Fail);
        let of = |code| init_failed(&Context::default(), "id", Some(code), &error);
        assert!(matches!(of(RDKafkaErrorCode::UnsupportedFeature), SinkError::NoTransactions(_)));
        assert!(matches!(of(RDKafkaErrorCode::UnsupportedVersion), SinkError::NoTransactions(_)));
        assert!(matches!(of(RDKafkaErrorCode::TopicAuthorizationFailed), SinkError::Refused(_)));
        assert!(matches!(of(RDKafkaErrorCode::OperationTimedOut), SinkError::Unavailable(_)));
        assert!(matches!(of(RDKafkaErrorCode::CoordinatorNotAvailable), SinkError::Unavailable(_)));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_commit_that_finds_a_newer_epoch_is_fenced() {
        let mock = mock();
        mock.create_topic("legs", 1, 1).unwrap();
        let mut producer = started(&mock).await;
        producer.begin().await.unwrap();
        producer.send(&[leg()], Packing::Shared).await.unwrap();
        mock.request_errors(RDKafkaApiKey::EndTxn, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH]);
        let outcome = producer.commit().await;
        assert!(matches!(outcome, Err(ProducerError::Fenced(_))), "{outcome:?}");
        let outcome = producer.begin().await;
        assert!(matches!(outcome, Err(ProducerError::Fenced(_))), "{outcome:?}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_commit_is_doubtful_when_a_connection_broke_although_it_was_done() {
        let mock = mock();
        mock.create_topic("legs", 1, 1).unwrap();
        let mut producer = started(&mock).await;
        for is_broken in [false, true] {
            producer.begin().await.unwrap();
            producer.send(&[leg()], Packing::Shared).await.unwrap();
            if is_broken {
                mock.request_errors(RDKafkaApiKey::EndTxn, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR__TRANSPORT]);
            }
            let outcome = producer.commit().await;
            assert_eq!(matches!(outcome, Err(ProducerError::Doubtful(_))), is_broken, "{outcome:?}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_topic_that_is_forbidden_is_a_refusal() {
        let mock = mock();
        mock.create_topic("legs", 1, 1).unwrap();
        let mut producer = started(&mock).await;
        producer.begin().await.unwrap();
        mock.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED]);
        let outcome = producer.send(&[leg(), leg()], Packing::Shared).await;
        assert!(matches!(outcome, Err(ProducerError::Doubtful(SinkError::Refused(_)))), "{outcome:?}");
    }
}
