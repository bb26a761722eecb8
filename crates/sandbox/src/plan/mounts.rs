//! Mounts: config.json's `mounts` as validated steps.

use std::path::{Component, Path, PathBuf};

use nix::mount::MsFlags;
use serde::{Deserialize, Serialize};

use super::mount_data::{is_cgroup_option, kernel_number};
use super::mount_options::{ATIME_MASK, Effect, SWITCHES, effect};
use super::namespace::check_id_maps;
use super::{IdMap, NamespaceKind, Namespaces};
use crate::{Error, Result, ids};
use hiber_sys::mount::{MountAttributes, attributes};

/// The source of a mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A file or directory of the host.
    Bind {
        /// Absolute path.
        path: PathBuf,
        /// Whether the mounts below the source come along.
        recursive: bool,
    },
    /// A new filesystem.
    Filesystem {
        /// Its type, as in /proc/filesystems.
        fstype: String,
        /// The source argument of mount(2).
        source: String,
        /// The data argument of mount(2).
        data: String,
    },
    /// The container's own cgroups, in the way of the host's layout.
    Cgroup,
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPlan {
    /// Absolute path in the container.
    pub destination: PathBuf,
    /// The source.
    pub source: MountSource,
    /// Flags of mount(2) for a new filesystem.
    pub flags: u64,
    /// Attributes for a bind mount: where an option names one, all are set or cleared, as by mount(2)'s MS_REMOUNT.
    pub attributes: MountAttributes,
    /// The attributes that an option clears by name.
    pub cleared: u64,
    /// Attributes for the mount and all below it.
    pub recursive: MountAttributes,
    /// Propagation changes in order: an MS_* flag and whether it is recursive.
    pub propagation: Vec<(u64, bool)>,
    /// Copy the destination's files into the new tmpfs.
    pub copy_up: bool,
    /// The maps for the owners of a bind mount's files.
    pub id_maps: Option<MountIdMaps>,
}

/// The maps of an id-mapped mount (runtime-spec "Mounts", `uidMappings`): "container" is the id on the filesystem.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountIdMaps {
    /// Empty, as `gid`, for those of the container's user namespace.
    pub uid: Vec<IdMap>,
    /// The groups.
    pub gid: Vec<IdMap>,
    /// Whether the maps are for the mounts below, too.
    pub recursive: bool,
}

impl MountPlan {
    /// Whether the container can change its own cgroups through this mount.
    pub fn is_writable_cgroup(&self) -> bool {
        self.source == MountSource::Cgroup && self.flags & MsFlags::MS_RDONLY.bits() == 0
    }
}

impl MountPlan {
    /// Validates `mounts[index]`. Relative bind sources start at the bundle. A destination that begins with the root filesystem's
    /// path on the host means the rest of that path in the container, as with runc.
    pub(super) fn from_spec(
        index: usize,
        mount: &oci_spec::runtime::Mount,
        bundle: &Path,
        root: &Path,
    ) -> Result<Self> {
        let field = |name: &str| format!("mounts[{index}].{name}");
        let destination = mount.destination();
        if destination.as_os_str().is_empty() {
            return Err(Error::invalid(field("destination"), "is empty; expected an absolute path"));
        }
        let mut plan = Self {
            // runc takes a relative destination as one below "/".
            destination: Path::new("/").join(destination.strip_prefix(root).unwrap_or(destination)),
            source: MountSource::Cgroup,
            flags: 0,
            attributes: MountAttributes::default(),
            cleared: 0,
            recursive: MountAttributes::default(),
            propagation: Vec::new(),
            copy_up: false,
            id_maps: None,
        };
        if !plan.destination.components().any(|c| matches!(c, Component::Normal(_))) {
            let problem = format!(
                "{} is the root filesystem itself, which root.path names; expected a path below it",
                destination.display()
            );
            return Err(Error::invalid(field("destination"), problem));
        }
        let (mut bind, mut data, mut cleared) = (None, Vec::new(), None);
        for option in mount.options().iter().flatten() {
            if let Some(recursive) = plan.apply_option(option, &mut data, &mut cleared) {
                bind = Some(recursive || bind == Some(true));
            }
        }
        plan.add_attributes(cleared);
        let fstype = mount.typ().as_deref().unwrap_or_default();
        if fstype == "bind" || (fstype.is_empty() && bind.is_none()) {
            bind = bind.or(Some(false));
        }
        plan.source = Self::source(&field, mount, fstype, bind, &data, bundle)?;
        plan.check_proc(&field)?;
        plan.add_id_maps(&field, mount)?;
        if plan.copy_up && fstype != "tmpfs" {
            return Err(Error::invalid(field("options"), "tmpcopyup is only for type tmpfs"));
        }
        Ok(plan)
    }

    /// Whether the options make a bind mount, and a recursive one. Also collects the flags of mount(2) that options clear; `None`
    /// until an option sets or clears one.
    fn apply_option(
        &mut self,
        option: &str,
        data: &mut Vec<String>,
        cleared: &mut Option<u64>,
    ) -> Option<bool> {
        let set_recursive = |attributes: &mut MountAttributes, bits: u64, on: bool| {
            // The access-time modes are one field: setting one needs the others cleared.
            let mask = if bits & ATIME_MASK == bits { ATIME_MASK } else { bits };
            attributes.set &= !mask;
            if on {
                attributes.set |= bits;
                attributes.clear |= mask & ATIME_MASK;
                attributes.clear &= !(bits & !ATIME_MASK);
            } else {
                attributes.clear |= mask;
            }
        };
        match effect(option) {
            Some(Effect::Set(flags)) => {
                self.flags |= flags.bits();
                *cleared.get_or_insert_default() &= !flags.bits();
            }
            Some(Effect::Clear(flags)) => {
                self.flags &= !flags.bits();
                *cleared.get_or_insert_default() |= flags.bits();
            }
            Some(Effect::SetRecursive(attribute)) => set_recursive(&mut self.recursive, attribute, true),
            Some(Effect::ClearRecursive(attribute)) => set_recursive(&mut self.recursive, attribute, false),
            Some(Effect::Propagation(flag, recursive)) => self.propagation.push((flag.bits(), recursive)),
            Some(Effect::Bind(recursive)) => return Some(recursive),
            Some(Effect::CopyUp) => self.copy_up = true,
            Some(Effect::IdMap(recursive)) => self.id_maps.get_or_insert_default().recursive = recursive,
            Some(Effect::Nothing) => {}
            None => data.push(option.to_owned()),
        }
        None
    }

    /// The attributes of a bind mount. If an option names any attribute, all attributes are set or cleared, as with mount(2)'s
    /// MS_REMOUNT. The access times stay as they are unless an option sets them.
    fn add_attributes(&mut self, cleared: Option<u64>) {
        let Some(cleared) = cleared else { return };
        const ATIMES: MsFlags = MsFlags::MS_NOATIME
            .union(MsFlags::MS_NODIRATIME)
            .union(MsFlags::MS_RELATIME)
            .union(MsFlags::MS_STRICTATIME);
        let of_atime = ATIME_MASK | libc::MOUNT_ATTR_NODIRATIME;
        let (mut set, mut clear) = (attributes(self.flags), SWITCHES);
        if self.flags & ATIMES.bits() == 0 {
            set &= !of_atime;
        } else {
            clear |= of_atime;
        }
        self.attributes = MountAttributes { set, clear: clear & !(set & !ATIME_MASK), propagation: 0 };
        self.cleared = attributes(cleared) & SWITCHES;
    }

    fn add_id_maps(
        &mut self,
        field: &dyn Fn(&str) -> String,
        mount: &oci_spec::runtime::Mount,
    ) -> Result<()> {
        let [uid, gid] = [mount.uid_mappings(), mount.gid_mappings()]
            .map(|maps| maps.iter().flatten().map(IdMap::from).collect::<Vec<_>>());
        if uid.is_empty() != gid.is_empty() {
            let problem = "id-mapped mounts must have both uid and gid mappings specified";
            return Err(Error::invalid(
                field(if uid.is_empty() { "uidMappings" } else { "gidMappings" }),
                problem,
            ));
        }
        if !uid.is_empty() {
            check_id_maps(&field("uidMappings"), &uid)?;
            check_id_maps(&field("gidMappings"), &gid)?;
            let maps = self.id_maps.get_or_insert_default();
            (maps.uid, maps.gid) = (uid, gid);
        }
        if self.id_maps.is_some() && !matches!(self.source, MountSource::Bind { .. }) {
            return Err(Error::invalid(field("type"), "id-mapped mounts are only supported for bind-mounts"));
        }
        Ok(())
    }

    /// Maps that the mount leaves to the container's user namespace need one, and all need a privileged runtime.
    pub(super) fn check_id_maps(&self, index: usize, namespaces: &Namespaces, rootless: bool) -> Result<()> {
        match &self.id_maps {
            Some(_) if rootless => Err(Error::unsupported(
                format!("mounts[{index}].uidMappings"),
                "mapping the ids of a mount takes rights over its filesystem, which a rootless container lacks",
            )),
            Some(maps) if maps.uid.is_empty() && !namespaces.has(NamespaceKind::User) => Err(Error::invalid(
                format!("mounts[{index}].uidMappings"),
                "id-mapped mounts must have both uid and gid mappings specified, or a user namespace to take them from",
            )),
            _ => Ok(()),
        }
    }

    /// Checks the owners in the options of a new filesystem. The kernel reads them as ids of the container's user namespace, and
    /// only reports EINVAL for an id that is not mapped.
    pub(super) fn check_owner(&self, index: usize, namespaces: &Namespaces) -> Result<()> {
        let MountSource::Filesystem { data, .. } = &self.source else { return Ok(()) };
        for option in data.split(',') {
            let (maps, id) = match option.split_once('=') {
                Some(("uid" | "user_id", id)) => (&namespaces.uid_maps, id),
                Some(("gid" | "group_id", id)) => (&namespaces.gid_maps, id),
                _ => continue,
            };
            // The filesystem judges other values: some accept names.
            let Some(number) = kernel_number(id) else { continue };
            let invalid = |problem: String| {
                Err(Error::invalid(
                    format!("mounts[{index}].options"),
                    format!("cannot specify {option}: {problem}"),
                ))
            };
            let Some(id) = u32::try_from(number).ok().filter(|id| *id <= ids::MAX) else {
                return invalid(ids::no_id(number));
            };
            if namespaces.is_new(NamespaceKind::User) && !maps.iter().any(|map| map.contains(id)) {
                return invalid("the id is not mapped in the container's user namespace".into());
            }
        }
        Ok(())
    }

    fn source(
        field: &dyn Fn(&str) -> String,
        mount: &oci_spec::runtime::Mount,
        fstype: &str,
        bind: Option<bool>,
        data: &[String],
        bundle: &Path,
    ) -> Result<MountSource> {
        let given = mount.source().clone().unwrap_or_default();
        if let Some(recursive) = bind {
            if given.as_os_str().is_empty() {
                return Err(Error::invalid(field("source"), "is empty; a bind mount needs a path"));
            }
            if !data.is_empty() {
                return Err(Error::invalid(
                    field("options"),
                    format!("{:?}: bind mounts take no filesystem options", data.join(",")),
                ));
            }
            return Ok(MountSource::Bind { path: bundle.join(given), recursive });
        }
        if fstype == "cgroup" || fstype == "cgroup2" {
            let unknown = data.iter().flat_map(|o| o.split(',')).find(|o| !is_cgroup_option(o, fstype));
            let refused = |option| {
                Err(Error::invalid(field("options"), format!("{option:?} is no option of type {fstype}")))
            };
            return unknown.map_or(Ok(MountSource::Cgroup), refused);
        }
        let source = given
            .into_os_string()
            .into_string()
            .map_err(|s| Error::invalid(field("source"), format!("{} is not UTF-8", s.display())))?;
        let source = if source.is_empty() { fstype.to_owned() } else { source };
        Ok(MountSource::Filesystem { fstype: fstype.to_owned(), source, data: data.join(",") })
    }

    /// Protects /proc: only a procfs at /proc itself, and only the files that lxcfs and container managers replace below it (runc
    /// does the same since CVE-2019-16884, CVE-2019-19921).
    fn check_proc(&self, field: &dyn Fn(&str) -> String) -> Result<()> {
        const REPLACEABLE: [&str; 10] = [
            "cpuinfo",
            "diskstats",
            "meminfo",
            "stat",
            "swaps",
            "uptime",
            "loadavg",
            "slabinfo",
            "sys/kernel/ns_last_pid",
            "sys/crypto/fips_enabled",
        ];
        let Ok(below) = self.destination.strip_prefix("/proc") else { return Ok(()) };
        if below.as_os_str().is_empty() {
            return match &self.source {
                MountSource::Filesystem { fstype, .. } if fstype == "proc" => Ok(()),
                MountSource::Bind { .. } => Ok(()), // checked for being a procfs when its source is open
                _ => Err(Error::invalid(field("type"), "only proc or a bind of one may be mounted on /proc")),
            };
        }
        if REPLACEABLE.iter().any(|name| below == Path::new(name)) {
            return Ok(());
        }
        Err(Error::invalid(
            field("destination"),
            format!("{} cannot be mounted because it is inside /proc", self.destination.display()),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(json: &str) -> Result<MountPlan> {
        MountPlan::from_spec(
            0,
            &serde_json::from_str(json).unwrap(),
            Path::new("/bundle"),
            Path::new("/bundle/rootfs"),
        )
    }

    #[test]
    fn a_filesystem_keeps_its_data() {
        let m = plan(
            r#"{"destination":"/dev","type":"tmpfs","source":"tmpfs",
                "options":["nosuid","strictatime","mode=755","size=65536k"]}"#,
        )
        .unwrap();
        assert_eq!(m.flags, (MsFlags::MS_NOSUID | MsFlags::MS_STRICTATIME).bits());
        let MountSource::Filesystem { fstype, data, .. } = m.source else { panic!() };
        assert_eq!((fstype.as_str(), data.as_str()), ("tmpfs", "mode=755,size=65536k"));
    }

    #[test]
    fn later_options_win_and_binds_are_relative_to_the_bundle() {
        let m =
            plan(r#"{"destination":"data","source":"data","options":["rbind","ro","nodev","rw","noatime"]}"#)
                .unwrap();
        assert_eq!(m.source, MountSource::Bind { path: "/bundle/data".into(), recursive: true });
        assert_eq!(m.destination, Path::new("/data"));
        let inside = plan(r#"{"destination":"/bundle/rootfs/data","source":"data"}"#).unwrap();
        assert_eq!(inside.destination, Path::new("/data"));
        assert_eq!(m.attributes.set, libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOATIME);
        let all = SWITCHES | ATIME_MASK | libc::MOUNT_ATTR_NODIRATIME;
        assert_eq!(m.attributes.clear, all & !libc::MOUNT_ATTR_NODEV);
        assert_eq!(m.cleared, libc::MOUNT_ATTR_RDONLY);
    }

    #[test]
    fn a_bind_keeps_what_its_source_has_if_no_option_names_it() {
        let bind = |options: &str| {
            plan(&format!(r#"{{"destination":"/a","source":"/a","options":["rbind",{options}]}}"#)).unwrap()
        };
        assert!(bind(r#""rprivate","rro""#).attributes.is_empty());
        assert_eq!(bind(r#""rw""#).attributes, MountAttributes { clear: SWITCHES, ..Default::default() });
        // The kernel keeps the access times unless one is set.
        assert_eq!(bind(r#""atime""#).attributes.clear, SWITCHES);
        let strict = bind(r#""strictatime""#).attributes;
        assert_eq!((strict.set, strict.clear & ATIME_MASK), (libc::MOUNT_ATTR_STRICTATIME, ATIME_MASK));
        assert_eq!(bind(r#""rnorelatime""#).recursive.set, libc::MOUNT_ATTR_RELATIME);
    }

    #[test]
    fn mistakes_name_their_field() {
        let error = |json: &str| plan(json).unwrap_err().to_string();
        for root in ["/", "/.", "//", "/..", ".", "/bundle/rootfs"] {
            let json = format!(r#"{{"destination":"{root}","type":"tmpfs"}}"#);
            assert!(error(&json).contains("is the root filesystem itself"), "{root}");
        }
        assert!(error(r#"{"destination":"/bundle/rootfs/proc","type":"tmpfs"}"#).contains("only proc"));
        assert!(
            error(r#"{"destination":"/a","type":"bind","options":["bind"]}"#).starts_with("mounts[0].source")
        );
        assert!(
            error(r#"{"destination":"/proc/self/x","type":"bind","source":"/a"}"#).contains("inside /proc")
        );
        assert!(
            error(r#"{"destination":"/a","type":"bind","source":"/a","options":["bind","size=1"]}"#)
                .contains("size=1")
        );
        let maps = r#""uidMappings":[{"containerID":0,"hostID":1,"size":1}]"#;
        let one_sided = format!(r#"{{"destination":"/a","type":"bind","source":"/a",{maps}}}"#);
        assert!(error(&one_sided).starts_with("mounts[0].gidMappings"));
        assert!(error(r#"{"destination":"/a","type":"tmpfs","options":["idmap"]}"#).contains("bind-mounts"));
        assert!(error(r#"{"destination":"/proc","type":"tmpfs"}"#).contains("only proc"));
    }
}
