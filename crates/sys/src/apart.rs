//! Work that is finished though the process that asks for it is killed.

use std::ffi::{CStr, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::io::{Errno, retry_on_intr};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use rustix::process::{Pid, WaitOptions, waitpid};

use crate::signal::SignalsBlocked;
use crate::{Result, SysError};

/// The size of the child's stack, in bytes. Only what is used of it is there.
const STACK: usize = 1 << 20;
/// The gap between the stack and other memory, in bytes: as much as the largest page.
const SEPARATION: usize = 64 << 10;

/// Does `work` in a process of its own, and gives what `work` gives. A kill of the calling process, of its group or of all that have
/// its name does not stop the work; `name` is the child's own, of 15 bytes at most.
///
/// The child is one of clone(2) with CLONE_VM, CLONE_VFORK and CLONE_FILES: it shares memory and descriptors, and the calling thread
/// waits for its end. So nothing is copied, and `work` may do all that a call in this thread may. It must not wait for a lock
/// that this thread holds, and its parent is another process than the caller's.
///
/// # Errors
/// No process can be made, or it was killed before it had done its work (ECHILD).
pub fn apart<T, F: FnOnce() -> T>(name: &CStr, work: F) -> Result<T> {
    let failed = |what: &'static str, errno: i32| SysError::new(what, "a process for work apart", errno);
    let mut task = Task { name, work: Some(work), done: None };
    let stack = Stack::new().map_err(|e| failed("mmap", e.raw_os_error()))?;
    // A handler of the caller's must not run in the child.
    let blocked = SignalsBlocked::new()?;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_FILES | libc::SIGCHLD;
    // SAFETY: the stack and the task stay where they are until the child has ended, for CLONE_VFORK stops this thread until then; if
    // this process is killed meanwhile nobody takes them away. The child uses the thread's own storage, which the thread does not
    // use meanwhile. `run` returns to libc, which ends the child without anything of the caller's being dropped.
    let child = unsafe { libc::clone(run::<T, F>, stack.top(), flags, (&raw mut task).cast()) };
    let errno = nix::errno::Errno::last_raw();
    drop(blocked);
    if child < 0 {
        return Err(failed("clone", errno));
    }
    // Others in this process may have waited for it.
    let _ = retry_on_intr(|| waitpid(Pid::from_raw(child), WaitOptions::empty()));
    task.done.ok_or_else(|| failed("wait for", libc::ECHILD))
}

struct Task<'a, T, F> {
    name: &'a CStr,
    work: Option<F>,
    done: Option<T>,
}

/// The child. Work that panics has not been done.
extern "C" fn run<T, F: FnOnce() -> T>(task: *mut c_void) -> c_int {
    // SAFETY: `apart` gives a pointer to a task of these types, which nobody else uses meanwhile.
    let task = unsafe { &mut *task.cast::<Task<'_, T, F>>() };
    let _ = rustix::process::setsid();
    let _ = rustix::thread::set_name(task.name);
    if let Some(work) = task.work.take() {
        task.done = catch_unwind(AssertUnwindSafe(work)).ok();
    }
    0
}

/// Memory for a stack, with memory below that nobody can touch.
struct Stack(*mut c_void);

impl Stack {
    fn new() -> Result<Self, Errno> {
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: the kernel chooses where, so nobody has this memory.
        let stack = Self(unsafe { mmap_anonymous(std::ptr::null_mut(), STACK, access, flags)? });
        // SAFETY: it is the lowest part of memory that nobody uses yet.
        unsafe { mprotect(stack.0, SEPARATION, MprotectFlags::empty())? };
        Ok(stack)
    }

    fn top(&self) -> *mut c_void {
        self.0.wrapping_byte_add(STACK)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the memory is ours, and who ran on it has ended.
        let _ = unsafe { munmap(self.0, STACK) };
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::process::id;

    use rustix::process::{Signal, kill_process};

    use super::*;

    #[test]
    fn the_work_is_another_process_with_the_same_memory_and_descriptors() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let mut seen = vec![7; 1 << 20];
        let (child, copy) = apart(c"test", || {
            seen.push(8);
            (rustix::process::getpid(), theirs.try_clone().unwrap())
        })
        .unwrap();
        assert_ne!(child, rustix::process::getpid());
        assert_eq!(seen.last(), Some(&8));
        drop(theirs);
        (&copy).write_all(b"here").unwrap();
        drop(copy);
        let mut heard = Vec::new();
        ours.read_to_end(&mut heard).unwrap();
        assert_eq!(heard, b"here");
    }

    #[test]
    fn of_one_that_is_killed_or_panics_there_is_an_error() {
        let killed = apart(c"test", || {
            let _ = kill_process(Pid::from_raw(id().cast_signed()).unwrap(), Signal::KILL);
        });
        assert_eq!(killed.unwrap_err().errno, libc::ECHILD);
        let panicked: Result<()> = apart(c"test", || std::panic::resume_unwind(Box::new(())));
        assert_eq!(panicked.unwrap_err().errno, libc::ECHILD);
    }

    /// The process that asks for the work is killed in the middle of the work, with all of its group.
    #[test]
    fn the_work_goes_on_when_its_caller_is_killed() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        // SAFETY: the child allocates, which libc's fork allows, waits, and is killed or exits without dropping anything.
        let caller = unsafe { libc::fork() };
        if caller == 0 {
            let _ = rustix::process::setsid();
            let _ = apart(c"work", || {
                let mut word = [0];
                (&theirs).write_all(b"?").unwrap();
                (&theirs).read_exact(&mut word).unwrap();
                (&theirs).write_all(b"done").unwrap();
            });
            // SAFETY: it ends the process, without any destructor.
            unsafe { libc::_exit(0) };
        }
        drop(theirs);
        ours.read_exact(&mut [0]).unwrap();
        let caller = Pid::from_raw(caller).unwrap();
        rustix::process::kill_process_group(caller, Signal::KILL).unwrap();
        let (_, ended) = waitpid(Some(caller), WaitOptions::empty()).unwrap().unwrap();
        assert_eq!(ended.terminating_signal(), Some(libc::SIGKILL));
        ours.write_all(b"!").unwrap();
        let mut heard = Vec::new();
        ours.read_to_end(&mut heard).unwrap();
        assert_eq!(heard, b"done");
    }
}
