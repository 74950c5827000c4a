//! Clients in the same process: the same frames over channels, no port.

use super::Gateway;
use crate::wire::{MemoryConnection, memory_connection};
use std::sync::Arc;

impl Gateway {
    /// A connection to this node.
    pub fn connect(&self) -> MemoryConnection {
        let (here, there) = memory_connection();
        let (gateway, arbiter) = (self.clone(), self.next_arbiter());
        let (env, arbiters) = (self.0.env.clone(), self.0.arbiters.clone());
        self.0.env.spawn(async move {
            let serve = move || gateway.serve(Arc::new(here), "this process".into());
            // Without an arbiter the connection is dropped, which tells the client.
            let _ = arbiters.run(&env, arbiter, serve).await;
        });
        there
    }
}
