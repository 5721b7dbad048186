//! Verifying: the view compared with the journal, beside the writer.

use std::iter::zip;
use std::sync::Arc;

use crate::connector::fault::Fault;
use crate::connector::write::follower::{Follower, read_journal_to};
use crate::connector::write::request::{Lane, PageOf, Request, WriterHandle};
use crate::sink::Cluster;
use crate::store::View;
use crate::telemetry::StatusBoard;

/// Compares the view with the journal while the writer goes on, in words.
///
/// # Errors
/// When Kafka or the view does not answer, or the journal cannot be read.
pub(crate) async fn verify_beside<C: Cluster, V: View>(
    cluster: Arc<C>,
    view: Arc<V>,
    writer: WriterHandle,
) -> Result<String, Fault> {
    let wipes = writer.wipes();
    let mut follower = Follower::new(cluster, view, StatusBoard::default());
    let until = follower.ends().await?.stable;
    follower.ledger = read_journal_to(&*follower.cluster, &follower.codec, until).await?;
    // The view lacks what is just being written; once the writer answers it has all of it.
    writer.ask(Lane::Old, |reply| Request::WhichCount(Vec::new(), reply)).await?;
    let mut comparison = follower.compare().await?;
    // Pages that do not count any more were forgotten meanwhile.
    let (pages, missing): (Vec<PageOf>, Vec<usize>) = comparison.missing.into_iter().unzip();
    let asked = pages.clone();
    let live = writer.ask(Lane::Old, |reply| Request::WhichCount(asked, reply)).await?;
    let is_live = live.into_iter();
    comparison.missing =
        zip(zip(pages, missing), is_live).filter(|(_, is_live)| *is_live).map(|(page, _)| page).collect();
    if writer.wipes() == wipes {
        Ok(comparison.to_string())
    } else {
        Ok("the view was built anew from the journal meanwhile: ask again".to_owned())
    }
}
