//! Finding the program and executing it.

use std::convert::Infallible;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags};
use rustix::io::Errno;

use crate::plan::ProcessPlan;
use crate::{Error, Result, SysError};
use hiber_sys::process;

/// A program that was found, with its arguments and environment.
pub(super) struct Program {
    path: CString,
    argv: Vec<CString>,
    env: Vec<CString>,
}

impl Program {
    /// Looks `process.args[0]` up as a shell would, with the container's PATH and as the container's user.
    pub(super) fn find(process: &ProcessPlan, home: &str) -> Result<Self> {
        let env = environment(&process.env, home);
        let name = process.args.first().map(String::as_str).unwrap_or_default();
        let path = if name.contains('/') {
            let path = PathBuf::from(name);
            usable(&path).map_err(|e| failure(name, &format!("stat {name}: {}", text(e)), e))?;
            path
        } else {
            let variable = env.iter().find_map(|e| e.strip_prefix("PATH=")).unwrap_or_default();
            search(name, variable)?
        };
        let c_strings = |list: &[String]| -> Result<Vec<CString>> {
            list.iter().map(|s| c_string(s.as_bytes())).collect()
        };
        Ok(Self {
            path: c_string(path.as_os_str().as_bytes())?,
            argv: c_strings(&process.args)?,
            env: c_strings(&env)?,
        })
    }

    /// Its environment.
    pub(super) fn env(&self) -> &[CString] {
        &self.env
    }

    /// Executes the program.
    pub(super) fn exec(self) -> Result<Infallible> {
        Ok(process::execve(&self.path, &self.argv, &self.env)?)
    }
}

fn search(name: &str, variable: &str) -> Result<PathBuf> {
    let mut denied = None;
    for dir in variable.split(':') {
        let path = Path::new(if dir.is_empty() { "." } else { dir }).join(name);
        match usable(&path) {
            Ok(()) => return Ok(path),
            Err(e @ Errno::ACCESS) => denied = Some(e),
            Err(_) => {}
        }
    }
    match denied {
        Some(e) => Err(failure(name, &text(e), e)),
        None => Err(failure(name, "executable file not found in $PATH", Errno::NOENT)),
    }
}

/// Whether `path` is a file that this user may execute.
fn usable(path: &Path) -> Result<(), Errno> {
    let stat = rustix::fs::stat(path)?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory {
        return Err(Errno::ISDIR);
    }
    rustix::fs::accessat(rustix::fs::CWD, path, Access::EXEC_OK, AtFlags::EACCESS)
}

/// runc's and Go's wording, which clients look for.
fn failure(name: &str, why: &str, errno: Errno) -> Error {
    Error::Exec { name: name.to_owned(), why: why.to_owned(), errno: errno.raw_os_error() }
}

fn text(e: Errno) -> String {
    crate::error::errno_text(e.raw_os_error())
}

/// Later values win, and HOME is never missing.
fn environment(given: &[String], home: &str) -> Vec<String> {
    let mut env: Vec<String> = Vec::with_capacity(given.len() + 1);
    let key = |e: &str| e.split_once('=').map_or(e, |(k, _)| k).to_owned();
    for entry in given {
        match env.iter().position(|e| key(e) == key(entry)) {
            Some(at) => env[at].clone_from(entry),
            None => env.push(entry.clone()),
        }
    }
    match env.iter_mut().find(|e| key(e) == "HOME") {
        Some(entry) if entry == "HOME=" => *entry = format!("HOME={home}"),
        Some(_) => {}
        None => env.push(format!("HOME={home}")),
    }
    env
}

fn c_string(bytes: &[u8]) -> Result<CString> {
    CString::new(bytes).map_err(|_| SysError::new("execve", "a string with a NUL byte", libc::EINVAL).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_values_win_and_home_is_there() {
        let given = ["A=1", "B=2", "A=3"].map(String::from);
        assert_eq!(environment(&given, "/root"), ["A=3", "B=2", "HOME=/root"]);
        assert_eq!(environment(&["HOME=".to_owned()], "/x"), ["HOME=/x"]);
    }

    #[test]
    fn what_is_missing_is_said_in_the_words_that_clients_know() {
        let error = search("no-such-program", "/usr/bin:/bin").unwrap_err().to_string();
        assert_eq!(error, r#"exec: "no-such-program": executable file not found in $PATH"#);
        assert_eq!(usable(Path::new("/etc")), Err(Errno::ISDIR));
        assert_eq!(search("sh", "/nowhere:/bin").unwrap(), Path::new("/bin/sh"));
    }
}
