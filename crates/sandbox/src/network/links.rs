//! Properties of devices beyond name, kind, hardware address, MTU, flags and master.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};

use super::object::{Attribute, Object, attributes, find, kind_of, text, write};
use crate::error::Context;
use crate::rtnetlink::Route;
use crate::{Error, Result, SysError};

/// linux/rtnetlink.h
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWLINKPROP: u16 = 108;
/// struct ifinfomsg, with the device's number at 4.
const HEAD: usize = 16;
/// linux/if_link.h
const IFLA_IFNAME: u16 = 3;
const IFLA_TXQLEN: u16 = 13;
const IFLA_LINKMODE: u16 = 17;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_GROUP: u16 = 27;
const IFLA_PROTO_DOWN: u16 = 39;
const IFLA_XDP: u16 = 43;
const IFLA_PROP_LIST: u16 = 52;
/// IFLA_GSO_MAX_SEGS, IFLA_GSO_MAX_SIZE, IFLA_GRO_MAX_SIZE and those for IPv4.
const SIZES: [u16; 5] = [40, 41, 58, 63, 64];
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const INFO_SLAVE_KIND: u16 = 4;
const INFO_SLAVE_DATA: u16 = 5;
const AF_INET6: u16 = 10;
const INET6_TOKEN: u16 = 7;
const XDP_ATTACHED: u16 = 2;
/// NLA_F_NESTED of linux/netlink.h
const NESTED: u16 = 0x8000;
/// IFLA_BR_*: the options of a bridge that ip-link(8) sets; the others are its state, timers and VLANs.
const BRIDGE: [u16; 32] = [
    1, 2, 3, 4, 5, 6, 9, 20, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 41, 42, 43,
    44, 45, 46, 49,
];
const BRIDGE_VLAN_FILTERING: u16 = 7;
/// IFLA_MACVLAN_*: the flags, the length of the queue of broadcasts, and from how many receivers on a packet counts as one.
const MACVLAN: [u16; 3] = [2, 7, 9];
const MACVLAN_MODE: u16 = 1;
/// MACVLAN_MODE_SOURCE of linux/if_link.h
const MACVLAN_SOURCE: u32 = 16;
/// IFLA_BRPORT_*: the options of a port that bridge(8) sets, without its state.
const PORT: [u16; 21] = [2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 25, 27, 28, 29, 30, 31, 32, 33, 39, 40, 43];

/// The attribute that says the kind of a device, the kind, the attribute with options of that kind, and the options that a request can set.
const OPTIONS: [(u16, &[u8], u16, &[u16]); 3] = [
    (INFO_KIND, b"bridge", INFO_DATA, &BRIDGE),
    (INFO_KIND, b"macvlan", INFO_DATA, &MACVLAN),
    (INFO_SLAVE_KIND, b"bridge", INFO_SLAVE_DATA, &PORT),
];

/// The properties of each device, and the reasons why some cannot be set on another device.
pub(super) fn read(route: &Route) -> Result<(Vec<Object>, Vec<String>)> {
    let (mut links, mut strange) = (Vec::new(), Vec::new());
    for answer in route.dump(RTM_GETLINK, &[0; HEAD]).context("list the network devices")? {
        let mut link = Object::parse(&answer, HEAD).ok_or_else(|| {
            Error::from(SysError::new("recv", "a network device that is none", libc::EPROTO))
        })?;
        let name = String::from_utf8_lossy(name(&link)).into_owned();
        if let Some(why) = why_not(&link) {
            strange.push(format!("network device {} {why}", name.escape_debug()));
        }
        // Only the number of the fixed part is valid elsewhere.
        let index = link.u32_at(4);
        link.head.fill(0);
        link.set_u32(4, index);
        link.attributes = link.attributes.iter().filter_map(settled).collect();
        links.push(link);
    }
    Ok((links, strange))
}

pub(super) fn index(link: &Object) -> u32 {
    link.u32_at(4)
}

fn name(link: &Object) -> &[u8] {
    text(link.attribute(IFLA_IFNAME).unwrap_or_default())
}

/// The properties of a device that nobody can set on another one.
fn why_not(link: &Object) -> Option<&'static str> {
    let nested = |kind| link.attribute(kind).and_then(attributes).unwrap_or_default();
    if find(&nested(IFLA_XDP), XDP_ATTACHED).is_some_and(|how| how != [0]) {
        return Some("has an XDP program");
    }
    let info = nested(IFLA_LINKINFO);
    let data = find(&info, INFO_DATA).and_then(attributes).unwrap_or_default();
    let is = |name: &[u8]| find(&info, INFO_KIND).is_some_and(|kind| text(kind) == name);
    let filters = find(&data, BRIDGE_VLAN_FILTERING).is_some_and(|on| on != [0]);
    let by_source = find(&data, MACVLAN_MODE).is_some_and(|mode| mode == MACVLAN_SOURCE.to_ne_bytes());
    if is(b"macvlan") && by_source {
        return Some("is a macvlan that takes packets by their senders (mode source)");
    }
    (is(b"bridge") && filters).then_some("is a bridge that tells VLANs apart (vlan_filtering)")
}

/// The part of the attribute that a request can set.
fn settled(attribute: &Attribute) -> Option<Attribute> {
    let (kind, value) = (kind_of(attribute), &attribute.1);
    let value = match kind {
        IFLA_IFNAME | IFLA_TXQLEN | IFLA_LINKMODE | IFLA_IFALIAS | IFLA_GROUP | IFLA_PROTO_DOWN
        | IFLA_PROP_LIST => value.clone(),
        kind if SIZES.contains(&kind) => value.clone(),
        IFLA_LINKINFO => {
            let info = attributes(value)?;
            let known: Vec<_> = OPTIONS
                .iter()
                .filter(|(kind, name, ..)| find(&info, *kind).is_some_and(|kind| text(kind) == *name))
                .collect();
            let kept = info.iter().filter_map(|attribute| {
                known.iter().find_map(|(kind, _, data, allowed)| match kind_of(attribute) {
                    found if found == *kind => Some(attribute.clone()),
                    found if found == *data => {
                        let mut inner = attributes(&attribute.1)?;
                        inner.retain(|attribute| allowed.contains(&kind_of(attribute)));
                        Some((attribute.0, write(&inner)))
                    }
                    _ => None,
                })
            });
            write(&kept.collect::<Vec<_>>())
        }
        IFLA_AF_SPEC => {
            let families = attributes(value)?;
            let inner = find(&families, AF_INET6).and_then(attributes)?;
            let token =
                inner.into_iter().find(|a| kind_of(a) == INET6_TOKEN && a.1.iter().any(|b| *b != 0))?;
            write(&[(AF_INET6, write(&[token]))])
        }
        _ => return None,
    };
    (!value.is_empty()).then_some((attribute.0, value))
}

/// Sets the missing properties of each device.
pub(super) fn put(route: &Route, wanted: &[Object]) -> Result<()> {
    let (present, _) = read(route)?;
    for link in wanted {
        let shown = String::from_utf8_lossy(name(link)).escape_debug().to_string();
        // The caller made all devices. Those that the kernel makes by itself may be missing on this kernel.
        let here = present.iter().find(|here| index(here) == index(link) && name(here) == name(link));
        let Some(here) = here else { continue };
        let mut change = Object { head: vec![0; HEAD], attributes: Vec::new() };
        change.set_u32(4, index(link));
        let names =
            link.attribute(IFLA_PROP_LIST).filter(|names| here.attribute(IFLA_PROP_LIST) != Some(names));
        if let Some(names) = names {
            change.attributes = vec![(IFLA_PROP_LIST | NESTED, names.to_vec())];
            let made = route.raw(RTM_NEWLINKPROP, NLM_F_CREATE | NLM_F_EXCL, &change.bytes());
            made.context(format!("give network device {shown} its other names"))?;
        }
        // The link may come from a forged file.
        let allowed: Vec<_> = link.attributes.iter().filter_map(settled).collect();
        change.attributes = differing(&allowed, &here.attributes);
        change.attributes.retain(|attribute| kind_of(attribute) != IFLA_PROP_LIST);
        let is_token = |attribute: &Attribute| kind_of(attribute) == IFLA_AF_SPEC;
        if let Some(at) = change.attributes.iter().position(is_token) {
            let attributes = vec![change.attributes.remove(at)];
            let token = Object { attributes, ..change.clone() };
            // A device that ignores router advertisements needs no token, and refuses one.
            if let Err(e) = route.raw(RTM_NEWLINK, 0, &token.bytes()) {
                tracing::warn!("network device {shown} has not its token (ip token): {e}");
            }
        }
        if !change.attributes.is_empty() {
            let made = route.raw(RTM_NEWLINK, 0, &change.bytes());
            made.context(format!("give network device {shown} what it had"))?;
        }
    }
    Ok(())
}

/// The attributes of `wanted` that differ in `present`; of nested attributes only the inner ones that differ.
fn differing(wanted: &[Attribute], present: &[Attribute]) -> Vec<Attribute> {
    let differs = |attribute: &Attribute| {
        let (kind, value) = (kind_of(attribute), &attribute.1);
        let here = find(present, kind).unwrap_or_default();
        if here == value {
            return None;
        }
        if kind != IFLA_LINKINFO {
            return Some(attribute.clone());
        }
        let (wanted, present) = (attributes(value)?, attributes(here)?);
        let mut info = Vec::new();
        for (kind, data) in [(INFO_KIND, INFO_DATA), (INFO_SLAVE_KIND, INFO_SLAVE_DATA)] {
            let inner = |all: &[Attribute]| find(all, data).and_then(attributes).unwrap_or_default();
            let (mut wanted_inner, present_inner) = (inner(&wanted), inner(&present));
            wanted_inner.retain(|(kind, value)| find(&present_inner, kind & !NESTED) != Some(value));
            if let Some(name) = find(&wanted, kind).filter(|_| !wanted_inner.is_empty()) {
                info.extend([(kind, name.to_vec()), (data | NESTED, write(&wanted_inner))]);
            }
        }
        (!info.is_empty()).then(|| (attribute.0, write(&info)))
    };
    wanted.iter().filter_map(differs).collect()
}
