//! What a partition remembers of idempotent producers: the newest epoch and the last five batches of each.
//!
//! ```text
//!  sequences of a producer:  … 10‥14 │ 15‥15 │ 16‥30 │ 31‥40 │ 41‥47 │ expected: 48
//!                                    └──────── remembered ───────────┘
//! ```
//! * the expected batch is appended; a remembered one gets its original offset; anything else is refused;
//! * sequences wrap from `i32::MAX` to 0;
//! * a higher epoch begins at 0 and fences the lower ones for good;
//! * a producer that is not known begins at 0: a later sequence may be the retry of a batch that was forgotten.
//!
//! **Invariant:** `recent` holds each producer exactly once, under the base offset of its last batch: offsets rise, so
//! its order is that of the last appends, and stamps rise with it.

use super::reply::Refusal;
use crate::{
    batch::Producer,
    limits,
    sabotage::{self, Bug},
    types::ProducerId,
};
use std::collections::{BTreeMap, VecDeque};

const REMEMBERED: usize = limits::PRODUCER_BATCHES_REMEMBERED as usize;
const SEQUENCES: u64 = 1 << 31;

/// One batch of a producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Appended {
    pub(super) sequence: u32,
    pub(super) records: u32,
    pub(super) base_offset: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ProducerState {
    pub(super) epoch: u16,
    /// Stamp of its last append, milliseconds.
    pub(super) stamp_ms: u64,
    /// Its last batches, oldest first; never empty.
    pub(super) batches: VecDeque<Appended>,
}

impl ProducerState {
    fn last(&self) -> &Appended {
        self.batches.back().expect("a producer is known by its batches")
    }

    fn expected(&self) -> u32 {
        let last = self.last();
        after(last.sequence, last.records)
    }
}

/// The sequence that follows `records` records from `sequence` on.
fn after(sequence: u32, records: u32) -> u32 {
    u32::try_from((u64::from(sequence) + u64::from(records)) % SEQUENCES).expect("below 2^31")
}

/// What a batch of a producer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// The one that was expected.
    Next,
    /// Appended before, at this offset.
    Duplicate(u64),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Producers {
    known: BTreeMap<ProducerId, ProducerState>,
    recent: BTreeMap<u64, ProducerId>,
}

impl Producers {
    /// `None` when a producer has no batch, or two have the same last offset.
    pub(super) fn from_map(known: BTreeMap<ProducerId, ProducerState>) -> Option<Self> {
        let mut recent = BTreeMap::new();
        for (id, state) in &known {
            recent.insert(state.batches.back()?.base_offset, *id);
        }
        (recent.len() == known.len()).then_some(Self { known, recent })
    }

    pub(super) fn map(&self) -> &BTreeMap<ProducerId, ProducerState> {
        &self.known
    }

    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// Refuses what a newer epoch has fenced: the only verdict that entries in flight cannot change.
    pub(super) fn fence(&self, producer: Producer) -> Result<(), Refusal> {
        match self.known.get(&producer.id) {
            Some(state) if producer.epoch < state.epoch => {
                Err(Refusal::Fenced { producer: producer.id, current: state.epoch, found: producer.epoch })
            }
            _ => Ok(()),
        }
    }

    pub(super) fn standing(&self, producer: Producer, records: u32) -> Result<Standing, Refusal> {
        self.fence(producer)?;
        let Producer { id, epoch, sequence: found } = producer;
        let expected = match self.known.get(&id) {
            None if found == 0 || sabotage::on(Bug::ProducersDropped) => return Ok(Standing::Next),
            None => return Err(Refusal::UnknownProducer { producer: id, found }),
            Some(state) if epoch > state.epoch => 0,
            Some(state) => {
                let same = |batch: &&Appended| (batch.sequence, batch.records) == (found, records);
                if let Some(batch) = state.batches.iter().find(same) {
                    return Ok(Standing::Duplicate(batch.base_offset));
                }
                state.expected()
            }
        };
        if found == expected { Ok(Standing::Next) } else { Err(Refusal::OutOfOrder { producer: id, expected, found }) }
    }

    /// Takes a batch that [`standing`](Self::standing) found to be the next. Forgets the least recent producer when
    /// there are too many.
    pub(super) fn note(&mut self, producer: Producer, records: u32, base_offset: u64, stamp_ms: u64) {
        let batch = Appended { sequence: producer.sequence, records, base_offset };
        let fresh = || ProducerState { epoch: producer.epoch, stamp_ms, batches: VecDeque::new() };
        let state = self.known.entry(producer.id).or_insert_with(fresh);
        if let Some(last) = state.batches.back() {
            self.recent.remove(&last.base_offset);
        }
        if producer.epoch > state.epoch {
            state.batches.clear();
        } else if state.batches.len() == REMEMBERED {
            state.batches.pop_front();
        }
        state.batches.push_back(batch);
        (state.epoch, state.stamp_ms) = (producer.epoch, stamp_ms);
        self.recent.insert(base_offset, producer.id);
        if self.known.len() > limits::PRODUCERS_PER_PARTITION_MAX as usize {
            self.forget_least_recent();
        }
    }

    /// Forgets producers whose last append has a stamp below `before_ms`.
    pub(super) fn expire(&mut self, before_ms: u64) -> u32 {
        let mut expired = 0;
        while let Some((_, id)) = self.recent.first_key_value()
            && self.known[id].stamp_ms < before_ms
        {
            self.forget_least_recent();
            expired += 1;
        }
        expired
    }

    /// Stamp of the producer that would expire first.
    pub(super) fn oldest_stamp_ms(&self) -> Option<u64> {
        self.recent.first_key_value().map(|(_, id)| self.known[id].stamp_ms)
    }

    fn forget_least_recent(&mut self) {
        if let Some((_, id)) = self.recent.pop_first() {
            self.known.remove(&id);
        }
    }
}
