//! Commands on containers: where those are, and what a command passes on to them.

use anyhow::{Context, anyhow, bail};
use hiber::id::ContainerId;
use hiber::{Runtime, Task};

use crate::line::command::Cli;
use crate::root::{self, Origin, Root, Surroundings};

/// The containers below `--root`.
pub(crate) struct Containers {
    pub runtime: Runtime,
    /// Sockets of a service manager that a new container gets.
    pub listen_fds: u32,
}

impl Containers {
    /// For a command that starts no other program, so that descriptors of the caller's may stay open.
    pub(crate) fn asking(cli: &Cli, list: bool) -> anyhow::Result<Self> {
        let root = root(cli)?;
        let what = || format!("--root {}", root.path.display());
        if list && root.origin == Origin::Flag {
            std::fs::metadata(&root.path).with_context(what)?;
        }
        root.prepare().with_context(what)?;
        Ok(Self { runtime: Runtime::new(&root.path), listen_fds: 0 })
    }

    /// For a command that starts CRIU, hooks or ps(1): none of them gets what the caller left open.
    pub(crate) fn new(cli: &Cli) -> anyhow::Result<Self> {
        Self::passing(cli, 0)
    }

    /// For a command that passes so many of the caller's descriptors on, from 3 on.
    pub(crate) fn passing(cli: &Cli, preserve_fds: u32) -> anyhow::Result<Self> {
        let containers = Self::asking(cli, false)?;
        containers.keep(preserve_fds)?;
        Ok(containers)
    }

    /// As [`passing`](Self::passing), after the sockets of a service manager.
    pub(crate) fn creating(cli: &Cli, preserve_fds: u32) -> anyhow::Result<Self> {
        root(cli)?.admits(rustix::process::geteuid().as_raw()).map_err(|e| anyhow!(e))?;
        let containers = Self { listen_fds: listen_fds()?, ..Self::asking(cli, false)? };
        containers.keep(containers.listen_fds.saturating_add(preserve_fds))?;
        Ok(containers)
    }

    /// Keeps so many descriptors open for others. A missing one is told before anything is made.
    fn keep(&self, count: u32) -> anyhow::Result<()> {
        hiber_sys::process::close_on_exec_from(count.saturating_add(3))?;
        for i in 0..count {
            let fd = 3 + i;
            if std::fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_err() {
                bail!("unable to stat preserved-fd {i} (of {count}): descriptor {fd} is not open");
            }
        }
        Ok(())
    }

    pub(crate) fn task(&self, id: &ContainerId) -> anyhow::Result<Task> {
        Ok(self.runtime.open(id)?.task()?)
    }

    /// A container whose caller cannot be told of it must not stay.
    pub(crate) fn or_undo<T>(&self, id: &ContainerId, result: anyhow::Result<T>) -> anyhow::Result<T> {
        if result.is_err() {
            let _ = self.runtime.force_delete(id);
        }
        result
    }
}

/// The directory that `--root` names, or the default.
fn root(cli: &Cli) -> anyhow::Result<Root> {
    root::resolve(cli.global.root.as_deref(), &Surroundings::of_this_process()).map_err(|e| anyhow!(e))
}

/// How many sockets a service manager has passed to this process, as descriptors from 3 on (sd_listen_fds(3)).
fn listen_fds() -> anyhow::Result<u32> {
    let Some(count) = std::env::var_os("LISTEN_FDS") else { return Ok(0) };
    // Another LISTEN_PID: they were for a process that we descend from.
    if std::env::var("LISTEN_PID").ok().and_then(|pid| pid.parse().ok()) != Some(std::process::id()) {
        return Ok(0);
    }
    let parsed = count.to_str().and_then(|text| text.parse().ok());
    parsed.with_context(|| format!("environment variable LISTEN_FDS={count:?}: expected a number"))
}
