//! A plain user, known and with ids of its own to map only where its commands run.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::tools;

/// The user's id.
pub const UID: u32 = 23_456;
/// The user's group.
pub const GID: u32 = 23_457;
/// The first of the 65536 ids, of users and of groups, that newuidmap(1) and newgidmap(1) let it map.
pub const SUB_IDS: u32 = 400_000;

/// A user with a copy of the runtime under test. Its commands run in a mount namespace whose /etc names it.
#[derive(Debug)]
pub struct PlainUser {
    directory: TempDir,
    program: PathBuf,
    cgroup: String,
    wrapper: Vec<OsString>,
}

/// Makes /etc what directory `$1` has, enters cgroup `$2` if there is one, and becomes the user. podman looks for $USER's ids.
const BECOME: &str = r#"for file in passwd subuid subgid; do mount --bind "$1/$file" "/etc/$file"; done
    [ -z "$2" ] || echo $$ >"/sys/fs/cgroup$2/cgroup.procs"
    uid=$3 gid=$4 USER=hiber-test LOGNAME=hiber-test; shift 4
    export USER LOGNAME
    exec setpriv --reuid "$uid" --regid "$gid" --clear-groups "$@""#;

impl PlainUser {
    /// A user in the test's own cgroup.
    #[track_caller]
    pub fn create() -> Self {
        let program = tools::hiber().unwrap_or_else(|e| panic!("no runtime: {e}"));
        let directory = tempfile::Builder::new().prefix("ht-user-").tempdir();
        let directory = directory.unwrap_or_else(|e| panic!("no directory for a user: {e}"));
        let copy = directory.path().join("hiber");
        let user = Self { directory, program: copy, cgroup: String::new(), wrapper: Vec::new() };
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let own = format!("hiber-test:{SUB_IDS}:65536\n");
        let files = [
            ("passwd", format!("{passwd}hiber-test:x:{UID}:{GID}::/:/bin/sh\n")),
            ("subuid", own.clone()),
            ("subgid", own),
        ];
        for (name, text) in files {
            std::fs::write(user.directory.path().join(name), text).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        // The build's directory may be closed to others.
        std::fs::copy(program, &user.program).unwrap_or_else(|e| panic!("{}: {e}", program.display()));
        give(user.directory.path());
        user
    }

    /// Lets its commands run in a cgroup2 directory, below the hierarchy's mount point.
    #[must_use]
    pub fn in_cgroup(mut self, path: &str) -> Self {
        path.clone_into(&mut self.cgroup);
        self
    }

    /// Lets its commands reach the user's systemd, which runs from now on. Only where systemd knows the user, as in the
    /// machines of hack/vm ([`require::Need::UserSystemd`](crate::require::Need::UserSystemd)).
    #[must_use]
    #[track_caller]
    pub fn with_systemd(self) -> Self {
        let mut start = Command::new("systemctl");
        start.args(["start", &format!("user@{UID}.service")]);
        crate::command::run(start, b"").ok();
        self.with(&["env", &format!("XDG_RUNTIME_DIR=/run/user/{UID}")])
    }

    /// Puts words before its command lines: `env PATH=/nowhere`.
    #[must_use]
    pub fn with(mut self, words: &[&str]) -> Self {
        self.wrapper = words.iter().map(OsString::from).collect();
        self
    }

    /// Its copy of the runtime.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// A directory that is its own.
    pub fn home(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    /// A program as the user runs it, in a directory that is its own.
    pub fn command(&self, program: &str) -> Command {
        let words = self.prefix();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg(program).current_dir(self.directory.path());
        command
    }

    /// The words that, before a command, run the command as the user.
    pub(crate) fn prefix(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> =
            ["unshare", "--mount", "--propagation", "private", "sh", "-euc", BECOME, "sh"]
                .map(OsString::from)
                .into();
        words.push(self.directory.path().into());
        words.extend([self.cgroup.clone(), UID.to_string(), GID.to_string()].map(OsString::from));
        words.extend(self.wrapper.iter().cloned());
        words
    }
}

/// Makes the user the owner of a directory and all in it.
#[track_caller]
pub fn give(path: &Path) {
    let mut own = Command::new("chown");
    own.args(["-hR", &format!("{UID}:{GID}")]).arg(path);
    crate::command::run(own, b"").ok();
}
