//! Recovering: a session where there is none, the adoption of what the read-back has found, a view built anew.

use std::sync::Arc;

use super::claim;
use super::owner::{Decision, Owner, Ownership, Session};
use super::transaction::{CommitError, Draft, status_message};
use crate::connector::fault::Fault;
use crate::connector::stage::{root, traced};
use crate::core::feed::UnitFeed;
use crate::core::journal::UnitProgress;
use crate::sink::Cluster;
use crate::store::View;
use crate::telemetry::Role;

impl<C: Cluster, V: View> Owner<C, V> {
    /// Makes sure that there is a session, by taking over where there is none; however long it takes.
    pub(crate) async fn own(&mut self) -> Result<(), Fault> {
        while !self.ownership.is_owning() {
            let recovering = async {
                let session = self.take_over().await?;
                self.adopt(session).await
            };
            match traced(root!("recover"), recovering).await {
                Ok(()) => {
                    let now = self.clock.now();
                    self.status.update(|status| {
                        status.role = Role::Owner;
                        status.owner_since.get_or_insert(now);
                        status.sink_trouble = None;
                    });
                }
                Err(fault) => self.recover_from(fault).await?,
            }
        }
        Ok(())
    }

    /// Commits what the read-back has found before anything is looked up, so that whoever classifies knows it.
    async fn adopt(&mut self, session: Session<C::Producer>) -> Result<(), Fault> {
        self.ownership = Ownership::Owning(session);
        while self.ownership.session().is_some_and(|session| !session.adopted.is_empty()) {
            self.adopt_some().await?;
        }
        Ok(())
    }

    async fn adopt_some(&mut self) -> Result<(), Fault> {
        let mut units: Vec<UnitProgress> = self.follower.ledger.head.units.values().cloned().collect();
        if self.decision == Some(Decision::Adopt) {
            let adopted = self.ownership.session().into_iter().flat_map(|session| &session.adopted);
            adopted.for_each(|page| page.belong_to(&mut units, self.terms.source));
        }
        match self.commit(Draft { units, ..Draft::default() }).await {
            Ok(()) => Ok(()),
            Err(CommitError::Fault(fault)) => Err(fault),
            Err(CommitError::Content(_)) => Err(Fault::Doubtful("Kafka refuses a page of the journal".to_owned())),
        }
    }

    /// Empties the view and builds it anew from the journal, while journal and feed show that we live.
    pub(crate) async fn rebuild_view(&mut self, feeds: Vec<UnitFeed>) -> Result<(), Fault> {
        let Some(mut session) = self.ownership.take_session() else {
            return Err(Fault::Doubtful("no session".to_owned()));
        };
        let codec = Arc::clone(&self.follower.codec);
        let rebuilding = self.follower.rebuild();
        let Session { producer, claim, delivery, out_offsets, .. } = &mut session;
        let statuses = || {
            let now = |feed: &UnitFeed| UnitFeed {
                at: self.clock.now(),
                delivery: *delivery,
                out_offsets: out_offsets.clone(),
                ..feed.clone()
            };
            let message = |feed| status_message(&now(feed), &self.feed_encoder, &self.terms.status_framing);
            feeds.iter().map(message).collect()
        };
        claim::repeated_during(producer, &codec, claim, self.terms.beat, statuses, rebuilding).await?;
        self.ownership = Ownership::Owning(session);
        Ok(())
    }
}
