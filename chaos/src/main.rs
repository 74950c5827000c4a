//! The `highwater-chaos` command.

#![allow(clippy::print_stdout, reason = "a command speaks on stdout")]

use clap::{Parser, Subcommand};
#[cfg(feature = "sabotage")]
use highwater_chaos::controls;
use highwater_chaos::{
    ledger, observe, real,
    sim::{self, Many, Script},
    soak,
};
use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
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
    /// Do faults to real nodes under load, and count what is lost
    Run(Box<real::Args>),
    /// One node of a scenario
    #[command(hide = true)]
    Serve {
        /// Its config file
        #[arg(long)]
        config: PathBuf,
        /// Where it writes down what clients cannot see
        #[arg(long)]
        facts: Option<PathBuf>,
    },
    /// Run whole clusters in virtual time, each from a seed
    Sim(Sim),
    /// Run seeds for long, in a process per eight, and write what came of them into the ledger
    Soak(soak::Args),
    /// Add to the ledger, or hold it against what runs now
    #[command(subcommand)]
    Ledger(ledger::Deed),
    /// Run kept scripts: seeds with their faults written out
    Replay {
        /// Files, as `sim --keep` writes them
        #[arg(required = true)]
        scripts: Vec<PathBuf>,
    },
    /// Plant each known bug and see that histories give it away
    #[cfg(feature = "sabotage")]
    Controls(controls::Args),
    /// One control, in this process
    #[cfg(feature = "sabotage")]
    #[command(hide = true)]
    Control(controls::One),
}

#[derive(clap::Args)]
struct Sim {
    #[command(flatten)]
    which: soak::Seeds,
    /// So many seeds
    #[arg(long, default_value_t = 1)]
    runs: u64,
    /// Go on behind those with as many as begin within so many minutes
    #[arg(long, value_name = "M")]
    minutes: Option<f64>,
    /// Seeds at a time
    #[arg(long, default_value_t = 1)]
    jobs: u64,
    /// Nodes; default: three, every fourth seed five
    #[arg(long)]
    nodes: Option<u32>,
    /// Plant a bug, one of those of `controls`
    #[cfg(feature = "sabotage")]
    #[arg(long, value_name = "BUG")]
    plant: Option<String>,
    /// Stop at the first seed whose history shows an anomaly, and fail if none does
    #[arg(long)]
    until_caught: bool,
    /// Fail unless the set reached every interesting state
    #[arg(long)]
    require_sometimes: bool,
    /// Print at last, in one line of JSON, what came of all seeds
    #[arg(long)]
    tally: bool,
    /// Write the last run's history here
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// Write the last run here as a script
    #[arg(long, value_name = "FILE")]
    keep: Option<PathBuf>,
}

fn main() -> ExitCode {
    let command = Args::parse().command;
    // A node logs as `highwater serve` does.
    if !matches!(command, Command::Serve { .. }) {
        observe::install();
    }
    let result = match command {
        Command::Run(args) => match run(*args) {
            Ok(Err(stopped)) => {
                eprintln!("stopped by a signal: there is no verdict");
                return ExitCode::from(stopped.code);
            }
            Ok(Ok(good)) => Ok(good),
            Err(error) => Err(error),
        },
        Command::Serve { config, facts } => serve(&config, facts.as_deref()),
        Command::Sim(sim) => simulate(&sim),
        Command::Soak(args) => soak::run(&args, say),
        Command::Ledger(deed) => ledger::run(&deed, say),
        Command::Replay { scripts } => replay(&scripts),
        #[cfg(feature = "sabotage")]
        Command::Controls(args) => controls::all(&args, say),
        #[cfg(feature = "sabotage")]
        Command::Control(args) => controls::one(&args, say),
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

/// A reader that had enough (`| head`) ends nothing: the exit code is the verdict.
fn say(line: String) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn serve(config: &Path, facts: Option<&Path>) -> anyhow::Result<bool> {
    facts.map_or(Ok(()), observe::record)?;
    highwater::cli::serve(config).map(|_| true)
}

fn run(args: real::Args) -> anyhow::Result<Result<bool, real::Stopped>> {
    let (json, scenario, command) = (args.json, args.scenario.clone(), args.command());
    let ledger = args.ledger.then(ledger::Checkout::clean).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = match tokio::task::LocalSet::new().block_on(&runtime, real::run(args))? {
        Ok(report) => report,
        Err(stopped) => return Ok(Err(stopped)),
    };
    if json {
        say(serde_json::to_string_pretty(&report)?);
    } else {
        report.not_applied.iter().for_each(|what| say(format!("not done on this machine: {what}")));
        say(report.deeds());
        report.failures.iter().cloned().for_each(say);
        report.evidence.iter().for_each(|a| say(format!("{} in partition {}: {}", a.kind, a.partition, a.evidence)));
        say(report.line());
    }
    if let (Some(checkout), Some(path)) = (ledger, &scenario) {
        let name = path.file_stem().map_or_else(|| "-".into(), |name| name.to_string_lossy());
        eprintln!("{}", checkout.add_real(&real::Scenario::read(path)?, (&name, &command), &report)?);
    }
    Ok(Ok(report.is_good()))
}

fn simulate(args: &Sim) -> anyhow::Result<bool> {
    #[cfg(feature = "sabotage")]
    if let Some(bug) = &args.plant {
        controls::plant(bug)?;
    }
    let options = |seed| {
        let base = args.which.options(seed);
        sim::Options { nodes: args.nodes.unwrap_or(base.nodes), ..base }
    };
    let many = Many {
        seed: args.which.seed,
        runs: args.runs,
        minutes: args.minutes,
        jobs: args.jobs,
        until_caught: args.until_caught,
        require_sometimes: args.require_sometimes,
        tally: args.tally,
    };
    let (good, last) = sim::run_many(&many, options, say)?;
    if let (Some(path), Some((_, outcome))) = (&args.history, &last) {
        outcome.history.write(&mut std::io::BufWriter::new(std::fs::File::create(path)?))?;
    }
    if let (Some(path), Some((options, outcome))) = (&args.keep, &last) {
        std::fs::write(path, Script::of(options, outcome).to_text()?)?;
    }
    Ok(good)
}

fn replay(scripts: &[PathBuf]) -> anyhow::Result<bool> {
    let mut good = true;
    for path in scripts {
        let script = Script::read(path)?;
        say(format!("{}: {}", path.display(), script.about));
        good &= script.replay(say)?;
    }
    Ok(good)
}
