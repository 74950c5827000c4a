//! The gate in front of Raft, for one term: one proposal at a time that the log does not have yet; everything that
//! waits joins the next entry; what was refused or skipped is proposed again in order.
//!
//! ```text
//!  waiting ──▶ flying (n, n+1, …) ──applied──▶ slots answered
//!     ▲            │ refused, or skipped because one before it was refused
//!     └── mend ◀───┘ once every flying one has its outcome, and a barrier showed that this replica still leads
//! ```
//! **Invariant:** `flying` holds consecutive numbers from the fence's `last + 1` on, in order.
//! **Invariant:** nothing is proposed again while the outcome of any proposal is open.

use super::domain::Domain;
use crate::sabotage::{self, Bug};
use highwater_raft::machine::Command;
use std::collections::VecDeque;

/// Bytes of commands in one entry. A single larger command makes an entry of its own.
pub(super) const ENTRY_BYTES_MAX: usize = 1 << 20;
/// Commands in one entry.
const ENTRY_COMMANDS_MAX: usize = 4_096;

pub(super) struct Gate<D: Domain> {
    waiting: VecDeque<(Command, D::Slot)>,
    flying: VecDeque<Flying<D>>,
    mending: bool,
    /// Some outcome is unknown: the term is over, Raft will say so.
    over: bool,
}

struct Flying<D: Domain> {
    proposal: u64,
    n: u64,
    handed_over: bool,
    index: Option<u64>,
    failed: bool,
    flushed: bool,
    commands: Vec<Command>,
    slots: Vec<D::Slot>,
}

/// An entry to be proposed.
pub(super) struct Proposal {
    pub(super) n: u64,
    pub(super) commands: Vec<Command>,
}

impl<D: Domain> Default for Gate<D> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), flying: VecDeque::new(), mending: false, over: false }
    }
}

impl<D: Domain> Gate<D> {
    pub(super) fn push(&mut self, command: Command, slot: D::Slot) {
        self.waiting.push_back((command, slot));
    }

    /// The next entry, if the gate is open and something waits. `last` is the fence's number in this term.
    pub(super) fn next(&mut self, proposal: u64, last: u64) -> Option<Proposal> {
        let mending = self.mending && !sabotage::on(Bug::Unfenced);
        let open = !mending && !self.over && self.flying.back().is_none_or(|flying| flying.handed_over);
        if !open || self.waiting.is_empty() {
            return None;
        }
        let n = self.flying.back().map_or(last, |flying| flying.n) + 1;
        let (mut commands, mut slots, mut bytes) = (Vec::new(), Vec::new(), 0);
        while let Some((command, _)) = self.waiting.front()
            && (commands.is_empty()
                || (bytes + command.body.len() <= ENTRY_BYTES_MAX && commands.len() < ENTRY_COMMANDS_MAX))
            && let Some((command, slot)) = self.waiting.pop_front()
        {
            bytes += command.body.len();
            commands.push(command);
            slots.push(slot);
        }
        let kept = commands.clone();
        self.flying.push_back(Flying {
            proposal,
            n,
            handed_over: false,
            index: None,
            failed: false,
            flushed: false,
            commands: kept,
            slots,
        });
        Some(Proposal { n, commands })
    }

    /// Whether something is to be proposed as soon as the gate opens.
    pub(super) fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The log has the proposal at `index`.
    pub(super) fn handed_over(&mut self, proposal: u64, index: u64) {
        if let Some(flying) = self.flying.iter_mut().find(|flying| flying.proposal == proposal) {
            flying.handed_over = true;
            flying.index = Some(index);
        }
    }

    /// Slots of entries that are on this replica's disk, up to `index`: each once.
    pub(super) fn flushed(&mut self, index: u64) -> impl Iterator<Item = &mut D::Slot> {
        let newly = move |flying: &mut Flying<D>| {
            let is_new = !flying.flushed && flying.index.is_some_and(|at| at <= index);
            flying.flushed |= is_new;
            is_new
        };
        self.flying
            .iter_mut()
            .filter_map(move |flying| newly(flying).then_some(flying))
            .flat_map(|flying| &mut flying.slots)
    }

    /// Entry `n` of this term counted: its slots, in the order of its commands.
    pub(super) fn counted(&mut self, n: u64) -> Vec<D::Slot> {
        if sabotage::on(Bug::Unfenced) {
            let place = self.flying.iter().position(|flying| flying.n == n && !flying.failed);
            return place.and_then(|place| self.flying.remove(place)).map(|flying| flying.slots).unwrap_or_default();
        }
        let first = self.flying.pop_front().expect("what counts in this leader's term was proposed by it");
        assert_eq!(first.n, n, "entries count in order");
        first.slots
    }

    /// Entry `n` of this term was applied without counting.
    pub(super) fn skipped(&mut self, n: u64) {
        if let Some(flying) = self.flying.iter_mut().find(|flying| flying.n == n && !flying.failed) {
            flying.failed = true;
            flying.handed_over = true;
            self.mending = true;
        }
    }

    /// Whether others are on their way beside this proposal.
    pub(super) fn is_amid(&self, proposal: u64) -> bool {
        self.flying.len() > 1 && self.flying.iter().any(|flying| flying.proposal == proposal)
    }

    /// The proposal is surely in no log.
    pub(super) fn refused(&mut self, proposal: u64) {
        if let Some(flying) = self.flying.iter_mut().find(|flying| flying.proposal == proposal) {
            flying.failed = true;
            flying.handed_over = true;
            self.mending = true;
        }
    }

    /// Nobody here knows the outcome of a proposal: this term proposes no more.
    pub(super) fn give_up(&mut self) {
        self.over = true;
    }

    /// Whether all outcomes are known and only a barrier is missing to propose again.
    pub(super) fn wants_barrier(&self) -> bool {
        let known = |flying: &Flying<D>| flying.failed || sabotage::on(Bug::Unfenced);
        self.mending && !self.over && self.flying.iter().all(known)
    }

    /// This replica still leads: everything that failed waits again, in front of all that came later.
    pub(super) fn mend(&mut self) {
        if !self.wants_barrier() {
            return;
        }
        self.mending = false;
        let (failed, open): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.flying).into_iter().partition(|flying| flying.failed);
        self.flying = open;
        for flying in failed.into_iter().rev() {
            for again in flying.commands.into_iter().zip(flying.slots).rev() {
                self.waiting.push_front(again);
            }
        }
    }

    /// What surely was not applied (first), and what may have been (second); the gate is empty.
    pub(super) fn drain(&mut self) -> (Vec<D::Slot>, Vec<D::Slot>) {
        let (failed, open): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.flying).into_iter().partition(|flying| flying.failed);
        let waiting = std::mem::take(&mut self.waiting).into_iter().map(|(_, slot)| slot);
        self.mending = false;
        (
            failed.into_iter().flat_map(|f| f.slots).chain(waiting).collect(),
            open.into_iter().flat_map(|f| f.slots).collect(),
        )
    }
}
