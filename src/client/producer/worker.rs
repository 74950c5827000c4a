//! Carries out what a [`Window`] decides: finds the leader, sends, waits, gives up. One task per partition that is produced to.

use super::{
    Idempotence,
    receipt::Place,
    window::{Answer, Due, Hold, Noted, Window},
};
use crate::{
    client::{
        Inner,
        cluster::Route,
        lane::Lost,
        pool::{Live, lock},
        stats::Counters,
    },
    types::{AckLevel, TopicPartition},
    wire::{Frame, Message, Produce, Produced},
};
use futures_util::{
    future::{BoxFuture, FutureExt},
    stream::{FuturesUnordered, StreamExt},
};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, oneshot, watch},
    time::Instant,
};

/// A node without an answer for this long makes the client ask others who leads.
const SUSPECT_AFTER: Duration = Duration::from_millis(250);
/// First and longest pause before a node is asked again.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// What an answer may take beyond the time that the broker was given.
const ANSWER_SLACK: Duration = Duration::from_secs(1);

/// A partition's window, shared by the producer's handle and the worker.
pub(super) struct Lot {
    pub(super) place: Arc<Place>,
    pub(super) window: Mutex<Window>,
    pub(super) wake: Notify,
    pub(super) closing: AtomicBool,
}

impl Lot {
    /// The worker ends when all that was taken has its outcome.
    pub(super) fn end(&self) {
        self.closing.store(true, Relaxed);
        self.wake.notify_one();
    }
}

type InFlight = FuturesUnordered<BoxFuture<'static, (u64, Route, Result<Frame, Lost>)>>;

pub(super) struct Worker {
    lot: Arc<Lot>,
    inner: Arc<Inner>,
    idempotence: Arc<Idempotence>,
    ack: AckLevel,
    partition: TopicPartition,
    in_flight: InFlight,
    sent_over: Option<(Route, Arc<Live>)>,
    refused_by: Option<Route>,
    paused_until: Option<Instant>,
    asked_at: Instant,
    look_again_at: Option<Instant>,
}

impl Worker {
    pub(super) fn new(lot: Arc<Lot>, inner: Arc<Inner>, idempotence: Arc<Idempotence>, ack: AckLevel) -> Self {
        let partition = TopicPartition { topic: lot.place.topic.id, partition: lot.place.partition };
        Self {
            lot,
            inner,
            idempotence,
            ack,
            partition,
            in_flight: FuturesUnordered::new(),
            sent_over: None,
            refused_by: None,
            paused_until: None,
            asked_at: Instant::now(),
            look_again_at: None,
        }
    }

    pub(super) async fn run(mut self) {
        let mut changes = self.inner.cluster.changes();
        loop {
            changes.mark_unchanged();
            self.settle();
            if self.lot.closing.load(Relaxed) && lock(&self.lot.window).is_empty() {
                return;
            }
            self.ship(&mut changes).await;
            self.wait(&mut changes).await;
        }
    }

    /// Time-outs, moved leaders, ended holds.
    fn settle(&mut self) {
        let now = Instant::now();
        // A pause that is over wakes nobody any more, also when nothing is left to be sent.
        self.paused_until = self.paused_until.filter(|until| *until > now);
        let route = self.inner.cluster.route(self.partition);
        let mut window = lock(&self.lot.window);
        window.expire(now);
        if self.lot.closing.load(Relaxed) {
            window.flush();
        }
        if let Some(since) = window.waits_since() {
            let moved = self.sent_over.as_ref().and_then(|(sent, _)| route.filter(|route| route.epoch > sent.epoch));
            // Behind a refusal the other answers are on their way: they tell what is in the log and what is not.
            let coming = window.is_held() && now < since + SUSPECT_AFTER;
            if let Some(route) = moved.filter(|_| !coming) {
                window.give_up(&format!("node {} leads now", route.node));
                self.in_flight.clear();
            } else if now >= since + self.inner.request_timeout + ANSWER_SLACK {
                window.give_up("no answer came in time");
                self.in_flight.clear();
                if let Some((_, live)) = &self.sent_over {
                    live.break_off("a produce request stays without an answer");
                }
            } else if now >= since + SUSPECT_AFTER && now >= self.asked_at + SUSPECT_AFTER {
                self.asked_at = now;
                self.inner.cluster.ask();
            }
        }
        if let Some((hold, setbacks)) = window.release() {
            match hold {
                Hold::Pause => {
                    let pause = PAUSE_MIN.saturating_mul(1 << setbacks.min(8)).min(PAUSE_MAX);
                    self.paused_until = Some(now + pause);
                    self.inner.cluster.ask();
                }
                Hold::Reconnect => self.inner.cluster.ask(),
                // Whoever noted the refusal has asked already, unless the refusal named the leader.
                Hold::Reroute | Hold::Renew => {}
            }
        }
    }

    /// Sends what is due, when it is known whereto.
    async fn ship(&mut self, changes: &mut watch::Receiver<u64>) {
        let now = Instant::now();
        if self.paused_until.is_some() || lock(&self.lot.window).due(now) != Due::Now {
            return;
        }
        let (needed, renewed) = {
            let window = lock(&self.lot.window);
            (window.needs_identity(), window.renewed())
        };
        if needed {
            match self.idempotence.identity(&self.inner, renewed).await {
                Ok(identity) => lock(&self.lot.window).identify(identity),
                Err(error) => return self.pause(&error.to_string()),
            }
        }
        let Some(route) = self.inner.cluster.route(self.partition) else {
            match self.inner.cluster.offline(self.partition) {
                Some(refused) => lock(&self.lot.window).unserved(&refused),
                None => lock(&self.lot.window).note("no leader is known"),
            }
            self.look_again_at = Some(now + PAUSE_MIN);
            return self.inner.cluster.ask();
        };
        let cluster = &self.inner.cluster;
        let live = {
            let mut dialled = std::pin::pin!(cluster.connection(route.node));
            loop {
                tokio::select! {
                    biased;
                    live = &mut dialled => break live,
                    // The route may have changed: look again before more time goes into this node.
                    _ = changes.changed() => return self.lot.wake.notify_one(),
                    () = tokio::time::sleep(SUSPECT_AFTER) => cluster.ask(),
                }
            }
        };
        match live {
            Err(error) => {
                self.inner.cluster.ask();
                self.pause(&error.to_string());
            }
            Ok(live) => self.send(route, live),
        }
    }

    fn send(&mut self, route: Route, live: Arc<Live>) {
        let mut window = lock(&self.lot.window);
        // Never two connections at a time: what overtakes would be out of order.
        let same = self.sent_over.as_ref().is_some_and(|(_, sent)| Arc::ptr_eq(sent, &live));
        if !same && window.in_flight() > 0 {
            window.give_up("the connection was made anew");
            self.in_flight.clear();
        }
        let counters = &self.inner.counters;
        if self.refused_by == Some(route) {
            Counters::one(&counters.sent_after_refusal);
        }
        let lane =
            live.lane(usize::try_from(self.partition.partition).unwrap_or(0) + usize::from(self.partition.topic.0[0]));
        let timeout_ms = u32::try_from(self.inner.request_timeout.as_millis()).unwrap_or(u32::MAX);
        let now = Instant::now();
        while let Some(shipment) = window.take(now) {
            Counters::one(&counters.produce_requests);
            Counters::add(&counters.produce_repeats, u64::from(shipment.repeated));
            let TopicPartition { topic, partition } = self.partition;
            let produce = Produce { topic, partition, ack: self.ack, timeout_ms };
            let answer = lane.send(produce.into(), vec![shipment.batch]);
            let lost = |_: oneshot::error::RecvError| Err(Lost("the connection broke".into()));
            let answer = answer.map(move |answer| (shipment.id, route, answer.unwrap_or_else(lost)));
            self.in_flight.push(answer.boxed());
        }
        self.sent_over = Some((route, live.clone()));
    }

    fn pause(&mut self, why: &str) {
        lock(&self.lot.window).note(why);
        self.paused_until = Some(Instant::now() + PAUSE_MIN * 5);
    }

    /// Until something may have changed.
    async fn wait(&mut self, changes: &mut watch::Receiver<u64>) {
        let now = Instant::now();
        let (at, under_way) = {
            let window = lock(&self.lot.window);
            let due = match window.due(now) {
                Due::At(at) => Some(at),
                Due::Now | Due::Never => None,
            };
            let suspect = window.waits_since().map(|since| (since + SUSPECT_AFTER).max(self.asked_at + SUSPECT_AFTER));
            let at = [due, suspect, window.expires_at(), self.paused_until, self.look_again_at.take()]
                .into_iter()
                .flatten()
                .min();
            (at, !window.is_empty())
        };
        tokio::select! {
            biased;
            Some((id, from, answer)) = self.in_flight.next() => self.take_answer(id, from, answer),
            () = self.lot.wake.notified() => {}
            _ = changes.changed(), if under_way => {}
            () = tokio::time::sleep_until(at.unwrap_or(now)), if at.is_some() => {}
        }
    }

    fn take_answer(&mut self, id: u64, from: Route, answer: Result<Frame, Lost>) {
        let answer = match answer {
            Ok(Frame { message: Message::Produced(produced), .. }) => Answer::Acked(Produced { ..produced }),
            Ok(Frame { message: Message::Refused(refused), .. }) => Answer::Refused(refused),
            Ok(frame) => Answer::Lost(format!("a {:?} came as an answer to Produce", frame.message.kind())),
            Err(Lost(why)) => Answer::Lost(why),
        };
        let refused = match &answer {
            Answer::Refused(refused) => Some(refused.clone()),
            _ => None,
        };
        let counters = &self.inner.counters;
        match lock(&self.lot.window).answered(id, from, answer) {
            Some(Noted::Acked { duplicate }) => {
                Counters::one(&counters.batches_acknowledged);
                Counters::add(&counters.duplicates, u64::from(duplicate));
                self.refused_by = None;
            }
            Some(Noted::NotLeader { again }) => {
                Counters::one(&counters.produce_refused_not_leader);
                Counters::add(&counters.refused_twice, u64::from(again));
                self.refused_by = Some(from);
                if let Some(refused) = refused {
                    self.inner.cluster.refused(self.partition, from, &refused);
                }
            }
            None => {}
        }
    }
}
