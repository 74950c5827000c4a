//! The source tree as text: without comments, strings and tests, and what its paths name.

use std::{
    fs,
    path::{Path, PathBuf},
};

#[derive(Clone)]
pub(crate) struct Source {
    /// From the top of the repository, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
    /// Without comments and strings, as many lines.
    pub(crate) all_code: String,
    /// Without test modules too.
    pub(crate) code: String,
}

pub(crate) struct Used {
    pub(crate) line: usize,
    pub(crate) first: String,
    pub(crate) second: String,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let all_code = without_comments_and_strings(text);
        let tests = path.ends_with("/tests.rs") || path.contains("/tests/");
        let code = if tests { String::new() } else { without_tests(&all_code) };
        Self { path: path.into(), text: text.into(), all_code, code }
    }

    /// The module of the root crate that the file belongs to.
    pub(crate) fn module(&self) -> &str {
        first(self.path.strip_prefix("src/").unwrap_or(&self.path))
    }

    /// The module of highwater-raft that the file belongs to.
    pub(crate) fn raft_module(&self) -> Option<&str> {
        self.path.strip_prefix("raft/src/").map(first)
    }

    /// The part of the module: `src/cli/dev.rs` and `src/cli/dev/x.rs` are `dev`.
    pub(crate) fn part(&self) -> &str {
        let inner = self.path.strip_prefix("src/").unwrap_or(&self.path);
        inner.split('/').nth(1).map_or("", |part| part.trim_end_matches(".rs"))
    }

    pub(crate) fn line(&self, at: usize) -> usize {
        line_of(&self.code, at)
    }

    /// What follows `name::`, with the members of `{…}` one by one.
    pub(crate) fn paths(&self, name: &str) -> Vec<Used> {
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
        let mut parts = path.split("::").map(|part| {
            part.trim().trim_start_matches('{').trim().chars().take_while(|c| is_word(*c)).collect::<String>()
        });
        Used { line: self.line(at), first: parts.next().unwrap_or_default(), second: parts.next().unwrap_or_default() }
    }

    /// Lines on which `word` stands alone.
    pub(crate) fn lines_with(&self, word: &str) -> Vec<usize> {
        let alone =
            |at: &usize| !self.code[..*at].ends_with(is_word) && !self.code[at + word.len()..].starts_with(is_word);
        self.code.match_indices(word).map(|(at, _)| at).filter(alone).map(|at| self.line(at)).collect()
    }

    /// Where `keyword` stands, and the name behind it.
    pub(crate) fn items(&self, keyword: &str) -> Vec<(usize, String)> {
        let last = |path: String| path.rsplit("::").next().unwrap_or_default().to_owned();
        self.named(keyword).into_iter().map(|(at, path)| (at, last(path))).collect()
    }

    /// Where `keyword` stands, and the whole path behind it.
    pub(crate) fn named(&self, keyword: &str) -> Vec<(usize, String)> {
        let path =
            |at: usize| self.code[at + keyword.len()..].chars().take_while(|c| is_word(*c) || *c == ':').collect();
        self.code.match_indices(keyword).map(|(at, _)| (at, path(at))).collect()
    }
}

fn first(path: &str) -> &str {
    path.split('/').next().map_or("", |part| part.trim_end_matches(".rs"))
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
    list(inner)
}

/// The names of an enum's variants, given its braces.
pub(crate) fn variants(block: &str) -> Vec<&str> {
    let inner = block.strip_prefix('{').map_or("", |inner| inner.strip_suffix('}').unwrap_or(inner));
    list(inner)
        .into_iter()
        .map(without_attributes)
        .map(|item| &item[..item.find(|c| !is_word(c)).unwrap_or(item.len())])
        .collect()
}

fn without_attributes(mut item: &str) -> &str {
    while item.starts_with("#[") {
        let end = item.find(']').map_or(item.len(), |end| end + 1);
        item = item[end..].trim_start();
    }
    item
}

/// Splits at the commas that stand in no bracket.
fn list(inner: &str) -> Vec<&str> {
    let (mut members, mut depth, mut start) = (vec![], 0, 0);
    for (at, c) in inner.char_indices() {
        match c {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => depth -= 1,
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
pub(crate) fn braced(code: &str) -> &str {
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

pub(crate) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

pub(crate) fn line_of(code: &str, at: usize) -> usize {
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

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn root_sources() -> Vec<Source> {
    sources("src")
}

/// All Rust files below a folder, sorted; none when it is not there.
pub(crate) fn sources(folder: &str) -> Vec<Source> {
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
