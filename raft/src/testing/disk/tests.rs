use super::*;
use crate::env::TaskSet;

fn env(seed: u64) -> Env {
    Env::simulated(seed, 0, TaskSet::default())
}

#[tokio::test(start_paused = true)]
async fn a_write_that_fails_leaves_whole_sectors_and_a_read_fails_once() {
    let disk = SimDisk::new(env(3), SimLimits::default());
    let file = disk.open("file", true).await.unwrap();
    let bytes = Bytes::from(vec![7; 10 * SECTOR]);
    disk.fail_next_write();
    file.write_at(0, std::slice::from_ref(&bytes)).await.unwrap_err();
    let torn = file.len().await.unwrap();
    assert!(torn < bytes.len() as u64 && torn.is_multiple_of(SECTOR as u64), "{torn} bytes");
    file.write_at(0, std::slice::from_ref(&bytes)).await.unwrap();
    disk.fail_next_read();
    file.read_at(0, bytes.len()).await.unwrap_err();
    assert_eq!(file.read_at(0, bytes.len()).await.unwrap(), bytes);
    disk.fail_next_sync();
    disk.fail_nothing();
    file.sync().await.unwrap();
}

/// `top/group` with a synced file in it, whose name is synced.
async fn fill(disk: &SimDisk) {
    disk.create_directory("top/group").await.unwrap();
    let file = disk.open("top/group/file", true).await.unwrap();
    file.write_at(0, &[Bytes::from_static(b"content")]).await.unwrap();
    file.sync().await.unwrap();
    disk.sync_directory("top/group").await.unwrap();
}

async fn sync(disk: &SimDisk, folders: &[&str]) {
    for folder in folders {
        disk.sync_directory(folder).await.unwrap();
    }
}

/// What a loss of power may leave of a life: files, and what is listed in `top`.
async fn left_by(life: impl AsyncFn(Arc<SimDisk>)) -> BTreeSet<(usize, Vec<String>)> {
    let mut left = BTreeSet::new();
    for seed in 0..64 {
        let disk = SimDisk::new(env(seed), SimLimits::instant());
        life(disk.clone()).await;
        disk.crash();
        let disk = disk.restart_losing_unsynced(env(1_000 + seed));
        left.insert((disk.files().len(), disk.list("top").await.unwrap()));
    }
    left
}

fn nothing() -> (usize, Vec<String>) {
    (0, Vec::new())
}

fn all() -> (usize, Vec<String>) {
    (1, vec!["group".into()])
}

#[tokio::test(start_paused = true)]
async fn a_folder_survives_by_the_folder_above() {
    let left = left_by(async |disk: Arc<SimDisk>| fill(&disk).await).await;
    assert_eq!(left, BTreeSet::from([nothing(), all()]), "its own sync does not do");
    let left = left_by(async |disk: Arc<SimDisk>| {
        fill(&disk).await;
        sync(&disk, &["top"]).await;
    });
    assert_eq!(left.await, BTreeSet::from([nothing(), all()]), "the folder above has no name yet");
    let left = left_by(async |disk: Arc<SimDisk>| {
        fill(&disk).await;
        sync(&disk, &["top", ""]).await;
    });
    assert_eq!(left.await, BTreeSet::from([all()]));
}

#[tokio::test(start_paused = true)]
async fn a_folder_that_was_removed_may_be_back() {
    let left = left_by(async |disk: Arc<SimDisk>| {
        fill(&disk).await;
        sync(&disk, &["top", ""]).await;
        disk.remove("top/group").await.unwrap();
    });
    let empty = (0, vec!["group".into()]);
    assert_eq!(left.await, BTreeSet::from([nothing(), empty, all()]));
    let left = left_by(async |disk: Arc<SimDisk>| {
        fill(&disk).await;
        sync(&disk, &["top", ""]).await;
        disk.remove("top/group").await.unwrap();
        sync(&disk, &["top"]).await;
    });
    assert_eq!(left.await, BTreeSet::from([nothing()]));
}

#[tokio::test(start_paused = true)]
async fn a_folder_that_is_made_again_has_nothing_of_the_old_one() {
    let left = left_by(async |disk: Arc<SimDisk>| {
        fill(&disk).await;
        sync(&disk, &["top", ""]).await;
        disk.remove("top/group").await.unwrap();
        disk.create_directory("top/group").await.unwrap();
        sync(&disk, &["top"]).await;
    });
    assert_eq!(left.await, BTreeSet::from([(0, vec!["group".into()])]));
}
