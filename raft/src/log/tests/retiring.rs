//! What the retirer does beside everything else: what it takes away is not needed by the next start, wherever a crash comes.

use super::{
    super::{core::waiter, mover, record::Record},
    *,
};
use crate::disk::Disk;

fn wal_files(disk: &SimDisk) -> usize {
    disk.files().iter().filter(|(path, _)| path.ends_with(".wal")).count()
}

/// Saves large votes until there is one more WAL file; `then` comes right behind its first flush.
async fn rotate(node: &Node, group: &Group, then: fn(&SimDisk)) {
    let (disk, before) = (node.disk.clone(), wal_files(&node.disk));
    while wal_files(&disk) == before {
        let (done, wait) = waiter();
        let disk = disk.clone();
        let done = move |result: io::Result<()>| {
            if wal_files(&disk) > before {
                then(&disk);
            }
            done(result);
        };
        group.save_vote(vec![7; 60_000].into(), Box::new(done));
        wait.await.unwrap().unwrap();
    }
}

/// The retirer has said that a file goes, and has not forgotten it yet when the next one begins.
#[tokio::test(start_paused = true)]
async fn a_file_that_has_retired_is_in_no_later_table() {
    local(async {
        let mut node = Node::new(3);
        let directory = node.open().await;
        let group = create(&directory, G).await;
        rotate(&node, &group, |_| ()).await;
        directory.inner.core.write(None, Record::Retired { next: 2 }).await.unwrap();
        rotate(&node, &group, SimDisk::crash).await;
        node.kill();
        node.disk.remove(&node.wal_files()[0]).await.unwrap();
        assert_eq!(health(&node.open().await, G), Health::Good);
    })
    .await;
}

/// Of what the retirer copies, one entry does not verify any more.
#[tokio::test(start_paused = true)]
async fn damage_that_the_retirer_finds_costs_one_replica() {
    local(async {
        let mut node = Node::new(4);
        let directory = node.open_with(Options { cache_bytes: 0, ..small() }).await;
        let (g, h) = (create(&directory, G).await, create(&directory, H).await);
        append(&h, vec![entry(0, 2, 900)]).await.unwrap();
        let file = node.wal_files().pop().unwrap();
        let at = node.find(&file, &entry(0, 2, 900).payload.contiguous()).unwrap();
        node.disk.flip_bit(&file, at + 300, 3);
        for i in 0..60 {
            append(&g, vec![entry(i, 1, 9000)]).await.unwrap();
        }
        sealed().await;
        assert!(h.fault().is_some_and(|why| why.contains("does not verify")), "{:?}", h.fault());
        assert_eq!(g.fault(), None);
        append(&g, vec![entry(60, 1, 9000)]).await.unwrap();
        node.kill();
        let directory = node.open().await;
        assert!(matches!(health(&directory, H), Health::Faulty(_)), "the next start finds it too");
        let found = directory.group(G).unwrap().read(0, 99, usize::MAX).await.unwrap();
        assert_eq!(found, (0..=60).map(|i| entry(i, 1, 9000)).collect::<Vec<_>>());
    })
    .await;
}

/// As if a file had been recycled before its time: it is looked for once, not for ever.
#[tokio::test(start_paused = true)]
async fn an_entry_whose_file_is_gone_costs_one_replica() {
    local(async {
        let node = Node::new(5);
        let directory = node.open_with(Options { cache_bytes: 0, ..small() }).await;
        let (g, h) = (create(&directory, G).await, create(&directory, H).await);
        let removed = create(&directory, GroupId(1026)).await;
        for group in [&h, &removed] {
            append(group, vec![entry(0, 2, 900)]).await.unwrap();
            group.note_applied(vec![Stamp {
                index: 0,
                offset: 0,
                offset_end: 1,
                max_timestamp: 0,
                note: Bytes::new(),
            }]);
        }
        directory.remove(GroupId(1026)).await.unwrap();
        rotate(&node, &g, |_| ()).await;
        let core = &directory.inner.core;
        core.common.files.remove(core.common.files.ends()[0].0);
        let read = h.read(0, 1, 1).await.unwrap_err();
        assert_eq!(read.kind(), io::ErrorKind::InvalidData, "{read}");
        let moved = mover::move_applied(&core.common, core, &h.shared).await.unwrap_err();
        assert_eq!(moved.kind(), io::ErrorKind::InvalidData, "{moved}");
        assert!(h.fault().is_some_and(|why| why.contains("is gone")), "{:?}", h.fault());
        removed.read(0, 1, 1).await.unwrap_err();
        assert_eq!([g.fault(), removed.fault()], [None, None], "no file is kept for a replica that was removed");
    })
    .await;
}
