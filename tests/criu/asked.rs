//! Settings of config.json or of a command hold after a restore.

use crate::{counter, counts_on, sleep_and_wake};
use hiber_tests::agent::receive;
use hiber_tests::cgroup::{mount_of, read};
use hiber_tests::prelude::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::time::Duration;

/// 64 MiB of memory, 30 processes, and half a processor.
fn limited() -> Bundle {
    Bundle::busybox().edit(|c| {
        c["linux"]["resources"] = json!({"memory": {"limit": 64 << 20}, "pids": {"limit": 30},
            "cpu": {"quota": 50_000, "period": 100_000}});
    })
}

/// The limits in force: memory, processes, CPU quota.
fn limits(c: &Container) -> [String; 3] {
    let cg = c.bundle().cgroup();
    let quota = match mount_of("cpu").is_some_and(|h| h.v2) {
        true => read("cpu", &cg, "", "cpu.max").split(' ').next().unwrap_or_default().to_owned(),
        false => read("cpu", &cg, "cpu.cfs_quota_us", ""),
    };
    let memory = read("memory", &cg, "memory.limit_in_bytes", "memory.max");
    [memory, read("pids", &cg, "pids.max", "pids.max"), quota]
}

fn mib(n: u64) -> String {
    (n << 20).to_string()
}

/// A bundle's config.json, changed between a checkpoint and a restore.
fn edit(c: &Container, change: impl FnOnce(&mut Value)) {
    let path = c.bundle().join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    fs::write(&path, config.to_string()).unwrap();
}

#[test]
fn limits_of_an_update_are_in_force_again_and_again() {
    require!(Root, Criu, Controller("memory"), Controller("cpu"), Controller("pids"));
    let c = counter(&Runtime::hiber(), limited());
    c.call("update", &["--memory", "48M", "--pids-limit", "20"]).ok();
    let before = limits(&c);
    assert_eq!(before, [mib(48), "20".into(), "50000".into()]);
    for _ in 0..3 {
        sleep_and_wake(&c, &[], &[]);
        assert_eq!(limits(&c), before);
    }
    // Later changes are merged into the limits that came back.
    c.call("update", &["--cpu-quota", "40000"]).ok();
    c.checkpoint(&["--prove"]).ok();
    let images = c.images().display().to_string();
    let report = c.call(
        "restore",
        &["--check", "--format", "json", "--image-path", &images, "--bundle", &c.bundle_path()],
    );
    assert!(!report.stdout.contains("not the one that"), "{}", report.stdout);
    c.restore(&[]).ok();
    assert_eq!(limits(&c), [mib(48), "20".into(), "40000".into()]);
    c.checkpoint(&[]).ok();
    c.restore(&["--resources", "config"]).ok();
    assert_eq!(limits(&c), [mib(64), "30".into(), "50000".into()]);
    sleep_and_wake(&c, &[], &[]);
    assert_eq!(limits(&c), [mib(64), "30".into(), "50000".into()], "what was not chosen is forgotten");
    counts_on(&c, 3);
}

#[test]
fn a_config_json_that_was_changed_since_has_the_last_word() {
    require!(Root, Criu, Controller("memory"), Controller("cpu"), Controller("pids"));
    let c = counter(&Runtime::hiber(), limited());
    c.call("update", &["--memory", "48M", "--pids-limit", "20"]).ok();
    c.checkpoint(&[]).ok();
    edit(&c, |config| config["linux"]["resources"]["memory"] = json!({"limit": 56 << 20}));
    c.restore(&[]).ok();
    assert_eq!(limits(&c), [mib(56), "20".into(), "50000".into()]);
}

#[test]
fn more_than_config_json_grants_must_be_asked_for() {
    require!(Root, Criu, Controller("memory"), Controller("cpu"), Controller("pids"));
    let c = counter(&Runtime::hiber(), limited());
    c.call("update", &["--memory", "80M"]).ok();
    c.checkpoint(&["--prove"]).ok();
    let problem = "had 83886080 for memory.limit, which config.json has 67108864 for";
    c.restore(&[]).fails(problem).fails("--resources checkpoint");
    assert_eq!(c.status(), "gone");
    c.assert_clean();
    let images = c.images().display().to_string();
    let at = ["--image-path", &images, "--bundle", &c.bundle_path()];
    c.call("restore", &[&at[..], &["--prove"]].concat()).fails(problem);
    let report = c.call("restore", &[&at[..], &["--check", "--format", "json"]].concat());
    assert!(report.exited(1).stdout.contains(problem), "{report}");
    for (flags, annotation, memory) in [
        (&["--resources", "checkpoint"][..], None, 80),
        (&["--trust-images"], None, 80),
        (&[], Some("checkpoint"), 80),
        (&[], Some("config"), 64),
        (&["--resources", "config"], Some("checkpoint"), 64),
    ] {
        if let Some(word) = annotation {
            edit(&c, |config| config["annotations"] = json!({"dev.hiber.resources": word}));
        }
        c.restore(flags).ok();
        assert_eq!(limits(&c)[0], mib(memory), "{flags:?} {annotation:?}");
        c.delete(&["--force"]).ok();
    }
    edit(&c, |config| config["annotations"] = json!({"dev.hiber.resources": "all"}));
    c.restore(&[]).fails("; expected checkpoint or config");
    c.restore(&["--resources", "all"]).fails("expected checkpoint or config");
}

/// A line of a file of the first process, by its beginning.
fn line(c: &Container, file: &str, begin: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{}/{file}", c.pid())).unwrap();
    text.lines().find(|line| line.starts_with(begin)).unwrap_or_default().to_owned()
}

/// The options of the mount at a point, as the first process sees it.
fn mount_options(c: &Container, point: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{}/mountinfo", c.pid())).unwrap();
    let fields = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    text.lines()
        .map(fields)
        .find(|fields| fields[4] == point)
        .map(|fields| fields[5].clone())
        .unwrap_or_default()
}

#[test]
fn mounts_in_which_no_links_are_followed() {
    require!(Root, Criu, Linux(5, 14));
    let bundle = Bundle::busybox();
    let volume = bundle.join("volume");
    fs::create_dir(&volume).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", volume.join("link")).unwrap();
    fs::create_dir(bundle.rootfs().join("volume")).unwrap();
    let bundle = bundle
        .mount(json!({"destination": "/volume", "type": "bind", "source": volume,
            "options": ["bind", "nosymfollow", "nodiratime"]}))
        .mount(json!({"destination": "/mnt", "type": "tmpfs", "source": "tmpfs", "options": ["nosymfollow", "nosuid"]}));
    let c = counter(&Runtime::hiber(), bundle);
    c.sh("ln -s /etc/passwd /mnt/link");
    let all = |c: &Container| ["/volume", "/mnt", "/dev", "/"].map(|point| mount_options(c, point));
    let before = all(&c);
    assert!(before[0].contains("nosymfollow") && before[1].contains("nosymfollow"), "{before:?}");
    for round in 0..2 {
        c.checkpoint(if round == 0 { &["--prove"] } else { &[] }).ok();
        c.restore(&[]).ok();
        assert_eq!(all(&c), before);
        c.exec(&["cat", "/volume/link"]).fails("");
        c.exec(&["cat", "/mnt/link"]).fails("");
    }
    counts_on(&c, 3);
}

#[test]
fn scheduling_of_config_json() {
    require!(Root, Criu);
    let bundle = Bundle::busybox().edit(|c| {
        c["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 6});
        c["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 7});
    });
    let c = counter(&Runtime::hiber(), bundle);
    let all = |c: &Container| {
        let nice = line(c, "stat", "").rsplit(')').next().unwrap().split(' ').nth(17).unwrap().to_owned();
        [c.sh("ionice -p 1"), line(c, "sched", "policy").split(' ').next_back().unwrap().to_owned(), nice]
    };
    let before = all(&c);
    assert_eq!(before, ["best-effort: prio 6", "3", "7"]);
    for _ in 0..3 {
        sleep_and_wake(&c, &[], &[]);
        assert_eq!(all(&c), before);
    }
    // The value at the dump counts, whatever config.json says by then: only a creation asks for it.
    c.checkpoint(&[]).ok();
    edit(&c, |config| {
        config["process"]["ioPriority"]["priority"] = json!(2);
        config["process"]["scheduler"] = json!({"policy": "SCHED_OTHER", "nice": 3});
    });
    c.restore(&[]).ok();
    assert_eq!(all(&c), before);
}

/// Whether a task waits for the answer to a call of its own.
fn asked(listener: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(listener, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).is_ok_and(|_| fds[0].revents().contains(PollFlags::IN))
}

/// Gives what asks an agent its listeners again, as at create: the kernel would answer with ENOSYS else.
#[test]
fn an_agent_answers_for_system_calls_again() {
    require!(Root, Criu);
    let bundle = Bundle::busybox();
    let path = bundle.join("agent.sock");
    let agent = UnixListener::bind(&path).unwrap();
    let (told, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || while told.send(receive(&agent)).is_ok() {});
    let script = "(while [ ! -e /dev/shm/go ]; do sleep 0.05; done; mkdir /dev/shm/new 2>/dev/shm/error; \
                  echo >/dev/shm/done; sleep 1000) & i=0; while :; do i=$((i+1)); echo $i >/dev/shm/count; sleep 0.05; done";
    let bundle = bundle.shell(script).edit(|c| {
        c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path,
            "listenerMetadata": "told", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}]});
    });
    let c = Runtime::hiber().container(bundle);
    c.run_detached().ok();
    wait_for("a count of 3", || crate::count(&c) >= 3);
    let first = heard.recv().unwrap().0;
    for round in 0..3 {
        c.checkpoint(if round == 0 { &["--prove"] } else { &[] }).ok();
        assert!(heard.try_recv().is_err(), "a trial is nobody's");
        c.restore(&[]).ok();
        let mut again: Vec<_> =
            std::iter::from_fn(|| heard.recv_timeout(Duration::from_millis(300)).ok()).collect();
        assert!(again.len() > 1, "each process has its own: {}", again.len());
        let state = again.iter().map(|(state, _)| state).find(|state| state["pid"] == c.pid()).unwrap();
        for same in ["metadata", "fds", "ociVersion"] {
            assert_eq!(state[same], first[same], "{state}");
        }
        assert_eq!(
            (&state["state"]["id"], &state["state"]["bundle"]),
            (&json!(c.id()), &json!(c.bundle_path()))
        );
        for (state, _) in &again {
            let pid = state["pid"].as_i64().unwrap();
            let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
            let names = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
            assert!(!names.into_iter().any(|name| name.ends_with("anon_inode:seccomp notify")), "{state}");
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            assert!(!status.contains("State:\tT"), "{status}");
        }
        if round == 2 {
            fs::write(format!("/proc/{}/root/dev/shm/go", c.pid()), "").unwrap();
            wait_for("the agent to be asked", || again.iter().any(|(_, listener)| asked(listener)));
            again.clear();
            wait_for("the answer", || fs::exists(format!("/proc/{}/root/dev/shm/done", c.pid())).unwrap());
            assert!(c.exec(&["cat", "/dev/shm/error"]).ok().contains("Function not implemented"));
        }
    }
    counts_on(&c, crate::count(&c));
    c.checkpoint(&[]).ok();
    fs::remove_file(c.bundle().join("agent.sock")).unwrap();
    let images = c.images().display().to_string();
    let check = ["--check", "--image-path", &images, "--bundle", &c.bundle_path()];
    assert!(c.call("restore", &check).exited(1).stdout.contains("seccomp-agent: there is no agent"));
    c.restore(&[]).fails("failed to connect with seccomp agent");
    assert_eq!(c.status(), "gone");
    c.assert_clean();
}
