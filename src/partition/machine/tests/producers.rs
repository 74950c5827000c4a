//! The producer table against a model of KIP-98 that remembers everything: each verdict, word for word.

use super::*;
use crate::limits;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Which sequence a producer sends, seen from what it sent last.
#[derive(Clone, Copy, Debug)]
enum Sequence {
    Next,
    /// So many batches ago, as it was.
    Again(usize),
    /// As the one so many batches ago, with another number of records.
    Other(usize),
    Ahead(u32),
    Zero,
    Any(u32),
}

#[derive(Clone, Debug)]
enum Step {
    Send {
        id: i64,
        epoch_up: u16,
        stale: bool,
        sequence: Sequence,
        records: i32,
    },
    Anonymous,
    /// Expires who was silent for longer.
    Expire {
        silent_ms: u64,
    },
    Term,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let sequence = prop_oneof![
        6 => Just(Sequence::Next),
        4 => (0usize..8).prop_map(Sequence::Again),
        1 => (0usize..6).prop_map(Sequence::Other),
        1 => (1u32..4).prop_map(Sequence::Ahead),
        1 => Just(Sequence::Zero),
        1 => (0..=i32::MAX.cast_unsigned()).prop_map(Sequence::Any),
    ];
    let records = prop_oneof![6 => 1i32..4, 2 => Just(i32::MAX), 1 => Just(i32::MAX / 2 + 1)];
    let epoch_up = prop_oneof![8 => Just(0u16), 1 => 1u16..3];
    prop_oneof![
        12 => (0i64..3, epoch_up, prop::bool::weighted(0.05), sequence, records)
            .prop_map(|(id, epoch_up, stale, sequence, records)| Step::Send { id, epoch_up, stale, sequence, records }),
        1 => Just(Step::Anonymous),
        1 => (0u64..12).prop_map(|silent_ms| Step::Expire { silent_ms }),
        1 => Just(Step::Term),
        1 => Just(Step::Restart),
    ]
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    epoch: u16,
    sequence: u32,
    records: u32,
    base_offset: u64,
    stamp_ms: u64,
}

/// All that each producer appended since it was forgotten last.
#[derive(Default)]
struct Model {
    log: BTreeMap<i64, Vec<Sent>>,
    next_offset: u64,
    stamp_ms: u64,
}

impl Model {
    fn following(sent: &Sent) -> u32 {
        u32::try_from((u64::from(sent.sequence) + u64::from(sent.records)) % (1 << 31)).unwrap()
    }

    /// Appends, or says why not.
    fn send(&mut self, id: i64, epoch: u16, found: u32, records: u32) -> Reply {
        let producer = ProducerId(id);
        let known = self.log.get(&id).map_or(&[][..], |log| log);
        let verdict = match known.last() {
            None if found == 0 => Ok(()),
            None => Err(Refusal::UnknownProducer { producer, found }),
            Some(last) if epoch < last.epoch => Err(Refusal::Fenced { producer, current: last.epoch, found: epoch }),
            Some(last) if epoch > last.epoch && found == 0 => Ok(()),
            Some(last) if epoch > last.epoch => Err(Refusal::OutOfOrder { producer, expected: 0, found }),
            Some(last) => {
                let of_epoch: Vec<_> = known.iter().filter(|sent| sent.epoch == epoch).collect();
                let kept = of_epoch.len().saturating_sub(limits::PRODUCER_BATCHES_REMEMBERED as usize);
                let same = of_epoch[kept..].iter().find(|sent| (sent.sequence, sent.records) == (found, records));
                if let Some(same) = same {
                    return Reply::Produced {
                        base_offset: same.base_offset,
                        records,
                        max_timestamp: 9,
                        duplicate: true,
                    };
                }
                let expected = Self::following(last);
                if found == expected { Ok(()) } else { Err(Refusal::OutOfOrder { producer, expected, found }) }
            }
        };
        match verdict {
            Err(refusal) => Reply::Refused(refusal),
            Ok(()) => {
                let base_offset = self.next_offset;
                let sent = Sent { epoch, sequence: found, records, base_offset, stamp_ms: self.stamp_ms };
                self.log.entry(id).or_default().push(sent);
                self.append(records)
            }
        }
    }

    fn append(&mut self, records: u32) -> Reply {
        let base_offset = self.next_offset;
        self.next_offset += u64::from(records);
        Reply::Produced { base_offset, records, max_timestamp: 9, duplicate: false }
    }

    fn expire(&mut self, before_ms: u64) -> Reply {
        let before = self.log.len();
        self.log.retain(|_, log| log.last().unwrap().stamp_ms >= before_ms);
        Reply::Expired { producers: u32::try_from(before - self.log.len()).unwrap() }
    }

    /// Epoch, sequence and records of what a producer sends.
    fn choose(&self, id: i64, epoch_up: u16, stale: bool, sequence: Sequence, records: i32) -> (u16, u32, u32) {
        let log = self.log.get(&id).map_or(&[][..], |log| log);
        let records = records.cast_unsigned();
        let newest = log.last().map_or(0, |last| last.epoch);
        let epoch = if stale { newest.saturating_sub(1) } else { newest + epoch_up };
        let next = if epoch == newest { log.last().map_or(0, Self::following) } else { 0 };
        let past = |back: usize| log.len().checked_sub(back + 1).map(|at| (log[at].sequence, log[at].records));
        let (sequence, records) = match sequence {
            Sequence::Next => (next, records),
            Sequence::Again(back) => past(back).unwrap_or((next, records)),
            Sequence::Other(back) => past(back).map_or((next, records), |(sequence, _)| (sequence, records)),
            Sequence::Ahead(by) => ((next + by) % (1 << 31), records),
            Sequence::Zero => (0, records),
            Sequence::Any(sequence) => (sequence, records),
        };
        (epoch, sequence, records)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 512, ..Default::default() })]

    #[test]
    fn verdicts_are_those_of_a_table_that_forgets_nothing(steps in prop::collection::vec((step(), 0u64..3), 1..150)) {
        let (mut machine, mut model) = (PartitionMachine::default(), Model::default());
        let mut at = At { index: 0, term: 1, stamp_ms: 10 };
        for (step, passed) in steps {
            at = At { index: at.index + 1, stamp_ms: at.stamp_ms + passed, ..at };
            model.stamp_ms = at.stamp_ms;
            let (command, expected) = match step {
                Step::Send { id, epoch_up, stale, sequence, records } => {
                    let (epoch, sequence, records) = model.choose(id, epoch_up, stale, sequence, records);
                    let bytes = batch(Some((id, epoch.cast_signed(), sequence)), records.cast_signed());
                    (produce(bytes), model.send(id, epoch, sequence, records))
                }
                Step::Anonymous => (produce(batch(None, 2)), model.append(2)),
                Step::Expire { silent_ms } => {
                    let before_ms = at.stamp_ms.saturating_sub(silent_ms);
                    (ExpireProducers { before_ms }.command(), model.expire(before_ms))
                }
                Step::Term => {
                    at.term += 1;
                    continue;
                }
                Step::Restart => {
                    machine = restored(&machine);
                    continue;
                }
            };
            prop_assert_eq!(machine.apply(at, &command, &mut Vec::new()), expected);
            prop_assert_eq!(machine.next_offset(), model.next_offset);
            prop_assert_eq!(machine.producers_len(), model.log.len());
            let oldest = model.log.values().map(|log| log.last().unwrap().stamp_ms).min();
            prop_assert_eq!(machine.oldest_producer_stamp_ms(), oldest);
        }
    }
}
