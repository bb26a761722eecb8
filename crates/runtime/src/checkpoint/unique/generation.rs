//! The files by which a restored container learns that it is another one: /run/hiber in the container.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use hiber_sandbox::plan::{NamespaceKind, Namespaces};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, ResolveFlags, chmodat, mkdirat, openat2, renameat};
use rustix::io::Errno;

use crate::error::{Context, Error, Result};
use crate::helpers::lazy::Token;
use crate::host::owned;
use crate::host::paths::open_dir;
use crate::host::threads::apart;
use crate::id::ContainerId;
use crate::state::store::Store;

/// Their directory in the container.
const DIRECTORY: &str = "/run/hiber";
/// The file that says which restore the container comes from.
const GENERATION: &str = "generation";
const ENVIRONMENT: &str = "environment";
const ANNOTATIONS: &str = "annotations.json";
/// Beside the containers, of none: the counter.
const COUNTERS: &str = "~generations";
const COUNTER: &str = "counter";

/// The files that a clone gets beside the one of its generation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Given {
    /// Annotations of this clone alone.
    pub(crate) annotations: BTreeMap<String, String>,
    /// Variables, as the lines of a file.
    pub(crate) environment: Option<Vec<u8>>,
}

/// The difference between this restore and all others.
#[derive(Debug)]
pub(crate) struct Generation {
    id: String,
    /// Which one it is below this root directory, since the machine was booted.
    counter: u64,
    time: SystemTime,
    random: Token,
}

impl Generation {
    /// Draws a new one.
    pub(crate) fn next(store: &Store, id: &ContainerId) -> Result<Self> {
        let path = store.own_directory(COUNTERS)?.join(COUNTER);
        let counter = count(&path).map_err(|e| Error::file(&path, &e))?;
        Ok(Self { id: id.to_string(), counter, time: SystemTime::now(), random: Token::new()? })
    }

    /// A line for each, `NAME=VALUE`.
    fn text(&self) -> String {
        let Self { id, counter, time, random } = self;
        let time = humantime::format_rfc3339_nanos(*time);
        format!("ID={id}\nCOUNTER={counter}\nTIME={time}\nRANDOM={}\n", random.to_hex())
    }

    /// The files, of which the last one says that the others are there.
    fn files(&self, given: &Given) -> Result<Vec<(&'static str, Vec<u8>)>> {
        let mut files = Vec::new();
        files.extend(given.environment.clone().map(|text| (ENVIRONMENT, text)));
        if !given.annotations.is_empty() {
            let json = serde_json::to_vec(&given.annotations);
            let mut json = json.map_err(|e| Error::internal("write annotations", e))?;
            json.push(b'\n');
            files.push((ANNOTATIONS, json));
        }
        files.push((GENERATION, self.text().into_bytes()));
        Ok(files)
    }

    /// Writes the files into a root filesystem in which the container will not be able to write. All are `owner`'s.
    pub(crate) fn write_below(&self, root: &Path, given: &Given, owner: (u32, u32)) -> Result<()> {
        let root = Inside { root: open_dir(root)?, user: owner };
        let files = self.files(given)?;
        apart("the thread that writes for the container", || root.write(&files))
    }

    /// Writes the files into the container of the process `first`, as its root user.
    pub(super) fn write(&self, first: i32, namespaces: &Namespaces, given: &Given) -> Result<()> {
        let (files, root) = (self.files(given)?, Inside::of(first, namespaces)?);
        if root.has(&files)? {
            return Ok(());
        }
        let write = || root.write(&files).context(format!("write {DIRECTORY}/{GENERATION} in the container"));
        apart("the thread that writes for the container", write)
    }
}

/// The next number, kept in a file.
fn count(path: &Path) -> std::io::Result<u64> {
    let mut options = std::fs::OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, owned::PRIVATE.as_raw_mode());
    let mut file = options.read(true).write(true).create(true).truncate(false).open(path)?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let next = text.trim().parse::<u64>().unwrap_or(0) + 1;
    file.rewind()?;
    file.write_all(next.to_string().as_bytes())?;
    Ok(next)
}

/// The container's root directory, and who is its root user.
struct Inside {
    root: OwnedFd,
    user: (u32, u32),
}

impl Inside {
    fn of(first: i32, namespaces: &Namespaces) -> Result<Self> {
        let path = PathBuf::from(format!("/proc/{first}/root"));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root =
            rustix::fs::open(&path, flags, Mode::empty()).map_err(|e| Error::file(&path, &e.into()))?;
        let new = namespaces.is_new(NamespaceKind::User);
        let outer = |maps: &[hiber_sandbox::plan::IdMap]| {
            let root = maps.iter().filter(|_| new).find(|map| map.container == 0);
            root.map_or(0, |map| map.host)
        };
        Ok(Self { root, user: (outer(&namespaces.uid_maps), outer(&namespaces.gid_maps)) })
    }

    /// Whether the files are there: nothing lies over what [`Generation::write_below`] has written.
    fn has(&self, files: &[(&str, Vec<u8>)]) -> Result<bool> {
        let Some((name, content)) = files.last() else { return Ok(true) };
        let path = Path::new("run/hiber").join(name);
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let way = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        match openat2(&self.root, &path, flags, Mode::empty(), way) {
            Err(_) => Ok(false),
            Ok(file) => {
                let mut there = Vec::new();
                let read = File::from(file).take(content.len() as u64 + 1).read_to_end(&mut there);
                read.map_err(|e| Error::file(&path, &e))?;
                Ok(there == *content)
            }
        }
    }

    /// Of the calling thread, which does nothing else any more.
    fn write(&self, files: &[(&str, Vec<u8>)]) -> Result<()> {
        setfsgid(Gid::from_raw(self.user.1));
        setfsuid(Uid::from_raw(self.user.0));
        // /run may be a link, which leads nowhere else than for the container's processes.
        let run = enter(&self.root, "run", ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)?;
        let at = enter(&run, "hiber", ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)?;
        files.iter().try_for_each(|(name, content)| put(&at, name, content))
    }
}

/// A directory, which is made if it is missing.
fn enter(at: &OwnedFd, name: &str, how: ResolveFlags) -> Result<OwnedFd> {
    let fail = |e: Errno| Error::file(Path::new(DIRECTORY), &e.into());
    let mode = Mode::from_raw_mode(0o755);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match openat2(at, name, flags, Mode::empty(), how) {
        Err(Errno::NOENT) => {
            mkdirat(at, name, mode).map_err(fail)?;
            // Whatever the umask is.
            chmodat(at, name, mode, AtFlags::empty()).map_err(fail)?;
            openat2(at, name, flags, Mode::empty(), how).map_err(fail)
        }
        other => other.map_err(fail),
    }
}

/// A reader sees the old file or the new one.
fn put(at: &OwnedFd, name: &str, content: &[u8]) -> Result<()> {
    let path = Path::new(DIRECTORY).join(name);
    let fail = |e: Errno| Error::file(&path, &e.into());
    let new = format!(".{name}.new");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(at.as_fd(), &new, flags, Mode::from_raw_mode(0o644)).map_err(fail)?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(0o644)).map_err(fail)?;
    File::from(file).write_all(content).map_err(|e| Error::file(&path, &e))?;
    renameat(at, &new, at, name).map_err(fail)
}
