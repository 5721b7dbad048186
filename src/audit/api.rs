//! The API's side: a window of a unit read whole, by the poller's rules.
//!
//! The same widened query, the same guard over its pages, once more where they do not add up, the same
//! request again after what may pass. What the poller leaves to its next poll has none here, so it is
//! a little more patient.

use std::time::Duration;

use crate::clock::Clock;
use crate::core::chunk::is_after;
use crate::core::identity::KeyHash;
use crate::core::leg::{TimeBasis, time_of};
use crate::core::pagination::{Fault, PageMeta, Scroll, Step};
use crate::core::privacy::Privacy;
use crate::core::query::{QueryBounds, query_bounds};
use crate::core::retry::Backoff;
use crate::core::time::{UtcMillis, Window};
use crate::source::wire::{self, Page, Row};
use crate::source::{Recovery, Source, SourceError};

use super::compare::{Comparison, Shown, UnitIndex};
use super::content::Parts;
use super::progress::Progress;

/// How often a request is sent before its window is given up: for about two minutes.
const ATTEMPTS_MAX: u32 = 9;

/// Between attempts at the same request.
const REQUEST_BACKOFF: Backoff = Backoff { first: Duration::from_millis(500), max: Duration::from_secs(30) };

/// By how much a query reaches beyond its window, repeated hours aside.
pub(super) const QUERY_MARGIN: Duration = Duration::from_secs(2);

/// What reading one unit needs.
pub(super) struct UnitReading<'a, S> {
    pub(super) source: &'a S,
    pub(super) clock: &'a dyn Clock,
    pub(super) index: UnitIndex,
    pub(super) name: &'a str,
    pub(super) time_zone: chrono_tz::Tz,
    pub(super) time_basis: TimeBasis,
    pub(super) privacy: &'a Privacy,
    pub(super) progress: &'a Progress,
}

impl<S: Source> UnitReading<'_, S> {
    /// Shows the comparison every row of a window; gives why the window could not be read whole, where it could not.
    ///
    /// # Errors
    /// When a request fails for good.
    pub(super) async fn read(
        &self,
        window: Window,
        comparison: &mut Comparison,
    ) -> Result<Option<String>, SourceError> {
        let bounds = query_bounds(window, self.time_zone)
            .ok_or_else(|| SourceError::refused(format!("window {window} is outside the calendar")))?;
        let first = self.pass(window, &bounds, comparison).await;
        let is_worth_repeating = match &first {
            Ok(fault) => fault.is_some(),
            Err(error) => error.recovery == Recovery::Reread,
        };
        if !is_worth_repeating {
            return first;
        }
        match self.pass(window, &bounds, comparison).await {
            Err(error) if error.recovery == Recovery::Reread => Ok(Some(error.to_string())),
            second => second,
        }
    }

    /// One pass over a window's pages.
    async fn pass(
        &self,
        window: Window,
        bounds: &QueryBounds,
        comparison: &mut Comparison,
    ) -> Result<Option<String>, SourceError> {
        let mut scroll = Scroll::default();
        let mut cursor: Option<String> = None;
        loop {
            let page = self.fetch(bounds, cursor.as_deref()).await?;
            self.progress.add_rows(page.len());
            for row in page.rows() {
                self.show(row.as_bytes(), window, bounds.asked, comparison);
            }
            if page.rest().is_some() {
                return Ok(Some(Fault::Torn.to_string()));
            }
            let (rows, total, cursor_of_page) = (page.len(), page.total, page.cursor.as_deref());
            match scroll.on_page(PageMeta { rows, total, cursor: cursor_of_page, is_torn: false, is_short: false }) {
                Step::Next(next) => cursor = Some(next),
                Step::Whole => return Ok(None),
                Step::Broken(fault) => return Ok(Some(fault.to_string())),
            }
        }
    }

    fn show(&self, raw: &[u8], window: Window, asked: Window, comparison: &mut Comparison) {
        match wire::row(raw) {
            Row::Leg(mut leg) => {
                self.privacy.treat(&mut leg);
                let at = time_of(&leg, self.time_basis);
                // In the margin, or later: rows of other windows.
                let is_in_margin = asked.contains(at) && !window.contains(at);
                if is_in_margin || is_after(at, leg.disconnected, asked.end, self.time_basis) {
                    return;
                }
                let shown = Shown {
                    key: KeyHash::of_leg(&leg),
                    // What the API's filter should not let through counts as the window's edge.
                    at: at.clamp(window.start, UtcMillis::new(window.end.as_millis() - 1).max(window.start)),
                    parts: &Parts::of_leg(&leg),
                    fingerprint: self.privacy.fingerprint(&leg),
                    call_id: leg.call_id(),
                    leg_id: leg.leg_id(),
                    raw,
                };
                comparison.see_leg(self.index, &shown);
            }
            Row::Dead(_) => comparison.see_dead(self.index, window, asked, raw),
            Row::Unfinished => comparison.see_unfinished(self.index, window, raw),
        }
    }

    /// One page, however often it has to be asked for within reason.
    async fn fetch(&self, bounds: &QueryBounds, cursor: Option<&str>) -> Result<Page, SourceError> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            match self.source.fetch(self.name, bounds, cursor, None).await {
                Ok(page) => return Ok(page),
                Err(error) => pause_or_give_up(error, attempts, self.clock, self.progress).await?,
            }
        }
    }
}

/// A token, however often it has to be asked for within reason.
pub(super) async fn log_in<S: Source>(source: &S, clock: &dyn Clock, progress: &Progress) -> Result<(), SourceError> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        match source.log_in().await {
            Ok(()) => return Ok(()),
            Err(error) => pause_or_give_up(error, attempts, clock, progress).await?,
        }
    }
}

/// Waits until the same request is worth sending again, or gives the error back.
async fn pause_or_give_up(
    error: SourceError,
    attempts: u32,
    clock: &dyn Clock,
    progress: &Progress,
) -> Result<(), SourceError> {
    let Recovery::Retry { after } = error.recovery else { return Err(error) };
    if attempts >= ATTEMPTS_MAX {
        return Err(error);
    }
    let pause = after.unwrap_or_else(|| REQUEST_BACKOFF.pause(attempts, clock.dice()));
    progress.wait_for(Some(error.to_string()));
    tokio::time::sleep(pause).await;
    progress.wait_for(None);
    Ok(())
}
