//! An actor that publishes.

use crate::{
    advice::{Advice, Reaction},
    client::{Acked, ProduceError, Producer, Record, SendError, producer::Receipt},
};
use actix::{Actor, Context, Handler, Message, ResponseFuture};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

/// Publishes a record; answered when it is acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish(pub Record);

impl Message for Publish {
    type Result = Result<Acked, PublishError>;
}

/// Why a record is not published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// More waits for room in the producer's buffer than the actor may hold: a mailbox holds nobody back.
    #[error("{bytes_max} bytes wait for the producer already")]
    Full {
        /// What may wait.
        bytes_max: usize,
    },
    /// The producer did not take it.
    #[error(transparent)]
    Send(#[from] SendError),
    /// It was taken and is not acknowledged.
    #[error(transparent)]
    Produce(#[from] ProduceError),
    /// The actor ended.
    #[error("the publisher has ended")]
    Ended,
}

impl Advice for PublishError {
    fn reaction(&self) -> Reaction {
        match self {
            Self::Full { .. } => Reaction::Retry { after_ms: 10 },
            Self::Send(error) => error.reaction(),
            Self::Produce(error) => error.reaction(),
            Self::Ended => Reaction::Reject,
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::Full { .. } => "wait for answers before publishing more".into(),
            Self::Send(error) => error.advice(),
            Self::Produce(error) => error.advice(),
            Self::Ended => "start another publisher".into(),
        }
    }
}

/// Bytes that may wait for room in the producer's buffer.
const WAITING_BYTES_MAX: usize = 8 << 20;

struct Waiting {
    record: Record,
    /// Bounds the queue, in bytes.
    permit: OwnedSemaphorePermit,
    answer: oneshot::Sender<Result<Receipt, SendError>>,
}

/// Publishes what it is sent, in the order of the messages.
pub struct Publisher {
    // Unbounded in number: each record in it holds a permit.
    queue: mpsc::UnboundedSender<Waiting>,
    room: Arc<Semaphore>,
}

impl Publisher {
    /// Publishes through this producer. Must be called on a tokio runtime.
    pub fn new(producer: Producer) -> Self {
        let (queue, waiting) = mpsc::unbounded_channel();
        let host = producer.host();
        host.spawn(Box::pin(feed(producer, waiting)));
        Self { queue, room: Arc::new(Semaphore::new(WAITING_BYTES_MAX)) }
    }
}

/// The producer makes senders wait when its buffer is full; an actor must not wait, so this task does.
async fn feed(producer: Producer, mut waiting: mpsc::UnboundedReceiver<Waiting>) {
    while let Some(Waiting { record, permit, answer }) = waiting.recv().await {
        let receipt = producer.send(record).await;
        drop(permit);
        // Nobody may wait for it: the record is under way all the same.
        let _ = answer.send(receipt);
    }
}

impl Actor for Publisher {
    type Context = Context<Self>;
}

impl Handler<Publish> for Publisher {
    type Result = ResponseFuture<Result<Acked, PublishError>>;

    fn handle(&mut self, Publish(record): Publish, _: &mut Context<Self>) -> Self::Result {
        let bytes = u32::try_from(record.cost()).unwrap_or(u32::MAX);
        let Ok(permit) = self.room.clone().try_acquire_many_owned(bytes) else {
            return Box::pin(std::future::ready(Err(PublishError::Full { bytes_max: WAITING_BYTES_MAX })));
        };
        let (answer, receipt) = oneshot::channel();
        let queued = self.queue.send(Waiting { record, permit, answer });
        Box::pin(async move {
            queued.map_err(|_| PublishError::Ended)?;
            Ok(receipt.await.map_err(|_| PublishError::Ended)??.await?)
        })
    }
}
