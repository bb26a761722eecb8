//! The start of CRIU, and all that it needs until it is ready.

use hiber_criu::{CgroupMode, InheritedCgroups};
use hiber_sandbox::cgroup::Cgroup;
use hiber_sandbox::plan::NamespaceKind;
use hiber_sys::clone::Birthplace;

use super::{Loaded, Places, Restoring, cgroup_roots};
use crate::checkpoint::kept::Kept;
use crate::checkpoint::view::View;
use crate::checkpoint::{cgroup_yard, crun, entered};
use crate::container::making::Making;
use crate::container::prepared::Prepared;
use crate::error::{Context, Error, Result};
use crate::helpers::restore_guard::RestoreGuard;

impl Restoring<'_> {
    /// Starts CRIU, and prepares the root and the request while CRIU is being loaded: it sees what is mounted meanwhile.
    pub(super) fn load_criu(
        &self,
        places: &Places<'_>,
        guard: Option<&RestoreGuard>,
        making: &mut Making,
        cgroup: &mut Cgroup,
        (birthplace, view): (Option<Birthplace>, &View<'_>),
    ) -> Result<Loaded> {
        let (mut launch, mut inherited) = (self.criu.launch(), Vec::new());
        self.inherit(&mut launch, &mut inherited)?;
        let stand_ins = self.request.stand_ins(&mut launch, self.entry.path())?;
        Kept::shed()?;
        // Tasks are born where CRIU is, and it counts their cgroups from there.
        let in_namespace = birthplace.as_ref().is_some_and(|birthplace| birthplace.namespace);
        if let Some(birthplace) = birthplace {
            launch.born_in(birthplace);
        }
        let loading = launch.begin()?;
        let placed = loading.is_placed();
        guard.map_or(Ok(()), |guard| guard.watch(loading.session()))?;
        let restorable = self.request.prepare_root(places.root)?;
        let mut restore = self.request.options(view.mount(places.view)?, restorable.path(), &making.facts)?;
        restore.common.work_dir = Some(places.work.here()?);
        if restore.common.cgroups != Some(CgroupMode::Ignore) {
            cgroup_yard::bind(places.yard, &self.request.prepared.layout).context("show criu the cgroups")?;
            restore.common.cgroup_yard = Some(places.yard.to_owned());
        }
        restore.inherit_fds = inherited;
        let session = loading.ready()?;
        if let Some(pid) = session.pid() {
            if placed {
                making.facts.resctrl.add(pid)?;
            } else {
                making.adopt(cgroup, pid)?;
                if in_namespace {
                    let why = "cannot be the roots of a cgroup namespace: no process can be born in them";
                    return Err(Error::Invalid(format!("the cgroups of {} {why}", self.id)));
                }
            }
            // CRIU writes only what is not 0; the caller may have another, as a shim has. Lowering takes a privilege.
            let _ = std::fs::write(format!("/proc/{pid}/oom_score_adj"), "0");
            Kept::shed_by(pid);
            restore.common.cgroup_roots = cgroup_roots(pid)?;
        }
        if restore.common.cgroups == Some(CgroupMode::Strict) {
            // The container's own is there by now.
            restore.common.cgroups = Some(CgroupMode::Soft);
        }
        restore.common.external.extend(self.devices().external()?);
        if let (Some(key), Some(at)) = (self.request.empty_directory, places.empty) {
            restore.common.external.push(crun::supply(key, at)?);
        }
        restore.join_namespaces =
            entered(&self.request.prepared.spec).map(|(kind, path)| (kind.to_owned(), path)).collect();
        Ok(Loaded { session, restore, restorable, stand_ins })
    }

    /// Where CRIU is to be born, and those of its cgroups that the tasks have, too.
    pub(super) fn birthplace(
        &self,
        cgroup: &Cgroup,
    ) -> Result<(Option<Birthplace>, Option<InheritedCgroups>)> {
        let inherited = self.request.cgroups.inherited;
        let namespace = inherited.is_some_and(|cgroups| cgroups.namespace);
        let birthplace = cgroup.birthplace()?;
        let Prepared { plan, layout, .. } = self.request.prepared;
        // A container's user namespace owns the cgroup namespace that CRIU makes below, and only its owner may mount the cgroups.
        let owned = plan.namespaces.has(NamespaceKind::User);
        // From within the namespace CRIU may not set the values of its root (`nsdelegate` of cgroups(7)).
        let sets =
            matches!(self.request.criu_options.cgroups_mode, Some(CgroupMode::Full | CgroupMode::Props));
        if namespace && (owned || sets || birthplace.is_none() || !cgroup_yard::is_whole(layout)?) {
            return Ok((birthplace, None));
        }
        Ok((birthplace.map(|place| Birthplace { namespace, ..place }), inherited))
    }
}
