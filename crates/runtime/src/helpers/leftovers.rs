//! Removes the remains of a killed CRIU: a locked network, links to removed files, files without content.
//!
//! CRIU undoes its work when it fails, not when it is killed, and sometimes fails at that (its issue 2828: a container without
//! network after a failed dump). The names show that these are CRIU's, and their places that they belong to the container.

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use hiber_criu::{ImageDirectory, Images, find_program};
use hiber_sandbox::plan::NamespaceKind;
use hiber_sandbox::rootfs::resolve::{Root, fd_path};

/// CRIU's chain of the tables `filter` of iptables and ip6tables (net.c, iptables_network_lock_internal).
const CHAIN: &str = "CRIU";
/// The prefix of CRIU's nftables tables, before a number of its own (netfilter.c, nftables_get_table).
const TABLE: &str = "CRIU-";
/// The prefix of CRIU's links to removed files, before a number (files-reg.c, create_link_remap).
const LINK: &str = "link_remap.";
/// The kernel appends this to names of removed files.
const REMOVED: &str = " (deleted)";
/// A ghost file is `NAME.cr.NUMBER.ghost` while it is restored (files-reg.c, ghost_apply).
const GHOST: (&str, &str) = (".cr.", ".ghost");

/// The line of CRIU's log that has the number of its tables (util.c).
const RUN_ID: &str = "CRIU run id = ";

/// Unlocks the network namespace of a process after the dump that wrote `log`; what was not locked stays as it is. Gives
/// what was removed.
pub(crate) fn unlock_network(pid: i32, log: &Path) -> Vec<String> {
    // In a namespace of several containers there may be tables of others, that sleep. A session names itself twice.
    let log = std::fs::read_to_string(log).unwrap_or_default();
    let runs: Vec<_> = log.lines().filter_map(|line| Some(line.split_once(RUN_ID)?.1.trim())).collect();
    // CRIU cuts the name to what its buffer takes.
    let of_run = |n: &str| runs.iter().any(|run| run.starts_with(n)) || n == pid.to_string();
    let is_ours = |name: &str| {
        let number = name.strip_prefix(TABLE).filter(|n| !n.is_empty());
        number.is_some_and(|n| runs.is_empty() || of_run(n))
    };
    let unlock = || {
        let chains = ["iptables", "ip6tables"].into_iter().filter(|program| remove_chain(program));
        chains.map(|program| format!("chain {CHAIN} of {program}")).chain(remove_tables(is_ours)).collect()
    };
    hiber_sandbox::inside(pid, &[NamespaceKind::Network], unlock).unwrap_or_default()
}

/// Runs a program without a word of its own; what it prints, if it succeeds.
fn run(program: &str, args: &[&str]) -> Option<String> {
    let path = find_program(program)?;
    let output = Command::new(path).args(args).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether there was one.
fn remove_chain(program: &str) -> bool {
    let iptables = |args: &[&str]| run(program, &[&["-w", "5"], args].concat()).is_some();
    if !iptables(&["-S", CHAIN]) {
        return false;
    }
    for from in ["INPUT", "OUTPUT"] {
        // Each failed dump may have left a jump.
        while iptables(&["-D", from, "-j", CHAIN]) {}
    }
    iptables(&["-F", CHAIN]) && iptables(&["-X", CHAIN])
}

fn remove_tables(is_ours: impl Fn(&str) -> bool) -> Vec<String> {
    let listed = run("nft", &["list", "tables", "inet"]).unwrap_or_default();
    let names = listed.lines().filter_map(|line| line.strip_prefix("table inet ")).map(str::trim);
    names
        .filter(|name| is_ours(name))
        .filter(|name| run("nft", &["delete", "table", "inet", name]).is_some())
        .map(|name| format!("table {name} of nftables"))
        .collect()
}

/// Removes CRIU's links to files that processes have open and that have lost their name. No checkpoint needs them:
/// CRIU itself removes those of a container that it leaves running.
pub(crate) fn remove_links(pids: &[u32]) -> Vec<String> {
    let mut removed = Vec::new();
    for pid in pids {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let mapped = std::fs::read_dir(format!("/proc/{pid}/map_files")).into_iter().flatten().flatten();
        for link in open.chain(mapped).map(|entry| entry.path()) {
            let Ok(target) = std::fs::read_link(&link) else { continue };
            let Some(name) = target.to_str().and_then(|t| t.strip_suffix(REMOVED)) else { continue };
            let (Ok(file), Some(dir)) = (std::fs::metadata(&link), Path::new(name).parent()) else {
                continue;
            };
            if file.nlink() == 0 || !file.is_file() {
                continue;
            }
            // No link of the container's leads out of it.
            let Ok(root) = Root::open_path(Path::new(&format!("/proc/{pid}/root"))) else { continue };
            let Ok(Some(dir)) = root.find(dir) else { continue };
            let same = |path: &Path| {
                std::fs::symlink_metadata(path).is_ok_and(|m| (m.dev(), m.ino()) == (file.dev(), file.ino()))
            };
            removed
                .extend(remove_in(&fd_path(dir.as_fd()), |name, path| name.starts_with(LINK) && same(path)));
        }
    }
    removed
}

/// Removes the files that a killed restore has made for deleted ones of the checkpoint, below the root filesystem.
pub(crate) fn remove_ghosts(images: &ImageDirectory, rootfs: &Path) -> Vec<String> {
    let Ok(images) = Images::in_directory(images) else { return Vec::new() };
    let mut removed = Vec::new();
    for path in images.deleted_files().unwrap_or_default() {
        let path = Path::new("/").join(path);
        let (Some(dir), Some(file)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
            continue;
        };
        // No link of the container's leads out of it.
        let Ok(root) = Root::open_path(rootfs) else { continue };
        let Ok(Some(dir)) = root.find(dir) else { continue };
        let is_ghost = |name: &str| {
            let number = name.strip_prefix(file).and_then(|n| n.strip_prefix(GHOST.0)?.strip_suffix(GHOST.1));
            number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_hexdigit()))
        };
        removed.extend(remove_in(&fd_path(dir.as_fd()), |name, _| is_ghost(name)));
    }
    removed
}

fn remove_in(dir: &Path, is_ours: impl Fn(&str, &Path) -> bool) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let ours = entries.filter(|e| e.file_name().to_str().is_some_and(|name| is_ours(name, &e.path())));
    ours.filter(|e| std::fs::remove_file(e.path()).is_ok())
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Says what was removed, if anything was.
pub(crate) fn tell(removed: &[String]) {
    if !removed.is_empty() {
        tracing::warn!("CRIU left behind, and was removed: {}", removed.join(", "));
    }
}
