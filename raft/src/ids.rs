//! Identities. Each is a number that is never used twice for another thing.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $format:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }
    };
}

id!(
    /// A node of the cluster, as its config names it. Seeds and all others are numbered from 1, below 2^16.
    NodeId(u32), "{}"
);
id!(
    /// A Raft group: 0 the controller, 1–16 the homes of consumer groups, 1,024 and above partitions.
    GroupId(u64), "{}"
);
id!(
    /// openraft's NodeId: one life of one voter of one group. Given out by the controller, never used twice.
    ReplicaId(u64), "{}"
);
id!(
    /// A data directory's life: random at first start, stored. A changed one means that all its replicas are dead.
    DirectoryId(u64), "{:016x}"
);
id!(
    /// A process's life: random per start. A new one means that the old process is dead.
    BootId(u64), "{:016x}"
);
