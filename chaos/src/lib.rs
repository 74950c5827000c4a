//! Faults on Highwater clusters, simulated and real; histories of what clients saw; and a checker that judges them.
//!
//! ```text
//! sim  ─┐                                 ┌─▶ anomalies, with evidence
//!       ├─ workload ─▶ history ─▶ checker ┤
//! real ─┘   + faults                      └─▶ one line of verdict
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]
#![deny(unsafe_code)]

pub mod checker;
// Its tests need no planted bug: they run in the build that has none.
#[cfg(any(test, feature = "sabotage"))]
pub mod controls;
pub mod history;
pub mod ledger;
pub mod observe;
pub mod real;
pub mod sim;
pub mod soak;
mod workload;
