//! A shim that is started as containerd does, and a client of it.

use containerd_shim_protos::api::*;
use containerd_shim_protos::protobuf::{MessageField, MessageFull, well_known_types::any::Any};
use containerd_shim_protos::shim::oci::Options;
use containerd_shim_protos::ttrpc::{self, Code, Error, context};
use containerd_shim_protos::{Client, TaskClient};
use hiber_tests::prelude::*;
use hiber_tests::{command, leaks, tools};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// The namespace of all these shims.
pub(crate) const NAMESPACE: &str = "test";
/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(40);

/// A process that counts in its memory, and shows the count in the file /count.
pub(crate) const COUNT: &str =
    "i=0; while :; do i=$((i+1)); echo $i >/.count; mv /.count /count; sleep 0.05; done";

/// The count that a bundle's process shows; 0 if there is none.
pub(crate) fn count(bundle: &Bundle) -> u64 {
    let text = fs::read_to_string(bundle.rootfs().join("count")).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// A shim with one bundle, whose name is the task's id.
pub(crate) struct Shim {
    pub(crate) bundle: Bundle,
    pub(crate) address: String,
    pub(crate) client: TaskClient,
    pub(crate) pid: i32,
}

/// A client that does not wait for ever.
pub(crate) fn soon() -> context::Context {
    context::with_duration(PATIENCE)
}

/// A message in an `Any` by the name that containerd gives it.
pub(crate) fn any<M: MessageFull>(message: &M) -> MessageField<Any> {
    let (type_url, value) = (M::descriptor().full_name().to_owned(), message.write_to_bytes().unwrap());
    MessageField::some(Any { type_url, value, ..Any::default() })
}

/// Checks that a request was answered with this code, and these words in the message.
#[track_caller]
pub(crate) fn refused<T: std::fmt::Debug>(result: ttrpc::Result<T>, code: Code, words: &str) {
    match result {
        Err(Error::RpcStatus(status)) => {
            assert_eq!(status.code(), code, "{status:?}");
            assert!(status.message.contains(words), "the message lacks {words:?}: {status:?}");
        }
        other => panic!("expected {code:?}: {other:?}"),
    }
}

/// `containerd-shim-hiber-v2 ACTION` in the bundle, publishing by a script that writes the topics down.
pub(crate) fn command(bundle: &Bundle, action: &str) -> Command {
    command_for(bundle, action, bundle.name())
}

/// As [`command`], for the containerd at this address.
pub(crate) fn command_for(bundle: &Bundle, action: &str, address: &str) -> Command {
    let shim = tools::shim().unwrap_or_else(|e| panic!("no shim: {e}"));
    let mut command = Command::new(shim);
    command.args(["-namespace", NAMESPACE, "-id", bundle.name(), "-address", address]);
    command.arg("-publish-binary").arg(bundle.join("publish")).arg(action);
    command.current_dir(bundle.path()).env_remove("TTRPC_ADDRESS").env("PATH", tools::path_with_criu());
    command
}

impl Shim {
    /// Publishes by the script.
    #[track_caller]
    pub(crate) fn start(bundle: Bundle) -> Self {
        let start = command(&bundle, "start");
        Self::start_by(bundle, start)
    }

    #[track_caller]
    pub(crate) fn start_by(bundle: Bundle, start: Command) -> Self {
        Self::start_with(bundle, start, b"")
    }

    /// With options on its standard input.
    #[track_caller]
    pub(crate) fn start_with(bundle: Bundle, start: Command, options: &[u8]) -> Self {
        let script = bundle.join("publish");
        // --address A publish --topic T --namespace N; the event itself is protobuf
        fs::write(&script, "#!/bin/sh\ncat >/dev/null\necho \"$5\" >>\"${0%/*}/events\"\n").unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let output = command::run(start, options);
        let address = output.ok().to_owned();
        let client = connect(&address);
        let connected = client.connect(soon(), &ConnectRequest::default()).unwrap();
        let pid = i32::try_from(connected.shim_pid).unwrap();
        Self { bundle, address, client, pid }
    }

    /// The options of all tasks: their state lies in the bundle.
    pub(crate) fn options(&self) -> MessageField<Any> {
        let root = self.bundle.join("state").display().to_string();
        any(&Options { root, ..Options::default() })
    }

    /// Create, with its output in the bundle's file `log`.
    pub(crate) fn create_request(&self) -> CreateTaskRequest {
        let log = format!("file://{}", self.bundle.join("log").display());
        CreateTaskRequest {
            id: self.id(),
            bundle: self.bundle.path().display().to_string(),
            stdout: log.clone(),
            stderr: log,
            options: self.options(),
            ..CreateTaskRequest::default()
        }
    }

    pub(crate) fn id(&self) -> String {
        self.bundle.name().to_owned()
    }

    #[track_caller]
    pub(crate) fn create(&self) -> u32 {
        self.client.create(soon(), &self.create_request()).unwrap().pid
    }

    pub(crate) fn try_start(&self, exec_id: &str) -> ttrpc::Result<StartResponse> {
        let request = StartRequest { id: self.id(), exec_id: exec_id.into(), ..StartRequest::default() };
        self.client.start(soon(), &request)
    }

    /// Creates and starts the task.
    #[track_caller]
    pub(crate) fn run(&self) {
        self.create();
        self.try_start("").unwrap();
    }

    #[track_caller]
    pub(crate) fn state(&self, exec_id: &str) -> StateResponse {
        let request = StateRequest { id: self.id(), exec_id: exec_id.into(), ..StateRequest::default() };
        self.client.state(soon(), &request).unwrap()
    }

    #[track_caller]
    pub(crate) fn wait(&self, exec_id: &str) -> u32 {
        let request = WaitRequest { id: self.id(), exec_id: exec_id.into(), ..WaitRequest::default() };
        self.client.wait(soon(), &request).unwrap().exit_status
    }

    pub(crate) fn try_kill(&self, exec_id: &str, signal: u32) -> ttrpc::Result<Empty> {
        let request =
            KillRequest { id: self.id(), exec_id: exec_id.into(), signal, ..KillRequest::default() };
        self.client.kill(soon(), &request)
    }

    pub(crate) fn try_delete(&self, exec_id: &str) -> ttrpc::Result<DeleteResponse> {
        let request = DeleteRequest { id: self.id(), exec_id: exec_id.into(), ..DeleteRequest::default() };
        self.client.delete(soon(), &request)
    }

    /// Exec of a shell script, kept for its start.
    pub(crate) fn try_exec(&self, exec_id: &str, script: &str) -> ttrpc::Result<Empty> {
        let mut process = self.bundle.config()["process"].clone();
        process["args"] = json!(["sh", "-c", script]);
        let spec = Any { type_url: "Process".into(), value: process.to_string().into(), ..Any::default() };
        let request = ExecProcessRequest {
            id: self.id(),
            exec_id: exec_id.into(),
            spec: MessageField::some(spec),
            ..ExecProcessRequest::default()
        };
        self.client.exec(soon(), &request)
    }

    /// Topics of the events so far.
    pub(crate) fn events(&self) -> Vec<String> {
        let text = fs::read_to_string(self.bundle.join("events")).unwrap_or_default();
        text.lines().map(|topic| topic.trim_start_matches("/tasks/").to_owned()).collect()
    }

    /// Waits until a topic was published so often, and returns all.
    #[track_caller]
    pub(crate) fn wait_for_events(&self, topic: &str, count: usize) -> Vec<String> {
        wait_for(&format!("{count} events {topic}"), || {
            self.events().iter().filter(|t| *t == topic).count() >= count
        });
        self.events()
    }

    /// The shim's open descriptors.
    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid)).map_or(0, Iterator::count)
    }

    pub(crate) fn threads(&self) -> usize {
        fs::read_dir(format!("/proc/{}/task", self.pid)).map_or(0, Iterator::count)
    }

    pub(crate) fn is_alive(&self) -> bool {
        let line = fs::read_to_string(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        line.contains("containerd-shim-hiber-v2")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.address.trim_start_matches("unix://").into()
    }

    /// Kills and deletes the task, and lets the shim end; checks that nothing is left.
    #[track_caller]
    pub(crate) fn end(self) {
        let _ = self.try_kill("", 9);
        self.wait("");
        self.try_delete("").unwrap();
        self.shut_down();
    }

    /// Lets a shim without tasks end; checks that nothing is left.
    #[track_caller]
    pub(crate) fn shut_down(self) {
        let request = ShutdownRequest { id: self.id(), ..ShutdownRequest::default() };
        self.client.shutdown(soon(), &request).unwrap();
        wait_for("the shim to end", || !self.is_alive());
        assert!(!self.socket().exists(), "{} is left", self.address);
        leaks::assert_none(self.bundle.name(), &self.bundle.cgroup_parent(), &self.bundle.join("state"));
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        leaks::clear(self.bundle.name(), &self.bundle.cgroup_parent());
        if !self.is_alive() {
            let _ = fs::remove_file(self.socket());
        }
    }
}

/// The states of a process's children.
pub(crate) fn children(pid: i32) -> String {
    let read = |path: String| fs::read_to_string(path).unwrap_or_default();
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = threads.map(|thread| read(format!("{}/children", thread.path().display())));
    let children: Vec<_> =
        lists.flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect();
    let state = |pid: &String| {
        read(format!("/proc/{pid}/stat"))
            .rsplit_once(") ")
            .map_or(' ', |(_, rest)| rest.chars().next().unwrap_or(' '))
    };
    children.iter().map(state).collect()
}

/// A new connection.
#[track_caller]
pub(crate) fn connect(address: &str) -> TaskClient {
    TaskClient::new(Client::connect(address).unwrap_or_else(|e| panic!("{address}: {e}")))
}
