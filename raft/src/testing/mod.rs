//! Simulated disk and network.

pub mod network;
