//! The service's methods as ttrpc calls them.

use containerd_shim_protos::Task as TaskApi;
use containerd_shim_protos::api::{self, Empty};
use containerd_shim_protos::ttrpc::{self, TtrpcContext};

use crate::error::Result;
use crate::service::Service;

fn empty(result: Result<()>) -> ttrpc::Result<Empty> {
    Ok(result.map(|()| Empty::default())?)
}

impl TaskApi for Service {
    fn create(
        &self,
        _: &TtrpcContext,
        request: api::CreateTaskRequest,
    ) -> ttrpc::Result<api::CreateTaskResponse> {
        let pid = self.create_task(&request)?;
        Ok(api::CreateTaskResponse { pid, ..Default::default() })
    }

    fn start(&self, _: &TtrpcContext, request: api::StartRequest) -> ttrpc::Result<api::StartResponse> {
        let pid = self.start_process(&request)?;
        Ok(api::StartResponse { pid, ..Default::default() })
    }

    fn delete(&self, _: &TtrpcContext, request: api::DeleteRequest) -> ttrpc::Result<api::DeleteResponse> {
        Ok(self.delete_process(&request)?)
    }

    fn exec(&self, _: &TtrpcContext, request: api::ExecProcessRequest) -> ttrpc::Result<Empty> {
        empty(self.add_exec(&request))
    }

    fn state(&self, _: &TtrpcContext, request: api::StateRequest) -> ttrpc::Result<api::StateResponse> {
        Ok(self.state_of(&request)?)
    }

    fn pids(&self, _: &TtrpcContext, request: api::PidsRequest) -> ttrpc::Result<api::PidsResponse> {
        Ok(self.pids_of(&request.id)?)
    }

    fn pause(&self, _: &TtrpcContext, request: api::PauseRequest) -> ttrpc::Result<Empty> {
        empty(self.pause_task(&request.id))
    }

    fn resume(&self, _: &TtrpcContext, request: api::ResumeRequest) -> ttrpc::Result<Empty> {
        empty(self.resume_task(&request.id))
    }

    fn checkpoint(&self, _: &TtrpcContext, request: api::CheckpointTaskRequest) -> ttrpc::Result<Empty> {
        empty(self.checkpoint_task(&request))
    }

    fn kill(&self, _: &TtrpcContext, request: api::KillRequest) -> ttrpc::Result<Empty> {
        empty(self.kill_process(&request))
    }

    fn resize_pty(&self, _: &TtrpcContext, request: api::ResizePtyRequest) -> ttrpc::Result<Empty> {
        empty(self.resize_process(&request))
    }

    fn close_io(&self, _: &TtrpcContext, request: api::CloseIORequest) -> ttrpc::Result<Empty> {
        let process = self.task(&request.id).and_then(|task| task.process(&request.exec_id));
        empty(process.map(|process| {
            if request.stdin {
                process.close_stdin();
            }
        }))
    }

    fn update(&self, _: &TtrpcContext, request: api::UpdateTaskRequest) -> ttrpc::Result<Empty> {
        empty(self.update_task(&request))
    }

    fn stats(&self, _: &TtrpcContext, request: api::StatsRequest) -> ttrpc::Result<api::StatsResponse> {
        Ok(self.stats_of(&request.id)?)
    }

    /// Also of a task that is not there: containerd asks so whether the shim lives.
    fn connect(&self, _: &TtrpcContext, request: api::ConnectRequest) -> ttrpc::Result<api::ConnectResponse> {
        let task_pid = self.task(&request.id).map_or(0, |task| task.init.pid());
        let version = env!("CARGO_PKG_VERSION").into();
        Ok(api::ConnectResponse { shim_pid: std::process::id(), task_pid, version, ..Default::default() })
    }

    fn shutdown(&self, _: &TtrpcContext, _: api::ShutdownRequest) -> ttrpc::Result<Empty> {
        self.shut_down();
        Ok(Empty::default())
    }
}
