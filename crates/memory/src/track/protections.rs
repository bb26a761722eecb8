//! Tracking on Linux 6.7 and later: a userfaultfd(2) protects memory and has the kernel note writes by itself, and PAGEMAP_SCAN tells
//! of them.
//!
//! The process makes the userfaultfd in our hands, which is ours from then on: it stands still for about a millisecond. Nobody waits
//! for us. Whatever ends us closes the descriptor, and with it all protection goes.

use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};

use hiber_sys::apart;
use hiber_sys::tracking::{self, Found, Region};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use syscalls::Sysno;

use super::areas::{Areas, pagemap};
use super::written::Written;
use crate::call::{NAME, StoppedProcess};
use crate::error::{Error, Result};
use crate::images::Ranges;

/// So many regions are told at once.
const REGIONS: usize = 4096;

/// A process whose memory is protected. Dropped, the protection is gone.
#[derive(Debug)]
pub(super) struct Protections {
    pid: i32,
    faults: OwnedFd,
}

/// Whether this kernel can do so.
///
/// # Errors
/// Why it cannot.
pub(super) fn available() -> Result<(), String> {
    let missing = |what: &'static str| move |e: Errno| format!("{what}: {e}");
    let faults = tracking::own().map_err(missing("userfaultfd(2)"))?;
    tracking::note_writes(faults.as_fd()).map_err(missing("UFFD_FEATURE_WP_ASYNC of Linux 6.7"))?;
    let pagemap = File::open("/proc/self/pagemap").map_err(|e| format!("/proc/self/pagemap: {e}"))?;
    let (nothing, mut regions) = (0..0, Vec::with_capacity(1));
    let looked = tracking::written(pagemap.as_fd(), &nothing, Found::Told, &mut regions);
    looked.map(drop).map_err(missing("PAGEMAP_SCAN of Linux 6.7"))
}

impl Protections {
    pub(super) fn start(pid: i32) -> Result<Self> {
        let faults = faults_of(pid)?;
        let noted = tracking::note_writes(faults.as_fd());
        noted.map_err(|e| Error::Untracked(pid, format!("UFFDIO_API: {e}")))?;
        Ok(Self { pid, faults })
    }

    pub(super) fn written(&self) -> Result<Written> {
        let (pagemap, mut found) = (pagemap(self.pid)?, Written::default());
        for area in Areas::of(self.pid)?.own {
            let mut looked = self.look(&pagemap, &area, Found::TrackedProtected, &mut found.pages);
            if looked == Err(Errno::PERM) {
                // It is new, or a part of it is.
                found.unknown.push(area.clone());
                looked = tracking::track(self.faults.as_fd(), pagemap.as_fd(), &area)
                    .and_then(|()| self.look(&pagemap, &area, Found::TrackedProtected, &mut found.pages));
            }
            if looked.is_err() {
                // It has just changed.
                found.pages.remove(area.clone());
                found.unknown.push(area);
            }
        }
        Ok(found)
    }

    pub(super) fn rest(&self) -> Result<u64> {
        let (pagemap, mut found) = (pagemap(self.pid)?, Ranges::default());
        for area in Areas::of(self.pid)?.own {
            // An area that has just changed is looked at later.
            let _ = self.look(&pagemap, &area, Found::Told, &mut found);
        }
        Ok(found.total())
    }

    pub(super) fn clean(&self) -> Result<Ranges> {
        let (pagemap, mut clean) = (pagemap(self.pid)?, Ranges::default());
        for area in Areas::of(self.pid)?.own {
            let mut written = Ranges::default();
            if self.look(&pagemap, &area, Found::TrackedTold, &mut written).is_ok() {
                clean.add(area);
                written.iter().for_each(|range| clean.remove(range));
            }
        }
        Ok(clean)
    }

    pub(super) fn of_files(&self) -> Result<Ranges> {
        let (areas, pagemap) = (Areas::of(self.pid)?, pagemap(self.pid)?);
        Ok(areas.pages_of_files(|area, to| self.look(&pagemap, area, Found::Own, to)))
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
    apart(NAME, || make_faults(pid)).map_err(|e| Error::Untracked(pid, e.to_string()))?
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
