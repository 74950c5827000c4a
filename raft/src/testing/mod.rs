//! Simulated disk and network.
