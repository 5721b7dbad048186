//! A page as a person sees it: rendered by headless Chromium, with its screenshot and what it wrote on the console.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// The page's own time, in which it has refreshed itself once; it passes as fast as the machine allows.
const VIRTUAL_TIME_MS: &str = "8000";

/// Without these it looks for services that a machine for tests does not have.
const ARGUMENTS: [&str; 11] = [
    "--headless",
    // Its sandbox does not start for root, as which containers run.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--v=0",
];

/// A screen and its taste.
#[derive(Clone, Copy)]
pub(super) enum Screen {
    Desk,
    /// A phone, at night.
    Phone,
}

/// A page as it was seen.
pub(super) struct Look {
    /// Its document, after its script has run.
    pub(super) document: String,
    /// What it wrote on the console.
    pub(super) console: Vec<String>,
}

/// Looks at a page, and leaves a screenshot of it where screenshots are kept.
pub(super) fn look(url: &str, name: &str, screen: Screen) -> Look {
    let screenshot = screenshots().join(format!("{name}.png"));
    let _ = std::fs::remove_file(&screenshot);
    let mut arguments = vec![format!("--screenshot={}", screenshot.display())];
    match screen {
        Screen::Desk => arguments.push("--window-size=1100,1500".to_owned()),
        // 0 is dark.
        Screen::Phone => {
            arguments.extend(["--window-size=420,1900", "--blink-settings=preferredColorScheme=0"].map(str::to_owned));
        }
    }
    let drawn = chromium(&arguments, url);
    let width = png_width(&screenshot);
    assert!(width > 0, "no screenshot in {}: {}", screenshot.display(), String::from_utf8_lossy(&drawn.stderr));
    let written = String::from_utf8_lossy(&drawn.stderr);
    let console = written.lines().filter(|line| line.contains("CONSOLE")).map(str::to_owned).collect();
    Look { document: document(url), console }
}

/// A page's document, after its script has run.
pub(super) fn document(url: &str) -> String {
    String::from_utf8_lossy(&chromium(&["--dump-dom".to_owned()], url).stdout).into_owned()
}

fn chromium(arguments: &[String], url: &str) -> Output {
    let profile = TempDir::new().unwrap();
    let mut chromium = Command::new("chromium");
    chromium.args(ARGUMENTS).arg(format!("--user-data-dir={}", profile.path().display()));
    chromium.arg(format!("--virtual-time-budget={VIRTUAL_TIME_MS}")).args(arguments).arg(url);
    chromium.output().expect("the status page is looked at with Chromium: apt-get install chromium")
}

/// Below cargo's target directory.
fn screenshots() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("screenshots");
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

/// From the file's header; 0 where there is none.
fn png_width(path: &Path) -> u32 {
    let bytes = std::fs::read(path).unwrap_or_default();
    match (bytes.get(..4), bytes.get(16..20)) {
        (Some(b"\x89PNG"), Some(width)) => u32::from_be_bytes([width[0], width[1], width[2], width[3]]),
        _ => 0,
    }
}
