//! Finding the criu program.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{Access, access};

use crate::error::{CriuError, Result};

/// The environment variable that names the program.
pub const ENV_VAR: &str = "HIBER_CRIU";

/// The versions that work, in errors: the kernel refuses an option of sockets that older ones ask for (SO_PASSCRED, 7d8d93fdde50).
const NEEDED: &str = "CRIU 3.17 or later (4.2 or later on Linux 6.16 and later)";

/// The name of a program that the environment variable names, in errors.
const IN_ENVIRONMENT: &str = "$HIBER_CRIU";

/// Where to look besides PATH, for CRIU and for CRIU to find iptables-restore and ip: what starts a
/// container runtime often has an empty environment.
const EXTRA_DIRS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// A criu program on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Criu {
    path: PathBuf,
}

impl Criu {
    /// Finds the program: `path` if given, else what the environment variable HIBER_CRIU names, else
    /// `criu` in PATH and in the usual directories for system programs.
    ///
    /// # Errors
    /// [`CriuError::NotFound`] if there is none, or if the named one is no executable file.
    pub fn find(path: Option<&Path>) -> Result<Self> {
        let named = match path {
            Some(path) => Some((path.into(), "the criu that was asked for")),
            None => {
                env::var_os(ENV_VAR).filter(|v| !v.is_empty()).map(|v| (PathBuf::from(v), IN_ENVIRONMENT))
            }
        };
        match named {
            Some((path, who)) => Self::named(path, who),
            None => Self::in_dirs(&search_path(env::var_os("PATH"))),
        }
    }

    fn named(path: PathBuf, who: &str) -> Result<Self> {
        let Err(problem) = executable(&path) else { return Ok(Self { path }) };
        let remedy = if who == IN_ENVIRONMENT {
            format!("set HIBER_CRIU to the path of {NEEDED}, or unset it, and PATH is searched")
        } else {
            format!("give the path of {NEEDED}, or none, and PATH is searched")
        };
        Err(CriuError::NotFound { why: format!("{who}, {}: {problem}", path.display()), remedy })
    }

    fn in_dirs(dirs: &OsStr) -> Result<Self> {
        env::split_paths(dirs)
            .map(|dir| dir.join("criu"))
            .find(|path| executable(path).is_ok())
            .map(|path| Self { path })
            .ok_or_else(|| {
                let dirs = dirs.to_string_lossy();
                CriuError::NotFound {
                    why: format!("no program of that name in {dirs}, and ${ENV_VAR} is not set"),
                    remedy: format!("install {NEEDED}, or set {ENV_VAR} to its path"),
                }
            })
    }

    /// The program's path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The output of `criu check`, which tells whether the program works here. In a session CRIU 3 cuts its complaints about the
/// kernel short.
pub(crate) fn complaint(criu: &Path) -> String {
    let output = Command::new(criu)
        .arg("check")
        .env("PATH", search_path(env::var_os("PATH")))
        .stdin(Stdio::null())
        .output();
    output.map(|o| String::from_utf8_lossy(&o.stderr).into_owned()).unwrap_or_default()
}

/// Where CRIU finds a program that it runs: in PATH, or in the usual directories for system programs.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let dirs = search_path(env::var_os("PATH"));
    env::split_paths(&dirs).map(|dir| dir.join(name)).find(|path| executable(path).is_ok())
}

/// PATH with the usual directories for system programs after what it has already.
pub(crate) fn search_path(path: Option<OsString>) -> OsString {
    let mut all = path.unwrap_or_default();
    for dir in EXTRA_DIRS {
        if env::split_paths(&all).any(|known| known == Path::new(dir)) {
            continue;
        }
        if !all.is_empty() {
            all.push(OsStr::from_bytes(b":"));
        }
        all.push(dir);
    }
    all
}

fn executable(path: &Path) -> std::result::Result<(), String> {
    let is_file = path.metadata().map_err(|e| e.to_string())?.is_file();
    if !is_file {
        return Err("not a file".into());
    }
    access(path, Access::EXEC_OK).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn program(dir: &Path, mode: u32) -> PathBuf {
        let path = dir.join("criu");
        std::fs::write(&path, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn a_named_program_must_be_executable() {
        let dir = tempfile::tempdir().unwrap();
        let path = program(dir.path(), 0o755);
        assert_eq!(Criu::find(Some(&path)).unwrap().path(), path);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let e = Criu::find(Some(&path)).unwrap_err().to_string();
        assert!(e.contains("the criu that was asked for") && e.contains("ermission denied"), "{e}");
        let e = Criu::find(Some(dir.path())).unwrap_err().to_string();
        assert!(e.contains("not a file"), "{e}");
        let none = dir.path().join("none");
        let e = Criu::find(Some(&none)).unwrap_err().to_string();
        assert!(e.contains("No such file"), "{e}");
        assert!(e.ends_with(&format!("; give the path of {NEEDED}, or none, and PATH is searched")), "{e}");
        let e = Criu::named(none, IN_ENVIRONMENT).unwrap_err().to_string();
        assert!(e.starts_with("criu not found: $HIBER_CRIU, "), "{e}");
        assert!(e.contains(&format!("; set HIBER_CRIU to the path of {NEEDED}, or unset it")), "{e}");
    }

    #[test]
    fn directories_are_searched_in_order() {
        let (empty, first, second) =
            (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let expected = program(first.path(), 0o755);
        program(second.path(), 0o755);
        let dirs = env::join_paths([empty.path(), first.path(), second.path()]).unwrap();
        assert_eq!(Criu::in_dirs(&dirs).unwrap().path(), expected);
        let e = Criu::in_dirs(empty.path().as_os_str()).unwrap_err().to_string();
        assert!(
            e.starts_with("criu not found: no program")
                && e.contains(&format!("install {NEEDED}, or set HIBER_CRIU")),
            "{e}"
        );
    }

    #[test]
    fn the_search_path_has_system_directories_once() {
        assert_eq!(search_path(None), "/usr/sbin:/sbin:/usr/bin:/bin");
        assert_eq!(search_path(Some("/opt:/sbin".into())), "/opt:/sbin:/usr/sbin:/usr/bin:/bin");
    }
}
