//! An archive of a checkpoint, as podman exports it.
#![no_main]

use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|archive: &[u8]| {
    let memory = rustix::fs::memfd_create("archive", rustix::fs::MemfdFlags::CLOEXEC).expect("a memfd");
    let mut file = std::fs::File::from(memory);
    file.write_all(archive).expect("an archive");
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let _ = hiber::inspect(&path);
    let _ = hiber::verify(&path);
});
