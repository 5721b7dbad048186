//! Other people's programs: where they are, and what to install where they are not.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

#[expect(unreachable_pub, reason = "the suites with a `support` module share it")]
#[path = "../support/python.rs"]
mod python;

/// A file or directory of the repository.
pub(super) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// What is in a file of the repository.
pub(super) fn text_of(path: &str) -> String {
    std::fs::read_to_string(repository(path)).unwrap()
}

/// Runs a program that Debian has in `package` and gives what it says.
///
/// # Panics
/// When it is not there, or says no.
#[track_caller]
pub(super) fn run(program: &str, package: &str, arguments: &[&str]) -> String {
    let run = Command::new(program).args(arguments).current_dir(repository("")).output();
    let Ok(output) = run else {
        panic!("`{program}` is not on the PATH, which this test needs: install it (Debian: apt-get install {package})");
    };
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {} says no:\n{said}", arguments.join(" "));
    said
}

/// Runs one of the programs that `requirements.txt` brings.
///
/// # Panics
/// When they cannot be installed, or when it says no.
#[track_caller]
pub(super) fn run_python(program: &str, arguments: &[&str]) -> String {
    static ENVIRONMENT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    // All that is needed is in it, so that no new release changes what a test says.
    let install = ["--no-deps", "--requirement", "tests/operations/requirements.txt"];
    match ENVIRONMENT.get_or_init(|| python::environment("operations", &install)) {
        Ok(bin) => run(&bin.join(program).to_string_lossy(), "python3-venv", arguments),
        Err(error) => panic!("{error}"),
    }
}
