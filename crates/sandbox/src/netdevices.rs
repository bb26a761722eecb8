//! `linux.netDevices`: network devices of the host that move into the container, by rtnetlink(7).
//!
//! A device that moves keeps its hardware address and MTU; the kernel takes its IP addresses, so those are read before
//! and set again afterwards.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::error::Context;
use crate::plan::{NamespaceKind, NetDevice};
use crate::sys::process::setns;
use crate::{Error, Result, SysError};

/// Moves the devices into the network namespace of process `pid`, with their names there, addresses and set up.
pub(crate) fn move_all(devices: &[NetDevice], pid: i32) -> Result<()> {
    let path = format!("/proc/{pid}/ns/net");
    let namespace = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| SysError::new("open", path, e.raw_os_error()))?;
    let here = Route::open()?;
    let there = open_in(&namespace)?;
    for device in devices {
        move_one(&here, &there, &namespace, device)
            .context(format!("move network device {} into the container (linux.netDevices)", device.name))?;
    }
    Ok(())
}

fn move_one(here: &Route, there: &Route, namespace: &OwnedFd, device: &NetDevice) -> Result<()> {
    let index = here.index_of(&device.name)?;
    let addresses = here.addresses(index)?;
    here.set_up(index, false).context("set it down")?;
    // Name and namespace change at once, so that a device of that name on the host is not in the way.
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes.push(LinkAttribute::IfName(device.name_in_container.clone()));
    link.attributes.push(LinkAttribute::NetNsFd(namespace.as_fd().as_raw_fd()));
    here.request(Message::SetLink(link), 0)?;
    let index = there.index_of(&device.name_in_container)?;
    for address in addresses {
        there.add_address(index, address)?;
    }
    there.set_up(index, true).context("set it up")
}

/// A socket in another network namespace: made by a thread that joins it and ends.
fn open_in(namespace: &OwnedFd) -> Result<Route> {
    let open = || {
        setns(
            namespace.as_fd(),
            NamespaceKind::Network.clone_flag(),
            "into the container's network namespace",
        )?;
        Route::open()
    };
    std::thread::scope(|scope| scope.spawn(open).join())
        .unwrap_or_else(|_| Err(SysError::new("setns", "in a thread that died", libc::ESRCH).into()))
}

/// An rtnetlink socket.
struct Route(OwnedFd);

impl Route {
    fn open() -> Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        // The protocol that is 0 is NETLINK_ROUTE.
        rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)
            .map(Self)
            .map_err(|e| SysError::new("socket", "NETLINK_ROUTE", e.raw_os_error()).into())
    }

    /// Sends a request and collects its answers up to the acknowledgement or the end of the dump.
    fn request(&self, message: Message, flags: u16) -> Result<Vec<Message>> {
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

    fn index_of(&self, name: &str) -> Result<u32> {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName(name.into()));
        let answers = self
            .request(Message::GetLink(link), 0)
            .context(format!("link not found for interface {name} on runtime namespace"))?;
        let index = answers.into_iter().find_map(|answer| match answer {
            Message::NewLink(link) => Some(link.header.index),
            _ => None,
        });
        index.ok_or_else(|| SysError::new("recv", format!("RTM_GETLINK of {name}"), libc::ENODEV).into())
    }

    /// The device's addresses that mean something elsewhere: permanent ones of global scope.
    fn addresses(&self, index: u32) -> Result<Vec<AddressMessage>> {
        let answers = self
            .request(Message::GetAddress(AddressMessage::default()), NLM_F_DUMP)
            .context("read its addresses")?;
        let permanent = |message: &AddressMessage| {
            message.attributes.iter().any(
                |a| matches!(a, AddressAttribute::Flags(flags) if flags.contains(AddressFlags::Permanent)),
            )
        };
        let addresses = answers.into_iter().filter_map(|answer| match answer {
            Message::NewAddress(address) => Some(address),
            _ => None,
        });
        Ok(addresses
            .filter(|a| a.header.index == index && a.header.scope == AddressScope::Universe && permanent(a))
            .collect())
    }

    fn add_address(&self, index: u32, old: AddressMessage) -> Result<()> {
        let mut address = AddressMessage::default();
        address.header.family = old.header.family;
        address.header.prefix_len = old.header.prefix_len;
        address.header.index = index;
        // The label holds the old name, and the times are those of a permanent address anyway.
        address.attributes = old
            .attributes
            .into_iter()
            .filter(|a| {
                matches!(
                    a,
                    AddressAttribute::Address(_)
                        | AddressAttribute::Local(_)
                        | AddressAttribute::Broadcast(_)
                )
            })
            .collect();
        let what = format!("set its address {:?} again", address.attributes);
        self.request(Message::NewAddress(address), NLM_F_CREATE | NLM_F_EXCL).context(what).map(drop)
    }

    fn set_up(&self, index: u32, up: bool) -> Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.change_mask = LinkFlags::Up;
        link.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        self.request(Message::SetLink(link), 0).map(drop)
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
