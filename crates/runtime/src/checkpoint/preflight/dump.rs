//! `checkpoint --check`

use std::collections::{HashMap, HashSet};

use hiber_criu::NetworkLock;
use hiber_sandbox::plan::NamespaceKind;

use super::table::{ARGUMENTS, CHROOT, FROZEN_ABOVE, MEMORY, SHARED_NETWORK, STATE, UNWELCOME};
use super::tasks::{self, Proc};
use super::{
    Accepted, Findings, Report, bytes, compare_mounts, files, host, losses, mounts, network, sockets, watches,
};
use crate::checkpoint::network::has_fresh_network;
use crate::checkpoint::{self, CheckpointOptions, joined, signed};
use crate::container::task::Task;
use crate::error::Result;
use crate::status::Status;

/// The time of a checkpoint on an idle machine with two processors (docs/performance.md), in milliseconds.
const FIXED: u64 = 60;
const PER_TASK: u64 = 6;
const PER_TMPFS: u64 = 8;
const PER_GIB_WRITTEN: u64 = 750;
/// Of what is no memory: that is hashed while it is written.
const PER_GIB_HASHED: u64 = 220;

/// The amount of the container's memory.
#[derive(Debug, Default)]
struct Size {
    private: u64,
    shared: u64,
    tmpfs: u64,
    tmpfs_mounts: u64,
    deleted: u64,
}

impl Task {
    /// Lists what would make [`checkpoint`](Self::checkpoint) with these options fail, or cost much. Nothing is frozen
    /// or written.
    ///
    /// # Errors
    /// If the container's own files cannot be read; what is in the way is in the report.
    pub fn check_checkpoint(&self, options: &CheckpointOptions) -> Result<Report> {
        let mut findings = Findings::default();
        let id = self.container().id().as_str();
        if let Err(e) = signed::check_options(options).and_then(|()| checkpoint::check(options, id)) {
            findings.failed(&ARGUMENTS, &e);
        }
        if let Err(e) = checkpoint::check_peers(options, &*self.container().spec()?) {
            findings.failed(&ARGUMENTS, &e);
        }
        if let Some(why) = signed::unwelcome(options) {
            findings.add(&UNWELCOME, why);
        }
        let accepted = Accepted::of(&options.accept, &*self.container().spec()?);
        let accepted = accepted.map_err(|e| findings.failed(&ARGUMENTS, &e)).ok();
        let status = self.status()?;
        if !matches!(status, Status::Running | Status::Paused) {
            findings.add(&STATE, format!("the container is {status}"));
            return Ok(findings.report("checkpoint", self.container().id().as_str(), 0, 0));
        }
        if let Some(mut session) = host::start(&mut findings, &options.criu) {
            host::version(&mut findings, &mut session);
            let tracking = options.pre_dump || options.dump.parent_path.is_some();
            host::features(&mut findings, &mut session, options.criu.lazy_pages, tracking);
        }
        if let Err(e) = options.criu.check_places(&*self.container().spec()?) {
            findings.failed(&ARGUMENTS, &e);
        }
        if options.criu.lazy_pages {
            host::pipe_size(&mut findings);
        } else if let Some(at) = &options.dump.page_server {
            host::page_server(&mut findings, &at.host, at.port);
        }
        host::root(&mut findings, &self.facts()?.rootfs, &*self.container().spec()?);
        let (size, tasks) = self.look_inside(&mut findings, options)?;
        let total = size.private + size.shared + size.tmpfs + size.deleted;
        if options.dump.page_server.is_none() {
            let written = if options.criu.lazy_pages { total.saturating_sub(size.private) } else { total };
            host::space(&mut findings, &options.criu.image_path, written);
        }
        let time = frozen(&size, tasks, total, options);
        describe(&mut findings, &size, time, options);
        if let Some(accepted) = accepted {
            accepted.mark(&mut findings);
        }
        Ok(findings.report("checkpoint", self.container().id().as_str(), total, time))
    }

    /// The part of the report that comes from /proc alone.
    pub(super) fn findings_inside(&self, options: &CheckpointOptions) -> Result<Findings> {
        let mut findings = Findings::default();
        self.look_inside(&mut findings, options)?;
        Ok(findings)
    }

    /// Everything that is found in /proc; gives the size of it, and how many processes there are.
    fn look_inside(&self, findings: &mut Findings, options: &CheckpointOptions) -> Result<(Size, u64)> {
        let (facts, spec, criu) = (self.facts()?, &*self.container().spec()?, &options.criu);
        let on = |switch: Option<bool>| switch.unwrap_or(false);
        let (tasks, beside) = tasks::split(self.tasks()?);
        tasks::left_out(findings, &beside, options.pre_dump);
        let Some(first) = tasks.first() else { return Ok((Size::default(), 0)) };
        let above = tasks::frozen_above(self.cgroup());
        if let Some(cgroup) = &above {
            findings.add(&FROZEN_ABOVE, FROZEN_ABOVE.about).path = Some(cgroup.display().to_string());
        }
        let paused = above.is_some() || self.cgroup().frozen()?;
        tasks::check(
            findings,
            &tasks,
            paused,
            on(criu.shell_job),
            facts.namespaces.contains(&NamespaceKind::User),
        );
        host::user_namespace(findings, spec);
        let mut size = Size::default();
        // CRIU's own configuration may allow what flags do not; it can say so in the log.
        let allowed = files::Allowed {
            shell_job: on(criu.shell_job),
            file_locks: on(criu.file_locks),
            link_remap: options.dump.link_remap,
            any_ghost: checkpoint::config_file(spec).is_some(),
        };
        let rooted = !tasks::has_other_root(first);
        if !rooted {
            findings.of(first, &CHROOT, CHROOT.about);
        }
        let mount_ids = if rooted { files::mount_ids(&tasks) } else { HashSet::new() };
        watches::check(findings, first, &tasks);
        if !options.pre_dump {
            losses::check(findings, &tasks, false);
            losses::cgroups_of(findings, self, options)?;
        }
        let mut deleted = HashMap::new();
        let open: Vec<_> = tasks
            .iter()
            .map(|task| files::check(findings, task, &mount_ids, allowed, &mut deleted))
            .collect();
        size.deleted = deleted.values().sum();
        let allowed = sockets::Allowed {
            tcp: on(criu.tcp_established) || on(criu.tcp_close),
            tcp_in_flight: options.dump.tcp_skip_in_flight,
            unix_datagram: on(criu.ext_unix_sk),
        };
        if !options.pre_dump {
            sockets::check(findings, &tasks, &open, allowed);
            let compared = compare_mounts(self)?;
            findings.0.extend(compared.findings.0);
            (size.tmpfs_mounts, size.tmpfs) =
                mounts::check(findings, first, &compared.external, &checkpoint::destinations(spec, facts)?);
        }
        self.network(findings, &tasks, options, size.tmpfs)?;
        for task in &tasks {
            let (private, shared) = memory(task);
            size.private += private;
            size.shared += shared;
        }
        Ok((size, u64::try_from(tasks.len()).unwrap_or(u64::MAX)))
    }

    /// The time for saving the network and `tmpfs` bytes in tmpfs mounts, and the programs for these.
    fn network(
        &self,
        findings: &mut Findings,
        tasks: &[Proc],
        options: &CheckpointOptions,
        tmpfs: u64,
    ) -> Result<()> {
        let (facts, spec, criu) = (self.facts()?, &*self.container().spec()?, &options.criu);
        // CRIU neither locks nor saves a network namespace that it is started in.
        let saved = !options.pre_dump && !has_fresh_network(self, options)?;
        if saved {
            network::check(findings, self, tasks, options)?;
        }
        let locks = saved && (criu.network_lock.is_some() || !checkpoint::needs_no_lock(facts, spec, criu));
        let lock = locks.then(|| criu.network_lock.unwrap_or(NetworkLock::Iptables));
        let shared_network = joined(spec).any(|(kind, ..)| kind == "net");
        if shared_network && lock.is_some_and(|lock| lock != NetworkLock::Skip) {
            findings.add(&SHARED_NETWORK, SHARED_NETWORK.about);
        }
        let own_network = saved
            && !shared_network
            && facts.namespaces.contains(&NamespaceKind::Network)
            && !criu.empty_network.unwrap_or(false);
        host::Programs { lock, own_network, tmpfs: tmpfs > host::PACKED_BY_US }.check(findings);
        Ok(())
    }

    /// The container's processes, its first one first.
    pub(super) fn tasks(&self) -> Result<Vec<Proc>> {
        let init = self.facts()?.pid;
        let depth = tasks::depth(init);
        let mut pids = self.pids()?;
        pids.extend(tasks::children(init));
        pids.sort_by_key(|pid| (*pid != init, *pid));
        pids.dedup();
        Ok(pids.into_iter().filter_map(|pid| Proc::read(pid, depth)).collect())
    }
}

/// The bytes that CRIU writes of a task's memory: its own pages (also swapped out), and its part of shared pages.
fn memory(task: &Proc) -> (u64, u64) {
    // `NAME:   KIBIBYTES kB` (proc_pid_status(5), proc_pid_smaps(5))
    let field = |of: &str, name: &str| {
        let value = of.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.and_then(|v| v.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) << 10
    };
    let read = |file: &str| hiber_sys::file::read_to_string(task.path(file)).unwrap_or_default();
    let status = read("status");
    // The kernel walks all pages for that.
    let shared = if field(&status, "RssShmem") > 0 { field(&read("smaps_rollup"), "Pss_Shmem") } else { 0 };
    (field(&status, "RssAnon") + field(&status, "VmSwap"), shared)
}

/// For how long the container would be frozen, in milliseconds.
fn frozen(size: &Size, tasks: u64, total: u64, options: &CheckpointOptions) -> u64 {
    let per_gib = |bytes: u64, cost: u64| bytes.saturating_mul(cost) >> 30;
    let base = FIXED + PER_TASK * tasks.saturating_sub(1) + PER_TMPFS * size.tmpfs_mounts;
    let copied = if options.criu.lazy_pages { total.saturating_sub(size.private) } else { total };
    let unhashed = options.no_hash || options.dump.leave_running;
    let hashed = if unhashed { 0 } else { size.tmpfs + size.deleted };
    base + per_gib(copied, PER_GIB_WRITTEN) + per_gib(hashed, PER_GIB_HASHED)
}

fn describe(findings: &mut Findings, size: &Size, time: u64, options: &CheckpointOptions) {
    let Size { private, shared, tmpfs, deleted, .. } = size;
    let mut parts = vec![format!("{} of memory", bytes(*private))];
    let more = [(shared, "of shared memory"), (tmpfs, "in tmpfs mounts"), (deleted, "in deleted files")];
    parts.extend(more.iter().filter(|(n, _)| **n > 0).map(|(n, what)| format!("{} {what}", bytes(**n))));
    let way = match options {
        CheckpointOptions { pre_dump: true, .. } => "written while the container runs",
        CheckpointOptions { criu, .. } if criu.lazy_pages => "brought over, memory after the restore",
        _ => "written",
    };
    let seconds = time as f64 / 1000.0;
    findings.add(&MEMORY, format!("{} to be {way}; frozen for about {seconds:.2} s", parts.join(", ")));
}
