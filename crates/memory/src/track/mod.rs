//! Which memory of a running process was written since one has last looked, on Linux 6.7 and later.
//!
//! The process makes a userfaultfd(2) in our hands, which is ours from then on: it stands still for about a millisecond. The kernel
//! notes writes by itself, and nobody waits for us. Whatever ends us closes the descriptor, and with it all protection goes.

mod areas;

use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};

use hiber_criu::pagemap::PAGE;
use hiber_sys::apart;
use hiber_sys::tracking::{self, Found, Region};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use syscalls::Sysno;

use self::areas::Areas;
use crate::call::{NAME, StoppedProcess};
use crate::error::{Error, Result, memory};
use crate::images::Ranges;

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
    /// [`Error::Untracked`] with the reason, or what [`StoppedProcess`] says of a thread that cannot be stopped: it
    /// runs a 32-bit program, is traced by somebody else, or confined so that nobody may lift it.
    pub fn start(pid: i32) -> Result<Self> {
        if let Some(why) = areas::unseen_writes(pid) {
            return Err(Error::Untracked(pid, why.into()));
        }
        let faults = faults_of(pid)?;
        let noted = tracking::note_writes(faults.as_fd());
        noted.map_err(|e| Error::Untracked(pid, format!("UFFDIO_API: {e}")))?;
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

/// A userfaultfd of a process's memory. A process of our own has the threads make it, which goes on when we are killed: otherwise a
/// thread would go on with the registers of a call that is not its program's, or the process would keep the descriptor.
fn faults_of(pid: i32) -> Result<OwnedFd> {
    let made = apart(NAME, || match make_faults(pid) {
        Ok(faults) => (Vec::new(), Some(faults)),
        Err(Error::Gone(_)) => (Vec::new(), None),
        Err(e) => (e.to_string().into_bytes(), None),
    });
    let (why, faults) = made.map_err(|e| Error::Untracked(pid, e.to_string()))?;
    match faults {
        Some(faults) => Ok(faults),
        None if why.is_empty() => Err(Error::Gone(pid)),
        None => Err(Error::Apart(String::from_utf8_lossy(&why).into_owned())),
    }
}

fn make_faults(pid: i32) -> Result<OwnedFd> {
    let refused = |what: &str, e: Errno| Error::Untracked(pid, format!("{what}: {e}"));
    let pidfd = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    let pidfd = pidfd.ok_or(Error::Gone(pid))?;
    // A thread that forks meanwhile would leave the descriptor to its child.
    let mut process = StoppedProcess::new(pid)?;
    let first = process.first()?;
    let made = first.call(Sysno::userfaultfd, [tracking::FLAGS, 0, 0, 0, 0, 0])?;
    let made = made.map_err(|e| refused("userfaultfd", Errno::from_raw_os_error(e as i32)))?;
    let number = i32::try_from(made).unwrap_or(-1);
    let taken = pidfd_getfd(pidfd, number, PidfdGetfdFlags::empty());
    let closed = first.call(Sysno::close, [made, 0, 0, 0, 0, 0])?;
    closed.map_err(|e| refused("close", Errno::from_raw_os_error(e as i32)))?;
    process.release()?;
    taken.map_err(|e| refused("pidfd_getfd", e))
}
