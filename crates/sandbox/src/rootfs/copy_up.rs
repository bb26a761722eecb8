//! `tmpcopyup`: fills a new tmpfs with the contents of the directory that it covers.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Uid};

use super::resolve::fd_path;
use crate::{Result, SysError};

/// Copies the contents of the covered directory `from` to the new tmpfs `to`. Others who share the directory may replace files
/// meanwhile, so each file is opened without waiting, and checked: a FIFO would block the reader.
pub(super) fn copy_up(from: impl AsFd, to: impl AsFd) -> Result<()> {
    let from = open(from, c".", OFlags::RDONLY | OFlags::DIRECTORY)?;
    let entries = Dir::read_from(&from).map_err(failed("getdents", c"."))?;
    for entry in entries {
        let entry = entry.map_err(failed("getdents", c"."))?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            copy(&open(&from, name, OFlags::PATH)?, &to, name)?;
        }
    }
    Ok(())
}

/// Copies `file` to `name` below `to`.
fn copy(file: &OwnedFd, to: impl AsFd, name: &CStr) -> Result<()> {
    let stat = rustix::fs::fstat(file).map_err(failed("fstat", name))?;
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    let kind = FileType::from_raw_mode(stat.st_mode);
    match kind {
        FileType::Directory => {
            rustix::fs::mkdirat(&to, name, mode).map_err(failed("mkdirat", name))?;
            copy_up(file, open(&to, name, OFlags::PATH | OFlags::DIRECTORY)?)?;
        }
        FileType::Symlink => {
            let link = rustix::fs::readlinkat(file, c"", Vec::new()).map_err(failed("readlinkat", name))?;
            rustix::fs::symlinkat(link, &to, name).map_err(failed("symlinkat", name))?;
        }
        FileType::RegularFile => {
            let source =
                rustix::fs::open(fd_path(file.as_fd()), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                    .map_err(failed("open", name))?;
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            let copy = rustix::fs::openat(&to, name, flags, mode).map_err(failed("openat", name))?;
            std::io::copy(&mut std::fs::File::from(source), &mut std::fs::File::from(copy))
                .map_err(|e| SysError::io("copy_file_range", name.to_string_lossy(), &e))?;
        }
        _ => return Ok(()),
    }
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(&to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(failed("fchownat", name))?;
    if kind != FileType::Symlink {
        // Again, for the umask and for the set-id bits that chown took.
        rustix::fs::chmodat(&to, name, mode, AtFlags::empty()).map_err(failed("fchmodat", name))?;
    }
    Ok(())
}

fn open(dir: impl AsFd, name: &CStr, flags: OFlags) -> Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty()).map_err(failed("openat", name))?)
}

fn failed(call: &'static str, name: &CStr) -> impl FnOnce(rustix::io::Errno) -> SysError {
    let name = name.to_string_lossy().into_owned();
    move |e| SysError::new(call, name, e.raw_os_error())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{TryRecvError, channel};
    use std::time::Duration;

    use rustix::fs::{CWD, RenameFlags, mknodat, renameat_with};

    use super::*;

    #[test]
    fn a_fifo_that_takes_a_files_place_holds_nobody_up() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (file, fifo) = (from.path().join("file"), from.path().join("fifo"));
        std::fs::write(&file, "text").unwrap();
        mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        let (stop, stopped) = channel::<()>();
        let exchanger = std::thread::spawn(move || {
            while stopped.try_recv() != Err(TryRecvError::Disconnected) {
                renameat_with(CWD, &file, CWD, &fifo, RenameFlags::EXCHANGE).unwrap();
            }
        });
        let (done, copied) = channel();
        let path = from.path().to_owned();
        // Left behind where it waits for ever.
        std::thread::spawn(move || {
            let from = std::fs::File::open(path).unwrap();
            for _ in 0..2000 {
                for name in ["file", "fifo"] {
                    let _ = std::fs::remove_file(to.path().join(name));
                }
                copy_up(&from, std::fs::File::open(to.path()).unwrap()).unwrap();
            }
            let _ = done.send(());
        });
        let in_time = copied.recv_timeout(Duration::from_secs(60));
        drop(stop);
        exchanger.join().unwrap();
        in_time.unwrap();
    }
}
