//! The seam for faults: everything that touches a file goes through [`Disk`].
//!
//! The real disk completes each call at once, blocking, on the thread of whoever calls (the WAL thread, a reader);
//! the simulated one (`testing::disk`) waits in virtual time, loses unsynced bytes, tears, flips, fills up, stalls and fails.
//! Paths are relative to the data directory and use `/`.

mod real;
#[cfg(test)]
mod tests;

pub use real::RealDisk;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::{io, sync::Arc};

/// A directory of files that belongs to one node.
pub trait Disk: Send + Sync + 'static {
    /// Opens a file for reading and writing; creates it when `create` (then the directory still wants `sync_directory`).
    fn open<'a>(&'a self, path: &'a str, create: bool) -> BoxFuture<'a, io::Result<Arc<dyn File>>>;
    /// Names (no folders in front) of files and folders in `path`, sorted; empty when the folder does not exist.
    fn list<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<Vec<String>>>;
    /// Makes a folder and those above it.
    fn create_directory<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>>;
    /// Makes creations, renames and removals in `path` durable.
    fn sync_directory<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>>;
    /// Renames within the data directory, replacing what is there.
    fn rename<'a>(&'a self, from: &'a str, to: &'a str) -> BoxFuture<'a, io::Result<()>>;
    /// Removes a file; a folder with all in it.
    fn remove<'a>(&'a self, path: &'a str) -> BoxFuture<'a, io::Result<()>>;
    /// Bytes that may still be written.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// Bytes that disks write as one, or more than they do.
pub const BLOCK: u64 = 4096;

/// One open file.
#[allow(clippy::len_without_is_empty, reason = "nobody asks a file whether it is empty")]
pub trait File: Send + Sync + 'static {
    /// Writes `parts` one behind the other at `position`; durable only after `sync`.
    fn write_at<'a>(&'a self, position: u64, parts: &'a [Bytes]) -> BoxFuture<'a, io::Result<()>>;
    /// Reads up to `len` bytes; fewer only at the end of the file.
    fn read_at<'a>(&'a self, position: u64, len: usize) -> BoxFuture<'a, io::Result<Bytes>>;
    /// `fdatasync`.
    fn sync<'a>(&'a self) -> BoxFuture<'a, io::Result<()>>;
    /// Length in bytes.
    fn len<'a>(&'a self) -> BoxFuture<'a, io::Result<u64>>;
    /// Cuts or extends with zeros.
    fn set_len<'a>(&'a self, len: u64) -> BoxFuture<'a, io::Result<()>>;
    /// Writes whole blocks: `position` and the sum of `parts` are multiples of [`BLOCK`]. As `write_at`, but past the page
    /// cache where the file system can do that: for what will hardly be read soon.
    fn write_blocks<'a>(&'a self, position: u64, parts: &'a [Bytes]) -> BoxFuture<'a, io::Result<()>> {
        debug_assert!(is_whole(position, parts), "whole blocks");
        self.write_at(position, parts)
    }
}

fn is_whole(position: u64, parts: &[Bytes]) -> bool {
    let bytes: u64 = parts.iter().map(|part| part.len() as u64).sum();
    position.is_multiple_of(BLOCK) && bytes.is_multiple_of(BLOCK)
}
