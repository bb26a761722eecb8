//! How threads have restrained what the processor does ahead of them (PR_SET_SPECULATION_CTRL): proc_pid_status(5) tells.

use std::sync::OnceLock;

use hiber_memory::Stopped;
use hiber_sys::procfs::read;
use serde::{Deserialize, Serialize};
use syscalls::Sysno;

use super::failures::failed;
use crate::error::Result;

/// The restraints of a thread, as PR_SET_SPECULATION_CTRL takes them. None where the thread has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct Speculation {
    /// PR_SPEC_STORE_BYPASS
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) store_bypass: Option<u32>,
    /// PR_SPEC_INDIRECT_BRANCH
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) indirect_branch: Option<u32>,
}

/// linux/prctl.h
const SET_SPECULATION_CTRL: u64 = 53;
const STORE_BYPASS: u64 = 0;
const INDIRECT_BRANCH: u64 = 1;
const DISABLE: u32 = 4;
const FORCE_DISABLE: u32 = 8;
const DISABLE_NOEXEC: u32 = 16;

impl Speculation {
    pub(super) fn of(tid: i32) -> Self {
        static OURS: OnceLock<String> = OnceLock::new();
        let ours = OURS.get_or_init(|| read("thread-self", "status").unwrap_or_default());
        if !has_controls(ours) {
            return Self::default();
        }
        read(tid, "status").map_or_else(Self::default, |status| Self::parse(&status))
    }

    /// Takes the status of a thread on a processor that has at least one of the controls.
    fn parse(status: &str) -> Self {
        let store_bypass = match said(status, STORE_BYPASS_LINE) {
            "thread mitigated" => Some(DISABLE),
            "thread force mitigated" => Some(FORCE_DISABLE),
            // Linux has no word of its own for what ends with the next execve(2).
            "vulnerable" => Some(DISABLE_NOEXEC),
            _ => None,
        };
        let indirect_branch = match said(status, INDIRECT_BRANCH_LINE) {
            "conditional disabled" => Some(DISABLE),
            "conditional force disabled" => Some(FORCE_DISABLE),
            _ => None,
        };
        Self { store_bypass, indirect_branch }
    }

    /// Has the stopped thread restrain itself. A machine that cannot is for its administrator to judge.
    pub(super) fn put_back(self, stopped: &mut Stopped) -> Result<()> {
        for (which, name, how) in [
            (STORE_BYPASS, "speculative store bypass", self.store_bypass),
            (INDIRECT_BRANCH, "indirect branch speculation", self.indirect_branch),
        ] {
            let Some(how) = how else { continue };
            let arguments = [SET_SPECULATION_CTRL, which, how.into(), 0, 0, 0];
            if let Err(e) = stopped.call(Sysno::prctl, arguments).map_err(failed(0))? {
                let tid = stopped.tid();
                tracing::warn!("thread {tid} had restrained {name}, which this machine does not allow: {e}");
            }
        }
        Ok(())
    }
}

const STORE_BYPASS_LINE: &str = "Speculation_Store_Bypass:";
const INDIRECT_BRANCH_LINE: &str = "SpeculationIndirectBranch:";

/// Whether threads have the controls here: on other machines they all say the same, whatever that is.
fn has_controls(status: &str) -> bool {
    said(status, STORE_BYPASS_LINE).starts_with("thread ")
        || said(status, INDIRECT_BRANCH_LINE).starts_with("conditional ")
}

fn said<'a>(status: &'a str, line: &str) -> &'a str {
    status.lines().find_map(|text| text.strip_prefix(line)).unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(stores: &str, branches: &str) -> String {
        format!(
            "Name:\tsh\n{STORE_BYPASS_LINE}\t{stores}\n{INDIRECT_BRANCH_LINE}\t{branches}\nCpus_allowed:\t3\n"
        )
    }

    #[test]
    fn what_a_thread_has_restrained_is_in_its_status() {
        for (stores, branches, expected) in [
            ("thread vulnerable", "conditional enabled", (None, None)),
            ("thread mitigated", "conditional enabled", (Some(DISABLE), None)),
            ("thread force mitigated", "conditional disabled", (Some(FORCE_DISABLE), Some(DISABLE))),
            ("vulnerable", "conditional force disabled", (Some(DISABLE_NOEXEC), Some(FORCE_DISABLE))),
            ("globally mitigated", "always disabled", (None, None)),
            ("not vulnerable", "not affected", (None, None)),
        ] {
            let found = Speculation::parse(&status(stores, branches));
            assert_eq!((found.store_bypass, found.indirect_branch), expected, "{stores}, {branches}");
        }
    }

    #[test]
    fn a_machine_without_controls_tells_nothing_of_threads() {
        assert!(has_controls(&status("thread vulnerable", "unsupported")));
        assert!(has_controls(&status("not vulnerable", "conditional enabled")));
        assert!(!has_controls(&status("vulnerable", "always enabled")));
        assert!(!has_controls("Name:\tsh\n"));
    }
}
