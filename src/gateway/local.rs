//! Clients in the same process: the same frames over channels, no port.

use super::Gateway;
use crate::wire::{MemoryConnection, memory_connection};
use std::sync::Arc;

impl Gateway {
    /// A connection to this node.
    pub fn connect(&self) -> MemoryConnection {
        let (here, there) = memory_connection();
        let gateway = self.clone();
        self.start(move || gateway.serve(Arc::new(here), "this process".into()));
        there
    }
}
