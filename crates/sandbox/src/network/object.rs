//! An object of rtnetlink(7) as bytes: a fixed part and attributes. The kernel accepts them in a request nearly as it returns
//! them in an answer.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The flag of nested attributes, and that of the network's byte order (linux/netlink.h).
const TYPE: u16 = 0x3fff;
/// Length and type.
const HEAD: usize = 4;

/// An attribute's type, with its flags, and its value.
pub(super) type Attribute = (u16, Vec<u8>);

/// A message without its header. In JSON it is a string of hexadecimal digits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Object {
    /// The message's own structure, such as struct rtmsg.
    pub(super) head: Vec<u8>,
    pub(super) attributes: Vec<Attribute>,
}

impl Object {
    /// `None` if the message is shorter than its fixed part, or an attribute is longer than the message.
    pub(super) fn parse(bytes: &[u8], head: usize) -> Option<Self> {
        let (head, rest) = bytes.split_at_checked(head)?;
        Some(Self { head: head.to_vec(), attributes: attributes(rest)? })
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        [&*self.head, &write(&self.attributes)].concat()
    }

    pub(super) fn attribute(&self, kind: u16) -> Option<&[u8]> {
        find(&self.attributes, kind)
    }

    pub(super) fn u16_at(&self, at: usize) -> u16 {
        self.head.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u16::from_ne_bytes(*bytes))
    }

    pub(super) fn u32_at(&self, at: usize) -> u32 {
        self.head.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u32::from_ne_bytes(*bytes))
    }

    pub(super) fn set_u32(&mut self, at: usize, value: u32) {
        if let Some(bytes) = self.head.get_mut(at..at + 4) {
            bytes.copy_from_slice(&value.to_ne_bytes());
        }
    }
}

/// The type without its flags.
pub(super) fn kind_of(attribute: &Attribute) -> u16 {
    attribute.0 & TYPE
}

pub(super) fn find(attributes: &[Attribute], kind: u16) -> Option<&[u8]> {
    attributes.iter().find(|attribute| kind_of(attribute) == kind).map(|(_, value)| &**value)
}

/// A string's bytes up to its end.
pub(super) fn text(value: &[u8]) -> &[u8] {
    value.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Reads attributes; `None` if one is longer than the remaining bytes.
pub(super) fn attributes(mut rest: &[u8]) -> Option<Vec<Attribute>> {
    let mut found = Vec::new();
    while let [a, b, c, d, ..] = *rest {
        let length = usize::from(u16::from_ne_bytes([a, b]));
        found.push((u16::from_ne_bytes([c, d]), rest.get(HEAD..length)?.to_vec()));
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(found)
}

pub(super) fn write(attributes: &[Attribute]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, value) in attributes {
        bytes.extend(u16::try_from(HEAD + value.len()).unwrap_or(u16::MAX).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

impl Serialize for Object {
    /// The length of the fixed part, a colon and the bytes.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let digits: String = self.bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        serializer.serialize_str(&format!("{}:{digits}", self.head.len()))
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let string = String::deserialize(deserializer)?;
        read_digits(&string).ok_or_else(|| {
            serde::de::Error::custom(format!("{string:?} is no length and hexadecimal digits of a message"))
        })
    }
}

fn read_digits(string: &str) -> Option<Object> {
    let (head, digits) = string.split_once(':')?;
    Object::parse(&bytes_of(digits)?, head.parse().ok()?)
}

/// The bytes that hexadecimal digits stand for, two each; `None` if there is anything else.
pub(super) fn bytes_of(digits: &str) -> Option<Vec<u8>> {
    if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let byte =
        |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok().filter(|p| p.len() == 2)?, 16).ok();
    digits.as_bytes().chunks(2).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_written_as_they_are_read() {
        let bytes = [1, 2, 3, 4, 5, 0, 1, 0, 9, 0, 0, 0, 8, 0, 2, 0x80, 1, 2, 3, 4];
        let object = Object::parse(&bytes, 4).unwrap();
        assert_eq!(object.attributes, [(1, vec![9]), (0x8002, vec![1, 2, 3, 4])]);
        assert_eq!(object.attribute(2), Some(&[1, 2, 3, 4][..]));
        assert_eq!(object.bytes(), bytes);
        let json = serde_json::to_string(&object).unwrap();
        assert_eq!(json, "\"4:0102030405000100090000000800028001020304\"");
        assert_eq!(serde_json::from_str::<Object>(&json).unwrap(), object);
        for bad in ["", "4", "4:01", "4:0102030", "0:zz", "0:0900010000", "0:ä", "0:+1+1"] {
            assert_eq!(read_digits(bad).map(|o| o.bytes()), None, "{bad}");
        }
    }
}
