//! IPC and UTS namespaces that a container joins, as in a pod: what is in them belongs to the others, too.

use crate::fidelity::refused;
use crate::{counter, counts_on, sleep_and_wake};
use hiber_tests::prelude::*;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command};

/// The namespaces of a pod, held by a process of the test, with a host name and a System V segment.
struct Pod {
    holder: Child,
    name: &'static str,
    segments: String,
}

impl Pod {
    #[track_caller]
    fn new(name: &'static str) -> Self {
        let mut command = Command::new("unshare");
        let script = format!("hostname {name} && ipcmk -M 4096 >/dev/null && exec sleep 600");
        command.args(["--ipc", "--uts", "sh", "-c", &script]);
        let mut pod = Self { holder: command.spawn().unwrap(), name, segments: String::new() };
        wait_for("the pod", || pod.list().lines().count() == 2 && pod.hostname() == name);
        pod.segments = pod.list();
        pod
    }

    fn path(&self, kind: &str) -> String {
        format!("/proc/{}/ns/{kind}", self.holder.id())
    }

    #[track_caller]
    fn run(&self, args: &[&str]) -> String {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--ipc={}", self.path("ipc")))
            .arg(format!("--uts={}", self.path("uts")))
            .args(args);
        hiber_tests::command::run(command, b"").ok().to_owned()
    }

    fn hostname(&self) -> String {
        self.run(&["hostname"]).trim().to_owned()
    }

    fn list(&self) -> String {
        self.run(&["cat", "/proc/sysvipc/shm"])
    }

    #[track_caller]
    fn is_untouched(&self) {
        assert_eq!((self.hostname().as_str(), &self.list()), (self.name, &self.segments));
    }

    fn bundle(&self, bundle: Bundle) -> Bundle {
        let (ipc, uts) = (self.path("ipc"), self.path("uts"));
        let bundle = bundle.namespace("ipc", Some(&ipc)).namespace("uts", Some(&uts));
        bundle.edit(|c| {
            c.as_object_mut().unwrap().remove("hostname");
        })
    }

    /// Whether the container is in the pod's namespaces.
    #[track_caller]
    fn has(&self, c: &Container) {
        for kind in ["ipc", "uts"] {
            let of = |path: PathBuf| fs::read_link(path).unwrap();
            let own = of(format!("/proc/{}/ns/{kind}", c.pid()).into());
            assert_eq!(own, of(self.path(kind).into()), "{kind}");
        }
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Joins another pod's namespaces instead.
fn move_to(c: &Container, pod: &Pod) {
    let path = c.bundle().join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for namespace in config["linux"]["namespaces"].as_array_mut().unwrap() {
        if namespace.get("path").is_some() {
            namespace["path"] = json!(pod.path(namespace["type"].as_str().unwrap()));
        }
    }
    fs::write(path, config.to_string()).unwrap();
}

#[test]
fn a_container_of_a_pod_returns_to_its_pod_and_to_another() {
    require!(Root, Criu);
    let (pod, other) = (Pod::new("hiber-pod"), Pod::new("hiber-other"));
    let c = counter(&Runtime::hiber(), pod.bundle(Bundle::busybox()));
    sleep_and_wake(&c, &[], &[]);
    counts_on(&c, 3);
    pod.has(&c);
    pod.is_untouched();
    let names = fs::read_dir(c.images()).unwrap().flatten().map(|e| e.file_name().into_string().unwrap());
    let saved: Vec<_> = names.filter(|n| n.starts_with("ipcns-") || n.starts_with("utsns-")).collect();
    assert_eq!(saved, [""; 0]);
    c.checkpoint(&[]).ok();
    move_to(&c, &other);
    c.restore(&[]).ok();
    counts_on(&c, 3);
    other.has(&c);
    other.is_untouched();
    pod.is_untouched();
    // A program that is executed there, and the next checkpoint.
    assert_eq!(c.sh("hostname").trim(), "hiber-other");
    sleep_and_wake(&c, &[], &[]);
    other.has(&c);
    other.is_untouched();
}

/// As in a pod of Kubernetes with `hostUsers: false`.
#[test]
fn the_user_namespace_of_a_pod_is_refused() {
    require!(Root, Criu, UserNamespaces);
    let pod = counter(&Runtime::hiber(), Bundle::busybox().user_namespace(100_000));
    let of = |kind: &str| format!("/proc/{}/ns/{kind}", pod.pid());
    for joined in [&["user", "network", "ipc"][..], &["user"]] {
        let bundle = Bundle::busybox().user_namespace(100_000);
        let bundle = joined.iter().fold(bundle, |bundle, kind| {
            bundle.namespace(kind, Some(&of(kind.strip_suffix("work").unwrap_or(kind))))
        });
        let c = counter(&Runtime::hiber(), bundle);
        refused(&c, "joined-user-namespace", "joins a user namespace");
    }
}

#[test]
fn a_checkpoint_of_runc_leaves_a_pod_alone_too() {
    require!(Root, Criu, Runc);
    let (mut pod, other) = (Pod::new("hiber-pod"), Pod::new("hiber-other"));
    let c = counter(&Runtime::runc(), pod.bundle(Bundle::busybox()));
    c.checkpoint(&[]).ok();
    // Its dump reads the segment.
    pod.segments = pod.list();
    assert!(
        fs::read_dir(c.images())
            .unwrap()
            .flatten()
            .any(|e| e.file_name().to_string_lossy().starts_with("utsns-"))
    );
    move_to(&c, &other);
    let c = c.in_hands_of(&Runtime::hiber());
    c.restore(&[]).ok();
    counts_on(&c, 3);
    other.has(&c);
    other.is_untouched();
    pod.is_untouched();
}

#[test]
fn memory_of_the_pod_that_a_process_has_attached() {
    require!(Root, Criu);
    let pod = Pod::new("hiber-pod");
    let c = crate::failures::run_odd(pod.bundle(crate::failures::odd("sysv")));
    refused(&c, "ipc-attached", "System V memory attached");
    c.kill("KILL");
    c.wait_stopped();
    c.delete(&[]).ok();
    // In a namespace of its own it is saved.
    let c = crate::failures::run_odd(crate::failures::odd("sysv"));
    sleep_and_wake(&c, &[], &[]);
    counts_on(&c, 3);
}
