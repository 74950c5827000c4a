//! What a replica does that no client sees: entries applied, states at boundaries.

use super::Identity;
use highwater_raft::{group::Committed, observe::TARGET};

pub(super) use highwater_raft::observe::reached;

/// An entry was applied.
#[inline]
pub(super) fn applied(identity: &Identity, entry: &Committed) {
    if highwater_raft::observe::is_on() {
        let (group, replica) = (identity.group.0, identity.replica.0);
        let digest = highwater_raft::observe::digest(entry.payload.parts().iter().map(|part| &part[..]));
        tracing::trace!(target: TARGET, fact = "applied", group, replica, index = entry.index, term = entry.term, digest);
    }
}

/// The machine's state at a boundary of segments, which is the same index on every replica.
#[inline]
pub(super) fn boundary(identity: &Identity, index: u64, state: &[u8]) {
    if highwater_raft::observe::is_on() {
        let (group, replica) = (identity.group.0, identity.replica.0);
        let digest = highwater_raft::observe::digest([state]);
        tracing::trace!(target: TARGET, fact = "boundary", group, replica, index, digest);
    }
}
