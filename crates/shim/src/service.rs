//! containerd's task service: its requests, and the events that it tells of.

mod requests;

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use containerd_shim_protos::api;
use containerd_shim_protos::events::task as events;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::topics;
use hiber::{Ended, ExitStatus};
use hiber_sys::signal::Signal;

use crate::error::{Context, Error, Result, chain};
use crate::process::{Process, finished};
use crate::publish::Publisher;
use crate::task::Task;
use crate::waiter::Waiter;
use crate::watch::{MemoryWatch, when_ended};

/// How long a killed process may take until its end is known.
const DEATH: Duration = Duration::from_secs(10);

/// An event that no request caused.
enum Heard {
    Exit(Arc<Task>, Arc<Process>, ExitStatus),
    Oom(Arc<Task>),
}

/// The tasks.
#[derive(Default)]
struct Tasks {
    /// By id; `None` while one is being created.
    by_id: HashMap<String, Option<Arc<Task>>>,
    /// The shim ends: there will be no other.
    stopping: bool,
}

/// The service. Everything that its requests share.
pub(crate) struct Service {
    namespace: String,
    tasks: Mutex<Tasks>,
    publisher: Publisher,
    memory: Arc<MemoryWatch>,
    heard: Mutex<Sender<Heard>>,
    /// Told when the last client has no more use for the shim.
    stop: Box<dyn Fn() + Send + Sync>,
}

impl Service {
    /// Starts the threads of a service for a namespace.
    pub(crate) fn start(
        namespace: &str,
        publisher: Publisher,
        stop: impl Fn() + Send + Sync + 'static,
    ) -> Result<Arc<Self>> {
        let (heard, all) = channel();
        let service = Arc::new(Self {
            namespace: namespace.into(),
            tasks: Mutex::default(),
            publisher,
            memory: MemoryWatch::start()?,
            heard: Mutex::new(heard),
            stop: Box::new(stop),
        });
        let own = Arc::clone(&service);
        let thread = std::thread::Builder::new().name("events".into());
        thread.spawn(move || own.hear(&all)).context("start a thread")?;
        Ok(service)
    }

    /// Waits until containerd has taken all events, but not for ever.
    pub(crate) fn finish(&self) {
        self.publisher.finish();
    }

    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn task(&self, id: &str) -> Result<Arc<Task>> {
        let missing = || Error::NotFound(format!("container {id:?} is not created"));
        self.tasks().by_id.get(id).cloned().flatten().ok_or_else(missing)
    }

    fn hear(&self, all: &Receiver<Heard>) {
        for heard in all {
            match heard {
                Heard::Exit(task, process, status) => {
                    if let Some(status) = process.ended(status) {
                        self.exited(&task, &process, status);
                    }
                }
                // A notice that comes late was told with the end that it has caused.
                Heard::Oom(task) => {
                    task.oom_heard.store(false, Ordering::Relaxed);
                    if task.init.exit().is_none() || !task.oom_told.load(Ordering::Relaxed) {
                        self.out_of_memory(&task);
                    }
                }
            }
        }
    }

    fn sender(&self) -> Sender<Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Hears of the end of a process that exists.
    fn watch(&self, task: &Arc<Task>, process: &Arc<Process>) -> Result<()> {
        let Some(child) = process.child() else { return Ok(()) };
        let wait = child.wait().context(format!("wait for process {}", process.id))?;
        let (sender, task, process) = (self.sender(), Arc::clone(task), Arc::clone(process));
        when_ended(wait, move |status| {
            let own = Arc::clone(&process);
            if !own.is_exec {
                task.note_migration();
            }
            // The receiver lives as long as the service.
            process.when_read(move || drop(sender.send(Heard::Exit(task, own, status))));
        });
        Ok(())
    }

    /// Hears of memory that runs out in a container that exists. Without a memory controller it never does.
    fn watch_memory(&self, task: &Arc<Task>) {
        let watch = || -> Result<()> {
            let watch = task.running()?.cgroup().watch_oom().context("watch for OOM")?;
            let Some(watch) = watch else { return Ok(()) };
            let (sender, own) = (self.sender(), Arc::clone(task));
            // One notice is under way at a time: there is no end to how often memory runs out.
            let happened = move || {
                if !own.oom_heard.swap(true, Ordering::Relaxed) {
                    drop(sender.send(Heard::Oom(Arc::clone(&own))));
                }
            };
            let token = self.memory.add(watch, happened)?;
            *task.memory.lock().unwrap_or_else(PoisonError::into_inner) = Some(token);
            Ok(())
        };
        if let Err(e) = watch() {
            tracing::warn!("OOM events of {} are not seen: {}", task.id, chain(&e));
        }
    }

    fn forget_memory(&self, task: &Task) {
        if let Some(token) = task.memory.lock().unwrap_or_else(PoisonError::into_inner).take() {
            self.memory.remove(token);
        }
    }

    fn out_of_memory(&self, task: &Task) {
        task.oom_told.store(true, Ordering::Relaxed);
        let event = events::TaskOOM { container_id: task.id.to_string(), ..Default::default() };
        self.publisher.send_oom(&event);
    }

    /// A process has ended, and its start has been told.
    fn exited(&self, task: &Arc<Task>, process: &Arc<Process>, status: ExitStatus) {
        if Arc::ptr_eq(process, &task.init)
            && !task.ends_with_init()
            && let Ok(running) = task.running()
            && let Err(e) = running.kill_all(Signal::KILL)
        {
            tracing::warn!("end what {} has left: {}", task.id, chain(&e));
        }
        for (process, status) in task.in_order(process, status) {
            self.tell(task, &process, status);
        }
    }

    /// The one place where an end is told.
    fn tell(&self, task: &Arc<Task>, process: &Process, status: ExitStatus) {
        if !process.claim_end() {
            return;
        }
        // The kernel's notice may come later than the end that it has caused.
        if status.oom_killed && !task.oom_told.load(Ordering::Relaxed) {
            self.out_of_memory(task);
        }
        let event = events::TaskExit {
            container_id: task.id.to_string(),
            id: process.id.clone(),
            pid: process.pid(),
            exit_status: status.code().unsigned_abs(),
            exited_at: MessageField::some(status.at.into()),
            ..Default::default()
        };
        if !process.is_exec {
            self.tell_of_migration(task);
        }
        // Before those who wait do what is told of afterwards, such as a deletion.
        self.publisher.send_exit(&event);
        process.tell(status);
    }

    /// An end by a signal is no failure where the container is at another machine by now: as after a checkpoint that ends it, it is
    /// somewhere else.
    fn tell_of_migration(&self, task: &Task) {
        let Some(destination) = task.moved.get() else { return };
        tracing::info!("{} has moved to {destination}, and ends here", task.id);
        let (container_id, checkpoint) = (task.id.to_string(), destination.clone());
        let event = events::TaskCheckpointed { container_id, checkpoint, ..Default::default() };
        self.publisher.send(topics::TASK_CHECKPOINTED_EVENT_TOPIC, &event);
    }

    /// Answers `waiter` when the process has ended.
    pub(crate) fn wait_for(&self, request: &api::WaitRequest, waiter: Waiter) {
        self.forget_waiters_that_left();
        match self.task(&request.id).and_then(|task| task.process(&request.exec_id)) {
            Ok(process) => process.wait(waiter),
            Err(e) => waiter.refuse(e),
        }
    }

    /// A client that has left keeps its connection, and two threads, as long as it counts as one who waits: such as a
    /// containerd that was restarted.
    fn forget_waiters_that_left(&self) {
        let tasks: Vec<_> = self.tasks().by_id.values().flatten().cloned().collect();
        for task in tasks {
            task.init.forget_waiters_that_left();
            let execs: Vec<_> = task.execs().values().cloned().collect();
            execs.iter().for_each(|exec| exec.forget_waiters_that_left());
        }
    }

    pub(crate) fn create_task(&self, request: &api::CreateTaskRequest) -> Result<u32> {
        let id: hiber::id::ContainerId =
            request.id.parse().map_err(|e: hiber::id::InvalidId| Error::invalid("id", e.to_string()))?;
        {
            let mut tasks = self.tasks();
            if tasks.stopping {
                return Err(Error::Unavailable("the shim is ending".into()));
            }
            if tasks.by_id.contains_key(&request.id) {
                return Err(Error::Exists(format!("task {id} already exists")));
            }
            tasks.by_id.insert(request.id.clone(), None);
        }
        let created = Task::create(id, &self.namespace, request).map(Arc::new);
        let mut tasks = self.tasks();
        let task = match created {
            Ok(task) => task,
            Err(e) => {
                tasks.by_id.remove(&request.id);
                return Err(e);
            }
        };
        tasks.by_id.insert(request.id.clone(), Some(Arc::clone(&task)));
        drop(tasks);
        let pid = task.init.pid();
        self.tell_created(request, pid);
        if pid != 0 {
            self.watch_memory(&task);
            self.watch(&task, &task.init)?;
        }
        Ok(pid)
    }

    fn tell_created(&self, request: &api::CreateTaskRequest, pid: u32) {
        // The same message, which is generated twice.
        let mount = |mount: &api::Mount| Message::parse_from_bytes(&mount.write_to_bytes().ok()?).ok();
        let io = events::TaskIO {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
            ..Default::default()
        };
        let event = events::TaskCreate {
            container_id: request.id.clone(),
            bundle: request.bundle.clone(),
            rootfs: request.rootfs.iter().filter_map(mount).collect(),
            io: MessageField::some(io),
            checkpoint: request.checkpoint.clone(),
            pid,
            ..Default::default()
        };
        self.publisher.send(topics::TASK_CREATE_EVENT_TOPIC, &event);
    }

    pub(crate) fn start_process(&self, request: &api::StartRequest) -> Result<u32> {
        let task = self.task(&request.id)?;
        let process = task.process(&request.exec_id)?;
        let spec = process.begin_start()?;
        self.forget_waiters_that_left();
        let restored = task.running().is_err();
        let started = match &spec {
            Some(spec) => task.start_exec(&process, spec),
            None => task.start(),
        };
        let new = process.is_exec || restored;
        let started = started.and_then(|()| {
            self.tell_started(&task, &process);
            if new { self.watch(&task, &process) } else { Ok(()) }
        });
        if restored && task.running().is_ok() {
            self.watch_memory(&task);
        }
        if started.is_err() && process.is_exec && process.child().is_some() {
            // Its streams could not be joined, and it was killed.
            self.watch(&task, &process)?;
        } else if started.is_err() && process.is_exec {
            // It never was: those who wait for it hear of that, and nobody else.
            let failed = Ended::Exited(u8::MAX);
            let at = std::time::SystemTime::now();
            process.tell(ExitStatus { ended: failed, oom_killed: false, at, error: None });
        }
        if let Some(status) = process.end_start() {
            self.exited(&task, &process, status);
        }
        started.map(|()| process.pid())
    }

    fn tell_started(&self, task: &Task, process: &Process) {
        let (container_id, pid) = (task.id.to_string(), process.pid());
        if !process.is_exec {
            let event = events::TaskStart { container_id, pid, ..Default::default() };
            self.publisher.send(topics::TASK_START_EVENT_TOPIC, &event);
        } else {
            let exec_id = process.id.clone();
            let event = events::TaskExecStarted { container_id, exec_id, pid, ..Default::default() };
            self.publisher.send(topics::TASK_EXEC_STARTED_EVENT_TOPIC, &event);
        }
    }

    pub(crate) fn delete_process(&self, request: &api::DeleteRequest) -> Result<api::DeleteResponse> {
        let task = self.task(&request.id)?;
        let process = task.process(&request.exec_id)?;
        process.begin_delete()?;
        let deleted = match process.is_exec {
            true => delete_exec(&task, &process),
            false => self.delete_task(&task),
        };
        if deleted.is_err() {
            process.give_up_delete();
        }
        deleted?;
        let exit = process.exit();
        Ok(api::DeleteResponse {
            pid: process.pid(),
            exit_status: exit.as_ref().map_or(0, |exit| exit.code().unsigned_abs()),
            exited_at: exit.map(|exit| exit.at.into()).into(),
            ..Default::default()
        })
    }

    fn delete_task(&self, task: &Task) -> Result<()> {
        let init = &task.init;
        if init.is_alive() {
            match task.status(init)? {
                api::Status::CREATED => {
                    // A process that was never started; its end is told before it is gone.
                    init.signal(Signal::KILL)?;
                }
                api::Status::RUNNING if init.has_ended() => {}
                _ => return Err(Error::State(format!("task {} is running: it cannot be deleted", task.id))),
            }
            if init.wait_here(DEATH).is_none() {
                return Err(Error::State(format!("the end of task {} is not known", task.id)));
            }
        }
        self.forget_memory(task);
        task.delete()?;
        self.tasks().by_id.remove(task.id.as_str());
        let exit = init.exit();
        let event = events::TaskDelete {
            container_id: task.id.to_string(),
            pid: init.pid(),
            exit_status: exit.as_ref().map_or(0, |exit| exit.code().unsigned_abs()),
            exited_at: exit.map(|exit| exit.at.into()).into(),
            ..Default::default()
        };
        self.publisher.send(topics::TASK_DELETE_EVENT_TOPIC, &event);
        Ok(())
    }

    pub(crate) fn kill_process(&self, request: &api::KillRequest) -> Result<()> {
        let task = self.task(&request.id)?;
        let process = task.process(&request.exec_id)?;
        let number = i32::try_from(request.signal).ok();
        let signal = number.and_then(Signal::new).ok_or_else(|| {
            let limit = hiber_sys::signal::SIGNALS;
            Error::invalid("signal", format!("{} is none: expected 1 to {limit}", request.signal))
        })?;
        if process.is_exec {
            return process.signal(signal);
        }
        let Ok(running) = task.running() else {
            let restoring = || Error::State(format!("task {} is being restored", task.id));
            // Nothing runs before a restore: clients that want it to end are content with that.
            return Err(if process.is_starting() { restoring() } else { finished() });
        };
        if process.exit().is_some() {
            return Err(finished());
        }
        match if request.all { running.kill_all(signal) } else { running.kill(signal) } {
            Err(hiber::Error::NotRunning | hiber::Error::NotFound) => Err(finished()),
            sent => sent.context(format!("signal task {}", task.id)),
        }
    }

    /// Does nothing as long as there are tasks: a pod's other containers need the shim.
    pub(crate) fn shut_down(&self) {
        let mut tasks = self.tasks();
        if tasks.by_id.is_empty() {
            tasks.stopping = true;
            (self.stop)();
        }
    }
}

fn delete_exec(task: &Task, process: &Process) -> Result<()> {
    // The end of a process is known within a moment.
    let told = !process.is_alive() || (process.has_ended() && process.wait_here(DEATH).is_some());
    if !told {
        return Err(Error::State(format!("process {} is running: it cannot be deleted", process.id)));
    }
    process.finish();
    task.remove_exec(&process.id);
    Ok(())
}
