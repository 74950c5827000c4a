//! What the retirer does beside everything else: what it takes away is not needed by the next start, wherever a crash comes.

use super::{
    super::{core::waiter, record::Record},
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
