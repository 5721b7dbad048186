//! Drawings of the status page, as SVG: the strip of polls, the bars of an hour, and what was read.
//!
//! A drawing stretches to its card; each has a text for those who cannot see it, and a word for each of its parts where
//! a pointer rests.

use std::time::Duration;

use maud::{Markup, html};

use crate::core::journal::BackfillState;
use crate::core::time::{UtcMillis, Window};
use crate::core::words::{count, length};
use crate::telemetry::recent::{MINUTES_MAX, MinuteNote, POLLS_MAX, PollNote};
use crate::telemetry::shown::UnitSnapshot;
use crate::telemetry::status::BackfillStatus;
use crate::telemetry::words::clock;

/// In units of the drawing.
const WIDTH: usize = 600;
const STRIP_HEIGHT: usize = 16;
const CHART_HEIGHT: f64 = 60.0;

/// One cell a poll, the newest at the right.
pub(super) fn polls(polls: &[PollNote], now: UtcMillis) -> Markup {
    let Some(last) = polls.last() else { return html! { p .faint { "none has ended yet" } } };
    let cell = WIDTH / POLLS_MAX;
    let first = POLLS_MAX - polls.len().min(POLLS_MAX);
    let failed = polls.iter().filter(|poll| poll.result != "ok").count();
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {STRIP_HEIGHT}")) role="img" aria-label=(format!("{}, {failed} not ok", count(polls.len() as u64, "poll"))) {
            @for (index, poll) in polls.iter().enumerate() {
                @let is_ok = poll.result == "ok";
                // A failed one is lower too, for those who see no colours.
                @let (y, height) = if is_ok { (0, STRIP_HEIGHT) } else { (STRIP_HEIGHT / 2, STRIP_HEIGHT / 2) };
                rect class=(if is_ok { "ok" } else { "failed" }) x=((first + index) * cell) y=(y) width=(cell - 2) height=(height) {
                    title {
                        (clock(poll.at, now)) ": " (poll.result) ", " (count(poll.fetched, "row")) ", " (poll.published) " new, "
                        (poll.took_ms) " ms"
                    }
                }
            }
        }
        p .faint {
            (count(polls.len() as u64, "poll")) ", " (failed) " not ok; the newest at " (clock(last.at, now)) ": " (last.result) ", "
            (count(last.fetched, "row")) ", " (last.published) " new"
        }
    }
}

/// Legs published, minute by minute.
pub(super) fn legs(minutes: &[MinuteNote]) -> Markup {
    let most = minutes.iter().map(|minute| minute.published).max().unwrap_or(0);
    let all: u64 = minutes.iter().map(|minute| minute.published).sum();
    let now = minutes.last().map_or(UtcMillis::new(0), |minute| minute.from);
    html! {
        (bars(minutes, most as f64, |minute| minute.published as f64, |_| "bar", None, |minute| {
            format!("{}: {}", clock(minute.from, now), count(minute.published, "leg"))
        }))
        p .faint { (count(all, "leg")) ", at most " (most) " a minute" }
    }
}

/// The slowest leg, minute by minute, beside the objective.
pub(super) fn freshness(minutes: &[MinuteNote], objective_ms: u64) -> Markup {
    let slowest = minutes.iter().filter_map(|minute| minute.slowest_ms).max();
    let top = slowest.unwrap_or(0).max(objective_ms) as f64 * 1.1;
    let now = minutes.last().map_or(UtcMillis::new(0), |minute| minute.from);
    let of = |minute: &MinuteNote| minute.slowest_ms.unwrap_or(0);
    let words = |ms| length(Duration::from_millis(ms));
    html! {
        (bars(
            minutes,
            top,
            |minute| of(minute) as f64,
            |minute| if of(minute) > objective_ms { "slow" } else { "bar" },
            Some(objective_ms as f64),
            |minute| format!("{}: {}", clock(minute.from, now), words(of(minute))),
        ))
        p .faint {
            @match slowest {
                Some(slowest) => { "slowest " (words(slowest)) },
                None => "no leg",
            }
            ", objective " (words(objective_ms)) " (dashed)"
        }
    }
}

fn bars(
    minutes: &[MinuteNote],
    top: f64,
    value: impl Fn(&MinuteNote) -> f64,
    class: impl Fn(&MinuteNote) -> &'static str,
    line: Option<f64>,
    words: impl Fn(&MinuteNote) -> String,
) -> Markup {
    let cell = WIDTH / MINUTES_MAX;
    let height = |value: f64| if top > 0.0 { value / top * CHART_HEIGHT } else { 0.0 };
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {CHART_HEIGHT}")) role="img" aria-label="one bar a minute" {
            @let base = format!("{:.1}", CHART_HEIGHT - 0.5);
            line .base x1="0" x2=(WIDTH) y1=(base) y2=(base) {}
            @if let Some(line) = line {
                @let y = CHART_HEIGHT - height(line);
                line .objective x1="0" x2=(WIDTH) y1=(format!("{y:.1}")) y2=(format!("{y:.1}")) {}
            }
            @for (index, minute) in minutes.iter().enumerate() {
                @let tall = height(value(minute));
                @if tall > 0.0 {
                    // A single leg is to be seen beside a thousand.
                    @let tall = tall.max(2.0);
                    rect class=(class(minute)) x=(index * cell) y=(format!("{:.1}", CHART_HEIGHT - tall)) width=(cell - 2) height=(format!("{tall:.1}")) {
                        title { (words(minute)) }
                    }
                }
            }
        }
    }
}

/// Which part of the time since the oldest that was read, or is to be, was read.
pub(super) fn coverage(unit: &UnitSnapshot, backfills: &[BackfillStatus], now: UtcMillis) -> Markup {
    let running =
        backfills.iter().filter(|backfill| backfill.unit == unit.unit && backfill.state == BackfillState::Running);
    let asked: Vec<Window> = running.map(|backfill| backfill.window).collect();
    let Some(oldest) = unit.coverage.iter().chain(&asked).map(|window| window.start).min() else {
        return html! { p .faint { "nothing yet" } };
    };
    let all = Window::new(oldest, now);
    let share = |at: UtcMillis| {
        let of = at.millis_since(oldest) as f64 / (all.length().as_millis().max(1) as f64);
        of.clamp(0.0, 1.0) * WIDTH as f64
    };
    let part = |window: &Window, class: &str| {
        let (from, to) = (share(window.start), share(window.end));
        html! {
            rect class=(class) x=(format!("{from:.1}")) y="0" width=(format!("{:.1}", (to - from).max(1.0))) height=(STRIP_HEIGHT) {
                title { (clock(window.start, now)) " to " (clock(window.end, now)) }
            }
        }
    };
    let read: Duration = unit.coverage.iter().map(|window| window.length()).sum();
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {STRIP_HEIGHT}")) role="img" aria-label="the time that was read" {
            (part(&all, "unread"))
            @for window in &asked { (part(window, "reading")) }
            @for window in &unit.coverage { (part(window, "covered")) }
            @if let (Some(from), Some(to)) = (unit.final_to, unit.complete_to) { (part(&Window::new(from, to), "once")) }
        }
        p .faint {
            (length(read)) " of the " (length(all.length())) " since " (clock(oldest, now)) " read; the newest of it is read once more"
            @if !asked.is_empty() { "; a backfill reads what is marked" }
        }
    }
}
