//! The controller: one Raft group of metadata. Nodes, topics, placement, replica ids, producer ids.
//!
//! Entry points: [`Controller`] for everybody; [`machine`] for the rules; [`placement`] for where replicas go.

mod actor;
mod ailing;
mod answer;
mod handle;
pub mod machine;
pub mod placement;
pub mod reconcile;

pub use ailing::{Ailing, Ailment};
pub use answer::{Answer, ExecuteError, Executed};
pub use handle::{Controller, GROUP};
