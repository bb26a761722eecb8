//! Configurations that other programs wrote (`configs/`), each run as it is, but for what belongs to the machine
//! that it was written on; what it asks for is looked for inside.

use hiber_tests::prelude::*;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Bind mounts on these are of files; on all others, of directories.
const FILES: [&str; 6] =
    ["hosts", "hostname", "resolv.conf", ".containerenv", "termination-log", "docker-init"];

/// By their numbers (linux/capability.h).
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// `/proc/PID/status` by its keys.
fn status(pid: i32) -> BTreeMap<String, String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let pair = |line: &str| line.split_once(':').map(|(k, v)| (k.to_owned(), v.trim().replace('\t', " ")));
    text.lines().filter_map(pair).collect()
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().map(|s| s.as_str().unwrap().to_owned()).collect()
}

fn bit(name: &str) -> u64 {
    1 << CAPABILITIES.iter().position(|c| name == format!("CAP_{c}")).unwrap()
}

fn capability_set(pid: i32, key: &str) -> u64 {
    u64::from_str_radix(&status(pid)[key], 16).unwrap()
}

/// A foreign configuration in a bundle here; `pod` is the first process of the pod that it joins.
fn adapted(name: &str, pod: Option<i32>) -> Bundle {
    let (_, text) = CONFIGS.iter().find(|(n, _)| *n == name).unwrap();
    let mut config: Value = serde_json::from_str(text).unwrap();
    let mut bundle = Bundle::busybox();
    if let Some(host) = config["linux"]["uidMappings"][0]["hostID"].as_u64() {
        bundle = bundle.user_namespace(u32::try_from(host).unwrap());
    }
    config["root"]["path"] = json!("rootfs");
    config["linux"]["cgroupsPath"] = json!(bundle.cgroup());
    config["process"]["args"] = json!(["sleep", "1000"]);
    adapt_mounts(&mut config, &bundle);
    for namespace in config["linux"]["namespaces"].as_array_mut().unwrap() {
        let Some(path) = namespace["path"].as_str() else { continue };
        // a pod's, or that of the network plugin, which is not here
        match path.strip_prefix("/proc/").and_then(|p| p.split_once('/')) {
            Some((_, rest)) => namespace["path"] = json!(format!("/proc/{}/{rest}", pod.unwrap())),
            None => drop(namespace.as_object_mut().unwrap().remove("path")),
        }
    }
    for hook in config["hooks"]["prestart"].as_array_mut().into_iter().flatten() {
        hook["path"] = json!("/bin/sh");
        hook["args"] = json!(["sh", "-c", format!("cat >{}", bundle.join("hook").display())]);
    }
    adapt_privileges(&mut config["process"]);
    bundle.edit(|own| *own = config)
}

/// The sources of binds are made in the bundle.
fn adapt_mounts(config: &mut Value, bundle: &Bundle) {
    let mounts = config["mounts"].as_array_mut().unwrap();
    // of a hierarchy that this machine may not have
    mounts.retain(|m| {
        m["destination"] != "/sys/fs/cgroup/systemd" || Path::new("/sys/fs/cgroup/systemd").exists()
    });
    for (at, mount) in mounts.iter_mut().enumerate() {
        let destination = PathBuf::from(mount["destination"].as_str().unwrap());
        if mount["type"] != "bind" || destination.starts_with("/sys") {
            continue;
        }
        let source = bundle.join(&format!("source-{at}"));
        if FILES.iter().any(|f| destination.file_name().unwrap() == *f) {
            fs::write(&source, format!("{at}\n")).unwrap();
        } else {
            fs::create_dir(&source).unwrap();
            fs::write(source.join("marker"), format!("{at}\n")).unwrap();
        }
        mount["source"] = json!(source);
    }
}

/// No more than this process may give.
fn adapt_privileges(process: &mut Value) {
    let own = capability_set(std::process::id().try_into().unwrap(), "CapBnd");
    for set in process["capabilities"].as_object_mut().unwrap().values_mut() {
        set.as_array_mut().unwrap().retain(|name| own & bit(name.as_str().unwrap()) != 0);
    }
    let adjusted: i64 = fs::read_to_string("/proc/self/oom_score_adj").unwrap().trim().parse().unwrap();
    if process["oomScoreAdj"].as_i64().is_some_and(|score| score < adjusted) {
        process["oomScoreAdj"] = json!(adjusted);
    }
    let hard = limits(std::process::id().try_into().unwrap());
    for limit in process["rlimits"].as_array_mut().into_iter().flatten() {
        for which in ["soft", "hard"] {
            let most = hard[limit["type"].as_str().unwrap()].1;
            limit[which] = json!(limit[which].as_u64().unwrap().min(most));
        }
    }
}

/// `/proc/PID/limits`: soft and hard, for what clients set.
fn limits(pid: i32) -> BTreeMap<&'static str, (u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let read = |title: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(title)).unwrap();
        let mut numbers = line.split_whitespace().map(|n| n.parse().unwrap_or(u64::MAX));
        (numbers.next().unwrap(), numbers.next().unwrap())
    };
    [("RLIMIT_NOFILE", read("Max open files")), ("RLIMIT_NPROC", read("Max processes"))].into()
}

/// The uppermost mount at each place, with its options and type.
fn mounts(pid: i32) -> BTreeMap<PathBuf, (Vec<String>, String)> {
    let text = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    let place = |line: &str| {
        let (first, last) = line.split_once(" - ").unwrap();
        let words: Vec<_> = first.split(' ').collect();
        let options = words[5].split(',').map(str::to_owned).collect();
        (PathBuf::from(words[4]), (options, last.split(' ').next().unwrap().to_owned()))
    };
    text.lines().map(place).collect()
}

/// Looks into a running container for all that its configuration asks for.
#[track_caller]
fn check(c: &Container) {
    let (pid, config) = (c.pid(), c.bundle().config());
    let process = &config["process"];
    check_mounts(c);
    check_identity(pid, process);
    let found = status(pid);
    let seccomp = if config["linux"]["seccomp"].is_null() { "0" } else { "2" };
    assert_eq!(found["Seccomp"], seccomp);
    assert_eq!(found["NoNewPrivs"], if process["noNewPrivileges"] == true { "1" } else { "0" });
    for namespace in config["linux"]["namespaces"].as_array().unwrap() {
        let kind = namespace["type"].as_str().unwrap().replace("network", "net").replace("mount", "mnt");
        let link = |of: &str| fs::read_link(format!("/proc/{of}/ns/{kind}")).unwrap();
        match namespace["path"].as_str() {
            Some(path) => assert_eq!(link(&pid.to_string()), fs::read_link(path).unwrap(), "{kind}"),
            None => assert_ne!(link(&pid.to_string()), link("self"), "{kind}"),
        }
    }
    if let Some(hostname) = config["hostname"].as_str() {
        assert_eq!(c.exec(&["hostname"]).ok(), hostname);
    }
    for limit in process["rlimits"].as_array().into_iter().flatten() {
        let expected = (limit["soft"].as_u64().unwrap(), limit["hard"].as_u64().unwrap());
        assert_eq!(limits(pid)[limit["type"].as_str().unwrap()], expected, "{limit}");
    }
    if !config["hooks"]["prestart"].is_null() {
        let state: Value = serde_json::from_slice(&fs::read(c.bundle().join("hook")).unwrap()).unwrap();
        assert_eq!((&state["id"], &state["pid"]), (&json!(c.id()), &json!(pid)));
    }
    if let Some(limit) = config["linux"]["resources"]["memory"]["limit"].as_i64() {
        let cgroup = c.bundle().cgroup();
        let written = hiber_tests::cgroup::read("memory", &cgroup, "memory.limit_in_bytes", "memory.max");
        assert_eq!(written, limit.to_string());
    }
}

#[track_caller]
fn check_mounts(c: &Container) {
    let (pid, config) = (c.pid(), c.bundle().config());
    let root = PathBuf::from(format!("/proc/{pid}/root"));
    let inside = |path: &Path| root.join(path.strip_prefix("/").unwrap());
    let found = mounts(pid);
    let read_only =
        |path: &Path| found.get(path).is_some_and(|(options, _)| options.contains(&"ro".to_owned()));
    assert_eq!(read_only(Path::new("/")), config["root"]["readonly"] == true);
    let all = config["mounts"].as_array().unwrap();
    let destination = |mount: &Value| mount["destination"].as_str().unwrap().to_owned();
    // the root filesystem's own links, as the container sees them
    let ask: String = all.iter().map(|m| format!("readlink -f {};", destination(m))).collect();
    let places = c.sh(&ask);
    for (at, (mount, place)) in all.iter().zip(places.lines()).enumerate() {
        // containerd mounts /dev/shm of a pod twice
        if all[at + 1..].iter().any(|later| destination(later) == destination(mount)) {
            continue;
        }
        let (options, fstype) =
            found.get(Path::new(place)).unwrap_or_else(|| panic!("no mount at {place}: {found:#?}"));
        for option in strings(&mount["options"]) {
            if ["ro", "nosuid", "noexec", "nodev"].contains(&option.as_str()) {
                assert!(options.contains(&option), "{place}: {option}: {options:?}");
            }
        }
        match mount["type"].as_str().unwrap() {
            "bind" => {
                if let Ok(text) =
                    fs::read_to_string(Path::new(mount["source"].as_str().unwrap()).join("marker"))
                {
                    assert_eq!(fs::read_to_string(inside(Path::new(place)).join("marker")).unwrap(), text);
                }
            }
            "cgroup" => assert!(["tmpfs", "cgroup2"].contains(&fstype.as_str()), "{fstype}"),
            wanted => assert_eq!(fstype, wanted, "{place}"),
        }
    }
    for path in strings(&config["linux"]["maskedPaths"]).iter().map(|p| inside(Path::new(p))) {
        match fs::metadata(&path) {
            Ok(meta) if meta.is_dir() => assert_eq!(fs::read_dir(&path).unwrap().count(), 0, "{path:?}"),
            Ok(_) => assert_eq!(fs::read(&path).unwrap(), b"", "{path:?}"),
            Err(_) => {}
        }
    }
    for path in strings(&config["linux"]["readonlyPaths"]) {
        let path = Path::new(&path);
        assert!(!inside(path).exists() || read_only(path), "{path:?}: {:?}", found.get(path));
    }
}

#[track_caller]
fn check_identity(pid: i32, process: &Value) {
    let found = status(pid);
    let sets = &process["capabilities"];
    let wanted = |set: &str| strings(&sets[set]).iter().fold(0, |all, name| all | bit(name));
    let root = process["user"]["uid"] == 0;
    // for users but root execve(2) keeps what is ambient
    let (effective, permitted) = if root { ("effective", "permitted") } else { ("ambient", "ambient") };
    for (key, set) in
        [("CapBnd", "bounding"), ("CapInh", "inheritable"), ("CapEff", effective), ("CapPrm", permitted)]
    {
        assert_eq!(capability_set(pid, key), wanted(set), "{key}");
    }
    if let Some(umask) = process["user"]["umask"].as_u64() {
        assert_eq!(u64::from_str_radix(&found["Umask"], 8).unwrap(), umask);
    }
    let mut environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
    environment.pop();
    let environment: Vec<_> = environment.split(|b| *b == 0).map(String::from_utf8_lossy).collect();
    assert!(strings(&process["env"]).iter().all(|v| environment.contains(&v.into())), "{environment:?}");
    let cwd = fs::read_link(format!("/proc/{pid}/cwd")).unwrap();
    assert_eq!(cwd, Path::new(process["cwd"].as_str().unwrap()));
    if let Some(score) = process["oomScoreAdj"].as_i64() {
        let written = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
        assert_eq!(written.trim(), score.to_string());
    }
}

/// Runs the configuration, looks inside, and ends the container.
#[track_caller]
fn run(name: &str, pod: Option<i32>) {
    let c = running(name, pod);
    check(&c);
    end(&c);
}

#[track_caller]
fn running(name: &str, pod: Option<i32>) -> Container {
    let c = Runtime::hiber().container(adapted(name, pod));
    c.run_detached().ok();
    c
}

#[track_caller]
fn end(c: &Container) {
    c.kill("KILL").ok();
    c.wait_stopped();
    c.delete(&[]).ok();
    c.assert_clean();
}

/// The texts are in the test's program, so that it runs where the repository is not; each configuration that needs no
/// other container has a test of its own.
macro_rules! configs {
    (alone: $($test:ident: $file:literal),+; in_pods: $($member:literal),+ $(,)?) => {
        const CONFIGS: &[(&str, &str)] = &[
            $(($file, include_str!(concat!("configs/", $file, ".json"))),)+
            $(($member, include_str!(concat!("configs/", $member, ".json"))),)+
        ];
        $(#[test]
        fn $test() {
            require!(Root, UserNamespaces, Controller("memory"), Controller("cpu"), Controller("pids"));
            run($file, None);
        })+
    };
}

configs! {
    alone:
    buildah_run: "buildah-run",
    containerd_ctr: "containerd-ctr",
    docker_run: "docker-run",
    docker_restricted: "docker-restricted",
    docker_privileged: "docker-privileged",
    podman_run: "podman-run",
    podman_restricted: "podman-restricted",
    podman_privileged: "podman-privileged",
    podman_systemd: "podman-systemd",
    podman_userns: "podman-userns",
    podman_v2_run: "podman-v2-run",
    podman_v2_restricted: "podman-v2-restricted";
    in_pods:
    "kubernetes-pod-sandbox",
    "kubernetes-pod-app",
    "kubernetes-pod-restricted",
    "kubernetes-hostnetwork-sandbox",
    "kubernetes-hostnetwork-app",
}

#[test]
fn kubernetes_pods() {
    require!(Root, Controller("memory"), Controller("cpu"));
    for (pod, containers) in [("pod", &["app", "restricted"][..]), ("hostnetwork", &["app"])] {
        let sandbox = running(&format!("kubernetes-{pod}-sandbox"), None);
        check(&sandbox);
        for name in containers {
            run(&format!("kubernetes-{pod}-{name}"), Some(sandbox.pid()));
        }
        end(&sandbox);
    }
}

#[test]
fn every_configuration_is_run() {
    require!(Repository);
    let mut tested: Vec<_> = CONFIGS.iter().map(|(name, _)| format!("{name}.json")).collect();
    tested.sort_unstable();
    let mut kept: Vec<_> = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/oci/configs"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "README.md")
        .collect();
    kept.sort_unstable();
    assert_eq!(kept, tested);
}
