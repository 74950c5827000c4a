//! How a cluster comes to be, and how a node finds it again.
//!
//! ```text
//!  controller replica in the directory ─▶ open it
//!  a seed, all seeds answered, all empty ─▶ the lowest founds: mints the cluster id, notes the founders with their
//!                                           directories; the others find themselves in its answer. Each of them writes
//!                                           the same first membership into its log, and goes on without the lowest
//!  else ─▶ register at the cluster: a new replica id
//! ```
//! **Invariant:** a seed takes its first replica id (its node id) only with the directory that the founding names, and only
//! until it has joined. A wiped seed has another directory: it registers like a new node. So does one that ended when its
//! first replica was removed and the next one was not made yet.

use super::error::NodeError;
use crate::{
    config,
    controller::{Answer, ExecuteError, Executed, machine},
    runtime::{Courier, Env, Service},
    types::{NodeId, decode},
};
use bytes::Bytes;
use highwater_raft::{
    DirectoryId, ReplicaId,
    log::{Directory, Health},
    machine::Command as Raw,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

const FOUNDING: &str = "founding";
/// Noted by whoever has joined, founders too.
const CLUSTER: &str = "cluster";
const ASK: Duration = Duration::from_millis(500);
const AGAIN: Duration = Duration::from_millis(100);

/// Who made the cluster; durable at each founder, with no founders at nodes that came later.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Founding {
    #[serde(rename = "c")]
    pub(crate) cluster_id: u64,
    #[serde(rename = "f", default)]
    pub(crate) founders: BTreeMap<NodeId, DirectoryId>,
}

/// Question and answer of [`Service::Seed`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seeding {
    #[serde(rename = "h")]
    pub(crate) digest: u64,
    #[serde(rename = "d")]
    pub(crate) directory: DirectoryId,
    #[serde(rename = "c", default)]
    pub(crate) cluster: Option<Founding>,
}

/// What this node answers other seeds, and what it does to find its cluster.
#[derive(Clone)]
pub(super) struct Seeds {
    node: NodeId,
    cluster: config::Cluster,
    /// Of what must be the same on all nodes.
    digest: u64,
    directory: Directory,
    courier: Arc<dyn Courier>,
    known: Arc<Mutex<Option<Founding>>>,
    env: Env,
}

impl Seeds {
    pub(super) fn new(config: &config::Config, directory: Directory, courier: Arc<dyn Courier>, env: Env) -> Self {
        let noted = directory.noted(FOUNDING).or_else(|| directory.noted(CLUSTER));
        let known = noted.and_then(|bytes| rmp_serde::from_slice(&bytes).ok());
        let (node, cluster, digest) = (config.node.id, config.cluster.clone(), config.digest());
        Self { node, cluster, digest, directory, courier, known: Arc::new(Mutex::new(known)), env }
    }

    /// The cluster that this node belongs to.
    pub(super) fn known(&self) -> Option<Founding> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A founder's first replica of the controller group.
    pub(super) fn first(&self) -> ReplicaId {
        ReplicaId(self.node.0.into())
    }

    /// What this node founded, until it has joined it.
    pub(super) fn founding(&self) -> Option<Founding> {
        let founds = |known: &Founding| known.founders.get(&self.node) == Some(&self.directory.id());
        self.known().filter(|known| !self.has_joined() && founds(known))
    }

    /// Serves [`Service::Seed`].
    pub(super) fn answer(&self, _: &Bytes) -> Bytes {
        let said = Seeding { digest: self.digest, directory: self.directory.id(), cluster: self.known() };
        rmp_serde::to_vec_named(&said).expect("plain values in memory always encode").into()
    }

    /// The replica of the controller group that this node is to open.
    pub(super) async fn find(&self, register: machine::RegisterNode) -> Result<ReplicaId, NodeError> {
        let here = self.directory.groups().into_iter().find(|(group, ..)| *group == crate::controller::GROUP);
        match here {
            Some((_, replica, Health::Good)) => return Ok(replica),
            Some((group, replica, Health::Faulty(why))) => {
                debug_assert_eq!(group, crate::controller::GROUP);
                return self.replace(Some(replica), &why, register).await;
            }
            None => {}
        }
        let is_seed = self.cluster.seeds.iter().any(|seed| seed.id == self.node);
        if !is_seed {
            // Whoever answers must have the same config; registering waits for one that does.
            self.ask_seeds().await?;
            return self.register(register).await;
        }
        if self.has_joined() {
            self.ask_seeds().await?;
            return self.register(register).await;
        }
        loop {
            if self.founding().is_some() {
                return Ok(self.first());
            }
            let answers = self.ask_seeds().await?;
            if let Some(founding) =
                answers.values().find_map(|seeding| seeding.cluster.clone().filter(|f| !f.founders.is_empty()))
            {
                if founding.founders.get(&self.node) != Some(&self.directory.id()) {
                    return self.register(register).await;
                }
                self.note(FOUNDING, founding).await?;
            } else if answers.values().any(|seeding| seeding.cluster.is_some()) {
                return self.register(register).await;
            } else if answers.len() + 1 == self.cluster.seeds.len() && answers.keys().all(|seed| *seed > self.node) {
                let me = (self.node, self.directory.id());
                let founders = answers.iter().map(|(node, seeding)| (*node, seeding.directory)).chain([me]).collect();
                let cluster_id = self.env.random_u64() >> 1;
                tracing::info!(cluster_id = format!("{cluster_id:016x}"), "all seeds are empty: founding the cluster");
                self.note(FOUNDING, Founding { cluster_id, founders }).await?;
            } else {
                tokio::time::sleep(AGAIN).await;
            }
        }
    }

    /// Another replica of the controller group in the place of a damaged one.
    pub(super) async fn replace(
        &self,
        damaged: Option<ReplicaId>,
        why: &str,
        register: machine::RegisterNode,
    ) -> Result<ReplicaId, NodeError> {
        tracing::error!(why, "the controller's replica is damaged: another one takes its place");
        let known = self.register(register.clone()).await?;
        if damaged != Some(known) {
            // The directory as a whole is another one by now, and registering it has said so.
            return Ok(known);
        }
        let faulty = machine::ReplicaFaulty { group: crate::controller::GROUP, replica: known };
        self.execute(&machine::Command::ReplicaFaulty(faulty)).await?;
        self.register(register).await
    }

    /// Notes which cluster this node has joined.
    pub(super) async fn joined(&self, cluster_id: u64) -> Result<(), NodeError> {
        match self.known() {
            Some(known) if known.cluster_id != cluster_id => {
                Err(NodeError::OtherCluster { stored: known.cluster_id, found: cluster_id })
            }
            _ if self.has_joined() => Ok(()),
            _ => self.note(CLUSTER, Founding { cluster_id, founders: BTreeMap::new() }).await,
        }
    }

    /// Whether this directory has had a replica of the controller group in a cluster that is there.
    pub(super) fn has_joined(&self) -> bool {
        self.directory.noted(CLUSTER).is_some()
    }

    async fn note(&self, key: &str, founding: Founding) -> Result<(), NodeError> {
        let bytes = rmp_serde::to_vec_named(&founding).expect("plain values in memory always encode");
        self.directory.note(key, bytes.into()).await.map_err(NodeError::Storage)?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if key == FOUNDING || known.is_none() {
            *known = Some(founding);
        }
        Ok(())
    }

    async fn ask_seeds(&self) -> Result<BTreeMap<NodeId, Seeding>, NodeError> {
        let others = self.cluster.seeds.iter().map(|seed| seed.id).filter(|id| *id != self.node);
        let asked = others.map(|id| async move {
            let answer = self.courier.ask(id, Service::Seed, self.answer(&Bytes::new()), ASK).await.ok()?;
            Some((id, decode::<Seeding>(&answer).ok()?))
        });
        let answers: BTreeMap<_, _> = futures_util::future::join_all(asked).await.into_iter().flatten().collect();
        let differs = |(node, seeding): (&NodeId, &Seeding)| {
            Some((*node, config::Config::sections_that_differ(self.digest, seeding.digest)?))
        };
        match answers.iter().find_map(differs) {
            Some((node, sections)) => Err(NodeError::OtherConfig { node, sections }),
            None => Ok(answers),
        }
    }

    async fn register(&self, register: machine::RegisterNode) -> Result<ReplicaId, NodeError> {
        match self.execute(&machine::Command::RegisterNode(register)).await? {
            Answer::Registered { cluster_id, controller } => {
                self.joined(cluster_id).await?;
                Ok(controller)
            }
            other => Err(NodeError::Refused { why: format!("registering was answered with {other:?}") }),
        }
    }

    /// Runs a command of the controller before this node has a replica of it: seeds are asked in turn, with their hints.
    async fn execute(&self, command: &machine::Command) -> Result<Answer, NodeError> {
        let Raw { kind, body } = command.encode();
        let request: Bytes = [&[kind], &body[..]].concat().into();
        loop {
            let mut next: Vec<NodeId> =
                self.cluster.seeds.iter().map(|seed| seed.id).filter(|id| *id != self.node).rev().collect();
            let mut hints = 0;
            while let Some(node) = next.pop() {
                let Ok(answer) = self.courier.ask(node, Service::Execute, request.clone(), ASK * 4).await else {
                    continue;
                };
                match decode::<Result<Executed, ExecuteError>>(&answer) {
                    Ok(Ok(executed)) => return Ok(executed.answer),
                    Ok(Err(ExecuteError::Refused(refused))) if !refused.code.is_retriable() => {
                        return Err(NodeError::Refused { why: refused.message });
                    }
                    Ok(Err(ExecuteError::NotLeader { leader: Some(leader) })) if hints < 3 => {
                        hints += 1;
                        next.push(leader);
                    }
                    _ => {}
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use highwater_raft::testing::golden;

    #[test]
    fn what_is_noted_and_asked_is_what_it_was() {
        let founders = [(NodeId(1), DirectoryId(0x11)), (NodeId(2), DirectoryId(0x22))].into();
        let founding = Founding { cluster_id: 0x1234, founders };
        golden("log/founding-note.hex", &rmp_serde::to_vec_named(&founding).unwrap());
        let seeding = Seeding { digest: 7, directory: DirectoryId(0x11), cluster: Some(founding) };
        golden("peers/seeding.hex", &rmp_serde::to_vec_named(&seeding).unwrap());
    }
}
