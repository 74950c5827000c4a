//! The seam for proofs: what a node does that no client sees, told as events of one `tracing` target.
//!
//! A simulation always listens to it; on a real node `RUST_LOG=highwater::observe=trace` does. Nobody listening costs one
//! relaxed load per place; what is costly to compute is asked for only where [`is_on`] says so. Fields are numbers, booleans
//! and short texts; `fact` names the kind. Whoever listens knows from the task which node speaks.

use crate::{GroupId, ReplicaId};

/// The target of these events.
pub const TARGET: &str = "highwater::observe";

/// Whether anybody listens.
#[inline]
pub fn is_on() -> bool {
    tracing::enabled!(target: TARGET, tracing::Level::TRACE)
}

/// A state was reached that a set of runs must reach, or it proved little.
#[inline]
pub fn reached(what: &'static str) {
    tracing::trace!(target: TARGET, fact = "reached", what);
}

/// A replica leads a term from now on.
#[inline]
pub(crate) fn leads(group: GroupId, replica: ReplicaId, term: u64) {
    tracing::trace!(target: TARGET, fact = "leads", group = group.0, replica = replica.0, term);
}

/// A replica says that its entries below `end` are on disk.
#[inline]
pub(crate) fn kept(group: GroupId, replica: ReplicaId, end: u64) {
    tracing::trace!(target: TARGET, fact = "kept", group = group.0, replica = replica.0, end);
}

/// A replica takes entries back, from `end` on.
#[inline]
pub(crate) fn cut(group: GroupId, replica: ReplicaId, end: u64) {
    tracing::trace!(target: TARGET, fact = "cut", group = group.0, replica = replica.0, end);
}

/// Who votes in a group as of a committed entry: `1,2,3`, and while they change `1,2,3 1,2,4`.
pub(crate) fn voters(group: GroupId, index: u64, sets: impl Iterator<Item = impl Iterator<Item = ReplicaId>>) {
    if !is_on() {
        return;
    }
    let set = |voters: &mut dyn Iterator<Item = ReplicaId>| {
        voters.map(|replica| replica.0.to_string()).collect::<Vec<_>>().join(",")
    };
    let sets = sets.map(|mut voters| set(&mut voters)).collect::<Vec<_>>().join(" ");
    tracing::trace!(target: TARGET, fact = "voters", group = group.0, index, sets);
}

/// A replica starts: its log ends before `end`, its state holds the entries below `state`.
#[inline]
pub(crate) fn opened(group: GroupId, replica: ReplicaId, end: u64, state: u64) {
    tracing::trace!(target: TARGET, fact = "opened", group = group.0, replica = replica.0, end, state);
}

/// A replica's files are damaged, as it seems to its node.
#[inline]
pub(crate) fn faulty(group: GroupId, replica: ReplicaId, why: &str) {
    tracing::trace!(target: TARGET, fact = "faulty", group = group.0, replica = replica.0, why);
}

/// A digest of bytes (FNV-1a), for comparing replicas.
pub fn digest<'b>(parts: impl IntoIterator<Item = &'b [u8]>) -> u64 {
    parts
        .into_iter()
        .flatten()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}
