//! Checkpoint files: `restart` (the newest) and `<first index of a segment>.base` of each group.
//!
//! ```text
//!  magic u32 | version u16 | 0 ×2 | group u64 | replica u64 | checkpoint | crc u32
//! ```
//! Written beside, synced, renamed: a file is there as a whole or not at all.

use super::{
    Checkpoint,
    core::damaged,
    entry::Owner,
    frame::same_crc,
    open::write_whole,
    record::{Take, put_checkpoint, take_checkpoint},
    segment::folder,
};
use crate::disk::Disk;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::io;

const MAGIC: u32 = 0x4843_5748;
/// Version of the checkpoint format.
pub(super) const VERSION: u16 = 1;

pub(super) fn restart_path(owner: Owner) -> String {
    format!("{}/restart", folder(owner))
}

pub(super) fn encode(owner: Owner, checkpoint: &Checkpoint) -> Bytes {
    let mut out = BytesMut::with_capacity(checkpoint.machine.len() + checkpoint.membership.len() + 80);
    out.put_u32_le(MAGIC);
    out.put_u16_le(VERSION);
    out.put_u16_le(0);
    out.put_u64_le(owner.group.0);
    out.put_u64_le(owner.replica.0);
    put_checkpoint(&mut out, checkpoint);
    let crc = crc32c::crc32c(&out);
    out.put_u32_le(crc);
    out.freeze()
}

pub(super) fn decode(owner: Owner, bytes: &Bytes) -> Option<Checkpoint> {
    let body = bytes.len().checked_sub(4)?;
    if !same_crc((&bytes[body..]).get_u32_le(), crc32c::crc32c(&bytes[..body])) {
        return None;
    }
    let mut from = Take(bytes.slice(..body));
    let known = from.u32()? == MAGIC && from.u32()? == u32::from(VERSION);
    let ours = from.u64()? == owner.group.0 && from.u64()? == owner.replica.0;
    let checkpoint = take_checkpoint(&mut from)?;
    (known && ours && from.0.is_empty()).then_some(checkpoint)
}

pub(super) async fn write(disk: &dyn Disk, owner: Owner, path: &str, checkpoint: &Checkpoint) -> io::Result<()> {
    write_whole(disk, &folder(owner), path, encode(owner, checkpoint)).await
}

/// `None` when there is no such file.
pub(super) async fn read(disk: &dyn Disk, owner: Owner, path: &str) -> io::Result<Option<Checkpoint>> {
    let file = match disk.open(path, false).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let bytes = file.read_at(0, usize::try_from(file.len().await?).map_err(io::Error::other)?).await?;
    decode(owner, &bytes).map(Some).ok_or_else(|| damaged(format!("{path} does not verify")))
}
