//! Checks the kept options of sockets.

use caps::Capability;
use hiber_sandbox::plan::NamespaceKind;

use super::grant::{Grant, Verdict};
use crate::checkpoint::kept::options::Over;
use crate::checkpoint::kept::sockets::{self, Socket};

impl Grant<'_> {
    pub(super) fn sockets(&self, kept: &[Socket]) -> Verdict {
        let may = |capability, over| match over {
            Over::Network => self.can_in_network(capability),
            Over::Host => !self.plan.namespaces.has(NamespaceKind::User) && self.can(capability),
        };
        sockets::refused(kept, may).map_or(Ok(()), Err)
    }

    /// Whether processes may have a capability over their network namespace: to one that is not of their own user
    /// namespace theirs are none.
    pub(super) fn can_in_network(&self, capability: Capability) -> bool {
        let namespaces = &self.plan.namespaces;
        let foreign = if namespaces.is_new(NamespaceKind::User) {
            !namespaces.is_new(NamespaceKind::Network)
        } else {
            namespaces.has(NamespaceKind::User) && !namespaces.has(NamespaceKind::Network)
        };
        !foreign && self.can(capability)
    }
}
