//! What a log must do on any disk.

use super::*;
use crate::disk::{Disk, RealDisk};

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
async fn what_was_acknowledged_survives_the_loss_of_power() {
    for seed in 0..60 {
        local(survives(seed)).await;
    }
}

/// Appends, votes and truncates in three groups without waiting; loses power at a random moment; four times.
async fn survives(seed: u64) {
    let mut node = Node::new(seed);
    let mut votes_seen = [0u64; 3];
    let mut acked = [0u64; 3];
    let mut lost = 0;
    for life in 0..4u64 {
        let directory = node.open().await;
        let mut confirmed = Vec::new();
        for g in 0..3usize {
            let group = match directory.group(GroupId(2000 + g as u64)) {
                Some(group) => group,
                None => directory.create(GroupId(2000 + g as u64), ReplicaId(1)).await.unwrap(),
            };
            let next = group.last().map_or(0, |l| l.index + 1);
            assert!(next >= acked[g], "seed {seed}: {next} entries, {} were acknowledged", acked[g]);
            let found = group.vote().map_or(0, |v| u64::from_le_bytes(v[..].try_into().unwrap()));
            assert!(found >= votes_seen[g], "seed {seed}: vote {found}, {} was acknowledged", votes_seen[g]);
            let all = group.read(0, next, usize::MAX).await.unwrap();
            assert_eq!(all, (0..next).map(|i| entry(i, 1, size(seed, i))).collect::<Vec<_>>());
            (acked[g], votes_seen[g]) = (next, found);
            confirmed.push((
                group,
                Arc::new(std::sync::atomic::AtomicU64::new(next)),
                Arc::new(std::sync::atomic::AtomicU64::new(found)),
            ));
        }
        for round in 0..node.env.random_below(60) {
            for (group, entries, vote) in &confirmed {
                let next = group.last().map_or(0, |l| l.index + 1);
                let count = 1 + node.env.random_below(3);
                let (entries, vote, ballot) = (entries.clone(), vote.clone(), life * 1000 + round);
                let done = move |result: io::Result<()>| {
                    result.unwrap();
                    entries.store(next + count, std::sync::atomic::Ordering::Relaxed);
                };
                group.append((next..next + count).map(|i| entry(i, 1, size(seed, i))).collect(), Box::new(done));
                let done = move |result: io::Result<()>| {
                    result.unwrap();
                    vote.store(ballot, std::sync::atomic::Ordering::Relaxed);
                };
                group.save_vote(Bytes::copy_from_slice(&ballot.to_le_bytes()), Box::new(done));
            }
            if node.env.random_below(3) == 0 {
                tokio::time::sleep(Duration::from_micros(node.env.random_below(3000))).await;
            }
        }
        lost += node.disk.unsynced_bytes();
        if node.env.random_below(3) == 0 {
            node.kill();
        } else {
            node.power_loss();
        }
        for (g, (_, entries, vote)) in confirmed.iter().enumerate() {
            acked[g] = entries.load(std::sync::atomic::Ordering::Relaxed);
            votes_seen[g] = vote.load(std::sync::atomic::Ordering::Relaxed);
        }
    }
    let _ = lost;
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
