//! What many lives leave behind: few files, little memory.

use super::{
    super::{
        checkpoint as files,
        entry::Owner,
        frame::Seed,
        fuzz::{DIRECTORY, wal_frame_seeds},
        replay::Replay,
        scan::scan,
    },
    *,
};
use crate::disk::Disk;

#[tokio::test(start_paused = true)]
async fn light_starts_leave_few_files_and_slow_nothing_down() {
    local(async {
        let mut node = Node::new(12);
        drop(create(&node.open().await, G).await);
        for start in 0..20 {
            node.kill();
            let directory = node.open().await;
            let group = directory.group(G).unwrap();
            append(&group, vec![entry(start, 1, 100)]).await.unwrap();
            sealed().await;
            if start % 3 == 0 {
                directory.close().await;
            }
            let stats = directory.stats();
            assert!(stats.stalls == 0 && stats.wal_files <= small().wal_files_max, "start {start}: {stats:?}");
        }
        node.power_loss();
        let found = node.open().await.group(G).unwrap().read(0, 99, usize::MAX).await.unwrap();
        assert_eq!(found, (0..20).map(|i| entry(i, 1, 100)).collect::<Vec<_>>());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn lone_small_appends_leave_few_files_and_are_not_slowed_down() {
    local(async {
        for idle in [Duration::ZERO, Duration::from_millis(100)] {
            let node = Node::new(13);
            let directory = node.open().await;
            let group = create(&directory, G).await;
            for i in 0..400 {
                append(&group, vec![entry(i, 1, 100)]).await.unwrap();
                tokio::time::sleep(idle).await;
                let stats = directory.stats();
                assert!(stats.stalls == 0 && stats.wal_files <= small().wal_files_max, "append {i}: {stats:?}");
            }
        }
    })
    .await;
}

/// More than the files that there should be, of which nothing is applied.
#[tokio::test(start_paused = true)]
async fn a_long_tail_is_not_copied_for_ever() {
    local(async {
        let node = Node::new(14);
        let directory = node.open_with(Options { wal_files_max: 2, ..small() }).await;
        let group = create(&directory, G).await;
        for i in 0..60 {
            append(&group, vec![entry(i, 1, 9000)]).await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
        let settled = directory.stats();
        assert!(settled.wal_files > 2, "{settled:?}");
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert_eq!(directory.stats(), settled);
    })
    .await;
}

#[test]
fn what_stays_of_a_file_does_not_hold_all_of_it() {
    let file = Bytes::from(wal_frame_seeds()[1][1..].to_vec());
    let mut replay = Replay::default();
    let scanned = scan(Seed::new(DIRECTORY, 3), 3, &file);
    replay.file(&scanned, None);
    drop(scanned);
    assert!(!replay.notes.is_empty());
    assert!(file.is_unique(), "{:?}", replay.notes);
}

#[tokio::test(start_paused = true)]
async fn a_start_keeps_the_newer_of_two_checkpoints() {
    let checkpoint = |index| {
        let (membership, machine) = (Bytes::from_static(b"members"), Bytes::from_static(b"machine"));
        Checkpoint { last: LogId { term: 1, index }, offset: 40, membership, machine }
    };
    local(async {
        let mut node = Node::new(15);
        let directory = node.open().await;
        let group = create(&directory, G).await;
        let (done, wait) = waiter();
        group.install(checkpoint(10), done);
        wait.await.unwrap().unwrap();
        append(&group, (11..20).map(|i| entry(i, 1, 100)).collect()).await.unwrap();
        sealed().await;
        node.kill();
        // As the retirer writes it, which has not come to the record of the install.
        let owner = Owner { group: G, replica: group.replica() };
        let path = files::restart_path(owner);
        files::write(&*node.disk, owner, &path, &checkpoint(15)).await.unwrap();
        for _ in 0..2 {
            let directory = node.open().await;
            assert_eq!(directory.group(G).unwrap().restart_checkpoint(), Some(checkpoint(15)));
            assert_eq!(files::read(&*node.disk as &dyn Disk, owner, &path).await.unwrap(), Some(checkpoint(15)));
            node.kill();
        }
    })
    .await;
}
