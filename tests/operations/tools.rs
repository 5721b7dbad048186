//! Other people's programs: where they are, and what to install where they are not.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const REQUIREMENTS: &str = include_str!("requirements.txt");

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
    match ENVIRONMENT.get_or_init(environment) {
        Ok(bin) => run(&bin.join(program).to_string_lossy(), "python3-venv", arguments),
        Err(error) => panic!("{error}"),
    }
}

/// The directory of the programs; the first run on a machine installs them from PyPI.
fn environment() -> Result<PathBuf, String> {
    let mut hasher = DefaultHasher::new();
    REQUIREMENTS.hash(&mut hasher);
    let root = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let complete = root.join(format!("operations-python-{:016x}", hasher.finish()));
    let done = complete.join("complete");
    if !done.exists() {
        // One that was cut off must not look complete.
        let _ = std::fs::remove_dir_all(&complete);
        let directory = complete.to_string_lossy();
        let pip = complete.join("bin/pip");
        let requirements = repository("tests/operations/requirements.txt");
        for (program, arguments) in [
            ("python3", vec!["-m", "venv", &directory]),
            (
                &pip.to_string_lossy(),
                vec![
                    "install",
                    "--quiet",
                    "--disable-pip-version-check",
                    "--no-deps",
                    "--requirement",
                    &requirements.to_string_lossy(),
                ],
            ),
        ] {
            let output = Command::new(program).args(&arguments).output();
            let said = match output {
                Ok(output) if output.status.success() => continue,
                Ok(output) => String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; "),
                Err(error) => error.to_string(),
            };
            return Err(format!(
                "Python's validators could not be installed ({program} {}: {said}); they need python3 with its module venv (Debian: apt-get install python3-venv) and PyPI",
                arguments.join(" ")
            ));
        }
        std::fs::write(&done, "").map_err(|error| error.to_string())?;
    }
    Ok(complete.join("bin"))
}
