//! sd_notify(3) from inside a container: a socket of the container's own, whose READY is passed on to the host's.
//!
//! The container sees the directory `ROOT/ID/notify` at /run/notify. The process that starts the container makes the socket
//! there, and reads it until the container is ready.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::Duration;

use hiber_sys::channel::send_packet;
use oci_spec::runtime::{MountBuilder, Spec};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::container::task::Task;
use crate::error::{Error, Result};

/// The directory's name below the container's.
pub(crate) const DIR: &str = "notify";
const SOCKET: &str = "notify.sock";
const IN_CONTAINER: &str = "/run/notify";
/// The time limit for systemd to read everything; runc has the same.
const BARRIER: Duration = Duration::from_secs(30);

/// Shows `dir` to the container and tells its process of the socket that will be there.
pub(crate) fn add_to(spec: &mut Spec, dir: &Path) -> Result<()> {
    let options = ["bind", "nosuid", "noexec", "nodev", "ro"].map(String::from);
    let mount = MountBuilder::default()
        .destination(IN_CONTAINER)
        .source(dir)
        .options(options)
        .build()
        .map_err(|e| Error::internal(format!("mount {IN_CONTAINER}"), e))?;
    spec.mounts_mut().get_or_insert_default().push(mount);
    if let Some(process) = spec.process_mut() {
        process.env_mut().get_or_insert_default().push(format!("NOTIFY_SOCKET={IN_CONTAINER}/{SOCKET}"));
    }
    Ok(())
}

/// The container's socket, bound, and the host's.
#[derive(Debug)]
pub struct Notify {
    socket: UnixDatagram,
    host: UnixDatagram,
}

impl Task {
    /// Makes the socket that the container's process will notify; `host` is the path in the caller's own
    /// `NOTIFY_SOCKET`, an abstract one with a leading `@`. None if the container was created without.
    pub fn notify(&self, host: &str) -> Result<Option<Notify>> {
        let path = self.container().entry().path().join(DIR);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(Error::sys("open", path.display().to_string(), e)),
        };
        // Through /proc, because a socket's path is limited to 107 bytes (unix(7)).
        let name = format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd());
        let bound = UnixDatagram::bind(&name).and_then(|socket| {
            std::fs::set_permissions(&name, std::fs::Permissions::from_mode(0o777))?;
            Ok(socket)
        });
        let socket = bound.map_err(|e| Error::file(&path.join(SOCKET), &e))?;
        let to_host = UnixDatagram::unbound().and_then(|client| {
            match host.strip_prefix('@') {
                Some(name) => client.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
                None => client.connect(host)?,
            }
            Ok(client)
        });
        let host = to_host.map_err(|e| Error::file(Path::new(host), &e))?;
        Ok(Some(Notify { socket, host }))
    }
}

impl Notify {
    /// Waits until the container is ready or its first process, `pidfd`, gone. Then reports readiness to the host, with
    /// `main_pid` as the service's process; the host has read both when this returns.
    pub fn forward(&self, pidfd: BorrowedFd<'_>, main_pid: i32) -> Result<()> {
        let failed = |e: std::io::Error| Error::host("talk to the service manager at $NOTIFY_SOCKET", e);
        let mut buffer = [0u8; 4096];
        loop {
            let mut fds = [self.socket.as_fd(), pidfd].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
            match rustix::event::poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(Error::sys("poll", "for the container's notice", e)),
            }
            let [heard, gone] = fds.map(|fd| !fd.revents().is_empty());
            if heard {
                let length = self.socket.recv(&mut buffer).map_err(failed)?;
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                if let Some(ready) = text.lines().find(|line| line.starts_with("READY=")) {
                    self.host.send(format!("{ready}\n").as_bytes()).map_err(failed)?;
                    self.host.send(format!("MAINPID={main_pid}\n").as_bytes()).map_err(failed)?;
                    return self.barrier();
                }
            } else if gone {
                return Ok(());
            }
        }
    }

    /// sd_notify_barrier(3): the host closes the pipe when it has come to this message.
    fn barrier(&self) -> Result<()> {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|e| Error::sys("pipe2", "for the host's acknowledgement", e))?;
        send_packet(&self.host, b"BARRIER=1", &[write.as_fd()], "the notification socket")?;
        drop(write);
        let timeout = Timespec { tv_sec: BARRIER.as_secs() as i64, tv_nsec: 0 };
        // A host that does not acknowledge, or not in time, is no failure of the container's.
        let _ = rustix::event::poll(&mut [PollFd::new(&read, PollFlags::IN)], Some(&timeout));
        Ok(())
    }
}
