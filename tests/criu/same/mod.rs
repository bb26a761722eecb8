//! A restored process is the same process, or docs/limits.md says what differs: each property of one is a row of
//! [`rows`], and an entry of the C program beside this file, which reads it from inside.
//!
//! To add one: an entry in a table of `same/AREA.c`, a row in `same/rows/AREA.rs`, then
//! `HIBER_WRITE=1 cargo test -p hiber-tests --test criu same::docs` for the table in docs/limits.md.
//! `HIBER_ROWS=AREA/` or a part of a name runs these alone, for runc and crun, too (`same::peers`, with `--ignored`).

mod docs;
mod peers;
mod row;
mod rows;
mod run;
