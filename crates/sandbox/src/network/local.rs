//! The addresses that a network namespace has.

use std::net::{IpAddr, UdpSocket};
use std::path::Path;

use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::address::AddressMessage;

use super::announce::address_of;
use crate::Result;
use crate::rtnetlink::{self, Route, namespace_at};

/// Addresses that are wanted of a network namespace, and those that it has.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Those that no socket could have there.
    pub lacking: Vec<IpAddr>,
    /// All addresses of its devices, but for those of loopback.
    pub present: Vec<IpAddr>,
}

/// Looks for these addresses in the network namespace at `path`, or in that of the caller.
///
/// # Errors
/// If the namespace cannot be entered, or the kernel does not answer.
pub fn look_for(wanted: &[IpAddr], path: Option<&Path>) -> Result<Wanted> {
    let look = || -> Result<Wanted> {
        let all = Route::open()?.request(Message::GetAddress(AddressMessage::default()), NLM_F_DUMP)?;
        let address = |message: &Message| match message {
            Message::NewAddress(message) => address_of(message),
            _ => None,
        };
        let all: Vec<_> = all.iter().filter_map(address).collect();
        // Some are a route's and no device's (`ip route add local`).
        let usable = |address: &IpAddr| all.contains(address) || UdpSocket::bind((*address, 0)).is_ok();
        let lacking = wanted.iter().copied().filter(|address| !usable(address)).collect();
        let present = all.iter().copied().filter(|address| !address.is_loopback()).collect();
        Ok(Wanted { lacking, present })
    };
    match path {
        Some(path) => rtnetlink::inside(&namespace_at(path)?, look),
        None => look(),
    }
}
