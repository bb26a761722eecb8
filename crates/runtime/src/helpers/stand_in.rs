//! This program under the names of programs that CRIU runs: it does what it can do better or alone, and else becomes the real one.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use hiber_criu::Launch;

use crate::error::Result;
use crate::host::links::Links;

/// Has CRIU find this program where it looks for those of these `names`, as long as the links live.
pub(crate) fn be(launch: &mut Launch<'_>, directory: &Path, names: &[&str]) -> Result<Links> {
    // The program that runs, whatever has become of its file.
    let program = PathBuf::from(format!("/proc/{}/exe", std::process::id()));
    let links = names.iter().map(|name| ((*name).to_owned(), program.clone()));
    let links = Links::make(directory.join("programs"), links)?;
    launch.programs(links.path());
    Ok(links)
}

/// In a program that CRIU has found so: the directory of the links, the first in which it looks.
pub(super) fn directory() -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).next()
}

/// Becomes the real program of this name, with the arguments that `prepare` gives it; ends if there is none.
pub(super) fn become_real(name: &str, prepare: impl FnOnce(&mut Command)) -> ! {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let others: Vec<PathBuf> = std::env::split_paths(&path).skip(1).collect();
    let path = std::env::join_paths(others).unwrap_or_default();
    let mut command = Command::new(name);
    prepare(&mut command);
    let error = command.env("PATH", path).exec();
    let _ = writeln!(std::io::stderr(), "{name}: {error}");
    std::process::exit(127);
}
