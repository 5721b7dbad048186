//! The labels of the metrics. But for the units' names their values are closed sets, all of which exist from the start:
//! a counter that appears with its first error hides that error from a rate.

use prometheus_client::encoding::EncodeLabelSet;

use super::status::UnitState;
use crate::core::journal::Delivery;
use crate::source::Failure;

/// What a leg counts as that was published in time.
pub const WITHIN: &str = "within";

/// What a leg counts as that was published too late.
pub const BEYOND: &str = "beyond";

/// What a leg counts as that only the overlap has found.
pub const BY_OVERLAP: &str = "overlap";

/// What a leg counts as that only a sweep has found.
pub const BY_SWEEP: &str = "sweep";

/// How a poll ends.
pub const POLL_RESULTS: [&str; 10] = [
    "ok",
    "incomplete",
    "empty",
    "invalid",
    "time_zone",
    "clock_skew",
    Failure::Unreachable.as_str(),
    Failure::RateLimited.as_str(),
    Failure::Cursor.as_str(),
    Failure::Refused.as_str(),
];

/// How a report request ends.
pub const REQUEST_RESULTS: [&str; 5] = [
    "ok",
    Failure::Unreachable.as_str(),
    Failure::RateLimited.as_str(),
    Failure::Cursor.as_str(),
    Failure::Refused.as_str(),
];

/// What becomes of a row: the names of [`Counts`](crate::core::dedupe::Counts).
pub const ROW_RESULTS: [&str; 8] =
    ["published", "duplicate", "revised", "dead", "unfinished", "beyond_horizon", "outside", "held"];

/// Whether a leg was published within the objective.
pub const FRESHNESS_RESULTS: [&str; 2] = [WITHIN, BEYOND];

/// By which read a late leg was found.
pub const FOUND_BY: [&str; 2] = [BY_OVERLAP, BY_SWEEP];

/// What the API shows less of than was published.
pub const FEWER: &str = "fewer";

/// What the API shows more of than was published.
pub const MORE: &str = "more";

/// How an hour of the API differs from what was published.
pub const SHOWN: [&str; 2] = [FEWER, MORE];

/// The guarantees.
pub const DELIVERIES: [&str; 2] = [Delivery::ExactlyOnce.as_str(), Delivery::AtLeastOnce.as_str()];

/// The names of the units' states.
pub const STATES: [&str; UnitState::ALL.len()] = {
    let mut names = [""; UnitState::ALL.len()];
    let mut at = 0;
    while at < names.len() {
        names[at] = UnitState::ALL[at].as_str();
        at += 1;
    }
    names
};

/// Which unit.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct UnitLabel {
    /// An entry of `source.pbx_ids`.
    pub unit: String,
}

/// Which unit, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct UnitResultLabels {
    /// An entry of `source.pbx_ids`.
    pub unit: String,
    /// From a closed set.
    pub result: &'static str,
}

/// Which unit, and which of its states.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct UnitStateLabels {
    /// An entry of `source.pbx_ids`.
    pub unit: String,
    /// One of [`STATES`].
    pub state: &'static str,
}

/// Which unit, and by which read a late leg was found.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct UnitFoundLabels {
    /// An entry of `source.pbx_ids`.
    pub unit: String,
    /// One of [`FOUND_BY`].
    pub by: &'static str,
}

/// Which unit, and how the API differs from what was published.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct UnitShownLabels {
    /// An entry of `source.pbx_ids`.
    pub unit: String,
    /// One of [`SHOWN`].
    pub shown: &'static str,
}

/// How it publishes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DeliveryLabel {
    /// One of [`DELIVERIES`].
    pub delivery: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::dedupe::Counts;

    #[test]
    fn every_count_of_rows_is_a_result() {
        assert_eq!(Counts::default().named().map(|(name, _)| name), ROW_RESULTS);
    }
}
