//! `highwater serve`: one node from its config file. SIGTERM drains it (leaderships go to others, what is in flight is answered),
//! SIGINT stops it at once; both leave a sealed log and exit code 0. A failure of the node, also on its way out, is exit code 1.

use crate::node::{Node, NodeError};
use anyhow::Context as _;
use std::{
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    pin::pin,
    process::ExitCode,
};
use tokio::{
    io::AsyncReadExt as _,
    net::unix::pipe,
    signal::unix::{SignalKind, signal},
};

/// What a node logs unless `RUST_LOG` says otherwise.
pub const LOGS: &str = "info,openraft=error";

/// Which node.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The node's config file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Stop at once when stdin ends, a pipe that a supervisor holds for as long as it lives
    #[arg(long, hide = true)]
    supervised: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    start(&args.config, args.supervised)
}

/// Runs a node from its config file until a signal or a failure ends it.
///
/// # Errors
/// When the file is wrong, the node cannot start, or fails.
pub fn serve(config: &Path) -> anyhow::Result<ExitCode> {
    start(config, false)
}

fn start(config: &Path, supervised: bool) -> anyhow::Result<ExitCode> {
    let config = super::config::load(config)?;
    super::start_logging(LOGS);
    // The node has threads of its own; this one waits for signals.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut drain = signal(SignalKind::terminate())?;
        let mut stop = signal(SignalKind::interrupt())?;
        let lifeline = supervised.then(lifeline).transpose()?;
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
            () = cut(lifeline) => {
                tracing::warn!("the supervisor is gone: the node stops, too");
                node.stop().await
            }
            ended = node.run() => ended,
        };
        ended.map(|()| ExitCode::SUCCESS).map_err(super::advise)
    })
}

/// What a supervisor holds the other end of. A pipe works where a parent's death is no signal, and reading it needs no thread.
fn lifeline() -> anyhow::Result<pipe::Receiver> {
    let stdin = std::io::stdin().as_fd().try_clone_to_owned()?;
    pipe::Receiver::from_owned_fd(stdin).context("with --supervised, stdin has to be a pipe")
}

/// Resolves when nobody holds the other end any more.
async fn cut(lifeline: Option<pipe::Receiver>) {
    let Some(mut lifeline) = lifeline else { return std::future::pending().await };
    while matches!(lifeline.read(&mut [0; 64]).await, Ok(1..)) {}
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
