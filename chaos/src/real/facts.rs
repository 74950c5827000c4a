//! Facts of real nodes: a file per life of a node, and how they come into the history of the run.
//!
//! - Times of all files, and of clients' events, are those of one clock ([`machine_us`](crate::observe::machine_us)).
//! - A life that SIGKILL ended may lack the end of its last line; anything else that is no fact is an error.
//! - Files are read when all nodes have ended: facts that one node has not written yet would make another's look wrong.

use crate::history::{Event, Fact, History, What};
use anyhow::{Context as _, ensure};
use serde::Deserialize;
use std::{
    cell::RefCell,
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader, ErrorKind},
    path::{Path, PathBuf},
};

/// Where the nodes of one run write.
pub(super) struct Facts {
    folder: PathBuf,
    /// Whose each life is.
    lives: RefCell<Vec<u32>>,
}

/// One line.
#[derive(Deserialize)]
struct Said {
    at: u64,
    #[serde(flatten)]
    fact: Fact,
}

impl Facts {
    /// Those of an earlier run are gone: they are of other data, or of before the machine started.
    pub(super) fn make(folder: &Path) -> anyhow::Result<Self> {
        let folder = folder.join("facts");
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error)?,
            _ => fs::create_dir(&folder)?,
        }
        Ok(Self { folder, lives: RefCell::default() })
    }

    /// Where the life of a node writes that begins now.
    pub(super) fn born(&self, node: u32) -> PathBuf {
        let mut lives = self.lives.borrow_mut();
        lives.push(node);
        self.at(lives.len() - 1, node)
    }

    fn at(&self, life: usize, node: u32) -> PathBuf {
        self.folder.join(format!("life-{life}-of-node-{node}.jsonl"))
    }

    /// Puts what the nodes said into the history of what clients saw, in the order of time; gives how many facts they are.
    /// `begun` is when times of the history begin; what was before is at 0.
    ///
    /// # Errors
    /// When a file is not what a node writes, or a node said nothing; the history is as it was.
    pub(super) fn merge_into(&self, history: &mut History, begun: u64) -> anyhow::Result<u64> {
        let lives = self.lives.borrow();
        let mut facts = Vec::new();
        let mut silent: BTreeSet<u32> = lives.iter().copied().collect();
        for (life, node) in lives.iter().enumerate() {
            let before = facts.len();
            read(&self.at(life, *node), life as u64, *node, &mut facts)?;
            if facts.len() > before {
                silent.remove(node);
            }
        }
        ensure!(silent.is_empty(), "nodes {silent:?} said nothing of themselves");
        let count = facts.len() as u64;
        // Sorted files one behind the other, which is what a stable sort is good at: facts before the run keep their order too.
        facts.sort_by_key(|event| event.at);
        facts.iter_mut().for_each(|event| event.at = event.at.saturating_sub(begun));
        history.events.append(&mut facts);
        history.events.sort_by_key(|event| event.at);
        history.events.insert(0, Event { at: 0, process: 0, what: What::RealTime });
        Ok(count)
    }
}

fn read(path: &Path, life: u64, node: u32, events: &mut Vec<Event>) -> anyhow::Result<()> {
    let file = match fs::File::open(path) {
        // It ended before it came to that.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        opened => opened.with_context(|| format!("could not open {}", path.display()))?,
    };
    let (mut file, mut line) = (BufReader::new(file), Vec::new());
    for number in 1.. {
        line.clear();
        file.read_until(b'\n', &mut line)?;
        if line.last() != Some(&b'\n') {
            break;
        }
        let said: Said =
            serde_json::from_slice(&line).with_context(|| format!("{}, line {number} is no fact", path.display()))?;
        events.push(Event { at: said.at, process: node, what: What::Saw { life, fact: said.fact } });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker;

    const LED: &str = "{\"at\":1005,\"fact\":\"leads\",\"group\":7,\"replica\":2,\"term\":3}\n";

    /// Lives of nodes 1, 2 and again 1, with what each wrote.
    fn run(lives: [&str; 3]) -> (tempfile::TempDir, Facts) {
        let dir = tempfile::tempdir().unwrap();
        let facts = Facts::make(dir.path()).unwrap();
        for (node, text) in [1, 2, 1].into_iter().zip(lives) {
            fs::write(facts.born(node), text).unwrap();
        }
        (dir, facts)
    }

    fn boundary(at: u64, replica: u64, digest: u64) -> String {
        format!(
            "{{\"at\":{at},\"fact\":\"boundary\",\"group\":7,\"replica\":{replica},\"index\":90,\"digest\":{digest}}}\n"
        )
    }

    fn merged(facts: &Facts) -> anyhow::Result<(History, u64)> {
        let mut history = History::default();
        history.push(0, 1, What::Send { partition: 0, value: 1 });
        history.push(6, 1, What::SendInfo { partition: 0, value: 1 });
        let count = facts.merge_into(&mut history, 1_000)?;
        Ok((history, count))
    }

    #[test]
    fn facts_stand_between_what_clients_saw() {
        let killed = format!("{}{{\"at\":1009,\"fact\":\"lea", boundary(1_008, 3, 5));
        let (_dir, facts) = run([&boundary(900, 1, 5), LED, &killed]);
        let (history, count) = merged(&facts).unwrap();
        let told: Vec<_> = history.events.iter().map(|event| (event.at, event.process)).collect();
        assert_eq!((told, count), (vec![(0, 0), (0, 1), (0, 1), (5, 2), (6, 1), (8, 1)], 3));
        let lives = history.events.iter().filter_map(|event| match event.what {
            What::Saw { life, .. } => Some(life),
            _ => None,
        });
        assert_eq!(lives.collect::<Vec<_>>(), [0, 1, 2]);
        assert!(checker::check(&history).is_clean());
    }

    #[test]
    fn a_lie_of_a_node_is_found() {
        let (_dir, facts) = run([&boundary(1_001, 1, 5), &boundary(1_002, 2, 6), ""]);
        let verdict = checker::check(&merged(&facts).unwrap().0);
        assert_eq!(verdict.count("checkpoints differ"), 1, "{verdict:?}");
    }

    #[test]
    fn only_the_end_of_a_life_may_be_torn() {
        let torn = format!("{{\"at\":1009,\"fact\":\"lea\n{LED}");
        let (_dir, facts) = run([LED, LED, &torn]);
        assert!(format!("{:#}", merged(&facts).unwrap_err()).contains("line 1 is no fact"));
    }

    #[test]
    fn a_node_that_says_nothing_is_told() {
        let (_dir, facts) = run([LED, "", LED]);
        assert_eq!(merged(&facts).unwrap_err().to_string(), "nodes {2} said nothing of themselves");
        fs::remove_file(facts.at(2, 1)).unwrap();
        fs::write(facts.at(1, 2), LED).unwrap();
        assert_eq!(merged(&facts).unwrap().1, 2, "a life may end before it has a file");
    }
}
