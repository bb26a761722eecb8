//! Announcements of addresses that have moved here: switches learn the port, and neighbours the hardware address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};

use hiber_sys::socket::send_frame;
use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::rtnetlink::{self, Route, namespace_of};
use crate::{Result, SysError};

/// linux/if_ether.h
const ETH_P_ARP: u16 = 0x0806;
const ETH_P_IPV6: u16 = 0x86dd;
/// All nodes of a link, and the group's hardware address (RFC 4291, 2.7.1; RFC 2464, 7).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_HARDWARE: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const ICMPV6: u8 = 58;

/// A device of Ethernet that is up and whose neighbours are asked for.
struct Port {
    index: u32,
    name: String,
    hardware: [u8; 6],
    broadcast: [u8; 6],
}

/// Sends a gratuitous ARP (RFC 5227, 2.3) for each IPv4 address on a device of Ethernet in the network namespace of process `pid`, and an
/// unsolicited neighbour advertisement (RFC 4861, 7.2.6) for each IPv6 address: all of them, or those among `of`. The result says how
/// many.
///
/// # Errors
/// If the kernel does not answer, or does not send them.
pub fn announce(pid: i32, of: Option<&[IpAddr]>) -> Result<usize> {
    rtnetlink::inside(&namespace_of(pid)?, || {
        let route = Route::open()?;
        let links = route.request(Message::GetLink(LinkMessage::default()), NLM_F_DUMP)?;
        let ports: Vec<_> = links.iter().filter_map(port).collect();
        if ports.is_empty() {
            return Ok(0);
        }
        // Of no protocol: it receives nothing.
        let socket =
            rustix::net::socket_with(AddressFamily::PACKET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
                .map_err(|e| SysError::new("socket", "AF_PACKET", e.raw_os_error()))?;
        let mut sent = 0;
        for message in route.request(Message::GetAddress(AddressMessage::default()), NLM_F_DUMP)? {
            let Message::NewAddress(message) = message else { continue };
            let unusable = AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed;
            let on = ports.iter().find(|port| port.index == message.header.index);
            if let (Some(port), Some(address)) = (on, address_of(&message))
                && !message.header.flags.intersects(unusable)
                && of.is_none_or(|of| of.contains(&address))
            {
                port.announce(&socket, address)?;
                sent += 1;
            }
        }
        Ok(sent)
    })
}

fn port(message: &Message) -> Option<Port> {
    let Message::NewLink(link) = message else { return None };
    let flags = link.header.flags;
    let ethernet = link.header.link_layer_type == LinkLayerType::Ether;
    if !ethernet || !flags.contains(LinkFlags::Up | LinkFlags::Broadcast) || flags.contains(LinkFlags::Noarp)
    {
        return None;
    }
    let mut port =
        Port { index: link.header.index, name: String::new(), hardware: [0; 6], broadcast: [0xff; 6] };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => port.name.clone_from(name),
            LinkAttribute::Address(address) => port.hardware = address.as_slice().try_into().ok()?,
            LinkAttribute::Broadcast(address) => port.broadcast = address.as_slice().try_into().ok()?,
            _ => {}
        }
    }
    Some(port)
}

/// The address of this end, where the device leads to one other only.
pub(super) fn address_of(message: &AddressMessage) -> Option<IpAddr> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let only = || {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    };
    local.or_else(only)
}

impl Port {
    fn announce(&self, socket: &OwnedFd, address: IpAddr) -> Result<()> {
        let (protocol, to, packet) = match address {
            IpAddr::V4(address) => (ETH_P_ARP, self.broadcast, arp(self.hardware, address).to_vec()),
            IpAddr::V6(address) => {
                (ETH_P_IPV6, ALL_NODES_HARDWARE, advertisement(self.hardware, address, self.routes()))
            }
        };
        send_frame(socket.as_fd(), self.index, protocol, &to, &packet).map_err(|e| {
            SysError::new("sendto", format!("{address} announced on {}", self.name), e.raw_os_error()).into()
        })
    }

    /// Whether its neighbours may have it as a router: an advertisement that says otherwise takes it from their lists.
    fn routes(&self) -> bool {
        let path = format!("/proc/sys/net/ipv6/conf/{}/forwarding", self.name);
        hiber_sys::file::read_to_string(&path).is_ok_and(|value| value.trim() != "0")
    }
}

/// The request for one's own address that everybody hears (RFC 826, RFC 5227).
fn arp(hardware: [u8; 6], address: Ipv4Addr) -> [u8; 28] {
    let mut packet = [0; 28];
    // Ethernet, IPv4, the lengths of their addresses, and a request.
    packet[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
    packet[8..14].copy_from_slice(&hardware);
    packet[14..18].copy_from_slice(&address.octets());
    packet[24..].copy_from_slice(&address.octets());
    packet
}

/// An IPv6 packet with an advertisement that overrides what is known (RFC 4861, 4.4).
fn advertisement(hardware: [u8; 6], address: Ipv6Addr, router: bool) -> Vec<u8> {
    let flags = if router { 0xa0 } else { 0x20 };
    let mut icmp = vec![136, 0, 0, 0, flags, 0, 0, 0];
    icmp.extend(address.octets());
    // The target's hardware address, in units of 8 bytes.
    icmp.extend([2, 1]);
    icmp.extend(hardware);
    let length = u8::try_from(icmp.len()).unwrap_or(u8::MAX);
    let mut counted = [address.octets(), ALL_NODES.octets()].concat();
    counted.extend([0, 0, 0, length, 0, 0, 0, ICMPV6]);
    counted.extend(&icmp);
    icmp[2..4].copy_from_slice(&checksum(&counted).to_be_bytes());
    // With the greatest hop limit: a router would have lowered it.
    let mut packet = vec![0x60, 0, 0, 0, 0, length, ICMPV6, 255];
    packet.extend([address.octets(), ALL_NODES.octets()].concat());
    packet.extend(icmp);
    packet
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |b| u32::from(*b)));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_as_their_standards_say() {
        let hardware = [2, 0, 0, 0, 0, 5];
        let packet = arp(hardware, Ipv4Addr::new(10, 0, 0, 5));
        assert_eq!(packet[14..18], packet[24..]);
        assert_eq!(packet[18..24], [0; 6], "nobody is asked");
        let address = "fd00::5".parse().unwrap();
        let packet = advertisement(hardware, address, false);
        assert_eq!((packet.len(), packet[5], packet[44]), (72, 32, 0x20));
        assert_eq!(advertisement(hardware, address, true)[44], 0xa0);
        // A sum over all, with the checksum in its place, is all ones.
        let mut counted = packet[8..40].to_vec();
        counted.extend([0, 0, 0, 32, 0, 0, 0, ICMPV6]);
        counted.extend(&packet[40..]);
        assert_eq!(checksum(&counted), 0);
        assert_eq!(checksum(&[0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2, "the example of RFC 1071");
        assert_eq!(checksum(&[0xff; 3]), !0xff00);
    }
}
