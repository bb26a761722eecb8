//! The identity of threads: ids, capabilities, security profiles.

use criu_proto::images::core::CoreEntry;
use criu_proto::images::inventory::inventory_entry::LsmType;
use hiber_criu::Images;
use hiber_criu::inspect::{CapabilitySet, Credentials, Thread};
use hiber_sandbox::ids;

use super::grant::{Grant, Verdict};

/// SECBIT_KEEP_CAPS (linux/securebits.h), which every process may set.
const KEEP_CAPS: u32 = 1 << 4;

impl Grant<'_> {
    /// The rights of a thread beyond the grant.
    pub(super) fn credentials(&self, images: &Images, thread: &Thread) -> Verdict {
        let Some(credentials) = &thread.credentials else {
            return Err("has no credentials in its image".into());
        };
        self.capabilities(credentials)?;
        self.identity(credentials)?;
        if self.plan.init.process.no_new_privileges && !credentials.no_new_privileges {
            return Err("lacks no_new_privs, which config.json sets".into());
        }
        let module = images.inventory().lsmtype.map(|t| t.enum_value_or_default());
        self.profile(module.unwrap_or(LsmType::NO_LSM), credentials.lsm_profile.as_deref())
    }

    pub(super) fn capabilities(&self, credentials: &Credentials) -> Verdict {
        let granted = &self.plan.init.process.capabilities;
        let all = self.reachable();
        let sets = [
            ("bounding", credentials.bounding, granted.bounding),
            ("permitted", credentials.permitted, all),
            ("effective", credentials.effective, all),
            ("inheritable", credentials.inheritable, all | granted.inheritable),
            ("ambient", credentials.ambient, all),
        ];
        for (name, CapabilitySet(has), granted) in sets {
            let beyond = CapabilitySet(has & !granted).names().join(", ");
            if !beyond.is_empty() {
                return Err(format!("has {beyond} in its {name} set, which config.json does not grant"));
            }
        }
        Ok(())
    }

    /// Without the capability to change them, and without programs that do, users and groups stay what they were.
    pub(super) fn identity(&self, credentials: &Credentials) -> Verdict {
        // A number that is no id means "as it is" for setresuid(2): the id of CRIU.
        let mut all = credentials.uids.iter().chain(&credentials.gids).chain(&credentials.groups);
        if let Some(none) = all.find(|id| **id > ids::MAX) {
            return Err(format!("has {none} among its users and groups, which is no id"));
        }
        let process = &self.plan.init.process;
        if !process.no_new_privileges {
            return Ok(());
        }
        let (uid, gid) = (process.uid, process.gid);
        let other = credentials.uids.iter().find(|u| **u != uid);
        if let (Some(other), false) = (other, self.can(caps::Capability::CAP_SETUID)) {
            return Err(format!("runs as user {other}; config.json says {uid} and no way to change it"));
        }
        let allowed = |g: &u32| *g == gid || process.additional_gids.contains(g);
        let other = credentials.gids.iter().chain(&credentials.groups).find(|g| !allowed(g));
        match (other, self.can(caps::Capability::CAP_SETGID)) {
            (Some(other), false) => {
                Err(format!("is in group {other}; config.json says {gid} and no way to change it"))
            }
            _ => Ok(()),
        }
    }

    /// The bits with which root keeps capabilities, or loses them (capabilities(7), "The securebits flags").
    pub(super) fn securebits(&self, core: &CoreEntry) -> Verdict {
        let bits = core.thread_core.creds.secbits.unwrap_or(0);
        if bits & !KEEP_CAPS == 0 || self.can(caps::Capability::CAP_SETPCAP) {
            return Ok(());
        }
        Err(format!("has securebits {bits:#x}, and config.json does not grant CAP_SETPCAP"))
    }

    /// The profile of AppArmor, or the label of SELinux.
    pub(super) fn profile(&self, module: LsmType, has: Option<&str>) -> Verdict {
        let security = &self.plan.init.process.security;
        let wanted = match (&security.apparmor_profile, &security.selinux_label) {
            (Some(profile), _) if hiber_sandbox::plan::apparmor_enabled() => {
                (LsmType::APPARMOR, profile.as_str())
            }
            (_, Some(label)) => (LsmType::SELINUX, label.as_str()),
            _ => return Ok(()),
        };
        let (expected, wanted) = wanted;
        if wanted.is_empty() || wanted == "unconfined" {
            return Ok(());
        }
        // The profile's own children are the profile's own choice.
        let fits = |has: &str| match has.strip_prefix(wanted) {
            Some(rest) => rest.is_empty() || (expected == LsmType::APPARMOR && rest.starts_with("//")),
            None => false,
        };
        match has {
            // CRIU puts the caller's in the place of what the image has, but not of nothing.
            Some(has) if module == expected && (self.lsm_profile.is_some() || fits(has)) => Ok(()),
            _ => {
                Err(format!("is confined by {:?}; config.json wants {wanted:?}", has.unwrap_or("unconfined")))
            }
        }
    }
}
