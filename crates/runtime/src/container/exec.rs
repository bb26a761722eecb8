//! Runs further processes in a container.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use derive_setters::Setters;
use hiber_sandbox::FdRole;
use hiber_sandbox::cgroup::Cgroup;
use hiber_sandbox::in_user_namespace;
use hiber_sandbox::plan::{self, NamespaceKind, Namespaces, Plan};
use hiber_sandbox::resctrl::Group;
use hiber_sandbox::{Launch, Steps, launch};
use hiber_sys::clone::Birthplace;
use oci_spec::runtime::Spec;
use rustix::io::Errno;

use crate::container::monitor;
use crate::container::process::{Attributes, Process};
use crate::container::stdio::Stdio;
use crate::container::task::Task;
use crate::error::{Context, Result};
use crate::helpers;
use crate::host::procfs;
use crate::state::facts::Facts;
use crate::state::lifecycle::Lifecycle;
use crate::state::processes::{Claim, ProcessId, Record};
use crate::status::Status;

/// The options of executing a process. Each has a setter.
#[derive(Debug, Default, Setters)]
#[setters(into)]
#[non_exhaustive]
pub struct ExecOptions<'a> {
    /// Its id in the container, under which [`Task::processes`] finds it again; `None` if nobody will ask for it.
    pub id: Option<ProcessId>,
    /// Go on in a paused container: the process then waits for `resume`.
    pub ignore_paused: bool,
    /// Pass descriptors 3 to 2+N on.
    #[setters(into = false)]
    pub preserve_fds: u32,
    /// The cgroups to run in, below the container's: a path by v1 controller, or under "" one path for all.
    pub cgroups: Option<&'a BTreeMap<String, String>>,
    /// Standard input, output and error.
    pub stdio: Stdio<'a>,
}

impl Task {
    /// Executes `process` in the container and returns it, running, as a child of the caller. Privileges and scheduling that it
    /// leaves open are those of the container's configuration.
    pub fn exec(&self, process: &oci_spec::runtime::Process, options: &ExecOptions<'_>) -> Result<Process> {
        self.check_can_exec(options)?;
        self.exec_held(process, options)
    }

    /// As [`exec`](Self::exec), whatever the container's own processes are doing: they may not have run yet.
    pub(crate) fn exec_held(
        &self,
        process: &oci_spec::runtime::Process,
        options: &ExecOptions<'_>,
    ) -> Result<Process> {
        helpers::check()?;
        let wired = options.stdio.for_terminal(process.terminal().unwrap_or(false))?.wire()?;
        let facts = self.facts()?;
        let namespaces = facts.joinable();
        let plan = self.plan_exec(process, options, facts, &namespaces)?;
        let pidfd = self.pidfd()?;
        let cgroup = match options.cgroups {
            Some(below) => self.cgroup().below(below)?,
            None => self.cgroup().joinable(facts.pid)?,
        };
        let birthplace = hiber_sandbox::birthplace(&cgroup, &plan).context("open the cgroup")?;
        let attempt = |birthplace: Option<&Birthplace>| {
            let launch_options = Launch {
                birthplace,
                join_process: Some((pidfd, namespaces.flags())),
                console_socket: wired.console(),
                stdio: wired.files(),
                // The record of one with an id names it before it runs.
                at_once: options.id.is_none(),
            };
            let mut steps = Joining { cgroup: &cgroup, resctrl: &facts.resctrl };
            launch(&plan, &launch_options, &mut steps)
        };
        let entry = self.container().entry();
        let claim = options.id.as_ref().map(|id| Record::claim(entry, id)).transpose()?;
        let launched = match attempt(birthplace.as_ref()) {
            // At the limit of processes no process can be born in the cgroup, but one may still enter it.
            Err(e) if birthplace.is_some() && e.errno() == Some(Errno::AGAIN.raw_os_error()) => attempt(None),
            other => other,
        };
        let launched = launched.map_err(|e| cgroup.explain(e))?;
        let id = options.id.as_ref().map(ProcessId::to_string);
        let (pid, start_time) =
            (launched.pid(), procfs::stat(launched.pid()).map_or(0, |stat| stat.start_time));
        entry.note(Lifecycle::ExecAdded { exec: id.clone() });
        claim.as_ref().map_or(Ok(()), |claim| claim.write(pid, start_time))?;
        let child = launched.start()?;
        entry.note(Lifecycle::ExecStarted { exec: id, pid, start_time });
        let record = claim.and_then(Claim::keep);
        let attributes = Attributes {
            id: options.id.clone(),
            record,
            kept: wired.keep()?,
            reaps: true,
            // 0: the process had ended before it was looked at
            start_time: (start_time != 0).then_some(start_time),
            ..Attributes::default()
        };
        let process = Process::new(child, attributes);
        monitor::adopt(facts.pid, &process);
        Ok(process)
    }
}

impl Task {
    fn check_can_exec(&self, options: &ExecOptions<'_>) -> Result<()> {
        match self.status()? {
            Status::Stopped => self.refuse("cannot exec in a stopped container", Status::Stopped),
            // Its first process may still see the host's root.
            Status::Creating => {
                self.refuse("cannot exec in a container that is being created", Status::Creating)
            }
            Status::Paused if !options.ignore_paused => {
                let what = "cannot exec in a paused container (use --ignore-paused to override)";
                self.refuse(what, Status::Paused)
            }
            _ => Ok(()),
        }
    }

    fn plan_exec(
        &self,
        process: &oci_spec::runtime::Process,
        options: &ExecOptions<'_>,
        facts: &Facts,
        namespaces: &Namespaces,
    ) -> Result<Plan> {
        let plan_options = plan::Options {
            id: self.container().id().as_str().into(),
            bundle: facts.bundle.clone(),
            keyring: facts.keyring.clone(),
            preserve_fds: options.preserve_fds,
            in_user_namespace: in_user_namespace(),
            ..plan::Options::default()
        };
        let spec = self.container().spec()?;
        let process = with_defaults(process.clone(), &spec);
        let mut plan = Plan::for_exec(&spec, &process, namespaces, &plan_options)?;
        plan.init.hook_state.pid = facts.pid;
        plan.init.joined_root = (!namespaces.has(NamespaceKind::Mount)).then(|| facts.rootfs.clone());
        Ok(plan)
    }
}

/// Values that a process leaves open are those of the container's configuration.
fn with_defaults(mut process: oci_spec::runtime::Process, spec: &Spec) -> oci_spec::runtime::Process {
    let Some(own) = spec.process() else { return process };
    if process.capabilities().is_none() {
        process.set_capabilities(own.capabilities().clone());
    }
    if process.apparmor_profile().is_none() {
        process.set_apparmor_profile(own.apparmor_profile().clone());
    }
    if process.selinux_label().is_none() {
        process.set_selinux_label(own.selinux_label().clone());
    }
    if process.scheduler().is_none() {
        process.set_scheduler(own.scheduler().clone());
    }
    if process.io_priority().is_none() {
        process.set_io_priority(*own.io_priority());
    }
    if process.exec_cpu_affinity().is_none() {
        process.set_exec_cpu_affinity(own.exec_cpu_affinity().clone());
    }
    process
}

struct Joining<'a> {
    cgroup: &'a Cgroup,
    resctrl: &'a Group,
}

impl Steps for Joining<'_> {
    fn cloned(&mut self, _pid: i32) -> hiber_sandbox::Result<Vec<(FdRole, OwnedFd)>> {
        Ok(Vec::new())
    }

    fn enter_cgroups(&mut self, pid: i32, placed: bool) -> hiber_sandbox::Result<()> {
        let pid = pid.unsigned_abs();
        if !placed {
            self.cgroup.add_pid(pid)?;
        }
        self.resctrl.add(pid)
    }

    fn run_hooks(&mut self, _pid: i32) -> hiber_sandbox::Result<()> {
        Ok(()) // a joining process has none
    }

    fn warn(&mut self, message: &str) {
        tracing::warn!("{message}");
    }
}
