//! Where the real parts live below cargo's `target/`, and how test processes that run at the same time keep out of each
//! other's way.
//!
//! ```text
//! target/tmp/real-parts/
//!   kafka-<hash>/ registry-<hash>/   downloaded files; such a directory exists only when it is complete
//!   run-<pid>/                       the data of one test process, locked by it as long as it lives
//!   logs/                            what brokers, the registry, Maven and the reader wrote; kept for a week
//!   *.lock
//! ```

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Long enough to read the log of yesterday's failure.
const LOG_AGE_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Sweeping takes milliseconds; who holds this lock for longer is stuck.
const SWEEP_WAIT_MAX: Duration = Duration::from_secs(60);
/// Enough for the last failure, too little to find the one before a restart.
const LAST_LINES: usize = 20;
/// Some exceptions quote whole configurations.
const WORDS_MAX: usize = 600;
const LOCK_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The directory of everything that is downloaded or written here.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("real-parts")
}

/// A lock among all test processes; the operating system releases it when its holder ends, however it ends.
pub fn lock(name: &str, wait_max: Duration) -> Result<File, String> {
    let path = root().join(format!("{name}.lock"));
    create_directory(&root())?;
    let file = open_lock(&path)?;
    let start = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if start.elapsed() < wait_max => std::thread::sleep(LOCK_POLL_INTERVAL),
            Err(TryLockError::WouldBlock) => {
                return Err(format!("another test process has held {} for {wait_max:?}", path.display()));
            }
            Err(TryLockError::Error(error)) => return Err(format!("cannot lock {}: {error}", path.display())),
        }
    }
}

/// A new, empty directory of this process. Whoever asks for it removes it, or puts it on a leash that does; what is left
/// behind all the same goes when a later test process starts.
pub fn scratch(name: &str) -> Result<PathBuf, String> {
    static NUMBER: AtomicU32 = AtomicU32::new(1);
    let path = run_directory()?.join(format!("{name}-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
    create_directory(&path)?;
    Ok(path)
}

/// The path of a new log file of this process.
pub fn log_file(name: &str) -> Result<PathBuf, String> {
    static NUMBER: AtomicU32 = AtomicU32::new(1);
    let logs = root().join("logs");
    create_directory(&logs)?;
    Ok(logs.join(format!("{name}-{}-{}.log", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))))
}

/// Opens a log for appending, so that a broker's restart does not lose what it wrote before.
pub fn open_log(path: &Path) -> Result<File, String> {
    let opened = OpenOptions::new().create(true).append(true).open(path);
    opened.map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// What a log says of a failure, for a message that has room for one line: the first exception near its end, else the first
/// line there that is marked as an error. What follows them is stack frames, advice and the shutdown.
pub fn last_words(log: &Path) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let mut lines: Vec<&str> = text.lines().map(str::trim).collect();
    lines.retain(|line| !line.is_empty() && !line.starts_with("at "));
    let end = &lines[lines.len().saturating_sub(LAST_LINES)..];
    let exception = end.iter().find(|line| line.contains("Exception: ") || line.contains("rror: "));
    let telling = exception.or_else(|| end.iter().find(|line| line.contains("ERROR"))).or(end.last());
    let words: String = telling.unwrap_or(&"nothing").chars().take(WORDS_MAX).collect();
    format!("its log {} says: {words}", log.display())
}

/// Creates a directory and its parents.
pub fn create_directory(path: &Path) -> Result<(), String> {
    fs::create_dir_all(path).map_err(|error| format!("cannot create {}: {error}", path.display()))
}

fn run_directory() -> Result<&'static Path, String> {
    static RUN: OnceLock<Result<(PathBuf, File), String>> = OnceLock::new();
    match RUN.get_or_init(claim_run_directory) {
        Ok((path, _locked)) => Ok(path),
        Err(error) => Err(error.clone()),
    }
}

/// Under one lock: a sweep in another process could otherwise take the new directory between its creation and its lock.
fn claim_run_directory() -> Result<(PathBuf, File), String> {
    let _sweeping = lock("sweep", SWEEP_WAIT_MAX)?;
    sweep();
    let path = root().join(format!("run-{}", std::process::id()));
    create_directory(&path)?;
    let locked = open_lock(&path.join("lock"))?;
    match locked.try_lock() {
        Ok(()) => Ok((path, locked)),
        Err(error) => Err(format!("cannot lock {}: {error}", path.display())),
    }
}

/// Removes the data of test processes that are gone, and old logs. What cannot be removed is left for the next time.
fn sweep() {
    for entry in entries(&root()) {
        if !entry.file_name().unwrap_or(OsStr::new("")).to_string_lossy().starts_with("run-") {
            continue;
        }
        let abandoned = File::open(entry.join("lock")).map_or(true, |lock| lock.try_lock().is_ok());
        if abandoned {
            let _ = fs::remove_dir_all(&entry);
        }
    }
    for log in entries(&root().join("logs")) {
        let age = fs::metadata(&log).and_then(|metadata| metadata.modified()).ok().and_then(|time| time.elapsed().ok());
        if age.is_some_and(|age| age > LOG_AGE_MAX) {
            let _ = fs::remove_file(&log);
        }
    }
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).map(|entries| entries.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
}

fn open_lock(path: &Path) -> Result<File, String> {
    let opened = OpenOptions::new().create(true).truncate(false).write(true).open(path);
    opened.map_err(|error| format!("cannot open {}: {error}", path.display()))
}
