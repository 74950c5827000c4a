//! From text to [`Config`]: every problem with its line.

use super::{Config, Listener, ListenerKind, Listeners, Seed, check};
use crate::advice::{Advice, Reaction};
use serde::de::IntoDeserializer;
use std::{collections::BTreeMap, fmt, ops::Range, path::Path};
use toml::{Spanned, de::DeTable, de::DeValue};

/// One thing that is wrong with a config file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: String,
    /// The line, from 1; `None` when the file could not be read.
    pub line: Option<usize>,
    /// What is wrong, and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file, self.message),
            None => write!(f, "{}: {}", self.file, self.message),
        }
    }
}

/// All that is wrong with a config file, by line; never empty. Prints one per line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            write!(f, "{}{problem}", if i > 0 { "\n" } else { "" })?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

impl Advice for Problems {
    fn reaction(&self) -> Reaction {
        Reaction::Reject
    }

    fn advice(&self) -> String {
        "correct these lines (config/highwater.toml explains every key)".into()
    }
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, Problems> {
        let name = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, &name),
            Err(error) => {
                let message = format!("cannot be read: {error}; name an existing file, or copy one from config/");
                Err(Problems(vec![Problem { file: name, line: None, message }]))
            }
        }
    }

    /// Reads and checks the text of a file; `name` is for its problems.
    pub fn parse(text: &str, name: &str) -> Result<Self, Problems> {
        let mut report = Report { text, problems: Vec::new(), lines: BTreeMap::new() };
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            report.at(error.span(), error.message());
        }
        note_lines(&mut report.lines, "", table.get_ref());
        let mut config = None;
        if errors.is_empty() {
            let mut unknown = Vec::new();
            let spanned = Spanned::new(table.span(), DeValue::Table(table.into_inner()));
            match serde_ignored::deserialize(spanned.into_deserializer(), |path| unknown.push(path.to_string())) {
                Ok(read) => config = Some(read),
                Err(error) => report.at(error.span(), &format!("{}{}", error.message(), kind_hint(&error))),
            }
            let known = KnownKeys::new();
            unknown.iter().for_each(|path| report.about(path, &known.advise(path)));
        }
        if let Some(config) = &config {
            check::check(config, &mut report);
        }
        report.finish(name, config)
    }

    /// Every key with some value: what a file may hold.
    pub(super) fn with_every_key() -> Self {
        let mut config = Self::default();
        let address: super::Address = config.node.peer_bind.into();
        config.node.peer_advertised = Some(address.clone());
        config.node.control_advertised = Some(address.clone());
        let bind = config.node.peer_bind;
        let listener = Listener { advertised: Some(address.clone()), ..Listener::new(ListenerKind::Native, bind) };
        config.listeners = Listeners(vec![listener]);
        config.cluster.seeds = vec![Seed { id: config.node.id, peer: address.clone(), control: address }];
        config
    }
}

fn kind_hint(error: &toml::de::Error) -> &'static str {
    match error.message() {
        text if text.contains("socket address") => "; write it as \"127.0.0.1:7420\", with an IP address",
        _ => "",
    }
}

/// What was found so far.
pub(super) struct Report<'a> {
    text: &'a str,
    problems: Vec<(usize, String)>,
    /// Where each key stands, by its path (`cluster.seeds.0.id`).
    lines: BTreeMap<String, Range<usize>>,
}

impl Report<'_> {
    /// A problem with the key at `path`, or with the nearest table around it that the file has.
    pub(super) fn about(&mut self, path: &str, message: &str) {
        let mut path = path;
        let span = loop {
            match (self.lines.get(path), path.rsplit_once('.')) {
                (Some(span), _) => break Some(span.clone()),
                (None, Some((parent, _))) => path = parent,
                (None, None) => break None,
            }
        };
        self.at(span, message);
    }

    fn at(&mut self, span: Option<Range<usize>>, message: &str) {
        let start = span.map_or(0, |span| span.start).min(self.text.len());
        let line = 1 + self.text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count();
        self.problems.push((line, message.trim_end().replace('\n', ", ")));
    }

    fn finish(mut self, name: &str, config: Option<Config>) -> Result<Config, Problems> {
        match config {
            Some(config) if self.problems.is_empty() => Ok(config),
            _ => {
                self.problems.sort();
                let problem = |(line, message)| Problem { file: name.into(), line: Some(line), message };
                Err(Problems(self.problems.into_iter().map(problem).collect()))
            }
        }
    }
}

fn note_lines(lines: &mut BTreeMap<String, Range<usize>>, path: &str, table: &DeTable<'_>) {
    for (key, value) in table {
        let path = if path.is_empty() { key.get_ref().to_string() } else { format!("{path}.{}", key.get_ref()) };
        note_value(lines, &path, key.span(), value);
    }
}

fn note_value(
    lines: &mut BTreeMap<String, Range<usize>>,
    path: &str,
    span: Range<usize>,
    value: &Spanned<DeValue<'_>>,
) {
    lines.insert(path.to_owned(), span);
    match value.get_ref() {
        DeValue::Table(table) => note_lines(lines, path, table),
        DeValue::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                note_value(lines, &format!("{path}.{i}"), item.span(), item);
            }
        }
        _ => {}
    }
}

/// Keys by the table that they stand in, for did-you-mean.
struct KnownKeys(BTreeMap<String, Vec<String>>);

impl KnownKeys {
    fn new() -> Self {
        let all = toml::Table::try_from(Config::with_every_key()).expect("a config is a table");
        let mut known = BTreeMap::new();
        collect_keys(&mut known, "", &all);
        Self(known)
    }

    /// What to say about an unknown key.
    fn advise(&self, path: &str) -> String {
        // `?` stands for a value that may be left out, a number for a place in a list; a key may be a number too.
        let path = path.trim_end_matches(".?");
        let (parents, key) = path.rsplit_once('.').unwrap_or(("", path));
        let named = |part: &&str| !part.is_empty() && part.parse::<usize>().is_err() && *part != "?";
        let table = parents.split('.').filter(named).collect::<Vec<_>>().join(".");
        let place = if table.is_empty() { "at the top".to_owned() } else { format!("in [{table}]") };
        let siblings = self.0.get(&table).map_or(&[][..], |keys| keys);
        let near = |known: &&String| strsim::damerau_levenshtein(key, known) <= (key.len().max(known.len()) / 3).max(1);
        let best = siblings.iter().filter(near).min_by_key(|known| strsim::damerau_levenshtein(key, known));
        let elsewhere = self.0.iter().find(|(other, keys)| !other.is_empty() && keys.iter().any(|k| k == key));
        match (best, elsewhere) {
            (Some(best), _) => format!("unknown key `{key}` {place}; did you mean `{best}`?"),
            (None, Some((other, _))) => format!("unknown key `{key}` {place}; it belongs in [{other}]"),
            (None, None) if siblings.is_empty() => format!("unknown key `{key}` {place}"),
            (None, None) => format!("unknown key `{key}` {place}; known are {}", siblings.join(", ")),
        }
    }
}

fn collect_keys(known: &mut BTreeMap<String, Vec<String>>, path: &str, table: &toml::Table) {
    known.insert(path.to_owned(), table.keys().cloned().collect());
    for (key, value) in table {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let inner = match value {
            toml::Value::Array(items) => items.first(),
            other => Some(other),
        };
        if let Some(toml::Value::Table(inner)) = inner {
            collect_keys(known, &path, inner);
        }
    }
}
