//! The edge: ways in, and what all of them share.
//!
//! ```text
//!  native (QUIC) ─┐                     ┌─ partition handles   (produce, list offsets)
//!                 ├─ Connection ─ serve ┼─ session             (fetch, subscriptions)
//!  local (memory)─┘    Link → requests  └─ Desk                (metadata, groups, administration)
//!  admin (HTTP): health and metrics
//! ```
//! **Invariants**
//! - Answers of a link leave in the order of its requests; deliveries that were made before an answer leave before it.
//! - A request's bytes are admitted to a pool before they are kept, and held to its answer.
//! - Bytes that make no sense get words, a refusal or a closed connection; they never end the node.
//! - A client that does not read what it asked for is cut off: it cannot hold the pools for ever.
//!
//! Not here: Kafka's protocol (`gateway/kafka`, later), rules about offsets and groups.

pub mod admin;
mod link;
pub mod local;
pub mod native;
mod requests;
mod serve;
#[cfg(test)]
mod tests;

use crate::{
    quota::Pools,
    runtime::{Arbiters, Env, Phases},
    session::Ground,
    types::{NodeId, TopicPartition},
    wire::{Message, Refused},
};
use futures_util::future::BoxFuture;
use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

/// What a gateway asks of the node beside its partitions.
pub trait Desk: Send + Sync + 'static {
    /// The cluster's minted id; 0 before there is one.
    fn cluster_id(&self) -> u64;
    /// Why a partition is not served here: there is no such one, or others lead it.
    fn elsewhere(&self, partition: TopicPartition) -> Refused;
    /// Answers a request about metadata, groups or administration. Dropping the future gives it up.
    fn ask(&self, request: Message) -> BoxFuture<'static, Result<Message, Refused>>;
}

/// What all ways in share. Clones share.
#[derive(Clone)]
pub struct Gateway(Arc<Shared>);

struct Shared {
    node: NodeId,
    env: Env,
    arbiters: Arbiters,
    phases: Phases,
    pools: Pools,
    ground: Ground,
    desk: Arc<dyn Desk>,
    connections: AtomicU32,
    next: AtomicU64,
}

/// What a gateway is made of.
pub struct Parts {
    /// This node.
    pub node: NodeId,
    /// Time, tasks.
    pub env: Env,
    /// Where connections live.
    pub arbiters: Arbiters,
    /// When to stop.
    pub phases: Phases,
    /// Bytes in flight.
    pub pools: Pools,
    /// Replicas hosted here.
    pub partitions: crate::partition::Partitions,
    /// The rest of the node.
    pub desk: Arc<dyn Desk>,
}

impl Gateway {
    /// Of these parts.
    pub fn new(parts: Parts) -> Self {
        let Parts { node, env, arbiters, phases, pools, partitions, desk } = parts;
        let elsewhere = {
            let desk = desk.clone();
            Arc::new(move |partition| desk.elsewhere(partition))
        };
        let ground = Ground {
            env: env.clone(),
            partitions,
            responses: pools.response.clone(),
            elsewhere,
            tokens: Arc::default(),
        };
        let (connections, next) = (AtomicU32::new(0), AtomicU64::new(0));
        Self(Arc::new(Shared { node, env, arbiters, phases, pools, ground, desk, connections, next }))
    }

    /// Connections now.
    pub fn connections(&self) -> u32 {
        self.0.connections.load(Ordering::Relaxed)
    }

    /// The bytes in flight.
    pub fn pools(&self) -> &Pools {
        &self.0.pools
    }

    /// Counts a connection until the guard is dropped.
    fn count(&self) -> Counted {
        self.0.connections.fetch_add(1, Ordering::Relaxed);
        Counted(self.clone())
    }

    /// The arbiter of the next connection.
    fn next_arbiter(&self) -> usize {
        self.0.arbiters.of(self.0.next.fetch_add(1, Ordering::Relaxed))
    }
}

struct Counted(Gateway);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
