//! Simulated disk and network.

pub mod network;
pub mod disk;
