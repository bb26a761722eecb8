//! What a test needs of the machine: it says so and is skipped where that is missing, and fails in CI.

use crate::{cgroup, tools};
use std::fs::OpenOptions;
use std::io::Write as _;

/// Something that not every machine has.
#[derive(Debug, Clone, Copy)]
pub enum Need {
    /// Effective user 0 in the first user namespace.
    Root,
    /// A CRIU that works on the running kernel.
    Criu,
    /// Debian's runc.
    Runc,
    /// Debian's crun.
    Crun,
    /// The root filesystem with redis.
    Redis,
    /// A kernel and a configuration that let root make user namespaces.
    UserNamespaces,
    /// A mounted cgroup v2 hierarchy that has a controller.
    CgroupV2,
    /// This cgroup controller, on v1 or v2.
    Controller(&'static str),
    /// This program, in PATH.
    Program(&'static str),
}

impl Need {
    /// Why this machine does not have it; `Ok` if it does.
    pub fn check(self) -> Result<(), String> {
        match self {
            Self::Root if rustix::process::geteuid().is_root() => Ok(()),
            Self::Root => Err("root".to_owned()),
            Self::Criu => tools::criu().map(drop).map_err(|e| format!("CRIU: {e}")),
            Self::Runc => tools::runc().map(drop).map_err(|e| format!("runc: {e}")),
            Self::Crun => tools::crun().map(drop).map_err(|e| format!("crun: {e}")),
            Self::Redis => tools::rootfs_redis().map(drop).map_err(|e| format!("redis: {e}")),
            Self::UserNamespaces => match std::fs::read_to_string("/proc/sys/user/max_user_namespaces") {
                Ok(max) if max.trim() != "0" => Ok(()),
                Ok(_) => Err("user namespaces (/proc/sys/user/max_user_namespaces is 0)".to_owned()),
                Err(e) => Err(format!("user namespaces (/proc/sys/user/max_user_namespaces: {e})")),
            },
            Self::CgroupV2 if cgroup::hierarchies().iter().any(|h| h.v2 && !h.controllers.is_empty()) => {
                Ok(())
            }
            Self::CgroupV2 => Err("a cgroup v2 hierarchy with a controller".to_owned()),
            Self::Controller(name) if cgroup::mount_of(name).is_some() => Ok(()),
            Self::Controller(name) => Err(format!("the cgroup controller {name}")),
            Self::Program(name) if tools::in_path(name) => Ok(()),
            Self::Program(name) => Err(format!("the program {name}")),
        }
    }
}

/// Whether the machine has `need`; if not, says so on standard error and in the file `$HIBER_SKIPPED`.
///
/// # Panics
/// If it is missing and `$CI` is `true`.
pub fn met(need: Need) -> bool {
    let Err(missing) = need.check() else { return true };
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{test} needs {missing}");
    let line = format!("{test} needs {missing}\n");
    // libtest captures print!, not this: a skip must be seen
    let _ = std::io::stderr().write_all(format!("SKIPPED {line}").as_bytes());
    if let Some(file) = std::env::var_os("HIBER_SKIPPED") {
        let _ = OpenOptions::new().append(true).open(file).and_then(|mut f| f.write_all(line.as_bytes()));
    }
    false
}

/// `require!(Root, Controller("pids"))` at a test's start: returns from it where something is missing.
#[macro_export]
macro_rules! require {
    ($($need:expr),+ $(,)?) => {{
        #[allow(unused_imports)]
        use $crate::require::Need::*;
        if ![$($need),+].into_iter().all($crate::require::met) {
            return;
        }
    }};
}
