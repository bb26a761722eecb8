//! `hiber inspect` on real checkpoints: hiber's, runc's, crun's, and archives of podman's form.

use crate::counter;
use crate::failures::{odd, run_odd};
use hiber_tests::command::Output;
use hiber_tests::prelude::*;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

fn inspect(path: &Path, flags: &[&str]) -> Output {
    let mut command = Runtime::hiber().command();
    command.arg("inspect").args(flags).arg(path);
    hiber_tests::command::run(command, b"")
}

fn json(path: &Path) -> Value {
    inspect(path, &["--format", "json"]).json()
}

/// The elements of an array that have this value.
fn with<'a>(list: &'a Value, key: &str, value: &str) -> Vec<&'a Value> {
    list.as_array().unwrap().iter().filter(|e| e[key] == value).collect()
}

/// A server with a connected client, a pipeline, a deleted file and a terminal-less shell.
fn busy() -> Container {
    let script = "redis-server --bind 127.0.0.1 --save '' --appendonly no >/dev/null & \
                  until redis-cli ping >/dev/null; do sleep 0.05; done; \
                  redis-cli subscribe news | cat >/tmp/news & exec 4<>/gone; echo hidden >&4; rm /gone; \
                  cd /tmp; until grep -q subscribe /tmp/news; do sleep 0.05; done; touch /ready; \
                  while :; do sleep 1000; done";
    let c = Runtime::hiber().container(Bundle::redis().shell(script));
    c.run_detached().ok();
    wait_for("the processes", || c.bundle().rootfs().join("ready").exists());
    c
}

#[test]
fn everything_in_a_checkpoint_is_shown() {
    require!(Root, Criu, Redis);
    let c = busy();
    c.checkpoint(&["--tcp-established"]).ok();
    if let Some(kept) = std::env::var_os("HIBER_TEST_KEEP_IMAGES") {
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(c.images()).arg(kept);
        hiber_tests::command::run(copy, b"").ok();
    }
    let all = json(&c.images());
    assert_eq!(all["manifest"]["container"], c.id());
    let processes = &all["processes"];
    let shell = &processes[0];
    assert_eq!((&shell["pid"], &shell["ppid"], &shell["name"]), (&json!(1), &json!(0), &json!("sh")));
    assert_eq!((&shell["arguments"][0], &shell["arguments"][1]), (&json!("sh"), &json!("-c")));
    assert_eq!(shell["workingDirectory"], "/tmp");
    assert_eq!(shell["credentials"]["noNewPrivileges"], true);
    let kill = json!(["CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_AUDIT_WRITE"]);
    assert_eq!(shell["credentials"]["effective"], kill);
    let gone = &with(&shell["files"], "kind", "file").into_iter().find(|f| f["fd"] == 4).unwrap();
    assert_eq!((&gone["deleted"], &gone["offset"]), (&json!(true), &json!(7)));
    let server = with(processes, "name", "redis-server")[0];
    assert!(server["executable"].as_str().unwrap().contains("redis"), "{server}");
    assert!(server["threads"].as_array().unwrap().len() > 1);
    assert!(with(&server["memory"], "kind", "anonymous")[0]["stored"].as_u64().unwrap() > 100_000);
    assert_eq!(with(&server["files"], "kind", "epoll").len(), 1);
    let client = with(processes, "name", "redis-cli")[0];
    assert_eq!(client["arguments"], json!(["redis-cli", "subscribe", "news"]));
    let listening = with(&all["sockets"], "state", "listening")[0];
    assert_eq!((&listening["kind"], &listening["local"]), (&json!("tcp"), &json!("127.0.0.1:6379")));
    assert_eq!(listening["holders"][0]["pid"], server["pid"]);
    let ends = with(&all["sockets"], "state", "established");
    assert_eq!((ends.len(), &ends[0]["local"]), (2, &ends[1]["peer"]), "{ends:?}");
    let proc = with(&all["mounts"], "mountpoint", "/proc")[0];
    assert_eq!(proc["filesystem"], "proc");
    assert!(with(&all["mounts"], "mountpoint", "/dev/shm").len() == 1);
    assert_eq!(all["cgroups"][0]["processes"].as_array().unwrap().len(), processes.as_array().unwrap().len());
    assert!(all["statistics"]["pagesWritten"].as_u64().unwrap() > 0);

    let text = inspect(&c.images(), &[]).ok().to_owned();
    for words in [
        "redis-cli subscribe news",
        "tcp stream established 127.0.0.1:",
        "/dev/shm tmpfs",
        "pages: ",
        "(deleted)",
    ] {
        assert!(text.contains(words), "{words:?} is not in\n{text}");
    }
}

#[test]
fn verify_notices_one_changed_byte() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    c.checkpoint(&[]).ok();
    let images = c.images();
    assert!(inspect(&images, &["--verify"]).ok().contains("all as they were written"));
    let pages = images.join("pages-1.img");
    let mut bytes = fs::read(&pages).unwrap();
    bytes[1000] ^= 1;
    fs::write(&pages, bytes).unwrap();
    let output = inspect(&images, &["--verify"]);
    output.exited(1);
    assert!(output.stdout.contains("pages-1.img: its content is not what was written"), "{output}");
    fs::remove_file(images.join("hiber.json")).unwrap();
    inspect(&images, &["--verify"]).fails("no hiber.json");
    let core = images.join("core-1.img");
    fs::write(&core, &fs::read(&core).unwrap()[..40]).unwrap();
    inspect(&images, &[]).fails("core-1.img: truncated");
    inspect(&c.bundle().join("nothing"), &[]).fails("nothing");
}

#[test]
fn memory_that_was_hashed_while_it_was_written_is_verified() {
    require!(Root, Criu);
    let c = run_odd(odd("memory=67108864"));
    c.checkpoint(&[]).ok();
    assert!(inspect(&c.images(), &["--verify"]).ok().contains("all as they were written"));
    let size = |path: &PathBuf| path.metadata().unwrap().len();
    let images = fs::read_dir(c.images()).unwrap().map(|entry| entry.unwrap().path());
    let largest = images.max_by_key(size).unwrap();
    assert!(size(&largest) >= 67_108_864, "{}", largest.display());
    let file = fs::File::options().write(true).open(&largest).unwrap();
    file.write_all_at(b"!", size(&largest) / 2).unwrap();
    let output = inspect(&c.images(), &["--verify"]);
    output.exited(1);
    assert!(output.stdout.contains("its content is not what was written"), "{output}");
}

#[test]
fn what_was_written_without_hashes_cannot_be_verified() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    c.checkpoint(&["--no-hash"]).ok();
    inspect(&c.images(), &["--verify"]).fails("--no-hash");
    inspect(&c.images(), &[]).ok();
}

#[test]
fn checkpoints_of_runc_and_crun_are_read() {
    require!(Root, Criu, Runc, Crun);
    for runtime in [Runtime::runc(), Runtime::crun()] {
        let c = counter(&runtime, Bundle::busybox().edit(|c| c["linux"]["maskedPaths"] = json!([])));
        c.checkpoint(&["--manage-cgroups-mode", "ignore"]).ok();
        let all = json(&c.images());
        assert_eq!((&all["manifest"], &all["processes"][0]["name"]), (&Value::Null, &json!("sh")));
        assert!(inspect(&c.images(), &[]).ok().contains("no manifest"));
    }
}

#[test]
fn archives_of_podmans_form_are_read() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    c.checkpoint(&[]).ok();
    let export = c.bundle().join("export");
    fs::create_dir(&export).unwrap();
    fs::rename(c.images(), export.join("checkpoint")).unwrap();
    fs::rename(export.join("checkpoint/stats-dump"), export.join("stats-dump")).unwrap();
    fs::write(export.join("config.dump"), r#"{"name": "happy", "rootfsImageName": "docker.io/x"}"#).unwrap();
    for (name, compression) in
        [("plain.tar", "--no-auto-compress"), ("c.tar.gz", "--gzip"), ("c.tar.zst", "--zstd")]
    {
        let archive = c.bundle().join(name);
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(&export).args([compression, "--format=pax", "-cf"]).arg(&archive).arg(".");
        hiber_tests::command::run(tar, b"").ok();
        let all = json(&archive);
        assert_eq!(
            (&all["podman"]["name"], &all["manifest"]["container"]),
            (&json!("happy"), &json!(c.id()))
        );
        assert_eq!(all["processes"][0]["name"], "sh");
        assert!(all["statistics"]["pagesWritten"].as_u64().unwrap() > 0, "{name}");
        assert!(inspect(&archive, &["--verify"]).ok().contains("all as they were written"), "{name}");
        assert!(inspect(&archive, &[]).ok().contains("podman container happy of image docker.io/x"));
        let whole = fs::read(&archive).unwrap();
        let mut piped = Runtime::hiber().command();
        piped.args(["inspect", "-"]);
        assert!(hiber_tests::command::run(piped, &whole).ok().contains("podman container happy"), "{name}");
        fs::write(&archive, &whole[..whole.len() / 2]).unwrap();
        inspect(&archive, &[]).fails(name);
    }
}
