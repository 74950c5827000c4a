//! `highwater serve`: one node from its config file. SIGTERM drains it (leaderships go to others, what is in flight is answered),
//! SIGINT stops it at once; both leave a sealed log and exit code 0. A failure of the node is exit code 1.

use crate::node::Node;
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};
use tokio::signal::unix::{SignalKind, signal};

/// Which node.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The node's config file
    #[arg(long, value_name = "FILE")]
    pub(super) config: PathBuf,
}

/// Runs a node from its config file until a signal or a failure ends it.
///
/// # Errors
/// When the file is wrong, the node cannot start, or fails.
pub fn serve(config: &Path) -> anyhow::Result<ExitCode> {
    let config = super::config::load(config)?;
    super::start_logging("info,openraft=error");
    // The node has threads of its own; this one waits for signals.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut drain = signal(SignalKind::terminate())?;
        let mut stop = signal(SignalKind::interrupt())?;
        let node = Node::builder(config).start().await.map_err(super::advise)?;
        tokio::select! {
            biased;
            _ = drain.recv() => {
                tracing::info!("draining: a second signal stops at once");
                tokio::select! {
                    biased;
                    _ = drain.recv() => node.stop().await,
                    _ = stop.recv() => node.stop().await,
                    () = node.shutdown() => {}
                }
            }
            _ = stop.recv() => node.stop().await,
            ended = node.run() => ended.map_err(super::advise)?,
        }
        Ok(ExitCode::SUCCESS)
    })
}
