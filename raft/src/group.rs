//! Groups as the broker sees them.
