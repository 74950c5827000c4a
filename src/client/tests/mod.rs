//! The client against a cluster in memory, in virtual time.

mod consumer;
mod group;
mod listener;
mod producer;
