//! Where a keeper's checkpoints are: in a directory by name, or in a store.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hiber::id::ContainerId;
use hiber::store::{CheckpointStore, StoreKey};
use hiber::{CheckpointName, Checkpoints, Retained, Retention, keep};

use super::children::{Children, Outcome, words};

/// A checkpoint of a keeper.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) name: CheckpointName,
    pub(crate) created: Option<SystemTime>,
    pub(crate) size: u64,
    pub(crate) frozen_time: Option<Duration>,
}

/// A place, with the flags that make checkpoints there and restore them.
#[derive(Debug)]
pub(crate) enum Place {
    /// A directory; the bundle's where none is given.
    Directory(Option<PathBuf>),
    /// A store, and its key with the file that it is in.
    Store(PathBuf, Option<(PathBuf, StoreKey)>),
}

/// The container that a place is asked about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Of<'a> {
    pub(crate) id: &'a ContainerId,
    pub(crate) bundle: &'a Path,
}

impl Place {
    fn checkpoints(&self, of: Of<'_>) -> Checkpoints {
        match self {
            Self::Directory(Some(dir)) => Checkpoints::new(of.id, dir),
            _ => Checkpoints::of_bundle(of.id, of.bundle),
        }
    }

    fn keys(&self) -> Vec<StoreKey> {
        match self {
            Self::Store(_, Some((_, key))) => vec![key.clone()],
            _ => Vec::new(),
        }
    }

    /// The flags that name it.
    fn flags(&self) -> Vec<OsString> {
        let flag = |name: &str, path: &Path| [OsString::from(name), path.into()];
        match self {
            Self::Directory(dir) => dir.iter().flat_map(|dir| flag("--checkpoint-dir", dir)).collect(),
            Self::Store(dir, _) => [flag("--store", dir).to_vec(), self.key_flags()].concat(),
        }
    }

    /// Makes a checkpoint, and lets the container run on.
    pub(crate) fn create(
        &self,
        children: &Children,
        of: Of<'_>,
        name: &CheckpointName,
        more: &[OsString],
    ) -> anyhow::Result<Outcome> {
        let id = of.id.as_str();
        let (before, after) = match self {
            Self::Directory(_) => {
                (words(&["checkpoints", "create", "--leave-running"]), words(&[id, name.as_str()]))
            }
            Self::Store(..) => {
                (words(&["checkpoint", "--leave-running", "--checkpoint", name.as_str()]), words(&[id]))
            }
        };
        children.run(&[before, self.flags(), more.to_vec(), after].concat())
    }

    /// The flags of a restore of that checkpoint.
    pub(crate) fn restoring(&self, name: &CheckpointName) -> Vec<OsString> {
        [words(&["--checkpoint", name.as_str()]), self.flags()].concat()
    }

    /// The keeper's checkpoints that can be restored, the newest first.
    pub(crate) fn restorable(&self, of: Of<'_>) -> hiber::Result<Vec<Kept>> {
        match self {
            Self::Directory(_) => {
                let all = self.checkpoints(of).restorable(keep::is_kept)?;
                let kept = |one: hiber::Description| Kept {
                    created: one.created(),
                    name: one.config.name,
                    size: one.size,
                    frozen_time: one.frozen_time,
                };
                Ok(all.into_iter().map(kept).collect())
            }
            Self::Store(dir, _) => {
                let all = CheckpointStore::open(dir)?.restorable(of.id, &self.keys(), keep::is_kept)?;
                let kept = |one: hiber::store::StoredCheckpoint| Kept {
                    created: one.created(),
                    name: one.name,
                    size: one.added,
                    frozen_time: one.frozen_time,
                };
                Ok(all.into_iter().map(kept).collect())
            }
        }
    }

    /// Removes the keeper's checkpoints that the rule does not keep. Room in a store is freed if nobody else uses it at this moment.
    pub(crate) fn retain(
        &self,
        children: &Children,
        of: Of<'_>,
        rule: &Retention,
    ) -> anyhow::Result<Retained> {
        match self {
            Self::Directory(_) => Ok(self.checkpoints(of).retain(rule, keep::is_kept)?),
            Self::Store(dir, _) => {
                let store = CheckpointStore::open(dir)?;
                let retained = store.retain(of.id, &self.keys(), rule, keep::is_kept)?;
                if !retained.removed.is_empty() {
                    let [gc, dir] = [OsString::from("gc"), dir.into()];
                    // A store that is in use is cleared another time.
                    let line = [words(&["store"]), vec![gc, dir], self.key_flags()].concat();
                    if let Some(why) = children.run(&line)?.reason() {
                        tracing::debug!("store gc: {why}");
                    }
                }
                Ok(retained)
            }
        }
    }

    fn key_flags(&self) -> Vec<OsString> {
        match self {
            Self::Store(_, Some((file, _))) => vec!["--store-key".into(), file.into()],
            _ => Vec::new(),
        }
    }
}
