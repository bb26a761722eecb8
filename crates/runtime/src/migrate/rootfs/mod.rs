//! The root file system of a container that moves: read at one end, made at the other.

mod batch;
mod bundle;
pub(super) mod change;
mod content;
mod target;
mod tree;

pub(super) use bundle::NewBundle;
pub(crate) use bundle::has_users;
pub(super) use change::Amount;
pub(crate) use change::{Change, Content, Make, Meta, NodeKind, Raw};
pub(crate) use target::Target;
pub(crate) use tree::Tree;

use std::os::fd::OwnedFd;
use std::path::{Component, Path};

use oci_spec::runtime::Spec;
use serde_json::json;

use crate::checkpoint::words::Word;
use crate::error::Result;

/// Copies a root filesystem into an empty directory.
pub(crate) fn copy(base: &Path, root: OwnedFd) -> Result<()> {
    let mut target = Target::new(root);
    Tree::open(base)?.pass([], &mut |changes, mut bytes| {
        changes.iter().try_for_each(|change| target.apply(change, &mut bytes))
    })
}

/// The bundle at the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Rootfs {
    /// It is there, as it is here.
    #[default]
    Same,
    /// It is made: config.json and the root filesystem go over while the container runs, and what has changed since while it stands
    /// still.
    Sync,
}

impl Word for Rootfs {
    const CHOICE: &'static str = "rootfs";
    const WORDS: &'static [&'static str] = &["same", "sync"];
    const MEANINGS: &'static [Self] = &[Self::Same, Self::Sync];
}

/// Where the root filesystem of a bundle is that has it elsewhere here.
const USUAL: &str = "rootfs";

/// The config.json of the bundle there: the root filesystem is in the bundle.
pub(super) fn config_for(spec: &Spec) -> serde_json::Result<String> {
    let mut config = serde_json::to_value(spec)?;
    let path = spec.root().as_ref().map_or(Path::new(""), |root| root.path());
    let plain = |part: Component<'_>| matches!(part, Component::Normal(name) if !name.is_empty());
    if path.as_os_str().is_empty() || path == Path::new("config.json") || !path.components().all(plain) {
        config["root"]["path"] = json!(USUAL);
    }
    serde_json::to_string(&config)
}

#[cfg(test)]
mod tests;
