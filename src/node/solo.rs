//! The network of a cluster of one that opens no port.

use highwater_raft::{
    NodeId, Payload,
    transport::{Inbox, Lane, Network, Peer, SendError},
};
use std::sync::Arc;

pub(super) struct Solo;

impl Network for Solo {
    fn send(&self, to: NodeId, _: Lane, _: u64, _: Payload) -> Result<(), SendError> {
        Err(SendError::UnknownPeer { node: to })
    }

    fn set_peers(&self, _: Vec<Peer>) {}

    fn set_inbox(&self, _: Arc<dyn Inbox>) {}

    fn disconnect(&self, _: NodeId, _: Lane) {}
}
