//! Requests that begin and end no process.

use std::collections::HashMap;

use containerd_shim_protos::api;
use containerd_shim_protos::events::task as events;
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::shim::oci::ProcessDetails;
use containerd_shim_protos::topics;
use hiber_sandbox::config;

use super::Service;
use crate::error::{Context, Error, Result};
use crate::publish::to_any;
use crate::{checkpoint, metrics};

impl Service {
    pub(crate) fn state_of(&self, request: &api::StateRequest) -> Result<api::StateResponse> {
        let task = self.task(&request.id)?;
        let process = task.process(&request.exec_id)?;
        let exit = process.exit();
        Ok(api::StateResponse {
            id: process.id.clone(),
            bundle: task.bundle.display().to_string(),
            pid: process.pid(),
            status: task.status(&process)?.into(),
            stdin: process.stdio.stdin.clone(),
            stdout: process.stdio.stdout.clone(),
            stderr: process.stdio.stderr.clone(),
            terminal: process.stdio.terminal,
            exit_status: exit.as_ref().map_or(0, |exit| exit.code().unsigned_abs()),
            exited_at: exit.map(|exit| exit.at.into()).into(),
            exec_id: request.exec_id.clone(),
            ..Default::default()
        })
    }

    pub(crate) fn pids_of(&self, id: &str) -> Result<api::PidsResponse> {
        let task = self.task(id)?;
        let pids = task.running()?.pids().context(format!("list the processes of {id}"))?;
        let execs: HashMap<u32, String> = task
            .execs()
            .values()
            .filter(|exec| exec.is_alive())
            .map(|exec| (exec.pid(), exec.id.clone()))
            .collect();
        let info = |pid: i32| {
            let pid = pid.unsigned_abs();
            let details = execs
                .get(&pid)
                .map(|exec_id| to_any(&ProcessDetails { exec_id: exec_id.clone(), ..Default::default() }));
            let info = details.transpose().map_err(|e| Error::invalid("info", e.to_string()))?;
            Ok(api::ProcessInfo { pid, info: info.into(), ..Default::default() })
        };
        let processes = pids.into_iter().map(info).collect::<Result<_>>()?;
        Ok(api::PidsResponse { processes, ..Default::default() })
    }

    pub(crate) fn stats_of(&self, id: &str) -> Result<api::StatsResponse> {
        let task = self.task(id)?;
        let cgroup = task.running()?.cgroup();
        if !cgroup.exists() {
            return Err(Error::NotFound(format!("the cgroup of {id} does not exist")));
        }
        let usage = cgroup.usage().context(format!("read what {id} uses"))?;
        let stats =
            metrics::metrics(&usage, cgroup.paths()).map_err(|e| Error::invalid("stats", e.to_string()))?;
        Ok(api::StatsResponse { stats: MessageField::some(stats), ..Default::default() })
    }

    pub(crate) fn update_task(&self, request: &api::UpdateTaskRequest) -> Result<()> {
        let task = self.task(&request.id)?;
        let resources = config::load_resources(request.resources.value.as_slice()).context("resources")?;
        task.running()?.update(&resources).context(format!("update task {}", task.id))
    }

    pub(crate) fn resize_process(&self, request: &api::ResizePtyRequest) -> Result<()> {
        let size = |field: &str, value: u32| {
            u16::try_from(value).map_err(|_| Error::invalid(field, format!("{value} is above {}", u16::MAX)))
        };
        let (columns, rows) = (size("width", request.width)?, size("height", request.height)?);
        self.task(&request.id)?.process(&request.exec_id)?.resize(columns, rows)
    }

    pub(crate) fn pause_task(&self, id: &str) -> Result<()> {
        self.task(id)?.pause()?;
        let event = events::TaskPaused { container_id: id.into(), ..Default::default() };
        self.publisher.send(topics::TASK_PAUSED_EVENT_TOPIC, &event);
        Ok(())
    }

    pub(crate) fn resume_task(&self, id: &str) -> Result<()> {
        self.task(id)?.running()?.resume().context("OCI runtime resume failed")?;
        let event = events::TaskResumed { container_id: id.into(), ..Default::default() };
        self.publisher.send(topics::TASK_RESUMED_EVENT_TOPIC, &event);
        Ok(())
    }

    pub(crate) fn checkpoint_task(&self, request: &api::CheckpointTaskRequest) -> Result<()> {
        let task = self.task(&request.id)?;
        let path = checkpoint::checkpoint(&task, request)?;
        let checkpoint = path.display().to_string();
        let event =
            events::TaskCheckpointed { container_id: request.id.clone(), checkpoint, ..Default::default() };
        self.publisher.send(topics::TASK_CHECKPOINTED_EVENT_TOPIC, &event);
        Ok(())
    }

    pub(crate) fn add_exec(&self, request: &api::ExecProcessRequest) -> Result<()> {
        self.task(&request.id)?.add_exec(request)?;
        let (container_id, exec_id) = (request.id.clone(), request.exec_id.clone());
        let event = events::TaskExecAdded { container_id, exec_id, ..Default::default() };
        self.publisher.send(topics::TASK_EXEC_ADDED_EVENT_TOPIC, &event);
        Ok(())
    }
}
