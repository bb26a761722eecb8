//! Where a checkpoint is that a command restores: a directory, a name, an archive, or a store.

use std::path::{Path, PathBuf};

use hiber::archive::Imported;
use hiber::id::ContainerId;
use hiber::store::{CheckpointStore, Fetch, Fetched};
use hiber::{Checkpoint, CheckpointName, RestoreContainerOptions, VerifyingKey};

use super::checkpoints::checkpoints_of;
use crate::containers::Containers;
use crate::flags::archive::{self, IDENTITY, KeyFile, STORE_KEY, VERIFY_KEY};
use crate::flags::criu::CHECKPOINT_DIR;
use crate::line::flag::{Flag, flags};
use crate::line::refusal::{Refusal, belong_to, excludes};

flags! {
    /// The place of the checkpoint, if that is no directory of `--image-path`, and what is asked of it.
    pub(crate) struct SourceFlags {
        import: Option<PathBuf> = Flag::value(
            "import",
            "FILE",
            "the archive to restore from, instead of --image-path, and without writing to the disk; - is standard input, \
             and oci:DIR[:TAG] an image in an OCI image layout",
        ),
        store: Option<PathBuf> = Flag::value(
            "store",
            "DIR",
            "the store of checkpoints to restore from, instead of --image-path: the newest of the container, or --checkpoint",
        ),
        store_key: Option<KeyFile> = STORE_KEY,
        identity: Vec<KeyFile> = IDENTITY,
        verify_key: Vec<KeyFile> = VERIFY_KEY,
        checkpoint: Option<CheckpointName> =
            Flag::value("checkpoint", "NAME", "the named checkpoint to restore, instead of --image-path, or that in the store"),
        of: Option<ContainerId> = Flag::value(
            "of",
            "ID",
            "the container that the checkpoint in the store was made of (default: the one to be restored)",
        ),
        checkpoint_dir: Option<PathBuf> = CHECKPOINT_DIR,
        trust_images: bool = Flag::switch(
            "trust-images",
            "restore images that were changed, that others can write to, or whose processes have more privilege \
             than config.json grants",
        ),
    }
}

impl SourceFlags {
    /// The checkpoint in the store, of the container that `--of` names, or of this one.
    fn fetch(&self, containers: &Containers, store: &Path, own: &ContainerId) -> anyhow::Result<Fetched> {
        let container = self.of.as_ref().unwrap_or(own);
        let mut fetch = Fetch::new(CheckpointStore::open(store)?, container.clone())
            .name(self.checkpoint.clone())
            .keys(archive::store_key(self.store_key.as_ref())?.into_iter().collect::<Vec<_>>())
            .trust(self.trust_images);
        fetch.verify_keys = archive::verifying_keys(&self.verify_key)?;
        Ok(containers.runtime.fetch(&fetch)?)
    }

    /// Refuses what contradicts itself.
    pub(crate) fn judge(&self, image_path: bool) -> Result<(), Refusal> {
        if self.checkpoint.is_some() && image_path {
            return Err(Refusal::value("--checkpoint and --image-path exclude each other"));
        }
        let places = [("image-path", image_path), ("checkpoint", self.checkpoint.is_some())];
        excludes("import", self.import.is_some(), &places, "")?;
        let places = [
            ("image-path", image_path),
            ("import", self.import.is_some()),
            ("checkpoint-dir", self.checkpoint_dir.is_some()),
        ];
        excludes("store", self.store.is_some(), &places, "")?;
        belong_to("store", self.store.is_some(), &[("store-key", self.store_key.is_some())])?;
        if self.import.is_none() && !self.identity.is_empty() {
            return Err(Refusal::value("--identity needs --import: nothing but an archive is encrypted"));
        }
        belong_to(
            "checkpoint",
            self.checkpoint.is_some(),
            &[("checkpoint-dir", self.checkpoint_dir.is_some())],
        )
    }
}

/// The checkpoint, if it is not in the directory of `--image-path`.
#[derive(Debug)]
pub(super) struct Found {
    named: Option<Checkpoint>,
    imported: Option<Imported>,
    fetched: Option<Fetched>,
    /// Those of a checkpoint in a directory; the others bring theirs.
    verify_keys: Vec<VerifyingKey>,
}

impl Found {
    /// Finds it, of this container. `--store` and `--import` may be memory in which it is until the result is dropped.
    pub(super) fn find(
        flags: &SourceFlags,
        container: &ContainerId,
        containers: &Containers,
        bundle: &Path,
    ) -> anyhow::Result<Self> {
        let all = || checkpoints_of(container, flags.checkpoint_dir.as_deref(), bundle);
        let named = flags.checkpoint.as_ref().filter(|_| flags.store.is_none());
        let named = named.map(|name| all().get(name)).transpose()?;
        let fetch = |store: &PathBuf| flags.fetch(containers, store, container);
        let fetched = flags.store.as_ref().map(fetch).transpose()?;
        let unpack = |from: &PathBuf| {
            let import = archive::import(from, &flags.identity, &flags.verify_key)?.trust(flags.trust_images);
            Ok::<_, anyhow::Error>(containers.runtime.unpack(&import)?)
        };
        let imported = flags.import.as_ref().map(unpack).transpose()?;
        let elsewhere = fetched.is_some() || imported.is_some();
        let verify_keys = if elsewhere { Vec::new() } else { archive::verifying_keys(&flags.verify_key)? };
        Ok(Self { named, imported, fetched, verify_keys })
    }

    /// The named one, whose directory the library chooses.
    pub(super) fn named(&self) -> Option<&Checkpoint> {
        self.named.as_ref()
    }

    /// The archive.
    pub(super) fn imported(&self) -> Option<&Imported> {
        self.imported.as_ref()
    }

    /// The options with this checkpoint.
    pub(super) fn choose<'a>(&self, options: RestoreContainerOptions<'a>) -> RestoreContainerOptions<'a> {
        let mut options = options.verify_keys(self.verify_keys.clone());
        self.imported.iter().for_each(|imported| imported.choose(&mut options));
        self.fetched.iter().for_each(|fetched| fetched.choose(&mut options));
        options
    }
}
