//! Disks that lost something, and replicas that fail: said, not served, not voted with, repaired from peers.

use super::*;
use crate::controller::machine::{ReplicaCaughtUp, ReplicaFaulty, ReplicaState, Swapped};
use highwater_raft::{GroupId, ReplicaId, disk::Disk as _};

/// A node comes back with an empty disk.
pub(super) async fn wipe(world: &mut World, n: usize) {
    world.crash(n);
    let env = Env::simulated(world.seed + 77 + n as u64, EPOCH_MS, TaskSet::default());
    world.slots[n].disk = SimDisk::new(env, SimLimits::default());
    world.start(n).await;
}

/// All that was written is on disk, and something is behind it.
pub(super) async fn seal() {
    tokio::time::sleep(secs(1)).await;
}

/// The replica of each group that a node is to host.
pub(super) fn replicas_of(world: &World, n: usize) -> BTreeMap<GroupId, ReplicaId> {
    let node = world.node(n);
    let metadata = node.controller().metadata();
    metadata.hosted_by(node.id()).map(|(group, _, replica)| (group, replica.id)).collect()
}

/// Waits until every group has nothing but sound voters, as each node sees it; gives how long that took.
pub(super) async fn whole(world: &World) -> Duration {
    let begun = Instant::now();
    let is_sound = |node: &Node| {
        let metadata = node.controller().metadata();
        let mut replicas = metadata.groups.values().flat_map(|placement| &placement.replicas);
        replicas.all(|replica| matches!(replica.state, ReplicaState::Voter | ReplicaState::Observer))
            && node.controller().ailing().all().is_empty()
    };
    within(120, async {
        while !world.alive().all(is_sound) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    begun.elapsed()
}

/// Waits until a replica is none any more, as the first node sees it.
async fn replaced(world: &World, group: GroupId, replica: ReplicaId) {
    within(60, async {
        while world.node(0).controller().metadata().groups[&group].replica(replica).is_some() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

/// A node's replica has all of it, and serves it.
async fn serves(world: &World, n: usize, partition: TopicPartition, expected: &[String]) {
    serves_from(world, n, partition, 0, expected).await;
}

/// The same when the log starts at `start`.
async fn serves_from(world: &World, n: usize, partition: TopicPartition, start: usize, expected: &[String]) {
    within(60, async {
        loop {
            let handle = world.node(n).partitions().find(partition);
            if let Some(handle) = handle.filter(|handle| handle.marks().high_watermark >= expected.len() as u64) {
                let mut found = Vec::new();
                while start + found.len() < expected.len() {
                    match try_read(&handle, (start + found.len()) as u64).await {
                        Some(served) => found.extend(served),
                        None => break,
                    }
                }
                if start + found.len() == expected.len() {
                    assert_eq!(handle.marks().log_start, start as u64);
                    assert_eq!(found, expected[start..]);
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
}

async fn try_read(handle: &Handle, offset: u64) -> Option<Vec<String>> {
    match handle.read(offset, 1 << 20) {
        Read::Hot(served) => Some(values(&served)),
        Read::Cold(served) => Some(values(&within(5, served).await.ok()?)),
        Read::Empty | Read::Refused(_) => None,
    }
}

/// Produces `count` records of some size.
pub(super) async fn fill(
    world: &World,
    partition: TopicPartition,
    from: usize,
    count: usize,
    bytes: usize,
) -> Vec<String> {
    let values: Vec<String> = (from..from + count).map(|n| format!("value {n:06} {}", "x".repeat(bytes))).collect();
    for value in &values {
        produce_surely(world, partition, value).await;
    }
    values
}

/// Flips a bit of the last place in a node's write-ahead log that holds these bytes.
pub(super) fn flip(world: &World, n: usize, bytes: &[u8]) {
    let disk = &world.slots[n].disk;
    let is_wal = |path: &String| path.starts_with("wal/") && path.ends_with(".wal");
    let files = disk.files().into_iter().map(|(path, _)| path).filter(is_wal);
    let at = |path: String| {
        let content = disk.content(&path)?;
        Some((path, content.windows(bytes.len()).rposition(|window| window == bytes)? as u64))
    };
    let (path, at) = files.filter_map(at).next_back().expect("it is in the log");
    disk.flip_bit(&path, at, 2);
}

async fn cluster(seed: u64) -> (World, TopicPartition) {
    let world = World::new(3, seed).await;
    let topic = world.topic("alpha", 1, 3).await;
    let partition = TopicPartition { topic, partition: 0 };
    world.leader(partition).await;
    (world, partition)
}

fn group_of(world: &World, partition: TopicPartition) -> GroupId {
    world.node(0).controller().metadata().group_of(partition).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_wiped_node_comes_back_under_new_replica_ids() {
    local(async {
        let (mut world, partition) = cluster(21).await;
        let mut expected = fill(&world, partition, 0, 20, 10).await;
        let before = replicas_of(&world, 2);
        wipe(&mut world, 2).await;
        expected.extend(fill(&world, partition, 20, 5, 10).await);
        within(60, world.node(2).serving()).await;
        let took = whole(&world).await;
        eprintln!("whole again after {took:?}");
        let after = replicas_of(&world, 2);
        assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
        assert!(before.iter().all(|(group, replica)| after[group] != *replica), "ids are dead with their data");
        serves(&world, 2, partition, &expected).await;
        // It counts: with one of the others gone the two go on.
        world.crash(0);
        fill(&world, partition, 25, 5, 10).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_damaged_record_costs_its_replica_and_no_other() {
    local(async {
        let (mut world, partition) = cluster(22).await;
        let expected = fill(&world, partition, 0, 20, 10).await;
        seal().await;
        let before = replicas_of(&world, 1);
        world.crash(1);
        flip(&world, 1, b"value 000007");
        world.start(1).await;
        within(60, world.node(1).serving()).await;
        let group = group_of(&world, partition);
        let began = Instant::now();
        replaced(&world, group, before[&group]).await;
        whole(&world).await;
        eprintln!("whole again after {:?}", began.elapsed());
        let after = replicas_of(&world, 1);
        let changed: Vec<_> = before.iter().filter(|(group, replica)| after[group] != **replica).collect();
        assert_eq!(changed, [(&group, &before[&group])]);
        serves(&world, 1, partition, &expected).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_damaged_directory_of_a_frame_costs_all_replicas_of_the_node() {
    local(async {
        let (mut world, partition) = cluster(23).await;
        let expected = fill(&world, partition, 0, 20, 10).await;
        seal().await;
        let before = replicas_of(&world, 1);
        world.crash(1);
        let disk = &world.slots[1].disk;
        let (path, at) = disk
            .files()
            .into_iter()
            .filter(|(path, _)| path.ends_with(".wal"))
            .find_map(|(path, _)| {
                let content = disk.content(&path)?;
                let at = content.windows(12).position(|window| window == b"value 000007")? as u64;
                Some((path, at / 4_096 * 4_096 + 20))
            })
            .unwrap();
        disk.flip_bit(&path, at, 1);
        world.start(1).await;
        within(60, world.node(1).serving()).await;
        whole(&world).await;
        let after = replicas_of(&world, 1);
        assert!(before.iter().all(|(group, replica)| after[group] != *replica), "{before:?} {after:?}");
        serves(&world, 1, partition, &expected).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_log_without_its_newest_file_is_not_taken_for_a_shorter_one() {
    local(async {
        let (mut world, partition) = cluster(24).await;
        let expected = fill(&world, partition, 0, 40, 64 << 10).await;
        // What was made last stands in the newest file alone: nothing that is left speaks of it.
        let late = TopicPartition { topic: world.topic("late", 1, 3).await, partition: 0 };
        let of_late = fill(&world, late, 0, 3, 10).await;
        seal().await;
        let before = replicas_of(&world, 1);
        world.crash(1);
        let slot = &mut world.slots[1];
        // The next life's disk, to be able to remove something.
        slot.disk = slot.disk.restart_keeping_unsynced(Env::simulated(5, EPOCH_MS, TaskSet::default()));
        let mut wal: Vec<_> =
            slot.disk.files().into_iter().map(|(path, _)| path).filter(|path| path.ends_with(".wal")).collect();
        assert!(wal.len() > 1, "{wal:?}");
        slot.disk.remove(&wal.pop().unwrap()).await.unwrap();
        slot.disk.sync_directory("wal").await.unwrap();
        world.start(1).await;
        within(60, world.node(1).serving()).await;
        whole(&world).await;
        let after = replicas_of(&world, 1);
        assert!(before.iter().all(|(group, replica)| after[group] != *replica), "{before:?} {after:?}");
        serves(&world, 1, partition, &expected).await;
        serves(&world, 1, late, &of_late).await;
    })
    .await;
}

/// Enough for several segments and retired files of the log, on every node.
async fn segments(world: &World, partition: TopicPartition) -> Vec<String> {
    let expected = fill(world, partition, 0, 120, 64 << 10).await;
    within(60, async {
        while world.slots.iter().any(|slot| {
            let of_group = format!("groups/{:016x}", group_of(world, partition).0);
            slot.disk.files().iter().filter(|(path, _)| path.starts_with(&of_group) && path.ends_with(".seg")).count()
                < 3
        }) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    seal().await;
    expected
}

/// A file of the partition's group at a node.
fn file_of(world: &World, n: usize, partition: TopicPartition, end: &str) -> (String, u64) {
    let of_group = format!("groups/{:016x}", group_of(world, partition).0);
    let files = world.slots[n].disk.files();
    files.into_iter().find(|(path, _)| path.starts_with(&of_group) && path.ends_with(end)).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_damaged_segment_is_fetched_from_a_peer_and_costs_nobody_its_vote() {
    local(async {
        let (mut world, partition) = cluster(25).await;
        let expected = segments(&world, partition).await;
        let before = replicas_of(&world, 2);
        let (path, len) = file_of(&world, 2, partition, ".seg");
        // A life that has nothing of it in memory.
        world.crash(2);
        world.slots[2].disk.flip_bit(&path, len / 2, 0);
        world.start(2).await;
        within(60, world.node(2).serving()).await;
        let end = expected.len() as u64;
        let there = || world.node(2).partitions().find(partition).filter(|h| h.marks().high_watermark >= end);
        let handle = within(60, async {
            loop {
                match there() {
                    Some(handle) => return handle,
                    None => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        })
        .await;
        let mut refused = false;
        for offset in 0..30 {
            match handle.read(offset, 1) {
                Read::Cold(served) => match within(5, served).await {
                    Ok(served) => assert_eq!(values(&served)[0], expected[usize::try_from(offset).unwrap()]),
                    Err(error) => refused |= error.to_string().contains("damaged"),
                },
                Read::Hot(served) => panic!("offset {offset} is in memory: {} batches", served.len()),
                Read::Empty => panic!("offset {offset} is the end"),
                Read::Refused(error) => panic!("offset {offset}: {error}"),
            }
        }
        assert!(refused, "what does not verify is not served");
        serves(&world, 2, partition, &expected).await;
        whole(&world).await;
        assert_eq!(replicas_of(&world, 2), before);
        assert!(world.slots[2].disk.files().iter().all(|(path, _)| !path.ends_with(".damaged")));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_damaged_checkpoint_costs_its_replica() {
    const TRIMMED: usize = 60;
    for end in ["/restart", ".base"] {
        local(async {
            let (mut world, partition) = cluster(26).await;
            let expected = segments(&world, partition).await;
            let group = group_of(&world, partition);
            let before = replicas_of(&world, 1);
            let (path, len) = file_of(&world, 1, partition, end);
            if end == ".base" {
                // It is what the log starts with once the segments before it are gone.
                let handle = world.leader(partition).await.1;
                handle.propose(crate::partition::machine::Trim { offset: TRIMMED as u64 }.command());
                for n in 0..3 {
                    let log = || world.node(n).0.hosting.all()[&group].raft.clone();
                    within(20, async {
                        while world.node(n).partitions().find(partition).unwrap().marks().log_start < TRIMMED as u64 {
                            tokio::time::sleep(Duration::from_millis(50)).await;
                        }
                    })
                    .await;
                    log().compact(TRIMMED as u64).await.unwrap();
                }
                seal().await;
            }
            let (path, len) = if end == ".base" { file_of(&world, 1, partition, end) } else { (path, len) };
            world.crash(1);
            world.slots[1].disk.flip_bit(&path, len / 2, 3);
            world.start(1).await;
            within(60, world.node(1).serving()).await;
            replaced(&world, group, before[&group]).await;
            whole(&world).await;
            let after = replicas_of(&world, 1);
            assert_ne!(after[&group], before[&group], "{end}");
            serves_from(&world, 1, partition, if end == ".base" { TRIMMED } else { 0 }, &expected).await;
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn damage_on_a_majority_is_offline_and_says_so() {
    local(async {
        let _ = tracing_subscriber::fmt()
            .with_env_filter("highwater=info,highwater_raft=info")
            .with_writer(std::io::stderr)
            .try_init();
        let (mut world, partition) = cluster(27).await;
        fill(&world, partition, 0, 20, 10).await;
        seal().await;
        let group = group_of(&world, partition);
        for n in [1, 2] {
            world.crash(n);
        }
        for n in [1, 2] {
            flip(&world, n, b"value 000007");
            world.start(n).await;
        }
        for n in [1, 2] {
            within(60, world.node(n).serving()).await;
        }
        within(60, async {
            while !world.alive().all(|node| node.controller().metadata().groups[&group].is_offline()) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })
        .await;
        for (n, node) in world.alive().enumerate() {
            let handle = node.partitions().find(partition);
            assert!(handle.is_none_or(|handle| handle.marks().role != Role::Leader), "node {n} leads it");
        }
        // The others of the cluster go on.
        let topic = world.topic("beta", 1, 3).await;
        fill(&world, TopicPartition { topic, partition: 0 }, 0, 3, 10).await;
    })
    .await;
}

/// As when a disk was not mounted: two nodes began with empty directories, and one has its own again.
#[tokio::test(start_paused = true)]
async fn a_directory_that_is_back_ends_offline() {
    local(async {
        let mut world = World::new(5, 35).await;
        let topic = world.topic("alpha", 1, 3).await;
        let partition = TopicPartition { topic, partition: 0 };
        let mut expected = fill(&world, partition, 0, 20, 10).await;
        seal().await;
        let group = group_of(&world, partition);
        let placed = world.node(0).controller().metadata().groups[&group].nodes();
        let [.., first, second] = placed[..] else { panic!("{placed:?}") };
        let [first, second] = [first, second].map(|node| node.0 as usize - 1);
        for back in [first, second] {
            let kept = world.slots[back].disk.clone();
            world.crash(second);
            wipe(&mut world, first).await;
            wipe(&mut world, second).await;
            within(60, async {
                let is_offline = |node: &Node| {
                    node.controller().metadata().groups.get(&group).is_some_and(|placement| placement.is_offline())
                };
                while !world.alive().all(is_offline) {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            })
            .await;
            world.crash(back);
            world.slots[back].disk = kept;
            world.start(back).await;
            let more = fill(&world, partition, expected.len(), 5, 10).await;
            expected.extend(more);
            whole(&world).await;
            for node in &placed {
                serves(&world, node.0 as usize - 1, partition, &expected).await;
            }
        }
    })
    .await;
}

/// As when a swap is reported and undone by another leader: metadata and Raft name different voters.
#[tokio::test(start_paused = true)]
async fn a_voter_that_raft_does_not_have_becomes_one() {
    local(async {
        let (world, partition) = cluster(33).await;
        let group = group_of(&world, partition);
        let (leader, _) = world.leader(partition).await;
        let (node, controller) = ((leader + 1) % 3, world.node(leader).controller());
        let lost = replicas_of(&world, node)[&group];
        let tell = |command| controller.execute(command, secs(5));
        tell(Command::ReplicaFaulty(ReplicaFaulty { group, replica: lost })).await.unwrap();
        let placement = || controller.metadata().groups[&group].clone();
        let voter = placement().replicas.iter().find(|r| r.state == ReplicaState::Learner).unwrap().id;
        tell(Command::ReplicaCaughtUp(ReplicaCaughtUp { group, replica: voter })).await.unwrap();
        let voters = placement().replicas.iter().map(|r| r.id).filter(|id| *id != lost).collect();
        tell(Command::Swapped(Swapped { group, voters })).await.unwrap();
        assert!(placement().replicas.iter().all(|r| r.state == ReplicaState::Voter));
        let members = || world.node(leader).0.hosting.all()[&group].raft.role().borrow().members.clone();
        assert!(!members().contains_key(&voter), "nobody has told Raft");
        within(30, async {
            while !members().get(&voter).is_some_and(|member| member.voter) || members().contains_key(&lost) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })
        .await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_one_replica_fails_that_replica_alone() {
    local(async {
        let world = World::new(3, 28).await;
        let topic = world.topic("alpha", 2, 3).await;
        let partition = |partition| TopicPartition { topic, partition };
        let mut expected = fill(&world, partition(0), 0, 5, 10).await;
        let mut others = fill(&world, partition(1), 0, 5, 10).await;
        let (leader, handle) = world.leader(partition(0)).await;
        let group = group_of(&world, partition(0));
        handle.panic();
        others.extend(fill(&world, partition(1), 5, 5, 10).await);
        expected.extend(fill(&world, partition(0), 5, 5, 10).await);
        // It is opened again, from its disk.
        serves(&world, leader, partition(0), &expected).await;
        assert!(world.node(leader).0.hosting.failed().is_empty());
        // Failing again at once it stays out, and says so.
        world.node(leader).partitions().find(partition(0)).unwrap().panic();
        expected.extend(fill(&world, partition(0), 10, 5, 10).await);
        within(30, async {
            while !world.alive().all(|node| {
                let said = node.controller().ailing().of(world.node(leader).id());
                said.get(&group) == Some(&crate::controller::Ailment::Failed)
            }) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })
        .await;
        for n in 0..3 {
            // The one that failed is back after its pause.
            serves(&world, n, partition(0), &expected).await;
            serves(&world, n, partition(1), &others).await;
        }
        whole(&world).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_fails_before_its_opening_has_ended_is_opened_again() {
    local(async {
        let world = World::new(3, 29).await;
        let topic = world.topic("alpha", 1, 3).await;
        let partition = TopicPartition { topic, partition: 0 };
        let mut expected = fill(&world, partition, 0, 5, 10).await;
        let group = group_of(&world, partition);
        let (n, _) = world.leader(partition).await;
        let hosting = &world.node(n).0.hosting;
        let replica = hosting.all()[&group].replica;
        let fail = || hosting.fail(crate::node::hosting::Fallen { group, replica, why: "a test".into() });
        fail().await;
        // It is on its way back.
        let purpose = crate::controller::machine::Purpose::Partition(partition);
        let (opened, ()) = tokio::join!(hosting.replace(group, replica, purpose), fail());
        opened.unwrap();
        within(5, async {
            while !hosting.failed().contains(&group) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        expected.extend(fill(&world, partition, 5, 5, 10).await);
        serves(&world, n, partition, &expected).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_controllers_replica_comes_back_though_the_metadata_are_older_than_what_was_acted_on() {
    local(async {
        let mut world = World::new(3, 31).await;
        let topic = world.topic("alpha", 2, 3).await;
        let partition = |partition| TopicPartition { topic, partition };
        let expected = fill(&world, partition(0), 0, 5, 10).await;
        world.crash(2);
        world.start(2).await;
        // It fails before it has heard what was committed since its last checkpoint.
        let open = async {
            loop {
                let all = world.node(2).0.hosting.all();
                match all.get(&crate::controller::GROUP) {
                    Some(hosted) => return hosted.replica,
                    None => tokio::time::sleep(Duration::from_millis(1)).await,
                }
            }
        };
        let replica = within(10, open).await;
        assert!(world.node(2).controller().metadata().topic(topic).is_none(), "it knows of nothing yet");
        let fallen = || crate::node::hosting::Fallen { group: crate::controller::GROUP, replica, why: "a test".into() };
        world.node(2).0.hosting.fail(fallen()).await;
        within(30, world.node(2).serving()).await;
        serves(&world, 2, partition(0), &expected).await;
        let later = world.topic("beta", 1, 3).await;
        let expected = fill(&world, TopicPartition { topic: later, partition: 0 }, 0, 5, 10).await;
        serves(&world, 2, TopicPartition { topic: later, partition: 0 }, &expected).await;
        whole(&world).await;
    })
    .await;
}
