//! The criu process behind a session.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::ExitStatus;

use hiber_sys::clone::{Birthplace, Born, Child, Program, start};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::{fcntl_dupfd_cloexec, retry_on_intr};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, kill_process_group, pidfd_send_signal, waitid, waitpid,
};

use crate::locate::{Criu, search_path};

/// A running `criu swrk`, in a mode made for clients of this kind: one connection, then the end.
#[derive(Debug)]
pub(crate) struct Swrk {
    pub(crate) criu: PathBuf,
    child: Child,
    /// Whether it leads a process group.
    grouped: bool,
    /// How it has ended, once it is reaped: `None` if another part of this program has done that.
    reaped: Option<Option<ExitStatus>>,
    /// The output of CRIU and of the programs that it runs. Neither end of the pipe blocks: output that does not fit (64 KiB) is
    /// lost, and the first lines tell most.
    output: File,
}

/// All that a criu process is given at its start.
pub(crate) struct Given {
    /// The end of its conversation.
    pub(crate) socket: OwnedFd,
    /// Its standard input; /dev/null if not given.
    pub(crate) stdin: Option<OwnedFd>,
    /// Files that it inherits under the numbers that they have here.
    pub(crate) files: Vec<OwnedFd>,
    /// The first directory in its PATH.
    pub(crate) programs: Option<PathBuf>,
    /// Further variables.
    pub(crate) environment: Vec<(&'static str, &'static str)>,
    /// The cgroups to be born in.
    pub(crate) birthplace: Option<Birthplace>,
}

impl Given {
    /// The environment, as `NAME=VALUE`.
    fn environment(&self) -> Vec<CString> {
        let mut all: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
        let mut path = self.programs.clone().map(PathBuf::into_os_string).unwrap_or_default();
        if !path.is_empty() {
            path.push(":");
        }
        path.push(search_path(all.get(OsStr::new("PATH")).cloned()));
        all.insert("PATH".into(), path);
        if !is_own(all.get(OsStr::new("HOME")).cloned()) {
            all.remove(OsStr::new("HOME"));
        }
        all.extend(self.environment.iter().map(|(name, value)| (name.into(), value.into())));
        let entry = |(mut name, value): (OsString, OsString)| {
            name.push("=");
            name.push(value);
            CString::new(name.into_vec()).ok()
        };
        all.into_iter().filter_map(entry).collect()
    }
}

impl Swrk {
    /// Runs `criu swrk`. Tells, too, whether it was born in the cgroups that it was to be born in.
    pub(crate) fn spawn(criu: &Criu, mut given: Given) -> io::Result<(Self, bool)> {
        let (output, printer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let env = given.environment();
        // A process with a terminal stays in the terminal's group; others have one of their own, so that their children can be ended with
        // them.
        let grouped = given.stdin.is_none();
        let stdin = match given.stdin.take() {
            Some(stdin) => stdin,
            None => rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?,
        };
        let (stdin, printer) = (above_standard(stdin)?, above_standard(printer)?);
        let socket = above_standard(given.socket)?;
        let argv = [c"criu".into(), c"swrk".into(), CString::new(socket.as_raw_fd().to_string())?];
        let mut inherited = given.files;
        inherited.push(socket);
        let path = CString::new(criu.path().to_owned().into_os_string().into_vec())?;
        let program = |birthplace| Program {
            path: &path,
            argv: &argv,
            env: &env,
            stdio: [stdin.as_fd(), printer.as_fd(), printer.as_fd()],
            inherited: &inherited,
            leads_group: grouped,
            birthplace,
        };
        let started = match &given.birthplace {
            // It can still be moved there.
            Some(place) => start(&program(Some(place))).or_else(|_| start(&program(None))),
            None => start(&program(None)),
        };
        let Born { child, placed } = started.map_err(|e| io::Error::from_raw_os_error(e.errno))?;
        let swrk = Self { criu: criu.path().into(), child, grouped, reaped: None, output: output.into() };
        Ok((swrk, placed))
    }

    /// The process's id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.pid.unsigned_abs()
    }

    /// Readable once the process has ended.
    pub(crate) fn pidfd(&self) -> &OwnedFd {
        &self.child.pidfd
    }

    /// Ends the process, whatever it does.
    pub(crate) fn kill(&self) {
        let _ = pidfd_send_signal(&self.child.pidfd, Signal::KILL);
    }

    /// Waits for the end of the process, whose socket must have been closed; `None` if another part of
    /// this program has reaped it.
    pub(crate) fn reap(&mut self) -> Option<ExitStatus> {
        let child = Pid::from_raw(self.child.pid)?;
        *self.reaped.get_or_insert_with(|| {
            let waited = retry_on_intr(|| waitpid(Some(child), WaitOptions::empty()));
            waited.ok().flatten().map(|(_, status)| ExitStatus::from_raw(status.as_raw()))
        })
    }

    /// As [`reap`](Self::reap), of one that has failed or was killed: what it has left of its own children ends with it.
    pub(crate) fn reap_all(&mut self) -> Option<ExitStatus> {
        let _ = retry_on_intr(|| poll(&mut [PollFd::new(&self.child.pidfd, PollFlags::IN)], None));
        // Until it is reaped, its number is nobody else's.
        if self.grouped
            && matches!(
                waitid(
                    WaitId::PidFd(self.child.pidfd.as_fd()),
                    WaitIdOptions::EXITED | WaitIdOptions::NOWAIT
                ),
                Ok(Some(_))
            )
        {
            let _ = Pid::from_raw(self.child.pid).map(|group| kill_process_group(group, Signal::KILL));
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

/// The file under a number that is none of a standard stream's: in the criu process those mean its own.
pub(crate) fn above_standard(file: OwnedFd) -> rustix::io::Result<OwnedFd> {
    if file.as_raw_fd() < 3 { fcntl_dupfd_cloexec(&file, 3) } else { Ok(file) }
}

/// A criu process whose conversation is over. Dropping this waits for the process's end, which takes half a millisecond; the caller
/// may have something to do meanwhile.
#[derive(Debug)]
pub struct Ending(pub(crate) Option<Swrk>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.as_mut().and_then(Swrk::reap);
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
