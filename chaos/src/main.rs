//! The `highwater-chaos` command.

#![allow(clippy::print_stdout, reason = "a command speaks on stdout")]

use clap::{Parser, Subcommand};
use highwater_chaos::{real, sim};
use std::process::ExitCode;

/// Faults on Highwater clusters, and a verdict.
#[derive(Parser)]
#[command(name = "highwater-chaos", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Kill real nodes under load, and count what is lost
    Run(real::Args),
    /// Run whole clusters in virtual time, each from a seed
    Sim {
        /// The first seed
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// So many seeds
        #[arg(long, default_value_t = 1)]
        runs: u64,
        /// Virtual seconds of storm per seed
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Nodes
        #[arg(long, default_value_t = 3)]
        nodes: u32,
        /// Plant a bug: leaders resume after a restart without an election
        #[arg(long)]
        leader_restore: bool,
        /// Write the last run's history here
        #[arg(long, value_name = "FILE")]
        history: Option<std::path::PathBuf>,
    },
}

fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("error,openraft=off"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let result = match Args::parse().command {
        Command::Run(args) => run(args),
        Command::Sim { seed, runs, seconds, nodes, leader_restore, history } => {
            let options = sim::Options { nodes, seconds, leader_restore, ..sim::Options::new(seed) };
            simulate(&options, runs, history.as_deref())
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: real::Args) -> anyhow::Result<bool> {
    let json = args.json;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = tokio::task::LocalSet::new().block_on(&runtime, real::run(args))?;
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{}", report.line());
        report.evidence.iter().for_each(|a| println!("{} in partition {}: {}", a.kind, a.partition, a.evidence));
    }
    Ok(report.is_good())
}

fn simulate(first: &sim::Options, runs: u64, history: Option<&std::path::Path>) -> anyhow::Result<bool> {
    let mut sums = sim::Sums::default();
    let mut good = true;
    for seed in first.seed..first.seed + runs {
        let options = sim::Options { seed, ..first.clone() };
        let outcome = sim::run(&options).map_err(anyhow::Error::msg)?;
        let verdict = if outcome.is_good() { "ok" } else { "WRONG" };
        println!(
            "seed {seed} {verdict} hash {:016x} acked {} crashes {} lossy {} partitions {}",
            outcome.history.hash(),
            outcome.sums.acked,
            outcome.sums.crashes,
            outcome.sums.lossy_crashes,
            outcome.sums.partitions
        );
        if let Some(stuck) = &outcome.stuck {
            println!("  stuck: {stuck}");
        }
        outcome.verdict.anomalies.iter().take(5).for_each(|a| println!("  {} in partition {}: {}", a.kind, a.partition, a.evidence));
        good &= outcome.is_good();
        sums.add(outcome.sums);
        if let Some(path) = history {
            outcome.history.write(&mut std::io::BufWriter::new(std::fs::File::create(path)?))?;
        }
    }
    println!("{runs} runs of {} virtual s: {}", first.seconds, serde_json::to_string(&sums)?);
    Ok(good)
}
