//! Events over ttrpc, to a containerd that is not always there.

use crate::Shim;
use crate::shim::{NAMESPACE, command};
use containerd_shim_protos::api::{Empty, ForwardRequest};
use containerd_shim_protos::events::task::{TaskExit, TaskStart};
use containerd_shim_protos::protobuf::Message as _;
use containerd_shim_protos::ttrpc::{self, Code, Server, TtrpcContext};
use containerd_shim_protos::{Events, create_events};
use hiber_tests::prelude::*;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// The events that containerd would have got; the first one is refused once.
#[derive(Default)]
pub(crate) struct Recorder(Mutex<(bool, Vec<ForwardRequest>)>);

impl Recorder {
    fn all(&self) -> Vec<ForwardRequest> {
        self.0.lock().unwrap().1.clone()
    }

    pub(crate) fn topics(&self) -> Vec<String> {
        self.all().into_iter().map(|request| request.envelope.topic.clone()).collect()
    }
}

/// A containerd that hears of events at `socket`, from now on.
#[track_caller]
pub(crate) fn containerd(socket: &Path) -> (Server, Arc<Recorder>) {
    let recorder = Arc::new(Recorder::default());
    let mut server = Server::new()
        .bind(&format!("unix://{}", socket.display()))
        .unwrap()
        .register_service(create_events(Arc::clone(&recorder) as _));
    server.start().unwrap();
    (server, recorder)
}

impl Events for Recorder {
    fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        let mut recorded = self.0.lock().unwrap();
        if !std::mem::replace(&mut recorded.0, true) {
            return Err(ttrpc::Error::RpcStatus(ttrpc::get_status(Code::UNAVAILABLE, "not yet")));
        }
        recorded.1.push(request);
        Ok(Empty::default())
    }
}

#[test]
fn events_wait_for_containerd() {
    require!(Root);
    let bundle = Bundle::busybox().shell("exit 3");
    let socket = bundle.join("events.sock");
    let mut start = command(&bundle, "start");
    start.env("TTRPC_ADDRESS", &socket);
    let shim = Shim::start_by(bundle, start);
    let pid = shim.create();
    shim.try_start("").unwrap();
    assert_eq!(shim.wait(""), 3);
    // nobody was there until now
    let (server, recorder) = containerd(&socket);
    let all = || recorder.all();
    wait_for("three events", || all().len() == 3);
    shim.try_delete("").unwrap();
    shim.shut_down();
    let all = all();
    let topics: Vec<_> = all.iter().map(|request| request.envelope.topic.as_str()).collect();
    assert_eq!(topics, ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]);
    assert!(all.iter().all(|request| request.envelope.namespace == NAMESPACE));
    let times: Vec<_> = all.iter().map(|request| request.envelope.timestamp.seconds).collect();
    assert!(times.is_sorted() && times[0] > 0, "{times:?}");
    let event = |index: usize| &all[index].envelope.event;
    assert_eq!(event(1).type_url, "containerd.events.TaskStart");
    assert_eq!(TaskStart::parse_from_bytes(&event(1).value).unwrap().pid, pid);
    let exit = TaskExit::parse_from_bytes(&event(2).value).unwrap();
    assert_eq!((exit.pid, exit.exit_status, exit.id == exit.container_id), (pid, 3, true));
    server.shutdown();
}
