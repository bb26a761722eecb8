//! Notices of the OOM killer.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::event::EventfdFlags;
use rustix::fs::OFlags;
use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};

use super::dir::{Dir, if_there, read_by_path, value_of};
use super::handle::Cgroup;
use super::paths::CgroupPaths;
use super::version::Version;
use crate::error::{Result, SysError};

/// The line with the number of kills.
const OOM_KILL: &str = "oom_kill";

/// A descriptor that becomes readable when the kernel runs out of memory for the container.
#[derive(Debug)]
pub struct OomWatch {
    fd: OwnedFd,
    /// v2 reports every change of `memory.events`; the count shows whether the change was an OOM kill.
    v2: Option<(Arc<Dir>, u64)>,
    /// v1's cgroup and the file that the notice is bound to.
    v1: Option<(PathBuf, OwnedFd)>,
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl CgroupPaths {
    /// The file that counts the victims of the OOM killer.
    fn oom_counter(&self) -> Option<(&Path, Version, &'static str)> {
        let v1 = self.v1.get("memory").map(|path| (path.as_path(), Version::V1, "memory.oom_control"));
        v1.or(self.v2.as_deref().map(|path| (path, Version::V2, "memory.events")))
    }

    /// As [`Cgroup::oom_kills`], for callers that ask once: nothing is kept open. A count that cannot be read is 0.
    pub fn oom_kills(&self) -> u64 {
        let text = self.oom_counter().and_then(|(dir, version, file)| read_by_path(dir, version, file));
        text.and_then(|text| value_of(&text, OOM_KILL)).unwrap_or(0)
    }
}

impl Cgroup {
    /// The number of processes of the cgroup that the kernel has killed for want of memory (on v1 since Linux 4.13); 0 if the
    /// cgroup is gone or has no memory controller.
    ///
    /// # Errors
    /// The count cannot be read.
    pub fn oom_kills(&self) -> Result<u64> {
        let Some((path, _, file)) = self.paths().oom_counter() else { return Ok(0) };
        let count = if_there(self.dir(path).and_then(|dir| dir.read_key(file, OOM_KILL)))?;
        Ok(count.unwrap_or(0))
    }

    /// Watches for OOM; None without a memory controller.
    ///
    /// # Errors
    /// The kernel refuses the notice.
    pub fn watch_oom(&self) -> Result<Option<OomWatch>> {
        if let Some(path) = self.paths().v1.get("memory") {
            return Ok(if_there(self.dir(path))?.map(watch_v1).transpose()?);
        }
        let Some(path) = &self.paths().v2 else { return Ok(None) };
        let Some(dir) = if_there(self.dir(path))? else { return Ok(None) };
        let Some(count) = if_there(dir.read_key("memory.events", OOM_KILL))? else { return Ok(None) };
        let failed = |call: &str, e: rustix::io::Errno| {
            SysError::new(call, path.join("memory.events").display().to_string(), e.raw_os_error())
        };
        let fd = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(|e| failed("inotify_init", e))?;
        add_watch(&fd, path.join("memory.events"), WatchFlags::MODIFY)
            .map_err(|e| failed("inotify_add_watch", e))?;
        Ok(Some(OomWatch { fd, v2: Some((dir, count)), v1: None }))
    }
}

/// admin-guide/cgroup-v1/memory.rst, "OOM Control": an eventfd is registered for `memory.oom_control`.
fn watch_v1(dir: Arc<Dir>) -> Result<OomWatch, SysError> {
    let fd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|e| SysError::new("eventfd", "for OOM notices", e.raw_os_error()))?;
    let control = dir.file("memory.oom_control", OFlags::RDONLY)?;
    dir.write("cgroup.event_control", &format!("{} {}", fd.as_raw_fd(), control.as_raw_fd()))?;
    Ok(OomWatch { fd, v2: None, v1: Some((dir.path().to_owned(), control)) })
}

impl OomWatch {
    /// The number of OOM events since the last call. The removal of the cgroup wakes the watcher, too, and counts as none.
    ///
    /// # Errors
    /// The descriptor or the count cannot be read.
    pub fn take(&mut self) -> Result<u64> {
        let mut buffer = [0u8; 4096];
        let length = match rustix::io::read(&self.fd, &mut buffer) {
            Ok(n) => n,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(0),
            Err(e) => return Err(SysError::new("read", "OOM notices", e.raw_os_error()).into()),
        };
        match &mut self.v2 {
            Some((dir, seen)) => {
                let now = if_there(dir.read_key("memory.events", OOM_KILL))?.unwrap_or(*seen);
                Ok(now.saturating_sub(std::mem::replace(seen, now)))
            }
            None if self.v1.as_ref().is_some_and(|(path, _)| !path.exists()) => Ok(0),
            None => {
                let count = <[u8; 8]>::try_from(&buffer[..length.min(8)]).map(u64::from_ne_bytes);
                Ok(count.unwrap_or(0))
            }
        }
    }
}
