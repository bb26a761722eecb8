//! A container as a guard: the runtime's commands on it, and a clean machine afterwards.

use crate::bundle::Bundle;
use crate::command::{self, Output};
use crate::leaks;
use crate::runtime::Runtime;
use serde_json::Value;
use std::fs;
use std::io::{PipeReader, PipeWriter};
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::rc::Rc;

/// A container of a runtime, existing or not. When dropped it is deleted by force; what even that
/// leaves is cleared with its bundle.
#[derive(Debug)]
pub struct Container {
    runtime: Runtime,
    bundle: Rc<Bundle>,
    id: String,
}

/// The test's ends of the pipes that are a container's standard streams.
#[derive(Debug)]
pub struct Streams {
    /// The container's standard input.
    pub stdin: PipeWriter,
    /// The container's standard output.
    pub stdout: PipeReader,
    /// The container's standard error.
    pub stderr: PipeReader,
}

/// The standard streams that a detached command passes on.
type Stdios = [Stdio; 3];

impl Runtime {
    /// A guard for the container that `bundle` describes; nothing runs yet.
    pub fn container(&self, bundle: impl Into<Rc<Bundle>>) -> Container {
        Container::new(self.clone(), bundle.into())
    }
}

impl Container {
    pub(crate) fn new(runtime: Runtime, bundle: Rc<Bundle>) -> Self {
        let id = bundle.name().to_owned();
        Self { runtime, bundle, id }
    }

    /// The same bundle in the hands of another runtime, under the same id.
    #[must_use]
    pub fn in_hands_of(&self, runtime: &Runtime) -> Self {
        Self::new(runtime.clone(), Rc::clone(&self.bundle))
    }

    /// Another container of the same bundle, whose id has this at its end.
    #[must_use]
    pub fn sibling(&self, end: &str) -> Self {
        let id = format!("{}{end}", self.id);
        Self { runtime: self.runtime.clone(), bundle: Rc::clone(&self.bundle), id }
    }

    /// The container's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its bundle.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// Its runtime.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// `PROGRAM --root ROOT NAME FLAGS ID`.
    pub fn command(&self, name: &str, flags: &[&str]) -> Command {
        let mut command = self.runtime.command();
        command.arg(name).args(flags).arg(&self.id);
        command
    }

    /// Runs a command on the container to its end.
    #[track_caller]
    pub fn call(&self, name: &str, flags: &[&str]) -> Output {
        command::run(self.command(name, flags), b"")
    }

    /// Runs a command that leaves processes behind: it must not hold the test's pipes, so its streams
    /// are /dev/null and its error is what it logged.
    #[track_caller]
    pub fn call_detached(&self, name: &str, flags: &[&str]) -> Output {
        self.detached(name, flags, [Stdio::null(), Stdio::null(), Stdio::null()])
    }

    #[track_caller]
    fn detached(&self, name: &str, flags: &[&str], [stdin, stdout, stderr]: Stdios) -> Output {
        let log = self.log();
        let _ = fs::remove_file(&log);
        let mut command = self.runtime.command();
        command.arg("--log").arg(&log).arg(name).args(flags).arg(&self.id);
        command.stdin(stdin).stdout(stdout).stderr(stderr);
        command::run_detached(command, &log)
    }

    fn log(&self) -> PathBuf {
        self.bundle.join("log")
    }

    fn with_bundle<'a>(bundle: &'a str, flags: &[&'a str]) -> Vec<&'a str> {
        ["--bundle", bundle].into_iter().chain(flags.iter().copied()).collect()
    }

    /// `run` in the foreground.
    #[track_caller]
    pub fn run(&self, flags: &[&str]) -> Output {
        self.call("run", &Self::with_bundle(&self.bundle_path(), flags))
    }

    /// `run --detach`.
    #[track_caller]
    pub fn run_detached(&self) -> Output {
        self.call_detached("run", &Self::with_bundle(&self.bundle_path(), &["--detach"]))
    }

    /// `create`.
    #[track_caller]
    pub fn create(&self, flags: &[&str]) -> Output {
        self.call_detached("create", &Self::with_bundle(&self.bundle_path(), flags))
    }

    /// `create`, or another command that makes the container, with pipes as its standard streams.
    #[track_caller]
    pub fn with_pipes(&self, name: &str, flags: &[&str]) -> (Output, Streams) {
        let pipe = || std::io::pipe().unwrap_or_else(|e| panic!("pipe: {e}"));
        let ((stdin, w0), (r1, stdout), (r2, stderr)) = (pipe(), pipe(), pipe());
        let bundle = self.bundle_path();
        let flags = Self::with_bundle(&bundle, flags);
        let output = self.detached(name, &flags, [stdin.into(), stdout.into(), stderr.into()]);
        (output, Streams { stdin: w0, stdout: r1, stderr: r2 })
    }

    /// The bundle's path as text.
    pub fn bundle_path(&self) -> String {
        self.bundle.path().display().to_string()
    }

    /// `start`.
    #[track_caller]
    pub fn start(&self) -> Output {
        self.call("start", &[])
    }

    /// `state`, which must succeed.
    #[track_caller]
    pub fn state(&self) -> Value {
        self.call("state", &[]).json()
    }

    /// The status that `state` tells, or `gone` where there is no such container.
    #[track_caller]
    pub fn status(&self) -> String {
        let output = self.call("state", &[]);
        if !output.status.success() {
            output.fails("does not exist");
            return "gone".to_owned();
        }
        output.json()["status"].as_str().unwrap_or_default().to_owned()
    }

    /// The first process's pid, as `state` tells.
    #[track_caller]
    pub fn pid(&self) -> i32 {
        let state = self.state();
        match state["pid"].as_i64().and_then(|p| i32::try_from(p).ok()) {
            Some(pid) if pid > 0 => pid,
            _ => panic!("no pid in {state}"),
        }
    }

    /// `exec ID ARGS`.
    #[track_caller]
    pub fn exec(&self, args: &[&str]) -> Output {
        self.exec_with(&[], args)
    }

    /// `exec FLAGS ID ARGS`.
    #[track_caller]
    pub fn exec_with(&self, flags: &[&str], args: &[&str]) -> Output {
        let mut command = self.command("exec", flags);
        command.args(args);
        command::run(command, b"")
    }

    /// `exec ID sh -c SCRIPT`, which must succeed: what it printed.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        self.exec(&["sh", "-c", script]).ok().to_owned()
    }

    /// `kill ID SIGNAL`.
    #[track_caller]
    pub fn kill(&self, signal: &str) -> Output {
        let mut command = self.command("kill", &[]);
        command.arg(signal);
        command::run(command, b"")
    }

    /// `kill --all ID SIGNAL`.
    #[track_caller]
    pub fn call_kill_all(&self, signal: &str) -> Output {
        let mut command = self.command("kill", &["--all"]);
        command.arg(signal);
        command::run(command, b"")
    }

    /// `delete FLAGS`.
    #[track_caller]
    pub fn delete(&self, flags: &[&str]) -> Output {
        self.call("delete", flags)
    }

    /// The directory that [`Container::checkpoint`] writes to.
    pub fn images(&self) -> PathBuf {
        self.bundle.join("images")
    }

    /// `checkpoint --image-path IMAGES FLAGS`.
    #[track_caller]
    pub fn checkpoint(&self, flags: &[&str]) -> Output {
        let images = self.images().display().to_string();
        let flags: Vec<_> = ["--image-path", &images].into_iter().chain(flags.iter().copied()).collect();
        self.call_detached("checkpoint", &flags)
    }

    /// `restore --detach --image-path IMAGES FLAGS`.
    #[track_caller]
    pub fn restore(&self, flags: &[&str]) -> Output {
        let (images, bundle) = (self.images().display().to_string(), self.bundle_path());
        let first = ["--detach", "--image-path", &images, "--bundle", &bundle];
        let flags: Vec<_> = first.into_iter().chain(flags.iter().copied()).collect();
        self.call_detached("restore", &flags)
    }

    /// Waits until the container has stopped.
    #[track_caller]
    pub fn wait_stopped(&self) {
        crate::wait_for("the container to stop", || self.status() == "stopped");
    }

    /// Checks that nothing of the container is left on the machine: state, processes, mounts, cgroups.
    ///
    /// # Panics
    /// With a list of what is left, if it is still there after two seconds.
    #[track_caller]
    pub fn assert_clean(&self) {
        leaks::assert_none(&self.id, &self.bundle.cgroup_parent(), self.runtime.root());
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        command::quietly(&mut self.command("delete", &["--force"]));
    }
}
