//! Scenarios: commands in, replies and state out. After each command the state goes through a checkpoint.

mod any_order;
mod producers;

use super::*;
use crate::{batch::Producer, types::ProducerId};
use std::fmt::Write;

macro_rules! check {
    ($script:literal, @$out:literal) => {
        insta::assert_snapshot!(run($script), @$out)
    };
}

/// A batch that is only a header: the machine never looks at records.
pub(super) fn batch(producer: Option<(i64, i16, u32)>, records: i32) -> Bytes {
    let (producer_id, producer_epoch, sequence) = producer.map_or((-1, -1, -1), |(id, e, s)| (id, e, s.cast_signed()));
    let header = Header {
        base_offset: 0,
        batch_length: 49,
        partition_leader_epoch: -1,
        magic: 2,
        crc: 0,
        attributes: 0,
        last_offset_delta: records.wrapping_sub(1),
        base_timestamp: 5,
        max_timestamp: 9,
        producer_id,
        producer_epoch,
        base_sequence: sequence,
        records_count: records,
    };
    Bytes::copy_from_slice(&header.to_bytes())
}

fn number<T: std::str::FromStr>(words: &[&str], name: &str) -> Option<T> {
    words.iter().find_map(|word| word.strip_prefix(name)?.parse().ok())
}

/// Lines: `term N`, `stamp MS`, `produce [pID eEPOCH sSEQUENCE] nRECORDS`, `trim N`, `expire MS`, `end-of EPOCH`, `state`.
fn run(script: &str) -> String {
    let mut machine = PartitionMachine::default();
    let mut at = At { index: 0, term: 1, stamp_ms: 0 };
    let mut out = String::new();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<_> = line.split_whitespace().collect();
        let argument = words.get(1).and_then(|word| word.parse().ok()).unwrap_or(0);
        let command = match words[0] {
            "term" => {
                at.term = argument;
                continue;
            }
            "stamp" => {
                at.stamp_ms = argument;
                continue;
            }
            "state" => {
                out.push_str(&state(&machine));
                continue;
            }
            "end-of" => {
                writeln!(out, "{line}: {:?}", machine.end_of_epoch(argument)).unwrap();
                continue;
            }
            "produce" => {
                let producer =
                    number(&words, "p").map(|id| (id, number(&words, "e").unwrap_or(0), number(&words, "s").unwrap()));
                produce(batch(producer, number(&words, "n").unwrap()))
            }
            "trim" => Trim { offset: argument }.command(),
            "expire" => ExpireProducers { before_ms: argument }.command(),
            other => panic!("no such command: {other}"),
        };
        at.index += 1;
        let reply = match machine.apply(at, &command, &mut Vec::new()) {
            Reply::Produced { base_offset, records, duplicate, .. } => {
                let end = base_offset + u64::from(records);
                format!("{base_offset}..{end}{}", if duplicate { " duplicate" } else { "" })
            }
            Reply::Trimmed { log_start } => format!("starts at {log_start}"),
            Reply::Expired { producers } => format!("{producers} forgotten"),
            Reply::Refused(refusal) => format!("refused: {refusal}"),
        };
        writeln!(out, "{line}: {reply}").unwrap();
        machine = restored(&machine);
    }
    out
}

pub(super) fn restored(machine: &PartitionMachine) -> PartitionMachine {
    let mut other = PartitionMachine::default();
    other.restore(&machine.checkpoint()).unwrap();
    assert_eq!(&other, machine);
    assert_eq!(other.checkpoint(), machine.checkpoint());
    other
}

fn state(machine: &PartitionMachine) -> String {
    let mut out = format!("  {}..{} epochs {:?}\n", machine.log_start, machine.next_offset, machine.epochs());
    for (id, state) in machine.producers.map() {
        let batches: Vec<_> =
            state.batches.iter().map(|b| format!("{}+{}@{}", b.sequence, b.records, b.base_offset)).collect();
        writeln!(out, "  p{id} e{} {}", state.epoch, batches.join(" ")).unwrap();
    }
    out
}

#[test]
fn a_retry_gets_the_offset_of_the_first_time() {
    check!("
        produce p7 s0 n5
        produce n2
        produce p7 s5 n1
        produce p7 s0 n5
        produce p7 s5 n1
        produce p7 s5 n2
        state
    ", @"
        produce p7 s0 n5: 0..5
        produce n2: 5..7
        produce p7 s5 n1: 7..8
        produce p7 s0 n5: 0..5 duplicate
        produce p7 s5 n1: 7..8 duplicate
        produce p7 s5 n2: refused: producer 7 sent sequence 5, expected 6
          0..8 epochs [(1, 0)]
          p7 e0 0+5@0 5+1@7
        ");
}

#[test]
fn what_does_not_follow_is_refused_and_takes_no_offset() {
    check!("
        produce p7 s3 n1
        produce p7 s0 n1
        produce p7 s2 n1
        produce p7 s1 n1
        produce p7 s2 n1
        state
    ", @"
        produce p7 s3 n1: refused: producer 7 is not known here (any more), and sequence 3 is not its first
        produce p7 s0 n1: 0..1
        produce p7 s2 n1: refused: producer 7 sent sequence 2, expected 1
        produce p7 s1 n1: 1..2
        produce p7 s2 n1: 2..3
          0..3 epochs [(1, 0)]
          p7 e0 0+1@0 1+1@1 2+1@2
        ");
}

#[test]
fn five_batches_are_remembered() {
    check!("
        produce p1 s0 n1
        produce p1 s1 n1
        produce p1 s2 n1
        produce p1 s3 n1
        produce p1 s4 n1
        produce p1 s5 n1
        produce p1 s1 n1
        produce p1 s0 n1
    ", @"
        produce p1 s0 n1: 0..1
        produce p1 s1 n1: 1..2
        produce p1 s2 n1: 2..3
        produce p1 s3 n1: 3..4
        produce p1 s4 n1: 4..5
        produce p1 s5 n1: 5..6
        produce p1 s1 n1: 1..2 duplicate
        produce p1 s0 n1: refused: producer 1 sent sequence 0, expected 6
        ");
}

#[test]
fn sequences_wrap_at_the_largest_i32() {
    check!("
        produce p1 s0 n2147483647
        produce p1 s2147483647 n3
        produce p1 s2 n1
        produce p1 s2147483647 n3
        produce p1 s4 n1
        state
    ", @"
        produce p1 s0 n2147483647: 0..2147483647
        produce p1 s2147483647 n3: 2147483647..2147483650
        produce p1 s2 n1: 2147483650..2147483651
        produce p1 s2147483647 n3: 2147483647..2147483650 duplicate
        produce p1 s4 n1: refused: producer 1 sent sequence 4, expected 3
          0..2147483651 epochs [(1, 0)]
          p1 e0 0+2147483647@0 2147483647+3@2147483647 2+1@2147483650
        ");
}

#[test]
fn a_higher_epoch_begins_at_zero_and_fences_the_lower() {
    check!("
        produce p1 e0 s0 n4
        produce p1 e1 s4 n1
        produce p1 e1 s0 n1
        produce p1 e0 s4 n1
        produce p1 e0 s0 n4
        produce p1 e1 s0 n1
        state
    ", @"
        produce p1 e0 s0 n4: 0..4
        produce p1 e1 s4 n1: refused: producer 1 sent sequence 4, expected 0
        produce p1 e1 s0 n1: 4..5
        produce p1 e0 s4 n1: refused: producer 1 has epoch 1 by now, the batch has 0
        produce p1 e0 s0 n4: refused: producer 1 has epoch 1 by now, the batch has 0
        produce p1 e1 s0 n1: 4..5 duplicate
          0..5 epochs [(1, 0)]
          p1 e1 0+1@4
        ");
}

#[test]
fn silent_producers_expire_by_stamps() {
    check!("
        stamp 100
        produce p1 s0 n1
        stamp 200
        produce p2 s0 n1
        stamp 150
        produce p1 s1 n1
        expire 200
        stamp 300
        produce p2 s1 n1
        expire 300
        produce p1 s2 n1
        produce p1 s0 n1
        state
    ", @"
        produce p1 s0 n1: 0..1
        produce p2 s0 n1: 1..2
        produce p1 s1 n1: 2..3
        expire 200: 0 forgotten
        produce p2 s1 n1: 3..4
        expire 300: 1 forgotten
        produce p1 s2 n1: refused: producer 1 is not known here (any more), and sequence 2 is not its first
        produce p1 s0 n1: 4..5
          0..5 epochs [(1, 0)]
          p1 e0 0+1@4
          p2 e0 0+1@1 1+1@3
        ");
}

#[test]
fn the_log_start_only_rises_and_epochs_follow() {
    check!("
        term 1
        produce n10
        term 3
        produce n10
        term 4
        produce n10
        end-of 0
        end-of 1
        end-of 2
        end-of 9
        trim 15
        trim 3
        trim 31
        state
        end-of 1
        trim 30
        state
        end-of 4
        produce n1
        state
    ", @"
        produce n10: 0..10
        produce n10: 10..20
        produce n10: 20..30
        end-of 0: Some((0, 0))
        end-of 1: Some((1, 10))
        end-of 2: Some((1, 10))
        end-of 9: Some((4, 30))
        trim 15: starts at 15
        trim 3: starts at 15
        trim 31: refused: the log cannot start at 31: it ends at 30
          15..30 epochs [(3, 15), (4, 20)]
        end-of 1: Some((1, 15))
        trim 30: starts at 30
          30..30 epochs []
        end-of 4: None
        produce n1: 30..31
          30..31 epochs [(4, 30)]
        ");
}

#[test]
fn bytes_that_are_no_batch_of_a_producer_are_refused() {
    let mut machine = PartitionMachine::default();
    let at = At { index: 1, term: 1, stamp_ms: 0 };
    let refused = |body: Bytes, machine: &mut PartitionMachine| match machine.apply(at, &produce(body), &mut Vec::new())
    {
        Reply::Refused(refusal) => refusal.to_string(),
        other => panic!("{other:?}"),
    };
    let mut marker = batch(None, 1).to_vec();
    marker[22] = 1 << 5;
    let half = batch(Some((7, 0, 0)), 1).slice(..60);
    let bodies = [Bytes::new(), half, batch(None, 0), batch(None, -3), marker.into(), batch(Some((7, -1, 0)), 1)];
    let refusals: Vec<_> = bodies.into_iter().map(|body| refused(body, &mut machine)).collect();
    insta::assert_snapshot!(refusals.join("\n"), @"
        the record batch ends after 0 bytes, 61 were announced
        the record batch ends after 60 bytes, 61 were announced
        the record batch counts 0 records but its last offset delta is -1
        the record batch counts -3 records but its last offset delta is -4
        the record batch has attributes 0x0020, which no producer may set
        the record batch has producer id 7, epoch -1 and sequence 0: either all or none are given
        ");
    assert_eq!(machine, PartitionMachine::default());
}

#[test]
fn offsets_end_below_the_largest_i64() {
    let mut machine = PartitionMachine { next_offset: u64::try_from(i64::MAX).unwrap() - 1, ..Default::default() };
    let at = At { index: 1, term: 1, stamp_ms: 0 };
    let reply = machine.apply(at, &produce(batch(None, 2)), &mut Vec::new());
    assert!(matches!(reply, Reply::Refused(Refusal::NoOffsets { records: 2, .. })), "{reply:?}");
    let reply = machine.apply(at, &produce(batch(None, 1)), &mut Vec::new());
    assert!(matches!(reply, Reply::Produced { .. }), "{reply:?}");
}

#[test]
fn the_least_recent_producer_makes_room() {
    let mut machine = PartitionMachine::default();
    let most = i64::from(crate::limits::PRODUCERS_PER_PARTITION_MAX);
    let mut say = |id: i64, sequence: u32| {
        let at = At { index: 1, term: 1, stamp_ms: 0 };
        machine.apply(at, &produce(batch(Some((id, 0, sequence)), 1)), &mut Vec::new())
    };
    for id in 0..most {
        say(id, 0);
    }
    say(0, 1);
    say(most, 0);
    assert!(
        matches!(say(0, 2), Reply::Produced { duplicate: false, .. }),
        "spoke again, so it is not the least recent"
    );
    let forgotten = Refusal::UnknownProducer { producer: ProducerId(1), found: 1 };
    assert_eq!(say(1, 1), Reply::Refused(forgotten));
    assert_eq!(machine.producers_len(), crate::limits::PRODUCERS_PER_PARTITION_MAX as usize);
    restored(&machine);
}

/// Behind a checksum that is right, too: nobody who adds to what was read may overflow.
#[test]
fn a_checkpoint_with_numbers_that_cannot_be_is_refused() {
    let refused = |change: fn(&mut PartitionMachine)| {
        let mut machine = PartitionMachine { next_offset: 9, ..Default::default() };
        change(&mut machine);
        let why = PartitionMachine::default().restore(&machine.checkpoint()).unwrap_err();
        why.to_string()
    };
    let producer = Producer { id: ProducerId(4), epoch: 0, sequence: 0 };
    assert!(refused(|machine| machine.next_offset = u64::MAX).contains("beyond the range of offsets"));
    assert!(refused(|machine| machine.log_start = 10).contains("log start 10 above next offset 9"));
    let beyond = |base_offset| {
        let mut machine = PartitionMachine { next_offset: 9, ..Default::default() };
        machine.producers.note(producer, 2, base_offset, 1);
        PartitionMachine::default().restore(&machine.checkpoint())
    };
    beyond(7).unwrap();
    for base_offset in [8, u64::MAX] {
        assert!(beyond(base_offset).unwrap_err().to_string().contains("a batch beyond the next offset 9"));
    }
}

#[test]
fn a_damaged_checkpoint_says_what_is_wrong() {
    let mut machine = PartitionMachine::default();
    let mut newer = machine.checkpoint().to_vec();
    newer[0] = 9;
    let errors: Vec<_> = [Bytes::new(), newer.into(), Bytes::from_static(&[1, 0xc1])]
        .map(|bytes| machine.restore(&bytes).unwrap_err().to_string())
        .into();
    insta::assert_snapshot!(errors.join("\n"), @"
        partition checkpoint: it is empty
        partition checkpoint: format 9 is of another release, this one reads 1: run the release that wrote it
        partition checkpoint: wrong msgpack marker Reserved
        ");
}
