//! Many seeds, some at a time, told in their order.

use super::{Options, Outcome, Sums, run, table};
use highwater_raft::observe::digest;
use std::{
    collections::BTreeMap,
    sync::{
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
};

/// Which seeds, and when the set is good.
#[derive(Clone, Debug)]
pub struct Many {
    /// The first.
    pub seed: u64,
    /// How many.
    pub runs: u64,
    /// At a time.
    pub jobs: u64,
    /// Stops at the first seed whose history is not clean, which is what is wanted: a bug is planted.
    pub until_caught: bool,
    /// Fails unless every interesting state was reached.
    pub require_sometimes: bool,
    /// Says at last what came of all, as JSON: a [`Tally`].
    pub tally: bool,
}

/// What came of a range of seeds.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Tally {
    /// How many.
    pub runs: u64,
    /// Seeds whose history is refused, that got stuck, in which something failed, or whose storm was too mild.
    pub wrong: Vec<u64>,
    /// Over the hashes of the histories, in the order of the seeds.
    pub hash: u64,
    /// What they reached.
    #[serde(flatten)]
    pub sums: Sums,
}

impl Tally {
    fn of(options: &Options, outcome: &Outcome) -> Self {
        let good = outcome.is_good() && outcome.sums.short_of(options).is_none();
        let wrong = if good { vec![] } else { vec![options.seed] };
        Self { runs: 1, wrong, hash: outcome.history.hash(), sums: outcome.sums.clone() }
    }

    /// Adds what came of the seeds behind these.
    pub fn add(&mut self, next: &Self) {
        self.hash = digest([&self.hash.to_be_bytes()[..], &next.hash.to_be_bytes()[..]]);
        self.runs += next.runs;
        self.wrong.extend(&next.wrong);
        self.sums.add(&next.sums);
    }
}

/// Runs them all; `options` makes each one. Tells of each by `say`. Gives whether all went as wanted, and the last run's outcome.
///
/// # Errors
/// When this build cannot replay, or a run's thread died.
pub fn run_many(
    many: &Many,
    options: impl Fn(u64) -> Options + Sync,
    mut say: impl FnMut(String),
) -> anyhow::Result<(bool, Option<Outcome>)> {
    let begun = tokio::time::Instant::now();
    let (next, end) = (AtomicU64::new(many.seed), many.seed + many.runs);
    let stop = AtomicU64::new(end);
    let (done, outcomes) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..many.jobs.clamp(1, many.runs.max(1)) {
            let (done, next, stop, options) = (done.clone(), &next, &stop, &options);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= stop.load(Relaxed) || done.send((seed, run(&options(seed)))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(done);
        let (mut waiting, mut wrong, mut last) = (BTreeMap::new(), Vec::new(), None);
        let (mut caught, mut tally) = (None, Tally::default());
        for seed in many.seed..end {
            let outcome = next_of(seed, &mut waiting, &outcomes)?.map_err(anyhow::Error::msg)?;
            let ran = options(seed);
            tally.add(&Tally::of(&ran, &outcome));
            if !tell(&ran, &outcome, &mut say) {
                wrong.push(seed);
            }
            let clean = outcome.verdict.is_clean();
            last = Some(outcome);
            if many.until_caught && !clean {
                caught = Some(seed);
                stop.store(0, Relaxed);
                break;
            }
        }
        let (seconds, sums) = (begun.elapsed().as_secs(), &tally.sums);
        say(format!(
            "{} seeds in {seconds} s: {}",
            tally.runs,
            serde_json::to_string(&Sums { reached: BTreeMap::new(), ..sums.clone() })?
        ));
        say(sums.hours());
        say(table(sums));
        if many.tally {
            say(serde_json::to_string(&tally)?);
        }
        if many.until_caught {
            say(caught.map_or_else(
                || "not caught: no history of these seeds shows the planted bug".into(),
                |seed| format!("caught by the history of seed {seed}"),
            ));
            return Ok((caught.is_some(), last));
        }
        if !wrong.is_empty() {
            say(format!("wrong seeds: {wrong:?}"));
        }
        let never = sums.never();
        if many.require_sometimes && !never.is_empty() {
            say(format!("never reached, so this set proves little: {never:?}"));
        }
        Ok((wrong.is_empty() && (never.is_empty() || !many.require_sometimes), last))
    })
}

type Came = Result<Outcome, String>;

fn next_of(
    seed: u64,
    waiting: &mut BTreeMap<u64, Came>,
    outcomes: &mpsc::Receiver<(u64, Came)>,
) -> anyhow::Result<Came> {
    loop {
        if let Some(outcome) = waiting.remove(&seed) {
            return Ok(outcome);
        }
        match outcomes.recv() {
            Ok((of, outcome)) => drop(waiting.insert(of, outcome)),
            Err(_) => anyhow::bail!("the run of seed {seed} panicked"),
        }
    }
}

/// A line about the seed, and one about each thing that is wrong.
pub(super) fn tell(options: &Options, outcome: &Outcome, say: &mut impl FnMut(String)) -> bool {
    let (seed, short) = (options.seed, outcome.sums.short_of(options));
    let good = outcome.is_good() && short.is_none();
    let Sums { acked, crashes, lossy_crashes, partitions, .. } = outcome.sums;
    say(format!(
        "seed {seed} {} hash {:016x} acked {acked} crashes {crashes} lossy {lossy_crashes} partitions {partitions}",
        if good { "ok" } else { "WRONG" },
        outcome.history.hash(),
    ));
    short.into_iter().for_each(|short| say(format!("  too little: {short}")));
    outcome.stuck.iter().for_each(|stuck| say(format!("  stuck: {stuck}")));
    outcome.failures.iter().for_each(|failure| say(format!("  {failure}")));
    outcome.verdict.lines().for_each(|line| say(format!("  {line}")));
    good
}
