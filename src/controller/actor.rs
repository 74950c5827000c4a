//! The controller's replica: publishes metadata, executes commands.

use super::{
    answer::{Answer, ExecuteError, Executed},
    handle::Shared,
    machine::ControllerMachine,
};
use crate::{
    replica::{Domain, Entry, Noted, Outbox, Outcome, Status},
    runtime::ReplySlot,
};
use highwater_raft::machine::Command as Raw;
use std::sync::Arc;
use tokio::time::Instant;

/// Messages to the controller's replica on this node.
#[derive(Debug)]
pub(super) enum Request {
    /// Run a command, if this replica leads.
    Execute(Raw, ReplySlot<Result<Executed, ExecuteError>>),
}

pub(super) type Slot = ReplySlot<Result<Executed, ExecuteError>>;

pub(super) struct ControllerDomain {
    shared: Arc<Shared>,
}

impl ControllerDomain {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

impl Domain for ControllerDomain {
    type Machine = ControllerMachine;
    type Request = Request;
    type Slot = Slot;
    type Term = ();

    fn offset(_: &ControllerMachine) -> u64 {
        0
    }

    fn promoted(&mut self, _: &ControllerMachine, status: &Status, _: &mut Outbox<Self>) {
        tracing::info!(term = status.term, "leads the controller group");
    }

    fn lead(&mut self, (): &mut (), _: &ControllerMachine, _: &Status, request: Request, out: &mut Outbox<Self>) {
        let Request::Execute(command, slot) = request;
        out.propose(command, slot);
    }

    fn follow(&mut self, _: &ControllerMachine, status: &Status, request: Request) {
        let Request::Execute(_, slot) = request;
        slot.answer(Err(ExecuteError::NotLeader { leader: status.leader }));
    }

    fn applied(&mut self, _: &ControllerMachine, _: &Entry<'_, Self>) -> Noted {
        Noted::default()
    }

    fn restored(&mut self, machine: &ControllerMachine) {
        self.shared.publish(machine.metadata());
    }

    fn publish(&mut self, machine: &ControllerMachine, _: &Status) {
        self.shared.publish(machine.metadata());
    }

    fn answer(&mut self, slot: Slot, outcome: Outcome<Self>, machine: &ControllerMachine, status: &Status) {
        let version = machine.metadata().version;
        slot.answer(match outcome {
            Outcome::Applied(_, reply) => Answer::of(reply).map(|answer| Executed { answer, version }),
            Outcome::NotLeader | Outcome::Unknown | Outcome::Gone | Outcome::Shown => {
                Err(ExecuteError::NotLeader { leader: status.leader })
            }
            Outcome::NoQuorum => Err(ExecuteError::NoQuorum),
        });
    }

    fn settle(
        &mut self,
        _: Option<&mut ()>,
        _: &ControllerMachine,
        _: &Status,
        _: Instant,
        _: &mut Outbox<Self>,
    ) -> Option<Instant> {
        None
    }

    fn gone(&mut self) {}
}
