//! The retirer thread: everything that is not on the way of an append.
//!
//! A WAL file goes in this order: applied entries to segments (synced) → restart checkpoint of each group that had
//! some → the rest carried forward → a `Retired` record, synced → recycled. A crash in between repeats work, loses none.

use super::{
    Checkpoint, Entry, LogId, checkpoint,
    core::{Append, Body, Common, Core, Job, Running, closed, waiter},
    entry::{self, Owner},
    mover::move_applied,
    reader::{self, Cold},
    record::Record,
    segment::{self, Segment},
    state::{Place, Shared},
    walfiles,
};
use crate::{
    observe,
    sabotage::{self, Bug},
};
use std::{
    io,
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::sync::{mpsc, oneshot};

/// How long an owner may take for a restart checkpoint; without one a restart only takes longer.
const CHECKPOINT_WAIT: Duration = Duration::from_secs(5);
/// Payload bytes carried forward in one record.
const CARRY_BYTES: usize = 1 << 20;
/// Rounds over a file before it is left for the next time.
const ROUNDS: usize = 4;

pub(super) struct Retirer {
    common: Arc<Common>,
    core: Weak<Core>,
    spares_made: u64,
}

impl Retirer {
    pub(super) fn new(common: Arc<Common>, core: Weak<Core>) -> Self {
        Self { common, core, spares_made: 0 }
    }

    /// Serves until all senders are gone.
    pub(super) async fn run(mut self, mut jobs: mpsc::UnboundedReceiver<Job>) {
        let _running = Running(self.common.clone());
        while let Some(job) = jobs.recv().await {
            if self.common.failure().is_some() {
                continue;
            }
            match self.serve(job).await {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
                Err(error) => self.stop(error),
                Ok(()) => {}
            }
        }
    }

    /// A storage error is final for the WAL thread too.
    fn stop(&self, error: io::Error) {
        self.common.fail(&error);
        if let Some(core) = self.core.upgrade() {
            core.submit(Body::Fail(error), Box::new(|_| ()));
        }
    }

    async fn serve(&mut self, job: Job) -> io::Result<()> {
        match job {
            Job::Retire(upto) => self.retire(upto).await,
            Job::Spare => self.spare().await,
            Job::Installed(shared, last) => installed(&self.common, &shared, last).await,
            Job::Purged(shared, upto) => self.purged(&shared, upto).await,
            Job::Forgotten(owner) => self.common.disk.remove(&segment::folder(owner)).await,
            Job::Barrier(tx) => {
                let _ = tx.send(());
                Ok(())
            }
        }
    }

    async fn spare(&mut self) -> io::Result<()> {
        if self.common.spares.count() > 0 {
            return Ok(());
        }
        self.spares_made += 1;
        let newest = self.common.files.ends().last().map_or(0, |(sequence, _)| *sequence);
        let name = (newest << 8) | (self.spares_made & 0xff) | (1 << 63);
        walfiles::make_spare(&*self.common.disk, &self.common.spares, name, self.common.options.wal_file_bytes).await
    }

    /// Retires files up to `upto`, oldest first, until one had much that had to be carried forward.
    async fn retire(&mut self, upto: u64) -> io::Result<()> {
        let files = self.common.files.ends();
        for (file, _) in files.iter().filter(|(file, _)| *file <= upto) {
            let core = self.core.upgrade().ok_or_else(closed)?;
            let Some(carried) = self.empty(&core, *file).await? else {
                tracing::warn!(file, "a WAL file could not be emptied; it stays");
                return Ok(());
            };
            core.write(None, Record::Retired { next: file + 1 }).await?;
            self.common.files.remove(*file);
            walfiles::recycle(&*self.common.disk, &self.common.spares, *file).await?;
            observe::reached("write-ahead log file recycled");
            if carried > self.common.options.wal_file_bytes / 4 {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Makes a file unneeded. Gives the bytes carried forward; `None` when it is still needed.
    async fn empty(&self, core: &Core, file: u64) -> io::Result<Option<u64>> {
        let groups: Vec<_> = self.common.groups().values().cloned().collect();
        let mut carried = 0;
        for shared in groups {
            match self.empty_of(core, &shared, file).await {
                Ok(Some(bytes)) => carried += bytes,
                Ok(None) => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    // One replica's loss. The file stays until another has taken its place, so that a start finds it too.
                    shared.condemn(error.to_string());
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Some(carried))
    }

    /// Makes a file unneeded by one group.
    async fn empty_of(&self, core: &Core, shared: &Arc<Shared>, file: u64) -> io::Result<Option<u64>> {
        let (mut carried, mut rounds) = (0, 0);
        while holds(shared, file) {
            rounds += 1;
            if rounds > ROUNDS {
                return Ok(None);
            }
            if rounds == 1 {
                self.checkpointed(core, shared).await?;
            }
            if sabotage::on(Bug::RecycledEarly) {
                break;
            }
            carried += self.carry(core, shared, file).await?;
        }
        Ok(Some(carried))
    }

    /// Applied entries to segments, and a restart checkpoint that does not run ahead of them.
    async fn checkpointed(&self, core: &Core, shared: &Shared) -> io::Result<()> {
        let found = ask(shared).await;
        if sabotage::on(Bug::CheckpointAhead)
            && let Some(found) = &found
        {
            self.common.disk.create_directory(&segment::folder(shared.owner)).await?;
            self.common.disk.sync_directory(super::open::GROUPS).await?;
            let path = checkpoint::restart_path(shared.owner);
            checkpoint::write(&*self.common.disk, shared.owner, &path, found).await?;
        }
        move_applied(&self.common, core, shared).await?;
        let Some(found) = found else { return Ok(()) };
        let fits = {
            let state = shared.state();
            let newer = state.restart.as_ref().is_none_or(|known| known.last < found.last);
            newer && state.installed.is_none() && !state.gone && state.moved >= Some(found.last)
        };
        if fits {
            checkpoint::write(&*self.common.disk, shared.owner, &checkpoint::restart_path(shared.owner), &found)
                .await?;
            let mut state = shared.state();
            if state.restart.as_ref().is_none_or(|known| known.last < found.last) {
                state.restart = Some(found);
            }
        }
        Ok(())
    }

    /// Appends again what is in `file`; gives how many bytes.
    async fn carry(&self, core: &Core, shared: &Arc<Shared>, file: u64) -> io::Result<u64> {
        let mut bytes = 0;
        while let Some(colds) = next_carry(shared, file) {
            let cached =
                colds.iter().map(|c| shared.state().slot(c.head.id.index)?.cached()).collect::<Option<Vec<_>>>();
            let entries = match cached {
                Some(entries) => entries,
                None => match reader::read_wal(&self.common, shared, &colds).await {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(bytes),
                    other => other?,
                },
            };
            bytes += colds.iter().map(|cold| cold.head.size()).sum::<u64>();
            observe::reached("tail carried forward");
            queue_carry(core, shared, file, &colds, entries).await?;
        }
        Ok(bytes)
    }

    /// Deletes whole segments that are below both the log start and `upto`, Raft's start as the next life would find it.
    async fn purged(&self, shared: &Shared, upto: LogId) -> io::Result<()> {
        let gone: Vec<Segment> = {
            let mut state = shared.state();
            let start = state.start_offset;
            let keep = state.segments.iter().rposition(|s| s.offset <= start && s.base <= Some(upto)).unwrap_or(0);
            state.segments.drain(..keep).collect()
        };
        remove_segments(&self.common, shared.owner, gone).await
    }
}

/// Removes their files. Not synced: what comes back goes at the next start.
pub(super) async fn remove_segments(
    common: &Common,
    owner: Owner,
    gone: impl IntoIterator<Item = Segment>,
) -> io::Result<()> {
    for segment in gone {
        let path = segment.path(owner);
        let path = if segment.damaged { path + segment::ASIDE } else { path };
        for path in [path, segment.index_path(owner), segment.base_path(owner)] {
            common.disk.remove(&path).await?;
        }
    }
    Ok(())
}

/// Whether a group still needs a WAL file.
fn holds(shared: &Shared, file: u64) -> bool {
    let state = shared.state();
    !state.gone && state.slots.iter().any(|slot| matches!(slot.place, Place::Wal { file: f, .. } if f == file))
}

/// A restart checkpoint from the owner, once what is in it is noted as applied.
async fn ask(shared: &Shared) -> Option<Checkpoint> {
    let ask = shared.state().checkpointer.clone()?;
    let (tx, rx) = oneshot::channel();
    ask(tx);
    let wait = async {
        let found = rx.await.ok()?;
        loop {
            let moved = shared.applied_moved.notified();
            if shared.state().applied >= Some(found.last) {
                return Some(found);
            }
            moved.await;
        }
    };
    tokio::time::timeout(CHECKPOINT_WAIT, wait).await.ok().flatten()
}

/// The next run of neighbours that stand in `file`.
fn next_carry(shared: &Shared, file: u64) -> Option<Vec<Cold>> {
    let state = shared.state();
    let mut run: Vec<Cold> = Vec::new();
    let mut bytes = 0;
    for slot in &state.slots {
        match slot.place {
            Place::Wal { file: f, position } if f == file => {
                bytes += slot.head.len as usize;
                if bytes > CARRY_BYTES && !run.is_empty() {
                    break;
                }
                run.push(Cold { head: slot.head, file, position });
            }
            _ if run.is_empty() => {}
            _ => break,
        }
    }
    (!run.is_empty() && !state.gone).then_some(run)
}

async fn queue_carry(
    core: &Core,
    shared: &Arc<Shared>,
    file: u64,
    colds: &[Cold],
    entries: Vec<Entry>,
) -> io::Result<()> {
    let (first, end) = (colds[0].head.id.index, colds[0].head.id.index + colds.len() as u64);
    let encoded = entry::encode(shared.owner, entries);
    let (done, wait) = waiter();
    let queued = {
        let state = shared.state();
        let same = |cold: &Cold| {
            state
                .slot(cold.head.id.index)
                .is_some_and(|s| s.head == cold.head && s.place == Place::Wal { file, position: cold.position })
        };
        if state.gone || !colds.iter().all(same) {
            return Ok(());
        }
        let append = Append {
            shared: shared.clone(),
            first,
            end,
            epoch: state.epoch,
            carried_from: Some(file),
            at: encoded.entries.iter().map(|e| e.at).collect(),
            parts: encoded.parts,
            len: encoded.len,
        };
        // Under the lock: at this place of the queue these are the group's entries.
        core.queue(Body::Append(append), done)
    };
    if let Err(refused) = queued {
        refused.answer();
    }
    wait.await.unwrap_or_else(|_| Err(closed()))
}

/// Puts the checkpoint that was installed at `last` into files, so that its record's WAL file can go, and deletes what it
/// replaced. A later one, which may not be durable yet, has its own turn.
pub(super) async fn installed(common: &Common, shared: &Shared, last: LogId) -> io::Result<()> {
    let (checkpoint, newer) = {
        let state = shared.state();
        let Some(checkpoint) = state.installed.clone().filter(|checkpoint| checkpoint.last == last) else {
            return Ok(());
        };
        (checkpoint, state.restart.as_ref().is_some_and(|restart| restart.last > last))
    };
    let owner = shared.owner;
    let folder = segment::folder(owner);
    common.disk.create_directory(&folder).await?;
    common.disk.sync_directory(super::open::GROUPS).await?;
    let first = Segment::behind(Some(checkpoint.last), checkpoint.offset);
    checkpoint::write(&*common.disk, owner, &first.base_path(owner), &checkpoint).await?;
    if !newer {
        checkpoint::write(&*common.disk, owner, &checkpoint::restart_path(owner), &checkpoint).await?;
    }
    remove_below(common, owner, first.first).await?;
    let mut state = shared.state();
    if state.installed.as_ref() == Some(&checkpoint) {
        state.installed = None;
    }
    Ok(())
}

/// Removes files of segments that begin below `first`.
async fn remove_below(common: &Common, owner: Owner, first: u64) -> io::Result<()> {
    let folder = segment::folder(owner);
    for name in common.disk.list(&folder).await? {
        let starts_at = name.get(..16).and_then(|digits| u64::from_str_radix(digits, 16).ok());
        if starts_at.is_some_and(|at| at < first) {
            common.disk.remove(&format!("{folder}/{name}")).await?;
        }
    }
    // Once the install record's WAL file is gone nothing else tells old files from new ones.
    common.disk.sync_directory(&folder).await
}
