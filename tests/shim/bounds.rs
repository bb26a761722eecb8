//! The memory of a shim has bounds, whatever its clients and containers do.

use crate::clients::ask;
use crate::events::containerd;
use crate::shim::{command, soon};
use crate::{Shim, children};
use containerd_shim_protos::api::*;
use containerd_shim_protos::protobuf::{MessageField, well_known_types::any::Any};
use hiber_tests::prelude::*;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// An exec with FIFOs, as containerd's clients make them, and the client's ends of these.
struct Client {
    files: [File; 3],
    paths: [PathBuf; 3],
}

impl Client {
    fn new(directory: &Path, exec_id: &str) -> Self {
        let paths = ["in", "out", "err"].map(|name| directory.join(format!("{exec_id}.{name}")));
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        for path in &paths {
            rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        }
        let nonblock = rustix::fs::OFlags::NONBLOCK.bits() as i32;
        let read = |path| OpenOptions::new().read(true).custom_flags(nonblock).open(path).unwrap();
        // both ways, so that it waits for nobody
        let input = OpenOptions::new().read(true).write(true).open(&paths[0]).unwrap();
        let files = [input, read(&paths[1]), read(&paths[2])];
        Self { files, paths }
    }

    /// Execs a shell script, by requests whose answers come.
    fn exec(&self, shim: &Shim, exec_id: &str, script: &str) {
        let mut process = shim.bundle.config()["process"].clone();
        process["args"] = json!(["sh", "-c", script]);
        let [stdin, stdout, stderr] = self.paths.each_ref().map(|path| path.display().to_string());
        let request = ExecProcessRequest {
            id: shim.id(),
            exec_id: exec_id.into(),
            stdin,
            stdout,
            stderr,
            spec: MessageField::some(Any { value: process.to_string().into(), ..Any::default() }),
            ..ExecProcessRequest::default()
        };
        shim.client.exec(soon(), &request).unwrap();
        shim.try_start(exec_id).unwrap();
    }
}

#[test]
fn execs_whose_clients_were_killed_leave_nothing_open() {
    require!(Root);
    let shim = Shim::start(Bundle::busybox().shell("sleep 100"));
    shim.run();
    shim.wait_for_events("start", 1);
    let ids = |range: std::ops::Range<usize>| range.map(|n| format!("e{n}"));
    // what it reads is less than it is sent, what it writes more than a FIFO takes, and nobody ever deletes it
    let killed = |id: &String| {
        let mut client = Client::new(shim.bundle.path(), id);
        client.exec(&shim, id, "read -r line; head -c 100000 /dev/zero; echo err >&2");
        let wait = WaitRequest { id: shim.id(), exec_id: id.clone(), ..WaitRequest::default() };
        let waits = ask(&shim, "Wait", &wait);
        client.files[0].write_all(&[b'\n'; 3]).unwrap();
        drop((client, waits));
    };
    let ended = |id: &String| shim.state(id).status.enum_value() == Ok(Status::STOPPED);
    // the first ones open what all share
    ids(0..2).for_each(|id| killed(&id));
    wait_for("the first to end", || ids(0..2).all(|id| ended(&id)));
    std::thread::sleep(std::time::Duration::from_millis(300));
    let before = (shim.descriptors(), shim.threads());
    ids(2..52).for_each(|id| killed(&id));
    wait_for("all to end", || ids(2..52).all(|id| ended(&id)));
    wait_for("threads and descriptors to be given back", || {
        shim.descriptors() <= before.0 + 4 && shim.threads() <= before.1 + 4
    });
    assert!(!children(shim.pid).contains('Z'), "children are not reaped");
    // what is known of them still is, and a deletion that comes late finds it
    assert_eq!(shim.wait("e51"), 0);
    assert_eq!(shim.try_delete("e51").unwrap().exit_status, 0);
    shim.wait_for_events("exit", 52);
    shim.end();
}

#[test]
fn output_reaches_a_slow_client_after_the_end() {
    require!(Root);
    let shim = Shim::start(Bundle::busybox().shell("sleep 100"));
    shim.run();
    let mut client = Client::new(shim.bundle.path(), "e");
    client.exec(&shim, "e", "head -c 100000 /dev/zero");
    assert_eq!(shim.wait("e"), 0);
    std::thread::sleep(std::time::Duration::from_millis(200));
    let mut read = 0;
    let mut buffer = [0; 1000];
    wait_for("all output", || {
        match std::io::Read::read(&mut client.files[1], &mut buffer) {
            Ok(length) => read += length,
            Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::WouldBlock),
        }
        read == 100_000
    });
    shim.try_delete("e").unwrap();
    shim.end();
}

#[test]
fn notices_of_memory_push_no_exit_out() {
    require!(Root, Controller("memory"));
    let script =
        "i=0; while [ $i -lt 20 ]; do dd if=/dev/zero of=/dev/null bs=200M count=1; i=$((i+1)); done; exit 3";
    let bundle = Bundle::busybox().shell(script);
    let bundle = bundle.edit(|c| c["linux"]["resources"]["memory"] = json!({"limit": 32 << 20}));
    let socket = bundle.join("events.sock");
    let mut start = command(&bundle, "start");
    start.env("TTRPC_ADDRESS", &socket);
    let shim = Shim::start_by(bundle, start);
    shim.run();
    assert_eq!(shim.wait(""), 3);
    // containerd was away until now
    let (server, recorder) = containerd(&socket);
    let topics = || recorder.topics();
    wait_for("the exit", || topics().iter().any(|topic| topic == "/tasks/exit"));
    let topics = topics();
    let notices = topics.iter().filter(|topic| *topic == "/tasks/oom").count();
    assert!((1..=2).contains(&notices), "{topics:?}");
    shim.try_delete("").unwrap();
    shim.shut_down();
    server.shutdown();
}
