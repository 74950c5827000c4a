//! `chaos/LEDGER.md`: what was run, added up. Three tables, and a line of totals that is computed from them.
//!
//! A row is written by the command that ran, from a clean checkout, by a program that is not older than its sources; nobody
//! writes one by hand, and a test reads the file and writes it to the same bytes. Rows are never changed: a column that came
//! later is `-` in rows that are older.

use crate::{
    real::{Report, Scenario},
    soak::{Seeds, Tally},
};
use anyhow::{Context as _, ensure};
use highwater_raft::observe::digest;
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

/// The file, in the checkout that this program was built from.
pub const FILE: &str = "chaos/LEDGER.md";

/// In the column of storms: brief ones, each close behind the loss of a disk.
const BRIEF: &str = "brief";

const HEAD: &str = "\
Written by `highwater-chaos soak`, `run --ledger` and `ledger fuzz`, each from a clean checkout; see `chaos/src/ledger.rs`.

- *code* names what was run: the files of `src`, `raft`, `chaos/src` (but for texts; for simulations also but for `chaos/src/real`) and the
  dependencies. Commits that change nothing of it have the same.
- *hash* of a simulation has two parts: of the histories of the first eight seeds, and of all. The same seed has the same history in every
  process and on every machine, in debug and in release builds.
- *storm*: long ones, each drawn from a deck, or `brief`: a disk is lost, then one to three faults come close behind (`sim --brief`).
- *command* is what was typed, without folders and ports. *hash* of a run on real nodes, which no second run repeats, is of its scenario and of its
  whole verdict (`run --json`); of fuzzing it is libFuzzer's seed, and a hash over the committed inputs.
- CI takes a row at random, one of its own code if there is any, and runs its first eight seeds again (`highwater-chaos ledger check`), and all
  *wrong seeds* of all rows. They must be clean: what is not counts as open. Where *code* is that of the checkout, the hash must be the row's
  too; other code may take another course from the same seed.
- *violations* are seeds whose history the checker refuses, that got stuck, or in which something panicked (older rows may also count seeds
  whose storm was too mild); real runs that are not good. A row with violations stays; what was found is named in the commit that mends it.
";

/// One of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Simulation,
    Real,
    Fuzzing,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Simulation, Self::Real, Self::Fuzzing];

    fn title(self) -> &'static str {
        match self {
            Self::Simulation => "Simulation",
            Self::Real => "Real nodes",
            Self::Fuzzing => "Fuzzing",
        }
    }

    /// Columns; those behind `|` are added up.
    fn columns(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            Self::Simulation => (
                &[
                    "date",
                    "commit",
                    "code",
                    "command",
                    "storm",
                    "first seed",
                    "seconds",
                    "full every",
                    "hash",
                    "wrong seeds",
                ],
                &[
                    "seeds",
                    "hours of frames",
                    "hours of QUIC",
                    "crashes",
                    "unsynced bytes lost",
                    "partitions",
                    "blackouts",
                    "violations",
                ],
            ),
            Self::Real => (
                &["date", "commit", "code", "scenario", "command", "hash", "not applied", "longest write gap, s"],
                &[
                    "minutes",
                    "kills of leaders",
                    "kills of all",
                    "power losses",
                    "power losses of all",
                    "other faults",
                    "acked",
                    "lost",
                    "duplicated",
                    "reordered",
                    "violations",
                ],
            ),
            Self::Fuzzing => (
                &["date", "commit", "code", "target", "command", "hash", "edges", "inputs"],
                &["executions", "seconds"],
            ),
        }
    }

    fn all_columns(self) -> impl Iterator<Item = &'static str> {
        let (told, summed) = self.columns();
        told.iter().chain(summed).copied()
    }
}

type Row = BTreeMap<&'static str, String>;

/// The file's content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ledger {
    tables: BTreeMap<Kind, Vec<Row>>,
}

impl Ledger {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut ledger = Self::default();
        let (mut kind, mut columns) = (None, Vec::new());
        for line in text.lines() {
            if let Some(title) = line.strip_prefix("## ") {
                kind = Kind::ALL.into_iter().find(|kind| kind.title() == title);
            }
            let Some((kind, cells)) = kind.zip(cells(line)) else { continue };
            if cells[0] == "date" {
                let known = |name: &str| kind.all_columns().find(|column| *column == name);
                columns = cells
                    .iter()
                    .map(|name| known(name).with_context(|| format!("no column {name}")))
                    .collect::<Result<_, _>>()?;
                continue;
            }
            if cells.iter().all(|cell| cell.starts_with("--")) {
                continue;
            }
            ensure!(cells.len() == columns.len(), "not a row of {}: {line}", kind.title());
            let mut row: Row = kind.all_columns().map(|column| (column, "-".to_owned())).collect();
            row.extend(columns.iter().copied().zip(cells).map(|(column, cell)| (column, cell.to_owned())));
            ledger.tables.entry(kind).or_default().push(row);
        }
        Ok(ledger)
    }

    fn rows(&self, kind: Kind) -> &[Row] {
        self.tables.get(&kind).map_or(&[], Vec::as_slice)
    }

    fn sum(&self, kind: Kind, column: &str) -> f64 {
        self.rows(kind).iter().filter_map(|row| row.get(column)?.parse::<f64>().ok()).fold(0.0, |sum, next| sum + next)
    }

    fn totals(&self) -> String {
        let of = |kind: Kind| {
            let columns = kind.columns().1.iter();
            let sums = columns.map(|column| format!("{column} {}", number(self.sum(kind, column))));
            sums.collect::<Vec<_>>().join(" · ")
        };
        let mut targets: BTreeMap<&str, f64> = BTreeMap::new();
        for row in self.rows(Kind::Fuzzing) {
            let executions: f64 = row["executions"].parse().unwrap_or(0.0);
            *targets.entry(&row["target"]).or_default() += executions;
        }
        let least = targets.values().copied().reduce(f64::min).unwrap_or(0.0);
        format!(
            "**Simulated:** {}\n\n**Real nodes:** {}\n\n**Fuzzed:** {} targets, at least {} executions each · {}\n",
            of(Kind::Simulation),
            of(Kind::Real),
            targets.len(),
            number(least),
            of(Kind::Fuzzing),
        )
    }

    fn render(&self) -> String {
        let mut text = format!("# Ledger\n\n{}\n{HEAD}", self.totals());
        for kind in Kind::ALL {
            let columns: Vec<_> = kind.all_columns().collect();
            let _ = write!(
                text,
                "\n## {}\n\n| {} |\n|{}\n",
                kind.title(),
                columns.join(" | "),
                "--|".repeat(columns.len())
            );
            for row in self.rows(kind) {
                let cells: Vec<_> = columns.iter().map(|column| row[column].as_str()).collect();
                let _ = writeln!(text, "| {} |", cells.join(" | "));
            }
        }
        text
    }
}

/// `| a | b |`
fn cells(line: &str) -> Option<Vec<&str>> {
    let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    Some(inner.split('|').map(str::trim).collect())
}

/// `60043 60177`, or `-` for none.
fn list(seeds: &[u64]) -> String {
    let seeds: Vec<_> = seeds.iter().map(u64::to_string).collect();
    if seeds.is_empty() { "-".into() } else { seeds.join(" ") }
}

/// `12,500`, `3.25`.
fn number(value: f64) -> String {
    let rounded = format!("{value:.2}");
    let (whole, part) = rounded.split_once('.').unwrap_or((&rounded, ""));
    let mut text = String::new();
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    match part.trim_end_matches('0') {
        "" => text,
        part => format!("{text}.{part}"),
    }
}

/// A clean checkout, for rows about it.
#[derive(Clone, Debug)]
pub struct Checkout {
    root: PathBuf,
    commit: String,
    code: String,
    /// The same without what only real nodes need.
    simulated: String,
}

impl std::fmt::Display for Checkout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "commit {}, code {}", self.commit, self.code)
    }
}

impl Checkout {
    /// The one that this program was built from.
    ///
    /// # Errors
    /// When something in it is not committed, or the program is older than what it was built from.
    pub fn clean() -> anyhow::Result<Self> {
        let checkout = Self::any()?;
        checkout.ensure_clean(std::env::current_exe()?.metadata()?.modified()?)?;
        Ok(checkout)
    }

    /// All is committed, and nothing newer than the program that is run.
    fn ensure_clean(&self, program: SystemTime) -> anyhow::Result<()> {
        let changed = git(&self.root, &["status", "--porcelain", "--", ".", &format!(":!{FILE}")])?;
        ensure!(
            changed.is_empty(),
            "the ledger takes rows of a clean checkout only, and this is not committed:\n{changed}"
        );
        for file in git(&self.root, &["ls-files", "*.rs", "Cargo.lock"])?.lines() {
            let newer = self.root.join(file).metadata()?.modified()? > program;
            ensure!(!newer, "{file} is newer than this program: build it again");
        }
        Ok(())
    }

    /// The one that this program was built from, as it is; `git` may be unable to say which.
    pub(crate) fn any() -> anyhow::Result<Self> {
        Self::at(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?)
    }

    fn at(root: PathBuf) -> anyhow::Result<Self> {
        let commit = git(&root, &["rev-parse", "--short=10", "HEAD"]).unwrap_or_else(|_| "unknown".to_owned());
        let parts = ["src", "raft", "chaos/src", "Cargo.toml", "Cargo.lock", "chaos/Cargo.toml", ".cargo"];
        let hashed = |files: &str, but_for: &str| {
            // `mode type hash<tab>path`. What is said about the code does not change it.
            let is_part = |file: &&str| !file.ends_with(".md") && !file.contains(but_for);
            let files: String = files.lines().filter(is_part).collect();
            format!("{:016x}", digest([files.as_bytes()]))[..10].to_owned()
        };
        let listed = git(&root, &[&["ls-tree", "-r", "HEAD", "--"], &parts[..]].concat());
        let code_but_for = |path| listed.as_ref().map_or_else(|_| "unknown".to_owned(), |files| hashed(files, path));
        let (code, simulated) = (code_but_for("\t/"), code_but_for("\tchaos/src/real/"));
        Ok(Self { root, commit, code, simulated })
    }

    fn code_of(&self, kind: Kind) -> &str {
        if kind == Kind::Simulation { &self.simulated } else { &self.code }
    }

    fn ledger(&self) -> anyhow::Result<Ledger> {
        let path = self.root.join(FILE);
        match path.exists() {
            true => Ledger::parse(&std::fs::read_to_string(&path)?).with_context(|| format!("{FILE} cannot be read")),
            false => Ok(Ledger::default()),
        }
    }

    /// Adds a row; others may have added theirs meanwhile.
    fn add(&self, kind: Kind, cells: Vec<(&'static str, String)>) -> anyhow::Result<String> {
        let mut row: Row = cells.into_iter().collect();
        row.insert("date", today()?);
        row.insert("commit", self.commit.clone());
        row.insert("code", self.code_of(kind).to_owned());
        assert!(row.keys().copied().eq(kind.all_columns().collect::<std::collections::BTreeSet<_>>()), "{row:?}");
        let mut ledger = self.ledger()?;
        ledger.tables.entry(kind).or_default().push(row);
        std::fs::write(self.root.join(FILE), ledger.render())?;
        Ok(format!("{FILE} has another row\n{}", ledger.totals()))
    }

    /// A row about simulated seeds.
    pub fn add_soak(&self, seeds: &Seeds, tally: &Tally, first: u64) -> anyhow::Result<String> {
        let hours = |ms: u64| format!("{:.2}", ms as f64 / 3_600_000.0);
        let sums = &tally.sums;
        let cells = vec![
            ("command", seeds.command(tally.runs)),
            ("storm", if seeds.brief { BRIEF } else { "-" }.to_owned()),
            ("first seed", seeds.seed.to_string()),
            ("seconds", seeds.seconds().to_string()),
            ("full every", seeds.full_every.to_string()),
            ("hash", format!("{first:016x} {:016x}", tally.hash)),
            ("wrong seeds", list(&tally.wrong)),
            ("seeds", tally.runs.to_string()),
            ("hours of frames", hours(sums.frames_ms)),
            ("hours of QUIC", hours(sums.full_ms)),
            ("crashes", sums.crashes.to_string()),
            ("unsynced bytes lost", sums.bytes_lost.to_string()),
            ("partitions", sums.partitions.to_string()),
            ("blackouts", sums.blackouts.to_string()),
            ("violations", tally.wrong.len().to_string()),
        ];
        self.add(Kind::Simulation, cells)
    }

    /// A row about a scenario on real nodes.
    pub fn add_real(
        &self,
        scenario: &Scenario,
        (name, command): (&str, &str),
        report: &Report,
    ) -> anyhow::Result<String> {
        self.add(Kind::Real, real_cells(scenario, (name, command), report)?)
    }

    /// Rows as `chaos/fuzz/run` prints them: `| target | executions | edges | inputs | 12 s | command | hash |`.
    pub fn add_fuzz(&self, printed: &str) -> anyhow::Result<String> {
        let mut said = String::from("no row of chaos/fuzz/run in it");
        for cells in printed.lines().filter_map(cells) {
            let [target, executions, edges, inputs, seconds, command, hash] = cells[..] else { continue };
            let seconds = seconds.trim_end_matches('s').trim();
            if [executions, edges, inputs, seconds].iter().any(|cell| cell.parse::<u64>().is_err()) {
                continue;
            }
            let named = [("target", target), ("executions", executions), ("edges", edges), ("inputs", inputs)];
            let ran = [("seconds", seconds), ("command", command), ("hash", hash)];
            let cells = named.into_iter().chain(ran).map(|(name, cell)| (name, cell.to_owned()));
            said = self.add(Kind::Fuzzing, cells.collect())?;
        }
        Ok(said)
    }
}

fn real_cells(
    scenario: &Scenario,
    (name, command): (&str, &str),
    report: &Report,
) -> anyhow::Result<Vec<(&'static str, String)>> {
    let hashed = |json: String| format!("{:016x}", digest([json.as_bytes()]));
    let hash = [serde_json::to_string(scenario)?, serde_json::to_string(report)?].map(hashed).join(" ");
    let of = |kind: &str| report.faults.get(kind).copied().unwrap_or(0);
    let named = ["kill of a leader", "kill of all", "power loss", "power loss of all"].map(of);
    let others: u64 = report.faults.values().sum::<u64>() - named.iter().sum::<u64>();
    let without: Vec<_> = report.not_applied.iter().filter_map(|why| why.split(':').next()).collect();
    let [leaders, all, power, power_all] = named.map(|times| times.to_string());
    let minutes = (report.seconds / 0.6).round() / 100.0;
    Ok(vec![
        ("scenario", format!("{name}, {} nodes", scenario.nodes)),
        ("command", command.to_owned()),
        ("hash", hash),
        ("not applied", if without.is_empty() { "-".into() } else { without.join(", ") }),
        ("longest write gap, s", format!("{:.2}", std::time::Duration::from_millis(report.gap_max_ms).as_secs_f64())),
        ("minutes", format!("{minutes}")),
        ("kills of leaders", leaders),
        ("kills of all", all),
        ("power losses", power),
        ("power losses of all", power_all),
        ("other faults", others.to_string()),
        ("acked", report.acked.to_string()),
        ("lost", report.lost.to_string()),
        ("duplicated", report.duplicated.to_string()),
        ("reordered", report.reordered.to_string()),
        ("violations", u8::from(!report.is_good()).to_string()),
    ])
}

/// What is done with the ledger itself.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Deed {
    /// Add rows that `chaos/fuzz/run` printed
    Fuzz {
        /// Its output
        printed: PathBuf,
    },
    /// Add everything up again (behind a merge)
    Total,
    /// Run the first seeds of a row again, taken at random
    Check {
        /// Seeds at a time
        #[arg(long, default_value_t = 2)]
        jobs: u64,
    },
}

/// Does it.
///
/// # Errors
/// When the checkout or its ledger is not as it should be.
pub fn run(deed: &Deed, mut say: impl FnMut(String)) -> anyhow::Result<bool> {
    match deed {
        Deed::Fuzz { printed } => {
            say(Checkout::clean()?.add_fuzz(&std::fs::read_to_string(printed)?)?);
            Ok(true)
        }
        Deed::Total => {
            let checkout = Checkout::any()?;
            let ledger = checkout.ledger()?;
            std::fs::write(checkout.root.join(FILE), ledger.render())?;
            say(ledger.totals());
            Ok(true)
        }
        Deed::Check { jobs } => check(*jobs, say),
    }
}

fn check(jobs: u64, mut say: impl FnMut(String)) -> anyhow::Result<bool> {
    let checkout = Checkout::any()?;
    let ledger = checkout.ledger()?;
    let rows = ledger.rows(Kind::Simulation);
    if rows.is_empty() {
        say("the ledger has no seeds yet".into());
        return Ok(true);
    }
    let code = checkout.code_of(Kind::Simulation);
    let mut pool: Vec<_> = (0..rows.len()).filter(|place| rows[*place]["code"] == code).collect();
    let same = !pool.is_empty();
    if !same {
        say(format!("NO ROW IS OF THIS CODE ({code}): another's seeds must be clean all the same"));
        pool = (0..rows.len()).collect();
    }
    let drawn = highwater_raft::env::Env::real().random_u64() % pool.len() as u64;
    let place = pool[usize::try_from(drawn).unwrap_or(0)];
    let row = &rows[place];
    let seeds = seeds_of(row)?;
    let runs = row["seeds"].parse::<u64>()?.min(crate::soak::BLOCK);
    let (seed, commit) = (seeds.seed, &row["commit"]);
    say(format!("row {} of {}: seeds {seed} to {}, of {commit}", place + 1, rows.len(), seed + runs - 1));
    let tally = seeds.again(runs, jobs, &mut say)?;
    let equal = row["hash"].split(' ').next() == Some(&format!("{:016x}", tally.hash));
    say(match (same, equal) {
        (true, true) => "the same code, and the same histories".into(),
        (true, false) => {
            format!("THE SAME CODE, AND OTHER HISTORIES: hash {:016x}, the row has {}", tally.hash, row["hash"])
        }
        (false, _) => {
            format!("the code is another since ({} then, {code} now): clean is what counts", row["code"])
        }
    });
    let (mut known, mut open) = (0, tally.wrong);
    for row in rows {
        for seed in row["wrong seeds"].split(' ').filter_map(|seed| seed.parse::<u64>().ok()) {
            known += 1;
            open.extend(Seeds { seed, ..seeds_of(row)? }.again(1, jobs, &mut say)?.wrong);
        }
    }
    say(format!("{known} seeds were wrong once and are named; open: {}", list(&open)));
    Ok(open.is_empty() && (equal || !same))
}

/// What a row of simulated seeds ran.
fn seeds_of(row: &Row) -> anyhow::Result<Seeds> {
    let of = |column: &str| row[column].parse::<u64>().with_context(|| format!("{column} of {row:?}"));
    let (seed, seconds, full_every) = (of("first seed")?, Some(of("seconds")?), of("full every")?);
    Ok(Seeds { seed, seconds, brief: row["storm"] == BRIEF, full_every })
}

fn git(root: &Path, words: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("git").arg("-C").arg(root).args(words).output().context("could not run git")?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "git {}: {}", words.join(" "), error.trim());
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

/// `2026-11-22`, UTC.
fn today() -> anyhow::Result<String> {
    let output = Command::new("date").args(["-u", "+%F"]).output().context("could not run date")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kept_ledger_is_as_the_commands_write_it() {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("LEDGER.md")).unwrap();
        assert_eq!(Ledger::parse(&text).unwrap().render(), text, "run `highwater-chaos ledger total`");
    }

    fn row(kind: Kind, cells: &[(&'static str, &str)]) -> Row {
        let mut row: Row = kind.all_columns().map(|column| (column, "0".to_owned())).collect();
        row.extend(cells.iter().map(|(column, cell)| (*column, (*cell).to_owned())));
        row
    }

    #[test]
    fn rows_add_up_and_are_read_as_written() {
        let mut ledger = Ledger::default();
        let seeds =
            |seeds, hours| row(Kind::Simulation, &[("seeds", seeds), ("hours of frames", hours), ("hash", "aa bb")]);
        ledger.tables.insert(Kind::Simulation, vec![seeds("900", "12.25"), seeds("1100", "0.75")]);
        let fuzzed = |target, executions| row(Kind::Fuzzing, &[("target", target), ("executions", executions)]);
        let three = vec![fuzzed("entry", "600000"), fuzzed("entry", "500000"), fuzzed("config", "1000000")];
        ledger.tables.insert(Kind::Fuzzing, three);
        let text = ledger.render();
        assert!(text.contains("seeds 2,000 · hours of frames 13 · "), "{text}");
        assert!(text.contains("2 targets, at least 1,000,000 executions each · executions 2,100,000"), "{text}");
        assert_eq!(Ledger::parse(&text).unwrap(), ledger);
        assert!(Ledger::parse(&text.replace("| aa bb |", "|")).is_err(), "a row that lacks a cell");
    }

    #[test]
    fn a_run_that_ended_in_an_error_is_a_row_with_a_violation() {
        let failures = vec!["the cluster did not come back within 60 s".into()];
        let faults = [("kill of a leader", 2), ("pause", 3)].into();
        let report = Report { acked: 7, lost: 3, seconds: 75.3, faults, failures, ..Report::default() };
        let cells: Row =
            real_cells(&Scenario::default(), ("kills", "run kills.toml"), &report).unwrap().into_iter().collect();
        let other = Report { acked: 8, ..report };
        let again: Row = real_cells(&Scenario::default(), ("kills", "-"), &other).unwrap().into_iter().collect();
        let parts = [&cells, &again].map(|row| row["hash"].split_once(' ').unwrap());
        assert!(parts[0].0 == parts[1].0 && parts[0].1 != parts[1].1, "one scenario, two verdicts: {parts:?}");
        let told = ["minutes", "kills of leaders", "other faults", "acked", "lost", "violations"];
        assert_eq!(told.map(|column| &cells[column][..]), ["1.26", "2", "3", "7", "3", "1"]);
    }

    #[test]
    fn rows_older_than_a_column_stay() {
        let mut ledger = Ledger::default();
        let old = row(Kind::Fuzzing, &[("target", "entry"), ("command", "-"), ("hash", "-"), ("inputs", "7")]);
        ledger.tables.insert(Kind::Fuzzing, vec![old]);
        let text = ledger.render();
        let before = text.replace(" | command | hash |", " |").replace("| - | - |", "|");
        assert!(before != text);
        assert_eq!(Ledger::parse(&before).unwrap(), ledger);
        assert!(Ledger::parse(&text.replace("| command |", "| comand |")).is_err(), "a column that nobody knows");
    }

    fn commit_all(root: &Path) {
        super::git(root, &["add", "-A"]).unwrap();
        let who = ["-c", "user.name=x", "-c", "user.email=x", "-c", "core.hooksPath=/dev/null"];
        super::git(root, &[&who[..], &["commit", "-q", "-m", "x"]].concat()).unwrap();
    }

    #[test]
    fn what_only_real_nodes_need_is_no_part_of_the_code_of_a_simulation() {
        let dir = tempfile::tempdir().unwrap();
        super::git(dir.path(), &["init", "-q"]).unwrap();
        let mut codes = Vec::new();
        for file in ["chaos/src/sim/mod.rs", "chaos/src/real/mod.rs", "chaos/src/real/notes.md", "chaos/src/reality.rs"]
        {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "one").unwrap();
            commit_all(dir.path());
            let checkout = Checkout::at(dir.path().to_owned()).unwrap();
            codes.push([Kind::Simulation, Kind::Real].map(|kind| checkout.code_of(kind).to_owned()));
        }
        let changed: Vec<_> = codes.windows(2).map(|two| [0, 1].map(|kind| two[0][kind] != two[1][kind])).collect();
        assert_eq!(changed, [[false, true], [false, false], [true, true]]);
    }

    #[test]
    fn rows_are_of_what_is_committed_alone() {
        let dir = tempfile::tempdir().unwrap();
        let git = |words: &[&str]| super::git(dir.path(), words).unwrap();
        std::fs::create_dir(dir.path().join("chaos")).unwrap();
        std::fs::write(dir.path().join("code.rs"), "one").unwrap();
        std::fs::write(dir.path().join(FILE), Ledger::default().render()).unwrap();
        git(&["init", "-q"]);
        commit_all(dir.path());
        let checkout = Checkout::at(dir.path().to_owned()).unwrap();
        let built = dir.path().join("code.rs").metadata().unwrap().modified().unwrap();
        checkout.add_fuzz("| entry | 9 | 8 | 7 | 6 s | chaos/fuzz/run --runs 9 entry | 1 ab |").unwrap();
        assert!(checkout.ledger().unwrap().rows(Kind::Fuzzing)[0]["command"].ends_with("--runs 9 entry"));
        checkout.ensure_clean(built).unwrap();
        let refused = |built| checkout.ensure_clean(built).unwrap_err().to_string();
        assert_eq!(refused(SystemTime::UNIX_EPOCH), "code.rs is newer than this program: build it again");
        std::fs::write(dir.path().join("new.rs"), "not added").unwrap();
        assert!(refused(built).ends_with("not committed:\n?? new.rs"), "{}", refused(built));
        std::fs::remove_file(dir.path().join("new.rs")).unwrap();
        std::fs::write(dir.path().join("code.rs"), "two").unwrap();
        assert!(refused(built).ends_with("not committed:\n M code.rs"), "{}", refused(built));
    }

    #[test]
    fn numbers_are_told_to_people() {
        let told = [0.0, 999.0, 1_000.0, 1_234_567.5, 12.25, 0.004].map(number);
        assert_eq!(told, ["0", "999", "1,000", "1,234,567.5", "12.25", "0"]);
    }
}
