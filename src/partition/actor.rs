//! The partition's replica: produce, marks, waiters.

use super::{
    error::{ProduceError, Unavailable},
    handle::{Around, Park, Produce, Produced, Request, Shared},
    machine::{self, Effect, PartitionMachine, Refusal, Reply},
    marks::{Marks, Role},
    observe,
    serve::{self, Item},
};
use crate::{
    batch::Batch,
    metrics::Metrics,
    replica::{Domain, Entry, Noted, Outbox, Outcome, Parked, Status, Why},
    runtime::ReplySlot,
    sabotage::{self, Bug},
    types::AckLevel,
};
use highwater_raft::log::Directory;
use std::{cell::RefCell, rc::Rc, sync::Arc};
use tokio::time::Instant;

/// Who waits for a command or a barrier of this partition.
pub(super) enum Slot {
    /// One batch of a request.
    Batch(Rc<Waiting>),
    Barrier(ReplySlot<Result<(), Unavailable>>),
    /// Retention's, whose effect is seen in the marks.
    Own,
}

/// A produce request whose batches are on their way.
pub(super) struct Waiting {
    ack: AckLevel,
    batches: usize,
    /// Where a planted bug says that the first batch goes.
    promised: Option<u64>,
    state: RefCell<State>,
}

struct State {
    open: usize,
    flushed: usize,
    first: Option<Result<Produced, ProduceError>>,
    /// Gone once answered; the permit goes with it when all batches are decided.
    slot: Option<ReplySlot<Result<Produced, ProduceError>>>,
    _permit: crate::runtime::BytePermit,
}

impl Waiting {
    /// One batch is decided: the answer is the first refusal, else where the first batch went.
    fn decided(&self, result: Result<Produced, ProduceError>) {
        let mut state = self.state.borrow_mut();
        state.open -= 1;
        match &mut state.first {
            Some(Ok(first)) => match result {
                Ok(next) => first.duplicate &= next.duplicate,
                Err(error) => state.first = Some(Err(error.behind_an_appended_one())),
            },
            Some(Err(_)) => {}
            none => *none = Some(result),
        }
        if state.open == 0
            && let (Some(slot), Some(result)) = (state.slot.take(), state.first.take())
        {
            slot.answer(result);
        }
    }

    /// One batch is on this replica's disk.
    fn flushed(&self, status: &Status) {
        let mut state = self.state.borrow_mut();
        state.flushed += 1;
        if self.ack == AckLevel::Leader
            && state.flushed == self.batches
            && let Some(slot) = state.slot.take()
        {
            slot.answer(Ok(produced(None, status.term, AckLevel::Leader, status, false)));
        }
    }
}

fn produced(base_offset: Option<u64>, epoch: u64, level: AckLevel, status: &Status, duplicate: bool) -> Produced {
    let quorum = match level {
        AckLevel::None => 0,
        AckLevel::Leader => 1,
        AckLevel::Quorum => status.quorum(),
    };
    Produced { base_offset, leader_epoch: epoch, level, quorum, voters: status.voters(), duplicate }
}

/// What one partition adds to its machine.
pub(super) struct PartitionDomain {
    shared: Arc<Shared>,
    directory: Directory,
    metrics: Metrics,
    parked: Parked,
    bytes_at_hw: u64,
    /// What this replica served before it failed in this boot: it serves nothing again before it is there.
    served: Option<Marks>,
    /// It leads, most replicas are damaged, and no majority answers: it keeps the role, as nobody else can have it.
    stranded: bool,
    /// The offset behind all that planted bugs promised.
    promised: u64,
}

impl PartitionDomain {
    pub(super) fn new(shared: Arc<Shared>, around: &Around, served: Option<Marks>) -> Self {
        let (directory, metrics) = (around.directory.clone(), around.metrics.clone());
        let parked = Parked::default();
        Self { shared, directory, metrics, parked, bytes_at_hw: 0, served, stranded: false, promised: 0 }
    }

    fn has_caught_up(&self, machine: &PartitionMachine) -> bool {
        self.served.is_none_or(|served| {
            machine.log_start() >= served.log_start && machine.next_offset() >= served.high_watermark
        })
    }

    fn produce(&mut self, machine: &PartitionMachine, status: &Status, produce: Produce, out: &mut Outbox<Self>) {
        let Produce { ack, batches, permit, slot } = produce;
        let refusal = match batches.iter().find_map(|batch| machine.check(batch.header()).err()) {
            Some(refusal) => Some(ProduceError::Refused(refusal)),
            None if batches.is_empty() => {
                Some(ProduceError::Refused(Refusal::Malformed { kind: machine::PRODUCE, why: "no batch".into() }))
            }
            None if self.stranded => Some(ProduceError::NoQuorum),
            None if self.directory.is_low() => Some(ProduceError::DiskFull),
            None => None,
        };
        if let Some(refusal) = refusal {
            return slot.answer(Err(refusal));
        }
        let slot = if ack == AckLevel::None {
            slot.answer(Ok(produced(None, status.term, ack, status, false)));
            None
        } else {
            Some(slot)
        };
        let promised = self.promise(machine, status, &batches);
        let state = State { open: batches.len(), flushed: 0, first: None, slot, _permit: permit };
        let waiting = Rc::new(Waiting { ack, batches: batches.len(), promised, state: RefCell::new(state) });
        for batch in batches {
            out.propose(machine::produce(batch.into_bytes()), Slot::Batch(waiting.clone()));
        }
    }

    /// Two planted bugs decide offsets here. They belong to apply.
    fn promise(&mut self, machine: &PartitionMachine, status: &Status, batches: &[Batch]) -> Option<u64> {
        let (guess, early) = (sabotage::on(Bug::OffsetsAtPropose), sabotage::on(Bug::ReadAboveMark));
        if !guess && !early {
            return None;
        }
        let first = self.promised.max(machine.next_offset());
        self.promised = first;
        for batch in batches {
            let (records, bytes) = (batch.count(), batch.clone().into_bytes());
            if early {
                let len = u32::try_from(bytes.len()).expect("a batch is below its limit");
                let max_timestamp = batch.header().max_timestamp;
                let item = Item { position: 0, len, base_offset: self.promised, records, max_timestamp };
                self.shared.tail.push(serve::place(item, &bytes, status.term));
                self.bytes_at_hw += u64::from(len);
            }
            self.promised += u64::from(records);
        }
        guess.then_some(first)
    }

    fn park(&mut self, status: &Status, park: Park) {
        let marks = self.shared.marks.read();
        let Park { wake_at, epoch, waiter } = park;
        observe::parked(&self.shared, wake_at, waiter.token());
        self.parked.park(
            wake_at,
            waiter,
            marks.bytes_at_hw,
            marks.high_watermark,
            epoch != marks.epoch || !status.open,
        );
    }

    fn serve(&mut self, status: &Status, request: Request) {
        match request {
            Request::Park(park) => self.park(status, park),
            Request::Unpark { token } => {
                observe::unparked(&self.shared, token);
                self.parked.unpark(token);
            }
            Request::Produce(produce) => {
                produce.slot.answer(Err(ProduceError::NotLeader { leader: status.leader, epoch: status.term }));
            }
            Request::Barrier(slot) => {
                slot.answer(Err(Unavailable::NotLeader { leader: status.leader, epoch: status.term }))
            }
            Request::Strand(stranded) => self.stranded = stranded && status.leading,
            Request::Propose(_) | Request::Tidy(_) => {}
            #[cfg(feature = "testing")]
            Request::Panic => panic!("a test asked for it"),
        }
    }
}

impl Domain for PartitionDomain {
    type Machine = PartitionMachine;
    type Request = Request;
    type Slot = Slot;
    type Term = ();

    fn offset(machine: &PartitionMachine) -> u64 {
        machine.next_offset()
    }

    fn promoted(&mut self, _: &PartitionMachine, status: &Status, _: &mut Outbox<Self>) {
        self.metrics.leaderships_won.inc();
        self.stranded = false;
        tracing::debug!(partition = %self.shared.partition, epoch = status.term, "leads");
    }

    fn lead(
        &mut self,
        (): &mut (),
        machine: &PartitionMachine,
        status: &Status,
        request: Request,
        out: &mut Outbox<Self>,
    ) {
        match request {
            Request::Produce(request) => self.produce(machine, status, request, out),
            Request::Barrier(slot) if sabotage::on(Bug::StaleLeader) => slot.answer(Ok(())),
            Request::Barrier(slot) if self.stranded => slot.answer(Err(Unavailable::NoQuorum)),
            Request::Barrier(slot) => out.barrier(Slot::Barrier(slot)),
            Request::Propose(command) => out.propose(command, Slot::Own),
            Request::Tidy(expire) => {
                if machine.oldest_producer_stamp_ms().is_some_and(|oldest| oldest < expire.before_ms) {
                    out.propose(expire.command(), Slot::Own);
                }
            }
            Request::Park(_) | Request::Unpark { .. } | Request::Strand(_) => self.serve(status, request),
            #[cfg(feature = "testing")]
            Request::Panic => self.serve(status, request),
        }
    }

    fn follow(&mut self, _: &PartitionMachine, status: &Status, request: Request) {
        self.serve(status, request);
    }

    fn applied(&mut self, machine: &PartitionMachine, entry: &Entry<'_, Self>) -> Noted {
        let mut items = Vec::new();
        let each = entry.commands.iter().zip(entry.positions).zip(entry.replies);
        for ((command, position), reply) in each {
            if let Reply::Produced { base_offset, records, max_timestamp, duplicate: false } = *reply {
                let len = u32::try_from(command.body.len()).expect("a batch is below its limit");
                let item = Item { position: *position, len, base_offset, records, max_timestamp };
                items.push(item);
                if sabotage::on(Bug::ReadAboveMark) && base_offset < self.promised {
                    continue;
                }
                self.shared.tail.push(serve::place(item, &command.body, entry.at.term));
                self.bytes_at_hw += u64::from(len);
            }
        }
        let offset = items.first().map_or(machine.next_offset(), |item| item.base_offset);
        Noted { max_timestamp: items.iter().map(|item| item.max_timestamp).max(), note: serve::note(offset, &items) }
    }

    fn restored(&mut self, _: &PartitionMachine) {
        // What was in the tail may lie behind a gap now.
        self.shared.tail.clear();
    }

    fn publish(&mut self, machine: &PartitionMachine, status: &Status) {
        if !status.open {
            return;
        }
        let before = self.shared.marks.read();
        let above = if sabotage::on(Bug::ReadAboveMark) { self.promised } else { 0 };
        let marks = Marks {
            log_start: machine.log_start(),
            stable: machine.next_offset(),
            high_watermark: machine.next_offset().max(above),
            bytes_at_hw: self.bytes_at_hw,
            epoch: status.term,
            role: if status.leading { Role::Leader } else { Role::Follower },
            ready: if status.leading { status.ready && !self.stranded } else { self.has_caught_up(machine) },
            leader: status.leader,
        };
        if before == marks {
            return;
        }
        if !status.leading && !marks.ready {
            observe::reached("opened again below what was served");
        }
        self.shared.marks.write(&marks);
        observe::marks(&self.shared, &marks);
        if (before.epoch, before.role, before.ready) != (marks.epoch, marks.role, marks.ready) {
            self.parked.fire_all(Why::Moved);
        } else if before.log_start != marks.log_start {
            self.parked.fire_all(Why::Truncated);
        } else {
            self.parked.advance(marks.bytes_at_hw, marks.high_watermark);
        }
    }

    fn answer(&mut self, slot: Slot, outcome: Outcome<Self>, _: &PartitionMachine, status: &Status) {
        let (leader, epoch) = (status.leader, status.term);
        match slot {
            Slot::Own => {}
            Slot::Barrier(slot) => slot.answer(match outcome {
                Outcome::Shown => Ok(()),
                Outcome::NoQuorum => Err(Unavailable::NoQuorum),
                Outcome::Gone => Err(Unavailable::Gone),
                Outcome::NotLeader | Outcome::Unknown | Outcome::Applied(..) => {
                    Err(Unavailable::NotLeader { leader, epoch })
                }
            }),
            Slot::Batch(waiting) => waiting.decided(match outcome {
                Outcome::Applied(at, Reply::Produced { base_offset, duplicate, .. }) => {
                    if duplicate {
                        observe::reached("duplicate answered with its original offset");
                    }
                    let base_offset = waiting.promised.unwrap_or(base_offset);
                    Ok(produced(Some(base_offset), at.term, AckLevel::Quorum, status, duplicate))
                }
                Outcome::Applied(_, Reply::Refused(refusal)) => Err(ProduceError::Refused(refusal)),
                Outcome::NotLeader => Err(ProduceError::NotLeader { leader, epoch }),
                Outcome::NoQuorum => Err(ProduceError::NoQuorum),
                Outcome::Gone => Err(ProduceError::Gone),
                Outcome::Unknown | Outcome::Shown | Outcome::Applied(..) => {
                    observe::reached("leader change with produce in flight");
                    Err(ProduceError::Unknown { leader, epoch })
                }
            }),
        }
    }

    fn wants_flush(slot: &Slot) -> bool {
        matches!(slot, Slot::Batch(waiting) if waiting.ack == AckLevel::Leader)
    }

    fn flushed(&mut self, slot: &mut Slot, status: &Status) {
        if let Slot::Batch(waiting) = slot {
            waiting.flushed(status);
        }
    }

    fn effects(&mut self, (): &mut (), _: &PartitionMachine, effects: Vec<Effect>, _: &mut Outbox<Self>) {
        assert!(effects.is_empty(), "a partition has no effects");
    }

    fn settle(
        &mut self,
        _: Option<&mut ()>,
        _: &PartitionMachine,
        _: &Status,
        _: Instant,
        _: &mut Outbox<Self>,
    ) -> Option<Instant> {
        self.parked.ring(|fired| observe::fired(&self.shared, fired));
        let marks = self.shared.marks.read();
        debug_assert!(!self.parked.is_satisfiable(marks.bytes_at_hw, marks.high_watermark), "parked though satisfied");
        None
    }

    fn gone(&mut self) {
        let last = self.shared.marks.read();
        self.shared.marks.write(&Marks { role: Role::Gone, ready: false, leader: None, ..last });
        self.parked.fire_all(Why::Gone);
        self.parked.ring(|fired| observe::fired(&self.shared, fired));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::BytePermit;

    #[tokio::test]
    async fn a_request_that_left_something_in_the_log_is_not_refused_as_one_that_left_nothing() {
        let appended = || {
            let (base_offset, level) = (Some(7), AckLevel::Quorum);
            Ok(Produced { base_offset, leader_epoch: 3, level, quorum: 2, voters: 3, duplicate: false })
        };
        let moved = || Err(ProduceError::NotLeader { leader: None, epoch: 4 });
        for (outcomes, expected) in [
            ([appended(), moved()], Err(ProduceError::Unknown { leader: None, epoch: 4 })),
            ([moved(), moved()], moved()),
            ([appended(), appended()], appended()),
        ] {
            let (slot, answer) = ReplySlot::channel();
            let permit = BytePermit::internal();
            let state = State { open: 2, flushed: 0, first: None, slot: Some(slot), _permit: permit };
            let waiting = Waiting { ack: AckLevel::Quorum, batches: 2, promised: None, state: RefCell::new(state) };
            outcomes.into_iter().for_each(|outcome| waiting.decided(outcome));
            assert_eq!(answer.await, expected);
        }
    }
}
