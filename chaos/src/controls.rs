//! Negative controls: each plants one bug in the product and has the general checker look at histories. What it does not find
//! there counts as not found, whatever panicked on the way; only a livelock is caught by itself.
//!
//! A control is a kept script in `chaos/controls`, named like its bug: a seed, and the storm that goes for the weakness or the
//! faults one by one. The same seed is run without the bug first, and must be clean. Where the kept seed shows the bug no longer,
//! since the product took another course, the next ones are tried; its line says so, and the last one counts them. A control runs in
//! a process of its own, since a bug stays planted for good. It says which run it begins, so that one without an end is told, as a
//! livelock, and killed.

use crate::{
    ledger::Checkout,
    sim::{self, LIVELOCK, Options, Script},
};
use anyhow::Context as _;
use highwater_raft::sabotage::Bug;
#[cfg(feature = "sabotage")]
use highwater_raft::sabotage::plant as switch_on;
use serde::{Deserialize, Serialize};
use std::{
    io::{self, BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    sync::mpsc::{self, RecvTimeoutError},
    time::Duration,
};

/// Where the scripts are.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/controls");

/// What a search without a number tries: five times what the hardest control took, and as many as CI's `sim --plant` has.
const SEARCH: &str = "100";

/// Where a search of all of them leaves what it printed.
const FOUND: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/controls/SEARCH.md");

/// From the kept seed on: so many are tried.
const TRIES: u64 = 6;

/// Virtual seconds of storm of a control at most: two runs of it, without the bug and with it, take a few seconds.
const SECONDS_MAX: u64 = 30;

/// Wall time of one run at most. What turns for ever within one step is seen by no budget of steps; the longest that end take a few
/// seconds.
const RUN_MAX: Duration = Duration::from_secs(60);

/// What is asked of the controls.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Args {
    /// Only these
    pub only: Vec<String>,
    /// Instead of the kept seeds: from seed 1 on, at most so many
    #[arg(long, value_name = "RUNS", num_args = 0..=1, require_equals = true, default_missing_value = SEARCH)]
    pub search: Option<u64>,
    /// Without the bugs: from seed 1 on, so many, of which each must be clean
    #[arg(long, value_name = "RUNS", conflicts_with = "search")]
    pub clean: Option<u64>,
    /// At a time
    #[arg(long, default_value_t = 1)]
    pub jobs: usize,
    /// Scripts from here
    #[arg(long, default_value = FOLDER, hide = true)]
    pub folder: PathBuf,
}

/// One control, in this process.
#[derive(Clone, Debug, clap::Args)]
pub struct One {
    /// Which
    name: String,
    /// The first seed instead of the kept one
    #[arg(long)]
    seed: Option<u64>,
    /// At most so many
    #[arg(long, default_value_t = 1)]
    runs: u64,
    /// No bug is planted
    #[arg(long)]
    clean: bool,
    /// Where its script is
    #[arg(long, default_value = FOLDER)]
    folder: PathBuf,
    /// Write the last run's history here
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// Write the last run here as a script
    #[arg(long, value_name = "FILE")]
    keep: Option<PathBuf>,
}

/// What a control's process prints: before each run, and at last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Found {
    /// Which run begins; absent in the last word.
    run: Option<Run>,
    /// By which seed's history; absent when none showed it.
    seed: Option<u64>,
    /// Seeds that were run.
    runs: u64,
    /// What the history shows: a line per kind of anomaly.
    evidence: Vec<String>,
    /// What else went wrong, which alone proves nothing.
    beside: usize,
    /// What is wrong without the bug.
    wrong: Vec<String>,
    seconds: f64,
}

/// One run of a control.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Run {
    seed: u64,
    planted: bool,
}

impl Found {
    /// What a process found that ended like this behind its last word; killed, if it has no status.
    fn of(word: &str, status: Option<ExitStatus>) -> anyhow::Result<Self> {
        let found: Self = serde_json::from_str(word).with_context(|| match status {
            Some(status) => format!("ended with {status} and said {word:?}"),
            None => format!("was killed after {} s and said {word:?}", RUN_MAX.as_secs()),
        })?;
        match (found.run, status) {
            (None, _) => Ok(found),
            (Some(run), None) => Ok(found.without_end(run)),
            (Some(run), Some(status)) => anyhow::bail!("ended with {status} in the run of seed {}", run.seed),
        }
    }

    fn without_end(self, Run { seed, planted }: Run) -> Self {
        let why = format!("{LIVELOCK}: no end within the wall limit of {} s, killed", RUN_MAX.as_secs());
        let found = Self { run: None, seconds: self.seconds + RUN_MAX.as_secs_f64(), ..self };
        if planted {
            Self { seed: Some(seed), runs: found.runs + 1, evidence: vec![why], ..found }
        } else {
            Self { wrong: [found.wrong, vec![format!("seed {seed}: {why}")]].concat(), ..found }
        }
    }
}

/// Plants a bug in this process, for good.
///
/// # Errors
/// When there is none of this name.
pub fn plant(name: &str) -> anyhow::Result<()> {
    switch_on(find(name)?);
    Ok(())
}

#[cfg(not(feature = "sabotage"))]
fn switch_on(bug: Bug) {
    unreachable!("this build has no switch for {}", bug.name());
}

fn find(name: &str) -> anyhow::Result<Bug> {
    let names = || Bug::ALL.iter().map(|bug| bug.name()).collect::<Vec<_>>().join(", ");
    let bug = Bug::ALL.iter().find(|bug| bug.name() == name).copied();
    bug.with_context(|| format!("there is no bug {name}: there are {}", names()))
}

/// Runs one control in this process: its kept seed, without the bug and with it; or from a seed on until a history shows it
/// or `runs` are over. Prints what was found.
///
/// # Errors
/// When there is no such control, or this build cannot replay.
pub fn one(args: &One, mut say: impl FnMut(String)) -> anyhow::Result<bool> {
    optimised(cfg!(debug_assertions))?;
    let bug = find(&args.name)?;
    let script = read(&args.folder, bug)?;
    let first = args.seed.unwrap_or(script.seed);
    let begun = tokio::time::Instant::now();
    let mut found = Found::default();
    let mut last = None;
    let mut run = |found: &mut Found, seed, planted| {
        let seconds = begun.elapsed().as_secs_f64();
        say(serde_json::to_string(&Found { run: Some(Run { seed, planted }), seconds, ..found.clone() })?);
        let outcome = sim::run(&Options { seed, ..script.options() }).map_err(anyhow::Error::msg)?;
        found.runs += 1;
        anyhow::Ok(outcome)
    };
    if args.clean || args.seed.is_none() {
        let runs = if args.clean { args.runs } else { 1 };
        for seed in first..first + runs {
            let outcome = run(&mut found, seed, false)?;
            if !outcome.is_good() {
                let lines = outcome.verdict.lines().chain(outcome.stuck.clone()).chain(outcome.failures.clone());
                found.wrong.extend(lines.map(|line| format!("seed {seed}: {line}")));
            }
            last = Some(outcome);
        }
    }
    if !args.clean {
        switch_on(bug);
        found.runs = 0;
        for seed in first..first + args.runs {
            let outcome = run(&mut found, seed, true)?;
            found.beside += outcome.failures.len();
            found.evidence = outcome.evidence();
            tracing::info!(seed, stuck = outcome.stuck, failures = ?outcome.failures, "ran");
            let seed = (!found.evidence.is_empty()).then_some(seed);
            last = Some(outcome);
            if seed.is_some() {
                found.seed = seed;
                break;
            }
        }
    }
    found.seconds = begun.elapsed().as_secs_f64();
    say(serde_json::to_string(&found)?);
    if let (Some(path), Some(outcome)) = (&args.history, &last) {
        outcome.history.write(&mut std::io::BufWriter::new(std::fs::File::create(path)?))?;
    }
    if let (Some(path), Some(outcome)) = (&args.keep, &last) {
        let seed = found.seed.unwrap_or(first + args.runs - 1);
        std::fs::write(path, Script::of(&Options { seed, ..script.options() }, outcome).to_text()?)?;
    }
    Ok(found.wrong.is_empty() && (args.clean || found.seed.is_some()))
}

/// A planted bug that an assertion stops shows in no history.
fn optimised(debug_assertions: bool) -> anyhow::Result<()> {
    anyhow::ensure!(
        !debug_assertions,
        "this build has debug assertions, which stop planted bugs before a history shows them: run without debug \
         assertions (cargo run --release -p highwater-chaos --features sabotage -- controls)"
    );
    Ok(())
}

fn read(folder: &Path, bug: Bug) -> anyhow::Result<Script> {
    let path = folder.join(format!("{}.json", bug.name()));
    let script = Script::read(&path).with_context(|| format!("{}", path.display()))?;
    anyhow::ensure!(script.seconds <= SECONDS_MAX, "{}: a control has {SECONDS_MAX} virtual s at most", path.display());
    Ok(script)
}

/// Runs all of them, or those named, each in a process of its own. Gives whether each was caught, and was clean without its
/// bug.
///
/// # Errors
/// When a process cannot be started or prints no result.
pub fn all(args: &Args, mut say: impl FnMut(String)) -> anyhow::Result<bool> {
    optimised(cfg!(debug_assertions))?;
    let mut said = Vec::new();
    let mut say = |line: String| {
        said.push(line.clone());
        say(line);
    };
    let begun = tokio::time::Instant::now();
    args.only.iter().try_for_each(|name| find(name).map(drop))?;
    let named = |bug: &&Bug| args.only.is_empty() || args.only.iter().any(|name| name == bug.name());
    let chosen: Vec<Bug> = Bug::ALL.iter().filter(named).copied().collect();
    let program = std::env::current_exe()?;
    let start = |bug: Bug| {
        let mut command = Command::new(&program);
        command.args(["control", bug.name(), "--folder"]).arg(&args.folder);
        match args.search.or(args.clean) {
            Some(runs) => command.args(["--seed", "1", "--runs", &runs.to_string()]),
            None => command.args(["--runs", &TRIES.to_string()]),
        };
        if args.clean.is_some() {
            command.arg("--clean");
        }
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn()
    };
    let kept = args.search.is_none() && args.clean.is_none();
    let (mut caught, mut good, mut others, mut longest) = (Vec::new(), 0, 0, 0.0_f64);
    for some in chosen.chunks(args.jobs.max(1)) {
        let running = some.iter().map(|bug| start(*bug)).collect::<Result<Vec<_>, _>>()?;
        let ended: Vec<_> = std::thread::scope(|scope| {
            let watched: Vec<_> = running.into_iter().map(|child| scope.spawn(|| last_word(child, RUN_MAX))).collect();
            watched.into_iter().map(|watch| watch.join().expect("a watch does not panic")).collect()
        });
        for (bug, ended) in some.iter().zip(ended) {
            let (word, status) = ended?;
            let found = Found::of(&word, status).with_context(|| bug.name())?;
            say(line(*bug, &found, args.clean.is_some()));
            if let Some(seed) = found.seed.filter(|_| kept && found.runs > 1) {
                say(format!("  THE KEPT SEED {} DOES NOT SHOW IT: keep seed {seed} instead", seed + 1 - found.runs));
                others += 1;
            }
            longest = longest.max(found.seconds);
            found.wrong.iter().for_each(|wrong| say(format!("  without the bug, {wrong}")));
            caught.extend(found.seed.map(|_| found.runs));
            good += usize::from(found.wrong.is_empty() && (args.clean.is_some() || found.seed.is_some()));
        }
    }
    caught.sort_unstable();
    let median = caught.get(caught.len() / 2).copied().unwrap_or(0);
    let (of, seconds) = (chosen.len(), begun.elapsed().as_secs());
    say(match args.clean {
        Some(runs) => format!("{good}/{of} clean without their bug over {runs} seeds; {seconds} s"),
        None if kept => format!(
            "{}/{of} caught, {others} of them not on their kept seeds; {seconds} s, {longest:.1} s the longest",
            caught.len()
        ),
        None => format!("{}/{of} caught; median seeds to catch {median}; {seconds} s", caught.len()),
    });
    if let Some(runs) = args.search.filter(|_| args.only.is_empty()) {
        let code = Checkout::any()?.to_string();
        std::fs::write(FOUND, report(runs, &code, &said))
            .with_context(|| format!("what was found does not go into {FOUND}"))?;
    }
    Ok(good == of)
}

/// The last line that a process says, and how it ended. One that says nothing for so long is killed.
fn last_word(mut child: Child, silence: Duration) -> io::Result<(String, Option<ExitStatus>)> {
    let (said, lines) = mpsc::channel();
    let stdout = child.stdout.take().map(BufReader::new);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let all = stdout.into_iter().flat_map(|stdout| stdout.lines().map_while(Result::ok));
            all.map(|line| said.send(line)).take_while(Result::is_ok).for_each(drop);
        });
        let mut word = String::new();
        loop {
            match lines.recv_timeout(silence) {
                Ok(line) => word = line,
                Err(RecvTimeoutError::Disconnected) => return Ok((word, Some(child.wait()?))),
                Err(RecvTimeoutError::Timeout) => {
                    // This closes the pipe: the reader ends too.
                    child.kill()?;
                    child.wait()?;
                    return Ok((word, None));
                }
            }
        }
    })
}

/// What a search printed, as a file.
fn report(runs: u64, code: &str, said: &[String]) -> String {
    format!(
        "# What a search found\n\nWritten by `highwater-chaos controls --search={runs}` at {code}: each planted bug from seed 1 \
         on, {runs} seeds at most.\nA control without a search takes its kept seed first.\n\n```text\n{}\n```\n",
        said.join("\n")
    )
}

fn line(bug: Bug, found: &Found, clean: bool) -> String {
    let Found { seed, runs, evidence, beside, wrong, seconds, .. } = found;
    match seed {
        Some(seed) => {
            let first = evidence.first().map_or("", String::as_str);
            let (name, kinds) = (bug.name(), evidence.len());
            format!("caught  {name:22} seed {seed:3}, run {runs:3}, {seconds:4.1} s, {kinds} kinds: {first}")
        }
        None if clean => {
            let word = if wrong.is_empty() { "clean" } else { "WRONG" };
            format!("{word}   {:22} {runs} seeds without the bug, {seconds:.1} s", bug.name())
        }
        None => format!("MISSED  {:22} in {runs} runs, {seconds:.1} s ({beside} panics beside)", bug.name()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bug_has_a_script_and_every_script_a_bug() {
        let files = std::fs::read_dir(FOLDER).unwrap().map(|file| file.unwrap().path());
        let mut files = files.filter(|path| path.extension().is_some_and(|kind| kind == "json")).count();
        for bug in Bug::ALL {
            let script = read(Path::new(FOLDER), *bug).unwrap();
            assert!(!script.about.is_empty(), "{} says nothing", bug.name());
            files -= 1;
        }
        assert_eq!(files, 0, "a script without a bug");
    }

    #[test]
    fn a_build_with_debug_assertions_is_refused_and_told_how_to_run() {
        let refused = optimised(true).unwrap_err().to_string();
        assert!(refused.contains("run without debug assertions (cargo run --release"), "{refused}");
        optimised(false).unwrap();
        if cfg!(debug_assertions) {
            all(&Args::default(), |line| panic!("{line}")).unwrap_err();
        }
    }

    fn process(script: &str) -> Child {
        Command::new("sh").args(["-c", script]).stdout(std::process::Stdio::piped()).spawn().unwrap()
    }

    #[test]
    fn a_process_without_a_word_is_killed() {
        let (word, status) = last_word(process("exec sleep 100000"), Duration::from_millis(50)).unwrap();
        assert_eq!((&word[..], status), ("", None));
        let (word, status) = last_word(process("echo one; echo two; exit 3"), RUN_MAX).unwrap();
        assert_eq!((&word[..], status.unwrap().code()), ("two", Some(3)));
    }

    #[test]
    fn a_run_without_an_end_is_a_livelock_of_what_was_planted() {
        let ended = process("exit 0").wait().unwrap();
        let found = Found { runs: 2, seconds: 1.5, ..Found::default() };
        let word = |found: &Found| serde_json::to_string(found).unwrap();
        let begun = |planted| word(&Found { run: Some(Run { seed: 7, planted }), ..found.clone() });
        let why = "livelock: no end within the wall limit of 60 s, killed";
        let planted = Found::of(&begun(true), None).unwrap();
        let caught = Found { seed: Some(7), runs: 3, evidence: vec![why.into()], seconds: 61.5, ..Found::default() };
        assert_eq!(planted, caught);
        let told = line(Bug::RecycledEarly, &planted, false);
        assert!(told.starts_with("caught ") && told.ends_with(why), "{told}");
        let clean = Found::of(&begun(false), None).unwrap();
        let wrong = vec![format!("seed 7: {why}")];
        assert_eq!(clean, Found { wrong, runs: 2, seconds: 61.5, ..Found::default() }, "not caught");
        assert_eq!(Found::of(&word(&found), None).unwrap(), found, "all is said: it only does not go");
        Found::of(&begun(true), Some(ended)).unwrap_err();
        Found::of("", None).unwrap_err();
    }

    #[test]
    fn a_search_leaves_what_it_printed() {
        let text = report(7, "commit 12ab", &["caught  one".into(), "1/1 caught; median seeds to catch 3; 9 s".into()]);
        assert!(text.contains("--search=7`") && text.contains("```text\ncaught  one\n1/1 caught"), "{text}");
    }
}
