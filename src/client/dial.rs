//! How a client reaches nodes. QUIC, channels in memory and simulated networks each have a [`Dialer`].

use crate::{
    types::NodeId,
    wire::{Connection, LinkClosed},
};
use futures_util::future::BoxFuture;
use std::sync::Arc;

/// Makes connections. The caller sets the deadline and keeps what it got.
pub trait Dialer: Send + Sync + 'static {
    /// Connects to the node at `address`; `node` is absent for a bootstrap address, before anybody knows whose it is.
    /// `address` is empty for a node without a listener, which only a dialer in the same process can reach.
    fn dial(&self, node: Option<NodeId>, address: &str) -> BoxFuture<'static, Result<Arc<dyn Connection>, LinkClosed>>;
}
