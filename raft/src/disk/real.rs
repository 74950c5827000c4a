//! The operating system's files. Every call completes at once on its caller's thread: so only threads that may wait for
//! a disk call it (the WAL thread, the retirer, readers).

use super::{BLOCK, Disk, File, is_whole};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::{
    cell::RefCell,
    fs, io,
    io::IoSlice,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

/// Linux takes at most 1,024 parts per call.
const PARTS_MAX: usize = 1024;
/// Bytes that are gathered for one write past the page cache.
const GATHER_BYTES: usize = 1 << 20;

thread_local! {
    /// Where blocks are gathered, with room to begin at a multiple of [`BLOCK`]: always the same memory, so it stays in the
    /// processor's caches.
    static GATHER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A directory of the file system.
#[derive(Debug)]
pub struct RealDisk {
    root: PathBuf,
    /// Held for as long as this lives.
    _lock: fs::File,
}

impl RealDisk {
    /// Uses `root`, which is made when it is not there. Fails while another process (or another disk of this one) uses it.
    pub fn new(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        make_root(&root).map_err(|e| named(e, "create", &root))?;
        let path = root.join("lock");
        let lock = fs::File::options().create(true).truncate(false).write(true).open(&path);
        let lock = lock.map_err(|e| named(e, "open", &path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { root, _lock: lock }),
            Err(fs::TryLockError::WouldBlock) => {
                let why = io::Error::new(io::ErrorKind::ResourceBusy, "another node uses it");
                Err(named(why, "lock", &root))
            }
            Err(fs::TryLockError::Error(e)) => Err(named(e, "lock", &path)),
        }
    }

    fn path(&self, path: &str) -> PathBuf {
        assert!(
            !path.split('/').any(|part| part == "..") && !path.starts_with('/'),
            "a path inside the data directory: {path}"
        );
        self.root.join(path)
    }

    fn list_now(&self, path: &str) -> io::Result<Vec<String>> {
        let path = self.path(path);
        let read = match fs::read_dir(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(|e| named(e, "list", &path))?,
        };
        let mut names = Vec::new();
        for entry in read {
            // Names that are not UTF-8 are not ours.
            names.extend(entry?.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }

    fn remove_now(&self, path: &str) -> io::Result<()> {
        let path = self.path(path);
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match removed {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(named(e, "remove", &path)),
            _ => Ok(()),
        }
    }
}

/// Makes the data directory and those above it, durably: where its name is lost, all that was synced in it is gone.
fn make_root(root: &Path) -> io::Result<()> {
    let missing = root.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists());
    let missing: Vec<&Path> = missing.collect();
    fs::create_dir_all(root)?;
    for made in missing {
        let above = made.parent().filter(|above| !above.as_os_str().is_empty());
        fs::File::open(above.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(())
}

/// Adds what was tried, and on what, to an error.
fn named(error: io::Error, what: &str, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()))
}

fn now<'a, T: Send + 'a>(result: io::Result<T>) -> BoxFuture<'a, io::Result<T>> {
    Box::pin(std::future::ready(result))
}

impl Disk for RealDisk {
    fn open<'a>(&'a self, path: &'a str, create: bool) -> BoxFuture<'a, io::Result<Arc<dyn File>>> {
        let path = self.path(path);
        let opened = fs::OpenOptions::new().read(true).write(true).create(create).truncate(false).open(&path);
        now(opened.map_err(|e| named(e, "open", &path)).map(|file| RealFile::of(file, path)))
    }
    fn list<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<Vec<String>>> {
        now(self.list_now(path))
    }
    fn create_directory<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        let path = self.path(path);
        now(fs::create_dir_all(&path).map_err(|e| named(e, "create", &path)))
    }
    fn sync_directory<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        let path = self.path(path);
        now(fs::File::open(&path).and_then(|d| d.sync_all()).map_err(|e| named(e, "sync", &path)))
    }
    fn rename<'a>(&'a self, from: &'a str, to: &'a str) -> BoxFuture<'a, io::Result<()>> {
        let (from, to) = (self.path(from), self.path(to));
        now(fs::rename(&from, &to).map_err(|e| named(e, "rename", &from)))
    }
    fn remove<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>> {
        now(self.remove_now(path))
    }
    fn free_bytes(&self) -> io::Result<u64> {
        let fs = rustix::fs::statvfs(&self.root).map_err(|e| named(e.into(), "free space of", &self.root))?;
        Ok(fs.f_bavail.saturating_mul(fs.f_frsize))
    }
}

struct RealFile {
    file: fs::File,
    path: PathBuf,
    /// For writes past the page cache, from the first one on; `None` where there are none.
    direct: OnceLock<Option<fs::File>>,
}

impl RealFile {
    fn of(file: fs::File, path: PathBuf) -> Arc<dyn File> {
        Arc::new(Self { file, path, direct: OnceLock::new() })
    }

    fn write_now(&self, mut position: u64, parts: &[Bytes]) -> io::Result<()> {
        for group in parts.chunks(PARTS_MAX) {
            let mut slices: Vec<_> = group.iter().filter(|p| !p.is_empty()).map(|p| IoSlice::new(p)).collect();
            write_all(&self.file, position, &mut slices)?;
            position += group.iter().map(|part| part.len() as u64).sum::<u64>();
        }
        Ok(())
    }

    fn write_blocks_now(&self, position: u64, parts: &[Bytes]) -> io::Result<()> {
        debug_assert!(is_whole(position, parts), "whole blocks");
        match self.write_direct(position, parts) {
            // The file system has no such writes; what was written already is written again.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => self.write_now(position, parts),
            other => other,
        }
    }

    fn write_direct(&self, position: u64, parts: &[Bytes]) -> io::Result<()> {
        let direct = self.direct.get_or_init(|| past_the_cache(&self.file).ok());
        let file = direct.as_ref().ok_or(io::ErrorKind::InvalidInput)?;
        GATHER.with_borrow_mut(|gather| write_gathered(file, gather, position, parts))
    }

    fn read_now(&self, mut position: u64, len: usize) -> io::Result<Bytes> {
        let mut buffer = Vec::with_capacity(len);
        while buffer.len() < len {
            let mut left = Vec::new();
            let into = if buffer.is_empty() {
                &mut buffer
            } else {
                left.reserve_exact(len - buffer.len());
                &mut left
            };
            match rustix::io::pread(&self.file, rustix::buffer::spare_capacity(into), position) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(e) => return Err(e.into()),
                Ok(0) => break,
                Ok(read) => position += read as u64,
            }
            buffer.extend_from_slice(&left);
        }
        buffer.truncate(len);
        Ok(buffer.into())
    }
}

/// Another handle of an open file, whose writes go past the page cache. Not a flag of the first one: others read by that.
#[cfg(target_os = "linux")]
fn past_the_cache(file: &fs::File) -> io::Result<fs::File> {
    use std::os::{fd::AsRawFd, unix::fs::OpenOptionsExt};
    let direct = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).map_err(io::Error::other)?;
    // By the handle: the file may have another name by now.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    fs::OpenOptions::new().write(true).custom_flags(direct).open(path)
}

#[cfg(not(target_os = "linux"))]
fn past_the_cache(_: &fs::File) -> io::Result<fs::File> {
    Err(io::ErrorKind::Unsupported.into())
}

fn write_gathered(file: &fs::File, gather: &mut Vec<u8>, mut position: u64, parts: &[Bytes]) -> io::Result<()> {
    let block = usize::try_from(BLOCK).expect("a page");
    gather.resize(GATHER_BYTES + block, 0);
    let skip = gather.as_ptr().align_offset(block);
    let room = &mut gather[skip..skip + GATHER_BYTES];
    let (mut filled, mut parts) = (0, parts.iter().map(|part| &part[..]).filter(|part| !part.is_empty()));
    let mut rest: &[u8] = &[];
    loop {
        if rest.is_empty() {
            rest = parts.next().unwrap_or_default();
        }
        let take = rest.len().min(room.len() - filled);
        room[filled..filled + take].copy_from_slice(&rest[..take]);
        (filled, rest) = (filled + take, &rest[take..]);
        if filled == room.len() || (take == 0 && filled > 0) {
            write_all(file, position, &mut [IoSlice::new(&room[..filled])])?;
            position += filled as u64;
            filled = 0;
        }
        if take == 0 {
            return Ok(());
        }
    }
}

fn write_all(file: &fs::File, mut position: u64, mut parts: &mut [IoSlice<'_>]) -> io::Result<()> {
    while !parts.is_empty() {
        let written = match rustix::io::pwritev(file, parts, position) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(e) => return Err(e.into()),
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => written,
        };
        position += written as u64;
        IoSlice::advance_slices(&mut parts, written);
    }
    Ok(())
}

impl File for RealFile {
    fn write_at<'a>(&'a self, position: u64, parts: &'a [Bytes]) -> BoxFuture<'a, io::Result<()>> {
        now(self.write_now(position, parts).map_err(|e| named(e, "write", &self.path)))
    }
    fn read_at<'a>(&'a self, position: u64, len: usize) -> BoxFuture<'a, io::Result<Bytes>> {
        now(self.read_now(position, len).map_err(|e| named(e, "read", &self.path)))
    }
    fn sync<'a>(&'a self) -> BoxFuture<'a, io::Result<()>> {
        now(self.file.sync_data().map_err(|e| named(e, "sync", &self.path)))
    }
    fn len<'a>(&'a self) -> BoxFuture<'a, io::Result<u64>> {
        now(self.file.metadata().map(|m| m.len()).map_err(|e| named(e, "length of", &self.path)))
    }
    fn set_len<'a>(&'a self, len: u64) -> BoxFuture<'a, io::Result<()>> {
        now(self.file.set_len(len).map_err(|e| named(e, "set length of", &self.path)))
    }
    fn write_blocks<'a>(&'a self, position: u64, parts: &'a [Bytes]) -> BoxFuture<'a, io::Result<()>> {
        now(self.write_blocks_now(position, parts).map_err(|e| named(e, "write", &self.path)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_the_same_where_the_file_system_writes_none_past_its_cache() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let open = || fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        let parts = [Bytes::from(vec![1; 5_000]), Bytes::from(vec![2; 3_192])];
        let plain = RealFile { file: open(), path: path.clone(), direct: OnceLock::from(None) };
        plain.write_blocks_now(4_096, &parts).unwrap();
        assert_eq!(plain.read_now(4_096, 9_999).unwrap(), parts.concat());
        // Some systems let it be opened, and refuse the write: an odd position stands for that, where it is one.
        let Ok(direct) = past_the_cache(&open()) else { return };
        let refuses = RealFile { file: open(), path, direct: OnceLock::from(Some(direct)) };
        if let Err(refused) = refuses.write_direct(1, &parts) {
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "what makes it write the old way");
        }
    }
}
