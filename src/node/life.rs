//! What a node does by itself: finds its cluster, registers, follows the metadata, watches over itself.

use super::{
    Failure, NodeError,
    hosting::{Fallen, Hosting},
    janitor, mender,
    seeds::{Founding, Seeds},
    steward,
};
use crate::{
    config::Config,
    controller::{
        self, Answer, Controller, ExecuteError,
        machine::{Addresses, Bootstrap, Command, Metadata, Purpose, RegisterNode, Seed},
    },
    peer::gossip,
    runtime::{Courier, Env, Phase, Phases},
};
use highwater_raft::{
    ReplicaId,
    group::{Group, Host},
    log::Directory,
    transport::{Peer, quic::QuicNetwork},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::sync::mpsc;

/// One try of a command at start; it is repeated until it works.
const EXECUTE: Duration = Duration::from_secs(5);
const MEASURE: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(super) struct Life {
    pub(super) config: Config,
    pub(super) env: Env,
    pub(super) directory: Directory,
    pub(super) host: Host,
    pub(super) quic: Option<Arc<QuicNetwork>>,
    pub(super) controller: Controller,
    pub(super) hosting: Hosting,
    pub(super) courier: Arc<dyn Courier>,
    pub(super) seeds: Seeds,
    pub(super) addresses: Addresses,
    pub(super) phases: Phases,
    pub(super) failure: Failure,
}

impl Life {
    /// Starts all of it on the current arbiter.
    pub(super) fn begin(self, mut failures: mpsc::UnboundedReceiver<Fallen>) {
        let env = self.env.clone();
        self.set_peers(&Metadata::default());
        let (directory, failure) = (self.directory.clone(), self.failure.clone());
        self.until_closed(async move { failure.set(NodeError::Storage(directory.failed().await)) });
        let life = self.clone();
        self.until_closed(async move {
            let mut replaced = BTreeSet::new();
            while let Some(fallen) = failures.recv().await {
                match life.hosting.fault(fallen.group).filter(|_| fallen.group == controller::GROUP) {
                    // It may be said more than once.
                    Some(_) if !replaced.insert(fallen.replica) => {}
                    // It takes a leader of the controller group: what else fails does not wait for that.
                    Some(why) => {
                        let replacing = life.clone();
                        life.until_closed(async move {
                            if let Err(error) = replacing.replace_controller(&why).await {
                                replacing.failure.set(error);
                            }
                        });
                    }
                    None => life.hosting.fail(fallen).await,
                }
            }
        });
        env.spawn_local(async move {
            let (phases, failure) = (self.phases.clone(), self.failure.clone());
            tokio::select! {
                biased;
                () = phases.reached(Phase::Closing) => {}
                joined = self.join() => if let Err(error) = joined {
                    failure.set(error);
                },
            }
        });
    }

    /// Runs a task of the node until it closes.
    fn until_closed(&self, task: impl Future<Output = ()> + 'static) {
        let phases = self.phases.clone();
        self.env.spawn_local(async move {
            tokio::select! {
                biased;
                () = phases.reached(Phase::Closing) => {}
                () = task => {}
            }
        });
    }

    async fn join(self) -> Result<(), NodeError> {
        let register = self.registration();
        if let Some(known) = self.seeds.known() {
            self.set_cluster_id(known.cluster_id);
        }
        let replica = self.seeds.find(register.clone()).await?;
        let founding = self.seeds.founding().filter(|_| replica == self.seeds.first());
        let founded = match &founding {
            // A damaged one is not opened either.
            Some(founding) if self.hosting.fault(controller::GROUP).is_none() => {
                let voters = founding.founders.keys().map(|node| (ReplicaId(node.0.into()), *node)).collect();
                self.hosting.found(controller::GROUP, replica, &voters).await?
            }
            _ => false,
        };
        let raft = match self.hosting.open(controller::GROUP, replica, Purpose::Controller).await {
            Ok(raft) => raft,
            Err(error) => match self.hosting.fault(controller::GROUP) {
                Some(why) => self.replace_controller(&why).await?,
                None => return Err(error),
            },
        };
        if founded && founding.is_some_and(|founding| founding.founders.keys().next() == Some(&self.config.node.id)) {
            raft.stand_first();
        }
        // From here on the controller's replica may fail, and is opened again.
        tokio::select! {
            biased;
            followed = self.hosting.clone().follow() => followed,
            failed = self.serve(&raft, register) => failed,
        }
    }

    /// Joins the cluster and serves; ends only with an error.
    async fn serve(&self, raft: &Group, register: RegisterNode) -> Result<(), NodeError> {
        if let Some(founding) = self.seeds.founding() {
            self.bootstrap(&founding).await?;
        }
        if !self.seeds.has_joined() {
            let cluster_id = self.cluster_id().await;
            self.set_cluster_id(cluster_id);
            self.seeds.joined(cluster_id).await?;
        }
        let controller = self.register(register).await?;
        if raft.replica() < controller {
            // The directory was away, and nobody talks to what is in it any more.
            tracing::warn!(
                replica = controller.0,
                "the controller's replica here was replaced while its directory was away"
            );
            self.hosting.replace(controller::GROUP, controller, Purpose::Controller).await?;
        }
        let cluster_id = self.cluster_id().await;
        self.seeds.joined(cluster_id).await?;
        self.phases.enter(Phase::Serving);
        tracing::info!(node = self.config.node.id.0, cluster_id = format!("{cluster_id:016x}"), "serving");
        self.until_closed(gossip::run(self.controller.clone(), self.courier.clone(), self.env.clone()));
        self.until_closed(steward::run(self.hosting.clone(), self.controller.clone(), self.courier.clone()));
        self.until_closed(mender::run(self.hosting.clone(), self.controller.clone(), self.courier.clone()));
        let retention = self.config.retention.clone();
        self.until_closed(janitor::run(self.hosting.clone(), self.controller.clone(), self.env.clone(), retention));
        let (measuring, following) = (self.clone(), self.clone());
        self.until_closed(async move { measuring.watch_space().await });
        self.until_closed(async move { following.follow_peers().await });
        std::future::pending().await
    }

    /// This node's replica of the controller group is damaged: another one takes its place. Without one the node would
    /// never hear of that, so it asks for its id.
    async fn replace_controller(&self, why: &str) -> Result<Group, NodeError> {
        let damaged = self.directory.group(controller::GROUP).map(|log| log.replica());
        self.hosting.close(controller::GROUP).await;
        let replica = self.seeds.replace(damaged, why, self.registration()).await?;
        self.hosting.replace(controller::GROUP, replica, Purpose::Controller).await
    }

    fn registration(&self) -> RegisterNode {
        RegisterNode { node: self.config.node.id, directory: self.directory.id(), addresses: self.addresses.clone() }
    }

    async fn cluster_id(&self) -> u64 {
        let mut changed = self.controller.changed();
        loop {
            if let Some(cluster_id) = self.controller.metadata().cluster_id {
                return cluster_id;
            }
            // The sender is in the controller: it lives as long as this node.
            let _ = changed.changed().await;
        }
    }

    async fn bootstrap(&self, founding: &Founding) -> Result<(), NodeError> {
        let seed = |seed: &crate::config::Seed| Seed {
            node: seed.id,
            directory: founding.founders.get(&seed.id).copied(),
            addresses: Addresses {
                peer: seed.peer.to_string(),
                control: seed.control.to_string(),
                ..Addresses::default()
            },
        };
        let command = Command::Bootstrap(Bootstrap {
            cluster_id: founding.cluster_id,
            seeds: self.config.cluster.seeds.iter().map(seed).collect(),
            homes: self.config.cluster.home_groups,
        });
        while self.controller.metadata().cluster_id.is_none() {
            match self.controller.execute(command.clone(), EXECUTE).await {
                Ok(_) => return Ok(()),
                // Another try of ours got through, or it was made long ago and this node is catching up.
                Err(ExecuteError::Refused(_)) if self.controller.leader().is_some() => return Ok(()),
                Err(error) => tracing::debug!(%error, "not bootstrapped yet"),
            }
        }
        Ok(())
    }

    /// Gives the replica of the controller group that this node is to have.
    async fn register(&self, register: RegisterNode) -> Result<ReplicaId, NodeError> {
        loop {
            match self.controller.execute(Command::RegisterNode(register.clone()), EXECUTE).await {
                Ok(Answer::Registered { controller, .. }) => return Ok(controller),
                Ok(other) => {
                    return Err(NodeError::Refused { why: format!("registering was answered with {other:?}") });
                }
                Err(ExecuteError::Refused(refused)) if !refused.code.is_retriable() => {
                    return Err(NodeError::Refused { why: refused.message });
                }
                Err(error) => tracing::debug!(%error, "not registered yet"),
            }
        }
    }

    /// Seeds from the config, everybody else from the metadata.
    fn set_peers(&self, metadata: &Metadata) {
        let me = self.config.node.id;
        let mut peers: BTreeMap<_, _> = self
            .config
            .cluster
            .seeds
            .iter()
            .map(|seed| (seed.id, (seed.peer.to_string(), seed.control.to_string())))
            .collect();
        let known = metadata.nodes.iter().filter(|(_, node)| !node.addresses.peer.is_empty());
        peers.extend(known.map(|(id, node)| (*id, (node.addresses.peer.clone(), node.addresses.control.clone()))));
        peers.remove(&me);
        let peer = |(node, (address, control_address)): (crate::types::NodeId, (String, String))| Peer {
            node: node.into(),
            address,
            control_address,
        };
        self.host.set_peers(peers.into_iter().map(peer).collect());
    }

    async fn follow_peers(&self) {
        let mut changed = self.controller.changed();
        let mut nodes = None;
        loop {
            let metadata = self.controller.metadata();
            if nodes.as_ref() != Some(&metadata.nodes) {
                self.set_peers(&metadata);
                nodes = Some(metadata.nodes.clone());
            }
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    fn set_cluster_id(&self, cluster_id: u64) {
        if let Some(quic) = &self.quic {
            quic.set_cluster_id(u128::from(cluster_id).to_be_bytes());
        }
    }

    /// Looks at the free space also while nothing is written: produce is taken again when there is room again.
    async fn watch_space(&self) {
        let mut low = false;
        loop {
            self.directory.measure();
            if low != self.directory.is_low() {
                low = !low;
                let (free, least) = (self.directory.stats().free_bytes, self.config.log.free_bytes_min);
                match low {
                    true => tracing::warn!(free, least, "little free space: produce is refused until there is more"),
                    false => tracing::info!(free, least, "there is free space again: produce is taken"),
                }
            }
            tokio::time::sleep(MEASURE).await;
        }
    }
}
