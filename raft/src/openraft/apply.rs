//! openraft's state machine: hands committed entries to the owner and keeps what the log needs of them.
//!
//! **Invariant:** one `Committed` at a time: the next is sent after the answer to the one before.
//! **Invariant:** boundaries are a function of the log alone: the entry with which the payload bytes since the last one
//! reach the log's limit ends a segment, on every replica.
//! **Invariant:** a checkpoint is taken between two applies, so machine, membership and applied id belong together.

use super::{
    codec::{Beside, MEMBERSHIP, from_log},
    replica::Shared,
    types::{Content, LogId, Snapshot, SnapshotMeta, StoredMembership, Types, log_id, own_id},
};
use crate::{
    Payload,
    group::{AppliedAnswer, Committed, Event},
    log, observe,
};
use ::openraft::{
    OptionalSend, RaftSnapshotBuilder,
    storage::{EntryResponder, RaftStateMachine},
};
use futures_util::{Stream, TryStreamExt};
use std::{io, sync::Arc};
use tokio::sync::oneshot;

/// The state machine of one replica as openraft sees it.
pub(crate) struct Applier {
    shared: Arc<Shared>,
    applied: Option<LogId>,
    beside: Beside,
}

impl Applier {
    /// Gives the owner the newest checkpoint of the log, if there is one.
    pub(super) async fn start(shared: Arc<Shared>) -> io::Result<Self> {
        let base = shared.log.base_checkpoint().await?;
        let newest =
            [shared.log.restart_checkpoint(), base].into_iter().flatten().max_by_key(|checkpoint| checkpoint.last);
        let mut applier = Applier { shared, applied: None, beside: Beside::default() };
        if let Some(checkpoint) = newest {
            applier.restore(checkpoint).await?;
        }
        Ok(applier)
    }

    pub(super) fn applied(&self) -> Option<u64> {
        self.applied.as_ref().map(|applied| applied.index)
    }

    async fn restore(&mut self, checkpoint: log::Checkpoint) -> io::Result<()> {
        let beside = Beside::decode(checkpoint.membership).map_err(io::Error::other)?;
        let (done, restored) = oneshot::channel();
        let log::Checkpoint { last, offset, machine, .. } = checkpoint;
        self.shared.owner.event(Event::Restore { machine, offset, last, done });
        match restored.await {
            Ok(Ok(())) => {}
            Ok(Err(damaged)) => {
                self.shared.log.condemn(damaged.to_string());
                return Err(io::Error::other(damaged));
            }
            Err(_) => return Err(io::Error::other("the owner dropped a checkpoint")),
        }
        self.beside = beside;
        self.advance(last);
        Ok(())
    }

    /// The state at what is applied now; `None` when nothing is, or when the owner does not answer.
    pub(super) async fn checkpoint(&self) -> Option<log::Checkpoint> {
        let last = own_id(self.applied.as_ref()?);
        let (reply, state) = oneshot::channel();
        self.shared.owner.event(Event::Checkpoint { reply });
        let state = state.await.ok()?;
        Some(log::Checkpoint { last, offset: state.offset, membership: self.beside.encode(), machine: state.machine })
    }

    fn advance(&mut self, last: log::LogId) {
        self.applied = Some(log_id(last));
        self.shared.tail.applied(last.index);
        self.shared.applied.send_replace(Some(last));
    }

    /// Applies entries `from..end`, in chunks bounded by bytes and cut at boundaries.
    async fn apply_range(&mut self, mut from: u64, end: u64) -> io::Result<()> {
        while from < end {
            let entries = self.shared.log.read(from, end, self.shared.options.apply_bytes).await?;
            if entries.first().is_none_or(|entry| entry.index != from) {
                return Err(io::Error::other(format!("committed entry {from} is not readable")));
            }
            let mut rest = entries.into_iter().peekable();
            while rest.peek().is_some() {
                let (chunk, boundary) = self.chunk(&mut rest)?;
                from += u64::try_from(chunk.len()).unwrap_or(u64::MAX);
                self.apply_chunk(chunk, boundary).await?;
            }
        }
        Ok(())
    }

    /// Takes entries up to and with the next boundary; updates what lies beside the machine.
    fn chunk(&mut self, entries: &mut impl Iterator<Item = log::Entry>) -> io::Result<(Vec<Committed>, bool)> {
        let limit = self.shared.log.boundary_bytes();
        let mut chunk = Vec::new();
        for entry in entries {
            let (index, term) = (entry.index, entry.term);
            self.beside.since_boundary += u64::try_from(entry.payload.len()).unwrap_or(u64::MAX);
            let boundary = self.beside.since_boundary >= limit;
            if boundary {
                self.beside.since_boundary = 0;
            }
            if entry.kind == MEMBERSHIP {
                let entry = from_log(entry).map_err(io::Error::other)?;
                if let Content::Membership(membership) = entry.payload {
                    let sets = membership.get_joint_config().iter().map(|set| set.iter().copied());
                    observe::voters(self.shared.group, index, sets);
                    self.beside.membership = StoredMembership::new(Some(entry.log_id), membership);
                }
                chunk.push(Committed { index, term, payload: Payload::default() });
            } else {
                chunk.push(Committed { index, term, payload: entry.payload });
            }
            if boundary {
                return Ok((chunk, true));
            }
        }
        Ok((chunk, false))
    }

    async fn apply_chunk(&mut self, entries: Vec<Committed>, boundary: bool) -> io::Result<()> {
        let Some(last) = entries.last().map(|entry| log::LogId { term: entry.term, index: entry.index }) else {
            return Ok(());
        };
        let count = entries.len();
        let (done, answer) = oneshot::channel();
        self.shared.owner.event(Event::Committed { entries, checkpoint_after: boundary, done });
        let AppliedAnswer { stamps, machine } = answer
            .await
            .map_err(|_| io::Error::other(format!("the owner did not apply the entries up to {}", last.index)))?;
        let as_expected = stamps.len() == count && stamps.last().is_some_and(|stamp| stamp.index == last.index);
        if !as_expected {
            return Err(io::Error::other(format!("{} stamps for {count} entries up to {}", stamps.len(), last.index)));
        }
        self.shared.log.note_applied(stamps);
        if boundary {
            let Some(state) = machine else {
                return Err(io::Error::other(format!("the owner gave no checkpoint at the boundary {}", last.index)));
            };
            let membership = self.beside.encode();
            self.shared.log.seal(log::Checkpoint { last, offset: state.offset, membership, machine: state.machine });
        }
        self.advance(last);
        Ok(())
    }
}

impl RaftStateMachine<Types> for Applier {
    type SnapshotData = log::Checkpoint;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied, self.beside.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        // The entries are headers: they say which range is committed and who waits for it.
        let mut range: Option<(u64, u64)> = None;
        let mut waiting = Vec::new();
        while let Some((entry, responder)) = entries.try_next().await? {
            let index = entry.log_id.index;
            range = Some((range.map_or(index, |(from, _)| from), index + 1));
            waiting.extend(responder);
        }
        let Some((from, end)) = range else { return Ok(()) };
        self.apply_range(from, end).await?;
        waiting.into_iter().for_each(|responder| responder.send(()));
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder(self.shared.clone())
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, checkpoint: log::Checkpoint) -> io::Result<()> {
        if meta.last_log_id != Some(log_id(checkpoint.last)) {
            return Err(io::Error::other(format!(
                "checkpoint of {:?} announced as {:?}",
                checkpoint.last, meta.last_log_id
            )));
        }
        let (done, installed) = oneshot::channel();
        // Entries of ours behind it stay: openraft truncated them if they contradicted.
        self.shared.log.install(checkpoint.clone(), Box::new(move |result| drop(done.send(result))));
        installed.await.unwrap_or_else(|_| Err(io::Error::other("the log has stopped")))?;
        observe::reached("checkpoint installed");
        self.restore(checkpoint).await
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        self.shared.log.base_checkpoint().await?.map(snapshot).transpose()
    }
}

/// Gives the base checkpoint of the first segment that is kept: nothing is built.
pub(crate) struct Builder(Arc<Shared>);

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = log::Checkpoint;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let base = self.0.log.base_checkpoint().await?;
        snapshot(base.ok_or_else(|| io::Error::other("a purged log has no base checkpoint"))?)
    }
}

fn snapshot(checkpoint: log::Checkpoint) -> io::Result<Snapshot> {
    let beside = Beside::decode(checkpoint.membership.clone()).map_err(io::Error::other)?;
    let meta = SnapshotMeta { last_log_id: Some(log_id(checkpoint.last)), last_membership: beside.membership };
    Ok(Snapshot { meta, snapshot: checkpoint })
}
