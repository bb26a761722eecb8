//! Changes of images of a network namespace: what `ip` has saved and the kernel does not take back, and what it would take
//! otherwise than it was.

use crate::directory::ImageDirectory;
use crate::error::{CriuError, Result};

/// nlmsghdr and rtmsg, and nlmsghdr and ifaddrmsg (linux/rtnetlink.h, linux/if_addr.h).
const ROUTE_HEAD: usize = 16 + 12;
const ADDRESS_HEAD: usize = 16 + 8;
/// struct rtnexthop.
const HOP_HEAD: usize = 8;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTA_MULTIPATH: u16 = 9;
const RTA_NH_ID: u16 = 30;
const IFA_FLAGS: u16 = 8;
/// Flags of a route's next hop that the kernel reports and refuses in requests: DEAD, OFFLOAD, LINKDOWN, UNRESOLVED, TRAP.
const OBSERVED: u8 = 1 | 8 | 16 | 32 | 64;
const IFA_F_NODAD: u8 = 0x02;
/// DADFAILED and TENTATIVE.
const NOT_CHECKED: u8 = 0x08 | 0x40;
const AF_INET6: u8 = 10;
/// Fields of `net_device_entry`, and its type of a bridge (netdev.proto).
const TYPE: u64 = 1;
const ADDRESS: u64 = 7;
const BRIDGE: u64 = 6;
/// No honest image of a network is larger.
const MAX_SIZE: u64 = 64 << 20;

/// Makes a dump's images of network namespaces such that a restore takes them: of routes over devices without a carrier the
/// kernel takes the route, but not the remark that there is no carrier; a bridge that has lost its last port has no hardware address,
/// and none can be given to it; and IPv6 addresses that were found to be unique are so, instead of being looked for anew, while no
/// route may use them as its source. Routes by nexthop objects are left out, as those are.
///
/// # Errors
/// [`CriuError::Image`] if an image is malformed, [`CriuError::Io`] if it cannot be read or written.
pub fn settle_network(dir: &ImageDirectory) -> Result<()> {
    for name in dir.names()?.iter().filter(|name| name.ends_with(".img")) {
        let settle: fn(&mut Vec<u8>) -> Option<()> = match name.split_once('-') {
            Some(("route" | "route6", _)) => routes,
            Some(("ifaddr", _)) => |bytes| messages(bytes, RTM_NEWADDR, address),
            Some(("netdev", _)) => devices,
            _ => continue,
        };
        let path = dir.path().join(name);
        let read = || -> std::io::Result<Vec<u8>> {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut std::io::Read::take(dir.file(name)?, MAX_SIZE), &mut bytes)?;
            Ok(bytes)
        };
        let before = read().map_err(|e| CriuError::io(format!("read {}", path.display()), e))?;
        let mut bytes = before.clone();
        settle(&mut bytes)
            .ok_or_else(|| CriuError::Image { path, problem: "is not what ip or CRIU writes".into() })?;
        if bytes != before {
            dir.write(name, &bytes)?;
        }
    }
    Ok(())
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Goes through ip's magic number and netlink messages.
fn messages(bytes: &mut [u8], kind: u16, settle: fn(&mut [u8]) -> Option<()>) -> Option<()> {
    let mut at = 4;
    while at < bytes.len() {
        let length = u32_at(bytes, at)? as usize;
        let message = bytes.get_mut(at..at.checked_add(length)?).filter(|message| message.len() >= 16)?;
        if u16_at(message, 4)? == kind {
            settle(message)?;
        }
        at += length.next_multiple_of(4);
    }
    Some(())
}

fn routes(bytes: &mut Vec<u8>) -> Option<()> {
    messages(bytes, RTM_NEWROUTE, route)?;
    // Those by nexthop objects, which CRIU does not save.
    let (magic, mut rest) = bytes.split_at(bytes.len().min(4));
    let mut kept = magic.to_vec();
    while !rest.is_empty() {
        let length = (u32_at(rest, 0)? as usize).next_multiple_of(4).min(rest.len());
        let (message, after) = rest.split_at_checked(length.max(16))?;
        let (mut body, mut by_object) = (message.get(ROUTE_HEAD..).unwrap_or_default().to_vec(), false);
        attributes(&mut body, |kind, _| {
            by_object |= kind == RTA_NH_ID;
            Some(())
        })?;
        if !by_object || u16_at(message, 4)? != RTM_NEWROUTE {
            kept.extend(message);
        }
        rest = after;
    }
    *bytes = kept;
    Some(())
}

/// Calls with each attribute's type and value.
fn attributes(mut rest: &mut [u8], mut each: impl FnMut(u16, &mut [u8]) -> Option<()>) -> Option<()> {
    while rest.len() >= 4 {
        let (length, kind) = (usize::from(u16_at(rest, 0)?), u16_at(rest, 2)?);
        each(kind, rest.get_mut(4..length)?)?;
        let next = length.next_multiple_of(4).min(rest.len());
        rest = &mut rest[next..];
    }
    Some(())
}

fn route(message: &mut [u8]) -> Option<()> {
    // rtm_flags, of which the lowest byte is about next hops.
    clear(message.get_mut(16 + 8..ROUTE_HEAD)?);
    attributes(message.get_mut(ROUTE_HEAD..)?, |kind, mut hops| {
        while kind == RTA_MULTIPATH && hops.len() >= HOP_HEAD {
            let length = usize::from(u16_at(hops, 0)?);
            hops[2] &= !OBSERVED;
            hops = hops.get_mut(length.max(HOP_HEAD).next_multiple_of(4)..).unwrap_or_default();
        }
        Some(())
    })
}

fn clear(flags: &mut [u8]) {
    let value = u32_at(flags, 0).unwrap_or_default() & !u32::from(OBSERVED);
    flags.copy_from_slice(&value.to_ne_bytes());
}

fn address(message: &mut [u8]) -> Option<()> {
    let (family, flags) = (*message.get(16)?, message.get_mut(18)?);
    if family != AF_INET6 || *flags & NOT_CHECKED != 0 {
        return Some(());
    }
    *flags |= IFA_F_NODAD;
    attributes(message.get_mut(ADDRESS_HEAD..)?, |kind, value| {
        if kind == IFA_FLAGS {
            let flags = u32_at(value, 0)? | u32::from(IFA_F_NODAD);
            value.get_mut(..4)?.copy_from_slice(&flags.to_ne_bytes());
        }
        Some(())
    })
}

/// Goes through CRIU's two magic numbers and entries.
fn devices(bytes: &mut Vec<u8>) -> Option<()> {
    let mut out = bytes.get(..8)?.to_vec();
    let mut rest = &bytes[8..];
    while !rest.is_empty() {
        let length = u32::from_le_bytes(rest.get(..4)?.try_into().ok()?) as usize;
        let entry = device(rest.get(4..length.checked_add(4)?)?)?;
        out.extend(u32::try_from(entry.len()).ok()?.to_le_bytes());
        out.extend(entry);
        rest = &rest[4 + length..];
    }
    *bytes = out;
    Some(())
}

/// The entry, of a bridge without a hardware address that is none.
fn device(entry: &[u8]) -> Option<Vec<u8>> {
    let (mut out, mut is_bridge, mut has_none, mut rest) = (Vec::new(), false, false, entry);
    while !rest.is_empty() {
        let start = rest;
        let key = varint(&mut rest)?;
        let mut value = None;
        let length = match key & 7 {
            0 => {
                value = Some(varint(&mut rest)?);
                0
            }
            1 => 8,
            2 => usize::try_from(varint(&mut rest)?).ok()?,
            5 => 4,
            _ => return None,
        };
        let (payload, after) = rest.split_at_checked(length)?;
        rest = after;
        is_bridge |= key >> 3 == TYPE && value == Some(BRIDGE);
        if key >> 3 == ADDRESS && payload.iter().all(|byte| *byte == 0) {
            has_none = true;
            continue;
        }
        out.extend(&start[..start.len() - rest.len()]);
    }
    Some(if is_bridge && has_none { out } else { entry.to_vec() })
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let length = rest.iter().take(10).position(|byte| byte & 0x80 == 0)? + 1;
    let (bytes, after) = rest.split_at(length);
    *rest = after;
    Some(bytes.iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(16 + body.len()).unwrap();
        [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], body].concat()
    }

    fn image(name: &str, bytes: &[u8]) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(name), bytes).unwrap();
        settle_network(&ImageDirectory::open(dir.path()).unwrap()).unwrap();
        std::fs::read(dir.path().join(name)).unwrap()
    }

    #[test]
    fn routes_without_a_carrier_are_routes() {
        let body = |flags: u32, hop: u8| {
            let hops = [8, 0, hop, 0, 3, 0, 0, 0].repeat(2);
            let attribute = [&[20, 0, 9, 0][..], &hops].concat();
            [&[2, 8, 0, 0, 254, 3, 0, 1][..], &flags.to_ne_bytes(), &attribute].concat()
        };
        let magic = [0x24, 0x12, 0x31, 0x45];
        let file = |flags, hop| [&magic[..], &message(RTM_NEWROUTE, &body(flags, hop))].concat();
        // ONLINK and a flag of the route's stay.
        assert_eq!(image("route-9.img", &file(0x1000 | 16 | 4 | 1, 16 | 4)), file(0x1000 | 4, 4));
        assert_eq!(image("other-9.img", &file(16, 16)), file(16, 16));
    }

    #[test]
    fn addresses_that_were_checked_are_not_checked_again() {
        let file = |family: u8, flags: u8| {
            let body = [&[family, 64, flags, 0, 5, 0, 0, 0, 8, 0, 8, 0][..], &[flags, 4, 0, 0]].concat();
            [&[0x22, 0x12, 0x36, 0x47][..], &message(RTM_NEWADDR, &body)].concat()
        };
        assert_eq!(image("ifaddr-9.img", &file(AF_INET6, 0x80)), file(AF_INET6, 0x82));
        assert_eq!(image("ifaddr-9.img", &file(AF_INET6, 0x40)), file(AF_INET6, 0x40));
        assert_eq!(image("ifaddr-9.img", &file(2, 0x80)), file(2, 0x80));
    }

    #[test]
    fn a_bridge_without_an_address_gets_one() {
        let file = |kind: u8, address: &[u8]| {
            let entry = [&[8, kind, 16, 7, 42, 2, b'b', b'r'][..], address, &[0x70, 4]].concat();
            [&[0x19, 0x43, 0x56, 0x54, 1, 2, 3, 4, u8::try_from(entry.len()).unwrap(), 0, 0, 0][..], &entry]
                .concat()
        };
        let none = [0x3a, 6, 0, 0, 0, 0, 0, 0];
        assert_eq!(image("netdev-9.img", &file(6, &none)), file(6, &[]));
        assert_eq!(image("netdev-9.img", &file(2, &none)), file(2, &none));
        let some = [0x3a, 6, 2, 0, 0, 0, 0, 1];
        assert_eq!(image("netdev-9.img", &file(6, &some)), file(6, &some));
    }

    #[test]
    fn what_is_cut_off_is_told() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("route-9.img"), [0x24, 0x12, 0x31, 0x45, 60, 0, 0, 0, 24, 0]).unwrap();
        let error = settle_network(&ImageDirectory::open(dir.path()).unwrap()).unwrap_err().to_string();
        assert!(error.contains("route-9.img"), "{error}");
    }
}
