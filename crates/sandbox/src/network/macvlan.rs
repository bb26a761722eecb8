//! Macvlans, made in the calling thread's network namespace on devices that are there.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};

use super::object::{Attribute, Object, write};
use crate::Result;
use crate::error::Context;
use crate::rtnetlink::Route;

/// linux/rtnetlink.h
const RTM_NEWLINK: u16 = 16;
/// struct ifinfomsg: the number at 4, the flags at 8.
const HEAD: usize = 16;
/// linux/if_link.h
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const IFLA_MACVLAN_MODE: u16 = 1;
const IFLA_MACVLAN_FLAGS: u16 = 2;

/// A macvlan to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Macvlan {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The number of the device below it, in the same network namespace.
    pub parent: u32,
    /// Its mode (linux/if_link.h, MACVLAN_MODE_…).
    pub mode: u32,
    /// The flags of a macvlan (MACVLAN_FLAG_…).
    pub mode_flags: Option<u16>,
    /// The flags of a device (netdevice(7)).
    pub flags: u32,
    /// The longest packet.
    pub mtu: u32,
    /// The hardware address.
    pub address: Vec<u8>,
    /// The number of the bridge that it is a port of.
    pub master: Option<u32>,
}

impl Macvlan {
    /// Makes the device in the calling thread's network namespace.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn make(&self) -> Result<()> {
        let mut data = vec![number(IFLA_MACVLAN_MODE, self.mode)];
        data.extend(self.mode_flags.map(|flags| (IFLA_MACVLAN_FLAGS, flags.to_ne_bytes().to_vec())));
        let info = [(INFO_KIND, b"macvlan\0".to_vec()), (INFO_DATA, write(&data))];
        let mut link = Object { head: vec![0; HEAD], attributes: Vec::new() };
        link.set_u32(4, self.index);
        link.set_u32(8, self.flags);
        link.attributes.extend([
            (IFLA_IFNAME, [self.name.as_bytes(), &[0]].concat()),
            number(IFLA_LINK, self.parent),
            number(IFLA_MTU, self.mtu),
        ]);
        // The kernel would choose one.
        link.attributes.extend((!self.address.is_empty()).then(|| (IFLA_ADDRESS, self.address.clone())));
        link.attributes.extend(self.master.map(|master| number(IFLA_MASTER, master)));
        link.attributes.push((IFLA_LINKINFO, write(&info)));
        let made = Route::open()?.raw(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &link.bytes());
        let what = || format!("make macvlan {} on device {}", self.name.escape_debug(), self.parent);
        made.map(drop).context(what())
    }
}

fn number(kind: u16, value: u32) -> Attribute {
    (kind, value.to_ne_bytes().to_vec())
}
