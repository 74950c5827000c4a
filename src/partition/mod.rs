//! A partition: a replicated log of record batches, its marks, and who waits at them.
//!
//! Entry points: [`Handle`] for sessions; `machine` for the rules. **Invariant:** nothing above the high watermark is served.

mod actor;
mod directory;
mod error;
mod handle;
pub mod machine;
mod marks;
mod observe;
mod serve;
mod tail;

pub use directory::Partitions;
pub use error::{FetchError, ProduceError, Unavailable};
pub use handle::{Around, Found, Handle, Park, Produce, Produced, Read, Served};
pub use marks::{Marks, Role};
pub use tail::{TailBudget, TailLog};

#[cfg(feature = "testing")]
pub(crate) use serve::fuzz as fuzz_notes;
