//! Explains why no process could be made in a cgroup, if the cgroup is the reason.

use super::handle::Cgroup;
use crate::error::Error;

impl Cgroup {
    /// Adds the cgroup's part to the error of a process that could not be set up in the cgroup.
    pub fn explain(&self, e: Error) -> Error {
        let why = match &e {
            Error::Died { signal: Some(libc::SIGKILL), .. } => self.out_of_memory(),
            _ if e.errno() == Some(libc::EBUSY) => self.passes_controllers_on(),
            _ => None,
        };
        match why {
            Some(what) => Error::While { what, source: Box::new(e) },
            None => e,
        }
    }

    fn out_of_memory(&self) -> Option<String> {
        let killed = self.oom_kills().ok().filter(|count| *count > 0)?;
        let limit = self.stats().ok()?.memory_limit?;
        let file =
            if self.paths().v1.contains_key("memory") { "memory.limit_in_bytes" } else { "memory.max" };
        Some(format!(
            "the kernel killed {killed} of the container's processes for want of memory: its limit ({file}, {limit} bytes) may \
             be too low to set the process up"
        ))
    }

    /// cgroup-v2.rst, "No Internal Process Constraint".
    fn passes_controllers_on(&self) -> Option<String> {
        let path = self.paths().v2.as_ref()?;
        let passed_on = self.dir(path).and_then(|dir| dir.read("cgroup.subtree_control")).ok()?;
        (!passed_on.is_empty()).then(|| {
            format!(
                "error adding pid of the new process to cgroups: cgroup {} passes controllers ({passed_on}) on to cgroups below it, and so takes no process itself: name one of \
                 those",
                path.display()
            )
        })
    }
}
