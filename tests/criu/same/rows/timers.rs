//! Timers and clocks: `same/timers.c`.

use super::super::row::Row;

pub(in super::super) const ROWS: &[Row] = &[];
