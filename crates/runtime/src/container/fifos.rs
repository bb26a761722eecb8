//! Standard streams as FIFOs in the filesystem, as containerd's clients use them.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use derive_setters::Setters;
use rustix::fs::{CWD, FileType, Mode, OFlags};

use crate::error::{Error, Result};
use crate::id::ContainerId;
use crate::state::processes::ProcessId;

/// The FIFOs of one process, in a directory of the caller: `CONTAINER-PROCESS-stdin` and so on. There is one for standard input
/// only on request, and one for standard error only without a terminal, which has one stream for both outputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fifos {
    /// Its standard input; none without input.
    pub stdin: Option<PathBuf>,
    /// Its standard output.
    pub stdout: PathBuf,
    /// Its standard error; none with a terminal.
    pub stderr: Option<PathBuf>,
}

/// Which [`Fifos`] a process needs. Each option has a setter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Setters)]
#[non_exhaustive]
pub struct FifosOptions {
    /// It gets input.
    pub stdin: bool,
    /// It has a terminal, with one stream for both outputs.
    pub terminal: bool,
}

/// The client's ends of FIFOs, for direct use.
#[derive(Debug)]
pub struct DirectIo {
    /// To write standard input to.
    pub stdin: Option<File>,
    /// To read from.
    pub stdout: File,
    /// To read from.
    pub stderr: Option<File>,
}

impl Fifos {
    /// Makes them, readable and writable by the owner alone. On failure none is left.
    ///
    /// # Errors
    /// One is there already, or cannot be made.
    pub fn create(
        dir: &Path,
        container: &ContainerId,
        process: &ProcessId,
        options: FifosOptions,
    ) -> Result<Self> {
        let FifosOptions { stdin, terminal } = options;
        let path = |stream: &str| dir.join(format!("{container}-{process}-{stream}"));
        let fifos = Self {
            stdin: stdin.then(|| path("stdin")),
            stdout: path("stdout"),
            stderr: (!terminal).then(|| path("stderr")),
        };
        let mut made: Vec<&Path> = Vec::new();
        for path in fifos.paths() {
            let mode = Mode::from_raw_mode(0o600);
            if let Err(e) = rustix::fs::mknodat(CWD, path, FileType::Fifo, mode, 0) {
                made.iter().for_each(|path| drop(std::fs::remove_file(path)));
                return Err(Error::sys("mkfifo", path.display().to_string(), e));
            }
            made.push(path);
        }
        Ok(fifos)
    }

    fn paths(&self) -> impl Iterator<Item = &Path> {
        let all = [self.stdin.as_deref(), Some(self.stdout.as_path()), self.stderr.as_deref()];
        all.into_iter().flatten()
    }

    /// Opens both ends: three files for [`Stdio::Files`](crate::Stdio::Files), /dev/null where there is no FIFO, and the
    /// client's. Neither waits for the other.
    pub fn open(&self) -> Result<([OwnedFd; 3], DirectIo)> {
        let null = || open(Path::new("/dev/null"), OFlags::RDWR);
        // A reader that does not wait for a writer comes first, and then the writer finds it.
        let input = self.stdin.as_deref().map(|path| open(path, OFlags::RDONLY)).transpose()?;
        let stdin = self.stdin.as_deref().map(|path| open(path, OFlags::WRONLY)).transpose()?;
        let stdout = open(&self.stdout, OFlags::RDONLY)?;
        let output = open(&self.stdout, OFlags::WRONLY)?;
        let stderr = self.stderr.as_deref().map(|path| open(path, OFlags::RDONLY)).transpose()?;
        let errors = self.stderr.as_deref().map(|path| open(path, OFlags::WRONLY)).transpose()?;
        let files = [input.map_or_else(null, Ok)?, output, errors.map_or_else(null, Ok)?];
        let client =
            DirectIo { stdin: stdin.map(File::from), stdout: stdout.into(), stderr: stderr.map(File::from) };
        Ok((files, client))
    }

    /// Removes them.
    pub fn remove(&self) -> Result<()> {
        for path in self.paths() {
            match std::fs::remove_file(path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::file(path, &e)),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Opens without waiting for the other end, to wait as usual afterwards.
fn open(path: &Path, direction: OFlags) -> Result<OwnedFd> {
    let flags = direction | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fail = |call: &str, e| Error::sys(call, path.display().to_string(), e);
    let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| fail("open", e))?;
    rustix::io::ioctl_fionbio(&fd, false).map_err(|e| fail("FIONBIO", e))?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn make(dir: &Path, stdin: bool, terminal: bool) -> Result<Fifos> {
        let options = FifosOptions { stdin, terminal };
        Fifos::create(dir, &"box".parse().unwrap(), &"job".parse().unwrap(), options)
    }

    #[test]
    fn names_and_what_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let names = || {
            let mut names: Vec<_> = std::fs::read_dir(dir.path())
                .unwrap()
                .map(|e| e.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        let all = make(dir.path(), true, false).unwrap();
        assert_eq!(names(), ["box-job-stderr", "box-job-stdin", "box-job-stdout"]);
        assert!(
            make(dir.path(), true, false).unwrap_err().to_string().contains("box-job-stdin: file exists")
        );
        all.remove().unwrap();
        all.remove().unwrap();
        let terminal = make(dir.path(), false, true).unwrap();
        assert_eq!(names(), ["box-job-stdout"]);
        // The second of two is in the way: the first does not stay.
        assert!(make(dir.path(), true, false).is_err());
        assert_eq!(names(), ["box-job-stdout"]);
        terminal.remove().unwrap();
        assert_eq!(names(), [""; 0]);
    }

    #[test]
    fn both_ends_meet() {
        let dir = tempfile::tempdir().unwrap();
        let ([input, output, errors], mut client) = make(dir.path(), true, false).unwrap().open().unwrap();
        client.stdin.take().unwrap().write_all(b"in").unwrap();
        let mut text = String::new();
        File::from(input).read_to_string(&mut text).unwrap();
        assert_eq!(text, "in", "and then the end of input");
        File::from(output).write_all(b"out").unwrap();
        File::from(errors).write_all(b"err").unwrap();
        let (mut out, mut err) = (String::new(), String::new());
        client.stdout.read_to_string(&mut out).unwrap();
        client.stderr.unwrap().read_to_string(&mut err).unwrap();
        assert_eq!((out.as_str(), err.as_str()), ("out", "err"));
    }
}
