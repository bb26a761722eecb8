//! The processes of a container, as /proc shows them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use hiber_sandbox::cgroup::Cgroup;
use hiber_sandbox::rootfs::resolve::Root;
use hiber_sys::process::{Shareable, share};

use super::table::{
    BESIDE, EXIT_SIGNAL, FROZEN_ABOVE, NAMESPACE, OTHER_USER, SESSION, STOPPED, TRACED, UNDO, WAITING,
    ZOMBIE, ZOMBIE_THREADS,
};
use super::{Check, Finding, Findings, Process};
use crate::checkpoint::kept;
use crate::container::task::Task;
use crate::error::{Error, Result};
use crate::host::procfs;
use crate::status::Status as ContainerStatus;

/// Kinds of namespaces of which CRIU saves the first process's only (CLONE_SUBNS are mnt and net).
const NOT_NESTED: [&str; 6] = ["pid", "user", "ipc", "uts", "time", "cgroup"];
/// signal(7)
const SIGCHLD: i32 = 17;
/// How many processes a warning names.
const MAX_NAMED: usize = 5;
/// How many ancestors a process can have: as many as there can be processes (PID_MAX_LIMIT).
const MAX_GENERATIONS: usize = 1 << 22;
/// How long a command may be, in characters.
const MAX_COMMAND: usize = 80;

/// A process that was alive when it was looked at.
pub(super) struct Proc {
    /// In the runtime's pid namespace.
    pub(super) pid: i32,
    /// In the container's.
    pub(super) inner: i32,
    name: String,
    state: char,
    pub(super) parent: i32,
    /// In the runtime's pid namespace; 0 for one that is not in there.
    pub(super) session: i32,
    pub(super) threads: u32,
    exit_signal: i32,
    /// The text of /proc/PID/status (proc_pid_status(5)).
    status: String,
}

impl Findings {
    /// Something of a process.
    pub(super) fn of(&mut self, task: &Proc, check: &'static Check, what: impl Into<String>) -> &mut Finding {
        let finding = self.add(check, what);
        finding.process = Some(task.process());
        finding
    }
}

impl Proc {
    /// `depth` is how many pid namespaces the container's is below the runtime's.
    pub(super) fn read(pid: i32, depth: usize) -> Option<Self> {
        let status = hiber_sys::procfs::read(pid, "status")?;
        let read = |stat: hiber_sys::procfs::Stat<'_>| {
            Some(Self {
                pid,
                inner: pid,
                name: stat.command.to_owned(),
                state: stat.field(3)?,
                parent: stat.field(4)?,
                session: stat.field(6)?,
                threads: stat.field(20)?,
                exit_signal: stat.field(38)?,
                status,
            })
        };
        let process = hiber_sys::procfs::stat(pid, read)??;
        let inner = process.numbers("NSpid:").nth(depth).unwrap_or(pid);
        Some(Self { inner, ..process })
    }

    /// The numbers in the line of its status that begins with `name`.
    fn numbers<T: FromStr>(&self, name: &str) -> impl Iterator<Item = T> {
        let line = self.status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().filter_map(|number| number.parse().ok())
    }

    /// `/proc/PID/NAME`
    pub(super) fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.pid))
    }

    /// The process's root directory, in which a path of the container is found without leaving it.
    pub(super) fn root(&self) -> Option<Root> {
        Root::open_path(&self.path("root")).ok()
    }

    pub(super) fn process(&self) -> Process {
        Process { pid: self.inner, host_pid: Some(self.pid), command: command(self.pid, &self.name) }
    }

    pub(super) fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }

    fn namespace(&self, kind: &str) -> Option<PathBuf> {
        std::fs::read_link(self.path(&format!("ns/{kind}"))).ok()
    }
}

/// How many pid namespaces the container's is below the runtime's.
pub(super) fn depth(init: i32) -> usize {
    procfs::numbers(&init.to_string()).map_or(0, |all| all.len().saturating_sub(1))
}

/// The numbers that are not free in a pid namespace, with who has them. The kernel also keeps a number for the session or
/// process group that it names, whose first process may be gone or a zombie.
pub(super) fn numbers_taken(namespace: &Path) -> HashMap<i32, String> {
    let mut taken = HashMap::new();
    for process in ::procfs::process::all_processes().into_iter().flatten().flatten() {
        let pid = process.pid();
        if std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok().as_deref() != Some(namespace) {
            continue;
        }
        let Ok(status) = process.status() else { continue };
        let inside = |numbers: &Option<Vec<i32>>| numbers.as_ref().and_then(|all| all.last().copied());
        let name = &status.name;
        taken.insert(inside(&status.nspid).unwrap_or(pid), format!("by process {pid} ({name})"));
        for (what, number) in [("process group", &status.nspgid), ("session", &status.nssid)] {
            let Some(number) = inside(number) else { continue };
            taken.entry(number).or_insert_with(|| format!("as the {what} of process {pid} ({name})"));
        }
    }
    taken
}

/// The command line on one line, else the name.
pub(super) fn command(pid: i32, name: &str) -> String {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let text = String::from_utf8_lossy(&line);
    let words: Vec<_> = text.split('\0').filter(|word| !word.is_empty()).collect();
    let whole = if words.is_empty() { name.to_owned() } else { words.join(" ") };
    let plain: String = whole.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match plain.char_indices().nth(MAX_COMMAND) {
        Some((end, _)) => format!("{}…", &plain[..end]),
        None => plain,
    }
}

/// Refuses what a dump would hang on and what no restore could take, warns of processes that are left out, and tells
/// whether the container may be frozen for it. `whole` if processes are saved, and not their memory alone.
///
/// A traced process, or a cgroup above that is frozen, makes CRIU try for ten seconds, in which the container is frozen.
/// On a v1 freezer the kernel lets nobody trace a process that is stopped and frozen (ptrace_attach waits for it to
/// move), so that CRIU would hang for ever.
///
/// Every checkpoint does this: of each process it reads one file, and where there is more than one the names of their namespaces.
pub(crate) fn before_freezing(task: &Task, status: ContainerStatus, whole: bool) -> Result<bool> {
    let init = task.facts()?.pid;
    let v1 = task.facts()?.cgroup.v1.contains_key("freezer");
    if let Some(cgroup) = frozen_above(task.cgroup()) {
        let (what, advice) = (FROZEN_ABOVE.about, FROZEN_ABOVE.advice);
        return Err(Error::Invalid(format!("{what}: {}; {advice}", cgroup.display())));
    }
    let mut may_freeze = true;
    let mut parents = HashMap::new();
    for pid in task.pids()? {
        let text = hiber_sys::file::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map_or("", str::trim);
        let (traced_by, state) = (field("TracerPid:"), field("State:"));
        if !state.starts_with(['Z', 'X'])
            && let Ok(parent) = field("PPid:").parse()
        {
            parents.insert(pid, parent);
        }
        let may_be_stopped = v1 && state.starts_with(['T', 'D']);
        if traced_by == "0" && !may_be_stopped {
            continue;
        }
        let Some(process) = Proc::read(pid, depth(init)) else { continue };
        let mut findings = Findings::default();
        traced(&mut findings, &process);
        refuse_first(findings)?;
        if v1 && is_stopped(&process) {
            may_freeze = false;
            if status == ContainerStatus::Paused {
                let what = "is stopped (SIGSTOP), and CRIU cannot save it from a frozen v1 cgroup";
                return task
                    .refuse(&format!("{} {what}: resume the container first", process.process()), status);
            }
        }
    }
    if whole {
        // CRIU takes also those whose cgroup is another, like what nsenter(1) has left.
        for child in children(init) {
            parents.entry(child).or_insert(init);
        }
        check_tree(init, &parents)?;
    }
    Ok(may_freeze)
}

/// The children of a process's first thread, which orphans become.
pub(super) fn children(pid: i32) -> Vec<i32> {
    let text =
        hiber_sys::file::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

/// Warns of processes that CRIU leaves out, and refuses one of another namespace among those that it takes: if that is
/// the namespace that CRIU itself is in, CRIU saves the process and cannot restore it.
fn check_tree(init: i32, parents: &HashMap<i32, i32>) -> Result<()> {
    if parents.keys().all(|pid| *pid == init) {
        return Ok(());
    }
    let (mut inside, mut beside): (Vec<_>, Vec<_>) =
        parents.keys().partition(|pid| descends(**pid, init, |pid| parents.get(&pid).copied()));
    beside.sort_unstable();
    inside.sort_unstable();
    let read = |pid: &i32| Proc::read(*pid, depth(init));
    if !beside.is_empty() {
        let named: Vec<_> =
            beside.iter().take(MAX_NAMED).filter_map(read).map(|found| found.process().to_string()).collect();
        let more = beside.len() - named.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        tracing::warn!("not in the checkpoint: {}{more}; {}", named.join(", "), BESIDE.about);
    }
    let of = |pid: i32| NOT_NESTED.map(|kind| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok());
    let first = of(init);
    for pid in inside.into_iter().filter(|pid| *pid != init) {
        let differs = of(pid).iter().zip(&first).any(|(own, first)| own.is_some() && own != first);
        if let (true, Some(process), Some(first)) = (differs, read(&pid), read(&init)) {
            let mut findings = Findings::default();
            nested(&mut findings, &process, &first);
            refuse_first(findings)?;
        }
    }
    Ok(())
}

pub(super) fn refuse_first(findings: Findings) -> Result<()> {
    findings.0.first().map_or(Ok(()), |found| Err(Error::Invalid(format!("{found}; {}", found.advice))))
}

/// Whether `pid` is `first`, or a descendant of it.
fn descends(mut pid: i32, first: i32, parent: impl Fn(i32) -> Option<i32>) -> bool {
    // Read while processes come and go, parents might lead in a circle.
    for _ in 0..MAX_GENERATIONS {
        if pid == first {
            return true;
        }
        match parent(pid) {
            Some(next) if next != pid => pid = next,
            _ => return false,
        }
    }
    false
}

/// Those of `tasks` that CRIU takes, the first one and its descendants, and those that it leaves out.
pub(super) fn split(tasks: Vec<Proc>) -> (Vec<Proc>, Vec<Proc>) {
    let Some(first) = tasks.first().map(|task| task.pid) else { return (tasks, Vec::new()) };
    let parents: HashMap<_, _> = tasks.iter().map(|task| (task.pid, task.parent)).collect();
    tasks.into_iter().partition(|task| descends(task.pid, first, |pid| parents.get(&pid).copied()))
}

/// Processes that the checkpoint leaves out. CRIU stops them with the others all the same.
pub(super) fn left_out(findings: &mut Findings, tasks: &[Proc], pre_dump: bool) {
    for task in tasks.iter().filter(|task| !task.is_dead()) {
        traced(findings, task);
        if !pre_dump {
            findings.of(task, &BESIDE, BESIDE.about);
        }
    }
}

/// The container's cgroup, if it is frozen but not by itself.
pub(super) fn frozen_above(cgroup: &Cgroup) -> Option<PathBuf> {
    let read = |dir: &Path, file: &str| hiber_sys::file::read_to_string(dir.join(file)).unwrap_or_default();
    if let Some(dir) = cgroup.paths().v1.get("freezer") {
        return (read(dir, "freezer.parent_freezing").trim() == "1").then(|| dir.clone());
    }
    let dir = cgroup.paths().v2.as_ref()?;
    let frozen = read(dir, "cgroup.events").lines().any(|line| line == "frozen 1");
    (frozen && read(dir, "cgroup.freeze").trim() == "0").then(|| dir.clone())
}

/// Stopped by a signal. A process that is frozen as well shows the freezer's state, and where it waits.
fn is_stopped(task: &Proc) -> bool {
    let waits = || {
        hiber_sys::file::read_to_string(task.path("wchan")).is_ok_and(|place| place.contains("signal_stop"))
    };
    task.state == 'T' || task.state == 'D' && waits()
}

fn traced(findings: &mut Findings, task: &Proc) {
    if let Some(tracer) = task.numbers("TracerPid:").find(|tracer: &i32| *tracer != 0) {
        let name = hiber_sys::file::read_to_string(format!("/proc/{tracer}/comm")).unwrap_or_default();
        let what = format!("it is traced by process {tracer} ({}) of the host", name.trim());
        findings.of(task, &TRACED, what);
    }
}

/// Whether a process has changed its root directory: what it sees of its mount namespace then has no `/`, unless that is a
/// mount.
pub(super) fn has_other_root(task: &Proc) -> bool {
    let mounts = hiber_sandbox::mountinfo::of(&task.pid.to_string()).unwrap_or_default();
    !mounts.iter().any(|mount| mount.point == Path::new("/"))
}

/// Obstacles in a single process.
pub(super) fn check(
    findings: &mut Findings,
    tasks: &[Proc],
    paused: bool,
    shell_job: bool,
    own_user_namespace: bool,
) {
    let Some(first) = tasks.first() else { return };
    for task in tasks {
        match task.state {
            'Z' | 'X' if task.threads > 1 => {
                findings.of(task, &ZOMBIE_THREADS, ZOMBIE_THREADS.about);
            }
            'Z' | 'X' => {
                findings.of(task, &ZOMBIE, "it has ended and nobody has waited for it");
            }
            _ if is_stopped(task) => {
                findings.of(task, &STOPPED, "it is stopped (SIGSTOP)");
            }
            'D' if !paused => {
                findings.of(task, &WAITING, WAITING.about);
            }
            _ => {}
        }
        traced(findings, task);
        session(findings, task, task.pid == first.pid, shell_job);
        if task.is_dead() {
            continue;
        }
        nested(findings, task, first);
        let signal = task.exit_signal;
        if signal != SIGCHLD {
            findings.of(
                task,
                &EXIT_SIGNAL,
                format!("its parent gets signal {signal} at its end, not SIGCHLD"),
            );
        }
        other_user(findings, task, own_user_namespace);
    }
    undone(findings, tasks, first);
}

/// Where semaphores may be changed at a process's end. A list of what is undone is not enough: whoever has made a thread
/// has an empty one (CLONE_SYSVSEM).
fn undone(findings: &mut Findings, tasks: &[Proc], first: &Proc) {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let differs =
        |task: &&Proc| !task.is_dead() && share(task.pid, own, Shareable::UndoList).is_ok_and(|same| !same);
    let listed: Vec<_> = tasks.iter().filter(differs).collect();
    if !listed.is_empty() && has_semaphores(first) {
        for task in listed {
            findings.of(task, &UNDO, "it may have used semaphores with SEM_UNDO");
        }
    }
}

/// Whether there are System V semaphores in the IPC namespace of a process; proc_sysvipc(5) lists those of its reader.
fn has_semaphores(process: &Proc) -> bool {
    let lines = || {
        let path = Path::new("/proc/sysvipc/sem");
        let text = hiber_sys::file::read_to_string(path).map_err(|e| Error::file(path, &e))?;
        Ok(text.lines().count())
    };
    // the first line is a heading
    kept::ipc::inside(process.pid, lines).is_ok_and(|lines| lines > 1)
}

fn nested(findings: &mut Findings, task: &Proc, first: &Proc) {
    for kind in NOT_NESTED {
        if let (Some(own), Some(of_first)) = (task.namespace(kind), first.namespace(kind))
            && own != of_first
        {
            findings.of(task, &NAMESPACE, format!("its {kind} namespace is not that of the first process"));
        }
    }
}

/// CRIU wants each session's leader in the container's pid namespace, and without `--shell-job` the first process to be
/// one.
fn session(findings: &mut Findings, task: &Proc, is_first: bool, shell_job: bool) {
    if task.numbers("NSsid:").last() == Some(0_i32) {
        findings.of(task, &SESSION, "its session is that of a process outside the container's pid namespace");
    } else if is_first && !shell_job && task.session != task.pid {
        let leader = task.session;
        findings.of(task, &SESSION, format!("its session is that of process {leader} of the host"));
    }
}

/// prlimit(2) on a process with other ids needs CAP_SYS_RESOURCE over it; the owner of a user namespace has that.
fn other_user(findings: &mut Findings, task: &Proc, own_user_namespace: bool) {
    let able = caps::has_cap(None, caps::CapSet::Effective, caps::Capability::CAP_SYS_RESOURCE);
    if own_user_namespace || able.unwrap_or(true) {
        return;
    }
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    // The real, the effective and the saved one.
    let three = |name| task.numbers::<u32>(name).take(3).collect::<Vec<_>>();
    let (users, groups) = (three("Uid:"), three("Gid:"));
    if let ([_, user, _], [_, group, _]) = (&users[..], &groups[..])
        && !(users.iter().all(|user| *user == uid) && groups.iter().all(|group| *group == gid))
    {
        let what = format!("it runs as user {user} and group {group}, and there is no CAP_SYS_RESOURCE");
        findings.of(task, &OTHER_USER, what);
    }
}
