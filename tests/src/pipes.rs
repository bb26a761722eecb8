//! The largest size of a pipe, which CRIU's lazy pages need raised where root is not all-powerful.

use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File};

const SETTING: &str = "/proc/sys/fs/pipe-max-size";
/// The size that CRIU's page server asks for, in bytes.
const WANTED: u64 = 4 << 20;

/// Pipes may be large as long as this lives; the setting of the machine is then as it was. One test at a time has it.
#[derive(Debug)]
pub struct LargePipes {
    before: Option<String>,
    _lock: File,
}

/// Keeps every test from changing the setting as long as the result lives.
///
/// # Panics
/// If that cannot be done.
#[must_use = "the setting may be changed as soon as the lock is gone"]
#[track_caller]
pub fn keep() -> File {
    let path = std::env::temp_dir().join("hiber-tests-pipes.lock");
    let lock = File::create(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    flock(&lock, FlockOperation::LockExclusive).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    lock
}

impl LargePipes {
    /// Raises the setting if it is too low.
    ///
    /// # Panics
    /// If that cannot be done.
    #[track_caller]
    pub fn raise() -> Self {
        let lock = keep();
        let now = fs::read_to_string(SETTING).unwrap_or_else(|e| panic!("{SETTING}: {e}"));
        let low = now.trim().parse().is_ok_and(|bytes: u64| bytes < WANTED);
        if low && let Err(e) = fs::write(SETTING, WANTED.to_string()) {
            panic!("{SETTING}: {e}");
        }
        Self { before: low.then_some(now), _lock: lock }
    }
}

impl Drop for LargePipes {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = fs::write(SETTING, before);
        }
    }
}
