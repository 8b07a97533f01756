//! Tables for people: columns parted by spaces, a line per row, 100 columns at most. The first
//! column names the row and is never shortened.

use std::io::{self, Write};

/// Widest table, terminal or not, so that what is pasted elsewhere looks the same.
pub const MAX_WIDTH: usize = 100;
const GAP: usize = 2;
/// A column is not made narrower than this for others' sake.
const MIN_COLUMN: usize = 8;

/// Rows under a header.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with only its header.
    pub fn new(header: &[&str]) -> Self {
        Self {
            rows: vec![header.iter().map(ToString::to_string).collect()],
        }
    }

    /// Adds a row; characters that would move the cursor are replaced.
    pub fn row(&mut self, cells: Vec<String>) {
        let clean = |cell: String| cell.replace(|c: char| c.is_control(), "\u{fffd}");
        self.rows.push(cells.into_iter().map(clean).collect());
    }

    /// Writes it. Cells that do not fit end in `…`.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let widths = self.widths();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let cell = shortened(cell, *width);
                line.push_str(&format!("{cell:<width$}{:GAP$}", ""));
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }

    /// What each column needs, the widest ones shortened until all fit.
    fn widths(&self) -> Vec<usize> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let mut widths: Vec<usize> = (0..columns)
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
            })
            .collect();
        let room = MAX_WIDTH.saturating_sub(GAP * columns.saturating_sub(1));
        while widths.iter().sum::<usize>() > room {
            match widths.iter_mut().skip(1).max() {
                Some(widest) if *widest > MIN_COLUMN => *widest -= 1,
                _ => break,
            }
        }
        widths
    }
}

fn shortened(cell: &str, width: usize) -> String {
    if cell.chars().count() <= width {
        return cell.to_owned();
    }
    let kept: String = cell.chars().take(width.saturating_sub(1)).collect();
    kept + "…"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(table: &Table) -> String {
        let mut out = Vec::new();
        table.write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn columns_line_up_and_lines_end_without_spaces() {
        let mut table = Table::new(&["ID", "NAME", "STATE"]);
        table.row(vec!["1".into(), "a-long-name".into(), "ready".into()]);
        table.row(vec!["22".into(), "b".into(), String::new()]);
        assert_eq!(
            text(&table),
            "ID  NAME         STATE\n1   a-long-name  ready\n22  b\n"
        );
    }

    #[test]
    fn what_is_too_wide_is_shortened_from_the_widest_column_on() {
        let mut table = Table::new(&["ID", "NAME", "NETWORK"]);
        table.row(vec!["a".repeat(16), "n".repeat(63), "w".repeat(63)]);
        let text = text(&table);
        assert!(
            text.lines().all(|line| line.chars().count() <= MAX_WIDTH),
            "{text}"
        );
        assert!(text.contains(&"a".repeat(16)));
        assert_eq!(text.matches('…').count(), 2);
    }

    #[test]
    fn a_cell_cannot_move_the_cursor() {
        let mut table = Table::new(&["NAME"]);
        table.row(vec!["a\u{1b}[2Jb\nc".into()]);
        assert_eq!(text(&table), "NAME\na\u{fffd}[2Jb\u{fffd}c\n");
    }
}
