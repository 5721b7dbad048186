//! `completions`, `man`, `--version`: what packagers and shells ask for.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::LazyLock;

use clap::{Args, CommandFactory};
use clap_complete::Shell;
use rdkafka::config::ClientConfig;

use super::Arguments;
use crate::error::{Ended, Exit, OrExit};

/// What `--version` prints behind the name. The commit is what `CALL_LEGS_COMMIT` was at the build.
pub(super) static LONG_VERSION: LazyLock<String> = LazyLock::new(|| {
    let commit = option_env!("CALL_LEGS_COMMIT").filter(|commit| !commit.is_empty()).unwrap_or("unknown");
    let (_, librdkafka) = rdkafka::util::get_rdkafka_version();
    let features = ClientConfig::new().create_native_config().and_then(|config| config.get("builtin.features"));
    format!(
        "{}\ncommit {commit}\nlibrdkafka {librdkafka}: {}",
        env!("CARGO_PKG_VERSION"),
        features.unwrap_or_default().replace(',', ", ")
    )
});

#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Write a page for each command into this directory, which has to exist
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn completions(arguments: &CompletionsArgs) -> Result<(), Ended> {
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, &mut Arguments::command(), "call-legs", &mut text);
    print(&text)
}

pub(super) fn man(arguments: &ManArgs) -> Result<(), Ended> {
    // Without the long version, whose lines would come as they are.
    let command = Arguments::command().long_version(None::<&str>);
    if let Some(dir) = &arguments.dir {
        return clap_mangen::generate_to(command, dir).or_exit(Exit::Usage);
    }
    let mut text = Vec::new();
    clap_mangen::Man::new(command).render(&mut text).or_exit(Exit::Internal)?;
    print(&text)
}

fn print(text: &[u8]) -> Result<(), Ended> {
    let mut out = io::stdout().lock();
    out.write_all(text).and_then(|()| out.flush()).or_exit(Exit::Internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_long_version_names_what_was_built() {
        let lines: Vec<&str> = LONG_VERSION.lines().collect();
        assert_eq!(lines[0], env!("CARGO_PKG_VERSION"));
        assert!(
            lines[1].starts_with("commit ") && lines[2].contains("sasl_scram") && lines[2].contains("zstd"),
            "{lines:?}"
        );
    }

    #[test]
    fn each_command_has_a_page() {
        let dir = tempfile::tempdir().unwrap();
        man(&ManArgs { dir: Some(dir.path().to_owned()) }).unwrap();
        for page in ["call-legs.1", "call-legs-run.1", "call-legs-state-rewind.1", "call-legs-kafka-acls.1"] {
            let text = std::fs::read_to_string(dir.path().join(page)).unwrap();
            assert!(text.contains(".SH NAME"), "{page}");
        }
        let missing = man(&ManArgs { dir: Some(dir.path().join("missing")) });
        assert_eq!(missing.unwrap_err().exit, Exit::Usage);
    }
}
