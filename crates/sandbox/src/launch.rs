//! The runtime's side of a container's birth: clone init, give it its plan, follow it to `Ready`.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::process::{Pid, PidfdFlags, Signal, WaitStatus};
use rustix::thread::CpuSet;

use crate::cgroup::Cgroup;
use crate::child::{explain, reap, write_file};
use crate::error::Context;
use crate::idmap;
use crate::init::{ARGUMENT, set_rlimits};
use crate::messages::{FdRole, FromInit, ParentEnd, ToInit};
use crate::netdevices;
use crate::plan::{NamespaceKind, Plan};
use crate::rootfs::clone_path;
use crate::rootfs::resolve::fd_path;
use crate::sources;
use crate::{Error, Result, SysError};
use hiber_sys::channel::{FDS_PER_PACKET, send_packet};
use hiber_sys::clone::{Birthplace, Born, Child, Spawn, spawn};
use hiber_sys::mount::{MountAttributes, Reach, mount_setattr};
use hiber_sys::scheduling::{affinity, cpu_set, set_affinity};

/// The arguments of a launch beside the plan.
#[derive(Default)]
pub struct Launch<'a> {
    /// The cgroups to be born in.
    pub birthplace: Option<&'a Birthplace>,
    /// A process whose namespaces of these `CLONE_NEW*` kinds are joined.
    pub join_process: Option<(BorrowedFd<'a>, u64)>,
    /// The socket that receives the terminal's master.
    pub console_socket: Option<BorrowedFd<'a>>,
    /// Standard input, output and error; the caller's own if absent.
    pub stdio: Option<[BorrowedFd<'a>; 3]>,
    /// Let the process execute its program as soon as it is set up, if the parent is not needed in between. Then
    /// [`Starter::start`] only reports failures.
    pub at_once: bool,
}

/// The caller's part in a launch, in the order of the calls.
pub trait Steps {
    /// The process exists and executes the runtime's binary: record the process. It touches nothing of the container before
    /// it has its plan. The returned descriptors are sent along with the plan.
    fn cloned(&mut self, pid: i32) -> Result<Vec<(FdRole, OwnedFd)>>;
    /// Put the process into its cgroups. Of two stages this is the second, which was forked outside: the limit of processes
    /// (pids.max) does not stop a process that enters a cgroup, but would stop a fork inside.
    /// `placed` says whether it was born in them.
    fn enter_cgroups(&mut self, pid: i32, placed: bool) -> Result<()>;
    /// The process works on its plan: do meanwhile whatever must be done before the program may start.
    fn meanwhile(&mut self) -> Result<()> {
        Ok(())
    }
    /// Namespaces and mounts exist: run the hooks of the runtime namespace.
    fn run_hooks(&mut self, pid: i32) -> Result<()>;
    /// Log a warning.
    fn warn(&mut self, message: &str);
}

/// A process that is set up and waits to be started. Dropped before [`detach`](Self::detach) it is killed.
#[derive(Debug)]
pub struct Launched {
    child: Guarded,
    channel: ParentEnd,
    /// Whether `Start` was sent before the process was `Ready`.
    start_sent: bool,
    /// Whether the process was born in its cgroups.
    placed: bool,
}

/// The only means to start a process that was let go. If this is dropped before, the process ends.
#[derive(Debug)]
pub struct Starter {
    channel: ParentEnd,
    start_sent: bool,
}

/// A connection to the socket on which a created container's first process listens.
impl From<OwnedFd> for Starter {
    fn from(socket: OwnedFd) -> Self {
        Self { channel: socket.into(), start_sent: false }
    }
}

impl Starter {
    /// Whether the process has its `Start` already, and executes its program as soon as it is set up.
    pub fn start_sent(&self) -> bool {
        self.start_sent
    }

    /// Lets the process execute its program, and reports what failed.
    pub fn start(&self) -> Result<()> {
        if !self.start_sent {
            self.channel.send(&ToInit::Start, &[])?;
        }
        match self.channel.recv()? {
            // The execution of the program closes the channel.
            None => Ok(()),
            Some((FromInit::Failed(failure), _)) => Err(Error::Init(failure)),
            Some((other, _)) => {
                Err(SysError::new("recvmsg", format!("{other:?} instead of an end"), libc::EPROTO).into())
            }
        }
    }
}

/// A child that is killed when this is dropped.
#[derive(Debug)]
struct Guarded(Option<Child>);

/// Where the process of this plan can be born in its cgroups. On v1 it cannot if it forks the one that is to be there: the limits of v1
/// hold already and would stop the fork; those of v2 are set meanwhile.
///
/// # Errors
/// Those of [`Cgroup::birthplace`].
pub fn birthplace(cgroup: &Cgroup, plan: &Plan) -> Result<Option<Birthplace>> {
    let forks = plan.init.second_stage.is_some();
    if forks && !cgroup.paths().v1.is_empty() { Ok(None) } else { cgroup.birthplace() }
}

/// Clones init and follows it until it is `Ready`. A failure leaves no process behind.
pub fn launch(plan: &Plan, options: &Launch<'_>, steps: &mut dyn Steps) -> Result<Launched> {
    let OwnBinary { program, mount } = OwnBinary::open().context("open the runtime's own binary")?;
    // Unmounting takes time, so it is put off while nobody can reach the mount: until init has its plan, it is alone in a new pid
    // namespace.
    let mount = mount.filter(|_| plan.namespaces.is_new(NamespaceKind::Pid));
    let (ours, theirs) = ParentEnd::pair()?;
    let number = theirs.as_fd().as_raw_fd().to_string();
    let argv = ["hiber", ARGUMENT, &number].map(|a| CString::new(a).unwrap_or_default());
    let flags = plan.clone_flags();
    let new_user = flags & NamespaceKind::User.clone_flag() != 0;
    let on_initial_cpus = OnCpus::enter(plan.affinity.initial.as_deref())?;
    let Born { child, placed } = spawn(&Spawn {
        namespaces: flags,
        birthplace: options.birthplace,
        program: program.as_fd(),
        argv: &argv,
        channel: theirs.as_fd(),
        callers_end: ours.as_fd(),
        wait_for_id_maps: new_user,
        stdio: options.stdio,
    })
    .map_err(|e| explain(e, new_user))
    .context("create the process")?;
    drop((theirs, on_initial_cpus));
    // Debug lines have runc's words, by which users of runc follow a set-up.
    tracing::debug!("nsexec container setup");
    let mut launched = Launched { child: Guarded(Some(child)), channel: ours, start_sent: false, placed };
    let mut fds = launched.prepare(plan, steps)?;
    if new_user {
        idmap::write(launched.pid(), &plan.namespaces, plan.init.rootless)?;
        let sent = send_packet(&launched.channel, b"m", &[], "the init channel");
        sent.map_err(|e| launched.gone(e.into()))?;
    }
    fds.extend(descriptors(plan, options)?);
    launched.send_plan(plan, &fds)?;
    drop((mount, program, fds));
    steps.meanwhile()?;
    let at_once = options.at_once && plan.init.sets_up_alone();
    if at_once && plan.init.second_stage.is_none() {
        launched.send_start()?;
    }
    launched.follow(plan, steps, at_once)?;
    Ok(launched)
}

fn not_executed(errno: i32) -> Error {
    SysError::new("execveat", "the runtime's own binary as init", errno).into()
}

impl Launched {
    fn child(&self) -> Result<&Child> {
        let child = self.child.0.as_ref();
        child.ok_or_else(|| SysError::new("kill", "a process that was let go", libc::ESRCH).into())
    }

    /// The process's id as the runtime sees it.
    pub fn pid(&self) -> i32 {
        self.child.0.as_ref().map_or(0, |c| c.pid)
    }

    /// Sets from outside all that must be set before the process begins its own work.
    fn prepare(&self, plan: &Plan, steps: &mut dyn Steps) -> Result<Vec<(FdRole, OwnedFd)>> {
        let pid = self.child()?.pid;
        if plan.affinity.initial.is_some() {
            tracing::debug!("nsexec: affinity: {}", mask(&affinity(Some(pid))?));
        }
        let fds = steps.cloned(pid)?;
        if plan.init.second_stage.is_none() {
            steps.enter_cgroups(pid, self.placed)?;
        }
        match &plan.affinity.last {
            Some(cpus) => set_affinity(Some(pid), &cpu_set(cpus.iter().copied()))
                .context("set process.execCPUAffinity.final")?,
            // Only the container's cgroup limits its CPUs, not the affinity of the caller. A caller without the right to change
            // the affinity leaves it as it is.
            None => drop(set_affinity(Some(pid), &cpu_set(0..CpuSet::MAX_CPU))),
        }
        if let Some(score) = plan.init.process.oom_score_adj {
            let path = format!("/proc/{pid}/oom_score_adj");
            write_file(&path, &score.to_string()).context("set process.oomScoreAdj")?;
        }
        Ok(fds)
    }

    fn send_plan(&mut self, plan: &Plan, fds: &[(FdRole, OwnedFd)]) -> Result<()> {
        for chunk in fds.chunks(FDS_PER_PACKET) {
            let roles = chunk.iter().map(|(role, _)| role.clone()).collect();
            let fds: Vec<_> = chunk.iter().map(|(_, fd)| fd.as_fd()).collect();
            self.send(&ToInit::Fds(roles), &fds)?;
        }
        let bytes = plan.init.encode()?;
        let memfd = rustix::fs::memfd_create("plan", MemfdFlags::CLOEXEC)
            .map_err(|e| SysError::new("memfd_create", "for the plan", e.raw_os_error()))?;
        let file = std::fs::File::from(memfd);
        // Init reads from the file offset on, which is still 0.
        file.write_all_at(&bytes, 0).map_err(|e| SysError::io("write", "the plan", &e))?;
        self.send(&ToInit::Setup, &[file.as_fd()])
    }

    fn send(&mut self, message: &ToInit, fds: &[BorrowedFd<'_>]) -> Result<()> {
        self.channel.send(message, fds).map_err(|e| self.gone(e.into()))
    }

    /// The error for a send to a child that is gone: the child's own report if there is one, otherwise how it died.
    fn gone(&mut self, e: Error) -> Error {
        if !matches!(e.errno(), Some(libc::EPIPE | libc::ECONNRESET)) {
            return e;
        }
        match self.channel.recv() {
            Ok(Some((FromInit::Failed(failure), _))) => Error::Init(failure),
            Ok(Some((FromInit::NotExecuted(errno), _))) => not_executed(errno),
            _ => self.died(),
        }
    }

    /// Sends `Start`, which waits in the channel until init reads it.
    fn send_start(&mut self) -> Result<()> {
        self.start_sent = true;
        self.send(&ToInit::Start, &[])
    }

    fn follow(&mut self, plan: &Plan, steps: &mut dyn Steps, at_once: bool) -> Result<()> {
        loop {
            let Some((message, _)) = self.channel.recv()? else { return Err(self.died()) };
            match message {
                FromInit::Forked(pid) => {
                    self.second_stage(plan, steps, pid)?;
                    if at_once {
                        self.send_start()?;
                    }
                }
                FromInit::RunHooks => {
                    steps.run_hooks(self.pid())?;
                    self.send(&ToInit::Proceed, &[])?;
                }
                FromInit::NeedsSource(index) => {
                    let tree = sources::open_in_namespace_of(plan, self.child()?.pidfd.as_fd(), index)?;
                    self.send(&ToInit::Fds(vec![FdRole::MountSource(index)]), &[tree.as_fd()])?;
                }
                FromInit::NetDevices => {
                    netdevices::move_all(&plan.net_devices, self.pid())?;
                    self.send(&ToInit::Proceed, &[])?;
                }
                FromInit::Warning(message) => steps.warn(&message),
                FromInit::Failed(failure) => return Err(Error::Init(failure)),
                FromInit::NotExecuted(errno) => return Err(not_executed(errno)),
                FromInit::Ready => break,
            }
        }
        tracing::debug!("child process in init()");
        if plan.init.in_user_namespace {
            set_rlimits(&plan.init.process, Some(self.pid()))?;
        }
        Ok(())
    }

    fn second_stage(&mut self, plan: &Plan, steps: &mut dyn Steps, pid: i32) -> Result<()> {
        let process = Pid::from_raw(pid)
            .ok_or_else(|| SysError::new("pidfd_open", format!("second stage {pid}"), libc::ESRCH))?;
        let pidfd = rustix::process::pidfd_open(process, PidfdFlags::empty())
            .map_err(|e| SysError::new("pidfd_open", format!("second stage {pid}"), e.raw_os_error()))?;
        if let Some(first) = self.child.0.replace(Child { pid, pidfd }) {
            reap(first.pid);
        }
        steps.enter_cgroups(pid, self.placed)?;
        if plan.init.second_stage.is_some_and(|f| f & NamespaceKind::User.clone_flag() != 0) {
            idmap::write(pid, &plan.namespaces, plan.init.rootless)?;
        }
        self.send(&ToInit::Proceed, &[])
    }

    /// How a child died that reported nothing.
    fn died(&mut self) -> Error {
        let status = self.child.0.take().and_then(|child| reap(child.pid));
        let signal = status.and_then(WaitStatus::terminating_signal);
        let how = match (signal, status.and_then(WaitStatus::exit_status)) {
            (Some(signal), _) => format!("killed by signal {signal}"),
            (_, Some(code)) => format!("exit status {code}"),
            _ => "it vanished".to_owned(),
        };
        Error::Died { how, signal }
    }

    /// Lets the process execute its program, and reports what failed.
    pub fn start(self) -> Result<Child> {
        tracing::debug!("setns_init: about to exec");
        let (child, starter) = self.detach()?;
        match starter.start() {
            Ok(()) => Ok(child),
            Err(e) => {
                drop(Guarded(Some(child)));
                Err(e)
            }
        }
    }

    /// Leaves the process waiting for its start: for a call on the listening socket that it was given, else for the
    /// [`Starter`].
    pub fn detach(mut self) -> Result<(Child, Starter)> {
        tracing::debug!("init: closing the pipe to signal completion");
        let gone = || SysError::new("kill", "a process that was let go", libc::ESRCH);
        let child = self.child.0.take().ok_or_else(gone)?;
        Ok((child, Starter { channel: self.channel, start_sent: self.start_sent }))
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if let Some(child) = self.0.take() {
            let _ = rustix::process::pidfd_send_signal(&child.pidfd, Signal::KILL);
            reap(child.pid);
        }
    }
}

/// Binds the calling thread and its new children to CPUs, until it is dropped.
struct OnCpus(Option<CpuSet>);

impl OnCpus {
    fn enter(cpus: Option<&[usize]>) -> Result<Self> {
        let Some(cpus) = cpus else { return Ok(Self(None)) };
        let before = affinity(None)?;
        set_affinity(None, &cpu_set(cpus.iter().copied())).context("set process.execCPUAffinity.initial")?;
        Ok(Self(Some(before)))
    }
}

impl Drop for OnCpus {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = set_affinity(None, before);
        }
    }
}

/// A set of CPUs as a hexadecimal mask.
fn mask(cpus: &CpuSet) -> String {
    let digit = |n: usize| {
        (0..4)
            .filter(|bit| n * 4 + bit < CpuSet::MAX_CPU && cpus.is_set(n * 4 + bit))
            .map(|b| 1u32 << b)
            .sum()
    };
    let digits: String =
        (0..CpuSet::MAX_CPU / 4).rev().filter_map(|n| char::from_digit(digit(n), 16)).collect();
    format!("0x{}", digits.trim_start_matches('0'))
}

/// Opens the files that init may not open itself, or reaches only by descriptor.
fn descriptors(plan: &Plan, options: &Launch<'_>) -> Result<Vec<(FdRole, OwnedFd)>> {
    let dup =
        |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map_err(|e| SysError::io("dup", "a descriptor", &e));
    let mut fds = Vec::new();
    if let Some((pidfd, flags)) = options.join_process {
        fds.push((FdRole::JoinProcess(flags), dup(pidfd)?));
    }
    for join in &plan.namespaces.join {
        fds.push((FdRole::Join(join.kind.clone_flag()), join.open("linux.namespaces")?));
    }
    if let Some(socket) = options.console_socket {
        fds.push((FdRole::ConsoleSocket, dup(socket)?));
    }
    if let Some(path) = plan.init.seccomp.as_ref().filter(|p| p.notify).and_then(|p| p.listener_path.as_ref())
    {
        fds.push((FdRole::SeccompAgent, crate::seccomp_agent::connect(path)?.into()));
    }
    fds.extend(sources::open(plan)?);
    Ok(fds)
}

/// This program, on a read-only mount of its own, so that no process can write the host's file through /proc/PID/exe
/// (CVE-2019-5736). Where such a mount is forbidden, a sealed copy in memory.
struct OwnBinary {
    program: OwnedFd,
    /// The mount. Once it is closed, the program's file lies in no mount namespace, and nobody can change its attributes. Before
    /// that, a process with CAP_SYS_ADMIN in the container could make it writable.
    mount: Option<OwnedFd>,
}

impl OwnBinary {
    fn open() -> Result<Self> {
        let binary =
            Self::read_only().or_else(|_| sealed_copy().map(|program| Self { program, mount: None }))?;
        tracing::debug!("runc exeseal: using /proc/self/exe clone");
        Ok(binary)
    }

    fn read_only() -> Result<Self> {
        let mount = clone_path(Path::new("/proc/self/exe"), Reach::One)?;
        mount_setattr(
            mount.as_fd(),
            MountAttributes { set: libc::MOUNT_ATTR_RDONLY, ..Default::default() },
            Reach::One,
        )?;
        let program = reopen_as_path(&mount, "the runtime's own binary")?;
        Ok(Self { program, mount: Some(mount) })
    }
}

fn reopen_as_path(fd: &OwnedFd, what: &str) -> Result<OwnedFd> {
    rustix::fs::open(fd_path(fd.as_fd()), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| SysError::new("open", what, e.raw_os_error()).into())
}

fn sealed_copy() -> Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Linux 6.3 added MFD_EXEC, and warns without it; older kernels refuse it.
    let memfd = rustix::fs::memfd_create("hiber", flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create("hiber", flags))
        .map_err(|e| SysError::new("memfd_create", "for a copy of the runtime", e.raw_os_error()))?;
    let mut copy = std::fs::File::from(memfd);
    let mut exe =
        std::fs::File::open("/proc/self/exe").map_err(|e| SysError::io("open", "/proc/self/exe", &e))?;
    std::io::copy(&mut exe, &mut copy).map_err(|e| SysError::io("write", "a copy of the runtime", &e))?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&copy, seals)
        .map_err(|e| SysError::new("fcntl", "F_ADD_SEALS", e.raw_os_error()))?;
    // A file that is open for writing cannot be executed.
    reopen_as_path(&copy.into(), "the copy of the runtime")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn nobody_makes_the_runtimes_binary_writable() {
        let OwnBinary { program: binary, mount } = OwnBinary::open().unwrap();
        drop(mount);
        // A privileged container could, as long as the mount is in a namespace.
        let writable = MountAttributes { clear: libc::MOUNT_ATTR_RDONLY, ..Default::default() };
        mount_setattr(binary.as_fd(), writable, Reach::One).unwrap_err();
        let written = std::fs::OpenOptions::new().write(true).open(fd_path(binary.as_fd()));
        written.and_then(|mut file| file.write_all(b"x")).unwrap_err();
    }
}
