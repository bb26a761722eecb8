//! The descriptors of a container's processes, and copies of them.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use hiber_sandbox::plan::NamespaceKind;
use hiber_sys::pidfd::DescriptorOwner;

use crate::error::{Context, Error, Result};
use crate::host::procfs::{Number, Numbered};

/// A process whose descriptors can be copied.
pub(super) struct Owner {
    pub(super) outer: i32,
    pub(super) inner: i32,
    descriptors: DescriptorOwner,
}

/// A descriptor that a process has open.
pub(super) struct Descriptor<'a> {
    pub(super) owner: &'a Owner,
    pub(super) fd: i32,
    /// The kernel's name of the file: `socket:[NUMBER]`, `anon_inode:[timerfd]`.
    pub(super) target: PathBuf,
}

impl Owner {
    pub(super) fn all(processes: &[Numbered]) -> Vec<Self> {
        let owner = |process: &Numbered| {
            let Number { outer, inner } = process.process;
            Self { outer, inner, descriptors: DescriptorOwner::new(outer) }
        };
        processes.iter().map(owner).collect()
    }

    /// That one of `all` which has the number `inner` in the container.
    pub(super) fn find(all: &[Self], inner: i32) -> Result<&Self> {
        let found = all.iter().find(|owner| owner.inner == inner);
        found.ok_or_else(|| Error::Invalid(format!("kept.json: the checkpoint has no process {inner}")))
    }

    /// All that it has open.
    pub(super) fn descriptors(&self) -> Result<Vec<Descriptor<'_>>> {
        let dir = PathBuf::from(format!("/proc/{}/fd", self.outer));
        let entries = std::fs::read_dir(&dir).map_err(|e| Error::file(&dir, &e))?;
        let mut descriptors = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| Error::file(&dir, &e))?;
            let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let path = entry.path();
            let target = std::fs::read_link(&path).map_err(|e| Error::file(&path, &e))?;
            descriptors.push(Descriptor { owner: self, fd, target });
        }
        Ok(descriptors)
    }

    /// A descriptor of ours for the file of its descriptor `fd`.
    pub(super) fn copy(&self, fd: i32) -> Result<OwnedFd> {
        self.descriptors
            .copy(fd)
            .context(format!("copy a descriptor of process {} of the container", self.inner))
    }

    /// The kernel's name of one of its namespaces.
    pub(super) fn namespace(&self, kind: NamespaceKind) -> Result<PathBuf> {
        let path = format!("/proc/{}/ns/{}", self.outer, kind.proc_name());
        std::fs::read_link(&path).map_err(|e| Error::file(Path::new(&path), &e))
    }
}

impl Descriptor<'_> {
    pub(super) fn is_socket(&self) -> bool {
        self.socket().is_some()
    }

    /// The inode number of a socket, in digits.
    pub(super) fn socket(&self) -> Option<&str> {
        self.target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')
    }

    pub(super) fn is_timer(&self) -> bool {
        self.target == Path::new("anon_inode:[timerfd]")
    }

    pub(super) fn is_eventfd(&self) -> bool {
        self.target == Path::new("anon_inode:[eventfd]")
    }

    /// `/proc/PID/fdinfo/FD`
    pub(super) fn info(&self) -> Result<String> {
        let path = format!("/proc/{}/fdinfo/{}", self.owner.outer, self.fd);
        hiber_sys::file::read_to_string(&path).map_err(|e| Error::file(Path::new(&path), &e))
    }

    pub(super) fn copy(&self) -> Result<OwnedFd> {
        self.owner.copy(self.fd)
    }
}
