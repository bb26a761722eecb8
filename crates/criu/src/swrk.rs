//! The criu process behind a session.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use command_fds::CommandFdExt as _;
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::locate::{Criu, search_path};

/// How much of what the process printed is read: its end.
const MAX_OUTPUT: usize = 64 * 1024;

/// A running `criu swrk`, in a mode made for clients of this kind: one connection, then the end.
#[derive(Debug)]
pub(crate) struct Swrk {
    pub(crate) criu: PathBuf,
    child: Child,
    /// Readable once the process has ended.
    pub(crate) pidfd: OwnedFd,
    /// What it and the programs that it runs print. A memory file, unlike a pipe, never makes them wait.
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
    ) -> io::Result<Self> {
        let output = memory_file()?;
        let number = socket.as_raw_fd().to_string();
        let mut inherited = files;
        inherited.push(socket);
        let child = Command::new(criu.path())
            .args(["swrk", &number])
            .env("PATH", search_path(std::env::var_os("PATH")))
            .stdin(stdin.map_or_else(Stdio::null, Stdio::from))
            .stdout(output.try_clone()?)
            .stderr(output.try_clone()?)
            .preserved_fds(inherited)
            .spawn()?;
        let pid = Pid::from_child(&child);
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Self { criu: criu.path().into(), child, pidfd, output }),
            Err(e) => {
                // Its socket is closed already: it ends by itself.
                let mut child = child;
                let _ = child.wait();
                Err(e.into())
            }
        }
    }

    /// Waits for the end of the process, whose socket must have been closed; `None` if another part of
    /// this program has reaped it.
    pub(crate) fn reap(&mut self) -> Option<ExitStatus> {
        self.child.wait().ok()
    }

    /// The end of what was printed, as text.
    pub(crate) fn printed(&self) -> String {
        let len = self.output.metadata().map_or(0, |m| m.len());
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(MAX_OUTPUT).min(MAX_OUTPUT)];
        let start = len - bytes.len() as u64;
        match self.output.read_exact_at(&mut bytes, start) {
            Ok(()) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(_) => String::new(),
        }
    }
}

fn memory_file() -> io::Result<File> {
    // Kernels before 6.3 do not know the flag; later ones may be told to demand it (vm.memfd_noexec).
    let flags = MemfdFlags::CLOEXEC;
    let file = match rustix::fs::memfd_create("criu-output", flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => rustix::fs::memfd_create("criu-output", flags),
        other => other,
    }?;
    Ok(file.into())
}
