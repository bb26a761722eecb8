//! The files that a restored container has from its caller.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use hiber_criu::InheritFd;
use hiber_sys::channel::send_packet;

use super::Restoring;
use crate::checkpoint::joined;
use crate::error::{Context, Error, Result};

impl Restoring<'_> {
    pub(super) fn send_console(&self, master: &OwnedFd) -> Result<()> {
        let Some(socket) = self.wired.console() else {
            let why = "the container has a terminal: restore it with --console-socket, or in the foreground";
            return Err(Error::Invalid(why.into()));
        };
        Ok(send_packet(socket, b"/dev/ptmx", &[master.as_fd()], "the console socket")?)
    }

    /// The container's streams, where they are not a terminal's.
    pub(super) fn stdio(&self) -> [BorrowedFd<'_>; 3] {
        let own = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
        self.wired.files().unwrap_or(own)
    }

    /// New pipes under the names of the old ones, and the namespaces that the container joined.
    pub(super) fn inherit(
        &self,
        launch: &mut hiber_criu::Launch<'_>,
        inherited: &mut Vec<InheritFd>,
    ) -> Result<()> {
        let stdio = self.stdio();
        if self.request.criu_options.shell_job == Some(true) {
            // The terminal that CRIU gives to the tasks of such a job.
            let copy =
                stdio[0].try_clone_to_owned().map_err(|e| Error::host("duplicate standard input", e))?;
            launch.stdin(copy);
        }
        self.request.inherit(stdio, launch, inherited)?;
        for (kind, key, path) in joined(&self.request.prepared.spec) {
            let file = File::open(&path)
                .map_err(|e| Error::file(&path, &e))
                .context(format!("open the {kind} namespace of linux.namespaces"))?;
            inherited.push(InheritFd { key: key.to_owned(), fd: launch.pass(file)? });
        }
        Ok(())
    }
}
