//! Where the state of containers is kept.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use hiber_sandbox::error::plain;

/// The circumstances of the choice. The kernel is asked only where the answer matters.
#[derive(Debug, Clone)]
pub(crate) struct Surroundings {
    /// The effective user id.
    pub euid: fn() -> u32,
    /// Whether this process is in a user namespace other than the initial one.
    pub in_user_namespace: fn() -> bool,
    /// `$USER`
    pub user: Option<std::ffi::OsString>,
    /// `$XDG_RUNTIME_DIR`
    pub xdg_runtime_dir: Option<PathBuf>,
    /// The working directory; fails if it is gone.
    pub cwd: fn() -> io::Result<PathBuf>,
}

impl Surroundings {
    /// Those of this process.
    pub(crate) fn of_this_process() -> Self {
        Self {
            euid: || rustix::process::geteuid().as_raw(),
            in_user_namespace: hiber_sandbox::in_user_namespace,
            user: std::env::var_os("USER"),
            xdg_runtime_dir: std::env::var_os("XDG_RUNTIME_DIR").filter(|d| !d.is_empty()).map(PathBuf::from),
            cwd: std::env::current_dir,
        }
    }

    /// The path from the working directory.
    fn absolute(&self, path: &Path) -> Result<PathBuf, String> {
        match path.is_absolute() {
            true => Ok(clean(path)),
            false => (self.cwd)().map(|cwd| clean(&cwd.join(path))).map_err(|e| e.to_string()),
        }
    }

    /// Whether the caller is somebody else than the machine's root: root in a user namespace counts
    /// as such unless `$USER` says root, as with runc.
    fn is_rootless(&self) -> bool {
        (self.euid)() != 0 || (self.user.as_deref() != Some(OsStr::new("root")) && (self.in_user_namespace)())
    }
}

/// The directory of all containers' state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Root {
    /// Absolute, without `.` and `..`.
    pub path: PathBuf,
    /// How it was chosen.
    pub origin: Origin,
}

/// How the directory was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// By `--root`; one that does not exist is an error to `list`.
    Flag,
    /// `/run/hiber`
    Default,
    /// Below `$XDG_RUNTIME_DIR`: it must be made sticky, see [`Root::prepare`].
    Xdg,
}

impl Root {
    /// Makes a directory below `$XDG_RUNTIME_DIR` and sets its sticky bit, which keeps the automatic
    /// cleaning of that directory away from it (XDG Base Directory Specification). Others are left alone.
    ///
    /// # Errors
    /// If it cannot be made or changed.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        if self.origin != Origin::Xdg {
            return Ok(());
        }
        let explain = |what: &str, e: io::Error| {
            io::Error::new(
                e.kind(),
                format!("{what} {} in $XDG_RUNTIME_DIR: {}", self.path.display(), plain(&e)),
            )
        };
        let mut all = std::fs::DirBuilder::new();
        all.recursive(true).mode(0o700);
        all.create(&self.path).map_err(|e| explain("cannot make", e))?;
        std::fs::set_permissions(&self.path, std::fs::Permissions::from_mode(0o1700))
            .map_err(|e| explain("cannot change", e))
    }
}

impl Root {
    /// Refuses the default directory, in which only root makes containers, to others, who have no `$XDG_RUNTIME_DIR` then.
    ///
    /// # Errors
    /// If the directory is that one, and can be neither made nor written to.
    pub(crate) fn admits(&self, euid: u32) -> Result<(), String> {
        let writable = |path: &Path| rustix::fs::access(path, rustix::fs::Access::WRITE_OK);
        let first_there = || self.path.ancestors().find(|path| path.exists());
        if self.origin != Origin::Default
            || euid == 0
            || first_there().is_some_and(|path| writable(path).is_ok())
        {
            return Ok(());
        }
        Err(format!(
            "no place for the state of containers: only root writes to {}; set XDG_RUNTIME_DIR to a directory of your own, or give \
             one by --root",
            self.path.display()
        ))
    }
}

/// The directory to use: `given` by `--root`, or the default.
///
/// # Errors
/// If it would be `/`, in runc's words; a relative one, if the working directory is gone.
pub(crate) fn resolve(given: Option<&Path>, around: &Surroundings) -> Result<Root, String> {
    match (given, &around.xdg_runtime_dir) {
        (Some(given), _) => {
            let path = around.absolute(given)?;
            if path == Path::new("/") {
                return Err("Option --root argument should not be set to /".into());
            }
            Ok(Root { path, origin: Origin::Flag })
        }
        (None, Some(xdg)) if around.is_rootless() => {
            Ok(Root { path: around.absolute(&xdg.join("hiber"))?, origin: Origin::Xdg })
        }
        _ => Ok(Root { path: "/run/hiber".into(), origin: Origin::Default }),
    }
}

/// An absolute path without `.` and `..`, by its text alone, as Go's filepath.Clean does it.
fn clean(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::from("/"), |mut clean, component| {
        match component {
            Component::ParentDir => {
                clean.pop();
            }
            Component::Normal(name) => clean.push(name),
            _ => {}
        }
        clean
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around(euid: u32, in_user_namespace: bool, user: Option<&str>, xdg: Option<&str>) -> Surroundings {
        Surroundings {
            euid: if euid == 0 { || 0 } else { || 7 },
            in_user_namespace: if in_user_namespace { || true } else { || false },
            user: user.map(Into::into),
            xdg_runtime_dir: xdg.map(Into::into),
            cwd: || Ok("/here".into()),
        }
    }

    #[test]
    fn defaults() {
        let default = |around| resolve(None, &around).map(|r| (r.path, r.origin));
        let run = Ok((PathBuf::from("/run/hiber"), Origin::Default));
        let xdg = Ok((PathBuf::from("/run/user/7/hiber"), Origin::Xdg));
        assert_eq!(default(around(0, false, None, Some("/run/user/0"))), run, "the machine's root");
        assert_eq!(default(around(7, false, None, Some("/run/user/7"))), xdg);
        assert_eq!(default(around(7, false, None, None)), run);
        assert_eq!(default(around(0, true, None, Some("/run/user/7"))), xdg);
        assert_eq!(default(around(0, true, Some("me"), Some("/run/user/7"))), xdg);
        assert_eq!(default(around(0, true, Some("root"), Some("/run/user/7"))), run);
    }

    #[test]
    fn this_process() {
        let me = Surroundings::of_this_process();
        assert_eq!((me.euid)(), rustix::process::geteuid().as_raw());
        assert_eq!((me.cwd)().unwrap(), std::env::current_dir().unwrap());
        assert!(resolve(None, &me).is_ok_and(|root| root.path.ends_with("hiber")));
    }

    #[test]
    fn given_roots_are_absolute_and_not_the_filesystems() {
        let around = around(0, false, None, None);
        let given = |path: &str| resolve(Some(Path::new(path)), &around).map(|r| r.path);
        assert_eq!(given("state/./x/../y"), Ok("/here/state/y".into()));
        assert_eq!(given("/a//b/"), Ok("/a/b".into()));
        assert_eq!(given("../../../srv"), Ok("/srv".into()));
        assert_eq!(given(""), Ok("/here".into()));
        for root in ["/", "/..", "..", "../../.."] {
            assert!(given(root).is_err_and(|e| e.contains("--root")), "{root}");
        }
        let lost = Surroundings { cwd: || Err(io::Error::from_raw_os_error(2)), ..around };
        assert!(resolve(Some(Path::new("/a")), &lost).is_ok());
        assert!(resolve(Some(Path::new("a")), &lost).is_err());
    }

    #[test]
    fn only_the_xdg_directory_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("xdg/hiber");
        Root { path: path.clone(), origin: Origin::Flag }.prepare().unwrap();
        assert!(!path.exists());
        Root { path: path.clone(), origin: Origin::Xdg }.prepare().unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o1700);
    }
}
