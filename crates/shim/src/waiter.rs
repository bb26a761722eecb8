//! Clients whose wait is not answered yet.

use containerd_shim_protos::api::WaitResponse;
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::ttrpc::{self, Code, Response, TtrpcContext, get_status};

use hiber::ExitStatus;

use crate::error::Error;

/// A client that waits for a process's end.
#[derive(Debug)]
pub(crate) struct Waiter(TtrpcContext);

impl Waiter {
    pub(crate) fn new(context: TtrpcContext) -> Self {
        Self(context)
    }

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

/// An answer that says why there is none.
pub(crate) fn failure(status: ttrpc::Status) -> Response {
    Response { status: Some(status).into(), ..Response::default() }
}
