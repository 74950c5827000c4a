//! From a request to its answer.

use super::{
    Gateway,
    link::{Answer, Reply, later},
};
use crate::{
    advice::Advice,
    batch::{self, Batch, BatchError},
    partition::{Handle, Produce, Role},
    runtime::{BytePermit, ReplySlot},
    session::{Push, Session},
    types::{AckLevel, TopicPartition},
    wire::{self, Code, Frame, Kind, Message, Refused},
};
use bytes::Bytes;
use futures_util::future::join_all;
use std::time::Duration;
use tokio::sync::mpsc;

/// A produce that names no time.
const PRODUCE_WAIT_DEFAULT: Duration = Duration::from_secs(30);
/// Longest time a produce may name.
const PRODUCE_WAIT_MAX: Duration = Duration::from_secs(300);
/// Longest wait for an answer about metadata, offsets or groups, beside what the request itself asks to park.
const CONTROL_WAIT_MAX: Duration = Duration::from_secs(30);

/// Requests of one link.
pub(super) struct Requests {
    pub(super) gateway: Gateway,
    pub(super) session: Session,
    pub(super) link: u64,
    pub(super) pushes: mpsc::UnboundedSender<Push>,
}

impl Requests {
    /// Starts what a frame asks for; `None` for what is not answered.
    pub(super) fn take(&self, frame: Frame, permit: BytePermit) -> Option<Answer> {
        let correlation = frame.correlation;
        let body = frame.body();
        Some(match frame.message {
            Message::Produce(produce) => self.produce(produce, body, permit),
            Message::Fetch(fetch) => {
                let (slot, polled) = ReplySlot::channel();
                self.session.fetch(self.link, fetch, slot);
                later(async move {
                    match polled.await {
                        Ok(polled) => {
                            Reply { message: polled.fetched.into(), body: polled.body, permit: polled.permit }
                        }
                        Err(refused) => refused.into(),
                    }
                })
            }
            Message::Subscribe(subscribe) => {
                self.session.subscribe(self.link, correlation, subscribe, self.pushes.clone());
                return None;
            }
            Message::Grant(grant) => {
                self.session.grant(self.link, grant);
                return None;
            }
            Message::Unsubscribe(unsubscribe) => {
                let (slot, done) = ReplySlot::channel();
                self.session.unsubscribe(self.link, unsubscribe, slot);
                later(async move { done.await.map_or_else(Reply::from, Reply::new) })
            }
            Message::ListOffsets(list) => self.list_offsets(list, permit),
            request => self.control(request, permit),
        })
    }

    fn find(&self, partition: TopicPartition) -> Result<Handle, Refused> {
        let shared = &self.gateway.0;
        match shared.ground.partitions.find(partition) {
            Some(handle) if handle.marks().role != Role::Gone => Ok(handle),
            _ => Err(shared.desk.elsewhere(partition)),
        }
    }

    fn produce(&self, produce: wire::Produce, body: Bytes, permit: BytePermit) -> Answer {
        let batches = match batches(body) {
            Ok(batches) => batches,
            Err(refused) => return refused.into(),
        };
        let partition = TopicPartition { topic: produce.topic, partition: produce.partition };
        let handle = match self.find(partition) {
            Ok(handle) => handle,
            Err(refused) => return refused.into(),
        };
        let ack = produce.ack;
        if ack == AckLevel::None {
            return unacknowledged(&handle, batches, permit);
        }
        let (slot, answer) = ReplySlot::channel();
        handle.produce(Produce { ack, batches, permit, slot });
        let wait = match produce.timeout_ms {
            0 => PRODUCE_WAIT_DEFAULT,
            ms => Duration::from_millis(ms.into()).min(PRODUCE_WAIT_MAX),
        };
        let deadline = tokio::time::Instant::now() + wait;
        later(async move {
            match tokio::time::timeout_at(deadline, answer).await {
                Ok(Ok(produced)) => Reply::new(wire::Produced {
                    base_offset: produced.base_offset,
                    leader_epoch: produced.leader_epoch,
                    level: produced.level,
                    quorum: produced.quorum,
                    voters: produced.voters,
                    duplicate: produced.duplicate,
                }),
                Ok(Err(error)) => error.refused().into(),
                Err(_) => Refused::new(
                    Code::TimedOut,
                    format!(
                        "not acknowledged within {} ms, and it may be yet: send the same batches with the same sequence again",
                        wait.as_millis()
                    ),
                )
                .into(),
            }
        })
    }

    fn list_offsets(&self, list: wire::ListOffsets, permit: BytePermit) -> Answer {
        let queries = list.partitions.into_iter().map(|query| {
            let partition = TopicPartition { topic: query.topic, partition: query.partition };
            let handle = self.find(partition);
            async move {
                let found = async {
                    let handle = handle?;
                    handle.barrier().await.map_err(|unavailable| unavailable.refused())?;
                    handle.offset_at(query.at).await.map_err(|error| error.refused())
                };
                match found.await {
                    Ok(found) => {
                        wire::OffsetAnswer { refused: None, offset: found.offset, leader_epoch: found.leader_epoch }
                    }
                    Err(refused) => wire::OffsetAnswer { refused: Some(refused), ..wire::OffsetAnswer::default() },
                }
            }
        });
        let all = join_all(queries.collect::<Vec<_>>());
        later(async move {
            let _permit = permit;
            match tokio::time::timeout(CONTROL_WAIT_MAX, all).await {
                Ok(partitions) => Reply::new(wire::ListedOffsets { partitions }),
                Err(_) => timed_out(CONTROL_WAIT_MAX).into(),
            }
        })
    }

    fn control(&self, request: Message, permit: BytePermit) -> Answer {
        let kind = request.kind();
        if !is_control(kind) {
            let said = match kind {
                Kind::Hello => "a connection begins with one Hello: this is another one".into(),
                kind => format!("{kind:?} is an answer: only a broker sends it"),
            };
            return Refused::new(Code::BadRequest, said).into();
        }
        let parks = match &request {
            Message::Heartbeat(heartbeat) => Duration::from_millis(heartbeat.wait_ms.into()).min(PRODUCE_WAIT_MAX),
            _ => Duration::ZERO,
        };
        let (desk, wait) = (self.gateway.0.desk.clone(), CONTROL_WAIT_MAX + parks);
        later(async move {
            let _permit = permit;
            match tokio::time::timeout(wait, desk.ask(request)).await {
                Ok(Ok(answer)) => Reply::new(answer),
                Ok(Err(refused)) => refused.into(),
                Err(_) => timed_out(wait).into(),
            }
        })
    }
}

/// Requests that the node answers beside its partitions.
fn is_control(kind: Kind) -> bool {
    match kind {
        Kind::Metadata
        | Kind::InitProducer
        | Kind::CreateTopic
        | Kind::DeleteTopic
        | Kind::AlterTopic
        | Kind::FindGroup
        | Kind::Join
        | Kind::Heartbeat
        | Kind::Leave
        | Kind::Commit
        | Kind::ListGroups
        | Kind::DescribeGroup
        | Kind::ResetGroup
        | Kind::DeleteGroup
        | Kind::ClusterStatus
        | Kind::TransferLeader => true,
        Kind::Produce | Kind::Fetch | Kind::ListOffsets | Kind::Subscribe | Kind::Grant | Kind::Unsubscribe => false,
        Kind::Hello | Kind::Welcome | Kind::Refused | Kind::Done => false,
        Kind::MetadataAnswer | Kind::Produced | Kind::Fetched | Kind::ListedOffsets | Kind::ProducerReady => false,
        Kind::Delivery | Kind::TopicCreated | Kind::GroupFound | Kind::Joined | Kind::HeartbeatAnswer => false,
        Kind::Committed | Kind::GroupList | Kind::GroupDescription | Kind::ClusterStatusAnswer => false,
    }
}

/// Answered at admission: what becomes of it nobody is told.
fn unacknowledged(handle: &Handle, batches: Vec<Batch>, permit: BytePermit) -> Answer {
    let marks = handle.marks();
    if marks.role != Role::Leader {
        let refused = Refused {
            leader: marks.leader,
            leader_epoch: marks.epoch,
            ..Refused::new(Code::NotLeader, "this node follows in this partition: produce to the leader")
        };
        return refused.into();
    }
    handle.produce(Produce { ack: AckLevel::None, batches, permit, slot: ReplySlot::ignored() });
    Reply::new(wire::Produced { leader_epoch: marks.epoch, level: AckLevel::None, ..wire::Produced::default() }).into()
}

/// The batches of a produce, each checked.
fn batches(body: Bytes) -> Result<Vec<Batch>, Refused> {
    if body.is_empty() {
        return Err(Refused::new(Code::BadRequest, "a Produce carries at least one record batch"));
    }
    batch::split(body)
        .map(|batch| {
            let batch = batch?;
            batch.check_produced()?;
            Ok(batch)
        })
        .collect::<Result<_, BatchError>>()
        .map_err(|error| {
            let code = match error {
                BatchError::TooLarge { .. } => Code::BatchTooLarge,
                _ => Code::BadBatch,
            };
            Refused::new(code, format!("{error}; {}", error.advice()))
        })
}

fn timed_out(wait: Duration) -> Refused {
    Refused::new(Code::TimedOut, format!("no answer within {} s: try again", wait.as_secs()))
}
