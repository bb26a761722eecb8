//! Root filesystems whose owners are seen as a container's user namespace has them. containerd passes the maps among the
//! options of a mount, as `uidmap=CONTAINER:HOST:SIZE,…` and `gidmap=`; the kernel knows no such options.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use hiber_sandbox::idmap;
use hiber_sandbox::plan::{IdMap, NamespaceKind};
use hiber_sys::mount::{MountAttributes, Reach, map_ids, mount_setattr};
use hiber_sys::process::{setns, unshare};
use nix::mount::MsFlags;
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use crate::error::{Context, Error, Result};

/// The maps of a mount.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Maps {
    uid: Vec<IdMap>,
    gid: Vec<IdMap>,
}

impl Maps {
    /// Takes the maps of `rootfs[index]` out of its options.
    pub(crate) fn take(index: usize, options: &[String]) -> Result<(Option<Self>, Vec<&str>)> {
        let (mut maps, mut rest) = (Self::default(), Vec::new());
        for option in options {
            let into = match option.split_once('=') {
                Some(("uidmap", text)) => (&mut maps.uid, text),
                Some(("gidmap", text)) => (&mut maps.gid, text),
                _ => {
                    rest.push(option.as_str());
                    continue;
                }
            };
            let (list, text) = into;
            *list = text.split(',').map(parse).collect::<Option<_>>().ok_or_else(|| {
                let problem = format!("{option:?}: expected CONTAINER:HOST:SIZE");
                Error::invalid(format!("rootfs[{index}].options"), problem)
            })?;
        }
        match (maps.uid.is_empty(), maps.gid.is_empty()) {
            (true, true) => Ok((None, rest)),
            (false, false) => Ok((Some(maps), rest)),
            _ => {
                let problem = "has one of uidmap and gidmap: expected both or none";
                Err(Error::invalid(format!("rootfs[{index}].options"), problem))
            }
        }
    }

    fn namespace(&self) -> Result<OwnedFd> {
        idmap::namespace_with(&self.uid, &self.gid).context("make a user namespace for the maps")
    }

    /// Binds `source` at `target`.
    pub(crate) fn bind(&self, source: &Path, target: &Path, recursive: bool) -> Result<()> {
        let tree = clone(source, Reach::if_recursive(recursive))?;
        map_ids(tree.as_fd(), self.namespace()?.as_fd(), Reach::if_recursive(recursive))
            .context("map its ids")?;
        attach(&tree, target)
    }

    /// Mounts an overlay at `target`, which is `rootfs` or below it. Its lower layers are mapped; the upper one is the
    /// container's own. They are mounted one by one for that, where nobody else sees them: in a mount namespace that
    /// ends with this thread.
    pub(crate) fn overlay(
        &self,
        options: &[String],
        flags: MsFlags,
        rootfs: &Path,
        target: &Path,
    ) -> Result<()> {
        let ids = self.namespace()?;
        let run = || -> Result<()> {
            let host = std::fs::File::open("/proc/thread-self/ns/mnt").context("/proc/thread-self/ns/mnt")?;
            let flag = NamespaceKind::Mount.clone_flag();
            unshare(flag, "for the layers of an overlay").context("mount namespace")?;
            let tree = in_own_namespace(&ids, options, flags, rootfs)?;
            setns(host.as_fd(), flag, "back into the host's mount namespace").context("mount namespace")?;
            attach(&tree, target)
        };
        std::thread::scope(|scope| scope.spawn(run).join())
            .unwrap_or_else(|_| Err(Error::State("the mounting thread panicked".into())))
    }
}

/// The overlay, attached nowhere.
fn in_own_namespace(ids: &OwnedFd, options: &[String], flags: MsFlags, rootfs: &Path) -> Result<OwnedFd> {
    let mount = |source: &str, target: &Path, kind: Option<&str>, flags: MsFlags, data: Option<&str>| {
        let what = format!("mount {source} at {}", target.display());
        nix::mount::mount(Some(source), target, kind, flags, data).map_err(std::io::Error::from).context(what)
    };
    mount("none", Path::new("/"), None, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None)?;
    // Whatever the layers' paths are, there each has a short one.
    mount("tmpfs", rootfs, Some("tmpfs"), MsFlags::empty(), None)?;
    let (mut names, mut data) = (Vec::new(), Vec::new());
    for option in options {
        let Some(layers) = option.strip_prefix("lowerdir=") else {
            data.push(option.clone());
            continue;
        };
        for layer in layers.split(':').map(Path::new) {
            let tree = clone(layer, Reach::One)?;
            map_ids(tree.as_fd(), ids.as_fd(), Reach::One)
                .context(format!("map the ids of {}", layer.display()))?;
            let read_only = MountAttributes { set: MsFlags::MS_RDONLY.bits(), ..MountAttributes::default() };
            mount_setattr(tree.as_fd(), read_only, Reach::One).context("set a layer read-only")?;
            let name = names.len().to_string();
            let place = rootfs.join(&name);
            std::fs::create_dir(&place).context(place.display().to_string())?;
            attach(&tree, &place)?;
            names.push(name);
        }
    }
    data.push(format!("lowerdir={}", names.join(":")));
    let merged = rootfs.join("merged");
    std::fs::create_dir(&merged).context(merged.display().to_string())?;
    #[expect(clippy::disallowed_methods, reason = "this thread shares its working directory with no other")]
    nix::unistd::chdir(rootfs).map_err(std::io::Error::from).context(rootfs.display().to_string())?;
    mount("overlay", &merged, Some("overlay"), flags, Some(&data.join(",")))?;
    clone(&merged, Reach::One)
}

fn parse(text: &str) -> Option<IdMap> {
    let numbers: Vec<u32> = text.split(':').map(|number| number.parse().ok()).collect::<Option<_>>()?;
    match numbers[..] {
        [container, host, size] if size > 0 => Some(IdMap { container, host, size }),
        _ => None,
    }
}

/// A copy of a mount, attached nowhere.
fn clone(path: &Path, reach: Reach) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, reach == Reach::Tree);
    open_tree(CWD, path, flags).context(format!("open_tree {}", path.display()))
}

fn attach(tree: &OwnedFd, target: &Path) -> Result<()> {
    move_mount(tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .context(format!("move_mount to {}", target.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_taken_out_of_the_options() {
        let map = |container, host, size| IdMap { container, host, size };
        let options =
            ["ro", "uidmap=0:100000:65536", "gidmap=0:1:2,2:5:1", "lowerdir=/a:/b"].map(String::from);
        let (maps, rest) = Maps::take(0, &options).unwrap();
        let expected = Maps { uid: vec![map(0, 100_000, 65536)], gid: vec![map(0, 1, 2), map(2, 5, 1)] };
        assert_eq!((maps, rest), (Some(expected), vec!["ro", "lowerdir=/a:/b"]));
        assert_eq!(Maps::take(0, &["ro".into()]).unwrap(), (None, vec!["ro"]));
        let error = |option: &str| Maps::take(2, &[option.into()]).unwrap_err().to_string();
        assert_eq!(error("uidmap=0:1"), "rootfs[2].options: \"uidmap=0:1\": expected CONTAINER:HOST:SIZE");
        assert!(error("gidmap=0:4294967296:1").contains("expected CONTAINER"));
        assert!(error("uidmap=0:1:0").contains("expected CONTAINER"));
        assert!(error("uidmap=0:1:1").contains("both or none"));
    }
}
