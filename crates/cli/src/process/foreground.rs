//! Staying with a process in the foreground: forward signals, carry its terminal, reap, return its status.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::Context;
use hiber::Process;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions};
use rustix::termios::{OptionalActions, OutputModes, Termios};

/// All signals, blocked and readable. To be made before the process, whose death must not be missed.
pub(crate) struct Signals(SignalFd);

impl Signals {
    pub(crate) fn block() -> anyhow::Result<Self> {
        let all = SigSet::all();
        all.thread_block().context("block signals")?;
        let fd =
            SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).context("signalfd")?;
        Ok(Self(fd))
    }
}

/// The terminal of a foreground process, joined to the caller's.
pub(crate) struct Console {
    master: OwnedFd,
    /// The caller's terminal and its settings before.
    host: Option<(OwnedFd, Termios)>,
    /// Input that the container has not taken yet.
    pending: Vec<u8>,
    stdin_open: bool,
}

impl Console {
    /// The terminal of `process`, if that has one here; sets the caller's terminal raw.
    pub(crate) fn of(process: &Process) -> anyhow::Result<Option<Self>> {
        process.terminal().map(Self::new).transpose()
    }

    fn new(master: BorrowedFd<'_>) -> anyhow::Result<Self> {
        let master = master.try_clone_to_owned().context("duplicate the container's terminal")?;
        // The caller's terminal adds its own carriage returns where it is not raw.
        let mut settings = rustix::termios::tcgetattr(&master).context("tcgetattr")?;
        settings.output_modes.remove(OutputModes::ONLCR);
        rustix::termios::tcsetattr(&master, OptionalActions::Now, &settings).context("tcsetattr")?;
        rustix::io::ioctl_fionbio(&master, true).context("FIONBIO")?;
        let mut console = Self { master, host: host_terminal(), pending: Vec::new(), stdin_open: true };
        console.resize();
        if let Some((host, before)) = &mut console.host {
            let mut raw = before.clone();
            raw.make_raw();
            rustix::termios::tcsetattr(host, OptionalActions::Now, &raw).context("set the terminal raw")?;
        }
        Ok(console)
    }

    /// Gives the container's terminal the size of the caller's.
    fn resize(&self) {
        if let Some((host, _)) = &self.host
            && let Ok(size) = rustix::termios::tcgetwinsize(host)
        {
            let _ = rustix::termios::tcsetwinsize(&self.master, size);
        }
    }

    /// Moves what can be moved without waiting; false when the container's side is closed.
    fn pump(&mut self, input: bool, output: bool) -> bool {
        let mut buffer = [0u8; 8192];
        if input && self.pending.is_empty() {
            match rustix::io::read(rustix::stdio::stdin(), &mut buffer) {
                Ok(0) | Err(_) => self.stdin_open = false,
                Ok(n) => self.pending.extend_from_slice(&buffer[..n]),
            }
        }
        if !self.pending.is_empty()
            && let Ok(n) = rustix::io::write(&self.master, &self.pending)
        {
            self.pending.drain(..n);
        }
        if !output {
            return true;
        }
        match rustix::io::read(&self.master, &mut buffer) {
            Ok(0) => false,
            Ok(n) => write_all(rustix::stdio::stdout(), &buffer[..n]),
            Err(e) => e == Errno::AGAIN || e == Errno::INTR, // EIO: no slave is open any more
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        if let Some((host, before)) = &self.host {
            let _ = rustix::termios::tcsetattr(host, OptionalActions::Drain, before);
        }
    }
}

/// The first of the standard streams that is a terminal, else the controlling one.
fn host_terminal() -> Option<(OwnedFd, Termios)> {
    let open = || std::fs::File::options().read(true).write(true).open("/dev/tty").ok().map(OwnedFd::from);
    let streams = [rustix::stdio::stderr(), rustix::stdio::stdout(), rustix::stdio::stdin()];
    let fd = streams
        .into_iter()
        .find(|fd| rustix::termios::isatty(fd))
        .and_then(|fd| fd.try_clone_to_owned().ok())
        .or_else(open)?;
    let settings = rustix::termios::tcgetattr(&fd).ok()?;
    Some((fd, settings))
}

fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let _ = rustix::event::poll(&mut [PollFd::new(&to, PollFlags::OUT)], None);
            }
            Err(_) => return false,
        }
    }
    true
}

/// Stays until the process, a child, is dead; returns its status as a shell does (128 + signal). `send` passes signals on to it.
pub(crate) fn attend(
    process: &Process,
    signals: &Signals,
    mut console: Option<Console>,
    send: &dyn Fn(hiber_sys::signal::Signal),
) -> anyhow::Result<u8> {
    loop {
        let (signalled, input, output) = wait(signals, console.as_ref())?;
        if let Some(c) = &mut console
            && !c.pump(input, output)
        {
            console = None;
        }
        if !signalled {
            continue;
        }
        while let Some(info) = signals.0.read_signal().context("read a signal")? {
            match Signal::try_from(info.ssi_signo as i32) {
                Ok(Signal::SIGCHLD) => {
                    if let Some(status) = reap(process.pid())? {
                        drain(console);
                        return Ok(status);
                    }
                }
                Ok(Signal::SIGWINCH) if console.is_some() => {
                    if let Some(c) = &console {
                        c.resize();
                    }
                }
                _ => forward(send, info.ssi_signo),
            }
        }
    }
}

/// Waits for something to do: signals, input, output.
fn wait(signals: &Signals, console: Option<&Console>) -> anyhow::Result<(bool, bool, bool)> {
    let stdin = rustix::stdio::stdin();
    let signal_fd = signals.0.as_fd();
    let mut fds = vec![PollFd::new(&signal_fd, PollFlags::IN)];
    let mut input_at = None;
    if let Some(c) = console {
        let wanted = if c.pending.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
        fds.push(PollFd::new(&c.master, wanted));
        if c.stdin_open && c.pending.is_empty() {
            input_at = Some(fds.len());
            fds.push(PollFd::new(&stdin, PollFlags::IN));
        }
    }
    match rustix::event::poll(&mut fds, None) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(e) => return Err(e).context("poll"),
    }
    let ready = |at: usize| fds.get(at).is_some_and(|f| !f.revents().is_empty());
    Ok((ready(0), input_at.is_some_and(ready), ready(1)))
}

fn forward(send: &dyn Fn(hiber_sys::signal::Signal), number: u32) {
    let signal = i32::try_from(number).ok().and_then(hiber_sys::signal::Signal::new);
    // The process may just have died: its SIGCHLD says so.
    signal.map(send);
}

/// Reaps everything that is dead, also what was orphaned to us as subreaper; the status of `pid` if it was there.
fn reap(pid: i32) -> anyhow::Result<Option<u8>> {
    let mut found = None;
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((dead, status))) if Some(dead) == Pid::from_raw(pid) => {
                let code = status.exit_status().or(status.terminating_signal().map(|s| 128 + s));
                found = Some(code.unwrap_or(255) as u8);
            }
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) | Err(Errno::CHILD) => return Ok(found),
            Err(e) => return Err(e).context("waitpid"),
        }
    }
}

/// The last output of the dead process.
fn drain(console: Option<Console>) {
    let Some(mut console) = console else { return };
    let mut buffer = [0u8; 8192];
    while let Ok(n) = rustix::io::read(&console.master, &mut buffer) {
        if n == 0 || !write_all(rustix::stdio::stdout(), &buffer[..n]) {
            break;
        }
    }
    console.stdin_open = false;
}

/// Becomes the parent of processes that lose theirs, so that they can be waited for.
pub(crate) fn become_subreaper() {
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
}

/// Connects to a `--console-socket`.
pub(crate) fn connect_console(path: &Path) -> anyhow::Result<OwnedFd> {
    let socket = UnixStream::connect(path)
        .with_context(|| format!("connect to the console socket {}", path.display()))?;
    Ok(socket.into())
}
