//! x
use super::*;
impl HomeMachine {
    pub(super) fn commit(&mut self, _command: Commit) -> Result<Reply, Refusal> { todo!() }
    pub(super) fn start(&mut self, _command: &Start) -> Result<Reply, Refusal> { todo!() }
    pub(super) fn reset(&mut self, _command: Reset) -> Result<Reply, Refusal> { todo!() }
    pub(super) fn delete(&mut self, _command: &Delete) -> Result<Reply, Refusal> { todo!() }
}
