//! Reads of small files. A runtime makes many.

use std::os::fd::AsFd;
use std::path::Path;

use rustix::buffer::spare_capacity;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Reads the rest of an open file. A small file, such as one of procfs, takes two calls; the standard library (size, offset,
/// reads of 32 bytes and more) needs up to nine.
pub fn read(fd: impl AsFd) -> Result<Vec<u8>, Errno> {
    read_until(fd, |length, _| length == 0)
}

/// The whole of a small file, as text; bytes that are not UTF-8 are replaced.
///
/// # Errors
/// Those of open(2) and read(2).
pub fn read_to_string(path: impl AsRef<Path>) -> std::io::Result<String> {
    let file = rustix::fs::open(path.as_ref(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(text(read(file)?))
}

/// Reads the rest of an open file of the kind that a short read ends: a small file takes one call. Files on disk or in memory are
/// of this kind, and files of the kernel that are one record (`single_open` in its seq_file.rst: most files of a cgroup,
/// /proc/PID/stat). Lists of the kernel, such as mountinfo or cgroup.procs, are not: a read there ends with the last line that
/// fits into a page.
pub fn read_record(fd: impl AsFd) -> Result<Vec<u8>, Errno> {
    read_until(fd, |length, room| length < room)
}

/// As [`read_record`], for callers that keep nothing of the content: a small file then needs no allocation.
///
/// # Errors
/// Those of read(2).
pub fn with_record<T>(fd: impl AsFd, take: impl FnOnce(&[u8]) -> T) -> Result<T, Errno> {
    let mut room = [0; 2048];
    let length = rustix::io::retry_on_intr(|| rustix::io::read(&fd, &mut room))?;
    if length < room.len() {
        return Ok(take(&room[..length]));
    }
    let mut all = room.to_vec();
    all.append(&mut read_record(&fd)?);
    Ok(take(&all))
}

/// Reads until `last` returns true for a read: its arguments are the bytes that the read gave, and the size of the buffer.
fn read_until(fd: impl AsFd, last: impl Fn(usize, usize) -> bool) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::with_capacity(4096);
    loop {
        if bytes.capacity() - bytes.len() < 512 {
            bytes.reserve(bytes.capacity());
        }
        let room = bytes.capacity() - bytes.len();
        match rustix::io::read(&fd, spare_capacity(&mut bytes)) {
            Ok(length) if last(length, room) => return Ok(bytes),
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
}

/// Bytes from the kernel as text. They are ASCII, apart from names of processes, cgroups and mount points.
pub fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    #[test]
    fn files_of_all_sizes_are_read_whole() {
        for size in [0, 1, 511, 2047, 2048, 2049, 3584, 3585, 4095, 4096, 4097, 8192, 100_000] {
            let content: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(&content).unwrap();
            let open = || std::fs::File::open(file.path()).unwrap();
            for read in [super::read, super::read_record, |file| super::with_record(file, <[u8]>::to_vec)] {
                assert_eq!(read(open()).unwrap(), content, "{size}");
            }
        }
    }
}
