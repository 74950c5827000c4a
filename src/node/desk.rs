//! What clients ask of a node beside its partitions: metadata, groups, administration.

use super::hosting::Hosting;
use crate::{
    controller::{
        Answer, Controller,
        machine::{AlterTopic, Command, CreateTopic, DeleteTopic, Metadata, Placement, ReplicaState, Topic},
    },
    gateway,
    group::Groups,
    partition::Partitions,
    runtime::{Courier, Env},
    types::{NodeId, TopicId, TopicName, TopicPartition},
    wire::{self, Code, Message, Refused},
};
use futures_util::future::BoxFuture;
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// How long a command of the controller may take.
const EXECUTE: Duration = Duration::from_secs(10);
/// How long the answer to a new topic waits for its leaders.
const LED: Duration = Duration::from_secs(5);

/// The node's side of its gateways. Clones share.
#[derive(Clone)]
pub(super) struct Desk(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) cluster: String,
    pub(super) controller: Controller,
    pub(super) groups: Groups,
    pub(super) partitions: Partitions,
    pub(super) hosting: Hosting,
    pub(super) courier: Arc<dyn Courier>,
    pub(super) env: Env,
}

impl gateway::Desk for Desk {
    fn cluster_id(&self) -> u64 {
        self.0.controller.metadata().cluster_id.unwrap_or_default()
    }

    fn elsewhere(&self, partition: TopicPartition) -> Refused {
        let metadata = self.0.controller.metadata();
        let Some(topic) = metadata.topic(partition.topic) else {
            return Refused::new(Code::UnknownTopic, format!("topic {} does not exist", partition.topic));
        };
        if partition.partition as usize >= topic.partitions.len() {
            let said = format!("the topic has {} partitions, {} is none of them", topic.partitions.len(), partition.partition);
            return Refused::new(Code::UnknownPartition, said);
        }
        if metadata.placement_of(partition).is_some_and(Placement::is_offline) {
            return Refused::new(Code::Offline, "the partition lost a majority of its replicas");
        }
        match self.0.controller.leader_of(partition) {
            Some((leader, leader_epoch)) if leader != self.0.controller.node() => Refused {
                code: Code::NotLeader,
                message: format!("node {leader} leads the partition"),
                leader: Some(leader),
                leader_epoch,
            },
            _ => Refused::new(Code::NotReady, "the partition is about to have a leader; try again"),
        }
    }

    fn ask(&self, request: Message) -> BoxFuture<'static, Result<Message, Refused>> {
        let desk = self.clone();
        Box::pin(async move { desk.answer(request).await })
    }
}

impl Desk {
    async fn answer(&self, request: Message) -> Result<Message, Refused> {
        let groups = &self.0.groups;
        Ok(match request {
            Message::Metadata(metadata) => self.metadata(metadata).into(),
            Message::InitProducer(_) => {
                let producer = self.0.controller.take_producer(EXECUTE).await.map_err(|error| error.refused())?;
                wire::ProducerReady { producer, epoch: 0 }.into()
            }
            Message::CreateTopic(create) => self.create(create).await?.into(),
            Message::DeleteTopic(wire::DeleteTopic { name }) => self.change(Command::DeleteTopic(DeleteTopic { name })).await?.into(),
            Message::AlterTopic(wire::AlterTopic { name, settings, partitions }) => {
                let avoid = self.unheard();
                self.change(Command::AlterTopic(AlterTopic { name, settings, partitions, avoid })).await?.into()
            }
            Message::FindGroup(find) => self.find_group(&find).into(),
            Message::Join(join) => groups.join(join).await?.into(),
            Message::Heartbeat(beat) => groups.heartbeat(beat).await?.into(),
            Message::Leave(leave) => groups.leave(leave).await?.into(),
            Message::Commit(commit) => groups.commit(commit).await?.into(),
            Message::ListGroups(_) => groups.list().await.into(),
            Message::DescribeGroup(describe) => groups.describe(describe).await?.into(),
            Message::ResetGroup(reset) => groups.reset(reset).await?.into(),
            Message::DeleteGroup(delete) => groups.delete(delete).await?.into(),
            Message::ClusterStatus(_) => self.status().into(),
            Message::TransferLeader(transfer) => self.transfer(&transfer).await?.into(),
            other => return Err(Refused::new(Code::BadRequest, format!("{:?} is no request of this kind", other.kind()))),
        })
    }

    fn metadata(&self, asked: wire::Metadata) -> wire::MetadataAnswer {
        let metadata = self.0.controller.metadata();
        let topics: Vec<TopicName> = asked.topics.unwrap_or_else(|| metadata.topics.keys().cloned().collect());
        let nodes = metadata.nodes.iter().map(|(node, known)| wire::NodeAddress { node: *node, address: known.addresses.native.clone() });
        wire::MetadataAnswer {
            version: metadata.version,
            nodes: nodes.collect(),
            topics: topics.iter().filter_map(|name| Some(self.topic(&metadata, name, metadata.topics.get(name)?))).collect(),
        }
    }

    fn topic(&self, metadata: &Metadata, name: &TopicName, topic: &Topic) -> wire::TopicMetadata {
        let partition = |group| {
            let leader = self.0.controller.leaders().of(group);
            let placement = metadata.groups.get(&group);
            wire::PartitionMetadata {
                leader: leader.and_then(|leader| leader.node),
                leader_epoch: leader.map_or(0, |leader| leader.epoch),
                replicas: placement.map(Placement::nodes).unwrap_or_default(),
                offline: placement.is_some_and(Placement::is_offline),
            }
        };
        wire::TopicMetadata {
            name: name.clone(),
            id: topic.id,
            replication_factor: topic.replication_factor,
            settings: topic.settings.iter().map(|(name, value)| (name.into(), value.into())).collect(),
            partitions: topic.partitions.iter().map(|group| partition(*group)).collect(),
        }
    }

    /// Nodes that this one does not hear: a new replica goes there only if there are not enough others.
    fn unheard(&self) -> BTreeSet<NodeId> {
        let others = self.0.courier.others();
        let me = self.0.controller.node();
        self.0.controller.metadata().nodes.keys().copied().filter(|node| *node != me && !others.contains(node)).collect()
    }

    async fn create(&self, create: wire::CreateTopic) -> Result<wire::TopicCreated, Refused> {
        let wire::CreateTopic { name, partitions, replication_factor, settings } = create;
        let id = TopicId::from_random(self.0.env.random_bytes());
        let command = CreateTopic { name, id, partitions, replication_factor, settings, avoid: self.unheard() };
        match self.0.controller.execute(Command::CreateTopic(command), EXECUTE).await {
            Ok(Answer::TopicCreated { id, partitions, replication_factor }) => {
                if !self.0.controller.led(id, LED).await {
                    tracing::warn!(topic = %id, "not every partition of a new topic has a leader yet");
                }
                Ok(wire::TopicCreated { id, partitions, replication_factor })
            }
            Ok(other) => Err(Refused::new(Code::Internal, format!("a creation was answered with {other:?}"))),
            Err(error) => Err(error.refused()),
        }
    }

    async fn change(&self, command: Command) -> Result<wire::Done, Refused> {
        self.0.controller.execute(command, EXECUTE).await.map(|_| wire::Done {}).map_err(|error| error.refused())
    }

    fn find_group(&self, find: &wire::FindGroup) -> wire::GroupFound {
        let (_, node) = self.0.groups.home_of(&find.group);
        let metadata = self.0.controller.metadata();
        let address = node.and_then(|node| metadata.nodes.get(&node)).map(|known| known.addresses.native.clone());
        wire::GroupFound { node, address: address.unwrap_or_default() }
    }

    fn status(&self) -> wire::ClusterStatusAnswer {
        let controller = &self.0.controller;
        let (metadata, leaders) = (controller.metadata(), controller.leaders().all());
        let others = self.0.courier.others();
        let leads = |group| leaders.get(group).and_then(|leader| leader.node);
        let of_topics = || metadata.topics.values().flat_map(|topic| &topic.partitions);
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let node = |(id, known): (&NodeId, &crate::controller::machine::Node)| wire::NodeStatus {
            node: *id,
            address: known.addresses.native.clone(),
            alive: *id == controller.node() || others.contains(id),
            leaders: count(of_topics().filter(|group| leads(group) == Some(*id)).count()),
            replicas: count(metadata.hosted_by(*id).count()),
        };
        wire::ClusterStatusAnswer {
            name: self.0.cluster.clone(),
            cluster_id: metadata.cluster_id.unwrap_or_default(),
            controller: controller.leader(),
            nodes: metadata.nodes.iter().map(node).collect(),
            topics: count(metadata.topics.len()),
            partitions: count(of_topics().count()),
            leaderless: count(of_topics().filter(|group| leads(group).is_none()).count()),
            offline: count(of_topics().filter(|group| metadata.groups.get(group).is_some_and(Placement::is_offline)).count()),
        }
    }

    async fn transfer(&self, transfer: &wire::TransferLeader) -> Result<wire::Done, Refused> {
        let partition = TopicPartition { topic: transfer.topic, partition: transfer.partition };
        let elsewhere = || gateway::Desk::elsewhere(self, partition);
        let handle = self.0.partitions.find(partition).ok_or_else(elsewhere)?;
        let hosted = self.0.hosting.all().remove(&handle.group()).ok_or_else(elsewhere)?;
        let metadata = self.0.controller.metadata();
        let placement = metadata.groups.get(&handle.group()).ok_or_else(elsewhere)?;
        let to = placement.replicas.iter().find(|replica| replica.node == transfer.to && replica.state == ReplicaState::Voter);
        let to = to.ok_or_else(|| Refused::new(Code::BadRequest, format!("node {} has no voter of this partition", transfer.to)))?;
        match hosted.raft.transfer(to.id).await {
            Ok(()) => Ok(wire::Done {}),
            Err(highwater_raft::group::TransferError::NotLeader { .. }) => Err(elsewhere()),
            Err(error) => Err(Refused::new(Code::NotReady, error.to_string())),
        }
    }
}
