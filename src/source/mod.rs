//! The 8x8 Work Analytics API in: what the connector asks of a source, and how a source fails.
//!
//! A source answers one page at a time and tries once; when to try again is the caller's decision,
//! taken from the error's [`Recovery`].

mod auth;
mod http;
pub mod wire;

use std::future::Future;
use std::time::Duration;

pub use http::Api;
pub use wire::Page;

use crate::core::query::QueryBounds;
use crate::core::skew::Skew;
use crate::core::time::Window;

/// Where call legs come from: the API, or a simulation of it.
pub trait Source: Send + Sync + 'static {
    /// Makes sure that requests can be sent: logs in when there is no fresh token.
    fn log_in(&self) -> impl Future<Output = Result<(), SourceError>> + Send;

    /// One page of the legs of `unit` between `bounds`, of `rows` rows at most where it is not to be as long as usual;
    /// the first page without a cursor.
    fn fetch(
        &self,
        unit: &str,
        bounds: &QueryBounds,
        cursor: Option<&str>,
        rows: Option<usize>,
    ) -> impl Future<Output = Result<Page, SourceError>> + Send;

    /// How far the source's clock is from ours, as its newest answer tells.
    fn skew(&self) -> Option<Skew>;
}

/// What to do about a failed request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// Try the same request again after a pause.
    Retry {
        /// How long the server asked to wait.
        after: Option<Duration>,
    },
    /// The cursor is not accepted: read the window again from its first page.
    Reread,
    /// An operator has to mend something; try again after growing pauses.
    Refused,
}

/// The kind of a failure, as a label of metrics and the state of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// No answer, a broken one, or the server's own error.
    Unreachable,
    /// Too many requests.
    RateLimited,
    /// The cursor was refused.
    Cursor,
    /// Credentials, rights or parameters were refused.
    Refused,
}

impl Failure {
    /// The name in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::RateLimited => "rate_limited",
            Self::Cursor => "cursor_refused",
            Self::Refused => "refused",
        }
    }
}

/// A failed request to the source. Its text holds no secret, no URL and nothing of a row.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SourceError {
    /// What to do.
    pub recovery: Recovery,
    /// What kind it was.
    pub failure: Failure,
    /// What happened, and where an operator can mend it, how.
    pub message: String,
    /// Whether the source may have failed or refused for the length of the window that was asked for.
    pub may_be_for_the_window: bool,
}

impl SourceError {
    const fn new(recovery: Recovery, failure: Failure, message: String) -> Self {
        Self { recovery, failure, message, may_be_for_the_window: false }
    }

    /// Worth trying again soon.
    pub fn unreachable(message: impl Into<String>) -> Self {
        Self::new(Recovery::Retry { after: None }, Failure::Unreachable, message.into())
    }

    /// The server asks for patience.
    pub fn rate_limited(message: impl Into<String>, after: Option<Duration>) -> Self {
        Self::new(Recovery::Retry { after }, Failure::RateLimited, message.into())
    }

    /// The cursor went bad.
    pub fn cursor_refused(message: impl Into<String>) -> Self {
        Self::new(Recovery::Reread, Failure::Cursor, message.into())
    }

    /// The same, of a window.
    #[must_use]
    pub fn of(self, window: Window) -> Self {
        Self { message: format!("window {window}: {}", self.message), ..self }
    }

    /// An operator's matter.
    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(Recovery::Refused, Failure::Refused, message.into())
    }
}
