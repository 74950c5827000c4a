//! Topics, groups and the cluster: what operators and set-up code ask for.

use super::{
    Inner, LookupError, RequestError,
    consumer::home::Home,
    error::{refusal_advice, refusal_reaction},
    pool::unexpected,
};
use crate::{
    advice::{Advice, Reaction},
    types::{Generation, GroupName, MemberId, NodeId, Position, TopicId, TopicName, TopicPartition},
    wire::{
        AlterTopic, ClusterStatus, ClusterStatusAnswer, Code, CommitOffset, CreateTopic, DeleteGroup, DeleteTopic,
        DescribeGroup, Frame, GroupDescription, GroupKind, GroupPartition, GroupSummary, ListGroups, ListOffsets,
        Message, Metadata, OffsetQuery, Refused, ResetGroup, TopicMetadata, TransferLeader,
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

/// First and longest pause before a question is repeated.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// A topic to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTopic {
    name: TopicName,
    partitions: u32,
    replication_factor: u32,
    settings: Vec<(String, String)>,
}

impl NewTopic {
    /// With the cluster's defaults.
    pub fn new(name: TopicName) -> Self {
        Self { name, partitions: 0, replication_factor: 0, settings: Vec::new() }
    }

    /// With so many partitions.
    pub fn partitions(mut self, partitions: u32) -> Self {
        self.partitions = partitions;
        self
    }

    /// With so many copies of each partition.
    pub fn replication_factor(mut self, copies: u32) -> Self {
        self.replication_factor = copies;
        self
    }

    /// With one setting more, e.g. `retention.ms`.
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }
}

/// The groups of a cluster, as far as their homes answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupListing {
    /// The groups, by name.
    pub groups: Vec<GroupSummary>,
    /// Nodes that gave no list, and why: groups whose home was there are not in `groups`.
    pub missing: BTreeMap<NodeId, RequestError>,
    /// Homes of groups, numbered from 1, of which some node that answered has a replica and knows no leader that answers: the
    /// groups that live there are not in `groups` either.
    pub homes_missing: BTreeSet<u64>,
}

/// A group, with what it has still to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupDetails {
    /// Its name.
    pub group: GroupName,
    /// How it consumes.
    pub kind: GroupKind,
    /// Where it starts in partitions without a committed offset.
    pub start: Position,
    /// Its generation.
    pub generation: Generation,
    /// Its members with their topics.
    pub members: Vec<(MemberId, Vec<TopicName>)>,
    /// Its partitions.
    pub partitions: Vec<GroupLag>,
}

impl GroupDetails {
    /// Records that it has still to read, in topics that are there; absent when that of one partition is not known.
    pub fn lag(&self) -> Option<u64> {
        self.partitions.iter().filter(|partition| !partition.topic.is_empty()).map(|partition| partition.lag).sum()
    }
}

/// One partition of a [`GroupDetails`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupLag {
    /// The topic's id.
    pub topic_id: TopicId,
    /// The topic's name; empty when it is gone.
    pub topic: String,
    /// Which partition.
    pub partition: u32,
    /// The committed offset.
    pub committed: Option<u64>,
    /// The partition's high watermark; absent when its leader did not answer.
    pub high_watermark: Option<u64>,
    /// Records between the two; from where the group starts when nothing is committed.
    pub lag: Option<u64>,
    /// Who consumes it.
    pub member: Option<MemberId>,
}

/// Why an administrative request failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// The topic could not be looked up.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// No answer that helps.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A partition has no leader that answers.
    #[error("{topic}/{partition} has no leader that answers: {why}")]
    NoLeader {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
        /// The last failure.
        why: String,
    },
    /// One partition of the question was refused.
    #[error("{topic}/{partition}: {}", refused.message)]
    Partition {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
        /// The refusal.
        refused: Refused,
    },
}

impl AdminError {
    /// The broker's code, when it refused.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Request(error) => error.code(),
            Self::Partition { refused, .. } => Some(refused.code),
            Self::Lookup(_) | Self::NoLeader { .. } => None,
        }
    }
}

impl Advice for AdminError {
    fn reaction(&self) -> Reaction {
        match self {
            Self::Lookup(error) => error.reaction(),
            Self::Request(error) => error.reaction(),
            Self::NoLeader { .. } => Reaction::Retry { after_ms: 500 },
            Self::Partition { refused, .. } => refusal_reaction(refused.code),
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::Lookup(error) => error.advice(),
            Self::Request(error) => error.advice(),
            Self::NoLeader { .. } => "bring back enough nodes for a majority (highwater cluster status)".into(),
            Self::Partition { refused, .. } => refusal_advice(refused.code).into(),
        }
    }
}

/// Administers topics, groups and the cluster.
#[derive(Clone)]
pub struct Admin {
    inner: Arc<Inner>,
}

impl Admin {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    // ---- topics

    /// Makes a topic; returns when it can be used.
    pub async fn create_topic(&self, topic: NewTopic) -> Result<Arc<super::Topic>, AdminError> {
        let NewTopic { name, partitions, replication_factor, settings } = topic;
        let mut random = [0; 16];
        random[..8].copy_from_slice(&self.inner.host.random_u64().to_le_bytes());
        random[8..].copy_from_slice(&self.inner.host.random_u64().to_le_bytes());
        // Repeated over a broken connection it is known by its id, and not refused as existing.
        let id = Some(TopicId::from_random(random));
        let create = CreateTopic { name: name.clone(), id, partitions, replication_factor, settings };
        let frame = self.inner.cluster.one(create).await?;
        let Message::TopicCreated(_) = frame.message else { return Err(answered("CreateTopic", &frame)) };
        Ok(self.inner.cluster.topic(&name).await?)
    }

    /// Removes a topic with all its records; not one that is made under the same name meanwhile.
    pub async fn delete_topic(&self, name: &TopicName) -> Result<(), AdminError> {
        let id = match self.describe_topic(name).await {
            Ok(topic) => Some(topic.id),
            // A node that lags behind did not know it.
            Err(_) => self.inner.cluster.known(name).map(|topic| topic.id),
        };
        let answer = self.inner.cluster.one(DeleteTopic { name: name.clone(), id }).await;
        self.inner.cluster.ask();
        match answer {
            Ok(frame) => done("DeleteTopic", &frame),
            // An attempt whose answer got lost removed it.
            Err(RequestError::Refused { refused }) if id.is_some() && refused.code == Code::UnknownTopic => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Changes settings (`None` = back to the default), and adds partitions up to this count when it is not 0.
    pub async fn alter_topic(
        &self,
        name: &TopicName,
        settings: Vec<(String, Option<String>)>,
        partitions: u32,
    ) -> Result<(), AdminError> {
        let frame = self.inner.cluster.one(AlterTopic { name: name.clone(), settings, partitions }).await?;
        self.inner.cluster.ask();
        done("AlterTopic", &frame)
    }

    /// All topics, by name.
    pub async fn topics(&self) -> Result<Vec<TopicMetadata>, AdminError> {
        self.metadata(None).await
    }

    /// One topic: partitions, leaders, replicas, settings.
    pub async fn describe_topic(&self, name: &TopicName) -> Result<TopicMetadata, AdminError> {
        // A node that lags behind may not know it: the client's own look-up asks others too.
        self.inner.cluster.topic(name).await?;
        let found = self.metadata(Some(vec![name.clone()])).await?.into_iter().next();
        found.ok_or_else(|| LookupError::UnknownTopic { topic: name.clone() }.into())
    }

    /// Of a node that lags behind what this client has seen or changed only when no other answers in time.
    async fn metadata(&self, topics: Option<Vec<TopicName>>) -> Result<Vec<TopicMetadata>, AdminError> {
        let cluster = &self.inner.cluster;
        let begun = Instant::now();
        loop {
            let (_, frame) = cluster.any(Metadata { topics: topics.clone(), ..Metadata::default() }).await?;
            let Message::MetadataAnswer(answer) = frame.message else { return Err(answered("Metadata", &frame)) };
            if answer.version >= cluster.version() || begun.elapsed() >= self.inner.request_timeout {
                let mut topics = answer.topics;
                topics.sort_by(|a, b| a.name.cmp(&b.name));
                return Ok(topics);
            }
            // Another node next.
            cluster.ask();
            tokio::time::sleep(PAUSE_MIN).await;
        }
    }

    /// The offset at this position, of each partition of the topic: not stale.
    pub async fn list_offsets(&self, name: &TopicName, at: Position) -> Result<BTreeMap<u32, u64>, AdminError> {
        let (found, failed) = self.offsets_of(name, at).await?;
        failed.map_or(Ok(found), Err)
    }

    /// The same of the partitions whose leaders answer; the others are left out.
    pub async fn list_known_offsets(&self, name: &TopicName, at: Position) -> Result<BTreeMap<u32, u64>, AdminError> {
        Ok(self.offsets_of(name, at).await?.0)
    }

    async fn offsets_of(
        &self,
        name: &TopicName,
        at: Position,
    ) -> Result<(BTreeMap<u32, u64>, Option<AdminError>), AdminError> {
        // Others may have added partitions since this client heard of it.
        let topic = self.describe_topic(name).await?;
        let at = |(partition, _)| (TopicPartition { topic: topic.id, partition }, name.to_string(), at);
        let (found, failed) = self.offsets((0..).zip(&topic.partitions).map(at).collect()).await;
        Ok((found.into_iter().map(|(partition, offset)| (partition.partition, offset)).collect(), failed))
    }

    /// Asks each leader once, and again what it could not answer. Gives what was found, and why something was not.
    async fn offsets(
        &self,
        mut open: Vec<(TopicPartition, String, Position)>,
    ) -> (BTreeMap<TopicPartition, u64>, Option<AdminError>) {
        let cluster = &self.inner.cluster;
        let begun = Instant::now();
        let mut pause = PAUSE_MIN;
        let mut found = BTreeMap::new();
        let mut failed = None;
        let mut why = String::from("no leader is known");
        loop {
            let mut by_node: BTreeMap<_, Vec<_>> = BTreeMap::new();
            let mut again = Vec::new();
            for question in open {
                match cluster.route(question.0) {
                    Some(route) => by_node.entry((route.node, route.epoch)).or_default().push(question),
                    None => match cluster.offline(question.0) {
                        Some(refused) => {
                            let (topic, partition) = (question.1, question.0.partition);
                            failed.get_or_insert(AdminError::Partition { topic, partition, refused });
                        }
                        None => again.push(question),
                    },
                }
            }
            for ((node, epoch), questions) in by_node {
                let query = |(p, _, at): &(TopicPartition, String, Position)| OffsetQuery {
                    topic: p.topic,
                    partition: p.partition,
                    at: *at,
                };
                let asked = ListOffsets { partitions: questions.iter().map(query).collect() };
                let answer = match cluster.connection(node).await {
                    Ok(live) => live.call(asked, self.inner.request_timeout.min(super::OFFSETS_WAIT)).await,
                    Err(error) => Err(error),
                };
                let listed = match answer {
                    Ok(Frame { message: Message::ListedOffsets(listed), .. }) => listed.partitions,
                    Ok(frame) => {
                        failed.get_or_insert(answered("ListOffsets", &frame));
                        continue;
                    }
                    Err(error) => {
                        why = error.to_string();
                        again.extend(questions);
                        continue;
                    }
                };
                for (question, answer) in questions.into_iter().zip(listed) {
                    match answer.refused {
                        None => drop(found.insert(question.0, answer.offset)),
                        Some(refused) if refused.code.is_retriable() => {
                            if refused.code == Code::NotLeader {
                                cluster.refused(question.0, super::cluster::Route { node, epoch }, &refused);
                            }
                            why = refused.message;
                            again.push(question);
                        }
                        Some(refused) => {
                            let (topic, partition) = (question.1, question.0.partition);
                            failed.get_or_insert(AdminError::Partition { topic, partition, refused });
                        }
                    }
                }
            }
            let Some((partition, topic, _)) = again.first() else { return (found, failed) };
            if begun.elapsed() >= self.inner.request_timeout {
                let (topic, partition) = (topic.clone(), partition.partition);
                return (found, failed.or(Some(AdminError::NoLeader { topic, partition, why })));
            }
            cluster.ask();
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
            open = again;
        }
    }

    // ---- groups

    /// All groups whose homes answer, and which nodes do not. An error when none does.
    pub async fn groups(&self) -> Result<GroupListing, AdminError> {
        self.inner.cluster.refresh().await?;
        let mut groups = BTreeMap::new();
        let mut missing = BTreeMap::new();
        let mut homes_missing = BTreeSet::new();
        let nodes = self.inner.cluster.pool.nodes();
        for node in &nodes {
            let answer = match self.inner.cluster.connection(*node).await {
                Ok(live) => live.call(ListGroups {}, self.inner.request_timeout).await,
                Err(error) => Err(error),
            };
            match answer {
                Ok(Frame { message: Message::GroupList(list), .. }) => {
                    groups.extend(list.groups.into_iter().map(|group| (group.group.clone(), group)));
                    homes_missing.extend(list.missing);
                }
                Ok(frame) => return Err(answered("ListGroups", &frame)),
                Err(error) => drop(missing.insert(*node, error)),
            }
        }
        if missing.len() == nodes.len()
            && let Some((_, error)) = missing.pop_last()
        {
            return Err(error.into());
        }
        Ok(GroupListing { groups: groups.into_values().collect(), missing, homes_missing })
    }

    /// What a group has committed in a topic, by partition; those where it has nothing are left out.
    pub async fn committed(&self, group: &GroupName, topic: &TopicName) -> Result<BTreeMap<u32, u64>, AdminError> {
        let partitions = self.group_description(group).await?.partitions.into_iter();
        let of_topic = partitions.filter(|p| p.name == topic.as_str());
        Ok(of_topic.filter_map(|p| Some((p.partition, p.committed?))).collect())
    }

    /// One group with its lag.
    pub async fn describe_group(&self, group: &GroupName) -> Result<GroupDetails, AdminError> {
        let description = self.group_description(group).await?;
        let known = || description.partitions.iter().filter(|p| !p.name.is_empty());
        let question =
            |p: &GroupPartition, at| (TopicPartition { topic: p.topic, partition: p.partition }, p.name.clone(), at);
        for partition in &description.partitions {
            if let Ok(name) = partition.name.parse() {
                // Not used here, but it makes the routes known; a topic that went meanwhile has no lag.
                let _ = self.inner.cluster.topic(&name).await;
            }
        }
        let uncommitted = known().filter(|p| p.committed.is_none()).map(|p| question(p, description.start)).collect();
        let ends = known().map(|p| question(p, Position::Latest)).collect();
        // What has no leader that answers is not known, and takes nothing of the rest with it.
        let ((starts, _), (ends, _)) = tokio::join!(self.offsets(uncommitted), self.offsets(ends));
        let partitions = description.partitions.into_iter().map(|p| {
            let at = TopicPartition { topic: p.topic, partition: p.partition };
            let high_watermark = ends.get(&at).copied();
            let from = p.committed.or_else(|| starts.get(&at).copied());
            GroupLag {
                topic_id: p.topic,
                topic: p.name,
                partition: p.partition,
                committed: p.committed,
                high_watermark,
                lag: high_watermark.zip(from).map(|(end, from)| end.saturating_sub(from)),
                member: p.member,
            }
        });
        Ok(GroupDetails {
            group: group.clone(),
            kind: description.kind,
            start: description.start,
            generation: description.generation,
            members: description.members,
            partitions: partitions.collect(),
        })
    }

    async fn group_description(&self, group: &GroupName) -> Result<GroupDescription, AdminError> {
        let frame = self.ask_home(group, DescribeGroup { group: group.clone() }).await?;
        match frame.message {
            Message::GroupDescription(description) => Ok(description),
            other => Err(unexpected("the group's home", "DescribeGroup", &other).into()),
        }
    }

    /// Moves the group's committed offsets in these topics (all that it knows when empty); it must have no members.
    /// Gives the new offsets.
    pub async fn reset_group(
        &self,
        group: &GroupName,
        topics: &[TopicName],
        to: Position,
    ) -> Result<Vec<(TopicName, u32, u64)>, AdminError> {
        let topics = match topics {
            [] => {
                let known = self.group_description(group).await?.partitions;
                let mut names: Vec<TopicName> = known.iter().filter_map(|p| p.name.parse().ok()).collect();
                names.dedup();
                names
            }
            named => named.to_vec(),
        };
        let mut places = Vec::new();
        for name in topics {
            let partitions = self.inner.cluster.topic(&name).await?.partitions;
            places.extend((0..partitions).map(|partition| (name.clone(), partition)));
        }
        self.reset_partitions(group, &places, to).await
    }

    /// Moves the group's committed offsets in these partitions, all or none of them; it must have no members. Gives the new
    /// offsets.
    pub async fn reset_partitions(
        &self,
        group: &GroupName,
        places: &[(TopicName, u32)],
        to: Position,
    ) -> Result<Vec<(TopicName, u32, u64)>, AdminError> {
        let mut questions = Vec::new();
        for (name, partition) in places {
            let topic = self.inner.cluster.topic_with(name, *partition).await?;
            if *partition >= topic.partitions {
                let said = format!("the topic has {} partitions, from 0: there is no {partition}", topic.partitions);
                let (topic, refused) = (name.to_string(), Refused::new(Code::UnknownPartition, said));
                return Err(AdminError::Partition { topic, partition: *partition, refused });
            }
            questions.push((TopicPartition { topic: topic.id, partition: *partition }, name.to_string(), to));
        }
        let (found, failed) = self.offsets(questions.clone()).await;
        failed.map_or(Ok(()), Err)?;
        let (mut moved, mut offsets) = (Vec::new(), Vec::new());
        for ((at, ..), (name, _)) in questions.iter().zip(places) {
            let (leader_epoch, metadata, offset) = (0, String::new(), found[at]);
            offsets.push(CommitOffset { topic: at.topic, partition: at.partition, offset, leader_epoch, metadata });
            moved.push((name.clone(), at.partition, offset));
        }
        let frame = self.ask_home(group, ResetGroup { group: group.clone(), offsets }).await?;
        done("ResetGroup", &frame).map(|()| moved)
    }

    /// Removes a group without members.
    pub async fn delete_group(&self, group: &GroupName) -> Result<(), AdminError> {
        let existed = self.group_description(group).await.is_ok();
        match self.ask_home(group, DeleteGroup { group: group.clone() }).await {
            Ok(frame) => done("DeleteGroup", &frame),
            // An attempt whose answer got lost removed it.
            Err(error) if existed && error.code() == Some(Code::UnknownGroup) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Asks the group's home, wherever it is now.
    async fn ask_home(&self, group: &GroupName, message: impl Into<Message>) -> Result<Frame, AdminError> {
        Ok(Home::new(group.clone()).ask(&self.inner, message).await?.0)
    }

    // ---- the cluster

    /// How the cluster is, as one node sees it.
    pub async fn cluster_status(&self) -> Result<ClusterStatusAnswer, AdminError> {
        let (_, frame) = self.inner.cluster.any(ClusterStatus {}).await?;
        match frame.message {
            Message::ClusterStatusAnswer(answer) => Ok(answer),
            other => Err(unexpected("the node", "ClusterStatus", &other).into()),
        }
    }

    /// Asks the leader of a partition to hand over to another node with a replica.
    pub async fn transfer_leader(&self, name: &TopicName, partition: u32, to: NodeId) -> Result<(), AdminError> {
        let topic = self.inner.cluster.topic(name).await?;
        let at = TopicPartition { topic: topic.id, partition };
        let begun = Instant::now();
        loop {
            let mut why = String::from("no leader is known");
            if let Some(route) = self.inner.cluster.route(at) {
                let transfer = TransferLeader { topic: topic.id, partition, to };
                let answer = match self.inner.cluster.connection(route.node).await {
                    Ok(live) => live.call(transfer, self.inner.request_timeout).await,
                    Err(error) => Err(error),
                };
                match answer {
                    Ok(frame) => {
                        self.inner.cluster.ask();
                        return done("TransferLeader", &frame);
                    }
                    Err(RequestError::Refused { refused }) if refused.code.is_retriable() => {
                        if refused.code == Code::NotLeader {
                            self.inner.cluster.refused(at, route, &refused);
                        }
                        why = refused.message;
                    }
                    Err(error @ RequestError::Unreachable { .. }) => why = error.to_string(),
                    Err(error) => return Err(error.into()),
                }
            }
            if begun.elapsed() >= self.inner.request_timeout {
                return Err(AdminError::NoLeader { topic: name.to_string(), partition, why });
            }
            self.inner.cluster.ask();
            tokio::time::sleep(PAUSE_MIN).await;
        }
    }
}

fn done(asked: &'static str, frame: &Frame) -> Result<(), AdminError> {
    match frame.message {
        Message::Done(_) => Ok(()),
        _ => Err(answered(asked, frame)),
    }
}

fn answered(asked: &'static str, frame: &Frame) -> AdminError {
    unexpected("the node", asked, &frame.message).into()
}
