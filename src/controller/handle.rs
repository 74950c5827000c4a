//! The controller as every node sees it: a snapshot to read, and commands that find the leader themselves.

use super::{
    actor::{ControllerDomain, Request},
    ailing::Ailing,
    answer::{Answer, ExecuteError, Executed},
    machine::{Command, Metadata, TakeProducerBlock},
};
use crate::{
    limits,
    replica::{self, Identity, Keeper, Leader, Leaders, Post},
    runtime::{Courier, Env, ReplySlot, Service},
    types::{NodeId, ProducerId, TopicId, TopicPartition, decode},
};
use arc_swap::ArcSwap;
use bytes::Bytes;
use highwater_raft::{GroupId, machine::Command as Raw};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{Mutex, watch},
    time::Instant,
};

/// The Raft group of the controller.
pub const GROUP: GroupId = GroupId(limits::CONTROLLER_GROUP);

/// Between tries to find the leader.
const RETRY: Duration = Duration::from_millis(50);
/// One request to the leader takes no longer; then it is looked for again.
const ATTEMPT: Duration = Duration::from_secs(2);

/// A node's view of the controller. Clones share; may be used from any thread.
#[derive(Clone)]
pub struct Controller(Arc<Shared>);

pub(super) struct Shared {
    node: NodeId,
    metadata: ArcSwap<Metadata>,
    version: watch::Sender<u64>,
    post: Post<Request>,
    leaders: Leaders,
    ailing: Ailing,
    courier: Arc<dyn Courier>,
    producers: Mutex<(i64, u64)>,
}

impl Shared {
    pub(super) fn publish(&self, metadata: Arc<Metadata>) {
        let version = metadata.version;
        if self.metadata.load().version < version {
            self.metadata.store(metadata);
            self.version.send_replace(version);
        }
    }
}

impl Controller {
    /// The controller of `node`; its replica comes with `Controller::host`.
    pub fn new(node: NodeId, leaders: Leaders, courier: Arc<dyn Courier>) -> Self {
        Self(Arc::new(Shared {
            node,
            metadata: ArcSwap::default(),
            version: watch::Sender::new(0),
            post: Post::default(),
            leaders,
            ailing: Ailing::default(),
            courier,
            producers: Mutex::new((0, 0)),
        }))
    }

    /// Starts this node's replica on the current arbiter.
    pub(crate) fn host(&self, env: &Env, identity: Identity) -> Keeper {
        replica::start(env, self.0.post.clone(), ControllerDomain::new(self.0.clone()), identity)
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.0.node
    }

    /// What this node has applied. Never waits.
    pub fn metadata(&self) -> Arc<Metadata> {
        self.0.metadata.load_full()
    }

    /// The version of [`Controller::metadata`].
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.0.version.subscribe()
    }

    /// Who leads which group.
    pub fn leaders(&self) -> &Leaders {
        &self.0.leaders
    }

    /// Which replicas are not well.
    pub fn ailing(&self) -> &Ailing {
        &self.0.ailing
    }

    /// Who leads a partition, with its epoch, as far as this node knows.
    pub fn leader_of(&self, partition: TopicPartition) -> Option<(NodeId, u64)> {
        let Leader { node, epoch } = self.0.leaders.of(self.metadata().group_of(partition)?)?;
        node.map(|node| (node, epoch))
    }

    /// Who leads the controller group, as far as this node knows.
    pub fn leader(&self) -> Option<NodeId> {
        self.0.leaders.of(GROUP)?.node
    }

    /// Runs a command at the leader, wherever it is, and waits until this node's snapshot has it. Tries again over
    /// elections: all commands are harmless when they come twice.
    pub async fn execute(&self, command: Command, deadline: Duration) -> Result<Answer, ExecuteError> {
        let until = Instant::now() + deadline;
        let raw = command.encode();
        loop {
            let left = until.saturating_duration_since(Instant::now()).min(ATTEMPT);
            let attempt = match self.leader() {
                Some(leader) if leader == self.0.node => self.execute_here(raw.clone(), left).await,
                Some(leader) => self.forward(leader, &raw, left).await,
                None => Err(ExecuteError::NotLeader { leader: None }),
            };
            match attempt {
                Ok(Executed { answer, version }) => {
                    let mut seen = self.changed();
                    // Without the snapshot in time the answer is true nevertheless: it only is not visible here yet.
                    let _ = tokio::time::timeout_at(until, seen.wait_for(|seen| *seen >= version)).await;
                    return Ok(answer);
                }
                Err(ExecuteError::Refused(refused)) => return Err(ExecuteError::Refused(refused)),
                Err(ExecuteError::NotLeader { .. } | ExecuteError::NoQuorum | ExecuteError::TimedOut) => {}
            }
            if Instant::now() + RETRY >= until {
                return Err(ExecuteError::TimedOut);
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Runs a command if this node leads: what other nodes ask for.
    pub async fn execute_here(&self, command: Raw, deadline: Duration) -> Result<Executed, ExecuteError> {
        let (slot, answer) = ReplySlot::channel();
        self.0.post.send(Request::Execute(command, slot));
        tokio::time::timeout(deadline, answer).await.unwrap_or(Err(ExecuteError::TimedOut))
    }

    async fn forward(&self, leader: NodeId, command: &Raw, deadline: Duration) -> Result<Executed, ExecuteError> {
        let mut request = Vec::with_capacity(1 + command.body.len());
        request.push(command.kind);
        request.extend_from_slice(&command.body);
        let answer = self.0.courier.ask(leader, Service::Execute, request.into(), deadline).await;
        let bytes = answer.map_err(|_| ExecuteError::NotLeader { leader: None })?;
        decode(&bytes).unwrap_or(Err(ExecuteError::TimedOut))
    }

    /// Serves [`Service::Execute`].
    pub async fn serve(&self, mut request: Bytes) -> Bytes {
        let result = match request.is_empty() {
            true => Err(ExecuteError::NotLeader { leader: None }),
            false => {
                let kind = request.split_to(1)[0];
                self.execute_here(Raw { kind, body: request }, ATTEMPT).await
            }
        };
        rmp_serde::to_vec_named(&result).expect("plain values in memory always encode").into()
    }

    /// A producer id that was never given out.
    pub async fn take_producer(&self, deadline: Duration) -> Result<ProducerId, ExecuteError> {
        // Held over the request: whoever comes meanwhile wants an id of the same block.
        let mut block =
            tokio::time::timeout(deadline, self.0.producers.lock()).await.map_err(|_| ExecuteError::TimedOut)?;
        if block.1 == 0 {
            let command = Command::TakeProducerBlock(TakeProducerBlock { node: self.0.node });
            match self.execute(command, deadline).await? {
                Answer::ProducerBlock { first, count } if is_block(first, count) => *block = (first.0, count),
                _ => return Err(ExecuteError::TimedOut),
            }
        }
        let id = ProducerId(block.0);
        *block = (block.0 + 1, block.1 - 1);
        Ok(id)
    }

    /// Waits until a leader of every partition of a topic is known here. False when `deadline` passed first.
    pub async fn led(&self, topic: TopicId, deadline: Duration) -> bool {
        let mut changed = self.0.leaders.changed();
        let all_led = async {
            loop {
                changed.mark_unchanged();
                let metadata = self.metadata();
                let led = |group: &GroupId| self.0.leaders.of(*group).is_some_and(|leader| leader.node.is_some());
                if metadata.topic(topic).is_some_and(|topic| topic.partitions.iter().all(led))
                    || changed.changed().await.is_err()
                {
                    return;
                }
            }
        };
        tokio::time::timeout(deadline, all_led).await.is_ok()
    }
}

/// Whether there are such ids: another node says so.
fn is_block(first: ProducerId, count: u64) -> bool {
    first.0 >= 0 && count > 0 && first.0.checked_add_unsigned(count).is_some()
}
