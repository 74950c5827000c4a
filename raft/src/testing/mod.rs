//! Simulated disk and networks (of messages, and of datagrams below QUIC), golden files, and the bodies of fuzz targets.

pub mod disk;
pub mod fuzz;
mod golden;
pub mod network;
pub mod wire;

pub use golden::{golden, golden_text, hex};
