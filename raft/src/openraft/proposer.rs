//! Proposals of one group, in order, into Raft.
//!
//! **Invariant:** Raft gets proposals in the order of [`Replica::propose`]; each has exactly one outcome: it is applied,
//! or refused.
//! The queue is unbounded because its owner holds permits for all that is in it.

use super::{
    replica::Replica,
    types::{Outcome, Proposal},
};
use crate::Payload;
use openraft_rt::{Instant as _, WatchReceiver};
use std::sync::Arc;
use tokio::{sync::mpsc, time::Instant};

/// A proposal on its way.
pub(crate) struct Proposed {
    /// The owner's number.
    pub(crate) proposal: u64,
    /// Only in this term.
    pub(crate) term: u64,
    /// The content of the entry.
    pub(crate) payload: Payload,
}

pub(super) async fn propose(replica: Arc<Replica>, mut proposals: mpsc::UnboundedReceiver<Proposed>) {
    // `None` at first: a lease may have lapsed before the first proposal.
    let mut last: Option<Instant> = None;
    while let Some(Proposed { proposal, term, payload }) = proposals.recv().await {
        let now = Instant::now();
        if last.is_none_or(|last| now - last > replica.shared.options.timing.heartbeat) && lease_lapses(&replica) {
            // A quorum is asked once; if it does not answer, Raft refuses the proposal.
            let _ = replica.barrier().await;
        }
        last = Some(now);
        replica.stirred.send_replace(now);
        let outcome = Outcome::new(replica.shared.clone(), proposal);
        let write = replica.raft.write(Proposal { payload, id: Some(proposal) }).with_leader(term).responder(outcome);
        // An error is Raft's end: the outcome was told when the responder was dropped.
        let _ = write.await;
    }
}

/// Whether a leader's lease has run out or is about to: the group was idle.
fn lease_lapses(replica: &Replica) -> bool {
    if !replica.role.borrow().leading {
        return false;
    }
    let metrics = replica.raft.data_metrics();
    let acked = metrics.borrow_watched().last_quorum_acked;
    acked.is_none_or(|acked| acked.elapsed() > replica.shared.options.timing.election_max / 2)
}
