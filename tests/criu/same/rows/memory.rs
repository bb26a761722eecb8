//! Memory: `same/memory.c`.

use super::super::row::Row;

pub(in super::super) const ROWS: &[Row] = &[];
