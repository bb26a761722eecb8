//! The commands that documents show, run as a reader runs them: word for word, in order, at a terminal.

use crate::command::{self, Output};
use crate::{pty, tools, wait_for};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A comment that says what the command before it prints.
const PRINTS: &str = "# prints ";
/// Where documents install programs.
const INSTALLED: &str = "/usr/local/bin";

/// A block of code in Markdown.
#[derive(Debug, Clone, Copy)]
pub struct Block<'a> {
    /// The words after the language in the opening line.
    pub note: &'a str,
    /// The lines between the fences.
    pub text: &'a str,
}

/// The fenced blocks of `document` in this language, in their order.
///
/// # Panics
/// If a fence is not closed.
pub fn blocks<'a>(document: &'a str, language: &str) -> Vec<Block<'a>> {
    let mut lines = document.split_inclusive('\n').scan(0, |at, line| {
        *at += line.len();
        Some((*at, line))
    });
    let mut found = Vec::new();
    while let Some((start, line)) = lines.next() {
        let Some(opening) = line.strip_prefix("```") else { continue };
        let (end, fence) = lines.find(|(_, line)| line.starts_with("```")).expect("a closed fence");
        let (kind, note) = opening.trim_end().split_once(' ').unwrap_or((opening.trim_end(), ""));
        if kind == language {
            found.push(Block { note, text: &document[start..end - fence.len()] });
        }
    }
    found
}

/// A reader's shell: a working directory with `hack/` in it, and a PATH that begins with the programs of the test.
#[derive(Debug)]
pub struct Reader {
    place: PathBuf,
    words: Vec<(String, String)>,
}

impl Reader {
    /// Makes the directory. Its `hack/` has `build`, `criu` and `rootfs`, which print what the harness has already; programs
    /// that a document installs in /usr/local/bin go to a directory of its own.
    ///
    /// # Panics
    /// If the directory cannot be made, or the harness has no such programs.
    #[track_caller]
    pub fn new(place: &Path) -> Self {
        let reader = Self { place: place.to_owned(), words: Vec::new() };
        for directory in ["hack", "programs", "installed", "work"] {
            fs::create_dir_all(place.join(directory)).unwrap_or_else(|e| panic!("{}: {e}", place.display()));
        }
        let path = |found: Result<&Path, &str>| found.unwrap_or_else(|e| panic!("{e}")).display().to_string();
        // The shim takes minutes to build: only for a document that asks for it.
        let build = tools::script("build").display().to_string();
        let shim = format!("[ -z \"$HIBER_SHIM\" ] && exec '{build}' --debug --shim; echo \"$HIBER_SHIM\"");
        let hiber = path(tools::hiber());
        reader.script("hack/build", &format!("[ \"$1\" != --shim ] && {{ echo '{hiber}'; exit; }}\n{shim}"));
        reader.script("hack/criu", &format!("echo '{}'", path(tools::criu())));
        reader
            .script("hack/rootfs", &format!("[ \"$1\" = redis ] && echo '{}'", path(tools::rootfs_redis())));
        std::os::unix::fs::symlink("../hack", place.join("work/hack"))
            .unwrap_or_else(|e| panic!("hack: {e}"));
        let installed = reader.installed("").display().to_string();
        reader.with(INSTALLED, installed.trim_end_matches('/'))
    }

    /// Where `name` lies once a document has installed it in /usr/local/bin.
    pub fn installed(&self, name: &str) -> PathBuf {
        self.place.join("installed").join(name)
    }

    /// Replaces a word of the documents, such as a container's name that other tests could have, too.
    #[must_use]
    pub fn with(mut self, word: &str, by: &str) -> Self {
        self.words.push((word.to_owned(), by.to_owned()));
        self
    }

    /// Has the shell find `script` under this name before any other program.
    pub fn program(&self, name: &str, script: &str) {
        self.script(&format!("programs/{name}"), script);
    }

    fn script(&self, path: &str, text: &str) {
        let path = self.place.join(path);
        fs::write(&path, format!("#!/bin/sh\n{text}\n"))
            .and_then(|()| fs::set_permissions(&path, PermissionsExt::from_mode(0o755)))
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }

    /// `text` with the words of this reader.
    pub fn read(&self, text: &str) -> String {
        self.words.iter().fold(text.to_owned(), |text, (word, by)| text.replace(word, by))
    }

    /// Runs a block to its end or to its first command that fails. Standard output and error are the terminal.
    ///
    /// # Panics
    /// If there is no terminal.
    #[track_caller]
    pub fn run(&self, block: &str) -> Output {
        let script = self.read(block);
        let (master, slave) = pty::open();
        let stream = || slave.try_clone().unwrap_or_else(|e| panic!("a terminal: {e}"));
        let mut command = Command::new("setsid");
        // It need not fork, for it leads no process group; busybox's has no longer options.
        command.args(["-c", "sh", "-ec", &script]).current_dir(self.place.join("work"));
        command.stdin(stream()).stdout(stream()).stderr(stream());
        command.env("PATH", self.path()).env_remove("HIBER_CRIU").env("TERM", "xterm");
        drop(slave);
        let reader = std::thread::spawn(move || {
            let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
            // EIO: nobody has the other side open any more
            while let Ok(count @ 1..) = rustix::io::read(&master, &mut buffer) {
                all.extend_from_slice(&buffer[..count]);
            }
            String::from_utf8_lossy(&all).replace("\r\n", "\n")
        });
        let mut output = command::run_detached(command, Path::new("/dev/null"));
        wait_for("everybody to leave the terminal", || reader.is_finished());
        output.stdout = reader.join().unwrap_or_default();
        output.stderr.clone_from(&output.stdout);
        output
    }

    /// As [`run`](Self::run); every command must succeed and print what the comments say.
    ///
    /// # Panics
    /// Otherwise.
    #[track_caller]
    pub fn follow(&self, block: &str) {
        let output = self.run(block);
        let printed = output.ok();
        let script = self.read(block);
        for words in script.lines().filter_map(|line| Some(line.split_once(PRINTS)?.1)) {
            assert!(printed.contains(words), "{words:?} was not printed: {output}");
        }
    }

    fn path(&self) -> OsString {
        let own = [self.place.join("programs"), self.place.join("installed")];
        let rest = tools::path_with_criu();
        std::env::join_paths(own.into_iter().chain(std::env::split_paths(&rest))).unwrap_or(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_by_their_language() {
        let document = "a\n```sh\none\ntwo\n```\n```toml\nx\n```\n    ```sh\n```sh needs much\n\n```\n";
        let found: Vec<_> = blocks(document, "sh").iter().map(|b| (b.note, b.text)).collect();
        assert_eq!(found, [("", "one\ntwo\n"), ("needs much", "\n")]);
        assert_eq!(blocks(document, "toml")[0].text, "x\n");
    }
}
