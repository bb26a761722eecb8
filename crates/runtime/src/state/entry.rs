//! A container's directory, locked by `lock.rs`.
//!
//! ```text
//! ROOT/ID/state.json   facts, replaced atomically; read-only once it was started
//! ROOT/ID/config.json  the configuration that the container was created from
//! ROOT/ID/init.sock    where init will listen, until it is ready
//! ROOT/ID/start.sock   where init listens for `start`
//! ROOT/ID/events       what was done to it, a line each; see `lifecycle.rs`
//! ROOT/ID/processes    further processes that have an id; see `state/processes.rs`
//! ROOT/ID~             what is being removed
//! ```

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use oci_spec::runtime::{LinuxResources, Spec};
use rustix::fs::{Access, AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::de::DeserializeOwned;

use crate::error::{Error, Result, chain};
use crate::host::owned;
use crate::host::procfs;
use crate::state::facts::{ConfigSummary, FACTS_VERSION, Facts};

pub(super) const STATE: &str = "state.json";
pub(super) const CONFIG: &str = "config.json";
/// `linux.resources` of the configuration before it was changed.
const RESOURCES: &str = "resources.json";
/// The mode of [`STATE`] of a started container. Its owner may write the file until the start. A file that nobody may write thus
/// shows, without another question, that nobody listens for `start`.
const UNSTARTED: Mode = owned::PRIVATE;
pub(super) const STARTED: Mode = Mode::from_raw_mode(0o400);
/// Follows the id in the name of a directory that is being removed; no id has it.
const REMOVED: &str = "~";
/// The number of times that a removal begins anew because somebody else has made a file there.
const REMOVALS: u32 = 16;
/// Where init listens while it is set up.
pub(crate) const INIT_SOCKET: &str = "init.sock";
/// Where it listens once it can be started.
pub(crate) const START_SOCKET: &str = "start.sock";

/// One container's directory, open.
#[derive(Debug)]
pub(crate) struct Entry {
    dir: OwnedFd,
    path: PathBuf,
    /// The file of operations, after the first one; see [`crate::state::lifecycle`].
    pub(crate) events: OnceLock<OwnedFd>,
}

impl Entry {
    /// A directory below `root`, by the last component of its path.
    pub(super) fn open(root: &OwnedFd, path: PathBuf) -> Result<Self> {
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

    /// The facts, as far as they can be understood, for a removal.
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

    /// The part of the configuration that is needed after a creation, read without the rest.
    pub(crate) fn config_summary(&self) -> Result<ConfigSummary> {
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

    /// Records these limits, unless earlier ones are recorded.
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

    pub(super) fn replace(&self, name: &str, value: &impl serde::Serialize) -> Result<()> {
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
        self.listen_on(INIT_SOCKET)
    }

    /// Listens on the socket of that name.
    pub(crate) fn listen_on(&self, name: &str) -> Result<OwnedFd> {
        let socket = unix_socket(SocketFlags::empty())?;
        let fail = |call: &str, e| Error::sys(call, self.path.join(name).display().to_string(), e);
        rustix::net::bind(&socket, &self.address(name)?).map_err(|e| fail("bind", e))?;
        rustix::net::listen(&socket, 16).map_err(|e| fail("listen", e))?;
        Ok(socket)
    }

    /// Renames the socket: init is ready for `start`.
    pub(crate) fn publish_start_socket(&self) -> Result<()> {
        rustix::fs::renameat(&self.dir, INIT_SOCKET, &self.dir, START_SOCKET)
            .map_err(|e| Error::sys("renameat", self.path.join(START_SOCKET).display().to_string(), e))
    }

    /// Records the start, and removes the socket of its init, which has one of the two names.
    pub(crate) fn started(&self) {
        // Without this mode later questions take longer.
        let _ = rustix::fs::chmodat(&self.dir, STATE, STARTED, AtFlags::empty());
        // A socket that is left behind misleads nobody, because nobody listens there any more.
        if rustix::fs::unlinkat(&self.dir, START_SOCKET, AtFlags::empty()).is_err() {
            let _ = rustix::fs::unlinkat(&self.dir, INIT_SOCKET, AtFlags::empty());
        }
    }

    /// Whether the process is still an init that nobody can start: the container was never started, and its maker is dead.
    /// (Between a start and its record, either the starter holds the lock or the process runs another program.)
    pub(crate) fn is_abandoned(&self, pid: i32) -> Result<bool> {
        let stat = rustix::fs::statat(&self.dir, STATE, AtFlags::SYMLINK_NOFOLLOW);
        if stat.is_ok_and(|stat| Mode::from_raw_mode(stat.st_mode) == STARTED) {
            return Ok(false);
        }
        Ok(procfs::is_own_program(pid) && !self.is_locked()?)
    }

    /// Whether somebody listens on a socket of the container; waits for nobody.
    pub(crate) fn listens(&self, name: &str) -> Result<bool> {
        // Most containers are running and have no socket: one call instead of three.
        if !may_exist(&self.dir, name.as_ref()) {
            return Ok(false);
        }
        Ok(self.connect_with(name, SocketFlags::NONBLOCK)?.is_some())
    }

    /// Connects to a socket of the container, and waits for its turn; `None` if nobody listens.
    pub(crate) fn connect(&self, name: &str) -> Result<Option<OwnedFd>> {
        self.connect_with(name, SocketFlags::empty())
    }

    fn connect_with(&self, name: &str, flags: SocketFlags) -> Result<Option<OwnedFd>> {
        let socket = unix_socket(flags)?;
        match rustix::net::connect(&socket, &self.address(name)?) {
            // Try again: somebody listens, and has not yet accepted earlier connections.
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

    /// Removes the directory with its contents. The directory first gets a name that is no id, so that nobody sees half of it.
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

/// The name of a container's directory while it is being removed.
pub(super) fn removed(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(REMOVED);
    name.into()
}

/// Removes a directory. Other processes may be removing it, too, and put a later one in its place, which is also removed.
pub(super) fn remove_tree(path: &Path) -> Result<()> {
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
pub(super) fn may_exist(at: &OwnedFd, path: &Path) -> bool {
    rustix::fs::accessat(at, path, Access::EXISTS, AtFlags::empty()) != Err(Errno::NOENT)
}

fn unix_socket(flags: SocketFlags) -> Result<OwnedFd> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags | SocketFlags::CLOEXEC, None)
        .map_err(|e| Error::sys("socket", "AF_UNIX", e))
}
