//! The configuration: a TOML file, then the environment, checked as a whole before anything starts.
//!
//! ```text
//!   file ─────────▶ layer ─┐
//!                          ├─▶ figment merges ─▶ reader ─▶ keys: defaults, rules ─▶ Config
//!   environment ──▶ layer ─┘                       └─▶ every problem, a line each ─▶ ConfigError
//! ```
//!
//! A message names the key in full and where it was given, and never shows a value. What is read here
//! is not acted upon: no address is resolved, no broker asked, no state directory made.

mod environment;
mod error;
mod file;
mod guarantee;
mod keys;
mod layer;
mod personal;
mod poll_requests;
mod privacy;
mod reader;
mod rule;
mod schema;
mod secret;
mod section;
mod sign_in;
mod start_from;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fs::File;
use std::path::Path;

pub use environment::ENV_PREFIX;
pub use error::ConfigError;
pub use personal::Personal;
pub use poll_requests::PollRequests;
pub use privacy::PrivacyRules;
pub use reader::Setting;
pub use schema::{EXAMPLE, json_schema};
pub use secret::Secret;
pub use section::{
    Admin, Avro, Credentials, DeadLetter, Delivery, Framing, Freshness, Kafka, Log, LogFormat, MessageTimestamp, OAuth,
    OAuthKeys, Policy, Poll, PollInterval, Properties, Registry, SignIn, Source, State, Telemetry,
};
pub use start_from::{HISTORY_MAX, Start, StartFrom};

use crate::core::planner::Sweep;
use keys::Sections;
use layer::Merged;
use reader::Reader;

/// The whole configuration, validated. `Debug` shows neither secrets nor personal data.
#[derive(Clone, Debug)]
pub struct Config {
    /// The API that is polled.
    pub source: Source,
    /// What is read when.
    pub poll: Poll,
    /// Slower re-reads of what polls have read for the last time.
    pub sweeps: Vec<Sweep>,
    /// What is promised to consumers, and measured.
    pub freshness: Freshness,
    /// What becomes of legs that are not simply new.
    pub policy: Policy,
    /// What becomes of personal values.
    pub privacy: PrivacyRules,
    /// Rows that cannot be legs.
    pub dead_letter: DeadLetter,
    /// The topic and the way to it.
    pub kafka: Kafka,
    /// How records are framed, and the schema registry.
    pub avro: Avro,
    /// What is kept on disk.
    pub state: State,
    /// The port for health, metrics and commands.
    pub admin: Admin,
    /// What is logged, and how.
    pub log: Log,
    /// Where traces and metrics go besides.
    pub telemetry: Telemetry,
    settings: Vec<Setting>,
    warnings: Vec<String>,
}

impl Config {
    /// Reads the file at `path`, where there is one, then `variables`, and tries the files that they name.
    ///
    /// `std::env::vars_os()` are the process's variables; of them only those with [`ENV_PREFIX`] and
    /// `__` behind it count.
    pub fn load<N, V>(path: Option<&Path>, variables: impl IntoIterator<Item = (N, V)>) -> Result<Self, ConfigError>
    where
        N: Into<OsString>,
        V: Into<OsString>,
    {
        let config = Self::read_for(path, variables, true)?;
        config.check_files()?;
        Ok(config)
    }

    /// Like [`Config::load`], for those who only look at things: `state.dir` may be missing, and no file that the
    /// configuration names is opened; [`Config::check_files`] does that.
    pub fn read<N, V>(path: Option<&Path>, variables: impl IntoIterator<Item = (N, V)>) -> Result<Self, ConfigError>
    where
        N: Into<OsString>,
        V: Into<OsString>,
    {
        Self::read_for(path, variables, false)
    }

    fn read_for<N, V>(
        path: Option<&Path>,
        variables: impl IntoIterator<Item = (N, V)>,
        needs_state_dir: bool,
    ) -> Result<Self, ConfigError>
    where
        N: Into<OsString>,
        V: Into<OsString>,
    {
        let (name, text) = match path {
            Some(path) => (path.display().to_string(), file::read(path)?),
            None => (String::new(), String::new()),
        };
        let mut config = Self::parse_for(&name, &text, variables, needs_state_dir)?;
        if let Some(key) = config.secret_within(&name).filter(|_| path.is_some_and(file::is_readable_by_all)) {
            config.warnings.push(format!(
                "{name} holds a secret, {key}, and every user of this machine may read it: chmod o-r {name}, or keep the secret in a file of its own"
            ));
        }
        Ok(config)
    }

    /// A key whose secret value stands in the file called `name` itself.
    fn secret_within(&self, name: &str) -> Option<String> {
        const SECRETS: [&str; 9] = [
            "source.api_key",
            "source.password",
            "privacy.key",
            "kafka.sasl_password",
            "kafka.oauth.client_secret",
            "avro.schema_registry_password",
            "avro.schema_registry_token",
            "avro.oauth.client_secret",
            "admin.token",
        ];
        let is_secret = |key: &str| SECRETS.contains(&key) || key.starts_with("kafka.properties.");
        let is_within = |setting: &&Setting| {
            setting.value == reader::SET
                && setting.origin.starts_with(&format!("{name}, line "))
                && is_secret(&setting.key)
        };
        self.settings.iter().find(is_within).map(|setting| setting.key.clone())
    }

    /// Like [`Config::load`] from a file's `text`, called `name` in messages, and without opening any file.
    pub fn parse<N, V>(name: &str, text: &str, variables: impl IntoIterator<Item = (N, V)>) -> Result<Self, ConfigError>
    where
        N: Into<OsString>,
        V: Into<OsString>,
    {
        Self::parse_for(name, text, variables, true)
    }

    fn parse_for<N, V>(
        name: &str,
        text: &str,
        variables: impl IntoIterator<Item = (N, V)>,
        needs_state_dir: bool,
    ) -> Result<Self, ConfigError>
    where
        N: Into<OsString>,
        V: Into<OsString>,
    {
        let layers = [file::layer(name, text)?, environment::layer(variables)];
        let (merged, problems) = Merged::new(layers);
        let mut reader = Reader::new(merged, problems);
        let sections = keys::sections(&mut reader, needs_state_dir);
        let (settings, warnings) = reader.finish().map_err(ConfigError::new)?;
        let Some(Sections {
            source,
            poll,
            sweeps,
            freshness,
            policy,
            privacy,
            dead_letter,
            kafka,
            avro,
            state,
            admin,
            log,
            telemetry,
        }) = sections
        else {
            return Err(ConfigError::from("the configuration could not be read".to_owned()));
        };
        Ok(Self {
            source,
            poll,
            sweeps,
            freshness,
            policy,
            privacy,
            dead_letter,
            kafka,
            avro,
            state,
            admin,
            log,
            telemetry,
            settings,
            warnings,
        })
    }

    /// The directory of the state.
    ///
    /// # Errors
    /// When none is given, which only [`Config::read`] takes.
    pub fn state_dir(&self) -> Result<&Path, ConfigError> {
        self.state.dir.as_deref().ok_or_else(|| ConfigError::from(reader::required("state.dir", "")))
    }

    /// Tries to read every file that holds a secret or certificates.
    pub fn check_files(&self) -> Result<(), ConfigError> {
        let registry = self.avro.framing.registry();
        let sign_in = registry.and_then(|registry| registry.sign_in.as_ref()).map(|sign_in| match sign_in {
            SignIn::Basic(Credentials { password, .. }) => (password, None),
            SignIn::Token(token) => (token, None),
            SignIn::OAuth(oauth) => (&oauth.client_secret, oauth.ca_file.as_ref()),
        });
        let identity = registry.and_then(|registry| registry.identity.as_ref());
        let secrets = [
            Some(&self.source.api_key),
            Some(&self.source.password),
            self.kafka.sasl_password.as_ref(),
            self.kafka.oauth.as_ref().map(|oauth| &oauth.client_secret),
            sign_in.map(|(secret, _)| secret),
            self.admin.token.as_ref(),
        ];
        let certificates = [
            ("source.ca_file", self.source.ca_file.as_ref()),
            ("kafka.oauth.ca_file", self.kafka.oauth.as_ref().and_then(|oauth| oauth.ca_file.as_ref())),
            ("avro.oauth.ca_file", sign_in.and_then(|(_, ca_file)| ca_file)),
            ("avro.schema_registry_certificate_file", identity.map(|(certificate, _)| certificate)),
            ("avro.schema_registry_key_file", identity.map(|(_, key)| key)),
            ("avro.schema_registry_ca_file", registry.and_then(|registry| registry.ca_file.as_ref())),
        ];
        let mut problems = Vec::new();
        problems.extend(self.privacy.policy().err().into_iter().flat_map(|error| error.problems().to_vec()));
        for secret in secrets.into_iter().flatten() {
            problems.extend(secret.read().err().into_iter().flat_map(|error| error.problems().to_vec()));
        }
        for (key, path) in certificates {
            if let Some(Err(error)) = path.map(File::open) {
                problems.push(format!("{} names a file that cannot be read: {error}", self.named(key)));
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(ConfigError::new(problems)) }
    }

    /// Every effective setting in the documented order, without secrets and personal data.
    pub fn settings(&self) -> &[Setting] {
        &self.settings
    }

    /// What is allowed and probably not meant, a line each; for the log at the start.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn named(&self, key: &str) -> String {
        match self.settings.iter().find(|setting| setting.key == key) {
            Some(setting) => format!("{key} (from {})", setting.origin),
            None => key.to_owned(),
        }
    }
}
