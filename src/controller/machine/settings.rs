//! What can be set per topic: names, values, defaults. One table; all else follows from it.

use crate::{
    advice::{Advice, Reaction},
    batch::Compression,
    limits,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use thiserror::Error;

/// How long records are kept, milliseconds, or `unlimited` (also `-1`).
pub const RETENTION_MS: &str = "retention.ms";
/// How many bytes of a partition are kept, or `unlimited` (also `-1`).
pub const RETENTION_BYTES: &str = "retention.bytes";
/// Bytes of a batch at most.
pub const MAX_BATCH_BYTES: &str = "max.batch.bytes";
/// What producers use that do not choose themselves: `none`, `lz4` or `zstd`. The broker recompresses nothing.
pub const COMPRESSION: &str = "compression";
/// All of them.
pub const NAMES: &[&str] = &[COMPRESSION, MAX_BATCH_BYTES, RETENTION_BYTES, RETENTION_MS];

const UNLIMITED: &str = "unlimited";

/// Why a setting was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SettingError {
    /// No setting has this name.
    #[error("there is no setting {name:?}{}", nearest.map(|n| format!(": did you mean {n:?}?")).unwrap_or_default())]
    Unknown {
        /// The name.
        name: String,
        /// The most similar one.
        nearest: Option<&'static str>,
    },
    /// The setting cannot have this value.
    #[error("{name} cannot be {value:?}: it is {wanted}")]
    Value {
        /// Which setting.
        name: &'static str,
        /// The value.
        value: String,
        /// What it may be.
        wanted: String,
    },
}

impl Advice for SettingError {
    fn reaction(&self) -> Reaction {
        match self {
            Self::Unknown { .. } | Self::Value { .. } => Reaction::Reject,
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::Unknown { .. } => format!("use one of {}", NAMES.join(", ")),
            Self::Value { wanted, .. } => format!("give it {wanted}"),
        }
    }
}

/// What a topic sets: checked values, as they print.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Settings(BTreeMap<String, String>);

impl Settings {
    /// Those that differ from the defaults, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// How long records are kept, milliseconds; `None` is for ever. `default` is the node's.
    pub fn retention_ms(&self, default: Option<u64>) -> Option<u64> {
        self.limit(RETENTION_MS, default)
    }

    /// How many bytes of a partition are kept; `None` is all. `default` is the node's.
    pub fn retention_bytes(&self, default: Option<u64>) -> Option<u64> {
        self.limit(RETENTION_BYTES, default)
    }

    /// Bytes of a batch at most.
    pub fn batch_bytes_max(&self) -> u32 {
        self.0.get(MAX_BATCH_BYTES).and_then(|value| value.parse().ok()).unwrap_or(limits::BATCH_BYTES_MAX)
    }

    /// What producers use that do not choose themselves.
    pub fn compression(&self) -> Option<Compression> {
        self.0.get(COMPRESSION)?.parse().ok()
    }

    /// Sets one, or goes back to its default.
    pub fn set(&mut self, name: &str, value: Option<&str>) -> Result<(), SettingError> {
        let name = *NAMES.iter().find(|known| **known == name).ok_or_else(|| unknown(name))?;
        match value {
            Some(value) => self.0.insert(name.into(), checked(name, value)?),
            None => self.0.remove(name),
        };
        Ok(())
    }

    fn limit(&self, name: &str, default: Option<u64>) -> Option<u64> {
        self.0.get(name).map_or(default, |value| value.parse().ok())
    }
}

/// The value as it is stored.
fn checked(name: &'static str, value: &str) -> Result<String, SettingError> {
    let refused = |wanted: String| SettingError::Value { name, value: value.into(), wanted };
    let number = value.parse::<u64>().ok();
    match name {
        COMPRESSION => match value.parse::<Compression>() {
            Ok(codec) => Ok(codec.to_string()),
            Err(_) => Err(refused(Compression::ALL.map(Compression::name).join(", "))),
        },
        MAX_BATCH_BYTES => {
            match number.filter(|n| (BATCH_BYTES_LEAST..=u64::from(limits::BATCH_BYTES_MAX)).contains(n)) {
                Some(n) => Ok(n.to_string()),
                None => {
                    Err(refused(format!("a number of bytes from {BATCH_BYTES_LEAST} to {}", limits::BATCH_BYTES_MAX)))
                }
            }
        }
        _ if value == UNLIMITED || value == "-1" => Ok(UNLIMITED.into()),
        _ => match number.filter(|n| *n > 0) {
            Some(n) => Ok(n.to_string()),
            None => Err(refused(format!("a number above 0, or {UNLIMITED}"))),
        },
    }
}

/// The smallest limit that lets a record of some use pass.
const BATCH_BYTES_LEAST: u64 = 1_024;

fn unknown(name: &str) -> SettingError {
    let similar = |known: &&str| (strsim::jaro_winkler(name, known) * 1_000.0).round();
    let nearest = NAMES.iter().copied().max_by(|a, b| similar(a).total_cmp(&similar(b)));
    SettingError::Unknown { name: name.into(), nearest: nearest.filter(|known| similar(known) >= 700.0) }
}
