//! Simulated disk and networks: of messages, and of datagrams below QUIC.

pub mod disk;
pub mod network;
pub mod wire;
