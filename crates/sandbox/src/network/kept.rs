//! The less common objects of a network namespace, read from one namespace and made in another.
//!
//! The caller has made the devices (with their names, kinds, hardware addresses, MTU, flags and masters), the addresses, the
//! routes of the main table, the rules for IPv4 and the firewall before, unless [`Kept::has_firewall`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::classes::{CLASSES, Class};
use super::firewall::{Firewall, Found};
use super::object::Object;
use super::receivers::Receiver;
use super::{generic, links, receivers, sysctls};
use crate::error::Context;
use crate::plan::NamespaceKind;
use crate::rtnetlink::{self, Route, namespace_of};
use crate::{Error, Result};
use hiber_sys::process::unshare;

/// The objects of a network namespace. They refer to devices by number, so the caller's devices need the same numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Kept {
    /// Names, groups, lengths of queues and the like; a bridge's options and its ports'.
    links: Vec<Object>,
    /// Neighbours, nexthop objects, routes of other tables, rules for IPv6, queueing disciplines and more, by class; endpoints of
    /// MPTCP and more, by kind.
    objects: BTreeMap<String, Vec<Object>>,
    /// The sysctls that somebody has changed, by path below /proc/sys/net.
    sysctls: BTreeMap<String, String>,
    /// The firewall, if it has rules that no text can say.
    #[serde(skip_serializing_if = "Firewall::is_empty")]
    firewall: Firewall,
    /// Addresses of multicast that devices receive because somebody said so.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    receivers: Vec<Receiver>,
}

impl Kept {
    /// Whether the firewall is in here, and the caller is not to make it.
    pub fn has_firewall(&self) -> bool {
        !self.firewall.is_empty()
    }

    /// Reads the network namespace of process `pid`. The sysctls `always`, by path below /proc/sys/net, are kept even if they
    /// are as in a new namespace.
    ///
    /// # Errors
    /// If the kernel does not answer, or its answer has an unknown form.
    pub fn of(pid: i32, always: &[String]) -> Result<Self> {
        let new = new_sysctls()?;
        rtnetlink::inside(&namespace_of(pid)?, || {
            let route = Route::open()?;
            let (links, _) = links::read(&route)?;
            let devices = devices(&links);
            let (mut objects, _) = generic::read()?;
            for class in &CLASSES {
                let (found, _) = class.read(&route, &devices)?;
                if !found.is_empty() {
                    objects.insert(class.name.to_owned(), found);
                }
            }
            let firewall = match Firewall::read()? {
                Found::Kept(firewall) => firewall,
                Found::Plain | Found::Strange(_) => Firewall::default(),
            };
            let sysctls = sysctls::changed(sysctls::read()?, &new, always);
            Ok(Self { links, objects, sysctls, firewall, receivers: receivers::read() })
        })
    }

    /// Makes the missing objects in the network namespace of process `pid`, which has the same devices. Nothing outside of the
    /// namespace is changed, whatever `self` holds.
    ///
    /// # Errors
    /// If an object cannot be made. A sysctl that this kernel refuses is only logged.
    pub fn put_back(&self, pid: i32) -> Result<()> {
        let known = CLASSES.iter().map(|class| class.name).chain(generic::KINDS.iter().map(|kind| kind.name));
        if let Some(name) = self.objects.keys().find(|name| !known.clone().any(|known| known == **name)) {
            return Err(Error::invalid("objects", format!("{name:?} is no class of a network's")));
        }
        rtnetlink::inside(&namespace_of(pid)?, || {
            let route = Route::open()?;
            sysctls::put(&self.sysctls)?;
            links::put(&route, &self.links)?;
            self.firewall.make()?;
            let devices = devices(&self.links);
            let (most, last) = CLASSES.split_at(CLASSES.len() - 1);
            for group in [most, last] {
                let (mut missing, mut unwanted) = (Vec::new(), Vec::new());
                for class in group {
                    let wanted = self.objects.get(class.name).map_or(&[][..], Vec::as_slice);
                    let (lacks, has) = class.differences(&route, &devices, wanted)?;
                    missing.extend(lacks.into_iter().map(|object| (class, object)));
                    unwanted.extend(has.into_iter().map(|object| (class, object)));
                }
                make(&route, missing)?;
                unwanted.iter().try_for_each(|(class, object)| class.remove(&route, object))?;
            }
            receivers::put(&self.receivers)?;
            generic::put(&self.objects)
        })
        .context("make the objects of the network namespace")
    }
}

/// Makes all objects. One may need another that comes later in the list: a route needs the one to its next hop.
fn make(route: &Route, mut missing: Vec<(&Class, &Object)>) -> Result<()> {
    loop {
        let (before, mut failed) = (missing.len(), None);
        missing.retain(|(class, object)| {
            let made = class.make(route, object);
            made.map_err(|e| failed.get_or_insert(e)).is_err()
        });
        match failed {
            None => return Ok(()),
            Some(e) if missing.len() == before => return Err(e),
            Some(_) => {}
        }
    }
}

fn devices(links: &[Object]) -> Vec<u32> {
    links.iter().map(links::index).collect()
}

/// The sysctls of a new network namespace.
fn new_sysctls() -> Result<BTreeMap<String, String>> {
    let read = || {
        unshare(NamespaceKind::Network.clone_flag(), "for the sysctls of a new network")?;
        sysctls::read()
    };
    std::thread::scope(|scope| scope.spawn(read).join())
        .unwrap_or_else(|_| Err(crate::SysError::new("unshare", "in a thread that died", libc::ESRCH).into()))
}
