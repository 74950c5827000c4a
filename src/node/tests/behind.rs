//! A replica that was away for longer than its peers keep their log.

use super::{repair::fill, *};
use crate::{
    batch::Producer,
    limits,
    partition::machine::{PartitionMachine, Trim},
    replica::Fence,
    types::ProducerId,
};
use highwater_raft::{GroupId, machine::Machine as _};

/// The only batch of a producer.
fn only_batch(producer: u32) -> Batch {
    batch("one each").with_producer(Producer { id: ProducerId(i64::from(producer) + 1), epoch: 0, sequence: 0 })
}

/// One record of each of so many producers; gives their offsets.
async fn produce_as_many(handle: &Handle, producers: u32) -> Vec<u64> {
    let mut offsets = Vec::new();
    for chunk in (0..producers).collect::<Vec<_>>().chunks(500) {
        let answers: Vec<_> = chunk
            .iter()
            .map(|n| {
                let (slot, answer) = ReplySlot::channel();
                let batches = vec![only_batch(*n)];
                handle.produce(Produce { ack: AckLevel::Quorum, batches, permit: BytePermit::internal(), slot });
                answer
            })
            .collect();
        for answer in answers {
            offsets.push(within(20, answer).await.unwrap().base_offset.unwrap());
        }
    }
    offsets
}

/// The batch of a producer once more, to a node's replica, which is made to lead. To whom the lead belongs gets it back soon, so
/// more than one try may be needed.
async fn send_again(world: &World, partition: TopicPartition, n: usize, producer: u32) -> Produced {
    loop {
        let (leader, handle) = world.leader(partition).await;
        if leader == n {
            let (slot, answer) = ReplySlot::channel();
            let batches = vec![only_batch(producer)];
            handle.produce(Produce { ack: AckLevel::Quorum, batches, permit: BytePermit::internal(), slot });
            if let Ok(produced) = within(20, answer).await {
                return produced;
            }
        } else {
            let to = world.node(n).partitions().find(partition).unwrap().replica();
            let _ = handle.transfer(to).await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// All batches of a replica from its log start to `end`, as they are served.
async fn whole_log(handle: &Handle, end: u64) -> Vec<Served> {
    let mut all = Vec::new();
    let mut next = handle.marks().log_start;
    while next < end {
        let served = read(handle, next).await;
        next = served.last().expect("there is something below the watermark").offset_end;
        all.extend(served);
    }
    all
}

#[tokio::test(start_paused = true)]
async fn a_follower_behind_the_log_start_installs_a_checkpoint_with_all_its_producers() {
    local(async {
        let mut world = World::new(3, 31).await;
        // The batches are as old as time: their age must not take them away.
        let topic = world.topic_with("alpha", 1, 3, &[("retention.ms", "-1")]).await;
        let partition = TopicPartition { topic, partition: 0 };
        let mut expected = fill(&world, partition, 0, 3, 10).await;
        let (leader, _) = world.leader(partition).await;
        let away = (leader + 1) % 3;
        world.crash(away);
        let there: Vec<usize> = (0..3).filter(|n| *n != away).collect();
        let producers = limits::PRODUCERS_PER_PARTITION_MAX;
        let (_, handle) = world.leader(partition).await;
        let offsets = produce_as_many(&handle, producers).await;
        let group: GroupId = world.node(leader).controller().metadata().group_of(partition).unwrap();
        let raft = |world: &World, n: usize| world.node(n).0.hosting.all()[&group].raft.clone();
        let filled = raft(&world, there[0]).log().last().unwrap().index;
        // Enough for files of the log to be retired into segments of a MiB: with the producers in the checkpoint between two
        // of them the first ones can go.
        expected.extend(fill(&world, partition, 3, 160, 64 << 10).await);
        let end = handle.marks().high_watermark;
        let trimmed = end - 20;
        world.leader(partition).await.1.propose(Trim { offset: trimmed }.command());
        within(60, async {
            loop {
                let mut purged = true;
                for n in &there {
                    let _ = raft(&world, *n).compact(trimmed).await;
                    purged &= raft(&world, *n).log().purged().is_some_and(|purged| purged.index >= filled);
                }
                if purged {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })
        .await;

        world.start(away).await;
        within(60, world.node(away).serving()).await;
        let caught_up = async {
            loop {
                let handle = world.node(away).partitions().find(partition);
                if handle.is_some_and(|handle| handle.marks().high_watermark >= end) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        within(60, caught_up).await;
        // The same boundary at all three: files of the log retire as more comes.
        within(120, async {
            loop {
                let at: Vec<_> = (0..3).map(|n| raft(&world, n).log().purged().map(|purged| purged.index)).collect();
                if at.iter().all(|index| *index >= Some(filled) && *index == at[0]) {
                    return;
                }
                let next = expected.len();
                expected.extend(fill(&world, partition, next, 1, 64 << 10).await);
                for n in 0..3 {
                    let _ = raft(&world, n).compact(trimmed).await;
                }
            }
        })
        .await;
        // The same bytes, and they hold every producer.
        let mut bases = Vec::new();
        for n in 0..3 {
            let base = raft(&world, n).log().base_checkpoint().await.unwrap().unwrap();
            let (_, machine) = Fence::unwrap(base.machine.clone()).unwrap();
            let mut restored = PartitionMachine::default();
            restored.restore(&machine).unwrap();
            assert_eq!(restored.producers_len(), producers as usize, "in the checkpoint of node {n}");
            bases.push(base);
        }
        assert!(bases.iter().all(|base| base == &bases[0]), "checkpoints differ");
        let end = world.leader(partition).await.1.marks().high_watermark;
        let mut logs = Vec::new();
        for n in 0..3 {
            let handle = world.node(n).partitions().find(partition).unwrap();
            within(60, async {
                while handle.marks().high_watermark < end {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            })
            .await;
            logs.push(whole_log(&handle, end).await);
        }
        assert!(logs[0].len() >= 20 && logs[0][0].base_offset == trimmed, "{} batches", logs[0].len());
        assert_eq!(values(&logs[0]).last(), expected.last());
        for (n, log) in logs.iter().enumerate() {
            assert_eq!(log.len(), logs[0].len(), "batches of node {n}");
            let differs = log.iter().zip(&logs[0]).find(|(here, there)| here != there);
            assert_eq!(differs.map(|(here, _)| here.base_offset), None, "a batch of node {n} is another one");
        }

        // Who installed the checkpoint knows the producers of before: what they sent is not taken again.
        for producer in [0, producers / 2, producers - 1] {
            let produced = within(60, send_again(&world, partition, away, producer)).await;
            let original = offsets[producer as usize];
            assert_eq!((produced.base_offset, produced.duplicate), (Some(original), true), "{producer}");
        }
        assert_eq!(world.leader(partition).await.1.marks().high_watermark, end);
    })
    .await;
}
