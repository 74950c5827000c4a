//! Records on their way in and out.

use crate::{
    batch::RecordHeader,
    types::{AckLevel, TopicName},
};
use bytes::Bytes;

/// A record to be produced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where to.
    pub topic: TopicName,
    /// Which partition; absent = by key, or without key by load.
    pub partition: Option<u32>,
    /// Milliseconds since 1970; absent = now.
    pub timestamp: Option<i64>,
    /// What decides partition and order.
    pub key: Option<Bytes>,
    /// The content; absent deletes the key in a compacted topic.
    pub value: Option<Bytes>,
    /// Facts beside the value, in this order.
    pub headers: Vec<RecordHeader>,
}

impl Record {
    /// A record without a key.
    pub fn new(topic: TopicName, value: impl Into<Bytes>) -> Self {
        Self { topic, partition: None, timestamp: None, key: None, value: Some(value.into()), headers: Vec::new() }
    }

    /// With this key: records of one key keep their order.
    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// To this partition, whatever the key.
    pub fn partition(mut self, partition: u32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// With one header more.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.headers.push(RecordHeader::new(name, value));
        self
    }

    /// With this timestamp, in milliseconds since 1970.
    pub fn timestamp(mut self, timestamp: i64) -> Self {
        self.timestamp = Some(timestamp);
        self
    }

    /// What it counts for in a producer's buffer, bytes.
    pub(crate) fn cost(&self) -> usize {
        const BOOKKEEPING: usize = 64;
        let headers = self.headers.iter().map(|h| h.name.len() + h.value.as_ref().map_or(0, Bytes::len) + 16);
        BOOKKEEPING
            + self.key.as_ref().map_or(0, Bytes::len)
            + self.value.as_ref().map_or(0, Bytes::len)
            + headers.sum::<usize>()
    }
}

/// What an acknowledgement says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acked {
    /// The topic.
    pub topic: TopicName,
    /// The partition.
    pub partition: u32,
    /// The record's offset; absent below level `quorum`.
    pub offset: Option<u64>,
    /// The leader's epoch.
    pub leader_epoch: u64,
    /// What is promised.
    pub level: AckLevel,
    /// On the disks of so many …
    pub quorum: u32,
    /// … of so many voters.
    pub voters: u32,
    /// The batch was there already: an earlier acknowledgement got lost.
    pub duplicate: bool,
}

/// A record that was consumed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The topic.
    pub topic: TopicName,
    /// The partition.
    pub partition: u32,
    /// Its offset there.
    pub offset: u64,
    /// Milliseconds since 1970.
    pub timestamp: i64,
    /// What decided partition and order.
    pub key: Option<Bytes>,
    /// The content.
    pub value: Option<Bytes>,
    /// Facts beside the value, as they were produced.
    pub headers: Vec<RecordHeader>,
    /// Epoch of the leader that appended it.
    pub leader_epoch: u64,
    /// How often it was given to members of the group, this time included; 1 without a group.
    pub attempt: u32,
    /// It was given to a member of the group before, which may have worked on it.
    pub redelivered: bool,
}
