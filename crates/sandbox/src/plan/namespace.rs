//! Namespaces of a container: which are new, which are joined, and the maps of a user namespace.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use hiber_sys::NamespaceKind;
use hiber_sys::ioctl::namespace_kind;
use oci_spec::runtime::{LinuxIdMapping, LinuxNamespace, LinuxNamespaceType};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::ProcessPlan;
use crate::{Error, Result, SysError, ids};

/// The kind with this name in config.json.
pub fn kind(typ: LinuxNamespaceType) -> NamespaceKind {
    match typ {
        LinuxNamespaceType::User => NamespaceKind::User,
        LinuxNamespaceType::Mount => NamespaceKind::Mount,
        LinuxNamespaceType::Pid => NamespaceKind::Pid,
        LinuxNamespaceType::Network => NamespaceKind::Network,
        LinuxNamespaceType::Ipc => NamespaceKind::Ipc,
        LinuxNamespaceType::Uts => NamespaceKind::Uts,
        LinuxNamespaceType::Cgroup => NamespaceKind::Cgroup,
        LinuxNamespaceType::Time => NamespaceKind::Time,
    }
}

/// A namespace to join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// Its kind.
    pub kind: NamespaceKind,
    /// A file of the kind /proc/PID/ns/NAME.
    pub path: PathBuf,
}

impl Join {
    /// Opens it.
    ///
    /// # Errors
    /// With the field's name: the path cannot be opened, or is no namespace of that kind.
    pub(crate) fn open(&self, field: &str) -> Result<OwnedFd> {
        let path = self.path.display();
        let fd = rustix::fs::open(&self.path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| SysError::new("open", path.to_string(), e.raw_os_error()))
            .map_err(|e| Error::invalid(field, e.to_string()))?;
        if namespace_kind(fd.as_fd()).ok() != Some(self.kind.clone_flag()) {
            return Err(Error::invalid(field, format!("{path} is no {} namespace", self.kind.as_str())));
        }
        Ok(fd)
    }
}

/// A range of a uid_map or gid_map (user_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    /// First id inside.
    pub container: u32,
    /// First id outside.
    pub host: u32,
    /// Number of ids.
    pub size: u32,
}

impl IdMap {
    /// Whether it maps `id` of the inside.
    pub(super) fn contains(&self, id: u32) -> bool {
        id.checked_sub(self.container).is_some_and(|offset| offset < self.size)
    }
}

impl From<&LinuxIdMapping> for IdMap {
    fn from(m: &LinuxIdMapping) -> Self {
        Self { container: m.container_id(), host: m.host_id(), size: m.size() }
    }
}

/// The namespaces of one container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// Kinds that are created.
    pub new: Vec<NamespaceKind>,
    /// Namespaces that are joined, the user namespace first.
    pub join: Vec<Join>,
    /// Maps of a new user namespace.
    pub uid_maps: Vec<IdMap>,
    /// Maps of a new user namespace.
    pub gid_maps: Vec<IdMap>,
}

impl Namespaces {
    /// Validates `linux.namespaces` and the id mappings.
    pub(super) fn from_spec(linux: &oci_spec::runtime::Linux) -> Result<Self> {
        let mut all = Self::default();
        for (i, namespace) in linux.namespaces().iter().flatten().enumerate() {
            all.add(i, namespace)?;
        }
        all.join.sort_by_key(|j| j.kind);
        all.uid_maps = linux.uid_mappings().iter().flatten().map(IdMap::from).collect();
        all.gid_maps = linux.gid_mappings().iter().flatten().map(IdMap::from).collect();
        check_id_maps("linux.uidMappings", &all.uid_maps)?;
        check_id_maps("linux.gidMappings", &all.gid_maps)?;
        all.check_maps()?;
        if linux.time_offsets().as_ref().is_some_and(|o| !o.is_empty()) && !all.is_new(NamespaceKind::Time) {
            return Err(Error::invalid(
                "linux.timeOffsets",
                "offsets need a new time namespace in linux.namespaces",
            ));
        }
        Ok(all)
    }

    fn add(&mut self, index: usize, namespace: &LinuxNamespace) -> Result<()> {
        let kind = kind(namespace.typ());
        if self.has(kind) {
            return Err(Error::invalid(
                "linux.namespaces",
                format!("duplicated ns {:?}: each kind may be given once", kind.as_str()),
            ));
        }
        match namespace.path().as_ref().filter(|p| !p.as_os_str().is_empty()) {
            None => self.new.push(kind),
            Some(path) if path.is_absolute() => {
                let join = Join { kind, path: path.clone() };
                join.open(&format!("linux.namespaces[{index}].path"))?;
                self.join.push(join);
            }
            Some(path) => {
                return Err(Error::invalid(
                    format!("linux.namespaces[{index}].path"),
                    format!("{} is not an absolute path", path.display()),
                ));
            }
        }
        Ok(())
    }

    /// Refuses ids that a new user namespace does not map; the kernel would only report EINVAL (user_namespaces(7)).
    pub(super) fn check_user(&self, process: &ProcessPlan) -> Result<()> {
        if !self.is_new(NamespaceKind::User) {
            return Ok(());
        }
        let check =
            |maps: &[IdMap], id: u32, kind: &str, field: String| match maps.iter().any(|m| m.contains(id)) {
                true => Ok(()),
                false => {
                    let problem = format!("cannot set{kind} to unmapped {kind} {id} in user namespace");
                    Err(Error::invalid(format!("process.user.{field}"), problem))
                }
            };
        check(&self.uid_maps, process.uid, "uid", "uid".into())?;
        check(&self.gid_maps, process.gid, "gid", "gid".into())?;
        for (i, gid) in process.additional_gids.iter().enumerate() {
            check(&self.gid_maps, *gid, "gid", format!("additionalGids[{i}]"))?;
        }
        Ok(())
    }

    fn check_maps(&self) -> Result<()> {
        let user = self.is_new(NamespaceKind::User);
        for (maps, field) in [(&self.uid_maps, "linux.uidMappings"), (&self.gid_maps, "linux.gidMappings")] {
            if user && maps.is_empty() {
                return Err(Error::invalid(field, "a new user namespace needs at least one mapping"));
            }
            if !maps.is_empty() && !self.has(NamespaceKind::User) {
                return Err(Error::invalid(field, "mappings need a user namespace in linux.namespaces"));
            }
            if user && !maps.iter().any(|m| m.container == 0 && m.size > 0) {
                return Err(Error::invalid(
                    field,
                    "no mapping covers id 0 of the container, which sets it up",
                ));
            }
        }
        Ok(())
    }

    /// Whether the container has a new namespace of this kind.
    pub fn is_new(&self, kind: NamespaceKind) -> bool {
        self.new.contains(&kind)
    }

    /// Whether the container has a namespace of this kind that is not the runtime's, new or joined.
    pub fn has(&self, kind: NamespaceKind) -> bool {
        self.is_new(kind) || self.joined(kind).is_some()
    }

    /// The namespace of this kind that is joined.
    pub fn joined(&self, kind: NamespaceKind) -> Option<&Join> {
        self.join.iter().find(|j| j.kind == kind)
    }

    /// Flags of all kinds that are not the runtime's own: a further process must join these.
    pub fn flags(&self) -> u64 {
        NamespaceKind::ALL.into_iter().filter(|k| self.has(*k)).map(NamespaceKind::clone_flag).sum()
    }
}

/// Ranges that the kernel would refuse with EINVAL.
pub(super) fn check_id_maps(field: &str, maps: &[IdMap]) -> Result<()> {
    let overlap = |a: u32, b: u32, (m, n): (&IdMap, &IdMap)| {
        u64::from(a) < u64::from(b) + u64::from(n.size) && u64::from(b) < u64::from(a) + u64::from(m.size)
    };
    for (i, map) in maps.iter().enumerate() {
        let end = map.container.max(map.host).checked_add(map.size);
        if map.size == 0 || end.is_none() {
            let problem = format!("{}: expected 1 or more ids, none over {}", map.size, ids::MAX);
            return Err(Error::invalid(format!("{field}[{i}].size"), problem));
        }
        for (j, other) in maps[..i].iter().enumerate() {
            let pair = (map, other);
            if overlap(map.container, other.container, pair) || overlap(map.host, other.host, pair) {
                return Err(Error::invalid(
                    format!("{field}[{i}]"),
                    format!("maps ids that {field}[{j}] maps, too"),
                ));
            }
        }
    }
    Ok(())
}
