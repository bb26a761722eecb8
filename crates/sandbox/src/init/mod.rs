//! The container's first process, and each process that joins it, up to exec.
//!
//! `init` is the runtime's own binary, freshly executed in the new namespaces: it has one thread and may
//! allocate and fail in ordinary Rust. The sequence is drawn in [`crate::messages`].

mod exec;
mod host_proc;
mod identity;
mod seccomp;
mod terminal;

pub(crate) use identity::set_rlimits;

use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::process::DumpableBehavior;

use crate::error::Context;
use crate::error::Failure;
use crate::messages::{FdRole, FromInit, InitEnd, ToInit};
use crate::plan::{InitPlan, NamespaceKind};
use crate::rootfs::resolve::Root;
use crate::rootfs::{self, Trees};
use crate::{Result, SysError, child, hooks};
use hiber_sys::clone::{Sibling, SingleThreaded, fork_sibling};
use hiber_sys::poll::readable_within;
use hiber_sys::{ioctl, process};
use host_proc::{HostProc, write_proc};

/// argv\[1\] of the runtime's binary when it is to act as init; argv\[2\] is the channel's descriptor.
pub(crate) const ARGUMENT: &str = "init";

/// Acts as init and does not return, if the program's arguments say so. Otherwise does nothing.
///
/// To be called first in `main` of every program that creates containers with this crate: the program executes
/// itself to set a container up.
pub fn run_if_asked() {
    if let Some(fd) = process::take_channel(ARGUMENT) {
        std::process::exit(main(InitEnd::from(fd)));
    }
}

/// The descriptors that arrive before `Setup`.
#[derive(Default)]
struct Inherited {
    trees: Vec<(FdRole, OwnedFd)>,
    joins: Vec<(FdRole, OwnedFd)>,
    start_listener: Option<OwnedFd>,
    /// Kept open, and not used.
    _init_listener: Option<OwnedFd>,
    console_socket: Option<OwnedFd>,
    seccomp_agent: Option<OwnedFd>,
}

fn main(channel: InitEnd) -> i32 {
    // The end to report failures to: the parent, later the caller of `start`.
    let mut reporter = channel;
    match run(&mut reporter) {
        Ok(None) => 0,
        Ok(Some(never)) => match never {},
        Err(error) => {
            let _ = reporter.send(&FromInit::Failed(Failure::new(&error)), &[]);
            1
        }
    }
}

/// Returns only in the first of two stages (`None`), or on failure.
fn run(channel: &mut InitEnd) -> Result<Option<Infallible>> {
    let (plan, mut inherited) = receive(channel)?;
    // /proc of the parent's mount namespace: /proc/self there is this process in every stage, and no container
    // can have replaced it.
    let host_proc = open_proc()?;
    if !inherited.joins.is_empty() {
        // Processes of the container could look into this one from the moment it joins (CVE-2016-9962).
        hide()?;
    }
    join(&inherited.joins)?;
    let alone = plan.second_stage.map(|_| SingleThreaded::check(host_proc.as_fd())).transpose()?;
    let host_proc = HostProc(plan.needs_host_proc().then_some(host_proc));
    if let (Some(flags), Some(alone)) = (plan.second_stage, alone) {
        if let Sibling::Parent(pid) = fork_sibling(alone, flags).map_err(|e| child::explain(e, false))? {
            channel.send(&FromInit::Forked(pid), &[])?;
            return Ok(None);
        }
        become_root(channel, &plan)?;
    }
    rustix::process::setsid().map_err(|e| SysError::new("setsid", "in init", e.raw_os_error()))?;
    namespaces(&plan, &host_proc)?;
    if plan.net_devices {
        channel.send(&FromInit::NetDevices, &[])?;
        proceed(channel, "network devices")?;
    }
    // Not before: in a user namespace this would take away /proc/self/timens_offsets.
    hide()?;
    keyring(&plan, channel)?;
    let root = enter_root(channel, &plan, &mut inherited)?;
    names_and_sysctl(&plan, &host_proc)?;
    if let Some(terminal) = root {
        terminal.attach(&plan.process)?;
    }
    // Descriptors that are opened from here on have the flag.
    process::close_on_exec_from(3 + plan.preserve_fds)?;
    let mut filter = seccomp::Filter::new(&plan, &host_proc, inherited.seccomp_agent.take())?;
    let home = identity::assume(&plan, &host_proc)?;
    // Before the program is looked for: its path could lead out of the container through /proc/self/fd (CVE-2024-21626).
    drop(host_proc);
    let program = exec::Program::find(&plan.process, &home)?;
    if filter.agent_waits() {
        filter.install()?;
    }
    channel.send(&FromInit::Ready, &[])?;
    wait_for_start(channel, inherited.start_listener)?;
    if plan.start_container_hooks.is_empty() {
        process::reset_signals()?;
        filter.install()?;
    } else {
        filter.install()?;
        let state = hook_state(&plan, "created");
        let surroundings = hooks::Surroundings { env: Some(program.env()), ..Default::default() };
        hooks::run_in("startContainer", &plan.start_container_hooks, &state, &surroundings)?;
        process::reset_signals()?;
    }
    program.exec().map(Some)
}

/// Opens /proc, which must be a procfs, and all of it: labels and sysctls are written there (CVE-2019-16884).
fn open_proc() -> Result<OwnedFd> {
    let fail = |call: &str, e: rustix::io::Errno| SysError::new(call, "/proc", e.raw_os_error());
    let proc = rustix::fs::open("/proc", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| fail("open", e))?;
    rootfs::check_whole_procfs(&proc)?;
    Ok(proc)
}

/// Keeps others from tracing this process and from its /proc files, until exec.
fn hide() -> Result<()> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|e| SysError::new("prctl", "PR_SET_DUMPABLE", e.raw_os_error()).into())
}

/// The second stage's identity: root of a user namespace that was joined, or of a new one whose maps the parent
/// writes now.
fn become_root(channel: &InitEnd, plan: &InitPlan) -> Result<()> {
    // Waits even if there are no maps to write: until the parent has read the first stage's message, it would take messages of
    // the second stage for the first one's, and follow the wrong process.
    proceed(channel, "the second stage's turn")?;
    if plan.in_user_namespace {
        process::become_user(0, 0).context("become root of the user namespace")?;
    }
    Ok(())
}

fn proceed(channel: &InitEnd, what: &str) -> Result<()> {
    match channel.expect(&format!("waiting for {what}"))? {
        (ToInit::Proceed, _) => Ok(()),
        (other, _) => {
            Err(SysError::new("recvmsg", format!("{other:?} instead of {what}"), libc::EPROTO).into())
        }
    }
}

fn receive(channel: &InitEnd) -> Result<(InitPlan, Inherited)> {
    let mut inherited = Inherited::default();
    loop {
        let (message, mut fds) = channel.expect("waiting for the plan")?;
        match message {
            ToInit::Fds(roles) => {
                if roles.len() != fds.len() {
                    let args = format!("{} descriptors for {} roles", fds.len(), roles.len());
                    return Err(SysError::new("recvmsg", args, libc::EPROTO).into());
                }
                for (role, fd) in roles.into_iter().zip(fds) {
                    match role {
                        FdRole::Join(_) | FdRole::JoinProcess(_) => inherited.joins.push((role, fd)),
                        FdRole::StartListener => inherited.start_listener = Some(fd),
                        FdRole::InitListener => inherited._init_listener = Some(fd),
                        FdRole::ConsoleSocket => inherited.console_socket = Some(fd),
                        FdRole::SeccompAgent => inherited.seccomp_agent = Some(fd),
                        FdRole::MountSource(_) | FdRole::Device(_) => inherited.trees.push((role, fd)),
                    }
                }
            }
            ToInit::Setup => {
                let memfd = fds
                    .pop()
                    .ok_or_else(|| SysError::new("recvmsg", "Setup without a plan", libc::EPROTO))?;
                return Ok((read_plan(memfd)?, inherited));
            }
            other => {
                let args = format!("{other:?} before Setup");
                return Err(SysError::new("recvmsg", args, libc::EPROTO).into());
            }
        }
    }
}

fn read_plan(memfd: OwnedFd) -> Result<InitPlan> {
    let bytes = hiber_sys::file::read_record(&memfd)
        .map_err(|e| SysError::new("read", "the plan", e.raw_os_error()))?;
    InitPlan::decode(&bytes)
}

/// Joins namespaces. Entering the user namespace changes the rights of init: namespaces that it owns need the new rights, all
/// others the old ones. So init tries each namespace first, and those that were refused once more after it has entered the user
/// namespace.
fn join(joins: &[(FdRole, OwnedFd)]) -> Result<()> {
    let user = joins.iter().position(|(role, _)| *role == FdRole::Join(NamespaceKind::User.clone_flag()));
    let Some(user) = user else { return joins.iter().try_for_each(join_one) };
    let refused: Vec<_> = joins
        .iter()
        .enumerate()
        .filter(|(i, _)| *i != user)
        .map(|(_, join)| join)
        .filter(|join| join_one(join).is_err())
        .collect();
    join_one(&joins[user])?;
    refused.into_iter().try_for_each(join_one)
}

fn join_one((role, fd): &(FdRole, OwnedFd)) -> Result<()> {
    match role {
        FdRole::Join(flag) => {
            let kind = NamespaceKind::ALL.into_iter().find(|k| k.clone_flag() == *flag);
            let name = kind.map_or("unknown", NamespaceKind::as_str);
            process::setns(fd.as_fd(), *flag, &format!("into the {name} namespace of linux.namespaces"))?;
        }
        FdRole::JoinProcess(flags) => {
            process::setns(fd.as_fd(), *flags, "into the container's namespaces")?;
        }
        _ => {}
    }
    Ok(())
}

fn namespaces(plan: &InitPlan, host_proc: &HostProc) -> Result<()> {
    for kind in &plan.unshare {
        process::unshare(kind.clone_flag(), &format!("for a new {} namespace", kind.as_str()))?;
        if *kind == NamespaceKind::Time {
            enter_time_namespace(plan, host_proc)?;
        }
    }
    if plan.loopback {
        ioctl::loopback_up().context("bring the loopback device up")?;
    }
    Ok(())
}

/// Offsets can be set only while no process is in the new namespace (time_namespaces(7)).
fn enter_time_namespace(plan: &InitPlan, host_proc: &HostProc) -> Result<()> {
    let lines: String =
        plan.time_offsets.iter().map(|(clock, s, ns)| format!("{clock} {s} {ns}\n")).collect();
    if !lines.is_empty() {
        write_proc(host_proc, "self/timens_offsets", &lines).context("set linux.timeOffsets")?;
    }
    let path = "self/ns/time_for_children";
    let fd = rustix::fs::openat(host_proc.fd()?, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| SysError::new("openat", path, e.raw_os_error()))?;
    Ok(process::setns(fd.as_fd(), NamespaceKind::Time.clone_flag(), "into the new time namespace")?)
}

/// With runc's words. If the runtime runs in a container itself, the seccomp filter of that container may forbid the call.
const NO_KEYRING: &str =
    "unable to join session keyring (--no-new-keyring at its creation leaves a container the caller's)";

fn keyring(plan: &InitPlan, channel: &InitEnd) -> Result<()> {
    let Some(name) = &plan.keyring else { return Ok(()) };
    // Otherwise the container would have the caller's keyring, and the keys in it.
    if !process::join_session_keyring(name).context(NO_KEYRING)? {
        channel.send(&FromInit::Warning("no session keyring: the kernel has none".into()), &[])?;
    }
    Ok(())
}

/// Builds the root and enters it; returns the terminal, if there is one.
fn enter_root(
    channel: &InitEnd,
    plan: &InitPlan,
    inherited: &mut Inherited,
) -> Result<Option<terminal::Terminal>> {
    let console = inherited.console_socket.take();
    let Some(root_plan) = &plan.root else {
        // The joined mount namespace has its own root.
        let root = Root::open_path(plan.joined_root.as_deref().unwrap_or(Path::new("/")))?;
        let terminal = console
            .map(|socket| terminal::Terminal::open(&root, &plan.process, &socket, false))
            .transpose()?;
        if plan.joined_root.is_some() {
            rootfs::change_root(&root).context("enter the container's root")?;
        }
        return Ok(terminal);
    };
    let opened = std::mem::take(&mut inherited.trees);
    let mut built =
        rootfs::build(plan, root_plan, Trees { opened, ask: &|index| ask_for_source(channel, index) })?;
    make_cwd(&built.root, plan)?;
    if plan.runtime_hooks {
        channel.send(&FromInit::RunHooks, &[])?;
        proceed(channel, "hooks")?;
    }
    let surroundings = hooks::Surroundings { dir: Some(&root_plan.path), ..Default::default() };
    hooks::run_in(
        "createContainer",
        &plan.create_container_hooks,
        &hook_state(plan, "creating"),
        &surroundings,
    )?;
    let console = console
        .map(|socket| terminal::Terminal::open(&built.root, &plan.process, &socket, root_plan.own_dev))
        .transpose()
        .context("set the terminal up")?;
    rootfs::restrict(&mut built, root_plan)?;
    rootfs::enter(&built.root, root_plan)?;
    Ok(console)
}

/// Asks the parent for the source of a mount.
fn ask_for_source(channel: &InitEnd, index: usize) -> Result<OwnedFd> {
    channel.send(&FromInit::NeedsSource(index), &[])?;
    match channel.expect("waiting for the source of a mount")? {
        (ToInit::Fds(_), mut fds) if fds.len() == 1 => Ok(fds.remove(0)),
        (other, _) => {
            Err(SysError::new("recvmsg", format!("{other:?} instead of a source"), libc::EPROTO).into())
        }
    }
}

/// Makes a working directory that the image lacks, as runc and Docker do.
fn make_cwd(root: &Root, plan: &InitPlan) -> Result<()> {
    let cwd = &plan.process.cwd;
    match root.make_dir(cwd, Mode::from_raw_mode(0o755)) {
        Ok(_) => Ok(()),
        // Later chdir(2), as the process's user, shows whether the directory can be used.
        Err(_) if plan.root.as_ref().is_some_and(|r| r.own_mount_namespace) => Ok(()),
        Err(e) => Err(e).context(format!("make the working directory {}", cwd.display())),
    }
}

fn names_and_sysctl(plan: &InitPlan, host_proc: &HostProc) -> Result<()> {
    if let Some(hostname) = &plan.hostname {
        rustix::system::sethostname(hostname.as_bytes())
            .map_err(|e| SysError::new("sethostname", hostname, e.raw_os_error()))?;
    }
    if let Some(domainname) = &plan.domainname {
        rustix::system::setdomainname(domainname.as_bytes())
            .map_err(|e| SysError::new("setdomainname", domainname, e.raw_os_error()))?;
    }
    for (key, value) in &plan.sysctl {
        write_proc(host_proc, &format!("sys/{}", key.display()), value)
            .context(format!("set linux.sysctl {}", key.display()))?;
    }
    Ok(())
}

fn hook_state(plan: &InitPlan, status: &str) -> crate::plan::HookState {
    let mut state = plan.hook_state.clone();
    state.status = status.into();
    state.pid = std::process::id() as i32;
    state
}

/// Waits for `Start`. After `create` it comes over the listening socket; later failures are then reported to that caller.
fn wait_for_start(channel: &mut InitEnd, listener: Option<OwnedFd>) -> Result<()> {
    let Some(listener) = listener else {
        return match channel.expect("waiting for the start")? {
            (ToInit::Start, _) => still_followed(channel),
            (other, _) => {
                Err(SysError::new("recvmsg", format!("{other:?} instead of Start"), libc::EPROTO).into())
            }
        };
    };
    // The creator may leave now; holding its channel would only delay the news of our death.
    *channel = InitEnd::from(listener);
    let signals = ending_signals()?;
    loop {
        wait_for_call(channel, &signals)?;
        let connection = match rustix::net::accept_with(&*channel, rustix::net::SocketFlags::CLOEXEC) {
            Ok(fd) => InitEnd::from(fd),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => continue,
            Err(e) => return Err(SysError::new("accept4", "the start socket", e.raw_os_error()).into()),
        };
        // A connection without a message only checks that init is still alive.
        if let Ok(Some((ToInit::Start, _))) = connection.recv() {
            *channel = connection;
            return Ok(());
        }
    }
}

/// `Start` may have been sent long ago, by a parent that has died since.
fn still_followed(channel: &InitEnd) -> Result<()> {
    let over = readable_within(channel, std::time::Duration::ZERO)
        .map_err(|e| SysError::new("poll", "the channel", e.raw_os_error()))?;
    if over {
        return Err(SysError::new("poll", "the channel: the other end is gone", libc::ECONNRESET).into());
    }
    Ok(())
}

/// The signals that end a container which was created and not started. They are blocked, so that the first process of a
/// pid namespace gets them at all.
fn ending_signals() -> Result<SignalFd> {
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect();
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)
        .map_err(|e| SysError::new("signalfd", "for a created container", e as i32).into())
}

/// Waits until somebody calls; fails when a signal asks for the end instead.
fn wait_for_call(listener: &InitEnd, signals: &SignalFd) -> Result<()> {
    let mut fds = [listener.as_fd(), signals.as_fd()].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    match rustix::event::poll(&mut fds, None) {
        Ok(_) if !fds[1].revents().is_empty() => {
            Err(SysError::new("accept4", "the start socket, until a signal ended the wait", libc::EINTR)
                .into())
        }
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(e) => Err(SysError::new("poll", "the start socket", e.raw_os_error()).into()),
    }
}
