//! Freezing, thawing and killing every process of a cgroup.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::dir::{Dir, if_there, read_by_path};
use super::handle::{Cgroup, OnDenied};
use super::layout::Layout;
use super::members::listed;
use super::paths::CgroupPaths;
use super::version::Version;
use super::walk::walk;
use crate::error::{Context, Error, Result, SysError};
use hiber_sys::signal::Signal;

/// The time limit for freezing and killing; a process in an uninterruptible call delays both.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most processes that are held by a descriptor at once.
const AT_ONCE: usize = 256;

/// The file that reads "1" if the cgroup itself is frozen, or is about to be.
fn state_file(version: Version) -> &'static str {
    match version {
        Version::V1 => "freezer.self_freezing",
        Version::V2 => "cgroup.freeze",
    }
}

impl CgroupPaths {
    fn freezer(&self) -> Option<(&Path, Version)> {
        let v1 = self.v1.get("freezer").map(|path| (path.as_path(), Version::V1));
        v1.or(self.v2.as_deref().map(|path| (path, Version::V2)))
    }

    /// As [`Cgroup::frozen`], for callers that ask once: nothing is kept open.
    ///
    /// # Errors
    /// Those of [`Cgroup::open`] and [`Cgroup::frozen`].
    pub fn frozen(&self) -> Result<bool> {
        let Some((dir, version)) = self.freezer() else { return Ok(false) };
        match read_by_path(dir, version, state_file(version)) {
            Some(text) => Ok(text == "1"),
            None => Cgroup::open(self.clone(), OnDenied::Fail)?.frozen(),
        }
    }
}

/// Tells of many cgroups whether they are frozen. Most lie in one directory, which stays open: a short path is resolved in fewer
/// steps, and a directory below a cgroup is certainly a cgroup.
#[derive(Debug, Default)]
pub struct Freezers(Mutex<Option<Dir>>);

impl Freezers {
    /// As [`CgroupPaths::frozen`].
    ///
    /// # Errors
    /// Those of [`CgroupPaths::frozen`].
    pub fn frozen(&self, paths: &CgroupPaths) -> Result<bool> {
        let Some((dir, version)) = paths.freezer() else { return Ok(false) };
        self.ask(dir, version).map_or_else(|| paths.frozen(), Ok)
    }

    fn ask(&self, dir: &Path, version: Version) -> Option<bool> {
        let (above, name) = (dir.parent()?, dir.file_name()?);
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if open.as_ref().is_none_or(|open| open.path() != above) {
            *open = Some(Dir::open(above).ok()?);
        }
        let above = open.as_ref().filter(|above| above.version() == version)?;
        above.with_record_below(&Path::new(name).join(state_file(version)), |text| text.starts_with(b"1"))
    }
}

impl Cgroup {
    /// The directory with a freezer; None if there is none or the cgroup is gone.
    fn freezer(&self) -> Result<Option<Arc<Dir>>, SysError> {
        self.paths().freezer().map_or(Ok(None), |(path, _)| if_there(self.dir(path)))
    }

    /// Stops every process of the cgroup, children included, and returns when all have stopped.
    ///
    /// # Errors
    /// There is no freezer, or some process could not be stopped in ten seconds; then all run on.
    pub fn freeze(&self) -> Result<()> {
        let dir = self.freezer()?.ok_or_else(|| {
            Error::unsupported(
                "pause",
                "the container has no cgroup freezer; without root it needs a delegated cgroup v2",
            )
        })?;
        let frozen = match dir.version() {
            Version::V1 => freeze_v1(&dir),
            Version::V2 => freeze_v2(&dir),
        };
        frozen.or_else(|e| {
            // A half frozen container is worse than a running one.
            thaw(&dir).context("thaw after a failed freeze")?;
            Err(e)
        })
    }

    /// Moves a process to the cgroup of this process, so that [`Cgroup::freeze`] does not stop it.
    ///
    /// # Errors
    /// If it cannot be moved.
    pub fn let_out(&self, pid: u32) -> Result<()> {
        let own = Layout::detect()?.own_freezer();
        let own =
            own.ok_or_else(|| Error::unsupported("cgroups", "this process's own cgroup cannot be seen"))?;
        Ok(self.dir(&own)?.write("cgroup.procs", &pid.to_string())?)
    }

    /// Lets the processes run again. Without a freezer nothing happens.
    ///
    /// # Errors
    /// The state cannot be written.
    pub fn thaw(&self) -> Result<()> {
        self.freezer()?.map_or(Ok(()), |dir| Ok(thaw(&dir)?))
    }

    /// Whether the cgroup itself is frozen; false if that is only due to an ancestor, or if it
    /// does not exist.
    ///
    /// # Errors
    /// The state cannot be read.
    pub fn frozen(&self) -> Result<bool> {
        let Some(dir) = self.freezer()? else { return Ok(false) };
        let frozen = dir.read_again(state_file(dir.version()));
        Ok(if_there(frozen)?.is_some_and(|text| text == "1"))
    }

    /// Sends `signal` to every process of the cgroup, children included; none is missed, however
    /// fast they fork. SIGKILL also waits until they are dead, frozen ones too, and thaws.
    ///
    /// # Errors
    /// The cgroup cannot be read, a process may not be signalled, or lives ten seconds after SIGKILL.
    pub fn kill(&self, signal: impl Into<Signal>) -> Result<()> {
        let signal = signal.into();
        if signal != Signal::KILL {
            return self.signal_frozen(signal);
        }
        let deadline = Instant::now() + PATIENCE;
        let mut delay = Duration::from_millis(1);
        let mut signalled = false;
        while !self.pids()?.is_empty() {
            if signalled {
                self.check_thawed_above()?;
            }
            signalled = true;
            if Instant::now() > deadline {
                let left = self.pids()?;
                let what = format!("processes {left:?} live on after SIGKILL");
                return Err(SysError::new("kill", what, libc::ETIMEDOUT).into());
            }
            if !self.kill_at_once()? {
                self.signal_frozen(signal)?;
            }
            sleep(delay);
            delay = (delay * 2).min(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Writes `cgroup.kill` (Linux 5.14); false if that is not possible. It reaches only processes that v2 has frozen, and on a
    /// hybrid host only processes in the cgroup2 directory.
    fn kill_at_once(&self) -> Result<bool> {
        let Some(path) = self.paths().v2.as_ref().filter(|_| self.paths().v1.is_empty()) else {
            return Ok(false);
        };
        let killed = self.dir(path).and_then(|dir| dir.write("cgroup.kill", "1"));
        Ok(if_there(killed)?.is_some())
    }

    fn signal_frozen(&self, signal: Signal) -> Result<()> {
        let was_frozen = self.frozen()?;
        let freezable = self.freezer()?.is_some();
        if freezable
            && !was_frozen
            && let Err(e) = self.freeze()
        {
            // As good as it gets: a process that forks right now may be missed.
            tracing::warn!("signal without freezing: {e}");
        }
        let sent = self.signal_each(signal);
        // A paused container stays paused, unless it must die: no process dies while v1 freezes it.
        let thawed = match freezable {
            true if signal == Signal::KILL => self.thaw_all(),
            true if !was_frozen => self.thaw(),
            _ => Ok(()),
        };
        sent.and(thawed)
    }

    /// Thaws the cgroup, and cgroups below it that the container has frozen itself, which would otherwise stay frozen on v1.
    fn thaw_all(&self) -> Result<()> {
        let Some(dir) = self.freezer()? else { return Ok(()) };
        if dir.version() == Version::V2 {
            return Ok(thaw(&dir)?);
        }
        let thaw_one = |dir: &Dir| match if_there(dir.read(state_file(Version::V1)))?.as_deref() {
            Some("1") => thaw(dir),
            _ => Ok(()),
        };
        if_there(walk(&dir, thaw_one, |_, _| Ok(())))?;
        Ok(())
    }

    /// No process dies below a frozen cgroup of v1, and a container's cgroup must not thaw the ones above it.
    fn check_thawed_above(&self) -> Result<()> {
        let Some(dir) = self.freezer()?.filter(|dir| dir.version() == Version::V1) else { return Ok(()) };
        match if_there(dir.read("freezer.parent_freezing"))?.as_deref() {
            Some("1") => {
                let problem = "its processes are killed and cannot end: a cgroup above it is frozen, and must be thawed first";
                Err(Error::invalid(format!("cgroup {}", dir.path().display()), problem))
            }
            _ => Ok(()),
        }
    }

    fn signal_each(&self, signal: Signal) -> Result<()> {
        let Some(dir) = self.main_dir()? else { return Ok(()) };
        if_there(walk(&dir, |dir| signal_listed(|| listed(dir), signal), |_, _| Ok(())))?;
        Ok(())
    }
}

/// Sends `signal` to the processes of one cgroup, in `list`. A number in the list may belong to another process by the time of
/// the signal. So each process is first held by a pidfd, and must then still be in the list: a number cannot be given away while
/// its process lives.
fn signal_listed(list: impl Fn() -> Result<Vec<u32>, SysError>, signal: Signal) -> Result<(), SysError> {
    for pids in list()?.chunks(AT_ONCE) {
        let mut held = Vec::new();
        for pid in pids {
            let Some(number) = i32::try_from(*pid).ok().and_then(Pid::from_raw) else { continue };
            match pidfd_open(number, PidfdFlags::empty()) {
                Ok(pidfd) => held.push((pid, pidfd)),
                // It is gone; or it is a thread (ENOENT, before Linux 6.9 EINVAL), whose process is signalled.
                Err(Errno::SRCH | Errno::NOENT | Errno::INVAL) => {}
                Err(e) => return Err(SysError::new("pidfd_open", pid.to_string(), e.raw_os_error())),
            }
        }
        let still: HashSet<u32> = list()?.into_iter().collect();
        for (pid, pidfd) in held.into_iter().filter(|(pid, _)| still.contains(pid)) {
            match signal.send(pidfd.as_fd()) {
                Err(e) if e.errno != libc::ESRCH => {
                    return Err(SysError { args: format!("{signal} to process {pid}"), ..e });
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn thaw(dir: &Dir) -> Result<(), SysError> {
    let thawed = match dir.version() {
        Version::V1 => dir.write("freezer.state", "THAWED"),
        Version::V2 => dir.write("cgroup.freeze", "0"),
    };
    if_there(thawed).map(drop)
}

/// v1 can be stuck in FREEZING while processes fork or enter (freezer-subsystem.rst before kernel commit ef9fe980c6fc). Writing
/// the state again helps, and so does thawing for a moment.
fn freeze_v1(dir: &Dir) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut tries = 0;
    while Instant::now() < deadline {
        tries += 1;
        if tries % 50 == 0 {
            dir.write("freezer.state", "THAWED")?;
            sleep(Duration::from_millis(10));
        }
        dir.write("freezer.state", "FROZEN")?;
        match dir.read("freezer.state")?.as_str() {
            "FROZEN" => return Ok(()),
            "FREEZING" if tries < 10 => std::thread::yield_now(),
            "FREEZING" => sleep(Duration::from_micros(500)),
            other => {
                return Err(Error::invalid("freezer.state", format!("{other:?} while freezing")));
            }
        }
    }
    Err(not_frozen(dir))
}

/// v2 reports in `cgroup.events`, with a POLLPRI at each change (Linux 5.2).
fn freeze_v2(dir: &Dir) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    dir.write("cgroup.freeze", "1")?;
    // Opened before reading: a change in between then wakes poll.
    let events = dir.file("cgroup.events", OFlags::RDONLY)?;
    loop {
        let mut text = [0u8; 256];
        let length = rustix::io::pread(&events, &mut text, 0)
            .map_err(|e| SysError::new("read", "cgroup.events", e.raw_os_error()))?;
        if text[..length].split(|b| *b == b'\n').any(|line| line == b"frozen 1") {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(not_frozen(dir));
        }
        let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(SysError::new("poll", "cgroup.events", e.raw_os_error()).into()),
        }
    }
}

fn not_frozen(dir: &Dir) -> Error {
    let what = format!("cgroup {}: some process could not be stopped", dir.path().display());
    SysError::new("freeze", what, libc::ETIMEDOUT).into()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_number_that_is_not_in_the_list_any_more_is_not_signalled() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let reads = Cell::new(0);
        let list = |still: bool| {
            reads.set(reads.get() + 1);
            Ok(if reads.get() % 2 == 1 || still { vec![child.id()] } else { Vec::new() })
        };
        signal_listed(|| list(false), Signal::KILL).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(reads.get(), 2);
        signal_listed(|| list(true), Signal::new(libc::SIGTERM).unwrap()).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
    }
}
