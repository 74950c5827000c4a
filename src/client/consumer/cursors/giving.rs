//! What goes out: records in turn, and what becomes of their credit when they are done.

use super::{Cursors, Freed, Stand, free};
use crate::{
    client::{ConsumeError, Delivery},
    types::TopicPartition,
};

impl Cursors {
    /// Up to `max` records, partitions in turn. An error leaves the records before it for this call.
    pub(in crate::client::consumer) fn take(&mut self, max: usize) -> (Vec<Delivery>, Option<ConsumeError>) {
        let mut given = Vec::new();
        while let Some(partition) = self.ready.pop_front() {
            let failed = self.take_from(partition, max, &mut given);
            if given.len() >= max || failed.is_some() {
                if self.all.get(&partition).is_some_and(|cursor| !cursor.chunks.is_empty()) {
                    self.ready.push_back(partition);
                }
                return (given, failed);
            }
        }
        (given, None)
    }

    fn take_from(&mut self, partition: TopicPartition, max: usize, given: &mut Vec<Delivery>) -> Option<ConsumeError> {
        let cursor = self.all.get_mut(&partition)?;
        if cursor.paused || cursor.leaving.is_some() || cursor.chunks.is_empty() {
            return None;
        }
        self.unsettled.push(partition);
        while given.len() < max {
            let chunk = cursor.chunks.front_mut()?;
            let record = if cursor.position >= chunk.offset_end { None } else { chunk.records.next() };
            match record {
                Some(Ok(record)) if record.offset < cursor.position => {}
                Some(Ok(record)) if record.offset < chunk.offset_end => {
                    if chunk.credit.0 > 0 {
                        chunk.credit.0 -= 1;
                        free(&mut self.given, chunk.source, (1, 0));
                    }
                    cursor.position = record.offset + 1;
                    cursor.leader_epoch = chunk.leader_epoch;
                    let redelivered = record.offset < cursor.redelivered_below;
                    given.push(Delivery {
                        topic: cursor.topic.clone(),
                        partition: partition.partition,
                        offset: record.offset,
                        timestamp: record.timestamp,
                        key: record.key,
                        value: record.value,
                        headers: record.headers,
                        leader_epoch: chunk.leader_epoch,
                        attempt: if redelivered { cursor.attempts.max(1) + 1 } else { 1 },
                        redelivered,
                    });
                }
                Some(Err(error)) => {
                    let failed = ConsumeError::damaged(&cursor.topic, partition.partition, cursor.position, &error);
                    self.drop_buffer(partition);
                    if let Some(cursor) = self.all.get_mut(&partition) {
                        cursor.stand = Stand::Failed;
                    }
                    return Some(failed);
                }
                Some(Ok(_)) | None => {
                    // Markers and compacted records leave no gap behind: the chunk's end is the next position.
                    cursor.position = cursor.position.max(chunk.offset_end);
                    self.buffered -= chunk.bytes;
                    free(&mut self.given, chunk.source, chunk.credit);
                    cursor.chunks.pop_front();
                }
            }
        }
        None
    }

    /// Credit that became free since the last call.
    pub(in crate::client::consumer) fn take_freed(&mut self) -> Freed {
        std::mem::take(&mut self.freed)
    }

    /// All that was given is done; gives whether a partition may leave now.
    pub(in crate::client::consumer) fn settle(&mut self) -> bool {
        for (source, credit) in std::mem::take(&mut self.given) {
            free(&mut self.freed, source, credit);
        }
        let mut leaves = false;
        for partition in self.unsettled.drain(..) {
            if let Some(cursor) = self.all.get_mut(&partition) {
                cursor.processed = cursor.position;
                leaves |= cursor.leaving.is_some();
            }
        }
        leaves
    }
}
