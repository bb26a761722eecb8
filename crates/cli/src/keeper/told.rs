//! The report of a keeper: a line for each step, with its reason.

use std::time::SystemTime;

use hiber::id::ContainerId;
use serde_json::{Map, Value};

use crate::line::value::Format;
use crate::output::out;

/// Tells steps on standard output.
#[derive(Debug)]
pub(crate) struct Told {
    id: ContainerId,
    format: Format,
}

impl Told {
    pub(crate) fn new(id: &ContainerId, format: Format) -> Self {
        Self { id: id.clone(), format }
    }

    /// A step: its name, what people read, and what programs read. A reader that is gone changes nothing.
    pub(crate) fn step(&self, kind: &str, text: &str, data: Value) {
        let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        let line = match self.format {
            Format::Table => format!("{time} {}: {text}\n", self.id),
            Format::Json => {
                let mut all = Map::new();
                all.insert("time".into(), time.into());
                all.insert("id".into(), self.id.as_str().into());
                all.insert("type".into(), kind.into());
                if let Value::Object(data) = data {
                    all.extend(data);
                }
                Value::Object(all).to_string() + "\n"
            }
        };
        let _ = out::write(&line);
    }
}

/// Tells a service manager of the keeper's state (sd_notify(3)).
pub(crate) fn service(state: &str) {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let Some(place) = crate::process::notify::host() else { return };
    let address = match place.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&place),
    };
    let sent = UnixDatagram::unbound().and_then(|socket| socket.send_to_addr(state.as_bytes(), &address?));
    if let Err(e) = sent {
        tracing::debug!("NOTIFY_SOCKET={place}: {e}");
    }
}
