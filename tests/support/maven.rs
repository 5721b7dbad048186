//! Jars from Maven Central, and the Java that runs them.
//!
//! `pom.xml` says which; this file only sees to it that a directory of jars is complete before anyone uses it.

use std::env;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::{directories, leash};

/// A slow line: 120 MB at 1 Mbit/s take a quarter of an hour.
const DOWNLOAD_TIME_MAX: Duration = Duration::from_secs(20 * 60);
/// One more than the download: who waits here waits for someone who downloads.
const DOWNLOAD_WAIT_MAX: Duration = Duration::from_secs(21 * 60);

const POM: &str = include_str!("pom.xml");
const FLINK_POM: &str = include_str!("flink.xml");

/// One execution of a POM.
pub struct Download {
    name: &'static str,
    pom: (&'static str, &'static str),
    goal: &'static str,
    about: &'static str,
}

/// The broker, the Java client, Streams and Avro: a directory of jars.
pub const KAFKA: Download = Download {
    name: "kafka",
    pom: ("pom.xml", POM),
    goal: "org.apache.maven.plugins:maven-dependency-plugin:copy-dependencies@kafka",
    about: "Apache Kafka and Apache Avro (about 70 MB)",
};

/// Apicurio Registry: a jar that starts it, and its `lib/`.
pub const REGISTRY: Download = Download {
    name: "registry",
    pom: ("pom.xml", POM),
    goal: "io.github.download-maven-plugin:download-maven-plugin:artifact@registry",
    about: "Apicurio Registry (about 120 MB)",
};

/// Flink in one process, with what `config/examples/alarm.sql` needs: a directory of jars.
pub const FLINK: Download = Download {
    name: "flink",
    pom: ("flink.xml", FLINK_POM),
    goal: "org.apache.maven.plugins:maven-dependency-plugin:copy-dependencies@flink",
    about: "Apache Flink (about 150 MB)",
};

impl Download {
    /// The directory of the files; the first caller on this machine downloads them, others wait for it.
    pub fn directory(&self) -> Result<PathBuf, String> {
        let mut hasher = DefaultHasher::new();
        self.pom.1.hash(&mut hasher);
        let complete = directories::root().join(format!("{}-{:016x}", self.name, hasher.finish()));
        if !complete.is_dir() {
            // One download at a time, whatever it is for: Maven's local repository is not made for two writers.
            let _downloading = directories::lock("download", DOWNLOAD_WAIT_MAX)?;
            if !complete.is_dir() {
                self.download(&complete)?;
            }
        }
        Ok(complete)
    }

    /// Into a directory of another name first: a download that is cut off must not look complete.
    fn download(&self, complete: &Path) -> Result<(), String> {
        programs()?;
        // Past the test harness, which keeps back what tests print: nobody should wonder what takes so long.
        let _ = writeln!(std::io::stderr(), "call-legs tests: downloading {} from Maven Central, once", self.about);
        let partial = directories::scratch(&format!("download-{}", self.name))?;
        let log = directories::log_file(&format!("maven-{}", self.name))?;
        let mut maven = Command::new("mvn");
        maven.args(["--batch-mode", "--quiet", "--no-transfer-progress", "-Dstyle.color=never", "--file"]);
        maven.arg(support_file(self.pom.0)).arg(self.goal).arg(format!("-Dinto={}", partial.display()));
        let status = leash::run(&maven, directories::open_log(&log)?, directories::open_log(&log)?, DOWNLOAD_TIME_MAX)
            .map_err(|error| format!("{error}; {}", directories::last_words(&log)))?;
        if !status.success() {
            let _ = fs::remove_dir_all(&partial);
            return Err(format!(
                "`mvn` could not download {} ({status}); {}",
                self.about,
                directories::last_words(&log)
            ));
        }
        fs::rename(&partial, complete)
            .map_err(|error| format!("cannot rename {} to {}: {error}", partial.display(), complete.display()))
    }
}

/// Whether there are Java and Maven.
pub fn programs() -> Result<(), String> {
    java()?;
    if on_path("mvn") { Ok(()) } else { Err("no `mvn` on the PATH".into()) }
}

/// The Java of `JAVA_HOME`, else the one on the PATH.
pub fn java() -> Result<PathBuf, String> {
    if let Some(home) = env::var_os("JAVA_HOME").filter(|home| !home.is_empty()) {
        let java = Path::new(&home).join("bin/java");
        return if java.is_file() {
            Ok(java)
        } else {
            Err(format!("JAVA_HOME is set, but there is no {}", java.display()))
        };
    }
    if on_path("java") { Ok("java".into()) } else { Err("no `java` on the PATH".into()) }
}

/// A Java of `heap_mb_max` megabytes, with the options that make a short life cheap, and the logs of slf4j-simple from WARN
/// on in its standard error.
pub fn java_command(heap_mb_max: u32) -> Result<Command, String> {
    let mut command = Command::new(java()?);
    command.arg(format!("-Xmx{heap_mb_max}m"));
    command.args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dfile.encoding=UTF-8"]);
    command.args([
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        "-Dorg.slf4j.simpleLogger.showDateTime=true",
        "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
    ]);
    Ok(command)
}

/// A file that stands beside this one.
pub fn support_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support").join(name)
}

/// The version that `pom.xml` gives in `<{property}>`.
pub fn version(property: &str) -> Option<&'static str> {
    version_in(POM, property)
}

/// The same of another `pom.xml`.
pub fn version_in<'a>(pom: &'a str, property: &str) -> Option<&'a str> {
    let (_, rest) = pom.split_once(&format!("<{property}>"))?;
    rest.split_once("</").map(|(version, _)| version)
}

/// Whether the PATH has such a program.
pub fn on_path(program: &str) -> bool {
    env::var_os("PATH").is_some_and(|path| env::split_paths(&path).any(|directory| directory.join(program).is_file()))
}
