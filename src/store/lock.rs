//! One process per state directory: an advisory lock that the kernel drops with the process.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::geteuid;

use super::StoreError;

/// Held for as long as the process works on the directory.
#[derive(Debug)]
pub struct StateLock {
    _file: File,
}

impl StateLock {
    /// Creates the directory where it is missing and locks it.
    pub fn acquire(dir: &Path) -> Result<Self, StoreError> {
        let io = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::Io { doing, path, source }
        };
        let path = dir.join("lock");
        // The lock's owner made the other files, too; before there is one, the directory's owner is to make them.
        let owner = fs::symlink_metadata(&path).or_else(|_| fs::metadata(dir)).map(|found| found.uid());
        if let Some(user) = owner.ok().and_then(|owner| other_than_root(geteuid().as_raw(), owner)) {
            return Err(StoreError::OthersDirectory { path: dir.to_owned(), user });
        }
        fs::create_dir_all(dir).map_err(io("create", dir))?;
        let mut file = open_own(OpenOptions::new().read(true).write(true).create(true).truncate(false), &path)
            .map_err(io("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // Who holds it is a courtesy; that it is held is known already.
                let _ = file.read_to_string(&mut text);
                return Err(StoreError::InUse { path: dir.to_owned(), pid: text.trim().parse().ok() });
            }
            Err(TryLockError::Error(source)) => return Err(io("lock", &path)(source)),
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(io("write", &path))?;
        Ok(Self { _file: file })
    }
}

/// The owner whose files root must not mix with its own: this user could not open them.
fn other_than_root(user: u32, owner: u32) -> Option<u32> {
    (user == 0 && owner != 0).then_some(owner)
}

/// Opens a file of the state directory to write it. A link in its place is not followed: whoever could put it there would
/// have a file of ours overwritten.
pub(super) fn open_own(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).open(path).map_err(|error| {
        let is_link = error.raw_os_error() == Some(Errno::LOOP.raw_os_error());
        if is_link { io::Error::other("it is a symbolic link, which is not followed: delete it") } else { error }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (target, missing) = (dir.path().join("precious"), dir.path().join("missing"));
        fs::write(&target, "kept").unwrap();
        for linked in [&target, &missing, &dir.path().to_owned()] {
            let state = tempfile::tempdir().unwrap();
            std::os::unix::fs::symlink(linked, state.path().join("lock")).unwrap();
            let refused = StateLock::acquire(state.path()).unwrap_err().to_string();
            assert!(refused.contains("/lock: it is a symbolic link"), "{refused}");
        }
        assert_eq!(fs::read_to_string(&target).unwrap(), "kept");
        assert!(!missing.exists());
        // The directory itself may be one.
        let link = dir.path().join("state");
        let state = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(state.path(), &link).unwrap();
        StateLock::acquire(&link).unwrap();
    }

    /// Needs to be root for the second half.
    #[test]
    fn root_leaves_no_files_that_the_owner_cannot_open() {
        assert_eq!(
            [(0, 0), (0, 10_001), (10_001, 10_001), (7, 0)].map(|(user, owner)| other_than_root(user, owner)),
            [None, Some(10_001), None, None]
        );
        let dir = tempfile::tempdir().unwrap();
        if std::os::unix::fs::chown(dir.path(), Some(10_001), None).is_ok() {
            let refused = StateLock::acquire(dir.path()).unwrap_err().to_string();
            assert!(
                refused.contains("belongs to the user with the id 10001") && refused.contains("sudo -u"),
                "{refused}"
            );
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
            // One that root has begun to use stays root's.
            fs::write(dir.path().join("lock"), "").unwrap();
            StateLock::acquire(dir.path()).unwrap();
        }
    }

    #[test]
    fn a_second_holder_is_refused_by_name_until_the_first_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateLock::acquire(dir.path()).unwrap();
        let refused = StateLock::acquire(dir.path()).unwrap_err();
        assert!(matches!(refused, StoreError::InUse { pid: Some(pid), .. } if pid == std::process::id()), "{refused}");
        drop(first);
        StateLock::acquire(dir.path()).unwrap();
    }
}
