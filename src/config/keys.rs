//! Every key: its name, default and limits, and what two keys demand of each other.
//!
//! The order is that of the documented contract, and so of the effective settings.

use std::collections::BTreeMap;
use std::time::Duration;

use tracing_subscriber::filter::LevelFilter;

use super::guarantee;
use super::personal::Personal;
use super::privacy::{PrivacyRules, privacy};
use super::reader::Reader;
use super::rule;
use super::section::{
    Admin, Avro, DeadLetter, Delivery, Framing, Freshness, Kafka, Log, LogFormat, MessageTimestamp, Policy, Poll,
    Properties, Registry, SignIn, Source, State, Telemetry,
};
use super::sign_in::{self, KAFKA_OAUTH, oauth};
use crate::core::dedupe::Revisions;
use crate::core::leg::TimeBasis;
use crate::core::planner::Sweep;
use crate::core::words::setting;
use crate::http::is_this_machine;

/// The sections, typed.
pub(super) struct Sections {
    pub(super) source: Source,
    pub(super) poll: Poll,
    pub(super) sweeps: Vec<Sweep>,
    pub(super) freshness: Freshness,
    pub(super) policy: Policy,
    pub(super) privacy: PrivacyRules,
    pub(super) dead_letter: DeadLetter,
    pub(super) kafka: Kafka,
    pub(super) avro: Avro,
    pub(super) state: State,
    pub(super) admin: Admin,
    pub(super) log: Log,
    pub(super) telemetry: Telemetry,
}

/// Reads every key; `None` when a problem was noted.
///
/// Without `needs_state_dir`, `state.dir` may be missing.
pub(super) fn sections(r: &mut Reader, needs_state_dir: bool) -> Option<Sections> {
    let source = source(r);
    let poll = poll(r);
    let sweeps = sweeps(r);
    let freshness = freshness(r);
    let policy = policy(r);
    let privacy = privacy(r);
    let dead_letter = dead_letter(r);
    let kafka = kafka(r);
    let avro = avro(r);
    let state = state(r, needs_state_dir);
    let admin = admin(r);
    let log = log(r);
    let telemetry = telemetry(r);
    if let (Some(source), Some(poll)) = (&source, &poll) {
        overlap_covers_connect_time(r, source, poll);
    }
    if let (Some(poll), Some(freshness)) = (&poll, &freshness) {
        objective_can_be_kept(r, poll, freshness);
    }
    if let (Some(poll), Some(state)) = (&poll, &state) {
        horizon_covers_overlap(r, poll, state);
    }
    let sweeps = sweeps.map(|given| within_horizon(r, given, state.as_ref()));
    Some(Sections {
        source: source?,
        poll: poll?,
        sweeps: sweeps?,
        freshness: freshness?,
        policy: policy?,
        privacy: privacy?,
        dead_letter: dead_letter?,
        kafka: kafka?,
        avro: avro?,
        state: state?,
        admin: admin?,
        log: log?,
        telemetry: telemetry?,
    })
}

/// The API's own limit on rows in a page.
const PAGE_SIZE_MAX: u32 = 7_000;

/// The API's own limit on the values of a filter.
const FILTER_VALUES_MAX: usize = 125;

/// Stands for every PBX of the account.
const ALL_PBXES: &str = "allpbxes";

/// With bounds on connect time a leg is missed when it lasts longer than the overlap.
const CONNECT_OVERLAP_MIN: Duration = Duration::from_secs(12 * 60 * 60);

fn source(r: &mut Reader) -> Option<Source> {
    let base_url = r.or_default("source.base_url", "https://api.8x8.com/analytics/work", rule::source_url());
    let api_key = r.required_secret("source.api_key");
    let username = r.required("source.username", rule::personal());
    let password = r.required_secret("source.password");
    let pbx_ids = pbx_ids(r);
    let time_zone = r.or_default("source.time_zone", "UTC", rule::time_zone());
    let page_size = r.or_default("source.page_size", "1000", rule::whole(1..=PAGE_SIZE_MAX));
    let time_basis = r.or_default(
        "source.time_basis",
        "disconnect",
        rule::one_of([("disconnect", TimeBasis::Disconnect), ("connect", TimeBasis::Connect)]),
    );
    let simplified = r.or_default("source.simplified", "false", rule::flag());
    let callers = filter(r, "source.callers");
    let callees = filter(r, "source.callees");
    let callers_or_callees = filter(r, "source.callers_or_callees");
    if let (Some(callers), Some(callees), Some(either)) = (&callers, &callees, &callers_or_callees)
        && !either.is_empty()
        && !(callers.is_empty() && callees.is_empty())
    {
        r.problem(
            "source.callers_or_callees",
            "excludes source.callers and source.callees: the API takes one or the others",
        );
    }
    // The API documents no time it may take; after ten minutes a lost connection is all that is left.
    let request_timeout = r.or_default("source.request_timeout", "30s", rule::duration("1s", "10m"));
    // No limit is documented. A hundred a second is beyond what any account needs or any gateway allows.
    let requests_per_minute = r.or_default("source.requests_per_minute", "60", rule::whole(1..=6_000));
    // A row takes about 2 KiB, the largest page so 14 MiB; the upper end keeps a body in memory.
    let max_body = r.or_default("source.max_body", "64MiB", rule::size("1MiB", "1GiB"));
    let ca_file = r.optional("source.ca_file", rule::path());
    Some(Source {
        base_url: base_url?,
        api_key: api_key?,
        username: username?,
        password: password?,
        pbx_ids: pbx_ids?,
        time_zone: time_zone?,
        page_size: page_size?,
        time_basis: time_basis?,
        simplified: simplified?,
        callers: callers?,
        callees: callees?,
        callers_or_callees: callers_or_callees?,
        request_timeout: request_timeout?,
        requests_per_minute: requests_per_minute?,
        max_body: max_body?,
        ca_file: ca_file?,
    })
}

fn pbx_ids(r: &mut Reader) -> Option<Vec<String>> {
    // A comma would make two names of one, since the API takes a comma list.
    let must = "be a list of different PBX names, at least one and none empty or with a comma, or [\"allpbxes\"] alone";
    r.texts("source.pbx_ids", &[ALL_PBXES], must, |names| {
        let alone = names.len() == 1 || !names.iter().any(|name| name.eq_ignore_ascii_case(ALL_PBXES));
        !names.is_empty() && alone && are_list_items(names) && are_unique(names)
    })
}

fn filter(r: &mut Reader, key: &'static str) -> Option<Personal<Vec<String>>> {
    let must = format!(
        "be a list of at most {FILTER_VALUES_MAX} texts such as [\"1001\", \"1002\"], none empty or with a comma"
    );
    let values = r.texts(key, &[], &must, |values| values.len() <= FILTER_VALUES_MAX && are_list_items(values))?;
    r.show(
        key,
        match values.len() {
            0 => "none".to_owned(),
            1 => "1 value".to_owned(),
            count => format!("{count} values"),
        },
    );
    Some(Personal::new(values))
}

fn are_list_items(items: &[String]) -> bool {
    items.iter().all(|item| !item.is_empty() && !item.contains(',') && !item.contains(char::is_control))
}

fn are_unique(items: &[String]) -> bool {
    items.iter().enumerate().all(|(at, item)| !items[..at].contains(item))
}

fn poll(r: &mut Reader) -> Option<Poll> {
    let interval = r.or_default("poll.interval", "2m", rule::poll_interval("1s", "24h"));
    // None at all would never look again for late legs; a month is read anew in every interval.
    let overlap = r.or_default("poll.overlap", "30m", rule::whole_seconds("1s", "30d"));
    let settle = r.or_default("poll.settle", "1m", rule::whole_seconds("0s", "24h"));
    // Below a minute a long gap takes more queries than the request budget has in it.
    let max_window = r.or_default("poll.max_window", "31d", rule::whole_seconds("1m", "731d"));
    // The Date header counts in seconds, so less than one of them cannot be told.
    let clock_tolerance = r.or_default("poll.clock_tolerance", "60s", rule::duration("1s", "1h"));
    let start_from = r.optional("poll.start_from", rule::start_from());
    Some(Poll {
        interval: interval?,
        overlap: overlap?,
        settle: settle?,
        max_window: max_window?,
        clock_tolerance: clock_tolerance?,
        start_from: start_from?,
    })
}

/// The sweeps where none are given: every, lookback.
const SWEEPS: [[&str; 2]; 3] = [["1h", "6h"], ["6h", "24h"], ["24h", "7d"]];

/// What was given, or `None` for the default ladder.
fn sweeps(r: &mut Reader) -> Option<Option<Vec<Sweep>>> {
    let must = "be tables such as [[sweeps]] with every = \"1h\" (1s to 30d) and lookback = \"6h\" (1s to 730d, whole seconds), \
                no two with the same lookback; or sweeps = [] for none";
    let given = r.tables("sweeps", ["every", "lookback"], must)?;
    r.list("sweeps", "");
    let Some(given) = given else { return Some(None) };
    let sweeps: Option<Vec<Sweep>> = given.iter().map(sweep).collect();
    let sweeps = sweeps.filter(|sweeps| {
        let lookbacks: Vec<String> = sweeps.iter().map(|sweep| sweep.lookback.as_secs().to_string()).collect();
        are_unique(&lookbacks)
    });
    if sweeps.is_none() {
        r.problem("sweeps", &format!("must {must}"));
    }
    sweeps.map(Some)
}

fn sweep([every, lookback]: &[String; 2]) -> Option<Sweep> {
    let every = rule::duration("1s", "30d").read(every)?;
    let lookback = rule::whole_seconds("1s", "730d").read(lookback)?;
    Some(Sweep { every, lookback })
}

/// A sweep finds nothing new where identities are no longer remembered: given ones are refused, those of the default
/// ladder left out.
fn within_horizon(r: &mut Reader, given: Option<Vec<Sweep>>, state: Option<&State>) -> Vec<Sweep> {
    let horizon = state.map_or(Duration::MAX, |state| state.horizon);
    let sweeps = match given {
        Some(sweeps) => {
            if sweeps.iter().any(|sweep| sweep.lookback > horizon) {
                r.problem(
                    "sweeps",
                    "must not look back further than state.horizon: \
                     an older leg could not be told from one that was published and forgotten",
                );
            }
            sweeps
        }
        None => {
            let ladder = SWEEPS.iter().filter_map(|texts| sweep(&texts.map(str::to_owned)));
            ladder.filter(|sweep| sweep.lookback <= horizon).collect()
        }
    };
    let shown = |sweep: &Sweep| {
        let Sweep { every, lookback } = sweep;
        format!("every {} {} back", setting(*every), setting(*lookback))
    };
    let shown = sweeps.iter().map(shown).collect::<Vec<_>>().join(", ");
    r.show("sweeps", if shown.is_empty() { "none".to_owned() } else { shown });
    sweeps
}

fn freshness(r: &mut Reader) -> Option<Freshness> {
    // Below a second it would be the request that is measured; after a week nobody waits.
    let objective = r.or_default("freshness.objective", "5m", rule::duration("1s", "7d"));
    Some(Freshness { objective: objective? })
}

fn policy(r: &mut Reader) -> Option<Policy> {
    let revisions = r.or_default(
        "policy.revisions",
        "ignore",
        rule::one_of([("ignore", Revisions::Ignore), ("publish", Revisions::Publish)]),
    );
    Some(Policy { revisions: revisions? })
}

fn dead_letter(r: &mut Reader) -> Option<DeadLetter> {
    // Rows are rarely dead by themselves; more than one in twenty means that the API has changed.
    let max_ratio = r.or_default("dead_letter.max_ratio", "0.05", rule::ratio());
    let raw = r.or_default("dead_letter.raw", "false", rule::flag());
    Some(DeadLetter { max_ratio: max_ratio?, raw: raw? })
}

/// More than a cluster takes without special care; Kafka itself documents no limit.
const PARTITIONS_MAX: i32 = 10_000;

/// The protocol's limit: a 16-bit number.
const REPLICATION_FACTOR_MAX: i32 = i16::MAX as i32;

fn kafka(r: &mut Reader) -> Option<Kafka> {
    let bootstrap_servers = bootstrap_servers(r);
    let topic = r.or_default("kafka.topic", "call-legs", rule::topic());
    let partitions = r.or_default("kafka.partitions", "6", rule::whole(1..=PARTITIONS_MAX));
    let replication_factor = r.optional("kafka.replication_factor", rule::whole(1..=REPLICATION_FACTOR_MAX));
    if replication_factor == Some(None) {
        r.show("kafka.replication_factor", "the broker's default".to_owned());
    }
    let timestamp = r.or_default(
        "kafka.timestamp",
        "disconnect",
        rule::one_of([("disconnect", MessageTimestamp::Disconnect), ("publish", MessageTimestamp::Publish)]),
    );
    let delivery = r.or_default(
        "kafka.delivery",
        "auto",
        rule::one_of([
            ("auto", Delivery::Auto),
            ("exactly-once", Delivery::ExactlyOnce),
            ("at-least-once", Delivery::AtLeastOnce),
        ]),
    );
    let journal = r.optional("kafka.journal", rule::topic());
    if let (Some(None), Some(topic)) = (&journal, &topic) {
        r.show("kafka.journal", journal_of(topic));
    }
    if let (Some(Some(journal)), Some(topic)) = (&journal, &topic)
        && [topic.clone(), format!("{topic}.dead-letter"), format!("{topic}.status")].contains(journal)
    {
        r.problem("kafka.journal", "must be a topic of its own, not that of the legs, the dead letters or the status");
    }
    // Readers wait for three beats before they call a connector down: longer ones would tell them too late.
    let beat = r.or_default("kafka.beat", "10s", rule::duration("1s", "10s"));
    let sasl_password = r.secret("kafka.sasl_password");
    let oauth = oauth(r, &KAFKA_OAUTH);
    let oauth_extensions = r.map("kafka.oauth.extensions", sign_in::extension_refusal, guarantee::is_secret);
    let topic_config = r.map("kafka.topic_config", |_, _| None, |_| false);
    let properties = r.map("kafka.properties", guarantee::refusal, guarantee::is_secret);
    if let Some(topic_config) = &topic_config {
        check_topic_config(r, topic_config, timestamp);
    }
    if let (Some(sasl_password), Some(oauth), Some(properties)) = (&sasl_password, &oauth, &properties) {
        sign_in::check_kafka(r, sasl_password.is_some(), oauth.is_some(), properties);
    }
    if let (Some(None), Some(extensions)) = (&oauth, &oauth_extensions)
        && let Some(name) = extensions.keys().next()
    {
        r.problem(&format!("kafka.oauth.extensions.{name}"), "needs kafka.oauth.token_url beside it");
    }
    let topic = topic?;
    Some(Kafka {
        bootstrap_servers: bootstrap_servers?,
        partitions: partitions?,
        replication_factor: replication_factor?,
        timestamp: timestamp?,
        delivery: delivery?,
        journal: journal?.unwrap_or_else(|| journal_of(&topic)),
        beat: beat?,
        topic,
        sasl_password: sasl_password?,
        oauth: oauth?,
        oauth_extensions: Properties(oauth_extensions?),
        topic_config: topic_config?,
        properties: Properties(properties?),
    })
}

/// Notes what the settings of the topic must not be.
fn check_topic_config(r: &mut Reader, topic_config: &BTreeMap<String, String>, timestamp: Option<MessageTimestamp>) {
    if topic_config.get("cleanup.policy").is_some_and(|policy| policy.contains("compact")) {
        r.problem(
            "kafka.topic_config.cleanup.policy",
            "must not compact the topic: its key is the call's id, so only the newest leg of each call would be kept",
        );
    }
    let by_broker = topic_config.get("message.timestamp.type").is_some_and(|kind| kind == "LogAppendTime");
    if by_broker && timestamp == Some(MessageTimestamp::Disconnect) {
        r.warning(
            "kafka.topic_config.message.timestamp.type",
            "replaces the timestamps of kafka.timestamp = \"disconnect\"",
        );
    }
}

/// The name of the journal where none is given.
fn journal_of(topic: &str) -> String {
    format!("{topic}.journal")
}

fn bootstrap_servers(r: &mut Reader) -> Option<Vec<String>> {
    let must =
        "name one or more brokers, such as \"kafka-1:9092,kafka-2:9092\" or [\"kafka-1:9092\", \"kafka-2:9092\"]";
    r.required_texts("kafka.bootstrap_servers", must, |brokers| {
        !brokers.is_empty() && brokers.iter().all(|broker| rule::is_broker(broker))
    })
}

fn avro(r: &mut Reader) -> Option<Avro> {
    let is_confluent =
        r.or_default("avro.framing", "confluent", rule::one_of([("confluent", true), ("single-object", false)]));
    let url = r.optional("avro.schema_registry_url", rule::registry_url());
    let sign_in = sign_in::registry(r);
    let ca_file = r.optional("avro.schema_registry_ca_file", rule::path());
    let identity = sign_in::identity(r);
    let register = r.or_default("avro.register", "true", rule::flag());
    if is_confluent == Some(true) && url == Some(None) {
        r.problem("avro.schema_registry_url", "is required for avro.framing = \"confluent\"");
        return None;
    }
    let (url, sign_in, ca_file, identity, register) = (url?, sign_in?, ca_file?, identity?, register?);
    let registry = url.map(|url| {
        if sign_in.is_some() && url.scheme() == "http" && !is_this_machine(&url) {
            let secret = if matches!(sign_in, Some(SignIn::Basic(_))) { "password" } else { "token" };
            let text = format!("is not https://: the registry's {secret} travels in the clear");
            r.warning("avro.schema_registry_url", &text);
        }
        Registry { url, sign_in, identity, ca_file, register }
    });
    let framing = match (is_confluent?, registry) {
        (true, Some(registry)) => Framing::Confluent(registry),
        (_, registry) => Framing::SingleObject(registry),
    };
    Some(Avro { framing })
}

fn state(r: &mut Reader, needs_dir: bool) -> Option<State> {
    let dir =
        if needs_dir { r.required("state.dir", rule::path()).map(Some) } else { r.optional("state.dir", rule::path()) };
    // The API answers for two years, so no read reaches further back.
    let horizon = r.or_default("state.horizon", "8d", rule::whole_seconds("1s", "730d"));
    Some(State { dir: dir?, horizon: horizon? })
}

fn admin(r: &mut Reader) -> Option<Admin> {
    let listen = r.or_default("admin.listen", "127.0.0.1:9464", rule::listen());
    let token = r.secret("admin.token");
    Some(Admin { listen: listen?, token: token? })
}

fn log(r: &mut Reader) -> Option<Log> {
    let level = r.or_default("log.level", "info", rule::log_level());
    let format =
        r.or_default("log.format", "text", rule::one_of([("text", LogFormat::Text), ("json", LogFormat::Json)]));
    if level.as_ref().is_some_and(|level| names_no_level(level)) {
        r.problem("log.level", "names no level: off, error, warn, info, debug or trace, or module=level");
    }
    Some(Log { level: level?, format: format? })
}

fn telemetry(r: &mut Reader) -> Option<Telemetry> {
    let otlp_endpoint = r.optional("telemetry.otlp_endpoint", rule::base_url());
    Some(Telemetry { otlp_endpoint: otlp_endpoint? })
}

/// Whether `directives` are bare names only, none of them a level's: legal, and mostly a misspelt level.
fn names_no_level(directives: &str) -> bool {
    let is_bare_name = |directive: &str| !directive.contains(['=', '[']) && directive.parse::<LevelFilter>().is_err();
    directives.split(',').map(str::trim).filter(|directive| !directive.is_empty()).all(is_bare_name)
}

fn overlap_covers_connect_time(r: &mut Reader, source: &Source, poll: &Poll) {
    if source.time_basis == TimeBasis::Connect && poll.overlap < CONNECT_OVERLAP_MIN {
        r.problem(
            "source.time_basis",
            "can be \"connect\" only with a poll.overlap of at least 12h: \
             a leg appears when it ends, hours after it was connected",
        );
    }
}

fn objective_can_be_kept(r: &mut Reader, poll: &Poll, freshness: &Freshness) {
    if freshness.objective < poll.interval.shortest() {
        r.warning(
            "freshness.objective",
            "is shorter than poll.interval, for which a leg may have to wait: it cannot be kept",
        );
    }
}

fn horizon_covers_overlap(r: &mut Reader, poll: &Poll, state: &State) {
    if state.horizon < poll.overlap {
        r.problem(
            "state.horizon",
            "must be at least poll.overlap: \
             a leg read again after its identity was forgotten could not be told from a new one",
        );
    }
}
