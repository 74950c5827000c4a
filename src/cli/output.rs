//! Tables for people, JSON for machines: the same rows.

use serde::Serialize;

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// Aligned columns.
    Table,
    /// One JSON document.
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
            Self::Table => {
                println!("{}", table(R::COLUMNS, rows.iter().map(Row::cells)));
                Ok(())
            }
        }
    }

    /// Prints one value: JSON, or the text made for people.
    pub(crate) fn value(self, value: &impl Serialize, text: impl FnOnce() -> String) -> anyhow::Result<()> {
        match self {
            Self::Json => println!("{}", serde_json::to_string_pretty(value)?),
            Self::Table => println!("{}", text()),
        }
        Ok(())
    }
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
    fn counts_have_separators() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
    }
}
