//! How a clone is made.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use derive_setters::Setters;

use crate::checkpoint::words::Word;
use crate::error::{Error, Result};
use crate::host::owned;
use crate::host::paths::{absolute, open_dir};

/// The directory in a bundle that has its clones.
const CLONES: &str = "clones";

/// The root filesystem of a clone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloneRootfs {
    /// An overlay over the bundle's, with a layer of its own for what the clone writes.
    #[default]
    Overlay,
    /// The same, but read-only.
    SharedReadonly,
    /// A copy of the bundle's.
    Copy,
}

impl Word for CloneRootfs {
    const CHOICE: &'static str = "rootfs";
    const WORDS: &'static [&'static str] = &["overlay", "shared-readonly", "copy"];
    const MEANINGS: &'static [Self] = &[Self::Overlay, Self::SharedReadonly, Self::Copy];
}

/// When a clone gets its memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloneMemory {
    /// [`Lazy`](Self::Lazy) if there is much, and its processes may use userfaultfd(2); else [`Whole`](Self::Whole).
    #[default]
    Auto,
    /// A page comes when it is touched; until then all clones have it together. [`Task::wait_for_memory`](crate::Task::wait_for_memory)
    /// asks for the rest.
    Lazy,
    /// It runs at once, and its memory follows.
    Background,
    /// All memory is there when it begins to run.
    Whole,
}

impl Word for CloneMemory {
    const CHOICE: &'static str = "memory";
    const WORDS: &'static [&'static str] = &["auto", "lazy", "background", "whole"];
    const MEANINGS: &'static [Self] = &[Self::Auto, Self::Lazy, Self::Background, Self::Whole];
}

/// How a clone differs from the container of the checkpoint. Each choice has a setter.
#[derive(Debug, Clone, Default, Setters)]
#[setters(into, strip_option)]
#[non_exhaustive]
pub struct CloneOptions {
    /// Its root filesystem.
    pub rootfs: CloneRootfs,
    /// Its memory.
    pub memory: CloneMemory,
    /// The directory in which it gets one with its name, for its bundle and root filesystem; `clones` in the checkpoint's bundle
    /// if absent.
    pub directory: Option<PathBuf>,
    /// The network namespace that it joins (a path); as the configuration has it if absent.
    pub network: Option<PathBuf>,
    /// Annotations beside those of the configuration. The clone finds them in `/run/hiber/annotations.json`.
    pub annotations: BTreeMap<String, String>,
    /// The content of `/run/hiber/environment`.
    pub environment: Option<Vec<u8>>,
    /// Let it use devices of the host, files of the host that are open for writing, and locks on those, though others do so at the
    /// same time.
    pub share: bool,
}

impl CloneOptions {
    /// The directory with the clones, which is made if it is missing.
    pub(super) fn place(&self, bundle: &Path) -> Result<PathBuf> {
        let place = self.directory.as_deref().map_or_else(|| bundle.join(CLONES), absolute);
        let mut all = std::fs::DirBuilder::new();
        // The container's user need not be root, and has to get into its root.
        std::os::unix::fs::DirBuilderExt::mode(&mut all, 0o711);
        all.recursive(true).create(&place).map_err(|e| Error::file(&place, &e))?;
        let opened = open_dir(&place)?;
        owned::check_dir(&opened, &place)?;
        Ok(place)
    }
}
