//! The cgroup trees as a dump finds them: a directory with an entry for each hierarchy.
//!
//! CRIU would mount each of them anew, which takes 3 ms apiece with the tasks frozen and changes the options of the
//! host's cgroup2 mount (CRIU issue 3029), which on Linux 6.18 takes another 10 ms. Links to the mounts that are there do as
//! well, and to mounts that we make of v1 hierarchies that are nowhere; not at a restore, where CRIU walks them from
//! inside the container.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use hiber_sandbox::cgroup::{Layout, Mount};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use super::links::Links;
use crate::error::{Error, Result};

/// What a dump is given.
#[derive(Debug)]
pub(super) struct Yard {
    links: Links,
    /// Mounts that are nowhere but here.
    _mounts: Vec<OwnedFd>,
}

impl Yard {
    /// Makes the directory `at`. `None` if cgroup2 is not mounted from its root, or the rest cannot be mounted, so that
    /// CRIU has to do all that itself.
    pub(super) fn make(at: PathBuf) -> Result<Option<Self>> {
        let own = Path::new("/proc/thread-self/cgroup");
        let text = std::fs::read_to_string(own).map_err(|e| Error::file(own, &e))?;
        let Some(entries) = entries(&text, &Layout::detect()?) else { return Ok(None) };
        let (mut links, mut mounts) = (Vec::new(), Vec::new());
        for (name, point) in entries {
            let target = match point {
                Some(point) => point,
                None => {
                    let failed =
                        |e: &Errno| tracing::debug!("cgroup hierarchy {name} cannot be mounted: {e}");
                    let Ok(mount) = mount(&name).inspect_err(failed) else { return Ok(None) };
                    let target = format!("/proc/{}/fd/{}", std::process::id(), mount.as_raw_fd());
                    mounts.push(mount);
                    target.into()
                }
            };
            links.push((name.trim_start_matches("name=").to_owned(), target));
        }
        tracing::debug!(
            "CRIU finds the cgroup hierarchies in {}, {} mounted for it",
            at.display(),
            mounts.len()
        );
        Ok(Some(Self { links: Links::make(at, links)?, _mounts: mounts }))
    }

    pub(super) fn path(&self) -> &Path {
        self.links.path()
    }
}

/// The hierarchies in a /proc/PID/cgroup (cgroups(7)), `unified` or by their controllers, and where each is mounted; none
/// for a v1 hierarchy that is mounted nowhere, or in part.
fn entries(text: &str, layout: &Layout) -> Option<Vec<(String, Option<PathBuf>)>> {
    let whole = |mount: &Mount| (mount.root == Path::new("/")).then(|| mount.point.clone());
    text.lines()
        .map(|line| match line.split(':').nth(1)? {
            // Mounted anew, it would lose the host's options.
            "" => Some(("unified".to_owned(), Some(layout.v2().and_then(whole)?))),
            controllers => {
                let mount = controllers.split(',').next().and_then(|first| layout.v1().get(first));
                Some((controllers.to_owned(), mount.and_then(whole)))
            }
        })
        .collect()
}

/// A mount of the v1 hierarchy of these controllers, or of this name, outside of all mount namespaces.
fn mount(hierarchy: &str) -> Result<OwnedFd, Errno> {
    let fs = rustix::mount::fsopen("cgroup", FsOpenFlags::FSOPEN_CLOEXEC)?;
    if let Some(name) = hierarchy.strip_prefix("name=") {
        rustix::mount::fsconfig_set_flag(&fs, "none")?;
        rustix::mount::fsconfig_set_string(&fs, "name", name)?;
    } else {
        hierarchy.split(',').try_for_each(|controller| rustix::mount::fsconfig_set_flag(&fs, controller))?;
    }
    rustix::mount::fsconfig_create(&fs)?;
    rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(own: &str, mountinfo: &str) -> Option<Vec<(String, Option<PathBuf>)>> {
        entries(own, &Layout::from_text(mountinfo, own, "memory pids").unwrap())
    }

    #[test]
    fn hierarchies_have_the_names_that_criu_gives_them() {
        let mounts = "1 0 0:1 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
            2 0 0:2 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            3 0 0:3 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n";
        let found = found("3:name=systemd:/\n2:cpu,cpuacct:/x\n0::/y\n", mounts).unwrap();
        let expected = [
            ("name=systemd", "/sys/fs/cgroup/systemd"),
            ("cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct"),
            ("unified", "/sys/fs/cgroup/unified"),
        ];
        assert_eq!(found, expected.map(|(name, path)| (name.to_owned(), Some(path.into()))));
    }

    #[test]
    fn what_is_not_mounted_whole_is_mounted_or_left_to_criu() {
        let v2 = "1 0 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let memory = ("memory".to_owned(), None);
        let unified = ("unified".to_owned(), Some("/sys/fs/cgroup".into()));
        assert_eq!(found("2:memory:/\n0::/\n", v2), Some(vec![memory, unified]));
        let part = "1 0 0:1 /below /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(found("0::/\n", part), None);
    }
}
