//! What several families need of a history, gathered once.

use crate::history::{Event, Partition, Value, What};
use std::collections::{BTreeMap, BTreeSet};

/// When something was known of a value, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) at: u64,
    /// By a read; else by an acknowledgement.
    pub(super) read: bool,
}

/// Where a value was to go, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) partition: Partition,
    pub(super) at: u64,
}

#[derive(Default)]
pub(super) struct Facts {
    pub(super) sent: u64,
    pub(super) redelivered: u64,
    /// Order in which each producer sent, per partition.
    pub(super) order: BTreeMap<(u32, Partition), Vec<Value>>,
    /// When each value was handed to its producer, and for which partition.
    pub(super) sent_to: BTreeMap<Value, Sent>,
    pub(super) acked: BTreeMap<Value, (Partition, u64)>,
    pub(super) failed: BTreeSet<Value>,
    /// Every value ever known at an offset.
    pub(super) seen: BTreeMap<(Partition, u64), BTreeSet<Value>>,
    /// When a value was first known to stand in the log.
    pub(super) known: BTreeMap<Value, Known>,
    /// Groups that have members.
    pub(super) groups: BTreeSet<u32>,
    /// The epochs that deliveries told.
    pub(super) epochs: BTreeMap<(Partition, u64), BTreeSet<u64>>,
    /// The epoch that each acknowledgement told.
    pub(super) acked_in: BTreeMap<(Partition, u64), u64>,
    /// Records may go within the run.
    pub(super) retention: bool,
    /// How old they are then at least, microseconds, where that is said.
    pub(super) keeps_us: Option<u64>,
    /// Where the final logs begin.
    pub(super) starts: BTreeMap<Partition, u64>,
    pub(super) finals: BTreeMap<Partition, BTreeMap<u64, Value>>,
    /// What does not verify.
    pub(super) damaged: Vec<(Partition, String)>,
}

impl Facts {
    pub(super) fn gather(events: &[Event]) -> Self {
        let mut facts = Self::default();
        for event in events {
            facts.take(event);
        }
        facts
    }

    fn take(&mut self, event: &Event) {
        match &event.what {
            What::Send { partition, value } => {
                self.sent += 1;
                self.order.entry((event.process, *partition)).or_default().push(*value);
                self.sent_to.entry(*value).or_insert(Sent { partition: *partition, at: event.at });
            }
            What::SendOk { partition, value, offset, epoch } => {
                self.acked_in.insert((*partition, *offset), *epoch);
                self.acked.insert(*value, (*partition, *offset));
                self.see(event.at, *partition, *offset, *value, false);
            }
            What::SendFail { value, .. } => drop(self.failed.insert(*value)),
            What::Poll { partition, records, .. } => {
                records.iter().for_each(|(offset, value)| self.see(event.at, *partition, *offset, *value, true));
            }
            What::Joined { group } => drop(self.groups.insert(*group)),
            What::Topic { retention } => self.retention = *retention,
            What::Keeps { ms } => {
                let keeps = ms.saturating_mul(1_000);
                self.keeps_us = Some(self.keeps_us.map_or(keeps, |least| least.min(keeps)));
            }
            What::Given { group, partition, offset, value, epoch, redelivered } => {
                self.groups.insert(*group);
                self.epochs.entry((*partition, *offset)).or_default().insert(*epoch);
                self.redelivered += u64::from(*redelivered);
                self.see(event.at, *partition, *offset, *value, true);
            }
            What::Final { partition, start, records } => {
                self.starts.insert(*partition, *start);
                for (offset, value) in records {
                    self.see(event.at, *partition, *offset, *value, true);
                    self.finals.entry(*partition).or_default().insert(*offset, *value);
                }
                self.finals.entry(*partition).or_default();
            }
            What::Damaged { partition, text } => self.damaged.push((*partition, text.clone())),
            _ => {}
        }
    }

    fn see(&mut self, at: u64, partition: Partition, offset: u64, value: Value, read: bool) {
        self.seen.entry((partition, offset)).or_default().insert(value);
        self.known.entry(value).or_insert(Known { at, read });
    }
}
