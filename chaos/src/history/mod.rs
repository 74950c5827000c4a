//! What clients did and saw: one event per line of JSON. A history is all that the checker knows.
//!
//! Outcomes follow Jepsen's: `ok` surely happened, `fail` surely did not, `info` is unknown. `fail` is written only when it is certain.
//! Times are microseconds since the start of the run (virtual in simulation); a sequence number orders events of one instant.

mod deed;
mod fact;

pub use deed::{Because, Deed};
pub use fact::Fact;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A partition, by number within the run (topic and partition of the run's one topic).
pub type Partition = u32;
/// A value: unique in the run. The producer is in the upper half, its own count in the lower.
pub type Value = u64;

/// What stands for a record that no producer could have made. No producer sends it.
pub const GARBAGE: Value = 0;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When it was written down, microseconds.
    pub at: u64,
    /// Who did it.
    pub process: u32,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "e", rename_all = "snake_case")]
pub enum What {
    /// A producer hands a value to its client. One producer's values of one partition are sent in the order of these events.
    Send {
        /// To which partition.
        partition: Partition,
        /// What.
        value: Value,
    },
    /// It was acknowledged.
    SendOk {
        /// Which partition.
        partition: Partition,
        /// What.
        value: Value,
        /// Where.
        offset: u64,
        /// Of the leader who said so.
        epoch: u64,
    },
    /// It surely was not appended.
    SendFail {
        /// Which partition.
        partition: Partition,
        /// What.
        value: Value,
    },
    /// Nobody knows.
    SendInfo {
        /// Which partition.
        partition: Partition,
        /// What.
        value: Value,
    },
    /// Records were given to a consumer.
    Poll {
        /// Which partition.
        partition: Partition,
        /// `(offset, value)` in the order given.
        records: Vec<(u64, Value)>,
        /// The reader follows assigned partitions alone (no group): it may not skip.
        assigned: bool,
    },
    /// The reader went to another offset, or is a new one: continuity starts again.
    Seek {
        /// Which partition.
        partition: Partition,
    },
    /// A consumer was told that its offset is out of range.
    OutOfRange {
        /// Which partition.
        partition: Partition,
        /// Which offset.
        offset: u64,
    },
    /// Somebody asked for the high watermark …
    Latest {
        /// Of which partition.
        partition: Partition,
        /// When the question was asked, microseconds.
        asked: u64,
        /// … and was told.
        offset: u64,
    },
    /// A member of a group began: the group is to get everything.
    Joined {
        /// Which group.
        group: u32,
    },
    /// An administrator asks for a change.
    Admin {
        /// Which.
        deed: Deed,
    },
    /// It was made.
    AdminOk {
        /// Which.
        deed: Deed,
    },
    /// It was refused.
    AdminFail {
        /// Which.
        deed: Deed,
        /// Why.
        because: Because,
    },
    /// Nobody knows; it may yet be made.
    AdminInfo {
        /// Which.
        deed: Deed,
    },
    /// Somebody was told which topics there are.
    Topics {
        /// How many partitions each has, by name.
        topics: BTreeMap<String, u32>,
        /// At the end, healed and quiet, by a node that knows all; else by one that may lag behind.
        last: bool,
    },
    /// Somebody asked what a group had committed …
    Committed {
        /// Which group.
        group: u32,
        /// In which partition.
        partition: Partition,
        /// When the question was asked, microseconds.
        asked: u64,
        /// … and was told.
        offset: u64,
    },
    /// A member's commit was acknowledged.
    CommitOk {
        /// Which group.
        group: u32,
        /// In which partition.
        partition: Partition,
        /// When the member asked for it, microseconds.
        asked: u64,
        /// Which offset.
        offset: u64,
    },
    /// Nobody knows whether a member's commit counts: what is refused may have been taken when it was sent before.
    CommitInfo {
        /// Which group.
        group: u32,
        /// In which partition.
        partition: Partition,
        /// Which offset.
        offset: u64,
    },
    /// A member's poll gave records: what the process is given of the group from here to the next of these.
    Polled {
        /// Which group.
        group: u32,
    },
    /// A group member's record, with what the delivery said of itself.
    Given {
        /// Which group.
        group: u32,
        /// Which partition.
        partition: Partition,
        /// Where.
        offset: u64,
        /// What.
        value: Value,
        /// Of the leader under whom it was appended.
        epoch: u64,
        /// The delivery said that it may have been given before.
        redelivered: bool,
    },
    /// At the end, healed and quiet: one replica's whole partition.
    Replica {
        /// Which node.
        node: u32,
        /// Which partition.
        partition: Partition,
        /// First offset.
        log_start: u64,
        /// Next offset.
        high_watermark: u64,
        /// A hash over all served bytes.
        digest: u64,
    },
    /// A batch was served that does not verify.
    Damaged {
        /// Which partition.
        partition: Partition,
        /// What is wrong with it.
        text: String,
    },
    /// A node did something that clients do not see. `process` is the node.
    Saw {
        /// Which life of the node.
        life: u64,
        /// What.
        #[serde(flatten)]
        fact: Fact,
    },
    /// At the end: a read of everything from the log start, by a fresh reader.
    Final {
        /// Which partition.
        partition: Partition,
        /// The log start: what lies below is gone for good reasons.
        start: u64,
        /// `(offset, value)`.
        records: Vec<(u64, Value)>,
    },
    /// Nodes speak at times of a real machine: what one of them does in one turn may take any time.
    RealTime,
    /// Somebody changed a node's files behind its back: what it had promised of them counts no more. `process` is the node.
    Tampered,
    /// The run's topic was made.
    Topic {
        /// Its settings let records go within a run.
        retention: bool,
    },
    /// Records of the run's topic go when they are older than this.
    Keeps {
        /// Milliseconds.
        ms: u64,
    },
    /// The last fault is over and everything runs: from here on all is to be served.
    Healed,
    /// Somebody was served.
    Served {
        /// What was asked for.
        what: String,
        /// When, microseconds.
        asked: u64,
    },
    /// A node's wall clock jumped. `process` is the node.
    Jumped,
    /// A fault was made (for reports; the checker does not look).
    Fault {
        /// Which, in words.
        text: String,
    },
}

/// Events in the order in which they were written.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The events.
    pub events: Vec<Event>,
}

impl History {
    /// Appends.
    pub fn push(&mut self, at: u64, process: u32, what: What) {
        self.events.push(Event { at, process, what });
    }

    /// A hash over all events: equal histories, equal hashes.
    pub fn hash(&self) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325u64;
        for event in &self.events {
            let line = serde_json::to_string(event).unwrap_or_default();
            for byte in line.bytes().chain(*b"\n") {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
            }
        }
        hash
    }

    /// One JSON line per event.
    pub fn write(&self, out: &mut impl std::io::Write) -> std::io::Result<()> {
        for event in &self.events {
            serde_json::to_writer(&mut *out, event)?;
            out.write_all(b"\n")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_reads_back() {
        let parked = Fact::Parked { group: 1024, partition: 0, token: 7, by_bytes: true, mark: 11 };
        let mut history = History::default();
        history.push(5, 2, What::Saw { life: 3, fact: parked });
        history.push(6, 2, What::RealTime);
        let mut text = Vec::new();
        history.write(&mut text).unwrap();
        let events = text.split_inclusive(|byte| *byte == b'\n').map(|line| serde_json::from_slice(line).unwrap());
        assert_eq!(events.collect::<Vec<Event>>(), history.events, "no name stands twice in a line");
    }
}
