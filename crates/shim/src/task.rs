//! One container of the shim's: what containerd calls a task.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use containerd_shim_protos::api::{CreateTaskRequest, ExecProcessRequest, Status};
use hiber::id::ContainerId;
use hiber::{
    CreateOptions, ExecOptions, ExitStatus, ProcessId, RestoreContainerOptions, Runtime,
    Status as RuntimeStatus,
};
use hiber_sandbox::config;
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType};

use crate::error::{Context, Error, Result, chain};
use crate::io::{OpenStreams, Owner, Stdio};
use crate::mount;
use crate::options::Options;
use crate::process::Process;
use crate::watch::Token;

/// A task.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) id: ContainerId,
    pub(crate) bundle: PathBuf,
    pub(crate) options: Options,
    namespace: String,
    runtime: Runtime,
    /// Absent until a task that comes from a checkpoint is restored.
    running: OnceLock<hiber::Task>,
    /// The checkpoint to restore at Start, and the streams for that.
    checkpoint: Option<PathBuf>,
    streams: Mutex<Option<OpenStreams>>,
    pub(crate) init: Arc<Process>,
    execs: Mutex<BTreeMap<String, Arc<Process>>>,
    pausing: AtomicBool,
    /// The first process's exit, which is told after those of the others.
    held: Mutex<Option<ExitStatus>>,
    /// Whether containerd has been told that memory ran out.
    pub(crate) oom_told: AtomicBool,
    /// Whether a notice of that is on its way to be told.
    pub(crate) oom_heard: AtomicBool,
    pub(crate) memory: Mutex<Option<Token>>,
    /// Where it runs now, if it has migrated.
    pub(crate) moved: OnceLock<String>,
}

impl Task {
    /// Mounts the root filesystem, opens the streams, and creates the container, or prepares for its restore. On
    /// failure nothing of it is left.
    pub(crate) fn create(id: ContainerId, namespace: &str, request: &CreateTaskRequest) -> Result<Self> {
        let bundle = PathBuf::from(&request.bundle);
        if !bundle.is_absolute() {
            return Err(Error::invalid("bundle", format!("{:?} is not an absolute path", request.bundle)));
        }
        if !bundle.is_dir() {
            return Err(Error::invalid("bundle", format!("{:?} is not a directory", request.bundle)));
        }
        let options = Options::from_any(request.options.as_ref())?;
        let checkpoint = checkpoint_of(request, &options)?;
        options.save(&bundle)?;
        let stdio = Stdio {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        let task = Self {
            runtime: Runtime::new(&options.runtime_root(namespace)),
            namespace: namespace.into(),
            running: OnceLock::new(),
            checkpoint,
            streams: Mutex::new(None),
            init: Arc::new(Process::new(id.to_string(), stdio, None)),
            execs: Mutex::default(),
            pausing: AtomicBool::new(false),
            held: Mutex::new(None),
            oom_told: AtomicBool::new(false),
            oom_heard: AtomicBool::new(false),
            moved: OnceLock::new(),
            memory: Mutex::new(None),
            id,
            bundle,
            options,
        };
        let rootfs = task.rootfs();
        if !request.rootfs.is_empty() {
            std::fs::create_dir_all(&rootfs).context(rootfs.display().to_string())?;
            mount::mount_all(&request.rootfs, &rootfs)?;
        }
        let made = task.make();
        if made.is_err() {
            task.unmount();
        }
        made.map(|()| task)
    }

    fn make(&self) -> Result<()> {
        let streams = OpenStreams::open(&self.init.stdio, self.owner(&self.init))?;
        if self.checkpoint.is_some() {
            *self.lock_streams() = Some(streams);
            return Ok(());
        }
        let options = CreateOptions::new(&self.bundle)
            .no_pivot(self.options.no_pivot_root)
            .no_new_keyring(self.options.no_new_keyring)
            .systemd_cgroup(self.options.systemd_cgroup)
            .stdio(streams.stdio());
        let running = self.runtime.create(&self.id, &options).context("OCI runtime create failed")?;
        self.adopt(running, streams)
    }

    /// The container is there: keeps it and joins its streams.
    fn adopt(&self, running: hiber::Task, streams: OpenStreams) -> Result<()> {
        let child = running.init().cloned().ok_or(Error::State("the container's process is gone".into()))?;
        let streams = match streams.started(&child) {
            Ok(streams) => streams,
            Err(e) => {
                if let Err(e) = running.force_delete() {
                    tracing::warn!("after a failed creation: {}", chain(&e));
                }
                return Err(e);
            }
        };
        self.init.born(child);
        self.init.attach(streams);
        // Nobody else sets it: there is one creation, or one start.
        let _ = self.running.set(running);
        Ok(())
    }

    fn owner<'a>(&'a self, process: &'a Process) -> Owner<'a> {
        Owner {
            id: &process.id,
            namespace: &self.namespace,
            uid: self.options.io_uid,
            gid: self.options.io_gid,
        }
    }

    fn rootfs(&self) -> PathBuf {
        self.bundle.join("rootfs")
    }

    fn unmount(&self) {
        if let Err(e) = mount::unmount_all(&self.rootfs()) {
            tracing::warn!("{}", chain(&e));
        }
    }

    /// The running part of the container, also after its end.
    pub(crate) fn running(&self) -> Result<&hiber::Task> {
        let what = || Error::State(format!("task {} is not started: it waits for its restore", self.id));
        self.running.get().ok_or_else(what)
    }

    /// Executes the container's program, or restores the container.
    pub(crate) fn start(&self) -> Result<()> {
        if let Some(running) = self.running.get() {
            return running.start().context("OCI runtime start failed");
        }
        let streams = self.lock_streams().take();
        let (Some(streams), Some(checkpoint)) = (streams, &self.checkpoint) else {
            return Err(Error::State(format!("the restore of task {} has failed before", self.id)));
        };
        let work = Some(&self.options.criu_work_path).filter(|path| !path.as_os_str().is_empty());
        let options = RestoreContainerOptions::new(&self.bundle)
            .criu_program(self.criu())
            .image_path(checkpoint)
            .work_path(work.cloned().unwrap_or_else(|| self.bundle.join("criu-work")))
            .systemd_cgroup(self.options.systemd_cgroup)
            .stdio(streams.stdio());
        let running = self.runtime.restore(&self.id, &options).context("OCI runtime restore failed")?;
        self.adopt(running, streams)
    }

    pub(crate) fn criu(&self) -> Option<PathBuf> {
        Some(self.options.criu_path.clone()).filter(|path| !path.as_os_str().is_empty())
    }

    /// Keeps an exec for its start.
    pub(crate) fn add_exec(&self, request: &ExecProcessRequest) -> Result<()> {
        request.exec_id.parse::<ProcessId>().context("exec_id")?;
        if self.init.exit().is_some() {
            return Err(Error::State("cannot exec in a stopped container".into()));
        }
        let (mut spec, warnings) = config::read_process(&request.spec.value).context("spec")?;
        warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        spec.set_terminal(Some(request.terminal));
        let stdio = Stdio {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        let mut execs = self.execs();
        if execs.contains_key(&request.exec_id) {
            return Err(Error::Exists(format!("id {} is in use by another exec", request.exec_id)));
        }
        let process = Process::new(request.exec_id.clone(), stdio, Some(spec));
        execs.insert(request.exec_id.clone(), Arc::new(process));
        Ok(())
    }

    /// Executes what was kept.
    pub(crate) fn start_exec(&self, process: &Process, spec: &oci_spec::runtime::Process) -> Result<()> {
        let running = self.running()?;
        let streams = OpenStreams::open(&process.stdio, self.owner(process))?;
        let id = process.id.parse::<ProcessId>().context("exec_id")?;
        let options = ExecOptions::default().id(id).stdio(streams.stdio());
        let child = running.exec(spec, &options).context("OCI runtime exec failed")?;
        process.born(child.clone());
        match streams.started(&child) {
            Ok(streams) => process.attach(streams),
            // It runs and nobody could see what it says.
            Err(e) => {
                let _ = child.kill(rustix::process::Signal::KILL);
                return Err(e);
            }
        }
        Ok(())
    }

    /// The process with this exec id; the first one for none.
    pub(crate) fn process(&self, exec_id: &str) -> Result<Arc<Process>> {
        if exec_id.is_empty() {
            return Ok(Arc::clone(&self.init));
        }
        let missing = || Error::NotFound(format!("process does not exist {exec_id}"));
        self.execs().get(exec_id).cloned().ok_or_else(missing)
    }

    pub(crate) fn remove_exec(&self, exec_id: &str) {
        self.execs().remove(exec_id);
    }

    /// All that Exec has added.
    pub(crate) fn execs(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Process>>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_streams(&self) -> MutexGuard<'_, Option<OpenStreams>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How a process is, from what is known of its end and from the kernel.
    pub(crate) fn status(&self, process: &Process) -> Result<Status> {
        if process.exit().is_some() {
            return Ok(Status::STOPPED);
        }
        let Some(running) = self.running.get() else { return Ok(Status::CREATED) };
        if self.pausing.load(Ordering::Relaxed) {
            return Ok(Status::PAUSING);
        }
        let status = running.status().context(format!("ask how container {} is", self.id))?;
        Ok(match status {
            RuntimeStatus::Paused => Status::PAUSED,
            _ if process.pid() == 0 => Status::CREATED,
            RuntimeStatus::Creating | RuntimeStatus::Created if !process.is_exec => Status::CREATED,
            // Also what has just ended: it is stopped when its exit status is known.
            _ => Status::RUNNING,
        })
    }

    pub(crate) fn pause(&self) -> Result<()> {
        let running = self.running()?;
        self.pausing.store(true, Ordering::Relaxed);
        let paused = running.pause().context("OCI runtime pause failed");
        self.pausing.store(false, Ordering::Relaxed);
        paused
    }

    /// Whether the end of the first process is the end of all: it is the first of a pid namespace of its own.
    pub(crate) fn ends_with_init(&self) -> bool {
        let spec = self.running.get().and_then(|running| running.container().spec().ok());
        let linux = spec.as_ref().and_then(|spec| spec.linux().as_ref());
        let namespaces = linux.and_then(|linux| linux.namespaces().as_ref());
        let own = |n: &LinuxNamespace| n.typ() == LinuxNamespaceType::Pid && n.path().is_none();
        namespaces.into_iter().flatten().any(own)
    }

    /// The exit of a process that may be told now, with others that waited for it: a container's first process is
    /// told last.
    pub(crate) fn in_order(
        &self,
        process: &Arc<Process>,
        exit: ExitStatus,
    ) -> Vec<(Arc<Process>, ExitStatus)> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let others = |except: &Process| {
            let execs = self.execs();
            execs.values().any(|exec| !std::ptr::eq(&**exec, except) && exec.is_alive())
        };
        if Arc::ptr_eq(process, &self.init) {
            if others(process) {
                *held = Some(exit);
                return Vec::new();
            }
            return vec![(Arc::clone(process), exit)];
        }
        let mut all = vec![(Arc::clone(process), exit)];
        if held.is_some() && !others(process) {
            all.extend(held.take().map(|exit| (Arc::clone(&self.init), exit)));
        }
        all
    }

    /// Its first process has ended a moment ago: whether that is because it runs elsewhere is soon forgotten.
    pub(crate) fn note_migration(&self) {
        if let Some(destination) = self.running.get().and_then(hiber::Task::migrated_to) {
            let _ = self.moved.set(destination);
        }
    }

    /// Removes a container whose first process has ended, or has never begun.
    pub(crate) fn delete(&self) -> Result<()> {
        if let Some(running) = self.running.get() {
            match running.clone().delete() {
                // As after a checkpoint that ends it.
                Ok(_) | Err(hiber::Error::NotFound) => {}
                Err(e) => return Err(e).context("failed to delete task"),
            }
        }
        self.init.finish();
        let execs: Vec<_> = self.execs().values().cloned().collect();
        execs.iter().for_each(|exec| exec.finish());
        drop(self.lock_streams().take());
        mount::unmount_all(&self.rootfs())
    }
}

/// The checkpoint that a request wants restored: its own field, or the option that containerd honours for runc alone.
fn checkpoint_of(request: &CreateTaskRequest, options: &Options) -> Result<Option<PathBuf>> {
    let (field, path) = match request.checkpoint.as_str() {
        "" => ("options.criu_image_path", options.criu_image_path.as_path()),
        path => ("checkpoint", Path::new(path)),
    };
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    if !path.is_absolute() || !path.is_dir() {
        return Err(Error::invalid(field, format!("{} is not a directory", path.display())));
    }
    Ok(Some(path.into()))
}
