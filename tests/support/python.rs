//! Programs from PyPI, in an environment of their own below cargo's `target/tmp/`. It needs nothing else of this directory.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The directory of the programs that `pip install` brings with `arguments`, whose files are named from the repository's root;
/// the first run on a machine installs them.
///
/// # Errors
///
/// In one sentence, what failed and what to install.
pub fn environment(name: &str, arguments: &[&str]) -> Result<PathBuf, String> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let mut hasher = DefaultHasher::new();
    for argument in arguments {
        (argument, fs::read(repository.join(argument)).unwrap_or_default()).hash(&mut hasher);
    }
    let complete = root.join(format!("{name}-python-{:016x}", hasher.finish()));
    let install = || -> Result<PathBuf, String> {
        // Only one test process installs; the system releases the lock when its holder ends, however it ends.
        let lock = File::create(root.join(format!("{name}-python.lock"))).map_err(|error| error.to_string())?;
        lock.lock().map_err(|error| error.to_string())?;
        let done = complete.join("complete");
        if !done.exists() {
            // One that was cut off must not look complete.
            let _ = fs::remove_dir_all(&complete);
            run(Command::new("python3").args(["-m", "venv"]).arg(&complete))?;
            let mut pip = Command::new(complete.join("bin/pip"));
            pip.args(["install", "--quiet", "--disable-pip-version-check"]).args(arguments).current_dir(repository);
            run(&mut pip)?;
            fs::write(&done, "").map_err(|error| error.to_string())?;
        }
        Ok(complete.join("bin"))
    };
    install().map_err(|error| {
        format!(
            "programs of Python could not be installed ({error}); they need python3 with its module venv (Debian: apt-get install python3-venv) and PyPI"
        )
    })
}

fn run(command: &mut Command) -> Result<(), String> {
    let said = match command.output() {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; "),
        Err(error) => error.to_string(),
    };
    Err(format!("{command:?}: {said}"))
}
