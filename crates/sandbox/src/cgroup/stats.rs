//! The resource use of a container: the numbers that every version of cgroups has.

use serde::Serialize;

use super::dir::{Dir, if_there};
use super::handle::Cgroup;
use crate::error::{Result, SysError};

/// Usage; None where the controller is missing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// CPU time of all processes, nanoseconds.
    pub cpu_ns: Option<u64>,
    /// Memory in use, bytes, page cache included.
    pub memory: Option<u64>,
    /// Memory limit, bytes; None without a limit.
    pub memory_limit: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Limit of processes and threads; None without a limit.
    pub pids_limit: Option<u64>,
}

/// v1's "no limit" is the largest multiple of the page size (of up to 64 KiB) in an i64.
const V1_UNLIMITED: u64 = i64::MAX as u64 & !0xffff;

impl Cgroup {
    /// Reads the usage of the cgroup and all below it.
    ///
    /// # Errors
    /// A file is there and cannot be read.
    pub fn stats(&self) -> Result<Stats> {
        let number = |v1: (&str, &str), v2| self.number(v1, v2, Dir::read_number);
        let usec = self.v2(|dir| dir.read_key("cpu.stat", "usage_usec"))?;
        let cpu_ns = match self.v1("cpuacct", |dir| dir.read_number("cpuacct.usage"))? {
            Some(ns) => Some(ns),
            None => usec.map(|usec| usec.saturating_mul(1000)),
        };
        Ok(Stats {
            cpu_ns,
            memory: number(("memory", "memory.usage_in_bytes"), "memory.current")?,
            memory_limit: number(("memory", "memory.limit_in_bytes"), "memory.max")?
                .filter(|n| *n < V1_UNLIMITED),
            pids: number(("pids", "pids.current"), "pids.current")?,
            pids_limit: number(("pids", "pids.max"), "pids.max")?.filter(|n| *n != u64::MAX),
        })
    }

    /// The number of processes that the OOM killer has killed in the cgroup, without its children; `None` without a memory
    /// controller.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn oom_count(&self) -> Result<Option<u64>> {
        let read = |dir: &Dir, file: &str| dir.read_key(file, "oom_kill");
        Ok(self.number(("memory", "memory.oom_control"), "memory.events", read)?)
    }

    fn number(
        &self,
        (controller, v1): (&str, &str),
        v2: &str,
        read: impl Fn(&Dir, &str) -> Result<u64, SysError>,
    ) -> Result<Option<u64>, SysError> {
        match self.v1(controller, |dir| read(dir, v1))? {
            Some(n) => Ok(Some(n)),
            None => self.v2(|dir| read(dir, v2)),
        }
    }

    fn v1<T>(
        &self,
        controller: &str,
        read: impl FnOnce(&Dir) -> Result<T, SysError>,
    ) -> Result<Option<T>, SysError> {
        let path = self.paths().v1.get(controller);
        path.map_or(Ok(None), |path| if_there(self.dir(path).and_then(|dir| read(&dir))))
    }

    fn v2<T>(&self, read: impl FnOnce(&Dir) -> Result<T, SysError>) -> Result<Option<T>, SysError> {
        let path = self.paths().v2.as_ref();
        path.map_or(Ok(None), |path| if_there(self.dir(path).and_then(|dir| read(&dir))))
    }
}
