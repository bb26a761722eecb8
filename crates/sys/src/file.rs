//! Reading small files, of which a runtime reads many.

use std::os::fd::AsFd;

use rustix::buffer::spare_capacity;
use rustix::io::Errno;

/// The rest of an open file. For small ones, such as those of procfs, this takes two calls; what the standard library
/// does (size, offset, reads of 32 bytes and more) takes up to nine.
pub fn read(fd: impl AsFd) -> Result<Vec<u8>, Errno> {
    read_until(fd, |length, _| length == 0)
}

/// The rest of an open file, of which a read that does not fill the buffer gives all there is: a small one takes one call.
/// That is so for a file on disk or in memory, and for one of the kernel's that it writes as one record (`single_open` in
/// its seq_file.rst: most of a cgroup's, /proc/PID/stat). It is not for the kernel's lists, such as mountinfo or
/// cgroup.procs, where a read ends with the last line that fits into a page.
pub fn read_record(fd: impl AsFd) -> Result<Vec<u8>, Errno> {
    read_until(fd, |length, room| length < room)
}

/// What [`read_record`] reads, for who keeps nothing of it: what is small needs no memory of its own.
///
/// # Errors
/// As of read(2).
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

/// Reads until `last` says so of a read: how many bytes it gave, and how many it might have given.
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

/// Bytes of the kernel's as text: ASCII but for names that people gave to processes, cgroups and mount points.
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
