//! A connection to a systemd manager: to its private socket if this process may use it, otherwise over the message bus.

use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::marshal::{Kind, Malformed, Message, PROLOGUE, Value};
use crate::error::{Error, plain};

/// The time limit for an answer, and for the end of a job. Other clients of systemd wait as long for a job.
const PATIENCE: Duration = Duration::from_secs(30);

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const BUS: &str = "org.freedesktop.DBus";

/// The failure of a call.
#[derive(Debug, thiserror::Error)]
pub(super) enum BusError {
    /// systemd's own words.
    #[error("{message}")]
    Refused {
        /// `org.freedesktop.systemd1.NoSuchUnit`
        name: String,
        message: String,
    },
    #[error("no connection to systemd ({0})")]
    Connect(String),
    #[error("the connection to {peer} failed: {why}")]
    Lost { peer: String, why: String },
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("no answer from {peer} within {} s", PATIENCE.as_secs())]
    Late { peer: String },
    #[error("the answer to {0} is not what is expected")]
    Unexpected(String),
}

impl BusError {
    /// Whether systemd's answer is the error `name` of its own: `NoSuchUnit`.
    pub(super) fn is(&self, name: &str) -> bool {
        matches!(self, Self::Refused { name: full, .. } if full.strip_prefix(SYSTEMD) == Some(&format!(".{name}")))
    }

    /// Converts the failure into the crate's error, about `what`.
    pub(super) fn about(self, what: impl Into<String>) -> Error {
        Error::Systemd { what: what.into(), why: self.to_string() }
    }
}

type Result<T> = std::result::Result<T, BusError>;

/// One manager's socket.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Address {
    place: Place,
    /// Whether a message bus is between us and systemd.
    brokered: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    File(PathBuf),
    Abstract(Vec<u8>),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.place {
            Place::File(path) => write!(f, "{}", path.display()),
            Place::Abstract(name) => write!(f, "@{}", String::from_utf8_lossy(name)),
        }
    }
}

/// The sockets of the system's manager.
fn system() -> Vec<Address> {
    let file = |path: &str, brokered| Address { place: Place::File(path.into()), brokered };
    let mut addresses = vec![file("/run/systemd/private", false)];
    match std::env::var("DBUS_SYSTEM_BUS_ADDRESS") {
        Ok(text) => addresses.extend(bus_addresses(&text)),
        Err(_) => addresses.push(file("/run/dbus/system_bus_socket", true)),
    }
    addresses
}

/// The sockets of the user's manager.
fn user() -> Vec<Address> {
    let directory = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(
        || PathBuf::from(format!("/run/user/{}", rustix::process::geteuid().as_raw())),
        PathBuf::from,
    );
    let file = |name: &str, brokered| Address { place: Place::File(directory.join(name)), brokered };
    let mut addresses = vec![file("systemd/private", false)];
    if let Ok(text) = std::env::var("DBUS_SESSION_BUS_ADDRESS") {
        addresses.extend(bus_addresses(&text));
    }
    addresses.push(file("bus", true));
    addresses
}

/// The unix sockets of a list of addresses (D-Bus specification, "Server Addresses").
fn bus_addresses(text: &str) -> Vec<Address> {
    let one = |address: &str| {
        let place =
            address.strip_prefix("unix:")?.split(',').find_map(|pair| match pair.split_once('=')? {
                ("path", value) => {
                    use std::os::unix::ffi::OsStringExt;
                    Some(Place::File(std::ffi::OsString::from_vec(unescape(value)?).into()))
                }
                ("abstract", value) => Some(Place::Abstract(unescape(value)?)),
                _ => None,
            })?;
        Some(Address { place, brokered: true })
    };
    text.split(';').filter_map(one).collect()
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut plain = Vec::new();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            plain.push(byte);
            continue;
        }
        let digits = [bytes.next()?, bytes.next()?];
        plain.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
    }
    Some(plain)
}

/// A connection to a manager.
#[derive(Debug)]
pub(super) struct Bus {
    stream: UnixStream,
    peer: String,
    serial: u32,
    /// Jobs that have ended: path and result.
    ended: Vec<(String, String)>,
}

impl Bus {
    /// Connects to the system's manager, or to the user's.
    ///
    /// # Errors
    /// If no socket answers, with the list of sockets.
    pub(super) fn connect(of_user: bool) -> Result<Self> {
        let mut tried = Vec::new();
        for address in if of_user { user() } else { system() } {
            match Self::open(&address) {
                Ok(bus) => return Ok(bus),
                Err(e) => tried.push(e.to_string()),
            }
        }
        Err(BusError::Connect(tried.join("; ")))
    }

    fn open(address: &Address) -> Result<Self> {
        let peer = address.to_string();
        let failed = |e: std::io::Error| BusError::Lost { peer: peer.clone(), why: plain(&e) };
        let stream = match &address.place {
            Place::File(path) => UnixStream::connect(path),
            Place::Abstract(name) => {
                SocketAddr::from_abstract_name(name).and_then(|a| UnixStream::connect_addr(&a))
            }
        }
        .map_err(failed)?;
        let mut bus = Self { stream, peer: peer.clone(), serial: 0, ended: Vec::new() };
        bus.authenticate()?;
        if address.brokered {
            bus.bus_call("Hello", vec![])?;
            let rule =
                format!("type='signal',interface='{MANAGER}',member='JobRemoved',path='{MANAGER_PATH}'");
            bus.bus_call("AddMatch", vec![Value::str(rule)])?;
            bus.call("Subscribe", vec![])?;
        }
        Ok(bus)
    }

    /// Authenticates by SASL's EXTERNAL without naming an identity, so that the socket's credentials count: our user id may be
    /// another number outside of our user namespace.
    fn authenticate(&mut self) -> Result<()> {
        self.send(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")?;
        let deadline = Instant::now() + PATIENCE;
        for expected in ["DATA", "OK"] {
            let line = self.line(deadline)?;
            if line.split(' ').next() != Some(expected) {
                let why = format!("it answers {line:?} to our credentials");
                return Err(BusError::Lost { peer: self.peer.clone(), why });
            }
        }
        Ok(())
    }

    fn line(&mut self, deadline: Instant) -> Result<String> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") && line.len() < 1024 {
            let mut byte = [0];
            self.receive(&mut byte, deadline)?;
            line.push(byte[0]);
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let sent = self.stream.set_write_timeout(Some(PATIENCE)).and_then(|()| self.stream.write_all(bytes));
        sent.map_err(|e| BusError::Lost { peer: self.peer.clone(), why: plain(&e) })
    }

    /// Fills `buffer`.
    fn receive(&mut self, buffer: &mut [u8], deadline: Instant) -> Result<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            let late = || BusError::Late { peer: self.peer.clone() };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(late());
            }
            let read = self
                .stream
                .set_read_timeout(Some(left))
                .and_then(|()| self.stream.read(&mut buffer[filled..]));
            match read {
                Ok(0) => {
                    return Err(BusError::Lost { peer: self.peer.clone(), why: "it was closed".to_owned() });
                }
                Ok(count) => filled += count,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return Err(late()),
                Err(e) => return Err(BusError::Lost { peer: self.peer.clone(), why: plain(&e) }),
            }
        }
        Ok(())
    }

    /// The next message. Records the end of a job.
    fn next(&mut self, deadline: Instant) -> Result<Message> {
        let mut prologue = [0; PROLOGUE];
        self.receive(&mut prologue, deadline)?;
        let mut bytes = prologue.to_vec();
        bytes.resize(PROLOGUE + Message::rest(&prologue)?, 0);
        self.receive(&mut bytes[PROLOGUE..], deadline)?;
        let message = Message::decode(&bytes)?;
        if message.kind == Kind::Signal && message.member == "JobRemoved" && message.interface == MANAGER {
            // JobRemoved(id, job, unit, result)
            if let [_, job, _, result] = message.body.as_slice()
                && let (Some(job), Some(result)) = (job.as_str(), result.as_str())
            {
                self.ended.push((job.to_owned(), result.to_owned()));
            }
        }
        Ok(message)
    }

    fn exchange(&mut self, mut message: Message) -> Result<Vec<Value>> {
        self.serial += 1;
        message.serial = self.serial;
        self.send(&message.encode())?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.next(deadline)?;
            if answer.reply_to != self.serial {
                continue;
            }
            match answer.kind {
                Kind::Return => return Ok(answer.body),
                Kind::Error => {
                    let words = answer.body.first().and_then(Value::as_str);
                    let message = words.filter(|w| !w.is_empty()).unwrap_or(&answer.error).to_owned();
                    return Err(BusError::Refused { name: answer.error, message });
                }
                _ => {}
            }
        }
    }

    fn bus_call(&mut self, member: &str, body: Vec<Value>) -> Result<Vec<Value>> {
        self.exchange(Message::call(BUS, "/org/freedesktop/DBus", BUS, member, body))
    }

    /// Calls a method of the manager (org.freedesktop.systemd1(5)).
    pub(super) fn call(&mut self, member: &str, body: Vec<Value>) -> Result<Vec<Value>> {
        self.exchange(Message::call(SYSTEMD, MANAGER_PATH, MANAGER, member, body))
    }

    /// Calls a method that queues a job, waits until that has ended, and returns its result: `done`, `failed`, ….
    pub(super) fn job(&mut self, member: &str, body: Vec<Value>) -> Result<String> {
        let answer = self.call(member, body)?;
        let Some(job) = answer.first().and_then(Value::as_str) else {
            return Err(BusError::Unexpected(member.into()));
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some((_, result)) = self.ended.iter().find(|(ended, _)| ended == job) {
                return Ok(result.clone());
            }
            self.next(deadline)?;
        }
    }

    /// A property of the manager that is a string.
    pub(super) fn manager_property(&mut self, name: &str) -> Result<String> {
        let arguments = vec![Value::str(MANAGER), Value::str(name)];
        let interface = "org.freedesktop.DBus.Properties";
        let answer = self.exchange(Message::call(SYSTEMD, MANAGER_PATH, interface, "Get", arguments))?;
        let text = answer.first().and_then(Value::as_str);
        text.map(str::to_owned).ok_or_else(|| BusError::Unexpected(format!("Get of {name}")))
    }
}

/// Whether systemd runs the host (sd_booted(3)).
pub(super) fn is_booted() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let places = |text| bus_addresses(text).into_iter().map(|a| a.to_string()).collect::<Vec<_>>();
        assert_eq!(places("unix:path=/run/user/1000/bus"), ["/run/user/1000/bus"]);
        assert_eq!(places("unix:path=/a%20b,guid=12;unix:abstract=/tmp/x;tcp:host=h"), ["/a b", "@/tmp/x"]);
        assert_eq!(places("unix:guid=1"), [""; 0]);
        assert_eq!(places("unix:path=%g0"), [""; 0]);
    }

    /// A fake manager that sends given bytes as soon as its client has sent enough.
    fn answering(answers: Vec<u8>) -> Bus {
        let (stream, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&answers).unwrap();
        drop(theirs.shutdown(std::net::Shutdown::Write));
        // kept open, so that writes succeed
        std::mem::forget(theirs);
        Bus { stream, peer: "the test".into(), serial: 0, ended: Vec::new() }
    }

    fn message(kind: Kind, reply_to: u32, member: &str, body: Vec<Value>) -> Vec<u8> {
        let error = if kind == Kind::Error { "org.freedesktop.systemd1.UnitExists" } else { "" };
        let call = Message::call("", MANAGER_PATH, MANAGER, member, body);
        Message { kind, serial: 5, reply_to, error: error.into(), ..call }.encode()
    }

    fn removed(job: &str, result: &str) -> Vec<u8> {
        let body =
            vec![Value::U32(1), Value::ObjectPath(job.into()), Value::str("x.scope"), Value::str(result)];
        message(Kind::Signal, 0, "JobRemoved", body)
    }

    #[test]
    fn a_job_that_ends_before_its_name_is_told() {
        let started = message(Kind::Return, 1, "", vec![Value::ObjectPath("/job/2".into())]);
        let answers = [removed("/job/1", "failed"), removed("/job/2", "done"), started].concat();
        assert_eq!(answering(answers).job("StartTransientUnit", vec![]).unwrap(), "done");
    }

    #[test]
    fn errors_say_who_and_what() {
        let refused = message(Kind::Error, 1, "", vec![Value::str("Unit x.scope already exists.")]);
        let error = answering(refused).call("StartTransientUnit", vec![]).unwrap_err();
        assert!(error.is("UnitExists") && !error.is("NoSuchUnit"));
        assert_eq!(error.to_string(), "Unit x.scope already exists.");
        let error = answering(Vec::new()).call("StopUnit", vec![]).unwrap_err().about("x.scope");
        assert_eq!(error.to_string(), "systemd: x.scope: the connection to the test failed: it was closed");
        let error = answering(b"REJECTED EXTERNAL\r\n".to_vec()).authenticate().unwrap_err();
        assert!(error.to_string().contains(r#"answers "REJECTED EXTERNAL""#), "{error}");
        let error = answering(vec![0; 64]).call("StopUnit", vec![]).unwrap_err();
        assert!(error.to_string().starts_with("malformed D-Bus message"), "{error}");
    }
}
