//! Memory of other processes that is brought when they touch it (userfaultfd(2), ioctl_userfaultfd(2)).

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

/// An event from a userfaultfd. Addresses are those of the process.
#[derive(Debug)]
pub enum Event {
    /// A thread waits for the page at this address, which need not be the page's first.
    Fault(u64),
    /// The process has forked: the child's memory has a userfaultfd of its own.
    Fork(OwnedFd),
    /// Memory was moved by mremap(2).
    Remap {
        /// The old address.
        from: u64,
        /// The new address.
        to: u64,
        /// In bytes.
        length: u64,
    },
    /// The content is thrown away (madvise(2), MADV_DONTNEED and the like).
    Remove {
        /// The first address.
        start: u64,
        /// The address behind the last one.
        end: u64,
    },
    /// The area is gone.
    Unmap {
        /// The first address.
        start: u64,
        /// The address behind the last one.
        end: u64,
    },
}

/// struct uffd_msg (linux/userfaultfd.h)
const MESSAGE: usize = 32;
/// How many messages are read at once.
const BATCH: usize = 64;
const UFFDIO_COPY: libc::Ioctl = 0xc028_aa03_u32 as libc::Ioctl;
const UFFDIO_ZEROPAGE: libc::Ioctl = 0xc020_aa04_u32 as libc::Ioctl;
const UFFDIO_WAKE: libc::Ioctl = 0x8010_aa02_u32 as libc::Ioctl;

/// Whether this process may bring memory to others that fork, move and discard it meanwhile, which CRIU wants for lazy pages
/// (Linux 4.11, CONFIG_USERFAULTFD).
pub fn serves_others() -> bool {
    // linux/userfaultfd.h: UFFD_FEATURE_EVENT_FORK, _REMAP, _REMOVE and _UNMAP
    const EVENTS: u64 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 6;
    // SAFETY: it takes an integer.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
    if fd < 0 {
        return false;
    }
    // SAFETY: the kernel has just made it, and nobody else has it.
    let faults = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    crate::tracking::enable(faults.as_fd(), EVENTS).is_ok()
}

/// Reads what there is to be told; nothing if there is nothing. The descriptor must be one of O_NONBLOCK.
///
/// # Errors
/// Those of read(2), and EPROTO for a message that linux/userfaultfd.h does not have.
pub fn events(fd: BorrowedFd<'_>) -> io::Result<Vec<Event>> {
    let mut buffer = [0; MESSAGE * BATCH];
    let count = match rustix::io::retry_on_intr(|| rustix::io::read(fd, &mut buffer)) {
        Err(Errno::AGAIN) => 0,
        other => other?,
    };
    // All are taken up, so that no descriptor is lost.
    let events: Vec<_> = buffer[..count].chunks_exact(MESSAGE).map(event).collect();
    events.into_iter().collect()
}

fn event(message: &[u8]) -> io::Result<Event> {
    let word =
        |at: usize| message[at..at + 8].iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
    Ok(match message[0] {
        0x12 => Event::Fault(word(16)),
        0x13 => {
            let number = word(8) as u32 as i32;
            // SAFETY: the kernel has made this descriptor for the reader of the message, who alone knows it.
            Event::Fork(unsafe { OwnedFd::from_raw_fd(number) })
        }
        0x14 => Event::Remap { from: word(8), to: word(16), length: word(24) },
        0x15 => Event::Remove { start: word(8), end: word(16) },
        0x16 => Event::Unmap { start: word(8), end: word(16) },
        _ => return Err(Errno::PROTO.into()),
    })
}

/// Bytes of this process that the kernel is to copy. The kernel says EFAULT where they cannot be read.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    address: u64,
    length: u64,
    of: PhantomData<&'a [u8]>,
}

impl<'a> Source<'a> {
    /// How many they are.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The first of them.
    #[must_use]
    pub fn first(self, length: u64) -> Self {
        Self { length: self.length.min(length), ..self }
    }
}

impl<'a> From<&'a [u8]> for Source<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self { address: bytes.as_ptr() as u64, length: bytes.len() as u64, of: PhantomData }
    }
}

/// How far a copy went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// Bytes that are there now, and for which nobody waits any more.
    pub bytes: u64,
    /// Why it went no further: EEXIST, a page is there already; ENOENT, none can be there; EAGAIN, there are events to
    /// be read; ESRCH, the process has ended; EFAULT, the source cannot be read.
    pub stopped: Option<Errno>,
}

/// Puts pages to `to` in the memory of the process (UFFDIO_COPY).
pub fn copy(fd: BorrowedFd<'_>, to: u64, source: Source<'_>) -> Copied {
    #[repr(C)]
    struct Request {
        dst: u64,
        src: u64,
        len: u64,
        mode: u64,
        copy: i64,
    }
    let mut request = Request { dst: to, src: source.address, len: source.length, mode: 0, copy: 0 };
    // SAFETY: the request outlives the call; the kernel reads the source as read(2) reads user memory, and writes to the
    // memory of the descriptor's process alone, where a page is missing.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_COPY, &raw mut request) };
    copied(done, source.length, request.copy)
}

/// Puts a page of zeros to `to` in the memory of the process (UFFDIO_ZEROPAGE).
pub fn zero(fd: BorrowedFd<'_>, to: u64, length: u64) -> Copied {
    #[repr(C)]
    struct Request {
        start: u64,
        len: u64,
        mode: u64,
        zeropage: i64,
    }
    let mut request = Request { start: to, len: length, mode: 0, zeropage: 0 };
    // SAFETY: the request outlives the call; the kernel writes to the memory of the descriptor's process alone, where a
    // page is missing.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_ZEROPAGE, &raw mut request) };
    copied(done, length, request.zeropage)
}

fn copied(done: libc::c_int, length: u64, count: i64) -> Copied {
    match (done, u64::try_from(count)) {
        (0, _) => Copied { bytes: length, stopped: None },
        // Only a part: the kernel says EAGAIN, and not why.
        (_, Ok(bytes)) if bytes > 0 => Copied { bytes, stopped: None },
        _ => Copied { bytes: 0, stopped: Some(Errno::from_raw_os_error(nix::errno::Errno::last_raw())) },
    }
}

/// Has threads that wait for these pages look again (UFFDIO_WAKE).
///
/// # Errors
/// Those of ioctl_userfaultfd(2).
pub fn wake(fd: BorrowedFd<'_>, start: u64, length: u64) -> io::Result<()> {
    let mut range = [start, length];
    // SAFETY: the kernel reads two numbers, which outlive the call.
    if unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_WAKE, &raw mut range) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A file in memory, to be copied from. Nobody here reads what is in it: the file may be changed and cut off meanwhile.
#[derive(Debug)]
pub struct Mapped {
    address: *mut libc::c_void,
    length: usize,
}

// SAFETY: it is an address range, from which only the kernel reads.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl Mapped {
    /// Maps the first `length` bytes of a file, which need not all be there. The descriptor can be closed then.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn new(file: BorrowedFd<'_>, length: u64) -> io::Result<Self> {
        let length = usize::try_from(length).map_err(|_| Errno::NOMEM)?;
        if length == 0 {
            return Ok(Self { address: std::ptr::null_mut(), length });
        }
        // SAFETY: a new mapping where nothing is; no reference to its content is ever made.
        let address = unsafe {
            libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { address, length })
    }

    /// A page that cannot be read: who copies from there learns what else keeps it from copying.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn unreadable() -> io::Result<Self> {
        let (length, flags) = (4096, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping where nothing is.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), length, libc::PROT_NONE, flags, -1, 0) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { address, length })
    }

    /// A part of it; none beyond its end.
    pub fn part(&self, offset: u64, length: u64) -> Option<Source<'_>> {
        let end = offset.checked_add(length)?;
        let within = end <= self.length as u64;
        within.then(|| Source { address: self.address as u64 + offset, length, of: PhantomData })
    }
}

impl Source<'_> {
    /// Has the kernel read what is on a disk, and make it accessible at once (MADV_POPULATE_READ, Linux 5.14).
    ///
    /// # Errors
    /// EFAULT where a mapped file is shorter, EINVAL on older kernels.
    pub fn populate(self) -> Result<(), Errno> {
        const MADV_POPULATE_READ: libc::c_int = 22;
        // SAFETY: the advice changes no content; the range is this process's, for the borrow lasts.
        let done = unsafe {
            libc::madvise(self.address as *mut libc::c_void, self.length as usize, MADV_POPULATE_READ)
        };
        if done < 0 { Err(Errno::from_raw_os_error(nix::errno::Errno::last_raw())) } else { Ok(()) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        if self.length > 0 {
            // SAFETY: mapped by `new`, and no source outlives the borrow.
            unsafe { libc::munmap(self.address, self.length) };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn messages_are_as_the_kernel_writes_them() {
        let message = |kind: u8, words: [u64; 3]| {
            let words: Vec<_> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            event(&[&[kind, 0, 0, 0, 0, 0, 0, 0][..], &words].concat())
        };
        assert!(matches!(message(0x12, [1, 0x7000, 3]), Ok(Event::Fault(0x7000))));
        assert!(matches!(message(0x14, [1, 2, 3]), Ok(Event::Remap { from: 1, to: 2, length: 3 })));
        assert!(matches!(message(0x15, [1, 2, 3]), Ok(Event::Remove { start: 1, end: 2 })));
        assert!(matches!(message(0x16, [1, 2, 3]), Ok(Event::Unmap { start: 1, end: 2 })));
        assert!(message(0x11, [0; 3]).is_err());
    }

    #[test]
    fn a_file_that_is_cut_off_is_an_error_and_no_signal() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8192).unwrap();
        let mapped = Mapped::new(file.as_fd(), 8192).unwrap();
        assert!(mapped.part(4096, 4096).is_some_and(|part| part.populate().is_ok()));
        assert!(mapped.part(4096, 8192).is_none() && mapped.part(u64::MAX, 1).is_none());
        file.set_len(0).unwrap();
        assert_eq!(mapped.part(4096, 4096).unwrap().populate(), Err(Errno::FAULT));
        assert!(Mapped::new(file.as_fd(), 0).unwrap().part(0, 0).is_some());
    }
}
