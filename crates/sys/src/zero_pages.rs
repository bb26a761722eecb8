//! The frames with which the kernel answers reads of memory that nobody has written: its page of zeros, and its huge page of zeros.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Bytes of a page.
const PAGE: usize = 4096;
/// In an entry of `/proc/PID/pagemap` (proc_pid_pagemap(5)): the page is present, and its frame.
const PRESENT: u64 = 1 << 63;
const FRAME: u64 = (1 << 55) - 1;
const HUGE: &str = "/sys/kernel/mm/transparent_hugepage";

/// The frames, which stay what they are as long as this lives.
#[derive(Debug)]
pub struct ZeroPages {
    small: Touched,
    /// Where there are huge pages.
    huge: Option<Touched>,
}

/// Memory of one page, huge or not, that was read.
#[derive(Debug)]
struct Touched {
    address: *mut libc::c_void,
    length: usize,
    /// Its entry of `/proc/self/pagemap`.
    entry: u64,
    frames: Range<u64>,
}

// SAFETY: an address range that is never accessed again.
unsafe impl Send for Touched {}
// SAFETY: as above.
unsafe impl Sync for Touched {}

impl ZeroPages {
    /// Reads new memory, and finds out what was mapped there.
    ///
    /// # Errors
    /// Those of mmap(2) and of `/proc/self/pagemap`, which shows frames to CAP_SYS_ADMIN alone (EPERM).
    pub fn find() -> io::Result<Self> {
        let small = Touched::read(PAGE)?;
        let enabled = fs::read_to_string(format!("{HUGE}/enabled")).unwrap_or_default();
        let size = fs::read_to_string(format!("{HUGE}/hpage_pmd_size")).ok();
        let size = size.and_then(|size| size.trim().parse().ok()).filter(|_| !enabled.contains("[never]"));
        Ok(Self { small, huge: size.map(Touched::read).transpose()? })
    }

    /// Whether it is such a frame.
    pub fn has_frame(&self, frame: u64) -> bool {
        self.small.frames.contains(&frame)
            || self.huge.as_ref().is_some_and(|huge| huge.frames.contains(&frame))
    }

    /// The entry of `/proc/self/pagemap` of a page that was mapped and read, never written.
    pub fn entry(&self) -> u64 {
        self.small.entry
    }
}

impl Touched {
    /// Maps memory of which `size` bytes are aligned at their size, and reads one of them.
    fn read(size: usize) -> io::Result<Self> {
        let (length, flags) = (2 * size, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping where nothing is.
        let address = unsafe {
            libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let mut touched = Self { address, length, entry: 0, frames: 0..0 };
        let aligned = address.map_addr(|at| at.next_multiple_of(size));
        if size > PAGE {
            // SAFETY: the advice changes no content. Where it is refused, the page is a small one.
            unsafe { libc::madvise(address, length, libc::MADV_HUGEPAGE) };
        }
        // SAFETY: within the mapping, which is `size` bytes longer than what is read from its first aligned byte.
        unsafe { aligned.cast::<u8>().read_volatile() };
        let mut entry = [0; 8];
        let at = (aligned.addr() / PAGE * entry.len()) as u64;
        File::open("/proc/self/pagemap")?.read_exact_at(&mut entry, at)?;
        touched.entry = u64::from_ne_bytes(entry);
        let frame = touched.entry & FRAME;
        if touched.entry & PRESENT == 0 || frame == 0 {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        touched.frames = frame..frame + (size / PAGE) as u64;
        Ok(touched)
    }
}

impl Drop for Touched {
    fn drop(&mut self) {
        // SAFETY: mapped by `read`, and nobody refers to it.
        unsafe { libc::munmap(self.address, self.length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_only_read_is_the_kernels() {
        let zeros = match ZeroPages::find() {
            Ok(zeros) => zeros,
            // Others than root see no frames.
            Err(e) => {
                return assert!(
                    e.kind() == io::ErrorKind::PermissionDenied && !rustix::process::geteuid().is_root()
                );
            }
        };
        let other = Touched::read(PAGE).unwrap();
        assert!(zeros.has_frame(other.frames.start));
        let huge = zeros.huge.as_ref().map(|huge| huge.frames.clone());
        assert!(huge.is_none_or(|frames| frames.end - frames.start >= 512));
        assert!(!zeros.has_frame(1 << 50));
    }
}
