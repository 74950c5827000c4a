//! What the client knows of the cluster: nodes, topics and who leads each partition.
//!
//! Invariants:
//! - a partition's leader epoch never goes back, whatever node is asked;
//! - after a node refused a request for a partition as its leader of epoch e, the route is empty until a later epoch (or another
//!   node of at least e) is known: nothing new goes to the old node ([`Cluster::refused`]);
//! - of a topic that is gone nothing is known any more, and no node that lags behind brings it back;
//! - one refresh is under way at a time ([`super::refresher`]); who waits for one gets one that began after the question.

use super::{
    error::{LookupError, RequestError},
    pool::{Live, Pool, lock},
    refresher::{NEWS_WAIT, refresher},
    stats::Counters,
};
use crate::{
    types::{NodeId, TopicId, TopicName, TopicPartition},
    wire::{Code, Message, Metadata, MetadataAnswer, Refused},
};
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::Instant,
};

/// A node that did not answer a metadata request for this long gets company: the next node is asked too.
pub(super) const HEDGE_AFTER: Duration = Duration::from_millis(200);
/// Longest wait for the metadata of a node that has just made a change.
const LEARN_MAX: Duration = Duration::from_secs(1);
/// Pauses between tries.
pub(super) const PACE_MIN: Duration = Duration::from_millis(20);
pub(super) const PACE_MAX: Duration = Duration::from_millis(250);
/// After this time a refused route is tried again, should no other become known: the way out if an epoch was misjudged.
const FENCE_MAX: Duration = Duration::from_secs(3);
/// So long a partition without a leader is taken for offline after an answer said so; whoever waits for it asks again sooner.
const OFFLINE_FRESH: Duration = Duration::from_secs(1);
/// How long a topic that nobody knows is asked for again: a node that lags may not have heard of it yet.
const UNKNOWN_TOPIC_PATIENCE: Duration = Duration::from_millis(600);

/// A topic as clients see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: TopicName,
    /// Its id.
    pub id: TopicId,
    /// How many partitions it has.
    pub partitions: u32,
    /// Copies of each.
    pub replication_factor: u32,
    /// Settings that differ from the defaults, by name.
    pub settings: Vec<(String, String)>,
}

/// Who leads a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) node: NodeId,
    pub(super) epoch: u64,
}

#[derive(Default)]
struct Known {
    leader: Option<NodeId>,
    epoch: u64,
    fence: Option<(Route, Instant)>,
    /// Most of its replicas are damaged: what the newest metadata said, and when.
    offline: Option<(Refused, Instant)>,
}

impl Known {
    fn route(&self) -> Option<Route> {
        let route = Route { node: self.leader?, epoch: self.epoch };
        let fenced = self.fence.is_some_and(|(fence, since)| {
            route.epoch <= fence.epoch
                && (route.node == fence.node || route.epoch < fence.epoch)
                && since.elapsed() < FENCE_MAX
        });
        (!fenced).then_some(route)
    }

    /// Takes news that are not older; gives whether the leader changed.
    fn learn(&mut self, leader: Option<NodeId>, epoch: u64) -> bool {
        let news = leader.is_some() && (epoch > self.epoch || self.leader.is_none() && epoch == self.epoch);
        // A first leader may be known before its epoch is.
        let news = news || leader.is_some() && epoch == 0 && self.epoch == 0 && self.leader != leader;
        if news {
            (self.leader, self.epoch) = (leader, epoch);
        }
        news
    }
}

#[derive(Default)]
struct State {
    version: u64,
    nodes: BTreeMap<NodeId, String>,
    topics: BTreeMap<TopicName, Arc<Topic>>,
    interest: BTreeSet<TopicName>,
    /// By which number each node has told its last news.
    heard: BTreeMap<NodeId, u64>,
    routes: BTreeMap<TopicPartition, Known>,
}

impl State {
    fn has(&self, topic: TopicId) -> bool {
        self.topics.values().any(|known| known.id == topic)
    }

    /// The topic of this name is gone, and its id never comes back. Gives whether one was known.
    fn forget(&mut self, name: &TopicName) -> bool {
        let Some(topic) = self.topics.remove(name) else { return false };
        self.interest.remove(name);
        self.routes.retain(|partition, _| partition.topic != topic.id);
        true
    }
}

pub(super) struct Cluster {
    pub(super) pool: Pool,
    bootstrap: Vec<String>,
    pub(super) request_timeout: Duration,
    counters: Arc<Counters>,
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    pub(super) asked: AtomicU64,
    pub(super) answered: watch::Sender<(u64, Option<RequestError>)>,
    wake: mpsc::Sender<()>,
    /// So long somebody wants news.
    pub(super) wanted_until: Mutex<Option<Instant>>,
    /// Somebody waits for an answer, whether there are news or not.
    pub(super) hurried: Notify,
}

impl Cluster {
    /// The knowledge, and the task that refreshes it.
    pub(super) fn new(
        pool: Pool,
        bootstrap: Vec<String>,
        request_timeout: Duration,
        counters: Arc<Counters>,
    ) -> (Arc<Self>, impl Future<Output = ()> + Send) {
        let (wake, asked_again) = mpsc::channel(1);
        let cluster = Arc::new(Self {
            pool,
            bootstrap,
            request_timeout,
            counters,
            state: Mutex::default(),
            changed: watch::Sender::new(0),
            asked: AtomicU64::new(0),
            answered: watch::Sender::new((0, None)),
            wake,
            wanted_until: Mutex::default(),
            hurried: Notify::new(),
        });
        let refresher = refresher(Arc::downgrade(&cluster), asked_again);
        (cluster, refresher)
    }

    /// Rises with each change of topics or leaders.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Where requests for the partition go now; `None` while that is not known.
    pub(super) fn route(&self, partition: TopicPartition) -> Option<Route> {
        lock(&self.state).routes.get(&partition).and_then(Known::route)
    }

    /// Whether there is such a topic, as far as the newest metadata say.
    pub(super) fn has(&self, topic: TopicId) -> bool {
        lock(&self.state).has(topic)
    }

    /// Why nobody serves the partition, where waiting does not help: it is offline and not just between two leaders, or its
    /// topic is gone.
    pub(super) fn offline(&self, partition: TopicPartition) -> Option<Refused> {
        let state = lock(&self.state);
        if !state.routes.contains_key(&partition) && !state.has(partition.topic) {
            let said = format!("there is no topic {} any more: it was deleted", partition.topic);
            return Some(Refused::new(Code::UnknownTopic, said));
        }
        let known = state.routes.get(&partition).filter(|known| known.route().is_none())?;
        let (refused, since) = known.offline.as_ref()?;
        (since.elapsed() < OFFLINE_FRESH).then(|| refused.clone())
    }

    /// A node refused as a leader: nothing goes there until there is news. Its hint, when good, is the news.
    pub(super) fn refused(&self, partition: TopicPartition, by: Route, refused: &Refused) {
        let changed = {
            let mut state = lock(&self.state);
            // Without an entry the topic is gone: there is nothing to learn about it.
            state.routes.get_mut(&partition).is_some_and(|known| {
                if known.fence.is_none_or(|(fence, _)| fence.epoch <= by.epoch) {
                    known.fence = Some((by, Instant::now()));
                }
                let hint = refused.leader.filter(|node| *node != by.node || refused.leader_epoch > by.epoch);
                // A node's own word about its later leader needs no metadata; without an epoch it is only a rumour.
                hint.is_some() && refused.leader_epoch > 0 && known.learn(hint, refused.leader_epoch)
            })
        };
        if changed {
            Counters::one(&self.counters.leader_changes);
            self.changed.send_modify(|n| *n += 1);
        } else {
            self.ask();
        }
    }

    /// Makes sure that news come for a while when there are any. Whoever still needs some then asks again.
    pub(super) fn ask(&self) {
        self.asked.fetch_add(1, Relaxed);
        *lock(&self.wanted_until) = Some(Instant::now() + NEWS_WAIT);
        // Full = a refresh is already due.
        let _ = self.wake.try_send(());
    }

    /// Makes sure that an answer comes.
    fn hurry(&self) -> u64 {
        let ticket = self.asked.fetch_add(1, Relaxed) + 1;
        self.hurried.notify_one();
        let _ = self.wake.try_send(());
        ticket
    }

    /// Waits for a refresh that begins after this call.
    pub(super) async fn refresh(&self) -> Result<(), RequestError> {
        let mut answered = self.answered.subscribe();
        let ticket = self.hurry();
        match answered.wait_for(|(done, _)| *done >= ticket).await {
            Ok(outcome) => outcome.1.clone().map_or(Ok(()), Err),
            Err(_) => Err(RequestError::Closed),
        }
    }

    /// The topic, asked for if it is not known yet.
    pub(super) async fn topic(&self, name: &TopicName) -> Result<Arc<Topic>, LookupError> {
        if let Some(topic) = self.known(name) {
            return Ok(topic);
        }
        lock(&self.state).interest.insert(name.clone());
        let begun = Instant::now();
        loop {
            let refreshed = self.refresh().await;
            if let Some(topic) = self.known(name) {
                return Ok(topic);
            }
            match refreshed {
                Err(error) if begun.elapsed() >= self.request_timeout || error == RequestError::Closed => {
                    return Err(LookupError::Unreachable { topic: name.clone(), why: error.to_string() });
                }
                Ok(()) if begun.elapsed() >= UNKNOWN_TOPIC_PATIENCE => {
                    lock(&self.state).interest.remove(name);
                    return Err(LookupError::UnknownTopic { topic: name.clone() });
                }
                _ => {}
            }
        }
    }

    /// The topic, asked for again if it has no such partition: it may have more by now.
    pub(super) async fn topic_with(&self, name: &TopicName, partition: u32) -> Result<Arc<Topic>, LookupError> {
        let topic = self.topic(name).await?;
        if partition < topic.partitions {
            return Ok(topic);
        }
        // What is known without an answer is no worse than before.
        let _ = self.refresh().await;
        self.topic(name).await
    }

    pub(super) fn known(&self, name: &TopicName) -> Option<Arc<Topic>> {
        lock(&self.state).topics.get(name).cloned()
    }

    /// Keeps up with a topic from now on.
    pub(super) fn interested(&self, name: &TopicName) {
        if lock(&self.state).interest.insert(name.clone()) {
            self.hurry();
        }
    }

    /// The topic's partitions that have a leader now.
    pub(super) fn led(&self, topic: &Topic) -> Vec<u32> {
        let state = lock(&self.state);
        let led = |p: &u32| {
            let partition = TopicPartition { topic: topic.id, partition: *p };
            state.routes.get(&partition).and_then(Known::route).is_some()
        };
        (0..topic.partitions).filter(led).collect()
    }

    /// Asks any node, others when one does not answer, until the request's time is up.
    pub(super) async fn any(&self, message: impl Into<Message>) -> Result<(NodeId, crate::wire::Frame), RequestError> {
        let message = message.into();
        let begun = Instant::now();
        let mut pause = PACE_MIN;
        loop {
            let error = match self.hedged(self.targets(), HEDGE_AFTER, |_| message.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let hopeless = match &error {
                RequestError::Refused { refused } => !refused.code.is_retriable(),
                RequestError::Unexpected { .. } | RequestError::Closed => true,
                RequestError::Unreachable { .. } | RequestError::TimedOut { .. } => false,
            };
            if hopeless || begun.elapsed() >= self.request_timeout {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PACE_MAX);
        }
    }

    /// Asks one node, another one when it is not reachable or cannot answer. For what is not to be done twice; what it changed is
    /// part of the newest metadata from then on.
    pub(super) async fn one(&self, message: impl Into<Message>) -> Result<crate::wire::Frame, RequestError> {
        let message = message.into();
        let begun = Instant::now();
        let mut pause = PACE_MIN;
        loop {
            let mut last = super::pool::unreachable(&NodeId(0), "no node is known");
            for target in self.targets() {
                let live = match &target {
                    Target::Node(node) => self.pool.connection(*node).await,
                    Target::Address(address) => self.pool.bootstrap(address).await,
                };
                let answer = match live {
                    Ok(live) => live.call(message.clone(), self.request_timeout).await.map(|frame| (live, frame)),
                    Err(error) => Err(error),
                };
                match answer {
                    Ok((live, frame)) => {
                        self.learn_from(&live).await;
                        return Ok(frame);
                    }
                    Err(RequestError::Refused { refused }) if !refused.code.is_retriable() => {
                        return Err(RequestError::Refused { refused });
                    }
                    Err(error @ (RequestError::TimedOut { .. } | RequestError::Closed)) => return Err(error),
                    Err(error) => last = error,
                }
            }
            if begun.elapsed() >= self.request_timeout {
                return Err(last);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PACE_MAX);
        }
    }

    /// Takes the metadata of a node that has what was changed there: from then on what is older is known as such.
    async fn learn_from(&self, live: &Live) {
        let topics: Vec<_> = lock(&self.state).interest.iter().cloned().collect();
        let asked = live.call(Metadata { topics: Some(topics.clone()), ..Metadata::default() }, LEARN_MAX).await;
        // The change is made whatever comes of this.
        if let Ok(crate::wire::Frame { message: Message::MetadataAnswer(answer), .. }) = asked {
            self.merge(live.node(), answer, &topics);
        }
    }

    /// Of the newest metadata that were seen.
    pub(super) fn version(&self) -> u64 {
        lock(&self.state).version
    }

    /// Asks nodes one after the other, each after a pause, without waiting for the slow ones.
    pub(super) async fn hedged(
        &self,
        targets: Vec<Target>,
        pause: Duration,
        message: impl Fn(&Target) -> Message,
    ) -> Result<(NodeId, crate::wire::Frame), RequestError> {
        let ask = |to: Target, message: Message| async move {
            let live = match &to {
                Target::Node(node) => self.pool.connection(*node).await?,
                Target::Address(address) => self.pool.bootstrap(address).await?,
            };
            let answer = live.call(message, self.request_timeout).await?;
            Ok::<_, RequestError>((live.node(), answer))
        };
        let mut targets = targets.into_iter();
        let mut asked = FuturesUnordered::new();
        let mut last = None;
        loop {
            match targets.next() {
                Some(target) => {
                    let message = message(&target);
                    asked.push(ask(target, message));
                }
                None if asked.is_empty() => {
                    return Err(last.unwrap_or_else(|| super::pool::unreachable(&NodeId(0), "no node is known")));
                }
                None => {}
            }
            let more = targets.len() > 0;
            tokio::select! {
                biased;
                Some(answer) = asked.next() => match answer {
                    Ok(answer) => return Ok(answer),
                    Err(error @ RequestError::Refused { .. }) if error.code().is_some_and(|c| !c.is_retriable()) => return Err(error),
                    Err(error) => last = Some(error),
                },
                () = tokio::time::sleep(pause), if more => {}
            }
        }
    }

    pub(super) fn targets(&self) -> Vec<Target> {
        let mut nodes = self.pool.nodes();
        // Another node each time, so that one that lags or hangs is not asked for ever.
        let turn = usize::try_from(self.asked.load(Relaxed)).unwrap_or(0);
        if let Some(turn) = turn.checked_rem(nodes.len()) {
            nodes.rotate_left(turn);
        }
        let known = nodes.is_empty();
        let bootstrap = self.bootstrap.iter().cloned().map(Target::Address);
        let nodes: Vec<_> = nodes.into_iter().map(Target::Node).collect();
        if known { bootstrap.collect() } else { nodes.into_iter().chain(bootstrap).collect() }
    }

    /// The topics to keep up with, and by which number each node told its last news.
    pub(super) fn heard(&self) -> (Vec<TopicName>, BTreeMap<NodeId, u64>) {
        let state = lock(&self.state);
        (state.interest.iter().cloned().collect(), state.heard.clone())
    }

    /// Takes what a node told; gives whether any of it was news.
    pub(super) fn merge(&self, from: NodeId, answer: MetadataAnswer, asked: &[TopicName]) -> bool {
        Counters::one(&self.counters.metadata_answers);
        let mut leaders = 0;
        let (news, nodes) = {
            let mut state = lock(&self.state);
            state.heard.insert(from, answer.news);
            let current = answer.version >= state.version;
            let mut news = answer.version > state.version;
            if current {
                state.version = answer.version;
                state.nodes = answer.nodes.into_iter().map(|n| (n.node, n.address)).collect();
                for gone in asked.iter().filter(|name| !answer.topics.iter().any(|t| t.name == **name)) {
                    news |= state.forget(gone);
                }
            }
            for topic in answer.topics {
                let is_known = state.topics.get(&topic.name).is_some_and(|known| known.id == topic.id);
                if !is_known && !current {
                    // The node lags behind: the topic may be gone.
                    continue;
                }
                if !is_known {
                    // One of the same name that was there before is another one.
                    state.forget(&topic.name);
                }
                for (partition, said) in topic.partitions.iter().enumerate() {
                    let partition =
                        TopicPartition { topic: topic.id, partition: u32::try_from(partition).unwrap_or(u32::MAX) };
                    let known = state.routes.entry(partition).or_default();
                    leaders += u64::from(known.learn(said.leader, said.leader_epoch));
                    if current {
                        let offline = said.offline.then(|| Refused::offline(&said.damaged, said.replicas.len()));
                        if offline.is_some() && said.leader.is_none() {
                            known.leader = None;
                        }
                        known.offline = offline.map(|refused| (refused, Instant::now()));
                    }
                }
                if current {
                    let partitions = u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX);
                    let name = topic.name.clone();
                    let topic = Topic {
                        name: topic.name,
                        id: topic.id,
                        partitions,
                        replication_factor: topic.replication_factor,
                        settings: topic.settings,
                    };
                    state.interest.insert(name.clone());
                    news |= state.topics.get(&name).is_none_or(|known| **known != topic);
                    state.topics.insert(name, Arc::new(topic));
                }
            }
            (news || leaders > 0, state.nodes.clone())
        };
        self.pool.set_addresses(&nodes);
        Counters::add(&self.counters.leader_changes, leaders);
        if news {
            self.changed.send_modify(|n| *n += 1);
        }
        news
    }

    /// Nodes with their addresses.
    pub(super) fn nodes(&self) -> BTreeMap<NodeId, String> {
        lock(&self.state).nodes.clone()
    }

    /// The connection to a node.
    pub(super) async fn connection(&self, node: NodeId) -> Result<Arc<Live>, RequestError> {
        self.pool.connection(node).await
    }
}

pub(super) enum Target {
    Node(NodeId),
    Address(String),
}
