//! The classes of objects in a network namespace that rtnetlink(7) both lists and makes, and the attributes that a request to
//! make one needs.

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};

use super::object::{Attribute, Object, attributes, find, kind_of, text, write};
use crate::error::Context;
use crate::rtnetlink::Route;
use crate::{Error, Result, SysError};

const AF_INET: u8 = 2;
const AF_BRIDGE: u8 = 7;
const AF_INET6: u8 = 10;
/// RT_TABLE_MAIN and RTPROT_KERNEL of linux/rtnetlink.h.
const MAIN: u32 = 254;
const KERNEL: u8 = 2;
/// RTM_F_CLONED, and RTNH_F_ONLINK, the only flag of a next hop that the kernel does not set itself.
const CLONED: u32 = 0x200;
const ONLINK: u32 = 4;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_MULTIPATH: u16 = 9;
const RTA_FLOW: u16 = 11;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;
const RTA_NH_ID: u16 = 30;
/// linux/neighbour.h
const NUD_NOARP: u16 = 0x40;
const NUD_PERMANENT: u16 = 0x80;
const NTF_SELF: u8 = 2;
const NTF_MASTER: u8 = 4;
const NTF_PROXY: u8 = 8;
const NDA_LLADDR: u16 = 2;
const NDA_MASTER: u16 = 9;
/// FIB_RULE_INVERT of linux/fib_rules.h
const INVERT: u32 = 2;
const FRA_PROTOCOL: u16 = 21;
/// linux/rtnetlink.h
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_HTB_INIT: u16 = 2;
const QDISCS: [&[u8]; 11] = [
    b"pfifo",
    b"bfifo",
    b"tbf",
    b"htb",
    b"ingress",
    b"clsact",
    b"noqueue",
    b"prio",
    b"fq",
    b"fq_codel",
    b"pfifo_fast",
];

/// One class. Its lists of attributes are used for reading a namespace, and for comparing another one with it.
pub(super) struct Class {
    /// Its name in JSON.
    pub(super) name: &'static str,
    /// Its name in messages.
    what: &'static str,
    get: u16,
    /// The body of the request for a dump.
    question: &'static [u8],
    /// The offset of a device's number in that body, for classes that are listed device by device.
    of_device: Option<usize>,
    new: u16,
    flags: u16,
    /// Whether the kernel makes some objects by itself, which may have been removed since.
    delete: Option<u16>,
    /// Bytes of the fixed part.
    head: usize,
    /// Attributes that are compared, and sent to make an object.
    kept: &'static [u16],
    /// Attributes that the kernel only reports.
    observed: &'static [u16],
    /// Removes values that the kernel only reports.
    settle: fn(&mut Object) -> Verdict,
}

/// The treatment of an object.
pub(super) enum Verdict {
    Kept,
    /// The kernel makes the object by itself, or the caller makes it.
    Others,
    /// The object cannot be made again, for this reason.
    Strange(String),
}

/// The classes, in an order in which later ones may need earlier ones. Rules for routing come last: the kernel checks a route's
/// gateway by the rules in force.
pub(super) const CLASSES: [Class; 9] = [
    Class {
        name: "labels",
        what: "a label of IPv6 addresses (ip addrlabel)",
        get: 74,
        question: &[AF_INET6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        of_device: None,
        new: 72,
        flags: NLM_F_CREATE | NLM_F_REPLACE,
        delete: Some(73),
        head: 12,
        kept: &[1, 2],
        observed: &[],
        settle: label,
    },
    Class {
        name: "neighbours",
        what: "a neighbour (ip neigh)",
        get: 30,
        question: &[0; 12],
        of_device: None,
        new: 28,
        flags: NLM_F_CREATE | NLM_F_REPLACE,
        delete: None,
        head: 12,
        kept: &[1, NDA_LLADDR, 12, 15],
        observed: &[3, 4],
        settle: neighbour,
    },
    Class {
        name: "proxies",
        what: "a neighbour that is answered for (ip neigh show proxy)",
        get: 30,
        question: &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, NTF_PROXY, 0],
        of_device: None,
        new: 28,
        flags: NLM_F_CREATE | NLM_F_REPLACE,
        delete: None,
        head: 12,
        kept: &[1, 12],
        observed: &[],
        settle: proxy,
    },
    Class {
        name: "stations",
        what: "an entry of a bridge's table of addresses (bridge fdb)",
        get: 30,
        question: &[AF_BRIDGE, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        of_device: None,
        new: 28,
        flags: NLM_F_CREATE | NLM_F_REPLACE,
        delete: None,
        head: 12,
        kept: &[NDA_LLADDR, 5],
        observed: &[3, 8, NDA_MASTER, 15],
        settle: station,
    },
    Class {
        name: "nextHops",
        what: "a nexthop object (ip nexthop)",
        get: 106,
        question: &[0; 8],
        of_device: None,
        new: 104,
        flags: NLM_F_CREATE | NLM_F_REPLACE,
        delete: None,
        head: 8,
        kept: &[1, 2, 3, 4, 5, 6, 11],
        observed: &[10, 13, 14, 15, 16],
        settle: next_hop,
    },
    Class {
        name: "routes",
        what: "a route",
        get: 26,
        question: &[0; 12],
        of_device: None,
        new: 24,
        flags: NLM_F_CREATE | NLM_F_APPEND,
        delete: None,
        head: 12,
        kept: &[
            1,
            2,
            RTA_OIF,
            RTA_GATEWAY,
            6,
            7,
            8,
            RTA_MULTIPATH,
            RTA_FLOW,
            RTA_TABLE,
            RTA_VIA,
            20,
            26,
            RTA_NH_ID,
        ],
        observed: &[12, 24],
        settle: route,
    },
    Class {
        name: "qdiscs",
        what: "a queueing discipline (tc qdisc)",
        get: 38,
        question: &[0; 20],
        of_device: None,
        new: 36,
        flags: NLM_F_CREATE | NLM_F_REPLACE,
        delete: None,
        head: 20,
        kept: &[TCA_KIND, TCA_OPTIONS],
        observed: &[3, 4, 6, 7, 9, 12, 16],
        settle: qdisc,
    },
    Class {
        name: "classes",
        what: "a class of a queueing discipline (tc class)",
        get: 42,
        question: &[0; 20],
        of_device: Some(4),
        new: 40,
        flags: NLM_F_CREATE | NLM_F_REPLACE,
        delete: None,
        head: 20,
        kept: &[TCA_KIND, TCA_OPTIONS],
        observed: &[3, 4, 6, 7, 9, 12, 16],
        settle: tc_class,
    },
    Class {
        name: "rules",
        what: "a rule for IPv6 (ip -6 rule)",
        get: 34,
        question: &[AF_INET6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        of_device: None,
        new: 32,
        flags: NLM_F_CREATE | NLM_F_EXCL,
        delete: Some(33),
        head: 12,
        kept: &[
            1,
            2,
            3,
            4,
            6,
            10,
            11,
            12,
            13,
            14,
            15,
            16,
            17,
            19,
            20,
            FRA_PROTOCOL,
            22,
            23,
            24,
            25,
            26,
            27,
            28,
            29,
            30,
        ],
        observed: &[18],
        settle: rule,
    },
];

impl Class {
    /// The objects of the class, for `devices`, and the reasons why some cannot be made again.
    pub(super) fn read(&self, route: &Route, devices: &[u32]) -> Result<(Vec<Object>, Vec<String>)> {
        let (mut objects, mut strange) = (Vec::new(), Vec::new());
        let mut questions = vec![self.question.to_vec()];
        if let Some(at) = self.of_device {
            questions = devices.iter().map(|device| asking(self.question, at, *device)).collect();
        }
        for question in questions {
            for answer in route.dump(self.get, &question).context(format!("list each {}", self.what))? {
                match self.take(&answer)? {
                    Ok(Some(object)) => objects.push(object),
                    Ok(None) => {}
                    Err(why) => strange.push(format!("{} {why}", self.what)),
                }
            }
        }
        Ok((objects, strange))
    }

    /// The object in an answer. `None` if another program or the kernel makes it; `Err` with the reason if it cannot be made
    /// again.
    fn take(&self, answer: &[u8]) -> Result<std::result::Result<Option<Object>, String>> {
        let malformed =
            || Error::from(SysError::new("recv", format!("{} that is none", self.what), libc::EPROTO));
        let mut object = Object::parse(answer, self.head).ok_or_else(malformed)?;
        Ok(match (self.settle)(&mut object) {
            Verdict::Others => Ok(None),
            Verdict::Strange(why) => Err(why),
            Verdict::Kept => {
                object.attributes.retain(|attribute| !self.observed.contains(&kind_of(attribute)));
                match object.attributes.iter().map(kind_of).find(|kind| !self.kept.contains(kind)) {
                    Some(kind) => Err(format!("has an attribute of the unknown kind {kind}")),
                    None => Ok(Some(object)),
                }
            }
        })
    }

    /// The missing objects of `wanted`, and the objects of the kernel that are not wanted.
    pub(super) fn differences<'a>(
        &self,
        route: &Route,
        devices: &[u32],
        wanted: &'a [Object],
    ) -> Result<(Vec<&'a Object>, Vec<Object>)> {
        if wanted.is_empty() && self.delete.is_none() {
            return Ok((Vec::new(), Vec::new()));
        }
        let (mut present, _) = self.read(route, devices)?;
        let missing = wanted.iter().filter(|object| !present.contains(object)).collect();
        present.retain(|object| self.delete.is_some() && !wanted.contains(object));
        Ok((missing, present))
    }

    pub(super) fn remove(&self, route: &Route, object: &Object) -> Result<()> {
        let Some(delete) = self.delete else { return Ok(()) };
        route.raw(delete, 0, &object.bytes()).map(drop).context(format!("remove {}", self.what))
    }

    pub(super) fn make(&self, route: &Route, object: &Object) -> Result<()> {
        let bytes = object.bytes();
        // The object may come from a forged file.
        match self.take(&bytes)? {
            Ok(Some(taken)) if taken == *object => {}
            _ => return Err(Error::invalid(self.name, format!("{object:?} is no {}", self.what))),
        }
        match route.raw(self.new, self.flags, &bytes) {
            Err(e) if e.errno() == Some(libc::EEXIST) => Ok(()),
            made => made.map(drop).context(format!("make {} again: {}", self.what, shown(object))),
        }
    }
}

/// For an error: in hexadecimal digits.
fn shown(object: &Object) -> String {
    serde_json::to_string(object).unwrap_or_default()
}

pub(super) fn asking(question: &[u8], at: usize, device: u32) -> Vec<u8> {
    let mut question = question.to_vec();
    question[at..at + 4].copy_from_slice(&device.to_ne_bytes());
    question
}

fn label(object: &mut Object) -> Verdict {
    // struct ifaddrlblmsg: a sequence number of the table.
    object.set_u32(8, 0);
    Verdict::Kept
}

/// struct ndmsg: the state is at 8, flags are at 10, a type at 11.
fn neighbour(object: &mut Object) -> Verdict {
    if !matches!(object.head[0], AF_INET | AF_INET6) {
        return Verdict::Others;
    }
    object.head[11] = 0;
    let state = object.u16_at(8);
    // The kernel makes NOARP entries for multicast, and for devices without addresses.
    let address = object.attribute(NDA_LLADDR).unwrap_or_default();
    let given = address.first().is_some_and(|byte| byte & 1 == 0) && address.iter().any(|byte| *byte != 0);
    match state & NUD_PERMANENT != 0 || (state & NUD_NOARP != 0 && given) {
        true => Verdict::Kept,
        false => Verdict::Others,
    }
}

fn proxy(object: &mut Object) -> Verdict {
    if !matches!(object.head[0], AF_INET | AF_INET6) || object.head[10] & NTF_PROXY == 0 {
        return Verdict::Others;
    }
    object.head[11] = 0;
    Verdict::Kept
}

fn station(object: &mut Object) -> Verdict {
    if object.head[0] != AF_BRIDGE {
        return Verdict::Others;
    }
    object.head[11] = 0;
    let (state, device) = (object.u16_at(8), object.u32_at(4));
    let is_multicast = object.attribute(NDA_LLADDR).and_then(|a| a.first()).is_some_and(|byte| byte & 1 != 0);
    match object.attribute(NDA_MASTER).map(|master| master == device.to_ne_bytes()) {
        // A unicast address is one that the device accepts packets for; multicast addresses follow the sockets that joined the
        // group.
        None if object.head[10] & NTF_SELF != 0 && !is_multicast => Verdict::Kept,
        None if object.head[10] & NTF_MASTER != 0 => Verdict::Kept,
        Some(is_bridge) if state & NUD_NOARP != 0 => {
            object.head[10] |= if is_bridge { NTF_SELF } else { NTF_MASTER };
            Verdict::Kept
        }
        // The entry was learned, or is the port's own.
        _ => Verdict::Others,
    }
}

/// struct nhmsg: family, scope, protocol, flags at 4.
fn next_hop(object: &mut Object) -> Verdict {
    object.head[1] = 0;
    object.set_u32(4, object.u32_at(4) & ONLINK);
    Verdict::Kept
}

/// struct rtmsg: table, protocol, scope and type from 4, flags at 8.
fn route(object: &mut Object) -> Verdict {
    let flags = object.u32_at(8);
    let long = object.attribute(RTA_TABLE).and_then(<[u8]>::first_chunk).map(|b| u32::from_ne_bytes(*b));
    let table = long.unwrap_or(object.head[4].into());
    let by_object = object.attribute(RTA_NH_ID).is_some();
    if !matches!(object.head[0], AF_INET | AF_INET6)
        || object.head[5] == KERNEL
        || flags & CLONED != 0
        || (table == MAIN && !by_object)
    {
        return Verdict::Others;
    }
    object.set_u32(8, flags & ONLINK);
    if by_object {
        // The kernel reports the nexthop object's values in the route, too, but refuses them in a request that names the object.
        let said = [RTA_OIF, RTA_GATEWAY, RTA_MULTIPATH, RTA_VIA];
        object.attributes.retain(|attribute| !said.contains(&kind_of(attribute)));
    }
    for (_, hops) in object.attributes.iter_mut().filter(|attribute| kind_of(attribute) == RTA_MULTIPATH) {
        if !settle_hops(hops) {
            return Verdict::Strange("has a next hop with more than an address and a device".into());
        }
    }
    Verdict::Kept
}

/// struct rtnexthop: length, flags at 2, weight, and the device at 4; attributes follow.
fn settle_hops(mut hops: &mut [u8]) -> bool {
    while hops.len() >= 8 {
        let length = usize::from(u16::from_ne_bytes([hops[0], hops[1]]));
        hops[2] &= ONLINK as u8;
        let plain = |attribute: &Attribute| [RTA_GATEWAY, RTA_VIA, RTA_FLOW].contains(&kind_of(attribute));
        if !hops.get(8..length).and_then(attributes).is_some_and(|all| all.iter().all(plain)) {
            return false;
        }
        hops = hops.get_mut(length.next_multiple_of(4)..).unwrap_or_default();
    }
    true
}

/// struct fib_rule_hdr: flags at 8.
fn rule(object: &mut Object) -> Verdict {
    if object.head[0] != AF_INET6 {
        return Verdict::Others;
    }
    object.set_u32(8, object.u32_at(8) & INVERT);
    Verdict::Kept
}

/// struct tcmsg: the handle at 8, the parent at 12, and at 16 what the kernel tells.
fn qdisc(object: &mut Object) -> Verdict {
    // The kernel's own qdiscs have no number.
    if object.u32_at(8) == 0 {
        return Verdict::Others;
    }
    object.set_u32(16, 0);
    let kind = text(object.attribute(TCA_KIND).unwrap_or_default()).to_vec();
    let kind = &*kind;
    if kind == b"htb" {
        settle_htb(object);
    }
    match QDISCS.contains(&kind) {
        true => Verdict::Kept,
        false => Verdict::Strange(format!("is of kind {}", String::from_utf8_lossy(kind).escape_debug())),
    }
}

/// The kernel reports a version in two halves, and wants only the first in a request (sch_htb.c, HTB_VER).
fn settle_htb(object: &mut Object) {
    for (_, options) in object.attributes.iter_mut().filter(|attribute| kind_of(attribute) == TCA_OPTIONS) {
        let Some(mut inner) = attributes(options) else { continue };
        for (_, init) in inner.iter_mut().filter(|attribute| kind_of(attribute) == TCA_HTB_INIT) {
            if let Some(version) = init.first_chunk_mut() {
                let number = u32::from_ne_bytes(*version);
                *version = if number > 0xffff { number >> 16 } else { number }.to_ne_bytes();
            }
        }
        *options = write(&inner);
    }
}

/// As [`qdisc`]. Among the supported kinds, only htb has classes that users make.
fn tc_class(object: &mut Object) -> Verdict {
    object.set_u32(16, 0);
    match text(find(&object.attributes, TCA_KIND).unwrap_or_default()) {
        b"htb" => Verdict::Kept,
        _ => Verdict::Others,
    }
}

#[cfg(test)]
#[path = "classes_tests.rs"]
mod tests;
