//! The criu process behind a session.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use command_fds::CommandFdExt as _;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::retry_on_intr;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, pidfd_send_signal, waitid,
};

use crate::locate::{Criu, search_path};

/// A running `criu swrk`, in a mode made for clients of this kind: one connection, then the end.
#[derive(Debug)]
pub(crate) struct Swrk {
    pub(crate) criu: PathBuf,
    child: Child,
    /// Whether it leads a process group.
    grouped: bool,
    /// Readable once the process has ended.
    pub(crate) pidfd: OwnedFd,
    /// The output of CRIU and of the programs that it runs. Neither end of the pipe blocks: output that does not fit (64 KiB) is
    /// lost, and the first lines tell most.
    output: File,
}

impl Swrk {
    /// Runs `criu swrk` on `socket`; it inherits `files` under the numbers that they have here.
    ///
    /// Keeping the numbers spares the child all moving of descriptors, which could hit the pipe on
    /// which std reports a failed exec.
    pub(crate) fn spawn(
        criu: &Criu,
        socket: OwnedFd,
        stdin: Option<OwnedFd>,
        files: Vec<OwnedFd>,
        programs: Option<PathBuf>,
        environment: &[(&str, &str)],
    ) -> io::Result<Self> {
        let (output, printer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let mut path = programs.map(PathBuf::into_os_string).unwrap_or_default();
        if !path.is_empty() {
            path.push(":");
        }
        path.push(search_path(std::env::var_os("PATH")));
        let number = socket.as_raw_fd().to_string();
        let mut inherited = files;
        inherited.push(socket);
        let mut command = Command::new(criu.path());
        if !is_own(std::env::var_os("HOME")) {
            command.env_remove("HOME");
        }
        if stdin.is_none() {
            // Of its own, so that its children can be ended with it; what gets a terminal stays in the terminal's.
            command.process_group(0);
        }
        let grouped = stdin.is_none();
        let child = command
            .args(["swrk", &number])
            .env("PATH", path)
            .envs(environment.iter().copied())
            .stdin(stdin.map_or_else(Stdio::null, Stdio::from))
            .stdout(printer.try_clone()?)
            .stderr(printer)
            .preserved_fds(inherited)
            .spawn()?;
        let pid = Pid::from_child(&child);
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Self { criu: criu.path().into(), child, grouped, pidfd, output: output.into() }),
            Err(e) => {
                // Its socket is closed already: it ends by itself.
                let mut child = child;
                let _ = child.wait();
                Err(e.into())
            }
        }
    }

    /// The process's id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends the process, whatever it does.
    pub(crate) fn kill(&self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Waits for the end of the process, whose socket must have been closed; `None` if another part of
    /// this program has reaped it.
    pub(crate) fn reap(&mut self) -> Option<ExitStatus> {
        self.child.wait().ok()
    }

    /// As [`reap`](Self::reap), of one that has failed or was killed: what it has left of its own children ends with it.
    pub(crate) fn reap_all(&mut self) -> Option<ExitStatus> {
        let _ = retry_on_intr(|| poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], None));
        // Until it is reaped, its number is nobody else's.
        if self.grouped
            && matches!(
                waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT),
                Ok(Some(_))
            )
        {
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        }
        self.reap()
    }

    /// The output as text; to be called once.
    pub(crate) fn printed(&mut self) -> String {
        let mut bytes = Vec::new();
        // A program that still holds the other end ends the reading with EAGAIN.
        let _ = self.output.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Whether a home directory is root's or the caller's: CRIU takes settings from it (`.criu/default.conf`), of programs to
/// run among them. sudo and su may keep that of somebody else.
pub(crate) fn is_own(home: Option<OsString>) -> bool {
    let own = |home: OsString| {
        let stat = rustix::fs::stat(&home).ok()?;
        let owner = stat.st_uid == 0 || stat.st_uid == rustix::process::geteuid().as_raw();
        Some(owner && stat.st_mode & 0o022 == 0)
    };
    home.and_then(own).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn settings_of_others_are_not_for_criu() {
        let dir = tempfile::tempdir().unwrap();
        assert!(is_own(Some(dir.path().into())));
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(!is_own(Some(dir.path().into())));
        assert!(!is_own(None) && !is_own(Some("/nowhere".into())));
    }
}
