//! The requests of Kubernetes by way of CRI: options, user namespaces, and pods whose containers share namespaces.

use crate::shim::{any, command, command_for, connect, refused, soon};
use crate::{COUNT, Shim, count};
use containerd_shim_protos::api::*;
use containerd_shim_protos::protobuf::Message as _;
use containerd_shim_protos::shim::oci::{CheckpointOptions, Options};
use containerd_shim_protos::ttrpc::Code;
use hiber_tests::command::run;
use hiber_tests::prelude::*;
use hiber_tests::{cgroup, leaks};
use std::fs;
use std::os::unix::fs::MetadataExt as _;

/// The first id of the host that a container with a user namespace has.
const HOST: u32 = 100_000;

/// The task's log.
fn log(shim: &Shim) -> String {
    fs::read_to_string(shim.bundle.join("log")).unwrap_or_default()
}

/// A namespace of a process.
fn namespace(pid: u32, kind: &str) -> std::path::PathBuf {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap()
}

/// All options that CRI sends for `runtime_type = "io.containerd.runc.v2"`, with an owner of the streams.
fn options(bundle: &Bundle, owner: u32) -> Options {
    Options {
        binary_name: "/usr/bin/runc".into(),
        root: bundle.join("state").display().to_string(),
        systemd_cgroup: false,
        no_new_keyring: true,
        no_pivot_root: false,
        io_uid: owner,
        io_gid: owner,
        criu_work_path: bundle.join("criu").display().to_string(),
        ..Options::default()
    }
}

/// Makes a cgroup in each hierarchy, as an administrator would.
fn make_cgroup(path: &str) {
    for hierarchy in cgroup::hierarchies() {
        let mut directory = hierarchy.mount.clone();
        for part in path.trim_start_matches('/').split('/') {
            let parent = directory.clone();
            directory.push(part);
            fs::create_dir_all(&directory).unwrap();
            for file in ["cpuset.cpus", "cpuset.mems"].iter().filter(|_| !hierarchy.v2) {
                // without these no process may enter
                if let Ok(value) = fs::read_to_string(parent.join(file)) {
                    fs::write(directory.join(file), value).unwrap();
                }
            }
        }
    }
}

#[test]
fn options_as_cri_sends_them() {
    require!(Root, Criu);
    let script = "echo again >/proc/self/fd/1; sleep 100";
    let bundle =
        Bundle::busybox().shell(script).edit(|c| c["process"]["user"] = json!({"uid": 1234, "gid": 1234}));
    let shim_cgroup = format!("{}/shim", bundle.cgroup_parent());
    make_cgroup(&shim_cgroup);
    let all = Options { shim_cgroup: shim_cgroup.clone(), ..options(&bundle, 1234) };
    let start = command(&bundle, "start");
    // the same come to `start`
    let shim = Shim::start_with(bundle, start, &any(&all).write_to_bytes().unwrap());
    let own = fs::read_to_string(format!("/proc/{}/cgroup", shim.pid)).unwrap();
    assert!(own.lines().any(|line| line.ends_with(&shim_cgroup)), "{own}");
    let request = CreateTaskRequest { options: any(&all), ..shim.create_request() };
    let pid = shim.client.create(soon(), &request).unwrap().pid;
    shim.try_start("").unwrap();
    // a user who may open no stream of root's
    wait_for("the output", || log(&shim) == "again\n");
    let stdout = fs::metadata(format!("/proc/{pid}/fd/1")).unwrap();
    assert_eq!((stdout.uid(), stdout.gid()), (1234, 1234));
    // that cgroup is not the shim's to remove
    let id = shim.id();
    shim.try_kill("", 9).unwrap();
    shim.wait("");
    shim.try_delete("").unwrap();
    shim.client.shutdown(soon(), &ShutdownRequest { id, ..ShutdownRequest::default() }).unwrap();
    wait_for("the shim to end", || !shim.is_alive());
    for directory in cgroup::directories(&shim_cgroup) {
        wait_for("the shim to leave its cgroup", || fs::remove_dir(&directory).is_ok());
    }
    leaks::assert_none(shim.bundle.name(), &shim.bundle.cgroup_parent(), &shim.bundle.join("state"));
}

#[test]
fn a_user_namespace() {
    require!(Root, UserNamespaces, Controller("pids"));
    let script = "id -u; cat /proc/self/uid_map; echo again >/proc/self/fd/1; sleep 100";
    let shim = Shim::start(Bundle::busybox().user_namespace(HOST).shell(script));
    let request = CreateTaskRequest { options: any(&options(&shim.bundle, HOST)), ..shim.create_request() };
    let pid = shim.client.create(soon(), &request).unwrap().pid;
    assert_eq!(fs::metadata(format!("/proc/{pid}")).unwrap().uid(), HOST);
    shim.try_start("").unwrap();
    wait_for("the output", || log(&shim).ends_with("again\n"));
    let words: Vec<_> = log(&shim).split_whitespace().map(str::to_owned).collect();
    assert_eq!(words, ["0", "0", "100000", "65536", "again"]);
    // an exec is in it, too
    let maps = "cat /proc/self/uid_map >/maps; test $(stat -c %u /maps) = 0 && sleep 100";
    shim.try_exec("e", maps).unwrap();
    let exec = shim.try_start("e").unwrap().pid;
    assert_eq!(namespace(exec, "user"), namespace(pid, "user"));
    wait_for("the exec", || {
        fs::read_to_string(shim.bundle.rootfs().join("maps")).is_ok_and(|maps| maps.contains("65536"))
    });
    assert_eq!(fs::metadata(shim.bundle.rootfs().join("maps")).unwrap().uid(), HOST);
    let pids = shim.client.pids(soon(), &PidsRequest { id: shim.id(), ..PidsRequest::default() }).unwrap();
    assert!(pids.processes.iter().any(|process| process.pid == exec), "{pids:?}");
    shim.client.stats(soon(), &StatsRequest { id: shim.id(), ..StatsRequest::default() }).unwrap();
    shim.try_kill("e", 9).unwrap();
    assert_eq!(shim.wait("e"), 137);
    shim.try_delete("e").unwrap();
    shim.end();
}

#[test]
fn layers_of_an_image_are_mapped_into_a_user_namespace() {
    require!(Root, UserNamespaces);
    let script = "stat -c %u:%g /bin/busybox / /made; touch /mine /made; stat -c %u:%g /made; sleep 100";
    let map = json!([{"containerID": 0, "hostID": HOST, "size": 65536}]);
    let bundle = Bundle::busybox().namespace("user", None).shell(script).edit(|c| {
        c["linux"]["uidMappings"] = map.clone();
        c["linux"]["gidMappings"] = map;
    });
    fs::set_permissions(bundle.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    // as containerd's snapshots: layers are root's, what is written to is the container's
    let layers = ["0", "1", "upper", "work"].map(|name| bundle.join(name));
    fs::rename(bundle.rootfs(), &layers[0]).unwrap();
    layers[1..].iter().for_each(|layer| fs::create_dir(layer).unwrap());
    fs::write(layers[1].join("made"), "").unwrap();
    for layer in &layers[2..] {
        std::os::unix::fs::chown(layer, Some(HOST), Some(HOST)).unwrap();
    }
    let shim = Shim::start(bundle);
    let [zero, one, upper, work] = layers.each_ref().map(|layer| layer.display().to_string());
    let overlay = |maps: &[&str]| {
        let mut options =
            vec![format!("lowerdir={one}:{zero}"), format!("upperdir={upper}"), format!("workdir={work}")];
        options.extend(maps.iter().map(|map| (*map).to_owned()));
        let mount = Mount { type_: "overlay".into(), source: "overlay".into(), options, ..Mount::default() };
        CreateTaskRequest { rootfs: vec![mount], ..shim.create_request() }
    };
    let bad = shim.client.create(soon(), &overlay(&["uidmap=0:100000:65536"]));
    refused(bad, Code::INVALID_ARGUMENT, "rootfs[0].options: has one of uidmap and gidmap");
    let maps = ["uidmap=0:100000:65536", "gidmap=0:100000:65536"];
    shim.client.create(soon(), &overlay(&maps)).unwrap();
    shim.try_start("").unwrap();
    wait_for("the output", || log(&shim).lines().count() == 4);
    assert_eq!(log(&shim), "0:0\n0:0\n0:0\n0:0\n");
    let owner = |path: &str| fs::metadata(shim.bundle.join(path)).unwrap().uid();
    assert_eq!(["upper/mine", "upper/made", "0/bin/busybox", "1/made"].map(owner), [HOST, HOST, 0, 0]);
    // nothing but the root itself is mounted
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let below = mounts.lines().filter(|line| line.contains(&shim.bundle.path().display().to_string()));
    assert_eq!(below.filter(|line| !line.contains("/rootfs ")).count(), 0, "{mounts}");
    shim.end();
}

#[test]
fn a_root_that_is_bound_is_mapped_too() {
    require!(Root, UserNamespaces);
    let map = json!([{"containerID": 0, "hostID": HOST, "size": 65536}]);
    let script = "stat -c %u:%g /bin/busybox; touch /made; sleep 100";
    let bundle = Bundle::busybox().namespace("user", None).shell(script).edit(|c| {
        c["linux"]["uidMappings"] = map.clone();
        c["linux"]["gidMappings"] = map;
    });
    fs::set_permissions(bundle.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    let root = bundle.join("snapshot");
    fs::rename(bundle.rootfs(), &root).unwrap();
    let shim = Shim::start(bundle);
    let options = ["rbind", "rw", "uidmap=0:100000:65536", "gidmap=0:100000:65536"].map(String::from).into();
    let source = root.display().to_string();
    let mount = Mount { type_: "bind".into(), source, options, ..Mount::default() };
    let request = CreateTaskRequest { rootfs: vec![mount], ..shim.create_request() };
    shim.client.create(soon(), &request).unwrap();
    shim.try_start("").unwrap();
    wait_for("the output", || log(&shim) == "0:0\n");
    wait_for("the file", || root.join("made").exists());
    assert_eq!(fs::metadata(root.join("made")).unwrap().uid(), 0);
    shim.end();
}

#[test]
fn a_task_with_a_user_namespace_sleeps_and_wakes() {
    require!(Root, Criu, UserNamespaces);
    let shim = Shim::start(Bundle::busybox().user_namespace(HOST).shell(COUNT));
    shim.run();
    wait_for("the count", || count(&shim.bundle) > 2);
    // as containerd makes it, which the container's root may not enter
    let images = shim.bundle.join("images");
    fs::create_dir(&images).unwrap();
    fs::set_permissions(&images, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let path = images.display().to_string();
    let exit = any(&CheckpointOptions { exit: true, ..CheckpointOptions::default() });
    let checkpoint = CheckpointTaskRequest {
        id: shim.id(),
        path: path.clone(),
        options: exit,
        ..CheckpointTaskRequest::default()
    };
    shim.client.checkpoint(soon(), &checkpoint).unwrap();
    assert_eq!(shim.wait(""), 137);
    shim.try_delete("").unwrap();
    let before = count(&shim.bundle);
    let request = CreateTaskRequest { checkpoint: path, ..shim.create_request() };
    shim.client.create(soon(), &request).unwrap();
    let pid = shim.try_start("").unwrap().pid;
    wait_for("it to count on", || count(&shim.bundle) > before);
    assert_eq!(fs::metadata(format!("/proc/{pid}")).unwrap().uid(), HOST);
    shim.end();
}

#[test]
fn a_checkpoint_leaves_its_statistics_where_cri_takes_them() {
    require!(Root, Criu);
    let shim = Shim::start(Bundle::busybox().shell(COUNT));
    shim.run();
    wait_for("the count", || count(&shim.bundle) > 2);
    let root = tempfile::tempdir().unwrap();
    let work = root.path().join("io.containerd.runtime.v2.task/k8s.io").join(shim.id());
    std::os::unix::fs::symlink(work, shim.bundle.join("work")).unwrap();
    let container = root.path().join("io.containerd.grpc.v1.cri/containers").join(shim.id());
    // the first releases of containerd 2.1 take them from the first of these, later ones from the second
    for directory in [container.clone(), container.join("ctrd-checkpoint")] {
        fs::create_dir_all(&directory).unwrap();
        let images = shim.bundle.join("images");
        fs::create_dir(&images).unwrap();
        // CRI sends no options, and containerd pauses the task
        let path = images.display().to_string();
        shim.client.pause(soon(), &PauseRequest { id: shim.id(), ..PauseRequest::default() }).unwrap();
        let request = CheckpointTaskRequest { id: shim.id(), path, ..CheckpointTaskRequest::default() };
        shim.client.checkpoint(soon(), &request).unwrap();
        shim.client.resume(soon(), &ResumeRequest { id: shim.id(), ..ResumeRequest::default() }).unwrap();
        let before = count(&shim.bundle);
        wait_for("it to count on", || count(&shim.bundle) > before);
        for file in ["stats-dump", "dump.log"] {
            assert!(fs::metadata(directory.join(file)).unwrap().len() > 0, "{file} in {directory:?}");
            fs::remove_file(directory.join(file)).unwrap();
        }
        assert!(images.join("inventory.img").exists());
        fs::remove_dir_all(&images).unwrap();
    }
    assert!(!shim.bundle.join("criu-work").exists());
    shim.end();
}

#[test]
fn containers_of_a_pod_share_a_shim_and_namespaces() {
    require!(Root);
    let group = "io.kubernetes.cri.sandbox-id";
    let annotate = |bundle: Bundle, id: &str, kind: &str| {
        bundle.edit(|c| c["annotations"] = json!({group: id, "io.kubernetes.cri.container-type": kind}))
    };
    let sandbox = Bundle::busybox().shell("sleep 100").edit(|c| c["hostname"] = json!("the-pod"));
    let pod = sandbox.name().to_owned();
    let shim = Shim::start(annotate(sandbox, &pod, "sandbox"));
    let first = shim.create();
    shim.try_start("").unwrap();

    let mut member =
        annotate(Bundle::busybox().shell("cat /proc/sys/kernel/hostname; exec sleep 100"), &pod, "container");
    // CRI names the host in the sandbox alone
    member = member.edit(|c| c["hostname"] = Value::Null);
    for kind in ["ipc", "uts", "network"] {
        let file = if kind == "network" { "net" } else { kind };
        member = member.namespace(kind, Some(&format!("/proc/{first}/ns/{file}")));
    }
    let address = run(command_for(&member, "start", &pod), b"").ok().to_owned();
    assert_eq!(address, shim.address, "one shim for the pod");
    let client = connect(&address);
    let id = member.name().to_owned();
    let log = member.join("log");
    let request = CreateTaskRequest {
        id: id.clone(),
        bundle: member.path().display().to_string(),
        stdout: format!("file://{}", log.display()),
        ..shim.create_request()
    };
    let second = client.create(soon(), &request).unwrap().pid;
    client.start(soon(), &StartRequest { id: id.clone(), ..StartRequest::default() }).unwrap();
    wait_for("the output", || fs::read_to_string(&log).is_ok_and(|text| text.ends_with('\n')));
    assert_eq!(fs::read_to_string(&log).unwrap(), "the-pod\n");
    for kind in ["ipc", "uts", "net"] {
        assert_eq!(namespace(first, kind), namespace(second, kind), "{kind}");
    }
    for kind in ["pid", "mnt"] {
        assert_ne!(namespace(first, kind), namespace(second, kind), "{kind}");
    }
    // the end of a member is not the pod's, and the shim lives as long as one of them
    client.kill(soon(), &KillRequest { id: id.clone(), signal: 9, ..KillRequest::default() }).unwrap();
    let wait = WaitRequest { id: id.clone(), ..WaitRequest::default() };
    assert_eq!(client.wait(soon(), &wait).unwrap().exit_status, 137);
    client.delete(soon(), &DeleteRequest { id: id.clone(), ..DeleteRequest::default() }).unwrap();
    client.shutdown(soon(), &ShutdownRequest { id, ..ShutdownRequest::default() }).unwrap();
    assert_eq!(shim.state("").status.enum_value(), Ok(Status::RUNNING));
    leaks::assert_none(member.name(), &member.cgroup_parent(), &shim.bundle.join("state"));
    shim.end();
}
