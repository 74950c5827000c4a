#![doc = include_str!("ARCHITECTURE.md")]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]
#![forbid(unsafe_code)]

// In layer order, lowest first: a module uses those above it (`tests/tidy.rs` has the list).
pub mod advice;
pub mod limits;
pub mod types;

pub mod batch;
#[cfg(feature = "node")]
pub mod config;
#[cfg(feature = "node")]
pub mod metrics;
#[cfg(feature = "client")]
pub mod tls;

pub mod wire;

// One list of planted bugs, in the lowest crate that has some.
#[cfg(feature = "node")]
pub use highwater_raft::sabotage;

#[cfg(feature = "node")]
pub mod runtime;

#[cfg(feature = "node")]
pub mod replica;

#[cfg(feature = "node")]
pub mod controller;
#[cfg(feature = "node")]
pub mod group;
#[cfg(feature = "node")]
pub mod partition;

#[cfg(feature = "node")]
pub mod peer;

#[cfg(feature = "node")]
pub mod auth;
#[cfg(feature = "node")]
pub mod quota;
#[cfg(feature = "node")]
pub mod session;

#[cfg(feature = "node")]
pub mod gateway;

#[cfg(feature = "node")]
pub mod node;

#[cfg(feature = "client")]
pub mod client;

#[cfg(feature = "node")]
pub mod embed;

#[cfg(feature = "testing")]
pub mod testing;

#[cfg(feature = "cli")]
pub mod cli;
