//! The images as CRIU is to see them: those that were checked, readable for whom it reads them as.
//!
//! CRIU finds parents by path, and reads most images as the root of the container's user namespace, whom the directory of
//! images keeps out: they hold the container's memory. What it gets is a view in the restore's own mount namespace, with
//! the owners of files mapped into that user namespace; files and directories on the disk stay as they are.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use hiber_criu::{ImageDirectory, PARENT};
use hiber_sandbox::idmap;
use hiber_sandbox::plan::{NamespaceKind, Namespaces};
use hiber_sandbox::rootfs::{attach_at_path, clone_fd, clone_path};
use rustix::fs::{FileType, Mode};
use rustix::mount::MountFlags;

use crate::error::{Context, Error, Result};

/// Directories of the view are open to the container's root; nobody else has the mount.
const OPEN: Mode = Mode::from_raw_mode(0o755);

/// A checkpoint and those that it builds on, before they are mounted anywhere.
pub(crate) struct View<'a>(Vec<Part<'a>>);

struct Part<'a> {
    dir: &'a ImageDirectory,
    /// A detached mount of it; none where its own descriptor will do.
    tree: Option<OwnedFd>,
    /// Whether those who are to read them may read its files by way of it.
    open: bool,
}

impl<'a> View<'a> {
    /// To be called in the mount namespace in which the directories were opened: mounts of another cannot be copied.
    pub(crate) fn prepare(chain: &'a [ImageDirectory], namespaces: &Namespaces) -> Result<Self> {
        let foreign = namespaces.has(NamespaceKind::User);
        if let ([dir], false) = (chain, foreign) {
            return Ok(Self(vec![Part { dir, tree: None, open: true }]));
        }
        let part = |dir: &'a ImageDirectory| {
            let tree = clone_fd(dir, false).context(format!("mount {}", dir.path().display()))?;
            // Not every file system can.
            let open = !foreign || idmap::apply_own(tree.as_fd(), namespaces).is_ok();
            Ok(Part { dir, tree: Some(tree), open })
        };
        chain.iter().map(part).collect::<Result<_>>().map(Self)
    }

    /// The checkpoint, for CRIU. To be called in a mount namespace that nobody else uses; `at` is an empty directory.
    pub(crate) fn mount(self, at: &Path) -> Result<OwnedFd> {
        let mut parts = self.0;
        if let [Part { dir, tree, open: true }] = &mut parts[..] {
            return tree.take().map_or_else(|| Ok(dir.descriptor()?), Ok);
        }
        rustix::mount::mount("hiber", at, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=0755")
            .map_err(|e| Error::sys("mount", "a tmpfs for the view of the images", e))?;
        for (number, part) in parts.iter().enumerate() {
            part.show(at, number, number + 1 < parts.len())
                .context(format!("make a view of {}", part.dir.path().display()))?;
        }
        Ok(ImageDirectory::open(&at.join("0"))?.descriptor()?)
    }
}

impl Part<'_> {
    /// Makes `at/NUMBER` with a link to each file of the directory, which is mounted beside it, and one to the parent's view.
    /// Where owners cannot be mapped, each file is mounted instead: not the file keeps the container's root out, but the
    /// directory.
    fn show(&self, at: &Path, number: usize, has_parent: bool) -> Result<()> {
        let beside = format!("mount-{number}");
        let (shown, mounted) = (at.join(number.to_string()), at.join(&beside));
        for dir in [&shown, &mounted] {
            rustix::fs::mkdir(dir, OPEN).map_err(|e| Error::sys("mkdir", dir.display().to_string(), e))?;
        }
        if let Some(tree) = &self.tree {
            attach_at_path(tree, &mounted)?;
        }
        for name in self.dir.names()? {
            let stat = self.dir.stat_of(&name).map_err(|e| Error::file(&self.dir.path().join(&name), &e))?;
            let place = shown.join(&name);
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                continue;
            }
            if self.open {
                link(&format!("../{beside}/{name}"), &place)?;
            } else {
                std::fs::File::create(&place).map_err(|e| Error::file(&place, &e))?;
                attach_at_path(clone_path(&mounted.join(&name), false)?, &place)?;
            }
        }
        if has_parent { link(&format!("../{}", number + 1), &shown.join(PARENT)) } else { Ok(()) }
    }
}

fn link(target: &str, place: &Path) -> Result<()> {
    std::os::unix::fs::symlink(target, place).map_err(|e| Error::file(place, &e))
}
