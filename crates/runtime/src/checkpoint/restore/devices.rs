//! The network devices of config.json (`linux.netDevices`), which a restore moves into the container's network.

use hiber_criu::External;
use hiber_sandbox::cgroup::{Cgroup, OnDenied};
use hiber_sandbox::network;
use hiber_sandbox::plan::NamespaceKind;

use super::request::Request;
use crate::error::{Result, chain};
use crate::state::facts::Facts;

/// The devices of a restore.
pub(super) struct Devices<'a> {
    pub(super) request: &'a Request<'a>,
    /// Whether somebody decides before the container runs.
    pub(super) gated: bool,
}

impl Devices<'_> {
    /// Whether they are moved into a network of the container's own, which has the addresses that the source still has.
    fn are_plugged(&self) -> bool {
        let plan = &self.request.prepared.plan;
        !plan.net_devices.is_empty() && plan.namespaces.is_new(NamespaceKind::Network)
    }

    /// Lets nothing in or out until it is decided that the container runs: the kernel would reset connections before CRIU has made
    /// their sockets, and answer by them afterwards.
    pub(super) fn shut(&self, first: i32) -> Result<()> {
        if !self.gated || !self.are_plugged() {
            return Ok(());
        }
        match network::shut(first) {
            Err(e) if self.request.criu_options.tcp_established != Some(true) => {
                tracing::warn!("{}", chain(&e));
                Ok(())
            }
            shut => Ok(shut?),
        }
    }

    /// The container runs.
    pub(super) fn open(&self, first: i32) -> Result<()> {
        if self.are_plugged() {
            network::open(first)?;
        }
        Ok(())
    }

    /// Nobody will decide any more that the container runs.
    pub(super) fn abandon(&self, facts: &Facts) {
        if !self.gated || facts.pid <= 0 {
            return;
        }
        if self.are_plugged()
            && let Err(e) = network::abandon(facts.pid)
        {
            tracing::debug!("{e}");
        }
        let cgroup = Cgroup::open(facts.cgroup.clone(), OnDenied::Skip);
        let pids = cgroup.and_then(|cgroup| cgroup.pids()).unwrap_or_default();
        network::hush(pids.into_iter().map(u32::cast_signed));
    }

    /// They, for CRIU, which moves them where those of the images were. A network that is joined was not saved, and the devices that
    /// were moved into it have stayed there.
    pub(super) fn external(&self) -> Result<Vec<External>> {
        if self.request.criu_options.empty_network == Some(true) {
            return Ok(Vec::new());
        }
        let plan = &self.request.prepared.plan;
        let devices = &plan.net_devices;
        if let Some(joined) = plan.namespaces.joined(NamespaceKind::Network) {
            network::expect_in(&joined.path, devices)?;
            return Ok(Vec::new());
        }
        network::expect(devices)?;
        Ok(devices.iter().map(|d| External::network_device(&d.name_in_container, &d.name)).collect())
    }
}
