//! A checkpoint's directory while it is written: beside its place, invisible under its name, renamed when whole.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
#[cfg(feature = "archive")]
use std::time::Duration;
use std::time::Instant;

use hiber_criu::amend::{revive_external_mounts, separate_network, settle_synchronous_mounts, tidy_cgroups};
use hiber_criu::amend_network::settle_network;
use hiber_criu::{CriuError, ImageDirectory};
use hiber_memory::images::{Away, Behind, Image, Unwritten, Work};
use hiber_sandbox::cgroup::CgroupPaths;
use hiber_sandbox::error::plain;
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use super::cgroup_yard;
use super::image_hasher::ImageHasher;
use super::manifest::{FileSum, Manifest};
use super::named::CheckpointConfig;
use super::signed;
use crate::error::{Context, Error, Result};
use crate::helpers::unfinished::{self, Identity};
use crate::host::owned;
use crate::host::paths::{make_dir, open_dir};
use crate::id::CheckpointError;
use crate::signature::SigningKey;

/// Where a checkpoint goes that is not to stay here.
pub(crate) struct HandOver<'a> {
    /// The images are written there; the caller removes the directory.
    pub(crate) images: PathBuf,
    /// The taker of the pages of memory, while the container runs and after, where they are not among the images.
    pub(crate) pages: Option<Arc<Mutex<dyn Away>>>,
    pub(crate) to: To,
    /// Adds to the images of a container that stands still.
    pub(crate) still: Option<Still<'a>>,
    /// Gives the complete images of a container away that stands still since then. When this returns, the checkpoint is the
    /// container: it ends here, unless it was to run on.
    pub(crate) give: &'a mut dyn FnMut(Given<'_>) -> Result<()>,
}

/// Work that is done while a container stands still.
pub(crate) type Still<'a> = &'a mut dyn FnMut(&ImageDirectory) -> Result<()>;

/// The receiver of a checkpoint.
pub(crate) enum To {
    /// Another machine.
    Machine {
        /// For messages.
        destination: String,
        /// The file that says whose the container is (`state/migration.rs`).
        record: PathBuf,
    },
    /// A file, or a stream, of which there is only the name.
    Archive {
        /// Its name in the end.
        path: PathBuf,
        /// The file meanwhile, and its identity, by which one sees whether it has its name.
        unfinished: Option<(PathBuf, Identity)>,
        /// Other files that are nothing before.
        beside: Vec<PathBuf>,
    },
}

/// The directory that becomes the checkpoint. If this is dropped before the publication, the directory is removed.
pub(crate) struct Staging<'a> {
    target: PathBuf,
    path: PathBuf,
    /// The directory, once it was made.
    dir: Option<ImageDirectory>,
    /// The error if the place is taken; `None` if the checkpoint there is to be replaced.
    taken: Option<CheckpointError>,
    hand_over: Option<HandOver<'a>>,
    /// When the container was stopped.
    stopped: Option<Instant>,
    /// When it was let go, if it was by now.
    let_go: Option<Instant>,
    published: bool,
}

/// The work on a checkpoint after all images are written.
pub(super) struct Seal<'a> {
    pub(super) manifest: Manifest,
    /// Whether the manifest has hashes, and whether the disk has it all before it is published.
    pub(super) work: Work,
    /// The cgroups that are the container's.
    pub(super) cgroups: CgroupPaths,
    /// Whether the source of a bind mount had been removed.
    pub(super) revive: bool,
    /// Whether a file system writes synchronously.
    pub(super) synchronous: bool,
    /// Of a checkpoint with a name.
    pub(super) config: Option<&'a CheckpointConfig>,
    /// The key that signs it.
    pub(super) sign_key: Option<&'a SigningKey>,
    /// Whether the images are what a restore expects.
    pub(super) complete: bool,
    /// The reader of the images while they are written.
    pub(super) hasher: Option<ImageHasher>,
    /// Files of pages that this program has written.
    pub(super) images: Vec<Image>,
    /// Those of them that are to be read from the container when it is given away.
    pub(super) unwritten: Vec<Unwritten>,
    /// Pages that stay in its processes when it is given away.
    pub(super) behind: Vec<Behind>,
}

/// A checkpoint that is given away.
pub(crate) struct Given<'a> {
    /// The images, all but the unwritten ones.
    pub(crate) images: &'a ImageDirectory,
    pub(crate) unwritten: Vec<Unwritten>,
    /// Pages that its processes have as long as these stand still; images and pages that were sent have all others.
    pub(crate) behind: Vec<Behind>,
    /// When the container was stopped.
    pub(crate) stopped: Instant,
    /// When it was let go, if it runs on already.
    pub(crate) let_go: Option<Instant>,
}

#[cfg(feature = "archive")]
impl Given<'_> {
    /// For how long the container has stood still by now.
    pub(crate) fn frozen(&self) -> Duration {
        self.let_go.unwrap_or_else(Instant::now).saturating_duration_since(self.stopped)
    }
}

impl<'a> Staging<'a> {
    /// A directory beside `target`, not made yet; on the same filesystem, so that one rename publishes it.
    pub(crate) fn new(target: &Path, taken: Option<CheckpointError>) -> Result<Self> {
        let target = std::path::absolute(target).map_err(|e| Error::file(target, &e))?;
        if target.file_name().is_none() {
            return Err(Error::Invalid(format!("--image-path {}: has no name", target.display())));
        }
        if let Ok(found) = std::fs::symlink_metadata(&target)
            && !found.is_dir()
        {
            return Err(Error::Invalid(format!("--image-path {}: is not a directory", target.display())));
        }
        let path = unfinished::hidden(&target);
        Ok(Self {
            target,
            path,
            dir: None,
            taken,
            hand_over: None,
            stopped: None,
            let_go: None,
            published: false,
        })
    }

    /// A directory whose content goes elsewhere.
    pub(super) fn of(hand_over: HandOver<'a>) -> Self {
        let path = hand_over.images.clone();
        let target = match &hand_over.to {
            To::Machine { .. } => path.clone(),
            To::Archive { path, .. } => path.clone(),
        };
        Self {
            target,
            path,
            dir: None,
            taken: None,
            hand_over: Some(hand_over),
            stopped: None,
            let_go: None,
            published: false,
        }
    }

    /// The file that says whether the container is another's.
    pub(super) fn record(&self) -> Option<&Path> {
        match &self.hand_over.as_ref()?.to {
            To::Machine { record, .. } => Some(record),
            To::Archive { .. } => None,
        }
    }

    /// Whether the images only pass through memory.
    pub(super) fn is_scratch(&self) -> bool {
        matches!(&self.hand_over, Some(HandOver { to: To::Archive { .. }, .. }))
    }

    /// The file that is to be the archive.
    fn archive(&self) -> Option<&(PathBuf, Identity)> {
        match &self.hand_over.as_ref()?.to {
            To::Machine { .. } => None,
            To::Archive { unfinished, .. } => unfinished.as_ref(),
        }
    }

    /// All files that are nothing as long as there is no archive.
    pub(super) fn before_archive(&self) -> Vec<PathBuf> {
        match self.hand_over.as_ref().map(|hand_over| &hand_over.to) {
            Some(To::Archive { unfinished, beside, .. }) => {
                unfinished.iter().map(|(path, _)| path).chain(beside).cloned().collect()
            }
            _ => Vec::new(),
        }
    }

    /// The identity of the file or directory that has the final path when it is published; none of a stream.
    pub(super) fn identity(&self) -> Result<Option<Identity>> {
        if self.is_scratch() {
            return Ok(self.archive().map(|(_, identity)| *identity));
        }
        let stat = self.directory()?.stat().map_err(|e| Error::file(&self.path, &e))?;
        Ok(Some((stat.st_dev, stat.st_ino)))
    }

    /// Makes the directory, and keeps it open: a user who may write to its parent could put another one in its place. Directories
    /// that killed processes have left beside it are removed.
    pub(crate) fn create(&mut self) -> Result<()> {
        if self.hand_over.is_some() {
            self.dir = Some(ImageDirectory::open(&self.path)?);
            return Ok(());
        }
        if let Some(parent) = self.target.parent() {
            make_dir(parent).context("make the image directory")?;
            unfinished::sweep(parent);
        }
        let open = |path: &Path| Ok(ImageDirectory::open(path)?);
        // The guard knows it by this name.
        let first = self.path.clone();
        let (path, dir) = unfinished::make_dir(first, &self.target, owned::PRIVATE_DIR, open)
            .context("make the image directory")?;
        self.path = path;
        let path = &self.path;
        let stat = dir.stat().map_err(|e| Error::file(path, &e))?;
        let own = rustix::process::geteuid().as_raw();
        if stat.st_uid != own || stat.st_mode & 0o7777 != 0o700 || !dir.names()?.is_empty() {
            let why = "is not the directory that was just made there".into();
            return Err(Error::File { path: path.clone(), why });
        }
        self.dir = Some(dir);
        Ok(())
    }

    /// The directory, which was made.
    pub(crate) fn directory(&self) -> Result<&ImageDirectory> {
        self.dir.as_ref().ok_or_else(|| Error::internal("use the image directory", "it is not made yet"))
    }

    pub(super) fn path(&self) -> &Path {
        if self.published { &self.target } else { &self.path }
    }

    /// Its final path.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// Takes a published checkpoint back, whose memory was to follow and does not.
    pub(super) fn withdraw(&mut self) {
        if std::mem::take(&mut self.published)
            && let Err(e) = std::fs::rename(&self.target, &self.path)
        {
            tracing::warn!("a checkpoint without memory stays in {}: {}", self.target.display(), plain(&e));
        }
    }

    /// All images are written, and the container stands still.
    pub(super) fn still(&mut self) -> Result<()> {
        let directory = self.directory()?.clone();
        let still = self.hand_over.as_mut().and_then(|hand_over| hand_over.still.as_mut());
        still.map_or(Ok(()), |still| still(&directory))
    }

    /// The taker of the pages of memory, if they are not to stay here.
    pub(super) fn away(&self) -> Option<&Arc<Mutex<dyn Away>>> {
        self.hand_over.as_ref()?.pages.as_ref()
    }

    /// The container is about to be stopped.
    pub(super) fn stopping(&mut self) {
        self.stopped = Some(Instant::now());
    }

    /// It runs on.
    pub(super) fn let_go(&mut self) {
        self.let_go = Some(Instant::now());
    }

    pub(super) fn is_published(&self) -> bool {
        self.published
    }

    /// Makes the images what a restore expects, and not only CRIU's dump.
    pub(super) fn complete(&self, seal: &mut Seal<'_>) -> Result<()> {
        if seal.complete {
            return Ok(());
        }
        let dir = self.directory()?;
        if seal.manifest.options.loopback {
            separate_network(dir)?;
        } else {
            settle_network(dir)?;
        }
        tidy_cgroups(dir, |controllers| {
            cgroup_yard::owns(&seal.cgroups, controllers.iter().map(String::as_str))
        })?;
        if seal.revive {
            revive_external_mounts(dir)?;
        }
        if seal.synchronous {
            settle_synchronous_mounts(dir)?;
        }
        seal.complete = true;
        Ok(())
    }

    /// Writes the manifest, brings everything to disk and the directory under its name. A checkpoint under that path is replaced,
    /// unless checkpoints have names there.
    pub(super) fn publish(&mut self, seal: &mut Seal<'_>) -> Result<()> {
        let dir = self.directory()?.clone();
        seal.config.map_or(Ok(()), |config| config.write(&dir))?;
        self.complete(seal)?;
        let mut heads = seal.hasher.take().map(ImageHasher::finish).unwrap_or_default();
        let images = std::mem::take(&mut seal.images);
        let unwritten = std::mem::take(&mut seal.unwritten);
        let behind = std::mem::take(&mut seal.behind);
        let elsewhere =
            |image: &&Image| self.away().is_some() || unwritten.iter().any(|of| of.name == image.name);
        let away = images.iter().filter(elsewhere);
        let away =
            away.map(|image| (image.name.clone(), FileSum { size: image.size, blake3: None })).collect();
        heads.add(images);
        seal.manifest.write(&dir, seal.work.hash, heads, away).context("write the checkpoint's manifest")?;
        seal.sign_key.map_or(Ok(()), |key| signed::sign(&dir, key))?;
        if let Some(hand_over) = &mut self.hand_over {
            let stopped = self.stopped.unwrap_or_else(Instant::now);
            (hand_over.give)(Given { images: &dir, unwritten, behind, stopped, let_go: self.let_go })?;
            self.published = true;
            return Ok(());
        }
        self.rename_whole(&dir, seal.work.sync)
    }

    /// Publishes files that are a checkpoint already.
    #[cfg(feature = "archive")]
    pub(crate) fn publish_as_is(&mut self) -> Result<()> {
        let dir = self.directory()?.clone();
        self.rename_whole(&dir, true)
    }

    fn rename_whole(&mut self, dir: &ImageDirectory, sync: bool) -> Result<()> {
        if sync {
            // One call for all the images: each fsync would be a commit of the journal of its own.
            rustix::fs::syncfs(dir).map_err(|e| Error::sys("syncfs", self.path.display().to_string(), e))?;
        }
        self.rename().context("publish the checkpoint")?;
        self.published = true;
        if let Some(parent) = self.target.parent().filter(|_| sync) {
            let parent_dir = open_dir(parent)?;
            rustix::fs::fsync(&parent_dir)
                .map_err(|e| Error::sys("fsync", parent.display().to_string(), e))?;
        }
        Ok(())
    }

    fn rename(&self) -> Result<()> {
        let fail =
            |e| Error::sys("renameat2", format!("{} to {}", self.path.display(), self.target.display()), e);
        if let Some(taken) = &self.taken {
            return match rustix::fs::renameat_with(CWD, &self.path, CWD, &self.target, RenameFlags::NOREPLACE)
            {
                Err(Errno::EXIST) => Err(taken.clone().into()),
                other => other.map_err(fail),
            };
        }
        // Onto nothing or an empty directory, as clients prepare it.
        match rustix::fs::rename(&self.path, &self.target) {
            Ok(()) => return Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(e) => return Err(fail(e)),
        }
        rustix::fs::renameat_with(CWD, &self.path, CWD, &self.target, RenameFlags::EXCHANGE).map_err(fail)?;
        // Now the old one is in our place.
        std::fs::remove_dir_all(&self.path).map_err(|e| Error::file(&self.path, &e))
    }

    /// A failed dump's log is all that stays: where the images would have been, unless there is a work directory. Of
    /// one that was to have a name not even that.
    pub(super) fn explain(&self, mut error: CriuError, log_is_elsewhere: bool) -> CriuError {
        self.keep_log(&mut error, log_is_elsewhere);
        error
    }

    /// As [`explain`](Self::explain), of an error in its place.
    pub(super) fn keep_log(&self, error: &mut CriuError, log_is_elsewhere: bool) {
        let Some(failure) = error.failure_mut() else { return };
        if (self.taken.is_some() || self.hand_over.is_some()) && !log_is_elsewhere {
            failure.log = None;
        }
        let Some(log) = failure.log.as_mut().filter(|_| !log_is_elsewhere) else { return };
        let (Some(name), Ok(())) = (log.file_name(), make_dir(&self.target)) else { return };
        let kept = self.target.join(name);
        if std::fs::rename(&*log, &kept).is_ok() {
            *log = kept;
        }
    }
}

impl Drop for Staging<'_> {
    fn drop(&mut self) {
        if !self.published
            && self.hand_over.is_none()
            && self.dir.is_some()
            && let Err(e) = std::fs::remove_dir_all(&self.path)
            && e.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!("remove {}: {}", self.path.display(), plain(&e));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::chain;

    fn seal() -> Seal<'static> {
        let spec = oci_spec::runtime::Spec::default();
        let manifest = Manifest::new("c", &spec, &crate::CheckpointOptions::default());
        Seal {
            manifest: manifest.unwrap(),
            work: Work { hash: true, sync: true },
            cgroups: CgroupPaths::default(),
            revive: false,
            synchronous: false,
            config: None,
            sign_key: None,
            complete: true,
            hasher: None,
            images: Vec::new(),
            unwritten: Vec::new(),
            behind: Vec::new(),
        }
    }

    #[test]
    fn whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a/checkpoint");
        let mut staging = Staging::new(&target, None).unwrap();
        staging.create().unwrap();
        std::fs::write(staging.path().join("x.img"), "x").unwrap();
        assert!(!target.exists());
        drop(staging);
        assert_eq!(std::fs::read_dir(dir.path().join("a")).unwrap().count(), 0);

        let mut staging = Staging::new(&target, None).unwrap();
        staging.create().unwrap();
        std::fs::write(staging.path().join("x.img"), "x").unwrap();
        staging.publish(&mut seal()).unwrap();
        drop(staging);
        assert_eq!(std::fs::read_to_string(target.join("x.img")).unwrap(), "x");
        let manifest = Manifest::read(&target).unwrap().unwrap();
        assert_eq!(manifest.files["x.img"].size, 1, "it is in the manifest");
        assert_eq!(std::fs::read_dir(dir.path().join("a")).unwrap().count(), 1);
    }

    #[test]
    fn an_older_checkpoint_is_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("c");
        std::fs::create_dir(&target).unwrap();
        std::fs::write(target.join("old.img"), "old").unwrap();
        let mut staging = Staging::new(&target, None).unwrap();
        staging.create().unwrap();
        std::fs::write(staging.path().join("new.img"), "new").unwrap();
        staging.publish(&mut seal()).unwrap();
        assert!(!target.join("old.img").exists() && target.join("new.img").exists());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_name_is_given_once() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("cc");
        let missing = CheckpointError::NotADirectory("taken".into());
        let stage = || {
            let mut staging = Staging::new(&target, Some(missing.clone())).unwrap();
            staging.create().unwrap();
            staging
        };
        stage().publish(&mut seal()).unwrap();
        std::fs::write(target.join("first"), "").unwrap();
        let error = stage().publish(&mut seal()).unwrap_err();
        assert_eq!(chain(&error), "publish the checkpoint: taken exists and is not a directory");
        assert!(target.join("first").exists());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_in_the_way_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "").unwrap();
        let error = Staging::new(&dir.path().join("f"), None).err().unwrap().to_string();
        assert!(error.contains("not a directory"), "{error}");
    }
}
