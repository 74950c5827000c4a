//! Requests about the cluster: metadata, topics, groups, status. Answered from this node's snapshot, or by whom it concerns.

use super::Ground;
use crate::{
    controller::{
        Ailment, Answer,
        machine::{AlterTopic, Command, CreateTopic, DeleteTopic, Metadata, Purpose, ReplicaState, Topic},
    },
    group::Listed,
    limits,
    partition::Role,
    types::{NodeId, TopicId, TopicName, TopicPartition},
    wire::{self, Code, Done, Message, Refused},
};
use highwater_raft::GroupId;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::time::Instant;

/// How long a command of the controller may take, with what comes of it. Clients wait longer: else they would give up what
/// goes well.
const COMMAND_WAIT: Duration = Duration::from_secs(8);

// A second for the way between client and node.
#[cfg(test)]
const _: () = assert!(COMMAND_WAIT.as_secs() + 1 < crate::client::REQUEST_TIMEOUT.as_secs());

/// Longest wait for news of the metadata.
const NEWS_WAIT_MAX: Duration = Duration::from_secs(2);
/// News within this time are told at once.
const NEWS_GATHER: Duration = Duration::from_millis(3);

/// How long a list of groups waits for homes that elect, and how often it looks.
const HOMES_WAIT: Duration = Duration::from_secs(3);
const HOMES_AGAIN: Duration = Duration::from_millis(100);

impl Ground {
    /// Answers a request that is neither for a partition's log nor for a session. Dropping the future gives it up.
    pub async fn ask(self, request: Message) -> Result<Message, Refused> {
        Ok(match request {
            Message::Metadata(wanted) => {
                self.news_after(&wanted).await;
                self.metadata(&wanted)?.into()
            }
            Message::InitProducer(_) => {
                let producer = self.controller.take_producer(COMMAND_WAIT).await.map_err(|e| e.refused())?;
                wire::ProducerReady { producer, epoch: 0 }.into()
            }
            Message::CreateTopic(create) => self.create_topic(create).await?.into(),
            Message::AlterTopic(alter) => self.alter_topic(alter).await?.into(),
            Message::DeleteTopic(delete) => {
                self.execute(Command::DeleteTopic(DeleteTopic { name: delete.name, id: delete.id })).await?;
                Done {}.into()
            }
            Message::FindGroup(find) => self.find_group(&find).into(),
            Message::Join(join) => self.groups.join(self.with_session(join)).await?.into(),
            Message::Heartbeat(heartbeat) => self.groups.heartbeat(heartbeat).await?.into(),
            Message::Leave(leave) => self.groups.leave(leave).await?.into(),
            Message::Start(start) => self.groups.start(start).await?.into(),
            Message::Commit(commit) => self.groups.commit(commit).await?.into(),
            Message::ListGroups(_) => self.list_groups().await?.into(),
            Message::DescribeGroup(describe) => self.groups.describe(describe).await?.into(),
            Message::ResetGroup(reset) => self.groups.reset(reset).await?.into(),
            Message::DeleteGroup(delete) => self.groups.delete(delete).await?.into(),
            Message::ClusterStatus(_) => self.status().into(),
            Message::TransferLeader(transfer) => self.transfer(&transfer).await?.into(),
            other => return Err(misplaced(&other)),
        })
    }

    async fn execute(&self, command: Command) -> Result<Answer, Refused> {
        self.controller.execute(command, COMMAND_WAIT).await.map_err(|error| error.refused())
    }

    /// Changes that this node has heard of.
    fn news(&self) -> u64 {
        *self.controller.leaders().changed().borrow() + *self.controller.changed().borrow()
    }

    /// Waits for something that the client was not told yet, as long as it wants to.
    async fn news_after(&self, wanted: &wire::Metadata) {
        // To who has heard nothing all is news; a node that knows nothing says so at once.
        if wanted.wait_ms == 0 || wanted.after == 0 || *self.controller.changed().borrow() == 0 {
            return;
        }
        let (mut leaders, mut metadata) = (self.controller.leaders().changed(), self.controller.changed());
        let news = async {
            while self.news() == wanted.after {
                tokio::select! {
                    biased;
                    gone = leaders.changed() => if gone.is_err() { return },
                    gone = metadata.changed() => if gone.is_err() { return },
                }
            }
        };
        let wait = Duration::from_millis(wanted.wait_ms.into()).min(NEWS_WAIT_MAX);
        if tokio::time::timeout(wait, news).await.is_ok() {
            // A new term is soon followed by its leader, a group by the others that its leader led.
            tokio::time::sleep(NEWS_GATHER).await;
        }
    }

    fn metadata(&self, wanted: &wire::Metadata) -> Result<wire::MetadataAnswer, Refused> {
        // Before what is told: what changes in between is told twice rather than never.
        let news = self.news();
        let metadata = self.controller.metadata();
        if metadata.version == 0 {
            return Err(Refused::new(Code::NotReady, "this node has not joined its cluster yet: try again"));
        }
        let nodes = metadata.nodes.iter();
        let nodes = nodes.map(|(node, at)| wire::NodeAddress { node: *node, address: at.addresses.native.clone() });
        let alive = self.alive();
        let topic = |(name, topic)| self.topic(&metadata, &alive, name, topic);
        let topics = match &wanted.topics {
            None => metadata.topics.iter().map(topic).collect(),
            Some(names) => {
                let names: BTreeSet<_> = names.iter().collect();
                names.into_iter().filter_map(|name| metadata.topics.get_key_value(name)).map(topic).collect()
            }
        };
        Ok(wire::MetadataAnswer { version: metadata.version, nodes: nodes.collect(), topics, news })
    }

    fn alive(&self) -> BTreeSet<NodeId> {
        self.courier.others().into_iter().chain([self.node()]).collect()
    }

    fn topic(
        &self,
        metadata: &Metadata,
        alive: &BTreeSet<NodeId>,
        name: &TopicName,
        topic: &Topic,
    ) -> wire::TopicMetadata {
        let partition = |group| {
            // A leader that is not heard is nobody to send clients to.
            let leader =
                self.controller.leaders().of(group).filter(|l| l.node.is_some_and(|node| alive.contains(&node)));
            let placement = metadata.groups.get(&group);
            wire::PartitionMetadata {
                leader: leader.and_then(|leader| leader.node),
                leader_epoch: leader.map_or(0, |leader| leader.epoch),
                replicas: placement.map(|placement| placement.nodes()).unwrap_or_default(),
                offline: placement.is_some_and(|placement| placement.is_offline()),
                damaged: placement.map(|placement| placement.damaged()).unwrap_or_default(),
            }
        };
        wire::TopicMetadata {
            name: name.clone(),
            id: topic.id,
            replication_factor: topic.replication_factor,
            settings: topic.settings.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            partitions: topic.partitions.iter().copied().map(partition).collect(),
        }
    }

    /// Nodes that are registered and not heard.
    fn silent(&self) -> BTreeSet<NodeId> {
        let alive = self.alive();
        self.controller.metadata().nodes.keys().copied().filter(|node| !alive.contains(node)).collect()
    }

    async fn create_topic(&self, create: wire::CreateTopic) -> Result<wire::TopicCreated, Refused> {
        let started = Instant::now();
        let wire::CreateTopic { name, id, mut partitions, mut replication_factor, settings } = create;
        if partitions == 0 {
            partitions = self.config.topics.partitions;
        }
        if replication_factor == 0 {
            let nodes = u32::try_from(self.controller.metadata().nodes.len()).unwrap_or(u32::MAX);
            replication_factor = self.config.topics.replication_factor.min(nodes);
        }
        let id = id.unwrap_or_else(|| TopicId::from_random(self.env.random_bytes()));
        let command = CreateTopic { name, id, partitions, replication_factor, settings, avoid: self.silent() };
        let Answer::TopicCreated { id, partitions, replication_factor } =
            self.execute(Command::CreateTopic(command)).await?
        else {
            return Err(strange("a topic"));
        };
        if !self.controller.led(id, COMMAND_WAIT.saturating_sub(started.elapsed())).await {
            // It exists, and said again it would be refused as existing: clients find out leaders by themselves.
            tracing::warn!(topic = %id, "not every partition of a new topic has a leader yet");
        }
        Ok(wire::TopicCreated { id, partitions, replication_factor })
    }

    async fn alter_topic(&self, alter: wire::AlterTopic) -> Result<Done, Refused> {
        let started = Instant::now();
        let wire::AlterTopic { name, settings, partitions } = alter;
        let command = AlterTopic { name: name.clone(), settings, partitions, avoid: self.silent() };
        self.execute(Command::AlterTopic(command)).await?;
        let metadata = self.controller.metadata();
        if partitions > 0
            && let Some(topic) = metadata.topics.get(&name)
            && !self.controller.led(topic.id, COMMAND_WAIT.saturating_sub(started.elapsed())).await
        {
            tracing::warn!(topic = %topic.id, "not every new partition has a leader yet");
        }
        Ok(Done {})
    }

    /// A member that names no session time is given the config's.
    fn with_session(&self, mut join: wire::Join) -> wire::Join {
        if join.session_ms == 0 {
            join.session_ms = u32::try_from(self.config.groups.session_grace_ms).unwrap_or(u32::MAX);
        }
        join
    }

    fn find_group(&self, find: &wire::FindGroup) -> wire::GroupFound {
        let (_, node) = self.groups.home_of(&find.group);
        let node = node.filter(|node| self.is_alive(*node));
        let metadata = self.controller.metadata();
        let address = node.and_then(|node| metadata.nodes.get(&node)).map(|node| node.addresses.native.clone());
        wire::GroupFound { node, address: address.unwrap_or_default() }
    }

    /// Homes that elect are waited for. An empty list says that there are no groups here: only who knows where all of its
    /// homes are may say so.
    async fn list_groups(&self) -> Result<wire::GroupList, Refused> {
        let until = Instant::now() + HOMES_WAIT;
        let is_elsewhere =
            |leader: Option<NodeId>| leader.is_some_and(|node| node != self.node() && self.is_alive(node));
        loop {
            let Listed { groups, elsewhere } = self.groups.list().await;
            let lost = elsewhere.iter().filter(|(_, leader)| !is_elsewhere(*leader));
            let missing: Vec<u64> = lost.map(|(home, _)| home.0).collect();
            let is_over = Instant::now() >= until;
            if missing.is_empty() || (is_over && !groups.is_empty()) {
                return Ok(wire::GroupList { groups, missing });
            }
            if is_over {
                let lost = missing.len();
                let said = format!("{lost} homes of consumer groups have no leader that answers: try again");
                return Err(Refused::new(Code::NotReady, said));
            }
            tokio::time::sleep(HOMES_AGAIN).await;
        }
    }

    fn status(&self) -> wire::ClusterStatusAnswer {
        let metadata = self.controller.metadata();
        let alive = self.alive();
        let mut led: BTreeMap<NodeId, u32> = BTreeMap::new();
        let (mut partitions, mut leaderless, mut offline) = (0, 0, 0);
        for group in metadata.topics.values().flat_map(|topic| &topic.partitions) {
            partitions += 1;
            match self.controller.leaders().of(*group).and_then(|leader| leader.node) {
                Some(node) if alive.contains(&node) => *led.entry(node).or_default() += 1,
                _ => leaderless += 1,
            }
            offline += u32::from(metadata.groups.get(group).is_some_and(|placement| placement.is_offline()));
        }
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let of_topics = |node| {
            let hosted = metadata.hosted_by(node).filter(|(group, ..)| group.0 >= limits::PARTITION_GROUP_MIN);
            count(hosted.count())
        };
        let nodes = metadata.nodes.iter().map(|(node, at)| wire::NodeStatus {
            node: *node,
            address: at.addresses.native.clone(),
            alive: alive.contains(node),
            leaders: led.get(node).copied().unwrap_or(0),
            replicas: of_topics(*node),
        });
        wire::ClusterStatusAnswer {
            name: self.config.cluster.name.clone(),
            cluster_id: self.cluster_id(),
            controller: self.controller.leader().filter(|node| alive.contains(node)),
            nodes: nodes.collect(),
            topics: count(metadata.topics.len()),
            partitions,
            leaderless,
            offline,
            replicas: self.unwell(&metadata),
        }
    }

    /// Replicas that are no sound members: by the metadata, and by what their nodes say.
    fn unwell(&self, metadata: &Metadata) -> Vec<wire::ReplicaStatus> {
        let about = |group: &GroupId, node: NodeId, replica: u64, state| {
            let purpose = metadata.groups.get(group).map(|placement| placement.purpose);
            let of = if let Some(Purpose::Partition(of)) = purpose { Some(of) } else { None };
            let topic = of.and_then(|of| metadata.name_of(of.topic).cloned());
            let partition = of.map_or(0, |of| of.partition);
            wire::ReplicaStatus { group: group.0, topic, partition, node, replica, state }
        };
        let mut unwell = Vec::new();
        for (group, placement) in &metadata.groups {
            for replica in &placement.replicas {
                let state = match replica.state {
                    ReplicaState::Voter | ReplicaState::Observer => continue,
                    ReplicaState::Learner => wire::ReplicaState::Learner,
                    ReplicaState::Ready => wire::ReplicaState::Ready,
                    ReplicaState::Dying => wire::ReplicaState::Faulty,
                };
                unwell.push(about(group, replica.node, replica.id.0, state));
            }
        }
        for (node, said) in self.controller.ailing().all() {
            for (group, how) in said {
                let hosted = metadata.groups.get(&group).and_then(|placement| placement.hosted_by(node));
                let state = match how {
                    Ailment::Failed => wire::ReplicaState::Failed,
                    Ailment::Mending => wire::ReplicaState::Mending,
                    // Once the controller knows, the metadata says more.
                    Ailment::Damaged if hosted.is_some_and(|r| r.state != ReplicaState::Voter) => continue,
                    Ailment::Damaged => wire::ReplicaState::Faulty,
                };
                unwell.push(about(&group, node, hosted.map_or(0, |replica| replica.id.0), state));
            }
        }
        unwell
    }

    async fn transfer(&self, transfer: &wire::TransferLeader) -> Result<Done, Refused> {
        let partition = TopicPartition { topic: transfer.topic, partition: transfer.partition };
        let handle = self.find(partition)?;
        if handle.marks().role != Role::Leader {
            return Err(self.elsewhere(partition));
        }
        let metadata = self.controller.metadata();
        let replica = metadata.placement_of(partition).and_then(|placement| placement.hosted_by(transfer.to));
        let Some(replica) = replica else {
            let said = format!("node {} has no replica of this partition: choose one that has", transfer.to);
            return Err(Refused::new(Code::BadSetting, said));
        };
        let transferred = handle.transfer(replica.id).await;
        transferred.map_err(|error| Refused::new(Code::NotReady, error.to_string()))?;
        Ok(Done {})
    }
}

/// A frame that is no request of this kind.
fn misplaced(message: &Message) -> Refused {
    let said = match message {
        Message::Hello(_) => "a connection begins with one Hello: this is another one".into(),
        other => format!("{:?} is not a request: only a broker sends it", other.kind()),
    };
    Refused::new(Code::BadRequest, said)
}

fn strange(what: &str) -> Refused {
    Refused::new(Code::Internal, format!("the controller answered something else than {what}: report this"))
}
