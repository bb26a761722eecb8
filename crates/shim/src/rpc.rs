//! ttrpc around the service: both names of the task API, malformed requests, and waits that block nobody.

use std::collections::HashMap;
use std::sync::Arc;

use containerd_shim_protos::api::WaitRequest;
use containerd_shim_protos::create_task;
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::ttrpc::{self, Code, MethodHandler, Request, TtrpcContext, get_status};

use crate::error::Error;
use crate::service::Service;
use crate::waiter::{Waiter, failure};

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
        let waiter = Waiter::new(context);
        match WaitRequest::parse_from_bytes(&request.payload) {
            Ok(request) => self.0.wait_for(&request, waiter),
            Err(e) => waiter.refuse(Error::invalid("request", e.to_string())),
        }
        Ok(())
    }
}
