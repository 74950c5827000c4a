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

/// Sectors of the file, and of the write in it that was not synced.
const FILE: usize = 24;
const UNSYNCED: std::ops::Range<usize> = 8..16;
const OLD: u8 = 1;
const NEW: u8 = 2;

/// Writes over the middle of a synced file, or behind it, and loses power; gives what is there, by sectors, and the writes that
/// were torn.
async fn torn_by(seed: u64, synced: usize) -> (Vec<u8>, u64) {
    let disk = SimDisk::new(env(seed), SimLimits::instant());
    let file = disk.open("file", true).await.unwrap();
    disk.sync_directory("").await.unwrap();
    file.write_at(0, &[Bytes::from(vec![OLD; synced * SECTOR])]).await.unwrap();
    file.sync().await.unwrap();
    let at = (UNSYNCED.start * SECTOR) as u64;
    file.write_at(at, &[Bytes::from(vec![NEW; UNSYNCED.len() * SECTOR])]).await.unwrap();
    disk.crash();
    let disk = disk.restart_losing_unsynced(env(1_000 + seed));
    let sectors = disk.content("file").unwrap();
    let sectors = sectors.chunks(SECTOR).map(|sector| {
        assert!(sector.iter().all(|byte| *byte == sector[0]), "seed {seed}: a sector is there or not");
        sector[0]
    });
    (sectors.collect(), disk.torn_writes())
}

#[tokio::test(start_paused = true)]
async fn of_an_unsynced_write_nothing_all_a_beginning_or_any_sectors_survive() {
    for synced in [FILE, UNSYNCED.start] {
        let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
        for seed in 0..256 {
            let (left, torn) = torn_by(seed, synced).await;
            let kept: Vec<bool> = UNSYNCED.map(|at| left.get(at) == Some(&NEW)).collect();
            let many = kept.iter().filter(|there| **there).count();
            let how = match many {
                0 => "nothing",
                _ if many == kept.len() => "all",
                _ if kept[..many].iter().all(|there| *there) => "a beginning",
                _ => "with holes",
            };
            *seen.entry(how).or_default() += 1;
            assert_eq!(torn, u64::from(0 < many && many < kept.len()), "seed {seed}: {how}");
            // What was synced and not written again is as it was; what was written again is old or new.
            let old = |at: &usize| !UNSYNCED.contains(at) || !kept[at - UNSYNCED.start];
            assert!((0..synced).filter(old).all(|at| left[at] == OLD), "seed {seed}: {left:?}");
            assert!(left.len() >= synced && left.len() <= synced.max(UNSYNCED.end), "seed {seed}: {left:?}");
        }
        assert!(seen.len() == 4 && seen.values().all(|times| *times > 16), "{seen:?}");
    }
}
