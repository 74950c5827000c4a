//! Opening a data directory: identity, recovery, the new WAL file, the groups, then the threads.

use super::{
    OpenError, Options,
    cache::Cache,
    core::{Common, Core},
    directory::Inner,
    entry::Owner,
    load::load,
    reader::Readers,
    recovery::{Recovered, recover},
    replay::Replayed,
    retire::Retirer,
    segment,
    wal::Wal,
    walfiles,
};
use crate::{
    DirectoryId, GroupId, ReplicaId,
    disk::Disk,
    env::{Env, LocalFuture},
    observe,
};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
};
use tokio::sync::mpsc;

/// Holds the directory's id: `magic u64 | version u16 | id u64 | crc u32`. Written last at the first start.
const IDENTITY: &str = "directory";
const MAGIC: u64 = 0x5249_445f_5257_4748;
const VERSION: u16 = 1;
pub(super) const GROUPS: &str = "groups";

pub(super) async fn open(disk: Arc<dyn Disk>, options: Options, env: Env) -> Result<Inner, OpenError> {
    disk.create_directory(walfiles::FOLDER).await?;
    disk.create_directory(GROUPS).await?;
    disk.sync_directory("").await?;
    let stored = identity(&*disk).await?;
    let id = stored.unwrap_or_else(|| DirectoryId(env.random_u64()));
    let recovered = recover(&*disk, id, stored.is_none(), &env).await?;
    let common = Arc::new(Common::new(id, disk, options, env));
    let (wal, recovered, jobs_rx) = first_file(&common, recovered).await?;
    if stored.is_none() {
        store_identity(&*common.disk, id).await?;
    }
    for path in &recovered.junk {
        common.disk.remove(path).await?;
    }
    if stored.is_some() {
        remove_forgotten(&*common.disk, &recovered.replay.groups).await?;
    }
    let jobs = wal.jobs.clone();
    let (wal, faulty) = groups(&common, wal, recovered.replay.groups).await?;
    let notes = wal.notes.clone();
    common.measure();
    let core = start(&common, wal, jobs, jobs_rx)?;
    let changes = std::array::from_fn(|_| tokio::sync::Mutex::new(()));
    Ok(Inner { core, faulty: Mutex::new(faulty), notes: Mutex::new(notes), changes })
}

async fn identity(disk: &dyn Disk) -> Result<Option<DirectoryId>, OpenError> {
    if !disk.list("").await?.iter().any(|name| name == IDENTITY) {
        return Ok(None);
    }
    decode_identity(&disk.open(IDENTITY, false).await?.read_at(0, 64).await?).map(Some)
}

pub(super) fn decode_identity(bytes: &Bytes) -> Result<DirectoryId, OpenError> {
    let damaged = |why: &str| OpenError::Damaged { file: IDENTITY.into(), why: why.into() };
    if bytes.len() != 22 {
        return Err(damaged("its length is wrong"));
    }
    let mut from = bytes.clone();
    let (magic, version, id) = (from.get_u64_le(), from.get_u16_le(), from.get_u64_le());
    if from.get_u32_le() != crc32c::crc32c(&bytes[..18]) || magic != MAGIC {
        return Err(damaged("its checksum does not match"));
    }
    if version != VERSION {
        return Err(OpenError::Version { file: IDENTITY.into(), found: version, known: VERSION });
    }
    Ok(DirectoryId(id))
}

pub(super) fn encode_identity(id: DirectoryId) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u64_le(MAGIC);
    out.put_u16_le(VERSION);
    out.put_u64_le(id.0);
    let crc = crc32c::crc32c(&out);
    out.put_u32_le(crc);
    out.freeze()
}

async fn store_identity(disk: &dyn Disk, id: DirectoryId) -> io::Result<()> {
    write_whole(disk, "", IDENTITY, encode_identity(id)).await
}

/// Writes a file so that it is there as a whole, durably, or not at all.
pub(super) async fn write_whole(disk: &dyn Disk, folder: &str, path: &str, bytes: Bytes) -> io::Result<()> {
    let new = format!("{path}.new");
    let file = disk.open(&new, true).await?;
    file.set_len(bytes.len() as u64).await?;
    file.write_at(0, &[bytes]).await?;
    file.sync().await?;
    disk.rename(&new, path).await?;
    disk.sync_directory(folder).await
}

type Jobs = mpsc::UnboundedReceiver<super::core::Job>;

/// Makes the file that this life writes, with the table and what was not proven synced; synced on return.
async fn first_file(common: &Arc<Common>, mut recovered: Recovered) -> io::Result<(Wal, Recovered, Jobs)> {
    recovered.spares.drain(..).for_each(|spare| common.spares.add(spare));
    for (sequence, file, end) in std::mem::take(&mut recovered.files) {
        common.files.insert(sequence, file, end);
    }
    let sequence = recovered.next_sequence;
    if common.spares.count() == 0 {
        walfiles::make_spare(&*common.disk, &common.spares, sequence, common.options.wal_file_bytes).await?;
    }
    let file = walfiles::create(&*common.disk, common.id, &common.spares, sequence).await?;
    common.files.insert(sequence, file.clone(), 0);
    let (jobs, jobs_rx) = mpsc::unbounded_channel();
    let replay = &recovered.replay;
    let mut wal = Wal {
        common: common.clone(),
        jobs,
        sequence,
        file,
        position: 0,
        sync_seq: recovered.sync_seq,
        digest: recovered.digest,
        groups: replay.groups.iter().map(|(group, known)| (*group, known.hard.clone())).collect(),
        notes: replay.notes.clone(),
        damages: replay.known_damages.iter().chain(&replay.damages).copied().collect(),
        retired: 0,
        cache: Cache::new(common.options.cache_bytes),
        fresh: common.options.wal_file_bytes,
    };
    let from = recovered.tail_file;
    let (was, raw) = recovered.take_tail();
    let starts = wal.write_first(&raw).await?;
    recovered.relocate(&was, from, sequence, &starts);
    Ok((wal, recovered, jobs_rx))
}

/// Removes the folders of replicas that were removed or replaced before a crash. Faulty ones are not forgotten.
async fn remove_forgotten(disk: &dyn Disk, replayed: &BTreeMap<GroupId, Replayed>) -> io::Result<()> {
    for name in disk.list(GROUPS).await? {
        let path = format!("{GROUPS}/{name}");
        let Some(Owner { group, replica }) = segment::owner(&path) else { continue };
        if replayed.get(&group).is_none_or(|known| known.hard.replica != replica) {
            tracing::info!(%group, %replica, "the files of a replica that is gone are removed");
            disk.remove(&path).await?;
        }
    }
    Ok(())
}

type Faulty = BTreeMap<GroupId, (ReplicaId, String)>;

/// Opens the groups; those whose files are damaged become faulty (the next table says so).
async fn groups(common: &Common, mut wal: Wal, replayed: BTreeMap<GroupId, Replayed>) -> io::Result<(Wal, Faulty)> {
    let mut faulty = Faulty::new();
    for (group, known) in replayed {
        let owner = Owner { group, replica: known.hard.replica };
        let loaded = match known.hard.faulty.clone() {
            Some(why) => Err(why),
            None => load(common, owner, known).await?,
        };
        match loaded {
            Ok(shared) => drop(common.groups().insert(group, shared)),
            Err(why) => {
                tracing::error!(%group, replica = %owner.replica, why, "the group is faulty");
                observe::faulty(group, owner.replica, &why);
                if let Some(hard) = wal.groups.get_mut(&group) {
                    hard.faulty = Some(why.clone());
                }
                faulty.insert(group, (owner.replica, why));
            }
        }
    }
    Ok((wal, faulty))
}

fn start(
    common: &Arc<Common>,
    wal: Wal,
    jobs: mpsc::UnboundedSender<super::core::Job>,
    jobs_rx: Jobs,
) -> io::Result<Arc<Core>> {
    let (ops, ops_rx) = mpsc::unbounded_channel();
    let readers = Readers::start(common)?;
    let core = Arc::new(Core { common: common.clone(), ops, readers, jobs });
    common.env.spawn_thread("log-wal", move || -> LocalFuture { Box::pin(wal.run(ops_rx)) })?;
    let retirer = Retirer::new(common.clone(), Arc::downgrade(&core));
    common.env.spawn_thread("log-retire", move || -> LocalFuture { Box::pin(retirer.run(jobs_rx)) })?;
    Ok(core)
}
