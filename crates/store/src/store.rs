//! The directory.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::key::{Key, KeyId};
use crate::layout::{self, CHECKPOINTS, LOCK, MARKER, PACKS, UNFINISHED, VERSION, record};
use crate::record::{Head, Record, key_of};

/// The longest file of that kind, in bytes.
const MAX_MARKER: u64 = 4096;

/// A store.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// The content of the file that makes a directory a store.
#[derive(Serialize, Deserialize)]
struct Marker {
    version: u32,
}

/// A checkpoint in a list.
#[derive(Debug)]
#[non_exhaustive]
pub struct Listed {
    /// Its container.
    pub owner: String,
    /// Its name.
    pub name: String,
    /// The key that it is sealed by.
    pub key: KeyId,
    /// Its description, if none of the keys is missing.
    pub head: Option<Head>,
}

/// Holds the store.
#[derive(Debug, Clone)]
pub(crate) struct Held(#[expect(dead_code, reason = "it is held until it is dropped")] Arc<File>);

impl Store {
    /// The store in a directory.
    ///
    /// # Errors
    /// There is none, or it is of a version that this code does not know.
    pub fn open(root: &Path) -> Result<Self> {
        let marker = root.join(MARKER);
        let file = match layout::open(&marker) {
            Err(e) if e.why.kind() == ErrorKind::NotFound && root.is_dir() => {
                return Err(Error::bad(root, format!("is no store of checkpoints: it has no {MARKER}")));
            }
            Err(e) if e.why.kind() == ErrorKind::NotFound => return Err(Error::new(root, e.why)),
            other => other?,
        };
        let mut json = Vec::new();
        file.take(MAX_MARKER).read_to_end(&mut json).map_err(Error::at(&marker))?;
        let Marker { version } =
            serde_json::from_slice(&json).map_err(|e| Error::bad(&marker, format!("is malformed: {e}")))?;
        if version != VERSION {
            return Err(Error::bad(&marker, format!("has version {version}; this program knows {VERSION}")));
        }
        Ok(Self { root: std::path::absolute(root).map_err(Error::at(root))? })
    }

    /// The store in a directory, made if there is nothing yet or an empty directory. Nobody but its owner can enter a new one.
    ///
    /// # Errors
    /// Those of [`open`](Self::open), and why it cannot be made.
    pub fn make(root: &Path) -> Result<Self> {
        // Another program may be making it at the same time.
        let begun = |name: &OsStr| {
            let name = name.to_string_lossy();
            [PACKS, CHECKPOINTS, UNFINISHED].contains(&&*name) || name.starts_with(&format!("{MARKER}."))
        };
        let is_new = match std::fs::read_dir(root) {
            Ok(entries) => entries.flatten().all(|entry| begun(&entry.file_name())),
            Err(e) => e.kind() == ErrorKind::NotFound,
        };
        if !is_new {
            return Self::open(root);
        }
        let make = |path: &Path| {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(Error::at(path))
        };
        make(root)?;
        for part in [PACKS, CHECKPOINTS, UNFINISHED] {
            make(&root.join(part))?;
        }
        let own = root.join(format!("{MARKER}.{}", layout::number()));
        let json = serde_json::to_vec(&Marker { version: VERSION }).expect("a number is JSON");
        let written =
            File::create(&own).and_then(|mut file| file.write_all(&json).and_then(|()| file.sync_all()));
        written.and_then(|()| std::fs::rename(&own, root.join(MARKER))).map_err(Error::at(&own))?;
        Self::open(root)
    }

    /// Its directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Waits as long as garbage is collected. No garbage is collected while the result lives.
    pub(crate) fn share(&self) -> Result<Held> {
        self.hold(FlockOperation::LockShared)
    }

    /// Nobody else may write or read.
    pub(crate) fn seize(&self) -> Result<Held> {
        self.hold(FlockOperation::NonBlockingLockExclusive)
    }

    fn hold(&self, how: FlockOperation) -> Result<Held> {
        let path = self.root.join(LOCK);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600)) {
            // A store that cannot be written can be read.
            Err(Errno::ROFS) => layout::open(&path)?,
            opened => File::from(opened.map_err(|e| Error::new(&path, e))?),
        };
        match rustix::io::retry_on_intr(|| rustix::fs::flock(&file, how)) {
            Ok(()) => Ok(Held(file.into())),
            Err(Errno::WOULDBLOCK) => {
                let why = "is in use: a checkpoint is written, or memory is read";
                Err(Error::new(&self.root, io::Error::new(ErrorKind::ResourceBusy, why)))
            }
            Err(e) => Err(Error::new(&path, e)),
        }
    }

    /// All checkpoints, by container and the time at which they were made.
    ///
    /// # Errors
    /// A record that is damaged, or cannot be read.
    pub fn list(&self, keys: &[Key]) -> Result<Vec<Listed>> {
        self.list_those(keys, |_| true)
    }

    /// Those of one container, by the time at which they were made.
    ///
    /// # Errors
    /// Those of [`list`](Self::list).
    pub fn list_of(&self, owner: &str, keys: &[Key]) -> Result<Vec<Listed>> {
        self.list_those(keys, |is| is == owner)
    }

    fn list_those(&self, keys: &[Key], of: impl Fn(&str) -> bool) -> Result<Vec<Listed>> {
        let mut all = Vec::new();
        for (owner, name, path) in self.records()?.into_iter().filter(|(owner, ..)| of(owner)) {
            let key = key_of(&path)?;
            let own = keys.iter().find(|own| own.id() == key);
            let head = own.map(|own| Record::read(&path, own).map(|record| record.head)).transpose()?;
            all.push(Listed { owner, name, key, head });
        }
        let when = |one: &Listed| one.head.as_ref().map(|head| head.created.clone());
        all.sort_by_cached_key(|one| (one.owner.clone(), when(one), one.name.clone()));
        Ok(all)
    }

    /// Container, name, and path of each record.
    pub(crate) fn records(&self) -> Result<Vec<(String, String, PathBuf)>> {
        let names = |dir: &Path| -> Result<Vec<(String, PathBuf)>> {
            let entries = match std::fs::read_dir(dir) {
                Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
                other => other.map_err(Error::at(dir))?,
            };
            let mut all = Vec::new();
            for entry in entries {
                let entry = entry.map_err(Error::at(dir))?;
                all.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
            }
            all.sort_unstable();
            Ok(all)
        };
        let mut all = Vec::new();
        for (owner, dir) in names(&self.root.join(CHECKPOINTS))? {
            let found = names(&dir)?.into_iter().filter(|(name, _)| !name.starts_with('.'));
            all.extend(found.map(|(name, path)| (owner.clone(), name, path)));
        }
        Ok(all)
    }

    /// The path of a checkpoint's record.
    ///
    /// # Errors
    /// Names that no checkpoint can have.
    pub fn record(&self, owner: &str, name: &str) -> Result<PathBuf> {
        record(&self.root, owner, name)
    }

    /// The newest checkpoint of a container that one of the keys opens; none if it has none.
    ///
    /// # Errors
    /// Those of [`list`](Self::list).
    pub fn newest(&self, owner: &str, keys: &[Key]) -> Result<Option<Listed>> {
        let mut all = self.list_of(owner, keys)?;
        all.retain(|one| one.head.is_some());
        Ok(all.pop())
    }

    /// Forgets a checkpoint. Its chunks are there until garbage is collected.
    ///
    /// # Errors
    /// There is none, or it cannot be removed.
    pub fn remove(&self, owner: &str, name: &str) -> Result<()> {
        let path = self.record(owner, name)?;
        std::fs::remove_file(&path).map_err(Error::at(&path))?;
        // Others of this container may be there.
        path.parent().map(std::fs::remove_dir);
        Ok(())
    }
}

/// Brings what a directory says to the disk.
pub(crate) fn sync_dir(path: &Path) -> Result<()> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(Error::at(path))
}
