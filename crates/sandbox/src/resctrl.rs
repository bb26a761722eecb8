//! `linux.intelRdt`: the container's group in resctrl, the kernel's interface to shares of caches and of memory bandwidth
//! (runtime-spec, config-linux.md, "IntelRdt"; the kernel's Documentation/filesystems/resctrl.rst).

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxIntelRdt;
use serde::{Deserialize, Serialize};

use crate::error::Context;
use crate::{Error, Result, SysError};

/// A group, by its directories. Removing a group that does not exist is no error.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// The directory of the class of service; none without `linux.intelRdt`.
    class: Option<PathBuf>,
    /// Whether `closID` names the class: then it outlives the container.
    named: bool,
    /// The directory of the monitoring group, which is removed with the container.
    monitor: Option<PathBuf>,
}

/// The checked `linux.intelRdt`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupPlan {
    group: Group,
    /// Lines for the class's `schemata`, in their order.
    schemata: Vec<String>,
}

impl GroupPlan {
    /// Checks the fields, for the container `id`.
    ///
    /// # Errors
    /// No resctrl is mounted; a field is wrong, by name.
    pub fn new(rdt: &LinuxIntelRdt, id: &str) -> Result<Self> {
        let root = mounted()?.ok_or_else(|| {
            Error::unsupported(
                "linux.intelRdt",
                "intelRdt is specified in config, but Intel RDT is not enabled",
            )
        })?;
        Self::below(&root, rdt, id)
    }

    fn below(root: &Path, rdt: &LinuxIntelRdt, id: &str) -> Result<Self> {
        let field = |name: &str| format!("linux.intelRdt.{name}");
        let name = rdt.clos_id().as_deref().filter(|name| !name.is_empty());
        let class = match name {
            Some("/") => root.to_owned(),
            // Names of resctrl's own files, and paths of more than one component.
            Some("." | ".." | "info" | "mon_data" | "mon_groups") => {
                return Err(Error::invalid(field("closID"), format!("{name:?} is not the name of a class")));
            }
            Some(name) if name.contains(['/', '\n']) => {
                return Err(Error::invalid(field("closID"), format!("{name:?} is not the name of a class")));
            }
            Some(name) => root.join(name),
            None => root.join(id),
        };
        let mut schemata = Vec::new();
        for (name, line) in [("l3CacheSchema", rdt.l3_cache_schema()), ("memBwSchema", rdt.mem_bw_schema())] {
            let Some(line) = line.as_deref().filter(|line| !line.is_empty()) else { continue };
            if name == "memBwSchema" && !line.starts_with("MB:") {
                return Err(Error::invalid(
                    field(name),
                    format!("{line:?}: expected a line that starts with MB:"),
                ));
            }
            schemata.push((name, line));
        }
        schemata.extend(rdt.schemata().iter().flatten().map(|line| ("schemata", line.as_str())));
        if let Some((name, line)) = schemata.iter().find(|(_, line)| line.contains('\n')) {
            return Err(Error::invalid(field(name), format!("{line:?}: expected one line")));
        }
        let monitor = rdt.enable_monitoring().unwrap_or(false).then(|| class.join("mon_groups").join(id));
        Ok(Self {
            group: Group { class: Some(class), named: name.is_some(), monitor },
            schemata: schemata.into_iter().map(|(_, line)| line.to_owned()).collect(),
        })
    }

    /// The group that [`make`](Self::make) makes.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// Makes the group, or checks that a class with a name is as asked for.
    ///
    /// # Errors
    /// The class is missing or has other schemata; the processor has no class or monitor left (ENOSPC) or refuses a schema. A
    /// group that was half made is removed.
    pub fn make(&self) -> Result<()> {
        let Some(class) = &self.group.class else { return Ok(()) };
        let exists = class.is_dir();
        if exists && !self.group.named {
            return Err(Error::invalid("linux.intelRdt", format!("{} exists already", class.display())));
        }
        if !exists && self.group.named && self.schemata.is_empty() {
            let why = format!("{} does not exist, and no schema is given to make it with", class.display());
            return Err(Error::invalid("linux.intelRdt.closID", why));
        }
        if exists && !self.schemata.is_empty() {
            return self.check(class).and_then(|()| self.make_monitor());
        }
        let made = if exists { Ok(()) } else { make_dir(class) }
            .and_then(|()| self.group.update(&self.schemata))
            .and_then(|_| self.make_monitor());
        if made.is_err() && !exists {
            let _ = remove_dir(class);
        }
        made.context("make the container's resctrl group (linux.intelRdt)")
    }

    fn make_monitor(&self) -> Result<()> {
        self.group.monitor.as_deref().map_or(Ok(()), make_dir)
    }

    /// Whether an existing class has the wanted schemata: each wanted line is there, apart from spaces.
    fn check(&self, class: &Path) -> Result<()> {
        let path = class.join("schemata");
        let text = hiber_sys::file::read_to_string(&path).map_err(|e| failed("read", &path, &e))?;
        let has = |wanted: &str| {
            let Some((kind, shares)) = wanted.split_once(':') else { return false };
            text.lines().filter_map(|line| line.trim().split_once(':')).any(|(found, values)| {
                let values: Vec<_> = values.split(';').map(same_number).collect();
                found == kind.trim() && shares.split(';').all(|share| values.contains(&same_number(share)))
            })
        };
        match self.schemata.iter().find(|line| !has(line)) {
            None => Ok(()),
            Some(line) => {
                let why = format!("{line:?} is not what {} says: {:?}", path.display(), text.trim());
                Err(Error::invalid("linux.intelRdt", why))
            }
        }
    }
}

/// `0=7f0` and `0=007f0` are one.
fn same_number(share: &str) -> String {
    match share.trim().split_once('=') {
        Some((cache, value)) => format!("{}={}", cache.trim(), value.trim().trim_start_matches('0')),
        None => share.trim().to_owned(),
    }
}

impl Group {
    /// Puts a process into the group; its children are born there.
    ///
    /// # Errors
    /// The process or the group is gone.
    pub fn add(&self, pid: u32) -> Result<()> {
        for directory in self.class.iter().chain(&self.monitor) {
            write(&directory.join("tasks"), &pid.to_string())?;
        }
        Ok(())
    }

    /// Gives the class other shares, as lines for its `schemata`. False if the container has no class.
    ///
    /// # Errors
    /// The processor refuses a line.
    pub fn update(&self, lines: &[String]) -> Result<bool> {
        let Some(class) = &self.class else { return Ok(false) };
        lines.iter().try_for_each(|line| write(&class.join("schemata"), &format!("{line}\n")))?;
        Ok(true)
    }

    /// Removes the directories that do not outlive the container.
    ///
    /// # Errors
    /// The kernel refuses to.
    pub fn remove(&self) -> Result<()> {
        self.monitor.as_deref().map_or(Ok(()), remove_dir)?;
        self.class.as_deref().filter(|_| !self.named).map_or(Ok(()), remove_dir)
    }
}

/// Where resctrl is mounted.
fn mounted() -> Result<Option<PathBuf>> {
    let path = Path::new("/proc/thread-self/mountinfo");
    let text = hiber_sys::file::read_to_string(path).map_err(|e| failed("read", path, &e))?;
    let point = |line: &str| {
        let (mount, filesystem) = line.split_once(" - ")?;
        filesystem.starts_with("resctrl ").then(|| mount.split(' ').nth(4).map(PathBuf::from))?
    };
    Ok(text.lines().find_map(point))
}

fn failed(call: &'static str, path: &Path, e: &std::io::Error) -> Error {
    SysError::io(call, path.display().to_string(), e).into()
}

fn make_dir(path: &Path) -> Result<()> {
    std::fs::create_dir(path).map_err(|e| failed("mkdir", path, &e))
}

fn remove_dir(path: &Path) -> Result<()> {
    match std::fs::remove_dir(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(failed("rmdir", path, &e)),
        _ => Ok(()),
    }
}

/// Writes an existing file by one write(2), as the kernel demands.
fn write(path: &Path, text: &str) -> Result<()> {
    let written = std::fs::File::options()
        .write(true)
        .open(path)
        .and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()));
    written.map_err(|e| failed("write", path, &e)).context(format!("{:?}", text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(root: &Path, rdt: &str) -> Result<GroupPlan> {
        GroupPlan::below(root, &serde_json::from_str(rdt).unwrap(), "c1")
    }

    fn class(root: &Path, name: &str, schemata: &str) -> PathBuf {
        let class = root.join(name);
        std::fs::create_dir_all(class.join("mon_groups")).unwrap();
        std::fs::write(class.join("schemata"), schemata).unwrap();
        std::fs::write(class.join("tasks"), "").unwrap();
        class
    }

    fn said(result: Result<impl std::fmt::Debug>) -> String {
        crate::error::chain(&result.unwrap_err())
    }

    #[test]
    fn a_class_with_a_name_is_checked_joined_and_left() {
        let root = tempfile::tempdir().unwrap();
        let class = class(root.path(), "gold", "    L3:0=007f0;1=00f\n    MB:0=20\n");
        let same = plan(
            root.path(),
            r#"{"closID": "gold", "l3CacheSchema": "L3:0=7f0;1=f", "memBwSchema": "MB:0=20"}"#,
        );
        let same = same.unwrap();
        same.make().unwrap();
        same.group().add(7).unwrap();
        assert_eq!(std::fs::read_to_string(class.join("tasks")).unwrap(), "7");
        same.group().remove().unwrap();
        assert!(class.is_dir());
        let other = plan(root.path(), r#"{"closID": "gold", "l3CacheSchema": "L3:0=7f1"}"#).unwrap();
        assert!(said(other.make()).contains("L3:0=7f1"));
    }

    #[test]
    fn a_class_that_is_missing_is_made_only_from_a_schema() {
        let root = tempfile::tempdir().unwrap();
        assert!(said(plan(root.path(), r#"{"closID": "tin"}"#).unwrap().make()).contains("closID"));
        // This is no resctrl, which would have the file; what was made is removed.
        let made = plan(root.path(), r#"{"closID": "tin", "schemata": ["L3:0=f"]}"#).unwrap().make();
        assert!(said(made).contains("schemata"));
        assert!(!root.path().join("tin").exists());
    }

    #[test]
    fn the_containers_own_class_and_monitor_go_with_it() {
        let root = tempfile::tempdir().unwrap();
        let own = plan(root.path(), "{}").unwrap();
        own.make().unwrap();
        assert!(root.path().join("c1").is_dir());
        assert!(said(own.make()).contains("exists already"), "it may be another's");
        own.group().remove().unwrap();
        own.group().remove().unwrap();
        assert!(!root.path().join("c1").exists());

        class(root.path(), ".", "");
        let watched = plan(root.path(), r#"{"closID": "/", "enableMonitoring": true}"#).unwrap();
        watched.make().unwrap();
        assert!(root.path().join("mon_groups/c1").is_dir());
        watched.group().remove().unwrap();
        assert!(!root.path().join("mon_groups/c1").exists());
    }

    #[test]
    fn wrong_fields_are_named() {
        let root = Path::new("/nowhere");
        for (rdt, field) in [
            (r#"{"closID": "../x"}"#, "linux.intelRdt.closID"),
            (r#"{"closID": ".."}"#, "linux.intelRdt.closID"),
            (r#"{"closID": "info"}"#, "linux.intelRdt.closID"),
            (r#"{"memBwSchema": "L3:0=f"}"#, "linux.intelRdt.memBwSchema"),
            (r#"{"l3CacheSchema": "L3:0=f\nMB:0=1"}"#, "linux.intelRdt.l3CacheSchema"),
            (r#"{"schemata": ["L3:0=f\n"]}"#, "linux.intelRdt.schemata"),
        ] {
            assert!(said(plan(root, rdt)).contains(field), "{rdt}");
        }
    }
}
