//! Tables for people, JSON for machines: the same rows. A reader that had enough (`| head`) is an error here, which `main`
//! takes for the end; `println!` would panic.

use serde::Serialize;
use std::{fmt::Display, io::Write as _};

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// Aligned columns.
    Table,
    /// One JSON document; of records, and of loads of a bench, one on each line.
    Json,
}

/// A row: its cells for a table; its fields for JSON come from `Serialize`.
pub(crate) trait Row: Serialize {
    /// Column heads.
    const COLUMNS: &'static [&'static str];
    /// Cells, as many as columns.
    fn cells(&self) -> Vec<String>;
}

impl Output {
    /// Prints rows; a table without rows says `empty`.
    pub(crate) fn rows<R: Row>(self, rows: &[R], empty: &str) -> anyhow::Result<()> {
        match self {
            Self::Json => self.value(&rows, String::new),
            Self::Table if rows.is_empty() => {
                eprintln!("{empty}");
                Ok(())
            }
            Self::Table => say(table(R::COLUMNS, rows.iter().map(Row::cells))),
        }
    }

    /// Prints one value: JSON, or the text made for people.
    pub(crate) fn value(self, value: &impl Serialize, text: impl FnOnce() -> String) -> anyhow::Result<()> {
        match self {
            Self::Json => say(serde_json::to_string_pretty(value)?),
            Self::Table => say(text()),
        }
    }
}

/// Prints a line to stdout.
pub(crate) fn say(line: impl Display) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}

/// A word as a shell takes it: in quotes where it needs them.
pub(crate) fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:,@%=".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.into();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// `1 topic`, `2,000 topics`.
pub(crate) fn counted(n: u64, what: &str) -> String {
    format!("{} {what}{}", count(n), if n == 1 { "" } else { "s" })
}

/// Columns aligned: numbers to the right.
pub(crate) fn table(columns: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(columns);
    let rows: Vec<Vec<String>> = rows.into_iter().collect();
    let is_number = |cell: &String| cell.is_empty() || cell.chars().all(|c| c.is_ascii_digit() || "., %-".contains(c));
    for (i, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if rows.iter().filter_map(|row| row.get(i)).all(is_number) {
            column.set_cell_alignment(comfy_table::CellAlignment::Right);
        }
    }
    table.add_rows(rows);
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// `1234567` as `1,234,567`.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align() {
        let rows = [vec!["orders".into(), "12".into()], vec!["x".into(), "1,000".into()]];
        insta::assert_snapshot!(table(&["TOPIC", "COUNT"], rows), @r"
        TOPIC   COUNT
        orders     12
        x       1,000
        ");
    }

    #[test]
    fn words_are_quoted_for_a_shell() {
        let all = ["a/b-1.toml", "my dir", "it's", "", "$HOME"].map(quoted);
        assert_eq!(all, ["a/b-1.toml", "'my dir'", r"'it'\''s'", "''", "'$HOME'"]);
    }

    #[test]
    fn counts_have_separators() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0, 1, 1000].map(|n| counted(n, "record")), ["0 records", "1 record", "1,000 records"]);
    }
}
