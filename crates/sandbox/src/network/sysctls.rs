//! The sysctls of a network namespace: its files below /proc/sys/net.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use crate::{Result, SysError};

/// Values by path below /proc/sys/net.
pub(super) type Sysctls = BTreeMap<String, String>;

const ROOT: &str = "/proc/sys/net";

/// Reads the writable sysctls of the calling thread's network namespace.
pub(super) fn read() -> Result<Sysctls> {
    let mut found = Sysctls::new();
    let mut todo = vec![String::new()];
    while let Some(dir) = todo.pop() {
        let path = Path::new(ROOT).join(&dir);
        let failed = |e: std::io::Error| SysError::io("read", path.display().to_string(), &e);
        for entry in path.read_dir().map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let name = if dir.is_empty() { name } else { format!("{dir}/{name}") };
            if entry.file_type().map_err(failed)?.is_dir() {
                todo.push(name);
            } else if is_writable(&entry)
                // A sysctl that can only be written, or was never set, has no value.
                && let Ok(value) = hiber_sys::file::read_to_string(entry.path())
            {
                found.insert(name, value.trim_end().to_owned());
            }
        }
    }
    Ok(found)
}

fn is_writable(entry: &std::fs::DirEntry) -> bool {
    use std::os::unix::fs::MetadataExt;
    entry.metadata().is_ok_and(|stat| stat.mode() & 0o200 != 0)
}

/// The sysctls of `all` that differ from a `new` network namespace; those of a device are compared with the default for devices.
pub(super) fn changed(mut all: Sysctls, new: &Sysctls, always: &[String]) -> Sysctls {
    all.retain(|name, value| {
        // This one follows the device's MTU.
        let follows = name.starts_with("ipv6/conf/") && name.ends_with("/mtu");
        !follows && (new.get(&general(name)) != Some(value) || always.contains(name))
    });
    all
}

/// The default for new devices: `ipv4/conf/default/rp_filter` for `ipv4/conf/eth0/rp_filter`.
fn general(name: &str) -> String {
    let parts: Vec<&str> = name.split('/').collect();
    match parts[..] {
        [family, "conf", device, last] if !matches!(device, "all" | "default" | "lo") => {
            format!("{family}/conf/default/{last}")
        }
        [family, "neigh", device, last] if device != "lo" => format!("{family}/neigh/lo/{last}"),
        _ => name.to_owned(),
    }
}

/// Writes the differing sysctls of the calling thread's network namespace; a sysctl that cannot be set is logged.
pub(super) fn put(wanted: &Sysctls) -> Result<()> {
    for name in wanted.keys() {
        if !Path::new(name).components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(crate::Error::invalid("sysctls", format!("{name:?} is no name of a sysctl")));
        }
    }
    // Some sysctls set others, or limit them: those for all devices come before those for one.
    let order = |name: &str| (!name.contains("/all/"), !name.contains("/default/"));
    let mut names: Vec<_> = wanted.iter().collect();
    names.sort_by_key(|(name, _)| order(name));
    for last in [false, false, true] {
        for (name, value) in &names {
            let path = Path::new(ROOT).join(name);
            let same = hiber_sys::file::read_to_string(&path).is_ok_and(|here| here.trim_end() == *value);
            if same {
                continue;
            }
            if let (Err(e), true) = (std::fs::write(&path, value), last) {
                let e = SysError::io("write", format!("{value:?} to {}", path.display()), &e);
                tracing::warn!("the network has not its sysctl net/{name}: {e}");
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sysctls<const N: usize>(all: [(&str, &str); N]) -> Sysctls {
        all.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }

    #[test]
    fn what_a_new_network_has_is_not_kept() {
        let new = sysctls([
            ("ipv4/ip_forward", "0"),
            ("ipv4/conf/default/rp_filter", "2"),
            ("ipv4/conf/lo/rp_filter", "0"),
            ("ipv6/conf/default/mtu", "1280"),
            ("ipv6/neigh/lo/ucast_solicit", "3"),
            ("core/somaxconn", "4096"),
        ]);
        let all = sysctls([
            ("ipv4/ip_forward", "1"),
            ("ipv4/conf/default/rp_filter", "2"),
            ("ipv4/conf/lo/rp_filter", "0"),
            ("ipv4/conf/a/rp_filter", "2"),
            ("ipv4/conf/b/rp_filter", "0"),
            ("ipv6/conf/a/mtu", "1500"),
            ("ipv6/neigh/a/ucast_solicit", "3"),
            ("ipv6/neigh/b/ucast_solicit", "4"),
            ("core/somaxconn", "4096"),
            ("core/other", "1"),
        ]);
        let expected = sysctls([
            ("ipv4/ip_forward", "1"),
            ("ipv4/conf/b/rp_filter", "0"),
            ("ipv6/neigh/b/ucast_solicit", "4"),
            ("core/somaxconn", "4096"),
            ("core/other", "1"),
        ]);
        assert_eq!(changed(all, &new, &["core/somaxconn".into()]), expected);
    }

    #[test]
    fn only_names_below_the_directory_are_set() {
        for bad in ["../kernel/core_pattern", "/proc/sys/kernel/core_pattern", "ipv4/../../x"] {
            put(&sysctls([(bad, "1")])).unwrap_err();
        }
    }
}
