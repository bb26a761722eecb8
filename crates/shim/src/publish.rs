//! Events on their way to containerd: in order, and again where it was away.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use containerd_shim_protos::api::ForwardRequest;
use containerd_shim_protos::events::task::{TaskExit, TaskOOM};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField, MessageFull};
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::ttrpc::{self, context};
use containerd_shim_protos::{Client, EventsClient, topics};
use hiber_sys::poll::readable_within;
use rustix::process::{Pid, PidfdFlags};

use crate::error::{Context, Result};

/// How many events wait for a containerd that is away, beside those that have a bound of their own; more are lost.
const QUEUE: usize = 2048;
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often an event is offered that containerd refuses.
const ATTEMPTS: u32 = 5;

/// Where events go.
#[derive(Debug, Clone)]
pub(crate) enum Destination {
    /// containerd's event service: the path or address of its ttrpc socket.
    Ttrpc(String),
    /// A program with containerd's command `publish`, and containerd's gRPC address.
    Program(PathBuf, String),
}

/// The events to send, in order.
#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<Waiting>,
    /// How many of them are neither exits nor notices of OOM.
    others: usize,
    /// The containers that have a notice of OOM among them.
    oom: HashSet<String>,
    closed: bool,
}

#[derive(Debug)]
struct Waiting {
    event: Envelope,
    kind: Kind,
}

/// The group of an event, whose number is limited.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    /// The processes that there were: none is lost.
    Exit,
    /// The containers: one notice of each waits, and says what a later one would.
    Oom(String),
    /// [`QUEUE`].
    Other,
}

impl Queue {
    fn push(&mut self, event: Envelope, kind: Kind) -> Result<(), &'static str> {
        match &kind {
            _ if self.closed => return Err("the shim ends"),
            Kind::Oom(container) if !self.oom.insert(container.clone()) => return Ok(()),
            Kind::Other if self.others >= QUEUE => return Err("too many others wait for containerd"),
            Kind::Other => self.others += 1,
            Kind::Exit | Kind::Oom(_) => {}
        }
        self.events.push_back(Waiting { event, kind });
        Ok(())
    }

    fn pop(&mut self) -> Option<Envelope> {
        let Waiting { event, kind } = self.events.pop_front()?;
        match kind {
            Kind::Exit => {}
            Kind::Oom(container) => drop(self.oom.remove(&container)),
            Kind::Other => self.others -= 1,
        }
        Some(event)
    }
}

/// The queue, and who waits for it.
#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next event, for which it waits; none after the end.
    fn next(&self) -> Option<Envelope> {
        let waits = |queue: &mut Queue| queue.events.is_empty() && !queue.closed;
        self.changed.wait_while(self.lock(), waits).unwrap_or_else(PoisonError::into_inner).pop()
    }
}

/// The sending side.
#[derive(Debug)]
pub(crate) struct Publisher {
    namespace: String,
    shared: Arc<Shared>,
    /// Disconnected when all is sent, or given up.
    done: Mutex<Receiver<()>>,
}

impl Publisher {
    /// Starts the thread that sends.
    pub(crate) fn start(namespace: &str, destination: Destination) -> Result<Self> {
        let shared = Arc::<Shared>::default();
        let (alive, done) = sync_channel(0);
        let thread = std::thread::Builder::new().name("publish".into());
        let events = Arc::clone(&shared);
        let run = move || {
            send_all(&events, &destination);
            drop(alive);
        };
        thread.spawn(run).context("start the thread that publishes")?;
        Ok(Self { namespace: namespace.into(), shared, done: Mutex::new(done) })
    }

    /// Queues an event. It never waits: the service does not depend on containerd's being there.
    pub(crate) fn send<M: MessageFull>(&self, topic: &str, event: &M) {
        self.queue(topic, event, Kind::Other);
    }

    /// Queues the end of a process.
    pub(crate) fn send_exit(&self, event: &TaskExit) {
        self.queue(topics::TASK_EXIT_EVENT_TOPIC, event, Kind::Exit);
    }

    /// Queues a notice that memory ran out.
    pub(crate) fn send_oom(&self, event: &TaskOOM) {
        self.queue(topics::TASK_OOM_EVENT_TOPIC, event, Kind::Oom(event.container_id.clone()));
    }

    fn queue<M: MessageFull>(&self, topic: &str, event: &M, kind: Kind) {
        let envelope = to_any(event).map(|event| Envelope {
            timestamp: MessageField::some(SystemTime::now().into()),
            namespace: self.namespace.clone(),
            topic: topic.into(),
            event: MessageField::some(event),
            ..Envelope::default()
        });
        let queued = match envelope {
            Ok(envelope) => self.shared.lock().push(envelope, kind).map_err(str::to_owned),
            Err(e) => Err(e.to_string()),
        };
        match queued {
            Ok(()) => self.shared.changed.notify_all(),
            Err(why) => tracing::error!("the event {topic} is lost: {why}"),
        }
    }

    /// Waits until what is queued is sent, but not for ever.
    pub(crate) fn finish(&self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        if done.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            tracing::error!("events are lost: containerd does not take them");
        }
    }
}

/// A message with its name, as containerd's typeurl has it: without the usual host.
pub(crate) fn to_any<M: MessageFull>(message: &M) -> containerd_shim_protos::protobuf::Result<Any> {
    let value = message.write_to_bytes()?;
    Ok(Any { type_url: M::descriptor().full_name().into(), value, ..Any::default() })
}

fn send_all(events: &Shared, destination: &Destination) {
    while let Some(first) = events.next() {
        // The client polls its socket a hundred times a second for as long as it lives.
        let mut client = None;
        let more = std::iter::from_fn(|| events.lock().pop());
        for event in std::iter::once(first).chain(more) {
            send(&event, destination, &mut client);
        }
    }
}

/// Sends one event. As long as containerd cannot be reached it is tried again; what it refuses is given up.
fn send(event: &Envelope, destination: &Destination, client: &mut Option<EventsClient>) {
    let (mut refused, began, mut pause) = (0, Instant::now(), Duration::from_millis(100));
    loop {
        let problem = match destination {
            Destination::Ttrpc(address) => match forward(event, address, client) {
                Ok(()) => return,
                Err(e) => {
                    refused += u32::from(matches!(e, ttrpc::Error::RpcStatus(_)));
                    *client = None;
                    e.to_string()
                }
            },
            Destination::Program(program, address) => match run(event, program, address) {
                Ok(()) => return,
                Err(e) => {
                    refused += 1;
                    e.to_string()
                }
            },
        };
        if refused >= ATTEMPTS {
            tracing::error!("the event {} is lost: {problem}", event.topic);
            return;
        }
        tracing::debug!("the event {} waits for {:?}: {problem}", event.topic, began.elapsed());
        std::thread::sleep(pause);
        pause = (pause * 2).min(PATIENCE);
    }
}

fn forward(event: &Envelope, address: &str, client: &mut Option<EventsClient>) -> ttrpc::Result<()> {
    let client = match client {
        Some(client) => client,
        None => {
            let url = if address.contains("://") { address.to_owned() } else { format!("unix://{address}") };
            client.insert(EventsClient::new(Client::connect(&url)?))
        }
    };
    let request = ForwardRequest { envelope: MessageField::some(event.clone()), ..ForwardRequest::default() };
    let metadata = HashMap::from([("containerd-namespace-ttrpc".to_owned(), vec![event.namespace.clone()])]);
    let mut context = context::with_duration(PATIENCE);
    context.metadata = metadata;
    client.forward(context, &request).map(drop)
}

fn run(event: &Envelope, program: &PathBuf, address: &str) -> std::io::Result<()> {
    let mut child = Command::new(program)
        .args(["--address", address, "publish", "--topic", &event.topic, "--namespace", &event.namespace])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let bytes = event.event.write_to_bytes().map_err(std::io::Error::other)?;
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(&bytes));
    let pidfd = rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
    if !readable_within(&pidfd, PATIENCE)? {
        child.kill()?;
    }
    let status = child.wait()?;
    if status.success() {
        written
    } else {
        Err(std::io::Error::other(format!("{}: {status}", program.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_notices_nor_others_push_exits_out() {
        let mut queue = Queue::default();
        let event = |topic: &str| Envelope { topic: topic.into(), ..Envelope::default() };
        for number in 0..3 * QUEUE {
            let _ = queue.push(event("other"), Kind::Other);
            queue.push(event("oom"), Kind::Oom(format!("c{}", number % 2))).unwrap();
        }
        assert!(queue.push(event("other"), Kind::Other).unwrap_err().contains("too many"));
        (0..2 * QUEUE).for_each(|_| queue.push(event("exit"), Kind::Exit).unwrap());
        let all: Vec<_> = std::iter::from_fn(|| queue.pop()).map(|event| event.topic).collect();
        let count = |topic: &str| all.iter().filter(|t| *t == topic).count();
        assert_eq!((count("other"), count("oom"), count("exit")), (QUEUE, 2, 2 * QUEUE));
        // the place of what was taken is free again
        queue.push(event("other"), Kind::Other).unwrap();
        queue.push(event("oom"), Kind::Oom("c0".into())).unwrap();
        assert_eq!(queue.events.len(), 2);
    }

    #[test]
    fn a_program_that_does_not_end_holds_events_up_for_a_while_alone() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("publish");
        std::fs::write(&program, "#!/bin/sh\nexec sleep 100\n").unwrap();
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let began = Instant::now();
        let error = run(&Envelope::default(), &program, "").unwrap_err().to_string();
        assert!(error.contains("signal: 9"), "{error}");
        assert!((PATIENCE..3 * PATIENCE).contains(&began.elapsed()));
    }
}
