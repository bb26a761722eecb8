//! A socket that listens: each connection gets a process of its own, which is this program with the same arguments and
//! `--accepted`, and outlives the listener if it must.

use std::ffi::OsString;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};

use crate::output::out;

/// The flag of the process that a connection gets.
pub(crate) const ACCEPTED: &str = "accepted";
/// Connections that are served at once; more wait in the kernel.
const AT_ONCE: usize = 64;
/// How long nothing is accepted after that has failed.
const BREATH: Duration = Duration::from_millis(100);

/// Listens at `address` until SIGTERM or SIGINT. Then it accepts nothing more and ends with the last connection, or at the
/// second signal; the processes of the connections are left to themselves.
pub(crate) fn listen(address: &str) -> anyhow::Result<()> {
    let what = || format!("--listen {address}: expected ADDRESS:PORT");
    let listener = TcpListener::bind(address).with_context(what)?;
    listener.set_nonblocking(true)?;
    let mut serving = Serving { signals: signals()?, children: Vec::new(), asked_to_end: 0 };
    out::write(&format!("listening at {}\n", listener.local_addr()?))?;
    while serving.asked_to_end == 0 {
        if serving.wait(Some(&listener))? {
            serving.accept(&listener);
        }
    }
    drop(listener);
    while serving.asked_to_end < 2 && !serving.children.is_empty() {
        serving.wait(None)?;
    }
    Ok(())
}

/// Makes this process one that [`listen`] has started, and returns its connection.
pub(crate) fn accepted() -> anyhow::Result<TcpStream> {
    SigSet::empty().thread_set_mask().context("unblock signals")?;
    // A terminal's signals are for the listener.
    let _ = rustix::process::setsid();
    let socket = std::io::stdin().as_fd().try_clone_to_owned().context("duplicate standard input")?;
    // Programs that this one starts must not hold the connection open.
    let null = std::fs::File::open("/dev/null").context("/dev/null")?;
    rustix::stdio::dup2_stdin(&null).context("replace standard input")?;
    Ok(TcpStream::from(socket))
}

fn signals() -> anyhow::Result<SignalFd> {
    let mut set = SigSet::empty();
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD].into_iter().for_each(|signal| set.add(signal));
    set.thread_block().context("block signals")?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).context("signalfd")
}

struct Serving {
    signals: SignalFd,
    children: Vec<Child>,
    /// How many signals have asked for the end.
    asked_to_end: usize,
}

impl Serving {
    /// Waits for signals, and for a connection where there is room for one; whether there is one.
    fn wait(&mut self, listener: Option<&TcpListener>) -> anyhow::Result<bool> {
        let signals = self.signals.as_fd();
        let mut fds = vec![PollFd::from_borrowed_fd(signals, PollFlags::IN)];
        let listener = listener.filter(|_| self.children.len() < AT_ONCE);
        fds.extend(listener.map(|listener| PollFd::new(listener, PollFlags::IN)));
        rustix::io::retry_on_intr(|| poll(&mut fds, None)).context("poll")?;
        let connected = fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
        while let Some(info) = self.signals.read_signal().context("read a signal")? {
            if info.ssi_signo == Signal::SIGCHLD as u32 {
                self.children.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
            } else {
                self.asked_to_end += 1;
            }
        }
        Ok(connected)
    }

    fn accept(&mut self, listener: &TcpListener) {
        let started = listener.accept().and_then(|(socket, _)| start(socket));
        match started {
            Ok(child) => self.children.push(child),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            // One connection less; and where all fail, no processor is kept busy.
            Err(e) => {
                tracing::warn!("accept a connection: {e}");
                std::thread::sleep(BREATH);
            }
        }
    }
}

fn start(socket: TcpStream) -> std::io::Result<Child> {
    socket.set_nonblocking(false)?;
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    // Nothing but flags comes before an end of flags.
    let arguments = arguments.filter(|argument| argument != "--");
    Command::new("/proc/self/exe")
        .arg0(name)
        .args(arguments)
        .arg(OsString::from(format!("--{ACCEPTED}")))
        .stdin(Stdio::from(OwnedFd::from(socket)))
        .stdout(Stdio::null())
        .spawn()
}
