//! A network namespace that nothing enters or leaves for a while: that of a container which is whole, and may never run.

use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};

use super::object::{Attribute, Object, write};
use crate::Result;
use crate::error::Context;
use crate::rtnetlink::{self, BatchMessage, Route, namespace_of};

/// The table of nftables that drops all packets.
const TABLE: &[u8] = b"hiber-undecided\0";
/// NFNL_SUBSYS_NFTABLES of linux/netfilter/nfnetlink.h, and NFPROTO_INET and NFPROTO_ARP of linux/netfilter.h.
const SUBSYSTEM: u16 = 10;
const INET: u8 = 1;
const ARP: u8 = 3;
/// linux/netfilter/nf_tables.h
const NEW_TABLE: u16 = 0;
const GET_TABLE: u16 = 1;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NLM_F_CREATE: u16 = 0x400;
/// Before the kernel follows connections (NF_IP_PRI_RAW is -300).
const PRIORITY: i32 = -400;
/// NF_INET_PRE_ROUTING and NF_INET_LOCAL_OUT, NF_ARP_IN and NF_ARP_OUT: what comes, and what is made here.
const HOOKS: [(u8, [u32; 2]); 2] = [(INET, [0, 3]), (ARP, [0, 1])];
/// linux/sock_diag.h, and TCP_LISTEN of the kernel's tcp_states.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const LISTEN: u8 = 10;
/// linux/rtnetlink.h
const RTM_NEWLINK: u16 = 16;
/// struct ifinfomsg: the number at 4, the flags at 8, those of them that change at 12.
const LINK: usize = 16;

/// Drops all packets in the network namespace of process `pid`. Where the kernel's nftables do not know ARP, that is still
/// answered.
///
/// # Errors
/// If the kernel has no nftables, or refuses.
pub fn shut(pid: i32) -> Result<()> {
    rtnetlink::inside(&namespace_of(pid)?, || {
        for (family, hooks) in HOOKS {
            let mut messages = vec![message(family, NEW_TABLE, NLM_F_CREATE, &[(1, TABLE.to_vec())])];
            messages.extend(hooks.map(|hook| message(family, NEW_CHAIN, NLM_F_CREATE, &chain(hook))));
            let made = Route::of(rustix::net::netlink::NETFILTER)?.batch(SUBSYSTEM, &messages);
            if family != ARP {
                made.context("shut the network of a container that is not decided about")?;
            }
        }
        Ok(())
    })
}

/// Undoes [`shut`], where that was done.
///
/// # Errors
/// If the kernel refuses.
pub fn open(pid: i32) -> Result<()> {
    rtnetlink::inside(&namespace_of(pid)?, || {
        for (family, _) in HOOKS {
            let message = message(family, DELETE_TABLE, 0, &[(1, TABLE.to_vec())]);
            match Route::of(rustix::net::netlink::NETFILTER)?.batch(SUBSYSTEM, &[message]) {
                Err(e) if matches!(e.errno(), Some(libc::ENOENT | libc::EINVAL | libc::EOPNOTSUPP)) => {}
                done => done.context("open the network of a container again")?,
            }
        }
        Ok(())
    })
}

/// Ends the TCP connections in the network namespace of process `pid`, if that is [`shut`]: after the end of their processes the kernel
/// would try to say so to the other ends, in vain, and keep the namespace for minutes.
///
/// # Errors
/// If the kernel refuses: it can end no connections without CONFIG_INET_DIAG_DESTROY.
pub fn abandon(pid: i32) -> Result<()> {
    rtnetlink::inside(&namespace_of(pid)?, || {
        let table = [&[INET, 0, 0, 0], &*write(&[(1, TABLE.to_vec())])].concat();
        let is_shut = Route::of(rustix::net::netlink::NETFILTER)?.raw(SUBSYSTEM << 8 | GET_TABLE, 0, &table);
        if is_shut.is_err() {
            return Ok(());
        }
        let route = Route::of(rustix::net::netlink::SOCK_DIAG)?;
        for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
            // struct inet_diag_req_v2: the family, the protocol, and all states from 4 on.
            let mut request = [0; 56];
            (request[0], request[1]) = (family, libc::IPPROTO_TCP as u8);
            request[4..8].fill(0xff);
            for socket in route.dump(SOCK_DIAG_BY_FAMILY, &request)? {
                // In both structures the socket's identity is 48 bytes long; before it the state is at 1 here.
                let (Some(id), Some(state)) = (socket.get(4..52), socket.get(1)) else { continue };
                if *state != LISTEN {
                    request[8..].copy_from_slice(id);
                    route.raw(SOCK_DESTROY, 0, &request).context("end a connection")?;
                }
            }
        }
        Ok(())
    })
}

/// Has the devices that end with the network namespace of process `pid` answer nobody who asks for their addresses by ARP: these are
/// another machine's by now, and the kernel takes a namespace apart in its own time.
///
/// # Errors
/// If the kernel refuses.
pub fn silence(pid: i32) -> Result<()> {
    rtnetlink::inside(&namespace_of(pid)?, || {
        let route = Route::open()?;
        for (index, ..) in devices()?.into_iter().filter(|(_, made)| *made) {
            let mut link = Object { head: vec![0; LINK], attributes: Vec::new() };
            link.set_u32(4, index);
            link.set_u32(8, LinkFlags::Noarp.bits());
            link.set_u32(12, LinkFlags::Noarp.bits());
            route.raw(RTM_NEWLINK, 0, &link.bytes()).context("silence a device")?;
        }
        Ok(())
    })
}

/// The numbers of the devices beside loopback, and whether each was made by somebody. Hardware goes back to the host as it is.
fn devices() -> Result<Vec<(u32, bool)>> {
    let links = Route::open()?.request(Message::GetLink(LinkMessage::default()), NLM_F_DUMP)?;
    let device = |message: &Message| match message {
        Message::NewLink(link) if !link.header.flags.contains(LinkFlags::Loopback) => {
            let made = link.attributes.iter().any(|a| matches!(a, LinkAttribute::LinkInfo(_)));
            Some((link.header.index, made))
        }
        _ => None,
    };
    Ok(links.iter().filter_map(device).collect())
}

fn message(family: u8, kind: u16, flags: u16, attributes: &[Attribute]) -> BatchMessage {
    // struct nfgenmsg: the family, the version, and nothing.
    let body = [&[family, 0, 0, 0], &*write(attributes)].concat();
    BatchMessage { kind: SUBSYSTEM << 8 | kind, flags, body }
}

/// A chain that drops what comes to its end, and has no rules: its table, name, hook, policy and type.
fn chain(hook: u32) -> Vec<Attribute> {
    const NESTED: u16 = 0x8000;
    const NF_DROP: u32 = 0;
    let name = format!("hook-{hook}\0").into_bytes();
    let hook = [(1, hook.to_be_bytes().to_vec()), (2, PRIORITY.to_be_bytes().to_vec())];
    vec![
        (1, TABLE.to_vec()),
        (3, name),
        (4 | NESTED, write(&hook)),
        (5, NF_DROP.to_be_bytes().to_vec()),
        (7, b"filter\0".to_vec()),
    ]
}
