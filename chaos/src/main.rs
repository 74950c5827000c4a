//! The `highwater-chaos` command.

#![allow(clippy::print_stdout, reason = "a command speaks on stdout")]

use clap::{Parser, Subcommand};
use highwater_chaos::{real, sim};
use std::{
    collections::BTreeMap,
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};
use tracing_subscriber::fmt::{
    format::Writer,
    time::{FormatTime, SystemTime},
};

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
        /// Seeds at a time
        #[arg(long, default_value_t = 1)]
        jobs: u64,
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

/// Times of log lines: virtual in a simulation.
struct Clock;

impl FormatTime for Clock {
    fn format_time(&self, out: &mut Writer<'_>) -> std::fmt::Result {
        match sim::virtual_time() {
            Some(time) => write!(out, "{:10.6}", time.as_secs_f64()),
            None => SystemTime.format_time(out),
        }
    }
}

fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("error,openraft=off"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_timer(Clock).init();
    let result = match Args::parse().command {
        Command::Run(args) => run(args),
        Command::Sim { seed, runs, jobs, seconds, nodes, leader_restore, history } => {
            let options = sim::Options { nodes, seconds, leader_restore, ..sim::Options::new(seed) };
            simulate(&options, runs, jobs, history.as_deref())
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

/// Runs `runs` seeds, `jobs` at a time; tells of each in the order of seeds.
fn simulate(first: &sim::Options, runs: u64, jobs: u64, history: Option<&std::path::Path>) -> anyhow::Result<bool> {
    let begun = tokio::time::Instant::now();
    let next = AtomicU64::new(first.seed);
    let (done, outcomes) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, runs.max(1)) {
            let (done, next) = (done.clone(), &next);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= first.seed + runs {
                        return;
                    }
                    let outcome = sim::run(&sim::Options { seed, ..first.clone() });
                    if done.send((seed, outcome)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(done);
        let mut waiting = BTreeMap::new();
        let mut sums = sim::Sums::default();
        let mut wrong = Vec::new();
        for seed in first.seed..first.seed + runs {
            let outcome = loop {
                match waiting.remove(&seed) {
                    Some(outcome) => break outcome,
                    None => match outcomes.recv() {
                        Ok((of, outcome)) => drop(waiting.insert(of, outcome)),
                        Err(_) => anyhow::bail!("the run of seed {seed} panicked"),
                    },
                }
            };
            let outcome = outcome.map_err(anyhow::Error::msg)?;
            if !tell(seed, first.seconds, &outcome) {
                wrong.push(seed);
            }
            sums.add(outcome.sums);
            if let Some(path) = history {
                outcome.history.write(&mut std::io::BufWriter::new(std::fs::File::create(path)?))?;
            }
        }
        let seconds = begun.elapsed().as_secs();
        println!("{runs} seeds of {} virtual s in {seconds} s: {}", first.seconds, serde_json::to_string(&sums)?);
        if !wrong.is_empty() {
            println!("wrong seeds: {wrong:?}");
        }
        Ok(wrong.is_empty())
    })
}

fn tell(seed: u64, seconds: u64, outcome: &sim::Outcome) -> bool {
    let short = outcome.sums.short_of(seconds);
    let good = outcome.is_good() && short.is_none();
    let sim::Sums { acked, crashes, lossy_crashes, partitions, .. } = outcome.sums;
    println!(
        "seed {seed} {} hash {:016x} acked {acked} crashes {crashes} lossy {lossy_crashes} partitions {partitions}",
        if good { "ok" } else { "WRONG" },
        outcome.history.hash(),
    );
    short.into_iter().for_each(|short| println!("  too little: {short}"));
    outcome.stuck.iter().for_each(|stuck| println!("  stuck: {stuck}"));
    outcome.failures.iter().for_each(|failure| println!("  {failure}"));
    for kind in outcome.verdict.anomalies.chunk_by(|a, b| a.kind == b.kind) {
        println!("  {} x {} in partition {}: {}", kind.len(), kind[0].kind, kind[0].partition, kind[0].evidence);
    }
    good
}
