//! What frames say. Fields have one-letter names on the wire; a list is never trusted for its length.

mod cluster;
mod data;
mod groups;
mod refusal;
mod topics;

pub use cluster::*;
pub use data::*;
pub use groups::*;
pub use refusal::*;
pub use topics::*;

use super::FrameError;
use bytes::{BufMut, BytesMut};
use serde::Serialize;

macro_rules! messages {
    ($($(#[$doc:meta])* $kind:ident = $n:literal),* $(,)?) => {
        /// Which message a head is. Numbers are never used again for another.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Kind { $($(#[$doc])* $kind = $n),* }

        impl Kind {
            /// All kinds.
            pub const ALL: &[Kind] = &[$(Kind::$kind),*];
            /// The kind of this number.
            pub fn from_u8(n: u8) -> Option<Self> {
                match n { $($n => Some(Self::$kind),)* _ => None }
            }
        }

        /// A decoded head.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Message { $($(#[$doc])* $kind($kind)),* }

        impl Message {
            /// Its kind.
            pub fn kind(&self) -> Kind {
                match self { $(Self::$kind(_) => Kind::$kind),* }
            }
            /// Appends the head's bytes.
            pub fn encode(&self, out: &mut BytesMut) {
                let mut serializer = rmp_serde::Serializer::new(out.writer()).with_struct_map();
                match self { $(Self::$kind(head) => head.serialize(&mut serializer)),* }
                    .expect("plain heads in memory always encode")
            }
            /// Reads the head of a frame of this kind.
            pub fn decode(kind: Kind, head: &[u8]) -> Result<Self, FrameError> {
                let failed = |error| FrameError::Head { kind, why: why(&error, head.len()) };
                match kind { $(Kind::$kind => crate::types::decode(head).map(Self::$kind).map_err(failed)),* }
            }
        }

        $(impl From<$kind> for Message {
            fn from(head: $kind) -> Self { Self::$kind(head) }
        })*
    };
}

/// Why a head of so many bytes does not decode.
fn why(error: &rmp_serde::decode::Error, len: usize) -> String {
    use rmp_serde::decode::Error;
    match error {
        // A slice can only end: what the decoder says then is of readers.
        Error::InvalidMarkerRead(_) | Error::InvalidDataRead(_) => {
            format!("it ends after {len} bytes, with more announced")
        }
        error => error.to_string(),
    }
}

messages! {
    /// Refusal of a request; any request may be answered with it.
    Refused = 1,
    /// First frame of a connection.
    Hello = 2,
    /// Its answer.
    Welcome = 3,
    /// Asks for nodes, topics and leaders.
    Metadata = 4,
    /// Its answer.
    MetadataAnswer = 5,
    /// Pushes batches to one partition.
    Produce = 6,
    /// Its answer.
    Produced = 7,
    /// A long poll.
    Fetch = 8,
    /// Its answer.
    Fetched = 9,
    /// Asks for offsets by meaning.
    ListOffsets = 10,
    /// Its answer.
    ListedOffsets = 11,
    /// Asks for a producer id.
    InitProducer = 12,
    /// Its answer.
    ProducerReady = 13,
    /// Starts a push subscription on this link.
    Subscribe = 14,
    /// Records for a subscription, unasked within its credit.
    Delivery = 15,
    /// Gives credit to a subscription.
    Grant = 16,
    /// Ends a subscription; answered with `Done` behind its last delivery.
    Unsubscribe = 17,
    /// It is done; nothing more to say.
    Done = 18,
    /// Makes a topic.
    CreateTopic = 19,
    /// Its answer.
    TopicCreated = 20,
    /// Removes a topic.
    DeleteTopic = 21,
    /// Changes a topic's settings.
    AlterTopic = 22,
    /// Asks where a group lives.
    FindGroup = 23,
    /// Its answer.
    GroupFound = 24,
    /// Joins a group, or joins it again with another subscription.
    Join = 25,
    /// Its answer.
    Joined = 26,
    /// A member is alive; answered when there is something new for it, or at once.
    Heartbeat = 27,
    /// Its answer.
    HeartbeatAnswer = 28,
    /// Leaves a group.
    Leave = 29,
    /// Commits offsets.
    Commit = 30,
    /// Its answer.
    Committed = 31,
    /// Asks for groups.
    ListGroups = 32,
    /// Its answer.
    GroupList = 33,
    /// Asks for one group.
    DescribeGroup = 34,
    /// Its answer.
    GroupDescription = 35,
    /// Moves the committed offsets of a group without members.
    ResetGroup = 36,
    /// Removes a group without members.
    DeleteGroup = 37,
    /// Asks how the cluster is.
    ClusterStatus = 38,
    /// Its answer.
    ClusterStatusAnswer = 39,
    /// Asks a partition's leader to hand over to another node (operators and tests).
    TransferLeader = 40,
    /// Fixes where partitions of a group start.
    Start = 41,
    /// Its answer.
    Started = 42,
}
