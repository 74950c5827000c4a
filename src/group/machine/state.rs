//! What a home knows of one group, and what can be asked of it without a command.

use super::spec::GroupSpec;
use crate::types::{DELIVERED_UNKNOWN, Generation, MemberId, TopicName, TopicPartition};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Topics that it wants.
    #[serde(rename = "t", default)]
    pub topics: BTreeSet<TopicName>,
    /// How long it may be silent, milliseconds.
    #[serde(rename = "w", default)]
    pub session_ms: u32,
    /// Its session: differs for each join.
    #[serde(rename = "i", default)]
    pub session: u64,
    /// The generation in which its assignment changed last.
    #[serde(rename = "e", default)]
    pub changed: Generation,
    /// The last of its commits, by its own count.
    #[serde(rename = "n", default)]
    pub commits: u64,
}

/// A committed offset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// The next offset to consume.
    #[serde(rename = "o", default)]
    pub offset: u64,
    /// Epoch of the leader that the last record came from.
    #[serde(rename = "l", default)]
    pub leader_epoch: u64,
    /// The client's own words.
    #[serde(rename = "m", default, skip_serializing_if = "String::is_empty")]
    pub metadata: String,
}

/// How far a group is in one partition.
///
/// ```text
///            committed            handed               delivered
///  consumed ─────┼── given to owners ─┼── given to this owner ──┼── not given yet
///                └─ `attempts` times ─┘
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cursor {
    #[serde(rename = "c", default)]
    pub(super) committed: Option<Committed>,
    /// The next offset that was given to no member, as far as members said.
    #[serde(rename = "d", default)]
    pub(super) delivered: u64,
    /// What `delivered` was when the present owner took over, while that is above what is committed; else 0.
    #[serde(rename = "h", default)]
    pub(super) handed: u64,
    /// How many owners were given records from `committed` to `handed` and went without committing them.
    #[serde(rename = "x", default)]
    pub(super) attempts: u32,
    /// An owner went without a word: nobody knows how far it was given records, and `handed` says nothing.
    #[serde(rename = "u", default)]
    pub(super) unsure: bool,
}

/// Who consumes a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Owner {
    #[serde(rename = "m")]
    pub(super) member: MemberId,
    /// The generation in which it got the partition.
    #[serde(rename = "e", default)]
    pub(super) granted: Generation,
    /// The generation in which it was told to give it up.
    #[serde(rename = "r", default)]
    pub(super) revoked: Option<Generation>,
}

/// A partition that a member is to consume now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// Which.
    pub partition: TopicPartition,
    /// The committed offset; absent when the group's start applies.
    pub committed: Option<u64>,
    /// Records below this were given to an earlier owner; 0 when none was that is not committed, [`DELIVERED_UNKNOWN`]
    /// when that owner expired and nobody knows how far it came.
    pub delivered: u64,
    /// How many earlier owners were given the records from `committed` to `delivered`.
    pub attempts: u32,
    /// The generation in which the member got it: another one is another ownership, with others in between maybe.
    pub granted: Generation,
}

/// One group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    #[serde(rename = "s")]
    pub(super) spec: GroupSpec,
    #[serde(rename = "e", default)]
    pub(super) generation: Generation,
    #[serde(rename = "m", default)]
    pub(super) members: BTreeMap<MemberId, Member>,
    /// Who is meant to consume.
    #[serde(rename = "t", default)]
    pub(super) target: BTreeMap<TopicPartition, MemberId>,
    /// Who consumes.
    #[serde(rename = "o", default)]
    pub(super) owners: BTreeMap<TopicPartition, Owner>,
    #[serde(rename = "c", default)]
    pub(super) cursors: BTreeMap<TopicPartition, Cursor>,
}

impl Group {
    pub(super) fn new(spec: GroupSpec, generation: Generation) -> Self {
        Self {
            spec,
            generation,
            members: BTreeMap::new(),
            target: BTreeMap::new(),
            owners: BTreeMap::new(),
            cursors: BTreeMap::new(),
        }
    }

    /// How it consumes.
    pub fn spec(&self) -> &GroupSpec {
        &self.spec
    }

    /// Rises when somebody's assignment changes.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Its members.
    pub fn members(&self) -> &BTreeMap<MemberId, Member> {
        &self.members
    }

    /// What a member is to consume now: all of it may begin at once, all else it gives up. `None`: it is no member.
    pub fn assigned(&self, member: &MemberId) -> Option<Vec<Assigned>> {
        self.members.get(member)?;
        let held = self.owners.iter().filter(|(_, owner)| owner.member == *member && owner.revoked.is_none());
        Some(held.map(|(partition, owner)| self.assignment(*partition, owner.granted)).collect())
    }

    fn assignment(&self, partition: TopicPartition, granted: Generation) -> Assigned {
        let cursor = self.cursors.get(&partition);
        Assigned {
            partition,
            committed: cursor.and_then(|c| c.committed.as_ref()).map(|c| c.offset),
            delivered: cursor.map_or(0, |c| if c.unsure { DELIVERED_UNKNOWN } else { c.handed }),
            attempts: cursor.map_or(0, |c| c.attempts),
            granted,
        }
    }

    /// Whether a member that knows generation `known` has to be told its assignment. `None`: it is no member.
    pub fn is_news(&self, member: &MemberId, known: Generation) -> Option<bool> {
        self.members.get(member).map(|m| m.changed > known)
    }

    /// The committed offset of a partition.
    pub fn committed(&self, partition: TopicPartition) -> Option<&Committed> {
        self.cursors.get(&partition)?.committed.as_ref()
    }

    /// Who consumes a partition now: also one who was told to give it up and has not said so yet.
    pub fn owner(&self, partition: TopicPartition) -> Option<&MemberId> {
        self.owners.get(&partition).map(|owner| &owner.member)
    }

    /// Who is meant to consume a partition.
    pub fn target(&self, partition: TopicPartition) -> Option<&MemberId> {
        self.target.get(&partition)
    }

    /// All partitions that the group has to do with.
    pub fn partitions(&self) -> BTreeSet<TopicPartition> {
        self.cursors.keys().chain(self.owners.keys()).chain(self.target.keys()).copied().collect()
    }
}
