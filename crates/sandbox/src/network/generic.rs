//! Objects of a network namespace that the kernel tells and makes by generic netlink: endpoints of MPTCP, segment routing, IOAM.

use std::collections::BTreeMap;

use netlink_packet_core::NLM_F_DUMP;

use super::object::{Object, attributes, find, kind_of, text};
use crate::error::Context;
use crate::rtnetlink::Route;
use crate::{Error, Result, SysError};

/// linux/genetlink.h
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
/// struct genlmsghdr: the command, the version, two bytes that are 0.
const HEAD: usize = 4;
/// linux/mptcp_pm.h
const MPTCP_PM_ATTR_ADDR: u16 = 1;
const MPTCP_PM_ADDR_ATTR_FLAGS: u16 = 6;
const MPTCP_PM_ADDR_FLAG_IMPLICIT: u32 = 1 << 4;
const MPTCP_PM_ATTR_RCV_ADD_ADDRS: u16 = 2;
const MPTCP_PM_ATTR_SUBFLOWS: u16 = 3;
/// linux/seg6_genl.h
const SEG6_ATTR_DST: u16 = 1;
/// linux/ioam6_genl.h
const IOAM6_ATTR_NS_ID: u16 = 1;
const IOAM6_ATTR_NS_DATA: u16 = 2;
const IOAM6_ATTR_NS_DATA_WIDE: u16 = 3;
const IOAM6_ATTR_SC_ID: u16 = 4;
const IOAM6_ATTR_SC_DATA: u16 = 5;
const IOAM6_ATTR_SC_NONE: u16 = 6;
const IOAM6_ATTR_PAD: u16 = 7;

/// A kind of objects.
pub(super) struct Kind {
    /// Its name in JSON.
    pub(super) name: &'static str,
    what: &'static str,
    family: &'static [u8],
    /// The command that tells of them, and of all at once or of the only one.
    list: u8,
    flags: u16,
    /// The command that makes one, and the attributes that it needs.
    make: u8,
    kept: &'static [u16],
    /// Attributes that belong to another kind, or say nothing.
    others: &'static [u16],
    /// Whether somebody has made it, and not the kernel by itself.
    is_made: fn(&Object) -> bool,
}

/// In an order in which later ones may need earlier ones.
pub(super) const KINDS: [Kind; 7] = [
    Kind {
        name: "mptcpLimits",
        what: "limits of MPTCP (ip mptcp limits)",
        family: b"mptcp_pm",
        list: 6,
        flags: 0,
        make: 5,
        kept: &[MPTCP_PM_ATTR_RCV_ADD_ADDRS, MPTCP_PM_ATTR_SUBFLOWS],
        others: &[],
        is_made: are_limits_changed,
    },
    Kind {
        name: "mptcpEndpoints",
        what: "an endpoint of MPTCP (ip mptcp endpoint)",
        family: b"mptcp_pm",
        list: 3,
        flags: NLM_F_DUMP,
        make: 1,
        kept: &[MPTCP_PM_ATTR_ADDR],
        others: &[],
        is_made: is_endpoint_made,
    },
    Kind {
        name: "segmentSource",
        what: "the source address of segment routing (ip sr tunsrc)",
        family: b"SEG6",
        list: 4,
        flags: 0,
        make: 3,
        kept: &[SEG6_ATTR_DST],
        others: &[],
        is_made: |source| source.attribute(SEG6_ATTR_DST).is_some_and(|a| a.iter().any(|byte| *byte != 0)),
    },
    Kind {
        name: "segmentKeys",
        what: "a key of segment routing (ip sr hmac)",
        family: b"SEG6",
        list: 2,
        flags: NLM_F_DUMP,
        make: 1,
        // its number, secret, length and algorithm
        kept: &[3, 4, 5, 6],
        others: &[],
        is_made: |_| true,
    },
    Kind {
        name: "ioamSchemas",
        what: "a schema of IOAM (ip ioam schema)",
        family: b"IOAM6",
        list: 6,
        flags: NLM_F_DUMP,
        make: 4,
        kept: &[IOAM6_ATTR_SC_ID, IOAM6_ATTR_SC_DATA],
        others: &[IOAM6_ATTR_NS_ID],
        is_made: |_| true,
    },
    Kind {
        name: "ioamNamespaces",
        what: "a namespace of IOAM (ip ioam namespace)",
        family: b"IOAM6",
        list: 3,
        flags: NLM_F_DUMP,
        make: 1,
        kept: &[IOAM6_ATTR_NS_ID, IOAM6_ATTR_NS_DATA, IOAM6_ATTR_NS_DATA_WIDE],
        others: &[IOAM6_ATTR_SC_ID, IOAM6_ATTR_SC_NONE, IOAM6_ATTR_PAD],
        is_made: |_| true,
    },
    Kind {
        name: "ioamSchemasOfNamespaces",
        what: "the schema of a namespace of IOAM (ip ioam namespace set)",
        family: b"IOAM6",
        list: 3,
        flags: NLM_F_DUMP,
        make: 7,
        kept: &[IOAM6_ATTR_NS_ID, IOAM6_ATTR_SC_ID],
        others: &[IOAM6_ATTR_NS_DATA, IOAM6_ATTR_NS_DATA_WIDE, IOAM6_ATTR_SC_NONE, IOAM6_ATTR_PAD],
        is_made: |namespace| namespace.attribute(IOAM6_ATTR_SC_ID).is_some(),
    },
];

/// A new network namespace takes no addresses that peers announce, and has two subflows of a connection.
fn are_limits_changed(limits: &Object) -> bool {
    let is = |kind, usual: u32| limits.attribute(kind).is_none_or(|value| value == usual.to_ne_bytes());
    !(is(MPTCP_PM_ATTR_RCV_ADD_ADDRS, 0) && is(MPTCP_PM_ATTR_SUBFLOWS, 2))
}

/// The kernel makes endpoints by itself for addresses from which it has opened subflows, and refuses to be asked for such.
fn is_endpoint_made(endpoint: &Object) -> bool {
    let address = endpoint.attribute(MPTCP_PM_ATTR_ADDR).and_then(attributes).unwrap_or_default();
    let flags = find(&address, MPTCP_PM_ADDR_ATTR_FLAGS).and_then(<[u8]>::first_chunk);
    flags.is_none_or(|flags| u32::from_ne_bytes(*flags) & MPTCP_PM_ADDR_FLAG_IMPLICIT == 0)
}

/// The objects of each kind, by its name in JSON, and the reasons why some cannot be made again.
pub(super) type Found = (BTreeMap<String, Vec<Object>>, Vec<String>);

/// Reads those of the calling thread's network namespace.
pub(super) fn read() -> Result<Found> {
    let (mut found, mut strange) = Found::default();
    let generic = Generic::open()?;
    for kind in &KINDS {
        for answer in generic.list(kind)? {
            match kind.take(&answer)? {
                Ok(Some(object)) => found.entry(kind.name.to_owned()).or_default().push(object),
                Ok(None) => {}
                Err(why) => strange.push(format!("{} {why}", kind.what)),
            }
        }
    }
    Ok((found, strange))
}

/// Makes the missing ones of these in the calling thread's network namespace.
pub(super) fn put(wanted: &BTreeMap<String, Vec<Object>>) -> Result<()> {
    if KINDS.iter().all(|kind| !wanted.contains_key(kind.name)) {
        return Ok(());
    }
    let generic = Generic::open()?;
    let (present, _) = read()?;
    for kind in &KINDS {
        let of = |all: &BTreeMap<String, Vec<Object>>| all.get(kind.name).cloned().unwrap_or_default();
        let here = of(&present);
        for object in of(wanted).iter().filter(|object| !here.contains(object)) {
            generic.make(kind, object)?;
        }
    }
    Ok(())
}

impl Kind {
    /// The request to make what an answer tells; `None` if the kernel makes it, `Err` with the reason if nobody can.
    fn take(&self, answer: &[u8]) -> Result<std::result::Result<Option<Object>, String>> {
        let malformed =
            || Error::from(SysError::new("recv", format!("{} that is none", self.what), libc::EPROTO));
        let mut object = Object::parse(answer, HEAD).ok_or_else(malformed)?;
        if !(self.is_made)(&object) {
            return Ok(Ok(None));
        }
        object.head = vec![self.make, 1, 0, 0];
        object.attributes.retain(|attribute| !self.others.contains(&kind_of(attribute)));
        Ok(match object.attributes.iter().map(kind_of).find(|kind| !self.kept.contains(kind)) {
            Some(kind) => Err(format!("has an attribute of the unknown kind {kind}")),
            None => Ok(Some(object)),
        })
    }
}

/// A socket, and the families that the kernel has.
struct Generic {
    route: Route,
    families: Vec<Object>,
}

impl Generic {
    fn open() -> Result<Self> {
        let route = Route::of(rustix::net::netlink::GENERIC)?;
        let answers = route.dump(GENL_ID_CTRL, &[CTRL_CMD_GETFAMILY, 1, 0, 0])?;
        let families = answers.iter().filter_map(|answer| Object::parse(answer, HEAD)).collect();
        Ok(Self { route, families })
    }

    /// The number of a family; `None` if the kernel has no such thing.
    fn number(&self, family: &[u8]) -> Option<u16> {
        let is =
            |object: &&Object| object.attribute(CTRL_ATTR_FAMILY_NAME).is_some_and(|n| text(n) == family);
        let id = self.families.iter().find(is)?.attribute(CTRL_ATTR_FAMILY_ID)?;
        id.first_chunk().map(|id| u16::from_ne_bytes(*id))
    }

    fn list(&self, kind: &Kind) -> Result<Vec<Vec<u8>>> {
        let Some(family) = self.number(kind.family) else { return Ok(Vec::new()) };
        let question = [kind.list, 1, 0, 0];
        match self.route.raw(family, kind.flags, &question) {
            Err(e) if matches!(e.errno(), Some(libc::EOPNOTSUPP | libc::EINVAL)) => Ok(Vec::new()),
            answers => answers.context(format!("list each {}", kind.what)),
        }
    }

    fn make(&self, kind: &Kind, object: &Object) -> Result<()> {
        let bytes = object.bytes();
        // The object may come from a forged file.
        match kind.take(&bytes)? {
            Ok(Some(taken)) if taken == *object => {}
            _ => return Err(Error::invalid(kind.name, format!("{object:?} is no {}", kind.what))),
        }
        let family = self.number(kind.family).ok_or_else(|| {
            let name = String::from_utf8_lossy(kind.family).into_owned();
            Error::from(SysError::new("netlink", format!("this kernel has no {name}"), libc::EOPNOTSUPP))
        });
        let made = family.and_then(|family| self.route.raw(family, 0, &bytes));
        made.map(drop).context(format!("make {} again", kind.what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::object::write;

    fn answer(attributes: &[(u16, Vec<u8>)]) -> Vec<u8> {
        [&[0, 1, 0, 0][..], &write(attributes)].concat()
    }

    fn kind(name: &str) -> &'static Kind {
        const ALL: &[Kind] = &KINDS;
        ALL.iter().find(|kind| kind.name == name).unwrap()
    }

    #[test]
    fn an_endpoint_of_the_kernels_own_is_left_to_it() {
        let endpoint = |flags: u32| {
            let address = [(2, vec![5]), (MPTCP_PM_ADDR_ATTR_FLAGS, flags.to_ne_bytes().to_vec())];
            answer(&[(MPTCP_PM_ATTR_ADDR | 0x8000, write(&address))])
        };
        let endpoints = kind("mptcpEndpoints");
        let made = endpoints.take(&endpoint(1)).unwrap().unwrap().unwrap();
        assert_eq!(made.head, [1, 1, 0, 0]);
        assert_eq!(made.attributes[0].0, MPTCP_PM_ATTR_ADDR | 0x8000);
        assert_eq!(endpoints.take(&endpoint(MPTCP_PM_ADDR_FLAG_IMPLICIT)).unwrap(), Ok(None));
    }

    #[test]
    fn what_nobody_knows_is_strange_and_what_is_usual_is_left_out() {
        let limits = |accepted: u32, subflows: u32| {
            answer(&[(2, accepted.to_ne_bytes().to_vec()), (3, subflows.to_ne_bytes().to_vec())])
        };
        assert_eq!(kind("mptcpLimits").take(&limits(0, 2)).unwrap(), Ok(None));
        assert!(kind("mptcpLimits").take(&limits(3, 2)).unwrap().unwrap().is_some());
        let strange = kind("ioamSchemas").take(&answer(&[(4, vec![3, 0, 0, 0]), (99, vec![])])).unwrap();
        assert!(strange.unwrap_err().contains("unknown kind 99"));
        assert!(kind("segmentSource").take(&[0]).is_err());
    }

    #[test]
    fn one_answer_makes_a_namespace_and_its_schema() {
        let told = answer(&[(1, vec![7, 0]), (2, vec![9, 0, 0, 0]), (4, vec![3, 0, 0, 0])]);
        let numbers = |name| {
            let object = kind(name).take(&told).unwrap().unwrap().unwrap();
            (object.head[0], object.attributes.iter().map(kind_of).collect::<Vec<_>>())
        };
        assert_eq!(numbers("ioamNamespaces"), (1, vec![1, 2]));
        assert_eq!(numbers("ioamSchemasOfNamespaces"), (7, vec![1, 4]));
    }
}
