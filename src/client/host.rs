//! What a client takes from its surroundings beside `tokio::time`: wall clock, randomness, tasks. A simulation hands in
//! its own, so that the same seed gives the same run.

use futures_util::future::BoxFuture;
use std::{
    hash::{BuildHasher, Hasher},
    sync::{Mutex, PoisonError},
};

/// Wall clock, randomness and tasks.
pub trait Host: Send + Sync + 'static {
    /// Milliseconds since 1970, for the timestamps of records.
    fn now_ms(&self) -> i64;
    /// A random number; not for secrets.
    fn random_u64(&self) -> u64;
    /// Runs a task until it ends by itself.
    fn spawn(&self, task: BoxFuture<'static, ()>);
}

/// The operating system's clock and entropy, and the tokio runtime it was made on.
pub struct TokioHost {
    runtime: tokio::runtime::Handle,
    random: Mutex<u64>,
}

impl TokioHost {
    /// Of the current tokio runtime.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn current() -> Self {
        let entropy = std::hash::RandomState::new().build_hasher().finish();
        Self { runtime: tokio::runtime::Handle::current(), random: Mutex::new(entropy) }
    }
}

impl Host for TokioHost {
    #[allow(clippy::disallowed_methods, reason = "the client's one place that reads the wall clock")]
    fn now_ms(&self) -> i64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }

    fn random_u64(&self) -> u64 {
        let mut state = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        splitmix(&mut state)
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        drop(self.runtime.spawn(task));
    }
}

/// Splitmix64: one step.
pub(super) fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
