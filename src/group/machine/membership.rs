//! x
use super::{*, command::{Expire, Join, Leave, Reconciled}};
impl HomeMachine {
    pub(super) fn join(&mut self, _command: Join, _effects: &mut Vec<Effect>) -> Result<Reply, Refusal> { todo!() }
    pub(super) fn leave(&mut self, _command: &Leave, _effects: &mut Vec<Effect>) -> Result<Reply, Refusal> { todo!() }
    pub(super) fn expire(&mut self, _command: &Expire, _effects: &mut Vec<Effect>) -> Result<Reply, Refusal> { todo!() }
    pub(super) fn reconcile(&mut self, _command: &Reconciled, _effects: &mut Vec<Effect>) -> Result<Reply, Refusal> { todo!() }
    /// Whether a member's report would change anything: else it need not be proposed.
    pub fn would_change(&self, _command: &Reconciled) -> bool { todo!() }
}
