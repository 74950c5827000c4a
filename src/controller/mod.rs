//! The controller: one Raft group of metadata. Nodes, topics, placement, replica ids, producer ids.

pub mod machine;
pub mod placement;
