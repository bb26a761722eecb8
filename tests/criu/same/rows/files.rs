//! Descriptors and files: `same/files.c`.

use super::super::row::{Row, criu, refused};

pub(in super::super) const ROWS: &[Row] = &[
    criu("flock", "flock(2) of another opening").flags(&["--file-locks"]),
    refused("packet-pipe", "pipe2(2) with O_DIRECT", "packet-pipe", "pipe"),
];
