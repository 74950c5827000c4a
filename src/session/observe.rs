//! What a session does that no client sees: credit as it came, and what was sent for it.

use super::machine::LinkId;
use highwater_raft::observe::TARGET;

pub(super) use highwater_raft::observe::reached;

/// A client gave credit, at the start of its subscription or later.
#[inline]
pub(super) fn granted(session: u64, link: LinkId, fresh: bool, records: u32, bytes: u32) {
    tracing::trace!(target: TARGET, fact = "granted", session, link, fresh, records, bytes);
}

/// A delivery was handed to the link.
#[inline]
pub(super) fn delivered(session: u64, link: LinkId, records: u64, bytes: u64) {
    tracing::trace!(target: TARGET, fact = "delivered", session, link, records, bytes);
}
