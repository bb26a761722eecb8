//! The grant: the images of a checkpoint are compared with it.

use criu_proto::images::core::CoreEntry;
use hiber_criu::images::Magic;
use hiber_criu::{External, Images};
use hiber_sandbox::plan::Plan;

use crate::error::{Error, Result};

/// The grant of config.json.
pub(crate) struct Grant<'a> {
    pub(crate) plan: &'a Plan,
    /// The parts that the restore supplies from outside.
    pub(crate) externals: &'a [External],
    /// `--lsm-profile`, which takes the place of those of the images.
    pub(crate) lsm_profile: Option<&'a str>,
    /// Whether CRIU restores cgroups.
    pub(crate) cgroups: bool,
    /// Whether config.json gives packets a class or priorities (`linux.resources.network`).
    pub(crate) marked_network: bool,
}

/// Why something is refused.
pub(super) type Verdict = std::result::Result<(), String>;

impl Grant<'_> {
    /// The capabilities that a process may have in any of its sets: with `noNewPrivileges` those of the first process, otherwise
    /// also those that it may gain by executing a program.
    pub(super) fn reachable(&self) -> u64 {
        let c = &self.plan.init.process.capabilities;
        let own = c.permitted | c.effective | c.ambient;
        match self.plan.init.process.no_new_privileges {
            true => own,
            false => own | c.bounding | c.inheritable,
        }
    }

    pub(super) fn can(&self, capability: caps::Capability) -> bool {
        self.reachable() & capability.bitmask() != 0
    }
}

/// The image of a thread.
pub(super) fn core(images: &Images, tid: u32) -> Result<CoreEntry> {
    let name = format!("core-{tid}.img");
    let entry = images.entries::<CoreEntry>(&name, Magic::CORE)?.next().transpose()?;
    entry.ok_or_else(|| Error::File { path: images.dir().join(name), why: "has no entry".into() })
}
