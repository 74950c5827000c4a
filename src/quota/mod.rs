//! Who may use how much. Now: three pools of bytes that a request is admitted to before its bytes are kept.
//!
//! **Invariant:** overload of produce or of answers never blocks control requests: they have a pool of their own.
//!
//! Comes later: rates per principal and per topic, throttle times in answers.

use crate::{
    advice::Advice,
    config,
    runtime::{BytePermit, BytePool, PoolFull},
    wire::{Code, Header, Kind, Refused},
};

/// The pools of one node. Clones share.
#[derive(Clone)]
pub struct Pools {
    /// Batches on their way into the log.
    pub produce: BytePool,
    /// Answers on their way to clients.
    pub response: BytePool,
    /// All other requests.
    pub control: BytePool,
}

impl Pools {
    /// As the config says.
    pub fn new(config: &config::Pools) -> Self {
        Self {
            produce: BytePool::new("produce", config.produce_bytes),
            response: BytePool::new("response", config.response_bytes),
            control: BytePool::new("control", config.control_bytes),
        }
    }

    /// Admits a request by its header; what it holds is held to its answer.
    pub fn admit(&self, header: &Header) -> Result<BytePermit, Refused> {
        let bytes = u64::from(header.head_len) + u64::from(header.body_len);
        match header.kind {
            Kind::Produce => self.produce.take(bytes),
            kind if header.body_len > 0 => {
                return Err(Refused::new(
                    Code::BadRequest,
                    format!("a {kind:?} has no body; only Produce carries batches"),
                ));
            }
            _ => self.control.take(bytes),
        }
        .map_err(|full| overloaded(&full))
    }
}

/// As the native protocol says it.
pub fn overloaded(full: &PoolFull) -> Refused {
    Refused::new(Code::Overloaded, format!("{full}; {}", full.advice()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_produce_pool_leaves_control_alone() {
        let pools = Pools::new(&config::Pools { produce_bytes: 10_000, ..config::Pools::default() });
        let header = |kind, body_len| Header { kind, correlation: 0, head_len: 100, body_len };
        let held = pools.admit(&header(Kind::Produce, 8_000)).unwrap();
        let refused = pools.admit(&header(Kind::Produce, 8_000)).unwrap_err();
        assert_eq!(refused.code, Code::Overloaded);
        assert!(pools.admit(&header(Kind::Commit, 0)).is_ok());
        assert_eq!(pools.admit(&header(Kind::Commit, 1)).unwrap_err().code, Code::BadRequest);
        drop(held);
        assert!(pools.admit(&header(Kind::Produce, 8_000)).is_ok());
    }
}
