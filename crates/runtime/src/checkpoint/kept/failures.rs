//! Failures of what threads of the container do in our hands.

use crate::error::Error;

/// The failure of thread `inner`; of one that the caller names, if that is 0.
pub(super) fn failed(inner: i32) -> impl FnOnce(hiber_memory::Error) -> Error {
    move |e| match inner {
        0 => Error::Invalid(e.to_string()),
        inner => Error::Invalid(format!("thread {inner} of the container: {e}")),
    }
}

/// One crate's error number as another's.
pub(super) fn errno(e: nix::errno::Errno) -> rustix::io::Errno {
    rustix::io::Errno::from_raw_os_error(e as i32)
}
