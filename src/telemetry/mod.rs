//! What the connector tells about itself: metrics, the status that health and readiness are read
//! from, logs, and what a collector gets of them. Nothing here decides anything, and nothing here ever holds personal data.

mod catalogue;
pub mod freshness;
mod kafka;
pub mod labels;
pub mod logging;
pub mod metrics;
pub mod otlp;
pub mod plain_text;
mod process;
pub mod recent;
pub mod repeated;
pub mod shown;
pub mod snapshot;
pub mod status;
pub mod words;

pub use catalogue::{Description, Kind, Label};
pub use kafka::KafkaFigures;
pub use metrics::{Metrics, Targets};
pub use repeated::{Repeated, Streak};
pub use status::{Role, Status, StatusBoard};
