//! The client against a cluster in memory, in virtual time.

mod closing;
mod consumer;
mod credit;
mod gone;
mod group;
mod listener;
mod listing;
mod producer;
mod tapped;
