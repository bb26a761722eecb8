//! Open files that a process can have only by a capability.

use caps::Capability;
use criu_proto::images::files::{FdType, FileEntry};
use hiber_criu::Images;
use hiber_criu::images::Magic;

use super::{Grant, Verdict};
use crate::error::Result;

/// SOCK_RAW (socket(2)).
const RAW: u32 = 3;

impl Grant<'_> {
    pub(super) fn files(&self, images: &Images) -> Result<Verdict> {
        // Without it CRIU looks for images of CRIUs before 3.0, one for each kind of file.
        if !images.has("files.img") {
            return Ok(Err("has no list of open files (files.img)".into()));
        }
        for entry in images.entries::<FileEntry>("files.img", Magic::FILES)? {
            let entry = entry?;
            let Some((what, capability)) = needs(&entry) else { continue };
            let may = match capability {
                Capability::CAP_NET_RAW => self.can_in_network(capability),
                other => self.can(other),
            };
            if !may {
                let id = entry.id.unwrap_or_default();
                return Ok(Err(format!(
                    "has {what} open (file {id}), and config.json does not grant {capability}"
                )));
            }
        }
        Ok(Ok(()))
    }
}

fn needs(entry: &FileEntry) -> Option<(&'static str, Capability)> {
    let type_ = entry.type_.and_then(|t| t.enum_value().ok());
    match type_ {
        Some(FdType::PACKETSK) => Some(("a packet socket", Capability::CAP_NET_RAW)),
        Some(FdType::TUNF) => Some(("a network tunnel", Capability::CAP_NET_ADMIN)),
        Some(FdType::BPFMAP) => Some(("a BPF map", Capability::CAP_BPF)),
        Some(FdType::FANOTIFY) => Some(("a fanotify group", Capability::CAP_SYS_ADMIN)),
        Some(FdType::INETSK) if entry.isk.type_ == Some(RAW) => {
            Some(("a raw socket", Capability::CAP_NET_RAW))
        }
        _ => None,
    }
}
