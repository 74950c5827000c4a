//! A replica that was away for longer than its peers keep their log.

use super::{repair::fill, *};
use crate::{batch::Producer, limits, partition::machine::Trim, types::ProducerId};
use highwater_raft::GroupId;

/// One record of each of so many producers.
async fn produce_as_many(handle: &Handle, producers: u32) {
    for chunk in (0..producers).collect::<Vec<_>>().chunks(500) {
        let answers: Vec<_> = chunk
            .iter()
            .map(|n| {
                let (slot, answer) = ReplySlot::channel();
                let producer = Producer { id: ProducerId(i64::from(*n) + 1), epoch: 0, sequence: 0 };
                let batches = vec![batch("one each").with_producer(producer)];
                handle.produce(Produce { ack: AckLevel::Quorum, batches, permit: BytePermit::internal(), slot });
                answer
            })
            .collect();
        for answer in answers {
            within(20, answer).await.unwrap();
        }
    }
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
        produce_as_many(&handle, producers).await;
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
            assert!(base.machine.len() > 10 * usize::try_from(producers).unwrap(), "{} bytes", base.machine.len());
            bases.push(base);
        }
        assert!(bases.iter().all(|base| base == &bases[0]), "replicas differ");
        let end = world.leader(partition).await.1.marks().high_watermark;
        let mut last = Vec::new();
        for n in 0..3 {
            let handle = world.node(n).partitions().find(partition).unwrap();
            within(60, async {
                while handle.marks().high_watermark < end {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            })
            .await;
            last.push(values(&read(&handle, end - 1).await));
        }
        assert!(last.iter().all(|values| values.last() == expected.last()), "the last record is at each");
    })
    .await;
}
