//! Memory that a child would find empty, made empty.

use std::fs::OpenOptions;
use std::io::IoSliceMut;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use hiber_criu::pagemap::PAGE;
use hiber_criu::{ImageDirectory, Images, wiped_on_fork};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

use crate::error::{Error, Result};
use crate::host::procfs::{Number, Numbered};

/// How much is written at once, in bytes.
const AT_ONCE: u64 = 16 * PAGE;

/// Wipes it in the stopped processes `pids` of the container whose first process is `first`.
///
/// /proc/PID/mem writes to memory that the process itself may only read, but waits for no memory that follows (userfaultfd), where
/// process_vm_readv(2) does.
pub(super) fn wipe(images: &ImageDirectory, first: i32, pids: &[i32]) -> Result<()> {
    let wiped = wiped_on_fork(&Images::in_directory(images)?)?;
    if wiped.is_empty() {
        return Ok(());
    }
    let zeros = vec![0; usize::try_from(AT_ONCE).unwrap_or_default()];
    let mut old = zeros.clone();
    for Number { outer, inner } in Numbered::all(first, pids).into_iter().map(|all| all.process) {
        let Some(pages) = u32::try_from(inner).ok().and_then(|inner| wiped.get(&inner)) else { continue };
        let path = PathBuf::from(format!("/proc/{outer}/mem"));
        let memory = OpenOptions::new().write(true).open(&path).map_err(|e| Error::file(&path, &e))?;
        for range in pages {
            let mut at = range.start;
            while at < range.end {
                let length = usize::try_from((range.end - at).min(AT_ONCE)).unwrap_or_default();
                bring(outer, at, &mut old[..length]);
                memory.write_all_at(&zeros[..length], at).map_err(|e| Error::file(&path, &e))?;
                at += length as u64;
            }
        }
    }
    Ok(())
}

/// Has memory brought in; what cannot be read so follows nobody.
fn bring(pid: i32, at: u64, buffer: &mut [u8]) {
    let from = RemoteIoVec { base: usize::try_from(at).unwrap_or_default(), len: buffer.len() };
    let _ = process_vm_readv(Pid::from_raw(pid), &mut [IoSliceMut::new(buffer)], &[from]);
}
