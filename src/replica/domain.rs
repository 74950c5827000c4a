//! What a domain adds to a replicated machine.

use crate::types::NodeId;
use bytes::Bytes;
use highwater_raft::{
    Payload,
    group::Role,
    machine::{At, Command, Machine},
};
use std::collections::BTreeMap;
use tokio::time::Instant;

/// Partition, group home, controller. All methods run in the replica's turn and only enqueue, compute and hand over.
pub trait Domain: Sized + Unpin + 'static {
    /// The replicated rules. An empty one has applied nothing.
    type Machine: Machine<Reply: std::fmt::Debug> + Default + Unpin;
    /// Messages to the replica's actor, whatever its role.
    type Request: Send + Unpin + 'static;
    /// Who waits for a command or a barrier. Dies with the term.
    type Slot: Unpin + 'static;
    /// What else lives for one term as leader only.
    type Term: Unpin + 'static;

    /// The next offset: for the log's sparse index.
    fn offset(machine: &Self::Machine) -> u64;

    /// A term as leader begins.
    fn promoted(&mut self, machine: &Self::Machine, status: &Status, out: &mut Outbox<Self>) -> Self::Term;

    /// A request while leading. The leader may not be ready: `status` says it.
    fn lead(
        &mut self,
        term: &mut Self::Term,
        machine: &Self::Machine,
        status: &Status,
        request: Self::Request,
        out: &mut Outbox<Self>,
    );

    /// A request while not leading.
    fn follow(&mut self, machine: &Self::Machine, status: &Status, request: Self::Request);

    /// An entry was applied, on any replica. What it gives goes beside the entry into the log.
    fn applied(&mut self, machine: &Self::Machine, entry: &Entry<'_, Self>) -> Noted;

    /// The machine was replaced by a checkpoint.
    fn restored(&mut self, machine: &Self::Machine);

    /// Makes visible what this turn changed, before anybody is answered.
    fn publish(&mut self, machine: &Self::Machine, status: &Status);

    /// Says what became of a command or barrier.
    fn answer(&mut self, slot: Self::Slot, outcome: Outcome<Self>, machine: &Self::Machine, status: &Status);

    /// Whether the slot is to be told of [`Domain::flushed`] at once.
    fn wants_flush(slot: &Self::Slot) -> bool {
        let _ = slot;
        false
    }

    /// The command of this slot is on this replica's disk, not yet on a quorum's.
    fn flushed(&mut self, slot: &mut Self::Slot, status: &Status) {
        let _ = (slot, status);
    }

    /// Leader only: what entries of this turn ask for.
    fn effects(
        &mut self,
        term: &mut Self::Term,
        machine: &Self::Machine,
        effects: Vec<<Self::Machine as Machine>::Effect>,
        out: &mut Outbox<Self>,
    ) {
        let _ = (term, machine, effects, out);
    }

    /// After the acks, each turn: fires, timers. `term` is there while leading. Gives the next instant at which a turn
    /// is wanted whatever comes.
    fn settle(
        &mut self,
        term: Option<&mut Self::Term>,
        machine: &Self::Machine,
        status: &Status,
        now: Instant,
        out: &mut Outbox<Self>,
    ) -> Option<Instant>;

    /// The replica ends: says so to whoever reads or waits.
    fn gone(&mut self);
}

/// What a replica is.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Status {
    /// Its log is open, its machine what the log's checkpoint said.
    pub open: bool,
    /// Highest term seen.
    pub term: u64,
    /// Who leads, if known.
    pub leader: Option<NodeId>,
    /// It is this replica.
    pub leading: bool,
    /// And the first entry of the term is applied.
    pub ready: bool,
    /// Members: (node, votes), by replica id.
    pub members: BTreeMap<u64, (NodeId, bool)>,
}

impl Status {
    pub(super) fn take(&mut self, role: Role) {
        assert!(role.term >= self.term, "term went back from {} to {}", self.term, role.term);
        self.term = role.term;
        self.leader = role.leader.map(|(_, node)| node.into());
        self.leading = role.leading;
        self.ready = role.ready;
        self.members =
            role.members.into_iter().map(|(id, member)| (id.0, (member.node.into(), member.voter))).collect();
    }

    /// How many vote.
    pub fn voters(&self) -> u32 {
        u32::try_from(self.members.values().filter(|(_, votes)| *votes).count()).expect("a handful")
    }

    /// How many voters are a majority.
    pub fn quorum(&self) -> u32 {
        self.voters() / 2 + 1
    }
}

/// An applied entry.
pub struct Entry<'a, D: Domain> {
    /// Where and when.
    pub at: At,
    /// All of it: bodies of `commands` are slices of it.
    pub payload: &'a Payload,
    /// Where in the payload each body begins.
    pub positions: &'a [u32],
    /// What was asked.
    pub commands: &'a [Command],
    /// What the machine said, in the same order.
    pub replies: &'a [<D::Machine as Machine>::Reply],
}

/// What apply says about an entry to the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Noted {
    /// Highest record timestamp, milliseconds since 1970; `None` without records.
    pub max_timestamp: Option<i64>,
    /// Given back with the entry when it is read.
    pub note: Bytes,
}

/// What became of a command or a barrier.
pub enum Outcome<D: Domain> {
    /// Applied, with this reply.
    Applied(At, <D::Machine as Machine>::Reply),
    /// A barrier: this replica led after it was asked, and has applied all that was committed before.
    Shown,
    /// Surely not applied: another replica leads, or the term is over.
    NotLeader,
    /// Surely not applied: no quorum answers.
    NoQuorum,
    /// It was on its way when the term ended.
    Unknown,
    /// The replica has failed or was closed.
    Gone,
}

impl<D: Domain> std::fmt::Debug for Outcome<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Applied(at, reply) => write!(f, "Applied({}, {reply:?})", at.index),
            Self::Shown => f.write_str("Shown"),
            Self::NotLeader => f.write_str("NotLeader"),
            Self::NoQuorum => f.write_str("NoQuorum"),
            Self::Unknown => f.write_str("Unknown"),
            Self::Gone => f.write_str("Gone"),
        }
    }
}

/// What a domain wants done at the end of a turn.
pub struct Outbox<D: Domain> {
    pub(super) commands: Vec<(Command, D::Slot)>,
    pub(super) barriers: Vec<D::Slot>,
}

impl<D: Domain> Default for Outbox<D> {
    fn default() -> Self {
        Self { commands: Vec::new(), barriers: Vec::new() }
    }
}

impl<D: Domain> Outbox<D> {
    /// Proposes a command; commands keep their order.
    pub fn propose(&mut self, command: Command, slot: D::Slot) {
        self.commands.push((command, slot));
    }

    /// Answers `slot` after a read-index round that begins after now; all of a turn share it.
    pub fn barrier(&mut self, slot: D::Slot) {
        self.barriers.push(slot);
    }
}
