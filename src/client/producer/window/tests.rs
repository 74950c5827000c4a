//! What answers make of a batch.

use super::*;
use crate::{
    client::Topic,
    types::{NodeId, TopicId},
};
use tokio::sync::Semaphore;

const NODE: Route = Route { node: NodeId(1), epoch: 1 };

fn window(idempotent: bool) -> Window {
    let topic = Topic {
        name: "t".parse().unwrap(),
        id: TopicId([7; 16]),
        partitions: 1,
        replication_factor: 1,
        settings: Vec::new(),
    };
    let settings = Settings {
        batch_bytes: 1,
        linger: Duration::ZERO,
        compression: None,
        in_flight_max: 5,
        delivery_timeout: Duration::from_secs(120),
        idempotent,
    };
    let mut window = Window::new(settings, Arc::new(Place { topic: Arc::new(topic), partition: 0 }));
    if idempotent {
        window.identify(Identity { id: ProducerId(9), epoch: 0 });
    }
    window
}

/// One record, each attempt refused by the next of these: what its sender is told.
fn refused_by(codes: &[Code]) -> ProduceError {
    let (_, receipt) = refused(window(true), codes);
    receipt.now_or_never().expect("it is told").unwrap_err()
}

fn refused(mut window: Window, codes: &[Code]) -> (Window, Receipt) {
    let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
    let record = Timed { timestamp: 0, key: None, value: Some(b"record"), headers: &[] };
    let now = Instant::now();
    let (receipt, _) = window.push(&record, permit, now).unwrap();
    for code in codes {
        let shipment = window.take(now).expect("it is due");
        window.answered(shipment.id, NODE, Answer::Refused(Refused::new(*code, "no")));
        window.release();
    }
    (window, receipt)
}

#[test]
fn without_numbers_nothing_is_sent_again_that_may_be_in_the_log() {
    for code in [Code::NoQuorum, Code::TimedOut, Code::Internal, Code::ShuttingDown, Code::OutcomeUnknown] {
        let (mut window, receipt) = refused(window(false), &[code]);
        assert!(window.take(Instant::now()).is_none(), "{code:?}");
        let error = receipt.now_or_never().expect("it is told").unwrap_err();
        assert!(matches!(error, ProduceError::OutcomeUnknown { .. }), "{code:?}: {error:?}");
    }
    for code in [Code::NotLeader, Code::NotReady, Code::Overloaded, Code::DiskFull] {
        let (mut window, _receipt) = refused(window(false), &[code]);
        assert!(window.take(Instant::now()).is_some(), "{code:?} is a sure refusal");
    }
}

#[test]
fn a_topic_that_a_node_does_not_know_yet_is_waited_for_until_it_is_gone() {
    let (mut window, receipt) = refused(window(true), &[Code::TimedOut, Code::UnknownTopic]);
    assert!(receipt.clone().now_or_never().is_none(), "a node that lags behind decides nothing");
    window.unserved(&Refused::new(Code::UnknownTopic, "it is gone"));
    let error = receipt.now_or_never().expect("it is told").unwrap_err();
    assert!(matches!(error, ProduceError::Refused { maybe_appended: true, .. }), "{error:?}");
}

#[test]
fn a_refusal_says_whether_an_earlier_attempt_may_be_in_the_log() {
    let maybe_appended = |codes: &[Code]| match refused_by(codes) {
        ProduceError::Refused { maybe_appended, refused, .. } if Some(&refused.code) == codes.last() => maybe_appended,
        other => panic!("{codes:?}: {other:?}"),
    };
    for last in [Code::BatchTooLarge, Code::BadBatch, Code::ProducerFenced, Code::Denied] {
        assert!(!maybe_appended(&[last]));
        assert!(!maybe_appended(&[Code::Overloaded, last]));
        assert!(maybe_appended(&[Code::TimedOut, last]));
        assert!(maybe_appended(&[Code::NoQuorum, Code::Overloaded, last]));
    }
}
