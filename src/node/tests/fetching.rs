//! How much an answer to a fetch holds, from memory and from disk.

use super::*;
use crate::wire::{Connection, Fetch, FetchPartition, Frame, Hello, Link, Message};

async fn ask(link: &mut Link, message: impl Into<Message>) -> Frame {
    link.sender.send(vec![Frame::new(1, message)]).await.unwrap();
    within(10, link.receiver.receive()).await.unwrap()
}

/// Three batches of equal size in each of two partitions, one by one in the first, as one entry in the second.
async fn how_much_is_fetched(tail_bytes: u64) {
    let world = World::with(1, 61, |config| config.log.tail_bytes = tail_bytes).await;
    let topic = world.topic("alpha", 2, 1).await;
    let at = |partition| TopicPartition { topic, partition };
    let (_, handle) = world.leader(at(0)).await;
    for value in ["a", "b", "c"] {
        produce(&handle, AckLevel::Quorum, value).await.unwrap();
    }
    let (_, handle) = world.leader(at(1)).await;
    let (slot, answer) = ReplySlot::channel();
    let batches = ["d", "e", "f"].map(batch).to_vec();
    handle.produce(Produce { ack: AckLevel::Quorum, batches, permit: BytePermit::internal(), slot });
    within(20, answer).await.unwrap();
    for partition in 0..2 {
        let (_, handle) = world.leader(at(partition)).await;
        assert_eq!(matches!(handle.read(0, 1), Read::Cold(_)), tail_bytes == 0);
    }

    let connection = world.node(0).local();
    let mut link = connection.open().await.unwrap();
    ask(&mut link, Hello { version_min: 1, version_max: 1, client: "test".into() }).await;
    let one = u32::try_from(batch("a").bytes().len()).unwrap();
    // Batches that an answer holds, and those of one partition at most, by its limit and that of each partition.
    for (bytes_max, of_each, expected, most) in [
        (0, 0, 6, 3),
        // The first whole batch comes, whatever the limit, so that whoever asks for too little gets on.
        (1, 0, 1, 1),
        (one, 0, 1, 1),
        (2 * one - 1, 0, 1, 1),
        (2 * one, 0, 2, 2),
        (3 * one, 0, 3, 3),
        (4 * one, 0, 4, 3),
        (6 * one, 0, 6, 3),
        (0, 1, 1, 1),
        (0, one, 2, 1),
        (0, 2 * one, 4, 2),
        (0, 3 * one - 1, 4, 2),
        (3 * one, 2 * one, 3, 2),
    ] {
        let want = |partition| FetchPartition { topic, partition, offset: 0, bytes_max: of_each, from_follower: false };
        let fetch = Fetch { bytes_max, wait_ms_max: 1_000, partitions: vec![want(0), want(1)], ..Fetch::default() };
        let frame = ask(&mut link, fetch).await;
        let Message::Fetched(fetched) = &frame.message else { panic!("not fetched: {frame:?}") };
        let mut body = frame.body();
        let mut counts = Vec::new();
        for said in &fetched.partitions {
            assert_eq!(said.refused, None);
            let part = body.split_to(said.bytes as usize);
            let batches: Vec<_> = crate::batch::split(part).map(|batch| batch.unwrap().bytes().len()).collect();
            assert!(batches.iter().all(|len| *len == one as usize), "whole batches: {batches:?}");
            counts.push(batches.len());
        }
        assert!(body.is_empty());
        let what = format!("{counts:?}: {bytes_max} bytes, {of_each} of each; tails of {tail_bytes} bytes");
        // Which of them come changes: partitions take turns in being first, and entries on disk are larger than what they hold.
        assert_eq!(counts.iter().sum::<usize>(), expected, "{what}");
        assert!(counts.iter().all(|count| *count <= most), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_fetch_from_memory_gets_a_batch_and_no_more_than_its_limits() {
    local(how_much_is_fetched(1 << 20)).await;
}

#[tokio::test(start_paused = true)]
async fn a_fetch_from_disk_gets_a_batch_and_no_more_than_its_limits() {
    local(how_much_is_fetched(0)).await;
}
