//! The terminal of a container's process.

use std::os::fd::{AsFd, OwnedFd};

use rustix::termios::Winsize;

use crate::plan::ProcessPlan;
use crate::rootfs::devices;
use crate::rootfs::resolve::Root;
use crate::{Result, SysError, ids};
use hiber_sys::channel::send_packet;
use hiber_sys::ioctl;

/// The slave end of a new pseudoterminal, whose master is already on its way to the client.
pub(super) struct Terminal {
    slave: OwnedFd,
}

impl Terminal {
    /// Opens a pseudoterminal of the container's devpts, shows it as /dev/console if `console`, and sends the
    /// master over `socket`.
    pub(super) fn open(root: &Root, process: &ProcessPlan, socket: &OwnedFd, console: bool) -> Result<Self> {
        let (master, slave) = devices::open_terminal(root)?;
        if console {
            devices::bind_console(root, &slave)?;
        }
        if let Some((rows, columns)) = process.console_size {
            let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
            rustix::termios::tcsetwinsize(&slave, size)
                .map_err(|e| SysError::new("ioctl", "TIOCSWINSZ", e.raw_os_error()))?;
        }
        // The payload is the terminal's name, as containerd's console library and podman's conmon expect some.
        send_packet(socket, b"/dev/ptmx", &[master.as_fd()], "the console socket")?;
        Ok(Self { slave })
    }

    /// Makes it the controlling terminal and the three standard streams.
    pub(super) fn attach(self, process: &ProcessPlan) -> Result<()> {
        // As devpts would have done had the user opened it; group tty is the mount's gid= option.
        ids::uid(process.uid)
            .and_then(|uid| rustix::fs::fchown(&self.slave, Some(uid), None))
            .map_err(|e| SysError::new("fchown", "the terminal", e.raw_os_error()))?;
        ioctl::set_controlling_terminal(self.slave.as_fd())?;
        let dup = |r: rustix::io::Result<()>| {
            r.map_err(|e| SysError::new("dup2", "the terminal", e.raw_os_error()))
        };
        dup(rustix::stdio::dup2_stdin(&self.slave))?;
        dup(rustix::stdio::dup2_stdout(&self.slave))?;
        dup(rustix::stdio::dup2_stderr(&self.slave))?;
        Ok(())
    }
}
