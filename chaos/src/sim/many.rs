//! Many seeds, some at a time, told in their order.

use super::{Options, Outcome, Sums, run, table};
use highwater_raft::observe::digest;
use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc,
    },
    time::Duration,
};
use tokio::time::Instant;

/// How far a search goes: so many seeds, and behind them as many as begin in time.
#[derive(Clone, Copy, Debug)]
pub struct Length {
    end: u64,
    until: Option<Instant>,
}

impl Length {
    /// Seeds below `end`; then, for so many minutes from now, whichever come.
    pub fn new(end: u64, minutes: Option<f64>) -> Self {
        Self { end, until: minutes.map(|minutes| Instant::now() + Duration::from_secs_f64(minutes * 60.0)) }
    }

    /// How many more seeds are begun just now, of `most` from this one on.
    pub fn left(&self, seed: u64, most: u64) -> u64 {
        let in_time = self.until.is_some_and(|until| Instant::now() < until);
        if in_time { most } else { self.end.saturating_sub(seed).min(most) }
    }
}

/// Which seeds, and when the set is good.
#[derive(Clone, Debug)]
pub struct Many {
    /// The first.
    pub seed: u64,
    /// How many at least; of these each storm must reach what such a storm reaches, or the set proves little.
    pub runs: u64,
    /// Goes on behind those for so long, of wall time.
    pub minutes: Option<f64>,
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
    /// Seeds whose history is refused, that got stuck, or in which something failed.
    pub wrong: Vec<u64>,
    /// Seeds whose storm reached less than such a storm should. Nothing is wrong there: of many seeds a few are.
    pub mild: Vec<u64>,
    /// Over the hashes of the histories, in the order of the seeds.
    pub hash: u64,
    /// What they reached.
    #[serde(flatten)]
    pub sums: Sums,
}

impl Tally {
    fn of(options: &Options, outcome: &Outcome) -> Self {
        let seed_if = |told: bool| told.then_some(options.seed).into_iter().collect();
        let (wrong, mild) = (seed_if(!outcome.is_good()), seed_if(outcome.sums.short_of(options).is_some()));
        Self { runs: 1, wrong, mild, hash: outcome.history.hash(), sums: outcome.sums.clone() }
    }

    /// Adds what came of the seeds behind these.
    pub fn add(&mut self, next: &Self) {
        self.hash = digest([&self.hash.to_be_bytes()[..], &next.hash.to_be_bytes()[..]]);
        self.runs += next.runs;
        self.wrong.extend(&next.wrong);
        self.mild.extend(&next.mild);
        self.sums.add(&next.sums);
    }
}

impl Many {
    /// What is wrong with the set as a whole.
    fn complaints(&self, tally: &Tally) -> Vec<String> {
        let never = tally.sums.never();
        let wrong = (!tally.wrong.is_empty()).then(|| format!("wrong seeds: {:?}", tally.wrong));
        let chosen = self.seed..self.seed + self.runs;
        let mild: Vec<_> = tally.mild.iter().filter(|seed| chosen.contains(seed)).collect();
        let mild = (!mild.is_empty()).then(|| format!("seeds whose storm is too mild: {mild:?}"));
        let little = (self.require_sometimes && !never.is_empty())
            .then(|| format!("never reached, so this set proves little: {never:?}"));
        wrong.into_iter().chain(mild).chain(little).collect()
    }
}

/// The seeds that are still to be begun, in their order.
struct Queue {
    length: Length,
    next: Mutex<u64>,
}

impl Queue {
    /// One of them. The clock is asked under the lock: none is left out before one that is begun.
    fn take(&self) -> Option<u64> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let seed = (self.length.left(*next, 1) > 0).then_some(*next);
        *next += u64::from(seed.is_some());
        seed
    }

    /// The first that was not begun.
    fn end(&self) -> u64 {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs them all; `options` makes each one. Tells of each by `say`. Gives whether all went as wanted, and the last run.
///
/// # Errors
/// When this build cannot replay, or a run's thread died.
pub fn run_many(
    many: &Many,
    options: impl Fn(u64) -> Options + Sync,
    mut say: impl FnMut(String),
) -> anyhow::Result<(bool, Option<(Options, Outcome)>)> {
    let begun = Instant::now();
    let length = Length::new(many.seed + many.runs, many.minutes);
    let (queue, stop) = (Queue { length, next: Mutex::new(many.seed) }, AtomicBool::new(false));
    let (done, outcomes) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..many.jobs.max(1) {
            let (done, queue, stop, options) = (done.clone(), &queue, &stop, &options);
            scope.spawn(move || {
                while let Some(seed) = queue.take() {
                    if stop.load(Relaxed) || done.send((seed, run(&options(seed)))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(done);
        let (mut waiting, mut last) = (BTreeMap::new(), None);
        let (mut caught, mut tally) = (None, Tally::default());
        for seed in many.seed.. {
            let Some(came) = next_of(seed, &mut waiting, &outcomes) else {
                anyhow::ensure!(seed == queue.end(), "the run of seed {seed} panicked");
                break;
            };
            let came = came.inspect_err(|_| stop.store(true, Relaxed));
            let (ran, outcome) = (options(seed), came.map_err(anyhow::Error::msg)?);
            tally.add(&Tally::of(&ran, &outcome));
            tell(&ran, &outcome, &mut say);
            let clean = outcome.verdict.is_clean();
            last = Some((ran, outcome));
            if many.until_caught && !clean {
                caught = Some(seed);
                stop.store(true, Relaxed);
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
        let complaints = many.complaints(&tally);
        let good = complaints.is_empty();
        complaints.into_iter().for_each(say);
        Ok((good, last))
    })
}

type Came = Result<Outcome, String>;

/// What came of a seed; nothing when no more come.
fn next_of(seed: u64, waiting: &mut BTreeMap<u64, Came>, outcomes: &mpsc::Receiver<(u64, Came)>) -> Option<Came> {
    loop {
        if let Some(outcome) = waiting.remove(&seed) {
            return Some(outcome);
        }
        let (of, outcome) = outcomes.recv().ok()?;
        waiting.insert(of, outcome);
    }
}

/// A line about the seed, and one about each thing that is wrong.
fn tell(options: &Options, outcome: &Outcome, say: &mut impl FnMut(String)) {
    let (seed, short) = (options.seed, outcome.sums.short_of(options));
    let word = match (outcome.is_good(), &short) {
        (false, _) => "WRONG",
        (true, Some(_)) => "mild",
        (true, None) => "ok",
    };
    let Sums { acked, crashes, lossy_crashes, partitions, .. } = outcome.sums;
    say(format!(
        "seed {seed} {word} hash {:016x} acked {acked} crashes {crashes} lossy {lossy_crashes} partitions {partitions}",
        outcome.history.hash(),
    ));
    short.into_iter().for_each(|short| say(format!("  too little: {short}")));
    outcome.stuck.iter().for_each(|stuck| say(format!("  stuck: {stuck}")));
    outcome.failures.iter().for_each(|failure| say(format!("  {failure}")));
    outcome.verdict.lines().for_each(|line| say(format!("  {line}")));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::soak::Seeds;

    fn queue(runs: u64, minutes: Option<f64>) -> Queue {
        Queue { length: Length::new(10 + runs, minutes), next: Mutex::new(10) }
    }

    #[tokio::test(start_paused = true)]
    async fn behind_its_runs_a_set_goes_on_until_its_minutes_are_over() {
        let fixed = queue(2, None);
        assert_eq!([(); 4].map(|()| fixed.take()), [Some(10), Some(11), None, None]);
        let longer = queue(2, Some(4.0));
        assert_eq!([(); 4].map(|()| longer.take()), [10, 11, 12, 13].map(Some));
        tokio::time::advance(Duration::from_secs(239)).await;
        assert_eq!(longer.take(), Some(14));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!((longer.take(), longer.end()), (None, 15));
        let slow = queue(2, Some(0.5));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!([(); 3].map(|()| slow.take()), [Some(10), Some(11), None], "its runs all the same");
    }

    #[test]
    fn a_set_is_good_when_each_seed_is_and_all_that_is_interesting_was_reached() {
        let many = Many {
            seed: 1,
            runs: 1,
            minutes: None,
            jobs: 1,
            until_caught: false,
            require_sometimes: true,
            tally: false,
        };
        let all = Tally { sums: Sums::of_everything(), ..Tally::default() };
        assert_eq!(many.complaints(&all), [""; 0]);
        let mut less = all.clone();
        less.sums.reached.remove("split vote");
        assert_eq!(many.complaints(&less), ["never reached, so this set proves little: [\"split vote\"]"]);
        let reached = [("split vote".to_owned(), 1)].into();
        less.add(&Tally { sums: Sums { reached, ..Sums::default() }, ..Tally::default() });
        assert_eq!(many.complaints(&less), [""; 0], "one of its seeds is enough");
        let any = Many { require_sometimes: false, ..many };
        assert_eq!(any.complaints(&Tally::default()), [""; 0]);
        assert_eq!(any.complaints(&Tally { wrong: vec![7], ..Tally::default() }), ["wrong seeds: [7]"]);
    }

    #[test]
    fn a_mild_storm_is_no_violation_and_fails_a_set_only_where_it_was_chosen() {
        let of = |seed, lossy_crashes, stuck| {
            let sums = Sums { acked: 9_000, partitions: 9, lossy_crashes, ..Sums::default() };
            let history = crate::history::History::default();
            let verdict = crate::checker::check(&history);
            let failures = Vec::new();
            let outcome = Outcome { verdict, stuck, failures, sums, faults: Vec::new(), history };
            let mut said = Vec::new();
            tell(&Options::new(seed), &outcome, &mut |line| said.push(line));
            (Tally::of(&Options::new(seed), &outcome), said)
        };
        let mut all = Tally::default();
        let word = |seed| format!("seed {seed}");
        for (seed, lossy, stuck, told) in [(4, 5, None, "ok"), (5, 3, None, "mild"), (6, 3, Some("it".into()), "WRONG")]
        {
            let (tally, said) = of(seed, lossy, stuck);
            assert!(said[0].starts_with(&format!("{} {told} ", word(seed))), "{said:?}");
            let little =
                said.iter().any(|line| line == "  too little: 3 crashes that lose bytes, at least 5 are needed");
            assert_eq!(little, lossy < 5, "{said:?}");
            all.add(&tally);
        }
        assert_eq!((&all.wrong, &all.mild), (&vec![6], &vec![5, 6]));
        let mut many = Many {
            seed: 1,
            runs: 5,
            minutes: None,
            jobs: 1,
            until_caught: false,
            require_sometimes: false,
            tally: false,
        };
        let mild = Tally { mild: vec![5, 6], ..Tally::default() };
        assert_eq!(many.complaints(&mild), ["seeds whose storm is too mild: [5]"], "one of those that were chosen");
        many.runs = 4;
        assert_eq!(many.complaints(&mild), [""; 0], "behind them");
    }

    #[test]
    fn at_least_a_tenth_of_seeds_and_of_simulated_time_is_in_full_mode() {
        for (brief, runs) in [(false, 100), (true, 150)] {
            let seeds = Seeds { seed: 1, seconds: None, brief, full_every: super::super::FULL_EVERY };
            let (mut full, mut all) = ((0, 0), (0, 0));
            for options in (1..=runs).map(|seed| seeds.options(seed)) {
                for (count, seconds) in [Some(&mut all), options.full.then_some(&mut full)].into_iter().flatten() {
                    (*count, *seconds) = (*count + 1, *seconds + options.seconds);
                }
            }
            assert_eq!(all.0, runs);
            assert!(full.0 * 10 >= all.0 && full.1 * 10 >= all.1, "{full:?} of {all:?}");
        }
    }
}
