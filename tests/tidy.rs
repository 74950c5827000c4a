//! The rules of `src/ARCHITECTURE.md` that a compiler does not check, over the source tree as text.
//!
//! Comments, strings and test code are cut out first. A rule that finds something names file, line and what to do;
//! `the_rules_find_what_is_planted` shows that each of them can fail.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
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
    ("embed", "types advice limits batch client"),
    ("cli console", "types advice limits batch client"),
];
/// Parts of the command line that start nodes or make their files.
const CLI_WITH_NODE: &[&str] = &["serve", "dev", "cert", "config"];
/// Who may use highwater-raft.
const USE_RAFT: &[&str] = &["replica", "controller", "partition", "group", "peer", "node", "testing"];
/// What every layer may take from it: the seams and the ids.
const RAFT_SEAMS: &[&str] = &["env", "NodeId", "GroupId", "ReplicaId", "BootId", "DirectoryId"];
/// What machines may take from it.
const RAFT_FOR_MACHINES: &[&str] = &["machine", "NodeId", "GroupId", "ReplicaId", "DirectoryId", "Payload"];
/// Modules whose machines are replicated: even the word `now` is wrong there.
const REPLICATED: &[&str] = &["controller", "partition", "group"];

const TOP_LEVEL: &[&str] =
    &["Cargo.toml", "Cargo.lock", "LICENSE", "README.md", "chaos", "config", "examples", "raft", "src", "tests"];
const LINES_MAX: usize = 800;

// ---- the rules

#[test]
fn modules_use_only_what_is_below_them() {
    report(root_sources().iter().flat_map(|source| layer_violations(source)).collect());
}

#[test]
fn raft_is_used_where_it_may_be() {
    report(root_sources().iter().flat_map(|source| raft_violations(source)).collect());
}

#[test]
fn openraft_stays_in_its_folder() {
    let all = ["src", "raft/src", "chaos/src"].into_iter().flat_map(sources);
    report(all.flat_map(|source| openraft_violations(&source)).collect());
}

#[test]
fn kafkas_codec_stays_in_its_gateway() {
    report(root_sources().iter().flat_map(|source| kafka_violations(source)).collect());
}

#[test]
fn machines_are_pure() {
    report(root_sources().iter().flat_map(|source| machine_violations(source)).collect());
}

#[test]
fn every_error_gives_advice() {
    report(advice_violations(&root_sources()));
}

#[test]
fn no_test_is_switched_off() {
    let all = ["src", "raft", "chaos", "tests", "examples"].into_iter().flat_map(sources);
    report(all.flat_map(|source| ignore_violations(&source)).collect());
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
    let at = |line: usize, what: &str| format!("{}:{line}: a machine {what}", source.path);
    let mut found = vec![];
    for used in source.paths("crate") {
        let pure = ["types", "limits", "batch", "advice"].contains(&used.first.as_str());
        // Beside itself a machine may use what its own folder says about values, never its actors.
        let own_values = used.first == own
            && !["actor", "leader", "follower", "observe"].iter().any(|shell| used.second.starts_with(shell));
        if !pure && !own_values {
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
        "tokio",
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
    if REPLICATED.contains(&own) {
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
    if let Some(line) = source.lines_with("Instant::now").first() {
        found.push(at(*line, "takes time as an argument: no `Instant::now`"));
    }
    found
}

fn advice_violations(all: &[Source]) -> Vec<String> {
    let mut advised: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut found = vec![];
    for source in all {
        for (start, name) in source.items("Advice for ") {
            let block = braced(&source.code[start..]);
            let mut missing: Vec<_> =
                ["fn reaction", "fn advice"].into_iter().filter(|part| !block.contains(part)).collect();
            if has_wildcard(block) {
                missing.push("a match without `_ =>`: name every variant");
            }
            advised
                .entry(name)
                .or_default()
                .extend(missing.iter().map(|m| format!("{}:{}: {m}", source.path, source.line(start))));
        }
    }
    for source in all.iter().filter(|source| !["testing", "cli"].contains(&source.module())) {
        for (start, name) in source.items("pub enum ") {
            if !name.ends_with("Error") {
                continue;
            }
            match advised.remove(&name) {
                Some(problems) => found.extend(problems),
                None => found.push(format!(
                    "{}:{}: `{name}` needs `impl Advice` (src/advice.rs)",
                    source.path,
                    source.line(start)
                )),
            }
        }
    }
    found
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

// ---- reading the tree

struct Source {
    /// From the top of the repository, with `/`.
    path: String,
    text: String,
    /// Without comments and strings, as many lines.
    all_code: String,
    /// Without test modules too.
    code: String,
}

struct Used {
    line: usize,
    first: String,
    second: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let all_code = without_comments_and_strings(text);
        let tests = path.ends_with("/tests.rs") || path.contains("/tests/");
        let code = if tests { String::new() } else { without_tests(&all_code) };
        Self { path: path.into(), text: text.into(), all_code, code }
    }

    /// The module of the root crate that the file belongs to.
    fn module(&self) -> &str {
        let inner = self.path.strip_prefix("src/").unwrap_or(&self.path);
        inner.split('/').next().map_or("", |part| part.trim_end_matches(".rs"))
    }

    /// The part of the module: `src/cli/dev.rs` and `src/cli/dev/x.rs` are `dev`.
    fn part(&self) -> &str {
        let inner = self.path.strip_prefix("src/").unwrap_or(&self.path);
        inner.split('/').nth(1).map_or("", |part| part.trim_end_matches(".rs"))
    }

    fn line(&self, at: usize) -> usize {
        line_of(&self.code, at)
    }

    /// What follows `name::`, with the members of `{…}` one by one.
    fn paths(&self, name: &str) -> Vec<Used> {
        let mut found = vec![];
        for (at, _) in self.code.match_indices(name) {
            let before = &self.code[..at];
            if before.ends_with(is_word) || before.ends_with("::") && !before.ends_with(" ::") || before.ends_with('$')
            {
                continue;
            }
            if is_member_of_path(before) {
                continue;
            }
            let behind = self.code[at + name.len()..].trim_start();
            if let Some(path) = behind.strip_prefix("::") {
                let members = group(path.trim_start());
                found.extend(members.iter().map(|member| self.used(at, member)));
            } else if is_imported(before, behind) {
                found.push(Used { line: self.line(at), first: String::new(), second: String::new() });
            }
        }
        found
    }

    fn used(&self, at: usize, path: &str) -> Used {
        let mut parts =
            path.split("::").map(|part| part.trim().chars().take_while(|c| is_word(*c)).collect::<String>());
        Used { line: self.line(at), first: parts.next().unwrap_or_default(), second: parts.next().unwrap_or_default() }
    }

    /// Lines on which `word` stands alone.
    fn lines_with(&self, word: &str) -> Vec<usize> {
        let alone =
            |at: &usize| !self.code[..*at].ends_with(is_word) && !self.code[at + word.len()..].starts_with(is_word);
        self.code.match_indices(word).map(|(at, _)| at).filter(alone).map(|at| self.line(at)).collect()
    }

    /// Where `keyword` stands, and the name behind it.
    fn items(&self, keyword: &str) -> Vec<(usize, String)> {
        let name = |at: usize| {
            self.code[at + keyword.len()..].chars().take_while(|c| is_word(*c) || *c == ':').collect::<String>()
        };
        let last = |path: String| path.rsplit("::").next().unwrap_or_default().to_owned();
        self.code.match_indices(keyword).map(|(at, _)| (at, last(name(at)))).collect()
    }
}

/// Whether what follows stands in the braces of `path::{…}`.
fn is_member_of_path(before: &str) -> bool {
    let mut depth = 0;
    for (at, c) in before.char_indices().rev() {
        match c {
            ';' => return false,
            '}' => depth += 1,
            '{' if depth > 0 => depth -= 1,
            '{' => return before[..at].trim_end().ends_with("::"),
            _ => {}
        }
    }
    false
}

/// `use openraft;`, `use openraft as x;`, `extern crate openraft`.
fn is_imported(before: &str, behind: &str) -> bool {
    let before = before.trim_end();
    (before.ends_with("use") || before.ends_with("extern crate"))
        && (behind.starts_with(';') || behind.starts_with("as "))
}

/// `{a, b::c, d::{e, f}}` → `a`, `b::c`, `d::{e, f}`; anything else → itself.
fn group(path: &str) -> Vec<&str> {
    if !path.starts_with('{') {
        return vec![path];
    }
    let inner = braced(path);
    let inner = inner.strip_prefix('{').map_or("", |inner| inner.strip_suffix('}').unwrap_or(inner));
    let (mut members, mut depth, mut start) = (vec![], 0, 0);
    for (at, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                members.push(inner[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    members.push(inner[start..].trim());
    members.retain(|member| !member.is_empty());
    members
}

/// From the first `{` to the `}` that closes it.
fn braced(code: &str) -> &str {
    let start = code.find('{').unwrap_or(code.len());
    let mut depth = 0;
    for (at, c) in code[start..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &code[start..=start + at];
        }
    }
    &code[start..]
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn line_of(code: &str, at: usize) -> usize {
    1 + code[..at].matches('\n').count()
}

/// Blanks out every item under `#[cfg(test)]` or `#[cfg(all(test, …))]`; line breaks stay.
fn without_tests(code: &str) -> String {
    let mut out = String::new();
    let mut rest = code;
    while let Some(at) = ["#[cfg(test)]", "#[cfg(all(test"].iter().filter_map(|mark| rest.find(mark)).min() {
        out.push_str(&rest[..at]);
        let item = &rest[at..];
        let brace = item.find('{').unwrap_or(item.len());
        let end = match item.find(';') {
            Some(semicolon) if semicolon < brace => semicolon + 1,
            _ => brace + braced(item).len(),
        };
        out.extend(item[..end].chars().filter(|c| *c == '\n'));
        rest = &item[end..];
    }
    out + rest
}

/// Blanks out comments and the inside of string and character literals; line breaks stay.
fn without_comments_and_strings(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut i = 0;
    let blank = |out: &mut String, from: usize, to: usize| {
        out.extend(chars[from..to.min(chars.len())].iter().filter(|c| **c == '\n'))
    };
    let starts = |i: usize, with: &str| with.chars().enumerate().all(|(k, c)| chars.get(i + k) == Some(&c));
    while i < chars.len() {
        let begin = i;
        let in_word = i > 0 && is_word(chars[i - 1]);
        if starts(i, "//") {
            while i < chars.len() && chars[i] != '\n' {
                i += 1;
            }
        } else if starts(i, "/*") {
            let mut depth = 0;
            loop {
                if starts(i, "/*") {
                    (depth, i) = (depth + 1, i + 2);
                } else if starts(i, "*/") {
                    (depth, i) = (depth - 1, i + 2);
                } else {
                    i += 1;
                }
                if depth == 0 || i >= chars.len() {
                    break;
                }
            }
        } else if let Some(hashes) = raw_string(&chars[i..]).filter(|_| !in_word) {
            let end = format!("\"{}", "#".repeat(hashes.1));
            i += hashes.0;
            while i < chars.len() && !starts(i, &end) {
                i += 1;
            }
            i += end.len();
            out.push_str("\"\"");
        } else if chars[i] == '"' {
            i += 1;
            while i < chars.len() && chars[i] != '"' {
                i += if chars[i] == '\\' { 2 } else { 1 };
            }
            i += 1;
            out.push_str("\"\"");
        } else if chars[i] == '\'' && (starts(i + 1, "\\") || chars.get(i + 2) == Some(&'\'')) {
            i += if chars.get(i + 1) == Some(&'\\') { 3 } else { 2 };
            while i < chars.len() && chars[i] != '\'' {
                i += 1;
            }
            i += 1;
        } else {
            out.push(chars[i]);
            i += 1;
            continue;
        }
        blank(&mut out, begin, i);
    }
    out
}

/// Length of `r##"` with its prefix, and the number of `#`.
fn raw_string(chars: &[char]) -> Option<(usize, usize)> {
    let prefix = match chars {
        ['r', ..] => 1,
        ['b' | 'c', 'r', ..] => 2,
        _ => return None,
    };
    let hashes = chars[prefix..].iter().take_while(|c| **c == '#').count();
    (chars.get(prefix + hashes) == Some(&'"')).then_some((prefix + hashes + 1, hashes))
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn root_sources() -> Vec<Source> {
    sources("src")
}

/// All Rust files below a folder, sorted; none when it is not there.
fn sources(folder: &str) -> Vec<Source> {
    let mut paths = vec![];
    walk(&root().join(folder), &mut paths);
    paths.sort();
    let read = |path: &PathBuf| {
        let name = path.strip_prefix(root()).unwrap().to_str().unwrap().replace('\\', "/");
        Source::new(&name, &fs::read_to_string(path).unwrap())
    };
    paths.iter().map(read).collect()
}

fn walk(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().map(Result::unwrap) {
        let path = entry.path();
        match path.is_dir() {
            true if !path.ends_with("target") => walk(&path, into),
            false if path.extension().is_some_and(|extension| extension == "rs") => into.push(path),
            _ => {}
        }
    }
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
        ("src/controller/machine.rs", "use std::collections::HashMap;"),
        ("src/types.rs", "#[ignore = \"slow\"]"),
        ("src/types.rs", "pub enum LostError { A }"),
        (
            "src/types.rs",
            "pub enum AError { A } impl Advice for AError { fn reaction(&self) {} fn advice(&self) { match self { Self::A => 1, _ => 2 } } }",
        ),
        ("src/types.rs", "pub enum AError { A } impl Advice for AError { fn advice(&self) { } }"),
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
        ("src/session/machine.rs", "fn step(&mut self, now: Instant) {}"),
        (
            "src/partition/machine.rs",
            "use crate::{batch::Batch, partition::spec::Spec}; use highwater_raft::machine::Machine; // now",
        ),
        (
            "src/batch/error.rs",
            "pub enum AError { A } impl crate::advice::Advice for AError { fn reaction(&self) { match self { Self::A(_) => 1 } } fn advice(&self) {} }",
        ),
    ];
    for (path, text) in good {
        let found = planted(path, text);
        assert!(found.is_empty(), "{path}: {text}: {found:?}");
    }
    assert_eq!(
        dependency_violations("[workspace.dependencies]\n# what for\na = \"1\"\nb = \"1\"\n\nc = \"1\"").len(),
        1
    );
    assert_eq!(version_violations("x", "[dependencies]\na = \"1\"\nb.workspace = true").len(), 1);
}
