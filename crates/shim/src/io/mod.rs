//! A process's standard streams: pipes or a terminal on the container's side, and on the other what the client
//! asked for: FIFOs, files, or a program that logs.
//!
//! The container never holds a client's FIFO itself: CRIU could not checkpoint it, and a client that goes away
//! would break it.

mod copy;
mod logger;
mod owner;
mod uri;

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustix::event::EventfdFlags;
use rustix::fs::{FileType, Mode, OFlags};

use crate::error::{Context, Error, Result};
use copy::{Copying, Progress};
use logger::Logger;
pub(crate) use owner::Owner;
use owner::pipe;
pub(crate) use uri::Stdio;
use uri::Target;

/// How long what a dead process has written may take to be read.
const DRAIN: Duration = Duration::from_secs(2);

/// The streams of a process that lives, or has lived.
#[derive(Debug)]
pub(crate) struct Streams {
    /// Ends the copying when written to; the threads that copy have it, too.
    cancel: Weak<OwnedFd>,
    /// Keeps that, and output that nobody reads yet.
    kept: Option<Kept>,
    /// Disconnected when all output is copied.
    outputs: Receiver<()>,
    /// Of each output that is copied.
    progress: Vec<Progress>,
    /// Keeps the FIFO of standard input from ending when a client leaves.
    stdin: Option<OwnedFd>,
    logger: Option<Logger>,
}

#[derive(Debug)]
struct Kept {
    _cancel: Arc<OwnedFd>,
    /// The reading ends of FIFOs for output, so that these do not break when a client leaves.
    outputs: Vec<OwnedFd>,
}

/// The streams for starting a process.
#[derive(Debug)]
pub(crate) struct OpenStreams {
    streams: Streams,
    /// The container's ends of the pipes, in the order of their numbers.
    stdio: Option<[OwnedFd; 3]>,
    terminal: Option<Terminal>,
}

/// The streams to which a later terminal is joined.
#[derive(Debug)]
struct Terminal {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    copying: Copying,
}

impl OpenStreams {
    /// Opens what the client named. The pipes' copying begins at once and ends with the container's ends.
    pub(crate) fn open(stdio: &Stdio, owner: Owner<'_>) -> Result<Self> {
        let cancel = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let (done, outputs) = channel();
        let cancel = Arc::new(cancel.context("eventfd")?);
        let copying = Copying { cancel: Arc::clone(&cancel), done };
        let weak = Arc::downgrade(&cancel);
        let kept = Some(Kept { _cancel: cancel, outputs: Vec::new() });
        let progress = Vec::new();
        let mut streams = Streams { cancel: weak, kept, outputs, progress, stdin: None, logger: None };
        let stdout = Target::parse("stdout", &stdio.stdout)?;
        let stderr = Target::parse("stderr", &stdio.stderr)?;
        if stdio.terminal {
            let stdin = streams.open_stdin(&stdio.stdin)?;
            let stdout = streams.output("stdout", &stdout, owner)?;
            let terminal = Some(Terminal { stdin, stdout, copying });
            return Ok(Self { streams, stdio: None, terminal });
        }
        let stdin = streams.input(&stdio.stdin, owner, &copying)?;
        let (stdout, stderr) = streams.outputs(&stdout, &stderr, owner, &copying)?;
        Ok(Self { streams, stdio: Some([stdin, stdout, stderr]), terminal: None })
    }

    /// The streams of the process.
    pub(crate) fn stdio(&self) -> hiber::Stdio<'_> {
        match &self.stdio {
            Some(files) => hiber::Stdio::Files(files.each_ref().map(AsFd::as_fd)),
            None => hiber::Stdio::Terminal,
        }
    }

    /// The process is there: the container's ends are its own, and its terminal is joined to the client's files.
    pub(crate) fn started(self, process: &hiber::Process) -> Result<Streams> {
        let Self { mut streams, stdio, terminal } = self;
        drop(stdio);
        let (Some(Terminal { stdin, stdout, copying }), Some(master)) = (terminal, process.terminal()) else {
            return Ok(streams);
        };
        rustix::io::ioctl_fionbio(master, true).context("FIONBIO")?;
        let duplicate = || master.try_clone_to_owned().context("dup");
        if let Some(stdout) = stdout {
            streams.progress.push(copying.output(duplicate()?, stdout)?);
        }
        if let Some(stdin) = stdin {
            copying.input(stdin, duplicate()?)?;
        }
        Ok(streams)
    }
}

impl Streams {
    /// The reading end of the client's FIFO. The writing end is held too, until `close_stdin`.
    fn open_stdin(&mut self, path: &str) -> Result<Option<OwnedFd>> {
        if path.is_empty() {
            return Ok(None);
        }
        let reader = open("stdin", Path::new(path), OFlags::RDONLY)?;
        // Of a regular file there is nothing to hold.
        if is_fifo("stdin", &reader)? {
            self.stdin = Some(open("stdin", Path::new(path), OFlags::WRONLY)?);
        }
        Ok(Some(reader))
    }

    /// Standard input of a process without a terminal.
    fn input(&mut self, path: &str, owner: Owner<'_>, copying: &Copying) -> Result<OwnedFd> {
        let Some(reader) = self.open_stdin(path)? else { return null() };
        let (theirs, ours) = pipe(owner)?;
        rustix::io::ioctl_fionbio(&ours, true).context("FIONBIO")?;
        copying.input(reader, ours)?;
        Ok(theirs)
    }

    /// Standard output and error of a process without a terminal.
    fn outputs(
        &mut self,
        stdout: &Target,
        stderr: &Target,
        owner: Owner<'_>,
        copying: &Copying,
    ) -> Result<(OwnedFd, OwnedFd)> {
        if let Target::Binary { path, args } = stdout {
            let (out_reader, out) = pipe(owner)?;
            let (err_reader, err) = pipe(owner)?;
            self.logger = Some(Logger::start(path, args, owner, [out_reader, err_reader])?);
            // The client's standard error, if it is another place.
            let err = if matches!(stderr, Target::Null | Target::Binary { .. }) {
                err
            } else {
                self.copied("stderr", stderr, owner, copying)?
            };
            return Ok((out, err));
        }
        let out = self.copied("stdout", stdout, owner, copying)?;
        // Output to one place keeps its order.
        let err = if stderr == stdout {
            out.try_clone().context("dup")?
        } else {
            self.copied("stderr", stderr, owner, copying)?
        };
        Ok((out, err))
    }

    /// The container's end of a pipe that is copied to `target`.
    fn copied(
        &mut self,
        field: &str,
        target: &Target,
        owner: Owner<'_>,
        copying: &Copying,
    ) -> Result<OwnedFd> {
        let Some(to) = self.output(field, target, owner)? else { return null() };
        let (from, theirs) = pipe(owner)?;
        rustix::io::ioctl_fionbio(&from, true).context("FIONBIO")?;
        self.progress.push(copying.output(from, to)?);
        Ok(theirs)
    }

    /// Opens a place for output.
    fn output(&mut self, field: &str, target: &Target, owner: Owner<'_>) -> Result<Option<OwnedFd>> {
        match target {
            Target::Null => Ok(None),
            Target::Path(path) => {
                let file = open(field, path, OFlags::PATH)?;
                if !is_fifo(field, &file)? {
                    return open(field, path, OFlags::WRONLY | OFlags::APPEND).map(Some);
                }
                // Its other end is held, too: nobody need read it yet, and it breaks for no client that leaves.
                let reader = open(field, path, OFlags::RDONLY)?;
                let writer = open(field, path, OFlags::WRONLY)?;
                if let Some(kept) = &mut self.kept {
                    kept.outputs.push(reader);
                }
                Ok(Some(writer))
            }
            Target::File(path) => {
                let open = || {
                    path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
                    std::fs::File::options().append(true).create(true).open(path)
                };
                let file = open().map_err(|e| Error::invalid(field, format!("{}: {e}", path.display())))?;
                Ok(Some(file.into()))
            }
            Target::Binary { path, args } if self.logger.is_none() && field == "stdout" => {
                // Of a terminal; it has no separate standard error.
                let (reader, writer) = pipe(owner)?;
                let (no_errors, _) = pipe(owner)?;
                self.logger = Some(Logger::start(path, args, owner, [reader, no_errors])?);
                Ok(Some(writer))
            }
            Target::Binary { .. } => {
                Err(Error::invalid(field, "names a program, and stdout does not: expected both or none"))
            }
        }
    }

    /// Whether all output has reached the client: copied, and read where that can be seen.
    pub(crate) fn is_read(&self) -> bool {
        let unread = |fifo: &OwnedFd| rustix::io::ioctl_fionread(fifo).is_ok_and(|bytes| bytes > 0);
        let kept = self.kept.iter().flat_map(|kept| &kept.outputs);
        self.progress.iter().all(Progress::is_idle) && !kept.into_iter().any(unread)
    }

    /// The process has ended and its client may be gone: output is copied as long as somebody reads it.
    pub(crate) fn let_go(&mut self) {
        self.kept = None;
    }

    /// The client will write no more: once it has closed its end the process reads the end of its input.
    pub(crate) fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// After the process's end: what it has written is copied, for a while, and the logging program ends.
    pub(crate) fn finish(mut self) {
        if self.outputs.recv_timeout(DRAIN) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("output that nobody reads is dropped");
        }
        if let Some(logger) = self.logger.take() {
            logger.finish();
        }
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        if let Some(cancel) = self.cancel.upgrade() {
            // An eventfd that was never written to takes 1.
            let _ = rustix::io::write(&*cancel, &1u64.to_ne_bytes());
        }
    }
}

fn open(field: &str, path: &Path, flags: OFlags) -> Result<OwnedFd> {
    let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map_err(|e| Error::invalid(field, format!("{}: {}", path.display(), std::io::Error::from(e))))
}

fn is_fifo(field: &str, file: &OwnedFd) -> Result<bool> {
    let stat = rustix::fs::fstat(file).context(format!("fstat {field}"))?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Fifo)
}

fn null() -> Result<OwnedFd> {
    let file = std::fs::File::options().read(true).write(true).open("/dev/null");
    file.map(OwnedFd::from).context("/dev/null")
}

#[cfg(test)]
mod tests;
