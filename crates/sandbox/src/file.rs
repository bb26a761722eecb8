//! Reading small files, of which a runtime reads many.

use std::os::fd::AsFd;

use rustix::buffer::spare_capacity;
use rustix::io::Errno;

/// The rest of an open file. For small ones, such as those of procfs, cgroups and states, this takes two calls; what
/// the standard library does (size, offset, reads of 32 bytes and more) takes up to nine.
pub fn read(fd: impl AsFd) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::with_capacity(4096);
    loop {
        if bytes.capacity() - bytes.len() < 512 {
            bytes.reserve(bytes.capacity());
        }
        match rustix::io::read(&fd, spare_capacity(&mut bytes)) {
            Ok(0) => return Ok(bytes),
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    #[test]
    fn files_of_all_sizes_are_read_whole() {
        for size in [0, 1, 511, 3584, 3585, 4095, 4096, 4097, 8192, 100_000] {
            let content: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(&content).unwrap();
            let read = super::read(std::fs::File::open(file.path()).unwrap()).unwrap();
            assert_eq!(read, content, "{size}");
        }
    }
}
