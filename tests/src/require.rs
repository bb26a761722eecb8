//! The needs of a test: where the machine lacks one, the test says so and is skipped, and fails in CI.

use crate::user::{GID, UID};
use crate::{cgroup, tools};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

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
    /// The root filesystem that `hack/rootfs` makes by this name.
    Rootfs(&'static str),
    /// A kernel and a configuration that let root make user namespaces.
    UserNamespaces,
    /// A mounted cgroup v2 hierarchy that has a controller.
    CgroupV2,
    /// This cgroup controller, on v1 or v2.
    Controller(&'static str),
    /// cgroup v2 and no other hierarchy.
    UnifiedCgroups,
    /// A cgroup v1 hierarchy with a controller.
    CgroupV1,
    /// systemd as process 1.
    Systemd,
    /// systemd that can run a manager for the plain user of [`PlainUser`](crate::user::PlainUser).
    UserSystemd,
    /// A kernel that enforces AppArmor profiles, and the program that loads them.
    AppArmor,
    /// A kernel that tells which pages were written to (soft-dirty bits or PAGEMAP_SCAN, as CRIU sees it).
    DirtyTracking,
    /// Time namespaces.
    TimeNamespaces,
    /// A kernel that knows nodes of memory (numa(7)).
    MemoryPolicies,
    /// More than one node with memory (numa(7)).
    Nodes,
    /// A kernel that knows this type of file system.
    Filesystem(&'static str),
    /// A kernel with nftables, and the program for them.
    Nftables,
    /// The C programs of tests/criu, in `$HIBER_PROGRAMS`, or a compiler for them.
    CPrograms,
    /// This program, in PATH.
    Program(&'static str),
    /// A command that works in a network namespace of its own: the kernel has such devices.
    NetworkCommand(&'static str),
    /// CAP_SYS_RESOURCE, which CRIU needs for processes of other users.
    SysResource,
    /// This version of Linux or a later one.
    Linux(u32, u32),
    /// The repository that the tests were built from, which a virtual machine has not.
    Repository,
}

impl Need {
    /// Whether few machines have it, and those of hack/vm are promised to: there its absence is a failure, and nowhere
    /// else.
    fn is_left_to_vms(self) -> bool {
        matches!(
            self,
            Self::Systemd
                | Self::UserSystemd
                | Self::UnifiedCgroups
                | Self::CgroupV1
                | Self::AppArmor
                | Self::DirtyTracking
        )
    }

    /// Why this machine does not have it; `Ok` if it does.
    pub fn check(self) -> Result<(), String> {
        match self {
            Self::Root if rustix::process::geteuid().is_root() => Ok(()),
            Self::Root => Err("root".to_owned()),
            Self::Criu => tools::criu().map(drop).map_err(|e| format!("CRIU: {e}")),
            Self::Runc => tools::runc().map(drop).map_err(|e| format!("runc: {e}")),
            Self::Crun => tools::crun().map(drop).map_err(|e| format!("crun: {e}")),
            Self::Redis => tools::rootfs_redis().map(drop).map_err(|e| format!("redis: {e}")),
            Self::Rootfs(name) => tools::rootfs(name).map(drop).map_err(|e| format!("{name}: {e}")),
            Self::UserNamespaces => match std::fs::read_to_string("/proc/sys/user/max_user_namespaces") {
                Ok(max) if max.trim() != "0" => Ok(()),
                Ok(_) => Err("user namespaces (/proc/sys/user/max_user_namespaces is 0)".to_owned()),
                Err(e) => Err(format!("user namespaces (/proc/sys/user/max_user_namespaces: {e})")),
            },
            Self::CgroupV2 => cgroup_with_controller(true),
            Self::Controller(name) if cgroup::mount_of(name).is_some() => Ok(()),
            Self::Controller(name) => Err(format!("the cgroup controller {name}")),
            Self::UnifiedCgroups if cgroup::hierarchies().iter().all(|h| h.v2) => Ok(()),
            Self::UnifiedCgroups => Err("cgroup v2 without any v1 hierarchy".to_owned()),
            Self::CgroupV1 => cgroup_with_controller(false),
            Self::Systemd if Path::new("/run/systemd/system").is_dir() => Ok(()),
            Self::Systemd => Err("systemd as process 1".to_owned()),
            Self::UserSystemd => Self::Systemd.check().and_then(|()| {
                let known = std::fs::read_to_string("/etc/passwd")
                    .is_ok_and(|all| all.contains(&format!(":{UID}:{GID}:")));
                known.then_some(()).ok_or_else(|| format!("user {UID} in /etc/passwd"))
            }),
            Self::AppArmor => match std::fs::read_to_string("/sys/module/apparmor/parameters/enabled") {
                Ok(on) if on.trim() == "Y" => Self::Program("apparmor_parser").check(),
                _ => Err("a kernel with AppArmor enabled".to_owned()),
            },
            Self::DirtyTracking => dirty_tracking(),
            Self::TimeNamespaces if Path::new("/proc/self/ns/time").is_symlink() => Ok(()),
            Self::TimeNamespaces => Err("time namespaces".to_owned()),
            Self::MemoryPolicies if Path::new("/proc/self/numa_maps").exists() => Ok(()),
            Self::MemoryPolicies => Err("a kernel with memory policies".to_owned()),
            Self::Nodes if nodes() > 1 => Ok(()),
            Self::Nodes => Err("several nodes with memory (a kernel has some with numa=fake=2)".to_owned()),
            Self::Filesystem(kind) => filesystem(kind),
            Self::Nftables => nftables(),
            Self::CPrograms if std::env::var_os(crate::programs::BEFORE).is_some() => Ok(()),
            Self::CPrograms => Self::Program("cc").check(),
            Self::NetworkCommand(command) => {
                let mut try_it = std::process::Command::new("unshare");
                let output = try_it.args(["--net", "sh", "-ec", command]).output();
                let works = output.is_ok_and(|output| output.status.success());
                if works { Ok(()) } else { Err(format!("a kernel that takes {command:?}")) }
            }
            Self::SysResource if has_sys_resource() => Ok(()),
            Self::SysResource => Err("CAP_SYS_RESOURCE".to_owned()),
            Self::Linux(major, minor) if linux() >= (major, minor) => Ok(()),
            Self::Linux(major, minor) => Err(format!("Linux {major}.{minor}")),
            Self::Program(name) if tools::in_path(name) => Ok(()),
            Self::Program(name) => Err(format!("the program {name}")),
            Self::Repository if Path::new(env!("CARGO_MANIFEST_DIR")).is_dir() => Ok(()),
            Self::Repository => Err("the repository".to_owned()),
        }
    }
}

fn filesystem(kind: &str) -> Result<(), String> {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let knows = known.lines().any(|line| line.split('\t').next_back() == Some(kind));
    knows.then_some(()).ok_or_else(|| format!("a kernel with {kind}"))
}

fn succeeds(program: impl AsRef<std::ffi::OsStr>, args: &[&str]) -> bool {
    let mut command = std::process::Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn has_sys_resource() -> bool {
    let own = rustix::thread::capabilities(None);
    own.is_ok_and(|own| own.effective.contains(rustix::thread::CapabilitySet::SYS_RESOURCE))
}

/// How many nodes have memory.
fn nodes() -> usize {
    let nodes = std::fs::read_to_string("/sys/devices/system/node/has_memory").unwrap_or_default();
    let number = |text: &str| text.parse::<usize>().unwrap_or(0);
    let range =
        |part: &str| part.split_once('-').map_or(1, |(from, to)| number(to).saturating_sub(number(from)) + 1);
    nodes.trim().split(',').filter(|part| !part.is_empty()).map(range).sum()
}

/// The version of the running kernel, as far as it matters.
fn linux() -> (u32, u32) {
    let name = rustix::system::uname();
    let mut numbers = name.release().to_str().unwrap_or_default().split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next().and_then(|number| number.parse().ok()).unwrap_or(0);
    (next(), next())
}

fn dirty_tracking() -> Result<(), String> {
    let criu = tools::criu().map_err(|e| format!("CRIU: {e}"))?;
    let tracked = succeeds(criu, &["check", "--feature", "mem_dirty_track"]);
    tracked.then_some(()).ok_or_else(|| "a kernel that tracks dirty memory".to_owned())
}

fn cgroup_with_controller(v2: bool) -> Result<(), String> {
    let found = cgroup::hierarchies().iter().any(|h| h.v2 == v2 && !h.controllers.is_empty());
    let version = if v2 { 2 } else { 1 };
    found.then_some(()).ok_or_else(|| format!("a cgroup v{version} hierarchy with a controller"))
}

fn nftables() -> Result<(), String> {
    Need::Program("nft").check()?;
    // in a network namespace of its own, where nobody is hurt; the kernel may want to load its module for it
    let works = succeeds("unshare", &["--net", "nft", "add table inet hiber-probe"]);
    works.then_some(()).ok_or_else(|| "a kernel with nftables".to_owned())
}

/// Whether `$HIBER_PROMISED`, a list of needs as `Debug` writes them, names this one: whoever set the machine up says
/// that it has it.
fn is_promised(need: Need) -> bool {
    let promised = std::env::var("HIBER_PROMISED").unwrap_or_default();
    promised.split_whitespace().any(|name| name == format!("{need:?}"))
}

/// Whether the machine has `need`; if not, says so on standard error and in the file `$HIBER_SKIPPED`.
///
/// # Panics
/// If it is missing though `$HIBER_PROMISED` names it, or `$CI` is `true` and it is not left to virtual machines.
pub fn met(need: Need) -> bool {
    let Err(missing) = need.check() else { return true };
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    assert!(!is_promised(need), "{test} needs {missing}, which this machine was said to have");
    let left = need.is_left_to_vms();
    assert!(left || std::env::var("CI").as_deref() != Ok("true"), "{test} needs {missing}");
    let line = format!("{}{test} needs {missing}\n", if left { "left to hack/vm: " } else { "" });
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
