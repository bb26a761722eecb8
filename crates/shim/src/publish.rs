//! Events on their way to containerd: in order, and again where it was away.

use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use containerd_shim_protos::api::ForwardRequest;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField, MessageFull};
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::ttrpc::{self, context};
use containerd_shim_protos::{Client, EventsClient};

use crate::error::{Context, Result};

/// How many events wait for a containerd that is away; more are lost.
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

/// The sending side.
#[derive(Debug)]
pub(crate) struct Publisher {
    namespace: String,
    /// None after the end.
    queue: Mutex<Option<SyncSender<Envelope>>>,
    /// Disconnected when all is sent, or given up.
    done: Mutex<Receiver<()>>,
}

impl Publisher {
    /// Starts the thread that sends.
    pub(crate) fn start(namespace: &str, destination: Destination) -> Result<Self> {
        let (queue, events) = sync_channel(QUEUE);
        let (alive, done) = sync_channel(0);
        let thread = std::thread::Builder::new().name("publish".into());
        let run = move || {
            send_all(&events, &destination);
            drop(alive);
        };
        thread.spawn(run).context("start the thread that publishes")?;
        Ok(Self { namespace: namespace.into(), queue: Mutex::new(Some(queue)), done: Mutex::new(done) })
    }

    /// Queues an event. It never waits: the service does not depend on containerd's being there.
    pub(crate) fn send<M: MessageFull>(&self, topic: &str, event: &M) {
        let envelope = to_any(event).map(|event| Envelope {
            timestamp: MessageField::some(SystemTime::now().into()),
            namespace: self.namespace.clone(),
            topic: topic.into(),
            event: MessageField::some(event),
            ..Envelope::default()
        });
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let why = match (envelope, &*queue) {
            (Err(e), _) => e.to_string(),
            (Ok(envelope), Some(queue)) => match queue.try_send(envelope) {
                Ok(()) => return,
                Err(TrySendError::Full(_)) => format!("{QUEUE} others wait for containerd"),
                Err(TrySendError::Disconnected(_)) => "nobody publishes any more".into(),
            },
            (Ok(_), None) => "the shim ends".into(),
        };
        tracing::error!("the event {topic} is lost: {why}");
    }

    /// Waits until what is queued is sent, but not for ever.
    pub(crate) fn finish(&self) {
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
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

fn send_all(events: &Receiver<Envelope>, destination: &Destination) {
    while let Ok(first) = events.recv() {
        // The client polls its socket a hundred times a second for as long as it lives.
        let mut client = None;
        for event in std::iter::once(first).chain(events.try_iter()) {
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
    let status = child.wait()?;
    if status.success() {
        written
    } else {
        Err(std::io::Error::other(format!("{}: {status}", program.display())))
    }
}
