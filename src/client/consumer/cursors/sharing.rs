//! What a group has to do with it: assignments, where partitions start, what is told to the home.

use super::{Cursor, Cursors, Stand, Upto};
use crate::{
    types::{DELIVERED_UNKNOWN, Position, TopicPartition},
    wire::{AssignedPartition, CommitOffset, OwnedPartition, StartOffset},
};
use std::collections::BTreeMap;
use tokio::time::Instant;

impl Cursors {
    /// Takes an assignment: new partitions begin, those that are not in it leave, the others go on as if nothing was.
    pub(in crate::client::consumer) fn assign(
        &mut self,
        assigned: &[AssignedPartition],
        start: Position,
        now: Instant,
    ) {
        let said: BTreeMap<_, _> = assigned.iter().map(|a| (of(a), a)).collect();
        for partition in self.partitions() {
            let Some(cursor) = self.all.get(&partition) else { continue };
            let stays = match said.get(&partition) {
                // Others may have had it in between.
                Some(assigned) if cursor.granted != Some(assigned.granted) => {
                    self.remove(partition);
                    continue;
                }
                Some(_) => true,
                None => false,
            };
            if stays == cursor.leaving.is_some() {
                self.renew(partition);
                if let Some(cursor) = self.all.get_mut(&partition) {
                    cursor.leaving = (!stays).then_some(now);
                }
            }
        }
        for assigned in assigned {
            if !self.all.contains_key(&of(assigned)) {
                self.add_assigned(assigned, start);
            }
        }
    }

    /// Begins to consume a partition that the group gave.
    fn add_assigned(&mut self, assigned: &AssignedPartition, start: Position) {
        let partition = of(assigned);
        let from = assigned.committed.map_or(start, Position::Offset);
        let before = self.given_before.get(&partition).copied().unwrap_or(0);
        let version = self.version();
        let mut cursor = Cursor::new(assigned.name.clone(), version, from);
        cursor.committed = assigned.committed;
        cursor.attempts = assigned.attempts;
        cursor.granted = Some(assigned.granted);
        if assigned.delivered == DELIVERED_UNKNOWN {
            cursor.stand = Stand::Unsure(from);
            cursor.redelivered_below = before;
        } else {
            cursor.redelivered_below = assigned.delivered.max(before);
        }
        self.begin(partition, cursor);
    }

    // ---- where partitions start

    /// Starts that were found and that the home is to be told.
    pub(in crate::client::consumer) fn starts(&self) -> Vec<StartOffset> {
        let found = self.all.iter().filter_map(|(at, cursor)| match cursor.stand {
            Stand::Found(offset) if cursor.leaving.is_none() => {
                Some(StartOffset { topic: at.topic, partition: at.partition, offset })
            }
            _ => None,
        });
        found.collect()
    }

    /// The home says where a partition starts.
    pub(in crate::client::consumer) fn started(&mut self, start: &StartOffset) {
        let partition = TopicPartition { topic: start.topic, partition: start.partition };
        let Some(cursor) = self.all.get_mut(&partition) else { return };
        if let Stand::Found(found) = cursor.stand {
            cursor.committed = Some(start.offset);
            cursor.stand_at(if cursor.chosen { found } else { start.offset });
        }
    }

    // ---- what the home is told

    /// What is done (or at least given) and not committed.
    pub(in crate::client::consumer) fn uncommitted(&self, upto: Upto) -> Vec<CommitOffset> {
        let known = self.all.iter().filter(|(_, cursor)| cursor.stands());
        let offsets = known.map(|(at, cursor)| match upto {
            Upto::Done => (at, cursor, cursor.processed),
            Upto::Given => (at, cursor, cursor.position),
        });
        let due = offsets.filter(|(_, cursor, offset)| cursor.committed != Some(*offset));
        due.map(|(partition, cursor, offset)| CommitOffset {
            topic: partition.topic,
            partition: partition.partition,
            offset,
            leader_epoch: cursor.leader_epoch,
            metadata: String::new(),
        })
        .collect()
    }

    /// The home has it.
    pub(in crate::client::consumer) fn committed(&mut self, offset: &CommitOffset) {
        let partition = TopicPartition { topic: offset.topic, partition: offset.partition };
        if let Some(cursor) = self.all.get_mut(&partition) {
            cursor.committed = Some(offset.offset);
        }
    }

    /// Whether records of one of these were given that no commit covers: whoever has them next must be told so.
    pub(in crate::client::consumer) fn is_untold(&self, among: impl Fn(&TopicPartition) -> bool) -> bool {
        let open = |cursor: &Cursor| cursor.given() > Some(cursor.committed.unwrap_or(0));
        self.all.iter().any(|(partition, cursor)| among(partition) && open(cursor))
    }

    /// What is consumed, and how far it was given.
    pub(in crate::client::consumer) fn owned(&self) -> Vec<OwnedPartition> {
        let owned = |(partition, cursor): (&TopicPartition, &Cursor)| OwnedPartition {
            topic: partition.topic,
            partition: partition.partition,
            delivered: cursor.given().map_or(0, |given| given.max(cursor.committed.unwrap_or(0))),
        };
        self.all.iter().map(owned).collect()
    }

    // ---- leaving

    /// Partitions that leave and may go: all that was given of them is done, or they have been leaving since
    /// `leaving_since_max` or longer.
    pub(in crate::client::consumer) fn releasable(&self, leaving_since_max: Option<Instant>) -> Vec<TopicPartition> {
        let late = |since: Instant| leaving_since_max.is_some_and(|max| since <= max);
        let may =
            |cursor: &Cursor| cursor.leaving.is_some_and(|since| cursor.processed == cursor.position || late(since));
        self.all.iter().filter(|(_, cursor)| may(cursor)).map(|(partition, _)| *partition).collect()
    }

    /// Whether any partition waits for the program before it can leave.
    pub(in crate::client::consumer) fn is_leaving(&self) -> bool {
        self.all.values().any(|cursor| cursor.leaving.is_some())
    }
}

fn of(assigned: &AssignedPartition) -> TopicPartition {
    TopicPartition { topic: assigned.topic, partition: assigned.partition }
}
