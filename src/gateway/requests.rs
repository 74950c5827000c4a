//! From a request to its answer.

use super::link::{Answer, Reply, later};
use crate::{
    advice::Advice,
    batch::{self, Batch, BatchError},
    runtime::{BytePermit, ReplySlot},
    session::{Ground, Push, Session},
    wire::{self, Code, Frame, Message, Refused},
};
use bytes::Bytes;
use std::time::Duration;
use tokio::{sync::mpsc, time::timeout};

/// Longest wait for an answer about metadata, offsets or groups, beside what the request itself asks to park.
const CONTROL_WAIT_MAX: Duration = Duration::from_secs(30);
/// Longest time that a heartbeat may park.
const HEARTBEAT_WAIT_MAX: Duration = Duration::from_secs(300);

/// Requests of one link.
pub(super) struct Requests {
    pub(super) ground: Ground,
    pub(super) session: Session,
    pub(super) link: u64,
    pub(super) pushes: mpsc::UnboundedSender<Push>,
}

impl Requests {
    /// Answers a frame that was not admitted.
    pub(super) fn refuse(&self, frame: &Frame, refused: Refused) -> Answer {
        if matches!(frame.message, Message::Produce(_)) {
            self.ground.produce_refused(&refused);
        }
        Reply::from(refused).into()
    }

    /// Starts what a frame asks for; `None` for what is not answered.
    pub(super) fn take(&self, frame: Frame, permit: BytePermit) -> Option<Answer> {
        let correlation = frame.correlation;
        let body = frame.body();
        Some(match frame.message {
            Message::Produce(produce) => match batches(body) {
                Ok(batches) => {
                    let produced = self.ground.produce(&produce, batches, permit);
                    later(async move { produced.await.map_or_else(Reply::from, Reply::new) })
                }
                Err(refused) => {
                    self.ground.produce_refused(&refused);
                    Reply::from(refused).into()
                }
            },
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
            Message::ListOffsets(list) => {
                let listed = self.ground.list_offsets(list);
                within(CONTROL_WAIT_MAX, Some(permit), async move { Ok(wire::Message::from(listed.await)) })
            }
            request => {
                let parks = match &request {
                    Message::Heartbeat(beat) => Duration::from_millis(beat.wait_ms.into()).min(HEARTBEAT_WAIT_MAX),
                    _ => Duration::ZERO,
                };
                // Who waits for news holds nothing that commits and joins need.
                let holds = !matches!(&request, Message::Metadata(wanted) if wanted.wait_ms > 0);
                within(CONTROL_WAIT_MAX + parks, holds.then_some(permit), self.ground.clone().ask(request))
            }
        })
    }
}

/// An answer with a deadline. A request that has a permit keeps its bytes of the control pool.
fn within(
    wait: Duration,
    permit: Option<BytePermit>,
    answer: impl Future<Output = Result<Message, Refused>> + 'static,
) -> Answer {
    later(async move {
        let _permit = permit;
        match timeout(wait, answer).await {
            Ok(answer) => answer.map_or_else(Reply::from, Reply::new),
            Err(_) => Refused::new(Code::TimedOut, format!("no answer within {} s: try again", wait.as_secs())).into(),
        }
    })
}

/// The batches of a produce, each checked.
fn batches(body: Bytes) -> Result<Vec<Batch>, Refused> {
    if body.is_empty() {
        return Err(Refused::new(Code::BadRequest, "a Produce carries at least one record batch"));
    }
    let checked = batch::split(body).map(|batch| {
        let batch = batch?;
        batch.check_produced()?;
        Ok(batch)
    });
    checked.collect::<Result<_, BatchError>>().map_err(|error| {
        let code = match error {
            BatchError::TooLarge { .. } => Code::BatchTooLarge,
            _ => Code::BadBatch,
        };
        Refused::new(code, format!("{error}; {}", error.advice()))
    })
}
