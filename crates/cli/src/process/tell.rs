//! Telling the caller which process it got: `--pid-file` and `--pidfd-socket`. Both are opened before there is a process, so
//! that a caller who cannot be told of it gets none.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use hiber::Process;
use hiber_sys::channel::send_packet;

/// Where the caller wants to hear of a process.
pub(crate) struct Tell {
    pid_file: Option<PidFile>,
    pidfd_socket: Option<(PathBuf, UnixStream)>,
}

impl Tell {
    /// Opens what the flags name.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn prepare(pidfd_socket: Option<&Path>, pid_file: Option<&Path>) -> anyhow::Result<Self> {
        let connect = |path: &Path| {
            let socket = UnixStream::connect(path).with_context(|| sending_to(path))?;
            Ok::<_, anyhow::Error>((path.to_owned(), socket))
        };
        Ok(Self {
            pidfd_socket: pidfd_socket.map(connect).transpose()?,
            pid_file: pid_file.map(PidFile::prepare).transpose()?,
        })
    }

    /// Tells of the process: its pidfd is sent as a console is, over a unix stream socket.
    pub(crate) fn tell(self, process: &Process) -> anyhow::Result<()> {
        if let Some((path, socket)) = &self.pidfd_socket {
            send_packet(socket, b"pidfd", &[process.pidfd()], "it").with_context(|| sending_to(path))?;
        }
        self.pid_file.map_or(Ok(()), |file| file.write(process.pid()))
    }
}

fn sending_to(path: &Path) -> String {
    format!("send a pidfd to --pidfd-socket {}", path.display())
}

/// A file for a pid. A reader that waits for the file finds a number: the file appears whole or not at all.
struct PidFile {
    path: PathBuf,
    file: File,
    /// The future file, unless that is a device or a pipe, which are written to and not replaced.
    temporary: Option<PathBuf>,
}

impl PidFile {
    /// Makes room for it.
    fn prepare(path: &Path) -> anyhow::Result<Self> {
        let failed = || format!("write --pid-file {}", path.display());
        let Some(name) = path.file_name() else { bail!("--pid-file {}: is no file name", path.display()) };
        let found = std::fs::metadata(path);
        if found.is_ok_and(|found| !found.is_file()) {
            let file = File::options().write(true).open(path).with_context(failed)?;
            return Ok(Self { path: path.to_owned(), file, temporary: None });
        }
        let temporary = path.with_file_name(format!(".{}", name.to_string_lossy()));
        let file = File::options().write(true).create(true).truncate(true).open(&temporary);
        let file = file.with_context(failed)?;
        let prepared = Self { path: path.to_owned(), file, temporary: Some(temporary) };
        // A full file system is one that refuses this.
        (&prepared.file).write_all(b"?").with_context(failed)?;
        Ok(prepared)
    }

    fn write(mut self, pid: i32) -> anyhow::Result<()> {
        let pid = pid.to_string();
        let written = match &self.temporary {
            Some(temporary) => self
                .file
                .write_all_at(pid.as_bytes(), 0)
                .and_then(|()| std::fs::rename(temporary, &self.path)),
            None => (&self.file).write_all(pid.as_bytes()),
        };
        written.with_context(|| format!("write --pid-file {}", self.path.display()))?;
        self.temporary = None;
        Ok(())
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = std::fs::remove_file(temporary);
        }
    }
}
