//! CRIU is started in a mount namespace of its own, where its notes about the kernel say that memory can be tracked: its dump then
//! leaves the memory to us ([`hiber_criu::own_tracking`]).

use std::fs::{OpenOptions, read_link};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use hiber_criu::own_tracking::{NOTES, notes_with_tracking};
use hiber_sandbox::inside;
use hiber_sandbox::plan::NamespaceKind;
use hiber_sys::process::unshare;
use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};

use crate::container::task::Task;
use crate::error::{Error, Result, chain};

/// A file with such notes, removed when this is dropped: CRIU has it mounted.
struct Notes(PathBuf);

impl Notes {
    /// `None` where CRIU has no notes, or must not be in another mount namespace: it would save the mounts of a container that has
    /// none of its own.
    fn of(task: &Task) -> Option<Self> {
        let namespace = |of: &str| read_link(format!("/proc/{of}/ns/mnt")).ok();
        let (its, ours) = (namespace(&task.facts().ok()?.pid.to_string())?, namespace("self")?);
        let notes = notes_with_tracking().filter(|_| its != ours)?;
        let path = task.container().entry().path().join("criu.kdat");
        // One that is left of a killed checkpoint may be shown to a CRIU that still runs.
        let _ = std::fs::remove_file(&path);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let made = Self(path);
        file.and_then(|mut file| file.write_all(&notes)).ok().map(|()| made)
    }
}

impl Drop for Notes {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Does `begin`, which starts CRIU, in these namespaces of the container. If `tracked`, CRIU is shown such notes where that is
/// possible.
pub(super) fn launched<T: Send>(
    task: &Task,
    kinds: &[NamespaceKind],
    tracked: bool,
    begin: impl FnOnce() -> T + Send,
) -> Result<T> {
    let notes = tracked.then(|| Notes::of(task)).flatten();
    if notes.is_none() && kinds.is_empty() {
        return Ok(begin());
    }
    Ok(inside(task.facts()?.pid, kinds, || {
        if let Some(Err(e)) = notes.as_ref().map(|notes| show(&notes.0)) {
            tracing::debug!(
                "criu reads the memory itself: its notes about the kernel cannot be changed: {}",
                chain(&e)
            );
        }
        begin()
    })?)
}

fn show(notes: &Path) -> Result<()> {
    unshare(NamespaceKind::Mount.clone_flag(), "for other notes about the kernel")?;
    // Nobody else is to see the mount.
    mount_change("/run", MountPropagationFlags::PRIVATE)
        .map_err(|e| Error::sys("mount", "/run, private", e))?;
    mount_bind(notes, NOTES).map_err(|e| Error::sys("mount", NOTES, e))
}
