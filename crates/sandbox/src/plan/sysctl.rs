//! `linux.sysctl`: only sysctls of the container's namespaces may be set.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use super::{NamespaceKind, Namespaces};
use crate::{Error, Result};

const IPC: [&str; 8] = ["msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced"];

/// Checks each key against the namespaces and turns it into its path below /proc/sys.
pub(super) fn check(
    sysctl: Option<&HashMap<String, String>>,
    namespaces: &Namespaces,
) -> Result<BTreeMap<PathBuf, String>> {
    sysctl
        .into_iter()
        .flatten()
        .map(|(key, value)| {
            let path = sysctl_path(key);
            let invalid = |problem: &str| Error::invalid(format!("linux.sysctl[{key:?}]"), problem);
            if key.is_empty() || path.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
                return Err(invalid("is not the name of a sysctl"));
            }
            let needs = needed_namespace(&path).ok_or_else(|| {
                invalid("is not in a separate kernel namespace, so setting it would change the host")
            })?;
            if !namespaces.has(needs) {
                return Err(invalid(&format!(
                    "is not allowed in the hosts {} namespace: the container needs its own",
                    needs.as_str()
                )));
            }
            if path == "kernel/hostname" {
                return Err(invalid("is not allowed as it conflicts with the OCI \"hostname\" field"));
            }
            Ok((PathBuf::from(path), value.clone()))
        })
        .collect()
}

fn needed_namespace(path: &str) -> Option<NamespaceKind> {
    let (top, rest) = path.split_once('/')?;
    match top {
        "kernel" if IPC.contains(&rest) => Some(NamespaceKind::Ipc),
        "kernel" if rest == "hostname" || rest == "domainname" => Some(NamespaceKind::Uts),
        "fs" if rest.starts_with("mqueue/") => Some(NamespaceKind::Ipc),
        "net" => Some(NamespaceKind::Network),
        "user" => Some(NamespaceKind::User),
        _ => None,
    }
}

/// The path below /proc/sys of a key of `linux.sysctl`.
///
/// Either separator is accepted; the first one that occurs is the separator, the other a character of a
/// name (sysctl.d(5)): `net.ipv4.conf.eno2/100.rp_filter` and `net/ipv4/conf/eno2.100/rp_filter` are one.
pub fn sysctl_path(key: &str) -> String {
    match key.find(['.', '/']) {
        Some(i) if key.as_bytes()[i] == b'.' => key
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                c => c,
            })
            .collect(),
        _ => key.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_separators() {
        assert_eq!(sysctl_path("net.ipv4.conf.eno2/100.rp_filter"), "net/ipv4/conf/eno2.100/rp_filter");
        assert_eq!(sysctl_path("net/ipv4/conf/eno2.100/rp_filter"), "net/ipv4/conf/eno2.100/rp_filter");
    }

    #[test]
    fn only_namespaced_keys() {
        let own = |kinds: &[NamespaceKind]| Namespaces { new: kinds.to_vec(), ..Namespaces::default() };
        let try_key = |key: &str, ns: &Namespaces| {
            check(Some(&HashMap::from([(key.to_owned(), "1".to_owned())])), ns).map_err(|e| e.to_string())
        };
        assert!(try_key("net.ipv4.ip_forward", &own(&[NamespaceKind::Network])).is_ok());
        assert!(try_key("net.ipv4.ip_forward", &own(&[])).unwrap_err().contains("network"));
        assert!(try_key("kernel.panic", &own(&NamespaceKind::ALL)).unwrap_err().contains("change the host"));
        assert!(try_key("kernel.hostname", &own(&NamespaceKind::ALL)).unwrap_err().contains("hostname"));
        assert!(try_key("net/../vm/swappiness", &own(&NamespaceKind::ALL)).is_err());
        assert!(try_key("user.max_user_namespaces", &own(&[NamespaceKind::Network])).is_err());
    }
}
