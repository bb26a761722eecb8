//! clone3(2): the first process of a container, the second stage where the kernel demands one, and programs that are born in
//! given cgroups.

use std::ffi::{CStr, CString, c_char};
use std::io::Read;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::pipe::{PipeFlags, pipe_with};

use crate::process::pointers;
use crate::procfs::Stat;
use crate::signal::SignalsBlocked;
use crate::{Result, SysError};

/// The first byte of the packet by which a child reports that execveat(2) failed; a native `i32`, the errno, follows. No
/// JSON begins with this byte.
pub const EXEC_FAILED: u8 = 0;

/// libc's constant overflows its type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Cgroups for a process to be born in. A process that is moved from outside waits some milliseconds for the kernel, which waits
/// for every processor (the lock of all thread groups, `cgroup_threadgroup_rwsem`).
#[derive(Debug, Default)]
pub struct Birthplace {
    /// The directory of cgroup v2 (CLONE_INTO_CGROUP, Linux 5.7).
    pub v2: Option<OwnedFd>,
    /// The `tasks` files of cgroups v1, open for writing. A single thread that writes 0 there moves itself, for which the kernel
    /// needs no lock since Linux 5.5 (9a3284fad42f).
    pub v1: Vec<OwnedFd>,
    /// Whether a cgroup namespace with these as its roots is made there (unshare(2), CLONE_NEWCGROUP).
    pub namespace: bool,
}

/// A program to start in new namespaces.
pub struct Spawn<'a> {
    /// `CLONE_NEW*` flags.
    pub namespaces: u64,
    /// The cgroups to be born in.
    pub birthplace: Option<&'a Birthplace>,
    /// The program, opened.
    pub program: BorrowedFd<'a>,
    /// Its arguments, from argv\[0\] on.
    pub argv: &'a [CString],
    /// The only descriptor above 2 that the child is certain to keep: a SOCK_SEQPACKET socket.
    pub channel: BorrowedFd<'a>,
    /// The caller's end of `channel`. The child closes its copy, or it would not learn of the caller's death.
    pub callers_end: BorrowedFd<'a>,
    /// Wait for one packet on `channel`, then become user and group 0. A user namespace needs both before
    /// exec: without a mapped identity execve(2) drops every capability (user_namespaces(7)).
    pub wait_for_id_maps: bool,
    /// Standard input, output and error; the caller's own if absent.
    pub stdio: Option<[BorrowedFd<'a>; 3]>,
}

/// A process that was just cloned.
#[derive(Debug)]
pub struct Child {
    /// Its id in the caller's pid namespace.
    pub pid: i32,
    /// A pidfd of it (pidfd_open(2)).
    pub pidfd: OwnedFd,
}

/// A child, and whether it is in all cgroups of its birthplace.
#[derive(Debug)]
pub struct Born {
    /// The process.
    pub child: Child,
    /// Whether it has come into all cgroups that it was to be born in, and into a namespace of these if it was to have one.
    pub placed: bool,
}

/// The child's way into cgroups v1, which it reports about.
struct Moves {
    tasks: Vec<RawFd>,
    namespace: bool,
    report: [OwnedFd; 2],
}

impl Moves {
    fn into(birthplace: &Birthplace) -> Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)
            .map_err(|e| SysError::new("pipe2", "for a new process", e.raw_os_error()))?;
        let tasks = birthplace.v1.iter().map(AsRawFd::as_raw_fd).collect();
        Ok(Self { tasks, namespace: birthplace.namespace, report: [read, write] })
    }

    /// In the child. Reports if a cgroup has not taken it, or has no namespace.
    ///
    /// # Safety
    /// To be called between clone3 and execve alone: raw system calls on memory that the caller has prepared.
    unsafe fn make(&self) {
        // SAFETY: descriptors and constants that live.
        unsafe {
            let write = |to: RawFd, text: &CStr| libc::syscall(libc::SYS_write, to, text.as_ptr(), 1usize);
            let mut made = self.tasks.iter().all(|tasks| write(*tasks, c"0") == 1);
            if self.namespace {
                made &= libc::syscall(libc::SYS_unshare, libc::CLONE_NEWCGROUP) == 0;
            }
            if !made {
                write(self.report(), c"m");
            }
        }
    }

    /// The end of the pipe that the child writes to.
    fn report(&self) -> RawFd {
        self.report[1].as_raw_fd()
    }

    /// In the parent: all that the child reports until it closes the pipe.
    fn reported(self) -> Vec<u8> {
        let [read, write] = self.report;
        drop(write);
        let mut reported = Vec::new();
        let _ = std::fs::File::from(read).read_to_end(&mut reported);
        reported
    }
}

/// clone3(2), with a pidfd, into the directory of cgroup v2. `in_child` runs in the child, whose memory is its own, and must make
/// raw system calls on memory that was prepared before.
fn clone(
    flags: u64,
    birthplace: Option<&Birthplace>,
    what: impl FnOnce() -> String,
    in_child: impl FnOnce(),
) -> Result<Child> {
    // A handler of the caller must not run in the child.
    let old_mask = SignalsBlocked::new()?;
    let mut pidfd: RawFd = -1;
    // SAFETY: all zeroes is a valid clone_args; the pointer to `pidfd` outlives the call.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags | libc::CLONE_PIDFD as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    args.pidfd = &raw mut pidfd as u64;
    if let Some(cgroup) = birthplace.and_then(|place| place.v2.as_ref()) {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: no CLONE_VM, so the child has its own memory; it runs only `in_child`, which never returns.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    if pid == 0 {
        in_child();
        // SAFETY: ends the child.
        unsafe { libc::_exit(127) }
    }
    let errno = last_errno();
    drop(old_mask);
    if pid < 0 {
        return Err(SysError::new("clone3", what(), errno));
    }
    // SAFETY: the kernel stored a fresh descriptor that nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Child { pid: pid as i32, pidfd })
}

/// Clones a child that does nothing but execute `spawn.program`, so callers may have any number of threads.
///
/// Descriptors in `stdio`, `program` and `channel` must be above 2.
///
/// If the execution fails the child sends [`EXEC_FAILED`] with the errno in one packet and exits.
pub fn spawn(spawn: &Spawn<'_>) -> Result<Born> {
    let (argv, envp) = (pointers(spawn.argv), pointers(&[]));
    let program = spawn.program.as_raw_fd();
    let channel = [spawn.channel.as_raw_fd(), spawn.callers_end.as_raw_fd()];
    let stdio = spawn.stdio.map(|fds| fds.map(|fd| fd.as_raw_fd()));

    let moves = spawn
        .birthplace
        .filter(|place| !place.v1.is_empty() || place.namespace)
        .map(Moves::into)
        .transpose()?;
    // init unblocks the signals again.
    let child = clone(
        spawn.namespaces,
        spawn.birthplace,
        || namespace_names(spawn.namespaces),
        || {
            // SAFETY: we are the child; argv and envp are null-terminated arrays of C strings.
            unsafe {
                if let Some(moves) = &moves {
                    moves.make();
                    // The parent waits for this, and then perhaps the child for the parent.
                    libc::syscall(libc::SYS_close, moves.report());
                }
                exec_child(program, channel, argv.as_ptr(), envp.as_ptr(), spawn.wait_for_id_maps, stdio)
            }
        },
    )?;
    let moved = moves.is_none_or(|moves| moves.reported().is_empty());
    Ok(Born { child, placed: spawn.birthplace.is_some() && moved })
}

/// A program to start in the caller's namespaces.
pub struct Program<'a> {
    /// Its path.
    pub path: &'a CStr,
    /// Its arguments, from argv\[0\] on.
    pub argv: &'a [CString],
    /// Its environment.
    pub env: &'a [CString],
    /// Standard input, output and error. Descriptors must be above 2.
    pub stdio: [BorrowedFd<'a>; 3],
    /// Further descriptors that it inherits under their numbers, which must be above 2.
    pub inherited: &'a [OwnedFd],
    /// Whether it leads a process group of its own.
    pub leads_group: bool,
    /// The cgroups to be born in.
    pub birthplace: Option<&'a Birthplace>,
}

/// Starts a program, whose signals are as a program expects to find them: none blocked, and SIGPIPE not ignored, as Rust has it.
/// Callers may have any number of threads.
///
/// # Errors
/// Those of clone3(2), execve(2) among them; then there is no child.
pub fn start(program: &Program<'_>) -> Result<Born> {
    let (argv, env) = (pointers(program.argv), pointers(program.env));
    let stdio = program.stdio.map(|fd| fd.as_raw_fd());
    let inherited: Vec<RawFd> = program.inherited.iter().map(AsRawFd::as_raw_fd).collect();
    let nowhere = Birthplace::default();
    let moves = Moves::into(program.birthplace.unwrap_or(&nowhere))?;
    let child = clone(
        0,
        program.birthplace,
        || namespace_names(0),
        || {
            // SAFETY: we are the child; argv and env are null-terminated arrays of C strings, and the rest are descriptors.
            unsafe {
                moves.make();
                let mut ready = !program.leads_group || libc::syscall(libc::SYS_setpgid, 0, 0) == 0;
                for (to, fd) in stdio.iter().enumerate() {
                    ready &= libc::syscall(libc::SYS_dup3, *fd, to, 0) >= 0;
                }
                for fd in &inherited {
                    ready &= libc::syscall(libc::SYS_fcntl, *fd, libc::F_SETFD, 0) >= 0;
                }
                // The kernel's own structures, all zeroes: SIG_DFL, and an empty mask.
                let default = [0u64; 4];
                let (none, at) = (ptr::null_mut::<u64>(), default.as_ptr());
                libc::syscall(libc::SYS_rt_sigaction, libc::SIGPIPE, at, none, 8usize);
                libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, at, none, 8usize);
                if ready {
                    libc::syscall(libc::SYS_execve, program.path.as_ptr(), argv.as_ptr(), env.as_ptr());
                }
                let errno = last_errno();
                libc::syscall(libc::SYS_write, moves.report(), (&raw const errno), size_of_val(&errno));
                libc::_exit(127)
            }
        },
    )?;
    let reported = moves.reported();
    if let Some(errno) = reported.last_chunk::<4>() {
        let _ = rustix::process::waitpid(
            rustix::process::Pid::from_raw(child.pid),
            rustix::process::WaitOptions::empty(),
        );
        return Err(SysError::new("exec", program.path.to_string_lossy(), i32::from_ne_bytes(*errno)));
    }
    Ok(Born { child, placed: program.birthplace.is_some() && reported.is_empty() })
}

/// Everything that the child does between clone3 and execveat: raw calls only, no allocation, no libc state.
///
/// # Safety
/// `argv` and `envp` must be null-terminated arrays of C strings; to be called in a fresh child alone.
unsafe fn exec_child(
    program: RawFd,
    [channel, callers_end]: [RawFd; 2],
    argv: *const *const c_char,
    envp: *const *const c_char,
    wait_for_id_maps: bool,
    stdio: Option<[RawFd; 3]>,
) -> ! {
    // SAFETY: plain system calls on valid descriptors and the caller's arrays. The raw ones are used because
    // glibc's setuid wrappers talk to threads that do not exist here.
    unsafe {
        let mut ready = true;
        libc::syscall(libc::SYS_close, callers_end);
        if let Some(fds) = stdio {
            let mut to: libc::c_long = 0;
            while to < 3 {
                // Callers keep these above 2 (see `spawn`), so none is overwritten before its turn.
                ready &= libc::syscall(libc::SYS_dup3, fds[to as usize], to, 0) >= 0;
                to += 1;
            }
        }
        if wait_for_id_maps {
            let mut byte = 0u8;
            let n = libc::syscall(libc::SYS_recvfrom, channel, &raw mut byte, 1usize, 0, 0usize, 0usize);
            ready &= n == 1
                && libc::syscall(libc::SYS_setresgid, 0, 0, 0) == 0
                && libc::syscall(libc::SYS_setresuid, 0, 0, 0) == 0;
        }
        if ready {
            libc::syscall(libc::SYS_fcntl, channel, libc::F_SETFD, 0);
            libc::syscall(libc::SYS_execveat, program, c"".as_ptr(), argv, envp, libc::AT_EMPTY_PATH);
        }
        let [a, b, c, d] = i32::to_ne_bytes(*libc::__errno_location());
        let report = [EXEC_FAILED, a, b, c, d];
        libc::syscall(
            libc::SYS_sendto,
            channel,
            &raw const report,
            size_of_val(&report),
            libc::MSG_NOSIGNAL,
            0usize,
            0usize,
        );
        libc::_exit(127)
    }
}

/// Clones a child in a new user namespace. The child only keeps the namespace alive, until the other end of the pipe
/// `until_closed` is closed everywhere else. `keeper` is the caller's writing end.
pub fn spawn_in_user_namespace(until_closed: BorrowedFd<'_>, keeper: BorrowedFd<'_>) -> Result<Child> {
    let (read, write) = (until_closed.as_raw_fd(), keeper.as_raw_fd());
    clone(
        libc::CLONE_NEWUSER as u64,
        None,
        || "with a new user namespace".into(),
        || {
            // SAFETY: three raw system calls on a byte of the child's own stack.
            unsafe {
                let mut byte = 0u8;
                libc::syscall(libc::SYS_close, write);
                libc::syscall(libc::SYS_read, read, &raw mut byte, 1usize);
                libc::_exit(0)
            }
        },
    )
}

/// The process in which [`fork_sibling`] returned.
pub enum Sibling {
    /// In the caller: the new process's id in the caller's pid namespace.
    Parent(i32),
    /// In the new process, whose parent is the caller's parent.
    Child,
}

/// Proof that the calling process has one thread. After a fork the child then holds no lock of a thread that does not exist
/// there.
#[derive(Debug)]
pub struct SingleThreaded(());

impl SingleThreaded {
    /// Fails with EBUSY if the process has more threads. `proc` is a procfs on which the caller can be seen.
    ///
    /// The process must not start threads afterwards.
    pub fn check(proc: BorrowedFd<'_>) -> Result<Self> {
        let path = "self/stat";
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
        let stat = rustix::fs::openat(proc, path, flags, rustix::fs::Mode::empty())
            .and_then(crate::file::read_record)
            .map_err(|e| SysError::new("read", path, e.raw_os_error()))?;
        /// num_threads of proc_pid_stat(5).
        const THREADS: usize = 20;
        let threads = Stat::parse(&crate::file::text(stat)).and_then(|stat| stat.field::<u32>(THREADS));
        if threads != Some(1) {
            return Err(SysError::new("clone3", "in a process with several threads", libc::EBUSY));
        }
        Ok(Self(()))
    }
}

/// Forks a process with new namespaces whose parent is the caller's own parent (CLONE_PARENT).
pub fn fork_sibling(_: SingleThreaded, namespaces: u64) -> Result<Sibling> {
    // SAFETY: all zeroes is a valid clone_args.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = namespaces | libc::CLONE_PARENT as u64;
    // SAFETY: the process has one thread, which the argument shows, and the child gets its own memory, so it may go on
    // in ordinary Rust, as after fork(2).
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    match pid {
        0 => Ok(Sibling::Child),
        pid if pid > 0 => Ok(Sibling::Parent(pid as i32)),
        _ => Err(SysError::new("clone3", namespace_names(namespaces), last_errno())),
    }
}

/// Forks a process that shares the caller's table of descriptors, which lasts until both have ended (CLONE_FILES). Returns `None`
/// in the new process.
pub fn fork_sharing_descriptors(_: SingleThreaded) -> Result<Option<Child>> {
    let mut pidfd: RawFd = -1;
    // SAFETY: all zeroes is a valid clone_args; the pointer to `pidfd` outlives the call.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = (libc::CLONE_FILES | libc::CLONE_PIDFD) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    args.pidfd = &raw mut pidfd as u64;
    // SAFETY: as in `fork_sibling`.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    match pid {
        0 => Ok(None),
        // SAFETY: the kernel stored a fresh descriptor, which only the caller's side owns: the other does not know it.
        pid if pid > 0 => Ok(Some(Child { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })),
        _ => Err(SysError::new("clone3", "with the descriptors shared", last_errno())),
    }
}

/// `NEWNS|NEWPID`-like names of clone flags, for messages.
fn namespace_names(flags: u64) -> String {
    let names: Vec<_> = crate::NamespaceKind::ALL
        .iter()
        .filter(|kind| flags & kind.clone_flag() != 0)
        .map(|kind| kind.as_str())
        .collect();
    if names.is_empty() {
        "with no new namespace".into()
    } else {
        format!("with new namespaces {}", names.join(", "))
    }
}

fn last_errno() -> i32 {
    nix::errno::Errno::last_raw()
}
