//! The rules of one partition, as a function of its log: offsets, sequences, leader epochs, log start.
//!
//! ```text
//!   log_start                      next_offset (= the high watermark of who applied so far)
//!      ├──────────── served ───────────┤
//!      └ epoch 3 ─┴──── epoch 4 ───────┘   (epoch, first offset): epochs that wrote
//! ```
//! **Invariants**
//! * Offsets are dense: a batch takes `next_offset .. next_offset + records`; what is refused, a duplicate or not a
//!   batch takes none.
//! * `log_start ≤ next_offset`; neither ever goes back.
//! * One batch of an idempotent producer is appended once, and in order (`producers`).
//! * No clock: time is the entry's stamp, and never goes back.
//!
//! Not here: bytes of records (the log has them), who waits for what (`replica/`), retention's policy (a leader
//! proposes [`Trim`]), settings (the controller's snapshot).

mod checkpoint;
mod command;
mod epochs;
mod producers;
mod reply;
#[cfg(test)]
mod tests;

pub use checkpoint::CHECKPOINT_VERSION;
pub use command::{EXPIRE_PRODUCERS, ExpireProducers, PRODUCE, TRIM, Trim, produce};
pub use reply::{Refusal, Reply};

use crate::{
    batch::{Batch, BatchError, Header},
    sabotage::{self, Bug},
};
use bytes::Bytes;
use epochs::Epochs;
use highwater_raft::machine::{At, Command, Damaged, Machine};
use producers::{Producers, Standing};

/// What a leader does because of an entry: nothing yet. Marks, acknowledgements and what is served follow from replies
/// and state, on every replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {}

/// One partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionMachine {
    log_start: u64,
    next_offset: u64,
    /// The highest stamp seen, milliseconds.
    stamp_ms: u64,
    epochs: Epochs,
    producers: Producers,
}

impl PartitionMachine {
    /// The offset that the next record gets.
    pub fn next_offset(&self) -> u64 {
        self.next_offset
    }

    /// The first offset that is still there.
    pub fn log_start(&self) -> u64 {
        self.log_start
    }

    /// Epochs that wrote what is still there, each with its first offset; ascending.
    pub fn epochs(&self) -> &[(u64, u64)] {
        self.epochs.list()
    }

    /// The newest epoch at or below `epoch` and the offset at which it ended. `None` while nothing is there.
    pub fn end_of_epoch(&self, epoch: u64) -> Option<(u64, u64)> {
        self.epochs.end_of(epoch, self.next_offset)
    }

    /// The epoch whose leader wrote `offset`. `None` outside of what is there.
    pub fn epoch_of(&self, offset: u64) -> Option<u64> {
        if offset < self.log_start || offset >= self.next_offset {
            return None;
        }
        let later = self.epochs.list().partition_point(|entry| entry.1 <= offset);
        later.checked_sub(1).map(|found| self.epochs.list()[found].0)
    }

    /// How many producers are remembered.
    pub fn producers_len(&self) -> usize {
        self.producers.len()
    }

    /// Stamp of the last append of the producer that was silent for longest: when to propose [`ExpireProducers`].
    pub fn oldest_producer_stamp_ms(&self) -> Option<u64> {
        self.producers.oldest_stamp_ms()
    }

    /// The highest stamp applied, milliseconds: a leader's next stamp is not below it.
    pub fn stamp_ms(&self) -> u64 {
        self.stamp_ms
    }

    /// A fast refusal before anything is proposed: of what no entry in flight could make acceptable. Order of
    /// sequences is not looked at; apply decides on it.
    pub fn check(&self, batch: &Header) -> Result<(), Refusal> {
        batch.producer().map_or(Ok(()), |producer| self.producers.fence(producer))
    }

    fn append(&mut self, at: At, body: &Bytes) -> Result<Reply, Refusal> {
        let batch = checked(body)?;
        let records = batch.count();
        let max_timestamp = batch.header().max_timestamp;
        if sabotage::on(Bug::ProducersDropped) && self.epochs.list().last().is_some_and(|(epoch, _)| *epoch < at.term) {
            self.producers = Producers::default();
        }
        let standing = match batch.producer() {
            Some(producer) => self.producers.standing(producer, records)?,
            None => Standing::Next,
        };
        if let Standing::Duplicate(base_offset) = standing {
            return Ok(Reply::Produced { base_offset, records, max_timestamp, duplicate: true });
        }
        let base_offset = self.next_offset;
        let next_offset = base_offset.checked_add(u64::from(records)).filter(|next| i64::try_from(*next).is_ok());
        self.next_offset = next_offset.ok_or(Refusal::NoOffsets { next_offset: base_offset, records })?;
        self.epochs.note(at.term, base_offset);
        if let Some(producer) = batch.producer() {
            self.producers.note(producer, records, base_offset, self.stamp_ms);
        }
        Ok(Reply::Produced { base_offset, records, max_timestamp, duplicate: false })
    }

    fn trim(&mut self, Trim { offset }: Trim) -> Result<Reply, Refusal> {
        if offset > self.next_offset {
            return Err(Refusal::TrimBeyondEnd { offset, next_offset: self.next_offset });
        }
        if offset > self.log_start {
            self.log_start = offset;
            self.epochs.trim(offset, self.next_offset);
        }
        Ok(Reply::Trimmed { log_start: self.log_start })
    }

    fn step(&mut self, at: At, command: &Command) -> Result<Reply, Refusal> {
        self.stamp_ms = self.stamp_ms.max(at.stamp_ms);
        let malformed = |why| Refusal::Malformed { kind: command.kind, why };
        match command.kind {
            PRODUCE => self.append(at, &command.body),
            TRIM => self.trim(command::decode(&command.body).map_err(malformed)?),
            EXPIRE_PRODUCERS => {
                let ExpireProducers { before_ms } = command::decode(&command.body).map_err(malformed)?;
                Ok(Reply::Expired { producers: self.producers.expire(before_ms) })
            }
            kind => Err(Refusal::UnknownCommand { kind }),
        }
    }
}

/// The batch of a command. Admission checked it on the leader; apply checks shape again, since it is total, but not the
/// checksum, which log and network have covered with theirs.
fn checked(body: &Bytes) -> Result<Batch, BatchError> {
    let batch = Batch::trusted(body.clone())?;
    let header = batch.header();
    let (count, last_offset_delta) = (header.records_count, header.last_offset_delta);
    if count < 1 || last_offset_delta.checked_add(1) != Some(count) {
        return Err(BatchError::Count { count, last_offset_delta });
    }
    batch.check_produced()?;
    Ok(batch)
}

impl Machine for PartitionMachine {
    type Reply = Reply;
    type Effect = Effect;

    fn apply(&mut self, at: At, command: &Command, _effects: &mut Vec<Effect>) -> Reply {
        self.step(at, command).unwrap_or_else(Reply::Refused)
    }

    fn checkpoint(&self) -> Bytes {
        checkpoint::write(self)
    }

    fn restore(&mut self, checkpoint: &Bytes) -> Result<(), Damaged> {
        *self = checkpoint::read(checkpoint)?;
        Ok(())
    }

    fn on_promoted(&self) -> Vec<Effect> {
        Vec::new()
    }
}
