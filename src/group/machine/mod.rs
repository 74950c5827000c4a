//! The rules of a home of consumer groups, as a function of its log: members, who consumes which partition, offsets.
//!
//! ```text
//!  target  (who is meant to)      p0 → b        p0 → b
//!  owner   (who does)             p0 → a, revoked ──── a: Reconciled without p0 ───▶ p0 → b, granted
//!                                       └───────────── a left or expired ──────────────┘
//! ```
//! **Invariants**, for each group
//! * A partition has at most one owner. It goes to another only after the old one said that it gave it up in a generation
//!   in which it knew, left, or expired.
//! * While somebody wants a topic, each of its partitions has exactly one target; loads of members with equal wants
//!   differ by at most one; a change moves no more partitions than balance needs.
//! * A partition whose owner is its target is never revoked and granted again to the same member: what is kept never pauses.
//! * Offsets change by the owner's commit in a generation from which on it owned the partition, by a reset of a group
//!   without members, or by a start where there was none. Commits of a member count in the order in which it made them.
//!
//! Not here: timers and parked heartbeats (the group's actor), watermarks and lag (the partitions).

mod assign;
mod checkpoint;
mod command;
mod membership;
mod offsets;
mod reply;
mod spec;
mod state;
#[cfg(test)]
mod tests;
mod topics;

pub use assign::assign;
pub use checkpoint::CHECKPOINT_VERSION;
pub use command::{
    COMMIT, Command, Commit, CommitOffset, DELETE, Delete, EXPIRE, Expire, JOIN, Join, LEAVE, Leave, RECONCILED, RESET,
    Reconciled, Reset, START, Start, TOPICS_CHANGED, TopicFacts, TopicsChanged,
};
pub use reply::{Effect, Refusal, Reply};
pub use spec::{Backoff, GroupSpec, Kind, Mode};
pub use state::{Assigned, Committed, Group, Member};

use crate::types::{Generation, GroupName, TopicId, TopicName};
use bytes::Bytes;
use highwater_raft::machine::{At, Command as Raw, Damaged, Machine};
use std::collections::BTreeMap;

/// The home, 0 to `homes` − 1, of a group. Fixed for ever: a changed function would lose all offsets.
pub fn home_of(group: &GroupName, homes: u64) -> u64 {
    u64::from(crc32c::crc32c(group.as_str().as_bytes())) % homes.max(1)
}

/// One home.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HomeMachine {
    groups: BTreeMap<GroupName, Group>,
    topics: BTreeMap<TopicId, TopicFacts>,
    /// Derived from `topics`.
    names: BTreeMap<TopicName, TopicId>,
    topics_version: u64,
    next_group: u64,
    next_member: u64,
    next_session: u64,
    /// Above the generations of all groups that were deleted: one of the same name takes nothing for its own.
    generation_floor: Generation,
}

impl HomeMachine {
    /// Its groups.
    pub fn groups(&self) -> &BTreeMap<GroupName, Group> {
        &self.groups
    }

    /// One of them.
    pub fn group(&self, name: &GroupName) -> Option<&Group> {
        self.groups.get(name)
    }

    /// Topics as this home knows them: a leader proposes the differences to its metadata.
    pub fn topics(&self) -> &BTreeMap<TopicId, TopicFacts> {
        &self.topics
    }

    /// The version of metadata that they are of.
    pub fn topics_version(&self) -> u64 {
        self.topics_version
    }

    fn step(&mut self, raw: &Raw, effects: &mut Vec<Effect>) -> Result<Reply, Refusal> {
        let command = Command::decode(raw).ok_or(Refusal::UnknownCommand { kind: raw.kind })?;
        match command.map_err(|why| Refusal::Malformed { kind: raw.kind, why })? {
            Command::Join(command) => self.join(command, effects),
            Command::Leave(command) => self.leave(&command, effects),
            Command::Expire(command) => self.expire(&command, effects),
            Command::Reconciled(command) => self.reconcile(&command, effects),
            Command::Commit(command) => self.commit(command),
            Command::Start(command) => self.start(&command),
            Command::Reset(command) => self.reset(command),
            Command::Delete(command) => self.delete(&command),
            Command::TopicsChanged(command) => Ok(self.topics_changed(command, effects)),
        }
    }
}

impl Machine for HomeMachine {
    type Reply = Reply;
    type Effect = Effect;

    fn apply(&mut self, _at: At, command: &Raw, effects: &mut Vec<Effect>) -> Reply {
        self.step(command, effects).unwrap_or_else(Reply::Refused)
    }

    fn checkpoint(&self) -> Bytes {
        checkpoint::write(self)
    }

    fn restore(&mut self, checkpoint: &Bytes) -> Result<(), Damaged> {
        *self = checkpoint::read(checkpoint)?;
        Ok(())
    }

    fn on_promoted(&self) -> Vec<Effect> {
        let watch = |group: &GroupName, (member, state): (&crate::types::MemberId, &Member)| Effect::Watch {
            group: group.clone(),
            member: member.clone(),
            session: state.session,
            session_ms: state.session_ms,
        };
        self.groups
            .iter()
            .flat_map(|(name, group)| group.members.iter().map(move |member| watch(name, member)))
            .collect()
    }
}
