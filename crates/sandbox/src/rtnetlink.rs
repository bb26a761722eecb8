//! rtnetlink(7): requests to the kernel about the network devices, addresses and routes of a network namespace.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage as Message;
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::plan::NamespaceKind;
use crate::{Error, Result, SysError};
use hiber_sys::process::setns;

/// Length, type, flags, sequence number and port.
const NETLINK_HEADER: usize = 16;
/// linux/netlink.h
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// The network namespace of a process.
pub(crate) fn namespace_of(pid: i32) -> Result<OwnedFd> {
    namespace_at(format!("/proc/{pid}/ns/net").as_ref())
}

/// The network namespace of this file.
pub(crate) fn namespace_at(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| SysError::new("open", path.display().to_string(), e.raw_os_error()).into())
}

/// Does `work` in another network namespace: in a thread that joins it and ends.
pub(crate) fn inside<T: Send>(namespace: &OwnedFd, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let joined = || {
        let flag = NamespaceKind::Network.clone_flag();
        setns(namespace.as_fd(), flag, "into the container's network namespace")?;
        work()
    };
    std::thread::scope(|scope| scope.spawn(joined).join())
        .unwrap_or_else(|_| Err(SysError::new("setns", "in a thread that died", libc::ESRCH).into()))
}

/// A netlink socket, mostly of rtnetlink.
pub(crate) struct Route(OwnedFd);

impl Route {
    pub(crate) fn open() -> Result<Self> {
        Self::with(None)
    }

    /// A socket of another netlink protocol, for [`raw`](Self::raw) requests.
    pub(crate) fn of(protocol: rustix::net::Protocol) -> Result<Self> {
        Self::with(Some(protocol))
    }

    /// The protocol that is 0 is NETLINK_ROUTE.
    fn with(protocol: Option<rustix::net::Protocol>) -> Result<Self> {
        rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)
            .map(Self)
            .map_err(|e| SysError::new("socket", "netlink", e.raw_os_error()).into())
    }

    /// Sends a request and collects its answers up to the acknowledgement or the end of the dump.
    pub(crate) fn request(&self, message: Message, flags: u16) -> Result<Vec<Message>> {
        let mut header = NetlinkHeader::default();
        let ends = if flags & NLM_F_DUMP == NLM_F_DUMP { 0 } else { NLM_F_ACK };
        header.flags = NLM_F_REQUEST | ends | flags;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        let failed = |call: &str, e: rustix::io::Errno| SysError::new(call, "rtnetlink", e.raw_os_error());
        rustix::net::send(&self.0, &bytes, SendFlags::empty()).map_err(|e| failed("send", e))?;
        let mut answers = Vec::new();
        let mut buffer = vec![0u8; 1 << 16];
        loop {
            let (length, _) = rustix::net::recv(&self.0, &mut buffer[..], RecvFlags::empty())
                .map_err(|e| failed("recv", e))?;
            if collect(&buffer[..length], &mut answers)? {
                return Ok(answers);
            }
        }
    }

    /// Whether a dump with this type and body has any answer, for types that [`Message`] lacks. A kernel that does not know the
    /// type has none.
    pub(crate) fn has_any(&self, kind: u16, body: &[u8]) -> Result<bool> {
        Ok(!self.dump(kind, body)?.is_empty())
    }

    /// The answers to a dump, each without its header. A kernel that does not know the type gives none.
    pub(crate) fn dump(&self, kind: u16, body: &[u8]) -> Result<Vec<Vec<u8>>> {
        match self.raw(kind, NLM_F_DUMP, body) {
            Err(e) if matches!(e.errno(), Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT | libc::EINVAL)) => {
                Ok(Vec::new())
            }
            answers => answers,
        }
    }

    /// Sends a request as bytes, without its header, and collects its answers, without theirs, up to the acknowledgement or
    /// the end of the dump.
    pub(crate) fn raw(&self, kind: u16, flags: u16, body: &[u8]) -> Result<Vec<Vec<u8>>> {
        let length = NETLINK_HEADER + body.len();
        let failed = |call: &str, e: rustix::io::Errno| SysError::new(call, "rtnetlink", e.raw_os_error());
        let ends = if flags & NLM_F_DUMP == NLM_F_DUMP { 0 } else { NLM_F_ACK };
        let mut request = Vec::with_capacity(length);
        request.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
        request.extend(kind.to_ne_bytes());
        request.extend((NLM_F_REQUEST | ends | flags).to_ne_bytes());
        request.extend([0; 8]);
        request.extend(body);
        rustix::net::send(&self.0, &request, SendFlags::empty()).map_err(|e| failed("send", e))?;
        let mut buffer = vec![0u8; 1 << 16];
        let mut answers = Vec::new();
        loop {
            let (length, _) = rustix::net::recv(&self.0, &mut buffer[..], RecvFlags::empty())
                .map_err(|e| failed("recv", e))?;
            let mut rest = &buffer[..length];
            while let [a, b, c, d, e, f, ..] = *rest {
                let length = u32::from_ne_bytes([a, b, c, d]) as usize;
                let body = rest.get(NETLINK_HEADER..length).unwrap_or_default();
                // These messages begin with the error number, or with the result of the dump (netlink(7)).
                let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                match u16::from_ne_bytes([e, f]) {
                    NLMSG_ERROR | NLMSG_DONE if code == 0 => return Ok(answers),
                    NLMSG_ERROR | NLMSG_DONE => {
                        return Err(SysError::new("rtnetlink", "request", -code).into());
                    }
                    _ => answers.push(body.to_vec()),
                }
                rest = rest.get(length.next_multiple_of(4).max(NETLINK_HEADER)..).unwrap_or_default();
            }
        }
    }
}

/// A message of a [`Route::batch`], without its header.
pub(crate) struct BatchMessage {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) body: Vec<u8>,
}

/// linux/netfilter/nfnetlink.h
const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;

impl Route {
    /// Sends messages of which the kernel carries out all or none, in a netlink protocol that has such batches.
    pub(crate) fn batch(&self, subsystem: u16, messages: &[BatchMessage]) -> Result<()> {
        let failed =
            |call: &str, e: rustix::io::Errno| SysError::new(call, "a batch of netlink", e.raw_os_error());
        let mut packet = Vec::new();
        let mut add = |kind: u16, flags: u16, number: u32, body: &[u8]| {
            let length = NETLINK_HEADER + body.len();
            packet.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
            packet.extend(kind.to_ne_bytes());
            packet.extend((NLM_F_REQUEST | flags).to_ne_bytes());
            packet.extend(number.to_ne_bytes());
            packet.extend([0; 4]);
            packet.extend(body);
            packet.resize(packet.len().next_multiple_of(4), 0);
        };
        let [high, low] = subsystem.to_be_bytes();
        add(NFNL_MSG_BATCH_BEGIN, 0, 0, &[0, 0, high, low]);
        let last = u32::try_from(messages.len()).unwrap_or(u32::MAX);
        for (number, message) in (1..).zip(messages) {
            let acknowledged = if number == last { NLM_F_ACK } else { 0 };
            add(message.kind, message.flags | acknowledged, number, &message.body);
        }
        add(NFNL_MSG_BATCH_END, 0, last.saturating_add(1), &[0, 0, high, low]);
        // More than a socket sends at once without this, for which CAP_NET_ADMIN is needed.
        rustix::net::sockopt::set_socket_send_buffer_size_force(&self.0, packet.len() * 2)
            .map_err(|e| failed("setsockopt", e))?;
        rustix::net::send(&self.0, &packet, SendFlags::empty()).map_err(|e| failed("send", e))?;
        let mut buffer = vec![0u8; 1 << 16];
        loop {
            let (length, _) = rustix::net::recv(&self.0, &mut buffer[..], RecvFlags::empty())
                .map_err(|e| failed("recv", e))?;
            // The error number, and the request's header, whose number is at 8 (netlink(7)).
            let answer = &buffer[NETLINK_HEADER.min(length)..length];
            let word = |at: usize| answer.get(at..)?.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes));
            match (word(0), word(4 + 8)) {
                (Some(0), Some(number)) if number.cast_unsigned() == last => return Ok(()),
                (Some(0), _) => {}
                (Some(code), number) => {
                    let what = format!("message {} of a batch of {last}", number.unwrap_or_default());
                    return Err(SysError::new("netlink", what, -code).into());
                }
                (None, _) => return Err(SysError::new("recv", "an answer that is none", libc::EPROTO).into()),
            }
        }
    }
}

/// Takes the messages of one packet; true when the answer is complete.
fn collect(packet: &[u8], answers: &mut Vec<Message>) -> Result<bool> {
    let mut rest = packet;
    while !rest.is_empty() {
        let message = NetlinkMessage::<Message>::deserialize(rest).map_err(|e| {
            Error::from(SysError::new(
                "recv",
                format!("an rtnetlink message that is none ({e})"),
                libc::EPROTO,
            ))
        })?;
        // Messages are padded to 4 bytes (netlink(7)).
        let length = (message.header.length as usize).next_multiple_of(4).max(16);
        match message.payload {
            NetlinkPayload::InnerMessage(inner) => answers.push(inner),
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(e) => {
                return match e.raw_code() {
                    0 => Ok(true),
                    code => Err(SysError::new("rtnetlink", "request", -code).into()),
                };
            }
            _ => {}
        }
        rest = rest.get(length..).unwrap_or_default();
    }
    Ok(false)
}
