//! The cgroup trees as a dump finds them: a directory with an entry for each hierarchy.
//!
//! CRIU would mount each of them anew, which takes 3 ms apiece with the tasks frozen and changes the options of the
//! host's cgroup2 mount (CRIU issue 3029). Links to the mounts that are there do as well; not at a restore,
//! where CRIU walks them from inside the container.

use std::path::{Path, PathBuf};

use hiber_sandbox::cgroup::{Layout, Mount};

use super::links::Links;
use crate::error::{Error, Result};

/// Makes the directory `at`. `None` if a hierarchy is mounted nowhere, or not from its root, so that CRIU has to mount
/// them itself.
pub(super) fn make(at: PathBuf) -> Result<Option<Links>> {
    let own = Path::new("/proc/thread-self/cgroup");
    let text = std::fs::read_to_string(own).map_err(|e| Error::file(own, &e))?;
    entries(&text, &Layout::detect()?).map(|entries| Links::make(at, entries)).transpose()
}

/// CRIU's names of the hierarchies in a /proc/PID/cgroup (cgroups(7)), and where each is mounted.
fn entries(text: &str, layout: &Layout) -> Option<Vec<(String, PathBuf)>> {
    let whole = |mount: &Mount| (mount.root == Path::new("/")).then(|| mount.point.clone());
    text.lines()
        .map(|line| match line.split(':').nth(1)? {
            "" => Some(("unified".to_owned(), layout.v2().and_then(whole)?)),
            controllers => {
                let mount = layout.v1().get(controllers.split(',').next()?)?;
                Some((controllers.trim_start_matches("name=").to_owned(), whole(mount)?))
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(own: &str, mountinfo: &str) -> Option<Vec<(String, PathBuf)>> {
        entries(own, &Layout::from_text(mountinfo, own, "memory pids").unwrap())
    }

    #[test]
    fn hierarchies_have_the_names_that_criu_gives_them() {
        let mounts = "1 0 0:1 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
            2 0 0:2 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            3 0 0:3 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n";
        let found = found("3:name=systemd:/\n2:cpu,cpuacct:/x\n0::/y\n", mounts).unwrap();
        let expected = [
            ("systemd", "/sys/fs/cgroup/systemd"),
            ("cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct"),
            ("unified", "/sys/fs/cgroup/unified"),
        ];
        assert_eq!(found, expected.map(|(name, path)| (name.to_owned(), PathBuf::from(path))));
    }

    #[test]
    fn what_is_not_mounted_whole_is_left_to_criu() {
        let v2 = "1 0 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(found("2:memory:/\n0::/\n", v2), None);
        let part = "1 0 0:1 /below /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(found("0::/\n", part), None);
    }
}
