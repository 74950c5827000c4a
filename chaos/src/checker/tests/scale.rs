//! Work grows as the history does. What can be counted is asserted; how long each family takes is printed (`--nocapture`).

use super::*;
use crate::history::Event;
use tokio::time::Instant;

/// Steps of a history of size 1, partitions of its topic, and how many a member of its group holds.
const STEPS: u64 = 1_500;
const PARTITIONS: u64 = 50;
const HELD: u64 = 5;

/// All is well in it. With the size grow the time, the partitions and the group that reads them, as they do in longer and larger runs.
fn long(size: u64) -> History {
    let partitions = size * PARTITIONS;
    let mut history = History::default();
    let mut logs: Vec<Vec<(u64, Value)>> = vec![Vec::new(); usize::try_from(partitions).unwrap()];
    for n in 0..size * STEPS {
        let (partition, value) = (u32::try_from(n % partitions).unwrap(), n + 1);
        let (offset, at) = (n / partitions, 100 * n);
        logs[partition as usize].push((offset, value));
        for (i, what) in
            (0..).zip([sent(partition, offset, value, at), seen(n, partition, offset), group(n, partitions)].concat())
        {
            history.push(at + i, 1, what);
        }
    }
    let end = 100 * size * STEPS;
    for (partition, records) in (0..).zip(logs) {
        history.push(end, 1, What::Final { partition, start: 0, records });
    }
    history.push(end, 1, What::Topics { topics: [].into(), last: true });
    history
}

/// What clients see of a record. Event 0 is at `at`.
fn sent(partition: u32, offset: u64, value: Value, at: u64) -> Vec<What> {
    vec![
        What::Send { partition, value },
        What::SendOk { partition, value, offset, epoch: 2 },
        What::Latest { partition, asked: at + 2, offset: offset + 1 },
        What::Poll { partition, records: vec![(offset, value)], assigned: true },
        What::Given { group: 1, partition, offset, value, epoch: 2, redelivered: false },
        What::CommitOk { group: 1, partition, asked: at + 5, offset: offset + 1 },
        What::Committed { group: 1, partition, asked: at + 6, offset: offset + 1 },
    ]
}

/// What nodes say of it, and what administrators do meanwhile.
fn seen(n: u64, partition: u32, offset: u64) -> Vec<What> {
    let raft = 1024 + u64::from(partition);
    let high_watermark = offset + 1;
    let applied =
        |life| saw(life, Fact::Applied { group: raft, replica: life, index: offset, term: 2, digest: offset });
    let (parked, fired) = (
        Fact::Parked { group: raft, partition, token: n, by_bytes: false, mark: high_watermark + 1 },
        Fact::Unparked { group: raft, token: n },
    );
    let facts = [
        Fact::Kept { group: raft, replica: 1, end: offset },
        Fact::Marks {
            group: raft,
            partition,
            replica: 1,
            log_start: 0,
            high_watermark,
            bytes: 10 * offset,
            leads: true,
        },
        parked,
        fired,
        Fact::Granted { session: n % 10, link: 1, fresh: false, records: 1, bytes: 10 },
        Fact::Delivered { session: n % 10, link: 1, records: 1, bytes: 10 },
        Fact::Committed {
            of: "g".into(),
            index: n,
            place: format!("t/{partition}"),
            offset: high_watermark,
            reset: false,
        },
    ];
    let topic = match n % 3 {
        0 => done(create(1)),
        1 => refused(create(1), Because::Exists),
        _ => done(delete()),
    };
    [vec![applied(1), applied(2)], facts.map(|fact| saw(1, fact)).into(), topic].concat()
}

/// A member of as many as hold all partitions is told what it has, or all but one of it; now and then one goes and comes again.
fn group(n: u64, partitions: u64) -> Vec<What> {
    let (members, of) = (partitions / HELD, "g");
    let (turn, member) = (n / members, format!("m-{}", n % members));
    let first = (n % members) * HELD;
    let named = |count: u64| (first..first + count).map(|p| format!("t/{p}")).collect::<Vec<_>>().join(" ");
    let partitions = named(if turn.is_multiple_of(2) { HELD } else { HELD - 1 });
    let told = Fact::Told { of: of.into(), member: member.clone(), generation: n, partitions: partitions.clone() };
    let said = Fact::Said { of: of.into(), member: member.clone(), generation: n, partitions };
    let gone = Fact::Gone { of: of.into(), member, generation: n, index: n };
    [Some(told), Some(said), (turn % 4 == 3).then_some(gone)].into_iter().flatten().map(|fact| saw(1, fact)).collect()
}

#[test]
fn work_is_linear_in_the_history() {
    type Family = fn(&[Event], &Facts, &mut Vec<Anomaly>);
    let families: [(&str, Family); 11] = [
        ("writes", writes::check),
        ("order", order::check),
        ("marks", marks::check),
        ("trims", trims::check),
        ("groups", groups::check),
        ("replicas", |events, _, found| replicas::check(events, found)),
        ("promises", |events, _, found| promises::check(events, found)),
        ("commits", |events, _, found| commits::check(events, found)),
        ("topics", |events, _, found| topics::check(events, found)),
        ("wakes", |events, _, found| wakes::check(events, found)),
        ("credit", |events, _, found| credit::check(events, found)),
    ];
    let judged = [1, 8].map(|size| {
        let history = long(size);
        let verdict = check(&history);
        assert!(verdict.is_clean(), "{:?}", verdict.lines().collect::<Vec<_>>());
        let (events, begun) = (&history.events, Instant::now());
        let facts = Facts::gather(events);
        let mut took = vec![("facts", begun.elapsed())];
        let looked = groups::ownership(events, &mut Vec::new());
        for (name, family) in families {
            let begun = Instant::now();
            family(events, &facts, &mut Vec::new());
            took.push((name, begun.elapsed()));
        }
        (events.len() as u64, looked, took)
    });
    let [(few, looked_few, small), (many, looked_many, large)] = judged;
    println!("{few} and {many} events; partitions looked at for owners: {looked_few} and {looked_many}");
    for ((name, small), (_, large)) in small.into_iter().zip(large) {
        let ns = |took: std::time::Duration, events: u64| took.as_nanos() / u128::from(events);
        println!("{name:>9}: {:>5} and {:>5} ns an event", ns(small, few), ns(large, many));
    }
    assert!(many > 7 * few && many < 9 * few, "{few} and {many} events");
    assert!(looked_few * 9 > looked_many && looked_many < 4 * HELD * many, "{looked_few} and {looked_many}");
}
