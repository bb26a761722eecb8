//! Containers on disk: one directory each below the root, claimed by mkdir(2), locked by `lock.rs`.
//!
//! ```text
//! ROOT/ID/state.json   facts, replaced atomically; read-only once it was started
//! ROOT/ID/config.json  the configuration that the container was created from
//! ROOT/ID/init.sock    where init will listen, until it is ready
//! ROOT/ID/start.sock   where init listens for `start`
//! ROOT/ID/events       what was done to it, a line each; see `lifecycle.rs`
//! ROOT/ID/processes    further processes that have an id; see `processes.rs`
//! ROOT/ID~             what is being removed
//! ```

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use hiber_sandbox::cgroup::{CgroupPaths, Freezers};
use hiber_sys::file::with_record;
use oci_spec::runtime::{LinuxResources, Spec};
use rustix::fs::{Access, AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::de::DeserializeOwned;

use crate::error::{Error, Result, chain};
use crate::host::owned;
use crate::host::procfs;
use crate::id::ContainerId;
use crate::state::facts::{Brief, FACTS_VERSION, Facts};
use crate::state::lock::Lock;

const STATE: &str = "state.json";
const CONFIG: &str = "config.json";
/// `linux.resources` of the configuration before it was changed.
const RESOURCES: &str = "resources.json";
/// The mode of [`STATE`], whose owner may write it until the container was started: from then on nobody listens for it,
/// and nobody need ask.
const UNSTARTED: Mode = owned::PRIVATE;
const STARTED: Mode = Mode::from_raw_mode(0o400);
/// Follows the id in the name of a directory that is being removed; no id has it.
const REMOVED: &str = "~";
/// How often a removal begins anew because somebody else has put something there.
const REMOVALS: u32 = 16;
/// Where init listens while it is set up.
pub(crate) const INIT_SOCKET: &str = "init.sock";
/// Where it listens once it can be started.
pub(crate) const START_SOCKET: &str = "start.sock";

/// All containers of one root directory.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    root: PathBuf,
}

/// One container's directory, open.
#[derive(Debug)]
pub(crate) struct Entry {
    dir: OwnedFd,
    path: PathBuf,
    /// The file of what was done to it, once something was; see [`crate::state::lifecycle`].
    pub(crate) events: OnceLock<OwnedFd>,
}

impl Store {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.into() }
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

    /// Opens the directory of all containers, if there is one, and checks that nobody else can put anything there: what
    /// is found below is believed, and processes are signalled for it.
    fn open_root(&self, flags: OFlags) -> Result<Option<OwnedFd>> {
        match rustix::fs::open(&self.root, flags | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(root) => owned::check_dir(&root, &self.root).map(|()| Some(root)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(Error::file(&self.root, &e.into())),
        }
    }

    /// As [`open_root`](Self::open_root), but makes what is missing of it.
    fn make_root(&self) -> Result<OwnedFd> {
        if let Some(root) = self.open_root(OFlags::PATH)? {
            return Ok(root);
        }
        let mut all = std::fs::DirBuilder::new();
        all.recursive(true).mode(owned::PRIVATE_DIR.as_raw_mode());
        all.create(&self.root).map_err(|e| Error::file(&self.root, &e))?;
        self.open_root(OFlags::PATH)?.ok_or_else(|| Error::file(&self.root, &Errno::NOENT.into()))
    }

    /// Removes what a removal that was killed half-way has left of a container. It is looked for by its name: reading
    /// the whole root takes 1 µs for each other container.
    pub(crate) fn sweep(&self, id: &ContainerId) -> Result<()> {
        remove_tree(&removed(&self.path(id)))
    }

    /// Where a container's directory is or would be.
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
    pub(crate) fn overview(&self, many: bool) -> Overview {
        Overview {
            // Why it is not to be used is told when the handle is asked.
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
            // Some file systems do not say what it is; what is opened must be a directory.
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

/// The open directory of all containers. What it cannot say without doubt is [`Entry`]'s to say, or to refuse.
#[derive(Debug)]
pub(crate) struct Overview {
    root: Option<OwnedFd>,
    of_this_boot: OnceLock<bool>,
    /// Where many are looked at.
    freezers: Option<Freezers>,
    pub(crate) store: Store,
}

/// A container as its directory shows it.
#[derive(Debug)]
pub(crate) struct Look {
    pub(crate) facts: Facts,
    /// The user who made it.
    pub(crate) owner: u32,
    /// Whether it surely was started.
    pub(crate) started: bool,
}

impl Overview {
    /// Whether nothing in it can be of an earlier boot: it is in memory.
    pub(crate) fn is_of_this_boot(&self) -> bool {
        const TMPFS_MAGIC: u64 = 0x0102_1994; // linux/magic.h
        let in_memory = |root| rustix::fs::fstatfs(root).is_ok_and(|fs| fs.f_type as u64 == TMPFS_MAGIC);
        *self.of_this_boot.get_or_init(|| self.root.as_ref().is_some_and(in_memory))
    }

    /// What there is to know of a container without asking the kernel how it is.
    pub(crate) fn look(&self, id: &ContainerId) -> Option<Look> {
        let file = self.open(id, STATE)?;
        let stat = rustix::fs::fstat(&file).ok().filter(owned::is_trusted_file)?;
        let started = Mode::from_raw_mode(stat.st_mode) == STARTED;
        let facts: Facts = with_record(&file, |json| serde_json::from_slice(json)).ok()?.ok()?;
        (facts.version == FACTS_VERSION).then_some(Look { facts, owner: stat.st_uid, started })
    }

    /// As of the container's cgroup.
    pub(crate) fn frozen(&self, cgroup: &CgroupPaths) -> Result<bool> {
        Ok(match &self.freezers {
            Some(freezers) => freezers.frozen(cgroup)?,
            None => cgroup.frozen()?,
        })
    }

    /// What of the configuration is needed to show it.
    pub(crate) fn brief(&self, id: &ContainerId) -> Option<Brief> {
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

    /// As [`Entry::listens`] of a container.
    pub(crate) fn listens(&self, id: &ContainerId, socket: &str) -> Result<bool> {
        let path = Path::new(id.as_str()).join(socket);
        // Most have none. What cannot be asked so, the handle is asked.
        match &self.root {
            Some(root) if !may_exist(root, &path) => Ok(false),
            _ => self.store.open(id)?.listens(socket),
        }
    }
}

impl Entry {
    /// A directory below `root`, by the last component of its path.
    fn open(root: &OwnedFd, path: PathBuf) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match rustix::fs::openat(root, path.file_name().unwrap_or_default(), flags, Mode::empty()) {
            Ok(dir) => {
                owned::check_dir(&dir, &path)?;
                Ok(Self { dir, path, events: OnceLock::new() })
            }
            Err(Errno::NOENT) => Err(Error::NotFound),
            Err(e) => Err(Error::sys("open", path.display().to_string(), e)),
        }
    }

    /// The directory.
    pub(crate) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// The directory's path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Another handle on the same directory.
    pub(crate) fn try_clone(&self) -> Result<Self> {
        let dir = self.dir.try_clone().map_err(|e| Error::file(&self.path, &e))?;
        Ok(Self { dir, path: self.path.clone(), events: OnceLock::new() })
    }

    /// The directory by its descriptor, wherever it has been moved to.
    pub(crate) fn proc_path(&self) -> String {
        format!("/proc/self/fd/{}", self.dir.as_raw_fd())
    }

    /// Whether the container is gone: there is no directory under its name, or another one.
    pub(crate) fn is_removed(&self) -> bool {
        let is = rustix::fs::fstat(&self.dir).map(|s| (s.st_dev, s.st_ino));
        is != rustix::fs::stat(&self.path).map(|s| (s.st_dev, s.st_ino))
    }

    /// The user who made the container.
    pub(crate) fn owner(&self) -> Result<u32> {
        rustix::fs::fstat(&self.dir)
            .map(|s| s.st_uid)
            .map_err(|e| Error::sys("fstat", self.path.display().to_string(), e))
    }

    /// The facts; `None` if the creator was interrupted before it wrote any.
    pub(crate) fn facts(&self) -> Result<Option<Facts>> {
        let Some(bytes) = self.read(STATE)? else { return Ok(None) };
        let bad = |why: String| Error::File { path: self.path.join(STATE), why };
        let facts: Facts =
            serde_json::from_slice(&bytes).map_err(|e| bad(format!("cannot be understood: {e}")))?;
        if facts.version != FACTS_VERSION {
            return Err(bad(format!("has version {}, expected {FACTS_VERSION}", facts.version)));
        }
        facts.cgroup.check().map_err(|e| bad(chain(&e)))?;
        Ok(Some(facts))
    }

    /// The facts, as far as they can be understood: of a container that is to be removed.
    pub(crate) fn facts_of_any_version(&self) -> Option<Facts> {
        let facts: Facts = serde_json::from_slice(&self.read(STATE).ok()??).ok()?;
        facts.cgroup.check().is_ok().then_some(facts)
    }

    /// Replaces the facts.
    pub(crate) fn write_facts(&self, facts: &Facts) -> Result<()> {
        self.replace(STATE, facts)
    }

    /// The configuration that the container was created from; without one it does not exist yet.
    pub(crate) fn config(&self) -> Result<Spec> {
        self.read_config()
    }

    /// What of the configuration is needed after a creation, read without the rest.
    pub(crate) fn brief(&self) -> Result<Brief> {
        self.read_config()
    }

    fn read_config<T: DeserializeOwned>(&self) -> Result<T> {
        let bytes = self.read(CONFIG)?.ok_or(Error::NotFound)?;
        let bad = |why: String| Error::File { path: self.path.join(CONFIG), why };
        let text = str::from_utf8(&bytes).map_err(|e| bad(e.to_string()))?;
        serde_json::from_str(text).map_err(|e| bad(e.to_string()))
    }

    /// Keeps the configuration.
    pub(crate) fn write_config(&self, spec: &Spec) -> Result<()> {
        self.replace(CONFIG, spec)
    }

    /// Keeps the configuration, by the bytes that [`config`](Self::config) reads as the same.
    pub(crate) fn write_config_as_read(&self, json: &[u8]) -> Result<()> {
        self.replace_bytes(CONFIG, json)
    }

    /// The limits that the container was created with, if others were set since.
    pub(crate) fn first_resources(&self) -> Result<Option<LinuxResources>> {
        let bad = |e: serde_json::Error| Error::File { path: self.path.join(RESOURCES), why: e.to_string() };
        self.read(RESOURCES)?.map(|bytes| serde_json::from_slice(&bytes).map_err(bad)).transpose()
    }

    /// Keeps those limits, unless earlier ones are kept.
    pub(crate) fn keep_first_resources(&self, resources: &LinuxResources) -> Result<()> {
        match self.first_resources()? {
            Some(_) => Ok(()),
            None => self.replace(RESOURCES, resources),
        }
    }

    /// Reads a file of the runtime's in the container's directory or below: nothing on the way may be a link.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        // A FIFO in its place must not make anybody wait.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let way = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let fd = match rustix::fs::openat2(&self.dir, name, flags, Mode::empty(), way) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(Error::file(&self.path.join(name), &e.into())),
        };
        owned::check_file(&fd, &self.path.join(name))?;
        let bytes = hiber_sys::file::read_record(&fd)
            .map_err(|e| Error::sys("read", self.path.join(name).display().to_string(), e))?;
        Ok(Some(bytes))
    }

    fn replace(&self, name: &str, value: &impl serde::Serialize) -> Result<()> {
        let bytes = serde_json::to_vec(value)
            .map_err(|e| Error::File { path: self.path.join(name), why: e.to_string() })?;
        self.replace_bytes(name, &bytes)
    }

    /// A reader sees the old file or the new one, never a part.
    fn replace_bytes(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path.join(name);
        let temporary = format!(".{name}.new");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = rustix::fs::openat(&self.dir, &temporary, flags, UNSTARTED)
            .map_err(|e| Error::sys("openat", path.display().to_string(), e))?;
        File::from(fd).write_all(bytes).map_err(|e| Error::file(&path, &e))?;
        rustix::fs::renameat(&self.dir, &temporary, &self.dir, name)
            .map_err(|e| Error::sys("renameat", path.display().to_string(), e))
    }

    /// Listens on [`INIT_SOCKET`].
    pub(crate) fn listen(&self) -> Result<OwnedFd> {
        let socket = unix_socket(SocketFlags::empty())?;
        let fail = |call: &str, e| Error::sys(call, self.path.join(INIT_SOCKET).display().to_string(), e);
        rustix::net::bind(&socket, &self.address(INIT_SOCKET)?).map_err(|e| fail("bind", e))?;
        rustix::net::listen(&socket, 16).map_err(|e| fail("listen", e))?;
        Ok(socket)
    }

    /// Init is ready: from now on it can be called.
    pub(crate) fn publish_start_socket(&self) -> Result<()> {
        rustix::fs::renameat(&self.dir, INIT_SOCKET, &self.dir, START_SOCKET)
            .map_err(|e| Error::sys("renameat", self.path.join(START_SOCKET).display().to_string(), e))
    }

    /// Writes down that it was started, and removes the socket of its init, which has one or the other.
    pub(crate) fn started(&self) {
        // Without this it takes longer to see.
        let _ = rustix::fs::chmodat(&self.dir, STATE, STARTED, AtFlags::empty());
        // Left behind it misleads nobody: no one listens there any more.
        if rustix::fs::unlinkat(&self.dir, START_SOCKET, AtFlags::empty()).is_err() {
            let _ = rustix::fs::unlinkat(&self.dir, INIT_SOCKET, AtFlags::empty());
        }
    }

    /// Whether the process is an init still although nobody can start it: the container was never started, and its maker
    /// is dead. (Between a start and the word that it was, the starter has the lock or the program is another one.)
    pub(crate) fn is_abandoned(&self, pid: i32) -> Result<bool> {
        let stat = rustix::fs::statat(&self.dir, STATE, AtFlags::SYMLINK_NOFOLLOW);
        if stat.is_ok_and(|stat| Mode::from_raw_mode(stat.st_mode) == STARTED) {
            return Ok(false);
        }
        Ok(procfs::is_own_program(pid) && !self.is_locked()?)
    }

    /// Whether somebody listens on a socket of the container; waits for nobody.
    pub(crate) fn listens(&self, name: &str) -> Result<bool> {
        // Most that are asked are running, and have none: one call instead of three.
        if !may_exist(&self.dir, name.as_ref()) {
            return Ok(false);
        }
        Ok(self.connect_with(name, SocketFlags::NONBLOCK)?.is_some())
    }

    /// Connects to a socket of the container, waiting for its turn; `None` if nobody listens.
    pub(crate) fn connect(&self, name: &str) -> Result<Option<OwnedFd>> {
        self.connect_with(name, SocketFlags::empty())
    }

    fn connect_with(&self, name: &str, flags: SocketFlags) -> Result<Option<OwnedFd>> {
        let socket = unix_socket(flags)?;
        match rustix::net::connect(&socket, &self.address(name)?) {
            // Again: somebody listens, and has not yet accepted those who came before.
            Ok(()) | Err(Errno::AGAIN) => Ok(Some(socket)),
            Err(Errno::NOENT | Errno::CONNREFUSED) => Ok(None),
            Err(e) => Err(Error::sys("connect", self.path.join(name).display().to_string(), e)),
        }
    }

    /// Through /proc, because a socket's path is limited to 107 bytes (unix(7)) and roots can be deep.
    fn address(&self, name: &str) -> Result<SocketAddrUnix> {
        let path = format!("{}/{name}", self.proc_path());
        SocketAddrUnix::new(path.as_str()).map_err(|e| Error::sys("bind", path.clone(), e))
    }

    /// Removes the directory with all in it. It first takes a name that is no id, so that nobody sees half of it.
    pub(crate) fn remove(&self) -> Result<()> {
        let name = removed(&self.path);
        for _ in 0..REMOVALS {
            match rustix::fs::rename(&self.path, &name) {
                Ok(()) => return remove_tree(&name),
                Err(Errno::NOENT) => return Ok(()),
                // An earlier container of this id is still being removed, or was when its remover was killed.
                Err(Errno::EXIST | Errno::NOTEMPTY) => remove_tree(&name)?,
                Err(e) => return Err(removal(&name, &e.into())),
            }
        }
        Err(removal(&name, &Errno::NOTEMPTY.into()))
    }
}

/// What a container's directory is called while it is removed.
fn removed(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(REMOVED);
    name.into()
}

/// Removes a directory; others may be at it, too, and put a later one in its place: that goes as well.
fn remove_tree(path: &Path) -> Result<()> {
    use std::io::ErrorKind;
    let mut tried = 0;
    loop {
        tried += 1;
        match std::fs::remove_dir_all(path) {
            Err(e) if e.kind() == ErrorKind::DirectoryNotEmpty && tried < REMOVALS => {}
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(removal(path, &e)),
            _ => return Ok(()),
        }
    }
}

fn removal(path: &Path, e: &std::io::Error) -> Error {
    let source = Box::new(Error::file(path, e));
    Error::While { what: "remove the container's state".into(), source }
}

/// False if there is surely no such file.
fn may_exist(at: &OwnedFd, path: &Path) -> bool {
    rustix::fs::accessat(at, path, Access::EXISTS, AtFlags::empty()) != Err(Errno::NOENT)
}

fn unix_socket(flags: SocketFlags) -> Result<OwnedFd> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags | SocketFlags::CLOEXEC, None)
        .map_err(|e| Error::sys("socket", "AF_UNIX", e))
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
