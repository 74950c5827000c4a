//! The edge: ways in, and what all of them share.
//!
//! ```text
//!  native (QUIC) ─┐                      ┌─ Ground    produce, offsets; metadata, groups, administration
//!                 ├─ Connection ─ serve ─┤
//!  local (memory)─┘    Link → requests   └─ Session   fetch, subscriptions
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
    advice::{Advice, Reaction},
    auth::AdmissionError,
    quota::Pools,
    runtime::{Arbiters, Env, Phases},
    session::Ground,
    tls::TlsError,
};
use futures_util::FutureExt;
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

/// Why a listener is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListenError {
    /// It would let in anybody.
    #[error(transparent)]
    Admission(#[from] AdmissionError),
    /// Its certificate or key does not do.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The address cannot be listened on.
    #[error("cannot listen on {bind}: {why}")]
    Bind {
        /// Which address.
        bind: SocketAddr,
        /// The system's words.
        why: String,
    },
}

impl Advice for ListenError {
    fn reaction(&self) -> Reaction {
        match self {
            Self::Admission(error) => error.reaction(),
            Self::Tls(error) => error.reaction(),
            Self::Bind { .. } => Reaction::Stop,
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::Admission(error) => error.advice(),
            Self::Tls(error) => error.advice(),
            Self::Bind { bind, .. } => {
                format!("stop what uses port {} on this machine, or choose another address in the config", bind.port())
            }
        }
    }
}

/// What all ways in share. Clones share.
#[derive(Clone)]
pub struct Gateway(Arc<Shared>);

struct Shared {
    env: Env,
    arbiters: Arbiters,
    phases: Phases,
    pools: Pools,
    ground: Ground,
    connections: AtomicU32,
    next: AtomicU64,
}

impl Gateway {
    /// A gateway whose connections live on `arbiters` until the node's phases end them.
    pub fn new(env: Env, arbiters: Arbiters, phases: Phases, pools: Pools, ground: Ground) -> Self {
        let (connections, next) = (AtomicU32::new(0), AtomicU64::new(0));
        Self(Arc::new(Shared { env, arbiters, phases, pools, ground, connections, next }))
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

    /// Starts a connection on the next arbiter. Without arbiters of its own a node does so in the current `LocalSet`.
    fn start<F: Future<Output = ()> + 'static>(&self, serve: impl FnOnce() -> F + Send + 'static) {
        let arbiter = self.0.arbiters.of(self.0.next.fetch_add(1, Ordering::Relaxed));
        // The first poll hands it over; nobody waits for its end. A stopped arbiter drops it, which closes the connection.
        let _ = self.0.arbiters.run(&self.0.env, arbiter, serve).now_or_never();
    }
}

struct Counted(Gateway);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
