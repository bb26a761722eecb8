//! Rules for the devices that a container may open and make.

use std::fmt;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The types of devices that a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// `a`: every device, of both types and all numbers, for every access.
    All,
    /// `b`: block devices.
    Block,
    /// `c`: character devices.
    Char,
}

/// A set of accesses: `r`ead, `w`rite, `m`knod.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Access(u8);

/// One rule. In a list, the last rule that matches decides, for each access by itself: [`DeviceRule::resolve`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRule {
    /// Allow or deny.
    pub allow: bool,
    /// Type of device; with `All`, numbers and access mean nothing.
    pub kind: DeviceKind,
    /// Major number; None is any.
    pub major: Option<u32>,
    /// Minor number; None is any.
    pub minor: Option<u32>,
    /// The accesses that this rule decides.
    pub access: Access,
}

/// The field of config.json that device errors name.
pub(super) const FIELD: &str = "linux.resources.devices";

impl Access {
    /// No access.
    pub const NONE: Self = Self(0);
    /// Making a device node (`BPF_DEVCG_ACC_MKNOD`).
    pub const MKNOD: Self = Self(1);
    /// Reading (`BPF_DEVCG_ACC_READ`).
    pub const READ: Self = Self(2);
    /// Writing (`BPF_DEVCG_ACC_WRITE`).
    pub const WRITE: Self = Self(4);
    /// All three.
    pub const ALL: Self = Self(7);

    /// Parses a non-empty string of `r`, `w` and `m`.
    pub fn parse(text: &str) -> Option<Self> {
        let bit = |c| match c {
            'r' => Some(Self::READ.0),
            'w' => Some(Self::WRITE.0),
            'm' => Some(Self::MKNOD.0),
            _ => None,
        };
        let bits = text.chars().try_fold(0, |bits, c| Some(bits | bit(c)?))?;
        (bits != 0).then_some(Self(bits))
    }
    /// The kernel's bits, linux/bpf.h.
    pub fn bits(self) -> u8 {
        self.0
    }
    pub(super) fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
    pub(super) fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
    pub(super) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (access, letter) in [(Self::READ, "r"), (Self::WRITE, "w"), (Self::MKNOD, "m")] {
            if self.and(access) != Self::NONE {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Access({self})")
    }
}

impl From<Access> for String {
    fn from(access: Access) -> Self {
        access.to_string()
    }
}

impl TryFrom<String> for Access {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or_else(|| format!("access {text:?}: expected some of r, w and m"))
    }
}

impl DeviceRule {
    /// Simplifies a list of rules without changing its meaning: removes each access of a rule that a later rule decides anew
    /// for every device, and each rule without an access left.
    ///
    /// A v1 cgroup needs this. Its kernel code reads a rule that denies a class differently: the rule takes back only an exception
    /// for the whole class, and leaves the exceptions for single devices.
    pub fn resolve(mut rules: Vec<Self>) -> Vec<Self> {
        for at in 0..rules.len() {
            let (rule, later) = (&rules[at], &rules[at + 1..]);
            let decided = later.iter().filter(|other| other.covers(rule));
            let left = decided.fold(rule.access, |left, other| left.without(other.decides()));
            rules[at].access = left;
        }
        rules.retain(|rule| rule.access != Access::NONE);
        rules
    }

    /// Whether the rule is for every device that `other` is for.
    fn covers(&self, other: &Self) -> bool {
        let number = |wide: Option<u32>, narrow| wide.is_none() || wide == narrow;
        self.kind == DeviceKind::All
            || (self.kind == other.kind && number(self.major, other.major) && number(self.minor, other.minor))
    }

    fn decides(&self) -> Access {
        if self.kind == DeviceKind::All { Access::ALL } else { self.access }
    }

    /// A rule that allows a character device; None stands for any number.
    pub const fn allow_char(major: Option<u32>, minor: Option<u32>, access: Access) -> Self {
        Self { allow: true, kind: DeviceKind::Char, major, minor, access }
    }

    /// The rules that runc and crun add for every container, after those of config.json: making any node,
    /// and using null, zero, full, random, urandom, tty, ptys, and `/dev/net/tun`, which runc 1.2
    /// removed and brought back because VPN containers rely on it.
    pub fn defaults() -> Vec<Self> {
        let block = Self { kind: DeviceKind::Block, ..Self::allow_char(None, None, Access::MKNOD) };
        let mut rules = vec![Self::allow_char(None, None, Access::MKNOD), block];
        let nodes = [(1, 3), (1, 8), (1, 7), (5, 0), (1, 5), (1, 9), (5, 2), (10, 200)];
        rules.extend(nodes.map(|(a, i)| Self::allow_char(Some(a), Some(i), Access::ALL)));
        rules.push(Self::allow_char(Some(136), None, Access::ALL));
        rules
    }

    /// The rule of `linux.resources.devices[index]`.
    ///
    /// # Errors
    /// Unknown type or access, a number that is neither -1 nor of 32 bits, or an allow rule of type `a` with numbers or an access:
    /// the kernel would ignore these and open every device.
    pub fn from_spec(rule: &LinuxDeviceCgroup, index: usize) -> Result<Self> {
        let invalid = |name, problem: String| Error::invalid(format!("{FIELD}[{index}].{name}"), problem);
        let kind = match rule.typ() {
            None | Some(LinuxDeviceType::A) => DeviceKind::All,
            Some(LinuxDeviceType::B) => DeviceKind::Block,
            Some(LinuxDeviceType::C) => DeviceKind::Char,
            Some(other) => {
                return Err(invalid("type", format!("{:?}: expected \"a\", \"b\" or \"c\"", other.as_str())));
            }
        };
        let number = |name, value: Option<i64>| match value {
            None | Some(-1) => Ok(None),
            Some(n) => match u32::try_from(n) {
                Ok(n) => Ok(Some(n)),
                Err(_) => {
                    Err(invalid(name, format!("{n}: expected a number of at most 32 bits, or -1 for all")))
                }
            },
        };
        let (major, minor) = (number("major", rule.major())?, number("minor", rule.minor())?);
        let text = rule.access().as_deref().unwrap_or("");
        // runc ignores an `a` in the access.
        let Some(access) = Access::parse(&text.replace('a', "")) else {
            return Err(invalid("access", format!("{text:?}: expected some of r, w and m")));
        };
        let narrow = major.is_some() || minor.is_some() || access != Access::ALL;
        if kind == DeviceKind::All && rule.allow() && narrow {
            return Err(invalid(
                "type",
                "\"a\" allows every access to every device; expected \"b\" or \"c\" with these numbers and access"
                    .into(),
            ));
        }
        Ok(Self { allow: rule.allow(), kind, major, minor, access })
    }
}

impl fmt::Display for DeviceRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            DeviceKind::All => return f.write_str("a"),
            DeviceKind::Block => 'b',
            DeviceKind::Char => 'c',
        };
        let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
        write!(f, "{kind} {}:{} {}", number(self.major), number(self.minor), self.access)
    }
}
