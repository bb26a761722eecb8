//! The table of docs/limits.md, made from the rows.

use std::fs;

use super::row::{Expect, Peer, Row};
use super::rows;
use hiber_tests::prelude::*;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/limits.md");
const BEGIN: &str = "<!-- same -->\n";
const END: &str = "<!-- end of same -->";

/// The outcome of a property with hiber, in a table's cell.
fn outcome(row: &Row) -> String {
    match row.expect {
        Expect::Criu => "kept by CRIU".to_owned(),
        Expect::Hiber => "kept by hiber".to_owned(),
        Expect::Refused { check, .. } => format!("refused: `{check}`"),
        Expect::Differs(words) => format!("**differs**: {words}"),
    }
}

fn peer(peer: Peer) -> &'static str {
    match peer {
        Peer::Kept => "kept",
        Peer::Lost => "lost",
        Peer::Fails => "fails",
    }
}

fn line(row: &Row) -> String {
    let flags: String = row.flags.iter().map(|flag| format!(", with `{flag}`")).collect();
    let [runc, crun] = row.peers_do().map(peer);
    format!("| {} | {} | {}{flags} | {runc} | {crun} |\n", row.name.replace('-', " "), row.read, outcome(row))
}

fn tables() -> String {
    let all = rows::AREAS.iter().filter(|(_, _, rows)| !rows.is_empty()).map(|(_, heading, rows)| {
        let lines: String = rows.iter().map(line).collect();
        format!(
            "\n### {heading}\n\n| property | read by | hiber | runc | crun |\n|---|---|---|---|---|\n{lines}"
        )
    });
    all.collect()
}

/// `HIBER_WRITE=1` writes the table.
#[test]
fn the_documentation_shows_these_rows() {
    require!(Repository);
    let text = fs::read_to_string(PATH).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (table, after) = rest.split_once(END).unwrap();
    if std::env::var_os("HIBER_WRITE").is_some() {
        fs::write(PATH, format!("{before}{BEGIN}{}\n{END}{after}", tables())).unwrap();
        return;
    }
    assert!(table == format!("{}\n", tables()), "docs/limits.md has another table than HIBER_WRITE=1 writes");
}
