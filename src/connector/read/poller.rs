//! One unit's loop: plan a poll, have it read, report how it ended, pause.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::field::Empty;

use super::ahead::{CATCH_UP_BYTES, LIVE_BYTES};
use super::clocks::Clocks;
use super::merger::{Membership, MergeHandle};
use super::poll_progress::PollProgress;
use super::poll_report::{CatchUpReport, PollEnd, PollReport, end_span};
use super::read_error::ReadError;
use super::scroll::{PagesSeen, Scroller, WholeMax};
use super::unit::UnitContext;
use super::unit_poll::{Pacing, Requests, UnitPoll};
use crate::config::StartFrom;
use crate::connector::fault::Fault;
use crate::connector::stage::{root, stage, traced};
use crate::connector::write::request::{FirstStart, Lane, Request, Shown};
use crate::core::course::Course;
use crate::core::dedupe::Counts;
use crate::core::journal::UnitProgress;
use crate::core::planner::{Cycle, LiveReads, bound};
use crate::core::poll::Poll;
use crate::core::time::{UtcMillis, Window};
use crate::core::window_length::WindowLength;
use crate::hooks::{self, Mutant};
use crate::source::{Recovery, Source};

/// Polls one unit.
pub(crate) struct Poller<S> {
    unit: Arc<UnitContext>,
    scroller: Arc<Scroller<S>>,
    clocks: Clocks<S>,
    merge: MergeHandle,
    start_from: Option<StartFrom>,
    pacing: Pacing,
    /// How polls go on where windows are held; from the first poll on.
    course: Option<Course>,
    /// When an operator had last accepted what the source shows, as of the newest poll.
    accepted_at: Option<UtcMillis>,
}

impl<S: Source> Poller<S> {
    /// A poller of a unit that takes part in the merge from the beginning: until it is clear that the unit is not behind,
    /// the others wait for it.
    pub(crate) fn new(
        scroller: Arc<Scroller<S>>,
        merge: MergeHandle,
        membership: Membership,
        start_from: Option<StartFrom>,
    ) -> Self {
        let unit = Arc::clone(&scroller.fetcher.unit);
        let clocks = Clocks { unit: Arc::clone(&unit), source: Arc::clone(&scroller.fetcher.source) };
        let pacing = Pacing {
            length: WindowLength::new(unit.pace.window_max),
            is_one_page: false,
            overlap_read: None,
            told: None,
            page_rows: unit.pace.page_rows,
            membership: Some(membership),
        };
        Self { unit, scroller, clocks, merge, start_from, pacing, course: None, accepted_at: None }
    }

    /// Polls until told to stop.
    pub(crate) async fn run(mut self) -> Result<(), Fault> {
        let mut failures = 0;
        loop {
            let started = Instant::now();
            let mut counts = Counts::default();
            let live = self.scroller.fetcher.live.begin();
            let span = root!("poll", unit = self.unit.name, result = Empty, rows = Empty, published = Empty);
            let ended = traced(span.clone(), self.poll(&mut counts)).await;
            drop(live);
            end_span(span, &ended, counts);
            if ended.is_err() {
                // What was read and is not published comes in order all the same.
                self.scroller.forget_rows();
            }
            let is_told = self.is_told(counts, started);
            let report = PollReport { unit: &self.unit, counts, took: started.elapsed(), is_told };
            let pause = match ended {
                Ok(end) => {
                    failures = 0;
                    report.end(end);
                    self.unit.timer.interval().saturating_sub(started.elapsed())
                }
                Err(ReadError::Source(error)) => {
                    let membership = self.pacing.membership.as_ref();
                    if let Some(membership) = membership.filter(|_| error.recovery == Recovery::Refused) {
                        membership.note_refused();
                    }
                    if let Some(course) = &mut self.course {
                        course.end_poll(false);
                    }
                    failures += 1;
                    let pause = self.scroller.fetcher.pause_after(&error, failures);
                    report.failure(&error, pause);
                    pause
                }
                Err(ReadError::Replaced) => {
                    // The unit is read from elsewhere.
                    (self.pacing.membership, self.pacing.overlap_read, self.course) = (None, None, None);
                    Duration::ZERO
                }
                Err(ReadError::Fault(Fault::Stopped)) => return Ok(()),
                Err(ReadError::Fault(fault)) => return Err(fault),
            };
            tokio::select! {
                biased;
                () = self.unit.stop.cancelled() => return Ok(()),
                () = self.accepted_again() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Whether the log tells of a poll even if all went well: one that found something new, and others once in a while
    /// where polls come every few seconds.
    fn is_told(&mut self, counts: Counts, started: Instant) -> bool {
        let is_often = self.unit.timer.is_auto();
        let is_news = counts.published + counts.revised + counts.dead + counts.held > 0;
        let is_told = !is_often
            || is_news
            || self.pacing.told.is_none_or(|told| started.duration_since(told) >= self.unit.pace.interval);
        if is_told {
            self.pacing.told = Some(started);
        }
        is_told
    }

    /// Waits until an operator accepts what the source shows, after the newest poll or for the first time.
    async fn accepted_again(&self) {
        let mut shown = self.unit.writer.shown();
        let accepted_at = |shown: &Shown| shown.units.get(&self.unit.name).and_then(|unit| unit.accepted_at());
        if shown.wait_for(|shown| accepted_at(shown) > self.accepted_at).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Reads what is new, and the overlap; or everything from the final watermark on, where the unit is behind.
    ///
    /// A window that fails is held, and newer windows are read all the same; when the next one fails too, it is not the window.
    async fn poll(&mut self, counts: &mut Counts) -> Result<PollEnd, ReadError> {
        // The login's answer tells the server's clock, by which the poll is bounded.
        self.scroller.fetcher.log_in().await?;
        let started = self.started().await?;
        self.accepted_at = started.accepted_at();
        let begun = self.unit.clock.now();
        let bound = bound(self.clocks.now());
        let course = self.course.take();
        let mut course = course.unwrap_or_else(|| Course::new(started.generation, &started.progress));
        course.begin_poll(started.generation, &started.progress, started.accepted_at());
        let mut poll = self.plan(&started, bound, course);
        let polled = poll.read().await;
        let PollProgress { course, settled, counts: published, .. } = poll.progress;
        *counts = published;
        // A window that was believed, and was not published when the poll was given up, is read again.
        let course = if polled.is_ok() { course } else { settled };
        self.unit.status.update_unit(&self.unit.name, |status| {
            status.polled = Some(begun);
            status.held =
                course.holds().iter().filter(|hold| hold.why.is_some()).map(|hold| (hold.window, hold.rows)).collect();
        });
        self.course = Some(course);
        polled
    }

    fn plan(&mut self, started: &UnitProgress, bound: UtcMillis, course: Course) -> UnitPoll<'_, S> {
        let (unit, pacing) = (&self.unit, &mut self.pacing);
        let (pace, now, newest) = (&unit.pace, unit.clock.now(), course.newest());
        let is_behind = pace.is_behind(newest.complete_to, bound);
        let is_overlap_due = !course.holds().is_empty() || unit.timer.is_overlap_due(pacing.overlap_read);
        let reads = match (pacing.is_one_page, is_overlap_due) {
            (true, _) => LiveReads::Together,
            (false, true) => LiveReads::Apart,
            (false, false) => LiveReads::New,
        };
        let cycle = stage!("plan", unit = unit.name, from = %newest.final_to, to = %bound).in_scope(|| {
            let cycle = if is_behind {
                Cycle::behind(newest, bound, &pace.delays, pacing.length)
            } else {
                Cycle::live(newest, bound, reads, pacing.length)
            };
            cycle.with_holds(course.due(now), course.before_holds())
        });
        if is_behind && !hooks::is_mutant(Mutant::UnitAfterUnit) {
            let join = || self.merge.join(&unit.name, newest.final_to);
            pacing.membership.get_or_insert_with(join);
        } else {
            pacing.membership = None;
        }
        // Two windows of each unit are in memory: one is read while the other is published.
        let share = |membership: &Membership| CATCH_UP_BYTES / 2 / membership.members();
        let bytes = pacing.membership.as_ref().map_or(LIVE_BYTES, share);
        let progress = PollProgress {
            unit: Arc::clone(unit),
            generation: started.generation,
            final_to: started.progress.final_to,
            looked_to: (!is_behind).then_some(newest.complete_to),
            accepted_at: started.accepted_at(),
            poll: Poll::in_doubt(cycle, course.contradiction(now)),
            settled: course.clone(),
            course,
            catch_up: CatchUpReport::begin(Window::new(newest.final_to, bound)),
            counts: Counts::default(),
            rows: 0,
            failed: None,
        };
        UnitPoll {
            unit,
            scroller: &self.scroller,
            clocks: &self.clocks,
            bound,
            began: Instant::now(),
            reads,
            cost: Requests::default(),
            whole_max: WholeMax { rows: pace.window_rows, bytes, takes_room: !is_behind },
            pacing,
            progress,
            pending: None,
            seen: PagesSeen::default(),
            is_anything_read: false,
        }
    }

    /// The unit's progress; one that was never read is begun, and at once, so that "now-24h" means the first start's now.
    async fn started(&self) -> Result<Arc<UnitProgress>, ReadError> {
        if let Some(known) = self.unit.progress().filter(|unit| unit.is_started()) {
            return Ok(known);
        }
        let start = FirstStart { unit: self.unit.name.clone(), now: self.clocks.now(), start_from: self.start_from };
        Ok(Arc::new(self.unit.writer.ask(Lane::Live, |reply| Request::Begin(start, reply)).await?))
    }
}
