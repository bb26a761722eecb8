//! The names of members of a configuration. Go's encoding/json, and so runc, takes a member's name in any case.

use serde_json::{Map, Value};

/// Each name in the specification's spelling, between spaces. One text has no pointers, which each start would have to relocate.
const NAMES: &[u8] = b" DNSSearchList access action additionalGids allow allowUnqualifiedDNSQuery allowedAddress ambient anet annotations \
    apparmorProfile architectures args blockIO bounding bps burst capabilities cappedCPU cappedMemory cgroupsPath \
    checkBeforeUpdate class classID closID commandLine configureAllowedAddress consoleSize containerID count cpu cpus \
    createContainer createRuntime credentialSpec cwd deadline defaultAction defaultErrnoRet defrouter destination devices \
    disableOOMKiller domain domainname effective enableCmt enableMbm enableMonitoring endpointList env errnoRet \
    execCPUAffinity fileMode final flags format gid gidMappings hard hcaHandles hcaObjects height hooks hostID hostname \
    hugepageLimits hyperv hypervisor id idType idle ignoreFlushesDuringBoot image index inheritable initial initrd \
    intelRdt ioPriority iops kernel kernelTCP l3CacheSchema layerFolders leafWeight limit limitpriv linkProtection \
    linkname linux listenerMetadata listenerPath lowerLink macAddress major maskedPaths maxShmMemory maximum memBwSchema \
    memory memoryPolicy mems milestone minor mode mountLabel mounts name names namespaces nanosecs ncpus netDevices \
    network networkNamespace networkSharedContainerName nice noNewPrivileges nodes ociVersion oomScoreAdj op options \
    pageSize parameters path period permitted personality physical pids policy poststart poststop prestart priorities \
    priority process quota rate rdma readonly readonlyPaths realtimePeriod realtimeRuntime reservation resources rlimits \
    root rootfsPropagation runtime sandboxSize scheduler schemata seccomp secs selinuxLabel servicing shares size soft \
    solaris source startContainer storage swap swappiness syscalls sysctl terminal throttleReadBpsDevice \
    throttleReadIOPSDevice throttleWriteBpsDevice throttleWriteIOPSDevice timeOffsets timeout type uid uidMappings umask \
    unified useHierarchy user username utilityVmPath value valueTwo vm weight weightDevice width windows zos ";

/// Members whose value is a map: its keys are no names of members.
const MAPS: [&str; 6] = ["annotations", "netDevices", "rdma", "sysctl", "timeOffsets", "unified"];

const SIZE: usize = 1024;

/// Where a name begins, by its hash; 0: nowhere.
const SLOTS: [u16; SIZE] = {
    let (mut slots, mut at) = ([0; SIZE], 1);
    while at < NAMES.len() {
        let mut end = at;
        while NAMES[end] != b' ' {
            end += 1;
        }
        let mut slot = hash(NAMES, at, end);
        while slots[slot] != 0 {
            slot = (slot + 1) % SIZE;
        }
        slots[slot] = at as u16;
        at = end + 1;
    }
    slots
};

/// The same for letters in either case: of some letters, for each member of each configuration is looked up.
const fn hash(text: &[u8], at: usize, end: usize) -> usize {
    let length = end - at;
    if length == 0 {
        return 0;
    }
    let letters = [text[at], text[at + length / 2], text[at + length / 3], text[end - 1], length as u8];
    let (mut hash, mut next) = (0, 0);
    while next < letters.len() {
        hash = hash * 45 + (letters[next] | 0x20) as usize;
        next += 1;
    }
    (hash ^ hash >> 10) % SIZE
}

/// The specification's spelling of a name that is one in some case.
fn spelling(name: &[u8]) -> Option<&'static [u8]> {
    let mut slot = hash(name, 0, name.len());
    loop {
        let start = usize::from(SLOTS[slot]);
        if start == 0 {
            return None;
        }
        let end = start + name.len();
        let known = NAMES.get(start..end).filter(|_| NAMES.get(end) == Some(&b' '));
        if let Some(known) = known.filter(|known| *known == name || known.eq_ignore_ascii_case(name)) {
            return Some(known);
        }
        slot = (slot + 1) % SIZE;
    }
}

/// Whether a name is one of the specification's, in another spelling.
pub(super) fn is_respelt(name: &str) -> bool {
    spelling(name.as_bytes()).is_some_and(|known| known != name.as_bytes())
}

/// A member in two spellings: the path of its object, and the two.
type Twice = (String, String, String);

/// Gives all members the specification's spelling.
///
/// # Errors
/// If an object has a member in two spellings, with different values.
pub(super) fn respell(value: &mut Value) -> Result<(), Twice> {
    let within = |step: String| |(path, one, other): Twice| (below(path, step), one, other);
    match value {
        Value::Object(members) => {
            rename(members)?;
            members.iter_mut().try_for_each(|(name, member)| {
                let result = match member {
                    Value::Object(map) if MAPS.contains(&name.as_str()) => map
                        .iter_mut()
                        .try_for_each(|(key, value)| respell(value).map_err(within(key.clone()))),
                    _ => respell(member),
                };
                result.map_err(within(name.clone()))
            })
        }
        Value::Array(elements) => elements
            .iter_mut()
            .enumerate()
            .try_for_each(|(at, element)| respell(element).map_err(within(format!("[{at}]")))),
        _ => Ok(()),
    }
}

/// A path below another: `linux` and `devices[0]`.
pub(super) fn below(inner: String, step: String) -> String {
    match inner.is_empty() || inner.starts_with('[') {
        true => step + &inner,
        false => format!("{step}.{inner}"),
    }
}

fn rename(members: &mut Map<String, Value>) -> Result<(), Twice> {
    let others: Vec<String> = members.keys().filter(|name| is_respelt(name)).cloned().collect();
    for name in others {
        let (Some(known), Some(member)) = (spelling(name.as_bytes()), members.remove(&name)) else {
            continue;
        };
        let known = String::from_utf8_lossy(known).into_owned();
        let Some(same) = members.get_mut(&known) else {
            members.insert(known, member);
            continue;
        };
        if !merge(same, member) {
            return Err((String::new(), known, name));
        }
    }
    Ok(())
}

/// Gives an object the members of another one, as Go reads a member twice. False if both have one, with different values: of
/// these Go takes the last one in the file.
fn merge(into: &mut Value, other: Value) -> bool {
    match (into, other) {
        (Value::Object(into), Value::Object(other)) => {
            other.into_iter().all(|(name, value)| match into.get_mut(&name) {
                Some(same) => merge(same, value),
                None => into.insert(name, value).is_none(),
            })
        }
        (into, other) => *into == other,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeSet;

    use oci_spec::runtime::Spec;
    use serde::de::value::{Error, StrDeserializer};
    use serde::de::{DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};
    use serde::{Deserialize, forward_to_deserialize_any};

    use super::*;

    /// Gives a type some value, and notes the names of all members on the way.
    #[derive(Clone, Copy)]
    struct Asked<'a>(&'a RefCell<BTreeSet<&'static str>>);

    /// One value of each member, or one element.
    struct Members<'a>(Asked<'a>, std::slice::Iter<'static, &'static str>);

    impl<'de> MapAccess<'de> for Members<'_> {
        type Error = Error;

        fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
            let key = |name: &&str| seed.deserialize(StrDeserializer::new(name));
            self.1.next().map(key).transpose()
        }

        fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
            seed.deserialize(self.0)
        }
    }

    impl<'de> SeqAccess<'de> for Members<'_> {
        type Error = Error;

        fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
            let element = |_| seed.deserialize(self.0);
            self.1.next().map(element).transpose()
        }
    }

    macro_rules! numbers {
        ($($name:ident $visit:ident)*) => {
            $(fn $name<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
                visitor.$visit(1)
            })*
        };
    }

    impl<'de> Deserializer<'de> for Asked<'_> {
        type Error = Error;

        // A name of the one kind of text that is not every text.
        fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.visit_str("CAP_KILL")
        }

        fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.visit_bool(true)
        }

        numbers! {
            deserialize_i8 visit_i8 deserialize_i16 visit_i16 deserialize_i32 visit_i32 deserialize_i64 visit_i64
            deserialize_u8 visit_u8 deserialize_u16 visit_u16 deserialize_u32 visit_u32 deserialize_u64 visit_u64
        }

        fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.visit_some(self)
        }

        fn deserialize_newtype_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            visitor: V,
        ) -> Result<V::Value, Error> {
            visitor.visit_newtype_struct(self)
        }

        fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.visit_seq(Members(self, [""].iter()))
        }

        fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.visit_map(Members(self, ["key"].iter()))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            name: &'static str,
            fields: &'static [&'static str],
            visitor: V,
        ) -> Result<V::Value, Error> {
            self.0.borrow_mut().extend(fields);
            // Whose members are lists of processors, and not of capabilities.
            let given: &[&str] = if name == "ExecCPUAffinity" { &[] } else { fields };
            visitor.visit_map(Members(self, given.iter()))
        }

        fn deserialize_enum<V: Visitor<'de>>(
            self,
            _: &'static str,
            variants: &'static [&'static str],
            visitor: V,
        ) -> Result<V::Value, Error> {
            visitor.visit_enum(IntoDeserializer::<Error>::into_deserializer(variants[0]))
        }

        forward_to_deserialize_any! {
            f32 f64 char str string bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
        }
    }

    fn known() -> Vec<&'static str> {
        str::from_utf8(NAMES).unwrap().split_ascii_whitespace().collect()
    }

    #[test]
    fn a_name_is_found_in_any_case() {
        for name in known() {
            for other in [name.to_ascii_uppercase(), name.to_ascii_lowercase()] {
                assert_eq!(spelling(other.as_bytes()), Some(name.as_bytes()));
                assert_eq!(is_respelt(&other), other != name);
            }
            assert_eq!((spelling(name.as_bytes()), is_respelt(name)), (Some(name.as_bytes()), false));
            assert_eq!([&name[1..], &format!("{name}x"), &format!("{name} ")].map(is_respelt), [false; 3]);
        }
        assert_eq!(["", " ", "i o", "a b", "\u{212a}ernel"].map(|name| spelling(name.as_bytes())), [None; 5]);
    }

    #[test]
    fn members_get_the_specifications_names() {
        let mut value = serde_json::json!({
            "Linux": { "RESOURCES": { "CPU": { "Cpus": "0", "Unheard": { "Quota": 1 } }, "unified": { "Memory": "CPU" } } },
            "annotations": { "Process": "Args", "process": "args" },
            "Mounts": [{ "Destination": "/" }],
            "linux2": { "timeoffsets": { "Boottime": { "SECS": 1 } } },
        });
        respell(&mut value).unwrap();
        let is = serde_json::json!({
            "linux": { "resources": { "cpu": { "cpus": "0", "Unheard": { "quota": 1 } }, "unified": { "Memory": "CPU" } } },
            "annotations": { "Process": "Args", "process": "args" },
            "mounts": [{ "destination": "/" }],
            "linux2": { "timeOffsets": { "Boottime": { "secs": 1 } } },
        });
        assert_eq!(value, is);
        let mut twice = serde_json::json!({ "linux": { "Devices": [{ "path": "/a", "PATH": "/b" }] } });
        let (at, one, other) = respell(&mut twice).unwrap_err();
        assert_eq!([at, one, other], ["linux.devices[0]", "path", "PATH"]);
        let mut both =
            serde_json::json!({ "CPU": { "Cpus": "0" }, "cpu": { "quota": 1 }, "Cpu": { "QUOTA": 1 } });
        respell(&mut both).unwrap();
        assert_eq!(both, serde_json::json!({ "cpu": { "cpus": "0", "quota": 1 } }));
        let mut twice = serde_json::json!({ "CPU": 1, "Cpu": 2 });
        assert_eq!(respell(&mut twice).unwrap_err().0, "");
    }

    #[test]
    fn names_are_those_of_oci_spec() {
        let names = RefCell::default();
        Spec::deserialize(Asked(&names)).unwrap();
        let names: Vec<_> = names.into_inner().into_iter().collect();
        assert_eq!(known(), names);
        let one_spelling: BTreeSet<_> = names.iter().map(|name| name.to_ascii_lowercase()).collect();
        assert_eq!(one_spelling.len(), names.len());
        assert!(MAPS.iter().all(|name| names.contains(name)));
    }
}
