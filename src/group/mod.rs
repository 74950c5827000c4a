//! Consumer groups: members, assignment and offsets, at each group's home.
//!
//! Entry points: [`Groups`] for sessions; [`machine`] for the rules.

mod actor;
mod convert;
mod handle;
pub mod machine;
mod observe;

pub use handle::{Groups, Listed, Surroundings};
