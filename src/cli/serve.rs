//! `highwater serve`: one node from its config file. SIGTERM drains it (leaderships go to others, what is in flight is answered),
//! SIGINT stops it at once; both leave a sealed log and exit code 0. A failure of the node, also on its way out, is exit code 1.

use crate::node::{Node, NodeError};
use std::{
    path::{Path, PathBuf},
    pin::pin,
    process::ExitCode,
};
use tokio::signal::unix::{SignalKind, signal};

/// What a node logs unless `RUST_LOG` says otherwise.
pub const LOGS: &str = "info,openraft=error";

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
    super::start_logging(LOGS);
    // The node has threads of its own; this one waits for signals.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut drain = signal(SignalKind::terminate())?;
        let mut stop = signal(SignalKind::interrupt())?;
        let node = Node::builder(config).start().await.map_err(super::advise)?;
        let ended = tokio::select! {
            biased;
            _ = drain.recv() => {
                tracing::info!("draining: a second signal stops at once");
                let second = async {
                    tokio::select! {
                        _ = drain.recv() => {}
                        _ = stop.recv() => {}
                    }
                };
                shut_down(&node, second).await
            }
            _ = stop.recv() => node.stop().await,
            ended = node.run() => ended,
        };
        ended.map(|()| ExitCode::SUCCESS).map_err(super::advise)
    })
}

/// Drains, or stops at once from when `hurry` resolves.
async fn shut_down(node: &Node, hurry: impl Future<Output = ()>) -> Result<(), NodeError> {
    let mut drained = pin!(node.shutdown());
    tokio::select! {
        biased;
        () = hurry => {}
        ended = &mut drained => return ended,
    }
    // Draining goes on beside: what it has begun to close, it alone can close.
    tokio::select! {
        biased;
        ended = drained => ended,
        ended = node.stop() => ended,
    }
}
