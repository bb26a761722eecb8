//! Commands in README.md and docs/ that no test runs are at least understood.

use std::path::Path;

use super::good;

/// The command of a line in a block, if it is a plain one: without comment and pipe. Lines for the shell, which tests run, and
/// summaries of options are none.
fn command(line: &str) -> Option<&str> {
    let line = line.strip_prefix("    ").unwrap_or(line);
    let command = line.strip_prefix("hiber ")?.split(['#', '|']).next()?.trim();
    let plain = !command.contains(['$', '[', '"', '\'', '\\', '<', '>', '&', '…']);
    plain.then_some(command)
}

#[test]
fn commands_of_the_documents_are_understood() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let pages = std::fs::read_dir(top.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let pages = pages.filter(|path| path.extension().is_some_and(|ending| ending == "md"));
    let mut found = 0;
    for page in pages.chain([top.join("README.md"), top.join("crates/cli/README.md")]) {
        let text = std::fs::read_to_string(&page).unwrap();
        let mut in_block = false;
        for line in text.lines() {
            in_block ^= line.starts_with("```");
            let indented = line.starts_with("    ");
            let Some(command) = command(line).filter(|_| in_block || indented) else { continue };
            good(command);
            found += 1;
        }
    }
    assert!(found > 25, "the documents have lost their commands: {found}");
}

#[test]
fn every_kind_of_event_is_in_the_documents() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/runc-differences.md");
    let text = std::fs::read_to_string(&page).unwrap();
    let part = text.split("\n- `events` ends").nth(1).unwrap().split("\n- ").next().unwrap();
    // serde's error names all kinds that there are
    let error = serde_json::from_str::<hiber::Lifecycle>(r#"{"type": "?"}"#).unwrap_err().to_string();
    let kinds: Vec<_> = error.split('`').skip(3).step_by(2).chain(["exit", "deleted"]).collect();
    assert!(kinds.len() > 12, "{error}");
    for kind in kinds {
        assert!(part.contains(&format!("`{kind}`")), "{kind}: {part}");
    }
}
