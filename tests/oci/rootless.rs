//! Containers of a plain user: with its own ids alone or with more, in a cgroup that was delegated to it or in none.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::PathBuf;

use hiber_tests::bundle::push;
use hiber_tests::cgroup;
use hiber_tests::prelude::*;
use hiber_tests::user::{GID, SUB_IDS, UID, give};

fn container(user: PlainUser, bundle: Bundle) -> Container {
    Runtime::hiber_as(user, false).container(bundle.rootless())
}

fn sleeper(user: PlainUser, edit: impl FnOnce(&mut Value)) -> Container {
    let bundle = Bundle::busybox().args(["sleep", "1000"]).rootless().edit(edit);
    let c = Runtime::hiber_as(user, false).container(bundle);
    c.run_detached().ok();
    c
}

/// Maps as many ids as newuidmap(1) lets the user map.
fn more_ids(c: &mut Value) {
    for maps in ["uidMappings", "gidMappings"] {
        push(&mut c["linux"][maps], json!({"containerID": 1, "hostID": SUB_IDS, "size": 65536}));
    }
}

type Edit = fn(&mut Value);

fn fields(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

/// A cgroup2 directory that belongs to the user, with one below it to start from.
struct Delegated {
    directory: PathBuf,
    from: String,
}

impl Delegated {
    fn to_user(bundle: &Bundle) -> Self {
        let hierarchy = cgroup::hierarchies().into_iter().find(|h| h.v2).unwrap();
        let directory = hierarchy.mount.join(bundle.cgroup_parent().trim_start_matches('/'));
        let from = format!("{}/from", bundle.cgroup_parent());
        fs::create_dir_all(directory.join("from")).unwrap();
        for name in ["", "cgroup.procs", "cgroup.subtree_control", "from", "from/cgroup.procs"] {
            chown(directory.join(name), Some(UID), Some(GID)).unwrap();
        }
        Self { directory, from }
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        let _ = fs::remove_dir(self.directory.join("from"));
    }
}

#[test]
fn the_configuration_of_spec_runs() {
    require!(Root, UserNamespaces);
    let bundle = Bundle::busybox();
    fs::remove_file(bundle.join("config.json")).unwrap();
    give(bundle.path());
    let c = Runtime::hiber_as(PlainUser::create(), false).container(bundle);
    c.runtime().run(&["spec", "--rootless", "--bundle", &c.bundle_path()]).ok();
    let file = c.bundle().join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    config["process"]["terminal"] = json!(false);
    let script = "id -u; id -g; cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups; echo x >/dev/null; \
                  hostname; cat /proc/1/comm; ls /dev/pts /dev/shm /dev/mqueue >/dev/null && echo mounted";
    config["process"]["args"] = json!(["sh", "-c", script]);
    fs::write(&file, config.to_string()).unwrap();
    let output = c.run(&[]);
    let (uid, gid) = (UID.to_string(), GID.to_string());
    let expected = ["0", "0", "0", &uid, "1", "0", &gid, "1", "deny", "hiber", "sh", "mounted"];
    assert_eq!(fields(output.ok()), expected);
    c.assert_clean();
}

#[test]
fn a_whole_life_without_a_cgroup() {
    require!(Root, UserNamespaces);
    let c = container(PlainUser::create(), Bundle::busybox().args(["sleep", "1000"]));
    c.create(&[]).ok();
    assert_eq!(c.status(), "created");
    c.start().ok();
    assert_eq!(fs::metadata(format!("/proc/{}", c.pid())).unwrap().uid(), UID);
    c.exec(&["sh", "-c", "exit 3"]).exited(3);
    c.sh("sleep 999 </dev/null >/dev/null 2>&1 &");
    // The pid namespace tells who belongs to the container.
    assert_eq!(c.call("ps", &["--format", "json"]).json().as_array().unwrap().len(), 2);
    c.call("pause", &[])
        .fails("the container has no cgroup freezer; without root it needs a delegated cgroup v2");
    c.call("update", &["--pids-limit", "10"]).fails(
        "cannot set pids limit: container could not join or create cgroup; without root it needs a delegated",
    );
    c.kill("KILL").ok();
    c.wait_stopped();
    c.delete(&[]).ok();
    c.assert_clean();
}

/// In the usual environment of a session the state has a place of the user's own; su(1) and sudo(8) give none.
#[test]
fn a_user_without_a_place_for_state_is_told_how_to_give_one() {
    require!(Root, UserNamespaces);
    let c = container(PlainUser::create(), Bundle::busybox().args(["true"]));
    let run = |env: &[(&str, &str)]| {
        let mut command = c.runtime().bare_command();
        command.env_remove("XDG_RUNTIME_DIR").envs(env.iter().copied());
        command.args(["run", "--bundle", &c.bundle_path(), c.id()]);
        hiber_tests::command::run(command, b"")
    };
    run(&[]).fails("only root writes to /run/hiber; set XDG_RUNTIME_DIR").fails("--root");
    let own = c.bundle().join("own");
    fs::create_dir(&own).unwrap();
    chown(&own, Some(UID), Some(GID)).unwrap();
    run(&[("XDG_RUNTIME_DIR", own.to_str().unwrap())]).ok();
    assert!(own.join("hiber").is_dir());
    c.assert_clean();
}

#[test]
fn more_ids_are_mapped_by_newuidmap() {
    require!(Root, UserNamespaces, Program("newuidmap"));
    let c = sleeper(PlainUser::create(), |c| {
        more_ids(c);
        let all = json!(["CAP_CHOWN", "CAP_SETUID", "CAP_SETGID"]);
        c["process"]["capabilities"] = json!({"bounding": all, "effective": all, "permitted": all});
    });
    let (uid, sub) = (UID.to_string(), SUB_IDS.to_string());
    let maps = c.sh("cat /proc/self/uid_map /proc/self/setgroups");
    assert_eq!(fields(&maps), ["0", &uid, "1", "1", &sub, "65536", "allow"]);
    c.sh("touch /tmp/f && chown 1000:1001 /tmp/f");
    let made = fs::metadata(c.bundle().rootfs().join("tmp/f")).unwrap();
    assert_eq!((made.uid(), made.gid()), (SUB_IDS + 999, SUB_IDS + 1000));
    let output =
        c.exec_with(&["--user", "1000:1000", "--additional-gids", "7"], &["sh", "-c", "id -u; id -G"]);
    assert_eq!(output.ok(), "1000\n1000 7");
    c.exec_with(&["--user", "70000:0"], &["true"])
        .fails("cannot setuid to unmapped uid 70000 in user namespace");
}

#[test]
fn ids_that_cannot_be_mapped_are_refused_with_the_reason() {
    require!(Root, UserNamespaces, Program("newuidmap"));
    let bundle = || Bundle::busybox().rootless().edit(more_ids);
    let lonely =
        Runtime::hiber_as(PlainUser::create().with(&["env", "PATH=/nowhere"]), false).container(bundle());
    lonely.create(&[]).fails(
        "linux.gidMappings: not supported: ids other than the caller's own take the program newgidmap",
    );
    lonely.assert_clean();
    let foreign = bundle().edit(|c| c["linux"]["gidMappings"][1]["hostID"] = json!(SUB_IDS + 1));
    let foreign = Runtime::hiber_as(PlainUser::create(), false).container(foreign);
    foreign.create(&[]).fails("linux.gidMappings: newgidmap failed").fails("not allowed");
    foreign.assert_clean();
}

#[test]
fn what_takes_more_rights_than_a_plain_user_has_is_refused_by_name() {
    require!(Root, UserNamespaces);
    let refused: [(&str, Edit); 8] = [
        ("rootless container requires user namespaces", |c| {
            c["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "user");
            c["linux"]["uidMappings"] = Value::Null;
            c["linux"]["gidMappings"] = Value::Null;
        }),
        ("mounts[2].options: cannot specify gid=5", |c| {
            push(&mut c["mounts"][2]["options"], json!("gid=5"));
        }),
        ("a new sysfs takes a network namespace", |c| {
            c["mounts"][5] = json!({"destination": "/sys", "type": "sysfs", "source": "sysfs"});
        }),
        ("a new procfs takes a pid namespace", |c| {
            c["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "pid");
        }),
        ("mounts[7].uidMappings: not supported", |c| {
            let maps = json!([{"containerID": 0, "hostID": 1, "size": 1}]);
            push(
                &mut c["mounts"],
                json!({"destination": "/m", "source": "/tmp", "type": "bind",
                "options": ["bind"], "uidMappings": maps, "gidMappings": maps}),
            );
        }),
        ("process.user.uid: cannot setuid to unmapped uid 1000", |c| {
            c["process"]["user"]["uid"] = json!(1000);
        }),
        ("process.user.additionalGids", |c| c["process"]["user"]["additionalGids"] = json!([5])),
        ("set process.oomScoreAdj", |c| c["process"]["oomScoreAdj"] = json!(-1000)),
    ];
    for (words, edit) in refused {
        let bundle = Bundle::busybox().rootless().edit(edit);
        let c = Runtime::hiber_as(PlainUser::create(), false).container(bundle);
        c.create(&[]).fails(words);
        c.assert_clean();
    }
}

#[test]
fn limits_and_cgroups_by_name_are_refused_where_none_is_delegated() {
    require!(Root, UserNamespaces, Controller("pids"));
    let with = |key: &str, value: Value, flags: &[&str]| {
        let bundle = Bundle::busybox().rootless().edit(|c| c["linux"][key] = value);
        let c = Runtime::hiber_as(PlainUser::create(), false).container(bundle);
        let mut command = c.runtime().command();
        command.args(flags).args(["run", "--bundle", &c.bundle_path(), c.id()]);
        let output = hiber_tests::command::run(command, b"");
        c.assert_clean();
        output
    };
    let limit = json!({"pids": {"limit": 10}});
    with("resources", limit, &[]).fails("cannot set pids limit: container could not join or create cgroup");
    let denied = with("cgroupsPath", json!("/somewhere/else"), &[]);
    denied.fails("unable to apply cgroup configuration").fails("permission denied");
    with("annotations", json!({}), &["--rootless=false"]).fails("unable to apply cgroup configuration");
    with("annotations", json!({}), &["--rootless=true"]).ok();
    with("annotations", json!({}), &["--rootless=auto"]).ok();
}

#[test]
fn a_delegated_cgroup_is_used() {
    require!(Root, UserNamespaces, CgroupV2);
    let bundle = Bundle::busybox().args(["sleep", "1000"]).rootless();
    let bundle =
        bundle.edit(|c| c["linux"]["resources"] = json!({"unified": {"cgroup.max.descendants": "5"}}));
    let delegated = Delegated::to_user(&bundle);
    let c = Runtime::hiber_as(PlainUser::create().in_cgroup(&delegated.from), true).container(bundle);
    c.run_detached().ok();
    let own = delegated.directory.join(c.id());
    let read = |name: &str| fs::read_to_string(own.join(name)).unwrap().trim().to_owned();
    assert_eq!(read("cgroup.max.descendants"), "5");
    assert_eq!(read("cgroup.procs"), c.pid().to_string());
    c.sh("sleep 999 </dev/null >/dev/null 2>&1 &");
    assert_eq!(read("cgroup.procs").lines().count(), 2);
    c.call("pause", &[]).ok();
    assert_eq!((c.status(), read("cgroup.freeze")), ("paused".into(), "1".into()));
    c.call("resume", &[]).ok();
    // The parts of it that are shown cannot be changed.
    assert_eq!(c.sh("mkdir /sys/fs/cgroup/x 2>&1 | grep -c Read-only"), "1");
    c.delete(&["--force"]).ok();
    assert!(!own.exists());
    drop(delegated);
    c.assert_clean();
}

#[test]
fn delegated_v1_cgroups_are_used() {
    require!(Root, UserNamespaces);
    let bundle = Bundle::busybox().args(["sleep", "1000"]).rootless();
    let parent = bundle.cgroup_parent();
    let controllers = |h: &cgroup::Hierarchy| !h.v2 && h.controllers.iter().all(|c| !c.starts_with("name="));
    let all: Vec<_> = cgroup::hierarchies().into_iter().filter(controllers).collect();
    if all.is_empty() {
        return; // cgroup2 alone: that is tested above
    }
    // As an administrator gives them, but for the hierarchies without controllers.
    for hierarchy in &all {
        let dir = hierarchy.mount.join(&parent[1..]);
        fs::create_dir(&dir).unwrap();
        if hierarchy.controllers.iter().any(|c| c == "cpuset") {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                fs::write(dir.join(file), fs::read(hierarchy.mount.join(file)).unwrap()).unwrap();
            }
        }
        for name in ["", "cgroup.procs", "tasks"] {
            chown(dir.join(name), Some(UID), Some(GID)).unwrap();
        }
    }
    let own = bundle.cgroup();
    let c = Runtime::hiber_as(PlainUser::create(), false).container(bundle.edit(|c| {
        c["linux"]["cgroupsPath"] = json!(own);
        c["linux"]["resources"] = json!({"pids": {"limit": 10}});
    }));
    c.run_detached().ok();
    assert_eq!(cgroup::read("pids", &own, "pids.max", "pids.max"), "10");
    c.sh("true");
    c.call("pause", &[]).ok();
    assert_eq!(c.status(), "paused");
    c.call("resume", &[]).ok();
    c.call("update", &["--pids-limit", "12"]).ok();
    assert_eq!(cgroup::read("pids", &own, "pids.max", "pids.max"), "12");
    c.delete(&["--force"]).ok();
    c.assert_clean();
}

#[test]
fn a_cgroup_that_cannot_be_entered_is_refused() {
    require!(Root, UserNamespaces, CgroupV2);
    let bundle = Bundle::busybox().args(["sleep", "1000"]).rootless();
    let delegated = Delegated::to_user(&bundle);
    let outside = PlainUser::create();
    // The directory may be written, but not that of all: processes cannot be moved between the two.
    let own = format!("{}/c", bundle.cgroup_parent());
    let bundle = bundle.edit(|c| c["linux"]["cgroupsPath"] = json!(own));
    let c = Runtime::hiber_as(outside, true).container(bundle);
    c.create(&[])
        .fails("unable to apply cgroup configuration")
        .fails("cgroup.procs for writing: permission denied");
    drop(delegated);
    c.assert_clean();
}

#[test]
fn no_cgroup_of_the_host_can_be_written() {
    require!(Root, UserNamespaces, CgroupV2);
    for namespace in [true, false] {
        // As on a host with v2 alone, /sys brings the host's cgroups with it (CVE-2023-25809).
        let script = "for d in /sys/fs/cgroup /sys/fs/cgroup/*; do mkdir $d/x 2>/dev/null && echo $d; done; \
                      ls /sys/fs/cgroup | wc -l";
        let bundle = Bundle::busybox().shell(script);
        let bundle = if namespace { bundle } else { bundle.without_namespace("cgroup") };
        let c = Runtime::hiber_as(PlainUser::create(), true).container(bundle.rootless());
        assert_eq!(c.run(&[]).ok(), "0", "cgroup namespace: {namespace}");
    }
}

#[test]
fn without_a_pid_namespace_the_caller_is_warned() {
    require!(Root, UserNamespaces);
    let bundle = Bundle::busybox().args(["sleep", "1000"]).without_namespace("pid").rootless().edit(|c| {
        // Only the owner of a pid namespace may mount its procfs.
        c["mounts"][0] = json!({"destination": "/proc", "source": "/proc", "type": "none",
            "options": ["rbind", "nosuid", "nodev", "noexec"]});
    });
    let c = Runtime::hiber_as(PlainUser::create(), false).container(bundle);
    let output = c.run_detached();
    output.ok();
    assert!(output.stderr.contains("Such configuration is strongly discouraged"), "{output}");
    c.kill("KILL").ok();
    c.wait_stopped();
    c.delete(&[]).ok();
    c.assert_clean();
}

#[test]
fn root_of_a_user_namespace_is_no_more_than_its_user() {
    require!(Root, UserNamespaces);
    // As podman calls its runtime for a plain user: the namespace is there before.
    let user = PlainUser::create().with(&["unshare", "--user", "--map-root-user", "--mount"]);
    let bundle =
        Bundle::busybox().rootless().without_namespace("user").args(["stat", "-c", "%t:%T %U", "/dev/null"]);
    let c = Runtime::hiber_as(user, false).container(bundle.edit(|c| {
        c["linux"]["uidMappings"] = Value::Null;
        c["linux"]["gidMappings"] = Value::Null;
    }));
    assert_eq!(c.run(&[]).ok(), "1:3 nobody");
    c.assert_clean();
}

#[test]
fn a_delegated_cgroup_is_used_by_root_of_a_user_namespace() {
    require!(Root, UserNamespaces, CgroupV2);
    // podman names the cgroup, and device rules that nobody in a user namespace can load.
    let bundle = Bundle::busybox().args(["sleep", "1000"]).rootless().without_namespace("user");
    let delegated = Delegated::to_user(&bundle);
    let own = bundle.cgroup();
    let bundle = bundle.edit(|c| {
        c["linux"]["uidMappings"] = Value::Null;
        c["linux"]["gidMappings"] = Value::Null;
        c["linux"]["cgroupsPath"] = json!(own);
        c["linux"]["resources"] = json!({"devices": [{"allow": false, "access": "rwm"}]});
    });
    let user = PlainUser::create().in_cgroup(&delegated.from);
    let user = user.with(&["unshare", "--user", "--map-root-user", "--mount"]);
    let c = Runtime::hiber_as(user, true).container(bundle);
    c.run_detached().ok();
    let procs = fs::read_to_string(delegated.directory.join("c/cgroup.procs")).unwrap();
    assert_eq!(procs.lines().count(), 1);
    c.delete(&["--force"]).ok();
    drop(delegated);
    c.assert_clean();
}

#[test]
fn a_user_namespace_in_another_works_without_a_mount_namespace_between() {
    require!(Root, UserNamespaces);
    let user = PlainUser::create().with(&["unshare", "--user", "--map-root-user"]);
    let bundle = Bundle::busybox().shell("cat /word && echo x >/dev/null").rootless();
    fs::write(bundle.join("word"), "bound").unwrap();
    let bundle =
        bundle.mount(json!({"destination": "/word", "source": "word", "options": ["bind"]})).edit(|c| {
            c["linux"]["uidMappings"][0]["hostID"] = json!(0);
            c["linux"]["gidMappings"][0]["hostID"] = json!(0);
        });
    let c = Runtime::hiber_as(user, false).container(bundle);
    assert_eq!(c.run(&[]).ok(), "bound");
    c.assert_clean();
}

#[test]
fn a_host_without_user_namespaces_is_told_of() {
    require!(Root, UserNamespaces);
    let limit = "echo 0 >/proc/sys/user/max_user_namespaces; exec \"$@\"";
    let user = PlainUser::create().with(&["unshare", "--user", "--map-root-user", "sh", "-c", limit, "sh"]);
    let bundle = Bundle::busybox().rootless().edit(|c| {
        c["linux"]["uidMappings"][0]["hostID"] = json!(0);
        c["linux"]["gidMappings"][0]["hostID"] = json!(0);
    });
    let c = Runtime::hiber_as(user, false).container(bundle);
    c.create(&[]).fails("a limit in /proc/sys/user/max_*_namespaces is reached");
    c.assert_clean();
}

#[test]
fn state_is_kept_in_the_users_runtime_directory() {
    require!(Root, UserNamespaces);
    let user = PlainUser::create();
    let home = user.home().join("run");
    fs::create_dir(&home).unwrap();
    give(&home);
    let runtime = Runtime::hiber_as(user, false);
    let mut command = runtime.bare_command();
    command.args(["list", "--quiet"]).env("XDG_RUNTIME_DIR", &home);
    assert_eq!(hiber_tests::command::run(command, b"").ok(), "");
    let made = fs::metadata(home.join("hiber")).unwrap();
    assert_eq!((made.uid(), made.permissions().mode() & 0o7777), (UID, 0o1700));
}

#[test]
fn terminals_work() {
    require!(Root, UserNamespaces);
    let bundle = Bundle::busybox().args(["sh", "-c", "tty; stat -c %u /dev/console; stty size"]).rootless();
    let bundle = bundle.edit(|c| {
        c["process"]["terminal"] = json!(true);
        c["process"]["consoleSize"] = json!({"height": 10, "width": 20});
    });
    let socket = hiber_tests::pty::ConsoleSocket::listen(bundle.path());
    fs::set_permissions(socket.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let c = Runtime::hiber_as(PlainUser::create(), false).container(bundle);
    c.create(&["--console-socket", socket.path()]).ok();
    let master = socket.receive();
    c.start().ok();
    let said = hiber_tests::pty::read_until(&master, "10 20");
    assert!(said.contains("/dev/pts/0") || said.contains("/dev/console"), "{said}");
    assert!(said.contains("0\r\n10 20"), "{said}");
}
