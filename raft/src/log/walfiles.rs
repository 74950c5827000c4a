//! The files of the write-ahead log: names, handles, and the zero-filled ones that wait for their turn.
//!
//! `wal/<sequence, 16 hex digits>.wal`; `wal/spare-<number>`. A file is recycled by renaming it, never by rewriting
//! it under its name: the sequence in the name seeds every CRC in it.
//!
//! `wal/newest` names the newest of them: without it a log that lost its last file would look like a shorter one.
//!
//! ```text
//!  magic u32 | version u16 | 0 ×2 | directory id u64 | sequence u64 | crc u32
//! ```

use super::open::write_whole;
use crate::{
    DirectoryId,
    disk::{BLOCK, Disk, File},
};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

pub(super) const FOLDER: &str = "wal";
/// Spares that are kept; what retires beyond that is removed.
pub(super) const SPARES: usize = 2;
/// No directory fills so many files: there is always a next one.
const SEQUENCE_END: u64 = 1 << 62;
const ZEROS: usize = 1 << 20;
pub(super) const NEWEST: &str = "wal/newest";
const MAGIC: u32 = 0x4e57_5748;
/// Version of the newest file's note.
pub(super) const VERSION: u16 = 1;

pub(super) fn path(sequence: u64) -> String {
    format!("{FOLDER}/{sequence:016x}.wal")
}

/// The sequence in a file's name.
pub(super) fn sequence(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".wal")?;
    (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok())?.filter(|sequence| *sequence < SEQUENCE_END)
}

/// Files with live records; the highest is the one that is written.
#[derive(Default)]
pub(super) struct LiveFiles(Mutex<BTreeMap<u64, Live>>);

#[derive(Clone)]
pub(super) struct Live {
    pub(super) file: Arc<dyn File>,
    /// Where its frames end.
    pub(super) end: u64,
}

impl LiveFiles {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Live>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
    pub(super) fn insert(&self, sequence: u64, file: Arc<dyn File>, end: u64) {
        self.lock().insert(sequence, Live { file, end });
    }
    pub(super) fn extend(&self, sequence: u64, end: u64) {
        if let Some(live) = self.lock().get_mut(&sequence) {
            live.end = end;
        }
    }
    pub(super) fn file(&self, sequence: u64) -> Option<Arc<dyn File>> {
        self.lock().get(&sequence).map(|live| live.file.clone())
    }
    pub(super) fn remove(&self, sequence: u64) {
        self.lock().remove(&sequence);
    }
    /// Sequences and ends, ascending.
    pub(super) fn ends(&self) -> Vec<(u64, u64)> {
        self.lock().iter().map(|(sequence, live)| (*sequence, live.end)).collect()
    }
    /// Count and bytes.
    pub(super) fn totals(&self) -> (usize, u64) {
        let files = self.lock();
        (files.len(), files.values().map(|live| live.end).sum())
    }
}

/// Zero-filled or recycled files, ready to be renamed.
#[derive(Default)]
pub(super) struct Spares(Mutex<BTreeSet<String>>);

impl Spares {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
    pub(super) fn add(&self, path: String) {
        self.lock().insert(path);
    }
    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }
    fn take(&self) -> Option<String> {
        self.lock().pop_first()
    }
}

pub(super) fn encode_newest(id: DirectoryId, sequence: u64) -> Bytes {
    let mut out = BytesMut::with_capacity(28);
    out.put_u32_le(MAGIC);
    out.put_u16_le(VERSION);
    out.put_u16_le(0);
    out.put_u64_le(id.0);
    out.put_u64_le(sequence);
    let crc = crc32c::crc32c(&out);
    out.put_u32_le(crc);
    out.freeze()
}

/// The newest file as it was noted. A note that does not verify says nothing: it guards against one fault, not two.
pub(super) async fn newest(disk: &dyn Disk, id: DirectoryId) -> io::Result<Option<u64>> {
    let file = match disk.open(NEWEST, false).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let bytes = file.read_at(0, 64).await?;
    let sequence = bytes.get(16..24).map_or(0, |mut part| part.get_u64_le());
    if bytes != encode_newest(id, sequence) || sequence >= SEQUENCE_END {
        tracing::warn!("{NEWEST} does not verify: a missing newest file would go unnoticed this time");
        return Ok(None);
    }
    Ok(Some(sequence))
}

/// Opens the file of a new sequence: a spare, else a new one that grows. Its name is durable on return, and noted.
pub(super) async fn create(
    disk: &dyn Disk,
    id: DirectoryId,
    spares: &Spares,
    sequence: u64,
) -> io::Result<Arc<dyn File>> {
    let path = path(sequence);
    if let Some(spare) = spares.take() {
        disk.rename(&spare, &path).await?;
    }
    let file = disk.open(&path, true).await?;
    disk.sync_directory(FOLDER).await?;
    write_whole(disk, FOLDER, NEWEST, encode_newest(id, sequence)).await?;
    Ok(file)
}

/// Makes a zero-filled spare.
pub(super) async fn make_spare(disk: &dyn Disk, spares: &Spares, name: u64, bytes: u64) -> io::Result<()> {
    let path = format!("{FOLDER}/spare-{name:016x}");
    let file = disk.open(&path, true).await?;
    let bytes = bytes.next_multiple_of(BLOCK);
    let piece = |left: u64| usize::try_from(left).unwrap_or(ZEROS).min(ZEROS);
    let zeros = Bytes::from(vec![0; piece(bytes)]);
    let mut at = 0;
    while at < bytes {
        let part = zeros.slice(..piece(bytes - at));
        let len = part.len() as u64;
        file.write_blocks(at, &[part]).await?;
        at += len;
    }
    file.sync().await?;
    spares.add(path);
    Ok(())
}

/// A file that retired becomes a spare, or goes.
pub(super) async fn recycle(disk: &dyn Disk, spares: &Spares, sequence: u64) -> io::Result<()> {
    let from = path(sequence);
    if spares.count() >= SPARES {
        return disk.remove(&from).await;
    }
    let to = format!("{FOLDER}/spare-{sequence:016x}");
    disk.rename(&from, &to).await?;
    spares.add(to);
    Ok(())
}
