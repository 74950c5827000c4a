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
