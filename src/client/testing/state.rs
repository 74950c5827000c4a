//! Topics, logs, and what goes wrong next.

use super::groups::Group;
use crate::{
    batch::{Batch, Compression, place},
    types::{GroupName, NodeId, Position, ProducerId, TopicId, TopicName, TopicPartition},
    wire::{Code, MetadataAnswer, NodeAddress, PartitionMetadata, Produced, Refused, TopicMetadata},
};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

/// What happens to the next produce request, once each.
#[derive(Clone, Debug)]
pub(in crate::client) enum Fault {
    /// Nothing: it goes well.
    None,
    /// It is refused, and not in the log.
    Refuse(Code),
    /// It is refused, and in the log all the same.
    AppendAndRefuse(Code),
    /// It is in the log, and the connection breaks before the answer.
    AppendAndCut,
    /// The connection breaks before it is in the log.
    Cut,
    /// The answer takes this long.
    Delay(Duration),
    /// It is in the log, and the partition's leader moves to this node before the answer.
    AppendAndMove(u32),
    /// The partition's leader moves to this node; this one refuses.
    Move(u32),
}

#[derive(Default)]
pub(in crate::client) struct State {
    pub(in crate::client) nodes: u32,
    pub(in crate::client) silent: BTreeSet<NodeId>,
    /// Nobody waits for news of the metadata.
    pub(in crate::client) hasty: bool,
    pub(in crate::client) down: BTreeSet<NodeId>,
    pub(in crate::client) topics: BTreeMap<TopicName, (TopicId, u32)>,
    pub(in crate::client) settings: BTreeMap<TopicName, Vec<(String, String)>>,
    pub(in crate::client) parts: BTreeMap<TopicPartition, Part>,
    pub(in crate::client) faults: VecDeque<Fault>,
    /// Base sequences of produce requests, in the order in which they came.
    pub(in crate::client) seen: Vec<(TopicPartition, NodeId, u32)>,
    pub(in crate::client) fetches: Vec<(NodeId, Vec<(u32, u64)>)>,
    pub(in crate::client) fetch_bytes_max: u32,
    /// Positions that leaders were asked for.
    pub(in crate::client) questions: Vec<Position>,
    pub(in crate::client) metadata_version: u64,
    pub(in crate::client) next_producer: i64,
    pub(in crate::client) groups: BTreeMap<GroupName, Group>,
    pub(in crate::client) home: NodeId,
    pub(in crate::client) credit_out_max: u64,
    pub(in crate::client) subscriptions: u32,
}

pub(in crate::client) struct Part {
    pub(in crate::client) leader: NodeId,
    pub(in crate::client) epoch: u64,
    pub(in crate::client) log: Vec<(u64, Batch)>,
    pub(in crate::client) start: u64,
    pub(in crate::client) end: u64,
    /// Its leader is new, and knows its log up to here until it asks the others.
    pub(in crate::client) known: Option<u64>,
    pub(in crate::client) producers: BTreeMap<ProducerId, VecDeque<(u32, u32, u64)>>,
}

impl State {
    pub(super) fn new(nodes: u32) -> Self {
        Self { nodes, metadata_version: 1, next_producer: 100, home: NodeId(1), ..Self::default() }
    }

    pub(super) fn make_topic(&mut self, name: TopicName, partitions: u32) {
        let mut id = [0; 16];
        id[0] = u8::try_from(self.topics.len()).unwrap() + 1;
        self.topics.insert(name.clone(), (TopicId(id), 0));
        self.add_partitions(&name, partitions);
    }

    /// Up to so many.
    pub(in crate::client) fn add_partitions(&mut self, name: &TopicName, partitions: u32) {
        let (topic, before) = self.topics[name];
        for partition in before..partitions {
            let leader = NodeId(partition % self.nodes + 1);
            let part =
                Part { leader, epoch: 1, log: Vec::new(), start: 0, end: 0, known: None, producers: BTreeMap::new() };
            self.parts.insert(TopicPartition { topic, partition }, part);
        }
        self.topics.insert(name.clone(), (topic, partitions));
        self.metadata_version += 1;
    }

    pub(in crate::client) fn at(&self, topic: &TopicName, partition: u32) -> TopicPartition {
        TopicPartition { topic: self.topics[topic].0, partition }
    }

    pub(in crate::client) fn lead(&mut self, topic: &TopicName, partition: u32, node: u32) {
        let at = self.at(topic, partition);
        self.move_leader(at, node);
    }

    pub(super) fn move_leader(&mut self, at: TopicPartition, node: u32) {
        let part = self.parts.get_mut(&at).unwrap();
        part.leader = NodeId(node);
        part.epoch += 1;
    }

    pub(in crate::client) fn set(&mut self, topic: &TopicName, settings: &[(&str, &str)]) {
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.settings.insert(topic.clone(), settings.collect());
    }

    /// Bytes and compression of the batches in the log.
    pub(in crate::client) fn batches(&self, topic: &TopicName, partition: u32) -> Vec<(usize, Compression)> {
        let log = self.parts[&self.at(topic, partition)].log.iter();
        log.map(|(_, batch)| (batch.bytes().len(), batch.header().compression().unwrap())).collect()
    }

    /// Appends without a client.
    pub(in crate::client) fn append(&mut self, topic: &TopicName, partition: u32, values: &[&str]) {
        let mut builder = crate::batch::Builder::default();
        for value in values {
            builder.push(1, None, Some(value.as_bytes()), &[]).unwrap();
        }
        let at = self.at(topic, partition);
        self.parts.get_mut(&at).unwrap().push(builder.build().unwrap());
    }

    /// Values in the log, in order.
    pub(in crate::client) fn values(&self, topic: &TopicName, partition: u32) -> Vec<String> {
        let records = self.parts[&self.at(topic, partition)].log.iter().flat_map(|(_, batch)| batch.records());
        records.map(|r| String::from_utf8(r.unwrap().value.unwrap().to_vec()).unwrap()).collect()
    }

    pub(super) fn metadata(&self, asked: Option<&[TopicName]>) -> MetadataAnswer {
        let topics = self.topics.iter().filter(|(name, _)| asked.is_none_or(|asked| asked.contains(name)));
        let topics = topics.map(|(name, (id, partitions))| TopicMetadata {
            name: name.clone(),
            id: *id,
            replication_factor: 3,
            settings: self.settings.get(name).cloned().unwrap_or_default(),
            partitions: (0..*partitions)
                .map(|partition| {
                    let part = &self.parts[&TopicPartition { topic: *id, partition }];
                    let leader = (!self.silent.contains(&part.leader)).then_some(part.leader);
                    PartitionMetadata { leader, leader_epoch: part.epoch, ..PartitionMetadata::default() }
                })
                .collect(),
        });
        let topics = topics.collect();
        MetadataAnswer { version: self.metadata_version, nodes: self.addresses(), topics, news: self.news() }
    }

    /// Another number whenever the metadata, a leader or its silence changed.
    pub(super) fn news(&self) -> u64 {
        self.metadata_version + self.parts.values().map(|part| part.epoch).sum::<u64>() + self.silent.len() as u64
    }

    fn addresses(&self) -> Vec<NodeAddress> {
        (1..=self.nodes).map(|n| NodeAddress { node: NodeId(n), address: format!("node-{n}") }).collect()
    }

    pub(super) fn not_leader(&self, at: TopicPartition, node: NodeId) -> Option<Refused> {
        let Some(part) = self.parts.get(&at) else { return Some(Refused::new(Code::UnknownTopic, "no such topic")) };
        (part.leader != node).then(|| Refused {
            leader: Some(part.leader),
            leader_epoch: part.epoch,
            ..Refused::new(Code::NotLeader, format!("node {} leads", part.leader))
        })
    }

    pub(super) fn produce(&mut self, at: TopicPartition, node: NodeId, body: Bytes) -> Result<Produced, Refused> {
        if let Some(refused) = self.not_leader(at, node) {
            return Err(refused);
        }
        let batch = Batch::parse(body).map_err(|e| Refused::new(Code::BadBatch, e.to_string()))?;
        batch.check_produced().unwrap();
        self.parts.get_mut(&at).unwrap().produce(batch)
    }
}

impl Part {
    fn produce(&mut self, batch: Batch) -> Result<Produced, Refused> {
        let count = batch.count();
        let mut produced = Produced {
            base_offset: Some(self.end),
            leader_epoch: self.epoch,
            quorum: 2,
            voters: 3,
            ..Produced::default()
        };
        if let Some(producer) = batch.producer() {
            let known = self.producers.get(&producer.id);
            let next =
                known.and_then(|last| last.back()).map_or(0, |(sequence, count, _)| (sequence + count) & 0x7fff_ffff);
            if let Some((_, _, base)) =
                known.into_iter().flatten().find(|(s, c, _)| (*s, *c) == (producer.sequence, count))
            {
                (produced.base_offset, produced.duplicate) = (Some(*base), true);
                return Ok(produced);
            }
            if known.is_none() && producer.sequence != 0 {
                return Err(Refused::new(Code::UnknownProducer, "who is that?"));
            }
            if producer.sequence != next {
                let text = format!("sequence {} where {next} was expected", producer.sequence);
                return Err(Refused::new(Code::OutOfOrderSequence, text));
            }
            let last = self.producers.entry(producer.id).or_default();
            last.push_back((producer.sequence, count, self.end));
            if last.len() > 5 {
                last.pop_front();
            }
        }
        self.push(batch);
        Ok(produced)
    }

    fn push(&mut self, batch: Batch) {
        let epoch = u32::try_from(self.epoch).unwrap();
        let (prefix, rest) = place(batch.bytes(), self.end, epoch);
        let count = u64::from(batch.count());
        self.log.push((self.end, Batch::parse([prefix, rest].concat().into()).unwrap()));
        self.end += count;
    }

    /// Whole batches from `offset` on, the first of them whatever its size.
    pub(super) fn read(&self, offset: u64, bytes_max: usize) -> Vec<Bytes> {
        let mut out = Vec::new();
        let mut size = 0;
        let behind = self.log.iter().filter(|(base, batch)| base + u64::from(batch.count()) > offset);
        for (_, batch) in behind {
            size += batch.bytes().len();
            if size > bytes_max && !out.is_empty() {
                break;
            }
            out.push(batch.bytes().clone());
        }
        out
    }

    /// The offset, or the nearest one that is there.
    pub(super) fn offset_at(&mut self, at: Position) -> Result<u64, u64> {
        self.known = None;
        match at {
            Position::Earliest => Ok(self.start),
            Position::Latest | Position::Time(_) => Ok(self.end),
            Position::Offset(offset) if offset < self.start => Err(self.start),
            Position::Offset(offset) if offset > self.end => Err(self.end),
            Position::Offset(offset) => Ok(offset),
        }
    }
}
