//! One turn of a replica: takes what waits, applies, decides, then acts once.
//!
//! Order within a turn: events and requests → publish marks → acks → fires → one proposal → the answers to Raft.

use super::{
    Replica,
    domain::{Domain, Entry, Noted, Outbox, Outcome},
    fence::Fence,
    gate::Gate,
    observe,
    queue::Note,
};
use crate::limits;
use highwater_raft::{
    group::{AppliedAnswer, BarrierError, Committed, Event, MachineState, Refusal},
    log::Stamp,
    machine::{self, At, Damaged, Machine},
};
use std::{collections::VecDeque, time::Duration};
use tokio::{sync::oneshot, time::Instant};

/// What a leader has for one term.
pub(super) struct Leading<D: Domain> {
    pub(super) term: u64,
    pub(super) state: D::Term,
    pub(super) gate: Gate<D>,
    /// Somebody asked for an answer as soon as this replica's disk has it; who does goes on to.
    flush_wanted: bool,
    barriers: Barriers<D>,
}

struct Barriers<D: Domain> {
    round: u64,
    running: bool,
    /// Answered by the round that runs.
    asked: Vec<D::Slot>,
    /// Came after it began.
    waiting: Vec<D::Slot>,
}

/// How a turn ended.
pub(super) struct After {
    pub(super) next: Option<Instant>,
    pub(super) then: Then,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Then {
    Stay,
    /// The role or the term is another one.
    HandOver,
    /// Closed by the node.
    Close,
    /// Raft gave this replica up.
    Failed(String),
}

type Answers<D> = Vec<(<D as Domain>::Slot, Outcome<D>)>;
type Dones = Vec<(oneshot::Sender<AppliedAnswer>, AppliedAnswer)>;

/// What a turn gathers before it acts.
struct Work<D: Domain> {
    answers: Answers<D>,
    effects: Vec<<D::Machine as Machine>::Effect>,
    dones: Dones,
    out: Outbox<D>,
    then: Then,
}

/// What apply said of an entry.
enum Verdict<D: Domain> {
    Blank,
    Skipped { term: u64, n: u64 },
    Counted { at: At, n: u64, replies: Vec<<D::Machine as Machine>::Reply> },
}

impl<D: Domain> Leading<D> {
    pub(super) fn new(replica: &mut Replica<D>) -> Self {
        let mut out = Outbox::default();
        let state = replica.domain.promoted(&replica.machine, &replica.status, &mut out);
        let barriers = Barriers { round: 0, running: false, asked: Vec::new(), waiting: Vec::new() };
        let gate = Gate::default();
        let mut leading = Self { term: replica.status.term, state, gate, flush_wanted: false, barriers };
        leading.take(out);
        leading
    }

    fn take(&mut self, out: Outbox<D>) {
        for (command, slot) in out.commands {
            self.flush_wanted |= D::wants_flush(&slot);
            self.gate.push(command, slot);
        }
        self.barriers.waiting.extend(out.barriers);
    }

    /// Everything that waits for something when the term ends.
    fn drain(&mut self, not: impl Fn() -> Outcome<D>, maybe: impl Fn() -> Outcome<D>) -> Answers<D> {
        let (surely_not, open) = self.gate.drain();
        let barriers = self.barriers.asked.drain(..).chain(self.barriers.waiting.drain(..));
        let mut answers: Answers<D> = open.into_iter().map(|slot| (slot, maybe())).collect();
        answers.extend(surely_not.into_iter().chain(barriers).map(|slot| (slot, not())));
        answers
    }
}

impl<D: Domain> Replica<D> {
    /// Runs one turn. `leading` is there in the leader actor.
    pub(super) fn turn(&mut self, mut leading: Option<&mut Leading<D>>, requests: &mut VecDeque<D::Request>) -> After {
        self.wake.taken();
        let begun = Instant::now();
        let is_long = || begun.elapsed() > Duration::from_micros(limits::TURN_US_MAX);
        let mut work = Work {
            answers: Vec::new(),
            effects: Vec::new(),
            dones: Vec::new(),
            out: Outbox::default(),
            then: Then::Stay,
        };
        if let Some(index) = self.queue.flushed() {
            self.flushed = self.flushed.max(Some(index));
            if let Some(leading) = leading.as_deref_mut() {
                self.flushed_up_to(leading);
            }
        }
        while let Some(note) = self.queue.pop() {
            self.note(note, leading.as_deref_mut(), &mut work);
            if is_long() || work.then != Then::Stay {
                break;
            }
        }
        while !(is_long() || work.then != Then::Stay)
            && let Some(request) = requests.pop_front()
        {
            match leading.as_deref_mut() {
                Some(leading) => {
                    self.domain.lead(&mut leading.state, &self.machine, &self.status, request, &mut work.out)
                }
                None => self.domain.follow(&self.machine, &self.status, request),
            }
        }
        if !self.queue.is_empty() || !requests.is_empty() {
            self.wake.arm();
        }
        let leads_on =
            leading.as_deref().is_some_and(|leading| self.status.leading && self.status.term == leading.term);
        if work.then == Then::Stay && (leads_on != leading.is_some() || (leading.is_none() && self.status.leading)) {
            work.then = Then::HandOver;
        }
        let next = self.act(leading, &mut work);
        After { next, then: work.then }
    }

    fn act(&mut self, mut leading: Option<&mut Leading<D>>, work: &mut Work<D>) -> Option<Instant> {
        if let Some(leading) = leading.as_deref_mut()
            && work.then != Then::Stay
        {
            let gone = matches!(work.then, Then::Close | Then::Failed(_));
            let not = || if gone { Outcome::Gone } else { Outcome::NotLeader };
            leading.take(std::mem::take(&mut work.out));
            work.answers.extend(leading.drain(not, || Outcome::Unknown));
        }
        self.domain.publish(&self.machine, &self.status);
        for (slot, outcome) in work.answers.drain(..) {
            self.domain.answer(slot, outcome, &self.machine, &self.status);
        }
        let stays = work.then == Then::Stay;
        if let Some(leading) = leading.as_deref_mut().filter(|_| stays) {
            let effects = std::mem::take(&mut work.effects);
            self.domain.effects(&mut leading.state, &self.machine, effects, &mut work.out);
        }
        let state = leading.as_deref_mut().filter(|_| stays).map(|leading| &mut leading.state);
        let next = self.domain.settle(state, &self.machine, &self.status, Instant::now(), &mut work.out);
        let eager = leading.filter(|_| stays).is_some_and(|leading| {
            leading.take(std::mem::take(&mut work.out));
            self.propose(leading);
            self.begin_barrier(leading);
            leading.flush_wanted || leading.gate.waits()
        });
        self.queue.be_eager(eager);
        for (done, answer) in work.dones.drain(..) {
            // Raft may have closed the group meanwhile: then nobody wants the answer.
            let _ = done.send(answer);
        }
        next
    }

    fn note(&mut self, note: Note, mut leading: Option<&mut Leading<D>>, work: &mut Work<D>) {
        match note {
            Note::Opened => self.status.open = true,
            Note::Close => work.then = Then::Close,
            Note::Barrier { round, result } => {
                if let Some(leading) = leading.filter(|leading| leading.barriers.round == round) {
                    Self::barrier_ended(leading, &result, work);
                }
            }
            Note::Raft(Event::Committed { entries, checkpoint_after, done }) => {
                let stamps = entries.iter().map(|entry| self.apply(entry, leading.as_deref_mut(), work)).collect();
                let machine = checkpoint_after.then(|| self.state());
                if let (Some(state), Some(last)) = (&machine, entries.last()) {
                    observe::boundary(&self.identity, last.index, &state.machine);
                }
                work.dones.push((done, AppliedAnswer { stamps, machine }));
            }
            Note::Raft(Event::Checkpoint { reply }) => drop(reply.send(self.state())),
            Note::Raft(Event::Restore { machine, offset, done, .. }) => {
                let restored = self.restore(machine, offset);
                // Raft may have closed the group meanwhile.
                let _ = done.send(restored);
            }
            Note::Raft(Event::HandedOver { proposal, index }) => {
                if let Some(leading) = leading {
                    leading.gate.handed_over(proposal, index);
                    self.flushed_up_to(leading);
                }
            }
            // The queue keeps the last of them beside the notes.
            Note::Raft(Event::Flushed { .. }) => {}
            Note::Raft(Event::Refused { proposal, why }) => {
                if let Some(leading) = leading {
                    match why {
                        Refusal::NotLeader { .. } | Refusal::NotNow => {
                            if leading.gate.is_amid(proposal) {
                                observe::reached("proposal refused in mid-pipeline");
                            }
                            leading.gate.refused(proposal);
                        }
                        Refusal::Unknown | Refusal::Fatal => leading.gate.give_up(),
                    }
                }
            }
            Note::Raft(Event::Role(role)) => {
                self.status.take(role);
                self.identity.leaders.note(self.identity.group, self.status.leader, self.status.term);
            }
            Note::Raft(Event::Failed { why }) => work.then = Then::Failed(why),
        }
    }

    fn flushed_up_to(&mut self, leading: &mut Leading<D>) {
        if let Some(index) = self.flushed {
            for slot in leading.gate.flushed(index) {
                self.domain.flushed(slot, &self.status);
            }
        }
    }

    fn apply(&mut self, entry: &Committed, leading: Option<&mut Leading<D>>, work: &mut Work<D>) -> Stamp {
        let offset = D::offset(&self.machine);
        let (verdict, noted) = self.decide(entry, work);
        let offset_end = D::offset(&self.machine);
        observe::applied(&self.identity, entry);
        assert!(offset <= offset_end, "the next offset went back from {offset} to {offset_end}");
        let leading = leading.filter(|leading| leading.term == entry.term);
        match (verdict, leading) {
            (Verdict::Counted { at, n, replies }, Some(leading)) => {
                let slots = leading.gate.counted(n);
                work.answers
                    .extend(slots.into_iter().zip(replies).map(|(slot, reply)| (slot, Outcome::Applied(at, reply))));
            }
            (Verdict::Skipped { term, n }, Some(leading)) if term == leading.term => leading.gate.skipped(n),
            (Verdict::Blank | Verdict::Skipped { .. } | Verdict::Counted { .. }, _) => {}
        }
        Stamp {
            index: entry.index,
            offset,
            offset_end,
            max_timestamp: noted.max_timestamp.unwrap_or(-1),
            note: noted.note,
        }
    }

    fn decide(&mut self, entry: &Committed, work: &mut Work<D>) -> (Verdict<D>, Noted) {
        if entry.payload.is_empty() {
            return (Verdict::Blank, Noted::default());
        }
        let (head, commands) = match machine::decode(&entry.payload) {
            Ok(decoded) => decoded,
            Err(damaged) => {
                tracing::error!(index = entry.index, %damaged, "an entry that no version of this broker wrote is skipped");
                return (Verdict::Blank, Noted::default());
            }
        };
        if !self.fence.admit(entry.term, &head) {
            return (Verdict::Skipped { term: head.term, n: head.n }, Noted::default());
        }
        let at = At { index: entry.index, term: entry.term, stamp_ms: self.fence.stamp_ms };
        let replies: Vec<_> =
            commands.iter().map(|command| self.machine.apply(at, command, &mut work.effects)).collect();
        let mut position = u32::try_from(entry.payload.len()).expect("entries are bounded");
        position -= head.commands.iter().map(|(_, len)| len).sum::<u32>();
        let begin = |(_, len): &(u8, u32)| {
            position += len;
            position - len
        };
        let positions: Vec<u32> = head.commands.iter().map(begin).collect();
        let noted = self.domain.applied(
            &self.machine,
            &Entry { at, payload: &entry.payload, positions: &positions, commands: &commands, replies: &replies },
        );
        (Verdict::Counted { at, n: head.n, replies }, noted)
    }

    fn state(&self) -> MachineState {
        MachineState { machine: self.fence.wrap(&self.machine.checkpoint()), offset: D::offset(&self.machine) }
    }

    fn restore(&mut self, bytes: bytes::Bytes, offset: u64) -> Result<(), Damaged> {
        if bytes.is_empty() && offset == 0 {
            (self.machine, self.fence) = (D::Machine::default(), Fence::default());
        } else {
            let (fence, machine) = Fence::unwrap(bytes)?;
            self.machine.restore(&machine)?;
            self.fence = fence;
            let found = D::offset(&self.machine);
            if found != offset {
                return Err(Damaged {
                    what: "replica checkpoint",
                    why: format!("next offset {found}, expected {offset}"),
                });
            }
        }
        self.domain.restored(&self.machine);
        Ok(())
    }

    fn propose(&mut self, leading: &mut Leading<D>) {
        let Some(consensus) = self.consensus.get() else { return };
        let proposal = self.proposals;
        if let Some(entry) = leading.gate.next(proposal, self.fence.last_of(leading.term)) {
            self.proposals += 1;
            let stamp_ms = self.env.now_ms().max(self.fence.stamp_ms);
            consensus.propose(
                proposal,
                leading.term,
                machine::encode(leading.term, entry.n, stamp_ms, &entry.commands),
            );
        }
    }

    fn begin_barrier(&mut self, leading: &mut Leading<D>) {
        let barriers = &mut leading.barriers;
        let wanted = !barriers.waiting.is_empty() || leading.gate.wants_barrier();
        let Some(consensus) = self.consensus.get().filter(|_| wanted && !barriers.running) else { return };
        barriers.running = true;
        barriers.round += 1;
        barriers.asked = std::mem::take(&mut barriers.waiting);
        let (round, queue, shown) = (barriers.round, self.queue.clone(), consensus.barrier());
        self.env.spawn_local(async move {
            let result = shown.await;
            queue.push(Note::Barrier { round, result });
        });
    }

    fn barrier_ended(leading: &mut Leading<D>, result: &Result<u64, BarrierError>, work: &mut Work<D>) {
        let barriers = &mut leading.barriers;
        barriers.running = false;
        let asked = std::mem::take(&mut barriers.asked);
        let outcome = || match result {
            Ok(_) => Outcome::Shown,
            Err(BarrierError::NotLeader { .. }) => Outcome::NotLeader,
            Err(BarrierError::NoQuorum { .. }) => Outcome::NoQuorum,
            Err(BarrierError::Gone { .. }) => Outcome::Gone,
        };
        work.answers.extend(asked.into_iter().map(|slot| (slot, outcome())));
        match result {
            Ok(_) => leading.gate.mend(),
            // All that wants to be proposed again is surely in no log, and what waits behind it keeps its order.
            Err(_) if leading.gate.wants_barrier() => {
                let (surely_not, open) = leading.gate.drain();
                work.answers.extend(surely_not.into_iter().map(|slot| (slot, outcome())));
                work.answers.extend(open.into_iter().map(|slot| (slot, Outcome::Unknown)));
            }
            Err(_) => {}
        }
    }
}
