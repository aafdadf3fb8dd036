//! What people and programs read: text, tables, JSON on stdout; errors on stderr.

use std::{
    fmt::Display,
    io::{self, Write as _},
};

use serde::Serialize;

/// One line on stdout.
pub(super) fn line(text: impl Display) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{text}")
}

/// One line on stderr. Where even that fails there is nobody left to tell.
pub(super) fn complain(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A value for programs.
pub(super) fn json(value: &impl Serialize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)
}

/// Columns for people.
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these titles; empty titles make no line.
    pub(super) fn new<const N: usize>(titles: [&str; N]) -> Self {
        let titles: Vec<_> = titles.iter().map(|&title| title.to_owned()).collect();
        let rows = if titles.iter().all(String::is_empty) { Vec::new() } else { vec![titles] };
        Self { rows }
    }

    /// One more row.
    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        // One row is one line, whatever the cell holds.
        self.rows.push(cells.map(|cell| cell.replace(char::is_control, " ")).to_vec());
    }

    /// The lines, columns aligned.
    pub(super) fn lines(&self) -> Vec<String> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let written = |row: &Vec<String>| {
            let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            cells.join("  ").trim_end().to_owned()
        };
        self.rows.iter().map(written).collect()
    }

    /// Prints it.
    pub(super) fn print(&self) -> io::Result<()> {
        self.lines().into_iter().try_for_each(line)
    }
}

/// A cell for what may be missing.
pub(super) fn or_dash(value: Option<impl Display>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| value.to_string())
}

/// A moment, to the second.
pub(super) fn moment(at: chrono::DateTime<chrono::Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_a_row_is_one_line() {
        let mut table = Table::new(["a", "title"]);
        table.row(["größer".into(), "x\ny".into()]);
        table.row(["1".into(), String::new()]);
        assert_eq!(table.lines(), ["a       title", "größer  x y", "1"]);
    }
}
