//! Which pages a container touches first after a restore: `working-set.json` beside the images.
//!
//! It is recorded once, and fetched first from then on. It is no part of the checkpoint: nothing depends on what it says but
//! the order in which memory comes, and pages that it names and that are not there are passed over.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::BorrowedFd;

use hiber_memory::page_daemon::Touch;
use rustix::fs::{AtFlags, Mode, OFlags};
use serde::{Deserialize, Serialize};

pub(crate) const FILE: &str = "working-set.json";
const VERSION: u32 = 1;
/// No more is read.
const MAX_SIZE: u64 = 4 << 20;

#[derive(Debug, Serialize, Deserialize)]
struct WorkingSet {
    version: u32,
    /// Number of the task, address of the first page, and where they end.
    touches: Vec<(i32, u64, u64)>,
}

/// The record beside the images in `dir`; empty if there is none, or one that cannot be read.
pub(super) fn read(dir: BorrowedFd<'_>) -> Vec<Touch> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut json = Vec::new();
    let found = rustix::fs::openat(dir, FILE, flags, Mode::empty())
        .map_err(std::io::Error::from)
        .and_then(|file| File::from(file).take(MAX_SIZE).read_to_end(&mut json));
    let parsed = found.ok().and_then(|_| serde_json::from_slice::<WorkingSet>(&json).ok());
    let touches = parsed.filter(|set| set.version == VERSION).map(|set| set.touches).unwrap_or_default();
    let sound = touches.into_iter().filter(|(_, start, end)| start < end);
    sound.map(|(task, start, end)| Touch { task, start, end }).collect()
}

/// Records it. A directory that cannot be written to, or was deleted, has none.
pub(super) fn write(dir: BorrowedFd<'_>, touched: &[Touch]) -> std::io::Result<()> {
    let touches = touched.iter().map(|touch| (touch.task, touch.start, touch.end)).collect();
    let json = serde_json::to_vec(&WorkingSet { version: VERSION, touches })?;
    // Whole, or not at all.
    let new = format!(".{FILE}.{}", std::process::id());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, &*new, flags, Mode::from_raw_mode(0o600))?;
    let written =
        File::from(file).write_all(&json).and_then(|()| Ok(rustix::fs::renameat(dir, &*new, dir, FILE)?));
    if written.is_err() {
        let _ = rustix::fs::unlinkat(dir, &*new, AtFlags::empty());
    }
    written
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn what_is_recorded_is_read_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let dir = File::open(place.path()).unwrap();
        let read = || read(dir.as_fd());
        assert_eq!(read(), []);
        let touched = [(1, 0x2000, 0x4000), (7, 0x1000, 0x2000)];
        let touched = touched.map(|(task, start, end)| Touch { task, start, end });
        write(dir.as_fd(), &touched).unwrap();
        assert_eq!(read(), touched);
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1);
        let path = place.path().join(FILE);
        for other in
            ["", "{}", r#"{"version":2,"touches":[[1,2,3]]}"#, r#"{"version":1,"touches":[[1,3,3],[1,4,3]]}"#]
        {
            std::fs::write(&path, other).unwrap();
            assert_eq!(read(), [], "{other}");
        }
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert_eq!(read(), []);
    }
}
