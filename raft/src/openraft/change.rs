//! What a replica is asked to do besides proposals: barriers, membership, transfer, compaction.

use super::{
    driver::{self, Command},
    replica::Replica,
    types::{Types, hint, own_id},
};
use crate::{
    NodeId, ReplicaId,
    group::{BarrierError, ChangeError, TransferError},
    log, observe,
};
use ::openraft::{
    ReadPolicy,
    errors::{ChangeMembershipError, ClientWriteError, Fatal, LinearizableReadError, RaftError},
};
use openraft_rt::WatchReceiver;
use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    io,
    time::Duration,
};

/// Entries that may be under way to the one who is to lead: it takes over when it has them.
const TRANSFER_BEHIND_MAX: u64 = 1_024;
/// How long a change of membership may take; a joint change is two entries.
const CHANGE: Duration = Duration::from_secs(10);
/// How long a checkpoint of what is there already may take.
const COMPACT: Duration = Duration::from_secs(10);

impl Replica {
    /// Read-index, see [`crate::group::Group::barrier`].
    pub(crate) async fn barrier(&self) -> Result<u64, BarrierError> {
        let after = self.shared.options.timing.election_max;
        if self.is_silent() {
            return Err(BarrierError::NoQuorum { after: Duration::ZERO });
        }
        let no_quorum = BarrierError::NoQuorum { after };
        let linearizer = match tokio::time::timeout(after, self.raft.get_read_linearizer(ReadPolicy::ReadIndex)).await {
            Ok(Ok(linearizer)) => linearizer,
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)))) => {
                return Err(BarrierError::NotLeader { hint: hint(&forward) });
            }
            Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)))) | Err(_) => return Err(no_quorum),
            Ok(Err(RaftError::Fatal(fatal))) => return Err(BarrierError::Gone { why: fatal.to_string() }),
        };
        let index = linearizer.read_log_id().index();
        let mut applied = self.shared.applied.subscribe();
        let reached = applied.wait_for(|applied| applied.is_some_and(|applied| applied.index >= index));
        match tokio::time::timeout(after, reached).await {
            Ok(Ok(_)) => Ok(index),
            Ok(Err(_)) => Err(BarrierError::Gone { why: "replica has stopped".into() }),
            Err(_) => Err(no_quorum),
        }
    }

    pub(crate) fn stand_first(&self) {
        // When the replica is gone nobody minds.
        let _ = self.commands.send(Command::StandFirst);
    }

    pub(crate) async fn add_learner(&self, replica: ReplicaId, node: NodeId) -> Result<(), ChangeError> {
        self.change(self.raft.add_learner(replica, node, false)).await
    }

    pub(crate) async fn set_voters(&self, voters: BTreeSet<ReplicaId>, remove_others: bool) -> Result<(), ChangeError> {
        self.change(self.raft.change_membership(voters, !remove_others)).await
    }

    async fn change<T>(
        &self,
        change: impl Future<Output = Result<T, RaftError<Types, ClientWriteError<Types>>>>,
    ) -> Result<(), ChangeError> {
        // An idle group has no lease, and without one a change is refused.
        match self.barrier().await {
            Ok(_) | Err(BarrierError::NoQuorum { .. }) => {}
            Err(BarrierError::NotLeader { hint }) => return Err(ChangeError::NotLeader { hint }),
            Err(BarrierError::Gone { why }) => return Err(ChangeError::Gone { why }),
        }
        self.stirred.send_replace(tokio::time::Instant::now());
        match tokio::time::timeout(CHANGE, change).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(error))) => Err(refused(error)),
            Ok(Err(RaftError::Fatal(fatal))) => Err(gone(&fatal)),
            Err(_) => Err(ChangeError::TimedOut { after: CHANGE }),
        }
    }

    pub(crate) async fn transfer(&self, to: ReplicaId) -> Result<(), TransferError> {
        let role = self.role.borrow().clone();
        if !role.leading {
            return Err(TransferError::NotLeader { hint: role.leader });
        }
        if to == self.shared.replica {
            return Ok(());
        }
        let Some(member) = role.members.get(&to).filter(|member| member.voter) else {
            return Err(TransferError::NotVoter { to });
        };
        if self.shared.net.is_suspected(member.node) {
            return Err(TransferError::NotReady { to, why: format!("node {} is suspected", member.node) });
        }
        let matching = self.progress().and_then(|progress| progress.get(&to).copied().flatten());
        let behind =
            self.shared.log.last().map_or(0, |last| last.index).saturating_sub(matching.map_or(0, |id| id.index));
        if behind > TRANSFER_BEHIND_MAX {
            return Err(TransferError::NotReady { to, why: format!("its log reaches to {matching:?}") });
        }
        tracing::debug!(group = %self.shared.group, term = role.term, %to, "hands over");
        let mut roles = self.role.subscribe();
        let mut begun = Begun { replica: self, term: role.term, ended: false };
        self.raft
            .trigger()
            .transfer_leader(to)
            .await
            .map_err(|fatal| TransferError::Gone { why: fatal.to_string() })?;
        let after = self.shared.options.timing.transfer;
        let moved = roles.wait_for(|now| now.term > role.term && now.leader.is_some());
        let moved = tokio::time::timeout(after, moved).await;
        begun.ended = moved.is_ok();
        match moved {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(TransferError::Gone { why: "replica has stopped".into() }),
            Err(_) => {
                observe::reached("transfer timed out");
                Err(TransferError::TimedOut { to, after })
            }
        }
    }

    pub(crate) fn progress(&self) -> Option<BTreeMap<ReplicaId, Option<log::LogId>>> {
        let metrics = self.raft.data_metrics();
        let metrics = metrics.borrow_watched();
        let replication = metrics.replication.as_ref()?;
        Some(replication.iter().map(|(replica, matching)| (*replica, matching.as_ref().map(own_id))).collect())
    }

    /// Trim, then snapshot, then purge; the log deletes files after the purge.
    pub(crate) async fn compact(&self, start_offset: u64) -> io::Result<()> {
        let Some(upto) = self.shared.log.trim(start_offset) else { return Ok(()) };
        let behind = |matching: &Option<log::LogId>| matching.is_none_or(|id| id.index < upto.index);
        if self.progress().is_some_and(|progress| progress.values().any(behind)) {
            observe::reached("trim past a follower");
        }
        self.raft.trigger().snapshot().await.map_err(io::Error::other)?;
        let mut metrics = self.raft.data_metrics();
        let covered = async {
            while metrics.borrow_watched().snapshot.as_ref().is_none_or(|snapshot| snapshot.index < upto.index) {
                if metrics.changed().await.is_err() {
                    return Err(io::Error::other("replica has stopped"));
                }
            }
            Ok(())
        };
        match tokio::time::timeout(COMPACT, covered).await {
            Ok(covered) => covered?,
            Err(_) => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no checkpoint of {upto:?} after {COMPACT:?}"),
                ));
            }
        }
        self.raft.trigger().purge_log(upto.index).await.map_err(io::Error::other)
    }
}

/// A transfer that openraft was told of. It never takes one back: a leader whose transfer came to nothing, or that nobody
/// waits for any more, accepts no write and answers no barrier in its term.
struct Begun<'r> {
    replica: &'r Replica,
    term: u64,
    ended: bool,
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        if !self.ended && self.replica.role.borrow().term == self.term {
            driver::ask_to_elect(self.replica);
            let _ = self.replica.commands.send(Command::Abandoned { term: self.term });
        }
    }
}

fn refused(error: ClientWriteError<Types>) -> ChangeError {
    match error {
        ClientWriteError::ForwardToLeader(forward) | ClientWriteError::LogEntryDiscarded(forward) => {
            ChangeError::NotLeader { hint: hint(&forward) }
        }
        ClientWriteError::ChangeMembershipError(ChangeMembershipError::InProgress(_)) => ChangeError::InProgress,
        ClientWriteError::ChangeMembershipError(error) => ChangeError::Impossible { why: error.to_string() },
        ClientWriteError::PreconditionFailed(error) => ChangeError::Impossible { why: error.to_string() },
    }
}

fn gone(fatal: &Fatal<Types>) -> ChangeError {
    ChangeError::Gone { why: fatal.to_string() }
}
