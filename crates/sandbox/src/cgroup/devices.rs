//! Which devices a container may open and make: the rules, and what they mean to cgroup v1.

use std::collections::BTreeMap;
use std::fmt;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use serde::{Deserialize, Serialize};

use super::setting::Write;
use super::version::Version;
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
    fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
    fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
    fn without(self, other: Self) -> Self {
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
    /// What a list of rules comes to, for every kind of cgroup: no rule is left, or no access of one, that a later rule
    /// decides anew for every device.
    ///
    /// A v1 cgroup would take what is written to it otherwise: what denies a class takes back only an exception that was
    /// made for the class as a whole, and leaves those of single devices.
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

    /// Whether it is for every device that `other` is for.
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

    /// What runc and crun allow every container, after the rules of config.json: making any node,
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
    /// Unknown type or access, a number that is neither -1 nor of 32 bits, or an allow rule of type `a` that looks
    /// narrower than the everything it would open on every kernel.
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
        // runc takes no notice of an `a` among them.
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

/// Which devices an exception is about.
type Key = (DeviceKind, Option<u32>, Option<u32>);

fn key(rule: &DeviceRule) -> Key {
    (rule.kind, rule.major, rule.minor)
}

/// The devices that both keys are about, if there are any.
fn intersection(a: Key, b: Key) -> Option<Key> {
    let number = |a: Option<u32>, b: Option<u32>| match (a, b) {
        (Some(a), Some(b)) if a != b => None,
        (a, b) => Some(a.or(b)),
    };
    (a.0 == b.0).then_some((a.0, number(a.1, b.1)?, number(a.2, b.2)?))
}

/// Refuses `rule` as an exception to a part of what the other rule, an exception itself, is about.
fn check_hole(wide: &DeviceRule, rule: &DeviceRule) -> Result<()> {
    let apart = wide.allow == rule.allow
        || wide.access.and(rule.access) == Access::NONE
        || intersection(key(wide), key(rule)).is_none();
    if apart {
        return Ok(());
    }
    let problem = format!("cgroup v1 cannot make rule \"{rule}\" an exception to wildcard rule \"{wide}\"");
    Err(Error::unsupported(FIELD, problem))
}

/// What a device cgroup of v1 is: a default and the exceptions to it. The kernel's interface is a
/// list of changes to this state (security/device_cgroup.c), so rules are run through it first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceSet {
    default_allow: bool,
    exceptions: BTreeMap<Key, Access>,
}

impl DeviceSet {
    /// What these rules [come to](DeviceRule::resolve), starting from "nothing is allowed".
    ///
    /// # Errors
    /// A rule takes back a part of what a wildcard rule gave: v1 would silently ignore it.
    pub fn from_rules(rules: &[DeviceRule]) -> Result<Self> {
        let rules = DeviceRule::resolve(rules.to_vec());
        let mut set = Self::default();
        for (at, rule) in rules.iter().enumerate() {
            if rule.kind == DeviceKind::All {
                set = Self { default_allow: rule.allow, exceptions: BTreeMap::new() };
            } else if rule.allow != set.default_allow {
                set.add(key(rule), rule.access);
            } else {
                rules[..at].iter().try_for_each(|wide| check_hole(wide, rule))?;
            }
        }
        set.join_reading_and_writing();
        Ok(set)
    }

    /// The state that a `devices.list` shows. It does not list the exceptions of a cgroup that
    /// allows by default; [`Self::changes_to`] knows.
    ///
    /// # Errors
    /// A line is malformed.
    pub fn from_list(text: &str) -> Result<Self> {
        let parse = |line: &str| {
            let mut fields = line.split([' ', ':']);
            let kind = match fields.next()? {
                "a" => DeviceKind::All,
                "b" => DeviceKind::Block,
                "c" => DeviceKind::Char,
                _ => return None,
            };
            let number = |field| match field {
                "*" => Some(None),
                n => n.parse().ok().map(Some),
            };
            let (major, minor) = (number(fields.next()?)?, number(fields.next()?)?);
            Some(DeviceRule { allow: true, kind, major, minor, access: Access::parse(fields.next()?)? })
        };
        let mut set = Self::default();
        for line in text.lines() {
            let rule = parse(line).ok_or_else(|| {
                Error::invalid("devices.list", format!("{line:?}: expected TYPE MAJOR:MINOR ACCESS"))
            })?;
            match rule.kind {
                DeviceKind::All => set = Self { default_allow: true, ..Self::default() },
                _ => set.add(key(&rule), rule.access),
            }
        }
        Ok(set)
    }

    fn add(&mut self, key: Key, access: Access) {
        let old = self.exceptions.entry(key).or_insert(Access::NONE);
        *old = old.or(access);
    }

    /// Where one exception allows reading and another writing, the kernel allows no opening for both: it looks for one
    /// exception that allows all that is asked for.
    fn join_reading_and_writing(&mut self) {
        if self.default_allow {
            return;
        }
        let both = Access::READ.or(Access::WRITE);
        let only = |wanted: Access| {
            self.exceptions.iter().filter(move |(_, access)| access.and(both) == wanted).map(|(key, _)| *key)
        };
        let pairs = only(Access::READ).flat_map(|r| only(Access::WRITE).map(move |w| (r, w)));
        let joined: Vec<Key> = pairs.filter_map(|(r, w)| intersection(r, w)).collect();
        for key in joined {
            self.add(key, both);
        }
    }

    /// The fewest writes that turn a cgroup of this state into `target`, so that an update takes
    /// no device away that a running container keeps, not even for a moment.
    pub fn changes_to(&self, target: &Self) -> Vec<Write> {
        let mut writes = Vec::new();
        let mut write = |allow: bool, what: String| {
            let file = if allow { "devices.allow" } else { "devices.deny" };
            writes.push(Write::new(FIELD, Version::V1, "devices", file, what));
        };
        let none = BTreeMap::new();
        let mut old = &self.exceptions;
        // What a cgroup that allows by default denies cannot be read, so it always starts afresh.
        if self.default_allow || target.default_allow {
            write(target.default_allow, "a".into());
            old = &none;
        }
        let mut differences = |from: &BTreeMap<Key, Access>, to: &BTreeMap<Key, Access>, allow| {
            for (key, access) in from {
                let access = access.without(to.get(key).copied().unwrap_or(Access::NONE));
                if access != Access::NONE {
                    let (kind, major, minor) = *key;
                    write(allow, DeviceRule { allow, kind, major, minor, access }.to_string());
                }
            }
        };
        differences(old, &target.exceptions, target.default_allow);
        differences(&target.exceptions, old, !target.default_allow);
        writes
    }

    /// What the kernel makes of it (`devcgroup_check_permission`), for bits of [`Access`].
    #[cfg(test)]
    pub(super) fn allows(&self, (kind, major, minor): (DeviceKind, u32, u32), wanted: u8) -> bool {
        let device = (kind, Some(major), Some(minor));
        let mut matching = self.exceptions.iter().filter(|(key, _)| intersection(**key, device).is_some());
        match self.default_allow {
            true => !matching.any(|(_, access)| access.0 & wanted != 0),
            false => matching.any(|(_, access)| wanted & !access.0 == 0),
        }
    }

    /// What is allowed, as rules; `None` where all is allowed but the exceptions.
    pub(super) fn allow_list(&self) -> Option<Vec<DeviceRule>> {
        let rule = |(&(kind, major, minor), &access): (&Key, &Access)| DeviceRule {
            allow: true,
            kind,
            major,
            minor,
            access,
        };
        (!self.default_allow).then(|| self.exceptions.iter().map(rule).collect())
    }

    /// Whether every device is allowed.
    pub(super) fn allows_all(&self) -> bool {
        self.default_allow && self.exceptions.is_empty()
    }

    /// Whether a cgroup that shows `seen` in `devices.list` is in this state, as far as the list
    /// can tell.
    pub(super) fn is_shown_by(&self, seen: &Self) -> bool {
        self.default_allow == seen.default_allow && (self.default_allow || self.exceptions == seen.exceptions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> DeviceRule {
        let (allow, text) = (text.starts_with('+'), &text[1..]);
        if text == "a" {
            return DeviceRule {
                allow,
                kind: DeviceKind::All,
                major: None,
                minor: None,
                access: Access::ALL,
            };
        }
        let set = DeviceSet::from_list(text).unwrap();
        let ((kind, major, minor), access) = set.exceptions.into_iter().next().unwrap();
        DeviceRule { allow, kind, major, minor, access }
    }

    fn set(rules: &[&str]) -> Result<DeviceSet, String> {
        let rules: Vec<_> = rules.iter().map(|r| rule(r)).collect();
        DeviceSet::from_rules(&rules).map_err(|e| e.to_string())
    }

    fn changes(from: &[&str], to: &[&str]) -> Vec<String> {
        let (from, to) = (set(from).unwrap(), set(to).unwrap());
        from.changes_to(&to).into_iter().map(|w| format!("{} {}", w.file, w.value)).collect()
    }

    #[test]
    fn a_new_cgroup_gets_deny_all_and_then_the_allow_list() {
        assert_eq!(
            changes(&["+a"], &["-a", "+c 1:3 r", "+c 1:3 w", "+c 5:1 rwm", "-c 5:1 m", "+b *:* m"]),
            ["devices.deny a", "devices.allow b *:* m", "devices.allow c 1:3 rw", "devices.allow c 5:1 rw"]
        );
        assert_eq!(changes(&["+a"], &[]), ["devices.deny a"]);
        assert_eq!(changes(&["-a"], &["+a", "-c 1:3 w"]), ["devices.allow a", "devices.deny c 1:3 w"]);
    }

    #[test]
    fn an_update_touches_only_what_differs() {
        assert_eq!(
            changes(&["+c 1:3 rwm", "+c 1:5 r"], &["+c 1:3 rw", "+c 1:5 r", "+c 1:7 r"]),
            ["devices.deny c 1:3 m", "devices.allow c 1:7 r"]
        );
        assert_eq!(changes(&["+c 1:3 rwm"], &["+c 1:3 rwm"]), [""; 0]);
    }

    #[test]
    fn holes_in_wildcards_are_refused() {
        let error = set(&["+c 1:* rw", "-c 1:3 w"]).unwrap_err();
        assert_eq!(
            error,
            "linux.resources.devices: not supported: cgroup v1 cannot make rule \"c 1:3 w\" an exception to \
             wildcard rule \"c 1:* rw\""
        );
        assert!(set(&["+c 1:* rw", "-c 1:3 m", "-b 1:3 w", "-c 2:3 w", "-c 1:* r"]).is_ok());
        assert!(set(&["+c 1:* rw", "-c *:3 w"]).is_err());
        assert!(set(&["+a", "-c 1:* w", "+c 1:3 rw"]).is_err());
        // Filled again, or of no account: no hole is left.
        assert_eq!(set(&["+c 1:* rw", "-c 1:3 w", "+c 1:3 rw"]), set(&["+c 1:* rw", "+c 1:3 rw"]));
        assert_eq!(set(&["+c 1:* rw", "-c 1:3 w", "-a"]), Ok(DeviceSet::default()));
    }

    #[test]
    fn what_denies_a_class_denies_its_devices() {
        assert_eq!(set(&["+c 1:3 rwm", "-c 1:* rwm"]), Ok(DeviceSet::default()));
        assert_eq!(set(&["+c 1:3 rwm", "-c *:3 w"]), set(&["+c 1:3 rm"]));
        assert_eq!(set(&["+a", "-c 1:3 rwm", "+c 1:* rwm"]), set(&["+a"]));
        assert_eq!(set(&["-c 1:* rwm", "+c 1:3 rwm"]), set(&["+c 1:3 rwm"]));
    }

    #[test]
    fn who_may_read_and_may_write_may_open_for_both() {
        assert_eq!(set(&["+c 1:* r", "+c 1:3 w"]), set(&["+c 1:* r", "+c 1:3 rw"]));
        assert_eq!(set(&["+c 1:* r", "+c *:3 w"]), set(&["+c 1:* r", "+c *:3 w", "+c 1:3 rw"]));
        assert_eq!(set(&["+c 1:* rw", "+c 1:3 w", "+b 1:3 r"]).unwrap().exceptions.len(), 3);
    }

    #[test]
    fn the_result_is_the_list() {
        let text = |rules: &[&str]| {
            let rules = DeviceRule::resolve(rules.iter().map(|r| rule(r)).collect());
            rules.iter().map(|r| format!("{}{r}", if r.allow { '+' } else { '-' })).collect::<Vec<_>>()
        };
        assert_eq!(text(&["+c 1:3 rwm", "-a", "+c 1:3 rw", "+c 1:3 w"]), ["-a", "+c 1:3 r", "+c 1:3 w"]);
        assert_eq!(text(&["+c 1:3 rwm", "-c 1:* rw", "+b 8:0 r"]), ["+c 1:3 m", "-c 1:* rw", "+b 8:0 r"]);
    }

    #[test]
    fn lists_of_the_kernel() {
        let defaults = DeviceSet::from_rules(&DeviceRule::defaults()).unwrap();
        let list = "c *:* m\nb *:* m\nc 1:3 rwm\nc 1:8 rwm\nc 1:7 rwm\nc 5:0 rwm\nc 1:5 rwm\nc 1:9 rwm\n\
                    c 136:* rwm\nc 5:2 rwm\nc 10:200 rwm\n";
        assert_eq!(DeviceSet::from_list(list).unwrap(), defaults);
        assert!(DeviceSet::from_list("a *:* rwm\n").unwrap().default_allow);
        for bad in ["x 1:3 r", "c 1:3", "c 1:y r", "c 1:3 q", ""] {
            assert!(DeviceSet::from_list(&format!("{bad}\n")).is_err(), "{bad}");
        }
    }

    #[test]
    fn rules_of_the_spec() {
        let parse = |json: &str| DeviceRule::from_spec(&serde_json::from_str(json).unwrap(), 3);
        assert_eq!(parse(r#"{"allow":false,"access":"rwm"}"#).unwrap(), rule("-a"));
        assert_eq!(
            parse(r#"{"allow":true,"type":"c","major":1,"minor":-1,"access":"rm"}"#).unwrap().to_string(),
            "c 1:* rm"
        );
        for (json, expected) in [
            (r#"{"allow":true,"type":"p","access":"r"}"#, r#"type: "p": expected "a", "b" or "c""#),
            (r#"{"allow":true,"type":"c"}"#, r#"access: "": expected some of r, w and m"#),
            (r#"{"allow":true,"type":"c","access":"rx"}"#, r#"access: "rx": expected some of r, w and m"#),
            (
                r#"{"allow":true,"type":"b","minor":4294967296,"access":"r"}"#,
                "minor: 4294967296: expected a number of at most 32 bits, or -1 for all",
            ),
            (r#"{"allow":true,"type":"a","major":1,"access":"rwm"}"#, "type: \"a\" allows every access"),
        ] {
            let error = parse(json).unwrap_err().to_string();
            assert!(error.starts_with(&format!("linux.resources.devices[3].{expected}")), "{error}");
        }
    }

    #[test]
    fn access_in_json() {
        let json = serde_json::to_string(&rule("+c 1:3 mr")).unwrap();
        assert_eq!(json, r#"{"allow":true,"kind":"char","major":1,"minor":3,"access":"rm"}"#);
        assert_eq!(serde_json::from_str::<DeviceRule>(&json).unwrap(), rule("+c 1:3 rm"));
        assert!(serde_json::from_str::<Access>("\"x\"").is_err());
    }
}
