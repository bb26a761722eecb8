//! The contents of a network namespace, for a program that saves and restores one: devices, the routes and rules that
//! `ip route save` and `ip rule save` leave out, and every object of the kernel that [`Kept`] can make again.

mod announce;
mod classes;
mod firewall;
mod generic;
mod hush;
mod kept;
mod links;
mod local;
mod macvlan;
mod object;
mod receivers;
mod shut;
mod signatures;
mod strange;
mod sysctls;

use std::collections::BTreeSet;

use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteMessage, RouteNextHopFlags, RouteProtocol,
};
use netlink_packet_route::rule::{RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};

use crate::Result;
use crate::rtnetlink::{self, Route, namespace_of};

pub use crate::netdevices::{expect, expect_in};
pub use announce::announce;
pub use hush::hush;
pub use kept::Kept;
pub use local::{Wanted, look_for};
pub use macvlan::Macvlan;
pub use shut::{abandon, open, shut, silence};
pub use signatures::{SignatureKey, signature_keys};
pub(crate) use strange::has_ipsec;

/// The table that `ip route save` saves (linux/rtnetlink.h, RT_TABLE_MAIN).
const MAIN: u32 = 254;
/// linux/rtnetlink.h
pub(crate) const RTM_GETNEXTHOP: u16 = 106;
/// struct nhmsg of linux/nexthop.h
pub(crate) const NHMSG: [u8; 8] = [0; 8];

/// A network device.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its number in the namespace.
    pub index: u32,
    /// Its name: `eth0`.
    pub name: String,
    /// Whether it is the loopback device.
    pub loopback: bool,
    /// `veth`, `bridge`, …; hardware has none.
    pub kind: Option<String>,
    /// Whether the other end, or the device below, is in a network namespace that the caller did not name.
    pub outside: bool,
    /// The index of the other end, or of the device below, if that is in the same network namespace.
    pub below: Option<u32>,
    /// The index of the bridge that it is a port of.
    pub master: Option<u32>,
}

impl Device {
    /// The index of a veth's other end, if that is in the same network namespace.
    pub fn peer(&self) -> Option<u32> {
        self.below.filter(|_| self.kind.as_deref() == Some("veth"))
    }
}

/// The contents of a network namespace.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Contents {
    /// All devices.
    pub devices: Vec<Device>,
    /// Tables beside the main one that have routes which the kernel has not made by itself.
    pub tables: BTreeSet<u32>,
    /// Whether there are nexthop objects.
    pub nexthops: bool,
    /// Whether there are rules for IPv6 beside the kernel's.
    pub rules_of_ipv6: bool,
    /// Whether a route of several next hops leads over a device that is down.
    pub dead_hops: bool,
    /// Descriptions of other objects that nobody could make again.
    pub strange: Vec<String>,
}

/// Reads the network namespace of process `pid`. `others` are processes in further network namespaces in which a device's other
/// end may be.
///
/// # Errors
/// If the kernel does not answer, or its answer has an unknown form.
pub fn contents(pid: i32, others: &[i32]) -> Result<Contents> {
    rtnetlink::inside(&namespace_of(pid)?, || {
        let route = Route::open()?;
        let mut contents = Contents { strange: strange::read(&route, pid)?, ..Contents::default() };
        if let firewall::Found::Strange(why) = firewall::Firewall::read()? {
            contents.strange.push(format!("the firewall has extensions of iptables, and {why}"));
        }
        contents.nexthops = route.has_any(RTM_GETNEXTHOP, &NHMSG)?;
        // The kernel gives another namespace a number when somebody asks for a device that leads there.
        let links = route.request(Message::GetLink(LinkMessage::default()), NLM_F_DUMP)?;
        let known = others.iter().map(|pid| number_of(&route, *pid)).collect::<Result<BTreeSet<_>>>()?;
        contents.devices = links.iter().filter_map(|message| device(message, &known)).collect();
        for message in route.request(Message::GetRoute(RouteMessage::default()), NLM_F_DUMP)? {
            if let Message::NewRoute(message) = message {
                contents.add_route(&message);
            }
        }
        let rules = route.request(Message::GetRule(RuleMessage::default()), NLM_F_DUMP)?;
        contents.rules_of_ipv6 = rules.iter().any(|message| match message {
            Message::NewRule(rule) => {
                let kernels = rule.attributes.contains(&RuleAttribute::Protocol(RouteProtocol::Kernel));
                rule.header.family == AddressFamily::Inet6 && !kernels
            }
            _ => false,
        });
        Ok(contents)
    })
}

/// Whether the firewall of process `pid`'s network namespace has rules of nftables with extensions of iptables.
///
/// # Errors
/// If the kernel does not answer.
pub fn has_extensions(pid: i32) -> Result<bool> {
    rtnetlink::inside(&namespace_of(pid)?, firewall::has_extensions)
}

impl Contents {
    fn add_route(&mut self, message: &RouteMessage) {
        let header = &message.header;
        if !matches!(header.address_family, AddressFamily::Inet | AddressFamily::Inet6) {
            return;
        }
        let long = message.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Table(table) => Some(*table),
            _ => None,
        });
        let table = long.unwrap_or(header.table.into());
        if table != MAIN && header.protocol != RouteProtocol::Kernel {
            self.tables.insert(table);
        }
        let hops = message.attributes.iter().filter_map(|attribute| match attribute {
            RouteAttribute::MultiPath(hops) => Some(hops),
            _ => None,
        });
        self.dead_hops |= header.flags.contains(RouteFlags::Dead)
            || hops.flatten().any(|hop| hop.flags.contains(RouteNextHopFlags::Dead));
    }
}

fn device(message: &Message, known: &BTreeSet<i32>) -> Option<Device> {
    let Message::NewLink(link) = message else { return None };
    let mut device = Device {
        index: link.header.index,
        loopback: link.header.flags.contains(LinkFlags::Loopback),
        ..Device::default()
    };
    let mut elsewhere = false;
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => device.name.clone_from(name),
            LinkAttribute::LinkNetNsId(number) => {
                device.outside = !known.contains(number);
                elsewhere = true;
            }
            LinkAttribute::Link(index) => device.below = Some(*index),
            LinkAttribute::Controller(index) => device.master = Some(*index),
            LinkAttribute::LinkInfo(infos) => {
                device.kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    device.below = device.below.filter(|_| !elsewhere);
    Some(device)
}

/// The number of a process's network namespace in this one; -1 if it has none.
fn number_of(route: &Route, pid: i32) -> Result<i32> {
    let mut ask = NsidMessage::default();
    ask.attributes.push(NsidAttribute::Pid(pid.unsigned_abs()));
    let answers = route.request(Message::GetNsId(ask), 0)?;
    let number = answers.iter().find_map(|answer| match answer {
        Message::NewNsId(message) => message.attributes.iter().find_map(|attribute| match attribute {
            NsidAttribute::Id(number) => Some(*number),
            _ => None,
        }),
        _ => None,
    });
    Ok(number.unwrap_or(-1))
}
