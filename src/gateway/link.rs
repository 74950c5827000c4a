//! One link: requests in, answers out in their order, deliveries between them.

use crate::{
    limits,
    runtime::BytePermit,
    session::Push,
    wire::{Frame, LinkClosed, LinkReceiver, LinkSender, Message, Refused},
};
use bytes::Bytes;
use futures_util::{FutureExt, future::LocalBoxFuture};
use std::{
    collections::VecDeque,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

/// Requests of a link that may wait for their answers; then it is not read.
pub(super) const REQUESTS_PER_LINK_MAX: usize = 256;
/// A client that takes nothing for so long is cut off.
const WRITE_STALL_MAX: Duration = Duration::from_secs(60);

/// What is sent in answer; `permit` is held until it has left.
pub(super) struct Reply {
    pub(super) message: Message,
    pub(super) body: Vec<Bytes>,
    pub(super) permit: Option<BytePermit>,
}

impl Reply {
    pub(super) fn new(message: impl Into<Message>) -> Self {
        Self { message: message.into(), body: Vec::new(), permit: None }
    }
}

impl From<Refused> for Reply {
    fn from(refused: Refused) -> Self {
        Self::new(refused)
    }
}

/// An answer, or the wait for it. A wait is polled when it is the link's oldest.
pub(super) enum Answer {
    Now(Reply),
    Later(LocalBoxFuture<'static, Reply>),
}

impl<T: Into<Reply>> From<T> for Answer {
    fn from(reply: T) -> Self {
        Self::Now(reply.into())
    }
}

/// Frames as the gate judged them, in order.
#[derive(Clone, Default)]
pub(super) struct Judged(Arc<Mutex<VecDeque<Result<BytePermit, Refused>>>>);

impl Judged {
    pub(super) fn push(&self, judged: Result<BytePermit, Refused>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(judged);
    }

    pub(super) fn next(&self) -> Result<BytePermit, Refused> {
        let judged = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        judged.expect("the gate was asked about every frame that arrived")
    }
}

/// A request whose answer has not left.
pub(super) struct Pending {
    correlation: u32,
    answer: Answer,
    /// One of the link's and one of the connection's requests.
    _counted: [OwnedSemaphorePermit; 2],
}

/// Reads requests until the link ends or the connection is over. `take` gives no answer for what is not answered.
pub(super) async fn read(
    mut receiver: Box<dyn LinkReceiver>,
    judged: Judged,
    of_connection: Arc<Semaphore>,
    pending: mpsc::UnboundedSender<Pending>,
    mut over: watch::Receiver<bool>,
    mut take: impl FnMut(Frame, Result<BytePermit, Refused>) -> Option<Answer>,
) {
    let of_link = Arc::new(Semaphore::new(REQUESTS_PER_LINK_MAX));
    let requests = async {
        loop {
            let Ok(one) = of_link.clone().acquire_owned().await else { return };
            let Ok(frame) = receiver.receive().await else { return };
            let Ok(other) = of_connection.clone().acquire_owned().await else { return };
            let correlation = frame.correlation;
            if let Some(answer) = take(frame, judged.next()) {
                let _ = pending.send(Pending { correlation, answer, _counted: [one, other] });
            }
        }
    };
    tokio::select! {
        biased;
        _ = over.wait_for(|over| *over) => {}
        () = requests => {}
    }
}

/// What leaves in one write.
#[derive(Default)]
struct Outgoing {
    frames: Vec<Frame>,
    permits: Vec<BytePermit>,
    counted: Vec<[OwnedSemaphorePermit; 2]>,
    bytes: usize,
    /// Bytes of deliveries in it.
    pushed: u64,
}

impl Outgoing {
    fn push(&mut self, push: Push) {
        self.bytes += push.frame.body.iter().map(Bytes::len).sum::<usize>();
        self.pushed += push.bytes;
        self.frames.push(push.frame);
        self.permits.extend(push.permit);
    }

    fn answer(&mut self, pending: Pending, reply: Reply) {
        self.bytes += reply.body.iter().map(Bytes::len).sum::<usize>();
        let Reply { message, body, permit } = reply;
        self.frames.push(Frame { correlation: pending.correlation, message, body });
        self.permits.extend(permit);
        self.counted.push(pending._counted);
    }
}

/// The oldest request, once its answer is there.
async fn oldest(waiting: &mut VecDeque<Pending>) -> (Pending, Reply) {
    let reply = match waiting.front_mut() {
        None => std::future::pending().await,
        Some(Pending { answer: Answer::Later(reply), .. }) => Some(reply.await),
        Some(_) => None,
    };
    let mut pending = waiting.pop_front().expect("looked at above");
    let reply = match (reply, std::mem::replace(&mut pending.answer, Answer::Later(Box::pin(std::future::pending())))) {
        (Some(reply), _) | (None, Answer::Now(reply)) => reply,
        (None, Answer::Later(_)) => unreachable!("a wait was awaited above"),
    };
    (pending, reply)
}

/// Sends answers and deliveries until the link has ended and all is answered.
pub(super) async fn write(
    mut sender: Box<dyn LinkSender>,
    mut pending: mpsc::UnboundedReceiver<Pending>,
    mut pushes: mpsc::UnboundedReceiver<Push>,
    written: impl Fn(u64),
) -> Result<(), LinkClosed> {
    let mut waiting = VecDeque::new();
    let (mut more, mut more_pushes) = (true, true);
    loop {
        let mut outgoing = Outgoing::default();
        tokio::select! {
            biased;
            push = pushes.recv(), if more_pushes => match push {
                Some(push) => outgoing.push(push),
                None => more_pushes = false,
            },
            // Cancel-safe: a wait stays at the front until its reply is there.
            (request, reply) = oldest(&mut waiting), if !waiting.is_empty() => {
                // What was delivered before the answer was made goes first.
                while let Ok(push) = pushes.try_recv() {
                    outgoing.push(push);
                }
                outgoing.answer(request, reply);
            }
            request = pending.recv(), if more => match request {
                Some(request) => waiting.push_back(request),
                None => more = false,
            },
            else => return Ok(()),
        }
        while outgoing.bytes < limits::WRITER_YIELD_BYTES {
            while let Ok(request) = pending.try_recv() {
                waiting.push_back(request);
            }
            let Some((request, reply)) = oldest(&mut waiting).now_or_never() else { break };
            while let Ok(push) = pushes.try_recv() {
                outgoing.push(push);
            }
            outgoing.answer(request, reply);
        }
        if outgoing.frames.is_empty() {
            if !more && waiting.is_empty() {
                while let Ok(push) = pushes.try_recv() {
                    outgoing.push(push);
                }
                if outgoing.frames.is_empty() {
                    return Ok(());
                }
            } else {
                continue;
            }
        }
        let Outgoing { frames, permits, counted, pushed, .. } = outgoing;
        if !send(&mut *sender, frames).await? {
            return Ok(());
        }
        drop((permits, counted));
        if pushed > 0 {
            written(pushed);
        }
    }
}

/// Whether the frames were taken: a client that gives up a request drops its link, and goes on with the others.
async fn send(sender: &mut dyn LinkSender, frames: Vec<Frame>) -> Result<bool, LinkClosed> {
    match tokio::time::timeout(WRITE_STALL_MAX, sender.send(frames)).await {
        Ok(sent) => Ok(sent.is_ok()),
        Err(_) => Err(LinkClosed(format!("the client took nothing for {} s", WRITE_STALL_MAX.as_secs()))),
    }
}

/// A wait that becomes a reply.
pub(super) fn later<T: Into<Reply> + 'static>(reply: impl Future<Output = T> + 'static) -> Answer {
    Answer::Later(Box::pin(reply.map(Into::into)))
}
