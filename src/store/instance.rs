//! What a state directory says of itself: its own number, and the token that opens the admin port's verbs.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use secrecy::{ExposeSecret, SecretString};

use super::StoreError;
use crate::core::journal::Nonce;

/// The state directory's own number: by it a restarted process knows that the last claim was its own.
#[derive(Debug)]
pub struct Instance;

impl Instance {
    const FILE: &str = "instance";

    /// The directory's number; `fresh` becomes it where there is none, or none that can be read.
    pub fn load_or_create(state_dir: &Path, fresh: [u8; 16]) -> Result<Nonce, StoreError> {
        let path = state_dir.join(Self::FILE);
        let known = match fs::read(&path) {
            Ok(bytes) => std::str::from_utf8(&bytes).ok().and_then(|text| Nonce::parse(text.trim())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(StoreError::Io { doing: "read", path, source }),
        };
        if let Some(known) = known {
            return Ok(known);
        }
        let number = Nonce(fresh);
        write_whole(state_dir, Self::FILE, &format!("{number}\n"), 0o644)?;
        Ok(number)
    }
}

/// What a command must know to be obeyed by the owner: whoever may read the state directory's secrets knows it.
#[derive(Clone, Debug)]
pub struct Token(SecretString);

impl Token {
    const FILE: &str = "admin-token";
    const DIGITS: usize = 64;

    /// Writes a new token that only the directory's user may read; an older one is worth nothing from then on.
    pub fn create(state_dir: &Path, random: [u8; 32]) -> Result<Self, StoreError> {
        let text: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        write_whole(state_dir, Self::FILE, &text, 0o600)?;
        Ok(Self(text.into()))
    }

    /// The token of the process that works on the directory.
    pub fn read(state_dir: &Path) -> Result<Self, StoreError> {
        let path = state_dir.join(Self::FILE);
        let text = fs::read_to_string(&path).and_then(|text| {
            let text = text.trim();
            let is_token = text.len() == Self::DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            is_token.then(|| text.to_owned()).ok_or_else(|| io::Error::other("it holds no token"))
        });
        match text {
            Ok(text) => Ok(Self(text.into())),
            Err(source) => Err(StoreError::Io { doing: "read", path, source }),
        }
    }

    /// Whether `given` is the token.
    pub fn matches(&self, given: &str) -> bool {
        Self::is_same(self.0.expose_secret(), given)
    }

    /// Whether two tokens are the same. Takes as long for a nearly right one as for any other of its length.
    pub fn is_same(known: &str, given: &str) -> bool {
        let pairs = known.bytes().zip(given.bytes());
        let differing = pairs.fold(0, |bits, (a, b)| std::hint::black_box(bits | (a ^ b)));
        // The length is no secret.
        given.len() == known.len() && differing == 0
    }

    /// The token itself, to be sent to the owner.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

/// Writes a file that is there whole or not at all, readable from its first instant only by whom `mode` names.
fn write_whole(dir: &Path, name: &str, content: &str, mode: u32) -> Result<(), StoreError> {
    let path = dir.join(name);
    let next = dir.join(format!("{name}.new"));
    let write = || {
        // Left by a crash; only one process at a time works on the directory.
        match fs::remove_file(&next) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&next)?;
        file.write_all(content.as_bytes())?;
        file.sync_all()?;
        fs::rename(&next, &path)
    };
    write().map_err(|source| StoreError::Io { doing: "write", path: path.clone(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_number_stays_and_rubbish_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Instance::load_or_create(dir.path(), [1; 16]).unwrap(), Nonce([1; 16]));
        assert_eq!(Instance::load_or_create(dir.path(), [2; 16]).unwrap(), Nonce([1; 16]));
        for rubbish in [&b""[..], b"\xff\xfe", b"0101", b"zz010101010101010101010101010101"] {
            fs::write(dir.path().join("instance"), rubbish).unwrap();
            assert_eq!(Instance::load_or_create(dir.path(), [3; 16]).unwrap(), Nonce([3; 16]));
            assert_eq!(Instance::load_or_create(dir.path(), [4; 16]).unwrap(), Nonce([3; 16]));
        }
    }

    #[test]
    fn a_token_is_its_users_own_and_matches_only_itself() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Token::read(dir.path()).is_err());
        fs::write(dir.path().join("admin-token.new"), "left by a crash").unwrap();
        let first = Token::create(dir.path(), [0xa5; 32]).unwrap();
        let mode = fs::metadata(dir.path().join("admin-token")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let read = Token::read(dir.path()).unwrap();
        assert!(first.matches(read.expose()) && read.matches(first.expose()));
        let text = "a5".repeat(32);
        assert!(first.matches(&text));
        for wrong in ["", &text[1..], &format!("{text}a"), &text.replacen('a', "b", 1)] {
            assert!(!first.matches(wrong), "{wrong}");
        }
        assert!(!format!("{first:?}").contains("a5a5"), "{first:?}");
        let second = Token::create(dir.path(), [1; 32]).unwrap();
        assert!(!first.matches(second.expose()));
        fs::write(dir.path().join("admin-token"), "short").unwrap();
        assert!(Token::read(dir.path()).is_err());
    }
}
