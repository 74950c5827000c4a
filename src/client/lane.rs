//! One link on which requests follow each other without waiting. Answers come in the order of the requests.
//!
//! Invariant: each request's answer is given exactly once: the broker's, or [`Lost`] when the lane ends before it.

use crate::wire::{Connection, Frame, LinkClosed, LinkReceiver, LinkSender, Message};
use bytes::Bytes;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::{mpsc, oneshot};

/// Requests that one write takes together.
const TOGETHER_MAX: usize = 32;

/// The connection ended before the answer came: the outcome is unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lost(pub(super) String);

struct Outgoing {
    message: Message,
    body: Vec<Bytes>,
    answer: oneshot::Sender<Result<Frame, Lost>>,
}

/// The sending end. The lane ends when all clones are gone and all is answered.
#[derive(Clone)]
pub(super) struct Lane {
    // Unbounded in number: what waits here is a window of batches per partition, whose bytes hold permits.
    queue: mpsc::UnboundedSender<Outgoing>,
}

impl Lane {
    /// A lane over a link of `connection`, and the task that drives it.
    pub(super) fn new(
        connection: Arc<dyn Connection>,
        ended: impl FnOnce(&str) + Send + 'static,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (queue, requests) = mpsc::unbounded_channel();
        let driver = async move {
            let why = match connection.open().await {
                Err(LinkClosed(why)) => why,
                Ok(link) => {
                    let pending = Mutex::new(Pending::default());
                    let why = tokio::select! {
                        biased;
                        why = read(link.receiver, &pending) => why,
                        why = write(link.sender, requests, &pending) => why,
                    };
                    lock(&pending).fail(&why);
                    why
                }
            };
            ended(&why);
        };
        (Self { queue }, driver)
    }

    /// Sends; the order of calls is the order on the wire.
    pub(super) fn send(&self, message: Message, body: Vec<Bytes>) -> oneshot::Receiver<Result<Frame, Lost>> {
        let (answer, receiver) = oneshot::channel();
        // A lane that ended drops the sender: the receiver sees the loss.
        let _ = self.queue.send(Outgoing { message, body, answer });
        receiver
    }

    /// Whether it ended.
    pub(super) fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }
}

#[derive(Default)]
struct Pending {
    next_correlation: u32,
    waiting: VecDeque<(u32, oneshot::Sender<Result<Frame, Lost>>)>,
    no_more: bool,
}

impl Pending {
    fn fail(&mut self, why: &str) {
        for (_, answer) in self.waiting.drain(..) {
            let _ = answer.send(Err(Lost(why.to_owned())));
        }
    }
}

fn lock(pending: &Mutex<Pending>) -> std::sync::MutexGuard<'_, Pending> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn write(
    mut sender: Box<dyn LinkSender>,
    mut requests: mpsc::UnboundedReceiver<Outgoing>,
    pending: &Mutex<Pending>,
) -> String {
    let mut together = Vec::new();
    loop {
        if requests.recv_many(&mut together, TOGETHER_MAX).await == 0 {
            lock(pending).no_more = true;
            if lock(pending).waiting.is_empty() {
                return "no longer used".into();
            }
            return std::future::pending().await;
        }
        let frames = {
            let mut pending = lock(pending);
            let frame = |Outgoing { message, body, answer }: Outgoing| {
                let correlation = pending.next_correlation;
                pending.next_correlation = correlation.wrapping_add(1);
                pending.waiting.push_back((correlation, answer));
                Frame { correlation, message, body }
            };
            together.drain(..).map(frame).collect()
        };
        if let Err(LinkClosed(why)) = sender.send(frames).await {
            return why;
        }
    }
}

async fn read(mut receiver: Box<dyn LinkReceiver>, pending: &Mutex<Pending>) -> String {
    loop {
        let frame = match receiver.receive().await {
            Ok(frame) => frame,
            Err(LinkClosed(why)) => return why,
        };
        let mut pending = lock(pending);
        match pending.waiting.pop_front() {
            Some((correlation, answer)) if correlation == frame.correlation => drop(answer.send(Ok(frame))),
            Some((expected, answer)) => {
                let why = format!("the answer to request {expected} was expected, {} came", frame.correlation);
                let _ = answer.send(Err(Lost(why.clone())));
                return why;
            }
            None => return "an answer came that nobody asked for".into(),
        }
        if pending.no_more && pending.waiting.is_empty() {
            return "no longer used".into();
        }
    }
}
