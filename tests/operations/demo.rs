//! The demo, as a person sees it at a terminal and a program in a pipe.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// The sentence at the end, where Kafka is the embedded one; and why it is not a better one.
const ADDED_UP: [&str; 3] =
    ["The simulated API showed ", "each of them is at least once in topic", "since the embedded Kafka"];

/// What a demo may take beyond the time that it was given: seconds, on a machine with a tenth of a core for it.
const MORE_MAX: Duration = Duration::from_secs(60);

fn demo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_call-legs"));
    command.arg("demo").args(arguments);
    command
}

fn text(bytes: &[u8]) -> String {
    // As a terminal shows it: with the carriage returns that it adds.
    String::from_utf8_lossy(bytes).replace('\r', "")
}

fn flattened(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn into_a_pipe_each_leg_is_a_line_of_json_and_the_kill_costs_none() {
    let Output { status, stdout, stderr } = demo(&["--for", "16s"]).output().unwrap();
    let (legs, said) = (text(&stdout), text(&stderr));
    assert!(status.success(), "{said}");
    let legs: Vec<serde_json::Value> = legs.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let showed = format!("showed {} legs", legs.len());
    assert!(legs.len() > 5 && said.contains(&showed), "{}: {said}", legs.len());
    assert!(legs.iter().all(|leg| leg["callId"].is_string() && leg["disconnectedTimeUTC"].is_number()));
    let events = [
        "kill -9 of the connector",
        "started again",
        "the connector was killed once",
        "demo --bootstrap-servers HOST:PORT",
    ];
    for words in events.iter().chain(&ADDED_UP) {
        assert!(said.contains(words), "{words} in\n{said}");
    }
}

#[test]
fn at_a_terminal_each_leg_is_a_line_that_fits_and_it_ends_in_time() {
    let started = Instant::now();
    let program = env!("CARGO_BIN_EXE_call-legs");
    let line = format!("stty cols 80; exec {program} demo --for 5s");
    let colours = |no_color: Option<&str>| {
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
        script.env("TERM", "xterm").env_remove("NO_COLOR").envs(no_color.map(|value| ("NO_COLOR", value)));
        script.output().unwrap()
    };
    let shown = colours(Some("1"));
    let said = text(&shown.stdout);
    assert!(shown.status.success(), "{said}");
    assert!(started.elapsed() < Duration::from_secs(5) + MORE_MAX, "{:?}", started.elapsed());
    assert!(!said.contains('\u{1b}'), "colours in\n{said}");
    let legs: Vec<&str> = said.lines().filter(|line| line.contains(" → ") && line.contains("acme-")).collect();
    assert!(legs.len() >= 3, "{said}");
    assert!(legs.iter().all(|line| console::measure_text_width(line) == 80), "{said}");
    let said = flattened(&said);
    for words in ADDED_UP {
        assert!(said.contains(words), "{words} in\n{said}");
    }
    assert!(text(&colours(None).stdout).contains("\u{1b}["), "there are colours unless they are unwanted");
}

#[test]
fn a_kafka_that_does_not_answer_ends_it_with_one_sentence() {
    let Output { status, stdout, stderr } = demo(&["--bootstrap-servers", "127.0.0.1:1"]).output().unwrap();
    let said = text(&stderr);
    assert_eq!((status.code(), text(&stdout).as_str()), (Some(4), ""), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.starts_with("call-legs: --bootstrap-servers 127.0.0.1:1: Kafka does not answer: "), "{said}");
    assert!(said.contains("start it or correct the address"), "{said}");
}

/// As in a container whose file system cannot be written.
#[test]
fn without_a_directory_for_temporary_files_it_uses_memory() {
    let Output { status, stderr, .. } = demo(&["--for", "5s"]).env("TMPDIR", "/nonexistent").output().unwrap();
    let said = text(&stderr);
    assert!(status.success() && ADDED_UP.iter().all(|words| said.contains(words)), "{said}");
}
