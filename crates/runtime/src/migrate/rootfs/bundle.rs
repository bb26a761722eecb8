//! A bundle that comes from the source: made beside its place, and put there when it is complete.

use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use hiber_criu::ImageDirectory;
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::fs::{Mode, OFlags};

use super::change::{Amount, Change};
use super::target::Target;
use crate::error::{Context, Error, Result};
use crate::helpers::unfinished;
use crate::host::owned;
use crate::host::paths::free;
use crate::state::migration;

/// A bundle that is being made. Dropped, it is removed, unless it is to stay.
#[derive(Debug)]
pub(crate) struct NewBundle {
    place: PathBuf,
    /// Where it is now.
    path: PathBuf,
    /// The directory, which is locked until it has its place.
    directory: ImageDirectory,
    target: Target,
    stays: bool,
}

impl NewBundle {
    /// Begins a bundle at `place`, with this config.json, for the migration of that token.
    ///
    /// # Errors
    /// If something is there, there is no room, or config.json names no root below the bundle.
    pub(crate) fn begin(place: &Path, config: &str, token: &str, amount: Amount) -> Result<Self> {
        let invalid = |why: &str| Err(Error::Invalid(format!("bundle {}: {why}", place.display())));
        let Some(parent) = place.parent().filter(|_| place.is_absolute() && place.file_name().is_some())
        else {
            return invalid("expected an absolute path with a name");
        };
        match std::fs::symlink_metadata(place).map(|found| found.is_dir()) {
            Ok(true) => match std::fs::read_dir(place).map(|mut entries| entries.next().is_none()) {
                Ok(true) => {}
                Ok(false) => return invalid("exists and is not empty; --rootfs sync makes a new one"),
                Err(e) => return Err(Error::file(place, &e)),
            },
            Ok(false) => return invalid("exists and is no directory; --rootfs sync makes a new one"),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::file(place, &e)),
        }
        unfinished::sweep(parent);
        check_room(parent, amount)?;
        let spec: Spec = serde_json::from_str(config)
            .map_err(|e| Error::Invalid(format!("the source's config.json cannot be understood: {e}")))?;
        let mode = if has_users(&spec) { Mode::from_raw_mode(0o711) } else { owned::PRIVATE_DIR };
        let open = |path: &Path| Ok(ImageDirectory::open(path)?);
        let (path, directory) =
            unfinished::make_dir(unfinished::hidden(place), place, mode, open).context("make the bundle")?;
        let root = Self::fill(&path, config, &spec, token).inspect_err(|_| {
            let _ = std::fs::remove_dir_all(&path);
        })?;
        Ok(Self { place: place.into(), path, directory, target: Target::new(root), stays: false })
    }

    fn fill(path: &Path, config: &str, spec: &Spec, token: &str) -> Result<OwnedFd> {
        owned::write(&path.join("config.json"), config.as_bytes()).map_err(|e| Error::file(path, &e))?;
        migration::mark_bundle(path, token)?;
        let named = spec.root().as_ref().map_or(Path::new(""), |root| root.path());
        let plain = named.components().all(|part| matches!(part, Component::Normal(_)));
        let root = path.join(named);
        if !plain || named.as_os_str().is_empty() || root.exists() {
            return Err(Error::Invalid(format!("root.path {named:?}: expected a path below the bundle")));
        }
        std::fs::create_dir_all(&root).map_err(|e| Error::file(&root, &e))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::open(&root, flags, Mode::empty()).map_err(|e| Error::file(&root, &e.into()))
    }

    /// Where it is now.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes steps, with all their bytes.
    pub(crate) fn apply(&mut self, changes: &[Change], mut bytes: &[u8]) -> Result<()> {
        changes.iter().try_for_each(|change| self.target.apply(change, &mut bytes))
    }

    /// Brings it to the disk.
    pub(crate) fn syncing(&self) -> Result<impl FnOnce() -> Result<()> + Send + 'static> {
        let (directory, path) = (self.directory.descriptor()?, self.path.clone());
        Ok(move || {
            rustix::fs::syncfs(&directory).map_err(|e| Error::sys("syncfs", path.display().to_string(), e))
        })
    }

    /// Puts it to its place, complete.
    pub(crate) fn publish(&mut self) -> Result<()> {
        // Onto nothing or an empty directory.
        std::fs::rename(&self.path, &self.place).map_err(|e| Error::file(&self.place, &e))?;
        self.path.clone_from(&self.place);
        Ok(())
    }

    /// It is the container's, whatever becomes of that.
    pub(crate) fn stay(mut self) {
        self.stays = true;
    }
}

impl Drop for NewBundle {
    fn drop(&mut self) {
        if !self.stays
            && let Err(e) = std::fs::remove_dir_all(&self.path)
        {
            tracing::warn!("the bundle {} stays: {e}", self.path.display());
        }
    }
}

/// Whether processes that are not root have to come through the bundle to its root.
pub(crate) fn has_users(spec: &Spec) -> bool {
    let namespaces =
        spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    namespaces.iter().any(|namespace| namespace.typ() == LinuxNamespaceType::User)
}

fn check_room(parent: &Path, amount: Amount) -> Result<()> {
    let stat = rustix::fs::statvfs(parent).map_err(|e| Error::file(parent, &e.into()))?;
    let available = free(&stat);
    let lacks = |needed: String, there: String| {
        Err(Error::host(
            format!("not enough room in {}", parent.display()),
            format!("it takes {needed}, {there} are available"),
        ))
    };
    if available < amount.bytes {
        return lacks(format!("{} MiB", amount.bytes >> 20), format!("{} MiB", available >> 20));
    }
    // Some file systems make them as they are needed, and count none.
    if stat.f_files > 0 && stat.f_favail < amount.files {
        return lacks(format!("{} inodes", amount.files), stat.f_favail.to_string());
    }
    Ok(())
}
