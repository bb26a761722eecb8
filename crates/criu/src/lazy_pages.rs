//! CRIU's lazy-pages daemon: it brings the memory of restored tasks when they use it, and meanwhile all the rest.

use std::io::Read as _;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use command_fds::CommandFdExt as _;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::diagnose::diagnose;
use crate::error::{CriuError, Result};
use crate::locate::search_path;
use crate::swrk::is_own;

/// The socket in the work directory where a restore finds the daemon.
const SOCKET: &str = "lazy-pages.socket";
const LOG: &str = "lazy-pages.log";

/// A running daemon; killed when dropped.
#[derive(Debug)]
pub struct LazyPages {
    child: Child,
    /// Readable once the process has ended.
    pidfd: OwnedFd,
    log: PathBuf,
    socket: PathBuf,
}

impl LazyPages {
    /// Starts the daemon of `criu` for a restore from the images in `images` with the work directory `work`, and waits
    /// until the restore can find it. It asks for pages over `source`.
    ///
    /// # Errors
    /// If it does not start, with what its log says: no userfaultfd, broken images.
    pub fn start(criu: &Path, images: &Path, work: &Path, source: UnixStream) -> Result<Self> {
        let socket = work.join(SOCKET);
        // Left by a daemon that was killed; one that lives would not get our restore's tasks anyway.
        let _ = std::fs::remove_file(&socket);
        let (mut ready, status) = std::io::pipe().map_err(|e| CriuError::io("make a pipe", e))?;
        let (source, status) = (OwnedFd::from(source), OwnedFd::from(status));
        let [page_socket, status_fd] = [&source, &status].map(|fd| fd.as_raw_fd().to_string());
        let mut command = Command::new(criu);
        command.args(["lazy-pages", "--page-server", "--ps-socket", &page_socket, "--status-fd", &status_fd]);
        command.args(["-v4", "--log-file", LOG, "--images-dir"]).arg(images).arg("--work-dir").arg(work);
        command.env("PATH", search_path(std::env::var_os("PATH")));
        if !is_own(std::env::var_os("HOME")) {
            command.env_remove("HOME");
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.preserved_fds(vec![source, status]);
        let child =
            command.spawn().map_err(|e| CriuError::io(format!("start {} lazy-pages", criu.display()), e))?;
        // Its ends are its own alone now.
        drop(command);
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())
            .map_err(|e| CriuError::io("open a pidfd of criu lazy-pages", e))?;
        let mut daemon = Self { child, pidfd, log: work.join(LOG), socket };
        match ready.read(&mut [0]) {
            Ok(1) => Ok(daemon),
            _ => {
                let _ = daemon.child.wait();
                Err(CriuError::LazyPages { reason: daemon.reason(), log: daemon.log.clone() })
            }
        }
    }

    /// Waits for its end, which is a success once all memory is there.
    ///
    /// # Errors
    /// With what its log says.
    pub fn wait(&mut self) -> Result<()> {
        let ended = self.child.wait().map_err(|e| CriuError::io("wait for criu lazy-pages", e))?;
        if ended.success() {
            return Ok(());
        }
        Err(CriuError::LazyPages { reason: self.how(ended), log: self.log.clone() })
    }

    /// A pidfd of it.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    fn how(&self, ended: ExitStatus) -> String {
        if ended.code().is_some() { self.reason() } else { ended.to_string() }
    }

    fn reason(&self) -> String {
        let lines = diagnose(&self.log).map(|found| found.lines).unwrap_or_default();
        lines.into_iter().next().unwrap_or_else(|| "it gave no reason".into())
    }
}

impl Drop for LazyPages {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.socket);
    }
}
