//! The program that runs in a restored container before its processes do.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use hiber_sys::signal::Signal;
use oci_spec::runtime::Process as SpecProcess;
use rustix::fs::MemfdFlags;

use crate::container::exec::ExecOptions;
use crate::container::exit::Ended;
use crate::container::handle::Container;
use crate::container::process::Process;
use crate::container::stdio::Stdio;
use crate::container::task::Task;
use crate::error::{Context, Error, Result};

/// The annotation with the program: its path, or its arguments as an array in JSON.
const HOOK: &str = "org.hiber.hooks.restored";
/// The annotation with how long the program may run (`10s`).
const TIMEOUT: &str = "org.hiber.hooks.restored.timeout";
const USUAL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long its end may take when it is killed.
const DEATH_PATIENCE: Duration = Duration::from_secs(10);
/// How much of its output an error repeats, in bytes.
const REPEATED: usize = 1 << 10;

/// A program, with its arguments.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hook {
    args: Vec<String>,
    timeout: Duration,
}

impl Hook {
    /// The one that the annotations ask for.
    pub(super) fn of<'a>(annotation: impl Fn(&str) -> Option<&'a String>) -> Result<Option<Self>> {
        let timeout = annotation(TIMEOUT).map(|text| {
            let time = humantime::parse_duration(text).ok().filter(|time| !time.is_zero());
            let wrong = || format!("annotation {TIMEOUT}: {text:?} is no time, expected one such as 10s");
            time.ok_or_else(|| Error::Invalid(wrong()))
        });
        let timeout = timeout.transpose()?.unwrap_or(USUAL_TIMEOUT);
        let Some(text) = annotation(HOOK) else { return Ok(None) };
        let args = match text.starts_with('[') {
            true => serde_json::from_str(text).unwrap_or_default(),
            false => vec![text.clone()],
        };
        if !args.first().is_some_and(|program: &String| program.starts_with('/')) {
            return Err(Error::Invalid(format!(
                "annotation {HOOK}: {text:?} is no program, expected an absolute path in the container, or an array of \
                 strings in JSON that begins with one"
            )));
        }
        Ok(Some(Self { args, timeout }))
    }

    /// Runs it as the user of the container's first process, and waits for its end.
    ///
    /// # Errors
    /// It cannot be run, fails, or takes longer than it may.
    pub(super) fn run(&self, container: Container) -> Result<()> {
        self.attempt(container).context(format!("the hook {HOOK}, {:?}", self.args[0]))
    }

    fn attempt(&self, container: Container) -> Result<()> {
        let mut process: SpecProcess = container.spec()?.process().clone().unwrap_or_default();
        process.set_args(Some(self.args.clone())).set_terminal(Some(false)).set_console_size(None);
        let output = rustix::fs::memfd_create("hook", MemfdFlags::CLOEXEC).map(File::from);
        let output = output.map_err(|e| Error::sys("memfd_create", "hook", e))?;
        let null = File::open("/dev/null").map_err(|e| Error::file("/dev/null".as_ref(), &e))?;
        let stdio = Stdio::Files([null.as_fd(), output.as_fd(), output.as_fd()]);
        let task = Task::open(container)?;
        let running = task.exec_held(&process, &ExecOptions::default().stdio(stdio))?;
        if !running.wait_for_death(self.timeout)? {
            end(&running)?;
            return Err(Error::host("it was killed", format!("it ran for more than {:?}", self.timeout)));
        }
        let ended = running.exit_status().map(|status| status.ended);
        match ended {
            Some(Ended::Exited(0)) => Ok(()),
            Some(Ended::Exited(status)) => Err(failed(&format!("exit status {status}"), &output)),
            Some(Ended::Signaled(signal)) => Err(failed(&format!("killed by signal {signal}"), &output)),
            _ => Err(failed("nobody knows how it ended", &output)),
        }
    }
}

fn end(process: &Process) -> Result<()> {
    match process.kill(Signal::KILL) {
        Err(Error::NotRunning) | Ok(()) => {}
        Err(e) => return Err(e),
    }
    if process.wait_for_death(DEATH_PATIENCE)? {
        let _ = process.exit_status();
    }
    Ok(())
}

/// With the end of its output: what it says last tells most.
fn failed(how: &str, output: &File) -> Error {
    let length = output.metadata().map_or(0, |of| of.len());
    let mut text = vec![0; REPEATED];
    let read = output.read_at(&mut text, length.saturating_sub(REPEATED as u64));
    text.truncate(read.unwrap_or(0));
    let text = String::from_utf8_lossy(&text);
    Error::host(how, if text.trim().is_empty() { "it said nothing" } else { text.trim() }.to_owned())
}
