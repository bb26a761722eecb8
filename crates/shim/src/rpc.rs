//! ttrpc around the service: both names of the task API, malformed requests, and waits that block nobody.

use std::collections::HashMap;
use std::sync::Arc;

use containerd_shim_protos::api::{WaitRequest, WaitResponse};
use containerd_shim_protos::create_task;
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::ttrpc::{self, Code, MethodHandler, Request, Response, TtrpcContext, get_status};

use hiber::ExitStatus;

use crate::error::Error;
use crate::service::Service;

type Handler = Box<dyn MethodHandler + Send + Sync>;

/// The names under which containerd 1 and 2 call the one service; its messages are the same.
const NAMES: [&str; 2] = ["containerd.task.v2.Task", "containerd.task.v3.Task"];

/// The service's methods by path.
pub(crate) fn methods(service: &Arc<Service>) -> HashMap<String, Handler> {
    let mut all = HashMap::new();
    for name in NAMES {
        for (path, handler) in create_task(Arc::clone(service) as _) {
            let method = path.rsplit('/').next().unwrap_or_default();
            let handler: Handler = match method {
                "Wait" => Box::new(Wait(Arc::clone(service))),
                _ => Box::new(Checked(handler)),
            };
            all.insert(format!("/{name}/{method}"), handler);
        }
    }
    all
}

/// Answers a request that cannot be decoded, where the library's handlers break the connection.
struct Checked(Handler);

impl MethodHandler for Checked {
    fn handler(&self, context: TtrpcContext, request: Request) -> ttrpc::Result<()> {
        let (stream, sender, connection) =
            (context.mh.stream_id, context.res_tx.clone(), Arc::clone(&context.conn_ctx));
        self.0.handler(context, request).or_else(|e| {
            let response = failure(get_status(Code::INVALID_ARGUMENT, e));
            ttrpc::send_response(stream, response, sender, &connection)
        })
    }
}

/// Wait, which is answered when the process ends: no thread waits for it.
struct Wait(Arc<Service>);

impl MethodHandler for Wait {
    fn handler(&self, context: TtrpcContext, request: Request) -> ttrpc::Result<()> {
        let waiter = Waiter(context);
        match WaitRequest::parse_from_bytes(&request.payload) {
            Ok(request) => self.0.wait_for(&request, waiter),
            Err(e) => waiter.refuse(Error::invalid("request", e.to_string())),
        }
        Ok(())
    }
}

/// A client that waits for a process's end.
#[derive(Debug)]
pub(crate) struct Waiter(TtrpcContext);

impl Waiter {
    /// Whether its connection is broken.
    pub(crate) fn is_gone(&self) -> bool {
        self.0.cancel_rx.try_recv().is_err_and(|e| e.is_disconnected())
    }

    /// Tells how the process ended.
    pub(crate) fn tell(self, exit: &ExitStatus) {
        let answer = WaitResponse {
            exit_status: exit.code().unsigned_abs(),
            exited_at: Some(exit.at.into()).into(),
            ..WaitResponse::default()
        };
        let mut response = Response { status: Some(get_status(Code::OK, "")).into(), ..Response::default() };
        match answer.write_to_bytes() {
            Ok(payload) => response.payload = payload,
            Err(e) => response = failure(get_status(Code::INTERNAL, e)),
        }
        self.respond(response);
    }

    pub(crate) fn refuse(self, error: Error) {
        if let ttrpc::Error::RpcStatus(status) = error.into() {
            self.respond(failure(status));
        }
    }

    fn respond(self, response: Response) {
        // A client that has gone needs no answer.
        let _ = self.0.respond(self.0.mh.stream_id, response);
    }
}

fn failure(status: ttrpc::Status) -> Response {
    Response { status: Some(status).into(), ..Response::default() }
}
