//! Cgroups that a container has made below its own.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use super::handle::Cgroup;
use crate::error::{Error, Result};

impl Cgroup {
    /// The cgroup below this one: `paths_below` gives a path for a controller's hierarchy, or, under the name "", for all
    /// hierarchies. In the other hierarchies the result is this cgroup. Nobody checks here that the cgroup exists; a process
    /// that cannot enter it gets the error.
    ///
    /// # Errors
    /// A path leads out of the container's cgroup, or a controller is not the container's.
    pub fn below(&self, paths_below: &BTreeMap<String, String>) -> Result<Self> {
        let mut paths = self.paths().clone();
        for (controller, inner) in paths_below {
            let below = |base: &Path| join(base, inner);
            if controller.is_empty() {
                for path in paths.v1.values_mut().chain(&mut paths.v2) {
                    *path = below(path)?;
                }
                continue;
            }
            let Some(base) = self.paths().v1.get(controller) else {
                return Err(Error::invalid("--cgroup", format!("unknown controller {controller}")));
            };
            // Controllers that are mounted together share a hierarchy.
            for (name, path) in &mut paths.v1 {
                if self.paths().v1.get(name) == Some(base) {
                    *path = below(base)?;
                }
            }
        }
        Self::open(paths, self.on_denied())
    }
}

fn join(base: &Path, path: &str) -> Result<PathBuf> {
    let mut inner = PathBuf::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => inner.push(name),
            Component::ParentDir if inner.pop() => {}
            Component::ParentDir => {
                return Err(Error::invalid("--cgroup", format!("bad sub cgroup path: {path}")));
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
