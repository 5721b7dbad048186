//! How many records of a topic come too late for a Kafka Streams job: `LateRecords.java`, run from its source file.

use std::fs::{self, File};
use std::time::Duration;

use super::{PATIENCE, directories, leash, maven};

const HEAP_MB_MAX: u32 = 256;
/// Java gives up first: it knows how far it came.
const MORE: Duration = Duration::from_secs(60);

/// Of the first `records` records of a topic, how many a job drops that counts by key in windows of five minutes, with a minute
/// of grace.
///
/// # Panics
///
/// When not so many come in time, or Java cannot be run.
#[track_caller]
pub fn late_records(bootstrap: &str, topic: &str, records: usize) -> u64 {
    match run(bootstrap, topic, records) {
        Ok(late) => late,
        Err(error) => panic!("cannot count late records of {topic} with Kafka Streams: {error}"),
    }
}

fn run(bootstrap: &str, topic: &str, records: usize) -> Result<u64, String> {
    let (directory, log) = (directories::scratch("late-records")?, directories::log_file("late-records")?);
    let mut java = maven::java_command(HEAP_MB_MAX)?;
    java.arg("-cp").arg(maven::KAFKA.directory()?.join("*")).arg(maven::support_file("LateRecords.java"));
    java.args([bootstrap, topic]).arg(&directory);
    java.args([records.to_string(), PATIENCE.as_secs().to_string()]);
    let path = directory.join("said");
    let output = File::create(&path).map_err(|error| format!("cannot create {}: {error}", path.display()))?;
    let status = leash::run(&java, output, directories::open_log(&log)?, PATIENCE + MORE)
        .map_err(|error| format!("{error}; {}", directories::last_words(&log)))?;
    let said = fs::read_to_string(&path).unwrap_or_default();
    let _ = fs::remove_dir_all(&directory);
    let late = said.lines().find_map(|line| line.strip_prefix("late ")?.parse().ok());
    late.filter(|_| status.success()).ok_or_else(|| format!("{status}; {}", directories::last_words(&log)))
}
