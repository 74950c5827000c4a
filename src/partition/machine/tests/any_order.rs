//! Any bytes, any order of retries: the invariants hold.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A batch as a producer might send it: `back` sequences before or `ahead` after the one that would follow.
#[derive(Clone, Debug)]
enum Step {
    Send { producer: i64, epoch: i16, off: i64, records: i32 },
    Anonymous { records: i32 },
    Trim { offset: u64 },
    Expire { before_ms: u64 },
    Garbage { kind: u8, body: Vec<u8> },
}

fn step() -> impl Strategy<Value = Step> {
    let records = prop_oneof![1i32..4, Just(i32::MAX / 2)];
    prop_oneof![
        8 => (0i64..3, 0i16..3, prop_oneof![6 => Just(0i64), 3 => -9i64..0, 1 => 1i64..4], records)
            .prop_map(|(producer, epoch, off, records)| Step::Send { producer, epoch, off, records }),
        1 => (1i32..5).prop_map(|records| Step::Anonymous { records }),
        1 => (0u64..60).prop_map(|offset| Step::Trim { offset }),
        1 => (0u64..80).prop_map(|before_ms| Step::Expire { before_ms }),
        1 => (any::<u8>(), prop::collection::vec(any::<u8>(), 0..90)).prop_map(|(kind, body)| Step::Garbage { kind, body }),
    ]
}

/// What was appended, per producer: (epoch, sequence, records, offset) in order.
type Appends = BTreeMap<i64, Vec<(i16, u32, i32, u64)>>;

/// The command of a step. Retries repeat a batch that was sent, so that they can be duplicates.
fn command(step: &Step, appended: &Appends) -> (Command, Option<(i64, i16, u32, i32)>) {
    match step {
        Step::Send { producer, epoch, off, records } => {
            let of_epoch: Vec<_> = appended.get(producer).into_iter().flatten().filter(|a| a.0 == *epoch).collect();
            let expected = of_epoch.last().map_or(0, |a| (u64::from(a.1) + u64::from(a.2.unsigned_abs())) % (1 << 31));
            let expected = u32::try_from(expected).unwrap();
            let retried = usize::try_from(-off).ok().and_then(|back| of_epoch.len().checked_sub(back));
            let (sequence, records) = match retried.and_then(|i| of_epoch.get(i)) {
                Some(before) => (before.1, before.2),
                None => (u32::try_from((i64::from(expected) + off.max(&0)) % (1 << 31)).unwrap(), *records),
            };
            (produce(batch(Some((*producer, *epoch, sequence)), records)), Some((*producer, *epoch, sequence, records)))
        }
        Step::Anonymous { records } => (produce(batch(None, *records)), None),
        Step::Trim { offset } => (Trim { offset: *offset }.command(), None),
        Step::Expire { before_ms } => (ExpireProducers { before_ms: *before_ms }.command(), None),
        Step::Garbage { kind, body } => (Command { kind: *kind, body: body.clone().into() }, None),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn each_batch_is_appended_once_and_in_order(steps in prop::collection::vec((step(), 0u64..4), 1..80), cut in 0usize..80) {
        let mut machine = PartitionMachine::default();
        let mut late = PartitionMachine::default();
        let mut appended = Appends::new();
        let mut at = At { index: 0, term: 1, stamp_ms: 0 };
        for (i, (step, passed)) in steps.iter().enumerate() {
            at = At { index: at.index + 1, term: at.term + passed / 3, stamp_ms: at.stamp_ms + passed };
            let (command, sent) = command(step, &appended);
            let (start, next) = (machine.log_start(), machine.next_offset());
            let known = sent.and_then(|(id, ..)| machine.producers.map().get(&ProducerId(id))).map(|state| state.epoch);
            let reply = machine.apply(at, &command, &mut Vec::new());
            if i == cut {
                late = restored(&late);
            }
            prop_assert_eq!(&late.apply(at, &command, &mut Vec::new()), &reply);

            prop_assert!(machine.log_start() >= start && machine.log_start() <= machine.next_offset());
            match reply {
                Reply::Produced { base_offset, records, duplicate: false, .. } => {
                    prop_assert_eq!(base_offset, next, "dense");
                    prop_assert_eq!(machine.next_offset(), next + u64::from(records));
                    if let Some((producer, epoch, sequence, records)) = sent {
                        let log = appended.entry(producer).or_default();
                        let last = log.last().map(|a| (a.0, (u64::from(a.1) + u64::from(a.2.unsigned_abs())) % (1 << 31)));
                        let fresh = known.is_none_or(|known| u16::try_from(epoch).unwrap() > known);
                        prop_assert!(
                            if fresh { sequence == 0 } else { last == Some((epoch, u64::from(sequence))) },
                            "{:?} after {:?}", sent, last
                        );
                        log.push((epoch, sequence, records, base_offset));
                    }
                }
                Reply::Produced { base_offset, duplicate: true, .. } => {
                    prop_assert_eq!(machine.next_offset(), next, "a duplicate takes no offset");
                    let (producer, epoch, sequence, records) = sent.unwrap();
                    let first = appended[&producer].iter().rev().find(|a| (a.0, a.1, a.2) == (epoch, sequence, records));
                    prop_assert_eq!(first.map(|a| a.3), Some(base_offset));
                }
                _ => prop_assert_eq!(machine.next_offset(), next),
            }
            for epoch in machine.epochs() {
                prop_assert_eq!(machine.epoch_of(epoch.1), Some(epoch.0));
            }
        }
        prop_assert_eq!(late.checkpoint(), machine.checkpoint());
        restored(&machine);
    }

    #[test]
    fn any_bytes_restore_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        let mut machine = PartitionMachine::default();
        for first in [None, Some(CHECKPOINT_VERSION)] {
            let bytes: Bytes = first.into_iter().chain(bytes.iter().copied()).collect::<Vec<_>>().into();
            if machine.restore(&bytes).is_ok() {
                machine.apply(At { index: 1, term: 1, stamp_ms: 0 }, &produce(batch(None, 1)), &mut Vec::new());
            }
        }
    }
}
