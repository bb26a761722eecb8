//! Cgroups below a container's, which it has made itself.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use super::handle::Cgroup;
use crate::error::{Error, Result};

impl Cgroup {
    /// The same cgroup, but in hierarchies that `subs` names by a controller the one at that path below it; the name
    /// "" stands for all hierarchies. Whether it exists shows when a process is to enter it.
    ///
    /// # Errors
    /// A path leads out of the container's cgroup, or a controller is not the container's.
    pub fn below(&self, subs: &BTreeMap<String, String>) -> Result<Self> {
        let mut paths = self.paths().clone();
        for (controller, sub) in subs {
            let below = |base: &Path| join(base, sub);
            if controller.is_empty() {
                for path in paths.v1.values_mut().chain(&mut paths.v2) {
                    *path = below(path)?;
                }
                continue;
            }
            let Some(base) = self.paths().v1.get(controller) else {
                return Err(Error::invalid("--cgroup", format!("unknown controller {controller}")));
            };
            // Those that are mounted together are one hierarchy.
            for (name, path) in &mut paths.v1 {
                if self.paths().v1.get(name) == Some(base) {
                    *path = below(base)?;
                }
            }
        }
        Self::open(paths, self.on_denied())
    }
}

fn join(base: &Path, sub: &str) -> Result<PathBuf> {
    let mut inner = PathBuf::new();
    for component in Path::new(sub).components() {
        match component {
            Component::Normal(name) => inner.push(name),
            Component::ParentDir if inner.pop() => {}
            Component::ParentDir => {
                return Err(Error::invalid("--cgroup", format!("bad sub cgroup path: {sub}")));
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(if inner.as_os_str().is_empty() { base.to_owned() } else { base.join(inner) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_and_never_above() {
        let base = Path::new("/sys/fs/cgroup/cpu/c");
        assert_eq!(join(base, "/").unwrap(), base);
        assert_eq!(join(base, "a/../b/").unwrap(), base.join("b"));
        assert!(join(base, "..").unwrap_err().to_string().contains("bad sub cgroup path"));
        assert!(join(base, "a/../../c2").is_err());
    }
}
