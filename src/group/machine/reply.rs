//! What the proposer of a command is told, and what a leader does.

use crate::{
    advice::{Advice, Reaction},
    limits,
    types::{Generation, GroupName, MemberId, Position, TopicPartition},
};
use thiserror::Error;

/// Outcome of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It is a member.
    Joined {
        /// Its name.
        member: MemberId,
        /// The session that begins with this join.
        session: u64,
        /// How long it may be silent, milliseconds.
        session_ms: u32,
        /// The group's generation.
        generation: Generation,
        /// Whether this join made the group.
        created: bool,
        /// Where the group starts.
        start: Position,
    },
    /// It is no member any more.
    Left,
    /// It was silent for too long and is no member any more.
    Expired,
    /// It joined again since: nothing expired.
    Kept,
    /// What it consumes is noted.
    Reconciled {
        /// The group's generation now.
        generation: Generation,
    },
    /// Offsets are committed, but for these by place in the command.
    Committed {
        /// Refusals.
        refused: Vec<(u32, Refusal)>,
    },
    /// What is committed in the partitions of the command that the member owns.
    Started {
        /// Where they start.
        offsets: Vec<(TopicPartition, u64)>,
    },
    /// Offsets were moved.
    Reset,
    /// The group is gone.
    Deleted,
    /// Topics are known as of this version.
    TopicsKnown {
        /// The newest version applied.
        version: u64,
    },
    /// Nothing was changed.
    Refused(Refusal),
}

/// Why a command, or one offset of it, changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// No such group.
    #[error("group {group} does not exist")]
    UnknownGroup {
        /// Which.
        group: GroupName,
    },
    /// No such member.
    #[error("{member} is not a member of group {group} (any more)")]
    UnknownMember {
        /// Which group.
        group: GroupName,
        /// Who.
        member: MemberId,
    },
    /// The partition belonged to the member in a later generation only.
    #[error("generation {found} is older than {granted}, in which partition {partition} was assigned to the member")]
    StaleGeneration {
        /// Which partition.
        partition: TopicPartition,
        /// The generation in which the member got it.
        granted: Generation,
        /// The generation that the member named.
        found: Generation,
    },
    /// Another member consumes the partition, or nobody.
    #[error("partition {partition} is not assigned to the member")]
    NotOwner {
        /// Which partition.
        partition: TopicPartition,
        /// Who consumes it.
        owner: Option<MemberId>,
    },
    /// The member made a later commit, which is applied.
    #[error("commit {n} of the member came behind its commit {last}")]
    OldCommit {
        /// Which commit.
        n: u64,
        /// The last one that is applied.
        last: u64,
    },
    /// The home knows no such topic or partition.
    #[error("partition {partition} is not known")]
    UnknownPartition {
        /// Which.
        partition: TopicPartition,
    },
    /// Only a group without members can be reset, deleted, or committed to from outside.
    #[error("group {group} has {members} members")]
    NotEmpty {
        /// Which group.
        group: GroupName,
        /// How many members.
        members: u32,
    },
    /// Work queues are not there yet.
    #[error("group {group} asks for leases: this version has offset cursors only")]
    LeasesUnsupported {
        /// Which group.
        group: GroupName,
    },
    /// A group is full.
    #[error("group {group} has {} members, no more are accepted", limits::MEMBERS_PER_GROUP_MAX)]
    TooManyMembers {
        /// Which group.
        group: GroupName,
    },
    /// A home is full.
    #[error("the group's home has {groups} groups, no more are accepted")]
    TooManyGroups {
        /// How many it has.
        groups: u32,
    },
    /// A subscription is too long.
    #[error("the member subscribes to {topics} topics, at most {} are accepted", limits::TOPICS_PER_MEMBER_MAX)]
    TooManyTopics {
        /// How many.
        topics: usize,
    },
    /// The client's words beside an offset are too long.
    #[error("the metadata has {bytes} bytes, at most {} are accepted", limits::COMMIT_METADATA_BYTES_MAX)]
    MetadataTooLong {
        /// Their length.
        bytes: usize,
    },
    /// Offsets end at 2^63.
    #[error("{offset} is not an offset")]
    BadOffset {
        /// What was asked for.
        offset: u64,
    },
    /// The bytes of a command do not decode.
    #[error("command {kind} does not decode: {why}")]
    Malformed {
        /// Its kind.
        kind: u8,
        /// What is wrong.
        why: String,
    },
    /// A kind that this version does not have.
    #[error("command {kind} is not known to this version")]
    UnknownCommand {
        /// Its kind.
        kind: u8,
    },
}

impl Advice for Refusal {
    fn reaction(&self) -> Reaction {
        match self {
            Self::UnknownPartition { .. } => Reaction::Refresh,
            Self::UnknownGroup { .. }
            | Self::UnknownMember { .. }
            | Self::StaleGeneration { .. }
            | Self::NotOwner { .. }
            | Self::OldCommit { .. } => Reaction::Reject,
            Self::NotEmpty { .. } | Self::LeasesUnsupported { .. } => Reaction::Reject,
            Self::TooManyMembers { .. } | Self::TooManyGroups { .. } | Self::TooManyTopics { .. } => Reaction::Reject,
            Self::MetadataTooLong { .. } | Self::BadOffset { .. } => Reaction::Reject,
            Self::Malformed { .. } | Self::UnknownCommand { .. } => Reaction::Reject,
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::UnknownGroup { .. } => "check the group's name, or join it: the first member makes it".into(),
            Self::UnknownMember { .. } => "join the group again; what was not committed is given to others".into(),
            Self::StaleGeneration { .. } | Self::NotOwner { .. } => {
                "send a heartbeat to learn the assignment, and commit only what is in it".into()
            }
            Self::OldCommit { .. } => "nothing is to be done: the later commit counts".into(),
            Self::UnknownPartition { .. } => "ask for metadata again and check topic and partition".into(),
            Self::NotEmpty { .. } => "stop the group's members first, or wait until their sessions end".into(),
            Self::LeasesUnsupported { .. } => {
                "use a group of kind offset, or wait for a version with work queues".into()
            }
            Self::TooManyMembers { .. } => {
                "run fewer members: more of them than partitions have nothing to do anyway".into()
            }
            Self::TooManyGroups { .. } => "delete groups that nobody uses any more".into(),
            Self::TooManyTopics { .. } => "subscribe to fewer topics, or spread them over several groups".into(),
            Self::MetadataTooLong { .. } => "keep long notes elsewhere and commit a reference".into(),
            Self::BadOffset { .. } => "commit offsets that a fetch has returned".into(),
            Self::Malformed { .. } | Self::UnknownCommand { .. } => "bring all nodes to the same version".into(),
        }
    }
}

/// What the home's leader does because of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The assignment of these members differs from what they knew: answer their parked heartbeats.
    Assigned {
        /// Which group.
        group: GroupName,
        /// Its generation now.
        generation: Generation,
        /// Who.
        members: Vec<MemberId>,
    },
    /// A session begins (or goes on, at a new leader): propose [`Expire`](super::Expire) when the member is silent for so long.
    Watch {
        /// Which group.
        group: GroupName,
        /// Who.
        member: MemberId,
        /// Which session.
        session: u64,
        /// How long, milliseconds.
        session_ms: u32,
    },
    /// It is no member any more: tell its parked heartbeat, forget its timer.
    Gone {
        /// Which group.
        group: GroupName,
        /// Who.
        member: MemberId,
    },
}
