//! The memory of another process.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::unix::fs::FileExt;

use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::Pid;

/// By `/proc/PID/mem`, which also reaches what the process itself may not read or write. Memory that a page daemon has yet to
/// bring cannot be read so (EIO), but by calls that wait for it (process_vm_readv(2)).
#[derive(Debug)]
pub(crate) struct Memory {
    tid: Pid,
    file: File,
}

impl Memory {
    pub(crate) fn of(tid: i32) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(format!("/proc/{tid}/mem"))?;
        Ok(Self { tid: Pid::from_raw(tid), file })
    }

    /// Reads as much as there is in a row.
    pub(crate) fn read_at(&self, bytes: &mut [u8], address: u64) -> io::Result<usize> {
        self.file.read_at(bytes, address)
    }

    pub(crate) fn read_exact_at(&self, bytes: &mut [u8], address: u64) -> io::Result<()> {
        let length = bytes.len();
        self.file.read_exact_at(bytes, address).or_else(|e| {
            let there = RemoteIoVec { base: place(address)?, len: length };
            whole(process_vm_readv(self.tid, &mut [IoSliceMut::new(bytes)], &[there]), length, e)
        })
    }

    pub(crate) fn write_all_at(&self, bytes: &[u8], address: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, address).or_else(|e| {
            let there = RemoteIoVec { base: place(address)?, len: bytes.len() };
            whole(process_vm_writev(self.tid, &[IoSlice::new(bytes)], &[there]), bytes.len(), e)
        })
    }
}

fn place(address: u64) -> io::Result<usize> {
    usize::try_from(address).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// The first error counts where the second way is none either.
fn whole(count: nix::Result<usize>, length: usize, first: io::Error) -> io::Result<()> {
    if count == Ok(length) { Ok(()) } else { Err(first) }
}
