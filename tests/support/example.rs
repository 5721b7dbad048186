//! A program of `config/examples` as a process.
//!
//! `abandoned-calls` is compiled by javac from where it stands, and run with Kafka's jars. Maven would do the same; it takes
//! longer, and loads plugins. That both have the same versions is said here, too. `alarm.py` and
//! `spark.py` are run with what they tell a user to install, Flink with the jars of `flink.xml`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::leash::{Leash, Leftover};
use super::{PATIENCE, directories, leash, maven, no_test_can_run, python};

const HEAP_MB_MAX: u32 = 256;
const FLINK_HEAP_MB_MAX: u32 = 1024;
const PROPERTIES: [&str; 3] = ["kafka.version", "avro.version", "slf4j.version"];

/// A compiled program.
pub struct Example {
    name: &'static str,
    classes: PathBuf,
    main: &'static str,
}

/// A process of it, killed when dropped.
pub struct Running {
    leash: Leash,
    log: PathBuf,
}

/// `config/examples/abandoned-calls`, compiled once for all tests of this process.
///
/// # Panics
///
/// When it does not compile without a warning, or names other versions than the tests use; in every test alike.
#[track_caller]
pub fn abandoned_calls() -> &'static Example {
    static COMPILED: OnceLock<Result<Example, String>> = OnceLock::new();
    match COMPILED.get_or_init(|| Example::compile("abandoned-calls", "abandoned", "abandoned.AbandonedCalls")) {
        Ok(example) => example,
        Err(error) => panic!("config/examples/abandoned-calls: {error}"),
    }
}

/// The directory of the Python that runs `config/examples/alarm.py`, with what that needs.
///
/// # Panics
///
/// When there is no Python, or what the example needs cannot be installed; in every test alike.
#[track_caller]
pub fn python_of_alarm() -> &'static Path {
    static ENVIRONMENT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    // A user gets the newest of what it depends on; the tests get the same each time.
    let pinned = "tests/support/alarm-constraints.txt";
    let install = ["--requirement", "config/examples/requirements.txt", "--constraint", pinned];
    match ENVIRONMENT.get_or_init(|| python::environment("examples", &install)) {
        Ok(bin) => bin,
        Err(error) => no_test_can_run(error),
    }
}

/// Starts `config/examples/alarm.py`; what it prints is appended to `output`.
///
/// # Panics
///
/// As [`python_of_alarm`].
#[track_caller]
pub fn alarm(arguments: &[String], output: &Path) -> Running {
    let mut command = Command::new(python_of_alarm().join("python"));
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples/alarm.py")).args(arguments);
    Running::start(&command, output, "alarm").unwrap_or_else(|error| panic!("cannot start alarm.py: {error}"))
}

/// Starts Flink in one process with a file of its SQL; what the queries find is appended to `output`.
///
/// # Panics
///
/// When Flink cannot be had, or `config/examples/alarm.sql` names other versions of its jars.
#[track_caller]
pub fn flink(sql: &Path, output: &Path) -> Running {
    try_flink(sql, output).unwrap_or_else(|error| panic!("cannot start Flink: {error}"))
}

fn try_flink(sql: &Path, output: &Path) -> Result<Running, String> {
    let mut java = maven::java_command(FLINK_HEAP_MB_MAX)?;
    java.arg("-cp").arg(maven::FLINK.directory()?.join("*")).arg(maven::support_file("FlinkSql.java")).arg(sql);
    Running::start(&java, output, "flink")
}

/// Starts `config/examples/spark.py` with the pyspark that it tells one to install; what it prints is appended to `output`.
///
/// # Panics
///
/// When that cannot be installed.
#[track_caller]
pub fn spark(arguments: &[String], output: &Path) -> Running {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples/spark.py");
    let text = fs::read_to_string(&path).unwrap_or_default();
    let needed = text.lines().find_map(|line| line.trim().strip_prefix("pip install ")).unwrap_or("nothing");
    let bin = python::environment("spark", &[needed]).unwrap_or_else(|error| panic!("{error}"));
    let mut command = Command::new(bin.join("python"));
    command.arg(path).args(arguments);
    Running::start(&command, output, "spark").unwrap_or_else(|error| panic!("cannot start spark.py: {error}"))
}

impl Example {
    /// Compiles the sources of `config/examples/{name}/src/{package}`; `main` is the class to run.
    fn compile(name: &'static str, package: &str, main: &'static str) -> Result<Self, String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples").join(name);
        assert_same_versions(&root.join("pom.xml"))?;
        let classes = directories::scratch(name)?;
        let log = directories::log_file(name)?;
        // The compiler by the launcher of the same JDK, wherever that is.
        let mut compiler = Command::new(maven::java()?);
        compiler.args(["-m", "jdk.compiler/com.sun.tools.javac.Main"]);
        // Before Java 18 the locale would decide how the sources are read.
        compiler.args(["-encoding", "UTF-8", "-proc:none", "-Xlint:all", "-Werror", "--release", "17"]);
        // It takes no asterisk, which is the launcher's.
        let jars = files(&maven::KAFKA.directory()?, "jar")?;
        let class_path = env::join_paths(jars).map_err(|error| error.to_string())?;
        compiler.arg("-d").arg(&classes).arg("-cp").arg(class_path);
        compiler.args(files(&root.join("src").join(package), "java")?);
        let (words, errors) = (directories::open_log(&log)?, directories::open_log(&log)?);
        let status = leash::run(&compiler, words, errors, PATIENCE)?;
        if !status.success() {
            return Err(format!("javac failed ({status}); {}", directories::last_words(&log)));
        }
        Ok(Self { name, classes, main })
    }

    /// Starts it with `arguments`; what it prints is appended to `output`.
    ///
    /// # Panics
    ///
    /// When there is no Java.
    #[track_caller]
    pub fn start(&self, arguments: &[String], output: &Path) -> Running {
        self.try_start(arguments, output).unwrap_or_else(|error| panic!("cannot start {}: {error}", self.main))
    }

    fn try_start(&self, arguments: &[String], output: &Path) -> Result<Running, String> {
        let schemas = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas");
        let jars = maven::KAFKA.directory()?.join("*");
        let mut java = maven::java_command(HEAP_MB_MAX)?;
        java.arg("-cp").arg(format!("{}:{}:{}", self.classes.display(), schemas.display(), jars.display()));
        java.arg(self.main).args(arguments);
        Running::start(&java, output, self.name)
    }
}

impl Running {
    fn start(command: &Command, output: &Path, name: &str) -> Result<Self, String> {
        let log = directories::log_file(name)?;
        let (output, errors) = (directories::open_log(output)?, directories::open_log(&log)?);
        Ok(Self { leash: Leash::spawn(command, Leftover::Nothing, output, errors)?, log })
    }

    /// What it wrote to standard error.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Ends it with SIGKILL, and returns when it is gone.
    ///
    /// # Panics
    ///
    /// When it has ended by itself.
    #[track_caller]
    pub fn kill(mut self) {
        self.assert_running();
        self.leash.signal("KILL").expect("it can be killed");
        assert!(matches!(self.leash.wait(PATIENCE), Ok(Some(_))), "it ends");
    }

    /// # Panics
    ///
    /// When it has ended, with its last words.
    #[track_caller]
    pub fn assert_running(&mut self) {
        if !matches!(self.leash.ended(), Ok(None)) {
            panic!("it has ended; {}", directories::last_words(&self.log));
        }
    }
}

fn assert_same_versions(pom: &Path) -> Result<(), String> {
    let text = fs::read_to_string(pom).map_err(|error| format!("cannot read {}: {error}", pom.display()))?;
    for property in PROPERTIES {
        let (theirs, ours) = (maven::version_in(&text, property), maven::version(property));
        if theirs != ours {
            return Err(format!("its pom.xml has {property} {theirs:?}, tests/support/pom.xml {ours:?}"));
        }
    }
    Ok(())
}

fn files(directory: &Path, extension: &str) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(directory).map_err(|error| format!("cannot list {}: {error}", directory.display()))?;
    let paths = entries.flatten().map(|entry| entry.path());
    Ok(paths.filter(|path| path.extension().is_some_and(|found| found == extension)).collect())
}
