//! Consumer groups as sessions see them: wire in, wire out, at the node that is the group's home.

use super::{
    actor::{HomeDomain, Request},
    machine,
};
use crate::{
    metrics::Metrics,
    replica::{self, Identity, Keeper, Leaders, Post},
    runtime::{Env, Lost, ReplySlot},
    types::{GroupName, NodeId, TopicId},
    wire::{self, Code, Refused},
};
use arc_swap::ArcSwap;
use futures_util::future::join_all;
use highwater_raft::GroupId;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::watch;

/// How long a request of a group may take at its home, beyond what it asked to be parked.
const DEADLINE: Duration = Duration::from_secs(5);

/// The homes of consumer groups on this node. Clones share; may be used from any thread.
#[derive(Clone)]
pub struct Groups(Arc<Shared>);

/// What homes know of the cluster around them: snapshots, never a message.
pub trait Surroundings: Send + Sync + 'static {
    /// This node.
    fn node(&self) -> NodeId;
    /// How many homes there are.
    fn homes(&self) -> u64;
    /// Who leads which group.
    fn leaders(&self) -> &Leaders;
    /// The version of what [`Surroundings::topics`] gives now.
    fn version(&self) -> u64;
    /// All topics, with that version.
    fn topics(&self) -> (u64, BTreeMap<TopicId, machine::TopicFacts>);
    /// Tells of new versions.
    fn changed(&self) -> watch::Receiver<u64>;
}

/// The groups on one node.
#[derive(Debug)]
pub struct Listed {
    /// Those whose home this node is, by name.
    pub groups: Vec<wire::GroupSummary>,
    /// Homes with a replica here that gave no list here, each with its leader as far as known.
    pub elsewhere: Vec<(GroupId, Option<NodeId>)>,
}

struct Shared {
    around: Arc<dyn Surroundings>,
    metrics: Metrics,
    homes: ArcSwap<BTreeMap<GroupId, Post<Request>>>,
}

/// What a home answers.
pub(super) struct Answered<T>(Result<T, Refused>);

impl<T> Lost for Answered<T> {
    fn lost() -> Self {
        Self(Err(Refused::new(Code::NotHome, "the group's home has moved; find it again")))
    }
}

/// Where it answers.
#[derive(Debug)]
pub(super) struct Answer<T>(ReplySlot<Answered<T>>);

impl<T> Answer<T> {
    pub(super) fn answer(self, answer: Result<T, Refused>) {
        self.0.answer(Answered(answer));
    }
}

impl Groups {
    /// No home yet.
    pub fn new(around: Arc<dyn Surroundings>, metrics: Metrics) -> Self {
        Self(Arc::new(Shared { around, metrics, homes: ArcSwap::default() }))
    }

    /// Starts this node's replica of a home on the current arbiter.
    pub(crate) fn host(&self, env: &Env, identity: Identity) -> Keeper {
        let post = Post::default();
        let group = identity.group;
        self.0.homes.rcu(|homes| {
            let mut homes = BTreeMap::clone(homes);
            homes.insert(group, post.clone());
            homes
        });
        let keeper =
            replica::start(env, post.clone(), HomeDomain::new(self.0.around.clone(), self.0.metrics.clone()), identity);
        let mut changed = self.0.around.changed();
        let home = Arc::downgrade(&self.0);
        env.spawn_local(async move {
            while changed.changed().await.is_ok()
                && home.upgrade().is_some_and(|home| home.homes.load().contains_key(&group))
            {
                post.send(Request::TopicsChanged);
            }
        });
        keeper
    }

    /// Its replica is closed.
    pub(crate) fn remove(&self, group: GroupId) {
        self.0.homes.rcu(|homes| {
            let mut homes = BTreeMap::clone(homes);
            homes.remove(&group);
            homes
        });
    }

    /// Where a group lives: its Raft group, and the node that leads it now, as far as this one knows.
    pub fn home_of(&self, group: &GroupName) -> (GroupId, Option<NodeId>) {
        let home = GroupId(1 + machine::home_of(group, self.0.around.homes()));
        (home, self.0.around.leaders().of(home).and_then(|leader| leader.node))
    }

    async fn ask<T: Send + 'static>(
        &self,
        group: &GroupName,
        wait: Duration,
        request: impl FnOnce(Answer<T>) -> Request,
    ) -> Result<T, Refused> {
        let (home, leader) = self.home_of(group);
        let elsewhere = || Refused {
            leader: leader.filter(|node| *node != self.0.around.node()),
            ..Refused::new(Code::NotHome, format!("this node is not the home of group {group} now; find it again"))
        };
        let post = self.0.homes.load().get(&home).cloned().ok_or_else(elsewhere)?;
        let (slot, answer) = ReplySlot::channel();
        post.send(request(Answer(slot)));
        match tokio::time::timeout(wait + DEADLINE, answer).await {
            Ok(Answered(answer)) => answer.map_err(|refused| match refused.code {
                Code::NotHome => elsewhere(),
                _ => refused,
            }),
            Err(_) => {
                Err(Refused::new(Code::TimedOut, "the group's home gave no answer in time; it may have been done"))
            }
        }
    }

    /// Becomes a member, or renews a subscription.
    pub async fn join(&self, join: wire::Join) -> Result<wire::Joined, Refused> {
        let group = join.group.clone();
        self.ask(&group, Duration::ZERO, |slot| Request::Join(join, slot)).await
    }

    /// Says that a member is alive and what it holds; parked until there is news for it or its wait has passed.
    pub async fn heartbeat(&self, beat: wire::Heartbeat) -> Result<wire::HeartbeatAnswer, Refused> {
        let group = beat.group.clone();
        let wait = Duration::from_millis(beat.wait_ms.into());
        self.ask(&group, wait, |slot| Request::Heartbeat(beat, slot)).await
    }

    /// Ends a membership.
    pub async fn leave(&self, leave: wire::Leave) -> Result<wire::Done, Refused> {
        let group = leave.group.clone();
        self.ask(&group, Duration::ZERO, |slot| Request::Leave(leave, slot)).await
    }

    /// Fixes where partitions start that have no committed offset; gives where they do.
    pub async fn start(&self, start: wire::Start) -> Result<wire::Started, Refused> {
        let group = start.group.clone();
        self.ask(&group, Duration::ZERO, |slot| Request::Start(start, slot)).await
    }

    /// Commits offsets.
    pub async fn commit(&self, commit: wire::Commit) -> Result<wire::Committed, Refused> {
        let group = commit.group.clone();
        self.ask(&group, Duration::ZERO, |slot| Request::Commit(commit, slot)).await
    }

    /// All there is to know of a group; not stale.
    pub async fn describe(&self, describe: wire::DescribeGroup) -> Result<wire::GroupDescription, Refused> {
        let group = describe.group;
        self.ask(&group.clone(), Duration::ZERO, |slot| Request::Describe(group, slot)).await
    }

    /// Moves the offsets of a group without members.
    pub async fn reset(&self, reset: wire::ResetGroup) -> Result<wire::Done, Refused> {
        let group = reset.group.clone();
        self.ask(&group, Duration::ZERO, |slot| Request::Reset(reset, slot)).await
    }

    /// Removes a group without members.
    pub async fn delete(&self, delete: wire::DeleteGroup) -> Result<wire::Done, Refused> {
        let group = delete.group;
        self.ask(&group.clone(), Duration::ZERO, |slot| Request::Delete(group, slot)).await
    }

    /// The groups whose home this node is now.
    pub async fn list(&self) -> Listed {
        let homes = self.0.homes.load_full();
        let asked: Vec<_> = homes.values().map(|post| list_of(post.clone())).collect();
        let (mut groups, mut elsewhere) = (Vec::new(), Vec::new());
        for (home, answer) in homes.keys().zip(join_all(asked).await) {
            match answer {
                Some(some) => groups.extend(some),
                None => elsewhere.push((*home, self.0.around.leaders().of(*home).and_then(|leader| leader.node))),
            }
        }
        groups.sort_by(|a, b| a.group.cmp(&b.group));
        Listed { groups, elsewhere }
    }
}

/// The groups of a home, if this node is it.
async fn list_of(post: Post<Request>) -> Option<Vec<wire::GroupSummary>> {
    let (slot, answer) = ReplySlot::<Answered<Vec<wire::GroupSummary>>>::channel();
    post.send(Request::List(Answer(slot)));
    match tokio::time::timeout(DEADLINE, answer).await {
        Ok(Answered(list)) => list.ok(),
        Err(_) => None,
    }
}
