//! `run`: the daemon.

use std::path::{Path, PathBuf};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::load;
use crate::daemon::{self, TopicCheck};
use crate::error::{Ended, Exit, OrExit};
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
    tokio::spawn(follow_log_level(hangups, path.to_owned(), level));
    let ended = daemon::run(config, TopicCheck::Ensure, StatusBoard::default(), otlp.as_mut(), stop).await;
    if let Some(otlp) = otlp {
        otlp.finish().await;
    }
    ended
}

/// At each SIGHUP reads the configuration again, and of it takes `log.level`; one that is wrong changes nothing.
async fn follow_log_level(mut hangups: Signal, path: PathBuf, level: logging::Level) {
    while hangups.recv().await.is_some() {
        let read = {
            let path = path.clone();
            tokio::task::spawn_blocking(move || load(&path)).await
        };
        match read {
            Ok(Ok(config)) => {
                level.set(&config.log.level);
                tracing::info!(level = config.log.level, "SIGHUP: the log level was read again");
            }
            Ok(Err(ended)) => tracing::warn!("SIGHUP: the log level stays as it was: {:#}", ended.error),
            Err(panicked) => tracing::warn!("SIGHUP: the log level stays as it was: {panicked}"),
        }
    }
}
