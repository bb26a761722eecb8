//! Networks of one's own: `same/networks.c`.

use super::super::row::Row;

pub(in super::super) const ROWS: &[Row] = &[];
