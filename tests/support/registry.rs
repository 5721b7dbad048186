//! A schema registry for tests: Apicurio Registry with its Confluent-compatible API and its data in memory, shared by all
//! tests of a process.
//!
//! Tests that share it keep apart by the names of their subjects.

use std::env;
use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::leash::{Leash, Leftover};
use super::{PATIENCE, directories, maven, no_test_can_run, ports};

const URL_VARIABLE: &str = "CALL_LEGS_TEST_REGISTRY";
const READY_POLL_INTERVAL: Duration = Duration::from_millis(100);
/// The first request waits for tables to be created.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(120);
const HEAP_MB_MAX: u32 = 384;
/// Between the choice of a port and its use another process may take it.
const PORT_ATTEMPTS: usize = 3;

/// A registry that serves clients.
pub struct Registry {
    url: String,
    _leash: Option<Leash>,
}

/// The registry that all tests of this process share. Only the first caller starts it; the others wait for it.
///
/// # Panics
///
/// When there is no registry to be had, with one sentence that says what was tried and what to install; in every test alike,
/// without trying again.
#[track_caller]
pub fn registry() -> &'static Registry {
    static SHARED: OnceLock<Result<Registry, String>> = OnceLock::new();
    match SHARED.get_or_init(Registry::provide) {
        Ok(registry) => registry,
        Err(error) => no_test_can_run(error),
    }
}

impl Registry {
    /// The base URL of the Confluent-compatible API, without a slash at its end: `{url}/subjects`, `{url}/schemas/ids/1`.
    pub fn url(&self) -> &str {
        &self.url
    }

    fn provide() -> Result<Self, String> {
        // Taken as it is: it may be https, or ask for credentials that only the test knows.
        if let Some(url) = env::var(URL_VARIABLE).ok().filter(|url| !url.is_empty()) {
            return Ok(Self { url: url.trim_end_matches('/').to_owned(), _leash: None });
        }
        let mut attempt = 1;
        loop {
            let log = directories::log_file("registry").unwrap_or_default();
            match Self::from_maven(&log) {
                Ok(registry) => return Ok(registry),
                Err(_) if attempt < PORT_ATTEMPTS && port_was_taken(&log) => attempt += 1,
                Err(error) => {
                    return Err(format!(
                        "no schema registry for the tests: {URL_VARIABLE} is not set; from Maven Central: {error}; install a \
                         JDK (17 or later) and Maven (Debian: default-jdk-headless maven), or set {URL_VARIABLE} to the base \
                         URL of a registry with Confluent's API"
                    ));
                }
            }
        }
    }

    fn from_maven(log: &Path) -> Result<Self, String> {
        let jar = runner(&maven::REGISTRY.directory()?)?;
        let port = ports::free()?;
        let scratch = directories::scratch("registry")?;
        let mut java = maven::java_command(HEAP_MB_MAX)?;
        java.arg(format!("-Djava.io.tmpdir={}", scratch.display()));
        java.args(["-Dquarkus.http.host=127.0.0.1", &format!("-Dquarkus.http.port={port}")]);
        java.args(["-Dquarkus.http.access-log.enabled=false", "-Dquarkus.banner.enabled=false"]);
        java.args(["-Dquarkus.log.category.\"io.apicurio\".level=WARN"]);
        java.arg("-jar").arg(jar);
        let (output, errors) = (directories::open_log(log)?, directories::open_log(log)?);
        let mut leash = Leash::spawn(&java, Leftover::Directory(scratch), output, errors)?;
        await_ready(port, &mut leash)
            .map_err(|error| format!("Apicurio Registry did not start: {error}; {}", directories::last_words(log)))?;
        Ok(Self { url: format!("http://127.0.0.1:{port}/apis/ccompat/v7"), _leash: Some(leash) })
    }
}

/// The jar whose manifest names the main class and `lib/`.
fn runner(directory: &Path) -> Result<PathBuf, String> {
    let entries = fs::read_dir(directory).map_err(|error| format!("cannot read {}: {error}", directory.display()))?;
    let mut paths = entries.flatten().map(|entry| entry.path());
    let runner = paths.find(|path| path.to_string_lossy().ends_with("-runner.jar"));
    runner.ok_or_else(|| format!("{} has no *-runner.jar; remove that directory", directory.display()))
}

fn await_ready(port: u16, leash: &mut Leash) -> Result<(), String> {
    let start = Instant::now();
    loop {
        let refusal = match status_line(port) {
            Ok(status) if status.starts_with("HTTP/1.1 200") => return Ok(()),
            Ok(status) => status,
            Err(error) => error.to_string(),
        };
        if let Some(status) = leash.ended()? {
            return Err(format!("its process ended ({status})"));
        }
        if start.elapsed() > PATIENCE {
            return Err(format!("it does not serve clients after {PATIENCE:?} ({refusal})"));
        }
        std::thread::sleep(READY_POLL_INTERVAL);
    }
}

fn status_line(port: u16) -> io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(ANSWER_WAIT_MAX))?;
    stream.set_write_timeout(Some(ANSWER_WAIT_MAX))?;
    write!(stream, "GET /apis/ccompat/v7/subjects HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}

fn port_was_taken(log: &Path) -> bool {
    fs::read(log).is_ok_and(|log| {
        let log = String::from_utf8_lossy(&log);
        log.contains("Address already in use") || log.contains("Port already bound")
    })
}
