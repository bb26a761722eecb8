//! The requests of a bad client: the right code, and a shim that lives on as it was.

use crate::Shim;
use crate::shim::{any, refused, soon};
use containerd_shim_protos::Client;
use containerd_shim_protos::api::*;
use containerd_shim_protos::protobuf::{MessageField, well_known_types::any::Any};
use containerd_shim_protos::shim::oci::{CheckpointOptions, Options};
use containerd_shim_protos::ttrpc::{Code, Request};
use hiber_tests::prelude::*;

#[test]
fn requests_that_cannot_be_decoded() {
    require!(Root);
    let shim = Shim::start(Bundle::busybox().shell("sleep 100"));
    shim.run();
    let client = Client::connect(&shim.address).unwrap();
    for version in ["v2", "v3"] {
        let call = |method: &str, payload: &[u8]| {
            client.request(Request {
                service: format!("containerd.task.{version}.Task"),
                method: method.into(),
                payload: payload.into(),
                timeout_nano: 10_000_000_000,
                ..Request::default()
            })
        };
        for method in ["Create", "State", "Wait", "Kill", "Checkpoint", "Stats"] {
            refused(call(method, b"\x0a\xff"), Code::INVALID_ARGUMENT, "");
        }
        refused(call("Nonsense", b""), Code::INVALID_ARGUMENT, "Nonsense");
        // the connection is none the worse
        call("Connect", b"").unwrap();
    }
    shim.end();
}

#[test]
fn what_is_no_ttrpc_at_all() {
    require!(Root);
    let shim = Shim::start(Bundle::busybox().shell("sleep 100"));
    shim.run();
    // lengths that are too large, unknown types, half a header, half a body, text
    let huge = [0xff; 10];
    let unknown = [0, 0, 0, 0, 0, 0, 0, 1, 99, 0];
    let body = [0, 0, 1, 0, 0, 0, 0, 1, 1, 0, 7, 7];
    for bytes in [&huge[..], &unknown, &unknown[..5], &body, b"GET / HTTP/1.1\r\n\r\n", b""] {
        let mut stream = std::os::unix::net::UnixStream::connect(shim.socket()).unwrap();
        std::io::Write::write_all(&mut stream, bytes).unwrap();
    }
    assert_eq!(shim.state("").status.enum_value(), Ok(Status::RUNNING));
    shim.end();
}

#[test]
fn a_full_disk_is_no_invalid_argument() {
    require!(Root);
    let shim = Shim::start(Bundle::busybox().shell("sleep 100"));
    let state = shim.bundle.join("state");
    std::fs::create_dir(&state).unwrap();
    {
        let _full = hiber_tests::tmpfs::Tmpfs::mount(&state, 1);
        // The code of containerd's own shim for what the host refuses.
        refused(shim.client.create(soon(), &shim.create_request()), Code::UNKNOWN, "no space left on device");
    }
    shim.run();
    shim.end();
}

#[test]
fn tasks_and_processes_that_are_not_there() {
    require!(Root);
    let shim = Shim::start(Bundle::busybox().shell("sleep 100"));
    let (client, nobody) = (&shim.client, "nobody".to_owned());
    refused(shim.try_start(""), Code::NOT_FOUND, "is not created");
    refused(shim.try_delete(""), Code::NOT_FOUND, "is not created");
    let wait = WaitRequest { id: nobody.clone(), ..WaitRequest::default() };
    refused(client.wait(soon(), &wait), Code::NOT_FOUND, "nobody");
    let stats = StatsRequest { id: nobody, ..StatsRequest::default() };
    refused(client.stats(soon(), &stats), Code::NOT_FOUND, "nobody");
    shim.run();
    refused(shim.try_start("e"), Code::NOT_FOUND, "process does not exist e");
    refused(shim.try_kill("e", 9), Code::NOT_FOUND, "process does not exist e");
    refused(shim.try_delete("e"), Code::NOT_FOUND, "process does not exist e");
    shim.try_kill("", 9).unwrap();
    shim.wait("");
    refused(shim.try_kill("", 9), Code::NOT_FOUND, "process already finished");
    shim.end();
}

#[test]
fn what_a_state_forbids() {
    require!(Root);
    let shim = Shim::start(Bundle::busybox().shell("sleep 100"));
    let client = &shim.client;
    let resume = ResumeRequest { id: shim.id(), ..ResumeRequest::default() };
    let pause = PauseRequest { id: shim.id(), ..PauseRequest::default() };
    let images = shim.bundle.join("images").display().to_string();
    let checkpoint =
        CheckpointTaskRequest { id: shim.id(), path: images, ..CheckpointTaskRequest::default() };
    shim.create();
    refused(client.create(soon(), &shim.create_request()), Code::ALREADY_EXISTS, "already exists");
    refused(client.resume(soon(), &resume), Code::FAILED_PRECONDITION, "not paused");
    refused(client.checkpoint(soon(), &checkpoint), Code::FAILED_PRECONDITION, "created state");
    shim.try_start("").unwrap();
    refused(shim.try_start(""), Code::FAILED_PRECONDITION, "cannot start a running process");
    refused(shim.try_delete(""), Code::FAILED_PRECONDITION, "is running");
    shim.try_exec("e", "sleep 100").unwrap();
    refused(shim.try_exec("e", "true"), Code::ALREADY_EXISTS, "id e");
    refused(shim.try_kill("e", 9), Code::FAILED_PRECONDITION, "not started");
    shim.try_start("e").unwrap();
    refused(shim.try_start("e"), Code::FAILED_PRECONDITION, "cannot start a running process");
    refused(shim.try_delete("e"), Code::FAILED_PRECONDITION, "is running");
    client.pause(soon(), &pause).unwrap();
    assert_eq!(shim.state("e").status.enum_value(), Ok(Status::PAUSED));
    refused(client.pause(soon(), &pause), Code::FAILED_PRECONDITION, "cannot pause in the paused state");
    shim.try_exec("f", "true").unwrap();
    refused(shim.try_start("f"), Code::FAILED_PRECONDITION, "paused container");
    // a shim with tasks does not end
    client.shutdown(soon(), &ShutdownRequest::default()).unwrap();
    client.resume(soon(), &resume).unwrap();
    shim.try_kill("", 9).unwrap();
    shim.wait("");
    refused(shim.try_exec("g", "true"), Code::FAILED_PRECONDITION, "stopped");
    refused(client.checkpoint(soon(), &checkpoint), Code::FAILED_PRECONDITION, "stopped state");
    assert!(shim.is_alive());
    shim.end();
}

#[test]
fn fields_that_cannot_be_right() {
    require!(Root);
    let shim = Shim::start(Bundle::busybox().shell("sleep 100"));
    creations_are_refused(&shim);
    shim.run();
    refused(shim.try_kill("", 99), Code::INVALID_ARGUMENT, "signal: 99 is none: expected 1 to 64");
    refused(shim.try_kill("", 0), Code::INVALID_ARGUMENT, "signal: 0 is none");
    execs_and_updates_are_refused(&shim);
    checkpoints_are_refused(&shim);
    assert_eq!(shim.state("").status.enum_value(), Ok(Status::RUNNING));
    shim.end();
}

fn creations_are_refused(shim: &Shim) {
    let create = |change: &dyn Fn(&mut CreateTaskRequest), words: &str| {
        let mut request = shim.create_request();
        change(&mut request);
        refused(shim.client.create(soon(), &request), Code::INVALID_ARGUMENT, words);
    };
    create(&|r| r.id = "a/b".into(), "id: invalid container ID");
    create(&|r| r.bundle = "rootfs".into(), "bundle: \"rootfs\" is not an absolute path");
    create(&|r| r.bundle = "/no/such".into(), "bundle: \"/no/such\" is not a directory");
    create(&|r| r.stdout = "http:///x".into(), "stdout: \"http:///x\" has the unknown scheme http");
    create(&|r| r.stderr = "/no/such".into(), "stderr: /no/such: No such file");
    create(&|r| r.checkpoint = "/no/such".into(), "checkpoint: /no/such is not a directory");
    create(&|r| r.options = any(&CheckpointOptions::default()), "expected containerd.runc.v1.Options");
    let options = Options { io_uid: u32::MAX, ..Options::default() };
    create(&|r| r.options = any(&options), ".io_uid: 4294967295 is no id");
    let out = Mount { type_: "tmpfs".into(), target: "../..".into(), ..Mount::default() };
    create(&|r| r.rootfs = vec![out.clone()], "rootfs[0].target: \"../..\" leads out");
    create(&|r| r.terminal = true, "tty");
}

fn execs_and_updates_are_refused(shim: &Shim) {
    let client = &shim.client;
    refused(
        shim.try_exec("a/b", "true"),
        Code::INVALID_ARGUMENT,
        "exec_id: invalid process ID format: \"a/b\"",
    );
    let spec = Any { value: b"{\"args\": 5}".into(), ..Any::default() };
    let exec = ExecProcessRequest {
        id: shim.id(),
        exec_id: "e".into(),
        spec: MessageField::some(spec.clone()),
        ..ExecProcessRequest::default()
    };
    refused(client.exec(soon(), &exec), Code::INVALID_ARGUMENT, "spec: ");
    let nobody = br#"{"args": ["true"], "cwd": "/", "user": {"uid": 4294967295, "gid": 0}}"#;
    let nobody = Any { value: nobody.into(), ..Any::default() };
    let request =
        ExecProcessRequest { spec: MessageField::some(nobody), exec_id: "n".into(), ..exec.clone() };
    client.exec(soon(), &request).unwrap();
    refused(shim.try_start("n"), Code::INVALID_ARGUMENT, "process.user.uid: 4294967295 is no id");
    let update = UpdateTaskRequest {
        id: shim.id(),
        resources: MessageField::some(spec),
        ..UpdateTaskRequest::default()
    };
    let update = UpdateTaskRequest {
        resources: MessageField::some(Any { value: b"{\"pids\": 5}".into(), ..Any::default() }),
        ..update
    };
    refused(client.update(soon(), &update), Code::INVALID_ARGUMENT, "resources: ");
    let resize = ResizePtyRequest { id: shim.id(), width: 70_000, ..ResizePtyRequest::default() };
    refused(client.resize_pty(soon(), &resize), Code::INVALID_ARGUMENT, "width: 70000 is above 65535");
}

fn checkpoints_are_refused(shim: &Shim) {
    let checkpoint = |options: CheckpointOptions, words: &str| {
        let request = CheckpointTaskRequest {
            id: shim.id(),
            options: any(&options),
            ..CheckpointTaskRequest::default()
        };
        refused(shim.client.checkpoint(soon(), &request), Code::INVALID_ARGUMENT, words);
    };
    checkpoint(CheckpointOptions::default(), "path: \"\" is not an absolute path");
    let images = shim.bundle.join("images").display().to_string();
    let options = CheckpointOptions { image_path: images.clone(), ..CheckpointOptions::default() };
    checkpoint(
        CheckpointOptions { cgroups_mode: "x".into(), ..options.clone() },
        "options.cgroups_mode: \"x\"",
    );
    checkpoint(
        CheckpointOptions { empty_namespaces: vec!["pid".into()], ..options },
        "\"pid\" cannot be empty",
    );
    assert!(!std::path::Path::new(&images).exists());
}

#[test]
fn a_creation_that_fails_leaves_nothing() {
    require!(Root);
    let shim = Shim::start(Bundle::busybox().args(["/no/such"]));
    let open = shim.descriptors();
    let rootfs = Mount {
        type_: "bind".into(),
        source: shim.bundle.rootfs().display().to_string(),
        options: vec!["rbind".into(), "rw".into()],
        ..Mount::default()
    };
    let request = CreateTaskRequest { rootfs: vec![rootfs], ..shim.create_request() };
    for _ in 0..3 {
        let created = shim.client.create(soon(), &request);
        refused(
            created.and_then(|_| shim.try_start("").map(drop)),
            Code::UNKNOWN,
            "no such file or directory",
        );
        let _ = shim.try_delete("");
    }
    wait_for("descriptors to be closed", || shim.descriptors() <= open);
    shim.shut_down();
}
