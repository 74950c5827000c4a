//! A home of consumer groups: what its leader does beside the machine. Members' timers and parked heartbeats live here
//! and die with the term.
//!
//! **Invariant:** a heartbeat is answered at once when the member's assignment is news to it; else it is parked until
//! an entry makes it so, its wait has passed, or the term ends.
//! **Invariant:** a heartbeat is answered only when this leader was the leader after it came: by an entry, or by a round of
//! the quorum. So no other home has begun to count the member's silence before it was sent, and the member may trust its
//! session from then on.
//! **Invariant:** a member expires only by an entry, proposed when it was silent for its whole session *at this leader*, in
//! which the leader could hear it all the time.

use super::{
    convert,
    handle::{Answer, Surroundings},
    machine::{self, Command, Effect, HomeMachine, Reply},
    observe,
};
use crate::{
    metrics::Metrics,
    replica::{Domain, Entry, Noted, Outbox, Outcome, Status},
    types::{Generation, GroupName, MemberId, TopicPartition},
    wire::{self, Code, Refused},
};
use highwater_raft::machine::Machine;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

#[cfg(test)]
mod tests;

type Key = (GroupName, MemberId);

/// A leader that cannot decide anything just now refuses at once: asking it again at once would never end.
const PROPOSE_AGAIN: Duration = Duration::from_millis(200);
/// A turn that comes later than this found its home standing still: whoever spoke meanwhile was not heard.
const LATE_MAX: Duration = Duration::from_millis(500);

/// Messages to a home's replica on this node.
#[derive(Debug)]
pub(super) enum Request {
    Join(wire::Join, Answer<wire::Joined>),
    Heartbeat(wire::Heartbeat, Answer<wire::HeartbeatAnswer>),
    Leave(wire::Leave, Answer<wire::Done>),
    Start(wire::Start, Answer<wire::Started>),
    Commit(wire::Commit, Answer<wire::Committed>),
    Describe(GroupName, Answer<wire::GroupDescription>),
    List(Answer<Vec<wire::GroupSummary>>),
    Reset(wire::ResetGroup, Answer<wire::Done>),
    Delete(GroupName, Answer<wire::Done>),
    TopicsChanged,
}

/// Who waits for a command or a barrier of this home.
pub(super) enum Slot {
    Join(Answer<wire::Joined>),
    Done(Answer<wire::Done>),
    Start(Answer<wire::Started>),
    Commit(Answer<wire::Committed>),
    /// Goes on when it is known that this is the home still, with what the member said in the log.
    Heard(Beat),
    Describe(GroupName, Answer<wire::GroupDescription>),
    List(Answer<Vec<wire::GroupSummary>>),
    /// What this leader knows of topics: proposed again when it is not applied.
    Topics,
    /// Proposed by this leader itself, which will do so again by itself.
    Own,
}

/// A heartbeat that is not answered yet.
pub(super) struct Beat {
    key: Key,
    known: Generation,
    until: Instant,
    slot: Answer<wire::HeartbeatAnswer>,
}

#[derive(Default)]
pub(super) struct Term {
    watches: BTreeMap<Key, Watch>,
    expiries: BTreeSet<(Instant, Key)>,
    parked: BTreeMap<Key, Beat>,
    waits: BTreeSet<(Instant, Key)>,
    /// Members whose parked heartbeats are to be looked at in this turn.
    news: BTreeSet<Key>,
    topics_proposed: u64,
    /// Members can be heard.
    hears: bool,
    /// When the next turn is wanted.
    due: Option<Instant>,
}

struct Watch {
    session: u64,
    session_ms: u32,
    at: Instant,
}

impl Term {
    /// The member is alive: its silence counts from `from` on.
    fn touch(&mut self, key: &Key, from: Instant) {
        if let Some(watch) = self.watches.get_mut(key) {
            self.expiries.remove(&(watch.at, key.clone()));
            watch.at = from + Duration::from_millis(watch.session_ms.into());
            self.expiries.insert((watch.at, key.clone()));
        }
    }

    /// Every member has a whole session from now on.
    fn hear_all(&mut self, now: Instant) {
        let begins = |watch: &Watch| now + Duration::from_millis(watch.session_ms.into()) > watch.at;
        let keys: Vec<_> = self.watches.iter().filter(|(_, watch)| begins(watch)).map(|(key, _)| key.clone()).collect();
        keys.iter().for_each(|key| self.touch(key, now));
    }

    fn forget(&mut self, key: &Key) {
        if let Some(watch) = self.watches.remove(key) {
            self.expiries.remove(&(watch.at, key.clone()));
        }
    }

    fn effect(&mut self, effect: Effect, now: Instant) {
        match effect {
            Effect::Assigned { group, generation: _, members } => {
                self.news.extend(members.into_iter().map(|member| (group.clone(), member)));
            }
            Effect::Watch { group, member, session, session_ms } => {
                let key = (group, member);
                self.forget(&key);
                self.watches.insert(key.clone(), Watch { session, session_ms, at: now });
                self.touch(&key, now);
            }
            Effect::Gone { group, member } => {
                let key = (group, member);
                self.forget(&key);
                self.news.insert(key);
            }
        }
    }

    fn unpark(&mut self, key: &Key) -> Option<Beat> {
        let beat = self.parked.remove(key)?;
        self.waits.remove(&(beat.until, key.clone()));
        Some(beat)
    }
}

pub(super) struct HomeDomain {
    around: Arc<dyn Surroundings>,
    /// Heartbeats whose proposal is decided, to be answered or parked in this turn.
    arrived: Vec<Beat>,
    /// A proposal about topics came to nothing, as far as is known: it is made again then.
    topics_again: Option<Instant>,
    census: Census,
    last_home: observe::LastHome,
}

/// This home's part of the node's gauges while it leads; gone with it.
struct Census {
    metrics: Metrics,
    groups: i64,
    members: i64,
}

impl Census {
    fn show(&mut self, groups: usize, members: usize) {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let (groups, members) = (count(groups), count(members));
        self.metrics.groups.inc_by(groups - self.groups);
        self.metrics.group_members.inc_by(members - self.members);
        (self.groups, self.members) = (groups, members);
    }
}

impl Drop for Census {
    fn drop(&mut self) {
        self.show(0, 0);
    }
}

impl HomeDomain {
    pub(super) fn new(around: Arc<dyn Surroundings>, metrics: Metrics) -> Self {
        let census = Census { metrics, groups: 0, members: 0 };
        Self { around, arrived: Vec::new(), topics_again: None, census, last_home: observe::LastHome::default() }
    }

    /// Also when there are no topics yet: a home that was told nothing would take the first one for old, and its groups would
    /// skip what is in it.
    fn propose_topics(&self, term: &mut Term, machine: &HomeMachine, out: &mut Outbox<Self>) {
        let known = machine.topics_version().max(term.topics_proposed);
        if self.around.version() <= known {
            return;
        }
        let (version, now) = self.around.topics();
        let set: Vec<_> = now
            .iter()
            .filter(|(id, facts)| machine.topics().get(id) != Some(facts))
            .map(|(id, f)| (*id, f.clone()))
            .collect();
        let gone: Vec<_> = machine.topics().keys().filter(|id| !now.contains_key(id)).copied().collect();
        if set.is_empty() && gone.is_empty() && machine.topics_version() > 0 {
            return;
        }
        term.topics_proposed = version;
        let command = machine::TopicsChanged { version, set, gone };
        out.propose(Command::TopicsChanged(command).encode(), Slot::Topics);
    }

    fn heartbeat(
        term: &mut Term,
        machine: &HomeMachine,
        beat: wire::Heartbeat,
        slot: Answer<wire::HeartbeatAnswer>,
        out: &mut Outbox<Self>,
    ) {
        observe::said(&beat);
        let key = (beat.group.clone(), beat.member.clone());
        let now = Instant::now();
        let session_ms = term.watches.get(&key).map_or(0, |watch| watch.session_ms);
        let wait = Duration::from_millis(beat.wait_ms.min(session_ms / 2).into());
        term.touch(&key, now + wait);
        let owned: Vec<_> = beat
            .owned
            .iter()
            .map(|owned| (TopicPartition { topic: owned.topic, partition: owned.partition }, owned.delivered))
            .collect();
        let heard = Slot::Heard(Beat { key, known: beat.generation, until: now + wait, slot });
        let says = machine::Reconciled { group: beat.group, member: beat.member, generation: beat.generation, owned };
        match machine.would_change(&says) {
            true => out.propose(Command::Reconciled(says).encode(), heard),
            false => out.barrier(heard),
        }
    }

    /// Answers a heartbeat when there is news, or its wait is over; else gives it back.
    fn try_answer(machine: &HomeMachine, beat: Beat, now: Instant) -> Option<Beat> {
        let (name, member) = &beat.key;
        let group = machine.group(name);
        match group.and_then(|group| group.is_news(member, beat.known)) {
            Some(false) if now < beat.until => Some(beat),
            Some(_) => {
                let answer = group.and_then(|group| convert::assignment(machine, group, member));
                if let Some(answer) = &answer {
                    observe::told(name, member, answer);
                }
                beat.slot.answer(answer.ok_or_else(|| convert::unknown_member(name, member)));
                None
            }
            None => {
                let refused = convert::unknown_member(name, member);
                beat.slot.answer(Err(refused));
                None
            }
        }
    }

    fn settle_beats(&mut self, term: &mut Term, machine: &HomeMachine, now: Instant) {
        let mut beats = std::mem::take(&mut self.arrived);
        for key in std::mem::take(&mut term.news) {
            beats.extend(term.unpark(&key));
        }
        while let Some((_, key)) = term.waits.first().filter(|(until, _)| *until <= now).cloned() {
            beats.extend(term.unpark(&key));
        }
        for beat in beats {
            let key = beat.key.clone();
            match Self::try_answer(machine, beat, now) {
                None => term.touch(&key, now),
                Some(waits) => {
                    // A second heartbeat of a member takes the place of the first, which is told what is true now.
                    if let Some(mut older) = term.unpark(&key) {
                        older.until = now;
                        Self::try_answer(machine, older, now);
                    }
                    term.waits.insert((waits.until, key.clone()));
                    term.parked.insert(key, waits);
                }
            }
        }
    }
}

impl Domain for HomeDomain {
    type Machine = HomeMachine;
    type Request = Request;
    type Slot = Slot;
    type Term = Term;

    fn offset(_: &HomeMachine) -> u64 {
        0
    }

    fn promoted(&mut self, machine: &HomeMachine, _: &Status, out: &mut Outbox<Self>) -> Term {
        let mut term = Term::default();
        let now = Instant::now();
        machine.on_promoted().into_iter().for_each(|effect| term.effect(effect, now));
        self.propose_topics(&mut term, machine, out);
        term
    }

    fn lead(
        &mut self,
        term: &mut Term,
        machine: &HomeMachine,
        status: &Status,
        request: Request,
        out: &mut Outbox<Self>,
    ) {
        if !status.ready && !matches!(request, Request::TopicsChanged) {
            return convert::refuse(
                request,
                &Refused::new(Code::NotReady, "the group's home has just moved here; try again"),
            );
        }
        match request {
            Request::TopicsChanged => self.propose_topics(term, machine, out),
            Request::Join(join, slot) => out.propose(Command::Join(convert::join(join)).encode(), Slot::Join(slot)),
            Request::Leave(wire::Leave { group, member }, slot) => {
                out.propose(Command::Leave(machine::Leave { group, member }).encode(), Slot::Done(slot));
            }
            Request::Commit(commit, slot) => {
                if let Some(member) = &commit.member {
                    term.touch(&(commit.group.clone(), member.clone()), Instant::now());
                }
                out.propose(Command::Commit(convert::commit(commit)).encode(), Slot::Commit(slot));
            }
            Request::Heartbeat(beat, slot) => Self::heartbeat(term, machine, beat, slot, out),
            Request::Start(start, slot) => {
                out.propose(Command::Start(convert::start(start)).encode(), Slot::Start(slot));
            }
            Request::Describe(group, slot) => out.barrier(Slot::Describe(group, slot)),
            Request::List(slot) => out.barrier(Slot::List(slot)),
            Request::Reset(wire::ResetGroup { group, offsets }, slot) => {
                let offsets = offsets.into_iter().map(convert::offset).collect();
                out.propose(Command::Reset(machine::Reset { group, offsets }).encode(), Slot::Done(slot));
            }
            Request::Delete(group, slot) => {
                out.propose(Command::Delete(machine::Delete { group }).encode(), Slot::Done(slot))
            }
        }
    }

    fn follow(&mut self, _: &HomeMachine, _: &Status, request: Request) {
        convert::refuse(request, &convert::not_home());
    }

    fn applied(&mut self, machine: &HomeMachine, entry: &Entry<'_, Self>) -> Noted {
        observe::applied(machine, entry);
        Noted::default()
    }

    fn restored(&mut self, _: &HomeMachine) {}

    fn publish(&mut self, machine: &HomeMachine, status: &Status) {
        if self.last_home.moves_here(status) && !machine.groups().is_empty() {
            observe::reached("group handed to a new home");
        }
    }

    fn answer(&mut self, slot: Slot, outcome: Outcome<Self>, machine: &HomeMachine, _: &Status) {
        if let Slot::Topics = slot {
            if !matches!(outcome, Outcome::Applied(..)) {
                self.topics_again = Some(Instant::now() + PROPOSE_AGAIN);
            }
            return;
        }
        let reply = match outcome {
            Outcome::Applied(_, Reply::Refused(refusal)) => Err(convert::refused(&refusal)),
            Outcome::Applied(_, reply) => Ok(Some(reply)),
            Outcome::Shown => Ok(None),
            Outcome::NoQuorum => Err(Refused::new(Code::NoQuorum, "no quorum of the group's home answers; try again")),
            Outcome::NotLeader | Outcome::Unknown | Outcome::Gone => Err(convert::not_home()),
        };
        match slot {
            Slot::Join(slot) => slot.answer(reply.and_then(convert::joined)),
            Slot::Done(slot) => slot.answer(reply.map(|_| wire::Done {})),
            Slot::Start(slot) => slot.answer(reply.and_then(convert::started)),
            Slot::Commit(slot) => slot.answer(reply.map(convert::committed)),
            Slot::Heard(beat) => match reply {
                Ok(_) => self.arrived.push(beat),
                Err(refused) => beat.slot.answer(Err(refused)),
            },
            Slot::Describe(group, slot) => slot.answer(reply.and_then(|_| convert::description(machine, &group))),
            Slot::List(slot) => slot.answer(reply.map(|_| convert::summaries(machine))),
            Slot::Topics | Slot::Own => {}
        }
    }

    fn effects(&mut self, term: &mut Term, _: &HomeMachine, effects: Vec<Effect>, _: &mut Outbox<Self>) {
        let now = Instant::now();
        effects.into_iter().for_each(|effect| term.effect(effect, now));
    }

    fn settle(
        &mut self,
        term: Option<&mut Term>,
        machine: &HomeMachine,
        status: &Status,
        now: Instant,
        out: &mut Outbox<Self>,
    ) -> Option<Instant> {
        let Some(term) = term else {
            self.topics_again = None;
            self.census.show(0, 0);
            self.arrived.drain(..).for_each(|beat| beat.slot.answer(Err(convert::not_home())));
            return None;
        };
        let stood_still = term.due.is_some_and(|due| due + LATE_MAX < now);
        if status.ready && (stood_still || !std::mem::replace(&mut term.hears, true)) {
            term.hear_all(now);
        }
        if self.topics_again.is_some_and(|at| at <= now) {
            self.topics_again = None;
            term.topics_proposed = 0;
            self.propose_topics(term, machine, out);
        }
        self.settle_beats(term, machine, now);
        self.census.show(machine.groups().len(), term.watches.len());
        while let Some((_, key)) = term.expiries.first().filter(|(at, _)| status.ready && *at <= now).cloned() {
            let session = term.watches.get(&key).map_or(0, |watch| watch.session);
            let command = machine::Expire { group: key.0.clone(), member: key.1.clone(), session };
            out.propose(Command::Expire(command).encode(), Slot::Own);
            // Asked again after a whole session, should this proposal be lost.
            term.touch(&key, now);
        }
        let expiry = term.expiries.first().filter(|_| status.ready).map(|(at, _)| *at);
        term.due = [expiry, term.waits.first().map(|(until, _)| *until)].into_iter().flatten().min();
        [term.due, self.topics_again].into_iter().flatten().min()
    }

    fn gone(&mut self) {
        self.arrived.drain(..).for_each(|beat| beat.slot.answer(Err(convert::not_home())));
    }
}
