//! x
use super::*;
impl HomeMachine {
    pub(super) fn topics_changed(&mut self, _command: TopicsChanged, _effects: &mut Vec<Effect>) -> Reply { todo!() }
}
