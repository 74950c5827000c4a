//! The rules of the controller, as a function of its log: nodes, topics, placement, ids.
//!
//! **Invariants**
//! * An id is given out once: Raft groups from 1,024, replicas from 2^16, producers in blocks.
//! * The replicas of a group live on different nodes, but for a dying one and its successor.
//! * A replica whose data is gone is never asked to vote again: its successor has another id, learns, and is swapped in
//!   by one membership change ([`Placement::voters_wanted`]).
//! * A group that lost a majority is offline: nothing replaces what is left of it.
//! * Equal versions are equal metadata.
//!
//! Not here: who leads, who is alive (nodes see that themselves), how replicas come up (each node compares
//! [`Metadata::hosted_by`] with what it hosts).

mod checkpoint;
mod command;
mod metadata;
mod nodes;
mod replicas;
mod reply;
mod settings;
#[cfg(test)]
mod tests;
mod topics;

pub use checkpoint::CHECKPOINT_VERSION;
pub use command::{
    ALTER_TOPIC, AlterTopic, BOOTSTRAP, Bootstrap, CREATE_TOPIC, Command, CreateTopic, DELETE_TOPIC, DeleteTopic,
    REGISTER_NODE, REPLICA_CAUGHT_UP, REPLICA_FAULTY, RegisterNode, ReplicaCaughtUp, ReplicaFaulty, SWAPPED, Seed,
    Swapped, TAKE_PRODUCER_BLOCK, TakeProducerBlock,
};
pub use metadata::{Addresses, Metadata, Node, Placement, Purpose, Replica, ReplicaState, Topic};
pub use reply::{Refusal, Reply};
pub use settings::{COMPRESSION, MAX_BATCH_BYTES, NAMES, RETENTION_BYTES, RETENTION_MS, SettingError, Settings};

use crate::limits;
use bytes::Bytes;
use highwater_raft::{
    GroupId, ReplicaId,
    machine::{At, Command as Raw, Damaged, Machine},
};
use std::sync::Arc;

/// What a leader does because of an entry: nothing. Every node acts on the metadata that it has applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {}

/// The controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerMachine {
    metadata: Arc<Metadata>,
    next_group: u64,
    next_replica: u64,
    next_producer_block: u64,
}

impl Default for ControllerMachine {
    fn default() -> Self {
        Self {
            metadata: Arc::default(),
            next_group: limits::PARTITION_GROUP_MIN,
            next_replica: u64::from(limits::NODE_ID_END),
            next_producer_block: 0,
        }
    }
}

impl ControllerMachine {
    /// A snapshot of the metadata as applied.
    pub fn metadata(&self) -> Arc<Metadata> {
        self.metadata.clone()
    }

    /// The metadata, to be changed: a new version.
    fn change(&mut self) -> &mut Metadata {
        let metadata = Arc::make_mut(&mut self.metadata);
        metadata.version += 1;
        metadata
    }

    fn bootstrapped(&self) -> Result<u64, Refusal> {
        self.metadata.cluster_id.ok_or(Refusal::NotBootstrapped)
    }

    fn new_group(&mut self) -> GroupId {
        let group = GroupId(self.next_group);
        self.next_group += 1;
        group
    }

    fn new_replica(&mut self) -> ReplicaId {
        let replica = ReplicaId(self.next_replica);
        self.next_replica += 1;
        replica
    }

    fn step(&mut self, raw: &Raw) -> Result<Reply, Refusal> {
        let command = Command::decode(raw).ok_or(Refusal::UnknownCommand { kind: raw.kind })?;
        match command.map_err(|why| Refusal::Malformed { kind: raw.kind, why })? {
            Command::Bootstrap(command) => self.bootstrap(command),
            Command::RegisterNode(command) => self.register_node(command),
            Command::CreateTopic(command) => self.create_topic(command),
            Command::AlterTopic(command) => self.alter_topic(command),
            Command::DeleteTopic(command) => self.delete_topic(&command),
            Command::ReplicaFaulty(command) => self.replica_faulty(command),
            Command::ReplicaCaughtUp(command) => self.replica_caught_up(command),
            Command::Swapped(command) => self.swapped(&command),
            Command::TakeProducerBlock(command) => self.take_producer_block(command),
        }
    }
}

impl Machine for ControllerMachine {
    type Reply = Reply;
    type Effect = Effect;

    fn apply(&mut self, _at: At, command: &Raw, _effects: &mut Vec<Effect>) -> Reply {
        self.step(command).unwrap_or_else(Reply::Refused)
    }

    fn checkpoint(&self) -> Bytes {
        checkpoint::write(self)
    }

    fn restore(&mut self, checkpoint: &Bytes) -> Result<(), Damaged> {
        *self = checkpoint::read(checkpoint)?;
        Ok(())
    }

    fn on_promoted(&self) -> Vec<Effect> {
        Vec::new()
    }
}
