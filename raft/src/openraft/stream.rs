//! Appends to one follower: many in flight, bounded in number and in bytes, answered in order.
//!
//! **Invariant:** one stream is one run of messages on one lane and key; at the first error it ends, and what was in
//! flight is forgotten. openraft then begins another from what it knows to match.
//! **Invariant:** an append with entries never waits; one that only tells of a commit is kept back for a moment, and the
//! next one, which tells the same and more, goes in its place. Else each lone entry would cost two round trips.
//! **Invariant:** what a follower needs that is no longer in memory goes over the bulk connection, at the node's pace, so
//! that it stands in nobody's way. The stream changes its connection only with nothing in flight: order stays.
//!
//! There is no deadline that matters on an append (openraft takes an error as a reason to begin again from an earlier
//! entry): the failure detector ends the calls to a node that it suspects.

use super::{
    codec::{Reply, Request},
    network::{AskError, Client},
    types::Types,
};
use crate::{
    Payload,
    transport::{
        Lane,
        rpc::{APPEND, CallError},
    },
};
use ::openraft::{
    EntryPayload,
    errors::RPCError,
    raft::{AppendEntriesRequest, StreamAppendResult},
};
use futures_util::{Stream, StreamExt};
use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Instant, Sleep};

/// Far above any suspicion.
const DEADLINE: Duration = Duration::from_secs(60);

/// The answers to the appends of `input`.
pub(super) struct Pipeline<'c, S> {
    client: &'c Client,
    number: u64,
    input: Option<S>,
    in_flight: VecDeque<InFlight>,
    bytes: usize,
    term: u64,
    /// The last append, if it has no entries, until `hold` ends.
    held: Option<AppendEntriesRequest<Types>>,
    hold: Pin<Box<Sleep>>,
    begun: bool,
    lane: Lane,
    /// The next append, which needs the other connection: it goes when all before it are answered.
    turning: Option<AppendEntriesRequest<Types>>,
    /// Until then nothing more goes over the bulk connection.
    paced: Option<Pin<Box<Sleep>>>,
}

struct InFlight {
    answer: Pin<Box<dyn Future<Output = Result<Payload, CallError>> + Send>>,
    bytes: usize,
}

impl<'c, S> Pipeline<'c, S> {
    pub(super) fn new(client: &'c Client, input: S) -> Self {
        let number = client.shared.net.next_stream();
        Pipeline {
            client,
            number,
            input: Some(input),
            in_flight: VecDeque::new(),
            bytes: 0,
            term: 0,
            held: None,
            hold: Box::pin(tokio::time::sleep(Duration::ZERO)),
            begun: false,
            lane: Lane::Data,
            turning: None,
            paced: None,
        }
    }

    fn has_room(&self) -> bool {
        let options = &self.client.shared.options;
        self.turning.is_none()
            && self.in_flight.len() < options.append_window
            && self.bytes < options.append_window_bytes
    }

    /// Over which connection an append goes; without entries, over the one in use.
    fn lane_of(&self, append: &AppendEntriesRequest<Types>) -> Lane {
        match append.entries.first() {
            None => self.lane,
            Some(first) if self.client.shared.log.is_cached(first.log_id.index) => Lane::Data,
            Some(_) => Lane::Bulk,
        }
    }

    fn send(&mut self, append: AppendEntriesRequest<Types>) {
        let bytes = append.entries.iter().map(|entry| 64 + content_len(&entry.payload)).sum::<usize>();
        self.term = append.vote.leader_id.term;
        let request = Request::Append { stream: self.number, append };
        if self.lane == Lane::Bulk {
            let wait = self.client.shared.net.pace.book(bytes);
            self.paced = Some(Box::pin(tokio::time::sleep(wait)));
        }
        let answer = Box::pin(self.client.send(self.lane, APPEND, &request, DEADLINE));
        self.in_flight.push_back(InFlight { answer, bytes });
        self.bytes += bytes;
    }

    /// Sends, or keeps it back if it has no entries; either way what was kept back is superseded.
    fn take(&mut self, append: AppendEntriesRequest<Types>) {
        let before = self.held.take();
        let hold = self.client.shared.options.commit_hold;
        // The first one of a stream is a probe: its answer is waited for.
        if append.entries.is_empty() && self.begun && !hold.is_zero() {
            if before.is_none() {
                self.hold.as_mut().reset(Instant::now() + hold);
            }
            self.held = Some(append);
        } else {
            self.begun = true;
            let lane = self.lane_of(&append);
            if lane != self.lane && !self.in_flight.is_empty() {
                self.turning = Some(append);
            } else {
                self.lane = lane;
                self.paced = self.paced.take().filter(|_| lane == Lane::Bulk);
                self.send(append);
            }
        }
    }

    fn end(&mut self) {
        self.input = None;
        self.held = None;
        self.turning = None;
        self.in_flight.clear();
    }

    fn settle(&mut self, answer: Result<Payload, CallError>) -> Result<StreamAppendResult<Types>, RPCError<Types>> {
        let reply = answer.map_err(AskError::from).and_then(|answer| self.client.read(&answer));
        let result = match reply {
            Ok(Reply::Append(result)) => self.client.check(self.term, result).map_err(RPCError::from),
            Ok(_) => Err(AskError::Mismatch.into()),
            Err(error) => Err(error.into()),
        };
        if !matches!(result, Ok(Ok(_))) {
            self.end();
        }
        result
    }
}

impl<S: Stream<Item = AppendEntriesRequest<Types>> + Unpin> Stream for Pipeline<'_, S> {
    type Item = Result<StreamAppendResult<Types>, RPCError<Types>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            // Answers first: nothing is sent behind an error that is already known.
            if let Some(first) = this.in_flight.front_mut()
                && let Poll::Ready(answer) = first.answer.as_mut().poll(cx)
            {
                this.bytes -= first.bytes;
                this.in_flight.pop_front();
                return Poll::Ready(Some(this.settle(answer)));
            }
            if this.in_flight.is_empty()
                && let Some(append) = this.turning.take()
            {
                this.take(append);
                continue;
            }
            if let Some(paced) = &mut this.paced {
                if paced.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                this.paced = None;
            }
            if !this.has_room() {
                return Poll::Pending;
            }
            let Some(input) = &mut this.input else {
                if let Some(held) = this.held.take() {
                    this.send(held);
                    continue;
                }
                return if this.in_flight.is_empty() { Poll::Ready(None) } else { Poll::Pending };
            };
            match input.poll_next_unpin(cx) {
                Poll::Ready(Some(append)) => {
                    // Only here: asking for the request is what waits for openraft's back-off.
                    if this.client.shared.net.is_suspected(this.client.node) {
                        this.end();
                        return Poll::Ready(Some(Err(AskError::Suspected { node: this.client.node }.into())));
                    }
                    this.take(append);
                }
                Poll::Ready(None) => this.input = None,
                Poll::Pending => match this.held.take() {
                    Some(held) if this.hold.as_mut().poll(cx).is_ready() => this.send(held),
                    held => {
                        this.held = held;
                        return Poll::Pending;
                    }
                },
            }
        }
    }
}

fn content_len(content: &super::types::Content) -> usize {
    match content {
        EntryPayload::Normal(proposal) => proposal.payload.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    }
}
