//! What a client counts. Tests hold the promises about routing with it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counts since the client was made.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Stats { $($(#[$doc])* pub $name: u64),* }

        #[derive(Default)]
        pub(super) struct Counters { $(pub(super) $name: AtomicU64),* }

        impl Counters {
            pub(super) fn snapshot(&self) -> Stats {
                Stats { $($name: self.$name.load(Relaxed)),* }
            }
        }
    };
}

counters! {
    /// Connections that were made.
    connections,
    /// Attempts that made none.
    dials_failed,
    /// Connections that broke.
    connections_lost,
    /// Answers about metadata.
    metadata_answers,
    /// Changes of a partition's leader that the client learned of.
    leader_changes,
    /// Produce requests sent, repeated ones included.
    produce_requests,
    /// Produce requests that were sent again.
    produce_repeats,
    /// Batches acknowledged.
    batches_acknowledged,
    /// Batches that were there already when they were sent again.
    duplicates,
    /// Produce requests refused because the node does not lead.
    produce_refused_not_leader,
    /// The same request (a batch, or the question for a partition's records or offsets) refused twice by the same leader epoch's
    /// node: 0, or routing is broken.
    refused_twice,
    /// Requests that a producer or consumer sent to a node after it refused one of its own for the same partition and epoch: 0,
    /// or routing is broken.
    sent_after_refusal,
    /// Long polls sent.
    fetch_requests,
    /// Partitions of long polls and subscriptions that were refused because the node does not lead.
    fetch_refused_not_leader,
    /// Push subscriptions started.
    subscriptions,
    /// Records given to the program.
    records_delivered,
    /// Records given to the program that a member of the group was given before.
    records_redelivered,
    /// Commits that were taken.
    commits,
    /// Joins of a group.
    joins,
}

impl Counters {
    pub(super) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Relaxed);
    }

    pub(super) fn one(counter: &AtomicU64) {
        Self::add(counter, 1);
    }
}
