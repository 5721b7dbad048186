//! `run`: the daemon.

use std::path::{Path, PathBuf};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::load;
use crate::config::Setting;
use crate::daemon::{self, TopicCheck};
use crate::error::{Ended, Exit, OrExit};
use crate::panics;
use crate::telemetry::otlp::Otlp;
use crate::telemetry::{StatusBoard, logging};

pub(super) async fn run(path: &Path, stop: CancellationToken) -> Result<(), Ended> {
    let hangups = signal(SignalKind::hangup()).or_exit(Exit::Internal)?;
    let config = load(path)?;
    let mut otlp = config.telemetry.otlp_endpoint.clone().map(Otlp::new).transpose().or_exit(Exit::Usage)?;
    let level = logging::start(&config.log.level, config.log.format, otlp.as_ref().map(Otlp::tracer));
    tracing::info!(version = env!("CARGO_PKG_VERSION"), config = %path.display(), "call-legs starts");
    for setting in config.settings() {
        tracing::debug!(key = setting.key, value = setting.value, origin = setting.origin, "setting");
    }
    config.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
    let polls = config.poll_requests(&[]);
    if polls.is_too_many() {
        tracing::warn!("{polls}");
    } else {
        tracing::info!("{polls}");
    }
    tokio::spawn(follow_log_level(hangups, path.to_owned(), level, config.settings().to_vec()));
    let ended = daemon::run(config, TopicCheck::EnsureToPoll, StatusBoard::default(), otlp.as_mut(), stop).await;
    if let Some(otlp) = otlp {
        otlp.finish().await;
    }
    ended
}

/// At each SIGHUP reads the configuration again, and of it takes `log.level`; one that is wrong changes nothing.
async fn follow_log_level(mut hangups: Signal, path: PathBuf, level: logging::Level, running: Vec<Setting>) {
    while hangups.recv().await.is_some() {
        let read = {
            let path = path.clone();
            tokio::task::spawn_blocking(move || load(&path)).await
        };
        match read {
            Ok(Ok(config)) => {
                level.set(&config.log.level);
                tracing::info!(level = config.log.level, "SIGHUP: the log level was read again");
                let others = others_that_differ(&running, config.settings());
                if !others.is_empty() {
                    tracing::warn!("SIGHUP: these keys have other values now, and take a restart: {others}");
                }
            }
            Ok(Err(ended)) => tracing::warn!("SIGHUP: the log level stays as it was: {:#}", ended.error),
            Err(ended) => tracing::warn!("SIGHUP: the log level stays as it was: {}", panics::why(&ended)),
        }
    }
}

/// The keys that differ from those that run, but for the level.
fn others_that_differ(running: &[Setting], read: &[Setting]) -> String {
    let is_other = |setting: &&Setting| {
        setting.key != "log.level" && !running.iter().any(|old| old.key == setting.key && old.value == setting.value)
    };
    let keys: Vec<&str> = read.iter().filter(is_other).map(|setting| setting.key.as_str()).collect();
    keys.join(", ")
}
