//! Simulated disk and network.

pub mod disk;
pub mod network;
