//! What the connector tells about itself: metrics, the status that health and readiness are read
//! from, and logs. Nothing here decides anything, and nothing here ever holds personal data.

pub mod logging;
pub mod metrics;
pub mod status;

pub use metrics::Metrics;
pub use status::{Role, Status, StatusBoard};
