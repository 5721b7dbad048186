//! A sled database as this store uses it: opened with care, and written in batches that sled gives the memory of back.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use sled::{Batch, Db, IVec, Mode, Tree};

use super::disk::{Result, Unusable};

/// The page cache. sled keeps more than it is told, up to 64 reads in each 256th part of the pages: this is little beside
/// that.
const CACHE_BYTES: u64 = 1 << 20;

/// How many keys go into one batch: sled never gives the memory of a larger one back.
const BATCH_MAX: usize = 100;

/// How long this process may take to let go of files that it had open before; no other process has them,
/// since it would hold the state directory's lock.
const CLOSING_MAX: Duration = Duration::from_secs(5);

/// Opens or creates a database.
pub(super) fn open_database(path: &Path) -> Result<Db> {
    let config = sled::Config::new()
        .path(path)
        .cache_capacity(CACHE_BYTES)
        .mode(Mode::LowSpace)
        // Flushed by hand, after each apply: a background flush would only add writes.
        .flush_every_ms(None);
    let since = Instant::now();
    loop {
        match config.open() {
            Ok(db) => return Ok(db),
            // sled has no kind for it. Work that was under way when the view was dropped ends first.
            Err(error) if error.to_string().contains("could not acquire lock") && since.elapsed() < CLOSING_MAX => {
                thread::sleep(Duration::from_millis(50));
            }
            Err(error) => {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                return Err(Unusable::Damaged(format!("{name}: {error}")));
            }
        }
    }
}

/// Inserts values, in batches.
pub(super) fn insert_all<K, V>(tree: &Tree, values: impl Iterator<Item = sled::Result<(K, V)>>) -> Result<()>
where
    K: Into<IVec>,
    V: Into<IVec>,
{
    in_batches(tree, values, |batch, (key, value)| batch.insert(key, value))
}

/// Removes keys, in batches.
pub(super) fn remove_all(tree: &Tree, keys: impl Iterator<Item = sled::Result<IVec>>) -> Result<()> {
    in_batches(tree, keys, Batch::remove)
}

fn in_batches<T>(tree: &Tree, items: impl Iterator<Item = sled::Result<T>>, add: impl Fn(&mut Batch, T)) -> Result<()> {
    let mut items = items.peekable();
    while items.peek().is_some() {
        let mut batch = Batch::default();
        for item in items.by_ref().take(BATCH_MAX) {
            add(&mut batch, item?);
        }
        tree.apply_batch(batch)?;
    }
    Ok(())
}
