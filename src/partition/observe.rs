//! What a partition's replica does that no client sees: marks as they are published, waiters and their wake-ups.

use super::{
    handle::Shared,
    marks::{Marks, Role},
};
use crate::replica::{Fired, WakeAt, Why};
use highwater_raft::observe::TARGET;

pub(super) use highwater_raft::observe::reached;

/// Marks were published.
#[inline]
pub(super) fn marks(shared: &Shared, marks: &Marks) {
    let (group, partition, replica) = (shared.group.0, shared.partition.partition, shared.replica.0);
    let Marks { log_start, high_watermark, bytes_at_hw: bytes, role, ready, .. } = *marks;
    let leads = role == Role::Leader;
    if !ready {
        // Nothing is served.
        return;
    }
    tracing::trace!(
        target: TARGET, fact = "marks", group, partition, replica, log_start, high_watermark, bytes, leads
    );
}

/// A waiter came.
#[inline]
pub(super) fn parked(shared: &Shared, wake_at: WakeAt, token: u64) {
    let (group, partition) = (shared.group.0, shared.partition.partition);
    let (by_bytes, mark) = match wake_at {
        WakeAt::Bytes(at) => (true, at),
        WakeAt::Offset(at) => (false, at),
    };
    tracing::trace!(target: TARGET, fact = "parked", group, partition, token, by_bytes, mark);
}

/// A waiter went by itself.
#[inline]
pub(super) fn unparked(shared: &Shared, token: u64) {
    tracing::trace!(target: TARGET, fact = "unparked", group = shared.group.0, token);
}

/// A waiter was woken.
#[inline]
pub(super) fn fired(shared: &Shared, fired: &Fired) {
    let ready = fired.why == Why::Ready;
    tracing::trace!(target: TARGET, fact = "fired", group = shared.group.0, token = fired.token, ready);
}
