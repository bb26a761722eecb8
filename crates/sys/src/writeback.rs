//! sync_file_range(2).

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::{Result, SysError};

/// Has the kernel begin to write what is dirty in `length` bytes from `offset` on to the disk, and does not wait for
/// the end of it (SYNC_FILE_RANGE_WRITE). It is no promise: fsync(2) is.
///
/// # Errors
/// ESPIPE if `file` is no file of a filesystem, EINVAL if the range passes the largest offset, ENOSYS where the
/// architecture has no such call.
pub fn begin_writeback(file: BorrowedFd<'_>, offset: u64, length: u64) -> Result<()> {
    // SAFETY: it takes integers alone; ones that are too large become negative, which the kernel refuses.
    let r = unsafe {
        libc::sync_file_range(
            file.as_raw_fd(),
            offset as libc::off64_t,
            length as libc::off64_t,
            libc::SYNC_FILE_RANGE_WRITE,
        )
    };
    if r < 0 {
        let args = format!("{length} bytes from {offset} on");
        return Err(SysError::new("sync_file_range", args, nix::errno::Errno::last_raw()));
    }
    Ok(())
}
