//! x
use super::*;
impl ControllerMachine {
    pub(super) fn replica_faulty(&mut self, _command: ReplicaFaulty) -> Result<Reply, Refusal> { todo!() }
    pub(super) fn replica_caught_up(&mut self, _command: ReplicaCaughtUp) -> Result<Reply, Refusal> { todo!() }
    pub(super) fn swapped(&mut self, _command: &Swapped) -> Result<Reply, Refusal> { todo!() }
}
