//! x
use super::*;
impl ControllerMachine {
    pub(super) fn bootstrap(&mut self, _command: Bootstrap) -> Result<Reply, Refusal> { todo!() }
    pub(super) fn register_node(&mut self, _command: RegisterNode) -> Result<Reply, Refusal> { todo!() }
    pub(super) fn take_producer_block(&mut self, _command: TakeProducerBlock) -> Result<Reply, Refusal> { todo!() }
}
