//! The images as CRIU is to see them: those that were checked, readable for whom it reads them as.
//!
//! CRIU finds parents by path, and reads most images as the root of the container's user namespace, whom the directory of images
//! keeps out: they hold the container's memory. CRIU gets a view in the restore's own mount namespace, with the owners of files
//! mapped into that user namespace. Files and directories on the disk stay as they are.

use hiber_sys::mount::Reach;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use hiber_criu::images::ChangedFiles;
use hiber_criu::{ImageDirectory, PARENT};
use hiber_sandbox::idmap;
use hiber_sandbox::plan::{NamespaceKind, Namespaces};
use hiber_sandbox::rootfs::{attach_at_path, clone_fd, clone_path};
use rustix::fs::FileType;
use rustix::mount::MountFlags;

use crate::error::{Context, Error, Result};

/// Read by a task that has the container's user namespace already, but is not yet its root: it is the one image that must be
/// open to both. It says how far the container's clocks are from the host's.
const CLOCKS: &str = "timens-";

/// A checkpoint and those that it builds on, before they are mounted anywhere.
pub(crate) struct View<'a> {
    chain: &'a [ImageDirectory],
    /// Detached mounts of them, none where their descriptors will do; and whether the owners of files are mapped.
    trees: Vec<(OwnedFd, bool)>,
    /// Whether CRIU reads images as another user than ours.
    foreign: bool,
    /// The files of the checkpoint that are replaced, and their contents.
    changed: ChangedFiles,
}

impl<'a> View<'a> {
    /// To be called in the mount namespace in which the directories were opened: mounts of another cannot be copied.
    pub(crate) fn prepare(
        chain: &'a [ImageDirectory],
        changed: ChangedFiles,
        namespaces: &Namespaces,
    ) -> Result<Self> {
        let foreign = namespaces.has(NamespaceKind::User);
        let tree = |dir: &ImageDirectory| {
            let tree = clone_fd(dir, Reach::One).context(format!("mount {}", dir.path().display()))?;
            // Not every file system can.
            let mapped = foreign && idmap::apply_own(tree.as_fd(), namespaces).is_ok();
            Ok((tree, mapped))
        };
        let needed = if foreign || chain.len() > 1 || !changed.is_empty() { chain } else { &[] };
        Ok(Self { chain, trees: needed.iter().map(tree).collect::<Result<_>>()?, foreign, changed })
    }

    /// The checkpoint, for CRIU. To be called in a mount namespace that nobody else uses; `at` is an empty directory.
    pub(crate) fn mount(&self, at: &Path) -> Result<OwnedFd> {
        if let ([], [dir]) = (&self.trees[..], self.chain) {
            return Ok(dir.descriptor()?);
        }
        rustix::mount::mount("hiber", at, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=0755")
            .map_err(|e| Error::sys("mount", "a tmpfs for the view of the images", e))?;
        for number in 0..self.chain.len() {
            self.show(at, number)
                .context(format!("make a view of {}", self.chain[number].path().display()))?;
        }
        Ok(ImageDirectory::open(&at.join("0"))?.descriptor()?)
    }

    /// Makes `at/NUMBER` with a link to each file of the directory, which is mounted beside it, and one to the parent's view.
    /// Where owners cannot be mapped, each file is mounted instead: not the file keeps the container's root out, but the
    /// directory.
    fn show(&self, at: &Path, number: usize) -> Result<()> {
        let (dir, (tree, mapped)) = (&self.chain[number], &self.trees[number]);
        let beside = format!("mount-{number}");
        let (shown, mounted) = (at.join(number.to_string()), at.join(&beside));
        make_dir(&shown)?;
        make_dir(&mounted)?;
        attach_at_path(tree, &mounted)?;
        for name in dir.names()? {
            let found = |e: std::io::Error| Error::file(&dir.path().join(&name), &e);
            let place = shown.join(&name);
            let fail = |e: std::io::Error| Error::file(&place, &e);
            if FileType::from_raw_mode(dir.stat_of(&name).map_err(found)?.st_mode) != FileType::RegularFile {
                continue;
            }
            let changed = self.changed.iter().find(|(changed, _)| number == 0 && *changed == name);
            if let Some((_, content)) = changed {
                std::fs::write(&place, content).map_err(fail)?;
                open_up(&place, 0o444)?;
            } else if self.foreign && name.starts_with(CLOCKS) {
                let mut copy = File::create(&place).map_err(fail)?;
                std::io::copy(&mut dir.file(&name).map_err(found)?, &mut copy).map_err(fail)?;
                open_up(&place, 0o444)?;
            } else if *mapped || !self.foreign {
                symlink(format!("../{beside}/{name}"), &place).map_err(fail)?;
            } else {
                File::create(&place).map_err(fail)?;
                attach_at_path(clone_path(&mounted.join(&name), Reach::One)?, &place)?;
            }
        }
        let (place, next) = (shown.join(PARENT), number + 1);
        if next == self.chain.len() {
            return Ok(());
        }
        symlink(format!("../{next}"), &place).map_err(|e| Error::file(&place, &e))
    }
}

/// Makes a directory that the container's root may search; nobody else has the mount.
fn make_dir(dir: &Path) -> Result<()> {
    std::fs::create_dir(dir).map_err(|e| Error::file(dir, &e))?;
    open_up(dir, 0o755)
}

/// Whatever the caller's umask.
fn open_up(path: &Path, mode: u32) -> Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(|e| Error::file(path, &e))
}
