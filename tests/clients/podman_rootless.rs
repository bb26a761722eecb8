//! podman of a plain user: it has made the user namespace when it calls the runtime.

use std::fs;
use std::path::PathBuf;

use hiber_tests::prelude::*;
use hiber_tests::{command, user};
use rustix::process::{Pid, Signal, kill_process};

/// podman with a private storage below the user's directory.
struct Podman {
    user: PlainUser,
}

impl Podman {
    #[track_caller]
    fn new() -> Self {
        let user = PlainUser::create();
        for name in ["home", "run"] {
            fs::create_dir(user.home().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        user::give(&user.home());
        Self { user }
    }

    fn runtime_directory(&self) -> PathBuf {
        self.user.home().join("run")
    }

    #[track_caller]
    fn call(&self, args: &[&str]) -> Output {
        let mut command = self.user.command("podman");
        command.env("HOME", self.user.home().join("home")).env("XDG_RUNTIME_DIR", self.runtime_directory());
        command.args(["--log-level", "error", "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"]);
        command.arg("--runtime").arg(self.user.program()).args(args);
        command::run(command, b"")
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        self.call(&["rm", "--all", "--force", "--time", "0"]);
        // It holds the user namespace for the next podman.
        let pause =
            fs::read_to_string(self.runtime_directory().join("libpod/tmp/pause.pid")).unwrap_or_default();
        if let Some(pid) = pause.trim().parse().ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

#[test]
fn a_plain_user_runs_containers() {
    require!(Root, UserNamespaces, Program("podman"), Program("newuidmap"));
    let podman = Podman::new();
    let bundle = Bundle::busybox();
    user::give(bundle.path());
    let rootfs = bundle.rootfs().display().to_string();
    let script = "id -u; cat /proc/self/uid_map; echo x >/dev/null && touch /made && exit 7";
    let output = podman.call(&["run", "--rm", "--network", "none", "--rootfs", &rootfs, "sh", "-c", script]);
    output.exited(7);
    let (uid, sub) = (user::UID.to_string(), user::SUB_IDS.to_string());
    let words: Vec<_> = output.stdout.split_whitespace().collect();
    assert_eq!(words, ["0", "0", &uid, "1", "1", &sub, "65536"]);
    assert!(bundle.rootfs().join("made").exists());
    podman
        .call(&["run", "--detach", "--name", "c", "--network", "none", "--rootfs", &rootfs, "sleep", "1000"])
        .ok();
    assert_eq!(podman.call(&["exec", "--user", "1000:1000", "c", "id", "-u"]).ok(), "1000");
    podman.call(&["stop", "--time", "0", "c"]).ok();
    assert_eq!(podman.call(&["inspect", "--format", "{{.State.Status}}", "c"]).ok(), "exited");
    podman.call(&["rm", "c"]).ok();
}
