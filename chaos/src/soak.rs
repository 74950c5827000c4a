//! Long searches: seeds in blocks of eight, each block in a process of its own, so that nothing adds up in memory and a block that
//! dies is told like any other that is wrong. What came of them is a row of the ledger.

pub use crate::sim::Tally;
use crate::{ledger::Checkout, sim};
use anyhow::Context as _;
use std::process::{Child, Command, Stdio};
use tokio::time::Instant;

/// Seeds of one process.
pub const BLOCK: u64 = 8;

/// What is asked of a soak.
#[derive(Clone, Debug, clap::Args)]
#[group(id = "length", required = true, multiple = false, args = ["seeds", "minutes", "hours"])]
pub struct Args {
    #[command(flatten)]
    which: Seeds,
    /// So many seeds
    #[arg(long, value_name = "N")]
    seeds: Option<u64>,
    /// As many as begin within so many minutes
    #[arg(long, value_name = "M")]
    minutes: Option<f64>,
    /// As many as begin within so many hours
    #[arg(long, value_name = "H")]
    hours: Option<f64>,
    /// Processes at a time
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Seeds of one row of the ledger; a longer soak writes several
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    row: u64,
}

/// Seeds from one on, and what they are given.
#[derive(Clone, Debug, clap::Args)]
pub struct Seeds {
    /// The first seed
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Virtual seconds of storm per seed; default: 60, with `--brief` 12
    #[arg(long)]
    pub seconds: Option<u64>,
    /// A disk is lost while all is well, then a few faults come close together, instead of a long storm
    #[arg(long)]
    pub brief: bool,
    /// Every how many seeds one is in full mode: QUIC and TLS over simulated UDP; 1: all, 0: none
    #[arg(long, default_value_t = sim::FULL_EVERY, value_name = "N")]
    pub full_every: u64,
}

impl Seeds {
    /// What one of them runs.
    pub fn options(&self, seed: u64) -> sim::Options {
        let base = if self.brief { sim::Options::brief(seed) } else { sim::Options::new(seed) };
        let full = self.full_every > 0 && seed.is_multiple_of(self.full_every);
        sim::Options { seconds: self.seconds.unwrap_or(base.seconds), full, ..base }
    }

    /// Virtual seconds of storm of each.
    pub(crate) fn seconds(&self) -> u64 {
        self.options(self.seed).seconds
    }

    fn start(&self, seed: u64, runs: u64, jobs: u64) -> anyhow::Result<Block> {
        let mut command = Command::new(std::env::current_exe()?);
        let numbers = [seed, runs, jobs, self.seconds(), self.full_every].map(|number| number.to_string());
        command.args(["sim", "--tally"]).args(self.brief.then_some("--brief"));
        for (name, number) in ["--seed", "--runs", "--jobs", "--seconds", "--full-every"].into_iter().zip(&numbers) {
            command.args([name, number]);
        }
        // Panics are told in the lines on stdout.
        let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().context("could not start a block")?;
        Ok(Block { seed, runs, child })
    }

    /// What runs so many of them.
    pub(crate) fn command(&self, runs: u64) -> String {
        let Self { seed, full_every, brief, .. } = self;
        let (seconds, brief) = (self.seconds(), if *brief { " --brief" } else { "" });
        format!("soak --seed {seed} --seeds {runs} --seconds {seconds} --full-every {full_every}{brief}")
    }

    /// Runs the first of them in one process.
    pub(crate) fn again(&self, runs: u64, jobs: u64, say: &mut impl FnMut(String)) -> anyhow::Result<Tally> {
        self.start(self.seed, runs, jobs)?.end(say)
    }
}

/// A process and its seeds.
struct Block {
    seed: u64,
    runs: u64,
    child: Child,
}

impl Block {
    /// Waits for it; tells what is wrong in it.
    fn end(self, say: &mut impl FnMut(String)) -> anyhow::Result<Tally> {
        let Self { seed, runs, child } = self;
        let output = child.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let mut wrong = false;
        for line in text.lines().take_while(|line| !line.contains(" seeds in ")) {
            wrong = if line.starts_with(' ') { wrong } else { line.contains(" WRONG ") };
            if wrong {
                say(line.to_owned());
            }
        }
        let tally = text.lines().rev().find_map(|line| serde_json::from_str(line).ok());
        Ok(tally.unwrap_or_else(|| {
            say(format!("the process of seeds {seed} to {} ended with {}", seed + runs - 1, output.status));
            Tally { runs, wrong: (seed..seed + runs).collect(), ..Tally::default() }
        }))
    }
}

/// Runs seeds until there were enough, and writes rows into the ledger. Gives whether all were clean.
///
/// # Errors
/// When the checkout is not clean, or a process cannot be started.
pub fn run(args: &Args, mut say: impl FnMut(String)) -> anyhow::Result<bool> {
    let checkout = Checkout::clean()?;
    let minutes = args.minutes.or(args.hours.map(|hours| hours * 60.0));
    let length = sim::Length::new(args.which.seed + args.seeds.unwrap_or(0), minutes);
    let begun = Instant::now();
    let mut row = Row { seeds: args.which.clone(), first: 0, tally: Tally::default() };
    let (mut next, mut clean, mut running) = (args.which.seed, true, std::collections::VecDeque::new());
    loop {
        while running.len() < args.jobs.max(1) {
            // A row begins with a block, so that its first seeds can be run again alone.
            let left_of_row = args.row - (next - args.which.seed) % args.row;
            let runs = length.left(next, BLOCK.min(left_of_row));
            if runs == 0 {
                break;
            }
            running.push_back(args.which.start(next, runs, 1)?);
            next += runs;
        }
        let Some(block) = running.pop_front() else { break };
        let ended = block.end(&mut say)?;
        clean &= ended.wrong.is_empty();
        row.add(&ended);
        let (last, minutes) = (row.seeds.seed + row.tally.runs - 1, begun.elapsed().as_secs() / 60);
        say(format!("{minutes} min: {}", row.line()));
        if row.tally.runs >= args.row {
            say(checkout.add_soak(&row.seeds, &row.tally, row.first)?);
            let seeds = Seeds { seed: last + 1, ..row.seeds };
            row = Row { seeds, first: 0, tally: Tally::default() };
        }
    }
    if row.tally.runs > 0 {
        say(checkout.add_soak(&row.seeds, &row.tally, row.first)?);
    }
    Ok(clean)
}

/// A row that grows.
struct Row {
    seeds: Seeds,
    first: u64,
    tally: Tally,
}

impl Row {
    fn add(&mut self, block: &Tally) {
        if self.tally.runs == 0 {
            self.first = block.hash;
        }
        self.tally.add(block);
    }

    fn line(&self) -> String {
        let Tally { runs, wrong, mild, sums, .. } = &self.tally;
        let (first, last, crashes) = (self.seeds.seed, self.seeds.seed + runs - 1, sums.crashes);
        format!("seeds {first} to {last}, {crashes} crashes, {} of mild storms, wrong {wrong:?}", mild.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_of_mild_storms_are_counted_and_not_wrong() {
        let seeds = Seeds { seed: 11, seconds: None, brief: false, full_every: 7 };
        let mut row = Row { seeds, first: 0, tally: Tally::default() };
        row.add(&Tally { runs: 8, mild: vec![12], ..Tally::default() });
        row.add(&Tally { runs: 8, mild: vec![20, 21], wrong: vec![22], ..Tally::default() });
        assert_eq!(row.line(), "seeds 11 to 26, 0 crashes, 3 of mild storms, wrong [22]");
    }

    #[test]
    fn a_hash_depends_on_every_block_and_their_order() {
        let block = |hash| Tally { runs: 8, hash, ..Tally::default() };
        let row = |hashes: &[u64]| {
            let seeds = Seeds { seed: 1, seconds: None, brief: false, full_every: 7 };
            let mut row = Row { seeds, first: 0, tally: Tally::default() };
            hashes.iter().for_each(|hash| row.add(&block(*hash)));
            (row.first, row.tally.hash, row.tally.runs)
        };
        assert_eq!(row(&[5, 6]).0, 5);
        assert_eq!(row(&[5, 6]).2, 16);
        assert_ne!(row(&[5, 6]).1, row(&[6, 5]).1);
        assert_ne!(row(&[5]).1, row(&[5, 6]).1);
    }
}
