//! `inspect`: a checkpoint as an indented tree, or as JSON.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::path::Path;
use std::process::ExitCode;

use hiber::CheckpointName;
use hiber::contents::{CgroupSet, Credentials, Descriptor, Holder, Memory, Mount, Process, Socket};
use hiber::id::ContainerId;
use hiber::manifest::{Manifest, Options};
use hiber::store::Stored;
use hiber::{CgroupMode, Inspection, Verification};
use serde_json::json;

use super::out;
use crate::line::value::Format;

/// Descendants deeper than this are indented like those at this depth.
const MAX_DEPTH: usize = 40;

/// Prints whether a checkpoint's files are what its manifest says; so does the exit status.
pub(crate) fn verify(verification: &Verification, format: Format) -> anyhow::Result<ExitCode> {
    let text = match format {
        Format::Json => serde_json::to_string_pretty(verification)? + "\n",
        Format::Table => verdict(verification),
    };
    out::write(&text)?;
    Ok(if verification.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints the same of named checkpoints: as [`verify`] of one that was asked for by its name; otherwise one after the other, or as a list.
/// A checkpoint that cannot be compared is logged, and the others are compared nevertheless.
pub(crate) fn verify_all(
    mut results: Vec<(CheckpointName, anyhow::Result<Verification>)>,
    all: bool,
    format: Format,
) -> anyhow::Result<ExitCode> {
    if results.len() == 1 && !all {
        return match results.remove(0).1 {
            Ok(verification) => verify(&verification, format),
            Err(e) => Err(e),
        };
    }
    let good = |result: &anyhow::Result<Verification>| result.as_ref().is_ok_and(|v| v.problems.is_empty());
    let success = results.iter().all(|(_, result)| good(result));
    let mut list = Vec::new();
    for (name, result) in results {
        match result {
            Ok(verification) if format == Format::Table => out::write(&verdict(&verification))?,
            Ok(verification) => {
                let mut json = serde_json::to_value(verification)?;
                json["name"] = json!(name);
                list.push(json);
            }
            Err(e) => {
                tracing::error!("checkpoint {name}: {e:#}");
                list.push(json!({"name": name, "error": format!("{e:#}")}));
            }
        }
    }
    if format == Format::Json {
        out::write(&(serde_json::to_string_pretty(&list)? + "\n"))?;
    }
    Ok(if success { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints what a checkpoint holds.
pub(crate) fn show(inspection: &Inspection, format: Format) -> anyhow::Result<()> {
    let text = match format {
        Format::Json => serde_json::to_string_pretty(inspection)? + "\n",
        Format::Table => tree(inspection),
    };
    out::write(&text)?;
    Ok(())
}

/// Tells a person at a terminal what a checkpoint has written. CRIU's statistics may be in another directory, `work`.
pub(crate) fn tell_written(path: &Path, work: Option<&Path>) -> anyhow::Result<()> {
    // The checkpoint is good even where it cannot be described.
    let described = || match hiber::inspect(path) {
        Ok(mut inspection) => {
            let statistics = &mut inspection.contents.statistics;
            *statistics = statistics.take().or_else(|| hiber::dump_stats(work?).ok());
            written(&inspection)
        }
        Err(_) => format!("wrote {}", path.display()),
    };
    tell(described)
}

/// Tells a person at a terminal what a checkpoint has cost a store.
pub(crate) fn tell_stored(id: &ContainerId, name: &CheckpointName, stored: &Stored) -> anyhow::Result<()> {
    tell(|| {
        let (size, added) = (bytes(stored.size), bytes(stored.added));
        format!("stored {} of {id}: {size}, of which {added} are new in the store", name.as_str())
    })
}

/// Tells a person at a terminal that a restore on trial has worked.
pub(crate) fn tell_tried(id: &ContainerId) -> anyhow::Result<()> {
    tell(|| format!("restored {id} on trial: it would come back"))
}

/// Prints a line at a terminal. Programs that read the output get none, as from runc; podman passes its own terminal on.
fn tell(line: impl FnOnce() -> String) -> anyhow::Result<()> {
    if std::io::stdout().is_terminal() {
        out::write(&(line() + "\n"))?;
    }
    Ok(())
}

fn written(i: &Inspection) -> String {
    let text = format!("wrote {}: {} in {} files", i.path.display(), bytes(i.size), i.files);
    match &i.contents.statistics {
        Some(s) => format!("{text}; the container was frozen for {} ms", s.frozen_time.as_millis()),
        None => text,
    }
}

/// Lines, indented by two spaces a level.
#[derive(Default)]
struct Tree(String);

impl Tree {
    /// A line; control characters, which images may have anywhere, do not reach the terminal.
    fn line(&mut self, depth: usize, text: &str) {
        let _ = write!(self.0, "{:1$}", "", 2 * depth.min(MAX_DEPTH));
        for c in text.chars() {
            match c {
                c if c.is_control() => drop(write!(self.0, "{}", c.escape_default())),
                c => self.0.push(c),
            }
        }
        self.0.push('\n');
    }

    fn section<T>(&mut self, title: &str, items: &[T], line: impl Fn(&T) -> String) {
        if items.is_empty() {
            return;
        }
        self.line(1, &format!("{title} ({})", items.len()));
        for item in items {
            self.line(2, &line(item));
        }
    }
}

fn verdict(v: &Verification) -> String {
    let mut tree = Tree::default();
    let all = format!("{} files, {}", v.files, bytes(v.size));
    match v.problems.len() {
        0 => tree.line(0, &format!("{}: {all}: all as they were written", v.path.display())),
        n => tree.line(0, &format!("{}: {all}: {n} wrong", v.path.display())),
    }
    v.problems.iter().for_each(|problem| tree.line(1, problem));
    tree.0
}

fn tree(i: &Inspection) -> String {
    let mut tree = Tree::default();
    let contents = &i.contents;
    tree.line(0, &format!("checkpoint {}: {} in {} files", i.path.display(), bytes(i.size), i.files));
    match &i.manifest {
        Some(manifest) => describe_manifest(&mut tree, manifest),
        None => tree.line(1, "no manifest: not written by hiber"),
    }
    if let Some(podman) = &i.podman {
        let text = |key: &str| podman[key].as_str().unwrap_or("?").to_owned();
        tree.line(1, &format!("podman container {} of image {}", text("name"), text("rootfsImageName")));
    }
    if !contents.processes.is_empty() {
        processes(&mut tree, &contents.processes);
    }
    tree.section("pre-dumped processes", &contents.pre_dumped, |s| {
        format!("{}: {} stored{}", s.id, bytes(s.stored), nonzero_sizes(&[("in the parent", s.in_parent)]))
    });
    tree.section("shared memory", &contents.shared_memory, |s| {
        format!("segment {}: {}{}", s.id, bytes(s.stored), nonzero_sizes(&[("in the parent", s.in_parent)]))
    });
    tree.section("sockets", &contents.sockets, socket);
    mounts(&mut tree, &contents.mounts);
    tree.section("cgroups", &contents.cgroups, cgroup);
    if let Some(s) = &contents.statistics {
        tree.line(1, "dump");
        tree.line(2, &format!("frozen for {:?} after {:?} of freezing", s.frozen_time, s.freezing_time));
        tree.line(2, &format!("memory taken in {:?}, written in {:?}", s.memdump_time, s.memwrite_time));
        tree.line(
            2,
            &format!(
                "pages: {} looked at, {} written, {} left to the parent, {} left for later",
                s.pages_scanned, s.pages_written, s.pages_skipped_parent, s.pages_lazy
            ),
        );
    }
    tree.0
}

fn describe_manifest(tree: &mut Tree, m: &Manifest) {
    let kind = match m.kind {
        hiber::manifest::Kind::Dump => "container",
        hiber::manifest::Kind::PreDump => "pre-dump of container",
    };
    tree.line(1, &format!("{kind} {}, {}", m.container, m.created));
    tree.line(1, &format!("CRIU {}, Linux {}, {}", m.criu, m.kernel, m.cpu.architecture));
    let chosen = options(&m.options);
    if !chosen.is_empty() {
        tree.line(1, &format!("options: {chosen}"));
    }
    tree.line(1, &format!("config.json {}", m.config));
    tree.section("made without, as was accepted", &m.accepted, |loss| {
        format!("{}: {}", loss.check, loss.what)
    });
    if m.proved {
        tree.line(1, "proved: it was restored on trial before the container was given up");
    }
}

/// The options that somebody chose, by their flags' names.
fn options(o: &Options) -> String {
    let criu = &o.criu;
    let on = |choice: Option<bool>| choice.unwrap_or(false);
    let switches = [
        ("tcp-established", on(criu.tcp_established)),
        ("tcp-close", on(criu.tcp_close)),
        ("tcp-skip-in-flight", o.dump.tcp_skip_in_flight),
        ("ext-unix-sk", on(criu.ext_unix_sk)),
        ("shell-job", on(criu.shell_job)),
        ("file-locks", on(criu.file_locks)),
        ("link-remap", o.dump.link_remap),
        ("lazy-pages", criu.lazy_pages),
        ("auto-dedup", criu.auto_dedup),
        // Where loopback is all that the network had, hiber itself asks CRIU for an empty one.
        ("empty-ns network", on(criu.empty_network) && !o.loopback),
        ("leave-running", o.dump.leave_running),
    ];
    let mut all: Vec<String> =
        switches.iter().filter(|(_, on)| *on).map(|(name, _)| (*name).to_owned()).collect();
    let mode = criu.cgroups_mode.filter(|mode| *mode != CgroupMode::default());
    all.extend(mode.map(|mode| format!("manage-cgroups-mode {mode}")));
    all.extend(criu.network_lock.map(|lock| format!("network-lock {lock}")));
    all.extend(o.dump.parent_path.as_ref().map(|path| format!("parent-path {}", path.display())));
    all.extend(o.dump.page_server.as_ref().map(|address| format!("page-server {address}")));
    all.join(", ")
}

fn processes(tree: &mut Tree, all: &[Process]) {
    tree.line(1, &format!("processes, by their numbers in the container ({})", all.len()));
    for (depth, p) in below_their_parents(all, |p| (p.pid, p.ppid)) {
        process(tree, 2 + depth, p);
    }
}

/// Children below their parents, each with its depth; `numbers` tells an item's own number and its parent's. Without
/// recursion: a chain can be as long as its images.
fn below_their_parents<T>(all: &[T], numbers: impl Fn(&T) -> (u32, u32)) -> Vec<(usize, &T)> {
    let mut children: HashMap<u32, Vec<usize>> = HashMap::new();
    let own: HashSet<u32> = all.iter().map(|item| numbers(item).0).collect();
    for (index, item) in all.iter().enumerate().rev() {
        children.entry(numbers(item).1).or_default().push(index);
    }
    // Items whose parent is missing come first; the others that are left form circles.
    let roots = (0..all.len()).filter(|index| !own.contains(&numbers(&all[*index]).1));
    let (mut shown, mut order) = (HashSet::new(), Vec::new());
    for root in roots.chain(0..all.len()) {
        let mut stack = vec![(root, 0)];
        while let Some((index, depth)) = stack.pop() {
            if !shown.insert(index) {
                continue;
            }
            order.push((depth, &all[index]));
            let below = children.get(&numbers(&all[index]).0).into_iter().flatten();
            stack.extend(below.map(|child| (*child, depth + 1)));
        }
    }
    order
}

fn process(tree: &mut Tree, depth: usize, p: &Process) {
    let command = match (&p.arguments, &p.executable) {
        (Some(arguments), _) => arguments.join(" ").trim_end().to_owned(),
        (None, Some(executable)) => format!("{} ({executable})", p.name),
        (None, None) => p.name.clone(),
    };
    let state = match p.state {
        hiber::contents::State::Alive => String::new(),
        other => format!(", {other:?}").to_lowercase(),
    };
    let threads = if p.threads.len() > 1 { format!(", {} threads", p.threads.len()) } else { String::new() };
    tree.line(depth, &format!("{} {command}{state}{threads}", p.pid));
    let depth = depth + 2;
    if let Some(credentials) = &p.credentials {
        tree.line(depth, &privilege(credentials));
    }
    if let Some(directory) = &p.working_directory {
        tree.line(depth, &format!("in {directory}"));
    }
    if !p.memory.is_empty() {
        let stored = p.memory.iter().map(|m| m.stored).sum();
        let mapped = p.memory.iter().map(|m| m.mapped).sum();
        tree.line(depth, &format!("memory: {} stored of {} mapped", bytes(stored), bytes(mapped)));
        p.memory.iter().for_each(|m| tree.line(depth + 1, &memory(m)));
    }
    match p.files_of {
        Some(pid) => tree.line(depth, &format!("files: those of process {pid}")),
        None if p.files.is_empty() => {}
        None => tree.line(depth, &format!("files ({})", p.files.len())),
    }
    p.files.iter().for_each(|file| tree.line(depth + 1, &descriptor(file)));
}

fn privilege(c: &Credentials) -> String {
    let mut text = format!("user {} group {}", c.uids[1], c.gids[1]);
    let effective = c.effective.names();
    match effective.len() {
        0 => text.push_str(", no capabilities"),
        n if n > 8 => drop(write!(text, ", {n} capabilities")),
        _ => drop(write!(text, ", {}", effective.join(" "))),
    }
    if c.no_new_privileges {
        text.push_str(", no_new_privs");
    }
    if c.seccomp != hiber::contents::Seccomp::Disabled {
        text.push_str(", seccomp");
    }
    if let Some(profile) = &c.lsm_profile {
        let _ = write!(text, ", {profile}");
    }
    text
}

fn memory(m: &Memory) -> String {
    let others = nonzero_sizes(&[("in the parent", m.in_parent), ("left for later", m.lazy)]);
    let areas = if m.areas == 1 { "area" } else { "areas" };
    format!("{}: {} stored of {} in {} {areas}{others}", m.kind, bytes(m.stored), bytes(m.mapped), m.areas)
}

fn descriptor(d: &Descriptor) -> String {
    let offset = d.offset.filter(|o| *o > 0).map(|o| format!(" at {o}")).unwrap_or_default();
    let deleted = if d.deleted { " (deleted)" } else { "" };
    format!("{} {} {}{offset}{deleted}", d.fd, d.kind, d.target).trim_end().to_owned()
}

fn socket(s: &Socket) -> String {
    let mut text = format!("{} {} {}", s.kind, s.type_, s.state);
    for (word, address) in [("", &s.local), ("-> ", &s.peer)] {
        if !address.is_empty() {
            let _ = write!(text, " {word}{address}");
        }
    }
    text.push_str(&held("of", &s.holders));
    text.push_str(&held("peer of", &s.peer_holders));
    text
}

fn held(word: &str, holders: &[Holder]) -> String {
    let list: Vec<_> = holders.iter().map(|h| format!("{} (fd {})", h.pid, h.fd)).collect();
    if list.is_empty() { String::new() } else { format!(", {word} process {}", list.join(", ")) }
}

/// Mounts below the mount that they are on, in the order in which they were made.
fn mounts(tree: &mut Tree, all: &[Mount]) {
    if all.is_empty() {
        return;
    }
    tree.line(1, &format!("mounts ({})", all.len()));
    let mut all: Vec<&Mount> = all.iter().collect();
    all.sort_by_key(|mount| mount.id);
    for (depth, m) in below_their_parents(&all, |m| (m.id, m.parent)) {
        tree.line(2 + depth, &mount(m));
    }
}

fn mount(m: &Mount) -> String {
    let external = m.external.as_ref().map(|key| format!(", external {key}")).unwrap_or_default();
    let root = if m.root == "/" { String::new() } else { format!(" of {}", m.root) };
    format!("{} {} {}{root} ({}){external}", m.mountpoint, m.filesystem, m.source, m.options.join(","))
}

fn cgroup(c: &CgroupSet) -> String {
    let pids: Vec<_> = c.processes.iter().map(ToString::to_string).collect();
    let mut text = format!("processes {}:", pids.join(", "));
    // Most are in the same place everywhere.
    let mut places: Vec<(&str, Vec<&str>)> = Vec::new();
    for (hierarchy, path) in &c.paths {
        let hierarchy = if hierarchy.is_empty() { "v2" } else { hierarchy };
        match places.iter_mut().find(|(place, _)| place == path) {
            Some((_, hierarchies)) => hierarchies.push(hierarchy),
            None => places.push((path, vec![hierarchy])),
        }
    }
    for (path, hierarchies) in places {
        let _ = write!(text, " {path} ({})", hierarchies.join(" "));
    }
    text
}

/// The sizes above zero, in words, each after a comma.
fn nonzero_sizes(sizes: &[(&str, u64)]) -> String {
    let some = sizes.iter().filter(|(_, size)| *size > 0);
    some.map(|(what, size)| format!(", {} {what}", bytes(*size))).collect()
}

pub(crate) fn bytes(size: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if size < 1024 {
        return format!("{size} bytes");
    }
    let mut value = size as f64 / 1024.0;
    let mut units = UNITS.iter();
    let mut unit = units.next().unwrap_or(&"KiB");
    for larger in units {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    format!("{value:.1} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        let all = [0, 1023, 1024, 1536, 5 << 20, 3 << 30, 1 << 50].map(bytes);
        assert_eq!(all, ["0 bytes", "1023 bytes", "1.0 KiB", "1.5 KiB", "5.0 MiB", "3.0 GiB", "1024.0 TiB"]);
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let mut tree = Tree::default();
        tree.line(1, "a\x1b[31m\nb\u{9b}c é");
        assert_eq!(tree.0, "  a\\u{1b}[31m\\nb\\u{9b}c é\n");
    }

    #[test]
    fn processes_that_are_each_others_parents_are_shown_once() {
        let process = |pid, ppid| {
            let mut process = Process::default();
            (process.pid, process.ppid, process.threads) = (pid, ppid, vec![pid]);
            (process.state, process.name) = (hiber::contents::State::Alive, format!("p{pid}"));
            process
        };
        let mut tree = Tree::default();
        processes(
            &mut tree,
            &[process(1, 0), process(5, 1), process(2, 1), process(6, 5), process(8, 9), process(9, 8)],
        );
        let expected = "  processes, by their numbers in the container (6)\n    1 p1\n      5 p5\n        6 p6\n      2 p2\n    8 p8\n      9 p9\n";
        assert_eq!(tree.0, expected);
    }
}
