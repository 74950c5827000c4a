//! Hand-made histories: one clean, and each anomaly planted once.

mod scale;

use super::*;
use crate::history::{Because, Deed, Fact, GARBAGE, Value, What};

/// Two producers, one assigned reader, one group of one member; all is well. One event per microsecond.
fn clean() -> Vec<What> {
    use What::*;
    vec![
        Send { partition: 0, value: 10 },
        Send { partition: 0, value: 11 },
        SendOk { partition: 0, value: 10, offset: 0, epoch: 2 },
        SendOk { partition: 0, value: 11, offset: 1, epoch: 2 },
        Latest { partition: 0, asked: 4, offset: 2 },
        Send { partition: 0, value: 12 },
        SendFail { partition: 0, value: 12 },
        Send { partition: 0, value: 13 },
        SendInfo { partition: 0, value: 13 },
        Poll { partition: 0, records: vec![(0, 10), (1, 11)], assigned: true },
        Given { group: 1, partition: 0, offset: 0, value: 10, epoch: 2, redelivered: false },
        Given { group: 1, partition: 0, offset: 0, value: 10, epoch: 2, redelivered: true },
        Given { group: 1, partition: 0, offset: 1, value: 11, epoch: 2, redelivered: false },
        Given { group: 1, partition: 0, offset: 2, value: 13, epoch: 2, redelivered: false },
        Replica { node: 1, partition: 0, log_start: 0, high_watermark: 3, digest: 7 },
        Replica { node: 2, partition: 0, log_start: 0, high_watermark: 3, digest: 7 },
        Final { partition: 0, start: 0, records: vec![(0, 10), (1, 11), (2, 13)] },
    ]
}

fn history(events: Vec<What>) -> History {
    let mut history = History::default();
    for (at, what) in events.into_iter().enumerate() {
        history.push(at as u64, 1, what);
    }
    history
}

fn kinds_of(history: &History) -> Vec<&'static str> {
    let mut kinds: Vec<_> = check(history).anomalies.into_iter().map(|a| a.kind).collect();
    kinds.dedup();
    kinds
}

fn kinds(events: Vec<What>) -> Vec<&'static str> {
    kinds_of(&history(events))
}

fn with(what: What) -> Vec<What> {
    let mut events = clean();
    let end = events.len() - 3;
    events.insert(end, what);
    events
}

fn replace(from: usize, what: What) -> Vec<What> {
    let mut events = clean();
    events[from] = what;
    events
}

fn finals(records: Vec<(u64, Value)>) -> Vec<What> {
    replace(clean().len() - 1, What::Final { partition: 0, start: 0, records })
}

const NONE: [&str; 0] = [];

#[test]
fn a_clean_history_is_clean() {
    let verdict = check(&history(clean()));
    assert_eq!((verdict.sent, verdict.acked, verdict.read, verdict.redelivered), (4, 2, 3, 1));
    assert_eq!(verdict.anomalies, []);
}

#[test]
fn what_became_of_values() {
    use What::*;
    assert_eq!(kinds(finals(vec![(0, 10), (2, 13)])), ["gap", "lost write"]);
    assert_eq!(kinds(finals(vec![(0, 10)])), ["unseen"]);
    let trimmed = What::Final { partition: 0, start: 1, records: vec![(1, 11), (2, 13)] };
    let mut events = replace(clean().len() - 1, trimmed);
    assert_eq!(kinds(events.clone()), ["trimmed without cause"]);
    events.insert(0, Topic { retention: true });
    assert_eq!(kinds(events), NONE, "retention took the first");
    assert_eq!(kinds(finals(vec![(1, 11), (2, 13)])), ["lost write"]);
    assert_eq!(
        kinds(finals(vec![(0, 11), (1, 10), (2, 13)])),
        ["duplicate", "inconsistent offset", "lost write", "reordered"]
    );
    assert_eq!(kinds(finals(vec![(0, 10), (1, 11), (2, 13), (3, 13)])), ["duplicate", "group lost"]);
    assert_eq!(kinds(finals(vec![(0, 10), (1, 11), (2, 12)])), ["aborted read", "inconsistent offset", "lost write"]);
    assert_eq!(kinds(with(Damaged { partition: 0, text: "wrong checksum".into() })), ["damaged batch"]);
}

#[test]
fn the_shortest_evidence_is_told() {
    use What::*;
    // Both partitions miss an offset. What is found first is the longer to tell, and stands in the lower partition.
    let partition = |partition: u32, first: u64| {
        let values = [first, first + 2].map(|offset| (offset, 1_000 * u64::from(partition) + offset));
        let sends = values.map(|(_, value)| Send { partition, value });
        let acks = values.map(|(offset, value)| SendOk { partition, value, offset, epoch: 2 });
        [&sends[..], &acks[..], &[Final { partition, start: first, records: values.to_vec() }]].concat()
    };
    let verdict = check(&history([vec![Topic { retention: true }], partition(0, 98), partition(7, 1)].concat()));
    let told: Vec<_> = verdict.anomalies.iter().map(|a| (a.partition, a.evidence.as_str())).collect();
    assert_eq!(told, [(7, "nothing between 1 and 3"), (0, "nothing between 98 and 100")]);
    let lines: Vec<_> = verdict.lines().collect();
    assert_eq!(lines, ["2 x gap in partition 7: nothing between 1 and 3"]);
}

#[test]
fn what_was_read_is_not_lost() {
    use What::*;
    // Nobody knows what became of 13, which stands at 1 when it is read.
    let ended = |read: What, start: u64, last: &[(u64, Value)]| {
        vec![
            Send { partition: 0, value: 10 },
            Send { partition: 0, value: 13 },
            SendOk { partition: 0, value: 10, offset: 0, epoch: 2 },
            SendInfo { partition: 0, value: 13 },
            read,
            Send { partition: 0, value: 11 },
            SendOk { partition: 0, value: 11, offset: 2, epoch: 2 },
            Final { partition: 0, start, records: last.to_vec() },
        ]
    };
    let by_poll = || Poll { partition: 0, records: vec![(0, 10), (1, 13)], assigned: true };
    let by_group = Given { group: 1, partition: 0, offset: 1, value: 13, epoch: 2, redelivered: false };
    let without = [(0, 10), (2, 11)];
    assert_eq!(kinds(ended(by_poll(), 0, &[(0, 10), (1, 13), (2, 11)])), NONE);
    assert_eq!(kinds(ended(by_poll(), 0, &without)), ["gap", "lost write"]);
    assert_eq!(kinds(ended(by_group, 0, &without)), ["gap", "group lost", "lost write"]);
    assert_eq!(kinds(ended(Seek { partition: 0 }, 0, &without)), ["gap"], "it may never have been appended");

    let mut late = ended(by_poll(), 0, &[(0, 10)]);
    late.remove(6);
    assert_eq!(kinds(late), NONE, "it may have been appended after the final read");

    let trimmed = ended(by_poll(), 2, &[(2, 11)]);
    assert_eq!(check(&history(trimmed.clone())).count("trimmed without cause"), 2);
    assert_eq!(kinds([vec![Topic { retention: true }], trimmed].concat()), NONE);
}

#[test]
fn what_is_read_was_sent() {
    use What::*;
    let polled = |value| with(Poll { partition: 0, records: vec![(2, value)], assigned: true });
    assert_eq!(kinds(polled(13)), NONE);
    assert_eq!(kinds(polled(99)), ["inconsistent offset", "value of nobody"]);
    let given = |value| Given { group: 1, partition: 0, offset: 2, value, epoch: 2, redelivered: true };
    assert_eq!(kinds(with(given(GARBAGE))), ["inconsistent offset", "value of nobody"]);
    assert_eq!(kinds(finals(vec![(0, 10), (1, 11), (2, 13), (3, GARBAGE)])), ["group lost", "value of nobody"]);
    let elsewhere = vec![
        Send { partition: 1, value: 14 },
        Poll { partition: 0, records: vec![(2, 13), (3, 14)], assigned: true },
        SendInfo { partition: 1, value: 14 },
    ];
    assert_eq!(kinds([clean(), elsewhere].concat()), ["value of nobody"], "it was sent to another partition");
}

#[test]
fn the_final_read_is_of_all_partitions() {
    use What::*;
    let other = || vec![Send { partition: 1, value: 14 }, SendOk { partition: 1, value: 14, offset: 0, epoch: 2 }];
    let read = Final { partition: 1, start: 0, records: vec![(0, 14)] };
    let given = Given { group: 1, partition: 1, offset: 0, value: 14, epoch: 2, redelivered: false };
    assert_eq!(kinds([other(), clean()].concat()), ["no final read"]);
    assert_eq!(kinds([other(), vec![given, read], clean()].concat()), NONE);
    assert_eq!(kinds(other()), NONE, "a run that came to no final read");
}

#[test]
fn retention_takes_nothing_young() {
    let run = |steps: Vec<(u64, What)>| {
        let mut history = History::default();
        history.push(0, 1, What::Topic { retention: true });
        history.push(0, 1, What::Keeps { ms: 8_000 });
        for (at, value, offset) in [(0, 10, 0), (5_000_000, 11, 1)] {
            history.push(at, 1, What::Send { partition: 0, value });
            history.push(at, 1, What::SendOk { partition: 0, value, offset, epoch: 2 });
        }
        steps.into_iter().for_each(|(at, what)| history.push(at, 1, what));
        kinds_of(&history)
    };
    let trimmed = |to: u64| saw(1, marks(to, 2, 20));
    assert_eq!(run(vec![(9_000_000, trimmed(1)), (14_000_000, trimmed(2))]), NONE);
    assert_eq!(run(vec![(9_000_000, trimmed(2))]), ["trimmed too early"], "the second is 4 s old");
    assert_eq!(run(vec![(9_000_000, What::Jumped), (9_000_000, trimmed(2))]), NONE);
    assert_eq!(run(vec![(9_000_000, trimmed(2)), (9_000_000, What::Jumped)]), ["trimmed too early"]);
    let last = |start, records| What::Final { partition: 0, start, records };
    assert_eq!(run(vec![(9_000_000, last(1, vec![(1, 11)]))]), NONE);
    assert_eq!(run(vec![(9_000_000, last(2, vec![]))]), ["trimmed too early"]);
}

#[test]
fn what_was_healed_serves() {
    let served = |asked| vec![What::Healed, What::Served { what: "a record".into(), asked }];
    let mut history = history(served(0));
    assert_eq!(kinds_of(&history), NONE);
    history.events[1].at = 21_000_000;
    assert_eq!(kinds_of(&history), ["served late"]);
    history.events[0].at = 5_000_000;
    assert_eq!(kinds_of(&history), NONE, "it was asked for in the storm");
}

#[test]
fn epochs_of_what_groups_get() {
    let given = |offset, value, epoch| What::Given { group: 1, partition: 0, offset, value, epoch, redelivered: true };
    assert_eq!(kinds(with(given(2, 13, 2))), NONE);
    assert_eq!(kinds(with(given(2, 13, 3))), ["epochs differ"], "two of one offset");
    assert_eq!(kinds(replace(13, given(2, 13, 1))), ["epochs differ"], "lower than before it");
    let later = What::SendOk { partition: 0, value: 11, offset: 1, epoch: 1 };
    assert_eq!(kinds(replace(3, later)), ["epochs differ"], "acknowledged before its own");
}

#[test]
fn polls() {
    let poll = |records: &[(u64, Value)]| What::Poll { partition: 0, records: records.to_vec(), assigned: true };
    assert_eq!(kinds(with(poll(&[(0, 10)]))), ["nonmonotonic poll"]);
    assert_eq!(kinds(with(poll(&[(2, 13)]))), NONE);
    assert_eq!(kinds(with(poll(&[(2, 13), (1, 11)]))), ["internal nonmonotonic poll"]);
    assert_eq!(kinds(replace(9, poll(&[(0, 10), (2, 13)]))), ["internal poll skip"]);
    let mut skipped = replace(9, poll(&[(0, 10)]));
    skipped.insert(10, poll(&[(2, 13)]));
    assert_eq!(kinds(skipped.clone()), ["poll skip"]);
    skipped.insert(10, What::Seek { partition: 0 });
    assert_eq!(kinds(skipped), NONE);
    let by_group = What::Poll { partition: 0, records: vec![(0, 10)], assigned: false };
    assert_eq!(kinds(with(by_group)), NONE);
}

#[test]
fn polls_of_members() {
    use What::*;
    // Of 10 to 13 at offsets 0 to 3, all but that at 2 are acknowledged.
    let check = |given: Vec<What>| {
        let sent = (0..4).map(|n| Send { partition: 0, value: 10 + n });
        let acked = [0, 1, 3].map(|n| SendOk { partition: 0, value: 10 + n, offset: n, epoch: 2 });
        kinds(sent.chain(acked).chain(given).collect())
    };
    let given =
        |offset, redelivered| Given { group: 1, partition: 0, offset, value: 10 + offset, epoch: 2, redelivered };
    let (new, again) = (|offset| given(offset, false), |offset| given(offset, true));
    let polled = || Polled { group: 1 };
    assert_eq!(check(vec![polled(), new(0), new(1), new(2), polled(), new(3)]), NONE);
    assert_eq!(check(vec![polled(), new(0), new(2)]), ["internal poll skip"]);
    assert_eq!(check(vec![polled(), new(1), new(0)]), ["internal nonmonotonic poll"]);
    assert_eq!(check(vec![polled(), new(1), new(3)]), NONE, "nobody knows of what is between");
    assert_eq!(check(vec![polled(), new(0), polled(), new(3), polled(), new(2)]), NONE, "from poll to poll");
    assert_eq!(check(vec![polled(), new(1), again(0), again(3)]), NONE, "it is told that they are repeated");
    let beside = vec![polled(), new(1), Polled { group: 2 }, new(0)];
    assert_eq!(check(beside), ["internal nonmonotonic poll"], "the second poll is of another group");
    assert_eq!(check(vec![new(0), new(3), new(2)]), NONE, "nobody knows its polls");

    let trimmed = |start, records| vec![polled(), new(0), new(3), Final { partition: 0, start, records }];
    let all = [vec![Topic { retention: true }], trimmed(3, vec![(3, 13)])].concat();
    assert_eq!(check(all), NONE, "what is between may have gone meanwhile");
    let kept = [vec![Topic { retention: true }], trimmed(1, vec![(1, 11), (2, 12), (3, 13)])].concat();
    assert_eq!(check(kept), ["group lost", "internal poll skip"]);
}

#[test]
fn order_of_sends_and_cycles() {
    use What::*;
    let acks = |first: u64, second: u64| {
        history(vec![
            Send { partition: 0, value: 10 },
            Send { partition: 0, value: 11 },
            SendOk { partition: 0, value: 10, offset: first, epoch: 2 },
            SendOk { partition: 0, value: 11, offset: second, epoch: 2 },
        ])
    };
    assert_eq!(kinds_of(&acks(0, 1)), NONE);
    assert_eq!(kinds_of(&acks(1, 0)), ["nonmonotonic send"]);
    // Two producers: 20 is sent after 10 was acknowledged (or read), and stands in front of it.
    let cycle = |between: What| {
        let mut history = History::default();
        history.push(0, 1, Send { partition: 0, value: 10 });
        history.push(1, 1, between);
        history.push(2, 2, Send { partition: 0, value: 20 });
        history.push(3, 9, Final { partition: 0, start: 0, records: vec![(0, 20), (1, 10)] });
        kinds_of(&history)
    };
    assert_eq!(cycle(SendOk { partition: 0, value: 10, offset: 1, epoch: 2 }), ["G0"]);
    assert_eq!(cycle(Poll { partition: 0, records: vec![(1, 10)], assigned: true }), ["G1c"]);
    assert_eq!(cycle(SendInfo { partition: 0, value: 10 }), NONE);
}

fn saw(life: u64, fact: Fact) -> What {
    What::Saw { life, fact }
}

fn marks(log_start: u64, high_watermark: u64, bytes: u64) -> Fact {
    Fact::Marks { group: 1024, partition: 0, replica: 1, log_start, high_watermark, bytes, leads: true }
}

#[test]
fn marks_never_go_back() {
    use What::*;
    assert_eq!(kinds(with(OutOfRange { partition: 0, offset: 3 })), ["false out-of-range"]);
    assert_eq!(kinds(with(OutOfRange { partition: 0, offset: 9 })), NONE);
    assert_eq!(kinds(replace(4, Latest { partition: 0, asked: 4, offset: 1 })), ["watermark regressed"]);
    assert_eq!(kinds(with(Latest { partition: 0, asked: 9, offset: 2 })), NONE);
    assert_eq!(
        kinds(with(Latest { partition: 0, asked: 14, offset: 2 })),
        ["watermark regressed"],
        "offset 2 was given"
    );
    assert_eq!(kinds(replace(4, Latest { partition: 0, asked: 2, offset: 0 })), NONE, "asked before it was known");
    let facts = |later: u64, fact: Fact| kinds(vec![saw(1, marks(1, 5, 50)), saw(later, fact)]);
    assert_eq!(facts(1, marks(1, 4, 50)), ["watermark regressed"]);
    assert_eq!(facts(1, marks(0, 5, 50)), ["log start regressed"]);
    assert_eq!(facts(2, marks(0, 4, 50)), NONE, "another life begins where its checkpoint is");
}

#[test]
fn replicas_are_equal() {
    let replica = |digest| What::Replica { node: 2, partition: 0, log_start: 0, high_watermark: 3, digest };
    assert_eq!(kinds(replace(15, replica(8))), ["replicas differ"]);
    let applied = |life, term, digest| saw(life, Fact::Applied { group: 1, replica: life, index: 7, term, digest });
    assert_eq!(kinds(vec![applied(1, 2, 3), applied(2, 2, 3), applied(3, 2, 3)]), NONE);
    assert_eq!(kinds(vec![applied(1, 2, 3), applied(2, 2, 4)]), ["entries differ"]);
    assert_eq!(kinds(vec![applied(1, 2, 3), applied(2, 3, 3)]), ["entries differ"]);
    let boundary = |life, digest| saw(life, Fact::Boundary { group: 1, replica: life, index: 7, digest });
    assert_eq!(kinds(vec![boundary(1, 3), boundary(2, 3)]), NONE);
    assert_eq!(kinds(vec![boundary(1, 3), boundary(2, 4)]), ["checkpoints differ"]);
}

#[test]
fn a_term_has_one_leader() {
    let leads = |life, replica, term| saw(life, Fact::Leads { group: 1, replica, term });
    assert_eq!(kinds(vec![leads(1, 1, 4), leads(1, 2, 5), leads(2, 1, 6)]), NONE);
    assert_eq!(kinds(vec![leads(1, 1, 4), leads(1, 2, 4)]), ["two leaders"]);
}

#[test]
fn promises_are_kept() {
    let kept = |end| saw(1, Fact::Kept { group: 1, replica: 1, end });
    let cut = |end| saw(1, Fact::Cut { group: 1, replica: 1, end });
    let opened = |end, state| saw(2, Fact::Opened { group: 1, replica: 1, end, state });
    assert_eq!(kinds(vec![opened(0, 0), kept(5), kept(7), opened(8, 7), kept(9), opened(9, 9)]), NONE);
    assert_eq!(kinds(vec![kept(5), opened(4, 0)]), ["durable entries lost"]);
    assert_eq!(kinds(vec![kept(5), cut(3), opened(3, 0)]), NONE, "it was taken back");
    assert_eq!(kinds(vec![kept(5), cut(3), kept(4), opened(3, 0)]), ["durable entries lost"]);
    assert_eq!(kinds(vec![kept(5), What::Tampered, opened(4, 0)]), NONE);
    assert_eq!(kinds(vec![kept(5), opened(5, 6)]), ["state ahead of its log"]);
    let faulty = saw(1, Fact::Faulty { group: 1, replica: 1, why: "entry 7 is missing".into() });
    assert_eq!(kinds(vec![faulty.clone()]), ["damaged by itself"]);
    assert_eq!(kinds(vec![What::Tampered, faulty]), NONE);
}

#[test]
fn groups_get_everything_and_are_told() {
    use What::*;
    let again = Given { group: 1, partition: 0, offset: 0, value: 10, epoch: 2, redelivered: false };
    assert_eq!(kinds(replace(11, again)), ["group unmarked"]);
    assert_eq!(kinds(replace(12, Seek { partition: 0 })), ["group lost"]);
    let told = |asked, offset| Committed { group: 1, partition: 0, asked, offset };
    let twice = |second| [clean(), vec![told(17, 3), second]].concat();
    assert_eq!(kinds(twice(told(18, 3))), NONE);
    assert_eq!(kinds(twice(told(16, 2))), NONE, "asked before the first was told");
    assert_eq!(kinds(twice(told(18, 2))), ["commit regressed"]);
    assert_eq!(kinds(with(Joined { group: 2 })), ["group lost"], "it got nothing at all");
}

#[test]
fn commits_rise() {
    let commit = |life, index, offset, reset| {
        saw(life, Fact::Committed { of: "g".into(), index, place: "t/0".into(), offset, reset })
    };
    let good = vec![commit(1, 5, 10, false), commit(2, 5, 10, false), commit(1, 6, 12, false), commit(3, 5, 10, false)];
    assert_eq!(kinds(good), NONE, "a replica that is behind says what others said before");
    assert_eq!(kinds(vec![commit(1, 5, 10, false), commit(1, 6, 9, false)]), ["commit regressed"]);
    let deed = Deed::Reset { group: 1, of: "g".into(), partition: 0, offset: 0 };
    assert_eq!(kinds(vec![commit(1, 5, 10, false), What::Admin { deed }, commit(1, 6, 0, true)]), NONE);
}

#[test]
fn no_partition_has_two_owners() {
    let told = |member: &str, generation, partitions: &str| {
        saw(1, Fact::Told { of: "g".into(), member: member.into(), generation, partitions: partitions.into() })
    };
    let said = |member: &str, generation, partitions: &str| {
        saw(1, Fact::Said { of: "g".into(), member: member.into(), generation, partitions: partitions.into() })
    };
    let gone = |member: &str, generation, index| {
        saw(1, Fact::Gone { of: "g".into(), member: member.into(), generation, index })
    };
    let start = || vec![told("a", 1, "t/0 t/1"), said("a", 1, "t/0 t/1"), told("a", 2, "t/0")];
    let then = |more: Vec<What>| kinds(start().into_iter().chain(more).collect());
    assert_eq!(then(vec![said("a", 2, "t/0"), told("b", 3, "t/1")]), NONE);
    assert_eq!(then(vec![told("b", 3, "t/1")]), ["ownership overlaps"]);
    assert_eq!(then(vec![said("a", 1, "t/0"), told("b", 3, "t/1")]), ["ownership overlaps"], "it does not know yet");
    assert_eq!(then(vec![gone("a", 2, 9), told("b", 3, "t/0 t/1")]), NONE);
    let both = vec![gone("a", 3, 9), gone("b", 3, 9), gone("a", 3, 9), told("c", 3, "t/0 t/1")];
    assert_eq!(then([vec![said("a", 2, "t/0"), told("b", 3, "t/1")], both].concat()), NONE, "two ends in one entry");
    assert_eq!(
        then(vec![gone("a", 2, 9), told("b", 3, "t/0 t/1"), told("a", 2, "t/0")]),
        NONE,
        "an old home speaks to one who is no member"
    );
}

#[test]
fn whoever_waits_is_woken_at_once() {
    let parked = |token, by_bytes, mark| saw(1, Fact::Parked { group: 1024, partition: 0, token, by_bytes, mark });
    let fired = |token| saw(1, Fact::Fired { group: 1024, token, ready: true });
    let at = |events: Vec<(u64, What)>| {
        let mut history = History::default();
        events.into_iter().for_each(|(at, what)| history.push(at, 1, what));
        kinds_of(&history)
    };
    let mark = |offset, bytes| saw(1, marks(0, offset, bytes));
    assert_eq!(at(vec![(1, mark(1, 10)), (2, parked(7, true, 11)), (3, mark(2, 20)), (3, fired(7))]), NONE);
    assert_eq!(at(vec![(1, mark(1, 10)), (2, parked(7, true, 11)), (3, mark(2, 20)), (4, fired(7))]), ["woken late"]);
    // It was parked though its mark is reached, and nobody wakes it.
    assert_eq!(at(vec![(1, mark(5, 10)), (2, parked(7, false, 5)), (9, mark(6, 20))]), ["woken late"]);
    let unparked = saw(1, Fact::Unparked { group: 1024, token: 7 });
    assert_eq!(at(vec![(1, mark(5, 10)), (2, parked(7, false, 5)), (9, unparked.clone())]), ["woken late"]);
    assert_eq!(at(vec![(1, mark(5, 10)), (2, parked(7, false, 6)), (9, unparked.clone())]), NONE);
    let real = |events: Vec<(u64, What)>| at([vec![(0, What::RealTime)], events].concat());
    assert_eq!(real(vec![(1, mark(1, 10)), (2, parked(7, true, 11)), (3, mark(2, 20)), (90, fired(7))]), NONE);
    let again = vec![(1, mark(5, 10)), (2, parked(7, false, 5)), (3, mark(6, 20))];
    assert_eq!(real([again.clone(), vec![(90, fired(7))]].concat()), NONE, "it came in the turn of these marks");
    assert_eq!(real([again.clone(), vec![(90, mark(7, 30)), (91, fired(7))]].concat()), ["woken late"]);
    assert_eq!(real([again, vec![(90, unparked)]].concat()), NONE, "it may have gone in the turn in which it was due");
    let never = vec![(1, mark(1, 10)), (2, parked(7, true, 11)), (3, mark(2, 20)), (4, mark(3, 30)), (5, mark(4, 40))];
    assert_eq!(real(never), ["woken late"]);
}

#[test]
fn credit_is_not_overdrawn() {
    let granted = |fresh, records, bytes| saw(1, Fact::Granted { session: 1, link: 2, fresh, records, bytes });
    let delivered = |records, bytes| saw(1, Fact::Delivered { session: 1, link: 2, records, bytes });
    assert_eq!(kinds(vec![granted(true, 5, 500), delivered(5, 500), granted(false, 1, 100), delivered(1, 90)]), NONE);
    assert_eq!(kinds(vec![granted(true, 5, 500), delivered(6, 500)]), ["credit overdrawn"]);
    assert_eq!(kinds(vec![granted(true, 5, 500), delivered(5, 400), delivered(0, 101)]), ["credit overdrawn"]);
    assert_eq!(
        kinds(vec![granted(true, 5, 500), granted(true, 5, 500), delivered(6, 10)]),
        ["credit overdrawn"],
        "a new subscription on a link begins with its own credit"
    );
}

#[test]
fn equal_histories_have_equal_hashes() {
    assert_eq!(history(clean()).hash(), history(clean()).hash());
    assert_ne!(history(clean()).hash(), history(with(What::Seek { partition: 0 })).hash());
}

fn create(partitions: u32) -> Deed {
    Deed::Create { topic: "t".into(), partitions }
}

fn alter(partitions: u32) -> Deed {
    Deed::Alter { topic: "t".into(), partitions }
}

fn delete() -> Deed {
    Deed::Delete { topic: "t".into() }
}

fn done(deed: Deed) -> Vec<What> {
    vec![What::Admin { deed: deed.clone() }, What::AdminOk { deed }]
}

fn unknown(deed: Deed) -> Vec<What> {
    vec![What::Admin { deed: deed.clone() }, What::AdminInfo { deed }]
}

fn refused(deed: Deed, because: Because) -> Vec<What> {
    vec![What::Admin { deed: deed.clone() }, What::AdminFail { deed, because }]
}

fn topics(partitions: Option<u32>) -> Vec<What> {
    let topics = partitions.map(|partitions| ("t".into(), partitions)).into_iter().collect();
    vec![What::Topics { topics, last: true }]
}

#[test]
fn topics_are_there_from_creation_to_deletion() {
    let all = |parts: Vec<Vec<What>>| kinds(parts.concat());
    let (exists, gone) = (|| refused(create(1), Because::Exists), |deed| refused(deed, Because::Unknown));
    let life = || vec![done(create(1)), exists(), done(alter(2)), topics(Some(2)), done(delete()), gone(alter(0))];
    assert_eq!(all(life()), NONE);
    assert_eq!(all([life(), vec![topics(None)]].concat()), NONE);

    assert_eq!(all(vec![done(create(1)), topics(None)]), ["topic lost"]);
    assert_eq!(all(vec![done(create(1)), gone(alter(2))]), ["topic lost"]);
    assert_eq!(all(vec![unknown(create(1)), topics(None)]), NONE, "it may never be made");
    assert_eq!(all(vec![done(create(1)), unknown(delete()), topics(None)]), NONE);
    assert_eq!(all(vec![done(create(1)), refused(delete(), Because::Unknown), topics(None)]), NONE, "by itself");

    assert_eq!(all([life(), vec![topics(Some(2))]].concat()), ["topic came back"]);
    assert_eq!(all([life(), vec![done(alter(2))]].concat()), ["topic came back"]);
    let late = vec![unknown(create(1)), done(create(1)), done(delete()), topics(Some(1))];
    assert_eq!(all(late), NONE, "the first creation is done late");

    assert_eq!(all(vec![done(create(1)), done(create(1))]), ["topic made twice"]);
    assert_eq!(all(vec![done(create(1)), unknown(delete()), done(create(1))]), NONE);
    assert_eq!(all(vec![topics(Some(1))]), ["topic of nobody"]);
    assert_eq!(all(vec![unknown(create(1)), topics(Some(1))]), NONE);

    assert_eq!(all(vec![done(create(1)), done(alter(3)), topics(Some(1))]), ["partitions differ"]);
    assert_eq!(all(vec![done(create(1)), unknown(alter(3)), topics(Some(1))]), NONE);
    assert_eq!(all(vec![done(create(1)), unknown(alter(3)), topics(Some(2))]), ["partitions differ"]);
}

#[test]
fn what_is_asked_at_once_may_come_in_any_order() {
    let by = |steps: Vec<(u32, What)>| {
        let mut history = History::default();
        (0..).zip(steps).for_each(|(at, (process, what))| history.push(at, process, what));
        kinds_of(&history)
    };
    let (asks, ok) = (|deed: Deed| What::Admin { deed }, |deed: Deed| What::AdminOk { deed });
    let there = |partitions: Option<u32>| topics(partitions).remove(0);
    let both = |first: Deed, second: Deed, last: Option<u32>| {
        let (a, b) = ((1, first), (2, second));
        by(vec![
            (9, asks(create(1))),
            (9, ok(create(1))),
            (a.0, asks(a.1.clone())),
            (b.0, asks(b.1.clone())),
            (a.0, ok(a.1)),
            (b.0, ok(b.1)),
            (9, there(last)),
        ])
    };
    for last in [None, Some(1)] {
        assert_eq!(both(delete(), create(1), last), NONE);
        assert_eq!(both(create(1), delete(), last), NONE);
    }
}

#[test]
fn resets_are_asked_for_and_seen() {
    let reset = |offset| Deed::Reset { group: 1, of: "g".into(), partition: 0, offset };
    let logged = |index, offset, reset| {
        vec![saw(1, Fact::Committed { of: "g".into(), index, place: "t/0".into(), offset, reset })]
    };
    // Event 0 is at 0 µs, and so on: each question is asked right before it is answered.
    let check = |parts: Vec<Vec<What>>| {
        let mut events = parts.concat();
        for (at, event) in (0..).zip(&mut events) {
            if let What::Committed { asked, .. } = event {
                *asked = at;
            }
        }
        kinds(events)
    };
    let told = |offset| vec![What::Committed { group: 1, partition: 0, asked: 0, offset }];
    let good = || vec![logged(5, 10, false), told(10), vec![What::Admin { deed: reset(3) }], logged(6, 3, true)];
    let ok = || vec![What::AdminOk { deed: reset(3) }];
    assert_eq!(check([good(), vec![ok(), told(3), logged(7, 8, false), told(8)]].concat()), NONE);
    assert_eq!(check([good(), vec![told(3), ok(), told(3)]].concat()), NONE, "seen before it is acknowledged");
    let again = refused(reset(5), Because::NotSent);
    assert_eq!(check([good(), vec![ok(), logged(7, 8, false), again, told(8)]].concat()), NONE, "another was not sent");
    assert_eq!(check([good(), vec![ok(), logged(5, 10, false), told(3)]].concat()), NONE, "a replica that is behind");

    assert_eq!(check([good(), vec![ok(), told(10)]].concat()), ["reset lost"]);
    let unlogged = vec![logged(5, 10, false), told(10), done(reset(3)), told(10)];
    assert_eq!(check(unlogged), ["reset lost"], "the home's log does not have it");
    assert_eq!(check([good(), vec![ok(), told(2)]].concat()), ["reset lost"]);
    assert_eq!(check([good(), vec![ok(), logged(7, 8, false), told(8), told(2)]].concat()), ["commit regressed"]);
    assert_eq!(check(vec![told(10), unknown(reset(3)), told(10), told(3), told(4)]), NONE, "it may come at any time");
    assert_eq!(check(vec![told(10), unknown(reset(3)), told(2)]), ["commit regressed"]);
    assert_eq!(check(vec![told(10), refused(reset(3), Because::NotSent), told(3)]), ["commit regressed"]);

    assert_eq!(check(vec![logged(5, 10, false), logged(6, 3, true)]), ["reset of nobody"]);
    assert_eq!(check(vec![done(reset(4)), logged(6, 3, true)]), ["reset of nobody"], "to another offset");
}

#[test]
fn an_acknowledged_commit_is_seen() {
    let ok = |asked, offset| What::CommitOk { group: 1, partition: 0, asked, offset };
    let told = |asked, offset| What::Committed { group: 1, partition: 0, asked, offset };
    let unknown = |offset| What::CommitInfo { group: 1, partition: 0, offset };
    let deed = || Deed::Reset { group: 1, of: "g".into(), partition: 0, offset: 3 };
    let (asks, done) = (|| What::Admin { deed: deed() }, || What::AdminOk { deed: deed() });
    // Event 0 is at 0 µs, and so on.
    let check = |events: Vec<What>| kinds([vec![What::Seek { partition: 0 }], events].concat());
    assert_eq!(check(vec![ok(1, 5), told(2, 5), ok(3, 9), told(4, 9)]), NONE);
    assert_eq!(check(vec![ok(1, 5), told(2, 4)]), ["commit regressed"]);
    assert_eq!(check(vec![ok(1, 5), told(1, 4)]), NONE, "asked before it was acknowledged");
    assert_eq!(check(vec![unknown(5), told(2, 4)]), NONE);

    assert_eq!(check(vec![ok(1, 9), asks(), done(), told(4, 3)]), NONE, "it was reset");
    assert_eq!(check(vec![ok(1, 9), asks(), done(), told(4, 2)]), ["reset lost"]);
    assert_eq!(check(vec![asks(), done(), ok(1, 9), told(4, 3)]), NONE, "the commit may have come before the reset");
    assert_eq!(check(vec![asks(), ok(2, 9), done(), told(4, 3)]), NONE, "so may one that is answered first");
    assert_eq!(check(vec![asks(), done(), ok(3, 8), told(4, 8)]), NONE);
    assert_eq!(check(vec![asks(), done(), ok(3, 8), told(4, 3)]), ["commit regressed"]);
    assert_eq!(check(vec![asks(), done(), unknown(8), told(4, 8)]), NONE, "it may count");
    let loose = vec![ok(1, 9), asks(), What::AdminInfo { deed: deed() }, told(4, 3)];
    assert_eq!(check(loose), NONE, "the reset may come at any time");
}

/// Each answer is judged in the same time, however much may yet come.
#[test]
fn a_long_history_of_unknown_outcomes_is_judged() {
    let reset = || Deed::Reset { group: 1, of: "g".into(), partition: 0, offset: 3 };
    let mut events = Vec::new();
    for _ in 0..25_000 {
        events.extend([unknown(create(1)), refused(create(1), Because::Exists), unknown(reset())].concat());
        for _ in 0..2 {
            let asked = events.len() as u64;
            events.push(What::Committed { group: 1, partition: 0, asked, offset: 10 });
        }
    }
    assert_eq!(events.len(), 200_000);
    assert_eq!(kinds(events), NONE);
}
