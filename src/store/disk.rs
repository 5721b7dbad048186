//! What the store's files have in common: how they refuse, and how they are listed, synced and deleted.

use std::path::Path;
use std::{fs, io};

/// Why the files cannot be used, in words for a log line.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    /// They are not what was written, or the disk refuses.
    #[error("{0}")]
    Damaged(String),
    /// Another version has written them.
    #[error("{0}")]
    OtherLayout(String),
}

pub(super) type Result<T, E = Unusable> = std::result::Result<T, E>;

impl From<sled::Error> for Unusable {
    fn from(error: sled::Error) -> Self {
        Self::Damaged(error.to_string())
    }
}

pub(super) fn damaged<T>(what: &str) -> Result<T> {
    Err(Unusable::Damaged(format!("{what} is not what was written")))
}

/// The numbers behind the prefix in the names of what is in the directory, in no order.
pub(super) fn numbered(dir: &Path, prefix: &str) -> Result<Vec<u64>> {
    let unreadable = |error: io::Error| Unusable::Damaged(format!("cannot read the directory: {error}"));
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(prefix));
        numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    Ok(numbers)
}

/// Makes the names in a directory durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    fs::File::open(dir)?.sync_all()
}

/// Deletes whatever is at the path, if anything is.
pub(super) fn delete(path: &Path) -> io::Result<()> {
    let deleted = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match deleted {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        deleted => deleted,
    }
}
