//! A program of `config/examples` as a process: compiled by javac from where it stands, run with Kafka's jars.
//!
//! Maven would do the same; it takes longer, and loads plugins. That both have the same versions is said here, too.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::leash::{Leash, Leftover};
use super::{PATIENCE, directories, leash, maven};

const HEAP_MB_MAX: u32 = 256;
const PROPERTIES: [&str; 3] = ["kafka.version", "avro.version", "slf4j.version"];

/// A compiled program.
pub struct Example {
    classes: PathBuf,
    main: &'static str,
    log: PathBuf,
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

impl Example {
    /// Compiles the sources of `config/examples/{name}/src/{package}`; `main` is the class to run.
    fn compile(name: &str, package: &str, main: &'static str) -> Result<Self, String> {
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
        Ok(Self { classes, main, log })
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
        let (output, log) = (directories::open_log(output)?, directories::open_log(&self.log)?);
        Ok(Running { leash: Leash::spawn(&java, Leftover::Nothing, output, log)?, log: self.log.clone() })
    }
}

impl Running {
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
