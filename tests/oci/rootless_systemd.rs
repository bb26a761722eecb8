//! Containers of a plain user in scopes of the user's own systemd.

use std::fs;
use std::process::Command;

use hiber_tests::bundle::push;
use hiber_tests::cgroup::hierarchies;
use hiber_tests::command;
use hiber_tests::prelude::*;
use hiber_tests::user::{GID, SUB_IDS, UID};

fn bundle() -> Bundle {
    Bundle::busybox().args(["sleep", "1000"]).rootless()
}

/// A property of a unit, as the user's systemd tells it.
#[track_caller]
fn property(unit: &str, name: &str) -> String {
    let mut show = Command::new("setpriv");
    show.args(["--reuid", &UID.to_string(), "--regid", &GID.to_string(), "--clear-groups"]);
    show.args(["systemctl", "--user", "show", "--value", "--property", name, unit]);
    show.env("XDG_RUNTIME_DIR", format!("/run/user/{UID}"));
    command::run(show, b"").ok().to_owned()
}

#[test]
fn a_scope_of_the_users_systemd_or_a_clear_no() {
    require!(Root, UserNamespaces, UserSystemd);
    if hierarchies().iter().any(|h| !h.v2) {
        let c = Runtime::hiber_with_systemd_as(PlainUser::create().with_systemd()).container(bundle());
        c.create(&[]).fails("a user's systemd can make cgroups on cgroup v2 alone");
        c.assert_clean();
        return;
    }
    let bundle = bundle().edit(|c| {
        c["linux"]["resources"] = json!({"pids": {"limit": 30}, "memory": {"limit": 67_108_864}});
        for maps in ["uidMappings", "gidMappings"] {
            push(&mut c["linux"][maps], json!({"containerID": 1, "hostID": SUB_IDS, "size": 65536}));
        }
    });
    let c = Runtime::hiber_with_systemd_as(PlainUser::create().with_systemd()).container(bundle);
    c.run_detached().ok();
    let scope = format!("hiber-{}.scope", c.id());
    let place = format!("user.slice/user-{UID}.slice/user@{UID}.service/user.slice/{scope}");
    let all = fs::read_to_string(format!("/proc/{}/cgroup", c.pid())).unwrap();
    assert_eq!(all.trim(), format!("0::/{place}"));
    assert_eq!(
        (property(&scope, "ActiveState"), property(&scope, "TasksMax")),
        ("active".into(), "30".into())
    );
    let directory = hierarchies()[0].mount.join(&place);
    let read = |file: &str| fs::read_to_string(directory.join(file)).unwrap().trim().to_owned();
    assert_eq!((read("pids.max"), read("memory.max")), ("30".into(), "67108864".into()));
    assert_eq!(c.sh("cat /proc/self/cgroup; id -u"), "0::/\n0", "exec is in the scope, too");
    c.call("update", &["--pids-limit", "40"]).ok();
    assert_eq!((property(&scope, "TasksMax"), read("pids.max")), ("40".into(), "40".into()));
    c.call("pause", &[]).ok();
    assert_eq!(c.status(), "paused");
    c.call("resume", &[]).ok();
    c.delete(&["--force"]).ok();
    assert_eq!(property(&scope, "LoadState"), "not-found");
    assert!(!directory.exists());
    c.assert_clean();
}

#[test]
fn a_limit_of_the_users_container_is_enforced() {
    require!(Root, UserNamespaces, UserSystemd, UnifiedCgroups);
    let bundle = bundle().edit(|c| c["linux"]["resources"] = json!({"memory": {"limit": 33_554_432}}));
    let c = Runtime::hiber_with_systemd_as(PlainUser::create().with_systemd()).container(bundle);
    c.run_detached().ok();
    c.exec(&["dd", "if=/dev/zero", "of=/dev/null", "bs=60M", "count=1"]).exited(137);
    assert_eq!(c.state()["oomKilled"], json!(true));
}
