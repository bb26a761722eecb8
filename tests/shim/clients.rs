//! Clients that wait, and clients that vanish.

use crate::shim::{connect, soon};
use crate::{COUNT, Shim, count};
use containerd_shim_protos::api::*;
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::ttrpc::{MessageHeader, Request};
use hiber_tests::prelude::*;
use std::io::Write as _;
use std::os::unix::net::UnixStream;

/// Sends a request on a connection of its own, whose answer nobody will read.
pub(crate) fn ask(shim: &Shim, method: &str, request: &impl Message) -> UnixStream {
    let request = Request {
        service: "containerd.task.v2.Task".into(),
        method: method.into(),
        payload: request.write_to_bytes().unwrap(),
        ..Request::default()
    };
    let body = request.write_to_bytes().unwrap();
    let header: Vec<u8> = MessageHeader::new_request(1, u32::try_from(body.len()).unwrap()).into();
    let mut stream = UnixStream::connect(shim.socket()).unwrap();
    stream.write_all(&[header, body].concat()).unwrap();
    stream
}

#[test]
fn waits_hold_up_nobody() {
    require!(Root);
    let shim = Shim::start(Bundle::busybox().shell("sleep 100"));
    shim.run();
    const MANY: usize = 100;
    std::thread::scope(|scope| {
        let waits: Vec<_> = (0..MANY).map(|_| scope.spawn(|| shim.wait(""))).collect();
        // they are all under way before the process ends
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert_eq!(shim.state("").status.enum_value(), Ok(Status::RUNNING));
        assert!(shim.threads() < MANY / 2, "{} threads for {MANY} waits", shim.threads());
        shim.try_kill("", 9).unwrap();
        assert!(waits.into_iter().all(|wait| wait.join().unwrap() == 137));
    });
    assert_eq!(shim.wait(""), 137);
    shim.end();
}

#[test]
fn clients_that_vanish_while_they_wait_are_forgotten() {
    require!(Root);
    let shim = Shim::start(Bundle::busybox().shell("sleep 100"));
    shim.run();
    // publishing takes descriptors, too
    shim.wait_for_events("start", 1);
    std::thread::sleep(std::time::Duration::from_millis(100));
    let open = shim.descriptors();
    let request = WaitRequest { id: shim.id(), ..WaitRequest::default() };
    let clients: Vec<_> = (0..20).map(|_| ask(&shim, "Wait", &request)).collect();
    // a request of a client that has gone before it is read is dropped
    wait_for("them to be connected", || shim.descriptors() >= open + clients.len());
    std::thread::sleep(std::time::Duration::from_millis(200));
    drop(clients);
    wait_for("their connections to be closed", || {
        // each new wait looks for those that are gone
        let client = connect(&shim.address);
        let brief = containerd_shim_protos::ttrpc::context::with_timeout(20_000_000);
        let _ = client.wait(brief, &request);
        drop(client);
        shim.descriptors() <= open + 4
    });
    shim.end();
}

#[test]
fn a_creation_goes_on_without_its_client() {
    require!(Root);
    let shim = Shim::start(Bundle::busybox().shell("exit 5"));
    let client = ask(&shim, "Create", &shim.create_request());
    wait_for("the creation to begin", || shim.bundle.join("options.json").exists());
    drop(client);
    shim.wait_for_events("create", 1);
    shim.try_start("").unwrap();
    assert_eq!(shim.wait(""), 5);
    shim.end();
}

#[test]
fn a_checkpoint_goes_on_without_its_client() {
    require!(Root, Criu);
    let shim = Shim::start(Bundle::busybox().shell(COUNT));
    shim.run();
    wait_for("the count", || count(&shim.bundle) > 1);
    let images = shim.bundle.join("images");
    let path = images.display().to_string();
    let request = CheckpointTaskRequest { id: shim.id(), path, ..CheckpointTaskRequest::default() };
    let client = ask(&shim, "Checkpoint", &request);
    wait_for("the checkpoint to begin", || shim.bundle.join("criu-work").exists());
    drop(client);
    shim.wait_for_events("checkpointed", 1);
    assert!(images.join("inventory.img").exists() && images.join("hiber.json").exists());
    let left: Vec<_> =
        std::fs::read_dir(shim.bundle.path()).unwrap().flatten().map(|e| e.file_name()).collect();
    assert!(!left.iter().any(|name| name == "criu-work"), "{left:?}");
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with(".images")), "{left:?}");
    let at = count(&shim.bundle);
    wait_for("it to count on", || count(&shim.bundle) > at);
    assert_eq!(
        shim.client.connect(soon(), &ConnectRequest::default()).unwrap().shim_pid,
        shim.pid.unsigned_abs()
    );
    shim.end();
}
