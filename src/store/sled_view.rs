//! The view on sled: what is asked of it, and what happens when its files cannot be used.
//!
//! ```text
//!   open ─▶ in a thread of its own ─┬─ opened, all checks passed ──▶ the view as it was left
//!                                   ├─ anything wrong, or a panic ─▶ deleted, an empty view, one warning
//!                                   └─ no sign of life ────────────▶ deleted, `StoreError::Hangs`
//! ```
//!
//! What is deleted is in the journal. After a failed apply nothing is answered until [`View::wipe`]. Those who only look
//! at a view ([`SledView::look`]) are told of damage and delete nothing.
//! The files themselves are the matter of [`super::files`].

use std::any::Any;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use super::disk::{Unusable, delete};
use super::files::{Files, Sizes};
use super::lock::open_own;
use super::{Remembered, StoreError, View};
use crate::core::identity::KeyHash;
use crate::core::journal::Page;
use crate::core::ledger::{Head, Ledger};
use crate::panics;

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

/// What becomes of files that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnDamage {
    /// They are deleted and built anew.
    Rebuild,
    /// They stay, and it is told.
    Tell,
}

struct Shared {
    dir: PathBuf,
    sizes: Sizes,
    silence_max: Duration,
    on_damage: OnDamage,
    /// `None` when they cannot be used and have to be wiped.
    files: RwLock<Option<Files>>,
}

impl SledView {
    /// Opens what is below `state_dir`, or starts an empty view there. Blocks.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        Self::open_with(state_dir, Sizes::default(), OPEN_SILENCE_MAX)
    }

    pub(super) fn open_with(state_dir: &Path, sizes: Sizes, silence_max: Duration) -> Result<Self, StoreError> {
        Self::new(state_dir, sizes, silence_max, OnDamage::Rebuild)
    }

    /// Opens what is below `state_dir` to compare it with the journal: a view that cannot be used is
    /// [`StoreError::Damaged`], now or later, and stays as it is. Blocks.
    pub fn look(state_dir: &Path) -> Result<Self, StoreError> {
        Self::look_with(state_dir, Sizes::default(), OPEN_SILENCE_MAX)
    }

    pub(super) fn look_with(state_dir: &Path, sizes: Sizes, silence_max: Duration) -> Result<Self, StoreError> {
        Self::new(state_dir, sizes, silence_max, OnDamage::Tell)
    }

    fn new(state_dir: &Path, sizes: Sizes, silence_max: Duration, on_damage: OnDamage) -> Result<Self, StoreError> {
        let dir = state_dir.join("store");
        let files = RwLock::new(None);
        let shared = Shared { dir, sizes, silence_max, on_damage, files };
        let opened = shared.open()?;
        *shared.files.write().unwrap_or_else(PoisonError::into_inner) = Some(opened);
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
            // Not one that is only looked at: that is told as `Damaged`.
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
        self.refused(Unusable::Damaged(reason))
    }

    fn refused(&self, why: Unusable) -> StoreError {
        let path = self.dir.clone();
        match (self.on_damage, why) {
            (OnDamage::Rebuild, why) => StoreError::Broken { path, reason: why.to_string() },
            (OnDamage::Tell, Unusable::Damaged(reason)) => StoreError::Damaged { path, reason },
            (OnDamage::Tell, Unusable::OtherLayout(_)) => StoreError::OtherLayout { path },
        }
    }

    fn open(&self) -> Result<Files, StoreError> {
        let opened = match self.open_guarded()? {
            Err(why) if self.on_damage == OnDamage::Rebuild => {
                warn_rebuilt(&self.dir, &why.to_string());
                empty(&self.dir)?;
                self.open_guarded()?
            }
            opened => opened,
        };
        opened.map_err(|why| {
            if self.on_damage == OnDamage::Tell {
                // Nobody has died in there.
                let _ = fs::remove_file(self.dir.join(OPENING_FILE));
            }
            self.refused(why)
        })
    }

    /// Opens in a thread, which is left to itself when it gives no sign of life: it cannot be ended.
    fn open_guarded(&self) -> Result<Result<Files, Unusable>, StoreError> {
        let (sender, receiver) = mpsc::channel();
        let (dir, sizes) = (self.dir.clone(), self.sizes);
        let open = move || {
            let alive = sender.clone();
            let opened = caught(|| {
                open_counted(&dir, sizes, &mut || {
                    // Nobody listens any more: the answer will not be wanted either.
                    let _ = alive.send(None);
                })
            });
            let _ = sender.send(Some(opened));
        };
        let spawned = thread::Builder::new().name("store-open".to_owned()).spawn(open);
        spawned.map_err(|source| StoreError::Io { doing: "open", path: self.dir.clone(), source })?;
        loop {
            match receiver.recv_timeout(self.silence_max) {
                Ok(None) => {}
                Ok(Some(opened)) => return Ok(opened),
                Err(RecvTimeoutError::Timeout) if self.on_damage == OnDamage::Tell => {
                    return Ok(Err(Unusable::Damaged("sled hangs while it opens it".to_owned())));
                }
                Err(RecvTimeoutError::Timeout) => {
                    empty(&self.dir)?;
                    return Err(StoreError::Hangs { path: self.dir.clone() });
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Ok(Err(Unusable::Damaged("opening it ended without an answer".to_owned())));
                }
            }
        }
    }

    fn read<T>(&self, work: impl FnOnce(&Files) -> Result<T, Unusable>) -> Result<T, StoreError> {
        // A panic is caught below, with the lock held: it is never poisoned.
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        let Some(files) = &*files else { return Err(self.broken(FAILED_BEFORE.to_owned())) };
        caught(|| work(files)).map_err(|why| self.refused(why))
    }

    fn write<T>(&self, work: impl FnOnce(&mut Files) -> Result<T, Unusable>) -> Result<T, StoreError> {
        let mut slot = self.files.write().unwrap_or_else(PoisonError::into_inner);
        let Some(files) = &mut *slot else { return Err(self.broken(FAILED_BEFORE.to_owned())) };
        caught(|| work(files)).map_err(|why| {
            // What is in memory may no longer be what is on disk.
            close(slot.take());
            self.refused(why)
        })
    }

    fn wipe(&self) -> Result<(), StoreError> {
        if self.on_damage == OnDamage::Tell {
            return Err(self.broken("it is not that of this journal".to_owned()));
        }
        let mut slot = self.files.write().unwrap_or_else(PoisonError::into_inner);
        close(slot.take());
        empty(&self.dir)?;
        *slot = Some(self.open()?);
        Ok(())
    }
}

const FAILED_BEFORE: &str = "it has failed before and was not wiped since";

/// Closing flushes, which can fail as anything else; the files are worth nothing then.
fn close(files: Option<Files>) {
    let _ = panics::caught(|| drop(files));
}

fn caught<T>(work: impl FnOnce() -> Result<T, Unusable>) -> Result<T, Unusable> {
    // What was under way when it panicked is not used again.
    panics::caught(work).unwrap_or_else(|panic| Err(Unusable::Damaged(said(&*panic))))
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

/// Opens, and leaves a trace if the process does not survive it.
fn open_counted(dir: &Path, sizes: Sizes, alive: &mut dyn FnMut()) -> Result<Files, Unusable> {
    let refused = |error: std::io::Error| Unusable::Damaged(error.to_string());
    fs::create_dir_all(dir).map_err(refused)?;
    let path = dir.join(OPENING_FILE);
    let deaths = match fs::read(&path) {
        Ok(count) => *count.first().unwrap_or(&0),
        Err(_) => 0,
    };
    if deaths >= OPEN_DEATHS_MAX {
        return Err(Unusable::Damaged(format!("{OPEN_DEATHS_MAX} starts in a row have died while they opened it")));
    }
    let mut file = open_own(File::options().write(true).create(true).truncate(true), &path).map_err(refused)?;
    file.write_all(&[deaths + 1]).map_err(refused)?;
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
