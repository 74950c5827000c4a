//! Order, repeats, limits.

use crate::{
    advice::Advice as _,
    batch::Compression,
    client::{
        Client, ProduceError, Record, SendError,
        producer::{Producer, Receipt},
        testing::{Fault, World},
    },
    types::TopicName,
    wire::Code,
};
use std::time::Duration;
use tokio::time::Instant;

fn small(client: &Client) -> Producer {
    // One record per batch.
    client.producer().batch_bytes(1).build()
}

async fn send(producer: &Producer, topic: &TopicName, values: std::ops::Range<u32>) -> Vec<Receipt> {
    let mut receipts = Vec::new();
    for value in values {
        receipts.push(producer.send(Record::new(topic.clone(), value.to_string()).partition(0)).await.unwrap());
    }
    receipts
}

/// Three nodes, of which node 1 leads the topic's partition and has three records.
async fn begun() -> (World, TopicName, Client, Producer) {
    let world = World::new(3);
    let topic = world.topic("t", 1);
    let client = world.client().await;
    let producer = small(&client);
    for receipt in send(&producer, &topic, 0..3).await {
        receipt.await.unwrap();
    }
    (world, topic, client, producer)
}

fn numbers(values: std::ops::Range<u32>) -> Vec<String> {
    values.map(|n| n.to_string()).collect()
}

/// 40 one-record batches through a script of faults: all acknowledged, in the log once and in order, and at the offsets that
/// were said.
async fn survives(faults: &[Fault]) -> (World, Client) {
    let world = World::new(3);
    let topic = world.topic("t", 1);
    world.with(|state| state.faults.extend(faults.iter().cloned()));
    let client = world.client().await;
    let producer = small(&client);
    let receipts = send(&producer, &topic, 0..40).await;
    for (i, receipt) in receipts.into_iter().enumerate() {
        let acked = receipt.await.unwrap_or_else(|e| panic!("record {i} after {faults:?}: {e}"));
        assert_eq!(acked.offset, Some(i as u64), "after {faults:?}");
    }
    assert_eq!(world.with(|state| state.values(&topic, 0)), numbers(0..40), "after {faults:?}");
    let stats = client.stats();
    assert_eq!((stats.refused_twice, stats.sent_after_refusal), (0, 0), "after {faults:?}: {stats:?}");
    (world, client)
}

#[tokio::test(start_paused = true)]
async fn keys_choose_partitions_and_offsets_are_dense() {
    let world = World::new(3);
    let topic = world.topic("t", 6);
    let client = world.client().await;
    let producer = client.producer().build();
    let mut receipts = Vec::new();
    for n in 0..600u32 {
        let record = Record::new(topic.clone(), n.to_string()).key((n % 50).to_string());
        receipts.push(producer.send(record).await.unwrap());
    }
    producer.flush().await.unwrap();
    let mut by_partition = std::collections::BTreeMap::<u32, Vec<u64>>::new();
    for receipt in receipts {
        let acked = receipt.await.unwrap();
        by_partition.entry(acked.partition).or_default().push(acked.offset.unwrap());
    }
    assert!(by_partition.len() > 3, "{by_partition:?}");
    for offsets in by_partition.values() {
        assert_eq!(*offsets, (0..offsets.len() as u64).collect::<Vec<_>>());
    }
    assert_eq!(client.stats().connections, 3, "one connection per node");
}

#[tokio::test(start_paused = true)]
async fn a_moved_leader_is_followed_and_each_request_refused_once() {
    let (world, client) = survives(&[Fault::None, Fault::None, Fault::Move(2)]).await;
    let refused = client.stats().produce_refused_not_leader;
    assert!((1..=5).contains(&refused), "{refused} of at most five in flight were refused");
    // What node 1 saw after its first refusal was already under way then.
    let seen = world.with(|state| state.seen.clone());
    let at_1: Vec<_> = seen.iter().filter(|(_, node, _)| node.0 == 1).map(|(_, _, sequence)| *sequence).collect();
    assert_eq!(at_1, (0..u32::try_from(2 + refused).unwrap()).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn losses_refusals_and_repeats_keep_order_and_never_duplicate() {
    let duplicates = |client: &Client| client.stats().duplicates;
    let (_, client) = survives(&[Fault::AppendAndCut]).await;
    assert!(duplicates(&client) > 0);
    let (_, client) = survives(&[Fault::None, Fault::AppendAndRefuse(Code::TimedOut)]).await;
    assert!(duplicates(&client) > 0);
    survives(&[Fault::Cut]).await;
    for code in [Code::Overloaded, Code::NotReady, Code::NoQuorum, Code::TimedOut, Code::DiskFull, Code::Internal] {
        survives(&[Fault::None, Fault::Refuse(code)]).await;
        survives(&[Fault::Refuse(code), Fault::None, Fault::Refuse(code), Fault::AppendAndRefuse(code)]).await;
    }
    let (_, client) = survives(&[Fault::None, Fault::AppendAndMove(2), Fault::None, Fault::AppendAndMove(3)]).await;
    assert!(duplicates(&client) > 0);
    survives(&[Fault::None, Fault::Refuse(Code::OutOfOrderSequence)]).await;
    survives(&[Fault::Move(2), Fault::Move(3), Fault::Move(1), Fault::AppendAndCut, Fault::Move(2)]).await;
}

#[tokio::test(start_paused = true)]
async fn any_mixture_of_faults() {
    for seed in 0..60u64 {
        let mut random = seed;
        let mut next = |n: u64| crate::client::host::splitmix(&mut random) % n;
        let faults: Vec<_> = (0..30)
            .map(|_| match next(12) {
                0 => Fault::Cut,
                1 => Fault::AppendAndCut,
                2 => Fault::AppendAndRefuse(Code::TimedOut),
                3 => Fault::Refuse(Code::Overloaded),
                4 => Fault::Refuse(Code::NotReady),
                5 => Fault::Move(u32::try_from(next(3)).unwrap() + 1),
                6 => Fault::Delay(Duration::from_millis(next(400))),
                7 => Fault::AppendAndRefuse(Code::NoQuorum),
                _ => Fault::None,
            })
            .collect();
        survives(&faults).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_falls_silent_is_left_when_another_leads() {
    let (world, topic, _client, producer) = begun().await;
    world.silence(1);
    let receipts = send(&producer, &topic, 3..10).await;
    tokio::time::sleep(Duration::from_millis(800)).await;
    world.with(|state| state.lead(&topic, 0, 2));
    let elected = Instant::now();
    for receipt in receipts {
        receipt.await.unwrap();
    }
    assert!(elected.elapsed() < NEWS, "{:?}", elected.elapsed());
    assert_eq!(world.with(|state| state.values(&topic, 0)), numbers(0..10));
}

/// The news of a leader, the dial and the batch are a few times the way between client and node; and a pause between two requests.
const NEWS: Duration = Duration::from_millis(12 + 20);

/// However long an election takes, its outcome is known at once, and nobody asks again and again for that.
#[tokio::test(start_paused = true)]
async fn a_new_leader_is_known_as_soon_as_there_is_one() {
    for wait in (300..4_000).step_by(97).map(Duration::from_millis) {
        let (world, topic, client, producer) = begun().await;
        let before = client.stats();
        world.silence(1);
        let receipts = send(&producer, &topic, 3..10).await;
        let campaign = Duration::from_millis(60);
        tokio::time::sleep(wait - campaign).await;
        // A later term without a leader is news, and helps nobody.
        world.with(|state| state.lead(&topic, 0, 1));
        tokio::time::sleep(campaign).await;
        world.with(|state| state.lead(&topic, 0, 3));
        let elected = Instant::now();
        for receipt in receipts {
            receipt.await.unwrap();
        }
        // A node that does not answer has 200 ms before the others are asked too: at first none is known to.
        let hedged = if wait < Duration::from_millis(500) { Duration::from_millis(200) } else { Duration::ZERO };
        assert!(elected.elapsed() < NEWS + hedged, "after {wait:?}: {:?}", elected.elapsed());
        let after = client.stats();
        // One to the node that leads now.
        assert!(after.connections <= before.connections + 1, "after {wait:?}: {after:?}");
        let asked = u128::from(after.metadata_answers - before.metadata_answers);
        assert!(asked <= 4 + wait.as_millis() / 700, "after {wait:?}: {asked} answers");
    }
}

#[tokio::test(start_paused = true)]
async fn nodes_that_do_not_wait_are_asked_by_pauses() {
    let (world, topic, client, producer) = begun().await;
    let before = client.stats().metadata_answers;
    world.with(|state| state.hasty = true);
    world.silence(1);
    let receipts = send(&producer, &topic, 3..10).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let asked = client.stats().metadata_answers - before;
    assert!(asked <= 5_000 / 250 + 5, "{asked} answers");
    world.with(|state| state.lead(&topic, 0, 2));
    for receipt in receipts {
        receipt.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_on_which_no_question_is_answered_counts_as_broken() {
    let world = World::new(1);
    let client = world.client().await;
    assert_eq!(client.nodes().await.unwrap().len(), 1);
    // Both are addresses to start from.
    (1..=2).for_each(|node| world.silence(node));
    for _ in 0..2 {
        client.nodes().await.unwrap_err();
    }
    assert_eq!(client.stats().connections_lost, 1);
}

/// Nothing is in flight that could miss its answer.
#[tokio::test(start_paused = true)]
async fn who_dials_a_node_that_is_gone_hears_who_leads_instead() {
    let (world, topic, _client, producer) = begun().await;
    world.silence(1);
    world.cut(1);
    world.with(|state| state.lead(&topic, 0, 2));
    tokio::time::sleep(Duration::from_secs(5)).await;
    let begun = Instant::now();
    for receipt in send(&producer, &topic, 3..10).await {
        receipt.await.unwrap();
    }
    // Long before the dial is given up.
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn at_most_five_batches_are_in_flight() {
    let world = World::new(1);
    let topic = world.topic("t", 1);
    world.with(|state| state.faults.push_back(Fault::Delay(Duration::from_millis(200))));
    let client = world.client().await;
    let producer = small(&client);
    let receipts = send(&producer, &topic, 0..20).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(client.stats().produce_requests, 5);
    for receipt in receipts {
        receipt.await.unwrap();
    }
    assert_eq!(client.stats().produce_requests, 20);
}

#[tokio::test(start_paused = true)]
async fn without_idempotence_one_batch_is_in_flight() {
    let world = World::new(1);
    let topic = world.topic("t", 1);
    world
        .with(|state| state.faults.extend([Fault::Delay(Duration::from_millis(200)), Fault::Refuse(Code::Overloaded)]));
    let client = world.client().await;
    let producer = client.producer().batch_bytes(1).idempotent(false).build();
    let receipts = send(&producer, &topic, 0..20).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(client.stats().produce_requests, 1);
    for receipt in receipts {
        receipt.await.unwrap();
    }
    assert_eq!(world.with(|state| state.values(&topic, 0)), numbers(0..20));
}

#[tokio::test(start_paused = true)]
async fn linger_gathers_and_flush_does_not_wait_for_it() {
    let world = World::new(1);
    let topic = world.topic("t", 1);
    let client = world.client().await;
    let producer = client.producer().linger(Duration::from_millis(500)).build();
    let begun = Instant::now();
    let receipts = send(&producer, &topic, 0..10).await;
    for receipt in receipts {
        receipt.await.unwrap();
    }
    assert!(begun.elapsed() >= Duration::from_millis(500));
    assert_eq!(client.stats().produce_requests, 1);
    let begun = Instant::now();
    let _ = send(&producer, &topic, 10..20).await;
    producer.flush().await.unwrap();
    assert!(begun.elapsed() < Duration::from_millis(100));
    assert_eq!(client.stats().produce_requests, 2);
}

#[tokio::test(start_paused = true)]
async fn a_full_buffer_makes_senders_wait() {
    let world = World::new(1);
    let topic = world.topic("t", 1);
    world.with(|state| state.faults.push_back(Fault::Delay(Duration::from_millis(300))));
    let client = world.client().await;
    let producer = client.producer().buffer_bytes(4_000).batch_bytes(1).build();
    let record = || Record::new(topic.clone(), vec![0; 936]).partition(0);
    for _ in 0..4 {
        drop(producer.send(record()).await.unwrap());
    }
    let begun = Instant::now();
    drop(producer.send(record()).await.unwrap());
    assert!(begun.elapsed() >= Duration::from_millis(250), "{:?}", begun.elapsed());
    let large = Record::new(topic.clone(), vec![0; 5_000]);
    assert!(matches!(producer.send(large).await, Err(SendError::TooLarge { .. })));
    producer.close().await.unwrap();
    assert_eq!(producer.send(record()).await.err(), Some(SendError::Closed));
}

#[tokio::test(start_paused = true)]
async fn a_record_whose_time_is_up_says_what_happened() {
    let world = World::new(1);
    let topic = world.topic("t", 1);
    world.with(|state| state.faults.extend(std::iter::repeat_n(Fault::Refuse(Code::NoQuorum), 1_000)));
    let client = world.client().await;
    let producer = client.producer().delivery_timeout(Duration::from_secs(3)).build();
    let begun = Instant::now();
    let receipt = send(&producer, &topic, 0..1).await.remove(0);
    let error = receipt.await.unwrap_err();
    assert_eq!(begun.elapsed().as_secs(), 3);
    let ProduceError::TimedOut { sends, maybe_appended, last, .. } = error else { panic!("{error}") };
    assert!(sends > 3 && maybe_appended && last.contains("NoQuorum"), "{sends} {last}");
    // The pause before the next try ends with nothing to be sent: a worker that is busy with that keeps this clock from moving.
    tokio::time::sleep(Duration::from_secs(60)).await;
    // What comes after goes on under a new id.
    world.with(|state| state.faults.clear());
    for receipt in send(&producer, &topic, 1..5).await {
        receipt.await.unwrap();
    }
    assert_eq!(world.with(|state| state.values(&topic, 0)), numbers(1..5));
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_producer_goes_on_under_a_new_id() {
    let world = World::new(1);
    let topic = world.topic("t", 1);
    let client = world.client().await;
    let producer = small(&client);
    for receipt in send(&producer, &topic, 0..10).await {
        receipt.await.unwrap();
    }
    world.with(|state| state.parts.values_mut().for_each(|part| part.producers.clear()));
    for receipt in send(&producer, &topic, 10..20).await {
        receipt.await.unwrap();
    }
    assert_eq!(world.with(|state| state.values(&topic, 0)), numbers(0..20));
    assert_eq!(world.with(|state| state.next_producer), 102);
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_producer_gives_up_what_may_be_in_the_log() {
    let world = World::new(1);
    let topic = world.topic("t", 1);
    let client = world.client().await;
    let producer = small(&client);
    for receipt in send(&producer, &topic, 0..2).await {
        receipt.await.unwrap();
    }
    world.with(|state| {
        state.faults.extend([Fault::AppendAndRefuse(Code::TimedOut), Fault::Refuse(Code::UnknownProducer)]);
    });
    let receipt = send(&producer, &topic, 2..3).await.remove(0);
    assert!(matches!(receipt.await, Err(ProduceError::OutcomeUnknown { .. })));
    for receipt in send(&producer, &topic, 3..6).await {
        receipt.await.unwrap();
    }
    assert_eq!(world.with(|state| state.values(&topic, 0)), numbers(0..6));
}

#[tokio::test(start_paused = true)]
async fn without_numbers_an_unknown_outcome_is_an_error_and_nothing_is_there_twice() {
    let world = World::new(1);
    let topic = world.topic("t", 1);
    world.with(|state| state.faults.extend([Fault::None, Fault::AppendAndRefuse(Code::OutcomeUnknown)]));
    let client = world.client().await;
    let producer = client.producer().idempotent(false).batch_bytes(1).build();
    for (i, receipt) in send(&producer, &topic, 0..5).await.into_iter().enumerate() {
        match receipt.await {
            Err(error @ ProduceError::OutcomeUnknown { .. }) if i == 1 => {
                assert!(error.advice().contains("idempotent"), "{}", error.advice());
            }
            outcome => drop(outcome.unwrap()),
        }
    }
    assert_eq!(world.with(|state| state.values(&topic, 0)), numbers(0..5));
}

#[tokio::test(start_paused = true)]
async fn a_topic_says_how_batches_are_made_where_the_producer_does_not() {
    let world = World::new(1);
    let topic = world.topic("t", 1);
    let settings = [("compression", "zstd"), ("max.batch.bytes", "2048")];
    world.with(|state| state.set(&topic, &settings));
    let client = world.client().await;
    let producer = client.producer().linger(Duration::from_millis(5)).build();
    let text = |n: u32| Record::new(topic.clone(), n.to_string().repeat(500));
    for n in 0..20 {
        drop(producer.send(text(n)).await.unwrap());
    }
    producer.flush().await.unwrap();
    let sizes = world.with(|state| state.batches(&topic, 0));
    assert!(sizes.len() > 3, "{sizes:?}");
    assert!(sizes.iter().all(|(len, codec)| *len < 1_000 && *codec == Compression::Zstd), "{sizes:?}");
}

#[tokio::test(start_paused = true)]
async fn a_refused_batch_fails_alone() {
    let world = World::new(1);
    let topic = world.topic("t", 1);
    world.with(|state| state.faults.extend([Fault::None, Fault::None, Fault::Refuse(Code::BadBatch)]));
    let client = world.client().await;
    let producer = small(&client);
    let receipts = send(&producer, &topic, 0..20).await;
    for (i, receipt) in receipts.into_iter().enumerate() {
        match receipt.await {
            Err(ProduceError::Refused { refused, .. }) if i == 2 => assert_eq!(refused.code, Code::BadBatch),
            outcome => drop(outcome.unwrap()),
        }
    }
    let expected: Vec<_> = numbers(0..20).into_iter().filter(|n| n != "2").collect();
    assert_eq!(world.with(|state| state.values(&topic, 0)), expected);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_topic_is_said_soon() {
    let world = World::new(2);
    let client = world.client().await;
    let producer = client.producer().build();
    let begun = Instant::now();
    let error = producer.send(Record::new("nowhere".parse().unwrap(), "x")).await.err().unwrap();
    assert!(matches!(error, SendError::Lookup(_)), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(2));
    let topic = world.topic("t", 2);
    let error = producer.send(Record::new(topic, "x").partition(2)).await.err().unwrap();
    assert_eq!(error.to_string(), "topic t has partitions 0 to 1, not 2");
}

#[tokio::test(start_paused = true)]
async fn dropped_producers_still_send_what_they_took() {
    let world = World::new(1);
    let topic = world.topic("t", 1);
    let client = world.client().await;
    let producer = client.producer().linger(Duration::from_secs(60)).build();
    let receipts = send(&producer, &topic, 0..10).await;
    drop(producer);
    for receipt in receipts {
        receipt.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_was_added_can_be_named() {
    let world = World::new(2);
    let topic = world.topic("t", 2);
    let client = world.client().await;
    let producer = client.producer().build();
    let named = |partition| Record::new(topic.clone(), "x").partition(partition);
    producer.send(named(1)).await.unwrap().await.unwrap();
    world.with(|state| state.add_partitions(&topic, 4));
    producer.send(named(3)).await.unwrap().await.unwrap();
}

/// Nothing asks for metadata while all goes well.
#[tokio::test(start_paused = true)]
async fn keys_spread_over_partitions_that_were_added_by_and_by() {
    let world = World::new(2);
    let topic = world.topic("t", 2);
    let client = world.client().await;
    let producer = client.producer().build();
    let keyed = |n: u32| Record::new(topic.clone(), "x").key(n.to_be_bytes().to_vec());
    producer.send(keyed(0)).await.unwrap().await.unwrap();
    world.with(|state| state.add_partitions(&topic, 8));
    tokio::time::sleep(Duration::from_secs(61)).await;
    let mut chosen = std::collections::BTreeSet::new();
    for n in 0..100 {
        chosen.insert(producer.send(keyed(n)).await.unwrap().await.unwrap().partition);
    }
    assert_eq!(chosen, (0..8).collect());
}
