//! Keeps partitions fetched: one long poll per leader under way, or push subscriptions within a credit.
//!
//! Invariants: a partition is in one request or subscription at a time; with the buffer full nothing is asked for; whatever
//! comes back is judged by the cursors, so an answer that arrives late does no harm.

use super::{
    Mode, Shared,
    cursors::Want,
    push::{self, Subscription},
    refusals::Said,
};
use crate::{
    client::{
        OFFSETS_WAIT, RequestError,
        cluster::Route,
        pool::{lock, unexpected},
        stats::Counters,
    },
    types::{NodeId, Position, TopicPartition},
    wire::{Code, Fetch, FetchPartition, Fetched, Frame, ListOffsets, ListedOffsets, Message, OffsetQuery, Refused},
};
use futures_util::{
    future::{AbortHandle, Abortable, BoxFuture, FutureExt},
    stream::{FuturesUnordered, StreamExt},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::mpsc, time::Instant};

/// How long a partition is left alone after a refusal that passes.
pub(super) const PAUSE: Duration = Duration::from_millis(50);
/// The same for a node that is not reachable, overloaded, or does not answer.
const NODE_PAUSE: Duration = Duration::from_millis(100);
/// What an answer may take beyond the time for which it may be parked.
const ANSWER_SLACK: Duration = Duration::from_secs(1);
/// Smallest room in the buffer that is worth a fetch.
const ROOM_MIN: usize = 64 << 10;

/// What came of something under way.
enum Landed {
    Fetch(u64, NodeId, Result<Frame, RequestError>),
    Offsets(NodeId, Vec<Question>, Result<Frame, RequestError>),
    GivenUp,
}

/// A position that is asked for, of whom the leader was then.
type Question = (Want, Position, Route);

struct Flight {
    id: u64,
    wants: BTreeMap<TopicPartition, Want>,
    route_epochs: BTreeMap<TopicPartition, u64>,
    room: usize,
    abort: AbortHandle,
}

pub(super) struct Driver {
    shared: Arc<Shared>,
    under_way: FuturesUnordered<BoxFuture<'static, Landed>>,
    flights: BTreeMap<NodeId, Flight>,
    asked: BTreeSet<(TopicPartition, u64)>,
    node_pauses: BTreeMap<NodeId, Instant>,
    subscriptions: BTreeMap<u64, Subscription>,
    ended: (mpsc::UnboundedSender<push::Ended>, mpsc::UnboundedReceiver<push::Ended>),
    next_id: u64,
}

impl Driver {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            under_way: FuturesUnordered::new(),
            flights: BTreeMap::new(),
            asked: BTreeSet::new(),
            node_pauses: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            // Unbounded: one message per subscription that ends or partition that is refused.
            ended: mpsc::unbounded_channel(),
            next_id: 1,
        }
    }

    pub(super) async fn run(mut self) {
        let mut changes = self.shared.inner.cluster.changes();
        while !self.shared.is_closed() {
            changes.mark_unchanged();
            let again_at = self.plan();
            let now = Instant::now();
            tokio::select! {
                biased;
                Some(landed) = self.under_way.next() => self.landed(landed),
                Some(ended) = self.ended.1.recv() => self.push_ended(ended),
                () = self.shared.work.notified() => {}
                _ = changes.changed() => {}
                () = tokio::time::sleep_until(again_at.unwrap_or(now)), if again_at.is_some() => {}
            }
        }
    }

    /// Starts what is to be under way and is not; gives when to look again.
    fn plan(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let cursors = lock(&self.shared.cursors);
        // Under the same lock: with the mode changes what the cursors want.
        let mode = self.shared.mode()?;
        let (wants, wants_later) = cursors.wanted(now);
        let (sought, sought_later) = cursors.sought(now);
        drop(cursors);
        let mut again_at = [wants_later, sought_later].into_iter().flatten().min();
        let mut unrouted = false;

        let mut questions: BTreeMap<NodeId, Vec<Question>> = BTreeMap::new();
        for (want, position) in sought {
            if self.asked.contains(&(want.partition, want.version)) {
                continue;
            }
            match self.route(want.partition, now) {
                Ok(route) => questions.entry(route.node).or_default().push((want, position, route)),
                Err(at) => {
                    unrouted |= at.is_none();
                    self.unled(want, at);
                    again_at = again_at.into_iter().chain(at).min();
                }
            }
        }
        for (node, questions) in questions {
            self.ask_offsets(node, questions);
        }

        let mut by_node: BTreeMap<NodeId, Vec<(Want, Route)>> = BTreeMap::new();
        for want in wants {
            match self.route(want.partition, now) {
                Ok(route) => by_node.entry(route.node).or_default().push((want, route)),
                Err(at) => {
                    unrouted |= at.is_none();
                    self.unled(want, at);
                    again_at = again_at.into_iter().chain(at).min();
                }
            }
        }
        match mode {
            Mode::Poll => self.plan_fetches(by_node),
            Mode::Push => {
                // Of polls from before there was a listener: what they bring has no credit.
                self.abort_all();
                self.plan_subscriptions(&by_node);
            }
        }
        if unrouted {
            self.shared.inner.cluster.ask();
            again_at = again_at.into_iter().chain([now + PAUSE]).min();
        }
        again_at
    }

    /// The partition's leader, or when to try again (`None`: when one is known).
    fn route(&self, partition: TopicPartition, now: Instant) -> Result<Route, Option<Instant>> {
        let route = self.shared.inner.cluster.route(partition).ok_or(None)?;
        match self.node_pauses.get(&route.node).filter(|until| **until > now) {
            Some(until) => Err(Some(*until)),
            None => Ok(route),
        }
    }

    /// Nobody is known to lead a partition: where waiting does not help, silence is not enough.
    fn unled(&self, want: Want, again_at: Option<Instant>) {
        if let Some(refused) = self.shared.inner.cluster.offline(want.partition).filter(|_| again_at.is_none()) {
            self.shared.unserved(want, &refused);
        }
    }

    fn plan_fetches(&mut self, by_node: BTreeMap<NodeId, Vec<(Want, Route)>>) {
        // What is wanted elsewhere by now is not waited for here.
        let moved = |node: &NodeId, flight: &Flight| {
            let here = by_node.get(node);
            !flight
                .wants
                .values()
                .any(|want| here.is_some_and(|wants| wants.iter().any(|(w, _)| w.partition == want.partition)))
        };
        let idle: Vec<_> =
            self.flights.iter().filter(|(node, flight)| moved(node, flight)).map(|(node, _)| *node).collect();
        for node in idle {
            self.abort(node);
        }
        let nodes = by_node.len();
        for (node, wants) in by_node {
            if let Some(flight) = self.flights.get(&node) {
                let covered = |(want, _): &(Want, Route)| flight.wants.get(&want.partition) == Some(want);
                if wants.iter().all(covered) {
                    continue;
                }
                self.abort(node);
            }
            let reserved: usize = self.flights.values().map(|flight| flight.room).sum();
            let used = lock(&self.shared.cursors).buffered() + reserved;
            let options = &self.shared.options;
            let room = options
                .prefetch_bytes
                .saturating_sub(used)
                .min(options.fetch_bytes_max)
                .min(options.prefetch_bytes / nodes);
            if room < ROOM_MIN.min(options.prefetch_bytes / nodes) {
                continue;
            }
            self.fetch(node, wants, room);
        }
    }

    fn abort(&mut self, node: NodeId) {
        if let Some(flight) = self.flights.remove(&node) {
            flight.abort.abort();
        }
    }

    fn abort_all(&mut self) {
        for flight in std::mem::take(&mut self.flights).into_values() {
            flight.abort.abort();
        }
    }

    fn fetch(&mut self, node: NodeId, wants: Vec<(Want, Route)>, room: usize) {
        Counters::one(&self.shared.inner.counters.fetch_requests);
        let id = self.next_id;
        self.next_id += 1;
        let options = &self.shared.options;
        let wait = options.fetch_wait;
        let fetch = Fetch {
            wait_ms_max: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
            bytes_min: options.fetch_bytes_min,
            records_min: 0,
            bytes_max: u32::try_from(room).unwrap_or(u32::MAX),
            partitions: wants.iter().map(|(want, _)| fetch_partition(want)).collect(),
        };
        let inner = self.shared.inner.clone();
        let (abort, registration) = AbortHandle::new_pair();
        let request = async move {
            let live = inner.cluster.connection(node).await?;
            live.call(fetch, wait + ANSWER_SLACK).await
        };
        let landed = Abortable::new(request, registration).map(move |answer| match answer {
            Ok(answer) => Landed::Fetch(id, node, answer),
            Err(_) => Landed::GivenUp,
        });
        self.under_way.push(landed.boxed());
        wants.iter().for_each(|(want, route)| self.shared.sends(want.partition, *route));
        let route_epochs = wants.iter().map(|(want, route)| (want.partition, route.epoch)).collect();
        let wants = wants.into_iter().map(|(want, _)| (want.partition, want)).collect();
        self.flights.insert(node, Flight { id, wants, route_epochs, room, abort });
    }

    fn ask_offsets(&mut self, node: NodeId, questions: Vec<Question>) {
        let partitions = questions.iter().map(|(want, at, _)| {
            let TopicPartition { topic, partition } = want.partition;
            OffsetQuery { topic, partition, at: *at }
        });
        let request = ListOffsets { partitions: partitions.collect() };
        self.asked.extend(questions.iter().map(|(want, ..)| (want.partition, want.version)));
        questions.iter().for_each(|(want, _, route)| self.shared.sends(want.partition, *route));
        let inner = self.shared.inner.clone();
        let answer = async move {
            let live = inner.cluster.connection(node).await?;
            live.call(request, inner.request_timeout.min(OFFSETS_WAIT)).await
        };
        self.under_way.push(answer.map(move |answer| Landed::Offsets(node, questions, answer)).boxed());
    }

    fn landed(&mut self, landed: Landed) {
        match landed {
            Landed::GivenUp => {}
            Landed::Fetch(id, node, answer) => {
                let Some(flight) = self.flights.remove(&node) else { return };
                if flight.id != id {
                    // Answered while it was being replaced.
                    self.flights.insert(node, flight);
                    return;
                }
                match answer {
                    Ok(frame) => {
                        let body = frame.body();
                        match frame.message {
                            Message::Fetched(fetched) => self.fetched(node, &flight, fetched, body),
                            other => self.node_failed(node, &unexpected("the node", "Fetch", &other)),
                        }
                    }
                    Err(RequestError::Refused { refused }) if refused.code == Code::ShuttingDown => {
                        self.sent_away(node, &flight, &refused);
                    }
                    Err(error) => self.node_failed(node, &error),
                }
            }
            Landed::Offsets(node, questions, answer) => {
                for (want, ..) in &questions {
                    self.asked.remove(&(want.partition, want.version));
                }
                match answer {
                    Ok(Frame { message: Message::ListedOffsets(listed), .. }) => self.listed(&questions, listed),
                    Ok(frame) => self.node_failed(node, &unexpected("the node", "ListOffsets", &frame.message)),
                    Err(error) => self.node_failed(node, &error),
                }
            }
        }
    }

    fn node_failed(&mut self, node: NodeId, error: &RequestError) {
        tracing::debug!(%node, %error, "the consumer asks for leaders again");
        self.node_pauses.insert(node, Instant::now() + NODE_PAUSE);
        self.shared.inner.cluster.ask();
    }

    /// The node shuts down: its partitions are or will be elsewhere, and nothing new goes there until that is known.
    fn sent_away(&self, node: NodeId, flight: &Flight, refused: &Refused) {
        for (partition, want) in &flight.wants {
            let epoch = flight.route_epochs.get(partition).copied().unwrap_or(0);
            self.shared.refused(*want, Route { node, epoch }, Said::default(), refused);
        }
    }

    fn fetched(&mut self, node: NodeId, flight: &Flight, fetched: Fetched, mut body: bytes::Bytes) {
        let refused = fetched.partitions.iter().filter(|said| said.refused.is_some());
        let refused: BTreeSet<_> =
            refused.map(|said| TopicPartition { topic: said.topic, partition: said.partition }).collect();
        flight.wants.keys().filter(|at| !refused.contains(at)).for_each(|at| self.shared.served(*at));
        for said in fetched.partitions {
            let partition = TopicPartition { topic: said.topic, partition: said.partition };
            let part = body.split_to(body.len().min(usize::try_from(said.bytes).unwrap_or(usize::MAX)));
            let Some(want) = flight.wants.get(&partition) else { continue };
            let epoch = flight.route_epochs.get(&partition).copied().unwrap_or(0);
            match &said.refused {
                Some(refused) => self.shared.refused(*want, Route { node, epoch }, Said::from(&said), refused),
                None => {
                    let taken = lock(&self.shared.cursors).fetched(*want, &said, part, 0, None);
                    if let Err(error) = taken {
                        self.shared.report(error);
                    }
                }
            }
        }
        self.shared.waker.wake();
    }

    fn listed(&mut self, questions: &[Question], listed: ListedOffsets) {
        for ((want, _, route), answer) in questions.iter().zip(listed.partitions) {
            match answer.refused {
                None => {
                    self.shared.served(want.partition);
                    lock(&self.shared.cursors).resolved(want.partition, want.version, answer.offset);
                }
                Some(refused) => {
                    let said = Said { nearest: answer.offset, end: None };
                    self.shared.refused(*want, *route, said, &refused);
                }
            }
        }
        self.shared.positions_known();
    }

    fn plan_subscriptions(&mut self, by_node: &BTreeMap<NodeId, Vec<(Want, Route)>>) {
        let wanted: BTreeMap<_, _> = by_node
            .iter()
            .flat_map(|(node, wants)| wants.iter().map(|(w, r)| (w.partition, (*node, w.version, *r))))
            .collect();
        let mut covered = BTreeSet::new();
        for subscription in self.subscriptions.values_mut() {
            let stays = |partition: &TopicPartition, version: &u64| {
                wanted.get(partition).is_some_and(|(node, v, _)| *node == subscription.node && v == version)
            };
            let (stay, go): (Vec<_>, Vec<_>) = subscription.partitions.iter().partition(|(p, v)| stays(p, v));
            let go: Vec<_> = go.into_iter().map(|(partition, _)| *partition).collect();
            covered.extend(stay.into_iter().map(|(partition, _)| *partition));
            if !go.is_empty() {
                subscription.leave(&go);
            }
        }
        self.subscriptions.retain(|id, subscription| {
            let lives = !subscription.partitions.is_empty();
            if !lives {
                self.shared.end_credit(*id);
            }
            lives
        });
        for (node, wants) in by_node {
            let new: Vec<_> = wants.iter().filter(|(want, _)| !covered.contains(&want.partition)).copied().collect();
            if !new.is_empty() {
                let id = self.next_id;
                self.next_id += 1;
                Counters::one(&self.shared.inner.counters.subscriptions);
                self.shared.open_credit(id);
                let subscription = push::subscribe(id, *node, new, self.shared.clone(), self.ended.0.clone());
                self.subscriptions.insert(id, subscription);
            }
        }
        // Granted first: what is left then is all that anybody can hope for.
        self.shared.grant(&self.subscriptions);
        if let Some(id) = self.shared.hoarder() {
            self.subscriptions.remove(&id);
            self.shared.end_credit(id);
            self.plan_subscriptions(by_node);
        }
    }

    fn push_ended(&mut self, ended: push::Ended) {
        match ended {
            push::Ended::Partition { id, partition } => {
                if let Some(subscription) = self.subscriptions.get_mut(&id) {
                    subscription.partitions.remove(&partition);
                }
            }
            push::Ended::All { id, error } => {
                if let Some(subscription) = self.subscriptions.remove(&id) {
                    self.shared.end_credit(id);
                    self.node_failed(subscription.node, &error);
                }
            }
        }
    }
}

pub(super) fn fetch_partition(want: &Want) -> FetchPartition {
    let TopicPartition { topic, partition } = want.partition;
    FetchPartition { topic, partition, offset: want.offset, bytes_max: 0, from_follower: false }
}
