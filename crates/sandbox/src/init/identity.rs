//! The identity of the process: limits, security modules, user, capabilities, system call filter.

use std::io::Read;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::host_proc::{HostProc, write_proc};
use crate::error::Context;
use crate::plan::{InitPlan, ProcessPlan, Scheduling};
use crate::rootfs::devices::is_null;
use crate::rootfs::resolve::Root;
use crate::{Error, Result, SysError, ids};
use hiber_sys as sys;

/// Gives up all rights that the container's process does not have. Without no_new_privs the right to load the filter stays, until
/// the filter is loaded. Returns the user's home directory, from the container's /etc/passwd; "/" if it is not there.
pub(super) fn assume(plan: &InitPlan, host_proc: &HostProc) -> Result<String> {
    let process = &plan.process;
    security_labels(process, host_proc)?;
    if !plan.in_user_namespace {
        // In a user namespace only the parent may raise a limit: it does so at Ready.
        set_rlimits(process, None)?;
    }
    if let Some(persona) = plan.personality {
        let persona = nix::sys::personality::Persona::from_bits_retain(persona as i32);
        nix::sys::personality::set(persona)
            .map_err(|e| SysError::new("personality", format!("{persona:?}"), e as i32))?;
    }
    scheduling(&plan.scheduling)?;
    own_standard_streams(process.uid)?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(process.umask.unwrap_or(0o022)));
    let home = home_of(process.uid);
    if process.no_new_privileges {
        rustix::thread::set_no_new_privs(true)
            .map_err(|e| SysError::new("prctl", "PR_SET_NO_NEW_PRIVS", e.raw_os_error()))?;
    }
    // Once before the change of user, because the new user may lack the right, and once after, because only the new user may have
    // it.
    let before = chdir(process);
    change_user(process, plan.in_user_namespace || plan.bind_devices)?;
    set_capabilities(process, plan.seccomp.is_some() && !process.no_new_privileges)?;
    if before.is_err() {
        chdir(process)?;
    }
    check_cwd()?;
    Ok(home)
}

fn scheduling(wanted: &Scheduling) -> Result<()> {
    if let Some(cpu) = &wanted.cpu {
        sys::scheduling::set_cpu_scheduler(cpu).map_err(|e| match e.errno {
            // sched_setattr(2): a deadline is granted only to a process that may use every CPU.
            libc::EPERM if wanted.has_cpuset => Error::invalid(
                "process.scheduler",
                "process scheduler can't be used together with AllowedCPUs",
            ),
            _ => Error::While { what: "set process.scheduler".into(), source: Box::new(e.into()) },
        })?;
    }
    if let Some(value) = wanted.io_priority {
        sys::scheduling::set_io_priority(value).context("set process.ioPriority")?;
    }
    if let Some(policy) = &wanted.memory {
        sys::scheduling::set_memory_policy(policy).context("set linux.memoryPolicy")?;
    }
    Ok(())
}

fn security_labels(process: &ProcessPlan, host_proc: &HostProc) -> Result<()> {
    if let Some(profile) = &process.security.apparmor_profile {
        let value = format!("exec {profile}");
        // Linux 5.8 gave AppArmor a directory of its own, for stacked security modules.
        write_proc(host_proc, "self/attr/apparmor/exec", &value)
            .or_else(|_| write_proc(host_proc, "self/attr/exec", &value))
            .context(format!("apply process.apparmorProfile {profile}"))?;
    }
    if let Some(label) = &process.security.selinux_label {
        write_proc(host_proc, "self/attr/exec", label)
            .context(format!("apply process.selinuxLabel {label}"))?;
    }
    Ok(())
}

/// Sets the limits of this process, or of `pid`.
pub(crate) fn set_rlimits(process: &ProcessPlan, pid: Option<i32>) -> Result<()> {
    for limit in &process.rlimits {
        let set = sys::process::set_rlimit(pid, limit.resource, limit.soft, limit.hard);
        let Err(e) = &set else { continue };
        let why = match e.errno {
            libc::EPERM => " (above the caller's hard limit without CAP_SYS_RESOURCE, or above fs.nr_open)",
            _ => "",
        };
        return set.context(format!("set {} of process.rlimits{why}", limit.name()));
    }
    Ok(())
}

/// The process owns its streams, so that it can open /dev/stdout again. The host's /dev/null is exchanged for the
/// container's: an open file of the host would be reachable from inside and would tie the container to this host.
fn own_standard_streams(uid: u32) -> Result<()> {
    let streams = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    for (number, fd) in streams.into_iter().enumerate() {
        let Ok(stat) = rustix::fs::fstat(fd) else { continue }; // closed by the caller
        if is_null(&stat) {
            reopen_null(number)?;
            continue;
        }
        if stat.st_uid == uid {
            continue;
        }
        use rustix::io::Errno;
        match ids::uid(uid).and_then(|uid| rustix::fs::fchown(fd, Some(uid), None)) {
            // An owner that the user namespace does not map, a read-only file: the process can still use the stream.
            Ok(()) | Err(Errno::INVAL | Errno::PERM | Errno::ROFS) => {}
            Err(e) => return Err(SysError::new("fchown", "a standard stream", e.raw_os_error()).into()),
        }
    }
    Ok(())
}

/// A root filesystem without the real device keeps the host's. A symbolic link is not followed, because its target would be
/// opened for writing (CVE-2026-88265).
fn reopen_null(number: usize) -> Result<()> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let (mode, resolve) = (Mode::empty(), ResolveFlags::NO_SYMLINKS);
    let Ok(null) = rustix::fs::openat2(rustix::fs::CWD, "/dev/null", flags, mode, resolve) else {
        return Ok(());
    };
    if !rustix::fs::fstat(&null).is_ok_and(|stat| is_null(&stat)) {
        return Ok(());
    }
    match number {
        0 => rustix::stdio::dup2_stdin(&null),
        1 => rustix::stdio::dup2_stdout(&null),
        _ => rustix::stdio::dup2_stderr(&null),
    }
    .map_err(|e| SysError::new("dup2", "/dev/null", e.raw_os_error()).into())
}

fn change_user(process: &ProcessPlan, in_user_namespace: bool) -> Result<()> {
    let fail = |call: &'static str, args: &'static str| {
        move |e: rustix::io::Errno| Error::from(SysError::new(call, args, e.raw_os_error()))
    };
    for bit in (0..64).filter(|bit| process.capabilities.bounding & (1 << bit) == 0) {
        match sys::process::drop_from_bounding_set(bit) {
            Ok(true) => {}
            Ok(false) => break, // past the kernel's last capability
            Err(e) => return Err(e.into()),
        }
    }
    rustix::thread::set_keep_capabilities(true).map_err(fail("prctl", "PR_SET_KEEPCAPS"))?;
    match sys::process::set_groups(&process.additional_gids) {
        // Root of a user namespace may call setgroups(2), unless the namespace denies it (setgroups in user_namespaces(7)).
        Err(SysError { errno: libc::EPERM, .. }) if in_user_namespace => {
            if !process.additional_gids.is_empty() {
                let why = "the user namespace does not allow setgroups(2)";
                return Err(Error::unsupported("process.user.additionalGids", why));
            }
        }
        set => set?,
    }
    sys::process::become_user(process.uid, process.gid).map_err(|e| match e {
        SysError { call, errno: libc::EINVAL, .. } => {
            let (field, kind, ids) = match call.as_str() {
                "setresuid" => ("uid", "uid", vec![process.uid]),
                "setresgid" => ("gid", "gid", vec![process.gid]),
                _ => ("additionalGids", "gid", process.additional_gids.clone()),
            };
            let ids = ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" or ");
            let problem = format!("cannot set{kind} to unmapped {kind} {ids} in user namespace");
            Error::invalid(format!("process.user.{field}"), problem)
        }
        e => {
            let what = format!("become user {}:{}", process.uid, process.gid);
            Error::While { what, source: Box::new(e.into()) }
        }
    })?;
    rustix::thread::set_keep_capabilities(false).map_err(fail("prctl", "PR_SET_KEEPCAPS"))
}

/// Sets all but the bounding set. With `to_filter` the process keeps CAP_SYS_ADMIN, which seccomp(2) needs: execve(2) takes it
/// away, for it reckons the new sets from the bounding, inheritable and ambient ones (capabilities(7)), and capset(2) under
/// the filter would have to be allowed by each profile.
fn set_capabilities(process: &ProcessPlan, to_filter: bool) -> Result<()> {
    let caps = &process.capabilities;
    let wanted = |bits: u64| CapabilitySet::from_bits_retain(bits);
    let current = rustix::thread::capabilities(None)
        .map_err(|e| SysError::new("capget", "of this process", e.raw_os_error()))?;
    let have = current.permitted;
    refuse_lacking("permitted", wanted(caps.permitted) - have)?;
    refuse_lacking("inheritable", wanted(caps.inheritable) - have - current.inheritable)?;
    let kept = if to_filter { CapabilitySet::SYS_ADMIN & have } else { CapabilitySet::empty() };
    let sets = CapabilitySets {
        effective: wanted(caps.effective) | kept,
        permitted: wanted(caps.permitted) | kept,
        inheritable: wanted(caps.inheritable),
    };
    rustix::thread::set_capabilities(None, sets)
        .map_err(|e| SysError::new("capset", format!("{sets:?}"), e.raw_os_error()))?;
    rustix::thread::clear_ambient_capability_set()
        .map_err(|e| SysError::new("prctl", "PR_CAP_AMBIENT_CLEAR_ALL", e.raw_os_error()))?;
    for bit in (0..64).filter(|bit| caps.ambient & (1 << bit) != 0) {
        // Ambient capabilities must be permitted and inheritable; runc ignores others.
        let _ = sys::process::raise_ambient(bit);
    }
    Ok(())
}

/// The runtime cannot give capabilities that it lacks; runc and crun fail, too.
fn refuse_lacking(set: &str, lacking: CapabilitySet) -> Result<()> {
    if lacking.is_empty() {
        return Ok(());
    }
    let lacks = caps::all().into_iter().filter(|c| lacking.bits() & c.bitmask() != 0);
    let mut names: Vec<_> = lacks.map(|c| c.to_string()).collect();
    names.sort_unstable();
    let problem = format!("unable to apply caps: the runtime itself lacks {}", names.join(", "));
    Err(Error::invalid(format!("process.capabilities.{set}"), problem))
}

fn chdir(process: &ProcessPlan) -> Result<()> {
    rustix::process::chdir(&process.cwd).map_err(|e| {
        let cause =
            SysError::new("chdir", format!("{} (process.cwd)", process.cwd.display()), e.raw_os_error());
        cause.into()
    })
}

/// A working directory outside the container's root, through a leaked descriptor, would show as
/// "(unreachable)/…" (CVE-2024-21626).
fn check_cwd() -> Result<()> {
    let cwd = rustix::process::getcwd(Vec::new())
        .map_err(|e| SysError::new("getcwd", "the container's working directory", e.raw_os_error()))?;
    if cwd.as_bytes().first() == Some(&b'/') {
        return Ok(());
    }
    Err(Error::invalid(
        "process.cwd",
        "leads outside the container's mount namespace root: possible container breakout",
    ))
}

fn home_of(uid: u32) -> String {
    users()
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.get(2).and_then(|f| f.parse().ok()) == Some(uid))
        .and_then(|fields| fields.get(5).map(|home| (*home).to_owned()))
        .filter(|home| !home.is_empty())
        .unwrap_or_else(|| "/".to_owned())
}

/// The container's /etc/passwd; empty if there is none. The image or a process may have made it anything: a pipe without a
/// writer, a device without end.
fn users() -> String {
    const ENOUGH: u64 = 16 << 20;
    let file = Root::open_path(Path::new("/"))
        .and_then(|root| Ok(root.open(Path::new("/etc/passwd"), OFlags::RDONLY | OFlags::NONBLOCK)?));
    let Ok(file) = file.map(std::fs::File::from) else { return String::new() };
    let mut text = String::new();
    if file.metadata().is_ok_and(|m| m.is_file()) {
        // A part that can be read counts.
        let _ = file.take(ENOUGH).read_to_string(&mut text);
    }
    text
}
