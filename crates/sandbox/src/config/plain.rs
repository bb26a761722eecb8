//! The fast way to read a configuration. Most need none of the tolerance of [`parse`](super::parse), and are read in less than
//! half the time.

use std::fmt;

use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::names::is_respelt;

/// Reads JSON for which oci-spec alone gives the same result as [`parse`](super::parse). `None` if there is any doubt.
pub(super) fn as_it_is<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let text = str::from_utf8(bytes).ok()?;
    Plain(None).deserialize(&mut serde_json::Deserializer::from_str(text)).ok()?;
    serde_json::from_str(text).ok()
}

/// A JSON value with the name of its member. Reading succeeds only where `parse` would drop, rename or refuse no part of the
/// value; a name with an escape is an error, too. Returns whether the value is an empty object.
struct Plain<'a>(Option<&'a str>);

impl<'de> DeserializeSeed<'de> for Plain<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<bool, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Plain<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON that is read as it is")
    }

    fn visit_bool<E>(self, _: bool) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_i64<E>(self, _: i64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_u64<E>(self, _: u64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_f64<E>(self, _: f64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<bool, E> {
        if text.contains('\0') { Err(E::custom("NUL")) } else { Ok(false) }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<bool, A::Error> {
        if self.0.is_none_or(|name| LISTS.binary_search(&name).is_err()) {
            return Err(A::Error::custom("a list in an unknown place"));
        }
        while elements.next_element_seed(Plain(None))?.is_some() {}
        Ok(false)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<bool, A::Error> {
        let mut empty = true;
        while let Some(name) = members.next_key::<&str>()? {
            let nothing = members.next_value_seed(Plain(Some(name)))?;
            if is_respelt(name) || (name == "pids" && nothing) {
                return Err(A::Error::custom(name));
            }
            empty = false;
        }
        Ok(empty)
    }
}

/// Members that are lists in the specification, and never objects.
const LISTS: [&str; 34] = [
    "additionalGids",
    "ambient",
    "architectures",
    "args",
    "bounding",
    "createContainer",
    "createRuntime",
    "devices",
    "effective",
    "env",
    "flags",
    "gidMappings",
    "hugepageLimits",
    "inheritable",
    "maskedPaths",
    "mounts",
    "names",
    "namespaces",
    "options",
    "permitted",
    "poststart",
    "poststop",
    "prestart",
    "priorities",
    "readonlyPaths",
    "rlimits",
    "schemata",
    "startContainer",
    "syscalls",
    "throttleReadBpsDevice",
    "throttleReadIOPSDevice",
    "throttleWriteBpsDevice",
    "throttleWriteIOPSDevice",
    "uidMappings",
];

#[cfg(test)]
mod tests {
    use oci_spec::runtime::Spec;

    use super::*;

    #[test]
    fn what_is_read_as_it_is() {
        assert!(LISTS.is_sorted());
        let plain = |text: &str| as_it_is::<Spec>(text.as_bytes()).is_some();
        for text in [
            r#"{ "mounts": [{ "destination": "/a", "options": ["ro"] }], "linux": { "resources": { "pids": { "limit": 1 } } } }"#,
            r#"{ "annotations": { "a": "\u003c\"\n" }, "unheard": { "args": [-1, 1e3, true, ""] } }"#,
        ] {
            assert!(plain(text), "{text}");
        }
        for text in [
            r#"{ "mounts": [["/proc", "proc"]] }"#,
            r#"{ "process": { "cwd": "/", "user": [0, 0] } }"#,
            r#"{ "process": { "cwd": "/" } }"#,
            r#"{ "linux": { "namespaces": [{ "type": { "network": null } }] } }"#,
            r#"{ "hostname": "a\u0000" }"#,
            r#"{ "unheard": "\u0000" }"#,
            r#"{ "unheard": 1e999 }"#,
            r#"{ "linux": { "resources": { "pids": {} } } }"#,
            r#"{ "linux": { "resources": { "p\u0069ds": {} } } }"#,
            r#"{ "linux": { "resources": { "hugepageLimits": [{ "pageSize": "2MB", "pagesize": "1GB", "limit": 1 }] } } }"#,
            r#"{ "hostname": "a", "hostname": "b" }"#,
            r#"{ "Hostname": "a" }"#,
            r#"{ "linux": { "resources": { "CPU": { "quota": 1 } } } }"#,
            r#"{ "hostname": "a" } x"#,
        ] {
            assert!(!plain(text), "{text}");
        }
    }
}
