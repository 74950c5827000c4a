//! x
use super::*;
impl ControllerMachine {
    pub(super) fn create_topic(&mut self, _command: CreateTopic) -> Result<Reply, Refusal> { todo!() }
    pub(super) fn alter_topic(&mut self, _command: AlterTopic) -> Result<Reply, Refusal> { todo!() }
    pub(super) fn delete_topic(&mut self, _command: &DeleteTopic) -> Result<Reply, Refusal> { todo!() }
}
