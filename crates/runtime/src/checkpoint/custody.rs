//! Whether anybody else can have a hand in a directory: what is in it, and who may change that.
//!
//! All is asked of the open directory. Where nobody else may write to it, what was found in it stays as it was found.

use std::os::fd::OwnedFd;
use std::path::Path;

use hiber_criu::{ImageDirectory, PARENT};
use rustix::fs::{FileType, Mode, OFlags, Stat};

use crate::error::{Error, Result};

/// CRIU's log of a dump.
pub(super) const DUMP_LOG: &str = "dump.log";

/// Bits of group and others that let them write.
const OTHERS_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;
/// The socket of a daemon of the user's own, which brings memory.
pub(crate) const LAZY_SOCKET: &str = "lazy-pages.socket";

/// Refuses what CRIU would follow out of a directory or wait for: nothing but [`PARENT`] is a link, and all else but
/// directories is a file.
pub(crate) fn check_kinds(dir: &ImageDirectory) -> Result<()> {
    each(dir, |name, stat| {
        let problem = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile | FileType::Directory => return Ok(()),
            FileType::Symlink if name == PARENT => return Ok(()),
            FileType::Socket if name == LAZY_SOCKET => return Ok(()),
            FileType::Symlink => "is a symbolic link; expected a file, for CRIU would follow it",
            _ => "is neither a file nor a directory",
        };
        Err(Error::File { path: dir.path().join(name), why: problem.into() })
    })
}

/// Nobody but root and the caller can have written the directory or a file in it, or may do so now.
pub(crate) fn check_writers(dir: &ImageDirectory) -> Result<(), String> {
    let refuse = |name: &str, why: String| {
        let path = if name.is_empty() { dir.path().into() } else { dir.path().join(name) };
        Err(format!("{}: {why}", path.display()))
    };
    let stat = dir.stat().map_err(|e| format!("{}: {e}", dir.path().display()))?;
    check_owner(&stat, OTHERS_WRITE).or_else(|why| refuse("", why))?;
    let mut problem = Ok(());
    let listed = each(dir, |name, stat| {
        // A parent is checked by itself.
        if problem.is_ok() && FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
            problem = check_owner(stat, OTHERS_WRITE).or_else(|why| refuse(name, why));
            if problem.is_ok() && stat.st_nlink > 1 {
                problem = refuse(
                    name,
                    "has another name elsewhere (a hard link), by which it can be changed".into(),
                );
            }
        }
        Ok(())
    });
    listed.map_err(|e| e.to_string()).and(problem)
}

/// A directory that the caller names for CRIU's log and other files: nobody may have put a link there, through which root
/// would write. In a directory like /tmp the kernel itself follows no links of others (fs.protected_symlinks).
pub(super) fn check_work(dir: &ImageDirectory) -> Result<()> {
    let refuse = |why| Err(Error::File { path: dir.path().into(), why });
    let stat = dir.stat().map_err(|e| Error::file(dir.path(), &e))?;
    let allowed = if stat.st_mode & STICKY == 0 { OTHERS_WRITE } else { 0 };
    check_owner(&stat, allowed).or_else(|why| refuse(format!("cannot be the work directory: {why}")))?;
    for name in [DUMP_LOG, "restore.log", "stats-dump", "stats-restore"] {
        let link = |stat: Stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
        if dir.stat_of(name).is_ok_and(link) {
            let why = "is a symbolic link; expected a file or nothing, for CRIU writes there";
            return Err(Error::File { path: dir.path().join(name), why: why.into() });
        }
    }
    Ok(())
}

/// Opens a configuration file of CRIU's, whose settings win over ours and name programs that run as root: it must be the
/// caller's or root's alone.
pub(super) fn open_config(path: &Path) -> Result<OwnedFd> {
    let fail = |why: String| Error::File { path: path.into(), why: format!("cannot configure CRIU: {why}") };
    // Nobody waits for a FIFO.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty())
        .map_err(|e| fail(hiber_sandbox::error::plain(&e.into())))?;
    let stat = rustix::fs::fstat(&file).map_err(|e| Error::file(path, &e.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(fail("is not a file".into()));
    }
    check_owner(&stat, OTHERS_WRITE).map_err(fail)?;
    Ok(file)
}

fn check_owner(stat: &Stat, forbidden: u32) -> Result<(), String> {
    let own = rustix::process::geteuid().as_raw();
    if stat.st_uid != 0 && stat.st_uid != own {
        return Err(format!("belongs to user {}, who can change it", stat.st_uid));
    }
    if stat.st_mode & forbidden != 0 {
        return Err(format!("others can write to it (mode {:o})", stat.st_mode & 0o7777));
    }
    Ok(())
}

fn each(dir: &ImageDirectory, mut look: impl FnMut(&str, &Stat) -> Result<()>) -> Result<()> {
    for name in dir.names()? {
        match dir.stat_of(&name) {
            Ok(stat) => look(&name, &stat)?,
            // A daemon of the user's own takes its socket away when it will.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::file(&dir.path().join(&name), &e)),
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "custody_tests.rs"]
mod tests;
