//! The rules of `src/ARCHITECTURE.md` that a compiler does not check, over the source tree as text.
//!
//! Comments, strings and test code are cut out first. A rule that finds something names file, line and what to do;
//! `the_rules_find_what_is_planted` shows that each of them can fail.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "tidy/source.rs"]
mod source;

use source::{Source, braced, is_word, line_of, root, root_sources, sources, variants};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
};

/// Modules of the root crate, lowest first, and which of the others each may use.
const LAYERS: &[(&str, &str)] = &[
    ("types", ""),
    ("advice", "types"),
    ("limits", "types"),
    ("batch metrics tls", "types advice limits"),
    // A cluster's name must fit into certificates.
    ("config", "types advice limits tls"),
    ("runtime", "types advice limits batch config metrics tls"),
    ("wire", "types advice limits batch tls"),
    ("replica", "types advice limits batch config metrics runtime"),
    ("controller partition group", "types advice limits batch config metrics runtime wire replica"),
    ("peer", "types advice limits batch config metrics runtime wire replica controller partition group"),
    ("auth quota", "types advice limits batch config metrics runtime wire replica controller partition group peer"),
    (
        "session",
        "types advice limits batch config metrics runtime wire replica controller partition group peer auth quota",
    ),
    // A gateway reaches the domain only through the session.
    ("gateway", "types advice limits batch config metrics tls runtime wire auth quota session"),
    (
        "node",
        "types advice limits batch config metrics tls runtime wire replica controller partition group peer auth quota \
         session gateway",
    ),
    ("client", "types advice limits batch tls wire"),
    // In-process clients dial the nodes that a program holds.
    ("embed", "types advice limits batch wire client node"),
    // The CA that a client of the command line believes comes from a file.
    ("cli console", "types advice limits batch tls client"),
];
/// Parts of the command line that start nodes or make their files.
const CLI_WITH_NODE: &[&str] = &["serve", "dev", "cert", "config"];
/// Who may use highwater-raft.
const USE_RAFT: &[&str] = &["advice", "replica", "controller", "partition", "group", "peer", "node", "testing"];
/// What every layer may take from it: the seams and the ids.
const RAFT_SEAMS: &[&str] = &["env", "observe", "sabotage", "NodeId", "GroupId", "ReplicaId", "BootId", "DirectoryId"];
/// What machines may take from it.
const RAFT_FOR_MACHINES: &[&str] = &["machine", "NodeId", "GroupId", "ReplicaId", "DirectoryId", "Payload"];
/// Modules whose machines are replicated: even the word `now` is wrong there.
const REPLICATED: &[&str] = &["controller", "partition", "group"];

/// Where public errors give advice. `cli` and `chaos` are in it although they use anyhow, and `testing` although it has none.
const GIVE_ADVICE: &[&str] = &["src", "raft/src", "chaos/src"];
/// Where errors of highwater-raft get theirs: the crate stands below the trait.
const ADVICE_FOR_RAFT: &str = "src/advice/raft.rs";
/// Whoever judges, and what is judged: neither knows the broker.
const JUDGES: &[&str] = &["chaos/src/checker", "chaos/src/history"];

const TOP_LEVEL: &[&str] =
    &["Cargo.toml", "Cargo.lock", "LICENSE", "README.md", "chaos", "config", "examples", "raft", "src", "tests"];
const LINES_MAX: usize = 800;

// ---- the rules

#[test]
fn modules_use_only_what_is_below_them() {
    report(root_sources().iter().flat_map(layer_violations).collect());
}

#[test]
fn raft_is_used_where_it_may_be() {
    report(root_sources().iter().flat_map(raft_violations).collect());
}

#[test]
fn openraft_stays_in_its_folder() {
    let all = ["src", "raft/src", "chaos/src"].into_iter().flat_map(sources);
    report(all.flat_map(|source| openraft_violations(&source)).collect());
}

#[test]
fn kafkas_codec_stays_in_its_gateway() {
    report(root_sources().iter().flat_map(kafka_violations).collect());
}

#[test]
fn machines_are_pure() {
    report(root_sources().iter().flat_map(machine_violations).collect());
}

#[test]
fn every_error_gives_advice() {
    let all: Vec<_> = GIVE_ADVICE.iter().flat_map(|folder| sources(folder)).collect();
    report(advice_violations(&all));
}

#[test]
fn every_error_is_in_the_snapshot() {
    let shown = fs::read_to_string(root().join("tests/advice.rs")).unwrap();
    let all: Vec<_> = GIVE_ADVICE.iter().flat_map(|folder| sources(folder)).collect();
    report(snapshot_violations(&all, &shown));
}

#[test]
fn no_test_is_switched_off() {
    let all = ["src", "raft", "chaos", "tests", "examples"].into_iter().flat_map(sources);
    report(all.flat_map(|source| ignore_violations(&source)).collect());
}

#[test]
fn checkers_and_histories_know_no_planted_bug() {
    let bugs = bug_names();
    assert!(bugs.len() > 15, "the planted bugs are found: {bugs:?}");
    report(judges().iter().flat_map(|source| bug_violations(source, &bugs)).collect());
}

#[test]
fn checkers_and_histories_know_no_broker() {
    report(judges().iter().flat_map(judge_violations).collect());
}

#[test]
fn files_are_short() {
    let all = ["src", "raft", "chaos", "tests", "examples"].into_iter().flat_map(sources);
    let long = all.filter_map(|source| {
        let lines = source.text.lines().count();
        (lines > LINES_MAX).then(|| format!("{}: {lines} lines, at most {LINES_MAX}; split it", source.path))
    });
    report(long.collect());
}

#[test]
fn the_top_level_is_the_fixed_list() {
    let ignored = fs::read_to_string(root().join(".gitignore")).unwrap_or_default();
    let ignored: BTreeSet<_> = ignored.lines().filter_map(|line| line.strip_prefix('/')).collect();
    let entries = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let strange = entries.filter(|name| {
        !name.starts_with('.') && !TOP_LEVEL.contains(&name.as_str()) && !ignored.contains(name.as_str())
    });
    report(strange.map(|name| format!("{name}: not one of {TOP_LEVEL:?}; move it into one of them")).collect());
}

#[test]
fn dependencies_say_what_for() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let mut found = dependency_violations(&manifest);
    for member in ["Cargo.toml", "raft/Cargo.toml", "chaos/Cargo.toml"] {
        if let Ok(text) = fs::read_to_string(root().join(member)) {
            found.extend(version_violations(member, &text));
        }
    }
    report(found);
}

#[test]
fn every_config_key_is_read() {
    let text = fs::read_to_string(root().join("src/config/mod.rs")).unwrap();
    report(unread("src/config/", "a config key", &fields(&text, None), &root_sources()));
}

#[test]
fn every_metric_is_fed() {
    let text = fs::read_to_string(root().join("src/metrics.rs")).unwrap();
    report(unread("src/metrics.rs", "a metric", &fields(&text, Some("Families")), &root_sources()));
}

#[test]
fn every_limit_is_kept() {
    let text = fs::read_to_string(root().join("src/limits.rs")).unwrap();
    let names = text.lines().filter_map(|line| line.strip_prefix("pub const ")?.split(':').next());
    let all: Vec<_> = ["src", "raft/src", "chaos/src"].into_iter().flat_map(sources).collect();
    let used = |name: &str| {
        let own =
            all.iter().filter(|source| source.path == "src/limits.rs").map(|source| source.lines_with(name).len());
        // Beside its own line, in a limit that follows from it.
        let own: usize = own.sum();
        own > 1 || all.iter().any(|s| s.path != "src/limits.rs" && !s.lines_with(name).is_empty())
    };
    report(names.filter(|name| !used(name)).map(|name| format!("src/limits.rs: nothing keeps to `{name}`")).collect());
}

/// Public fields of the structs of a file, or of one of them.
fn fields(text: &str, of: Option<&str>) -> Vec<String> {
    let mut inside = String::new();
    let mut found = vec![];
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("pub struct ") {
            inside = name.chars().take_while(|c| is_word(*c)).collect();
        }
        let field = line.strip_prefix("    pub ").and_then(|rest| rest.split_once(": "));
        if let Some((name, _)) = field
            && name.chars().all(is_word)
            && of.is_none_or(|of| inside == of)
        {
            found.push(name.to_owned());
        }
    }
    found
}

/// Fields that nothing reads, but for what checks them in `home`.
fn unread(home: &str, what: &str, fields: &[String], all: &[Source]) -> Vec<String> {
    let read = |field: &str| {
        let access = format!(".{field}");
        let is_read =
            |code: &str| code.match_indices(&access).any(|(at, _)| !code[at + access.len()..].starts_with(is_word));
        // A method beside the field reads it for others; checking or writing it is no use of it.
        let uses = |source: &&Source| !source.path.starts_with(home) || source.path.ends_with("/config/mod.rs");
        all.iter().filter(uses).any(|source| is_read(&source.code))
    };
    let unread = fields.iter().filter(|field| !read(field));
    unread.map(|field| format!("{home}: `{field}` is {what} that nothing uses: use it or remove it")).collect()
}

fn layer_violations(source: &Source) -> Vec<String> {
    let own = source.module();
    if !source.path.starts_with("src/") || ["lib", "main", "testing"].contains(&own) {
        return vec![];
    }
    let names = |list: &'static str| list.split_whitespace().collect::<Vec<_>>();
    let Some((_, allowed)) = LAYERS.iter().find(|(modules, _)| names(modules).contains(&own)) else {
        return vec![format!("{}: `{own}` stands in no layer; add it to LAYERS in tests/tidy.rs", source.path)];
    };
    let allowed = names(allowed);
    let known: BTreeSet<_> = LAYERS.iter().flat_map(|(modules, _)| names(modules)).chain(["testing"]).collect();
    let starts_nodes = own == "cli" && CLI_WITH_NODE.contains(&source.part());
    let good = |used: &str| {
        used == own
            || allowed.contains(&used)
            || !known.contains(used)
            || (starts_nodes && ["node", "tls", "config"].contains(&used))
    };
    let used = source.paths("crate").into_iter().filter(|used| !good(&used.first));
    used.map(|used| format!("{}:{}: `{own}` may not use `{}`; it uses {allowed:?}", source.path, used.line, used.first))
        .collect()
}

fn raft_violations(source: &Source) -> Vec<String> {
    let own = source.module();
    if !source.path.starts_with("src/")
        || USE_RAFT.contains(&own)
        || (own == "cli" && CLI_WITH_NODE.contains(&source.part()))
    {
        return vec![];
    }
    let used = source.paths("highwater_raft").into_iter().filter(|used| !RAFT_SEAMS.contains(&used.first.as_str()));
    used.map(|used| format!("{}:{}: `{own}` may not use highwater_raft::{}", source.path, used.line, used.first))
        .collect()
}

fn openraft_violations(source: &Source) -> Vec<String> {
    if source.path.starts_with("raft/src/openraft") {
        return vec![];
    }
    let mut found = vec![];
    for name in ["openraft", "openraft_rt", "openraft_rt_tokio"] {
        for used in source.paths(name) {
            found.push(format!("{}:{}: {name} is named only in raft/src/openraft/", source.path, used.line));
        }
    }
    found
}

fn kafka_violations(source: &Source) -> Vec<String> {
    if source.path.starts_with("src/gateway/kafka") {
        return vec![];
    }
    let codecs = ["kafka_protocol", "kacrab_protocol", "kafka_wire"].into_iter();
    let used = codecs.flat_map(|name| source.paths(name));
    used.map(|used| format!("{}:{}: Kafka's codec is named only in src/gateway/kafka/", source.path, used.line))
        .collect()
}

fn machine_violations(source: &Source) -> Vec<String> {
    let own = source.module();
    if !source.path.ends_with("/machine.rs") && !source.path.contains("/machine/") {
        return vec![];
    }
    let replicated = REPLICATED.contains(&own);
    let at = |line: usize, what: &str| format!("{}:{line}: a machine {what}", source.path);
    let mut found = vec![];
    for used in source.paths("crate") {
        let pure = ["types", "limits", "batch", "advice", "sabotage"].contains(&used.first.as_str());
        // Beside itself a machine may use what its own folder says about values, never its actors.
        let own_values = used.first == own
            && !["actor", "leader", "follower", "observe"].iter().any(|shell| used.second.starts_with(shell));
        if replicated && !pure && !own_values {
            found.push(at(used.line, &format!("uses types, limits and batch only, not `{}`", used.first)));
        }
    }
    for used in source.paths("highwater_raft") {
        if !RAFT_FOR_MACHINES.contains(&used.first.as_str()) {
            found.push(at(used.line, &format!("uses highwater-raft for the trait alone, not `{}`", used.first)));
        }
    }
    let mut banned = vec![
        "SystemTime",
        "Env",
        "rand",
        "random",
        "random_u64",
        "random_below",
        "random_bytes",
        "now_ms",
        "actix",
        "HashMap",
        "HashSet",
        "spawn",
        "sleep",
        "async",
        "tracing",
        "std::fs",
        "std::net",
        "std::thread",
    ];
    if replicated {
        banned.extend(["now", "Instant"]);
    }
    for word in banned {
        found.extend(
            source
                .lines_with(word)
                .into_iter()
                .map(|line| at(line, &format!("is a pure function of its inputs: no `{word}`"))),
        );
    }
    for used in source.paths("tokio") {
        // A local machine is given instants of the runtime's clock; a replicated one not even that.
        if replicated || used.first != "time" || !["Instant", "Duration"].contains(&used.second.as_str()) {
            found.push(at(used.line, "knows no runtime; local ones take `tokio::time::Instant` as an argument"));
        }
    }
    if let Some(line) = source.lines_with("Instant::now").first() {
        found.push(at(*line, "takes time as an argument: no `Instant::now`"));
    }
    found
}

fn advice_violations(all: &[Source]) -> Vec<String> {
    let mut advised: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    let mut found = vec![];
    for source in all {
        for (start, path) in source.named("Advice for ") {
            let block = braced(&source.code[start..]);
            let mut missing: Vec<_> =
                ["fn reaction", "fn advice"].into_iter().filter(|part| !block.contains(part)).collect();
            if has_wildcard(block) {
                missing.push("a match without `_ =>`: name every variant");
            }
            advised
                .entry(advised_by(source, &path))
                .or_default()
                .extend(missing.iter().map(|m| format!("{}:{}: {m}", source.path, source.line(start))));
        }
    }
    for source in all {
        let (homes, wanted) = match source.raft_module() {
            Some(module) => (vec![of_raft(module)], format!("`impl Advice for {module}::…` in {ADVICE_FOR_RAFT}")),
            None => (vec![source.module().to_owned(), "advice".into()], "`impl Advice` (src/advice/mod.rs)".into()),
        };
        for (start, name, _) in errors(source) {
            match homes.iter().find_map(|home| advised.remove(&(home.clone(), name.clone()))) {
                Some(problems) => found.extend(problems),
                None => {
                    found.push(format!("{}:{}: `{name}` needs {wanted}", source.path, source.line(start)));
                }
            }
        }
    }
    found
}

/// Module and name of the error that an `impl Advice for path` is for. Several modules of highwater-raft have errors of one
/// name: theirs are told apart by the path.
fn advised_by(source: &Source, path: &str) -> (String, String) {
    let (module, name) = (path.split("::").next().unwrap_or_default(), path.rsplit("::").next().unwrap_or_default());
    let home = if source.path == ADVICE_FOR_RAFT { of_raft(module) } else { source.module().to_owned() };
    (home, name.to_owned())
}

fn of_raft(module: &str) -> String {
    format!("highwater_raft::{module}")
}

/// Public errors, derived or by hand: where each is, its name, and whether it is an enum.
fn errors(source: &Source) -> Vec<(usize, String, bool)> {
    let by_hand: BTreeSet<_> = source.items("Error for ").into_iter().map(|(_, name)| name).collect();
    let mut found = vec![];
    for (keyword, is_enum) in [("pub enum ", true), ("pub struct ", false)] {
        for (start, name) in source.items(keyword) {
            let before = &source.code[..start];
            let attributes = &before[before.rfind([';', '{', '}']).map_or(0, |at| at + 1)..];
            let derived = attributes.split(|c| !is_word(c)).any(|word| word == "Error");
            if derived || by_hand.contains(&name) || name.ends_with("Error") {
                found.push((start, name, is_enum));
            }
        }
    }
    found
}

fn snapshot_violations(all: &[Source], shown: &str) -> Vec<String> {
    let mut wanted: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for source in all {
        for (start, name, is_enum) in errors(source) {
            let examples = match is_enum {
                true => variants(braced(&source.code[start..])).iter().map(|one| format!("{name}::{one}")).collect(),
                false => vec![name],
            };
            for example in examples {
                wanted.entry(example).or_default().push(format!("{}:{}", source.path, source.line(start)));
            }
        }
    }
    // Errors of several modules may have one name: each has an example of its own.
    let missing = wanted.iter().filter(|(example, places)| examples_of(example, shown) < places.len());
    missing
        .map(|(example, places)| format!("{}: give tests/advice.rs an example of `{example}`", places.join(", ")))
        .collect()
}

/// How often the text makes such a value.
fn examples_of(example: &str, shown: &str) -> usize {
    let made = |at: usize| {
        let behind = &shown[at + example.len()..];
        let whole = !shown[..at].ends_with(is_word) && !behind.starts_with(is_word);
        // A variant of the same name is none.
        let of_enum = shown[..at].strip_suffix("::").is_some_and(ends_with_a_type);
        whole && (example.contains("::") || !of_enum && behind.trim_start().starts_with(['{', '(']))
    };
    shown.match_indices(example).filter(|(at, _)| made(*at)).count()
}

fn ends_with_a_type(path: &str) -> bool {
    path.rsplit(|c| !is_word(c)).next().is_some_and(|last| last.starts_with(char::is_uppercase))
}

fn has_wildcard(code: &str) -> bool {
    code.match_indices('_').any(|(at, _)| {
        let before = code[..at].trim_end().chars().next_back();
        let alone = !code[..at].ends_with(is_word) && !code[at + 1..].starts_with(is_word);
        let behind = code[at + 1..].trim_start();
        alone && (behind.starts_with("=>") || behind.starts_with("if ")) && before.is_none_or(|c| "{},|".contains(c))
    })
}

fn ignore_violations(source: &Source) -> Vec<String> {
    let places = source.all_code.match_indices("#[ignore").map(|(at, _)| at);
    places
        .map(|at| format!("{}:{}: a test that does not run shows nothing", source.path, line_of(&source.all_code, at)))
        .collect()
}

/// What planted bugs and their controls are called.
fn bug_names() -> Vec<String> {
    let list = fs::read_to_string(root().join("raft/src/sabotage.rs")).unwrap();
    let bugs = list.lines().filter_map(|line| line.trim().strip_suffix("\",")?.split_once(" = \""));
    let names: Vec<String> = bugs.flat_map(|(bug, name)| [bug.to_owned(), name.to_owned()]).collect();
    assert!(names.len() >= 30, "the list of planted bugs is not read: {names:?}");
    names.into_iter().chain(["sabotage", "feature =", "Bug"].map(String::from)).collect()
}

/// A checker that is told what to look for proves nothing.
fn bug_violations(source: &Source, bugs: &[String]) -> Vec<String> {
    let named = |bug: &&String| {
        let mut places = source.text.match_indices(bug.as_str());
        places
            .any(|(at, _)| !source.text[..at].ends_with(is_word) && !source.text[at + bug.len()..].starts_with(is_word))
    };
    let found = bugs.iter().filter(named);
    found.map(|bug| format!("{}: knows the planted bug `{bug}`; judge histories alone", source.path)).collect()
}

fn judges() -> Vec<Source> {
    let all: Vec<Vec<Source>> = JUDGES.iter().map(|folder| sources(folder)).collect();
    assert!(all.iter().all(|sources| !sources.is_empty()), "{JUDGES:?}: one of them is not there");
    all.into_iter().flatten().collect()
}

/// What judges would take from the broker, or from parts of the harness that run it.
fn judge_violations(source: &Source) -> Vec<String> {
    let at = |line: usize, used: &str| format!("{}:{line}: may not use `{used}`; judge histories alone", source.path);
    let crates = ["highwater", "highwater_raft"].into_iter();
    let broker = crates.flat_map(|name| source.paths(name).into_iter().map(move |used| at(used.line, name)));
    let harness =
        source.paths("crate").into_iter().filter(|used| !["checker", "history"].contains(&used.first.as_str()));
    broker.chain(harness.map(|used| at(used.line, &used.first))).collect()
}

/// Each dependency has a comment above it; one comment may serve a run of lines.
fn dependency_violations(manifest: &str) -> Vec<String> {
    let mut found = vec![];
    let (mut inside, mut commented) = (false, false);
    for (i, line) in manifest.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('[') {
            (inside, commented) = (line == "[workspace.dependencies]", false);
        } else if line.is_empty() {
            commented = false;
        } else if line.starts_with('#') {
            commented = true;
        } else if inside && !commented && line.contains('=') && !line.contains("path = ") {
            found.push(format!("Cargo.toml:{}: say in a comment above what it is for: {line}", i + 1));
        }
    }
    found
}

/// Versions stand in the workspace only.
fn version_violations(file: &str, manifest: &str) -> Vec<String> {
    let mut found = vec![];
    let mut inside = false;
    for (i, line) in manifest.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('[') {
            inside = line.ends_with("dependencies]") && line != "[workspace.dependencies]";
        } else if inside
            && line.contains('=')
            && !line.starts_with('#')
            && !line.contains("workspace")
            && !line.contains("path = ")
        {
            found.push(format!("{file}:{}: move version and features to [workspace.dependencies]: {line}", i + 1));
        }
    }
    found
}

#[track_caller]
fn report(found: Vec<String>) {
    let mut text = String::new();
    for line in &found {
        writeln!(text, "  {line}").unwrap();
    }
    assert!(found.is_empty(), "\n{text}");
}

// ---- the rules can fail

#[test]
fn the_rules_find_what_is_planted() {
    let planted = |path: &str, text: &str| {
        let source = Source::new(path, text);
        let mut found = layer_violations(&source);
        found.extend(raft_violations(&source));
        found.extend(openraft_violations(&source));
        found.extend(kafka_violations(&source));
        found.extend(machine_violations(&source));
        found.extend(ignore_violations(&source));
        if JUDGES.iter().any(|folder| path.starts_with(folder)) {
            found.extend(judge_violations(&source));
        }
        found.extend(advice_violations(&[source]));
        found
    };
    let bad = [
        ("src/batch/mod.rs", "use crate::wire;"),
        ("src/batch/mod.rs", "fn f() { crate::node::x() }"),
        ("src/client/a.rs", "use crate::{\n    types::X,\n    session::{self, Y},\n};"),
        ("src/gateway/native.rs", "use crate::partition::Handle;"),
        ("src/cli/topic.rs", "use crate::node::Node;"),
        ("src/newcomer.rs", ""),
        ("src/session/x.rs", "use highwater_raft::{env::Env, group::Group};"),
        ("raft/src/group.rs", "use openraft::Raft;"),
        ("raft/src/group.rs", "fn f(_: ::openraft::Raft) {}"),
        ("raft/src/group.rs", "use {bytes::Bytes, openraft::Raft};"),
        ("src/lib.rs", "use openraft as o;"),
        ("src/session/x.rs", "use kafka_wire::Frame;"),
        ("src/partition/machine.rs", "fn f(now: u64) {}"),
        ("src/partition/machine/a.rs", "use crate::runtime::Turn;"),
        ("src/partition/machine/a.rs", "use crate::partition::leader::LeaderActor;"),
        ("src/group/machine.rs", "use highwater_raft::env::Env;"),
        ("src/session/machine.rs", "let t = std::time::Instant::now();"),
        ("src/session/machine.rs", "use tokio::{sync::Notify, time::Instant};"),
        ("src/partition/machine.rs", "use tokio::time::Instant;"),
        ("src/controller/machine.rs", "use std::collections::HashMap;"),
        ("src/types.rs", "#[ignore = \"slow\"]"),
        ("src/types.rs", "pub enum LostError { A }"),
        (
            "src/types.rs",
            "pub enum AError { A } impl Advice for AError { fn reaction(&self) {} fn advice(&self) { match self { Self::A => 1, _ => 2 } } }",
        ),
        ("src/types.rs", "pub enum AError { A } impl Advice for AError { fn advice(&self) { } }"),
        ("src/types.rs", "#[derive(Debug, thiserror::Error)]\npub enum Refusal { #[error(\"a\")] A }"),
        ("src/types.rs", "#[derive(Error)]\n#[error(\"{} of\", .0)]\npub struct Full(pub u32);"),
        ("src/types.rs", "pub struct Problems; impl std::error::Error for Problems {}"),
        ("src/cli/topic.rs", "pub enum LostError { A }"),
        ("src/testing/link.rs", "pub enum LostError { A }"),
        ("chaos/src/soak.rs", "pub enum LostError { A }"),
        ("raft/src/log/error.rs", "pub enum OpenError { A }"),
        ("raft/src/machine.rs", "#[derive(Error)] pub struct Damaged(pub u32);"),
        ("chaos/src/checker/order.rs", "use highwater::types::Position;"),
        ("chaos/src/history/fact.rs", "fn f(_: highwater_raft::GroupId) {}"),
        ("chaos/src/checker/mod.rs", "use crate::{history::Event, sim::World};"),
    ];
    for (path, text) in bad {
        assert!(!planted(path, text).is_empty(), "{path}: {text}");
    }
    let good = [
        (
            "src/batch/mod.rs",
            "// use crate::wire;\nconst X: &str = \"crate::wire\"; const Y: char = '\"'; const Z: &str = r#\"crate::node::\"#;",
        ),
        ("src/batch/mod.rs", "#[cfg(test)]\nmod tests { use crate::wire; fn f() { {} } }\nuse crate::limits;"),
        ("src/batch/tests.rs", "use crate::wire;"),
        ("src/batch/mod.rs", "fn f<'a>(x: &'a str) -> crate::types::X<'a> {}"),
        ("src/cli/dev/mod.rs", "use crate::node::Node;"),
        ("src/runtime/mod.rs", "pub use highwater_raft::env::Env;"),
        ("raft/src/group.rs", "use crate::openraft::Adapter;"),
        ("raft/src/group.rs", "use crate::{\n    log::{self, Log},\n    openraft::{Adapter, store::Store},\n};"),
        ("raft/src/openraft/store.rs", "use openraft::Raft;"),
        (
            "src/session/machine.rs",
            "use tokio::time::Instant; use crate::wire::Fetch; fn step(&mut self, now: Instant) {}",
        ),
        (
            "src/partition/machine.rs",
            "use crate::{batch::Batch, partition::spec::Spec}; use highwater_raft::machine::Machine; // now",
        ),
        ("src/advice/raft.rs", "use highwater_raft::{log, transport::quic};"),
        ("chaos/src/checker/order.rs", "use crate::history::{Event, Value}; // highwater::types\nuse super::Rising;"),
        (
            "src/batch/error.rs",
            "pub enum AError { A } impl crate::advice::Advice for AError { fn reaction(&self) { match self { Self::A(_) => 1 } } fn advice(&self) {} }",
        ),
    ];
    for (path, text) in good {
        let found = planted(path, text);
        assert!(found.is_empty(), "{path}: {text}: {found:?}");
    }
    let refusals = [("src/group/a.rs", "A, B"), ("src/partition/a.rs", "A")]
        .map(|(path, variants)| Source::new(path, &format!("#[derive(Error)] pub enum Refusal {{ {variants} }}")));
    let shown = "vec![group::Refusal::A, Refusal::Both, Refusal::B { at: 1 }]";
    let found = snapshot_violations(&refusals, shown);
    assert_eq!(found, ["src/group/a.rs:1, src/partition/a.rs:1: give tests/advice.rs an example of `Refusal::A`"]);
    let opens =
        ["log", "group"].map(|module| Source::new(&format!("raft/src/{module}/a.rs"), "pub enum OpenError { A }"));
    let advised = |paths: &[&str]| {
        let block = "{ fn reaction(&self) { match self { Self::A => 1 } } fn advice(&self) {} }";
        let given: String = paths.iter().map(|path| format!("impl Advice for {path} {block}\n")).collect();
        advice_violations(&[&opens[..], &[Source::new(ADVICE_FOR_RAFT, &given)]].concat())
    };
    assert_eq!(advised(&["log::OpenError", "group::OpenError"]).len(), 0);
    let found = advised(&["log::OpenError"]);
    assert_eq!(found, ["raft/src/group/a.rs:1: `OpenError` needs `impl Advice for group::…` in src/advice/raft.rs"]);
    assert_eq!(advised(&["OpenError", "transport::OpenError"]).len(), 2);
    assert_eq!(snapshot_violations(&opens, "log::OpenError::A").len(), 1);
    let full = [Source::new("src/runtime/a.rs", "#[derive(Error)] pub struct Full(pub u32);")];
    assert_eq!(snapshot_violations(&full, "use Full; Full(3)").len(), 0);
    assert_eq!(snapshot_violations(&full, "use Full; Fuller(3)").len(), 1);
    assert_eq!(snapshot_violations(&full, "use Full; Why::Full(3)").len(), 1);
    let config = fields("pub struct A {\n    pub kept: u64,\n    pub lost: u64,\n}\npub struct B(pub u32);", None);
    let reader =
        [Source::new("src/node/a.rs", "fn f(a: A) { a.kept; a.losted }"), Source::new("src/config/b.rs", "a.lost")];
    assert_eq!(unread("src/config/", "a key", &config, &reader).len(), 1, "{config:?}");
    assert_eq!(
        dependency_violations("[workspace.dependencies]\n# what for\na = \"1\"\nb = \"1\"\n\nc = \"1\"").len(),
        1
    );
    let checker = Source::new("chaos/src/checker/x.rs", "// finds LeaderRestore");
    assert_eq!(bug_violations(&checker, &["LeaderRestore".into(), "Leader".into()]).len(), 1);
    assert_eq!(version_violations("x", "[dependencies]\na = \"1\"\nb.workspace = true").len(), 1);
}
