//! Who leads, when openraft's ticks are off: heartbeats of a leader, elections of a follower.
//!
//! A leader's group is heartbeaten while it took a proposal lately or has uncommitted entries; else it is left alone and
//! its lease lapses. A follower starts elections when its leader's node is suspected or was started anew, when its
//! leader has left the group, when nobody is known to lead, or when it is asked to. The k-th live voter tries k steps after
//! the others, from the moment at which the lease that it gave ends, and again until a leader is known. In a group that was
//! founded just now one is told to stand first, and the others give it a lease.
//!
//! **Invariant:** a group with a live quorum is not leaderless for ever: after the back-stop openraft's own timer is on.
//! **Invariant:** timers of all groups beat together, so that messages of one beat leave together.

use super::{
    codec::Request,
    codec::Route,
    replica::{Replica, Shared},
};
use crate::{
    GroupId, NodeId, ReplicaId,
    group::{Member, Role, Timing},
    observe,
    transport::{
        Lane,
        detector::{Life, State},
        rpc::ELECT,
    },
};
use ::openraft::ServerState;
use openraft_rt::{Instant as _, WatchReceiver};
use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
    time::Duration,
};
use tokio::{sync::mpsc, time::Instant};

/// What a driver is told.
pub(super) enum Command {
    /// The leader of this term cannot go on.
    Elect {
        /// Whose.
        term: u64,
    },
    /// A replica has just started and does not know who leads.
    Greet {
        /// Which one.
        from: ReplicaId,
    },
    /// This replica leads that term and cannot go on: a transfer failed.
    Abandoned {
        /// Which term.
        term: u64,
    },
    /// Nobody can have led the group yet, and this replica is to.
    StandFirst,
}

/// From this try on pauses are drawn.
const TRIES_APART: u32 = 4;
/// How long others are told that the replica that led them has ended. Who is away for longer has lost its leader otherwise.
const ASKED_AT_MOST: Duration = Duration::from_secs(60);

type Lives = BTreeMap<NodeId, Life>;

struct Driver {
    replica: Arc<Replica>,
    opened: Instant,
    /// Leaders of terms up to this one are as good as dead.
    deposed: Option<u64>,
    /// This replica leads that term in vain.
    abandoned: Option<u64>,
    /// Nobody led when this replica was opened.
    first: bool,
    leaderless: Option<Leaderless>,
    /// The term at the last look.
    seen_term: Option<u64>,
    ticking: bool,
    /// Term in which this replica already acts as leader.
    leads: Option<u64>,
    /// When the present run of heartbeats began.
    active_since: Option<Instant>,
    greeted: Lives,
    /// Replicas that asked who leads.
    newcomers: Vec<ReplicaId>,
    /// When this replica last asked.
    asked: Option<Instant>,
}

/// A time without a leader.
#[derive(Clone, Copy)]
struct Leaderless {
    since: Instant,
    /// Where ranks count from: later when another's attempt was seen.
    base: Instant,
    term: u64,
    /// Behind a try: not before then.
    next: Option<Instant>,
    /// The term before the last try.
    before: Option<u64>,
    /// How often: the pause doubles, so that the tries of many groups never take the place of the votes.
    tries: u32,
}

pub(super) async fn drive(replica: Arc<Replica>, mut commands: mpsc::UnboundedReceiver<Command>) {
    let mut roles = replica.role.subscribe();
    let mut lives = replica.shared.net.lives.clone();
    let mut stirred = replica.stirred.subscribe();
    let mut driver = Driver {
        replica: replica.clone(),
        opened: Instant::now(),
        deposed: None,
        abandoned: None,
        first: false,
        leaderless: None,
        seen_term: None,
        ticking: false,
        leads: None,
        active_since: None,
        greeted: Lives::new(),
        newcomers: Vec::new(),
        asked: None,
    };
    loop {
        let role = roles.borrow_and_update().clone();
        let seen = lives.borrow_and_update().clone();
        stirred.borrow_and_update();
        let next = driver.step(Instant::now(), &role, seen).await;
        let idle = role.leading && next.is_none();
        tokio::select! {
            biased;
            Some(command) = commands.recv() => driver.obey(&command),
            changed = roles.changed() => if changed.is_err() { return },
            changed = lives.changed() => if changed.is_err() { return },
            changed = stirred.changed(), if idle => if changed.is_err() { return },
            () = sleep_until(next), if next.is_some() => {}
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

impl Driver {
    fn timing(&self) -> &Timing {
        &self.replica.shared.options.timing
    }

    fn obey(&mut self, command: &Command) {
        match command {
            Command::Elect { term } => self.deposed = self.deposed.max(Some(*term)),
            Command::Abandoned { term } => self.abandoned = Some(*term),
            Command::Greet { from } => self.newcomers.push(*from),
            Command::StandFirst => (self.first, self.leaderless) = (true, None),
        }
    }

    /// Does what is due; says when there is something to do next.
    async fn step(&mut self, now: Instant, role: &Role, lives: Lives) -> Option<Instant> {
        let next = if role.leading {
            self.first = false;
            self.end_election();
            self.lead(now, role, &lives).await
        } else {
            self.leads = None;
            self.abandoned = None;
            self.active_since = None;
            self.replica.end_silence();
            self.follow(now, role, &lives).await
        };
        self.seen_term = Some(role.term);
        self.greeted = lives;
        self.newcomers.clear();
        next
    }

    async fn lead(&mut self, now: Instant, role: &Role, lives: &Lives) -> Option<Instant> {
        if self.leads != Some(role.term) {
            self.leads = Some(role.term);
            // A quorum has just elected it.
            self.replica.end_silence();
            tracing::debug!(group = %self.replica.shared.group, term = role.term, "leads");
            observe::leads(self.replica.shared.group, self.replica.shared.replica, role.term);
            self.replica.stirred.send_if_modified(|last| {
                *last = now;
                false
            });
        }
        let mut back = self.came_back(role, lives);
        back.append(&mut self.newcomers);
        let beat = !back.is_empty();
        if beat {
            // They may not know any more who leads, and the back-off towards them is long.
            let _ = self.replica.raft.trigger().reset_backoff(back).await;
        }
        if self.abandoned == Some(role.term) {
            // Nobody is elected who lacks entries that this replica has: they go on to be sent.
            if beat {
                observe::reached("leader that gave up goes on sending");
            }
            ask_to_elect(&self.replica);
            return Some(now + self.timing().transfer);
        }
        let active = now - *self.replica.stirred.borrow() < self.timing().idle || self.has_uncommitted();
        self.active_since = if active { self.active_since.or(Some(now)) } else { None };
        if let Some(until) = self.silence(now, role) {
            return Some(until);
        }
        if beat || (active && self.on_beat(now)) {
            let _ = self.replica.raft.trigger().heartbeat().await;
        }
        active.then(|| self.next_beat(now))
    }

    /// A leader that no quorum answers leaves the group to the others: those who still hear it would refuse them their
    /// votes for ever. It is silent for two leases, then probes for one.
    fn silence(&mut self, now: Instant, role: &Role) -> Option<Instant> {
        let lease = self.timing().election_max;
        let mut silent = self.replica.silent_until.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(until) = silent.filter(|until| now < *until) {
            return Some(until);
        }
        if silent.take().is_some() {
            self.active_since = self.active_since.map(|_| now);
        }
        let active_since = self.active_since?;
        if role.members.values().filter(|member| member.voter).count() < 2 || now - active_since <= lease {
            return None;
        }
        let acked = self.replica.raft.data_metrics().borrow_watched().last_quorum_acked;
        if acked.is_some_and(|acked| acked.elapsed() <= lease) {
            return None;
        }
        let until = now + 2 * lease;
        *silent = Some(until);
        drop(silent);
        tracing::warn!(group = %self.replica.shared.group, term = role.term, "no quorum answers: leaving the group to others");
        ask_to_elect(&self.replica);
        Some(until)
    }

    /// Replicas whose node was started anew or is no longer suspected.
    fn came_back(&self, role: &Role, lives: &Lives) -> Vec<ReplicaId> {
        let is_back = |node: &NodeId| match (self.greeted.get(node), lives.get(node)) {
            (before, Some(Life { boot, state: State::Alive })) => {
                before.is_none_or(|before| before.boot != *boot || before.state != State::Alive)
            }
            _ => false,
        };
        role.members.iter().filter(|(_, member)| is_back(&member.node)).map(|(replica, _)| *replica).collect()
    }

    fn has_uncommitted(&self) -> bool {
        let metrics = self.replica.raft.data_metrics();
        let metrics = metrics.borrow_watched();
        let index = |id: Option<&super::types::LogId>| id.map(|id| id.index);
        index(metrics.last_log.as_ref()) > index(metrics.local_committed.as_ref())
    }

    fn beats(&self, now: Instant) -> u32 {
        let beats = (now - self.replica.shared.net.epoch).as_nanos() / self.timing().heartbeat.as_nanos().max(1);
        u32::try_from(beats).unwrap_or(u32::MAX)
    }

    /// Whether this instant is within a timer's slack of a common beat.
    fn on_beat(&self, now: Instant) -> bool {
        let beat = self.replica.shared.net.epoch + self.timing().heartbeat * self.beats(now);
        now - beat < self.timing().heartbeat / 8
    }

    fn next_beat(&self, now: Instant) -> Instant {
        self.replica.shared.net.epoch + self.timing().heartbeat * (self.beats(now) + 1)
    }

    async fn follow(&mut self, now: Instant, role: &Role, lives: &Lives) -> Option<Instant> {
        if !self.may_stand(role) {
            self.end_election();
            return None;
        }
        let wait = match self.leader_is(now, role, lives) {
            Leader::Alive => {
                self.first = false;
                self.end_election();
                return None;
            }
            Leader::Leaving { until } => {
                self.end_election();
                return Some(until);
            }
            Leader::Unheard { until } => {
                let next = self.asked.map_or(now, |asked| asked + self.timing().heartbeat_min);
                if now >= next {
                    self.asked = Some(now);
                    greet(&self.replica, role);
                }
                return Some(until.min(next.max(now) + self.timing().heartbeat_min));
            }
            Leader::Dead if self.first => Duration::ZERO,
            Leader::Dead => self.rank(role, lives) * self.timing().rank_step,
        };
        let lease = self.timing().election_max;
        let waits = self.is_new() && !self.first;
        let unknown = if waits { self.opened + lease } else { self.opened };
        let lease_end = self.replica.shared.contact().map_or(unknown, |contact| contact.at + lease);
        let campaigning = self.replica.raft.server_metrics().borrow_watched().state == ServerState::Candidate;
        // A new term without a leader is another's campaign, most likely the one that leadership is being handed to: it
        // has passed a pre-vote, and whoever ran against it now would end its term.
        let another = !campaigning && self.seen_term.is_some_and(|seen| seen < role.term);
        let head_start = if another { self.timing().heartbeat } else { Duration::ZERO };
        let base = now.max(lease_end) + head_start;
        let standing = self.leaderless.get_or_insert(Leaderless {
            since: base,
            base,
            term: role.term,
            next: None,
            before: None,
            tries: 0,
        });
        if standing.term != role.term {
            standing.term = role.term;
            standing.base = now + head_start;
        }
        // A campaign gets the time of one request before the next begins.
        let mut due = standing.base + if campaigning { self.replica.shared.options.timing.heartbeat } else { wait };
        let backstop = standing.since + self.replica.shared.options.timing.backstop;
        due = standing.next.map_or(due, |next| due.max(next));
        if now >= due {
            // The term rises only after a majority said that it would vote.
            if campaigning && standing.before.is_some_and(|term| term < role.term) {
                observe::reached("split vote");
            }
            standing.before = Some(role.term);
            let timing = &self.replica.shared.options.timing;
            let pause = (timing.retry * (1 << standing.tries.min(8))).min(timing.election_min);
            // Two who try at once split the votes, with equal pauses again and again. The first tries only find leases not over yet.
            let apart = if standing.tries < TRIES_APART { Duration::ZERO } else { pause };
            let spread = u64::try_from(apart.as_micros()).unwrap_or(u64::MAX);
            due = now + pause + Duration::from_micros(self.replica.env.random_below(spread));
            standing.next = Some(due);
            standing.tries = standing.tries.saturating_add(1);
            tracing::debug!(group = %self.replica.shared.group, term = role.term, tries = standing.tries, "tries to be elected");
            let _ = self.replica.raft.trigger().elect(true).await;
        }
        if now >= backstop && !self.ticking {
            tracing::warn!(group = %self.replica.shared.group, term = role.term, "no leader: Raft's own timer is on");
            self.replica.raft.runtime_config().tick(true);
            self.ticking = true;
        }
        // The back-stop does not wait for a turn that is further away.
        Some(if self.ticking { due } else { due.min(backstop) })
    }

    /// Whether it votes, by the newest membership or by the last that is decided: a leader that took itself out may be the
    /// only one left with the entry that says so, and nobody is elected who lacks it.
    fn may_stand(&self, role: &Role) -> bool {
        let me = self.replica.shared.replica;
        let metrics = self.replica.raft.server_metrics();
        role.members.get(&me).is_some_and(|member| member.voter)
            || metrics.borrow_watched().committed_membership_config.membership().voter_ids().any(|voter| voter == me)
    }

    fn leader_is(&self, now: Instant, role: &Role, lives: &Lives) -> Leader {
        if self.deposed.is_some_and(|deposed| role.term <= deposed) {
            return Leader::Dead;
        }
        let grace = self.opened + self.timing().suspicion;
        let heard = self.replica.shared.contact().filter(|contact| contact.term == role.term);
        match (role.leader, heard) {
            // Just started: a leader that lives says so when it is greeted.
            (_, None)
                if now < grace && role.members.values().filter(|member| member.voter).count() > 1 && !self.is_new() =>
            {
                Leader::Unheard { until: grace }
            }
            (Some((_, node)), _) if is_suspected(lives, node) => Leader::Dead,
            (Some((leader, node)), Some(contact)) => {
                let boot = lives.get(&node).and_then(|life| life.boot);
                let replaced = contact.boot.is_some() && boot.is_some() && contact.boot != boot;
                let until = contact.at + self.timing().election_max;
                match role.members.contains_key(&leader) {
                    _ if replaced => Leader::Dead,
                    true => Leader::Alive,
                    false if now < until => Leader::Leaving { until },
                    false => Leader::Dead,
                }
            }
            _ => Leader::Dead,
        }
    }

    /// Whether the group has only just been founded.
    fn is_new(&self) -> bool {
        self.replica.shared.log.last().is_none_or(|last| last.index == 0)
    }

    fn rank(&self, role: &Role, lives: &Lives) -> u32 {
        let shared = &self.replica.shared;
        let is_live =
            |node: NodeId| node == shared.net.node || lives.get(&node).is_some_and(|life| life.state == State::Alive);
        rank(shared.group, shared.replica, &role.members, is_live)
    }

    fn end_election(&mut self) {
        self.leaderless = None;
        if self.ticking {
            self.replica.raft.runtime_config().tick(false);
            self.ticking = false;
        }
    }
}

/// How many live voters try before this one: in the order of replica ids, rotated by the group.
fn rank(
    group: GroupId,
    replica: ReplicaId,
    members: &BTreeMap<ReplicaId, Member>,
    is_live: impl Fn(NodeId) -> bool,
) -> u32 {
    let voters: Vec<_> = members.iter().filter(|(_, member)| member.voter).collect();
    let first = usize::try_from(group.0 % u64::try_from(voters.len().max(1)).unwrap_or(1)).unwrap_or(0);
    let order = voters.iter().cycle().skip(first).take(voters.len());
    let before = order.take_while(|(other, _)| **other != replica).filter(|(_, member)| is_live(member.node));
    u32::try_from(before.count()).unwrap_or(u32::MAX)
}

/// What is known of the leader.
enum Leader {
    Alive,
    /// It is no member any more: it hands over and stops leading, whoever takes over or not.
    Leaving {
        until: Instant,
    },
    /// None was heard in this life yet, which is young.
    Unheard {
        until: Instant,
    },
    Dead,
}

fn is_suspected(lives: &Lives, node: NodeId) -> bool {
    lives.get(&node).is_some_and(|life| matches!(life.state, State::Suspected(_)))
}

/// Asks all other voters to elect: the leader of the current term cannot go on.
pub(super) fn ask_to_elect(replica: &Replica) {
    let role = replica.role.borrow().clone();
    tell_voters(replica, &role, &Request::Elect { term: role.term });
}

/// The same, of a replica that ends, until each of them has heard it: its node lives on and nothing else would tell them.
pub(super) fn ask_until_heard(replica: &Replica) {
    let role = replica.role.borrow().clone();
    let timing = &replica.shared.options.timing;
    let (deadline, pause) = (timing.heartbeat, timing.transfer);
    for (node, route) in other_voters(&replica.shared, &role) {
        let (net, request) = (replica.shared.net.clone(), Request::Elect { term: role.term }.encode(route));
        replica.env.spawn(async move {
            let tried_until = Instant::now() + ASKED_AT_MOST;
            let ask = || net.rpc.call(node, Lane::Control, route.group.0, ELECT, request.clone(), deadline);
            while ask().await.is_err() && Instant::now() < tried_until {
                tokio::time::sleep(pause).await;
            }
        });
    }
}

/// Asks whoever leads to say so.
fn greet(replica: &Replica, role: &Role) {
    tell_voters(replica, role, &Request::Greet);
}

fn tell_voters(replica: &Replica, role: &Role, request: &Request) {
    let shared = &replica.shared;
    for (node, route) in other_voters(shared, role) {
        // Best effort: it is repeated, and the others' own timers are behind it.
        let _ = shared.net.rpc.tell(node, Lane::Control, shared.group.0, ELECT, request.encode(route));
    }
}

fn other_voters(shared: &Shared, role: &Role) -> impl Iterator<Item = (NodeId, Route)> {
    let others = role.members.iter().filter(|(to, member)| member.voter && **to != shared.replica);
    others.map(|(to, member)| (member.node, Route { group: shared.group, from: shared.replica, to: *to }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Members 1..=n, each at the node of its own number; the last is a learner.
    fn members(n: u32) -> BTreeMap<ReplicaId, Member> {
        (1..=n).map(|id| (ReplicaId(id.into()), Member { node: NodeId(id), voter: id < n })).collect()
    }

    fn ranks(group: u64, n: u32, is_live: impl Fn(NodeId) -> bool) -> Vec<u32> {
        let members = members(n);
        let voters = (1..n).map(|id| rank(GroupId(group), ReplicaId(id.into()), &members, &is_live));
        voters.collect()
    }

    #[test]
    fn voters_rank_by_their_ids_from_another_one_on_in_each_group() {
        let all = |_| true;
        assert_eq!(ranks(0, 4, all), [0, 1, 2]);
        assert_eq!(ranks(1, 4, all), [2, 0, 1]);
        assert_eq!(ranks(2, 4, all), [1, 2, 0]);
        assert_eq!(ranks(3, 4, all), ranks(0, 4, all));
        assert_eq!(ranks(7, 6, all), [3, 4, 0, 1, 2]);
    }

    #[test]
    fn the_dead_take_no_turn() {
        let but = |dead: u32| move |node: NodeId| node != NodeId(dead);
        assert_eq!(ranks(0, 4, but(1)), [0, 0, 1], "who asks is alive, whatever is said of its node");
        assert_eq!(ranks(1, 4, but(3))[..2], [1, 0]);
        assert_eq!(ranks(0, 6, |node| node.0 > 3)[3..], [0, 1]);
    }

    #[test]
    fn nobody_waits_for_a_learner() {
        let voter = |id: u64| Member { node: NodeId(9), voter: id != 2 };
        let members = (1..=3).map(|id| (ReplicaId(id), voter(id))).collect();
        assert_eq!(rank(GroupId(0), ReplicaId(3), &members, |_| true), 1);
        assert_eq!(rank(GroupId(0), ReplicaId(5), &BTreeMap::new(), |_| true), 0);
    }
}
