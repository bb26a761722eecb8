//! A firewall of nftables with rules that no text can say: iptables-nft writes its extensions (`-m comment`, `-j LOG`) into the
//! kernel as they are, and libnftables prints for them what it, or another version of it, does not read again. Here the kernel's own
//! messages are kept, as bytes.

use serde::{Deserialize, Serialize};

use super::object::{Attribute, Object, attributes, find, kind_of, text, write};
use crate::error::Context;
use crate::rtnetlink::{BatchMessage, Route};
use crate::{Error, Result, SysError};

/// struct nfgenmsg: family, version, and a number that the kernel tells.
const HEAD: usize = 4;
/// linux/netfilter/nf_tables.h
const NFTA_TABLE_OWNER: u16 = 7;
const NFTA_CHAIN_FLAGS: u16 = 10;
const NFT_CHAIN_BINDING: u32 = 4;
const NFTA_SET_TABLE: u16 = 1;
const NFTA_SET_NAME: u16 = 2;
const NFTA_SET_FLAGS: u16 = 3;
const NFT_SET_INTERVAL: u32 = 4;
const NFTA_SET_ID: u16 = 10;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_RULE_COMPAT: u16 = 5;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFT_META_L4PROTO: u32 = 16;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;

/// A kind of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Kind {
    Table,
    Chain,
    Named,
    Flowtable,
    Set,
    Elements,
    Rule,
}

/// In an order in which none needs a later one.
const KINDS: [Kind; 7] =
    [Kind::Table, Kind::Chain, Kind::Named, Kind::Flowtable, Kind::Set, Kind::Elements, Kind::Rule];

impl Kind {
    /// The numbers of the requests that make and list such objects, and the attributes that a request to make one has.
    const fn numbers(self) -> (u16, u16, &'static [u16]) {
        match self {
            Self::Table => (0, 1, &[1, 2, 6]),
            Self::Chain => (3, 4, &[1, 3, 4, 5, 7, 8, NFTA_CHAIN_FLAGS, 12]),
            Self::Rule => (6, 7, &[1, 2, NFTA_RULE_EXPRESSIONS, 7]),
            Self::Set => (9, 10, &[1, 2, NFTA_SET_FLAGS, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15, 17, 18]),
            Self::Elements => (12, 13, &[1, 2, NFTA_SET_ELEM_LIST_ELEMENTS]),
            Self::Named => (18, 19, &[1, 2, 3, 4, 8]),
            Self::Flowtable => (22, 23, &[1, 2, 3, 7]),
        }
    }

    fn read(self, route: &Route, question: &Object) -> Result<Vec<Object>> {
        let (_, get, kept) = self.numbers();
        let answers = route.dump(SUBSYSTEM << 8 | get, &question.bytes()).context("list the firewall")?;
        let parsed = answers.iter().map(|answer| {
            let mut object = Object::parse(answer, HEAD).ok_or_else(|| {
                Error::from(SysError::new("recv", "a part of nftables that is none", libc::EPROTO))
            })?;
            // The generation.
            object.head[2..].fill(0);
            // Left in for a moment: they say why a part cannot be kept.
            let wanted = |kind: u16| kept.contains(&kind) || (self, kind) == (Self::Table, NFTA_TABLE_OWNER);
            object.attributes.retain(|attribute| wanted(kind_of(attribute)));
            Ok(object)
        });
        parsed.collect()
    }
}

/// NFNL_SUBSYS_NFTABLES of linux/netfilter/nfnetlink.h.
const SUBSYSTEM: u16 = 10;

/// A whole firewall.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Firewall(Vec<(Kind, Object)>);

/// How a firewall can be kept.
pub(super) enum Found {
    /// Its text says all of it.
    Plain,
    Kept(Firewall),
    /// It has extensions, and cannot be kept for this reason.
    Strange(&'static str),
}

impl Firewall {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads that of the calling thread's network namespace.
    pub(super) fn read() -> Result<Found> {
        if !has_extensions()? {
            return Ok(Found::Plain);
        }
        let route = Route::of(rustix::net::netlink::NETFILTER)?;
        let all = everything();
        let mut found = Vec::new();
        for kind in KINDS {
            let objects = match kind {
                Kind::Elements => elements(&route, &found)?,
                _ => kind.read(&route, &all)?,
            };
            for mut object in objects {
                match kind {
                    Kind::Table if object.attribute(NFTA_TABLE_OWNER).is_some() => {
                        return Ok(Found::Strange("a table of it belongs to a process (flag owner)"));
                    }
                    Kind::Chain if number(object.attribute(NFTA_CHAIN_FLAGS)) & NFT_CHAIN_BINDING != 0 => {
                        return Ok(Found::Strange("it has chains without a name"));
                    }
                    Kind::Rule => object.attributes.extend(protocol(&object).map(compat)),
                    _ => {}
                }
                found.push((kind, object));
            }
        }
        Ok(Found::Kept(Self(found)))
    }

    /// Makes it in the calling thread's network namespace, which has none: all or nothing.
    pub(super) fn make(&self) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        // The firewall may come from a forged file.
        let is_known = |(kind, object): &&(Kind, Object)| {
            let mut kinds = object.attributes.iter().map(kind_of);
            object.head.len() == HEAD
                && kinds
                    .all(|of| kind.numbers().2.contains(&of) || (*kind, of) == (Kind::Rule, NFTA_RULE_COMPAT))
        };
        if let Some((kind, object)) = self.0.iter().find(|part| !is_known(part)) {
            return Err(Error::invalid("firewall", format!("{object:?} is no {kind:?} of nftables")));
        }
        let message = |(id, (kind, object)): (u32, &(Kind, Object))| {
            let mut object = object.clone();
            let mut flags = NLM_F_CREATE;
            match kind {
                // A number for the time of the request, which the kernel wants.
                Kind::Set => object.attributes.push((NFTA_SET_ID, id.to_be_bytes().to_vec())),
                Kind::Rule => flags |= NLM_F_APPEND,
                _ => {}
            }
            BatchMessage { kind: SUBSYSTEM << 8 | kind.numbers().0, flags, body: object.bytes() }
        };
        let messages: Vec<_> = (1..).zip(&self.0).map(message).collect();
        let route = Route::of(rustix::net::netlink::NETFILTER)?;
        route.batch(SUBSYSTEM, &messages).context("make the firewall again (nftables)")
    }
}

/// Whether the calling thread's network namespace has rules of nftables with extensions of iptables.
pub(super) fn has_extensions() -> Result<bool> {
    let route = Route::of(rustix::net::netlink::NETFILTER)?;
    Ok(Kind::Rule.read(&route, &everything()).unwrap_or_default().iter().any(has_extension))
}

/// The question for all of a kind, of whatever family.
fn everything() -> Object {
    Object { head: vec![0; HEAD], attributes: Vec::new() }
}

/// The elements of the sets among `found`.
fn elements(route: &Route, found: &[(Kind, Object)]) -> Result<Vec<Object>> {
    let mut all = Vec::new();
    for (_, set) in found.iter().filter(|(kind, _)| *kind == Kind::Set) {
        let mut question = set.clone();
        question.attributes.retain(|a| matches!(kind_of(a), NFTA_SET_TABLE | NFTA_SET_NAME));
        let mut elements = Kind::Elements.read(route, &question)?;
        // The last answer is empty.
        elements.retain(|object| {
            object.attribute(NFTA_SET_ELEM_LIST_ELEMENTS).is_some_and(|list| !list.is_empty())
        });
        if number(set.attribute(NFTA_SET_FLAGS)) & NFT_SET_INTERVAL != 0 {
            // The kernel lists the ends of intervals first, and wants their beginnings first.
            elements.reverse();
            let lists = elements.iter_mut().flat_map(|object| &mut object.attributes);
            for (_, list) in lists.filter(|attribute| kind_of(attribute) == NFTA_SET_ELEM_LIST_ELEMENTS) {
                if let Some(mut inner) = attributes(list) {
                    inner.reverse();
                    *list = write(&inner);
                }
            }
        }
        all.append(&mut elements);
    }
    Ok(all)
}

/// The name and the data of each of a rule's expressions.
fn expressions(rule: &Object) -> Vec<(Vec<u8>, Vec<Attribute>)> {
    let list = rule.attribute(NFTA_RULE_EXPRESSIONS).and_then(attributes).unwrap_or_default();
    let parts = list.iter().filter_map(|(_, expression)| attributes(expression)).map(|expression| {
        let data = find(&expression, NFTA_EXPR_DATA).and_then(attributes).unwrap_or_default();
        (text(find(&expression, NFTA_EXPR_NAME).unwrap_or_default()).to_vec(), data)
    });
    parts.collect()
}

fn has_extension(rule: &Object) -> bool {
    expressions(rule).iter().any(|(name, _)| matches!(name.as_slice(), b"match" | b"target"))
}

/// The protocol that a rule's extensions are for, and whether for all others: the kernel is told of it when the rule is made, and does
/// not tell. The rule says so, too: it compares the protocol before.
fn protocol(rule: &Object) -> Option<(u8, bool)> {
    if !has_extension(rule) {
        return None;
    }
    let expressions = expressions(rule);
    let loads = |(name, data): &(Vec<u8>, Vec<Attribute>)| match name.as_slice() {
        // NFTA_META_KEY
        b"meta" => number(find(data, 2)) == NFT_META_L4PROTO,
        // NFTA_PAYLOAD_BASE is the network's header, NFTA_PAYLOAD_OFFSET and _LEN are those of the protocol in IPv4 or IPv6.
        b"payload" => {
            let offset = if rule.head[0] == 10 { 6 } else { 9 };
            [number(find(data, 2)), number(find(data, 3)), number(find(data, 4))] == [1, offset, 1]
        }
        _ => false,
    };
    let at = expressions.iter().position(loads)?;
    let (name, compared) = expressions.get(at + 1)?;
    // NFTA_CMP_DATA, in it NFTA_DATA_VALUE; NFTA_CMP_OP is 0 for equal, and 1 for unequal.
    let value = find(compared, 3).and_then(attributes)?;
    let value = *find(&value, 1)?.first()?;
    let operation = number(find(compared, 2));
    (name == b"cmp" && operation < 2).then_some((value, operation == 1))
}

/// NFTA_RULE_COMPAT_PROTO and _FLAGS, of which 2 is for an inverted protocol.
fn compat((protocol, inverted): (u8, bool)) -> Attribute {
    let flags = if inverted { 2u32 } else { 0 };
    let inner = [(1, u32::from(protocol).to_be_bytes().to_vec()), (2, flags.to_be_bytes().to_vec())];
    (NFTA_RULE_COMPAT | 0x8000, write(&inner))
}

/// A number in the network's order, 0 if there is none.
fn number(value: Option<&[u8]>) -> u32 {
    value.and_then(<[u8]>::first_chunk).map_or(0, |bytes| u32::from_be_bytes(*bytes))
}
