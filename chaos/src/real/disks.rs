//! A file system per node that can lose what was not synced, fail, and be full. Root alone can do that.
//!
//! ```text
//!  ext4 of the node ─ loop device ─ disk.ext4 on ext4 ─ loop device ─ medium-N.ext4
//!                                   └─ the medium: its page cache is the disk's own memory, emptied by a flush
//! ```
//! Two, as nodes write past the page cache of theirs: so what they write without a flush can be lost, and so a flush can fail behind
//! writes that succeeded.

use anyhow::Context as _;
use std::{
    collections::BTreeMap,
    fs::File,
    os::{fd::AsFd, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};
use tokio::process::Command;

/// Bytes of a node's file system; the file has holes.
const SIZE: u64 = 2 << 30;
/// Bytes of the one below it.
const MEDIUM_SIZE: u64 = SIZE + SIZE / 4;
/// `EXT4_IOC_SHUTDOWN`, `_IOR('X', 125, u32)`: from then on nothing reaches the device, and every call fails.
const SHUTDOWN: rustix::ioctl::Opcode = 0x8004_587d;
/// Without writing the journal: what was not synced is gone.
const WITHOUT_LOG: u32 = 2;
/// `LOOP_GET_STATUS64` and `LOOP_SET_STATUS64`.
const LOOP_STATUS: (rustix::ioctl::Opcode, rustix::ioctl::Opcode) = (0x4c05, 0x4c04);
/// `struct loop_info64`, 232 bytes; bytes of the file that the device shows are at [`SHOWN`].
type Loop = [u64; 29];
const SHOWN: usize = 4;

/// File systems of one cluster, each mounted in a folder of its own.
pub(super) struct Disks {
    folder: PathBuf,
    fillers: std::cell::RefCell<BTreeMap<u32, PathBuf>>,
}

impl Disks {
    pub(super) async fn make(folder: &Path, nodes: u16) -> anyhow::Result<Self> {
        let disks = Self { folder: folder.to_owned(), fillers: std::cell::RefCell::default() };
        for node in 1..=u32::from(nodes) {
            for (image, at, size) in
                [(disks.medium_image(node), disks.medium(node), MEDIUM_SIZE), (disks.image(node), disks.at(node), SIZE)]
            {
                File::create(&image)?.set_len(size)?;
                run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), image.as_ref()]).await?;
                std::fs::create_dir_all(&at)?;
                mount(&image, &at).await?;
            }
        }
        Ok(disks)
    }

    /// Where the node's file system is mounted.
    pub(super) fn at(&self, node: u32) -> PathBuf {
        self.folder.join(format!("disk-{node}"))
    }

    fn image(&self, node: u32) -> PathBuf {
        self.medium(node).join("disk.ext4")
    }

    fn medium(&self, node: u32) -> PathBuf {
        self.folder.join(format!("medium-{node}"))
    }

    fn medium_image(&self, node: u32) -> PathBuf {
        self.folder.join(format!("medium-{node}.ext4"))
    }

    /// The power goes: nothing is written any more, not even a journal, and the disk's own memory is gone.
    pub(super) fn cut(&self, node: u32) -> anyhow::Result<()> {
        for at in [self.at(node), self.medium(node)] {
            let cut = File::open(&at).and_then(|folder| Ok(shutdown(folder.as_fd())?));
            cut.with_context(|| format!("could not cut the power of {}", at.display()))?;
        }
        Ok(())
    }

    /// The medium fails: it takes and gives nothing more. Writes go on to succeed, as they end in the disk's memory; the first call
    /// to fail is `fdatasync`, with `EIO`: what it could not write is gone, as on a disk that dies.
    pub(super) fn fail(&self, node: u32) -> anyhow::Result<()> {
        let device = std::fs::metadata(self.medium(node))?.dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let name = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}"))?;
        let name = name.file_name().context("a mounted disk is a device")?;
        let device = File::options().read(true).write(true).open(Path::new("/dev").join(name))?;
        shrink(device.as_fd())
            .with_context(|| format!("could not shrink the device of {}", self.medium(node).display()))
    }

    /// The power comes back: what the device holds is there. Nobody has a file open on it.
    pub(super) async fn restore(&self, node: u32) -> anyhow::Result<()> {
        run("umount", &[self.at(node).as_ref()]).await?;
        run("umount", &[self.medium(node).as_ref()]).await?;
        mount(&self.medium_image(node), &self.medium(node)).await?;
        mount(&self.image(node), &self.at(node)).await
    }

    /// Takes all the space there is.
    pub(super) fn fill(&self, node: u32) -> anyhow::Result<u64> {
        let path = self.at(node).join("filler");
        let file = File::create(&path)?;
        self.fillers.borrow_mut().insert(node, path);
        let mut taken = 0;
        // Large pieces first, as long as they fit.
        for piece in [64 << 20, 1 << 20, 4_096] {
            while rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), taken, piece).is_ok() {
                taken += piece;
            }
        }
        Ok(taken)
    }

    pub(super) fn is_full(&self, node: u32) -> bool {
        self.fillers.borrow().contains_key(&node)
    }

    /// Gives it back.
    pub(super) fn empty(&self, node: u32) -> anyhow::Result<()> {
        match self.fillers.borrow_mut().remove(&node) {
            Some(path) => Ok(std::fs::remove_file(path)?),
            None => Ok(()),
        }
    }

    /// Unmounts all, whatever is open on them.
    pub(super) fn close(&self, nodes: u16) {
        for node in 1..=u32::from(nodes) {
            for at in [self.at(node), self.medium(node)] {
                let _ = std::process::Command::new("umount").arg("-l").arg(at).output();
            }
        }
    }
}

async fn mount(image: &Path, at: &Path) -> anyhow::Result<()> {
    run("mount", &["-o".as_ref(), "loop".as_ref(), image.as_ref(), at.as_ref()]).await
}

#[allow(unsafe_code, reason = "the only way to lose what was not synced on a real file system")]
fn shutdown(folder: impl AsFd) -> rustix::io::Result<()> {
    // SAFETY: the opcode is that of EXT4_IOC_SHUTDOWN, which reads one u32; other file systems refuse it.
    unsafe { rustix::ioctl::ioctl(folder, rustix::ioctl::Setter::<SHUTDOWN, u32>::new(WITHOUT_LOG)) }
}

#[allow(unsafe_code, reason = "the only way to a device that fails behind its page cache, without device-mapper")]
fn shrink(device: impl AsFd) -> rustix::io::Result<()> {
    // SAFETY: both opcodes are those of loop devices, which write and read one `struct loop_info64`; other devices refuse them.
    unsafe {
        let mut status: Loop = rustix::ioctl::ioctl(&device, rustix::ioctl::Getter::<{ LOOP_STATUS.0 }, Loop>::new())?;
        // A single sector: whatever lies behind is beyond the end of the device.
        status[SHOWN] = 512;
        rustix::ioctl::ioctl(&device, rustix::ioctl::Setter::<{ LOOP_STATUS.1 }, Loop>::new(status))
    }
}

async fn run(program: &str, words: &[&std::ffi::OsStr]) -> anyhow::Result<()> {
    let output =
        Command::new(program).args(words).output().await.with_context(|| format!("could not run {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{program} {words:?}: {}", said.trim());
    Ok(())
}
