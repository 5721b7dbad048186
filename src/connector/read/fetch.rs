//! One request to the source, with patience: when it is sent, when it is sent again, and when it is given up.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::field::Empty;

use super::priority::LivePriority;
use super::read_error::{ReadError, state_of};
use super::unit::UnitContext;
use crate::connector::stage::{count, stage, traced};
use crate::core::query::{QueryBounds, query_bounds};
use crate::core::retry::Backoff;
use crate::core::time::Window;
use crate::core::words::exact;
use crate::source::{Failure, Page, Recovery, Source, SourceError};
use crate::telemetry::labels::{UnitLabel, UnitResultLabels};

/// How often a request is sent before the read is given up and the unit pauses.
const ATTEMPTS_MAX: u32 = 6;

/// Between attempts at the same request.
const REQUEST_BACKOFF: Backoff = Backoff { first: Duration::from_millis(500), max: Duration::from_secs(30) };

/// Between reads while the source does not answer.
const UNREACHABLE_BACKOFF: Backoff = Backoff { first: Duration::from_secs(5), max: Duration::from_secs(60) };

/// Between reads while the source refuses us: an operator has to act, and logins may be counted.
const REFUSED_BACKOFF: Backoff = Backoff { first: Duration::from_secs(5), max: Duration::from_secs(300) };

/// A longer pause within a poll is shown and not only counted.
const WORTH_SHOWING: Duration = Duration::from_secs(10);

/// A longer window may be refused for its length.
const LONG_WINDOW: Duration = Duration::from_secs(3600);

/// Sends the requests of one unit.
pub(crate) struct Fetcher<S> {
    pub(crate) unit: Arc<UnitContext>,
    pub(crate) source: Arc<S>,
    pub(crate) live: LivePriority,
}

/// Which page of a window is asked for.
#[derive(Clone, Copy)]
pub(super) struct PageQuery<'a> {
    pub(super) cursor: Option<&'a str>,
    /// How many rows the page has at the most. The source decides without it.
    pub(super) rows: Option<usize>,
    pub(super) is_live: bool,
}

impl<S: Source> Fetcher<S> {
    /// The bounds of a window's query.
    pub(super) fn bounds(&self, window: Window) -> Result<QueryBounds, SourceError> {
        query_bounds(window, self.unit.pace.time_zone).ok_or_else(|| {
            SourceError::refused(format!("window {window} is outside the calendar: check this machine's clock"))
        })
    }

    /// One page, however often it has to be asked for within reason.
    pub(super) async fn fetch(&self, bounds: &QueryBounds, query: PageQuery<'_>) -> Result<Page, ReadError> {
        let span = stage!("fetch", unit = self.unit.name, window = %bounds.asked, rows = Empty);
        let fetched = traced(span.clone(), self.fetch_patiently(bounds, query)).await;
        if let Ok(page) = &fetched {
            span.record("rows", count(page.len()));
        }
        fetched
    }

    async fn fetch_patiently(&self, bounds: &QueryBounds, query: PageQuery<'_>) -> Result<Page, ReadError> {
        let PageQuery { cursor, rows, is_live } = query;
        let mut attempts = 0;
        loop {
            if !is_live {
                // A catch-up of days must not keep everything else from ever being read.
                let quiet = tokio::time::timeout(self.unit.pace.interval * 2, self.live.quiet());
                let _ = self.unit.until_stopped(quiet).await?;
            }
            attempts += 1;
            match self.send(bounds, cursor, rows).await? {
                Ok(page) => {
                    self.unit.status.update_unit(&self.unit.name, |status| status.repeating.clear());
                    return Ok(page);
                }
                Err(error) => self.pause_or_give_up(error, attempts, is_live).await?,
            }
        }
    }

    /// Sends a request once, and counts it.
    async fn send(
        &self,
        bounds: &QueryBounds,
        cursor: Option<&str>,
        rows: Option<usize>,
    ) -> Result<Result<Page, SourceError>, ReadError> {
        let (unit, sent) = (&self.unit.name, Instant::now());
        let answer = self.unit.until_stopped(self.source.fetch(unit, bounds, cursor, rows)).await?;
        let result = answer.as_ref().map_or_else(|error| error.failure.as_str(), |_| "ok");
        if result == Failure::RateLimited.as_str() {
            self.unit.timer.note_rate_limited();
        }
        let metrics = &self.unit.metrics;
        metrics.source_requests.get_or_create(&UnitResultLabels { unit: unit.clone(), result }).inc();
        let duration = metrics.source_request_duration.get_or_create(&UnitLabel { unit: unit.clone() });
        duration.observe(sent.elapsed().as_secs_f64());
        Ok(answer)
    }

    /// Asks for a window's first page and drops it, to hear from the source when there is nothing to read.
    pub(super) async fn ask(&self, window: Window) -> Result<(), ReadError> {
        let bounds = self.bounds(window)?;
        let newest = PageQuery { cursor: None, rows: None, is_live: true };
        self.fetch(&bounds, newest).await.map(|_| ())
    }

    /// Whether a window was refused for its length: then the source answers for its last hour. Asks once, without patience.
    ///
    /// # Errors
    /// When the source does not answer for that hour either.
    pub(super) async fn is_for_the_length(&self, error: &SourceError, window: Window) -> Result<bool, ReadError> {
        if !error.may_be_for_the_window || window.length() <= LONG_WINDOW {
            return Ok(false);
        }
        let bounds = self.bounds(Window::new(window.end.minus(LONG_WINDOW), window.end))?;
        self.send(&bounds, None, None).await??;
        let length = exact(window.length());
        let unit = &self.unit.name;
        tracing::info!(
            unit,
            "the source refuses a window of {length} and takes one of an hour, so shorter ones are read: {error}"
        );
        Ok(true)
    }

    /// A token, however often it has to be asked for within reason.
    pub(super) async fn log_in(&self) -> Result<(), ReadError> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            match self.unit.until_stopped(self.source.log_in()).await? {
                Ok(()) => return Ok(()),
                Err(error) => self.pause_or_give_up(error, attempts, true).await?,
            }
        }
    }

    /// Waits until the same request is worth sending again, or gives the error back.
    async fn pause_or_give_up(&self, error: SourceError, attempts: u32, is_live: bool) -> Result<(), ReadError> {
        let Recovery::Retry { after } = error.recovery else { return Err(error.into()) };
        if attempts >= ATTEMPTS_MAX {
            return Err(error.into());
        }
        let unit = &self.unit;
        let pause = after.unwrap_or_else(|| REQUEST_BACKOFF.pause(attempts, unit.clock.dice()));
        if pause >= WORTH_SHOWING && is_live {
            if unit.trouble().failed(error.failure.as_str()).is_some() {
                tracing::warn!(unit = unit.name, again_in_s = pause.as_secs(), "waiting: {error}");
            }
            unit.show_failure(state_of(error.failure), &error.to_string(), pause);
        } else {
            tracing::debug!(unit = unit.name, %error, attempts, pause_ms = pause.as_millis(), "the request is sent again");
            unit.status.update_unit(&unit.name, |status| status.repeating = error.to_string());
        }
        unit.until_stopped(tokio::time::sleep(pause)).await
    }

    /// How long to wait after a read that failed, for the `failures`th time in a row.
    pub(super) fn pause_after(&self, error: &SourceError, failures: u32) -> Duration {
        let backoff = if error.failure == Failure::Refused { REFUSED_BACKOFF } else { UNREACHABLE_BACKOFF };
        match error.recovery {
            Recovery::Retry { after: Some(after) } => after,
            _ => backoff.pause(failures, self.unit.clock.dice()),
        }
    }
}
