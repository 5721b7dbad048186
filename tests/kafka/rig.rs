//! One test's world: a sandbox, a topic name, a state directory, a configuration, and the connector as a child process.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use call_legs::sandbox::api::Credentials;
use call_legs::sandbox::dataset::DatasetSettings;
use call_legs::sandbox::{Sandbox, Settings};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message, OwnedMessage};
use rdkafka::{Offset, TopicPartitionList};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::support::PATIENCE;

/// A sandbox's settings for tests: any port, no faults, nothing live.
pub(super) fn sandbox_settings(legs: u64, span: Duration) -> Settings {
    Settings {
        listen: ([127, 0, 0, 1], 0).into(),
        dataset: DatasetSettings { legs, span, ..DatasetSettings::default() },
        ..Settings::default()
    }
}

/// Settings by which an hour's legs go into many transactions: each window is one at least.
pub(super) const SMALL_WINDOWS: [&str; 2] = ["poll.start_from = \"now-61m\"", "poll.max_window = \"5m\""];

/// Where nobody listens.
pub(super) fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// A size that whoever runs the tests may set.
pub(super) fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} must be a whole number")))
}

/// One test's world: what one instance of the connector sees of it.
pub(super) struct Rig {
    pub(super) sandbox: Arc<Sandbox>,
    pub(super) topic: String,
    pub(super) admin: String,
    dir: TempDir,
    config: PathBuf,
    keys: BTreeMap<String, String>,
}

impl Rig {
    /// A world around `sandbox` and the Kafka at `bootstrap`. Each of `settings` is `section.key = value` in TOML and replaces
    /// the rig's own.
    pub(super) fn new(sandbox: Sandbox, bootstrap: &str, settings: &[&str]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let topic = format!("legs-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let dir = TempDir::new().unwrap();
        let admin = free_address();
        let Credentials { api_key, username, password } = sandbox.api().credentials();
        let mut keys = BTreeMap::from(
            [
                ("source.base_url", format!("{:?}", sandbox.base_url())),
                ("source.api_key", format!("{api_key:?}")),
                ("source.username", format!("{username:?}")),
                ("source.password", format!("{password:?}")),
                ("source.pbx_ids", format!("{:?}", sandbox.api().pbxes())),
                ("source.requests_per_minute", "6000".to_owned()),
                ("source.request_timeout", "\"5s\"".to_owned()),
                ("poll.interval", "\"1s\"".to_owned()),
                ("poll.overlap", "\"10m\"".to_owned()),
                ("poll.settle", "\"1s\"".to_owned()),
                ("poll.start_from", "\"now-25h\"".to_owned()),
                ("kafka.bootstrap_servers", format!("{bootstrap:?}")),
                ("kafka.topic", format!("{topic:?}")),
                ("kafka.partitions", "3".to_owned()),
                ("kafka.beat", "\"1s\"".to_owned()),
                ("kafka.topic_config.\"retention.ms\"", "-1".to_owned()),
                ("avro.framing", "\"single-object\"".to_owned()),
                ("state.dir", format!("{:?}", dir.path().join("state"))),
                ("admin.listen", format!("{admin:?}")),
            ]
            .map(|(key, value)| (key.to_owned(), value)),
        );
        for setting in settings {
            let (key, value) = setting.split_once(" = ").expect("section.key = value");
            keys.insert(key.to_owned(), value.to_owned());
        }
        let topic = keys["kafka.topic"].trim_matches('"').to_owned();
        let config = dir.path().join("call-legs.toml");
        let rig = Self { sandbox: Arc::new(sandbox), topic, admin, dir, config, keys };
        rig.write_config();
        rig
    }

    /// A second instance with the same configuration, but a state directory and an admin port of its own.
    pub(super) fn sibling(&self) -> Self {
        let dir = TempDir::new().unwrap();
        let admin = free_address();
        let mut keys = self.keys.clone();
        keys.insert("state.dir".to_owned(), format!("{:?}", dir.path().join("state")));
        keys.insert("admin.listen".to_owned(), format!("{admin:?}"));
        let config = dir.path().join("call-legs.toml");
        let rig = Self { sandbox: Arc::clone(&self.sandbox), topic: self.topic.clone(), admin, dir, config, keys };
        rig.write_config();
        rig
    }

    /// Changes a setting for the next start.
    pub(super) fn set(&mut self, key: &str, value: &str) {
        self.keys.insert(key.to_owned(), value.to_owned());
        self.write_config();
    }

    fn write_config(&self) {
        let text: String = self.keys.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        fs::write(&self.config, text).unwrap();
        // It holds secrets.
        fs::set_permissions(&self.config, fs::Permissions::from_mode(0o600)).unwrap();
    }

    pub(super) fn config(&self) -> &Path {
        &self.config
    }

    pub(super) fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Starts the daemon; its log goes on in the same file when it is started again.
    pub(super) fn start(&self) -> Daemon<'_> {
        self.start_to_die_at("")
    }

    /// Starts the daemon so that it dies as by kill -9 at a point of `call_legs::hooks`, `name` or `name:<n>`.
    pub(super) fn start_to_die_at(&self, point: &str) -> Daemon<'_> {
        self.spawn(&[("CALL_LEGS_LOG__LEVEL", "info,call_legs::connector=debug"), ("CALL_LEGS_DIE_AT", point)])
    }

    /// Starts the daemon with another log level.
    pub(super) fn start_with_log_level(&self, level: &str) -> Daemon<'_> {
        self.spawn(&[("CALL_LEGS_LOG__LEVEL", level)])
    }

    /// Starts the daemon with the log level of its configuration.
    pub(super) fn start_with_its_own_log_level(&self) -> Daemon<'_> {
        self.spawn(&[])
    }

    fn spawn(&self, variables: &[(&str, &str)]) -> Daemon<'_> {
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        let child = command()
            .args(["run", "--config"])
            .arg(&self.config)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Daemon { rig: self, child }
    }

    /// Starts the daemon so that a write beyond [`Daemon::limit_files`] fails, as on a full disk, and does not kill it.
    pub(super) fn start_on_a_disk_that_may_fill(&self) -> Daemon<'_> {
        let mut child = Command::new("sh")
            .args(["-c", "trap '' XFSZ; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_call-legs"), "run", "--config"])
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Through a pipe, since the limit is one of every file that it writes.
        let mut log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        let mut lines = child.stderr.take().unwrap();
        std::thread::spawn(move || std::io::copy(&mut lines, &mut log));
        Daemon { rig: self, child }
    }

    /// Runs another command with this configuration to its end; again, where Kafka was too busy to answer it in time.
    pub(super) fn run(&self, arguments: &[&str]) -> Output {
        let started = Instant::now();
        loop {
            let output = command().args(arguments).arg("--config").arg(&self.config).output().unwrap();
            let said = [&output.stdout[..], &output.stderr].concat();
            let is_answered = !String::from_utf8_lossy(&said).contains("Kafka does not answer (");
            if is_answered || started.elapsed() > PATIENCE {
                return output;
            }
        }
    }

    /// The same, and the most memory that it has taken meanwhile.
    pub(super) fn run_watched(&self, arguments: &[&str]) -> (Output, u64) {
        let mut command = command();
        command.args(arguments).arg("--config").arg(&self.config).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        let pid = child.id();
        let ended = std::thread::spawn(move || child.wait_with_output().unwrap());
        let mut peak = 0;
        while !ended.is_finished() {
            peak = memory_peak_kib(pid).max(peak);
            std::thread::sleep(Duration::from_millis(50));
        }
        (ended.join().unwrap(), peak)
    }

    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// A page of the admin port: its status and text; `None` while nobody listens.
    pub(super) async fn page(&self, path: &str) -> Option<(u16, String)> {
        let answer = reqwest::get(format!("http://{}{path}", self.admin)).await.ok()?;
        Some((answer.status().as_u16(), answer.text().await.ok()?))
    }

    /// The sum of a metric over its labels that hold `label`, 0 where there is none.
    pub(super) async fn metric(&self, name: &str, label: &str) -> f64 {
        let page = self.page("/metrics").await.map(|(_, page)| page).unwrap_or_default();
        let samples = page.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])) && line.contains(label)
        });
        samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Waits until every unit has polled `more` times from now with all windows read whole.
    pub(super) async fn polled_whole(&self, more: u32) {
        for unit in self.sandbox.api().pbxes() {
            let before = self.whole_polls(unit).await;
            self.until(&format!("{more} more whole polls of {unit}"), async || {
                self.whole_polls(unit).await >= before + f64::from(more)
            })
            .await;
        }
    }

    pub(super) async fn whole_polls_of_all(&self) -> f64 {
        self.metric("call_legs_polls_total", "result=\"ok\"").await
    }

    /// Waits until the daemon that runs now has polled every unit with all windows read whole.
    pub(super) async fn polled_since_start(&self) {
        for unit in self.sandbox.api().pbxes() {
            self.until(&format!("whole poll of {unit}"), async || self.whole_polls(unit).await >= 1.0).await;
        }
    }

    async fn whole_polls(&self, unit: &str) -> f64 {
        let page = self.page("/metrics").await.map(|(_, page)| page).unwrap_or_default();
        let sample = format!("call_legs_polls_total{{unit=\"{unit}\",result=\"ok\"}} ");
        page.lines().find_map(|line| line.strip_prefix(&sample)?.parse().ok()).unwrap_or(0.0)
    }

    /// Waits until `holds`, or fails with the daemon's last words.
    pub(super) async fn until(&self, what: &str, holds: impl AsyncFnMut() -> bool) {
        self.until_within(PATIENCE, what, holds).await;
    }

    pub(super) async fn until_within(&self, patience: Duration, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let started = Instant::now();
        while !holds().await {
            assert!(
                started.elapsed() < patience,
                "no {what} within {patience:?}; the daemon's log ends with\n{}",
                self.last_words()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(super) fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// The identities of the legs that the API shows now and that can be published.
    pub(super) fn true_identities(&self) -> Vec<Identity> {
        self.identities_where(|_| true)
    }

    /// The same of one PBX.
    pub(super) fn true_identities_of(&self, pbx: &str) -> Vec<Identity> {
        self.identities_where(|leg| leg == pbx)
    }

    fn identities_where(&self, is_wanted: impl Fn(&str) -> bool) -> Vec<Identity> {
        let legs = self.sandbox.api().legs_visible(self.sandbox.now(), chrono_tz::UTC);
        let publishable = legs.filter(|leg| leg.versions.iter().any(|version| version.rubbish.is_none()));
        let wanted = publishable.filter(|leg| is_wanted(&leg.pbx_id));
        wanted.map(|leg| identity(&leg.pbx_id, &leg.call_id, &leg.leg_id)).collect()
    }
}

/// The daemon, killed when dropped.
pub(super) struct Daemon<'r> {
    rig: &'r Rig,
    child: Child,
}

impl Daemon<'_> {
    pub(super) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends SIGTERM and waits for the end.
    pub(super) fn terminate(mut self) -> (ExitStatus, Duration) {
        let started = Instant::now();
        assert!(Command::new("kill").arg(self.child.id().to_string()).status().unwrap().success());
        let status = self.child.wait().unwrap();
        (status, started.elapsed())
    }

    /// The most memory that it has taken until now, in KiB.
    pub(super) fn memory_peak_kib(&self) -> u64 {
        memory_peak_kib(self.child.id())
    }

    /// Lets no file that it writes be longer, or with `None` any.
    pub(super) fn limit_files(&self, bytes: Option<u64>) {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        prlimit(pid, Resource::Fsize, Rlimit { current: bytes, maximum: None }).unwrap();
    }

    /// Stops it as a debugger would, or lets it go on.
    pub(super) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Waits for it to end by itself.
    pub(super) fn ended(mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "it does not end; its log ends with\n{}", self.rig.last_words());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the daemon's log ends with\n{}", self.rig.last_words());
        }
    }
}

/// The largest resident set of a process so far, in KiB; 0 where the system does not tell.
fn memory_peak_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

pub(super) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_call-legs"));
    command.env_remove("RUST_LOG");
    command
}

pub(super) type Identity = [u8; 16];

/// The identity hash as docs/consume.md documents it, written down once more.
pub(super) fn identity(pbx_id: &str, call_id: &str, leg_id: &str) -> Identity {
    let mut hash = Sha256::new();
    for part in [pbx_id, call_id, leg_id] {
        hash.update(u32::try_from(part.len()).unwrap().to_be_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize()[..16].try_into().unwrap()
}

/// How often each identity is in a topic, by the header.
pub(super) async fn identities(bootstrap: &str, topic: &str) -> BTreeMap<Identity, u32> {
    let (bootstrap, topic) = (bootstrap.to_owned(), topic.to_owned());
    tokio::task::spawn_blocking(move || read_identities(&bootstrap, &topic)).await.unwrap()
}

fn read_identities(bootstrap: &str, topic: &str) -> BTreeMap<Identity, u32> {
    let mut found = BTreeMap::new();
    each_committed(bootstrap, topic, |message| {
        let header = message.headers().unwrap().iter().find(|header| header.key == "call-legs-identity").unwrap();
        *found.entry(header.value.unwrap().try_into().unwrap()).or_default() += 1;
    });
    found
}

/// All committed records of a topic, up to where every transaction is decided.
pub(super) fn read_committed(bootstrap: &str, topic: &str) -> Vec<OwnedMessage> {
    let mut found = Vec::new();
    each_committed(bootstrap, topic, |message| found.push(message.detach()));
    found
}

/// The same one by one, for topics that are larger than memory.
pub(super) fn each_committed(bootstrap: &str, topic: &str, mut each: impl FnMut(&BorrowedMessage<'_>)) {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "test")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed")
        .create()
        .unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).unwrap();
    let mut assignment = TopicPartitionList::new();
    let mut open = BTreeSet::new();
    for partition in metadata.topics()[0].partitions() {
        open.insert(partition.id());
        assignment.add_partition_offset(topic, partition.id(), Offset::Beginning).unwrap();
    }
    consumer.assign(&assignment).unwrap();
    while !open.is_empty() {
        match consumer.poll(PATIENCE).expect("the topic's records come") {
            Ok(message) => each(&message),
            Err(KafkaError::PartitionEOF(partition)) => {
                open.remove(&partition);
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Compares what is in the topic with what should be: each leg once, or with `repeats_allowed` at least once.
pub(super) fn assert_complete(found: &BTreeMap<Identity, u32>, expected: &[Identity], repeats_allowed: bool) {
    let true_ones: BTreeSet<&Identity> = expected.iter().collect();
    let missing = expected.iter().filter(|identity| !found.contains_key(*identity)).count();
    let unexpected = found.keys().filter(|identity| !true_ones.contains(identity)).count();
    let repeated = found.values().filter(|count| **count > 1).count();
    assert_eq!((missing, unexpected), (0, 0), "missing, unexpected of {} legs", expected.len());
    assert!(repeats_allowed || repeated == 0, "{repeated} of {} legs are in the topic more than once", expected.len());
}
