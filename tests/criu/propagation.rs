//! The host's mounts at the dump and at the restore: shared as under systemd, private as the kernel starts, or others than before.

use crate::{count, counter, counts_on, sleep_and_wake};
use hiber_tests::bundle::push;
use hiber_tests::prelude::*;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;

/// A mount namespace of the test's, held by a process.
struct Mounts(Child);

impl Mounts {
    /// In which `script` has changed the mounts.
    #[track_caller]
    fn new(script: &str) -> Self {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-ec"]);
        command.arg(format!("{script}\necho ready; exec sleep 600")).stdout(Stdio::piped());
        let mut new = Self(command.spawn().unwrap());
        let mut first = [0; 6];
        std::io::Read::read_exact(new.0.stdout.as_mut().unwrap(), &mut first)
            .unwrap_or_else(|e| panic!("{script}: {e}"));
        new
    }

    /// A runtime that sees these mounts.
    fn runtime(&self) -> Runtime {
        Runtime::hiber_by(["nsenter".to_owned(), format!("--mount=/proc/{}/ns/mnt", self.0.id())])
    }

    #[track_caller]
    fn run(&self, program: &str, args: &[&str]) {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.0.id())).arg(program).args(args);
        hiber_tests::command::run(command, b"").ok();
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A bundle whose root has this propagation, with binds of two directories outside of it, at `/volume` and `/slave`.
fn bundle(propagation: &Value, volumes: &Path) -> Bundle {
    let bundle = Bundle::busybox().edit(|c| {
        if !propagation.is_null() {
            c["linux"]["rootfsPropagation"] = propagation.clone();
        }
        for (name, options) in [("volume", &["bind"][..]), ("slave", &["rbind", "rslave"])] {
            let (source, destination) = (volumes.join(name), format!("/{name}"));
            fs::create_dir(&source).unwrap();
            let mount =
                json!({"destination": destination, "type": "bind", "source": source, "options": options});
            push(&mut c["mounts"], mount);
        }
    });
    fs::write(volumes.join("volume/file"), "of the host").unwrap();
    bundle
}

/// The fields of mountinfo that tell the peer groups of the mount at `point`, without their numbers.
#[track_caller]
fn groups(c: &Container, point: &str) -> Vec<String> {
    let table = fs::read_to_string(format!("/proc/{}/mountinfo", c.pid())).unwrap();
    let line = table.lines().find(|line| line.split(' ').nth(4) == Some(point));
    let line = line.unwrap_or_else(|| panic!("no {point} in {table}"));
    let fields = line.split(" - ").next().unwrap().split(' ').skip(6);
    fields.map(|field| field.split(':').next().unwrap().to_owned()).collect()
}

/// Sleeps in the hands of one runtime and wakes in those of another, twice.
#[track_caller]
fn moves(c: &Container, there: &Runtime) -> Container {
    let (counted, moved) = (count(c), c.in_hands_of(there));
    c.checkpoint(&[]).ok();
    let report = crate::failures_restore::preflight(&moved, &[]);
    let found = report["findings"].as_array().unwrap().iter().map(|finding| &finding["check"]);
    assert_eq!((&report["possible"], found.collect::<Vec<_>>()), (&json!(true), vec![&json!("memory")]));
    moved.restore(&[]).ok();
    counts_on(&moved, counted);
    let inside = format!("/proc/{}/root/volume/file", moved.pid());
    assert_eq!(fs::read_to_string(inside).unwrap(), "of the host");
    let before = ["/", "/volume", "/slave"].map(|point| groups(&moved, point));
    fs::remove_dir_all(moved.images()).unwrap();
    sleep_and_wake(&moved, &[], &[]);
    assert_eq!(["/", "/volume", "/slave"].map(|point| groups(&moved, point)), before);
    counts_on(&moved, counted);
    moved
}

const PROPAGATIONS: [&str; 4] = ["", "rslave", "rprivate", "rshared"];

fn given(propagation: &str) -> Value {
    if propagation.is_empty() { Value::Null } else { json!(propagation) }
}

#[test]
fn from_shared_mounts_to_private_ones() {
    require!(Root, Criu, Program("unshare"), Program("nsenter"));
    let (shared, private) = (Mounts::new("mount --make-rshared /"), Mounts::new(":"));
    for propagation in PROPAGATIONS {
        let volumes = tempfile::tempdir().unwrap();
        let c = counter(&shared.runtime(), bundle(&given(propagation), volumes.path()));
        // With rprivate and rshared the sources are in no group of the host's when they are bound; rshared gives binds groups, too.
        let (root, slave): (&[&str], &[&str]) = match propagation {
            "rprivate" => (&[], &[]),
            "rshared" => (&["shared"], &["shared"]),
            _ => (&["master"], &["master"]),
        };
        assert_eq!(
            (groups(&c, "/"), groups(&c, "/slave")),
            (to_owned(root), to_owned(slave)),
            "{propagation}"
        );
        let moved = moves(&c, &private.runtime());
        let now = to_owned(if propagation == "rshared" { &["shared"] } else { &[] });
        assert_eq!((groups(&moved, "/"), groups(&moved, "/slave")), (now.clone(), now), "{propagation}");
    }
}

fn to_owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn from_private_mounts_to_shared_ones() {
    require!(Root, Criu, Program("unshare"), Program("nsenter"));
    let (shared, private) = (Mounts::new("mount --make-rshared /"), Mounts::new(":"));
    for propagation in PROPAGATIONS {
        let volumes = tempfile::tempdir().unwrap();
        let c = counter(&private.runtime(), bundle(&given(propagation), volumes.path()));
        let before = ["/", "/slave"].map(|point| groups(&c, point));
        let moved = moves(&c, &shared.runtime());
        assert_eq!(["/", "/slave"].map(|point| groups(&moved, point)), before, "{propagation}");
    }
}

/// Volumes that were on one mount of the host are on several now, one of them private, and get events from where they are.
#[test]
fn volumes_that_lie_on_other_mounts_than_before() {
    require!(Root, Criu, Program("unshare"), Program("nsenter"));
    let volumes = tempfile::tempdir().unwrap();
    let before = Mounts::new("mount --make-rshared /");
    let at = |name: &str| volumes.path().join(name).display().to_string();
    let bundle = Rc::new(bundle(&Value::Null, volumes.path()).shell(crate::COUNT));
    for (make, groups_now) in [("--make-shared", &["master"][..]), ("--make-private", &[])] {
        let c = before.runtime().container(Rc::clone(&bundle));
        c.run_detached().ok();
        wait_for("a count of 3", || count(&c) >= 3);
        let slave = at("slave");
        let script =
            format!("mount --make-rshared /; mount -t tmpfs hiber-test {slave}; mount {make} {slave}");
        let after = Mounts::new(&script);
        let c = moves(&c, &after.runtime());
        assert_eq!((groups(&c, "/"), groups(&c, "/volume")), (to_owned(&["master"]), to_owned(&["master"])));
        assert_eq!(groups(&c, "/slave"), to_owned(groups_now));
        // Mounts of the host come through where they came through before.
        let seen = |path: &str| PathBuf::from(format!("/proc/{}/root/{path}", c.pid())).exists();
        for (name, comes) in [("volume", true), ("slave", !groups_now.is_empty())] {
            let source = at(name);
            after.run(
                "sh",
                &[
                    "-ec",
                    &format!(
                        "mkdir {source}/late; mount -t tmpfs late {source}/late; touch {source}/late/file"
                    ),
                ],
            );
            assert_eq!(seen(&format!("{name}/late/file")), comes, "{name} {groups_now:?}");
            after.run("sh", &["-ec", &format!("umount {source}/late; rmdir {source}/late")]);
        }
        c.delete(&["--force"]).ok();
        fs::remove_dir_all(c.images()).unwrap();
    }
}
