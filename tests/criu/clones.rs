//! `clone`, and `restore --unique`: many containers of one checkpoint, each of them another one.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use hiber_tests::prelude::*;
use hiber_tests::programs;

use crate::background::{bringers, bringers_by, large, memory, reached, reason, record};
use crate::lazy::{holder, holds_all};
use crate::{COUNT, Network, count, counter, counts_on};

/// `clone --image-path IMAGES --bundle BUNDLE FLAGS NAMES`, the names by their ends.
pub(crate) fn clone(c: &Container, flags: &[&str], ends: &[&str]) -> Output {
    let images = c.images().display().to_string();
    from(c, &[&["--image-path", &images], flags].concat(), ends)
}

/// As [`clone`], from a checkpoint that the flags name.
fn from(c: &Container, flags: &[&str], ends: &[&str]) -> Output {
    let names: Vec<_> = ends.iter().map(|end| format!("{}{end}", c.id())).collect();
    let bundle = c.bundle_path();
    let names = names.iter().map(String::as_str);
    detached(
        c,
        &["--bundle", &bundle].into_iter().chain(flags.iter().copied()).chain(names).collect::<Vec<_>>(),
    )
}

fn detached(c: &Container, line: &[&str]) -> Output {
    let log = c.bundle().join("log");
    let mut command = c.runtime().command();
    command.arg("--log").arg(&log).arg("clone").args(line);
    hiber_tests::command::run_detached(command, &log)
}

fn siblings<'a>(c: &'a Container, ends: &'a [&str]) -> Vec<Container> {
    ends.iter().map(|end| c.sibling(end)).collect()
}

/// A file in the container, as its processes see it.
fn inside(c: &Container, path: &str) -> String {
    fs::read_to_string(format!("/proc/{}/root{path}", c.pid())).unwrap_or_default()
}

/// A line of the generation file.
fn generation(c: &Container, name: &str) -> String {
    let text = inside(c, "/run/hiber/generation");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    line.unwrap_or_else(|| panic!("no {name} in {text:?}")).to_owned()
}

fn clones_dir(c: &Container) -> PathBuf {
    c.bundle().join("clones")
}

/// Whether no clone has a directory.
fn none_left(c: &Container) -> bool {
    fs::read_dir(clones_dir(c)).map_or(true, |mut all| all.next().is_none())
}

#[test]
fn clones_are_containers_of_their_own() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    c.checkpoint(&["--leave-running"]).ok();
    let before = count(&c);
    let all = siblings(&c, &["-1", "-2", "-3"]);
    clone(&c, &["--count", "3"], &["-%d"]).ok();
    let mut different = BTreeSet::new();
    for clone in &all {
        assert_eq!(clone.status(), "running");
        assert_eq!(clone.sh("hostname"), clone.id());
        assert_eq!(generation(clone, "ID"), clone.id());
        assert!(
            different.insert(generation(clone, "RANDOM")) && different.insert(generation(clone, "COUNTER"))
        );
        assert_eq!(generation(clone, "RANDOM").len(), 64);
        counts_on(clone, 3);
        clone.sh(&format!("echo {} > /etc/mine; rm /etc/passwd", clone.id()));
    }
    assert!(
        c.bundle().rootfs().join("etc/passwd").exists() && !c.bundle().rootfs().join("etc/mine").exists()
    );
    assert_eq!(all[1].sh("cat /etc/mine"), all[1].id());
    let networks: BTreeSet<_> =
        all.iter().map(|clone| fs::read_link(format!("/proc/{}/ns/net", clone.pid())).unwrap()).collect();
    assert_eq!(networks.len(), 3);
    all[0].call("pause", &[]).ok();
    assert_eq!((all[0].status(), all[1].status()), ("paused".into(), "running".into()));
    all[0].call("resume", &[]).ok();
    // A clone can be checkpointed, and cloned.
    let (images, bundle) = (c.bundle().join("of-clone"), clones_dir(&c).join(all[1].id()));
    let images = images.to_str().unwrap();
    all[1].call_detached("checkpoint", &["--image-path", images, "--leave-running"]).ok();
    let second = c.sibling("-2-1");
    detached(&c, &["--image-path", images, "--bundle", bundle.to_str().unwrap(), second.id()]).ok();
    counts_on(&second, 3);
    assert_eq!(second.sh("cat /etc/mine"), all[1].id());
    assert!(second.delete(&["--force"]).status.success());
    counts_on(&c, before);
    for clone in &all {
        clone.delete(&["--force"]).ok();
    }
    assert!(none_left(&c));
    c.delete(&["--force"]).ok();
    c.assert_clean();
}

#[test]
fn a_clones_root_is_an_overlay_or_a_copy_or_cannot_be_written() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    c.checkpoint(&[]).ok();
    let shared = c.sibling("-shared");
    clone(&c, &["--rootfs", "shared-readonly"], &["-shared"]).ok();
    shared.exec(&["touch", "/etc/mine"]).fails("Read-only file system");
    assert_eq!(generation(&shared, "ID"), shared.id());
    let (copy, place) = (c.sibling("-copy"), c.bundle().join("elsewhere"));
    clone(&c, &["--rootfs", "copy", "--clones-dir", place.to_str().unwrap()], &["-copy"]).ok();
    copy.sh("echo mine > /etc/mine");
    let own = place.join(copy.id()).join("rootfs/etc");
    assert_eq!(fs::read_to_string(own.join("mine")).unwrap(), "mine\n");
    assert!(own.join("passwd").exists());
    for clone in [&shared, &copy] {
        counts_on(clone, 3);
        clone.delete(&["--force"]).ok();
    }
    assert!(none_left(&c) && fs::read_dir(&place).unwrap().next().is_none());
    c.assert_clean();
}

#[test]
fn of_clones_that_cannot_all_be_made_none_is_left() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    c.checkpoint(&["--leave-running"]).ok();
    let taken = c.sibling("-2");
    clone(&c, &[], &["-2"]).ok();
    let before = generation(&taken, "RANDOM");
    clone(&c, &["--count", "3"], &["-%d"]).fails("-2").fails("exists");
    assert_eq!([c.sibling("-1").status(), c.sibling("-3").status()], ["gone", "gone"]);
    assert_eq!(generation(&taken, "RANDOM"), before, "it was another's");
    clone(&c, &["--count", "3", "--keep-going"], &["-%d"]).fails("-2");
    assert_eq!([c.sibling("-1").status(), c.sibling("-3").status()], ["running", "running"]);
    for end in ["-1", "-2", "-3"] {
        c.sibling(end).delete(&["--force"]).ok();
    }
    // An image that cannot be read.
    let core = c.images().join("core-1.img");
    fs::write(&core, "x").unwrap();
    clone(&c, &["--count", "2", "--trust-images"], &["-%d"]).fails("core-1.img");
    assert!(none_left(&c));
    c.delete(&["--force"]).ok();
    c.assert_clean();
}

#[test]
fn what_cannot_be_meant_is_refused() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    c.checkpoint(&["--leave-running"]).ok();
    let refused = |flags: &[&str], ends: &[&str], words: &str| {
        clone(&c, flags, ends).fails(words);
        assert!(none_left(&c));
    };
    refused(&["--count", "2"], &["-a"], "expected %d");
    refused(&[], &["-a", "-a"], "twice");
    refused(&["--count", "0"], &["-a%d"], "--count 0");
    refused(&["--pid-file", "/x"], &["-a", "-b"], "expected %s");
    refused(&["--annotation", "x"], &["-a"], "expected NAME=VALUE");
    refused(&["--checkpoint", "c1"], &["-a"], "exclude each other");
    refused(&["--rootfs", "none"], &["-a"], "expected overlay");
    let file = c.bundle().join("env");
    fs::write(&file, "A=b\nnonsense\n").unwrap();
    refused(&["--env-file", file.to_str().unwrap()], &["-a"], "line 2");
    refused(&["--netns", "/nowhere/%s"], &["-a"], "of the container's own");
    c.delete(&["--force"]).ok();
    c.assert_clean();
}

#[test]
fn a_clone_that_sleeps_keeps_its_root() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    c.checkpoint(&[]).ok();
    let (one, images) = (c.sibling("-1"), c.bundle().join("asleep").display().to_string());
    let bundle = clones_dir(&c).join(one.id());
    let place = bundle.display().to_string();
    clone(&c, &[], &["-1"]).ok();
    one.sh("echo mine > /etc/mine");
    for boot in [false, true] {
        let before = count(&one);
        one.call_detached("checkpoint", &["--image-path", &images]).ok();
        assert_eq!(one.status(), "gone");
        clone(&c, &[], &["-1"]).fails("exists");
        if boot {
            rustix::mount::unmount(bundle.join("rootfs"), rustix::mount::UnmountFlags::empty()).unwrap();
        }
        one.call_detached("restore", &["--detach", "--image-path", &images, "--bundle", "/nowhere"])
            .fails("/nowhere");
        one.call_detached("restore", &["--detach", "--image-path", &images, "--bundle", &place]).ok();
        counts_on(&one, before);
        assert_eq!(one.sh("cat /etc/mine"), "mine");
        fs::remove_dir_all(&images).unwrap();
    }
    one.delete(&["--force"]).ok();
    assert!(none_left(&c), "it is a clone still");
    clone(&c, &[], &["-1"]).ok();
    one.call("keep", &["--every", "1s"]).fails("is a clone");
    one.delete(&["--force"]).ok();
    c.assert_clean();
}

#[test]
fn a_clone_joins_a_network_as_its_container_had() {
    require!(Root, Criu);
    let networks: Vec<_> = (0..3).map(|_| Network::new()).collect();
    let bundle = Bundle::busybox();
    let path = |number: usize| networks[number].path();
    // The clones' names are in the paths.
    let place = bundle.join("networks");
    fs::create_dir(&place).unwrap();
    let c = Runtime::hiber().container(bundle.namespace("network", Some(&path(0))).shell(COUNT));
    for number in 1..3 {
        symlink(path(number), place.join(format!("{}-{number}", c.id()))).unwrap();
    }
    c.run_detached().ok();
    wait_for("a count of 3", || count(&c) >= 3);
    c.checkpoint(&[]).ok();
    clone(&c, &["--count", "2", "--netns", &format!("{}/%s", place.display())], &["-%d"]).ok();
    for (number, one) in siblings(&c, &["-1", "-2"]).iter().enumerate() {
        let inode = |path: &str| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
        assert_eq!(inode(&format!("/proc/{}/ns/net", one.pid())), inode(&path(number + 1)));
        one.delete(&["--force"]).ok();
    }
    c.assert_clean();
}

#[test]
fn a_clone_is_told_what_it_is() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    c.checkpoint(&[]).ok();
    let (env, pid) = (c.bundle().join("env"), c.bundle().join("pid-%s"));
    let output = c.bundle().join("out-%s");
    fs::write(&env, "WHO=me\n# a remark\n").unwrap();
    let flags = [
        "--env-file",
        env.to_str().unwrap(),
        "--annotation",
        "role=a=b",
        "--pid-file",
        pid.to_str().unwrap(),
    ];
    clone(&c, &[&flags[..], &["--output", output.to_str().unwrap()]].concat(), &["-1", "-2"]).ok();
    for clone in siblings(&c, &["-1", "-2"]) {
        assert_eq!(inside(&clone, "/run/hiber/environment"), "WHO=me\n# a remark\n");
        assert_eq!(inside(&clone, "/run/hiber/annotations.json"), "{\"role\":\"a=b\"}\n");
        assert_eq!(clone.state()["annotations"]["role"], "a=b");
        let file = c.bundle().join(&format!("pid-{}", clone.id()));
        assert_eq!(fs::read_to_string(file).unwrap(), clone.pid().to_string());
        assert!(c.bundle().join(&format!("out-{}", clone.id())).exists());
        clone.delete(&["--force"]).ok();
    }
    c.assert_clean();
}

/// A container with the program that shows what a clone finds.
fn shows(annotations: Value) -> Container {
    let bundle = Bundle::busybox();
    programs::install("unique", &bundle);
    let c = Runtime::hiber()
        .container(bundle.args(["unique"]).edit(|config| config["annotations"] = annotations));
    c.run_detached().ok();
    wait_for("the program", || shown(&c).starts_with("plain=65,65 wiped=65,65"));
    c
}

fn shown(c: &Container) -> String {
    inside(c, "/dev/shm/unique")
}

#[test]
fn memory_that_a_child_would_not_have_is_wiped_in_clones_alone() {
    require!(Root, Criu);
    let c = shows(json!({}));
    let droppable = if shown(&c).contains("droppable=65") { "droppable=0" } else { "droppable=-1" };
    c.checkpoint(&[]).ok();
    c.restore(&[]).ok();
    wait_for("the program", || shown(&c).starts_with("plain=65,65 wiped=65,65"));
    c.delete(&["--force"]).ok();
    let with: [&[&str]; 3] = [&[], &["--memory", "background"], &["--memory", "lazy"]];
    for flags in with {
        clone(&c, flags, &["-1"]).ok();
        let one = c.sibling("-1");
        let wanted = format!("plain=65,65 wiped=0,0 {droppable} signals=0");
        wait_for(&wanted, || shown(&one).trim() == wanted);
        one.delete(&["--force"]).ok();
    }
    c.restore(&["--unique"]).ok();
    wait_for("wiped memory", || shown(&c).starts_with("plain=65,65 wiped=0,0"));
    assert_eq!(generation(&c, "ID"), c.id());
    c.delete(&["--force"]).ok();
    c.assert_clean();
}

#[test]
fn the_hook_runs_before_the_first_instruction_and_a_signal_follows() {
    require!(Root, Criu);
    let script = "cat /run/hiber/generation > /dev/shm/seen; cp /dev/shm/unique /dev/shm/before; sleep 0.2; \
                  cmp /dev/shm/unique /dev/shm/before && echo still > /dev/shm/still";
    let hook = serde_json::to_string(&["/bin/sh", "-c", script]).unwrap();
    let c = shows(json!({"org.hiber.hooks.restored": hook, "org.hiber.restore.signal": "SIGUSR1"}));
    c.checkpoint(&[]).ok();
    let all = siblings(&c, &["-1", "-2"]);
    clone(&c, &[], &["-1", "-2"]).ok();
    for one in &all {
        assert_eq!(inside(one, "/dev/shm/seen"), inside(one, "/run/hiber/generation"));
        assert_eq!(inside(one, "/dev/shm/still"), "still\n", "the program has run beside its hook");
        wait_for("the signal", || shown(one).contains("signals=1"));
        one.delete(&["--force"]).ok();
    }
    // An ordinary restore needs none.
    c.restore(&[]).ok();
    assert!(!Path::new(&format!("/proc/{}/root/dev/shm/seen", c.pid())).exists());
    c.delete(&["--force"]).ok();
    c.assert_clean();
}

#[test]
fn a_hook_that_fails_ends_its_clone() {
    require!(Root, Criu);
    let failing = |hook: Value, timeout: &str, words: &str| {
        let c = shows(json!({"org.hiber.hooks.restored": hook, "org.hiber.hooks.restored.timeout": timeout}));
        c.checkpoint(&[]).ok();
        clone(&c, &[], &["-1"]).fails("org.hiber.hooks.restored").fails(words);
        assert!(none_left(&c));
        assert_eq!(c.sibling("-1").status(), "gone");
        c.assert_clean();
    };
    failing(
        json!("[\"/bin/sh\", \"-c\", \"echo no entropy >&2; exit 3\"]"),
        "10s",
        "exit status 3: no entropy",
    );
    failing(json!("[\"/bin/sleep\", \"100\"]"), "200ms", "it ran for more than 200ms");
    failing(json!("/bin/nothing"), "1s", "no such file");
    failing(json!("nothing"), "1s", "expected an absolute path");
}

#[test]
fn a_server_is_cloned_from_wherever_its_checkpoint_is() {
    require!(Root, Criu, Redis);
    let c = holder();
    let (archive, store) = (c.bundle().join("a.tar"), c.bundle().join("store"));
    let (archive, store) = (archive.to_str().unwrap(), store.to_str().unwrap());
    c.call("checkpoint", &["--leave-running", "--export", archive]).ok();
    c.call("checkpoint", &["--leave-running", "--store", store]).ok();
    c.runtime().run(&["checkpoints", "create", "--leave-running", c.id(), "c1"]).ok();
    c.checkpoint(&[]).ok();
    let images = c.images();
    let sources: [&[&str]; 6] = [
        &["--image-path", images.to_str().unwrap()],
        &["--image-path", images.to_str().unwrap(), "--memory", "background"],
        &["--image-path", images.to_str().unwrap(), "--memory", "whole"],
        &["--import", archive],
        &["--store", store, "--of", c.id()],
        &["--checkpoint", "c1", "--of", c.id()],
    ];
    for flags in sources {
        from(&c, flags, &["-1", "-2"]).ok();
        for one in siblings(&c, &["-1", "-2"]) {
            holds_all(&one);
            one.exec(&["redis-cli", "set", "mine", one.id()]).ok();
            assert_eq!(one.exec(&["redis-cli", "get", "mine"]).stdout.trim(), one.id());
            one.delete(&["--force"]).ok();
        }
    }
    assert!(none_left(&c));
    c.assert_clean();
}

#[test]
fn a_container_with_users_of_its_own_is_cloned() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox().user_namespace(100_000));
    c.checkpoint(&[]).ok();
    let one = c.sibling("-1");
    clone(&c, &[], &["-1"]).ok();
    counts_on(&one, 3);
    assert_eq!(
        one.sh("stat -c %u:%g /run/hiber /run/hiber/generation; touch /etc/mine; stat -c %u /etc/mine"),
        "0:0\n0:0\n0"
    );
    one.delete(&["--force"]).ok();
    c.assert_clean();
}

#[test]
fn what_clones_would_share_is_told_and_refused() {
    require!(Root, Criu);
    let bundle = Bundle::busybox();
    let data = bundle.join("data");
    fs::create_dir(&data).unwrap();
    let mount = json!({"destination": "/data", "type": "bind", "source": "data", "options": ["bind"]});
    let script = "exec 3>/data/log; i=0; while :; do i=$((i+1)); echo $i >/dev/shm/.count; mv /dev/shm/.count /dev/shm/count; sleep 0.05; done";
    let c = Runtime::hiber().container(bundle.mount(mount).shell(script));
    c.run_detached().ok();
    wait_for("a count of 3", || count(&c) >= 3);
    c.checkpoint(&[]).ok();
    clone(&c, &[], &["-1"]).fails("/data/log").fails("--share");
    assert!(none_left(&c));
    clone(&c, &["--share"], &["-1"]).ok();
    let one = c.sibling("-1");
    counts_on(&one, 3);
    one.delete(&["--force"]).ok();
    c.assert_clean();
}

#[test]
fn a_connection_is_closed_in_clones_or_refused() {
    require!(Root, Criu, Redis);
    let c = Runtime::hiber().container(Bundle::redis());
    c.run_detached().ok();
    wait_for("the server", || c.exec(&["redis-cli", "ping"]).stdout.trim() == "PONG");
    // In its own network, both ends.
    c.sh("redis-cli subscribe news </dev/null >/dev/null 2>&1 &");
    wait_for("the subscriber", || c.exec(&["redis-cli", "pubsub", "numsub", "news"]).stdout.contains('1'));
    c.checkpoint(&["--tcp-established"]).ok();
    clone(&c, &[], &["-1"]).fails("TCP connection").fails("--tcp-close");
    clone(&c, &["--tcp-close"], &["-1"]).ok();
    let one = c.sibling("-1");
    assert_eq!(one.exec(&["redis-cli", "ping"]).stdout.trim(), "PONG");
    wait_for("the closed connection", || {
        one.exec(&["redis-cli", "pubsub", "numsub", "news"]).stdout.contains('0')
    });
    one.delete(&["--force"]).ok();
    c.assert_clean();
}

#[test]
fn what_a_killed_clone_has_left_is_removed_by_the_next() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    c.checkpoint(&[]).ok();
    let images = c.images().display().to_string();
    let one = c.sibling("-1");
    let mut left = 0;
    for delay in (0..20).map(|step| step * 4) {
        let mut command = c.runtime().command();
        command.args(["clone", "--bundle", &c.bundle_path(), "--image-path", &images, one.id()]);
        command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(delay));
        let _ = child.kill();
        child.wait().unwrap();
        left += usize::from(!none_left(&c));
        // Either way somebody gets it: the container, or the next of the name.
        one.delete(&["--force"]).ok();
        clone(&c, &[], &["-1"]).ok();
        counts_on(&one, 3);
        one.delete(&["--force"]).ok();
        assert!(none_left(&c), "killed after {delay} ms");
    }
    assert!(left > 0, "no kill came in between");
    c.assert_clean();
}

/// How much of it the first process has in RAM, in KiB.
fn resident(c: &Container) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", c.pid())).unwrap();
    let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    anonymous.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn memory_that_no_clone_touches_stays_in_the_images() {
    require!(Root, Criu, Redis);
    let c = large(128);
    c.checkpoint(&[]).ok();
    let all = siblings(&c, &["-1", "-2", "-3", "-4"]);
    clone(&c, &["--count", "4"], &["-%d"]).ok();
    for one in &all {
        assert_eq!(one.exec(&["redis-cli", "ping"]).stdout.trim(), "PONG");
        assert_eq!(memory(one), "lazy");
        assert!(resident(one) < 24 << 10, "{} KiB", resident(one));
    }
    holds_all(&all[0]);
    assert_eq!(memory(&all[0]), "lazy", "what it holds is only a part");
    // The images need not be there for memory that is asked for.
    fs::remove_dir_all(c.images()).unwrap();
    all[1].call("wait-memory", &[]).ok();
    assert_eq!(memory(&all[1]), "arrived");
    assert!(resident(&all[1]) > 128 << 10);
    wait_for("its helpers to leave", || bringers(&all[1]).is_empty());
    // A checkpoint wants all of it.
    let images = c.bundle().join("of-clone").display().to_string();
    all[2].call_detached("checkpoint", &["--leave-running", "--image-path", &images]).ok();
    let again = c.sibling("-5");
    detached(&c, &["--image-path", &images, "--bundle", &c.bundle_path(), again.id()]).ok();
    holds_all(&again);
    again.delete(&["--force"]).ok();
    // One that loses who brings its memory is ended, and no other.
    assert!(reached("KILL", &bringers(&all[3])[1..]));
    wait_for("its end", || all[3].status() == "stopped");
    assert!(reason(&all[3]).contains("was killed by signal 9"), "{}", reason(&all[3]));
    holds_all(&all[0]);
    for one in &all {
        one.delete(&["--force"]).ok();
    }
    assert!(none_left(&c));
    c.assert_clean();
}

#[test]
fn who_brings_memory_on_demand_leaves_with_its_clone() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    c.checkpoint(&[]).ok();
    let one = c.sibling("-1");
    clone(&c, &["--memory", "lazy"], &["-1"]).ok();
    counts_on(&one, 3);
    assert_eq!((memory(&one).as_str(), bringers(&one).len()), ("lazy", 2));
    let record = record(&one);
    one.kill("KILL").ok();
    one.wait_stopped();
    wait_for("its helpers to leave", || bringers_by(&record).is_empty());
    assert_eq!(memory(&one), "arrived");
    one.delete(&[]).ok();
    c.assert_clean();
}

/// The numbers that clones draw first, by generator.
fn drawn(c: &Container) -> Vec<BTreeSet<String>> {
    let all = siblings(c, &["-1", "-2", "-3"]);
    clone(c, &["--count", "3"], &["-%d"]).ok();
    let mut drawn = vec![BTreeSet::new(); 3];
    for one in &all {
        let first =
            || inside(one, "/dev/shm/first").split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        wait_for("the numbers", || first().len() == 3);
        for (set, number) in drawn.iter_mut().zip(first()) {
            set.insert(number);
        }
        one.delete(&["--force"]).ok();
    }
    drawn
}

/// docs/clones.md has the table.
#[test]
fn which_random_numbers_repeat_is_known_and_a_signal_helps() {
    require!(Root, Criu, Rootfs("python"));
    let program = |handler: &str| {
        format!(
            "import os, random, signal, ssl, time\n\
             random.seed(1)\nssl.RAND_bytes(8)\n\
             {handler}\n\
             open('/dev/shm/ready', 'w').close()\n\
             while not os.path.exists('/run/hiber/generation'): time.sleep(0.01)\n\
             time.sleep(0.1)\n\
             open('/dev/shm/first', 'w').write(f'{{random.random()}} {{ssl.RAND_bytes(8).hex()}} {{os.urandom(8).hex()}}\\n')\n\
             while True: time.sleep(1)"
        )
    };
    let sleeping = |handler: &str, annotations: Value| {
        let bundle = Bundle::with_program("python").args(["python3", "-c", &program(handler)]);
        let c = Runtime::hiber().container(bundle.edit(|config| config["annotations"] = annotations));
        c.run_detached().ok();
        wait_for("the program", || Path::new(&format!("/proc/{}/root/dev/shm/ready", c.pid())).exists());
        c.checkpoint(&[]).ok();
        c
    };
    let count = |drawn: Vec<BTreeSet<String>>| drawn.iter().map(BTreeSet::len).collect::<Vec<_>>();
    let c = sleeping("", json!({}));
    assert_eq!(count(drawn(&c)), [1, 1, 3], "random, OpenSSL, getrandom");
    c.assert_clean();
    let handler = "def again(*_):\n    random.seed()\n    ssl.RAND_add(os.urandom(32), 32.0)\nsignal.signal(signal.SIGUSR1, again)";
    let c = sleeping(handler, json!({"org.hiber.restore.signal": "SIGUSR1"}));
    assert_eq!(count(drawn(&c)), [3, 3, 3]);
    c.assert_clean();
}
