//! Follows the journal: reads what is committed, folds it into the ledger, and keeps the view up to date.
//!
//! It only ever reads from Kafka. Whoever stands by uses it to stay warm, whoever takes over to learn
//! what was published.

use std::sync::Arc;
use std::time::Duration;

use super::request::PageOf;
use crate::codec::JournalCodec;
use crate::connector::fault::{ConnectorError, Fault, JournalFault};
use crate::core::identity::KeyHash;
use crate::core::journal::{Entry, Genesis, Nonce, Page, Record};
use crate::core::ledger::Ledger;
use crate::core::words::count;
use crate::sink::{Cluster, Destination, Ends, Reader, StoredRecord, Stretch};
use crate::store::{Remembered, StoreError, View};
use crate::telemetry::StatusBoard;

/// How many entries are read before they are applied to the view; bounds memory while a journal is read, to some
/// 5 MB. What comes in bulk costs the view half as much an entry as 10,000 at once do.
const ENTRIES_AT_ONCE_MAX: usize = 100_000;

/// How many pages: sled takes the pages' index in one batch, and ten times as many cost it 40 MiB for good. Of
/// pages of ten entries the view then still takes in half a million entries a second.
const PAGES_AT_ONCE_MAX: usize = 1_000;

/// A step of the store that takes longer is stuck.
const STORE_STEP_MAX: Duration = Duration::from_secs(60);

/// The journal as far as it was read.
pub(crate) struct Follower<C, V> {
    pub(crate) cluster: Arc<C>,
    pub(crate) view: Arc<V>,
    pub(crate) codec: Arc<JournalCodec>,
    status: StatusBoard,
    /// What the journal adds up to so far; the view has the entries of the same pages.
    pub(crate) ledger: Ledger,
    /// How many records were read; each is a sign of the owner's life.
    pub(crate) records_read: u64,
    /// How often the view was emptied.
    pub(crate) wipes: u64,
    /// Whether ledger and view are known to speak of the same pages.
    is_loaded: bool,
}

/// A claim that was read, and where.
pub(crate) struct SeenClaim {
    pub(crate) nonce: Nonce,
    pub(crate) offset: i64,
}

impl<C: Cluster, V: View> Follower<C, V> {
    pub(crate) fn new(cluster: Arc<C>, view: Arc<V>, status: StatusBoard) -> Self {
        Self {
            cluster,
            view,
            codec: Arc::new(JournalCodec::new()),
            status,
            ledger: Ledger::default(),
            records_read: 0,
            wipes: 0,
            is_loaded: false,
        }
    }

    /// Reads the journal up to its last stable offset, and gives its ends.
    pub(crate) async fn catch_up(&mut self) -> Result<Ends, Fault> {
        let ends = self.ends().await?;
        self.load(ends).await?;
        self.read_to(ends.stable).await?;
        Ok(ends)
    }

    /// Reads the journal up to `until`, waiting for what is still open below it. Gives the claims that were read.
    ///
    /// A view that does not fit the journal is read again from its beginning, once.
    pub(crate) async fn read_to(&mut self, until: i64) -> Result<Vec<SeenClaim>, Fault> {
        let had = self.ledger.head.last_seq;
        // Ledger and view move together or not at all: until it is through, neither is trusted.
        self.is_loaded = false;
        let folded = match self.fold_to(until).await {
            Err(Fault::Journal(JournalFault::Inconsistent { what, .. })) if had > 0 => {
                // Looked at first: a view that knows more is the evidence, and stays.
                let journal = read_journal_to(&*self.cluster, &self.codec, until).await?.head.last_seq;
                if journal < had {
                    return Err(JournalFault::ViewAhead { view: had, journal }.into());
                }
                tracing::warn!("the view does not fit the journal ({what}): it is built anew from the journal");
                self.start_over().await?;
                self.fold_to(until).await?
            }
            folded => folded?,
        };
        self.is_loaded = true;
        Ok(folded)
    }

    /// Applies what the owner has just committed, as it would be read.
    pub(crate) async fn apply(&mut self, records: Vec<(i64, Record)>) -> Result<(), Fault> {
        self.is_loaded = false;
        let mut pages = Vec::new();
        for (offset, record) in records {
            self.ledger.take(offset, &record).map_err(|what| JournalFault::Inconsistent { what })?;
            if let Record::Page(page) = record {
                pages.push(page);
            }
        }
        if !pages.is_empty() {
            let _step = self.status.bounded_step("store", STORE_STEP_MAX);
            self.view.apply(pages, self.ledger.head.clone()).await?;
        }
        self.is_loaded = true;
        Ok(())
    }

    /// Forgets everything and empties the view; the next [`Follower::catch_up`] builds it anew.
    pub(crate) async fn start_over(&mut self) -> Result<(), Fault> {
        self.ledger = Ledger::default();
        self.wipes += 1;
        Ok(self.view.wipe().await?)
    }

    /// Empties the view and builds it anew, up to where the journal was read before at the least: Kafka may still be
    /// placing the markers of a transaction whose commit it has acknowledged to us.
    pub(crate) async fn rebuild(&mut self) -> Result<(), Fault> {
        let known_to = self.ledger.head.next_offset;
        self.start_over().await?;
        self.catch_up().await?;
        self.read_to(known_to).await.map(|_| ())
    }

    /// What is remembered of each key and still counts.
    pub(crate) async fn find(&self, keys: Vec<KeyHash>) -> Result<Vec<Option<Remembered>>, StoreError> {
        let _step = self.status.bounded_step("store", STORE_STEP_MAX);
        let mut found = self.view.find(keys).await?;
        for slot in &mut found {
            *slot = slot.take().filter(|known| self.ledger.is_live(known.seq, &known.unit, known.generation));
        }
        Ok(found)
    }

    pub(crate) async fn ends(&self) -> Result<Ends, Fault> {
        let ends = self.cluster.ends(Destination::Journal).await?;
        ends.first().copied().ok_or_else(|| JournalFault::Gone.into())
    }

    /// Takes up the view where it is one of this journal.
    async fn load(&mut self, ends: Ends) -> Result<(), Fault> {
        if self.is_loaded {
            return self.check_position(ends);
        }
        self.ledger = Ledger::default();
        let loaded = match self.view.load().await {
            Err(StoreError::Broken { path, reason }) => {
                tracing::warn!(
                    "the view in {} cannot be read ({reason}): it is built anew from the journal",
                    path.display()
                );
                None
            }
            loaded => loaded?,
        };
        let genesis = self.genesis(ends).await?;
        match loaded {
            Some(ledger) if ledger.head.genesis.is_some() && ledger.head.genesis == genesis => self.ledger = ledger,
            Some(_) => {
                tracing::warn!("the view is that of another journal: it is built anew from this one");
                self.start_over().await?;
            }
            None => self.start_over().await?,
        }
        self.is_loaded = true;
        self.check_position(ends)
    }

    fn check_position(&self, ends: Ends) -> Result<(), Fault> {
        // An ended transaction's marker may not be there yet for us, but what was acknowledged to us is.
        if self.ledger.head.next_offset > ends.high {
            return Err(JournalFault::ViewBeyond { view: self.ledger.head.next_offset, journal: ends.high }.into());
        }
        Ok(())
    }

    async fn genesis(&self, ends: Ends) -> Result<Option<Genesis>, Fault> {
        // It is among the first records, before it only self-tests and claims.
        let mut reader = self.cluster.read(Destination::Journal, stretch(ends.low, ends.stable)).await?;
        while let Some(records) = reader.next().await? {
            for record in records {
                if let Record::Genesis(genesis) = decode(&self.codec, &record)? {
                    return Ok(Some(genesis));
                }
            }
        }
        Ok(None)
    }

    async fn fold_to(&mut self, until: i64) -> Result<Vec<SeenClaim>, Fault> {
        let mut claims = Vec::new();
        if self.ledger.head.next_offset >= until {
            return Ok(claims);
        }
        let mut reader = self.cluster.read(Destination::Journal, stretch(self.ledger.head.next_offset, until)).await?;
        let mut pages: Vec<Page> = Vec::new();
        let mut entries = 0;
        while let Some(records) = reader.next().await? {
            for stored in records {
                let offset = stored.place.offset;
                let record = decode(&self.codec, &stored)?;
                self.ledger.take(offset, &record).map_err(|what| JournalFault::Inconsistent { what })?;
                self.records_read += 1;
                match record {
                    Record::Page(page) => {
                        entries += page.legs.len() + page.dead.len();
                        pages.push(page);
                    }
                    Record::Claim(claim) => claims.push(SeenClaim { nonce: claim.nonce, offset }),
                    _ => {}
                }
            }
            if entries >= ENTRIES_AT_ONCE_MAX || pages.len() >= PAGES_AT_ONCE_MAX {
                self.view.apply(std::mem::take(&mut pages), self.ledger.head.clone()).await?;
                entries = 0;
            }
        }
        self.ledger.head.next_offset = self.ledger.head.next_offset.max(until);
        if !pages.is_empty() {
            self.view.apply(pages, self.ledger.head.clone()).await?;
        }
        Ok(claims)
    }

    /// Reads the whole journal once more and compares the view with it.
    pub(crate) async fn compare(&self) -> Result<Comparison, Fault> {
        let mut comparison = Comparison { pages: self.ledger.pages.len(), ..Comparison::default() };
        let mut reader = self.cluster.read(Destination::Journal, stretch(0, self.ledger.head.next_offset)).await?;
        while let Some(records) = reader.next().await? {
            for stored in records {
                let record = decode(&self.codec, &stored)?;
                let Record::Page(page) = record else { continue };
                if !self.ledger.is_live(page.seq, &page.unit, page.generation) {
                    continue;
                }
                let entries: Vec<_> = page.entries().collect();
                comparison.entries += entries.len();
                let found = self.view.find(entries.iter().map(|entry| entry.key).collect()).await?;
                // A later page may have taken the key over, with a newer content.
                let has = |known: &Remembered, entry: &Entry| {
                    known.seq > page.seq || (known.seq == page.seq && known.seen == entry.seen)
                };
                let pairs = found.iter().zip(&entries);
                let missing =
                    pairs.filter(|(known, entry)| !known.as_ref().is_some_and(|known| has(known, entry))).count();
                if missing > 0 {
                    let page = PageOf { seq: page.seq, unit: page.unit, generation: page.generation };
                    comparison.missing.push((page, missing));
                }
            }
        }
        let mut after = None;
        loop {
            let entries = self.view.entries_after(after).await?;
            let Some((last, _)) = entries.last() else { return Ok(comparison) };
            after = Some(*last);
            comparison.unknown += entries.iter().filter(|(_, known)| self.is_unknown(known)).count();
        }
    }

    /// Whether an entry of the view counts although no page of the journal has it, as far as the journal was read.
    fn is_unknown(&self, known: &Remembered) -> bool {
        if known.seq > self.ledger.head.last_seq {
            return false;
        }
        let is_live = self.ledger.is_live(known.seq, &known.unit, known.generation);
        let page = self.ledger.pages.range((known.seq, None)..).next();
        is_live && page.is_none_or(|((seq, _), _)| *seq != known.seq)
    }
}

/// The view beside the journal.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    pages: usize,
    entries: usize,
    /// By page: how many entries of the journal the view lacks or has otherwise.
    pub(crate) missing: Vec<(PageOf, usize)>,
    /// Entries of the view that no page of the journal has.
    unknown: usize,
}

impl std::fmt::Display for Comparison {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { pages, entries, missing, unknown } = self;
        let missing: usize = missing.iter().map(|(_, missing)| missing).sum();
        if missing + unknown == 0 {
            write!(f, "the view equals the journal: {} with {entries} identities", count(*pages as u64, "page"))
        } else {
            write!(
                f,
                "the view DIFFERS from the journal: of {entries} identities on {pages} pages it lacks {missing}, and it has {unknown} that the journal does not have; build it anew with call-legs state rebuild"
            )
        }
    }
}

/// What a journal adds up to, read from its beginning and without a view: for those who only look.
///
/// # Errors
/// When Kafka does not answer, or the journal cannot be read.
pub async fn read_journal<C: Cluster>(cluster: &C) -> Result<Ledger, ConnectorError> {
    let ends = cluster.ends(Destination::Journal).await.map_err(|error| ConnectorError::from(Fault::from(error)))?;
    let until = ends.first().map_or(0, |ends| ends.stable);
    Ok(read_journal_to(cluster, &JournalCodec::new(), until).await?)
}

pub(crate) async fn read_journal_to<C: Cluster>(
    cluster: &C,
    codec: &JournalCodec,
    until: i64,
) -> Result<Ledger, Fault> {
    let mut ledger = Ledger::default();
    let mut reader = cluster.read(Destination::Journal, stretch(0, until)).await?;
    while let Some(records) = reader.next().await? {
        for stored in records {
            let record = decode(codec, &stored)?;
            ledger.take(stored.place.offset, &record).map_err(|what| JournalFault::Inconsistent { what })?;
        }
    }
    ledger.check().map_err(|what| JournalFault::Inconsistent { what })?;
    Ok(ledger)
}

/// Compares the view in a state directory with the journal, without claiming anything.
///
/// # Errors
/// When Kafka does not answer, or view or journal cannot be read.
pub async fn verify_view<C: Cluster, V: View>(cluster: Arc<C>, view: Arc<V>) -> Result<String, ConnectorError> {
    let mut follower = Follower::new(cluster, view, StatusBoard::default());
    let ends = follower.ends().await?;
    let is_empty = follower.view.load().await.map_err(Fault::from)?.is_none();
    if is_empty {
        return Ok("there is no view yet: the next start builds it from the journal".to_owned());
    }
    follower.load(ends).await?;
    Ok(follower.compare().await?.to_string())
}

pub(crate) fn decode(codec: &JournalCodec, stored: &StoredRecord) -> Result<Record, Fault> {
    codec
        .decode(&stored.key, stored.payload.as_deref())
        .map_err(|error| JournalFault::Unreadable { offset: stored.place.offset, reason: error.to_string() }.into())
}

pub(crate) fn stretch(from: i64, until: i64) -> Vec<Stretch> {
    vec![Stretch { partition: 0, from, until }]
}
