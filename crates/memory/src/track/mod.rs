//! Which memory of a running process was written since one has last looked, on Linux 6.7 and later.
//!
//! The process makes a userfaultfd(2) in our hands, which is ours from then on: it stands still for about a millisecond. The kernel
//! notes writes by itself, and nobody waits for us. Whatever ends us closes the descriptor, and with it all protection goes.

mod areas;

use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};

use hiber_criu::pagemap::PAGE;
use hiber_sys::tracking::{self, Found, Region};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use syscalls::Sysno;

use self::areas::Areas;
use crate::Stopped;
use crate::error::{Error, Result, memory};
use crate::images::Ranges;
use crate::stop::Seized;

/// So many regions are told at once.
const REGIONS: usize = 4096;

/// A process whose writes are tracked. Dropped, nothing is left of that.
#[derive(Debug)]
pub struct Tracked {
    pid: i32,
    faults: OwnedFd,
}

/// The pages that were written since the last look.
#[derive(Debug, Default)]
pub struct Written {
    /// Pages that were. Later writes are reported the next time.
    pub pages: Ranges,
    /// Areas of which nothing is known any more: copies of what was there count no more.
    pub unknown: Vec<Range<u64>>,
}

/// Whether this kernel can track: then it can that of any process.
///
/// # Errors
/// Why it cannot.
pub fn available() -> Result<(), String> {
    let missing = |what: &'static str| move |e: Errno| format!("this kernel lacks {what}: {e}");
    let faults = tracking::own().map_err(missing("userfaultfd(2)"))?;
    tracking::note_writes(faults.as_fd()).map_err(missing("UFFD_FEATURE_WP_ASYNC, of Linux 6.7"))?;
    let pagemap = File::open("/proc/self/pagemap").map_err(|e| format!("/proc/self/pagemap: {e}"))?;
    let (nothing, mut regions) = (0..0, Vec::with_capacity(1));
    let looked = tracking::written(pagemap.as_fd(), &nothing, Found::Told, &mut regions);
    looked.map(drop).map_err(missing("PAGEMAP_SCAN, of Linux 6.7"))
}

impl Tracked {
    /// Tracks process `pid` from now on, if that is [`available`].
    ///
    /// # Errors
    /// [`Error::Untracked`] with the reason, or what [`Seized`] and [`Stopped`] say of a thread that cannot be stopped: it
    /// runs a 32-bit program, is traced by somebody else, or confined so that nobody may lift it.
    pub fn start(pid: i32) -> Result<Self> {
        if let Some(why) = areas::unseen_writes(pid) {
            return Err(Error::Untracked(pid, why.into()));
        }
        let refused = |what: &str, e: std::io::Error| Error::Untracked(pid, format!("{what}: {e}"));
        let process = Pid::from_raw(pid).ok_or(Error::Gone(pid))?;
        let process = pidfd_open(process, PidfdFlags::empty()).map_err(|_| Error::Gone(pid))?;
        // A thread that forks meanwhile would leave the descriptor to its child.
        let mut threads = stop_all(pid)?;
        let first = threads.iter_mut().find(|thread| thread.tid() == pid).ok_or(Error::Gone(pid))?;
        let made = first.call(Sysno::userfaultfd, [tracking::FLAGS, 0, 0, 0, 0, 0])?;
        let made = made.map_err(|e| refused("userfaultfd", e.into()))?;
        let number = i32::try_from(made).unwrap_or(-1);
        let taken = pidfd_getfd(process, number, PidfdGetfdFlags::empty());
        first.call(Sysno::close, [made, 0, 0, 0, 0, 0])?.map_err(|e| refused("close", e.into()))?;
        threads.into_iter().try_for_each(|thread| match thread.release() {
            Err(Error::Gone(_)) => Ok(()),
            other => other,
        })?;
        let faults = taken.map_err(|e| refused("pidfd_getfd", e.into()))?;
        tracking::note_writes(faults.as_fd()).map_err(|e| refused("UFFDIO_API", e.into()))?;
        Ok(Self { pid, faults })
    }

    /// The pages that were written since the last call; all pages the first time.
    ///
    /// # Errors
    /// [`Error::Gone`], [`Error::Untracked`] if it has begun to do what cannot be seen, or if the kernel refuses.
    pub fn written(&self) -> Result<Written> {
        let (pagemap, mut found) = (self.pagemap()?, Written::default());
        for area in self.areas()?.own {
            let mut looked = self.look(&pagemap, &area, Found::TrackedProtected, &mut found.pages);
            if looked == Err(Errno::PERM) {
                // It is new, or a part of it is.
                found.unknown.push(area.clone());
                looked = tracking::track(self.faults.as_fd(), &area)
                    .and_then(|()| self.look(&pagemap, &area, Found::TrackedProtected, &mut found.pages));
            }
            if looked.is_err() {
                // It has just changed.
                found.pages.remove(area.clone());
                found.unknown.push(area);
            }
        }
        // After it was protected: a write that was under way then ends before, or is seen here.
        match areas::unseen_writes(self.pid) {
            Some(why) => Err(Error::Untracked(self.pid, why.into())),
            None => Ok(found),
        }
    }

    /// How many bytes were written since the last look, or were never looked at.
    ///
    /// # Errors
    /// Those of [`Self::written`].
    pub fn rest(&self) -> Result<u64> {
        let (pagemap, mut found) = (self.pagemap()?, Ranges::default());
        for area in self.areas()?.own {
            // An area that has just changed is looked at later.
            let _ = self.look(&pagemap, &area, Found::Told, &mut found);
        }
        Ok(found.total())
    }

    /// The addresses at which nothing was written since the last look; the process must not run.
    ///
    /// # Errors
    /// Those of [`Self::written`].
    pub fn clean(&self) -> Result<Ranges> {
        if let Some(why) = areas::unseen_writes(self.pid) {
            return Err(Error::Untracked(self.pid, why.into()));
        }
        let (pagemap, mut clean) = (self.pagemap()?, Ranges::default());
        for area in self.areas()?.own {
            let mut written = Ranges::default();
            if self.look(&pagemap, &area, Found::TrackedTold, &mut written).is_ok() {
                clean.add(area);
                written.iter().for_each(|range| clean.remove(range));
            }
        }
        Ok(clean)
    }

    /// Pages of files that the process has made its own, or will when CRIU stops it: nobody tells when they are written.
    ///
    /// # Errors
    /// Those of [`Self::written`].
    pub fn of_files(&self) -> Result<Ranges> {
        let (pagemap, areas, mut found) = (self.pagemap()?, self.areas()?, Ranges::default());
        for area in areas.of_files {
            // It may just have gone.
            let _ = self.look(&pagemap, &area, Found::Own, &mut found);
            if let Some(code) = areas.code.filter(|code| area.contains(code)) {
                found.add(code..code + PAGE);
            }
        }
        Ok(found)
    }

    fn areas(&self) -> Result<Areas> {
        Areas::of(self.pid).map_err(memory(self.pid, 0))
    }

    /// Of the memory that it has now: exec(2) gives it another.
    fn pagemap(&self) -> Result<File> {
        File::open(format!("/proc/{}/pagemap", self.pid)).map_err(memory(self.pid, 0))
    }

    fn look(&self, pagemap: &File, area: &Range<u64>, found: Found, to: &mut Ranges) -> Result<(), Errno> {
        let mut regions = Vec::<Region>::with_capacity(REGIONS);
        let mut at = area.start;
        while at < area.end {
            let looked = tracking::written(pagemap.as_fd(), &(at..area.end), found, &mut regions)?;
            regions.iter().for_each(|region| to.add(region.start..region.end));
            if looked <= at {
                return Err(Errno::INVAL);
            }
            at = looked;
        }
        Ok(())
    }
}

/// Stops all threads of a process.
fn stop_all(pid: i32) -> Result<Vec<Stopped>> {
    let mut stopped: Vec<Stopped> = Vec::new();
    loop {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).map_err(memory(pid, 0))?;
        let tids = threads.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let new: Vec<_> = tids.filter(|tid| stopped.iter().all(|known| known.tid() != *tid)).collect();
        let seized: Vec<_> = new.into_iter().map(Seized::new).collect();
        let mut more = false;
        for thread in seized.into_iter().map(|seized| seized.and_then(Seized::wait)) {
            match thread {
                Ok(thread) => stopped.push(thread),
                Err(Error::Gone(_)) => continue,
                Err(e) => return Err(e),
            }
            more = true;
        }
        if !more {
            return Ok(stopped);
        }
    }
}
