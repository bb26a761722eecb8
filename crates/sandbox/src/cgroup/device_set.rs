//! The device cgroup of v1: its state, and the writes that change it.

use std::collections::BTreeMap;

use super::devices::{Access, DeviceKind, DeviceRule, FIELD};
use super::setting::Write;
use super::version::Version;
use crate::error::{Error, Result};

/// The devices of an exception: type, major and minor number; None is any number.
type Key = (DeviceKind, Option<u32>, Option<u32>);

fn key(rule: &DeviceRule) -> Key {
    (rule.kind, rule.major, rule.minor)
}

/// The devices that both keys name, if there are any.
fn intersection(a: Key, b: Key) -> Option<Key> {
    let number = |a: Option<u32>, b: Option<u32>| match (a, b) {
        (Some(a), Some(b)) if a != b => None,
        (a, b) => Some(a.or(b)),
    };
    (a.0 == b.0).then_some((a.0, number(a.1, b.1)?, number(a.2, b.2)?))
}

/// Refuses `rule` where it makes an exception to a part of `wide`, which is itself an exception to the default.
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

/// The state of a device cgroup of v1: a default and the exceptions to it. The kernel's interface is a list of changes to this
/// state (security/device_cgroup.c), so rules are applied here first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceSet {
    default_allow: bool,
    exceptions: BTreeMap<Key, Access>,
}

impl DeviceSet {
    /// The state after these rules (simplified by [`DeviceRule::resolve`]), beginning with "nothing is allowed".
    ///
    /// # Errors
    /// If a rule takes back a part of a wildcard rule: v1 would silently ignore the rule.
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

    /// The state in a `devices.list`. The file does not list the exceptions of a cgroup that allows by default;
    /// [`Self::changes_to`] takes that into account.
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

    /// Adds an exception for reading and writing wherever one exception allows reading and another writing. The kernel looks for a
    /// single exception that allows all of the access, and would refuse to open such a device for both.
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

    /// The fewest writes that turn a cgroup of this state into `target`. With these an update never takes a device away, even for a
    /// moment, that a running container keeps.
    pub fn changes_to(&self, target: &Self) -> Vec<Write> {
        let mut writes = Vec::new();
        let mut write = |allow: bool, what: String| {
            let file = if allow { "devices.allow" } else { "devices.deny" };
            writes.push(Write::new(FIELD, Version::V1, "devices", file, what));
        };
        let none = BTreeMap::new();
        let mut old = &self.exceptions;
        // The exceptions of a cgroup that allows by default cannot be read, so such a cgroup starts afresh.
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

    /// The kernel's answer (`devcgroup_check_permission`) for bits of [`Access`].
    #[cfg(test)]
    pub(super) fn allows(&self, (kind, major, minor): (DeviceKind, u32, u32), wanted: u8) -> bool {
        let device = (kind, Some(major), Some(minor));
        let mut matching = self.exceptions.iter().filter(|(key, _)| intersection(**key, device).is_some());
        match self.default_allow {
            true => !matching.any(|(_, access)| access.bits() & wanted != 0),
            false => matching.any(|(_, access)| wanted & !access.bits() == 0),
        }
    }

    /// The allowed devices as rules; `None` where everything is allowed but the exceptions.
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
