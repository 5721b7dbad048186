//! Why a read was given up.

use crate::connector::fault::Fault;
use crate::connector::stage::Failed;
use crate::source::{Failure, SourceError};
use crate::telemetry::status::UnitState;

/// Why a read was given up.
pub(crate) enum ReadError {
    Source(SourceError),
    /// The unit was rewound while it was read: what was planned is void.
    Replaced,
    Fault(Fault),
}

impl Failed for ReadError {
    fn failure(&self) -> Option<String> {
        match self {
            Self::Source(error) => Some(error.to_string()),
            Self::Replaced => None,
            Self::Fault(fault) => fault.failure(),
        }
    }
}

impl From<SourceError> for ReadError {
    fn from(error: SourceError) -> Self {
        Self::Source(error)
    }
}

impl From<Fault> for ReadError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// The state of a unit whose source fails so.
pub(super) const fn state_of(failure: Failure) -> UnitState {
    match failure {
        Failure::Refused => UnitState::SourceAuth,
        Failure::RateLimited => UnitState::SourceRateLimited,
        Failure::Cursor => UnitState::SourceIncomplete,
        Failure::Unreachable => UnitState::SourceUnreachable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_meant_to_end_has_not_failed() {
        assert_eq!(ReadError::from(Fault::Stopped).failure(), None);
        assert_eq!(ReadError::Replaced.failure(), None);
    }
}
