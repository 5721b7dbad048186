//! What the demo shows: at a terminal a short line a leg, and events between them; into a pipe a line of JSON a leg on
//! standard output, and the events on standard error.
//!
//! The people are invented ([`crate::sandbox`]), so that their names may be shown.

use std::io::IsTerminal;
use std::time::Duration;

use console::{Alignment, Style, Term, measure_text_width, pad_str, truncate_str};
use serde_json::Value as Json;

use crate::cli::print_line;
use crate::core::time::UtcMillis;
use crate::core::words::length;
use crate::error::Ended;

/// The columns before and behind the people, and the two spaces before each but the first.
const TIME: usize = 8;
const OUTCOME: usize = 11;
const DELAY: usize = 7;
const GAPS: usize = 8;

/// The least that is left for the people, however narrow the terminal is.
const PEOPLE_MIN: usize = 16;

/// Where there is no terminal that has one.
const WIDTH_USUAL: usize = 80;

/// A delay below it has a digit behind the point.
const EXACT_MS: i64 = 10_000;

/// What an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    /// As it should be.
    Good,
    /// Ordinary, and not in the way.
    Quiet,
    /// Something failed outside of the connector.
    Fault,
    /// The connector is gone.
    Kill,
}

/// Where lines go.
pub(super) struct Screen {
    terminal: Option<Term>,
    /// The width of the column of PBXs.
    pbx: usize,
}

impl Screen {
    /// A screen for legs of these PBXs: lines for a person where standard output is a terminal, unless JSON is asked for.
    pub(super) fn new(is_json: bool, pbxes: &[String]) -> Self {
        let is_for_a_person = !is_json && std::io::stdout().is_terminal();
        let pbx = pbxes.iter().map(|name| measure_text_width(name)).max().unwrap_or_default().max(3);
        Self { terminal: is_for_a_person.then(Term::stdout), pbx }
    }

    /// Whether each leg is a line of JSON.
    pub(super) const fn is_json(&self) -> bool {
        self.terminal.is_none()
    }

    /// What stands above the columns.
    pub(super) fn head(&self) -> Result<(), Ended> {
        if self.is_json() {
            return Ok(());
        }
        let line = self.line("UTC", "PBX", "who → whom", "outcome", "delay");
        print_line(&Style::new().bold().apply_to(line).to_string())
    }

    /// A leg that a consumer had at `now`.
    pub(super) fn leg(&self, leg: &Json, now: UtcMillis) -> Result<(), Ended> {
        if self.is_json() {
            return print_line(&leg.to_string());
        }
        let text = |field: &str| leg[field].as_str().unwrap_or_default();
        let people =
            format!("{} → {}", party(text("caller"), text("callerName")), party(text("callee"), text("calleeName")));
        let ended = leg["disconnectedTimeUTC"].as_i64().unwrap_or_default();
        let delay = delay(now.as_millis() - ended);
        print_line(&self.line(&time(now), text("pbxId"), &people, outcome(leg), &delay))
    }

    /// Something that happened at `now`.
    pub(super) fn event(&self, now: UtcMillis, tone: Tone, words: &str) -> Result<(), Ended> {
        if self.is_json() {
            self.say(words)
        } else {
            let style = match tone {
                Tone::Good => Style::new().green(),
                Tone::Quiet => Style::new().dim(),
                Tone::Fault => Style::new().yellow(),
                Tone::Kill => Style::new().red().bold(),
            };
            print_line(&format!("{}  {}", time(now), style.apply_to(format!("── {words}"))))
        }
    }

    /// Sentences by themselves.
    pub(super) fn say(&self, words: &str) -> Result<(), Ended> {
        if self.is_json() {
            words.lines().for_each(|line| eprintln!("demo: {line}"));
            return Ok(());
        }
        words.lines().flat_map(|line| wrapped(line, self.width())).try_for_each(|line| print_line(&line))
    }

    fn width(&self) -> usize {
        self.terminal.as_ref().map_or(WIDTH_USUAL, |terminal| usize::from(terminal.size().1))
    }

    fn line(&self, time: &str, pbx: &str, people: &str, outcome: &str, delay: &str) -> String {
        let others = TIME + self.pbx + OUTCOME + DELAY + GAPS;
        let people_width = self.width().saturating_sub(others).max(PEOPLE_MIN);
        let fit =
            |text, width, alignment| pad_str(&truncate_str(text, width, "…"), width, alignment, None).into_owned();
        format!(
            "{time:<TIME$}  {}  {}  {}  {}",
            fit(pbx, self.pbx, Alignment::Left),
            fit(people, people_width, Alignment::Left),
            fit(outcome, OUTCOME, Alignment::Left),
            fit(delay, DELAY, Alignment::Right),
        )
    }
}

/// A line broken between words; one that begins with a space stays as it is, since it is to be copied.
fn wrapped(line: &str, width: usize) -> Vec<String> {
    if line.starts_with(' ') {
        return vec![line.to_owned()];
    }
    let mut lines = vec![String::new()];
    for word in line.split(' ') {
        match lines.last_mut() {
            Some(last) if last.is_empty() => last.push_str(word),
            Some(last) if measure_text_width(last) + 1 + measure_text_width(word) <= width => {
                last.push(' ');
                last.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

fn time(at: UtcMillis) -> String {
    at.to_datetime().map(|at| at.format("%H:%M:%S").to_string()).unwrap_or_default()
}

/// A label such as `Voicemail (120088)` says more than the name that comes with it.
fn party<'a>(text: &'a str, name: &'a str) -> &'a str {
    match (text, name) {
        (label, _) if label.contains('(') => label,
        ("", "" | ".") => "withheld",
        (number, "" | ".") => number,
        (_, name) => name,
    }
}

/// How the leg ended, in the API's words or shorter ones.
fn outcome(leg: &Json) -> &str {
    let is = |field: &str, value: &str| leg[field] == value;
    match () {
        () if is("propsLastPartyDisp", "Voicemail") => "voicemail",
        () if is("abandoned", "Abandoned") => "abandoned",
        () if is("missed", "Missed") => "missed",
        () if is("cause", "Transfer") => "transferred",
        () if is("answered", "Answered") => "answered",
        () if is("cause", "Redirected") => "redirected",
        () => "ended",
    }
}

fn delay(millis: i64) -> String {
    let millis = millis.max(0);
    if millis < EXACT_MS {
        return format!("{}.{} s", millis / 1_000, millis % 1_000 / 100);
    }
    length(Duration::from_millis(millis.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_leg_is_a_line_of_the_terminals_width_whatever_the_names() {
        let screen = Screen { terminal: None, pbx: 9 };
        for people in
            ["Alma Sample → 120088", "Sören Müstermann 架空架空架空架空架空架空 → N. \"Bo\" Body, Placeholder"]
        {
            let line = screen.line("17:44:31", "acme-east", people, "voicemail", "2.1 s");
            assert_eq!(measure_text_width(&line), 80, "{line}");
        }
    }

    #[test]
    fn sentences_are_broken_between_words_and_commands_are_not() {
        assert_eq!(wrapped("one two three", 8), ["one two", "three"]);
        assert_eq!(wrapped("a-long-word b", 4), ["a-long-word", "b"]);
        assert_eq!(wrapped("  a command to copy", 4), ["  a command to copy"]);
    }

    #[test]
    fn people_are_named_as_short_as_can_be() {
        for (text, name, said) in [
            ("Voicemail (120088)", "Alma Sample", "Voicemail (120088)"),
            ("+15550001234", "Alma Sample", "Alma Sample"),
            ("+15550001234", "", "+15550001234"),
            ("", ".", "withheld"),
            ("Anonymous", "Anonymous", "Anonymous"),
        ] {
            assert_eq!(party(text, name), said);
        }
        assert_eq!(outcome(&json!({"missed": "Missed", "propsLastPartyDisp": "Voicemail"})), "voicemail");
        assert_eq!(outcome(&json!({"answered": "Answered", "cause": "Transfer"})), "transferred");
        assert_eq!(outcome(&json!({})), "ended");
        assert_eq!([-5, 2_149, 9_999, 10_000, 2_460_000].map(delay), ["0.0 s", "2.1 s", "9.9 s", "10 s", "41 min"]);
    }
}
