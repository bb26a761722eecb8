//! The shim itself: its socket, its signals, its children, and its end.

use std::collections::HashMap;
use std::os::fd::{AsFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use containerd_shim_protos::ttrpc::Server;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions};

use crate::args::Args;
use crate::error::{Context, Error, Result, chain};
use crate::publish::{Destination, Publisher};
use crate::rpc;
use crate::service::Service;

/// How long an orphan may be dead before it is reaped here: the runtime waits for its own children at once.
const ORPHAN: Duration = Duration::from_secs(5);
/// How long answers that are on their way may take.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// Serves until the last container is gone and containerd says so, or a signal asks for the end.
pub(crate) fn serve(args: &Args) -> Result<()> {
    let socket = args.socket.as_deref().ok_or(Error::invalid("-socket", "is missing"))?;
    // Without its log the shim works as well; there is nobody to be told.
    let _ = crate::log::to_fifo(Path::new("log"), args.debug);
    let listener = take_listener()?;
    // The bundle is deleted before the shim ends, and others' containers may be served then.
    #[expect(clippy::disallowed_methods, reason = "before there are other threads")]
    std::env::set_current_dir("/").context("chdir to /")?;
    let signals = block_signals()?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).context("become subreaper")?;

    let stop = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
    let stop = Arc::new(stop.context("eventfd")?);
    let publisher = Publisher::start(&args.namespace, destination(args))?;
    let stopper = Arc::clone(&stop);
    let ask_to_stop = move || {
        // An eventfd takes 1.
        let _ = rustix::io::write(&*stopper, &1u64.to_ne_bytes());
    };
    let service = Service::start(&args.namespace, publisher, ask_to_stop)?;
    let failed = |e: containerd_shim_protos::ttrpc::Error| Error::State(format!("serve: {e}"));
    let mut server = Server::new()
        .add_listener(listener.into_raw_fd())
        .map_err(failed)?
        .register_service(rpc::methods(&service));
    server.start().map_err(failed)?;
    tracing::debug!("serving {} at {}", args.id, socket.display());

    let ended = live(&signals, &stop);
    // No new client from here on; one that has just connected starts another shim.
    if let Err(e) = std::fs::remove_file(socket) {
        tracing::warn!("{}: {e}", socket.display());
    }
    finish_answers(server);
    service.finish();
    ended
}

/// The socket is standard input, which becomes /dev/null.
fn take_listener() -> Result<UnixListener> {
    let socket: OwnedFd =
        rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).context("duplicate the socket")?;
    let listener = UnixListener::from(socket);
    listener.local_addr().map_err(|e| Error::invalid("standard input", format!("is no socket: {e}")))?;
    listener.set_nonblocking(true).context("set the socket non-blocking")?;
    let null = std::fs::File::open("/dev/null").context("/dev/null")?;
    rustix::stdio::dup2_stdin(null).context("dup2")?;
    Ok(listener)
}

fn destination(args: &Args) -> Destination {
    match std::env::var("TTRPC_ADDRESS") {
        Ok(address) if !address.is_empty() => Destination::Ttrpc(address),
        _ => Destination::Program(args.publish_binary.clone(), args.address.clone()),
    }
}

/// The signals that are read; blocked in this thread, and in those that it will start.
fn block_signals() -> Result<SignalFd> {
    let set = SigSet::from_iter([Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT]);
    set.thread_block().map_err(std::io::Error::from).context("block signals")?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(std::io::Error::from)
        .context("signalfd")
}

/// Reaps orphans until the end is asked for.
fn live(signals: &SignalFd, stop: &OwnedFd) -> Result<()> {
    let mut orphans = Orphans::default();
    loop {
        let timeout = orphans
            .next()
            .map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() });
        let mut fds =
            [PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e).context("poll"),
        }
        if !fds[1].revents().is_empty() {
            return Ok(());
        }
        while let Some(info) = signals.read_signal().map_err(std::io::Error::from).context("read a signal")? {
            if info.ssi_signo != Signal::SIGCHLD as u32 {
                // As runc's shim: the containers live on, and containerd clears up.
                tracing::info!("signal {} ends the shim", info.ssi_signo);
                return Ok(());
            }
        }
        orphans.reap();
    }
}

/// Children that nobody in this process waits for: processes of containers whose parents have died, where no pid
/// namespace has a first process for them.
#[derive(Default)]
struct Orphans {
    /// When each was first seen dead.
    dead: HashMap<i32, Instant>,
}

impl Orphans {
    /// When to look again, as long as there is one.
    fn next(&self) -> Option<Duration> {
        let oldest = self.dead.values().min()?;
        Some(ORPHAN.saturating_sub(oldest.elapsed()))
    }

    /// Reaps those that were dead long enough. Those who wait for a child of theirs have done so by then.
    fn reap(&mut self) {
        let now = Instant::now();
        let dead = dead_children();
        self.dead.retain(|pid, _| dead.contains(pid));
        for pid in dead {
            let since = *self.dead.entry(pid).or_insert(now);
            if now.duration_since(since) >= ORPHAN
                && let Some(child) = Pid::from_raw(pid)
            {
                let _ = rustix::process::waitid(
                    WaitId::Pid(child),
                    WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
                );
                self.dead.remove(&pid);
            }
        }
    }
}

/// Zombies among this process's children (proc_tid_children(5), proc_pid_stat(5)).
fn dead_children() -> Vec<i32> {
    let read = |path: String| std::fs::read_to_string(path).unwrap_or_default();
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = threads.map(|thread| read(format!("{}/children", thread.path().display())));
    let children = lists.flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    let is_dead = |pid: &String| hiber_sys::procfs::stat(pid, |stat| stat.field(3)).flatten() == Some('Z');
    children.filter(is_dead).filter_map(|pid| pid.parse().ok()).collect()
}

/// Lets answers reach their clients. The server waits for its clients' threads, one of which may be stuck in an
/// operation: then it is left behind.
fn finish_answers(server: Server) {
    let (done, finished) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::Builder::new().spawn(move || {
        server.shutdown();
        drop(done);
    });
    match thread {
        Ok(_) => drop(finished.recv_timeout(LAST_ANSWERS)),
        Err(e) => tracing::warn!("answers may be lost: {}", chain(&e)),
    }
}
