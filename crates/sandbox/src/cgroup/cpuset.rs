//! The processors that cpusets leave to processes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::dir::read_file;
use super::layout::Layout;
use super::version::Version;
use crate::plan::scheduling::numbers;
use crate::{Error, Result};

/// The cpusets of this host. Each is read once.
#[derive(Debug)]
pub struct Cpusets {
    layout: Layout,
    read: HashMap<PathBuf, Option<Vec<usize>>>,
}

impl Cpusets {
    /// # Errors
    /// Those of [`Layout::detect`].
    pub fn detect() -> Result<Self> {
        Ok(Self { layout: Layout::detect()?, read: HashMap::new() })
    }

    /// The processors, ascending, that the cpuset of process or thread `tid` leaves to it; `None` if there is no cpuset
    /// that can be seen.
    ///
    /// # Errors
    /// The thread is gone, or its cpuset cannot be read.
    pub fn processors_of(&mut self, tid: i32) -> Result<Option<&[usize]>> {
        let text = read_file(Path::new(&format!("/proc/{tid}/cgroup")))?;
        let Some((dir, version)) = self.layout.cpuset_of(&text) else { return Ok(None) };
        if !self.read.contains_key(&dir) {
            let processors = match version {
                Version::V1 => Some(read(&dir.join("cpuset.effective_cpus"))?),
                // Where the controller is not enabled, the nearest cgroup above decides.
                Version::V2 => {
                    let file =
                        |dir: &Path| Some(dir.join("cpuset.cpus.effective")).filter(|file| file.exists());
                    dir.ancestors().find_map(file).map(|file| read(&file)).transpose()?
                }
            };
            self.read.insert(dir.clone(), processors);
        }
        Ok(self.read.get(&dir).and_then(Option::as_deref))
    }
}

fn read(file: &Path) -> Result<Vec<usize>> {
    let text = read_file(file)?;
    numbers(text.trim()).map_err(|why| Error::invalid(file.display().to_string(), why))
}
