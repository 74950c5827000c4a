//! `highwater serve`: one node from its config file.

use std::{path::PathBuf, process::ExitCode};

/// Which node.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The node's config file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let _config = super::config::load(&args.config)?;
    anyhow::bail!("no node yet")
}
