//! The connector as a child process, and what it costs.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::tape::{self, UNIT};

/// A configuration, a topic and a state directory of its own.
pub(crate) struct Rig {
    pub(crate) topic: String,
    dir: TempDir,
    admin: String,
    keys: BTreeMap<String, String>,
}

/// The running daemon; killed when dropped.
pub(crate) struct Connector {
    child: Child,
    admin: String,
    log: PathBuf,
}

/// What a process has used so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Used {
    pub(crate) cpu: Duration,
    pub(crate) rss_peak_bytes: u64,
}

impl Rig {
    /// A rig for the API at `base_url` and the brokers at `bootstrap`; `settings` replace its own.
    pub(crate) fn new(name: &str, base_url: &str, bootstrap: &str, settings: &[(&str, &str)]) -> Self {
        let dir = TempDir::with_prefix("call-legs-bench-").expect("a directory for the state");
        let topic = format!("bench-{name}-{}", std::process::id());
        let admin =
            TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr()).expect("a free port").to_string();
        let credentials = tape::credentials();
        let quoted = |text: &str| format!("{text:?}");
        let mut keys: BTreeMap<String, String> = [
            ("source.base_url", quoted(base_url)),
            ("source.api_key", quoted(&credentials.api_key)),
            ("source.username", quoted(&credentials.username)),
            ("source.password", quoted(&credentials.password)),
            ("source.pbx_ids", format!("[{UNIT:?}]")),
            ("source.page_size", "5000".to_owned()),
            ("source.requests_per_minute", "6000".to_owned()),
            ("poll.interval", quoted("1s")),
            ("poll.settle", quoted("0s")),
            ("kafka.bootstrap_servers", quoted(bootstrap)),
            ("kafka.topic", quoted(&topic)),
            ("kafka.topic_config.\"retention.ms\"", "-1".to_owned()),
            ("avro.framing", quoted("single-object")),
            ("state.dir", quoted(&dir.path().join("state").display().to_string())),
            ("admin.listen", quoted(&admin)),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into();
        keys.extend(settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        Self { topic, dir, admin, keys }
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Starts the daemon.
    pub(crate) fn start(&self) -> Connector {
        let config = self.dir.path().join("call-legs.toml");
        // Sweeps would come between what is measured.
        let text: String = std::iter::once("sweeps = []\n".to_owned())
            .chain(self.keys.iter().map(|(key, value)| format!("{key} = {value}\n")))
            .collect();
        fs::write(&config, text).expect("a configuration file");
        let log = self.dir.path().join("log");
        let stderr = File::options().create(true).append(true).open(&log).expect("a log file");
        let child = Command::new(binary())
            .args(["run", "--config"])
            .arg(&config)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .expect("the connector starts");
        Connector { child, admin: self.admin.clone(), log }
    }
}

/// The connector as a release is built, where there is one: Cargo builds its benches with the hooks of the tests.
pub(crate) fn binary() -> PathBuf {
    let named = std::env::var_os("CALL_LEGS_BENCH_BINARY").map(PathBuf::from);
    named.unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_call-legs")))
}

impl Connector {
    pub(crate) fn used(&self) -> Used {
        used(self.child.id())
    }

    /// The sum of a metric over its labels that hold `label`.
    pub(crate) async fn metric(&self, name: &str, label: &str) -> f64 {
        let page = reqwest::get(format!("http://{}/metrics", self.admin)).await;
        let Ok(page) = page else { return 0.0 };
        let page = page.text().await.unwrap_or_default();
        let samples = page.lines().filter(|line| line.starts_with(name) && line.contains(label));
        samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Waits until a metric has reached a value.
    pub(crate) async fn reaches(&mut self, name: &str, label: &str, value: f64) {
        while self.metric(name, label).await < value {
            self.must_run();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Fails with its last words where it has ended.
    pub(crate) fn must_run(&mut self) {
        if let Ok(Some(status)) = self.child.try_wait() {
            panic!("the connector has ended with {status}:\n{}", fs::read_to_string(&self.log).unwrap_or_default());
        }
    }

    /// Ends it in good order.
    pub(crate) fn terminate(mut self) {
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

impl Drop for Connector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// CPU time of all threads, user and system, and the largest resident set.
pub(crate) fn used(pid: u32) -> Used {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in parentheses, may hold spaces; fields 14 and 15 are the times in ticks of 10 ms.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks =
        after_name.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let peak =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse::<u64>().ok());
    Used { cpu: Duration::from_millis(ticks * 10), rss_peak_bytes: peak.unwrap_or(0) * 1024 }
}
