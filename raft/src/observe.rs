//! The seam for proofs: what a node does that no client sees, told as events of one `tracing` target.
//!
//! A simulation always listens to it; on a real node `RUST_LOG=highwater::observe=trace` does. Nobody listening costs one
//! relaxed load per place; what is costly to compute is asked for only where [`is_on`] says so. Fields are numbers, booleans
//! and short texts; `fact` names the kind. Whoever listens knows from the task which node speaks.

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

/// A digest of bytes (FNV-1a), for comparing replicas.
pub fn digest<'b>(parts: impl IntoIterator<Item = &'b [u8]>) -> u64 {
    parts
        .into_iter()
        .flatten()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}
