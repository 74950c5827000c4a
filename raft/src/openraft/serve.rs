//! What other replicas ask of ours.
//!
//! [`Demux`] runs on the network's thread: it reads the route of a message, finds the replica and hands over; it never
//! waits and never creates anything. The rest runs on the group's runtime.
//!
//! **Invariant:** appends of one sender are given to Raft in the order in which they came, and answered in that order.
//! **Invariant:** what waits here is bounded by the windows of those who send.
//! **Invariant:** a node that says itself that its disk hangs is not heard as a leader: a majority without it would acknowledge
//! for ever what it queues, and its appends would keep the leases alive that stand in the way of the next one.

use super::{
    codec::{Reply, Request},
    driver::Command,
    replica::{Contact, Replica},
    types::{Snapshot, SnapshotMeta, Types, log_id},
};
use crate::{
    GroupId, NodeId, Payload, ReplicaId, log,
    transport::rpc::{Answer, Service},
};
use ::openraft::{
    errors::Fatal,
    raft::{AppendEntriesRequest, StreamAppendResult},
};
use futures_util::{Stream, StreamExt};
use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{sync::mpsc, time::Instant};

/// Which replicas are hosted here.
#[derive(Default)]
pub(super) struct Demux(Mutex<BTreeMap<GroupId, Hosted>>);

struct Hosted {
    replica: ReplicaId,
    inbound: mpsc::UnboundedSender<Inbound>,
}

/// A message for a replica.
pub(super) struct Inbound {
    from: NodeId,
    message: Payload,
    answer: Answer,
}

impl Demux {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<GroupId, Hosted>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, group: GroupId, replica: ReplicaId) -> mpsc::UnboundedReceiver<Inbound> {
        let (inbound, messages) = mpsc::unbounded_channel();
        self.lock().insert(group, Hosted { replica, inbound });
        messages
    }

    pub(super) fn remove(&self, group: GroupId) {
        self.lock().remove(&group);
    }
}

impl Service for Demux {
    fn call(&self, from: NodeId, message: Payload, answer: Answer) {
        let route = match Request::route(&message) {
            Ok(route) => route,
            Err(error) => {
                tracing::warn!(%from, %error, "a message of a replica does not decode");
                return;
            }
        };
        let inbound = match self.lock().get(&route.group) {
            Some(hosted) if hosted.replica == route.to => hosted.inbound.clone(),
            _ => return answer.send(Reply::UnknownReplica.encode()),
        };
        if let Err(mpsc::error::SendError(Inbound { answer, .. })) = inbound.send(Inbound { from, message, answer }) {
            answer.send(Reply::Stopped.encode());
        }
    }
}

/// The append stream of the replica that leads.
struct Incoming {
    from: ReplicaId,
    number: u64,
    requests: mpsc::UnboundedSender<AppendEntriesRequest<Types>>,
    answers: mpsc::UnboundedSender<Answer>,
}

/// Serves one replica until its messages end.
pub(super) async fn serve(replica: Arc<Replica>, mut messages: mpsc::UnboundedReceiver<Inbound>) {
    let mut incoming = None;
    while let Some(Inbound { from, message, answer }) = messages.recv().await {
        let (route, request) = match Request::decode(&message) {
            Ok(decoded) => decoded,
            Err(error) => {
                tracing::warn!(%from, group = %replica.shared.group, %error, "a message of a replica does not decode");
                continue;
            }
        };
        // One that is no member is heard: who was added, and leads, may be in entries that this replica lacks. One that was
        // removed wins no pre-vote, as all majorities have what removed it, and so raises no term.
        if replica.role.borrow().members.get(&route.from).is_some_and(|member| member.node != from) {
            tracing::warn!(%from, replica = %route.from, "a message in the name of another node's replica");
            continue;
        }
        if let Request::Append { append, .. } | Request::Heartbeat(append) = &request {
            if replica.shared.net.hangs(from) {
                incoming = None;
                answer.send(Reply::Stopped.encode());
                continue;
            }
            // Not the life that is heard of now: what a former one sent may come later.
            let boot = answer.boot();
            replica.shared.heard(Contact {
                term: append.vote.leader_id.term,
                replica: route.from,
                node: from,
                boot,
                at: Instant::now(),
            });
        }
        match request {
            Request::Append { stream, append } => {
                let current =
                    incoming.take().filter(|current: &Incoming| current.from == route.from && current.number == stream);
                let current = current.unwrap_or_else(|| accept(&replica, route.from, stream));
                // Both ends live as long as `current`; after a stream has ended the answers say so.
                let _ = current.requests.send(append);
                let _ = current.answers.send(answer);
                incoming = Some(current);
            }
            Request::Elect { term } => {
                let _ = replica.commands.send(Command::Elect { term });
                answer.send(Reply::Transfer(true).encode());
            }
            Request::Greet => drop(replica.commands.send(Command::Greet { from: route.from })),
            request => {
                let unary = unary(replica.clone(), request, answer);
                replica.spawn(unary);
            }
        }
    }
}

fn accept(replica: &Arc<Replica>, from: ReplicaId, number: u64) -> Incoming {
    let (requests, mut waiting) = mpsc::unbounded_channel();
    let (answers, unanswered) = mpsc::unbounded_channel();
    let acks = replica.raft.stream_append(futures_util::stream::poll_fn(move |cx| waiting.poll_recv(cx)));
    replica.spawn(acknowledge(acks, unanswered));
    Incoming { from, number, requests, answers }
}

async fn acknowledge(
    acks: impl Stream<Item = Result<StreamAppendResult<Types>, Fatal<Types>>>,
    mut unanswered: mpsc::UnboundedReceiver<Answer>,
) {
    let mut acks = pin!(acks.fuse());
    while let Some(answer) = unanswered.recv().await {
        let reply = match acks.next().await {
            Some(Ok(result)) => Reply::Append(result),
            Some(Err(_)) => Reply::Stopped,
            None => Reply::StreamEnded,
        };
        answer.send(reply.encode());
    }
}

async fn unary(replica: Arc<Replica>, request: Request, answer: Answer) {
    let raft = &replica.raft;
    let reply = match request {
        Request::Heartbeat(append) => {
            let prev = append.prev_log_id;
            let last = append.entries.last().map(|entry| entry.log_id).or(prev);
            raft.append_entries(append)
                .await
                .ok()
                .map(|response| Reply::Append(response.into_stream_result(prev, last)))
        }
        Request::Vote(vote) => raft.vote(vote).await.ok().map(Reply::Vote),
        Request::PreVote(vote) => raft.pre_vote(vote).await.ok().map(Reply::Vote),
        Request::Snapshot { vote, checkpoint } => match snapshot(checkpoint) {
            Some(snapshot) => {
                raft.install_full_snapshot(vote, snapshot).await.ok().map(|response| Reply::Snapshot(response.vote))
            }
            None => return,
        },
        Request::Transfer(request) => {
            raft.handle_transfer_leader(request).await.ok().map(|taken| Reply::Transfer(taken.is_ok()))
        }
        Request::Append { .. } | Request::Elect { .. } | Request::Greet => unreachable!("served in order"),
    };
    answer.send(reply.unwrap_or(Reply::Stopped).encode());
}

fn snapshot(checkpoint: log::Checkpoint) -> Option<Snapshot> {
    match super::codec::Beside::decode(checkpoint.membership.clone()) {
        Ok(beside) => {
            let meta = SnapshotMeta { last_log_id: Some(log_id(checkpoint.last)), last_membership: beside.membership };
            Some(Snapshot { meta, snapshot: checkpoint })
        }
        Err(error) => {
            tracing::warn!(%error, "a checkpoint does not decode");
            None
        }
    }
}
