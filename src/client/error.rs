//! Why the client could not do what it was asked. One enum per kind of operation; each says what to do next.

use crate::{
    advice::{Advice, Reaction},
    batch::{BuildError, RecordsError},
    types::{GroupName, TopicName},
    wire::{Code, Refused, quic::NEEDS_CERTIFICATE},
};
use std::time::Duration;

/// Why a client has no cluster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// No address was given.
    #[error("no bootstrap address was given")]
    NoBootstrap,
    /// No address answered.
    #[error("no node answers: {}", attempts.iter().map(|(a, why)| format!("{a}: {why}")).collect::<Vec<_>>().join("; "))]
    Unreachable {
        /// Each address with what went wrong there.
        attempts: Vec<(String, String)>,
    },
    /// The client's own TLS settings or socket.
    #[error("the client cannot be set up: {why}")]
    Setup {
        /// What is wrong.
        why: String,
    },
}

impl Advice for ConnectError {
    fn reaction(&self) -> Reaction {
        match self {
            Self::NoBootstrap | Self::Setup { .. } => Reaction::Reject,
            Self::Unreachable { .. } => Reaction::Retry { after_ms: 500 },
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::NoBootstrap => "give at least one address of a node, host:port".into(),
            Self::Unreachable { attempts } if attempts.iter().any(|(_, why)| why.contains(NEEDS_CERTIFICATE)) => {
                "show a certificate that its CA signed (command line: --certificate FILE --key FILE; `highwater cert \
                 client` makes one)"
                    .into()
            }
            Self::Unreachable { .. } => "check that a node runs and that address and certificates fit".into(),
            Self::Setup { .. } => "check the certificates that the client was given".into(),
        }
    }
}

/// Why a request has no answer that helps.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The broker refused.
    #[error("{}", refused.message)]
    Refused {
        /// Its refusal.
        refused: Refused,
    },
    /// The connection broke, or could not be made.
    #[error("{node} is not reachable: {why}")]
    Unreachable {
        /// Which node or address.
        node: String,
        /// What is known.
        why: String,
    },
    /// Nothing came in time; the outcome is unknown.
    #[error("no answer from {node} within {} ms", waited.as_millis())]
    TimedOut {
        /// Which node or address.
        node: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// An answer of another kind than asked for.
    #[error("{node} answered with {found}, which is no answer to {asked}")]
    Unexpected {
        /// Which node.
        node: String,
        /// What was asked.
        asked: &'static str,
        /// What came.
        found: String,
    },
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
}

impl RequestError {
    /// The broker's code, when it refused.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused { refused } => Some(refused.code),
            _ => None,
        }
    }
}

impl Advice for RequestError {
    fn reaction(&self) -> Reaction {
        match self {
            Self::Refused { refused } => refusal_reaction(refused.code),
            Self::Unreachable { .. } => Reaction::Refresh,
            Self::TimedOut { .. } => Reaction::Retry { after_ms: 500 },
            Self::Unexpected { .. } | Self::Closed => Reaction::Reject,
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::Refused { refused } => refusal_advice(refused.code).into(),
            Self::Unreachable { .. } => "check that the node runs and is reachable from here".into(),
            Self::TimedOut { .. } => "look whether it took effect before asking again".into(),
            Self::Unexpected { .. } => "report it: client and broker do not understand each other".into(),
            Self::Closed => "make a new client".into(),
        }
    }
}

/// Why a topic could not be looked up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// No node knows it.
    #[error("there is no topic {topic}")]
    UnknownTopic {
        /// Its name.
        topic: TopicName,
    },
    /// No node could be asked.
    #[error("topic {topic} could not be looked up: {why}")]
    Unreachable {
        /// Its name.
        topic: TopicName,
        /// The last failure.
        why: String,
    },
}

impl Advice for LookupError {
    fn reaction(&self) -> Reaction {
        match self {
            Self::UnknownTopic { .. } => Reaction::Reject,
            Self::Unreachable { .. } => Reaction::Retry { after_ms: 500 },
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::UnknownTopic { topic } => {
                format!("create it with `highwater topic create {topic}`, or check its name")
            }
            Self::Unreachable { .. } => "check that a node runs and is reachable from here".into(),
        }
    }
}

/// Why a record was not taken into a producer's buffer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The topic could not be looked up.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// The record names a partition that the topic does not have.
    #[error("topic {topic} has partitions 0 to {}, not {partition}", partitions.saturating_sub(1))]
    UnknownPartition {
        /// The topic.
        topic: TopicName,
        /// What the record says.
        partition: u32,
        /// How many there are.
        partitions: u32,
    },
    /// The record fits into no batch.
    #[error(transparent)]
    Record(#[from] BuildError),
    /// The record is larger than the whole buffer.
    #[error("the record takes {bytes} bytes, the producer's buffer has {buffer_bytes}")]
    TooLarge {
        /// What it takes.
        bytes: usize,
        /// What there is.
        buffer_bytes: usize,
    },
    /// The producer is closed.
    #[error("the producer is closed")]
    Closed,
}

impl Advice for SendError {
    fn reaction(&self) -> Reaction {
        match self {
            Self::Lookup(error) => error.reaction(),
            Self::Record(error) => error.reaction(),
            Self::UnknownPartition { .. } | Self::TooLarge { .. } | Self::Closed => Reaction::Reject,
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::Lookup(error) => error.advice(),
            Self::Record(error) => error.advice(),
            Self::UnknownPartition { .. } => "leave the partition to the producer, or name one that exists".into(),
            Self::TooLarge { .. } => "give the producer a larger buffer, or send smaller records".into(),
            Self::Closed => "make a new producer".into(),
        }
    }
}

/// Why a record that was taken is not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProduceError {
    /// The broker will not take it. `maybe_appended` says whether it may be in the log all the same.
    #[error("{topic}/{partition} refused the batch: {}", refused.message)]
    Refused {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: u32,
        /// The broker's refusal.
        refused: Refused,
        /// An earlier attempt has an unknown outcome.
        maybe_appended: bool,
    },
    /// Its time ran out. `maybe_appended` says whether it may be in the log all the same.
    #[error(
        "{topic}/{partition} did not acknowledge within {} ms (sent {sends} times; last: {last})",
        waited.as_millis()
    )]
    TimedOut {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: u32,
        /// How long the record waited.
        waited: Duration,
        /// How often its batch was sent.
        sends: u32,
        /// What went wrong last.
        last: String,
        /// An attempt has an unknown outcome.
        maybe_appended: bool,
    },
    /// An attempt may have succeeded, and sending again could duplicate: the producer numbers nothing, or the partition
    /// forgot it meanwhile.
    #[error("a batch for {topic}/{partition} may or may not be in the log (last: {last})")]
    OutcomeUnknown {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: u32,
        /// What went wrong last.
        last: String,
    },
    /// The partition's replicas are damaged on a majority: nobody takes the batch before an operator has repaired it.
    #[error("{topic}/{partition} takes no records: {}", refused.message)]
    Offline {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: u32,
        /// Which replicas.
        refused: Refused,
        /// An attempt has an unknown outcome.
        maybe_appended: bool,
    },
    /// The batch could not be made.
    #[error(transparent)]
    Batch(#[from] BuildError),
    /// The producer was dropped before it was sent.
    #[error("the producer ended before the record was acknowledged")]
    Closed,
}

impl Advice for ProduceError {
    fn reaction(&self) -> Reaction {
        match self {
            Self::Refused { .. } | Self::OutcomeUnknown { .. } | Self::Closed => Reaction::Reject,
            Self::TimedOut { maybe_appended: true, .. } | Self::Offline { maybe_appended: true, .. } => {
                Reaction::Reject
            }
            Self::TimedOut { .. } => Reaction::Retry { after_ms: 1_000 },
            Self::Offline { refused, .. } => refusal_reaction(refused.code),
            Self::Batch(error) => error.reaction(),
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::Refused { refused, maybe_appended: false, .. } => refusal_advice(refused.code).into(),
            Self::Refused { refused, .. } => {
                let advice = refusal_advice(refused.code);
                format!("{advice}; read the end of the partition before sending it again: it may be there")
            }
            Self::OutcomeUnknown { .. } => {
                "read the end of the partition before sending it again; an idempotent producer sends again by itself"
                    .into()
            }
            Self::TimedOut { maybe_appended: true, .. } => {
                "read the end of the partition before sending it again: it may be there".into()
            }
            Self::TimedOut { .. } => "check the cluster (highwater cluster status), then send it again".into(),
            Self::Offline { refused, maybe_appended: false, .. } => refusal_advice(refused.code).into(),
            Self::Offline { refused, .. } => {
                format!("{}; read its end before sending the record again", refusal_advice(refused.code))
            }
            Self::Batch(error) => error.advice(),
            Self::Closed => "flush or close the producer before dropping it".into(),
        }
    }
}

/// Why nothing could be consumed or committed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConsumeError {
    /// The topic could not be looked up, or is gone.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// The topic has no such partition.
    #[error("{topic} has no partition {partition}")]
    UnknownPartition {
        /// The topic.
        topic: TopicName,
        /// What was asked for.
        partition: u32,
    },
    /// The position is below what retention left or above the end, and the consumer is to fail then.
    #[error("{topic}/{partition} {}", not_there(*offset, *nearest))]
    OutOfRange {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: u32,
        /// Where the consumer stood.
        offset: u64,
        /// The log start or the end, whichever it is beyond.
        nearest: u64,
    },
    /// A batch does not check out.
    #[error("{topic}/{partition} at offset {offset}: {why}")]
    Damaged {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: u32,
        /// Where.
        offset: u64,
        /// What is wrong.
        why: String,
    },
    /// The partition refuses to be read.
    #[error("{topic}/{partition}: {}", refused.message)]
    Refused {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: u32,
        /// The broker's refusal.
        refused: Refused,
    },
    /// The group refuses.
    #[error("group {group}: {}", refused.message)]
    Group {
        /// The group.
        group: GroupName,
        /// The home's refusal.
        refused: Refused,
    },
    /// No answer in time.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The partition is not assigned to this consumer now.
    #[error("{topic}/{partition} is not assigned to this consumer")]
    NotAssigned {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: u32,
    },
    /// The consumer belongs to no group.
    #[error("the consumer belongs to no group, so there is nothing to commit to")]
    NoGroup,
    /// The consumer is closed.
    #[error("the consumer is closed")]
    Closed,
}

fn not_there(offset: u64, nearest: u64) -> String {
    match offset < nearest {
        true => format!("begins at offset {nearest}, offset {offset} is gone"),
        false => format!("ends at offset {nearest}, offset {offset} is not there yet"),
    }
}

impl ConsumeError {
    pub(super) fn damaged(topic: &TopicName, partition: u32, offset: u64, why: &RecordsError) -> Self {
        Self::Damaged { topic: topic.clone(), partition, offset, why: why.to_string() }
    }
}

impl Advice for ConsumeError {
    fn reaction(&self) -> Reaction {
        match self {
            Self::Lookup(error) => error.reaction(),
            Self::Request(error) => error.reaction(),
            Self::Refused { refused, .. } | Self::Group { refused, .. } => refusal_reaction(refused.code),
            Self::UnknownPartition { .. }
            | Self::OutOfRange { .. }
            | Self::Damaged { .. }
            | Self::NotAssigned { .. }
            | Self::NoGroup
            | Self::Closed => Reaction::Reject,
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::Lookup(error) => error.advice(),
            Self::Request(error) => error.advice(),
            Self::Refused { refused, .. } | Self::Group { refused, .. } => refusal_advice(refused.code).into(),
            Self::UnknownPartition { topic, .. } => {
                format!("look at the partitions (highwater topic describe {topic})")
            }
            Self::OutOfRange { .. } => "choose where to go on: earliest, latest or an offset".into(),
            Self::Damaged { .. } => "read from another replica, and look at the node's log".into(),
            Self::NotAssigned { .. } => "assign the partition first, or wait until the group gives it to you".into(),
            Self::NoGroup => "subscribe with a group, or keep positions yourself".into(),
            Self::Closed => "make a new consumer".into(),
        }
    }
}

/// What to do about a refusal.
pub(super) fn refusal_reaction(code: Code) -> Reaction {
    match code {
        Code::NotLeader | Code::NotHome | Code::ShuttingDown | Code::UnknownPartition | Code::OutcomeUnknown => {
            Reaction::Refresh
        }
        Code::NotReady => Reaction::Retry { after_ms: 50 },
        Code::Overloaded | Code::NoQuorum | Code::TimedOut => Reaction::Retry { after_ms: 200 },
        Code::DiskFull => Reaction::Retry { after_ms: 1_000 },
        Code::Offline => Reaction::Retry { after_ms: 10_000 },
        Code::StaleGeneration | Code::UnknownMember => Reaction::Refresh,
        Code::BadRequest
        | Code::UnsupportedVersion
        | Code::UnknownTopic
        | Code::TopicExists
        | Code::BadName
        | Code::OffsetOutOfRange
        | Code::BatchTooLarge
        | Code::BadBatch
        | Code::OutOfOrderSequence
        | Code::ProducerFenced
        | Code::UnknownProducer
        | Code::UnknownGroup
        | Code::GroupNotEmpty
        | Code::Unsupported
        | Code::BadSetting
        | Code::Internal
        | Code::Denied => Reaction::Reject,
    }
}

/// What to tell the person who reads about a refusal.
pub(super) fn refusal_advice(code: Code) -> &'static str {
    match code {
        Code::NotLeader | Code::NotHome => "ask for the leader again, then retry",
        Code::OutcomeUnknown => "send the same batch with the same sequence to the new leader: it drops what it has",
        Code::NotReady => "retry in a moment: an election has just ended",
        Code::ShuttingDown => "retry at another node",
        Code::Overloaded => "send less at a time, or retry later",
        Code::NoQuorum => "bring back enough nodes for a majority (highwater cluster status)",
        Code::TimedOut => "look whether it took effect before asking again",
        Code::DiskFull => "free space in the node's data directory, or shorten retention",
        Code::BadRequest | Code::Internal => "report it with the node's log",
        Code::UnsupportedVersion | Code::Unsupported => "use versions of client and broker that fit together",
        Code::UnknownTopic => "create the topic, or check its name",
        Code::UnknownPartition => "look at the topic's partitions (highwater topic describe)",
        Code::TopicExists => "choose another name, or use the topic that is there",
        Code::BadName => "use letters, digits, '.', '_' and '-'",
        Code::OffsetOutOfRange => "choose where to go on: earliest, latest or an offset",
        Code::BatchTooLarge => "send smaller batches",
        Code::BadBatch => "report it: the client made a batch that the broker cannot read",
        Code::OutOfOrderSequence | Code::UnknownProducer | Code::ProducerFenced => "make a new producer",
        Code::UnknownGroup => "check the group's name (highwater group list)",
        Code::UnknownMember | Code::StaleGeneration => "join the group again",
        Code::GroupNotEmpty => "stop the group's members first",
        Code::BadSetting => "choose a value that the cluster can serve",
        Code::Offline => {
            "start one of these nodes with the data directory that it had, if that was only moved or not mounted; otherwise keep copies of what is left, delete the topic and create it again"
        }
        Code::Denied => "ask for the permission, or use another principal",
    }
}
