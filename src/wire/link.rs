//! The seam between a client and a gateway: a connection opens links, a link carries frames both ways in order.
//! QUIC (`wire::quic`, for client and gateway) and channels in memory (`gateway::local`, simulation) stand behind it.

use super::{Done, Frame, Header};
use crate::advice::{Advice, Reaction};
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

/// The other side is gone, or the connection broke. The text says why, as far as known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("connection closed: {0}")]
pub struct LinkClosed(pub String);

impl Advice for LinkClosed {
    fn reaction(&self) -> Reaction {
        Reaction::Refresh
    }

    fn advice(&self) -> String {
        "dial again, or dial another node".into()
    }
}

/// A connection: many links.
pub trait Connection: Send + Sync + 'static {
    /// Opens a link (client side).
    fn open(&self) -> BoxFuture<'_, Result<Link, LinkClosed>>;
    /// Waits for a link that the other side opened (broker side).
    fn accept(&self) -> BoxFuture<'_, Result<Link, LinkClosed>>;
    /// Closes with a reason that the other side is told.
    fn close(&self, reason: &str);
}

/// Two directions of one ordered stream of frames.
pub struct Link {
    /// Towards the other side.
    pub sender: Box<dyn LinkSender>,
    /// From the other side.
    pub receiver: Box<dyn LinkReceiver>,
}

/// Sends frames.
pub trait LinkSender: Send + 'static {
    /// Takes all frames as one write; returns when they are handed to the transport (which bounds what it buffers).
    fn send(&mut self, frames: Vec<Frame>) -> BoxFuture<'_, Result<(), LinkClosed>>;
}

/// Receives frames.
pub trait LinkReceiver: Send + 'static {
    /// The next frame. A frame that does not decode closes the connection.
    fn receive(&mut self) -> BoxFuture<'_, Result<Frame, LinkClosed>>;
    /// From now on `gate` is asked about each frame, in order, before its bytes are kept. What it refuses is thrown away
    /// as it comes, and arrives as [`Done`] without a body: whoever set the gate knows which frames those are.
    fn set_gate(&mut self, gate: Gate);
}

/// Admits frames by their headers.
pub type Gate = Box<dyn FnMut(&Header) -> bool + Send>;

/// One side of a connection in memory.
pub struct MemoryConnection {
    opened: mpsc::Sender<Link>,
    accepted: tokio::sync::Mutex<mpsc::Receiver<Link>>,
    closed: std::sync::Arc<tokio::sync::watch::Sender<Option<String>>>,
}

/// Frames that may wait in one direction of a link in memory.
const FRAMES_WAITING_MAX: usize = 64;

/// Two sides of a connection in memory.
pub fn memory_connection() -> (MemoryConnection, MemoryConnection) {
    let (to_b, from_a) = mpsc::channel(16);
    let (to_a, from_b) = mpsc::channel(16);
    let closed = std::sync::Arc::new(tokio::sync::watch::Sender::new(None));
    let side = |opened, accepted| MemoryConnection {
        opened,
        accepted: tokio::sync::Mutex::new(accepted),
        closed: closed.clone(),
    };
    (side(to_b, from_b), side(to_a, from_a))
}

impl MemoryConnection {
    fn why(&self) -> LinkClosed {
        LinkClosed(self.closed.borrow().clone().unwrap_or_else(|| "the other side is gone".into()))
    }
}

type Closed = tokio::sync::watch::Receiver<Option<String>>;

async fn closed(watch: &mut Closed) -> LinkClosed {
    match watch.wait_for(Option::is_some).await {
        Ok(reason) => LinkClosed(reason.clone().unwrap_or_default()),
        Err(_) => LinkClosed("the other side is gone".into()),
    }
}

impl Connection for MemoryConnection {
    fn open(&self) -> BoxFuture<'_, Result<Link, LinkClosed>> {
        Box::pin(async move {
            if self.closed.borrow().is_some() {
                return Err(self.why());
            }
            let (a_out, b_in) = mpsc::channel(FRAMES_WAITING_MAX);
            let (b_out, a_in) = mpsc::channel(FRAMES_WAITING_MAX);
            let link = |frames, from| Link {
                sender: Box::new(MemorySender { frames, closed: self.closed.subscribe() }),
                receiver: Box::new(MemoryReceiver { frames: from, closed: self.closed.subscribe(), gate: None }),
            };
            self.opened.send(link(b_out, b_in)).await.map_err(|_| self.why())?;
            Ok(link(a_out, a_in))
        })
    }

    fn accept(&self) -> BoxFuture<'_, Result<Link, LinkClosed>> {
        Box::pin(async move {
            let mut accepted = self.accepted.lock().await;
            let mut watch = self.closed.subscribe();
            tokio::select! {
                biased;
                why = closed(&mut watch) => Err(why),
                link = accepted.recv() => link.ok_or_else(|| self.why()),
            }
        })
    }

    fn close(&self, reason: &str) {
        self.closed.send_if_modified(|closed| {
            let first = closed.is_none();
            if first {
                *closed = Some(reason.into());
            }
            first
        });
    }
}

impl Drop for MemoryConnection {
    fn drop(&mut self) {
        self.close("the other side is gone");
    }
}

struct MemorySender {
    frames: mpsc::Sender<Frame>,
    closed: Closed,
}

impl LinkSender for MemorySender {
    fn send(&mut self, frames: Vec<Frame>) -> BoxFuture<'_, Result<(), LinkClosed>> {
        Box::pin(async move {
            for frame in frames {
                tokio::select! {
                    biased;
                    why = closed(&mut self.closed) => return Err(why),
                    sent = self.frames.send(frame) => sent.map_err(|_| LinkClosed("the link was closed".into()))?,
                }
            }
            Ok(())
        })
    }
}

struct MemoryReceiver {
    frames: mpsc::Receiver<Frame>,
    closed: Closed,
    gate: Option<Gate>,
}

impl MemoryReceiver {
    fn admit(&mut self, frame: Frame) -> Frame {
        let len = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        let body_len = len(frame.body.iter().map(bytes::Bytes::len).sum());
        let header = Header { kind: frame.message.kind(), correlation: frame.correlation, head_len: 0, body_len };
        match self.gate.as_mut().is_none_or(|gate| gate(&header)) {
            true => frame,
            false => Frame::new(frame.correlation, Done {}),
        }
    }
}

impl LinkReceiver for MemoryReceiver {
    fn receive(&mut self) -> BoxFuture<'_, Result<Frame, LinkClosed>> {
        Box::pin(async move {
            let frame = tokio::select! {
                biased;
                frame = self.frames.recv() => frame.ok_or_else(|| {
                    let reason = self.closed.borrow().clone();
                    LinkClosed(reason.unwrap_or_else(|| "the link was closed".into()))
                }),
                why = closed(&mut self.closed) => Err(why),
            };
            frame.map(|frame| self.admit(frame))
        })
    }

    fn set_gate(&mut self, gate: Gate) {
        self.gate = Some(gate);
    }
}
