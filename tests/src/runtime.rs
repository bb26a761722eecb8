//! A runtime with runc's command line and a private directory for its state.

use crate::command::{self, Output};
use crate::user::PlainUser;
use crate::{cgroup, tools};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use tempfile::TempDir;

/// A runtime's binary together with a `--root` directory of the test's own. Clones share both.
#[derive(Debug, Clone)]
pub struct Runtime(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    program: PathBuf,
    root: TempDir,
    unified: bool,
    systemd: bool,
    user: Option<PlainUser>,
    /// Words of a command that runs the runtime.
    prefix: Vec<OsString>,
}

impl Runtime {
    /// The runtime under test.
    #[track_caller]
    pub fn hiber() -> Self {
        Self::of(tools::hiber(), false)
    }

    /// Debian's runc.
    #[track_caller]
    pub fn runc() -> Self {
        Self::of(tools::runc(), false)
    }

    /// Debian's crun. It refuses hosts whose v1 and v2 cgroups both have controllers; there it sees a
    /// pure v2 layout.
    #[track_caller]
    pub fn crun() -> Self {
        Self::of(tools::crun(), cgroup::is_mixed())
    }

    /// The runtime under test on a host that has nothing but cgroup v2, made by hack/cgroup-layout.
    #[track_caller]
    pub fn hiber_on_v2() -> Self {
        Self::of(tools::hiber(), true)
    }

    /// Debian's runc on such a host.
    #[track_caller]
    pub fn runc_on_v2() -> Self {
        Self::of(tools::runc(), true)
    }

    /// The runtime under test, with `--systemd-cgroup`.
    #[track_caller]
    pub fn hiber_with_systemd() -> Self {
        Self::with(tools::hiber(), false, true)
    }

    /// Debian's runc, with `--systemd-cgroup`.
    #[track_caller]
    pub fn runc_with_systemd() -> Self {
        Self::with(tools::runc(), false, true)
    }

    /// A copy of the runtime under test, which a test may put at risk.
    #[track_caller]
    pub fn hiber_at(program: &Path) -> Self {
        Self::of(Ok(program), false)
    }

    /// The runtime under test, started by a command with these words before it.
    #[track_caller]
    pub fn hiber_by<S: Into<OsString>>(prefix: impl IntoIterator<Item = S>) -> Self {
        let Ok(inner) = Arc::try_unwrap(Self::hiber().0) else { panic!("a new runtime is shared") };
        Self(Arc::new(Inner { prefix: prefix.into_iter().map(Into::into).collect(), ..inner }))
    }

    /// The runtime under test in the hands of a plain user, on the host's cgroup layout or, if `unified`, on v2 alone.
    #[track_caller]
    pub fn hiber_as(user: PlainUser, unified: bool) -> Self {
        let inner = Self::of(Ok(user.program()), unified).0;
        let Ok(Inner { program, root, .. }) = Arc::try_unwrap(inner) else {
            panic!("a new runtime is shared")
        };
        crate::user::give(root.path());
        Self(Arc::new(Inner { program, root, unified, systemd: false, user: Some(user), prefix: Vec::new() }))
    }

    /// The runtime under test in the hands of a plain user, with `--systemd-cgroup`.
    #[track_caller]
    pub fn hiber_with_systemd_as(user: PlainUser) -> Self {
        let Ok(inner) = Arc::try_unwrap(Self::hiber_as(user, false).0) else {
            panic!("a new runtime is shared")
        };
        Self(Arc::new(Inner { systemd: true, ..inner }))
    }

    #[track_caller]
    fn of(program: Result<&Path, &str>, unified: bool) -> Self {
        Self::with(program, unified, false)
    }

    #[track_caller]
    fn with(program: Result<&Path, &str>, unified: bool, systemd: bool) -> Self {
        let program = program.unwrap_or_else(|e| panic!("no runtime: {e}")).to_owned();
        match tempfile::Builder::new().prefix("ht-root-").tempdir() {
            Ok(root) => {
                Self(Arc::new(Inner { program, root, unified, systemd, user: None, prefix: Vec::new() }))
            }
            Err(e) => panic!("no directory for the runtime's state: {e}"),
        }
    }

    /// The directory that `--root` names.
    pub fn root(&self) -> &Path {
        self.0.root.path()
    }

    /// `PROGRAM --root ROOT`, and `--systemd-cgroup` where asked for, with CRIU in its environment.
    pub fn command(&self) -> Command {
        let mut command = self.bare_command();
        command.arg("--root").arg(self.root());
        if self.0.systemd {
            command.arg("--systemd-cgroup");
        }
        command
    }

    /// `PROGRAM` without any argument, with CRIU in its environment.
    pub fn bare_command(&self) -> Command {
        let mut words = self.0.prefix.clone();
        if self.0.unified {
            words.extend([tools::script("cgroup-layout").into(), "v2".into()]);
        }
        words.extend(self.0.user.iter().flat_map(PlainUser::prefix));
        words.push(self.0.program.clone().into());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        if let Some(criu) = tools::criu().ok().filter(|c| c.is_absolute()) {
            command.env("PATH", tools::path_with_criu());
            command.env("HIBER_CRIU", criu);
        }
        command
    }

    /// Runs `PROGRAM --root ROOT ARGS` to its end.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> Output {
        let mut command = self.command();
        command.args(args);
        command::run(command, b"")
    }
}
