//! Disks that are full, that hang, and that fail.

use super::{
    metrics::{link, send},
    *,
};
use crate::{
    advice::{Advice as _, Reaction},
    wire::{Code, Message},
};

#[tokio::test(start_paused = true)]
async fn a_full_disk_refuses_produce_in_time_and_takes_it_again_with_room() {
    local(async {
        let world = World::new(1, 41).await;
        let topic = world.topic("alpha", 1, 1).await;
        let (_, handle) = world.leader(TopicPartition { topic, partition: 0 }).await;
        produce(&handle, AckLevel::Quorum, "before").await.unwrap();
        world.slots[0].disk.fill_up(true);
        tokio::time::sleep(secs(2)).await;
        let refused = produce(&handle, AckLevel::Quorum, "full").await.unwrap_err();
        assert_eq!(refused, ProduceError::DiskFull);
        assert_eq!(refused.refused().code, Code::DiskFull);
        assert!(refused.refused().code.is_retriable() && matches!(refused.reaction(), Reaction::Retry { .. }));
        assert!(refused.advice().contains("free space"), "{}", refused.advice());
        assert_eq!(values(&read(&handle, 0).await), ["before"], "readers are served");
        // Nothing is written meanwhile: the node finds out by itself.
        tokio::time::sleep(secs(30)).await;
        world.slots[0].disk.fill_up(false);
        tokio::time::sleep(secs(2)).await;
        assert_eq!(produce(&handle, AckLevel::Quorum, "after").await.unwrap().base_offset, Some(1));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_storage_error_of_one_node_leaves_the_others_serving() {
    local(async {
        let mut world = World::new(3, 47).await;
        let topic = world.topic("alpha", 1, 3).await;
        let partition = TopicPartition { topic, partition: 0 };
        produce_surely(&world, partition, "before").await;
        let (failing, handle) = world.leader(partition).await;
        world.slots[failing].disk.fail_next_sync();
        let _ = produce(&handle, AckLevel::Quorum, "maybe").await;
        let ended = within(30, world.node(failing).run()).await.unwrap_err();
        assert!(matches!(ended, NodeError::Storage(_)), "{ended:?}");
        assert!(ended.advice().contains("check the disk"), "{}", ended.advice());
        world.crash(failing);
        produce_surely(&world, partition, "after").await;
        let (_, leader) = world.leader(partition).await;
        assert!(values(&read(&leader, 0).await).ends_with(&["after".to_owned()]));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_fails_on_the_way_out_is_told() {
    local(async {
        for drains in [false, true] {
            let world = World::new(1, 71).await;
            let topic = world.topic("alpha", 1, 1).await;
            let (_, handle) = world.leader(TopicPartition { topic, partition: 0 }).await;
            produce(&handle, AckLevel::Quorum, "before").await.unwrap();
            // The next flush is the one that seals.
            world.slots[0].disk.fail_next_sync();
            let node = world.node(0);
            let ended = if drains { node.shutdown().await } else { node.stop().await };
            assert!(matches!(ended, Err(NodeError::Storage(_))), "{ended:?}");
            assert_eq!(node.phases().now(), Phase::Stopped);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_a_hanging_disk_holds_up_is_bounded_in_bytes_and_refused_above() {
    local(async {
        const POOL: u64 = 1 << 20;
        let world = World::with(1, 53, |config| config.pools.produce_bytes = POOL).await;
        let topic = world.topic("alpha", 1, 1).await;
        let (_, handle) = world.leader(TopicPartition { topic, partition: 0 }).await;
        let node = world.node(0);
        let mut producer = link(node).await;
        world.slots[0].disk.stall(secs(20));
        let produce = wire::Produce { topic, partition: 0, ack: AckLevel::Leader, timeout_ms: 60_000 };
        for _ in 0..64 {
            send(&mut producer, produce.clone(), Some(batch(&"v".repeat(100 << 10)).into_bytes())).await;
        }
        tokio::time::sleep(secs(5)).await;
        let taken = node.pools().produce.taken();
        assert!(taken <= POOL && taken > POOL / 2, "{taken} bytes wait");
        let (mut acknowledged, mut refused) = (0, 0);
        for _ in 0..64 {
            match within(60, producer.link.receiver.receive()).await.unwrap().message {
                Message::Produced(_) => acknowledged += 1,
                Message::Refused(why) => {
                    assert_eq!(why.code, Code::Overloaded);
                    refused += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(acknowledged >= 5 && refused > acknowledged, "{acknowledged} acknowledged, {refused} refused");
        tokio::time::sleep(secs(1)).await;
        assert_eq!((node.pools().produce.taken(), handle.marks().high_watermark), (0, acknowledged));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_disk_hangs_is_replaced_and_follows_once_it_moves_again() {
    local(async {
        const HANGS: u64 = 30;
        let world = World::new(3, 59).await;
        let topic = world.topic_with("alpha", 1, 3, &[("retention.ms", "-1")]).await;
        let partition = TopicPartition { topic, partition: 0 };
        produce_surely(&world, partition, "before").await;
        let (stuck, old) = world.leader(partition).await;
        let epoch = old.marks().epoch;
        world.slots[stuck].disk.stall(secs(HANGS));
        let hung = tokio::time::Instant::now();
        // Something to write, so that a flush is under way: the other two are a majority, so it is acknowledged all the same.
        produce(&old, AckLevel::Quorum, "under way").await.unwrap();
        let next = async {
            loop {
                let others = world.slots.iter().enumerate().filter(|(n, _)| *n != stuck);
                let mut handles = others.filter_map(|(_, slot)| slot.node.as_ref()?.partitions().find(partition));
                let leads = |handle: &Handle| {
                    let marks = handle.marks();
                    marks.role == Role::Leader && marks.ready && marks.epoch > epoch
                };
                if let Some(handle) = handles.find(leads) {
                    return handle;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let leader = within(5, next).await;
        assert!(hung.elapsed() < secs(3), "another leads after {:?}", hung.elapsed());
        for n in 0..50 {
            produce(&leader, AckLevel::Quorum, &format!("after {n}")).await.unwrap();
        }
        assert!(hung.elapsed() < secs(5), "the others are as fast as ever: {:?}", hung.elapsed());
        // It comes to itself, hears of the next term, and has what it missed.
        tokio::time::sleep_until(hung + secs(HANGS)).await;
        let caught_up = async {
            while old.marks().role == Role::Leader && old.marks().epoch == epoch || old.marks().high_watermark < 52 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        within(10, caught_up).await;
        let expected: Vec<String> =
            ["before".into(), "under way".into()].into_iter().chain((0..50).map(|n| format!("after {n}"))).collect();
        assert_eq!(values(&read(&old, 0).await), expected);
        within(20, world.node(stuck).serving()).await;
    })
    .await;
}
