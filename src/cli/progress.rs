//! How far a command has come, on standard error: a bar on a terminal, a line a minute elsewhere.

use std::io::{IsTerminal, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

/// How often the bar moves.
pub(super) const SHOWN_EVERY: Duration = Duration::from_secs(1);

/// How often a line is printed where there is no terminal.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// What a person sees of a command's progress.
pub(super) struct Display {
    bar: Option<ProgressBar>,
    told: Option<Instant>,
}

impl Display {
    pub(super) fn new() -> Self {
        let bar = stderr().is_terminal().then(|| ProgressBar::new(1_000));
        if let (Some(bar), Ok(style)) = (&bar, ProgressStyle::with_template("{bar:40} {msg}")) {
            bar.set_style(style);
        }
        Self { bar, told: None }
    }

    /// Shows the share that is done, and that in words.
    pub(super) fn show(&mut self, share: f64, line: String) {
        if let Some(bar) = &self.bar {
            // A part of a thousand.
            bar.set_position((share * 1_000.0) as u64);
            bar.set_message(line);
        } else if self.told.is_none_or(|told| told.elapsed() >= TOLD_EVERY) {
            self.told = Some(Instant::now());
            eprintln!("{line}");
        }
    }

    /// Takes the bar away.
    pub(super) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
