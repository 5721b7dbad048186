//! A secret: a value, or the file that holds it and is read again whenever it is needed.
//!
//! Reading anew lets an operator replace a mounted secret without a restart.

use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::PathBuf;

use secrecy::SecretString;

use super::ConfigError;

/// More than any password or key; a wrong path stops here.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// A secret setting. `Debug` shows whether it is a value or a file, never what is in it.
#[derive(Clone)]
pub struct Secret {
    /// The key and its place, for messages.
    label: String,
    from: From,
}

#[derive(Clone)]
enum From {
    Value(SecretString),
    File(PathBuf),
}

impl Secret {
    /// The secret `text`, which messages call `label`; `None` when it is empty but for a trailing newline.
    pub fn value(label: String, text: &str) -> Option<Self> {
        let text = without_newline(text)?;
        Some(Self { label, from: From::Value(SecretString::from(text)) })
    }

    /// The secret in the file at `path`, which messages call `label`. The file is not opened here.
    pub fn file(label: String, path: PathBuf) -> Self {
        Self { label, from: From::File(path) }
    }

    /// The secret as it is now, without a trailing newline and never empty.
    ///
    /// Reads the file, where it is one; the call blocks as long as that takes.
    pub fn read(&self) -> Result<SecretString, ConfigError> {
        match &self.from {
            From::Value(value) => Ok(value.clone()),
            From::File(path) => {
                self.read_file(path).map_err(|why| format!("{} names a file that {why}", self.label).into())
            }
        }
    }

    /// The error that its content `is_wrong`, a verb and what follows.
    pub(super) fn refused(&self, is_wrong: &str) -> ConfigError {
        let holds = if matches!(self.from, From::File(_)) { " names a file whose content" } else { "" };
        format!("{}{holds} {is_wrong}", self.label).into()
    }

    fn read_file(&self, path: &PathBuf) -> Result<SecretString, String> {
        let unreadable = |error: std::io::Error| match error.kind() {
            ErrorKind::InvalidData => "is not UTF-8 text".to_owned(),
            _ => format!("cannot be read: {error}"),
        };
        let mut text = String::new();
        let file = File::open(path).map_err(unreadable)?;
        let length = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
        if length as u64 > FILE_BYTES_MAX {
            return Err("is larger than 64 KiB".to_owned());
        }
        // Some editors put one before the text.
        without_newline(text.trim_start_matches('\u{feff}'))
            .map(SecretString::from)
            .ok_or_else(|| "is empty".to_owned())
    }
}

/// Shows what the effective settings show: `set`, or the file's path.
impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.from {
            From::Value(_) => f.write_str("set"),
            From::File(path) => write!(f, "from file {}", path.display()),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({self})")
    }
}

/// Editors and `echo` end a file with a newline that is no part of the secret.
fn without_newline(text: &str) -> Option<&str> {
    let text = text.trim_end_matches(['\r', '\n']);
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    fn in_file(path: &std::path::Path) -> Secret {
        Secret::file("source.password_file (from a.toml, line 1)".to_owned(), path.to_owned())
    }

    #[test]
    fn a_file_is_read_again_each_time_and_loses_its_newline() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        let secret = in_file(&path);
        for (content, expected) in [
            ("one", "one"),
            ("two\n", "two"),
            ("three\r\n", "three"),
            (" four \n\n", " four "),
            ("\u{feff}five\r\n", "five"),
            ("s\u{feff}ix", "s\u{feff}ix"),
        ] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(secret.read().unwrap().expose_secret(), expected);
        }
    }

    #[test]
    fn a_file_that_holds_no_secret_is_refused_without_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hunter2");
        let refused = |path: &std::path::Path| in_file(path).read().unwrap_err().to_string();
        let line = |why: &str| format!("source.password_file (from a.toml, line 1) names a file that {why}");

        assert_eq!(refused(&path), line("cannot be read: No such file or directory (os error 2)"));
        for empty in ["\n", "\u{feff}\r\n"] {
            std::fs::write(&path, empty).unwrap();
            assert_eq!(refused(&path), line("is empty"));
        }
        std::fs::write(&path, b"\xff").unwrap();
        assert_eq!(refused(&path), line("is not UTF-8 text"));
        std::fs::write(&path, "x".repeat(64 * 1024 + 1)).unwrap();
        assert_eq!(refused(&path), line("is larger than 64 KiB"));
        assert_eq!(refused(dir.path()), line("cannot be read: Is a directory (os error 21)"));
    }

    #[test]
    fn debug_shows_the_kind_only() {
        let value = Secret::value("source.password".to_owned(), "hunter2\n").unwrap();
        assert_eq!(value.read().unwrap().expose_secret(), "hunter2");
        assert_eq!(format!("{value:?}"), "Secret(set)");
        assert_eq!(format!("{:?}", in_file("/run/pw".as_ref())), "Secret(from file /run/pw)");
        assert!(Secret::value("source.password".to_owned(), "\r\n").is_none());
    }
}
