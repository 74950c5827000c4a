//! Hand-made histories: one clean, and each anomaly planted once.

use super::*;

/// Two producers, one assigned reader, one group of one member; all is well.
fn clean() -> Vec<What> {
    use What::*;
    vec![
        Send { partition: 0, value: 10 },
        Send { partition: 0, value: 11 },
        SendOk { partition: 0, value: 10, offset: 0 },
        SendOk { partition: 0, value: 11, offset: 1 },
        Latest { partition: 0, asked: 4, offset: 2 },
        Send { partition: 0, value: 12 },
        SendFail { partition: 0, value: 12 },
        Send { partition: 0, value: 13 },
        SendInfo { partition: 0, value: 13 },
        Poll { partition: 0, records: vec![(0, 10), (1, 11)], assigned: true },
        Given { group: 1, partition: 0, offset: 0, value: 10, redelivered: false },
        Given { group: 1, partition: 0, offset: 0, value: 10, redelivered: true },
        Given { group: 1, partition: 0, offset: 1, value: 11, redelivered: false },
        Given { group: 1, partition: 0, offset: 2, value: 13, redelivered: false },
        Replica { node: 1, partition: 0, log_start: 0, high_watermark: 3, digest: 7 },
        Replica { node: 2, partition: 0, log_start: 0, high_watermark: 3, digest: 7 },
        Final { partition: 0, records: vec![(0, 10), (1, 11), (2, 13)] },
    ]
}

fn verdict(events: Vec<What>) -> Verdict {
    let mut history = History::default();
    for (at, what) in events.into_iter().enumerate() {
        history.push(at as u64, 1, what);
    }
    check(&history)
}

fn kinds(events: Vec<What>) -> Vec<&'static str> {
    let mut kinds: Vec<_> = verdict(events).anomalies.into_iter().map(|a| a.kind).collect();
    kinds.dedup();
    kinds
}

fn with(what: What) -> Vec<What> {
    let mut events = clean();
    let end = events.len() - 3;
    events.insert(end, what);
    events
}

#[test]
fn a_clean_history_is_clean() {
    let verdict = verdict(clean());
    assert_eq!((verdict.sent, verdict.acked, verdict.read, verdict.redelivered), (4, 2, 3, 1));
    assert_eq!(verdict.anomalies, []);
}

#[test]
fn each_planted_anomaly_is_found() {
    use What::*;
    let replace = |from: usize, what: What| {
        let mut events = clean();
        events[from] = what;
        events
    };
    let last = clean().len() - 1;
    let finals = |records: Vec<(u64, Value)>| replace(last, Final { partition: 0, records });
    assert_eq!(kinds(finals(vec![(0, 10), (2, 13)])), ["gap", "lost write"]);
    assert_eq!(
        kinds(finals(vec![(0, 11), (1, 10), (2, 13)])),
        ["duplicate", "inconsistent offset", "lost write", "reordered"]
    );
    assert_eq!(kinds(finals(vec![(0, 10), (1, 11), (2, 13), (3, 13)])), ["duplicate", "group lost"]);
    assert_eq!(kinds(finals(vec![(0, 10), (1, 11), (2, 12)])), ["aborted read", "inconsistent offset"]);
    assert_eq!(kinds(with(Poll { partition: 0, records: vec![(0, 10)], assigned: true })), ["nonmonotonic poll"]);
    assert_eq!(kinds(with(Poll { partition: 0, records: vec![(2, 13)], assigned: true })), Vec::<&str>::new());
    assert_eq!(
        kinds(replace(9, Poll { partition: 0, records: vec![(0, 10), (2, 13)], assigned: true })),
        ["poll skip"]
    );
    assert_eq!(kinds(with(OutOfRange { partition: 0, offset: 3 })), ["false out-of-range"]);
    assert_eq!(kinds(with(OutOfRange { partition: 0, offset: 9 })), Vec::<&str>::new());
    assert_eq!(kinds(replace(4, Latest { partition: 0, asked: 4, offset: 1 })), ["watermark regressed"]);
    assert_eq!(kinds(replace(4, Latest { partition: 0, asked: 2, offset: 0 })), Vec::<&str>::new());
    assert_eq!(
        kinds(replace(15, Replica { node: 2, partition: 0, log_start: 0, high_watermark: 3, digest: 8 })),
        ["replicas differ"]
    );
    assert_eq!(
        kinds(replace(11, Given { group: 1, partition: 0, offset: 0, value: 10, redelivered: false })),
        ["group unmarked"]
    );
    assert_eq!(kinds(replace(12, Seek { partition: 0 })), ["group lost"]);
}

#[test]
fn equal_histories_have_equal_hashes() {
    let history = |events: Vec<What>| {
        let mut history = History::default();
        events.into_iter().for_each(|what| history.push(1, 1, what));
        history.hash()
    };
    assert_eq!(history(clean()), history(clean()));
    assert_ne!(history(clean()), history(with(What::Seek { partition: 0 })));
}
