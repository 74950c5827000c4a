//! What nodes do that no client sees: the product's `observe.rs` modules say it, as events of one `tracing` target.

use serde::{Deserialize, Serialize};

/// What a node did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub enum Fact {
    /// A replica of a partition published its marks.
    Marks {
        /// Its Raft group.
        group: u64,
        /// Its number within the topic.
        partition: u32,
        /// Which replica.
        replica: u64,
        /// First offset.
        log_start: u64,
        /// Next offset.
        high_watermark: u64,
        /// Bytes of all batches below, counted from anywhere in this life.
        bytes: u64,
        /// It leads.
        leads: bool,
    },
    /// A waiter came to a partition.
    Parked {
        /// The Raft group.
        group: u64,
        /// The partition.
        partition: u32,
        /// Unique on the node.
        token: u64,
        /// It waits for bytes; else for an offset.
        by_bytes: bool,
        /// The mark at which it wants to be woken.
        mark: u64,
    },
    /// A waiter went by itself.
    Unparked {
        /// The Raft group.
        group: u64,
        /// Which.
        token: u64,
    },
    /// A waiter was woken.
    Fired {
        /// The Raft group.
        group: u64,
        /// Which.
        token: u64,
        /// Because its mark was reached.
        ready: bool,
    },
    /// A replica leads from now on.
    Leads {
        /// The Raft group.
        group: u64,
        /// Which replica.
        replica: u64,
        /// In which term.
        term: u64,
    },
    /// A replica said that entries are on its disk.
    Kept {
        /// The Raft group.
        group: u64,
        /// Which replica.
        replica: u64,
        /// All below this.
        end: u64,
    },
    /// Who votes, as of an entry that was applied.
    Voters {
        /// The Raft group.
        group: u64,
        /// The entry's index.
        index: u64,
        /// Replicas, `1,2,3`; while they change, the former ones and the next ones: `1,2,3 1,2,4`.
        sets: String,
    },
    /// A replica took entries back, as a new leader wants it.
    Cut {
        /// The Raft group.
        group: u64,
        /// Which replica.
        replica: u64,
        /// From this on.
        end: u64,
    },
    /// A replica started.
    Opened {
        /// The Raft group.
        group: u64,
        /// Which replica.
        replica: u64,
        /// Its log ends before this.
        end: u64,
        /// Its state holds the entries below this.
        state: u64,
    },
    /// A replica's files seem damaged to its node.
    Faulty {
        /// The Raft group.
        group: u64,
        /// Which replica.
        replica: u64,
        /// What does not fit.
        why: String,
    },
    /// A replica applied an entry.
    Applied {
        /// The Raft group.
        group: u64,
        /// Which replica.
        replica: u64,
        /// The entry's index …
        index: u64,
        /// … and term.
        term: u64,
        /// A hash over its bytes.
        digest: u64,
    },
    /// A replica's machine at a boundary of segments.
    Boundary {
        /// The Raft group.
        group: u64,
        /// Which replica.
        replica: u64,
        /// Index of the last entry in it.
        index: u64,
        /// A hash over the checkpoint.
        digest: u64,
    },
    /// A group's home told a member what to consume.
    Told {
        /// The group.
        of: String,
        /// The member.
        member: String,
        /// The generation of this assignment.
        generation: u64,
        /// `topic/partition`, separated by spaces.
        partitions: String,
    },
    /// A member said what it consumes.
    Said {
        /// The group.
        of: String,
        /// The member.
        member: String,
        /// The newest generation that it knows.
        generation: u64,
        /// `topic/partition`, separated by spaces.
        partitions: String,
    },
    /// A member left or expired.
    Gone {
        /// The group.
        of: String,
        /// The member.
        member: String,
        /// The group's generation after it.
        generation: u64,
        /// Index of the entry that did it.
        index: u64,
    },
    /// An offset was committed.
    Committed {
        /// The group.
        of: String,
        /// Index of the entry that did it.
        index: u64,
        /// `topic/partition`.
        place: String,
        /// Which offset.
        offset: u64,
        /// Somebody reset the group: it may go back.
        reset: bool,
    },
    /// Credit came for a push subscription.
    Granted {
        /// Unique on the node.
        session: u64,
        /// The subscription's link.
        link: u64,
        /// The subscription begins with it.
        fresh: bool,
        /// Records more.
        records: u64,
        /// Bytes more.
        bytes: u64,
    },
    /// Records were sent to a push subscription.
    Delivered {
        /// Unique on the node.
        session: u64,
        /// The subscription's link.
        link: u64,
        /// So many.
        records: u64,
        /// Their batches' bytes.
        bytes: u64,
    },
    /// A state was reached that a set of runs must reach.
    Reached {
        /// Which.
        what: String,
    },
}
