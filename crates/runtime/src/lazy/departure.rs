//! The source's side: memory is served until the destination has it all.

use std::fs::File;
use std::io::Write;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Child;

use hiber_criu::{Launch, page_relay};
use hiber_sandbox::wire::Channel;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::retry_on_intr;

use super::{Address, spawn, tune};
use crate::checkpoint::PUBLISHING;
use crate::error::{Error, Result};

/// argv\[1\] of the runtime's binary when it is to serve memory.
pub(super) const ARGUMENT: &str = "memory-departure";

/// The process that serves a dump's memory. Dropped before all of it is gone, it tells CRIU that it has failed.
#[derive(Debug)]
pub(crate) struct Departure {
    child: Child,
    channel: Option<Channel>,
    /// CRIU's configuration, which names the socket: its requests have no place for that.
    config: PathBuf,
}

impl Departure {
    /// Listens at `address` alone and gives the other end to CRIU; CRIU itself would listen at every address of the
    /// host. When the destination has everything, `guard` hears of it just before CRIU. CRIU's
    /// configuration is written to `dir`.
    pub(crate) fn start(
        address: &Address,
        launch: &mut Launch<'_>,
        guard: &OwnedFd,
        dir: &Path,
    ) -> Result<Self> {
        let listener = TcpListener::bind((address.host.as_str(), address.port))
            .map_err(|e| Error::Invalid(format!("--page-server {address}: cannot listen there: {e}")))?;
        let (ours, theirs) = UnixStream::pair().map_err(|e| Error::file("socket pair".as_ref(), &e))?;
        let number = launch.pass(theirs)?;
        let config = dir.join("criu.conf");
        std::fs::write(&config, format!("ps-socket {number}\n")).map_err(|e| Error::file(&config, &e))?;
        let (child, channel) = spawn(ARGUMENT)?;
        let departure = Self { child, channel: Some(channel), config };
        if let Some(channel) = &departure.channel {
            channel.send(&"serve", &[listener.as_fd(), ours.as_fd(), guard.as_fd()])?;
        }
        Ok(departure)
    }

    /// The configuration file that CRIU must be given.
    pub(crate) fn config(&self) -> &Path {
        &self.config
    }
}

impl Drop for Departure {
    fn drop(&mut self) {
        self.channel = None;
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.config);
    }
}

/// The process: the listener, CRIU's socket and the guard's pipe come first.
pub(super) fn run(channel: Channel) {
    let Ok(Some((_, files))) = channel.recv::<String>() else { return };
    let Ok([listener, criu, guard]) = <[OwnedFd; 3]>::try_from(files) else { return };
    let (listener, criu, mut guard) =
        (TcpListener::from(listener), UnixStream::from(criu), File::from(guard));
    let Ok(watched) = criu.try_clone() else { return };
    std::thread::spawn(move || {
        let _ = channel.recv::<String>();
        // The runtime is gone, or done. CRIU must not take our end for the destination's leave.
        let _ = page_relay::fail(&watched);
        std::process::exit(0);
    });
    while connects(&listener, &criu) {
        let Ok((peer, _)) = listener.accept() else { continue };
        let served =
            tune(&peer).and_then(|()| page_relay::serve(&criu, &peer, || guard.write_all(&[PUBLISHING])));
        if !matches!(served, Ok(None)) {
            return;
        }
    }
}

/// Waits for a peer; false once CRIU has gone.
fn connects(listener: &TcpListener, criu: &UnixStream) -> bool {
    let mut ready = [listener.as_fd(), criu.as_fd()].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    retry_on_intr(|| poll(&mut ready, None)).is_ok() && ready[1].revents().is_empty()
}
