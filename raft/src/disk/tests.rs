//! The contract of [`Disk`] and [`File`], told by the real disk and by the simulated one: the log rests on each line.

use super::{BLOCK, Disk, File, RealDisk};
use crate::{
    env::{Env, LocalFuture, TaskSet},
    testing::disk::{SimDisk, SimLimits},
};
use bytes::Bytes;
use futures_util::FutureExt;
use std::{collections::BTreeSet, fmt::Write as _, io, sync::Arc};

/// What a disk did, a line per call.
struct Told<'d> {
    disk: &'d dyn Disk,
    lines: String,
}

impl Told<'_> {
    fn line<T>(&mut self, call: &str, result: io::Result<T>, show: impl FnOnce(T) -> String) {
        let result = result.map_or_else(|error| format!("{:?}", error.kind()), show);
        writeln!(self.lines, "{call}: {result}").unwrap();
    }

    async fn open(&mut self, path: &str, create: bool) -> Option<Arc<dyn File>> {
        let opened = self.disk.open(path, create).await;
        let file = opened.as_ref().ok().cloned();
        let how = if create { "create" } else { "open" };
        self.line(&format!("{how} {path}"), opened, |_| "ok".into());
        file
    }

    async fn write(&mut self, file: &dyn File, position: u64, parts: &[&'static str]) {
        let bytes: Vec<Bytes> = parts.iter().map(|part| Bytes::from_static(part.as_bytes())).collect();
        let written = file.write_at(position, &bytes).await;
        self.line(&format!("write {parts:?} at {position}"), written, |()| "ok".into());
        self.line("len", file.len().await, |len| len.to_string());
    }

    async fn read(&mut self, file: &dyn File, position: u64, len: usize) {
        let read = file.read_at(position, len).await;
        self.line(&format!("read {len} at {position}"), read, |bytes| format!("{:?}", String::from_utf8_lossy(&bytes)));
    }

    async fn set_len(&mut self, file: &dyn File, len: u64) {
        self.line(&format!("set length {len}"), file.set_len(len).await, |()| "ok".into());
        self.read(file, 0, 99).await;
    }

    async fn list(&mut self, path: &str) {
        self.line(&format!("list {path}"), self.disk.list(path).await, |names| format!("{names:?}"));
    }

    async fn rename(&mut self, from: &str, to: &str) {
        self.line(&format!("rename {from} {to}"), self.disk.rename(from, to).await, |()| "ok".into());
    }

    async fn remove(&mut self, path: &str) {
        self.line(&format!("remove {path}"), self.disk.remove(path).await, |()| "ok".into());
    }

    async fn create_directory(&mut self, path: &str) {
        self.line(&format!("folder {path}"), self.disk.create_directory(path).await, |()| "ok".into());
    }
}

async fn told(disk: &dyn Disk) -> String {
    let mut told = Told { disk, lines: String::new() };
    // What is not there.
    told.open("missing", false).await;
    told.open("no/folder", true).await;
    told.rename("missing", "other").await;
    told.remove("missing").await;
    told.list("missing").await;
    // A file's bytes.
    told.create_directory("a/b").await;
    told.create_directory("a").await;
    let one = told.open("a/one", true).await.unwrap();
    told.read(&*one, 0, 5).await;
    told.write(&*one, 0, &["he", "", "llo"]).await;
    told.read(&*one, 0, 3).await;
    told.read(&*one, 3, 10).await;
    told.read(&*one, 5, 1).await;
    told.read(&*one, 100, 1).await;
    told.write(&*one, 1, &["E"]).await;
    told.write(&*one, 8, &["far"]).await;
    told.read(&*one, 0, 99).await;
    told.set_len(&*one, 3).await;
    told.set_len(&*one, 6).await;
    told.write(&*one, 7, &["!"]).await;
    told.read(&*one, 0, 99).await;
    told.line("sync", one.sync().await, |()| "ok".into());
    // Opened again it is the same, created or not.
    let again = told.open("a/one", true).await.unwrap();
    told.read(&*again, 0, 2).await;
    told.write(&*again, 0, &["H"]).await;
    told.read(&*one, 0, 2).await;
    // Names.
    let two = told.open("a/two", true).await.unwrap();
    told.write(&*two, 0, &["second"]).await;
    told.open("a/b/three", true).await;
    told.list("a").await;
    told.list("a/b").await;
    told.rename("a/two", "a/one").await;
    told.list("a").await;
    told.open("a/two", false).await;
    let renamed = told.open("a/one", false).await.unwrap();
    told.read(&*renamed, 0, 99).await;
    // Whoever has a file open keeps it.
    told.read(&*one, 0, 2).await;
    told.write(&*two, 6, &["!"]).await;
    told.read(&*renamed, 0, 99).await;
    told.rename("a/one", "a/one").await;
    told.rename("a/one", "a/b/one").await;
    told.list("a/b").await;
    told.line("sync a", disk.sync_directory("a").await, |()| "ok".into());
    told.remove("a/b/three").await;
    told.list("a/b").await;
    told.remove("a").await;
    told.list("a").await;
    told.open("a/b/one", false).await;
    told.read(&*renamed, 0, 6).await;
    // More parts than the system takes at once.
    let many = told.open("many", true).await.unwrap();
    let parts: Vec<Bytes> = (0..3_000_u32).map(|i| Bytes::from(i.to_le_bytes().to_vec())).collect();
    told.line("write 3000 parts at 2", many.write_at(2, &parts).await, |()| "ok".into());
    let all = many.read_at(2, 99_999).await.unwrap();
    told.line("they are there", Ok(all == parts.concat()), |same| same.to_string());
    // Blocks: parts of any length, above what is gathered at once, over what is there and behind the end; then bytes again.
    let blocks = told.open("blocks", true).await.unwrap();
    let mut expected = vec![0; 3 << 20];
    for (position, len) in [(4_096, 12_288), (0, 8_192), (1 << 20, (2 << 20) - 4_096), (12_288, 1 << 20)] {
        let pattern: Vec<u8> = (0..len).map(|i: usize| u8::try_from((i + position) % 251).unwrap()).collect();
        expected[position..position + len].copy_from_slice(&pattern);
        let pattern = Bytes::from(pattern);
        let cuts: Vec<usize> =
            (0..len).step_by(5_000).chain([len / 2, len / 2]).collect::<BTreeSet<_>>().into_iter().collect();
        let ends = cuts.iter().skip(1).copied().chain([len]);
        let parts: Vec<Bytes> = cuts.iter().zip(ends).map(|(from, to)| pattern.slice(*from..to)).collect();
        let written = blocks.write_blocks(position as u64, &parts).await;
        told.line(&format!("write {len} in blocks at {position}"), written, |()| "ok".into());
        told.line("len", blocks.len().await, |len| len.to_string());
    }
    expected.truncate((3 << 20) - 4_096);
    told.line("they are there", blocks.read_at(0, 9 << 20).await.map(|all| all == expected), |same| same.to_string());
    blocks.write_at(5_000, &[Bytes::from_static(b"over")]).await.unwrap();
    blocks.write_blocks(8_192, &[vec![7; 4_096].into()]).await.unwrap();
    expected[5_000..5_004].copy_from_slice(b"over");
    expected[8_192..12_288].fill(7);
    told.line("so they are", blocks.read_at(0, 9 << 20).await.map(|all| all == expected), |same| same.to_string());
    told.lines
}

#[tokio::test(start_paused = true)]
async fn the_simulated_disk_does_as_the_real_one() {
    let folder = tempfile::tempdir().unwrap();
    let real = told(&RealDisk::new(folder.path()).unwrap()).await;
    let simulated = told(&*SimDisk::new(Env::simulated(1, 0, TaskSet::default()), SimLimits::default())).await;
    assert_eq!(real, simulated);
    insta::assert_snapshot!(real, @r#"
    open missing: NotFound
    create no/folder: NotFound
    rename missing other: NotFound
    remove missing: ok
    list missing: []
    folder a/b: ok
    folder a: ok
    create a/one: ok
    read 5 at 0: ""
    write ["he", "", "llo"] at 0: ok
    len: 5
    read 3 at 0: "hel"
    read 10 at 3: "lo"
    read 1 at 5: ""
    read 1 at 100: ""
    write ["E"] at 1: ok
    len: 5
    write ["far"] at 8: ok
    len: 11
    read 99 at 0: "hEllo\0\0\0far"
    set length 3: ok
    read 99 at 0: "hEl"
    set length 6: ok
    read 99 at 0: "hEl\0\0\0"
    write ["!"] at 7: ok
    len: 8
    read 99 at 0: "hEl\0\0\0\0!"
    sync: ok
    create a/one: ok
    read 2 at 0: "hE"
    write ["H"] at 0: ok
    len: 8
    read 2 at 0: "HE"
    create a/two: ok
    write ["second"] at 0: ok
    len: 6
    create a/b/three: ok
    list a: ["b", "one", "two"]
    list a/b: ["three"]
    rename a/two a/one: ok
    list a: ["b", "one"]
    open a/two: NotFound
    open a/one: ok
    read 99 at 0: "second"
    read 2 at 0: "HE"
    write ["!"] at 6: ok
    len: 7
    read 99 at 0: "second!"
    rename a/one a/one: ok
    rename a/one a/b/one: ok
    list a/b: ["one", "three"]
    sync a: ok
    remove a/b/three: ok
    list a/b: ["one"]
    remove a: ok
    list a: []
    open a/b/one: NotFound
    read 6 at 0: "second"
    create many: ok
    write 3000 parts at 2: ok
    they are there: true
    create blocks: ok
    write 12288 in blocks at 4096: ok
    len: 16384
    write 8192 in blocks at 0: ok
    len: 16384
    write 2093056 in blocks at 1048576: ok
    len: 3141632
    write 1048576 in blocks at 12288: ok
    len: 3141632
    they are there: true
    so they are: true
    "#);
}

/// Readers share the handle of the file of the write-ahead log that is being written.
#[test]
fn what_is_written_in_blocks_is_read_by_others_meanwhile() {
    const BLOCKS: u64 = 2_000;
    let folder = tempfile::tempdir().unwrap();
    let disk = RealDisk::new(folder.path()).unwrap();
    let file = disk.open("blocks", true).now_or_never().unwrap().unwrap();
    let (reader, (ended, all_read)) = (file.clone(), std::sync::mpsc::channel());
    let read = move || -> LocalFuture {
        Box::pin(async move {
            let mut seen = 0;
            while seen < BLOCKS {
                let read = reader.read_at(seen * BLOCK, 100).await.map_err(|error| error.to_string());
                match read {
                    Ok(bytes) if bytes.is_empty() => {}
                    Ok(bytes) if bytes[..8] == seen.to_le_bytes() => seen += 1,
                    other => return ended.send(Err(format!("block {seen}: {other:?}"))).unwrap(),
                }
            }
            ended.send(Ok(())).unwrap();
        })
    };
    Env::real().spawn_thread("test-reader", read).unwrap();
    for block in 0..BLOCKS {
        let mut bytes = vec![0; usize::try_from(BLOCK).unwrap()];
        bytes[..8].copy_from_slice(&block.to_le_bytes());
        file.write_blocks(block * BLOCK, &[bytes.into()]).now_or_never().unwrap().unwrap();
    }
    assert_eq!(all_read.recv().unwrap(), Ok(()));
}
