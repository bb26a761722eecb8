//! Running a command for a bounded time, and what it gave.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::io::{Read, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// How long one command may take.
const LIMIT: Duration = Duration::from_secs(60);
/// How long its streams may stay open after its end.
const AFTERWARDS: Duration = Duration::from_secs(5);

/// The result of a command.
#[derive(Debug)]
pub struct Output {
    /// The command line, for messages.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error; for a detached command, what it logged.
    pub stderr: String,
}

impl Output {
    /// The standard output without its last newline, if the command succeeded.
    ///
    /// # Panics
    /// If it failed.
    #[track_caller]
    pub fn ok(&self) -> &str {
        assert!(self.status.success(), "{self}");
        self.stdout.trim_end_matches('\n')
    }

    /// The standard output as JSON, if the command succeeded.
    ///
    /// # Panics
    /// If it failed or printed something else.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        match serde_json::from_str(self.ok()) {
            Ok(value) => value,
            Err(e) => panic!("no JSON ({e}): {self}"),
        }
    }

    /// Checks that the command failed, by an exit status other than 0 rather than by a signal, and that
    /// its error contains `words`.
    ///
    /// # Panics
    /// Otherwise.
    #[track_caller]
    pub fn fails(&self, words: &str) -> &Self {
        assert!(self.status.code().is_some_and(|c| c != 0), "should have failed: {self}");
        assert!(
            self.stderr.to_lowercase().contains(&words.to_lowercase()),
            "the error lacks \"{words}\": {self}"
        );
        self
    }

    /// Checks the exit status.
    ///
    /// # Panics
    /// If it is another one.
    #[track_caller]
    pub fn exited(&self, code: i32) -> &Self {
        assert_eq!(self.status.code(), Some(code), "{self}");
        self
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}`: ", self.command)?;
        match (self.status.code(), self.status.signal()) {
            (Some(code), _) => write!(f, "exit status {code}")?,
            (_, signal) => write!(f, "signal {}", signal.unwrap_or_default())?,
        }
        write!(f, "\n--- stdout\n{}\n--- stderr\n{}", self.stdout.trim_end(), self.stderr.trim_end())
    }
}

/// Runs `command` with `stdin` as its input and captures what it prints.
///
/// # Panics
/// If it cannot be started, runs longer than a minute (it is killed then), or leaves somebody behind
/// who holds its standard output.
#[track_caller]
pub fn run(mut command: Command, stdin: &[u8]) -> Output {
    let name = describe(&command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = spawn(&mut command);
    if let Some(mut pipe) = child.stdin.take() {
        // it may well end without reading
        let _ = pipe.write_all(stdin);
    }
    let (stdout, stderr) = (child.stdout.take().map(drain), child.stderr.take().map(drain));
    let status = wait(&mut child, &name);
    let text = |stream: Option<Receiver<String>>, which| match stream.map(|s| s.recv_timeout(AFTERWARDS)) {
        Some(Ok(text)) => text,
        Some(Err(_)) => panic!("`{name}` ended ({status}) but somebody still holds its standard {which}"),
        None => String::new(),
    };
    let (stdout, stderr) = (text(stdout, "output"), text(stderr, "error"));
    Output { command: name, status, stdout, stderr }
}

/// Runs `command` with /dev/null for the streams that it does not set itself, as one does with a
/// container that lives on. The error is in `log`, a file that the command was told to write to.
///
/// # Panics
/// If it cannot be started or runs longer than a minute (it is killed then).
#[track_caller]
pub fn run_detached(mut command: Command, log: &std::path::Path) -> Output {
    let name = describe(&command);
    let mut child = spawn(&mut command);
    // the caller's ends of the pipes that it passed must not outlive the call
    drop(command);
    let status = wait(&mut child, &name);
    let stderr = std::fs::read_to_string(log).unwrap_or_default();
    Output { command: name, status, stdout: String::new(), stderr }
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn spawn(command: &mut Command) -> Child {
    match command.spawn() {
        Ok(child) => child,
        Err(e) => panic!("{} cannot be started: {e}", command.get_program().display()),
    }
}

fn drain(mut stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receiver
}

/// Waits for the child's end; a child that exceeds the limit is killed.
#[track_caller]
pub fn wait(child: &mut Child, name: &str) -> ExitStatus {
    let limit = crate::patience(LIMIT);
    let ended = ends_within(child, limit);
    if !ended {
        let _ = child.kill();
    }
    let status = child.wait().unwrap_or_else(|e| panic!("waiting for `{name}`: {e}"));
    assert!(ended, "`{name}` took more than {limit:?} and was killed");
    status
}

fn ends_within(child: &Child, limit: Duration) -> bool {
    let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else { return true };
    // a child that has not been waited for is a zombie at least: its pid is not reused
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return true };
    let limit = Timespec { tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX), tv_nsec: 0 };
    poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit)).is_ok_and(|ready| ready > 0)
}

/// Runs a command for its effect, in clean-up: without output and without a verdict.
pub fn quietly(command: &mut Command) {
    let null = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if let Ok(mut child) = null.spawn() {
        if !ends_within(&child, Duration::from_secs(20)) {
            let _ = child.kill();
        }
        let _ = child.wait();
    }
}

/// A program that runs while the test goes on. Dropped, it has ended, also where the test has failed or has stopped it: a source of a
/// migration that lives on keeps what its container's removal would free.
#[derive(Debug)]
pub struct Spawned(Option<Child>);

impl Spawned {
    /// Starts it.
    ///
    /// # Panics
    /// If that fails.
    #[track_caller]
    pub fn new(command: &mut Command) -> Self {
        Self(Some(command.spawn().expect("it starts")))
    }

    /// As the child's own.
    ///
    /// # Errors
    /// As the child's own.
    pub fn wait_with_output(mut self) -> std::io::Result<std::process::Output> {
        self.0.take().expect("it is there").wait_with_output()
    }
}

impl std::ops::Deref for Spawned {
    type Target = Child;

    fn deref(&self) -> &Child {
        self.0.as_ref().expect("it is there")
    }
}

impl std::ops::DerefMut for Spawned {
    fn deref_mut(&mut self) -> &mut Child {
        self.0.as_mut().expect("it is there")
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
