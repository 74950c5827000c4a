//! What sealed data costs a start: nothing but the names of its files.

use super::*;
use crate::disk::{Disk, File};
use futures_util::future::BoxFuture;
use std::sync::Mutex;

/// A disk that counts what is opened and read below `groups`.
struct Counting {
    disk: Arc<SimDisk>,
    count: Arc<Mutex<Count>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    opened: u64,
    reads: u64,
    bytes: u64,
}

struct CountingFile {
    file: Arc<dyn File>,
    count: Option<Arc<Mutex<Count>>>,
}

impl Disk for Counting {
    fn open<'a>(&'a self, path: &'a str, create: bool) -> BoxFuture<'a, io::Result<Arc<dyn File>>> {
        Box::pin(async move {
            let file = self.disk.open(path, create).await?;
            let count = path.starts_with("groups/").then(|| self.count.clone());
            count.iter().for_each(|count| count.lock().unwrap().opened += 1);
            Ok(Arc::new(CountingFile { file, count }) as Arc<dyn File>)
        })
    }
    fn list<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<Vec<String>>> {
        self.disk.list(path)
    }
    fn create_directory<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        self.disk.create_directory(path)
    }
    fn sync_directory<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        self.disk.sync_directory(path)
    }
    fn rename<'a>(&'a self, from: &'a str, to: &'a str) -> BoxFuture<'a, io::Result<()>> {
        self.disk.rename(from, to)
    }
    fn remove<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        self.disk.remove(path)
    }
    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }
}

impl File for CountingFile {
    fn write_at<'a>(&'a self, position: u64, parts: &'a [Bytes]) -> BoxFuture<'a, io::Result<()>> {
        self.file.write_at(position, parts)
    }
    fn read_at<'a>(&'a self, position: u64, len: usize) -> BoxFuture<'a, io::Result<Bytes>> {
        Box::pin(async move {
            let bytes = self.file.read_at(position, len).await?;
            if let Some(count) = &self.count {
                let mut count = count.lock().unwrap();
                count.reads += 1;
                count.bytes += bytes.len() as u64;
            }
            Ok(bytes)
        })
    }
    fn sync<'a>(&'a self) -> BoxFuture<'a, io::Result<()>> {
        self.file.sync()
    }
    fn len<'a>(&'a self) -> BoxFuture<'a, io::Result<u64>> {
        self.file.len()
    }
    fn set_len<'a>(&'a self, len: u64) -> BoxFuture<'a, io::Result<()>> {
        self.file.set_len(len)
    }
}

fn checkpoint(index: u64) -> Checkpoint {
    let last = LogId { term: 1, index };
    Checkpoint { last, offset: index + 1, membership: Bytes::new(), machine: Bytes::from(format!("at {index:06}")) }
}

/// Opens a directory whose group has so many sealed segments of about 60 KiB: what that opened and read of the group's files,
/// and how much there is.
async fn start_with(segments: u64) -> (Count, u64) {
    const PER_SEGMENT: u64 = 8;
    let mut node = Node::new(18);
    // One file of the write-ahead log: the retirer moves nothing by itself.
    let options = Options { wal_file_bytes: 8 << 20, ..small() };
    let directory = node.open_with(options.clone()).await;
    let group = create(&directory, G).await;
    let end = segments * PER_SEGMENT + 4;
    for index in 0..end {
        append(&group, vec![entry(index, 1, 7_500)]).await.unwrap();
        group.note_applied(vec![Stamp {
            index,
            offset: index,
            offset_end: index + 1,
            max_timestamp: -1,
            note: Bytes::new(),
        }]);
        if index % PER_SEGMENT == PER_SEGMENT - 1 {
            group.seal(checkpoint(index));
        }
    }
    super::super::mover::move_applied(&group.core.common, &group.core, &group.shared).await.unwrap();
    sealed().await;
    directory.close().await;
    node.kill();
    let count = Arc::new(Mutex::new(Count::default()));
    let disk = Arc::new(Counting { disk: node.disk.clone(), count: count.clone() });
    let directory = Directory::open(disk, options, node.env.clone()).await.unwrap();
    let opened = *count.lock().unwrap();
    let group = directory.group(G).unwrap();
    assert_eq!(group.applied(), Some(LogId { term: 1, index: end - 1 }), "all is in segments");
    let of_group = node.disk.files().into_iter().filter(|(path, _)| path.starts_with("groups/"));
    let (files, bytes): (Vec<_>, Vec<_>) = of_group.unzip();
    assert_eq!(files.iter().filter(|path| path.ends_with(".seg")).count() as u64, segments + 1);
    // And it is all there.
    assert_eq!(group.read(3, 4, 1).await.unwrap(), vec![entry(3, 1, 7_500)]);
    assert!(count.lock().unwrap().bytes > opened.bytes, "reads of segments count");
    (opened, bytes.iter().sum())
}

#[tokio::test(start_paused = true)]
async fn a_start_reads_as_much_of_a_group_with_fifty_sealed_segments_as_of_one_with_two() {
    local(async {
        let (two, little) = start_with(2).await;
        let (fifty, much) = start_with(50).await;
        eprintln!("of {little} bytes {two:?}, of {much} bytes {fifty:?}");
        assert!(much > 15 * little);
        assert_eq!(two, fifty);
        assert!(fifty.bytes < 4_096 && fifty.opened <= 3, "{fifty:?}");
    })
    .await;
}
