//! What nodes ask of each other, counted on its way into the simulated network.

use crate::{
    NodeId, Payload,
    transport::{
        Inbox, Lane, Network, Peer, SendError,
        rpc::{APPEND, HEADER_BYTES},
    },
};
use bytes::Buf;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

/// Requests by sender, receiver and service. Clones share.
#[derive(Clone, Default)]
pub(super) struct Sent(Arc<Mutex<Counts>>);

type Counts = BTreeMap<(NodeId, NodeId, u8), Count>;

/// Requests of one service, from one node to another.
#[derive(Clone, Debug, Default)]
pub(super) struct Count {
    pub(super) messages: u64,
    pub(super) bytes: usize,
    pub(super) largest: usize,
    /// Of appends: the numbers of their streams in the order in which they went, each run once.
    pub(super) streams: Vec<u64>,
    /// How many were appends of a stream.
    pub(super) streamed: u64,
}

impl Sent {
    pub(super) fn count(&self, from: u32, to: u32, service: u8) -> Count {
        self.0.lock().unwrap().get(&(NodeId(from), NodeId(to), service)).cloned().unwrap_or_default()
    }

    /// Messages of a service, between all nodes.
    pub(super) fn messages(&self, service: u8) -> u64 {
        self.0.lock().unwrap().iter().filter(|((.., of), _)| *of == service).map(|(_, count)| count.messages).sum()
    }

    fn note(&self, from: NodeId, to: NodeId, message: &Payload) {
        const CALL: u8 = 1;
        const TELL: u8 = 2;
        let head = message.slice(0..HEADER_BYTES).unwrap();
        if !matches!(head[0], CALL | TELL) {
            return;
        }
        let mut sent = self.0.lock().unwrap();
        let count = sent.entry((from, to, head[1])).or_default();
        count.messages += 1;
        count.bytes += message.len();
        count.largest = count.largest.max(message.len());
        // Version, kind, group, from and to stand before a stream's number (`openraft/codec.rs`).
        const STREAMED: u8 = 1;
        let stream = message.slice(HEADER_BYTES + 1..HEADER_BYTES + 34).filter(|body| body[0] == STREAMED);
        if let Some(mut body) = stream.filter(|_| head[1] == APPEND) {
            body.advance(25);
            let number = body.get_u64_le();
            count.streamed += 1;
            if count.streams.last() != Some(&number) {
                count.streams.push(number);
            }
        }
    }
}

/// A network that counts what goes into it.
pub(super) struct Counted {
    node: NodeId,
    inner: Arc<dyn Network>,
    sent: Sent,
}

impl Counted {
    pub(super) fn new(node: NodeId, inner: Arc<dyn Network>, sent: &Sent) -> Self {
        Counted { node, inner, sent: sent.clone() }
    }
}

impl Network for Counted {
    fn send(&self, to: NodeId, lane: Lane, key: u64, message: Payload) -> Result<(), SendError> {
        let taken = self.inner.send(to, lane, key, message.clone());
        if taken.is_ok() {
            self.sent.note(self.node, to, &message);
        }
        taken
    }

    fn set_peers(&self, peers: Vec<Peer>) {
        self.inner.set_peers(peers);
    }

    fn set_inbox(&self, inbox: Arc<dyn Inbox>) {
        self.inner.set_inbox(inbox);
    }

    fn disconnect(&self, peer: NodeId, lane: Lane) {
        self.inner.disconnect(peer, lane);
    }
}
