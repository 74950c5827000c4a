//! Simulated disk and networks (of messages, and of datagrams below QUIC), and the bodies of fuzz targets.

pub mod disk;
pub mod fuzz;
pub mod network;
pub mod wire;
