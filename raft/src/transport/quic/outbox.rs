//! What waits to be written to one peer on one lane.
//!
//! **Invariant:** `waiting` is the sum of the bytes of messages that were taken and neither written nor dropped; it passes
//! the limit by one message at most, and only when nothing else waits.

use crate::{NodeId, Payload, transport::SendError};
use bytes::{BufMut, Bytes, BytesMut};
use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

/// Bytes of small messages that are written at once.
const BATCH_BYTES: usize = 256 << 10;
/// From here on a part is handed to QUIC as it is. Smaller ones are copied together: QUIC walks its chunks for each packet.
const PART_BYTES: usize = 16 << 10;
/// Bytes in front of each message.
pub(super) const FRAME_HEADER: usize = 4;

pub(super) struct Outbox {
    node: NodeId,
    limit: usize,
    message_max: usize,
    state: Mutex<State>,
    /// One per stream: its writer has work.
    work: Vec<Notify>,
    /// Somebody wants to send on a lane that is dialled on demand.
    pub(super) wanted: Notify,
}

struct State {
    accepts: bool,
    on_demand: bool,
    waiting: usize,
    queues: Vec<VecDeque<Payload>>,
}

/// What one write takes.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) chunks: Vec<Bytes>,
    /// Bytes of the messages in it.
    pub(super) bytes: usize,
}

impl Outbox {
    pub(super) fn new(node: NodeId, streams: usize, limit: usize, message_max: usize, on_demand: bool) -> Self {
        let queues = (0..streams).map(|_| VecDeque::new()).collect();
        Outbox {
            node,
            limit,
            message_max,
            state: Mutex::new(State { accepts: on_demand, on_demand, waiting: 0, queues }),
            work: (0..streams).map(|_| Notify::new()).collect(),
            wanted: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, key: u64, message: Payload) -> Result<(), SendError> {
        let bytes = message.len();
        let mut state = self.state();
        if !state.accepts {
            return Err(SendError::NotConnected { node: self.node });
        }
        if bytes > self.message_max {
            return Err(SendError::TooLarge { node: self.node, bytes, limit: self.message_max });
        }
        if state.waiting > 0 && state.waiting + bytes > self.limit {
            return Err(SendError::Full { node: self.node, waiting: state.waiting, limit: self.limit });
        }
        state.waiting += bytes;
        let stream = stream_of(key, state.queues.len());
        state.queues[stream].push_back(message);
        drop(state);
        self.work[stream].notify_one();
        self.wanted.notify_one();
        Ok(())
    }

    /// Messages are taken from now on.
    pub(super) fn open(&self) {
        self.state().accepts = true;
    }

    /// Gives back what waits; whether anything did, also what a writer had taken. On a lane that is dialled on demand new
    /// messages are still taken.
    pub(super) fn close(&self) -> (bool, Vec<Payload>) {
        let mut state = self.state();
        let waited = state.waiting > 0;
        state.accepts = state.on_demand;
        state.waiting = 0;
        (waited, state.queues.iter_mut().flat_map(std::mem::take).collect())
    }

    pub(super) fn waiting(&self) -> usize {
        self.state().waiting
    }

    /// The next thing to write on a stream. Cancel-safe.
    pub(super) async fn next(&self, stream: usize) -> Batch {
        loop {
            let messages = self.take(stream);
            if messages.is_empty() {
                self.work[stream].notified().await;
            } else {
                return encode(&messages);
            }
        }
    }

    fn take(&self, stream: usize) -> Vec<Payload> {
        let mut state = self.state();
        let queue = &mut state.queues[stream];
        let (mut messages, mut bytes) = (Vec::new(), 0);
        while let Some(message) = queue.front()
            && (messages.is_empty() || bytes + message.len() <= BATCH_BYTES)
        {
            bytes += message.len();
            messages.extend(queue.pop_front());
        }
        messages
    }

    /// QUIC has taken them.
    pub(super) fn written(&self, bytes: usize) {
        let mut state = self.state();
        state.waiting = state.waiting.saturating_sub(bytes);
    }
}

/// The stream of a key: neighbours go to different ones, and so do keys that differ in high bits only.
fn stream_of(key: u64, streams: usize) -> usize {
    let mixed = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
    usize::try_from(mixed).unwrap_or(0) % streams
}

/// `length u32 │ bytes` per message: small parts in one buffer, large ones as they are.
fn encode(messages: &[Payload]) -> Batch {
    let bytes = messages.iter().map(Payload::len).sum::<usize>();
    let parts = || messages.iter().flat_map(Payload::parts);
    let small = parts().map(Bytes::len).filter(|len| *len < PART_BYTES).sum::<usize>();
    let mut buffer = BytesMut::with_capacity(small + FRAME_HEADER * messages.len());
    let mut chunks = Vec::new();
    for message in messages {
        buffer.put_u32_le(u32::try_from(message.len()).unwrap_or(u32::MAX));
        for part in message.parts() {
            if part.len() < PART_BYTES {
                buffer.put_slice(part);
            } else {
                chunks.push(buffer.split().freeze());
                chunks.push(part.clone());
            }
        }
    }
    chunks.push(buffer.freeze());
    chunks.retain(|chunk| !chunk.is_empty());
    Batch { chunks, bytes }
}

/// Puts messages together again.
pub(super) struct Framer {
    message_max: usize,
    head: Vec<u8>,
    body: Option<BytesMut>,
    left: usize,
}

/// A length that no sender writes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

/// Bytes that are reserved before they came, at most.
const RESERVE_MAX: usize = 1 << 20;

impl Framer {
    pub(super) fn new(message_max: usize) -> Self {
        Framer { message_max, head: Vec::with_capacity(FRAME_HEADER), body: None, left: 0 }
    }

    /// Copies what came into messages, each in a buffer of its own size, and hands out those that are whole.
    pub(super) fn feed(&mut self, mut came: &[u8], mut whole: impl FnMut(Bytes)) -> Result<(), TooLong> {
        loop {
            if self.body.is_none() {
                let take = (FRAME_HEADER - self.head.len()).min(came.len());
                self.head.extend_from_slice(&came[..take]);
                came = &came[take..];
                let Ok(head) = <[u8; FRAME_HEADER]>::try_from(self.head.as_slice()) else { return Ok(()) };
                self.head.clear();
                self.left = usize::try_from(u32::from_le_bytes(head)).unwrap_or(usize::MAX);
                if self.left > self.message_max {
                    return Err(TooLong);
                }
                self.body = Some(BytesMut::with_capacity(self.left.min(RESERVE_MAX)));
            }
            if let Some(body) = &mut self.body {
                let take = self.left.min(came.len());
                body.extend_from_slice(&came[..take]);
                came = &came[take..];
                self.left -= take;
            }
            if self.left > 0 {
                return Ok(());
            }
            whole(self.body.take().unwrap_or_default().freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(batch: Batch) -> Vec<u8> {
        batch.chunks.concat()
    }

    #[test]
    fn messages_come_out_as_they_went_in_however_the_bytes_are_cut() {
        let sizes = [0, 1, 3, PART_BYTES - 1, PART_BYTES, 100_000];
        let part = |(i, size): (usize, usize)| Bytes::from(vec![u8::try_from(i).unwrap(); size]);
        let mut messages: Vec<_> = sizes.into_iter().enumerate().map(part).map(Payload::from).collect();
        messages.push(Payload::new(sizes.into_iter().enumerate().map(part)));
        let wire = bytes(encode(&messages));
        for step in [1, 2, 5, 1200, wire.len()] {
            let (mut framer, mut out) = (Framer::new(1 << 20), Vec::new());
            wire.chunks(step).for_each(|came| framer.feed(came, |m| out.push(Payload::from(m))).unwrap());
            assert_eq!(out, messages, "cut each {step}");
        }
        let mut framer = Framer::new(99_999);
        assert_eq!(framer.feed(&wire, |_| {}), Err(TooLong));
    }

    #[test]
    fn large_parts_are_shared_and_small_ones_copied_together() {
        let large = Bytes::from(vec![7; PART_BYTES]);
        let batch =
            encode(&[Payload::new([Bytes::from_static(b"head"), large.clone()]), Bytes::from_static(b"x").into()]);
        let lengths: Vec<_> = batch.chunks.iter().map(Bytes::len).collect();
        assert_eq!(lengths, [8, PART_BYTES, 5]);
        assert_eq!(batch.chunks[1].as_ptr(), large.as_ptr());
        assert_eq!(batch.bytes, 4 + PART_BYTES + 1);
    }

    #[test]
    fn a_stream_is_what_it_was() {
        let messages =
            [Payload::new([Bytes::from_static(b"in two "), Bytes::from_static(b"parts")]), Payload::default()];
        let name = format!("peers/stream-v{}.hex", super::super::hello::VERSION);
        crate::testing::golden(&name, &bytes(encode(&messages)));
    }

    #[test]
    fn the_bound_counts_what_is_not_written_yet() {
        let message = |n: usize| Payload::from(Bytes::from(vec![0; n]));
        let full = |waiting| Err(SendError::Full { node: NodeId(2), waiting, limit: 100 });
        let outbox = Outbox::new(NodeId(2), 4, 100, 1000, false);
        assert_eq!(outbox.push(1, message(1)), Err(SendError::NotConnected { node: NodeId(2) }));
        outbox.open();
        outbox.push(1, message(200)).unwrap();
        assert_eq!(outbox.push(2, message(1)), full(200));
        assert_eq!(outbox.take(stream_of(1, 4)).len(), 1);
        assert_eq!(outbox.push(2, message(1)), full(200));
        outbox.written(200);
        outbox.push(2, message(60)).unwrap();
        assert_eq!(outbox.push(2, message(41)), full(60));
        let too_large = SendError::TooLarge { node: NodeId(2), bytes: 1001, limit: 1000 };
        assert_eq!(outbox.push(2, message(1001)), Err(too_large));
        let (waited, lost) = outbox.close();
        assert!(waited && lost.iter().map(Payload::len).eq([60]));
        assert_eq!(outbox.waiting(), 0);
        assert_eq!(outbox.push(1, message(1)), Err(SendError::NotConnected { node: NodeId(2) }));
    }
}
