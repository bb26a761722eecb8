//! Work in some of the namespaces of a process.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

use crate::plan::NamespaceKind;
use crate::{Result, SysError};
use hiber_sys::process::{setns, unshare};

/// Does `work` in namespaces of process `pid`, in a thread that joins them and then ends. Programs that `work` starts are in
/// these namespaces, too.
///
/// # Errors
/// If there is no such process, or its namespaces may not be joined.
pub fn inside<T: Send>(pid: i32, kinds: &[NamespaceKind], work: impl FnOnce() -> T + Send) -> Result<T> {
    let open = |kind: &NamespaceKind| -> Result<(NamespaceKind, OwnedFd)> {
        let path = format!("/proc/{pid}/ns/{}", kind.proc_name());
        let opened = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        Ok((*kind, opened.map_err(|e| SysError::new("open", path, e.raw_os_error()))?))
    };
    let namespaces = kinds.iter().map(open).collect::<Result<Vec<_>>>()?;
    let joined = || {
        if kinds.contains(&NamespaceKind::Mount) {
            // The kernel wants the thread to have a root and a directory of its own.
            unshare(libc::CLONE_FS as u64, "for another mount namespace")?;
        }
        for (kind, namespace) in &namespaces {
            let what = format!("into the {} namespace of process {pid}", kind.as_str());
            setns(namespace.as_fd(), kind.clone_flag(), &what)?;
        }
        Ok(work())
    };
    std::thread::scope(|scope| scope.spawn(joined).join())
        .unwrap_or_else(|_| Err(SysError::new("setns", "in a thread that died", libc::ESRCH).into()))
}
