//! `run`: the daemon.

use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::load;
use crate::daemon::{self, TopicCheck};
use crate::error::Ended;
use crate::telemetry::{StatusBoard, logging};

pub(super) async fn run(path: &Path, stop: CancellationToken) -> Result<(), Ended> {
    let config = load(path)?;
    logging::start(&config.log.level, config.log.format);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), config = %path.display(), "call-legs starts");
    for setting in config.settings() {
        tracing::debug!(key = setting.key, value = setting.value, origin = setting.origin, "setting");
    }
    config.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
    daemon::run(config, TopicCheck::Ensure, StatusBoard::default(), stop).await
}
