//! openraft's way to the other replicas of its group, over [`Rpc`](crate::transport::rpc::Rpc).
//!
//! Votes, heartbeats and transfers are unary and take the control lane; appends are a pipelined
//! [`Stream`](super::stream) on the data lane; checkpoints take the bulk lane. Which replica is meant is in each
//! message; to which node it goes was said by the membership.

use super::{
    codec::{Malformed, Reply, Request, Route},
    replica::Shared,
    stream::Pipeline,
    types::{Snapshot, Types, Vote},
};
use crate::{
    NodeId, Payload, ReplicaId, log,
    transport::{
        Lane, SendError,
        rpc::{APPEND, CallError, ELECT, SNAPSHOT, VOTE},
    },
};
use ::openraft::{
    OptionalSend,
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::{Backoff, RPCOption, RaftNetworkFactory, v2::RaftNetworkV2},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderError,
        TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};
use futures_util::{Stream, StreamExt};
use std::{future::Future, io, pin::Pin, sync::Arc, time::Duration};

/// The checkpoint may be smaller then.
const TOO_LARGE_AGAIN: Duration = Duration::from_secs(30);

/// Makes the clients of one replica.
pub(super) struct Factory(pub(super) Arc<Shared>);

/// One replica's way to one other.
pub(super) struct Client {
    pub(super) shared: Arc<Shared>,
    pub(super) target: ReplicaId,
    pub(super) node: NodeId,
    heartbeats: bool,
}

impl RaftNetworkFactory<Types> for Factory {
    type Network = Client;

    async fn new_client(&mut self, target: ReplicaId, node: &NodeId) -> Client {
        Client { shared: self.0.clone(), target, node: *node, heartbeats: false }
    }

    async fn new_heartbeat_client(&mut self, target: ReplicaId, node: &NodeId) -> Client {
        Client { shared: self.0.clone(), target, node: *node, heartbeats: true }
    }
}

/// Why a message brought no usable answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("node {node} is suspected")]
    Suspected { node: NodeId },
    #[error("replica {target} is not hosted at node {node}")]
    UnknownReplica { target: ReplicaId, node: NodeId },
    #[error("replica {target} has stopped")]
    Stopped { target: ReplicaId },
    #[error("the stream has ended at replica {target}")]
    StreamEnded { target: ReplicaId },
    #[error("an answer that does not decode: {0}")]
    Malformed(#[from] Malformed),
    #[error("replica {target} denies what it acknowledged before")]
    WentBack { target: ReplicaId },
    #[error("an answer to something else")]
    Mismatch,
}

impl From<AskError> for RPCError<Types> {
    fn from(error: AskError) -> Self {
        // What will not be better in a moment is `Unreachable`: it makes openraft back off.
        match error {
            AskError::Call(CallError::TimedOut { .. }) | AskError::StreamEnded { .. } => {
                RPCError::Network(NetworkError::new(&error))
            }
            _ => RPCError::Unreachable(Unreachable::new(&error)),
        }
    }
}

impl Client {
    fn route(&self) -> Route {
        Route { group: self.shared.group, from: self.shared.replica, to: self.target }
    }

    /// Sends now; the future waits for the answer.
    pub(super) fn send(
        &self,
        lane: Lane,
        service: u8,
        request: &Request,
        deadline: Duration,
    ) -> impl Future<Output = Result<Payload, CallError>> + Send + use<> {
        self.shared.net.rpc.call(self.node, lane, self.shared.group.0, service, request.encode(self.route()), deadline)
    }

    async fn ask(&self, lane: Lane, service: u8, request: Request, deadline: Duration) -> Result<Reply, AskError> {
        let answer = self.send(lane, service, &request, deadline);
        self.read(&answer.await?)
    }

    pub(super) fn read(&self, answer: &Payload) -> Result<Reply, AskError> {
        match Reply::decode(answer)? {
            Reply::UnknownReplica => Err(AskError::UnknownReplica { target: self.target, node: self.node }),
            Reply::Stopped => Err(AskError::Stopped { target: self.target }),
            Reply::StreamEnded => Err(AskError::StreamEnded { target: self.target }),
            reply => Ok(reply),
        }
    }

    /// openraft would send the same entries again and again to a replica whose log went back, and panics in debug builds.
    pub(super) fn check(
        &self,
        term: u64,
        answer: StreamAppendResult<Types>,
    ) -> Result<StreamAppendResult<Types>, AskError> {
        if self.shared.plausible(self.target, term, &answer) {
            return Ok(answer);
        }
        tracing::error!(group = %self.shared.group, replica = %self.target, node = %self.node, "its log went back: it must not go on under this id");
        Err(AskError::WentBack { target: self.target })
    }

    async fn heartbeat(
        &self,
        append: AppendEntriesRequest<Types>,
        deadline: Duration,
    ) -> Result<StreamAppendResult<Types>, AskError> {
        let term = append.vote.leader_id.term;
        match self.ask(Lane::Control, APPEND, Request::Heartbeat(append), deadline).await? {
            Reply::Append(result) => self.check(term, result),
            _ => Err(AskError::Mismatch),
        }
    }

    async fn any_vote(&self, request: Request, deadline: Duration) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.ask(Lane::Control, VOTE, request, deadline).await? {
            Reply::Vote(response) => Ok(response),
            _ => Err(AskError::Mismatch.into()),
        }
    }
}

type Answers<'s> = Pin<Box<dyn Stream<Item = Result<StreamAppendResult<Types>, RPCError<Types>>> + Send + 's>>;

impl RaftNetworkV2<Types> for Client {
    type SnapshotData = log::Checkpoint;

    async fn append_entries(
        &mut self,
        append: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        Ok(self.heartbeat(append, option.hard_ttl()).await?.into())
    }

    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        option: RPCOption,
    ) -> Pin<Box<dyn Future<Output = Result<Answers<'s>, RPCError<Types>>> + Send + 's>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            if !self.heartbeats {
                return Ok(Box::pin(Pipeline::new(self, input)) as Answers<'s>);
            }
            let Some(append) = input.next().await else {
                return Ok(Box::pin(futures_util::stream::empty()) as Answers<'s>);
            };
            let answer = self.heartbeat(append, option.hard_ttl()).await?;
            Ok(Box::pin(futures_util::stream::iter([Ok(answer)])) as Answers<'s>)
        })
    }

    async fn vote(
        &mut self,
        vote: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.any_vote(Request::Vote(vote), option.hard_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        vote: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.any_vote(Request::PreVote(vote), option.hard_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let net = self.shared.net.clone();
        let sent = async {
            if net.is_suspected(self.node) {
                return Err(AskError::Suspected { node: self.node });
            }
            let checkpoint = snapshot.snapshot;
            tokio::time::sleep(net.pace.book(checkpoint.machine.len() + checkpoint.membership.len())).await;
            self.ask(Lane::Bulk, SNAPSHOT, Request::Snapshot { vote, checkpoint }, option.hard_ttl()).await
        };
        let reply = async {
            let reply = sent.await;
            if let Err(AskError::Call(CallError::NotSent(error @ SendError::TooLarge { .. }))) = &reply {
                tracing::error!(group = %self.shared.group, replica = %self.target, node = %self.node, %error, "the checkpoint cannot be sent: this replica stays behind");
                tokio::time::sleep(TOO_LARGE_AGAIN).await;
            }
            if reply.is_err() {
                // Here and not in a pause of openraft's, which nothing ends when the node is back.
                net.until_trusted(self.node).await;
            }
            reply
        };
        let reply = tokio::select! {
            biased;
            closed = cancel => return Err(closed.into()),
            reply = reply => reply,
        };
        match reply.map_err(RPCError::from)? {
            Reply::Snapshot(vote) => Ok(SnapshotResponse::new(vote)),
            _ => Err(RPCError::from(AskError::Mismatch).into()),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let from = *request.from_leader();
        match self.ask(Lane::Control, ELECT, Request::Transfer(request), option.hard_ttl()).await? {
            Reply::Transfer(true) => Ok(Ok(())),
            Reply::Transfer(false) => Ok(Err(TransferLeaderError::VoteChanged { expected: from, actual: from })),
            _ => Err(AskError::Mismatch.into()),
        }
    }

    fn backoff(&self) -> Option<Backoff> {
        let shared = self.shared.clone();
        let node = self.node;
        let mut delay = Duration::from_millis(10);
        // Reset by the driver when the node is back.
        Some(Backoff::new(std::iter::from_fn(move || {
            delay = (delay * 2).min(Duration::from_secs(1));
            Some(if shared.net.is_suspected(node) { Duration::from_secs(30) } else { delay })
        })))
    }
}

impl From<AskError> for io::Error {
    fn from(error: AskError) -> Self {
        io::Error::other(error)
    }
}
