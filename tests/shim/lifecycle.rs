//! A task's way through the service.

use crate::shim::{any, refused, soon};
use crate::{COUNT, Shim, count};
use containerd_shim_protos::api::*;
use containerd_shim_protos::cgroups::metrics::Metrics as MetricsV1;
use containerd_shim_protos::cgroups_v2::metrics::Metrics as MetricsV2;
use containerd_shim_protos::protobuf::{Message as _, MessageField, well_known_types::any::Any};
use containerd_shim_protos::shim::oci::{CheckpointOptions, ProcessDetails};
use containerd_shim_protos::ttrpc::Code;
use hiber_tests::prelude::*;
use std::fs;
use std::io::{BufRead as _, Write as _};

#[test]
fn from_create_to_shutdown() {
    require!(Root);
    let shim = Shim::start(Bundle::busybox().shell("echo out; echo err >&2; exit 7"));
    let pid = shim.create();
    let state = shim.state("");
    assert_eq!((state.pid, state.status.enum_value()), (pid, Ok(Status::CREATED)));
    assert_eq!(state.bundle, shim.bundle.path().display().to_string());
    assert!(state.exited_at.is_none());
    assert_eq!(shim.try_start("").unwrap().pid, pid);
    assert_eq!(shim.wait(""), 7);
    let state = shim.state("");
    assert_eq!((state.exit_status, state.status.enum_value()), (7, Ok(Status::STOPPED)));
    assert!(state.exited_at.is_some());
    assert_eq!(std::fs::read_to_string(shim.bundle.join("log")).unwrap(), "out\nerr\n");
    let deleted = shim.try_delete("").unwrap();
    assert_eq!((deleted.pid, deleted.exit_status), (pid, 7));
    assert_eq!(shim.wait_for_events("delete", 1), ["create", "start", "exit", "delete"]);
    shim.shut_down();
}

#[test]
fn a_task_that_was_never_started_is_deleted() {
    require!(Root);
    let shim = Shim::start(Bundle::busybox().shell("sleep 100"));
    let pid = shim.create();
    let deleted = shim.try_delete("").unwrap();
    assert_eq!((deleted.pid, deleted.exit_status), (pid, 137));
    assert_eq!(shim.wait_for_events("delete", 1), ["create", "exit", "delete"]);
    shim.shut_down();
}

#[test]
fn processes_and_metrics() {
    require!(Root, Controller("pids"));
    let shim = Shim::start(Bundle::busybox().shell("sleep 100"));
    shim.run();
    shim.try_exec("e", "sleep 100").unwrap();
    let pid = shim.try_start("e").unwrap().pid;
    let pids = shim.client.pids(soon(), &PidsRequest { id: shim.id(), ..PidsRequest::default() }).unwrap();
    let exec = pids.processes.iter().find(|process| process.pid == pid).unwrap();
    let details = ProcessDetails::parse_from_bytes(&exec.info.value).unwrap();
    assert_eq!(
        (exec.info.type_url.as_str(), details.exec_id.as_str()),
        ("containerd.runc.v1.ProcessDetails", "e")
    );
    let stats =
        shim.client.stats(soon(), &StatsRequest { id: shim.id(), ..StatsRequest::default() }).unwrap().stats;
    // v2 counts CPU time without any controller
    let used = match stats.type_url.as_str() {
        "io.containerd.cgroups.v1.Metrics" => {
            MetricsV1::parse_from_bytes(&stats.value).unwrap().pids.current >= 2
        }
        "io.containerd.cgroups.v2.Metrics" => {
            MetricsV2::parse_from_bytes(&stats.value).unwrap().cpu.usage_usec > 0
        }
        other => panic!("{other}"),
    };
    assert!(used, "{stats:?}");
    shim.try_kill("e", 15).unwrap();
    assert_eq!(shim.wait("e"), 143);
    shim.try_delete("e").unwrap();
    shim.end();
}

#[test]
fn what_an_exec_leaves_open_is_the_containers() {
    require!(Root);
    let shim = Shim::start(Bundle::busybox().shell("sleep 100"));
    shim.run();
    let log = shim.bundle.join("exec.log");
    let process = json!({
        "args": ["grep", "CapBnd", "/proc/self/status", "/proc/1/status"], "cwd": "/", "user": {"uid": 0, "gid": 0},
        "env": ["PATH=/bin:/usr/bin"],
    });
    let spec = MessageField::some(Any { value: process.to_string().into(), ..Any::default() });
    let stdout = format!("file://{}", log.display());
    let request = ExecProcessRequest {
        id: shim.id(),
        exec_id: "e".into(),
        spec,
        stdout,
        ..ExecProcessRequest::default()
    };
    shim.client.exec(soon(), &request).unwrap();
    shim.try_start("e").unwrap();
    assert_eq!(shim.wait("e"), 0);
    shim.try_delete("e").unwrap();
    let text = std::fs::read_to_string(log).unwrap();
    let sets: Vec<_> = text.lines().map(|line| line.rsplit('\t').next().unwrap()).collect();
    assert_eq!((sets.len(), sets[0]), (2, sets[1]), "{text}");
    shim.end();
}

#[test]
fn a_shim_keeps_nothing_of_its_former_tasks() {
    require!(Root);
    let shim = Shim::start(Bundle::busybox().shell("while [ ! -e /end ]; do sleep 0.02; done"));
    let life = || {
        shim.run();
        shim.try_exec("e", "true").unwrap();
        shim.try_start("e").unwrap();
        assert_eq!(shim.wait("e"), 0);
        std::fs::write(shim.bundle.rootfs().join("end"), "").unwrap();
        assert_eq!(shim.wait(""), 0);
        shim.try_delete("e").unwrap();
        shim.try_delete("").unwrap();
        std::fs::remove_file(shim.bundle.rootfs().join("end")).unwrap();
    };
    // the first one opens what all share
    life();
    let before = (shim.descriptors(), shim.threads());
    (0..5).for_each(|_| life());
    wait_for("threads and descriptors to be given back", || {
        shim.descriptors() <= before.0 && shim.threads() <= before.1
    });
    shim.shut_down();
}

#[test]
fn an_idle_shim_sleeps() {
    require!(Root);
    let shim = Shim::start(Bundle::busybox().shell("sleep 100"));
    shim.run();
    shim.wait_for_events("start", 1);
    let switches = || -> u64 {
        let threads = std::fs::read_dir(format!("/proc/{}/task", shim.pid)).unwrap().flatten();
        let status = threads.map(|t| std::fs::read_to_string(t.path().join("status")).unwrap_or_default());
        let count = |text: String| {
            text.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:")?.trim().parse::<u64>().ok())
        };
        status.filter_map(count).sum()
    };
    // the start's own work ends
    std::thread::sleep(std::time::Duration::from_millis(300));
    let before = switches();
    std::thread::sleep(std::time::Duration::from_secs(1));
    let woken = switches() - before;
    assert!(woken <= 3, "woken {woken} times in a second");
    shim.end();
}

#[test]
fn each_exit_is_told_once_and_after_its_start() {
    require!(Root);
    let shim = Shim::start(Bundle::busybox().shell("sleep 100"));
    shim.run();
    const MANY: usize = 12;
    std::thread::scope(|scope| {
        for number in 0..MANY {
            let shim = &shim;
            scope.spawn(move || {
                let id = format!("e{number}");
                shim.try_exec(&id, &format!("exit {number}")).unwrap();
                shim.try_start(&id).unwrap();
                assert_eq!(shim.wait(&id), u32::try_from(number).unwrap());
                assert_eq!(shim.try_delete(&id).unwrap().exit_status, u32::try_from(number).unwrap());
            });
        }
    });
    let events = shim.wait_for_events("exit", MANY);
    let mut running = 0_i32;
    for event in &events {
        match event.as_str() {
            "exec-started" => running += 1,
            "exit" => running -= 1,
            _ => {}
        }
        assert!(running >= 0, "an exit before its start: {events:?}");
    }
    assert_eq!(events.iter().filter(|topic| *topic == "exit").count(), MANY);
    shim.end();
}

#[test]
fn a_shared_pid_namespace_ends_with_its_first_process() {
    require!(Root);
    let bundle = Bundle::busybox().without_namespace("pid").shell("sleep 0.3 & (sleep 100 &); exec sleep 1");
    let shim = Shim::start(bundle);
    shim.run();
    shim.try_exec("e", "sleep 100").unwrap();
    shim.try_start("e").unwrap();
    assert_eq!((shim.wait(""), shim.wait("e")), (0, 137));
    // the first process is told last
    let exits = shim.wait_for_events("exit", 2);
    assert_eq!(exits.last().unwrap(), "exit");
    // what has lost its parent became the shim's child
    wait_for("orphans to be reaped", || {
        let children = std::fs::read_dir(format!("/proc/{}/task", shim.pid)).unwrap().flatten();
        let list = |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("children"));
        children.map(list).all(|children| children.unwrap_or_default().is_empty())
    });
    shim.try_delete("e").unwrap();
    shim.end();
}

#[test]
fn a_checkpoint_ends_the_task_and_begins_another() {
    require!(Root, Criu);
    let shim = Shim::start(Bundle::busybox().shell(COUNT));
    shim.run();
    wait_for("the count", || count(&shim.bundle) > 2);
    let images = shim.bundle.join("images");
    let options = CheckpointOptions {
        exit: true,
        file_locks: true,
        cgroups_mode: "soft".into(),
        image_path: images.display().to_string(),
        ..CheckpointOptions::default()
    };
    let before = sleeps(&shim, &options);
    let request = CreateTaskRequest { checkpoint: images.display().to_string(), ..shim.create_request() };
    // as with runc's shim the processes come at the start
    assert_eq!(shim.client.create(soon(), &request).unwrap().pid, 0);
    assert_eq!(shim.state("").status.enum_value(), Ok(Status::CREATED));
    let pid = shim.try_start("").unwrap().pid;
    assert_eq!((shim.state("").pid, shim.state("").status.enum_value()), (pid, Ok(Status::RUNNING)));
    assert!(count(&shim.bundle) >= before);
    wait_for("it to count on", || count(&shim.bundle) > before);
    let mut topics = shim.wait_for_events("start", 2);
    // the end may be told before the checkpoint or after it
    let exit = topics.iter().position(|topic| topic == "exit").unwrap();
    assert!((2..=3).contains(&exit), "{topics:?}");
    topics.remove(exit);
    assert_eq!(topics.join(" "), "create start checkpointed delete create start");
    shim.end();
}

/// Ends a task in a checkpoint; how far it has counted.
#[track_caller]
fn sleeps(shim: &Shim, options: &CheckpointOptions) -> u64 {
    let request =
        CheckpointTaskRequest { id: shim.id(), options: any(options), ..CheckpointTaskRequest::default() };
    shim.client.checkpoint(soon(), &request).unwrap();
    assert_eq!(shim.wait(""), 137);
    shim.try_delete("").unwrap();
    count(&shim.bundle)
}

/// The policy of the host is containerd's, whose environment the shim has.
#[test]
fn a_checkpoint_that_the_policy_refuses_begins_no_task() {
    require!(Root, Criu);
    let bundle = Bundle::busybox().shell(COUNT);
    let policy = bundle.join("trust.toml");
    fs::write(&policy, "require-signature = false\n").unwrap();
    let mut start = crate::shim::command(&bundle, "start");
    start.env("HIBER_TRUST", &policy);
    let shim = Shim::start_by(bundle, start);
    shim.run();
    wait_for("the count", || count(&shim.bundle) > 2);
    let images = shim.bundle.join("images");
    let options = CheckpointOptions {
        exit: true,
        image_path: images.display().to_string(),
        ..CheckpointOptions::default()
    };
    let before = sleeps(&shim, &options);
    let request = CreateTaskRequest { checkpoint: images.display().to_string(), ..shim.create_request() };
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";
    fs::write(&policy, format!("require-signature = true\nkeys = ['{key}']\n")).unwrap();
    shim.client.create(soon(), &request).unwrap();
    let refusal = format!("is not signed (there is no hiber.json.sig), and {} wants", policy.display());
    refused(shim.try_start(""), Code::UNKNOWN, &refusal);
    shim.try_delete("").unwrap();
    fs::write(&policy, "require-signature = false\n").unwrap();
    shim.client.create(soon(), &request).unwrap();
    shim.try_start("").unwrap();
    wait_for("it to count on", || count(&shim.bundle) > before);
    shim.end();
}

#[test]
fn a_terminal_comes_back_with_a_restore() {
    require!(Root, Criu);
    // it answers what it reads, and how often it has
    let script = "n=0; while read -r line; do n=$((n+1)); echo $n:$line; done";
    let bundle = Bundle::busybox().edit(|c| c["process"]["terminal"] = json!(true)).shell(script);
    let shim = Shim::start(bundle);
    let [stdin, stdout] = ["in", "out"].map(|name| shim.bundle.join(name));
    let fifo = |path: &std::path::Path| {
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    };
    fifo(&stdin);
    fifo(&stdout);
    // both ways, so that nobody waits for the other side to be opened
    let open = |path: &std::path::Path| std::fs::File::options().read(true).write(true).open(path).unwrap();
    let (mut input, output) = (open(&stdin), open(&stdout));
    let mut lines = std::io::BufReader::new(output).lines();
    let mut answer = |line: &str| {
        writeln!(input, "{line}").unwrap();
        lines.by_ref().map(Result::unwrap).find(|l| l.contains(':')).unwrap().trim_end().to_owned()
    };
    let request = CreateTaskRequest {
        terminal: true,
        stdin: stdin.display().to_string(),
        stdout: stdout.display().to_string(),
        stderr: String::new(),
        ..shim.create_request()
    };
    shim.client.create(soon(), &request).unwrap();
    shim.try_start("").unwrap();
    assert_eq!(answer("one"), "1:one");
    let resize = ResizePtyRequest { id: shim.id(), width: 90, height: 30, ..ResizePtyRequest::default() };
    shim.client.resize_pty(soon(), &resize).unwrap();
    let path = shim.bundle.join("images").display().to_string();
    let options = any(&CheckpointOptions { exit: true, ..CheckpointOptions::default() });
    let checkpoint = CheckpointTaskRequest {
        id: shim.id(),
        path: path.clone(),
        options,
        ..CheckpointTaskRequest::default()
    };
    shim.client.checkpoint(soon(), &checkpoint).unwrap();
    shim.wait("");
    shim.try_delete("").unwrap();
    shim.client.create(soon(), &CreateTaskRequest { checkpoint: path, ..request }).unwrap();
    shim.try_start("").unwrap();
    assert_eq!(answer("two"), "2:two");
    shim.end();
}

#[test]
fn a_root_of_many_layers() {
    require!(Root);
    let shim = Shim::start(Bundle::busybox().shell("cat /layer; exit 4"));
    // paths of layers that do not fit into one page
    let layers = shim.bundle.join("a-directory-with-a-name-that-is-rather-long/snapshots");
    let layer = |number: usize| layers.join(format!("{number}/fs"));
    for number in 0..60 {
        std::fs::create_dir_all(layer(number)).unwrap();
        std::fs::write(layer(number).join("layer"), number.to_string()).unwrap();
    }
    let rootfs = layers.join("60");
    std::fs::rename(shim.bundle.rootfs(), &rootfs).unwrap();
    let mut lower: Vec<_> = (0..60).map(|number| layer(number).display().to_string()).collect();
    lower.push(rootfs.display().to_string());
    let lower = format!("lowerdir={}", lower.join(":"));
    assert!(lower.len() > 4096, "{}", lower.len());
    let mount =
        Mount { type_: "overlay".into(), source: "overlay".into(), options: vec![lower], ..Mount::default() };
    let request = CreateTaskRequest { rootfs: vec![mount], ..shim.create_request() };
    shim.client.create(soon(), &request).unwrap();
    shim.try_start("").unwrap();
    assert_eq!(shim.wait(""), 4);
    assert_eq!(std::fs::read_to_string(shim.bundle.join("log")).unwrap(), "0");
    shim.end();
}

#[test]
fn memory_that_runs_out_is_told_in_time() {
    require!(Root, Controller("memory"));
    let eat = "dd if=/dev/zero of=/dev/null bs=200M count=1";
    let bundle = Bundle::busybox().shell(eat);
    let bundle = bundle.edit(|c| c["linux"]["resources"]["memory"] = json!({"limit": 32 << 20}));
    let shim = Shim::start(bundle.edit(|c| c["process"]["args"] = json!(eat.split(' ').collect::<Vec<_>>())));
    shim.run();
    assert_eq!(shim.wait(""), 137);
    assert_eq!(shim.wait_for_events("exit", 1), ["create", "start", "oom", "exit"]);
    shim.end();
}

/// `hiber migrate` moves a shim's container, whose client hears that its end is no failure.
#[test]
fn a_task_that_migrates_ends_with_a_reason() {
    require!(Root, Criu);
    let shim = Shim::start(Bundle::busybox().shell(COUNT));
    shim.run();
    wait_for("a count", || count(&shim.bundle) > 3);
    let there = Runtime::hiber().container(Bundle::busybox().shell(COUNT));
    let words = there.runtime().command();
    let words: Vec<_> = std::iter::once(words.get_program()).chain(words.get_args()).collect();
    let receiver = words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    // As its users do: the shim's containers of a namespace are below a root of their own.
    let root = shim.bundle.join("state").join(crate::shim::NAMESPACE);
    let mut migrate = there.runtime().bare_command();
    migrate.arg("--root").arg(&root).args(["migrate", "--id", there.id(), "--bundle"]);
    migrate.arg(there.bundle().path()).arg(shim.id()).arg(format!("exec:{receiver} receive --stdio"));
    let before = count(&shim.bundle);
    hiber_tests::command::run(migrate, b"").ok();
    assert_eq!(shim.wait(""), 137);
    let events = shim.wait_for_events("exit", 1);
    assert_eq!(events, ["create", "start", "checkpointed", "exit"]);
    assert_eq!(shim.state("").status.enum_value(), Ok(Status::STOPPED));
    assert_eq!(shim.try_delete("").unwrap().exit_status, 137);
    assert_eq!(there.status(), "running");
    wait_for("the count to go on there", || count(there.bundle()) > before);
    shim.shut_down();
}
