//! Real nodes: processes of the built binary, with sockets, certificates, files and signals.
//!
//! Each test starts its own cluster on free ports in a temporary folder, and one test runs at a time. Times are printed,
//! never asserted; what waits has a generous deadline.
//!
//! | variable | what it changes |
//! |---|---|
//! | `HIGHWATER_LINES` | lines through the groups |
//! | `HIGHWATER_KILLS` | kills whose write gap is measured |
//! | `HIGHWATER_PARKED`, `HIGHWATER_GROUPS` | waiting fetches, idle groups |
//! | `HIGHWATER_IDLE_SECONDS`, `HIGHWATER_OVERLOAD_SECONDS` | how long is looked |
//! | `HIGHWATER_LOGS` | a folder for the nodes' logs |
//! | `HIGHWATER_SLOWER` | stretches the cluster's timings on a machine that has other work |

#![allow(clippy::disallowed_methods, reason = "wall-clock time and threads of a test of real processes")]
#![allow(clippy::unwrap_used, reason = "a test")]

mod behind;
mod certificates;
mod commands;
mod drain;
mod embedded;
mod failing;
mod gap;
mod headline;
mod idle;
mod input;
mod misconfigured;
mod overload;
mod parked;
mod quick_start;
mod repair;
mod retention;
mod support;
