//! Cgroups that systemd makes: a scope for each container, by org.freedesktop.systemd1(5) over D-Bus.
//!
//! systemd owns the tree, and sets the limits for which it has properties. The scope is delegated; everything else works through
//! cgroupfs: limits without a property, hierarchies of v1 that systemd does not know, freezing, killing, statistics.

mod bus;
mod marshal;
mod properties;
mod text;

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use serde::{Deserialize, Serialize};

use self::bus::{Bus, BusError};
use self::marshal::Value;
use self::properties::Properties;
use super::limits::Limits;
use crate::error::{Error, Result};

/// The prefix of annotations that become properties of the unit, as with runc and crun.
pub const ANNOTATION_PREFIX: &str = "org.systemd.property.";

/// For `fuzz/`: reads bytes as a message, and as the text of an annotation.
#[cfg(fuzzing)]
pub(crate) fn read_dbus(bytes: &[u8]) {
    if let Some(prologue) = bytes.first_chunk() {
        let _ = marshal::Message::rest(prologue);
    }
    if let Ok(message) = marshal::Message::decode(bytes) {
        let _ = message.encode();
    }
    if let Ok(Ok(value)) = str::from_utf8(bytes).map(text::parse) {
        let _ = text::in_microseconds("TimeoutStopSec", value);
    }
}

/// A scope, by the names under which systemd knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// `hiber-ID.scope`
    pub name: String,
    /// The slice that it is in, as systemd names it: `a-b.slice` is in `a.slice`.
    pub slice: String,
    /// Whether it is a unit of a user's systemd.
    pub of_user: bool,
    /// The container's id, for the description, and the properties from annotations. Needed only when the unit starts.
    #[serde(skip)]
    start: Start,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Start {
    id: String,
    properties: Properties,
}

impl Unit {
    /// The unit of container `id` with this `linux.cgroupsPath`, `SLICE:PREFIX:NAME`: `PREFIX-NAME.scope` in SLICE,
    /// or in the default slice if that is empty. Without a path `hiber-ID.scope` in the default slice. `annotations`
    /// may have further properties.
    ///
    /// # Errors
    /// The path or an annotation is malformed.
    pub fn new(
        cgroups_path: Option<&Path>,
        id: &str,
        annotations: Option<&HashMap<String, String>>,
    ) -> Result<Self> {
        let of_user = is_of_user();
        let default_slice = if of_user { "user.slice" } else { "system.slice" };
        let given = cgroups_path.filter(|path| !path.as_os_str().is_empty());
        let (slice, prefix, name) = match given {
            None => ("", "hiber", id),
            Some(path) => parts(path)?,
        };
        let slice = if slice.is_empty() { default_slice } else { slice };
        let scope = format!("{prefix}-{name}.scope");
        // systemd.unit(5)
        let valid = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
        if name.is_empty() || scope.len() > 255 || !scope.chars().all(valid) {
            let expected = "a unit name of at most 255 letters, digits and :-_.\\@";
            return Err(path_error(given, &format!("gives the scope {scope:?}; expected {expected}")));
        }
        if name.ends_with(".slice") {
            return Err(path_error(given, "names a slice; expected a name for the container's scope"));
        }
        expand(slice).ok_or_else(|| path_error(given, &format!("has an invalid slice name: {slice}")))?;
        let properties = properties_of(annotations)?;
        let start = Start { id: id.to_owned(), properties };
        Ok(Self { name: scope, slice: slice.to_owned(), of_user, start })
    }

    /// The cgroup that systemd will make for the unit, as a path from the root of every hierarchy; `v2_alone`: the host has
    /// no other version.
    ///
    /// # Errors
    /// systemd does not run here or cannot be reached, or is a user's and there is no cgroup v2 for it.
    pub(super) fn cgroup(&self, v2_alone: bool) -> Result<PathBuf> {
        let refused = |why| Err(Error::unsupported("--systemd-cgroup", why));
        if !bus::is_booted() {
            return refused("systemd does not run here (there is no /run/systemd/system)");
        }
        if self.of_user && !v2_alone {
            return refused("a user's systemd can make cgroups on cgroup v2 alone");
        }
        let of_manager = self.bus()?.manager_property("ControlGroup").map_err(|e| self.failed(e))?;
        let slice = expand(&self.slice).unwrap_or_default();
        Ok(Path::new("/").join(of_manager.trim_start_matches('/')).join(slice).join(&self.name))
    }

    fn bus(&self) -> Result<Bus> {
        Bus::connect(self.of_user).map_err(|e| self.failed(e))
    }

    fn failed(&self, e: BusError) -> Error {
        e.about(format!("unit {}", self.name))
    }

    /// Makes the scope with process `pid` and `limits`, as far as systemd knows them; `devices_of_v1`: device rules are
    /// v1's, not a program.
    pub(super) fn start(&self, pid: u32, limits: &Limits, devices_of_v1: bool) -> Result<()> {
        let mut bus = self.bus()?;
        let version = version(&mut bus).map_err(|e| self.failed(e))?;
        let mut all = self.properties(pid, limits, version);
        all.extend(properties::of_limits(limits, version));
        all.extend(
            limits
                .devices
                .as_ref()
                .and_then(|rules| properties::of_devices(rules, devices_of_v1))
                .unwrap_or_default(),
        );
        // An annotation overrides other properties.
        all.extend(self.start.properties.clone());
        let auxiliary = Value::Array("(sa(sv))".into(), Vec::new());
        let arguments =
            vec![Value::str(&self.name), Value::str("replace"), properties::array(all), auxiliary];
        let mut result = bus.job("StartTransientUnit", arguments.clone());
        if matches!(&result, Err(e) if e.is("UnitExists")) {
            // A failed unit stays loaded until somebody resets it.
            let _ = bus.call("ResetFailedUnit", vec![Value::str(&self.name)]);
            result = bus.job("StartTransientUnit", arguments);
        }
        let error = match result.as_deref() {
            Ok("done") => return Ok(()),
            Ok(other) => {
                let why = format!("its start ended as {other:?}; see journalctl --unit {}", self.name);
                Error::Systemd { what: format!("unit {}", self.name), why }
            }
            // Nothing was made, and a unit of that name belongs to somebody else.
            Err(BusError::Refused { .. }) => return result.map(drop).map_err(|e| self.failed(e)),
            Err(e) => Error::Systemd { what: format!("unit {}", self.name), why: e.to_string() },
        };
        if let Err(e) = self.stop() {
            tracing::debug!("after a failed start: {e}");
        }
        Err(error)
    }

    /// The properties of every container's scope.
    fn properties(&self, pid: u32, limits: &Limits, version: u32) -> Properties {
        let mut all = Properties::from([
            ("Description".to_owned(), Value::Str(format!("hiber container {}", self.start.id))),
            ("Slice".to_owned(), Value::str(&self.slice)),
            ("Delegate".to_owned(), Value::Bool(true)),
            ("PIDs".to_owned(), Value::Array("u".into(), vec![Value::U32(pid)])),
            ("DefaultDependencies".to_owned(), Value::Bool(false)),
        ]);
        // As without systemd, where every controller counts from the start. On v1 systemd takes the name for blkio, too.
        for accounting in ["MemoryAccounting", "CPUAccounting", "IOAccounting", "TasksAccounting"] {
            all.insert(accounting.to_owned(), Value::Bool(true));
        }
        let group = limits.writes.iter().rev().find(|write| write.file == "memory.oom.group");
        // A scope's policy can be set at its start alone.
        if let Some(write) = group.filter(|_| version >= 253) {
            let policy = if write.value.trim() == "1" { "kill" } else { "continue" };
            all.insert("OOMPolicy".to_owned(), Value::str(policy));
        }
        all
    }

    /// Tells systemd of limits that change.
    pub(super) fn set(&self, limits: &Limits) -> Result<()> {
        if limits.is_empty() {
            return Ok(());
        }
        let mut bus = self.bus()?;
        let version = version(&mut bus).map_err(|e| self.failed(e))?;
        let changed = properties::of_limits(limits, version);
        if changed.is_empty() {
            return Ok(());
        }
        let arguments = vec![Value::str(&self.name), Value::Bool(true), properties::array(changed)];
        bus.call("SetUnitProperties", arguments).map(drop).map_err(|e| self.failed(e))
    }

    /// Moves a process into the cgroup at `path`, which is the unit's or below it.
    pub(super) fn attach(&self, pid: u32, path: &Path) -> Result<()> {
        let below: PathBuf = path.iter().skip_while(|part| *part != self.name.as_str()).skip(1).collect();
        let below = Path::new("/").join(below).to_string_lossy().into_owned();
        let pids = Value::Array("u".into(), vec![Value::U32(pid)]);
        let arguments = vec![Value::str(&self.name), Value::Str(below), pids];
        self.bus()?.call("AttachProcessesToUnit", arguments).map(drop).map_err(|e| self.failed(e))
    }

    /// Kills the remaining processes of the unit, and ends it. A missing unit is no error.
    pub(super) fn stop(&self) -> Result<()> {
        let mut bus = self.bus()?;
        // Stopping the unit alone would send SIGTERM, which the first process of a pid namespace may ignore.
        let _ =
            bus.call("KillUnit", vec![Value::str(&self.name), Value::str("all"), Value::I32(libc::SIGKILL)]);
        let stopped = bus.job("StopUnit", vec![Value::str(&self.name), Value::str("replace")]);
        let stopped = match stopped {
            Err(e) if e.is("NoSuchUnit") => return Ok(()),
            other => other.map_err(|e| self.failed(e))?,
        };
        if stopped != "done" {
            tracing::debug!("the end of unit {}: {stopped}", self.name);
        }
        // A failed unit stays loaded; others may be gone by now.
        match bus.call("ResetFailedUnit", vec![Value::str(&self.name)]) {
            Err(e) if !e.is("NoSuchUnit") => Err(self.failed(e)),
            _ => Ok(()),
        }
    }
}

/// Whether units of this process are its user's: it is not root, or root of a user namespace whose systemd is outside.
fn is_of_user() -> bool {
    let owner = statx(CWD, "/run/systemd/private", AtFlags::SYMLINK_NOFOLLOW, StatxFlags::UID)
        .map(|stat| stat.stx_uid);
    !rustix::process::geteuid().is_root() || owner.is_ok_and(|uid| uid != 0)
}

fn path_error(given: Option<&Path>, problem: &str) -> Error {
    let given = given.unwrap_or(Path::new(""));
    Error::invalid("linux.cgroupsPath", format!("{given:?} {problem}"))
}

fn parts(path: &Path) -> Result<(&str, &str, &str)> {
    let parts: Vec<_> = path.to_str().unwrap_or_default().split(':').collect();
    match parts.as_slice() {
        [slice, prefix, name] => Ok((*slice, *prefix, *name)),
        _ => Err(Error::invalid(
            "linux.cgroupsPath",
            format!(
                "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got {path:?} instead"
            ),
        )),
    }
}

/// The directories of a slice: `a-b.slice` is in `a.slice` (systemd.slice(5)).
fn expand(slice: &str) -> Option<PathBuf> {
    let stem = slice.strip_suffix(".slice")?;
    if stem == "-" {
        return Some(PathBuf::new());
    }
    let mut path = PathBuf::new();
    let mut name = String::new();
    for part in stem.split('-') {
        if part.is_empty() || Path::new(part).components().ne([Component::Normal(part.as_ref())]) {
            return None;
        }
        name += part;
        path.push(format!("{name}.slice"));
        name.push('-');
    }
    Some(path)
}

fn properties_of(annotations: Option<&HashMap<String, String>>) -> Result<Properties> {
    let mut properties = Properties::new();
    for (key, text) in annotations.into_iter().flatten() {
        let Some(name) = key.strip_prefix(ANNOTATION_PREFIX) else { continue };
        let invalid = |problem: String| Error::invalid(format!("annotations.{key}"), problem);
        if name.len() < 3 || !name.bytes().all(|b| b.is_ascii_alphabetic()) {
            return Err(invalid(format!(
                "{name:?}: expected the name of a property, of three letters at least"
            )));
        }
        let value = text::parse(text).and_then(|value| text::in_microseconds(name, value));
        let (name, value) = value.map_err(|problem| invalid(format!("{text:?}: {problem}")))?;
        properties.insert(name, value);
    }
    Ok(properties)
}

/// systemd's version: 252 of `252.39-1~deb12u1`.
fn version(bus: &mut Bus) -> Result<u32, BusError> {
    let text = bus.manager_property("Version")?;
    let digits: String = text.trim_start_matches('v').chars().take_while(char::is_ascii_digit).collect();
    digits.parse().map_err(|_| BusError::Unexpected(format!("Get of Version, {text:?},")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(path: &str) -> Result<Unit> {
        Unit::new(Some(Path::new(path)), "id", None)
    }

    #[test]
    fn names() {
        let named = |path| unit(path).map(|unit| (unit.slice, unit.name));
        let is = |slice: &str, name: &str| (slice.to_owned(), name.to_owned());
        let default = if is_of_user() { "user.slice" } else { "system.slice" };
        assert_eq!(named("system.slice:docker:1234").unwrap(), is("system.slice", "docker-1234.scope"));
        assert_eq!(named(":libpod:12").unwrap(), is(default, "libpod-12.scope"));
        assert_eq!(named("").unwrap(), is(default, "hiber-id.scope"));
        for (bad, problem) in [
            (
                "/a/b",
                r#"expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, got "/a/b" instead"#,
            ),
            ("a.slice:b", r#"got "a.slice:b" instead"#),
            ("a:b:c", r#""a:b:c" has an invalid slice name: a"#),
            ("a--b.slice:b:c", "has an invalid slice name: a--b.slice"),
            ("../x.slice:b:c", "has an invalid slice name: ../x.slice"),
            ("a.slice:b:c/d", r#"gives the scope "b-c/d.scope"; expected a unit name"#),
            ("a.slice:b:", r#"gives the scope "b-.scope""#),
            ("a.slice:b:c.slice", "names a slice"),
        ] {
            let error = unit(bad).unwrap_err().to_string();
            assert!(error.starts_with("linux.cgroupsPath: ") && error.contains(problem), "{error}");
        }
        assert!(unit(&format!("a.slice:b:{}", "c".repeat(300))).is_err());
    }

    #[test]
    fn slices_are_nested_by_their_names() {
        let expanded = |slice| expand(slice).map(|path| path.display().to_string());
        assert_eq!(expanded("a-b-c.slice").as_deref(), Some("a.slice/a-b.slice/a-b-c.slice"));
        assert_eq!(expanded("system.slice").as_deref(), Some("system.slice"));
        assert_eq!(expanded("-.slice").as_deref(), Some(""));
        for bad in ["", ".slice", "a", "-a.slice", "a-.slice", "a/b.slice", "...slice", "--.slice"] {
            assert_eq!(expanded(bad), None, "{bad}");
        }
    }

    #[test]
    fn annotations() {
        let read = |name: &str, text: &str| {
            let annotations = HashMap::from([(format!("{ANNOTATION_PREFIX}{name}"), text.to_owned())]);
            properties_of(Some(&annotations)).map(|properties| properties.into_iter().next().unwrap())
        };
        assert_eq!(
            read("TimeoutStopSec", "uint64 3").unwrap(),
            ("TimeoutStopUSec".into(), Value::U64(3_000_000))
        );
        assert_eq!(
            read("CollectMode", "'inactive'").unwrap(),
            ("CollectMode".into(), Value::str("inactive"))
        );
        for (name, text, problem) in [
            ("ab", "1", r#"org.systemd.property.ab: "ab": expected the name of a property"#),
            ("A.B", "1", r#""A.B": expected the name of a property"#),
            ("Description", "no quotes", r#"Description: "no quotes": "no": expected a value of type "i""#),
        ] {
            let error = read(name, text).unwrap_err().to_string();
            assert!(error.starts_with("annotations.") && error.contains(problem), "{error}");
        }
        assert_eq!(
            properties_of(Some(&HashMap::from([("other".into(), "x".into())]))).unwrap(),
            Properties::new()
        );
    }
}
