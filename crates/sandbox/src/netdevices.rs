//! `linux.netDevices`: network devices of the host that move into the container, by rtnetlink(7).
//!
//! A device that moves keeps its hardware address and MTU; the kernel takes its IP addresses, so those are read before
//! and set again afterwards.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};

use crate::error::Context;
use crate::plan::NetDevice;
use crate::rtnetlink::{self, Route};
use crate::{Result, SysError};

/// Moves the devices into the network namespace of process `pid`, with their names there, addresses and set up.
pub(crate) fn move_all(devices: &[NetDevice], pid: i32) -> Result<()> {
    let namespace = rtnetlink::namespace_of(pid)?;
    let here = Route::open()?;
    let there = rtnetlink::inside(&namespace, Route::open)?;
    for device in devices {
        move_one(&here, &there, &namespace, device)
            .context(format!("move network device {} into the container (linux.netDevices)", device.name))?;
    }
    Ok(())
}

/// Fails if one of the devices is not here.
pub fn expect(devices: &[NetDevice]) -> Result<()> {
    let here = if devices.is_empty() { return Ok(()) } else { Route::open()? };
    for device in devices {
        here.index_of_the_hosts(&device.name)
            .context(format!("move network device {} into the container (linux.netDevices)", device.name))?;
    }
    Ok(())
}

/// Fails if one of the devices is not in the joined network namespace at `path`, by its name there.
pub fn expect_in(path: &Path, devices: &[NetDevice]) -> Result<()> {
    if devices.is_empty() {
        return Ok(());
    }
    let namespace = rtnetlink::namespace_at(path)?;
    let there = rtnetlink::inside(&namespace, Route::open)?;
    for device in devices {
        let name = &device.name_in_container;
        there.index_of(name).context(format!(
            "find network device {name} in the network namespace {} (linux.netDevices)",
            path.display()
        ))?;
    }
    Ok(())
}

fn move_one(here: &Route, there: &Route, namespace: &OwnedFd, device: &NetDevice) -> Result<()> {
    let index = here.index_of_the_hosts(&device.name)?;
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

impl Route {
    /// With runc's words where there is none.
    fn index_of_the_hosts(&self, name: &str) -> Result<u32> {
        self.index_of(name).context(format!("link not found for interface {name} on runtime namespace"))
    }

    fn index_of(&self, name: &str) -> Result<u32> {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName(name.into()));
        let answers = self.request(Message::GetLink(link), 0)?;
        let index = answers.into_iter().find_map(|answer| match answer {
            Message::NewLink(link) => Some(link.header.index),
            _ => None,
        });
        index.ok_or_else(|| SysError::new("recv", format!("RTM_GETLINK of {name}"), libc::ENODEV).into())
    }

    /// The device's addresses that are valid in another namespace, too: permanent ones of global scope.
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
