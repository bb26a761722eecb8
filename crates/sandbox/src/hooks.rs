//! Hooks (runtime-spec "POSIX-platform Hooks"): programs that read the container's state on standard input.

use std::ffi::CString;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use oci_spec::runtime::Hook;

use crate::plan::HookState;
use crate::{Error, Result};
use hiber_sys::poll::readable_within;

/// The environment and directory of hooks that do not name their own.
#[derive(Debug, Default)]
pub struct Surroundings<'a> {
    /// The environment of hooks that have none; the caller's own if absent.
    pub env: Option<&'a [CString]>,
    /// The working directory; the caller's own if absent.
    pub dir: Option<&'a Path>,
}

/// As [`run_in`], in no special surroundings.
pub fn run<'a>(kind: &str, hooks: impl IntoIterator<Item = &'a Hook>, state: &HookState) -> Result<()> {
    run_in(kind, hooks, state, &Surroundings::default())
}

/// Runs hooks in order; the first that fails ends it.
///
/// The error reads `error running KIND hook #N: …` and has the hook's standard error.
pub fn run_in<'a>(
    kind: &str,
    hooks: impl IntoIterator<Item = &'a Hook>,
    state: &HookState,
    surroundings: &Surroundings<'_>,
) -> Result<()> {
    each(kind, hooks, state, surroundings).collect()
}

/// Runs hooks in order, also those after one that fails, and gives the errors of [`run_in`].
pub fn run_all<'a>(kind: &str, hooks: impl IntoIterator<Item = &'a Hook>, state: &HookState) -> Vec<Error> {
    each(kind, hooks, state, &Surroundings::default()).filter_map(Result::err).collect()
}

fn each<'a>(
    kind: &str,
    hooks: impl IntoIterator<Item = &'a Hook>,
    state: &HookState,
    surroundings: &Surroundings<'_>,
) -> impl Iterator<Item = Result<()>> {
    let mut input = None;
    hooks.into_iter().enumerate().map(move |(index, hook)| {
        let input = input.get_or_insert_with(|| serde_json::to_vec(state).unwrap_or_default());
        run_one(hook, input, surroundings).map_err(|why| Error::Hook { kind: kind.into(), index, why })
    })
}

fn run_one(hook: &Hook, state: &[u8], surroundings: &Surroundings<'_>) -> Result<(), String> {
    let mut command = Command::new(hook.path());
    if let Some((arg0, args)) = hook.args().as_ref().and_then(|a| a.split_first()) {
        command.arg0(arg0).args(args);
    }
    match (hook.env(), surroundings.env) {
        (Some(env), _) => {
            command.env_clear().envs(env.iter().filter_map(|e| e.split_once('=')));
        }
        (None, Some(env)) => {
            command.env_clear().envs(env.iter().filter_map(|e| e.to_str().ok()?.split_once('=')));
        }
        (None, None) => {}
    }
    if let Some(dir) = surroundings.dir {
        command.current_dir(dir);
    }
    // Files, not pipes: a hook's own children may hold its output open for ever, and a hook that does not read its input would
    // block the writer.
    let file = || tempfile_in_memory().map_err(|e| format!("memfd_create: {e}"));
    let (stdin, stdout, stderr) = (file()?, file()?, file()?);
    // The hook reads from the offset on, which is still 0.
    stdin.write_all_at(state, 0).map_err(|e| format!("write the state: {e}"))?;
    let clone = |f: &File| f.try_clone().map_err(|e| format!("dup: {e}"));
    command.stdin(Stdio::from(stdin)).stdout(clone(&stdout)?).stderr(clone(&stderr)?);
    let mut child = command
        .spawn()
        .map_err(|e| format!("fork/exec {}: {}", hook.path().display(), crate::error::plain(&e)))?;
    let limit =
        hook.timeout().and_then(|s| u64::try_from(s).ok()).map(|s| Instant::now() + Duration::from_secs(s));
    let status = match wait(&mut child, limit) {
        Ok(Some(status)) => status,
        Ok(None) => {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!(
                "hook ran past specified timeout of {}.0s",
                hook.timeout().unwrap_or_default()
            ));
        }
        Err(e) => return Err(format!("wait: {e}")),
    };
    if status.success() {
        return Ok(());
    }
    let how = match (status.code(), std::os::unix::process::ExitStatusExt::signal(&status)) {
        (Some(code), _) => format!("exit status {code}"),
        (None, signal) => format!("signal: {}", signal_words(signal.unwrap_or_default())),
    };
    Err(format!("{how}, stdout: {}, stderr: {}", read_back(stdout), read_back(stderr)))
}

/// A signal in Go's words, which are in runc's messages.
fn signal_words(signal: i32) -> String {
    match signal {
        libc::SIGHUP => "hangup".into(),
        libc::SIGINT => "interrupt".into(),
        libc::SIGQUIT => "quit".into(),
        libc::SIGILL => "illegal instruction".into(),
        libc::SIGABRT => "aborted".into(),
        libc::SIGKILL => "killed".into(),
        libc::SIGSEGV => "segmentation fault".into(),
        libc::SIGPIPE => "broken pipe".into(),
        libc::SIGTERM => "terminated".into(),
        libc::SIGSYS => "bad system call".into(),
        other => format!("signal {other}"),
    }
}

fn wait(
    child: &mut std::process::Child,
    limit: Option<Instant>,
) -> std::io::Result<Option<std::process::ExitStatus>> {
    let Some(limit) = limit else { return child.wait().map(Some) };
    let pid = rustix::process::Pid::from_child(child);
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
    match readable_within(&pidfd, limit.saturating_duration_since(Instant::now()))? {
        true => child.wait().map(Some),
        false => Ok(None),
    }
}

fn tempfile_in_memory() -> std::io::Result<File> {
    Ok(rustix::fs::memfd_create("hook", rustix::fs::MemfdFlags::CLOEXEC)?.into())
}

/// The first kilobytes of what a hook wrote.
fn read_back(mut file: File) -> String {
    use std::io::{Read, Seek};
    let mut text = Vec::new();
    if file.rewind().is_ok() {
        let _ = file.take(4096).read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(script: &str, timeout: Option<i64>) -> Hook {
        let mut value = serde_json::json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["A=1"]});
        if let Some(t) = timeout {
            value["timeout"] = t.into();
        }
        serde_json::from_value(value).unwrap()
    }

    fn run_script(script: &str, timeout: Option<i64>) -> Result<()> {
        let state = HookState { id: "box".into(), status: "created".into(), ..HookState::default() };
        run("poststart", [&hook("exit 0", None), &hook(script, timeout)], &state)
    }

    #[test]
    fn a_hook_reads_the_state_and_has_only_its_environment() {
        run_script(r#"grep -q '"id":"box"' && test "$A" = 1 && test -z "$HOME""#, None).unwrap();
    }

    #[test]
    fn failures_name_the_hook() {
        let error = run_script("echo out; echo why >&2; exit 3", None).unwrap_err().to_string();
        assert_eq!(error, "error running poststart hook #1: exit status 3, stdout: out, stderr: why");
    }

    #[test]
    fn a_hook_that_hangs_is_ended() {
        let start = Instant::now();
        let error = run_script("sleep 60", Some(1)).unwrap_err().to_string();
        assert!(error.contains("timeout of 1.0s"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(30));
    }

    /// A pipe takes 64 KiB at once.
    #[test]
    fn a_state_larger_than_a_pipe_is_read_whole_or_not_at_all() {
        let annotations = [("a".to_owned(), "x".repeat(1 << 20))].into();
        let state = HookState { annotations, ..HookState::default() };
        let start = Instant::now();
        let error = run("poststart", [&hook("sleep 60", Some(1))], &state).unwrap_err().to_string();
        assert!(error.contains("timeout of 1.0s"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(30));
        let length = serde_json::to_vec(&state).unwrap().len();
        run("poststart", [&hook(&format!("test $(wc -c) = {length}"), Some(30))], &state).unwrap();
    }

    #[test]
    fn without_an_environment_the_callers_is_theirs() {
        let mut hook = hook("test \"$CARGO_MANIFEST_DIR\"", None);
        hook.set_env(None);
        run("prestart", [&hook], &HookState::default()).unwrap();
        let surroundings = Surroundings { env: Some(&[]), ..Surroundings::default() };
        run_in("createContainer", [&hook], &HookState::default(), &surroundings).unwrap_err();
    }

    #[test]
    fn a_child_that_keeps_the_output_open_does_not_block() {
        let start = Instant::now();
        run_script("sleep 5 & exit 0", None).unwrap();
        assert!(start.elapsed() < Duration::from_secs(4));
    }
}
