//! Work that is finished though the process that asks for it is killed.

use std::ffi::CStr;
use std::io::{IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

use crate::signal::SignalsBlocked;
use crate::{Result, SysError};

/// The result of work: bytes, and a descriptor.
pub type Given = (Vec<u8>, Option<OwnedFd>);

/// Does `work` in a forked process, and gives what `work` gives. A kill of the calling process, of its group or of all that have
/// its name does not stop the work; `name` is the child's own, of 15 bytes at most. The child has a copy of each descriptor: a lock
/// of the caller's stays held, and the other end of a pipe does not hang up, until the work is done.
///
/// `work` must not take a lock that another thread of the calling process may hold, so it must neither print nor log. It may
/// allocate: the allocators of musl and glibc work in a forked process, and so does [`Allocator`](crate::allocator::Allocator).
///
/// # Errors
/// No process can be made, or it was killed before it had done its work (ECHILD).
pub fn apart(name: &CStr, work: impl FnOnce() -> Given) -> Result<Given> {
    let failed = |what: &'static str| {
        move |e: Errno| SysError::new(what, "a process for work apart", e.raw_os_error())
    };
    let (ours, theirs) =
        UnixStream::pair().map_err(|e| SysError::io("socketpair", "for a process for work apart", &e))?;
    // A handler of the caller's must not run in the child.
    let blocked = SignalsBlocked::new()?;
    // SAFETY: libc's fork leaves its own allocator usable; the child runs `work`, which takes no other locks, and exits without
    // anything of the caller's being dropped.
    let child = unsafe { libc::fork() };
    if child == 0 {
        drop(ours);
        // Its failure shows in the result that arrives.
        let _ = catch_unwind(AssertUnwindSafe(|| {
            let _ = rustix::process::setsid();
            let _ = rustix::thread::set_name(name);
            give(theirs.as_fd(), work())
        }));
        // SAFETY: it ends the process, without any destructor.
        unsafe { libc::_exit(0) };
    }
    drop(blocked);
    drop(theirs);
    if child < 0 {
        return Err(failed("fork")(Errno::from_raw_os_error(nix::errno::Errno::last_raw())));
    }
    let given = take(ours).map_err(failed("receive from"));
    // Others in this process may have waited for it.
    let _ = retry_on_intr(|| {
        rustix::process::waitpid(rustix::process::Pid::from_raw(child), rustix::process::WaitOptions::empty())
    });
    given
}

/// A first byte with the descriptor, then the bytes.
fn give(to: BorrowedFd<'_>, (bytes, descriptor): Given) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<_> = descriptor.iter().map(AsFd::as_fd).collect();
    if !descriptors.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    retry_on_intr(|| sendmsg(to, &[IoSlice::new(&[0])], &mut ancillary, SendFlags::NOSIGNAL))?;
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let sent = retry_on_intr(|| rustix::net::send(to, rest, SendFlags::NOSIGNAL))?;
        rest = &rest[sent..];
    }
    Ok(())
}

fn take(mut from: UnixStream) -> Result<Given, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let mut first = [0];
    let received =
        retry_on_intr(|| recvmsg(&from, &mut [IoSliceMut::new(&mut first)], &mut ancillary, flags))?;
    if received.bytes == 0 {
        return Err(Errno::CHILD);
    }
    let descriptor = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    Ok((bytes, descriptor))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::id;

    use rustix::process::{Pid, Signal, kill_process};

    use super::*;

    #[test]
    fn bytes_and_a_descriptor_arrive() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let many = vec![7; 1 << 20];
        let (bytes, descriptor) = apart(c"test", || (many.clone(), Some(theirs.into()))).unwrap();
        assert_eq!(bytes, many);
        UnixStream::from(descriptor.unwrap()).write_all(b"here").unwrap();
        let mut heard = Vec::new();
        ours.read_to_end(&mut heard).unwrap();
        assert_eq!(heard, b"here");
        assert!(apart(c"test", || (Vec::new(), None)).unwrap().1.is_none());
    }

    #[test]
    fn of_one_that_is_killed_there_is_an_error() {
        let error = apart(c"test", || {
            let _ = kill_process(Pid::from_raw(id().cast_signed()).unwrap(), Signal::KILL);
            (Vec::new(), None)
        });
        assert_eq!(error.unwrap_err().errno, libc::ECHILD);
    }

    /// The process that asks for the work is killed in the middle of the work, with all of its group.
    #[test]
    fn the_work_goes_on_when_its_caller_is_killed() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let caller = std::thread::spawn(move || {
            apart(c"caller", || {
                let work = || {
                    let (mut word, caller) = ([0], rustix::process::getppid().unwrap());
                    (&theirs).write_all(&caller.as_raw_nonzero().get().to_ne_bytes()).unwrap();
                    (&theirs).read_exact(&mut word).unwrap();
                    (&theirs).write_all(b"done").unwrap();
                    (Vec::new(), None)
                };
                apart(c"work", work).unwrap()
            })
        });
        let mut caller_pid = [0; 4];
        ours.read_exact(&mut caller_pid).unwrap();
        let pid = Pid::from_raw(i32::from_ne_bytes(caller_pid)).unwrap();
        rustix::process::kill_process_group(pid, Signal::KILL).unwrap();
        ours.write_all(b"!").unwrap();
        let mut heard = [0; 4];
        ours.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"done");
        // Not before: the work has a copy of what its caller was to answer on.
        assert_eq!(caller.join().unwrap().unwrap_err().errno, libc::ECHILD);
    }
}
