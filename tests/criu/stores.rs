//! Checkpoints in a store, where they share what they have in common.

use std::fs;
use std::path::{Path, PathBuf};

use crate::archives::{Export, assert_no_scratch, killed_at_every_step};
use crate::archives_encrypted::run;
use crate::background::{bringers, large, reached};
use crate::lazy::holds_all;
use crate::signed::Keys;
use crate::{count, counter, counts_on};
use hiber_tests::prelude::*;
use hiber_tests::tmpfs::Tmpfs;

fn place(c: &Container) -> PathBuf {
    c.bundle().join("store")
}

/// `checkpoint --store DIR`.
fn put(c: &Container, flags: &[&str]) -> Output {
    c.call("checkpoint", &[&["--store", place(c).to_str().unwrap()], flags].concat())
}

/// `restore --store DIR`.
fn get(c: &Container, flags: &[&str]) -> Output {
    let (bundle, store) = (c.bundle_path(), place(c));
    let place = ["--detach", "--bundle", &bundle, "--store", store.to_str().unwrap()];
    c.call_detached("restore", &[&place, flags].concat())
}

/// `store ACTION DIR`.
fn look_after(c: &Container, action: &str, words: &[&str]) -> Output {
    let store = place(c);
    let line = [&["store", action, store.to_str().unwrap()], words].concat();
    c.runtime().run(&line)
}

fn list(c: &Container) -> Vec<Value> {
    look_after(c, "ls", &["--format", "json"]).json().as_array().unwrap().clone()
}

/// All files below a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => all.extend(files(&path)),
            path => all.push(path),
        }
    }
    all
}

fn packs(c: &Container) -> Vec<PathBuf> {
    let mut all = files(&place(c).join("packs"));
    all.retain(|path| path.extension().is_some_and(|is| is == "pack"));
    all
}

#[test]
fn a_container_sleeps_in_a_store_and_wakes_from_it() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let before = count(&c);
    put(&c, &["--leave-running", "--checkpoint", "first"]).ok();
    counts_on(&c, before);
    for (compress, restore) in [("zstd", &[][..]), ("none", &["--background"]), ("zstd:9", &[])] {
        let before = count(&c);
        put(&c, &["--compress", compress]).ok();
        assert_eq!(c.status(), "gone", "{compress}");
        c.assert_clean();
        assert_no_scratch(&c);
        get(&c, restore).ok();
        counts_on(&c, before);
        c.call("wait-memory", &[]).ok();
        assert_no_scratch(&c);
    }
    let all = list(&c);
    assert_eq!(all.len(), 4);
    assert_eq!((&all[0]["container"], &all[0]["name"]), (&json!(c.id()), &json!("first")));
    let added: Vec<_> = all.iter().map(|one| one["added"].as_u64().unwrap()).collect();
    assert!(added[1] < added[0] * 9 / 10, "{added:?}");
    look_after(&c, "verify", &[]).ok();
    put(&c, &["--checkpoint", "first"]).fails("checkpoint with name first already exists");
    counts_on(&c, 3);
    // The first one, to a container of another name.
    let other = Runtime::hiber().container(Bundle::busybox());
    let (bundle, store) = (other.bundle_path(), place(&c));
    let from = ["--detach", "--bundle", &bundle, "--store", store.to_str().unwrap()];
    other.call_detached("restore", &from).fails(&format!("has no checkpoint of {}", other.id()));
    let named = [&from[..], &["--of", c.id(), "--checkpoint", "first"]].concat();
    other.call_detached("restore", &[&named[..], &["--prove"]].concat()).fails("exclude each other");
    let tried: Vec<_> = named.iter().filter(|word| **word != "--detach").copied().collect();
    other.call("restore", &[&tried[..], &["--prove"]].concat()).ok();
    other.call("restore", &[&tried[..], &["--check"]].concat()).ok();
    other.call_detached("restore", &named).ok();
    counts_on(&other, before);
}

#[test]
fn what_nobody_needs_is_removed() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    put(&c, &["--leave-running", "--checkpoint", "one"]).ok();
    put(&c, &["--leave-running", "--checkpoint", "two"]).ok();
    look_after(&c, "rm", &[c.id(), "one"]).ok();
    look_after(&c, "rm", &[c.id(), "one"]).fails("checkpoint one does not exist for container");
    look_after(&c, "gc", &[]).ok();
    look_after(&c, "verify", &[]).ok();
    c.delete(&["--force"]).ok();
    get(&c, &["--checkpoint", "one"]).fails("checkpoint one does not exist");
    get(&c, &["--checkpoint", "two"]).ok();
    counts_on(&c, 3);
    look_after(&c, "rm", &[c.id(), "two"]).ok();
    let freed = look_after(&c, "gc", &["--format", "json"]).json();
    assert!(freed["freed"].as_u64().unwrap() > 10_000, "{freed}");
    assert!(packs(&c).is_empty() && list(&c).is_empty());
}

#[test]
fn memory_comes_back_whole() {
    require!(Root, Criu, CPrograms, Program("ssh-keygen"));
    let c = crate::pre_copy::torture(|bundle| bundle.args(["/bin/torture", "3", "5000"]));
    let key = c.bundle().join("key").to_str().unwrap().to_owned();
    run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &key]);
    for (flags, restore) in [
        (&["--pre-copy", "on"][..], &[][..]),
        (&["--pre-copy", "off", "--store-key", &key], &["--store-key", &key, "--background"]),
        (&["--pre-copy", "on", "--max-rounds", "1", "--no-hash"], &["--background"]),
        (&["--prove", "--store-key", &key], &["--store-key", &key]),
    ] {
        put(&c, flags).ok();
        c.assert_clean();
        look_after(&c, "verify", &["--store-key", &key]).ok();
        get(&c, restore).ok();
        c.call("wait-memory", &[]).ok();
        crate::pre_copy::works_on(&c, &format!("{flags:?} {restore:?}"));
        assert_no_scratch(&c);
    }
}

/// A server whose memory is large enough that a process of its own brings it, before the server runs or meanwhile.
#[test]
fn a_large_one_is_brought_from_the_store() {
    require!(Root, Criu, Redis);
    let c = large(200);
    put(&c, &["--leave-running"]).ok();
    let change = "for i = 1, 100 do redis.call('set', 'l' .. i, string.rep('x', 65536)) end";
    assert_eq!(c.exec(&["redis-cli", "eval", change, "0"]).ok(), "");
    put(&c, &[]).ok();
    let all = list(&c);
    let (first, second) = (all[0]["added"].as_u64().unwrap(), all[1]["added"].as_u64().unwrap());
    // Most of both are the ids of pages: all values are alike.
    assert!(second < first * 9 / 10, "{first} and then {second}");
    for flags in [&[][..], &["--background"]] {
        get(&c, flags).ok();
        assert_eq!(c.exec(&["redis-cli", "ping"]).stdout.trim(), "PONG");
        holds_all(&c);
        c.call("wait-memory", &[]).ok();
        let wrong = "for i = 1, 100 do if redis.call('get', 'l' .. i) ~= string.rep('x', 65536) then return i end end return 'none'";
        assert_eq!(c.exec(&["redis-cli", "eval", wrong, "0"]).ok(), "none");
        wait_for("its helpers to leave", || bringers(&c).is_empty());
        look_after(&c, "gc", &[]).ok();
        c.delete(&["--force"]).ok();
        c.assert_clean();
        assert_no_scratch(&c);
    }
}

#[test]
fn garbage_stays_as_long_as_memory_arrives() {
    require!(Root, Criu, Redis);
    let c = large(300);
    put(&c, &[]).ok();
    let is_stopped = || {
        get(&c, &["--background"]).ok();
        let both = bringers(&c);
        if both.len() == 2 && reached("STOP", &both[1..]) {
            if c.state()["memory"]["status"] == "arriving" {
                return Some(both);
            }
            reached("CONT", &both[1..]);
        }
        c.delete(&["--force"]).ok();
        None
    };
    let both = (0..10).find_map(|_| is_stopped()).expect("all memory is there at once, ten times");
    // A checkpoint can be forgotten, and its pages stay until they have arrived.
    let name = list(&c)[0]["name"].as_str().unwrap().to_owned();
    look_after(&c, "rm", &[c.id(), &name]).ok();
    look_after(&c, "gc", &[]).fails("is in use: a checkpoint is written, or memory is read");
    assert!(reached("CONT", &both[1..]));
    c.call("wait-memory", &[]).ok();
    holds_all(&c);
    wait_for("its helpers to leave", || bringers(&c).is_empty());
    look_after(&c, "gc", &[]).ok();
    assert!(packs(&c).is_empty());
    holds_all(&c);
}

#[test]
fn damage_is_told_and_ends_what_waits_for_it() {
    require!(Root, Criu, Redis);
    let c = large(200);
    put(&c, &["--compress", "none"]).ok();
    let pack = packs(&c).remove(0);
    let mut bytes = fs::read(&pack).unwrap();
    let whole = bytes.clone();
    // Every frame, so that whatever is read first is damaged, and whatever comes later.
    bytes.iter_mut().skip(100).step_by(4096).for_each(|byte| *byte ^= 1);
    fs::write(&pack, &bytes).unwrap();
    look_after(&c, "verify", &[]).exited(1);
    get(&c, &[]).fails("is damaged in its frame");
    c.assert_clean();
    assert_no_scratch(&c);
    // Only the last half, which the server's own start does not need.
    let (first, second) = whole.split_at(whole.len() / 2);
    let mut second = second.to_vec();
    second.iter_mut().step_by(4096).for_each(|byte| *byte ^= 1);
    fs::write(&pack, [first, &second].concat()).unwrap();
    get(&c, &[]).fails("is damaged in its frame");
    c.assert_clean();
    if get(&c, &["--background"]).status.success() {
        c.call("wait-memory", &[]).fails("is damaged in its frame");
        wait_for("its end", || c.status() == "stopped");
        c.delete(&[]).ok();
    }
    c.assert_clean();
    fs::write(&pack, &whole).unwrap();
    get(&c, &[]).ok();
    holds_all(&c);
}

#[test]
fn a_key_opens_what_it_has_sealed() {
    require!(Root, Criu, Program("ssh-keygen"));
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let path = |name: &str| c.bundle().join(name).to_str().unwrap().to_owned();
    for name in ["own", "other"] {
        run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &path(name)]);
    }
    let (own, other) = (path("own"), path("other"));
    put(&c, &["--store-key", &own]).ok();
    for wrong in [&[][..], &["--store-key", &other]] {
        get(&c, wrong).fails("has no checkpoint of");
        let name = list(&c)[0]["name"].as_str().unwrap().to_owned();
        get(&c, &[wrong, &["--checkpoint", &name]].concat()).fails("is sealed by a key that was not given");
    }
    let listed = look_after(&c, "ls", &["--format", "json", "--store-key", &own]).json();
    assert!(listed[0]["size"].as_u64().unwrap() > 100_000 && listed[0]["sealedBy"].is_string(), "{listed}");
    assert_eq!(list(&c)[0]["size"], Value::Null);
    let gc = look_after(&c, "gc", &[]);
    let gc = gc.ok();
    assert!(gc.contains("not looked at: checkpoints that are sealed by"), "{gc}");
    get(&c, &["--store-key", &own]).ok();
    counts_on(&c, 3);
    put(&c, &["--store-key", &path("none")]).fails("invalid --store-key");
    counts_on(&c, 3);
}

#[test]
fn a_signature_covers_what_is_in_the_store() {
    require!(Root, Criu, Program("openssl"), Program("ssh-keygen"));
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let keys = Keys::new(&c);
    let (own, other) = (keys.path("own.pub"), keys.path("other.pub"));
    for (flags, restore) in [(&[][..], &[][..]), (&["--pre-copy", "on"], &["--background"])] {
        let before = count(&c);
        put(&c, &[&["--sign-key", &keys.path("own")], flags].concat()).ok();
        get(&c, &["--verify-key", &other]).fails("is not signed by the key of --verify-key");
        c.assert_clean();
        get(&c, &[&["--verify-key", &own], restore].concat()).ok();
        counts_on(&c, before);
    }
    put(&c, &[]).ok();
    get(&c, &["--verify-key", &own]).fails("is not signed");
    get(&c, &[]).ok();
}

#[test]
fn a_kill_leaves_the_container_or_the_checkpoint() {
    require!(Root, Criu, Program("cc"));
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let store = place(&c);
    let records = store.join("checkpoints").join(c.id());
    killed_at_every_step(
        &c,
        &Export {
            to: ["--store", store.to_str().unwrap()],
            shows: &records,
            forget: &|| drop(fs::remove_dir_all(&records)),
            is_clean: &|| files(&store.join("unfinished")).is_empty(),
            import: &|| get(&c, &[]),
        },
    );
    look_after(&c, "gc", &[]).ok();
    look_after(&c, "verify", &[]).ok();
}

#[test]
fn a_full_disk_leaves_the_container_and_the_older_checkpoints() {
    require!(Root, Criu, CPrograms);
    let small = counter(&Runtime::hiber(), Bundle::busybox());
    let on = place(&small);
    fs::create_dir(&on).unwrap();
    let _full = Tmpfs::mount(&on, 200);
    put(&small, &["--leave-running", "--checkpoint", "older"]).ok();
    let mut c = crate::pre_copy::torture(|bundle| bundle);
    let store = place(&small).to_str().unwrap().to_owned();
    for flags in [&[][..], &["--leave-running"], &["--pre-copy", "on"]] {
        let flags = [&["--store", &store, "--compress", "none"], flags].concat();
        c.call("checkpoint", &flags)
            .fails("write the checkpoint into the store")
            .fails("No space left on device");
        assert_eq!(c.status(), "running");
        crate::pre_copy::works_on(&c, "a full disk");
        assert!(files(&place(&small).join("unfinished")).is_empty());
        assert_no_scratch(&c);
    }
    c = small;
    c.delete(&["--force"]).ok();
    get(&c, &[]).ok();
    counts_on(&c, 3);
}

#[test]
fn flags_that_do_not_go_together_are_told_for_a_store() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    for (flags, words) in [
        (&["--pre-dump"][..], "--store and --pre-dump exclude each other"),
        (&["--lazy-pages", "--page-server", "localhost:1"], "--store and --lazy-pages exclude each other"),
        (&["--image-path", "/x"], "--store and --image-path exclude each other"),
        (&["--export", "/x"], "--store and --export exclude each other"),
        (&["--encrypt-to", "age1x"], "--encrypt-to and --store exclude each other"),
        (&["--compress", "lz4"], "--compress lz4: a store has zstd, zstd:LEVEL or none"),
        (&["--checkpoint", "a/b"], "Invalid checkpoint ID"),
    ] {
        put(&c, flags).fails(words);
    }
    assert!(!place(&c).join("checkpoints").join(c.id()).exists());
    c.call("checkpoint", &["--checkpoint", "one"]).fails("--checkpoint needs --store");
    c.call("checkpoint", &["--store-key", "/x"]).fails("--store-key needs --store");
    let here = c.bundle_path();
    c.call("checkpoint", &["--store", &here]).fails("is no store of checkpoints");
    c.call("restore", &["--store", &here]).fails("is no store of checkpoints");
    get(&c, &["--import", "/x"]).fails("--store and --import exclude each other");
    c.call("restore", &["--of", "x"]).fails("--of needs --store");
    c.runtime().run(&["store", "ls", "/nowhere"]).fails("/nowhere");
    c.runtime().run(&["store", "look", "/x"]).fails("expected ls, verify, gc or rm");
    c.runtime().run(&["store", "rm", "/x"]).fails("takes a directory, a container's id, and a name");
    assert_eq!(c.status(), "running");
}
