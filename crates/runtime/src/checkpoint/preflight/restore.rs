//! `restore --check`

use std::collections::{HashMap, HashSet};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use hiber_criu::inspect::Contents;
use hiber_criu::{External, ImageDirectory, Images, NetworkLock, Session};
use hiber_sandbox::cgroup::{Cgroup, OnDenied};
use hiber_sandbox::plan::{MountSource, NamespaceKind, Namespaces};
use hiber_sandbox::rootfs::resolve::Root;
use hiber_sys::process::setns;

use super::table::{
    ADDRESS, ARCHITECTURE, ARGUMENTS, BUNDLE, CGROUP, CONFIG, CPU, CRIU_VERSION, FLAG, ID, IMAGES, KERNEL,
    LAZY_PAGES, LEFT_OUT, MANIFEST, MEMORY, MEMORY_LIMIT, MOUNT_MISSING, MOUNT_POINT, MOUNT_SOURCE,
    PARENT_DEATH, PID, PROFILE, SECCOMP_AGENT, SIGNATURE,
};
use super::{Findings, Report, bytes, host, root_files, tasks};
use crate::checkpoint::crun::is_empty_directory;
use crate::checkpoint::manifest::{self, Cpu, Hashed, Manifest};
use crate::checkpoint::options::RestoreContainerOptions;
use crate::checkpoint::restore_options::{
    check_content, check_following_memory, check_signature, check_strict, limits_in_force,
};
use crate::checkpoint::{CriuOptions, Direction, mounts};
use crate::container::prepared::Prepared;
use crate::id::ContainerId;
use crate::state::store::Store;

/// The time of a restore on an idle machine with two processors (docs/performance.md), in milliseconds.
const FIXED: u64 = 60;
const PER_TASK: u64 = 3;
const PER_GIB: u64 = 700;
/// How many features are named.
const MAX_NAMES: usize = 8;

/// Lists what would make a restore with these options fail, or cost much. Nothing is made or started.
pub(crate) fn check_restore(
    store: &Store,
    id: &ContainerId,
    options: &RestoreContainerOptions<'_>,
) -> Report {
    let mut findings = Findings::default();
    let (bytes, time) = check(&mut findings, store, id, options);
    findings.report("restore", id.as_str(), bytes, time)
}

/// The images, with their pages.
fn opened(options: &RestoreContainerOptions<'_>) -> crate::error::Result<(ImageDirectory, Images)> {
    let dir = ImageDirectory::open(&options.criu.image_path)?;
    options.stored.as_ref().map_or(Ok(()), |stored| stored.fill(&dir, None))?;
    let images = Images::in_directory(&dir)?;
    Ok((dir, images))
}

fn check(
    findings: &mut Findings,
    store: &Store,
    id: &ContainerId,
    options: &RestoreContainerOptions<'_>,
) -> (u64, u64) {
    if store.path(id).exists() {
        findings.add(&ID, format!("container {id} exists")).path = Some(store.path(id).display().to_string());
    }
    let session = host::start(findings, &options.criu);
    let prepared = Prepared::new(id, &options.as_create()).map_err(|e| findings.failed(&BUNDLE, &e)).ok();
    if let Some(prepared) = &prepared {
        configuration(findings, prepared, options);
    }
    let Ok((dir, images)) = opened(options).map_err(|e| findings.failed(&IMAGES, &e)) else { return (0, 0) };
    let dir = &dir;
    let given = prepared.as_ref().and_then(|prepared| manifest::config_digest(&prepared.spec).ok());
    if let Err(e) = check_signature(options, dir) {
        findings.failed(&SIGNATURE, &e);
    }
    if let Some(prepared) = &prepared
        && let Err(e) = check_content(prepared, id, options, dir)
            .and_then(|checked| limits_in_force(prepared, options, &checked.kept))
            .and_then(|limits| limits.map_or(Ok(()), |limits| prepared.limits_with(&limits).map(drop)))
    {
        findings.failed(&IMAGES, &e);
    }
    let manifest = hashes(findings, dir);
    if let (Some(manifest), Some(given)) = (&manifest, given)
        && manifest.config != given
    {
        findings.add(&CONFIG, CONFIG.about);
    }
    let mut criu = options.criu.clone();
    criu.lazy_pages |= options.background;
    if let Some(manifest) = &manifest {
        criu.follow(&manifest.options.criu);
        machine(findings, manifest);
        for loss in &manifest.accepted {
            findings.add(&LEFT_OUT, format!("it was made without {}: {}", loss.check, loss.what));
        }
    }
    versions(findings, session, manifest.as_ref(), &criu);
    let Ok(contents) = Contents::read(&images).map_err(|e| findings.failed(&IMAGES, &e)) else {
        return (0, 0);
    };
    flags(findings, &criu, &contents, dir);
    if let Ok(Some(signal)) = images.parent_death_signal() {
        findings.add(
            &PARENT_DEATH,
            format!("the first process gets no signal {signal} when its new parent dies"),
        );
    }
    if let Some(prepared) = &prepared {
        agent(findings, prepared);
    }
    profile(findings, options.lsm_profile.as_deref(), contents.lsm);
    if let Some(prepared) = &prepared {
        Against { dir, findings, prepared, contents: &contents, criu: &criu }.check(id, manifest.as_ref());
    }
    memory(findings, dir, &contents, &criu, prepared.as_ref())
}

/// Reports what of the configuration and the options is in the way, whatever the images are.
fn configuration(findings: &mut Findings, prepared: &Prepared, options: &RestoreContainerOptions<'_>) {
    if let Err(e) = options.criu.check_places(&prepared.spec) {
        findings.failed(&ARGUMENTS, &e);
    }
    if let Some(root) = &prepared.plan.init.root {
        host::root(findings, &root.path, &prepared.spec);
    }
    host::user_namespace(findings, &prepared.spec);
    if let Err(e) = check_following_memory(options, &prepared.plan.namespaces) {
        findings.failed(&LAZY_PAGES, &e);
    }
}

/// Compares all files with their hashes, and gives the manifest.
fn hashes(findings: &mut Findings, dir: &ImageDirectory) -> Option<Manifest> {
    // Its faults were reported.
    let manifest = Manifest::read_in(dir).ok().flatten();
    match &manifest {
        None => {
            findings.add(&MANIFEST, "there is no hiber.json: another runtime made the checkpoint");
        }
        Some(manifest) if !manifest.is_hashed() => {
            findings.add(&MANIFEST, "hiber.json has no hashes (--no-hash)");
        }
        Some(manifest) => match manifest::sums(dir, Hashed::All) {
            Ok(found) => {
                for problem in manifest.compare(&found) {
                    findings.add(&IMAGES, problem);
                }
            }
            Err(e) => findings.failed(&IMAGES, &e),
        },
    }
    manifest
}

/// This machine against the one that the checkpoint was made on.
fn machine(findings: &mut Findings, manifest: &Manifest) {
    let (was, is) = (&manifest.cpu, Cpu::here());
    if was.architecture != is.architecture {
        let what = format!("the checkpoint was made on {}, this is {}", was.architecture, is.architecture);
        findings.add(&ARCHITECTURE, what);
        return;
    }
    let missing: Vec<_> =
        was.features.iter().filter(|f| !is.features.contains(f)).map(String::as_str).collect();
    if !missing.is_empty() {
        let more = missing.len().saturating_sub(MAX_NAMES);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let names = missing.iter().take(MAX_NAMES).copied().collect::<Vec<_>>().join(", ");
        findings.add(&CPU, format!("this processor lacks {names}{more}"));
    }
    let here = rustix::system::uname().release().to_string_lossy().into_owned();
    if numbers(&manifest.kernel) > numbers(&here) {
        findings.add(&KERNEL, format!("it was made on Linux {}, this is {here}", manifest.kernel));
    }
}

/// The leading numbers of a version: 6.18 of `6.18.4-amd64` and the like.
fn numbers(version: &str) -> Vec<u32> {
    version.split(['.', '-', '+']).map_while(|part| part.parse().ok()).take(2).collect()
}

fn versions(
    findings: &mut Findings,
    session: Option<Session>,
    manifest: Option<&Manifest>,
    criu: &CriuOptions,
) {
    let Some(mut session) = session else { return };
    if let (Some(manifest), Ok(version)) = (manifest, session.version())
        && numbers(&manifest.criu) > vec![version.major, version.minor]
    {
        findings.add(&CRIU_VERSION, format!("it was made by CRIU {}, this is {version}", manifest.criu));
    }
    host::features(findings, &mut session, criu.lazy_pages, false);
}

/// Parts of the images that only a flag restores.
fn flags(findings: &mut Findings, criu: &CriuOptions, contents: &Contents, dir: &ImageDirectory) {
    let off = |switch: Option<bool>| !switch.unwrap_or(false);
    let connected =
        contents.sockets.iter().find(|s| s.kind == "tcp" && !["closed", "listening"].contains(&s.state));
    if let (Some(socket), true) = (connected, off(criu.tcp_established) && off(criu.tcp_close)) {
        let what = format!("the images have a TCP connection, {} to {}", socket.local, socket.peer);
        findings.add(&FLAG, what).advice = "pass --tcp-established, or --tcp-close".into();
    }
    // An image without entries has its two magic numbers alone.
    let has = |name: &str| dir.stat_of(name).is_ok_and(|stat| stat.st_size > 8);
    if off(criu.file_locks) && has("filelocks.img") {
        findings.add(&FLAG, "the images have file locks").advice = "pass --file-locks".into();
    }
    if let Some(first) = contents.processes.first()
        && off(criu.shell_job)
        && first.sid != first.pid
    {
        findings.add(&FLAG, "the first process's session is outside").advice = "pass --shell-job".into();
    }
}

/// The security module of the images, and the profile that was asked for.
fn profile(findings: &mut Findings, asked: Option<&str>, of_images: &str) {
    let modules = hiber_sys::file::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    let has = |module: &str| match module {
        "selinux" => Path::new("/sys/fs/selinux/enforce").exists(),
        _ => modules.trim().split(',').any(|m| m == module) || hiber_sandbox::plan::apparmor_enabled(),
    };
    if of_images != "none" && !has(of_images) {
        findings
            .add(&PROFILE, format!("the processes were confined by {of_images}, which is not active here"));
    }
    let Some((module, name)) = asked.and_then(|profile| profile.split_once(':')) else { return };
    if !has(module) {
        findings.add(&PROFILE, format!("--lsm-profile {module}:{name}: {module} is not active here"));
    } else if let Some(problem) = unloaded_profile(module, name) {
        findings.add(&PROFILE, problem);
    }
}

/// The reason why the kernel does not know an AppArmor profile, if the kernel can tell.
pub(crate) fn unloaded_profile(module: &str, name: &str) -> Option<String> {
    let loaded = (module == "apparmor").then(|| std::fs::read_to_string(LOADED_PROFILES).ok()).flatten()?;
    let known = loaded.lines().any(|line| line.rsplit_once(" (").is_some_and(|(profile, _)| profile == name));
    (!known).then(|| format!("--lsm-profile {module}:{name}: no such profile is loaded"))
}

const LOADED_PROFILES: &str = "/sys/kernel/security/apparmor/profiles";

/// Memory to be read, and about how long a restore takes.
fn memory(
    findings: &mut Findings,
    dir: &ImageDirectory,
    contents: &Contents,
    criu: &CriuOptions,
    prepared: Option<&Prepared>,
) -> (u64, u64) {
    let total: u64 = sizes(dir, "pages-").sum();
    let read = if criu.lazy_pages { 0 } else { total };
    let tasks = u64::try_from(contents.processes.len()).unwrap_or(u64::MAX);
    let time = FIXED
        .saturating_add(PER_TASK.saturating_mul(tasks))
        .saturating_add(read.saturating_mul(PER_GIB) >> 30);
    let how = if criu.lazy_pages { "brought in when it is used" } else { "read" };
    let seconds = time as f64 / 1000.0;
    findings.add(&MEMORY, format!("{} of memory to be {how}; it takes about {seconds:.2} s", bytes(total)));
    let linux = prepared.and_then(|p| p.spec.linux().as_ref());
    let limit = linux.and_then(|l| l.resources().as_ref()?.memory().as_ref()?.limit());
    if let Some(limit) = limit.and_then(|l| u64::try_from(l).ok()).filter(|l| *l > 0 && *l < total) {
        let what =
            format!("the images hold {}, linux.resources.memory.limit is {}", bytes(total), bytes(limit));
        findings.add(&MEMORY_LIMIT, what);
    }
    (total, time)
}

/// The agent is not connected to: a connection is for one listener.
fn agent(findings: &mut Findings, prepared: &Prepared) {
    let program = prepared.plan.init.seccomp.as_ref().filter(|program| program.notify);
    let Some(path) = program.and_then(|program| program.listener_path.as_deref()) else { return };
    if !std::fs::metadata(path).is_ok_and(|at| at.file_type().is_socket()) {
        findings.add(&SECCOMP_AGENT, SECCOMP_AGENT.about).path = Some(path.display().to_string());
    }
}

/// Of all files with such names.
fn sizes<'a>(dir: &'a ImageDirectory, prefix: &str) -> impl Iterator<Item = u64> + 'a {
    let names = dir.names().unwrap_or_default().into_iter();
    let prefix = prefix.to_owned();
    names
        .filter(move |name| name.starts_with(&prefix))
        .filter_map(|name| Some(dir.stat_of(&name).ok()?.st_size.cast_unsigned()))
}

/// The checkpoint against a bundle.
struct Against<'a> {
    dir: &'a ImageDirectory,
    findings: &'a mut Findings,
    prepared: &'a Prepared,
    contents: &'a Contents,
    criu: &'a CriuOptions,
}

impl Against<'_> {
    fn check(mut self, id: &ContainerId, manifest: Option<&Manifest>) {
        let cgroup = Cgroup::open(self.prepared.cgroup.clone(), OnDenied::Skip);
        if let Err(e) = cgroup.and_then(|cgroup| if cgroup.exists() { cgroup.check_unused() } else { Ok(()) })
        {
            self.findings.failed(&CGROUP, &e);
        }
        if let Err(e) = check_strict(self.prepared, self.criu) {
            self.findings.failed(&CGROUP, &e);
        }
        let external = self.mounts(id);
        self.pids();
        self.addresses();
        root_files::check(self.findings, self.prepared, self.contents, &external);
        let lock = match manifest.map(|m| m.options.criu.network_lock) {
            // Without a word CRIU takes iptables, or none where hiber saw no need.
            Some(Some(lock)) => Some(lock),
            _ => None,
        };
        let own_network = self.prepared.plan.namespaces.is_new(NamespaceKind::Network)
            && !self.criu.empty_network.unwrap_or(false);
        // A tmpfs's archive is small where hiber packed it itself.
        let tmpfs = sizes(self.dir, "tmpfs-").any(|size| size > host::PACKED_BY_US);
        host::Programs { lock: lock.filter(|l| *l != NetworkLock::Skip), own_network, tmpfs }
            .check(self.findings);
    }

    /// Sources of bind mounts, and mounts of the images that nobody supplies; gives the sources by key.
    fn mounts(&mut self, id: &ContainerId) -> Vec<(String, PathBuf)> {
        for mount in self.prepared.plan.init.root.iter().flat_map(|root| &root.mounts) {
            let MountSource::Bind { path, .. } = &mount.source else { continue };
            let destination = mount.destination.display();
            let Ok(source) = std::fs::metadata(path) else {
                let finding =
                    self.findings.add(&MOUNT_SOURCE, format!("the source of {destination} is missing"));
                finding.path = Some(path.display().to_string());
                continue;
            };
            let (is, expected) = if source.is_dir() { ("file", "directory") } else { ("directory", "file") };
            if self.is_directory(&mount.destination).is_some_and(|dir| dir != source.is_dir()) {
                let what =
                    format!("{destination} is a {is} of the root file system, and its source a {expected}");
                self.findings.add(&MOUNT_POINT, what).path = Some(path.display().to_string());
            }
        }
        let facts = self.prepared.facts(id, Vec::new());
        let supplied = match mounts(Direction::Restore, &self.prepared.spec, &facts) {
            Ok(supplied) => supplied,
            Err(e) => {
                self.findings.failed(&BUNDLE, &e);
                return Vec::new();
            }
        };
        let pairs: Vec<(String, PathBuf)> = supplied
            .iter()
            .filter_map(External::as_mount)
            .map(|(key, source)| (key.to_owned(), PathBuf::from(source)))
            .collect();
        for mount in &self.contents.mounts {
            let Some(key) = mount.external.as_deref().filter(|key| !key.is_empty()) else { continue };
            // CRIU finds its own ones by itself.
            if mount.mountpoint != "/"
                && !is_empty_directory(key)
                && !pairs.iter().any(|(known, _)| known == key)
            {
                let what = format!("config.json has no mount for {key}, nor the host below an rbind of it");
                self.findings.add(&MOUNT_MISSING, what).path = Some(mount.mountpoint.clone());
            }
        }
        pairs
    }

    /// Whether a path of the root file system is one; none if it is not there.
    fn is_directory(&self, path: &Path) -> Option<bool> {
        let root = Root::open_path(&self.prepared.plan.init.root.as_ref()?.path).ok()?;
        let stat = rustix::fs::fstat(root.find(path).ok()??).ok()?;
        Some(rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory)
    }

    /// Outside a pid namespace of its own, the container's numbers must be free.
    fn pids(&mut self) {
        let Some(taken) = numbers_taken(&self.prepared.plan.namespaces) else { return };
        for process in &self.contents.processes {
            let holder = i32::try_from(process.pid).ok().and_then(|pid| taken.get(&pid));
            if let Some(holder) = holder {
                let what = format!("process number {} ({}) is taken {holder}", process.pid, process.name);
                self.findings.add(&PID, what);
            }
        }
    }

    /// In a joined network namespace, connections need their addresses.
    fn addresses(&mut self) {
        let joined = self.prepared.plan.namespaces.joined(NamespaceKind::Network);
        let (Some(join), true) = (joined, self.criu.tcp_established.unwrap_or(false)) else { return };
        let sockets = self.contents.sockets.iter().filter(|s| s.kind == "tcp" && s.state == "established");
        let addresses: HashSet<_> =
            sockets.filter_map(|s| s.local.parse::<SocketAddr>().ok()).map(|a| a.ip()).collect();
        let Ok(namespace) = std::fs::File::open(&join.path) else { return };
        let missing = || {
            setns(
                namespace.as_fd(),
                NamespaceKind::Network.clone_flag(),
                "into the network namespace to be joined",
            )
            .ok()?;
            // An address can be bound if an interface has it (ip(7)).
            let bound = |ip: &&std::net::IpAddr| UdpSocket::bind(SocketAddr::new(**ip, 0)).is_err();
            Some(addresses.iter().filter(bound).copied().collect::<Vec<_>>())
        };
        let missing = std::thread::scope(|scope| scope.spawn(missing).join().ok().flatten());
        for ip in missing.unwrap_or_default() {
            let what = format!("{ip}, which a saved TCP connection has, is not there");
            self.findings.add(&ADDRESS, what).path = Some(join.path.display().to_string());
        }
    }
}

/// The numbers of processes that are not free for a container, with who has them; none if it has a pid namespace of its own.
pub(crate) fn numbers_taken(namespaces: &Namespaces) -> Option<HashMap<i32, String>> {
    if namespaces.is_new(NamespaceKind::Pid) {
        return None;
    }
    let path = namespaces.joined(NamespaceKind::Pid).map(|join| join.path.clone());
    let namespace = std::fs::read_link(path.unwrap_or_else(|| "/proc/self/ns/pid".into())).ok()?;
    Some(tasks::numbers_taken(&namespace))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_first_two_numbers() {
        assert_eq!(numbers("6.18.44-fc-v657"), [6, 18]);
        assert_eq!(numbers("4.2"), [4, 2]);
        assert!(numbers("6.12.1") > numbers("6.1.0-38-amd64"));
        assert!(numbers("x").is_empty());
    }
}
