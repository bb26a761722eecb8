//! The messages between the parent and init, over one SOCK_SEQPACKET socketpair.
//!
//! ```text
//!  parent                                    init (the runtime's own binary, freshly executed)
//!    | clone3 into the new namespaces ------> |
//!    | one byte, once id maps are written --> | (user namespace only; before exec)
//!    | cgroups (of a single stage), oom score |
//!    | ToInit::Fds, ToInit::Setup ----------> | joins, unshares
//!    | <------------- FromInit::Forked{pid}   | (joined pid or user namespace only: a second stage goes on)
//!    | cgroups, id maps; ToInit::Proceed ---> | (second stage only)
//!    | <------------- FromInit::NetDevices    | (only with network devices to move)
//!    | ToInit::Proceed ---------------------> |
//!    | <------------- FromInit::NeedsSource   | (a bind of what an earlier mount may cover, with ids that differ)
//!    | ToInit::Fds -------------------------> |
//!    |                                        | mounts, devices
//!    | <------------- FromInit::RunHooks      | (prestart or createRuntime hooks only)
//!    | ToInit::Proceed ---------------------> | createContainer hooks, pivot_root, identity
//!    | <------------- FromInit::Ready         |
//!    | rlimits (user namespace only)          |
//!    | ToInit::Start -----------------------> | startContainer hooks, seccomp, exec: the socket closes
//! ```
//!
//! If the parent has nothing more to do, it sends `Start` right after `Setup` or the last `Proceed` (`run`, `exec`). At `create`
//! the parent leaves after `Ready`; `Start` then comes over a connection to the container's listening socket, from the process
//! that runs `start`. A failure at any point is `FromInit::Failed`.

use hiber_sys::channel::{Channel, Message};
use serde::{Deserialize, Serialize};

use crate::error::Failure;

impl Message for ToInit {}

impl Message for FromInit {
    fn not_executed(errno: i32) -> Option<Self> {
        Some(Self::NotExecuted(errno))
    }
}

/// From the parent to init.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToInit {
    /// Descriptors that come with this packet, and the role of each.
    Fds(Vec<FdRole>),
    /// The plan comes with this packet as a memfd that holds an encoded `InitPlan`: set the container up.
    Setup,
    /// The second stage is known and has its id maps, or the hooks of the runtime namespace have run.
    Proceed,
    /// Execute the container's process.
    Start,
}

/// The role of a descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FdRole {
    /// A namespace to join; the value is its `CLONE_NEW*` flag.
    Join(u64),
    /// A pidfd whose namespaces of these kinds are to be joined at once.
    JoinProcess(u64),
    /// The socket on which `start` will call.
    StartListener,
    /// A socket to be kept until exec. As long as it listens, others see that the container is being made.
    InitListener,
    /// The socket to which the terminal's master end is sent.
    ConsoleSocket,
    /// The connected socket of the seccomp agent.
    SeccompAgent,
    /// A detached tree: the source of the n-th mount.
    MountSource(usize),
    /// A detached tree: the host's node for the n-th device.
    Device(usize),
}

/// From init to the parent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromInit {
    /// The second stage runs under this id (in the parent's pid namespace); the sender exits.
    Forked(i32),
    /// The source of the n-th mount lies in the container's own root: open it in my mount namespace.
    NeedsSource(usize),
    /// The network namespace exists: move the devices in.
    NetDevices,
    /// Mounts are made: run prestart and createRuntime hooks.
    RunHooks,
    /// Everything is set up; only `Start` is missing.
    Ready,
    /// A message for the log; the set-up goes on.
    Warning(String),
    /// The set-up failed.
    Failed(Failure),
    /// execveat(2) of init failed with this errno. The cloned child reports this without JSON.
    #[serde(skip)]
    NotExecuted(i32),
}

/// The end of the parent, and of the process that starts a created container.
pub(crate) type ParentEnd = Channel<ToInit, FromInit>;
/// Init's end.
pub(crate) type InitEnd = Channel<FromInit, ToInit>;

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::error::Context;
    use crate::{Result, SysError};

    #[test]
    fn descriptors_come_with_their_roles() {
        let (a, b) = ParentEnd::pair().unwrap();
        let (r, w) = rustix::pipe::pipe().unwrap();
        a.send(&ToInit::Fds(vec![FdRole::StartListener, FdRole::MountSource(7)]), &[r.as_fd(), w.as_fd()])
            .unwrap();
        let (message, fds) = b.recv().unwrap().unwrap();
        let ToInit::Fds(roles) = message else { panic!("{message:?}") };
        assert_eq!((roles, fds.len()), (vec![FdRole::StartListener, FdRole::MountSource(7)], 2));
    }

    #[test]
    fn the_parent_hears_that_init_was_not_executed() {
        let (parent, init) = ParentEnd::pair().unwrap();
        let report = [&[hiber_sys::clone::EXEC_FAILED][..], &libc::ENOENT.to_ne_bytes()].concat();
        hiber_sys::channel::send_packet(&init, &report, &[], "a test").unwrap();
        let heard = parent.recv().unwrap();
        assert!(matches!(heard, Some((FromInit::NotExecuted(libc::ENOENT), _))), "{heard:?}");
    }

    #[test]
    fn a_failure_keeps_its_causes() {
        let inner: Result<()> = Err(SysError::new("mount", "tmpfs on /dev", libc::EPERM).into());
        let error = inner.context("mount /dev").context("set up the rootfs").unwrap_err();
        let failure = Failure::new(&error);
        assert_eq!(failure.errno, Some(libc::EPERM));
        assert_eq!(
            failure.to_string(),
            "set up the rootfs: mount /dev: mount tmpfs on /dev: operation not permitted"
        );
    }
}
