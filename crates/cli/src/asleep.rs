//! Containers that sleep while the machine boots anew: a directory that outlives it has one for each, with its record and its checkpoint.
//!
//! ```text
//! DIR/ID/container.json   what a restore is told
//! DIR/ID/config.json      the configuration as the container was created with it, for people
//! DIR/ID/asleep/          the checkpoint, unless it is in a store
//! ```
//! The record is there first. One without a whole checkpoint is of a container that has not been put to sleep.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, bail};
use hiber::id::ContainerId;
use hiber::store::CheckpointStore;
use hiber::{CheckpointName, Checkpoints, Status, Task};
use rustix::fs::StatFs;
use serde::{Deserialize, Serialize};

use crate::line::flag::{Flag, flags};

/// Where records are unless somebody says otherwise.
const DIRECTORY: &str = "/var/lib/hiber/suspended";
const RECORD: &str = "container.json";
const VERSION: u32 = 1;
/// Magics of file systems that a boot empties (linux/magic.h).
const TMPFS: u64 = 0x0102_1994;
const RAMFS: u64 = 0x8584_58f6;

flags! {
    /// Of `suspend` and `resume`.
    pub(crate) struct Place {
        all: bool = Flag::switch("all", "all containers"),
        dir: Option<PathBuf> = Flag::value(
            "dir",
            "DIR",
            "with --all: where the sleeping containers are noted, and kept (default: /var/lib/hiber/suspended)",
        ),
    }
}

impl Place {
    /// The directory, which only its owner may change.
    ///
    /// # Errors
    /// It cannot be made, or others can write there, and so choose what is restored.
    pub(crate) fn open(&self) -> anyhow::Result<PathBuf> {
        let dir = self.dir.clone().unwrap_or_else(|| DIRECTORY.into());
        let dir = std::path::absolute(&dir).with_context(|| format!("--dir {}", dir.display()))?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .with_context(|| format!("--dir {}", dir.display()))?;
        let meta = fs::symlink_metadata(&dir).with_context(|| format!("--dir {}", dir.display()))?;
        if !meta.is_dir() || meta.uid() != rustix::process::geteuid().as_raw() || meta.mode() & 0o022 != 0 {
            bail!("--dir {}: expected a directory of yours in which others cannot write", dir.display());
        }
        Ok(dir)
    }
}

/// A container that sleeps, or is about to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Sleeper {
    version: u32,
    /// Its id.
    pub(crate) id: String,
    /// Its bundle.
    pub(crate) bundle: PathBuf,
    /// When it was created: they wake in this order.
    pub(crate) created: SystemTime,
    /// Whether it was paused.
    pub(crate) paused: bool,
    /// Whether systemd makes its cgroup.
    pub(crate) systemd_cgroup: bool,
    /// The checkpoint's name.
    pub(crate) checkpoint: CheckpointName,
    /// The store that it is in, if it is in one.
    pub(crate) store: Option<PathBuf>,
}

impl Sleeper {
    pub(crate) fn of(task: &Task, status: Status, store: Option<&Path>) -> anyhow::Result<Self> {
        let facts = task.container().facts()?;
        let name = if store.is_some() {
            format!("asleep-{}", CheckpointName::of_now())
        } else {
            "asleep".to_owned()
        };
        Ok(Self {
            version: VERSION,
            id: facts.id.clone(),
            bundle: facts.bundle.clone(),
            created: facts.created,
            paused: status == Status::Paused,
            systemd_cgroup: facts.cgroup.systemd.is_some(),
            checkpoint: name.parse()?,
            store: store.map(Path::to_owned),
        })
    }

    pub(crate) fn id(&self) -> anyhow::Result<ContainerId> {
        self.id.parse().with_context(|| format!("the record of {:?}", self.id))
    }

    /// The directory of this one.
    pub(crate) fn place(&self, dir: &Path) -> PathBuf {
        dir.join(&self.id)
    }

    /// Writes the record, and brings it to the disk.
    pub(crate) fn write(&self, dir: &Path, task: &Task) -> anyhow::Result<()> {
        let place = self.place(dir);
        let what = || place.display().to_string();
        // It is of a container that has woken, or never slept.
        let _ = fs::remove_dir_all(&place);
        fs::DirBuilder::new().mode(0o700).create(&place).with_context(what)?;
        let config = serde_json::to_vec_pretty(&*task.container().spec()?)?;
        for (name, bytes) in [("config.json", config), (RECORD, serde_json::to_vec_pretty(self)?)] {
            fs::write(place.join(name), bytes)
                .and_then(|()| fs::File::open(place.join(name))?.sync_all())
                .with_context(what)?;
        }
        fs::File::open(&place).and_then(|open| open.sync_all()).with_context(what)?;
        fs::File::open(dir).and_then(|open| open.sync_all()).with_context(what)
    }

    /// Whether its checkpoint is there, whole. In a store nothing is half.
    pub(crate) fn sleeps(&self, dir: &Path) -> anyhow::Result<bool> {
        let id = self.id()?;
        let Some(store) = &self.store else {
            return Ok(Checkpoints::new(&id, self.place(dir))
                .describe(&self.checkpoint)
                .is_ok_and(|one| one.whole));
        };
        let all = CheckpointStore::open(store)?.list(&[])?;
        Ok(all.iter().any(|one| one.owner == self.id && one.name == self.checkpoint.as_str()))
    }

    /// It is awake.
    pub(crate) fn forget(&self, dir: &Path) {
        if let Err(e) = fs::remove_dir_all(self.place(dir)) {
            tracing::warn!("{} stays: {e}", self.place(dir).display());
        }
    }
}

/// All records, in the order in which the containers were created.
pub(crate) fn sleepers(dir: &Path) -> anyhow::Result<Vec<Sleeper>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path().join(RECORD);
        let json = match fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            json => json.with_context(|| path.display().to_string())?,
        };
        let one: Sleeper =
            serde_json::from_slice(&json).with_context(|| format!("{}: is malformed", path.display()))?;
        if one.version != VERSION {
            bail!("{}: has version {}; this program knows {VERSION}", path.display(), one.version);
        }
        all.push(one);
    }
    all.sort_by_key(|one| (one.created, one.id.clone()));
    Ok(all)
}

/// Whether a boot empties the file system of this path.
pub(crate) fn is_in_memory(path: &Path) -> bool {
    let magic = |stat: StatFs| u64::try_from(stat.f_type).unwrap_or(0);
    rustix::fs::statfs(path).is_ok_and(|stat| [TMPFS, RAMFS].contains(&magic(stat)))
}
