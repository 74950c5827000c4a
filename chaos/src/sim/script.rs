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
    /// The seed whose ordinary storm showed it first: it is run again too. What it no longer reaches, the script stands in for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found_by: Option<u64>,
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
            found_by: None,
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

    /// Runs it and tells. A state that it is kept for and reaches no more is a failure.
    ///
    /// # Errors
    /// When this build cannot replay.
    pub fn replay(&self, mut say: impl FnMut(String)) -> anyhow::Result<bool> {
        let outcome = run(&self.options()).map_err(anyhow::Error::msg)?;
        let missed = self.missed(&outcome);
        missed.iter().for_each(|what| say(format!("  ERROR: no longer reached: {what}")));
        let found = self.found_by.map_or(Ok(true), |seed| self.run_seed(seed, &mut say))?;
        let good = outcome.is_good() && missed.is_empty() && found;
        say(format!("  {} hash {:016x}", if good { "ok" } else { "WRONG" }, outcome.history.hash()));
        outcome.stuck.iter().chain(&outcome.failures).for_each(|why| say(format!("  {why}")));
        outcome.verdict.lines().for_each(|line| say(format!("  {line}")));
        Ok(good)
    }

    /// Runs the seed that showed it first, with the storm that it draws today. Gives whether that is clean.
    fn run_seed(&self, seed: u64, say: &mut impl FnMut(String)) -> anyhow::Result<bool> {
        let outcome = run(&Options::new(seed)).map_err(anyhow::Error::msg)?;
        let missed = self.missed(&outcome);
        say(match (outcome.is_good(), &missed[..]) {
            (false, _) => format!("  seed {seed} WRONG"),
            (true, []) => format!("  seed {seed} ok"),
            (true, missed) => {
                format!("  seed {seed} ok, and no longer reaches {missed:?}: the script stands in for it")
            }
        });
        outcome.stuck.iter().chain(&outcome.failures).for_each(|why| say(format!("  {why}")));
        outcome.verdict.lines().for_each(|line| say(format!("  {line}")));
        Ok(outcome.is_good())
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
}
