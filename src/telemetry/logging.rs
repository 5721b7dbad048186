//! Log lines: where they go, in which form, and from which level on; the level can be changed while it runs.

use std::io::IsTerminal;

use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::config::LogFormat;

/// Changes from which level on lines are logged.
pub struct Level(reload::Handle<EnvFilter, Registry>);

impl Level {
    /// Logs from `level` on, which the configuration has checked; one that fails here all the same changes nothing.
    pub fn set(&self, level: &str) {
        let set = EnvFilter::try_new(level).map_err(|error| error.to_string());
        let set = set.and_then(|filter| self.0.reload(filter).map_err(|error| error.to_string()));
        if let Err(error) = set {
            tracing::warn!(error, "the log level stays as it was");
        }
    }
}

/// Starts logging to standard error. A second call in one process does nothing.
pub fn start(level: &str, format: LogFormat) -> Level {
    // The configuration has checked the level; a filter that fails here all the same logs at INFO.
    let filter = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
    let (filter, handle) = reload::Layer::new(filter);
    let lines = fmt::layer()
        .with_writer(BoxMakeWriter::new(std::io::stderr))
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal());
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    // An embedding test has its own subscriber.
    drop(tracing_subscriber::registry().with(filter).with(lines).try_init());
    Level(handle)
}
