//! Objects of a network namespace that nobody can make in another one.

use std::path::Path;

use super::classes::{CLASSES, asking};
use super::object::{Object, attributes, text};
use super::{generic, links};
use crate::Result;
use crate::rtnetlink::Route;

/// linux/rtnetlink.h
const RTM_GETQDISC: u16 = 38;
const RTM_GETTFILTER: u16 = 46;
const RTM_GETMDB: u16 = 86;
/// struct tcmsg: the device at 4, the handle at 8, the parent at 12.
const TCMSG: usize = 20;
const TCA_KIND: u16 = 1;
/// Where clsact and ingress have filters (linux/pkt_sched.h, TC_H_MIN_INGRESS and TC_H_MIN_EGRESS).
const CLSACT: [u32; 2] = [0xffff_fff2, 0xffff_fff3];
/// struct br_port_msg, the attribute that holds an entry, and MDB_PERMANENT (linux/if_bridge.h).
const BR_PORT_MSG: [u8; 8] = [7, 0, 0, 0, 0, 0, 0, 0];
const MDB: u16 = 1;
const PERMANENT: u8 = 1;
/// linux/xfrm.h: XFRM_MSG_GETSA and XFRM_MSG_GETPOLICY.
const IPSEC: [u16; 2] = [0x12, 0x15];
/// NETLINK_XFRM (linux/netlink.h), in the second column of /proc/net/netlink: the kernel has a socket of each protocol.
const XFRM: &str = "6";
/// NFNL_SUBSYS_IPSET and IPSET_CMD_LIST; struct nfgenmsg, and the attribute of the protocol's version.
const IPSET_LIST: u16 = 6 << 8 | 7;
const IPSET: [u8; 12] = [0, 0, 0, 0, 5, 0, 1, 0, 7, 0, 0, 0];

/// One line for each such object in the calling thread's network namespace, which is that of process `pid`.
pub(super) fn read(route: &Route, pid: i32) -> Result<Vec<String>> {
    let (links, mut strange) = links::read(route)?;
    let devices: Vec<u32> = links.iter().map(links::index).collect();
    for class in &CLASSES {
        strange.extend(class.read(route, &devices)?.1);
    }
    strange.extend(generic::read()?.1);
    let mut add = |there: bool, what: &str| strange.extend(there.then(|| what.to_owned()));
    add(has_filters(route)?, "there are filters of queueing disciplines (tc filter)");
    add(has_groups(route)?, "there are permanent multicast groups of a bridge (bridge mdb)");
    add(has_ipsec(pid)?, "there are states or policies of IPsec (ip xfrm)");
    let sets = Route::of(rustix::net::netlink::NETFILTER).and_then(|route| route.has_any(IPSET_LIST, &IPSET));
    add(sets.unwrap_or(false), "there are sets of addresses (ipset)");
    let arp = std::fs::read(Path::new("/proc").join(pid.to_string()).join("net/arp_tables_names"));
    let routes = |family: &str| {
        hiber_sys::file::read_to_string(format!("/proc/sys/net/{family}/conf/all/mc_forwarding"))
            .is_ok_and(|number| number.trim() != "0")
    };
    add(routes("ipv4") || routes("ipv6"), "a process routes multicast (MRT_INIT)");
    add(arp.is_ok_and(|names| !names.is_empty()), "there are tables of arptables");
    Ok(strange)
}

/// Whether the calling thread's network namespace, which is that of process `pid`, has states or policies of IPsec.
pub(crate) fn has_ipsec(pid: i32) -> Result<bool> {
    // A socket of a protocol that nobody has used yet would load the kernel's module for it.
    let sockets = hiber_sys::file::read_to_string(format!("/proc/{pid}/net/netlink")).unwrap_or_default();
    let is_known = |line: &str| line.split_whitespace().nth(1) == Some(XFRM);
    if !sockets.lines().any(is_known) {
        return Ok(false);
    }
    let xfrm = Route::of(rustix::net::netlink::XFRM)?;
    for kind in IPSEC {
        if xfrm.has_any(kind, &[])? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn has_filters(route: &Route) -> Result<bool> {
    for answer in route.dump(RTM_GETQDISC, &[0; TCMSG])? {
        let Some(qdisc) = Object::parse(&answer, TCMSG) else { continue };
        let (device, handle) = (qdisc.u32_at(4), qdisc.u32_at(8));
        let parents = match text(qdisc.attribute(TCA_KIND).unwrap_or_default()) {
            _ if handle == 0 => continue,
            b"clsact" | b"ingress" => CLSACT.to_vec(),
            _ => vec![handle],
        };
        for parent in parents {
            if route.has_any(RTM_GETTFILTER, &asking(&asking(&[0; TCMSG], 4, device), 12, parent))? {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn has_groups(route: &Route) -> Result<bool> {
    let inner = |value: &[u8]| attributes(value).unwrap_or_default();
    let is_permanent = |answer: &Vec<u8>| {
        let Some(bridge) = Object::parse(answer, BR_PORT_MSG.len()) else { return false };
        let groups = inner(bridge.attribute(MDB).unwrap_or_default());
        // Each group's entries, of which each begins with struct br_mdb_entry: a device and a state.
        let entries = groups.iter().flat_map(|(_, entries)| inner(entries));
        entries.into_iter().any(|(_, entry)| entry.get(4) == Some(&PERMANENT))
    };
    Ok(route.dump(RTM_GETMDB, &BR_PORT_MSG)?.iter().any(is_permanent))
}
