//! The view on sled: what is asked of it, and what happens when its files cannot be used.
//!
//! ```text
//!   open ─▶ in a thread of its own ─┬─ opened, all checks passed ──▶ the view as it was left
//!                                   ├─ anything wrong, or a panic ─▶ deleted, an empty view, one warning
//!                                   └─ no sign of life ────────────▶ deleted, `StoreError::Hangs`
//! ```
//!
//! What is deleted is in the journal. After a failed apply nothing is answered until [`View::wipe`].
//! The files themselves are the matter of [`super::files`].

use std::any::Any;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use super::files::{Files, Sizes, Unusable, delete};
use super::{Remembered, StoreError, View};
use crate::core::identity::KeyHash;
use crate::core::journal::Page;
use crate::core::ledger::{Head, Ledger};

/// How long opening may take without a sign of life. Ten million entries take a fraction of a second, but
/// where sled spins it spins for ever.
const OPEN_SILENCE_MAX: Duration = Duration::from_secs(15);

/// How many openings in a row may end with the process: by damage that makes sled ask for more memory
/// than there is, or by somebody impatient.
const OPEN_DEATHS_MAX: u8 = 3;

/// Counts the openings that have not come to an end.
const OPENING_FILE: &str = "opening";

/// The view of the journal in a state directory.
pub struct SledView {
    shared: Shared,
}

struct Shared {
    dir: PathBuf,
    sizes: Sizes,
    silence_max: Duration,
    /// `None` when they cannot be used and have to be wiped.
    files: RwLock<Option<Files>>,
}

impl SledView {
    /// Opens what is below `state_dir`, or starts an empty view there. Blocks.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        Self::open_with(state_dir, Sizes::default(), OPEN_SILENCE_MAX)
    }

    pub(super) fn open_with(state_dir: &Path, sizes: Sizes, silence_max: Duration) -> Result<Self, StoreError> {
        let dir = state_dir.join("store");
        let files = open_or_rebuild(&dir, sizes, silence_max)?;
        let shared = Shared { dir, sizes, silence_max, files: RwLock::new(Some(files)) };
        Ok(Self { shared })
    }

    /// Takes the files themselves, as a process does that is about to die in the middle of something.
    #[cfg(test)]
    pub(super) fn into_files(self) -> Files {
        self.shared.files.write().unwrap().take().unwrap()
    }

    /// Does blocking work where it blocks nobody: on the thread that asks, whose other tasks go to another one. The way
    /// to a thread for blocking work and back took four times as long as looking for a page's keys.
    fn run<T>(&self, work: impl FnOnce(&Shared) -> Result<T, StoreError>) -> Result<T, StoreError> {
        tokio::task::block_in_place(|| work(&self.shared))
    }
}

impl View for SledView {
    async fn load(&self) -> Result<Option<Ledger>, StoreError> {
        self.run(|shared| match shared.read(Files::load) {
            Err(StoreError::Broken { reason, .. }) => {
                warn_rebuilt(&shared.dir, &reason);
                shared.wipe()?;
                Ok(None)
            }
            loaded => loaded,
        })
    }

    async fn find(&self, keys: Vec<KeyHash>) -> Result<Vec<Option<Remembered>>, StoreError> {
        self.run(|shared| shared.read(|files| files.find(&keys)))
    }

    async fn apply(&self, pages: Vec<Page>, head: Head) -> Result<(), StoreError> {
        self.run(|shared| shared.write(|files| files.apply(&pages, head)))
    }

    async fn wipe(&self) -> Result<(), StoreError> {
        self.run(Shared::wipe)
    }

    async fn entries_after(&self, after: Option<KeyHash>) -> Result<Vec<(KeyHash, Remembered)>, StoreError> {
        self.run(|shared| shared.read(|files| files.entries_after(after)))
    }
}

impl Shared {
    fn broken(&self, reason: String) -> StoreError {
        StoreError::Broken { path: self.dir.clone(), reason }
    }

    fn read<T>(&self, work: impl FnOnce(&Files) -> Result<T, Unusable>) -> Result<T, StoreError> {
        // A panic is caught below, with the lock held: it is never poisoned.
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        let Some(files) = &*files else { return Err(self.broken(FAILED_BEFORE.to_owned())) };
        caught(|| work(files)).map_err(|Unusable(reason)| self.broken(reason))
    }

    fn write<T>(&self, work: impl FnOnce(&mut Files) -> Result<T, Unusable>) -> Result<T, StoreError> {
        let mut slot = self.files.write().unwrap_or_else(PoisonError::into_inner);
        let Some(files) = &mut *slot else { return Err(self.broken(FAILED_BEFORE.to_owned())) };
        caught(|| work(files)).map_err(|Unusable(reason)| {
            // What is in memory may no longer be what is on disk.
            close(slot.take());
            self.broken(reason)
        })
    }

    fn wipe(&self) -> Result<(), StoreError> {
        let mut slot = self.files.write().unwrap_or_else(PoisonError::into_inner);
        close(slot.take());
        empty(&self.dir)?;
        *slot = Some(open_or_rebuild(&self.dir, self.sizes, self.silence_max)?);
        Ok(())
    }
}

const FAILED_BEFORE: &str = "it has failed before and was not wiped since";

/// Closing flushes, which can fail as anything else; the files are worth nothing then.
fn close(files: Option<Files>) {
    let _ = catch_unwind(AssertUnwindSafe(|| drop(files)));
}

fn caught<T>(work: impl FnOnce() -> Result<T, Unusable>) -> Result<T, Unusable> {
    // What was under way when it panicked is not used again.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(Unusable(said(&*panic))))
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("sled panicked: {}", text.unwrap_or("without a word"))
}

fn warn_rebuilt(dir: &Path, reason: &str) {
    tracing::warn!(
        directory = %dir.display(),
        reason,
        "the store cannot be used and is emptied; it is rebuilt from the journal, nothing is lost"
    );
}

fn open_or_rebuild(dir: &Path, sizes: Sizes, silence_max: Duration) -> Result<Files, StoreError> {
    match open_guarded(dir, sizes, silence_max)? {
        Ok(files) => Ok(files),
        Err(Unusable(reason)) => {
            warn_rebuilt(dir, &reason);
            empty(dir)?;
            let again = open_guarded(dir, sizes, silence_max)?;
            again.map_err(|Unusable(reason)| StoreError::Broken { path: dir.to_owned(), reason })
        }
    }
}

/// Opens in a thread, which is left to itself when it gives no sign of life: it cannot be ended.
fn open_guarded(dir: &Path, sizes: Sizes, silence_max: Duration) -> Result<Result<Files, Unusable>, StoreError> {
    let (sender, receiver) = mpsc::channel();
    let opened_dir = dir.to_owned();
    let open = move || {
        let alive = sender.clone();
        let opened = caught(|| {
            open_counted(&opened_dir, sizes, &mut || {
                // Nobody listens any more: the answer will not be wanted either.
                let _ = alive.send(None);
            })
        });
        let _ = sender.send(Some(opened));
    };
    let spawned = thread::Builder::new().name("store-open".to_owned()).spawn(open);
    spawned.map_err(|source| StoreError::Io { doing: "open", path: dir.to_owned(), source })?;
    loop {
        match receiver.recv_timeout(silence_max) {
            Ok(None) => {}
            Ok(Some(opened)) => return Ok(opened),
            Err(RecvTimeoutError::Timeout) => {
                empty(dir)?;
                return Err(StoreError::Hangs { path: dir.to_owned() });
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Ok(Err(Unusable("opening it ended without an answer".to_owned())));
            }
        }
    }
}

/// Opens, and leaves a trace if the process does not survive it.
fn open_counted(dir: &Path, sizes: Sizes, alive: &mut dyn FnMut()) -> Result<Files, Unusable> {
    let refused = |error: std::io::Error| Unusable(error.to_string());
    fs::create_dir_all(dir).map_err(refused)?;
    let path = dir.join(OPENING_FILE);
    let deaths = match fs::read(&path) {
        Ok(count) => *count.first().unwrap_or(&0),
        Err(_) => 0,
    };
    if deaths >= OPEN_DEATHS_MAX {
        return Err(Unusable(format!("{OPEN_DEATHS_MAX} starts in a row have died while they opened it")));
    }
    fs::write(&path, [deaths + 1]).map_err(refused)?;
    let files = Files::open(dir, sizes, alive)?;
    fs::remove_file(&path).map_err(refused)?;
    Ok(files)
}

fn empty(dir: &Path) -> Result<(), StoreError> {
    // A thread that hangs in there may still create files while they are deleted.
    let emptied = (0..10).map(|_| delete(dir)).find(Result::is_ok).unwrap_or_else(|| delete(dir));
    emptied.and_then(|()| fs::create_dir_all(dir)).map_err(|source| StoreError::Io {
        doing: "empty",
        path: dir.to_owned(),
        source,
    })
}
