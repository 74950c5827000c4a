//! What a partition can be told. Produced batches travel raw; all else is an rmp-serde map with one-letter names.

use bytes::Bytes;
use highwater_raft::machine::Command;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Kind of [`produce`].
pub const PRODUCE: u8 = 1;
/// Kind of [`Trim`].
pub const TRIM: u8 = 2;
/// Kind of [`ExpireProducers`].
pub const EXPIRE_PRODUCERS: u8 = 3;

/// Appends one record batch. `batch` was checked at admission (`Batch::parse` and `check_produced`).
pub fn produce(batch: Bytes) -> Command {
    Command { kind: PRODUCE, body: batch }
}

/// Moves the log start up: by retention, or because an operator purges. A start below the present one changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trim {
    /// The first offset that stays.
    #[serde(rename = "o")]
    pub offset: u64,
}

impl Trim {
    /// As the log carries it.
    pub fn command(&self) -> Command {
        Command { kind: TRIM, body: encode(self) }
    }
}

/// Forgets producers that were silent for long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpireProducers {
    /// Producers whose last append has a stamp below this are forgotten, milliseconds.
    #[serde(rename = "b")]
    pub before_ms: u64,
}

impl ExpireProducers {
    /// As the log carries it.
    pub fn command(&self) -> Command {
        Command { kind: EXPIRE_PRODUCERS, body: encode(self) }
    }
}

fn encode(command: &impl Serialize) -> Bytes {
    rmp_serde::to_vec_named(command).expect("plain values in memory always encode").into()
}

pub(super) fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    crate::types::decode(body).map_err(|e| e.to_string())
}
