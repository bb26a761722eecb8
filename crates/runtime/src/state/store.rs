//! Containers on disk: one directory each below the root, claimed by mkdir(2).

use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use hiber_sandbox::cgroup::{CgroupPaths, Freezers};
use hiber_sys::file::with_record;
use rustix::fs::{FileType, Mode, OFlags, RawDir, ResolveFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::host::owned;
use crate::id::ContainerId;
use crate::state::entry::{CONFIG, Entry, STARTED, STATE, may_exist, remove_tree, removed};
use crate::state::facts::{ConfigSummary, FACTS_VERSION, Facts};
use crate::state::lock::Lock;

/// All containers of one root directory.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    root: PathBuf,
}

impl Store {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.into() }
    }

    /// That of this container.
    pub(crate) fn of(entry: &Entry) -> Self {
        Self::new(entry.path().parent().unwrap_or(Path::new("/")))
    }

    /// The directory of all containers.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Claims an id: makes its directory and locks it.
    pub(crate) fn create(&self, id: &ContainerId) -> Result<(Entry, Lock)> {
        let root = self.make_root()?;
        self.sweep(id)?;
        match rustix::fs::mkdirat(&root, id.as_str(), owned::PRIVATE_DIR) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(Error::Exists),
            Err(e) => return Err(Error::sys("mkdir", self.path(id).display().to_string(), e)),
        }
        let entry = Entry::open(&root, self.path(id))?;
        let lock = entry.lock()?;
        Ok((entry, lock))
    }

    /// Opens the directory of all containers, if there is one, and checks that nobody else can make files there: the facts below
    /// are trusted, and processes are signalled because of them.
    fn open_root(&self, flags: OFlags) -> Result<Option<OwnedFd>> {
        match rustix::fs::open(&self.root, flags | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(root) => owned::check_dir(&root, &self.root).map(|()| Some(root)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(Error::file(&self.root, &e.into())),
        }
    }

    /// As [`open_root`](Self::open_root), but makes missing directories.
    fn make_root(&self) -> Result<OwnedFd> {
        if let Some(root) = self.open_root(OFlags::PATH)? {
            return Ok(root);
        }
        let mut all = std::fs::DirBuilder::new();
        all.recursive(true).mode(owned::PRIVATE_DIR.as_raw_mode());
        all.create(&self.root).map_err(|e| Error::file(&self.root, &e))?;
        self.open_root(OFlags::PATH)?.ok_or_else(|| Error::file(&self.root, &Errno::NOENT.into()))
    }

    /// A directory of the runtime's own beside those of the containers; `name` is no id. Made if it is missing.
    pub(crate) fn own_directory(&self, name: &str) -> Result<PathBuf> {
        let root = self.make_root()?;
        match rustix::fs::mkdirat(&root, name, owned::PRIVATE_DIR) {
            Ok(()) | Err(Errno::EXIST) => Ok(self.root.join(name)),
            Err(e) => Err(Error::sys("mkdir", self.root.join(name).display().to_string(), e)),
        }
    }

    /// Removes the remains of a container whose removal was killed half-way. They are found by name: reading the whole root takes
    /// 1 µs for each other container.
    pub(crate) fn sweep(&self, id: &ContainerId) -> Result<()> {
        remove_tree(&removed(&self.path(id)))
    }

    /// The path of a container's directory, which need not exist.
    pub(crate) fn path(&self, id: &ContainerId) -> PathBuf {
        self.root.join(id)
    }

    /// Opens a container's directory.
    pub(crate) fn open(&self, id: &ContainerId) -> Result<Entry> {
        match self.open_root(OFlags::PATH)? {
            Some(root) => Entry::open(&root, self.path(id)),
            None => Err(Error::NotFound),
        }
    }

    /// Looks at containers without opening each one's directory; `many` at more than one.
    pub(crate) fn listing(&self, many: bool) -> Listing {
        Listing {
            // The handle reports later why it cannot be used.
            root: self.open_root(OFlags::PATH).ok().flatten(),
            of_this_boot: OnceLock::new(),
            freezers: many.then(Freezers::default),
            store: self.clone(),
        }
    }

    /// The ids of all containers, sorted.
    pub(crate) fn ids(&self) -> Result<Vec<ContainerId>> {
        let Some(root) = self.open_root(OFlags::RDONLY)? else { return Ok(Vec::new()) };
        let mut buffer = Vec::with_capacity(32 << 10);
        let mut entries = RawDir::new(root, buffer.spare_capacity_mut());
        let mut ids = Vec::new();
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(|e| Error::file(&self.root, &e.into()))?;
            // Some file systems do not report the type; opening checks for a directory.
            if matches!(entry.file_type(), FileType::Directory | FileType::Unknown)
                && let Ok(Ok(id)) = entry.file_name().to_str().map(str::parse)
            {
                ids.push(id);
            }
        }
        ids.sort();
        Ok(ids)
    }
}

/// The open directory of all containers. Questions that it cannot answer for certain go to [`Entry`].
#[derive(Debug)]
pub(crate) struct Listing {
    root: Option<OwnedFd>,
    of_this_boot: OnceLock<bool>,
    /// Where many are looked at.
    freezers: Option<Freezers>,
    pub(crate) store: Store,
}

/// A container as its directory shows it.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) facts: Facts,
    /// The user who made it.
    pub(crate) owner: u32,
    /// Whether it surely was started.
    pub(crate) started: bool,
}

impl Listing {
    /// Whether its files are in memory, and so of this boot.
    pub(crate) fn is_of_this_boot(&self) -> bool {
        const TMPFS_MAGIC: u64 = 0x0102_1994; // linux/magic.h
        let in_memory = |root| rustix::fs::fstatfs(root).is_ok_and(|fs| fs.f_type as u64 == TMPFS_MAGIC);
        *self.of_this_boot.get_or_init(|| self.root.as_ref().is_some_and(in_memory))
    }

    /// The facts of a container that need no question to the kernel.
    pub(crate) fn look(&self, id: &ContainerId) -> Option<Listed> {
        let file = self.open(id, STATE)?;
        let stat = rustix::fs::fstat(&file).ok().filter(owned::is_trusted_file)?;
        let started = Mode::from_raw_mode(stat.st_mode) == STARTED;
        let facts: Facts = with_record(&file, |json| serde_json::from_slice(json)).ok()?.ok()?;
        (facts.version == FACTS_VERSION).then_some(Listed { facts, owner: stat.st_uid, started })
    }

    /// Those of the container's cgroup.
    pub(crate) fn frozen(&self, cgroup: &CgroupPaths) -> Result<bool> {
        Ok(match &self.freezers {
            Some(freezers) => freezers.frozen(cgroup)?,
            None => cgroup.frozen()?,
        })
    }

    /// The part of the configuration that is needed to show it.
    pub(crate) fn config_summary(&self, id: &ContainerId) -> Option<ConfigSummary> {
        let file = self.open(id, CONFIG)?;
        owned::check_file(&file, CONFIG.as_ref()).ok()?;
        let bytes = hiber_sys::file::read_record(file).ok()?;
        serde_json::from_str(str::from_utf8(&bytes).ok()?).ok()
    }

    /// A file of a container's own directory: nothing on the way may be a link.
    fn open(&self, id: &ContainerId, name: &str) -> Option<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let way = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let path = Path::new(id.as_str()).join(name);
        rustix::fs::openat2(self.root.as_ref()?, path, flags, Mode::empty(), way).ok()
    }

    /// Whether there may be a file in a container's directory.
    pub(crate) fn has(&self, id: &ContainerId, name: &str) -> bool {
        self.root.as_ref().is_none_or(|root| may_exist(root, &Path::new(id.as_str()).join(name)))
    }

    /// As [`Entry::listens`] of a container.
    pub(crate) fn listens(&self, id: &ContainerId, socket: &str) -> Result<bool> {
        let path = Path::new(id.as_str()).join(socket);
        // Most have none. Questions that cannot be answered so go to the handle.
        match &self.root {
            Some(root) if !may_exist(root, &path) => Ok(false),
            _ => self.store.open(id)?.listens(socket),
        }
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
