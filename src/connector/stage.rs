//! The stages as spans, for whoever traces a run.
//!
//! | span | is | stands |
//! |---|---|---|
//! | `poll`, `sweep` | one of a unit | at the top |
//! | `backfill` | one window of it | at the top |
//! | `recover` | an attempt to take over the journal | at the top, or in what has to wait for it |
//! | `plan` | which windows are read | in a poll or a sweep |
//! | `fetch` | one page, with repetitions and pauses | in what reads |
//! | `publish` | the rows of one transaction, until they are committed or known to be; of several units in the first one's | in what reads |
//! | `classify` | the same rows parsed, looked up and encoded | in `publish` |
//! | `commit` | one transaction | in what it is for |
//!
//! What belongs to none of them, such as the transaction of a beat, is not traced. No span holds anything of a row.
//! Where nobody takes spans, none is made.

use tracing::{Instrument, Span};

use super::fault::Fault;

/// A span that may stand at the top of a trace.
macro_rules! root {
    ($name:literal $(, $($fields:tt)*)?) => {
        tracing::info_span!($name, otel.status_description = tracing::field::Empty $(, $($fields)*)?)
    };
}

/// A span within another one; none where there is no other.
macro_rules! stage {
    ($($span:tt)*) => {
        if tracing::Span::current().is_none() {
            tracing::Span::none()
        } else {
            $crate::connector::stage::root!($($span)*)
        }
    };
}

pub(super) use {root, stage};

/// What a span says of an error.
pub(super) trait Failed {
    /// What failed, in words that hold nothing of a row; `None` where nothing did.
    fn failure(&self) -> Option<String>;
}

impl Failed for Fault {
    fn failure(&self) -> Option<String> {
        match self {
            Self::Stopped => None,
            // A panic's text may quote what it was about.
            Self::Worker(_) => Some("a worker ended unexpectedly".to_owned()),
            other => Some(other.to_string()),
        }
    }
}

/// Does the work of a span, which says so when it fails.
pub(super) async fn traced<R, E: Failed>(span: Span, work: impl Future<Output = Result<R, E>>) -> Result<R, E> {
    let result = work.instrument(span.clone()).await;
    if let Err(error) = &result
        && !span.is_disabled()
        && let Some(what) = error.failure()
    {
        span.record("otel.status_description", what);
    }
    result
}

/// A count as attributes have it.
pub(super) fn count(count: impl TryInto<i64>) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_meant_to_end_has_not_failed() {
        assert_eq!(Fault::Stopped.failure(), None);
        assert_eq!(Fault::Yielded.failure().as_deref(), Some("another process owns the journal"));
    }

    #[test]
    fn no_panic_is_quoted() {
        let fault = Fault::Worker("panicked at \"+15550001234\"".to_owned());
        assert!(!fault.failure().unwrap().contains("1555"));
    }
}
