//! Network namespaces that hold only the loopback device, as the kernel and `create` make them. A program that saves such a
//! namespace has nothing else to record.

use std::path::Path;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{RouteMessage, RouteProtocol};
use netlink_packet_route::rule::{RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};
use rustix::net::{RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::error::Context;
use crate::network::{NHMSG, RTM_GETNEXTHOP, has_ipsec};
use crate::rtnetlink::{self, Route, namespace_of};
use crate::{Result, SysError};
use hiber_sys::ioctl::loopback_up;

/// Whether the network namespace of process `pid` holds nothing but its loopback device, up, with the addresses,
/// routes and rules that the kernel gives it, and no firewall. Its sysctls are not looked at.
///
/// # Errors
/// If the kernel does not answer.
pub fn is_alone(pid: i32) -> Result<bool> {
    for names in ["ip_tables_names", "ip6_tables_names", "arp_tables_names"] {
        if std::fs::read(format!("/proc/{pid}/net/{names}")).is_ok_and(|tables| !tables.is_empty()) {
            return Ok(false);
        }
    }
    rtnetlink::inside(&namespace_of(pid)?, || {
        let route = Route::open()?;
        let dump = |message| route.request(message, NLM_F_DUMP);
        let links = dump(Message::GetLink(LinkMessage::default()))?;
        if links.len() != 1 || !links.iter().all(is_loopback_up) {
            return Ok(false);
        }
        let rules = dump(Message::GetRule(RuleMessage::default()))?;
        Ok(dump(Message::GetAddress(AddressMessage::default()))?.iter().all(is_loopback_address)
            && dump(Message::GetRoute(RouteMessage::default()))?.iter().all(is_kernel_route)
            && are_kernel_rules(&rules)
            && !route.has_any(RTM_GETNEXTHOP, &NHMSG)?
            && !has_nftables()?
            && !has_ipsec(pid)?)
    })
}

/// The state that a namespace's loopback device gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loopback {
    /// It is brought up.
    Up,
    /// It stays as it is.
    Left,
}

/// Sets the network namespace of process `pid` up as `create` does: brings its loopback device up and writes the `sysctls`, whose
/// names are paths below /proc/sys.
pub fn make<'a>(
    pid: i32,
    loopback: Loopback,
    sysctls: impl Iterator<Item = (&'a Path, &'a str)> + Send,
) -> Result<()> {
    rtnetlink::inside(&namespace_of(pid)?, || {
        if loopback == Loopback::Up {
            loopback_up().context("bring the loopback device up")?;
        }
        for (name, value) in sysctls {
            let path = Path::new("/proc/sys").join(name);
            std::fs::write(&path, value)
                .map_err(|e| SysError::io("write", format!("{value:?} to {}", path.display()), &e))
                .context(format!("set linux.sysctl {}", name.display()))?;
        }
        Ok(())
    })
}

fn is_loopback_up(message: &Message) -> bool {
    let Message::NewLink(link) = message else { return false };
    link.header.flags.contains(LinkFlags::Up | LinkFlags::Loopback)
        && link.attributes.contains(&LinkAttribute::IfName("lo".into()))
        && link.attributes.contains(&LinkAttribute::Mtu(65536))
}

fn is_loopback_address(message: &Message) -> bool {
    let Message::NewAddress(address) = message else { return false };
    let expected = match address.header.family {
        AddressFamily::Inet => (8, "127.0.0.1".parse()),
        AddressFamily::Inet6 => (128, "::1".parse()),
        _ => return false,
    };
    let (length, Ok(ip)) = expected else { return false };
    address.header.prefix_len == length && address.attributes.contains(&AddressAttribute::Address(ip))
}

fn is_kernel_route(message: &Message) -> bool {
    matches!(message, Message::NewRoute(route) if route.header.protocol == RouteProtocol::Kernel)
}

/// The kernel's own: local, main and default for IPv4, local and main for IPv6 if there is any; others of multicast.
fn are_kernel_rules(rules: &[Message]) -> bool {
    let of = |family| {
        let is = |rule: &&Message| matches!(rule, Message::NewRule(rule) if rule.header.family == family);
        rules.iter().filter(is).count()
    };
    of(AddressFamily::Inet) == 3
        && matches!(of(AddressFamily::Inet6), 0 | 2)
        && rules.iter().all(|message| {
            let Message::NewRule(rule) = message else { return false };
            rule.attributes.contains(&RuleAttribute::Protocol(RouteProtocol::Kernel))
        })
}

/// Whether there is any nftables table here. A kernel that has no nftables refuses the question.
fn has_nftables() -> Result<bool> {
    // linux/netfilter/nfnetlink.h, nf_tables.h
    const NFNL_SUBSYS_NFTABLES: u16 = 10;
    const NFT_MSG_NEWTABLE: u16 = 0;
    const NFT_MSG_GETTABLE: u16 = 1;
    let failed = |call: &str, e: rustix::io::Errno| SysError::new(call, "nftables", e.raw_os_error());
    let protocol = Some(rustix::net::netlink::NETFILTER);
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        protocol,
    )
    .map_err(|e| failed("socket", e))?;
    // A header (length, type, flags, sequence number, port) and an nfgenmsg: any family.
    let mut request = Vec::with_capacity(20);
    request.extend(20u32.to_ne_bytes());
    request.extend((NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETTABLE).to_ne_bytes());
    request.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    request.extend([0; 12]);
    rustix::net::send(&socket, &request, SendFlags::empty()).map_err(|e| failed("send", e))?;
    let mut answer = [0u8; 8192];
    let (length, _) =
        rustix::net::recv(&socket, &mut answer, RecvFlags::empty()).map_err(|e| failed("recv", e))?;
    let kind = answer.get(4..6).filter(|_| length >= 16).map(|b| u16::from_ne_bytes([b[0], b[1]]));
    Ok(kind == Some(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWTABLE))
}
