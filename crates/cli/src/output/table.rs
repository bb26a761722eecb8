//! Tables for people.

use std::fmt::Write;

/// Columns at least 12 wide and 3 apart, the last one as it is.
pub(crate) fn table<const N: usize>(rows: &[[impl AsRef<str>; N]]) -> String {
    let width = |column: usize| {
        rows.iter().map(|r| r[column].as_ref().chars().count() + 3).max().unwrap_or(0).max(12)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        for (cell, width) in row.iter().zip(widths).take(N - 1) {
            let _ = write!(text, "{:width$}", cell.as_ref());
        }
        let _ = writeln!(text, "{}", row[N - 1].as_ref());
    }
    text
}
