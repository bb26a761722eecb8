//! Which memory of a process is written: PAGEMAP_SCAN of `/proc/PID/pagemap`, and userfaultfd(2) that protects memory and
//! lets the kernel itself note and allow each first write (UFFD_FEATURE_WP_ASYNC). Both are of Linux 6.7.

use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

/// Of a descriptor that a process makes for itself: closed by exec, never waited for, of faults in user mode alone, for which no
/// privilege is asked.
pub const FLAGS: u64 = (libc::O_CLOEXEC | libc::O_NONBLOCK) as u64 | 1;

/// linux/userfaultfd.h
const API: u64 = 0xaa;
const WP_UNPOPULATED: u64 = 1 << 13;
const WP_ASYNC: u64 = 1 << 15;
const MODE_WP: u64 = 2;
const UFFDIO_API: libc::Ioctl = 0xc018_aa3f_u32 as libc::Ioctl;
const UFFDIO_REGISTER: libc::Ioctl = 0xc020_aa00_u32 as libc::Ioctl;
const UFFDIO_WRITEPROTECT: libc::Ioctl = 0xc018_aa06_u32 as libc::Ioctl;
/// linux/fs.h
const PAGEMAP_SCAN: libc::Ioctl = 0xc060_6610_u32 as libc::Ioctl;
const WP_MATCHING: u64 = 1;
const CHECK_WPASYNC: u64 = 2;
const IS_WRITTEN: u64 = 1 << 1;
const IS_FILE: u64 = 1 << 2;
const IS_PRESENT: u64 = 1 << 3;
const IS_SWAPPED: u64 = 1 << 4;
const IS_PFNZERO: u64 = 1 << 5;

/// `struct uffdio_api`
#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_register`; `struct uffdio_writeprotect` is its beginning.
#[repr(C)]
struct Register {
    start: u64,
    length: u64,
    mode: u64,
    ioctls: u64,
}

/// `struct page_region`
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Region {
    /// The address of the first byte.
    pub start: u64,
    /// After the last.
    pub end: u64,
    categories: u64,
}

/// `struct pm_scan_arg`
#[repr(C)]
#[derive(Default)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

impl Scan {
    fn new(range: &Range<u64>, flags: u64) -> Self {
        Self { size: size_of::<Self>() as u64, flags, start: range.start, end: range.end, ..Self::default() }
    }
}

/// The action on pages that are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// They are told, also where nothing is tracked.
    Told,
    /// They are told, but for those that are a file's, also where nothing is tracked.
    Own,
    /// They are told.
    TrackedTold,
    /// They are told and protected, at once: what is written from then on is found the next time.
    TrackedProtected,
}

fn last() -> Errno {
    Errno::from_raw_os_error(nix::errno::Errno::last_raw())
}

/// A userfaultfd of the calling process's own.
///
/// # Errors
/// ENOSYS without CONFIG_USERFAULTFD, EINVAL before Linux 5.11.
pub fn own() -> Result<OwnedFd, Errno> {
    // SAFETY: it takes an integer.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, FLAGS) };
    if fd < 0 {
        return Err(last());
    }
    // SAFETY: the kernel has just made it, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Has a userfaultfd note writes by itself.
///
/// # Errors
/// EINVAL before Linux 6.7, or without CONFIG_PTE_MARKER_UFFD_WP.
pub fn note_writes(faults: BorrowedFd<'_>) -> Result<(), Errno> {
    enable(faults, WP_ASYNC | WP_UNPOPULATED)
}

/// Asks for features of a new userfaultfd.
pub(crate) fn enable(faults: BorrowedFd<'_>, features: u64) -> Result<(), Errno> {
    let mut api = Api { api: API, features, ioctls: 0 };
    // SAFETY: the request reads and writes the structure, which outlives the call.
    if unsafe { libc::ioctl(faults.as_raw_fd(), UFFDIO_API, &raw mut api) } < 0 {
        Err(last())
    } else {
        Ok(())
    }
}

/// Tracks writes to these addresses of the process with that pagemap, all of which are mapped. All that is there counts as written.
///
/// # Errors
/// ENOMEM if the process has ended, EBUSY if somebody else tracks a part, EINVAL if a part is not mapped.
pub fn track(faults: BorrowedFd<'_>, pagemap: BorrowedFd<'_>, range: &Range<u64>) -> Result<(), Errno> {
    let length = range.end - range.start;
    let mut register = Register { start: range.start, length, mode: MODE_WP, ioctls: 0 };
    // SAFETY: the request reads and writes the structure, which outlives the call.
    if unsafe { libc::ioctl(faults.as_raw_fd(), UFFDIO_REGISTER, &raw mut register) } < 0 {
        return Err(last());
    }
    // Protections may be left from where memory was moved from. To lift those that are not there takes five times as long as to look.
    let (mut scan, mut region) = (Scan::new(range, CHECK_WPASYNC), Region::default());
    (scan.vec, scan.vec_len, scan.max_pages) = (&raw mut region as u64, 1, 1);
    (scan.category_inverted, scan.category_mask, scan.return_mask) = (IS_WRITTEN, IS_WRITTEN, IS_WRITTEN);
    scan.category_anyof_mask = IS_PRESENT | IS_SWAPPED;
    // SAFETY: the request reads and writes the structure, and at most one region; both outlive the call.
    if unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, &raw mut scan) } == 0 {
        return Ok(());
    }
    let mut unprotect = Register { mode: 0, ..register };
    // SAFETY: the request reads the first three members of the structure, which outlives the call.
    if unsafe { libc::ioctl(faults.as_raw_fd(), UFFDIO_WRITEPROTECT, &raw mut unprotect) } < 0 {
        return Err(last());
    }
    Ok(())
}

/// Finds pages that have content, other than zeros of nobody's own, and were written since they were last protected. Tells up to
/// which address it has looked, with as many regions as fit.
///
/// # Errors
/// EPERM if not all is tracked, where that is asked for: then some pages may be protected already. ENOTTY before Linux 6.7.
pub fn written(
    pagemap: BorrowedFd<'_>,
    range: &Range<u64>,
    found: Found,
    regions: &mut Vec<Region>,
) -> Result<u64, Errno> {
    regions.resize(regions.capacity().max(1), Region::default());
    let flags = match found {
        Found::Told | Found::Own => 0,
        Found::TrackedTold => CHECK_WPASYNC,
        Found::TrackedProtected => CHECK_WPASYNC | WP_MATCHING,
    };
    // These are told of which none is set.
    let not = if found == Found::Own { IS_PFNZERO | IS_FILE } else { IS_PFNZERO };
    let mut scan = Scan {
        vec: regions.as_mut_ptr() as u64,
        vec_len: regions.len() as u64,
        category_inverted: not,
        category_mask: not | IS_WRITTEN,
        category_anyof_mask: IS_PRESENT | IS_SWAPPED,
        return_mask: IS_WRITTEN,
        ..Scan::new(range, flags)
    };
    // SAFETY: the request reads and writes the structure, and at most as many regions as it is told that there are; both
    // outlive the call.
    let count = unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, &raw mut scan) };
    if count < 0 {
        return Err(last());
    }
    regions.truncate(count as usize);
    Ok(scan.walk_end)
}
