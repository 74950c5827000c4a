//! Kept runs: a seed with the faults that it drew, written out, so that a change of the storm does not lose what was found.

use super::{Course, Options, Outcome, Step, Storm, run};
use serde::{Deserialize, Serialize};
use std::{path::Path, rc::Rc, sync::Arc};

/// A run as a file: one JSON object.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Script {
    /// What it showed when it was kept.
    pub about: String,
    /// The seed of everything but the faults.
    pub seed: u64,
    /// Seeds whose ordinary storms showed it: they are run again too. What they no longer reach, the script stands in for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub found_by: Vec<u64>,
    /// Nodes.
    pub nodes: u32,
    /// Virtual seconds of storm.
    pub seconds: u64,
    /// Records older than this go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_ms: Option<u64>,
    /// QUIC and TLS over simulated UDP.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub full: bool,
    /// What kind of storm; the ordinary one, if absent.
    #[serde(default, skip_serializing_if = "Storm::is_ordinary")]
    pub storm: Storm,
    /// Interesting states that it is kept for, and kinds of faults that did something: a run without one of them shows nothing,
    /// and fails. A run that is kept names all that it reached: those that it is not about are to be taken out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reaches: Vec<String>,
    /// The faults, one after the other; those that the storm draws, if there are none.
    #[serde(default)]
    pub faults: Vec<Step>,
}

impl Script {
    /// Reads a file.
    pub fn read(path: &Path) -> anyhow::Result<Script> {
        Ok(serde_json::from_slice(&std::fs::read(path)?)?)
    }

    /// A run, to be kept.
    pub fn of(options: &Options, outcome: &Outcome) -> Script {
        Script {
            about: outcome.verdict.lines().next().unwrap_or_default(),
            seed: options.seed,
            found_by: Vec::new(),
            nodes: options.nodes,
            seconds: options.seconds,
            retention_ms: options.retention_ms,
            full: options.full,
            storm: Storm::clone(&options.storm),
            reaches: outcome.sums.reached.keys().chain(outcome.sums.made.keys()).cloned().collect(),
            faults: outcome.faults.clone(),
        }
    }

    /// As a file: one fault per line.
    ///
    /// # Errors
    /// None that a script can cause.
    pub fn to_text(&self) -> serde_json::Result<String> {
        let head = serde_json::to_string_pretty(&Script { faults: Vec::new(), ..self.clone() })?;
        let faults = self.faults.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
        let head = head.trim_end().trim_end_matches('}').trim_end().trim_end_matches("[]");
        Ok(format!("{head}[\n    {}\n  ]\n}}\n", faults.join(",\n    ")))
    }

    /// Runs it, and the seeds that found it with the storms that they draw today, and tells.
    ///
    /// # Errors
    /// When this build cannot replay.
    pub fn replay(&self, mut say: impl FnMut(String)) -> anyhow::Result<bool> {
        let again = |options: &Options| run(options).map_err(anyhow::Error::msg);
        let mut good = self.judge(&again(&self.options())?, &mut say);
        for seed in &self.found_by {
            good &= self.judge_seed(*seed, &again(&Options::new(*seed))?, &mut say);
        }
        Ok(good)
    }

    /// Tells what came of it. A state that it is kept for and reaches no more is a failure.
    fn judge(&self, outcome: &Outcome, say: &mut impl FnMut(String)) -> bool {
        let missed = self.missed(outcome);
        missed.iter().for_each(|what| say(format!("  ERROR: no longer reached: {what}")));
        let good = outcome.is_good() && missed.is_empty();
        say(format!("  {} hash {:016x}", if good { "ok" } else { "WRONG" }, outcome.history.hash()));
        tell_wrong(outcome, say);
        good
    }

    /// The same of a seed that found it: what that no longer reaches is told.
    fn judge_seed(&self, seed: u64, outcome: &Outcome, say: &mut impl FnMut(String)) -> bool {
        let missed = self.missed(outcome);
        say(match (outcome.is_good(), &missed[..]) {
            (false, _) => format!("  seed {seed} WRONG"),
            (true, []) => format!("  seed {seed} ok"),
            (true, missed) => {
                format!("  seed {seed} ok, and no longer reaches {missed:?}: the script stands in for it")
            }
        });
        tell_wrong(outcome, say);
        outcome.is_good()
    }

    fn missed(&self, outcome: &Outcome) -> Vec<&str> {
        self.reaches.iter().map(String::as_str).filter(|what| outcome.sums.times(what) == 0).collect()
    }

    /// What it runs.
    pub fn options(&self) -> Options {
        Options {
            nodes: self.nodes,
            seconds: self.seconds,
            retention_ms: self.retention_ms,
            full: self.full,
            storm: Arc::new(self.storm.clone()),
            script: (!self.faults.is_empty()).then(|| Rc::new(self.faults.clone())),
            // What the storm may draw stands in the file: a script under another seed has the same deck.
            course: Course::Deck,
            ..Options::new(self.seed)
        }
    }
}

fn tell_wrong(outcome: &Outcome, say: &mut impl FnMut(String)) {
    outcome.stuck.iter().chain(&outcome.failures).for_each(|why| say(format!("  {why}")));
    outcome.verdict.lines().for_each(|line| say(format!("  {line}")));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_scripts_read_and_are_written_as_they_are_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
        let mut count = 0;
        // Controls are scripts too.
        let folders = [folder.join("../controls"), folder];
        let kept = folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten();
        for path in
            kept.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|kind| kind == "json"))
        {
            let script = Script::read(&path).unwrap();
            let again: Script = serde_json::from_str(&script.to_text().unwrap()).unwrap();
            assert_eq!((&again.about, &again.faults, &again.storm), (&script.about, &script.faults, &script.storm));
            assert!(!script.about.is_empty());
            count += 1;
        }
        assert!(count > 0);
    }

    fn script(reaches: &[&str]) -> Script {
        let text = r#"{"about": "a node loses power", "seed": 1, "nodes": 3, "seconds": 1,
            "faults": [{"pause_ms": 200, "do": "crash", "node": 1, "down_ms": 20}]}"#;
        let reaches = reaches.iter().map(|what| (*what).to_owned()).collect();
        Script { reaches, ..serde_json::from_str(text).unwrap() }
    }

    #[test]
    fn a_script_that_misses_what_it_is_kept_for_fails_and_a_seed_that_does_is_told() {
        let mut lines = Vec::new();
        assert!(script(&["crash"]).replay(|line| lines.push(line)).unwrap(), "{lines:?}");
        assert!(lines.len() == 1 && lines[0].starts_with("  ok hash "), "{lines:?}");

        lines.clear();
        let misses = script(&["crash", "wipe"]);
        assert!(!misses.replay(|line| lines.push(line)).unwrap());
        assert_eq!(lines[0], "  ERROR: no longer reached: wipe");
        assert!(lines.len() == 2 && lines[1].starts_with("  WRONG hash "), "{lines:?}");

        let mut outcome = run(&misses.options()).unwrap();
        lines.clear();
        assert!(misses.judge_seed(7, &outcome, &mut |line| lines.push(line)));
        assert_eq!(lines, ["  seed 7 ok, and no longer reaches [\"wipe\"]: the script stands in for it"]);
        outcome.stuck = Some("waited 90 virtual s".into());
        lines.clear();
        assert!(!misses.judge_seed(7, &outcome, &mut |line| lines.push(line)));
        assert_eq!(lines, ["  seed 7 WRONG", "  waited 90 virtual s"]);
    }
}
