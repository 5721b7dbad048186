//! What is wrong with a configuration: every problem found, a line each, and never a value.

use std::fmt;

/// Why a configuration was refused.
///
/// Displays one problem a line. A line names the key in full and the place it was given at, never the
/// value: what was meant for a harmless key may be a secret that slipped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    problems: Vec<String>,
}

impl ConfigError {
    pub(super) fn new(problems: Vec<String>) -> Self {
        Self { problems }
    }

    /// The problems, in the order of the keys; at least one.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }
}

impl From<String> for ConfigError {
    fn from(problem: String) -> Self {
        Self { problems: vec![problem] }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problems.join("\n"))
    }
}
