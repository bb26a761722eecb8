//! CRIU's requirements of the machine.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::path::{Path, PathBuf};

use ::procfs::net::TcpState;
use hiber_criu::{CriuError, NetworkLock, Session, Version, find_program};
use oci_spec::runtime::Spec;

use super::table::{
    CRIU, CRIU_ATTACKED, Check, DIRTY_TRACKING, JOINED_USER, LAZY_PAGES, PAGE_SERVER, PIPE_SIZE, PROGRAMS,
    ROOT_TMP, SPACE,
};
use super::{Findings, bytes};
use crate::checkpoint::CriuOptions;
use crate::checkpoint::externals::joined_user_namespace;
use crate::error::{Error, Result};
use crate::host::paths::free;

/// The size of CRIU's page pipes without CAP_SYS_RESOURCE: CRIU wants 4 MiB (page-pipe.h, PIPE_MAX_SIZE pages).
const PIPE_WANTED: u64 = 4 << 20;

/// The largest tmpfs that hiber packs itself (checkpoint/tmpfs.rs), roughly.
pub(super) const PACKED_BY_US: u64 = if cfg!(feature = "archive") { 64 << 10 } else { 0 };

/// The Debian package of each program that CRIU runs.
const PACKAGES: [(&str, &str); 5] = [
    ("iptables-restore", "iptables"),
    ("ip6tables-restore", "iptables"),
    ("ip", "iproute2"),
    ("tar", "tar"),
    ("gzip", "gzip"),
];

/// Starts CRIU, which tells its version; a program that is missing or does not start is found here.
pub(super) fn start(findings: &mut Findings, options: &CriuOptions) -> Option<Session> {
    let started = options.find_criu().and_then(|criu| Ok(criu.start()?));
    let failed = |e| match e {
        Error::Criu(CriuError::NotFound { why, remedy }) => {
            findings.add(&CRIU, format!("criu not found: {why}")).advice = remedy;
        }
        e => findings.failed(&CRIU, &e),
    };
    started.map_err(failed).ok()
}

/// The first CRIU whose code in a process is safe from that process's restartable sequences (its pull request 3097).
const SAFE: Version = Version::new(4, 2, 1);

/// The reason to refuse a CRIU, whose code must run in processes that may be hostile.
pub(crate) fn attacked(version: Version) -> Option<String> {
    (version < SAFE).then(|| format!("this is CRIU {version}: {}", CRIU_ATTACKED.about))
}

/// The same for a report.
pub(super) fn version(findings: &mut Findings, session: &mut Session) {
    match session.version() {
        Ok(version) => {
            if let Some(what) = attacked(version) {
                findings.add(&CRIU_ATTACKED, what);
            }
        }
        Err(e) => findings.failed(&CRIU, &e),
    }
}

/// The reason why CRIU could not enter the root file system of a container when restoring it.
fn root_problem(rootfs: &Path, spec: &Spec) -> Option<String> {
    // A mount of the container's own is over whatever is there.
    if spec.mounts().iter().flatten().any(|mount| mount.destination() == Path::new("/tmp")) {
        return None;
    }
    let why = hiber_sandbox::rootfs::cannot_be_entered(rootfs, spec.root().as_ref())?;
    Some(format!("the root file system {} {why}", rootfs.display()))
}

/// The same for a report.
pub(super) fn root(findings: &mut Findings, rootfs: &Path, spec: &Spec) {
    if let Some(what) = root_problem(rootfs, spec) {
        findings.add(&ROOT_TMP, what);
    }
}

/// As [`root`], for a checkpoint that is about to be made.
pub(crate) fn check_root(rootfs: &Path, spec: &Spec) -> Result<()> {
    let refuse = |what| Err(Error::Invalid(format!("{what}; {}", ROOT_TMP.advice)));
    root_problem(rootfs, spec).map_or(Ok(()), refuse)
}

/// A user namespace that config.json joins, as in a pod with one: no restore can join it again.
pub(crate) fn check_user_namespace(spec: &Spec) -> Result<()> {
    let refuse = |path: PathBuf| {
        let Check { about, advice, .. } = &JOINED_USER;
        Err(Error::Invalid(format!("{}: {about}; {advice}", path.display())))
    };
    joined_user_namespace(spec).map_or(Ok(()), refuse)
}

/// As [`check_user_namespace`], for a report.
pub(super) fn user_namespace(findings: &mut Findings, spec: &Spec) {
    if let Some(path) = joined_user_namespace(spec) {
        findings.add(&JOINED_USER, JOINED_USER.about).path = Some(path.display().to_string());
    }
}

/// Features that only a question to CRIU and the kernel can tell.
pub(super) fn features(findings: &mut Findings, session: &mut Session, lazy_pages: bool, tracking: bool) {
    if !lazy_pages && !tracking {
        return;
    }
    let features = match session.features() {
        Ok(features) => features,
        Err(e) => return findings.failed(&CRIU, &e),
    };
    if lazy_pages && !features.lazy_pages {
        findings.add(&LAZY_PAGES, LAZY_PAGES.about);
    }
    if tracking && !features.mem_track {
        findings.add(&DIRTY_TRACKING, "this kernel does not track written memory (CONFIG_MEM_SOFT_DIRTY)");
    }
}

/// The page server of lazy pages makes its pipes larger than others may.
pub(super) fn pipe_size(findings: &mut Findings) {
    if let Some(what) = small_pipes() {
        findings.add(&PIPE_SIZE, what);
    }
}

/// As [`pipe_size`], for a checkpoint that is about to be made.
pub(crate) fn check_pipe_size() -> Result<()> {
    let refuse = |what| Err(Error::host("--lazy-pages", format!("{what}; {}", PIPE_SIZE.advice)));
    small_pipes().map_or(Ok(()), refuse)
}

fn small_pipes() -> Option<String> {
    const PATH: &str = "/proc/sys/fs/pipe-max-size";
    let able = caps::has_cap(None, caps::CapSet::Effective, caps::Capability::CAP_SYS_RESOURCE);
    let most = std::fs::read_to_string(PATH).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let most = most.filter(|most| *most < PIPE_WANTED && !able.unwrap_or(true))?;
    Some(format!("{PATH} is {most}, and there is no CAP_SYS_RESOURCE"))
}

/// Programs that CRIU runs for a container's network and for what is in a tmpfs.
pub(super) struct Programs {
    pub(super) lock: Option<NetworkLock>,
    pub(super) own_network: bool,
    pub(super) tmpfs: bool,
}

impl Programs {
    pub(super) fn check(&self, findings: &mut Findings) {
        let mut needed = Vec::new();
        if self.lock == Some(NetworkLock::Iptables) {
            needed.push(("iptables-restore", "to lock the network"));
            if Path::new("/proc/sys/net/ipv6").exists() {
                needed.push(("ip6tables-restore", "to lock the network"));
            }
        }
        if self.own_network {
            needed.push(("ip", "for addresses, routes and links"));
        }
        if self.tmpfs {
            needed.extend([("tar", "for what is in a tmpfs"), ("gzip", "for what is in a tmpfs")]);
        }
        for (program, purpose) in needed.into_iter().filter(|(program, _)| find_program(program).is_none()) {
            let package =
                PACKAGES.iter().find(|(name, _)| *name == program).map_or(program, |(_, package)| package);
            let finding =
                findings.add(&PROGRAMS, format!("CRIU needs {program} {purpose}, and PATH has none"));
            finding.advice = format!("install {package}");
            if self.lock.is_some() && program.ends_with("tables-restore") {
                finding.advice.push_str(", or pass --network-lock nftables or skip");
            }
        }
    }
}

/// Whether `needed` bytes fit where `path` is, or will be.
pub(super) fn space(findings: &mut Findings, path: &Path, needed: u64) {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.into());
    let Some(there) = absolute.ancestors().find(|p| p.exists()) else { return };
    let Ok(stat) = rustix::fs::statvfs(there) else { return };
    let free = free(&stat);
    if free < needed {
        let what = format!("{} are free and about {} will be written", bytes(free), bytes(needed));
        findings.add(&SPACE, what).path = Some(there.display().to_string());
    }
}

/// Whether somebody listens there. The connection is closed at once, without a word of the protocol: CRIU's page server
/// takes one connection, which ends it, so it is asked of the kernel alone where it is this machine's.
pub(super) fn page_server(findings: &mut Findings, address: &str, port: u16) {
    let Ok(all) = (address, port).to_socket_addrs() else {
        findings.add(&PAGE_SERVER, format!("{address} port {port}: no such host"));
        return;
    };
    let Ok(own) = ::procfs::process::Process::myself() else { return };
    let tables = own.tcp().into_iter().chain(own.tcp6()).flatten();
    let listening: Vec<_> = tables.filter(|e| e.state == TcpState::Listen).map(|e| e.local_address).collect();
    // Of another machine only a connection could tell.
    let local = |ip: IpAddr| UdpSocket::bind((ip, 0)).is_ok();
    let answers = |at: &SocketAddr| {
        let heard = |l: &SocketAddr| l.port() == at.port() && (l.ip() == at.ip() || l.ip().is_unspecified());
        !local(at.ip()) || listening.iter().any(heard)
    };
    if !all.into_iter().any(|at| answers(&at)) {
        findings.add(&PAGE_SERVER, format!("nobody listens at {address}:{port}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_criu_that_can_be_attacked_is_named() {
        for (version, bad) in
            [((3, 17, 1), true), ((4, 1, 1), true), ((4, 2, 0), true), ((4, 2, 1), false), ((4, 3, 0), false)]
        {
            let (major, minor, sublevel) = version;
            let said = attacked(Version::new(major, minor, sublevel));
            assert_eq!(said.is_some(), bad, "{version:?}");
            assert!(said.is_none_or(|said| said.contains("CVE-2026-18107")), "{version:?}");
        }
    }
}
