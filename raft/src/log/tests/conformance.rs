//! What a log must do on any disk.

use super::*;
use crate::disk::{Disk, RealDisk};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// A log that is used, closed and opened again.
async fn conforms(disk: Arc<dyn Disk>, env: Env) {
    let directory = Directory::open(disk.clone(), small(), env.clone()).await.unwrap();
    let id = directory.id();
    let group = create(&directory, G).await;
    let other = create(&directory, H).await;
    assert_eq!((group.last(), group.vote(), group.purged()), (None, None, None));
    vote(&group, b"first").await.unwrap();
    append(&group, (0..20).map(|i| entry(i, 1, 300)).collect()).await.unwrap();
    append(&other, vec![entry(0, 4, 40_000)]).await.unwrap();
    truncate(&group, 14).await.unwrap();
    append(&group, (15..30).map(|i| entry(i, 2, 700)).collect()).await.unwrap();
    vote(&group, b"second").await.unwrap();
    directory.note("cluster", Bytes::from_static(b"id")).await.unwrap();
    check(&group, &other).await;
    directory.close().await;
    assert!(append(&group, vec![entry(30, 2, 10)]).await.is_err(), "closed");
    drop((group, other, directory));

    for _ in 0..3 {
        let directory = Directory::open(disk.clone(), small(), env.clone()).await.unwrap();
        assert_eq!(directory.id(), id);
        assert_eq!(directory.noted("cluster"), Some(Bytes::from_static(b"id")));
        let (group, other) = (directory.group(G).unwrap(), directory.group(H).unwrap());
        check(&group, &other).await;
        directory.close().await;
    }
    let directory = Directory::open(disk.clone(), small(), env.clone()).await.unwrap();
    directory.remove(G).await.unwrap();
    assert!(directory.group(G).is_none());
    assert!(matches!(directory.create(H, ReplicaId(9)).await, Err(CreateError::Exists { .. })));
    directory.close().await;
    let directory = Directory::open(disk, small(), env).await.unwrap();
    assert_eq!(directory.groups(), vec![(H, ReplicaId(H.0 + 1), Health::Good)]);
    directory.close().await;
}

async fn check(group: &Group, other: &Group) {
    assert_eq!(group.vote(), Some(Bytes::from_static(b"second")));
    assert_eq!(group.last(), Some(LogId { term: 2, index: 29 }));
    assert_eq!(group.terms(), vec![LogId { term: 1, index: 0 }, LogId { term: 2, index: 15 }]);
    let expected: Vec<_> = (0..30).map(|i| if i < 15 { entry(i, 1, 300) } else { entry(i, 2, 700) }).collect();
    assert_eq!(group.read(0, 30, usize::MAX).await.unwrap(), expected);
    assert_eq!(group.read(3, 99, 650).await.unwrap(), expected[3..5]);
    assert_eq!(group.read(3, 99, 0).await.unwrap(), expected[3..4]);
    assert_eq!(group.read(30, 40, 10).await.unwrap(), []);
    assert_eq!(other.read(0, 1, 1).await.unwrap(), vec![entry(0, 4, 40_000)]);
}

#[tokio::test(start_paused = true)]
async fn a_simulated_disk_conforms() {
    for seed in 0..8 {
        let node = Node::new(seed);
        local(conforms(node.disk.clone(), node.env.clone())).await;
    }
}

#[tokio::test]
async fn a_real_disk_conforms() {
    let folder = tempfile::tempdir().unwrap();
    local(conforms(Arc::new(RealDisk::new(folder.path()).unwrap()), Env::real())).await;
}

#[tokio::test(start_paused = true)]
async fn groups_that_are_made_and_removed_side_by_side_share_flushes() {
    const GROUPS: u64 = 64;
    let node = Node::new(3);
    local(async {
        let directory = node.open().await;
        let ids = || (0..GROUPS).map(|n| GroupId(2_000 + n));
        let before = directory.stats().sync_seq;
        let made = ids().map(|group| directory.create(group, ReplicaId(1)));
        futures_util::future::try_join_all(made).await.unwrap();
        let between = directory.stats().sync_seq;
        futures_util::future::try_join_all(ids().map(|group| directory.remove(group))).await.unwrap();
        let flushes = (between - before, directory.stats().sync_seq - between);
        assert!(flushes.0 < GROUPS / 4 && flushes.1 < GROUPS / 4, "{flushes:?} flushes for {GROUPS} groups");
        // Of one group only one is made.
        let one = directory.create(G, ReplicaId(1));
        let two = directory.create(G, ReplicaId(2));
        let (one, two) = tokio::join!(one, two);
        assert!(one.is_ok() && matches!(two, Err(CreateError::Exists { .. })));
        directory.close().await;
        drop(directory);
        assert_eq!(node.open().await.groups(), vec![(G, ReplicaId(1), Health::Good)]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_takes_only_the_newest_of_what_was_not_acknowledged() {
    let mut all = Losses::default();
    for seed in 0..60 {
        let losses = local(survives(seed)).await;
        all = Losses { kept: all.kept + losses.kept, lost: all.lost + losses.lost, bytes: all.bytes + losses.bytes };
    }
    // Else there was nothing to lose, and all of the above holds for any log.
    assert!(all.kept > 100 && all.lost > 1_000 && all.bytes > 100_000, "{all:?}");
}

/// What became of operations that were sent and not acknowledged, and how many bytes losses of power took.
#[derive(Debug, Default)]
struct Losses {
    kept: usize,
    lost: usize,
    bytes: u64,
}

/// The next entry and the vote of each group.
type Found = [(u64, u64); 3];

/// Appends and votes in three groups without waiting; loses power or dies at a random moment; four times. All operations
/// are sent in one order: what the next life finds is what the first so many of them made, whole frames and both kinds of
/// crash alike, and they are at least as many as were acknowledged.
async fn survives(seed: u64) -> Losses {
    const LIVES: u64 = 4;
    let (mut node, mut losses) = (Node::new(seed), Losses::default());
    // What each operation of the last life made, behind what that life found; how many of them were acknowledged.
    let (mut made, mut acked) = (vec![Found::default()], 0);
    for life in 0..=LIVES {
        let directory = node.open().await;
        assert_eq!(directory.groups().len(), if life == 0 { 0 } else { 3 }, "seed {seed}: creations are acknowledged");
        let (mut groups, mut found) = (Vec::new(), Found::default());
        for (id, found) in (2000..).map(GroupId).zip(&mut found) {
            let group = match directory.group(id) {
                Some(group) => group,
                None => directory.create(id, ReplicaId(1)).await.unwrap(),
            };
            let next = group.last().map_or(0, |last| last.index + 1);
            *found = (next, group.vote().map_or(0, |vote| u64::from_le_bytes(vote[..].try_into().unwrap())));
            let all = group.read(0, next, usize::MAX).await.unwrap();
            assert_eq!(all, (0..next).map(|i| entry(i, 1, size(seed, i))).collect::<Vec<_>>());
            groups.push(group);
        }
        let kept = made.iter().rposition(|state| *state == found);
        let kept = kept.unwrap_or_else(|| panic!("seed {seed}: {found:?} is no first part of what was sent"));
        let sent = made.len() - 1;
        assert!(kept >= acked, "seed {seed}: the first {kept} of {sent} are there, {acked} were acknowledged");
        (losses.kept, losses.lost) = (losses.kept + kept - acked, losses.lost + sent - kept);
        if life == LIVES {
            break;
        }
        made = vec![found];
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let done = |n: usize| -> Done {
            let acknowledged = acknowledged.clone();
            Box::new(move |result| {
                result.unwrap();
                acknowledged.fetch_max(n, Relaxed);
            })
        };
        for round in 0..node.env.random_below(60) {
            for (g, group) in groups.iter().enumerate() {
                let (next, count) = (found[g].0, 1 + node.env.random_below(3));
                found[g].0 = next + count;
                group.append((next..next + count).map(|i| entry(i, 1, size(seed, i))).collect(), done(made.len()));
                made.push(found);
                found[g].1 = 1 + life * 1000 + round;
                group.save_vote(Bytes::copy_from_slice(&found[g].1.to_le_bytes()), done(made.len()));
                made.push(found);
            }
            if node.env.random_below(3) == 0 {
                tokio::time::sleep(Duration::from_micros(node.env.random_below(3000))).await;
            }
        }
        if node.env.random_below(3) == 0 {
            node.kill();
        } else {
            node.power_loss();
        }
        acked = acknowledged.load(Relaxed);
    }
    losses.bytes = node.disk.lost_bytes();
    losses
}

fn size(seed: u64, index: u64) -> usize {
    usize::try_from((seed * 31 + index * 97) % 1500).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_storage_error_is_final() {
    local(async {
        let node = Node::new(3);
        let directory = node.open().await;
        let group = create(&directory, G).await;
        append(&group, vec![entry(0, 1, 10)]).await.unwrap();
        sealed().await;
        node.disk.fail_next_sync();
        assert!(append(&group, vec![entry(1, 1, 10)]).await.is_err());
        assert!(append(&group, vec![entry(2, 1, 10)]).await.is_err());
        assert!(vote(&group, b"v").await.is_err());
        assert!(directory.failed().await.to_string().contains("simulated sync failure"));
    })
    .await;
}
