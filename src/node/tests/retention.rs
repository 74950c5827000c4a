//! What retention removes is gone on every replica's disk, and said to readers.

use super::*;
use crate::partition::FetchError;

const BATCH: usize = 32 << 10;

/// Small files, so that a little load makes many.
fn small(config: &mut Config) {
    config.log.wal_file_bytes = 256 << 10;
    config.log.segment_bytes = 128 << 10;
    config.retention.check_ms = 1_000;
}

/// Bytes in the segments of a partition's replica.
fn segments(slot: &Slot, handle: &Handle) -> u64 {
    let folder = format!("groups/{:016x}-", handle.group().0);
    let files = slot.disk.files();
    files.iter().filter(|(path, _)| path.starts_with(&folder) && path.ends_with(".seg")).map(|(_, len)| len).sum()
}

async fn until(what: &str, mut done: impl FnMut() -> Result<(), String>) {
    for _ in 0..600 {
        if done().is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{what}: not within a minute: {}", done().unwrap_err());
}

fn check(good: bool, said: impl std::fmt::Debug) -> Result<(), String> {
    good.then_some(()).ok_or_else(|| format!("{said:?}"))
}

fn replicas(world: &World, partition: TopicPartition) -> Vec<(&Slot, Handle)> {
    let found = |slot: &Slot| slot.node.as_ref()?.partitions().find(partition);
    world.slots.iter().filter_map(|slot| Some((slot, found(slot)?))).collect()
}

fn large(n: usize) -> String {
    format!("{n:08}").repeat(BATCH / 8)
}

#[tokio::test(start_paused = true)]
async fn bytes_above_the_limit_leave_every_disk() {
    local(async {
        const KEPT: u64 = 300 << 10;
        let mut world = World::with(3, 21, small).await;
        let limit = KEPT.to_string();
        let settings = [("retention.bytes", limit.as_str()), ("retention.ms", "-1")];
        let topic = world.topic_with("alpha", 1, 3, &settings).await;
        let partition = TopicPartition { topic, partition: 0 };
        for n in 0..64 {
            assert_eq!(produce_surely(&world, partition, &large(n)).await.base_offset, Some(n as u64));
        }
        // At least the limit stays, at most one segment and what is not in segments yet beside it.
        let small_enough = |world: &World| {
            let all = replicas(world, partition).into_iter();
            let all: Vec<_> = all.map(|(slot, handle)| (segments(slot, &handle), handle.marks().log_start)).collect();
            let good = |(bytes, start): &(u64, u64)| {
                *bytes <= KEPT + (256 << 10) && (64 - start) * BATCH as u64 >= KEPT && *start > 32
            };
            check(all.len() == 3 && all.iter().all(good), &all)
        };
        until("old segments go everywhere", || small_enough(&world)).await;
        let (_, leader) = world.leader(partition).await;
        let start = leader.marks().log_start;
        match leader.read(start - 1, 1 << 20) {
            Read::Refused(FetchError::OutOfRange { offset, log_start }) => {
                assert_eq!((offset, log_start), (start - 1, start));
            }
            _ => panic!("what was removed is not served"),
        }
        assert_eq!(leader.offset_at(Position::Earliest).await.unwrap().offset, start);
        for n in 0..3 {
            world.crash(n);
        }
        for n in 0..3 {
            world.start(n).await;
        }
        let (_, leader) = world.leader(partition).await;
        assert!(leader.marks().log_start >= start, "the log start does not go back");
        let mut at = leader.marks().log_start;
        while at < 64 {
            let served = read(&leader, at).await;
            assert_eq!(values(&served[..1])[0], large(usize::try_from(at).unwrap()));
            at = served[0].offset_end;
        }
        until("the files stay away", || small_enough(&world)).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn old_records_go_when_the_topic_says_so_and_stay_without_a_limit() {
    local(async {
        let world = World::with(1, 23, |config| {
            small(config);
            config.retention.ms = crate::config::Keep(None);
        })
        .await;
        let topic = world.topic("alpha", 1, 1).await;
        let partition = TopicPartition { topic, partition: 0 };
        for n in 0..32 {
            produce_surely(&world, partition, &large(n)).await;
        }
        let (_, leader) = world.leader(partition).await;
        tokio::time::sleep(secs(10)).await;
        assert_eq!(leader.marks().log_start, 0, "the config keeps everything");
        let before = segments(&world.slots[0], &leader);
        let alter = crate::controller::machine::AlterTopic {
            name: "alpha".parse().unwrap(),
            partitions: 0,
            settings: vec![("retention.ms".into(), Some("60000".into()))],
            avoid: Default::default(),
        };
        world.node(0).controller().execute(Command::AlterTopic(alter), secs(20)).await.unwrap();
        // The records are of 1970.
        until("all are too old", || check(leader.marks().log_start == 32, leader.marks())).await;
        let left = || segments(&world.slots[0], &leader);
        until("their segments go", || check(left() <= 128 << 10, left())).await;
        assert!(before > 4 * (128 << 10), "{before} bytes were in segments");
        assert_eq!(produce(&leader, AckLevel::Quorum, "next").await.unwrap().base_offset, Some(32));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn logs_of_group_homes_do_not_grow_for_ever() {
    local(async {
        let world = World::with(1, 25, small).await;
        world.topic("alpha", 1, 1).await;
        let node = world.node(0);
        let one = super::groups::join(node).await;
        let mut told = wire::HeartbeatAnswer::default();
        while told.assigned.is_empty() {
            told = super::groups::beat(node, &one, &told).await;
        }
        let mine = told.assigned[0].clone();
        for n in 0..400_u64 {
            let commit = wire::Commit {
                group: "readers".parse().unwrap(),
                member: Some(one.member.clone()),
                generation: told.generation,
                n: n + 1,
                offsets: vec![wire::CommitOffset {
                    topic: mine.topic,
                    partition: mine.partition,
                    offset: n,
                    leader_epoch: 1,
                    metadata: "m".repeat(2_048),
                }],
            };
            node.groups().commit(commit).await.unwrap();
            if n % 20 == 0 {
                told = super::groups::beat(node, &one, &told).await;
            }
        }
        let home = node.groups().home_of(&"readers".parse().unwrap()).0;
        let folder = format!("groups/{:016x}-", home.0);
        let files = || -> Vec<_> {
            let all = world.slots[0].disk.files().into_iter();
            all.filter(|(path, _)| path.starts_with(&folder) && path.ends_with(".seg")).collect()
        };
        until("sealed segments go", || {
            check(files().len() == 1 && !files()[0].0.contains("/0000000000000000-"), files())
        })
        .await;
    })
    .await;
}
