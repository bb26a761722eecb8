//! Processes that cannot be made, told of, or started, and those that are made where there is hardly any room.

use std::fs;
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use hiber_tests::cgroup;
use hiber_tests::command;
use hiber_tests::prelude::*;

fn running(bundle: Bundle) -> Container {
    let c = Runtime::hiber().container(bundle);
    c.run_detached().ok();
    c
}

#[test]
fn exec_works_where_the_container_has_reached_its_limit_of_processes() {
    require!(Root, Controller("pids"));
    for own in [true, false] {
        let bundle = Bundle::busybox()
            .shell("for i in 1 2 3; do sleep 1000 & done; wait")
            .edit(|c| c["linux"]["resources"] = json!({"pids": {"limit": 4}}));
        // With a pid namespace to be joined, and without.
        let c = running(if own { bundle } else { bundle.without_namespace("pid") });
        let used = || cgroup::read("pids", &c.bundle().cgroup(), "pids.current", "pids.current");
        wait_for("four processes", || used() == "4");
        for _ in 0..10 {
            c.exec(&["true"]).ok();
        }
        // There, the limit holds.
        assert!(!c.exec(&["sh", "-c", "true | true"]).status.success());
        assert_eq!(c.exec(&["sh", "-c", "cat /proc/self/cgroup | wc -l"]).status.code(), Some(2));
        let places = c.exec(&["cat", "/proc/self/cgroup"]);
        let of = |text: &str| {
            text.lines().filter(|line| line.contains("pids")).map(str::to_owned).collect::<Vec<_>>()
        };
        let first = fs::read_to_string(format!("/proc/{}/cgroup", c.pid())).unwrap();
        assert_eq!(of(places.ok()).len(), of(&first).len());
        c.delete(&["--force"]).ok();
        c.assert_clean();
    }
}

/// One process is enough for a container that joins a pid namespace, which takes two to set up.
#[test]
fn a_limit_of_one_process_lets_a_container_join_a_pid_namespace() {
    require!(Root, Controller("pids"));
    let first = running(Bundle::busybox().args(["sleep", "1000"]));
    let path = format!("/proc/{}/ns/pid", first.pid());
    let bundle = Bundle::busybox().args(["sleep", "1000"]).edit(|c| {
        c["linux"]["resources"] = json!({"pids": {"limit": 1}});
        for namespace in c["linux"]["namespaces"].as_array_mut().unwrap() {
            if namespace["type"] == "pid" {
                namespace["path"] = json!(path);
            }
        }
    });
    let c = running(bundle);
    assert_eq!(c.status(), "running");
    assert!(cgroup::places(c.pid()).iter().all(|place| *place == c.bundle().cgroup()));
    c.delete(&["--force"]).ok();
    c.assert_clean();
}

#[test]
fn a_start_that_fails_returns_when_init_is_gone() {
    require!(Root);
    let bundle = Bundle::busybox().args(["/script"]);
    fs::write(bundle.rootfs().join("script"), "#!/no/such/interpreter\n").unwrap();
    let mut executable = std::process::Command::new("chmod");
    executable.arg("0755").arg(bundle.rootfs().join("script"));
    command::run(executable, b"").ok();
    let c = Runtime::hiber().container(bundle);
    for _ in 0..40 {
        c.create(&[]).ok();
        c.start().fails("no such file");
        assert_eq!(c.status(), "stopped");
        c.delete(&[]).ok();
    }
    c.assert_clean();
}

/// Without a pid namespace of the container's own nothing but its cgroup leads to what was executed at the last moment.
#[test]
fn delete_beside_exec_leaves_nothing_and_does_not_fail() {
    require!(Root);
    for bundle in [Bundle::busybox(), Bundle::busybox().without_namespace("pid")] {
        let c = Runtime::hiber().container(bundle.args(["sleep", "1000"]));
        for _ in 0..20 {
            c.run_detached().ok();
            let execs: Vec<_> = (0..4)
                .map(|_| {
                    let mut exec = c.runtime().command();
                    exec.args(["exec", "--detach", c.id(), "sleep", "1000"]);
                    exec.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
                })
                .collect();
            std::thread::sleep(std::time::Duration::from_millis(fastrand::u64(0..20)));
            c.delete(&["--force"]).ok();
            for mut exec in execs {
                exec.wait().unwrap();
            }
            c.assert_clean();
        }
    }
}

#[test]
fn a_process_of_which_nobody_can_be_told_does_not_run() {
    require!(Root);
    let c = running(Bundle::busybox().args(["sleep", "1000"]));
    let dir = c.bundle().path().join("dir");
    fs::create_dir(&dir).unwrap();
    let missing = c.bundle().path().join("missing/pid").display().to_string();
    let directory = dir.display().to_string();
    let full = "/dev/full".to_owned();
    let socket = c.bundle().path().join("no-socket").display().to_string();
    let cases = [
        ("--pid-file", &missing, "write --pid-file"),
        ("--pid-file", &directory, "write --pid-file"),
        ("--pidfd-socket", &socket, "send a pidfd to --pidfd-socket"),
    ];
    for (flag, value, words) in cases {
        for detach in [&["--detach"][..], &[]] {
            let flags: Vec<&str> = detach.iter().copied().chain([flag, value]).collect();
            c.exec_with(&flags, &["touch", "/ran"]).fails(words);
            assert!(!c.bundle().rootfs().join("ran").exists(), "{flag} {value}");
        }
        let second = Runtime::hiber().container(Bundle::busybox().args(["touch", "/ran"]));
        second.create(&[flag, value]).fails(words);
        second.run(&[flag, value]).fails(words);
        assert!(!second.bundle().rootfs().join("ran").exists(), "{flag} {value}");
        second.assert_clean();
    }
    c.exec_with(&["--pid-file", &full], &["true"]).fails("write --pid-file");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    let good = dir.join("pid");
    c.exec_with(&["--pid-file", &good.display().to_string()], &["true"]).ok();
    assert!(fs::read_to_string(&good).unwrap().parse::<i32>().is_ok_and(|pid| pid > 1));
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "nothing beside it");
}

#[test]
fn a_memory_limit_that_kills_the_set_up_is_named() {
    require!(Root, Controller("memory"));
    let bundle = Bundle::busybox().edit(|c| c["linux"]["resources"] = json!({"memory": {"limit": 65_536}}));
    let c = Runtime::hiber().container(bundle);
    let output = c.create(&[]);
    output
        .fails("for want of memory: its limit (memory.")
        .fails("bytes) may be too low to set the process up");
    c.assert_clean();
}

#[test]
fn a_cgroup_that_passes_controllers_on_is_named() {
    require!(Root, CgroupV2);
    let c = Runtime::hiber_on_v2().container(Bundle::busybox().args(["sleep", "1000"]));
    c.run_detached().ok();
    let own = cgroup::hierarchies().into_iter().find(|h| h.v2).unwrap().mount.join(&c.bundle().cgroup()[1..]);
    let inner = own.join("busy/inner");
    fs::create_dir_all(&inner).unwrap();
    let controllers = fs::read_to_string(own.join("cgroup.controllers")).unwrap();
    let controller = controllers.split_whitespace().next().expect("a controller for the container");
    fs::create_dir(own.join("leaf")).unwrap();
    fs::write(own.join("leaf/cgroup.procs"), c.pid().to_string()).unwrap();
    fs::write(own.join("cgroup.subtree_control"), format!("+{controller}")).unwrap();
    fs::write(own.join("busy/cgroup.subtree_control"), format!("+{controller}")).unwrap();
    let output = c.exec_with(&["--cgroup", "busy"], &["true"]);
    output.fails(&format!("passes controllers ({controller}) on to cgroups below it"));
    output.fails("create the process");
    c.exec_with(&["--cgroup", "busy/inner"], &["true"]).ok();
    c.delete(&["--force"]).ok();
    c.assert_clean();
}

#[test]
fn a_capability_that_none_is_is_named_before_anything_runs() {
    require!(Root);
    let c = Runtime::hiber().container(Bundle::busybox().args(["sleep", "1000"]));
    c.run_detached().ok();
    let output = c.exec_with(&["--cap", "CAP_NONSENSE"], &["touch", "/ran"]);
    output.fails("--cap CAP_NONSENSE: no such capability; expected one such as CAP_NET_ADMIN");
    assert!(!output.stderr.contains("variant"), "{}", output.stderr);
    assert!(!c.bundle().rootfs().join("ran").exists());
}

#[test]
fn a_console_socket_whose_reader_is_gone_is_named() {
    require!(Root);
    let c = Runtime::hiber().container(Bundle::busybox().edit(|c| c["process"]["terminal"] = json!(true)));
    let path = c.bundle().path().join("console");
    let listener = UnixListener::bind(&path).unwrap();
    let gone = std::thread::spawn(move || drop(listener.accept()));
    let output = c.create(&["--console-socket", &path.display().to_string()]);
    gone.join().unwrap();
    output.fails("to the other end of the console socket: broken pipe");
    assert!(!output.stderr.contains("init channel"), "{output}");
    c.assert_clean();
}
