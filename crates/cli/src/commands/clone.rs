//! `clone`

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, anyhow};
use hiber::clones::{CloneMemory, CloneOptions, CloneRootfs};
use hiber::id::ContainerId;
use hiber::{CgroupMode, Resources, RestoreContainerOptions, Stdio};

use super::source::{Found, SourceFlags};
use crate::containers::Containers;
use crate::flags::criu::{IMAGE_PATH, MANAGE_CGROUPS_MODE, TCP_CLOSE, image_path};
use crate::flags::process::{BUNDLE, or_here};
use crate::line::command::{Cli, Command, Count, Run};
use crate::line::flag::{Flag, Flags, Value, flags};
use crate::line::refusal::Refusal;
use crate::line::scan::Matches;
use crate::line::shape::Argument;
use crate::process::foreground::connect_console;
use crate::process::tell::Tell;

/// The place of a clone's name in a pattern, and of its number in a name.
const NAME: &str = "%s";
const NUMBER: &str = "%d";
/// More than any machine holds; a slip of the finger asks for more.
const MAX_CLONES: u32 = 100_000;

/// A path in which `%s` is the clone's name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern(String);

impl Value for Pattern {
    fn read(flag: &str, text: &OsStr) -> Result<Self, Refusal> {
        let text = text.to_str().filter(|text| !text.is_empty());
        text.map(|text| Self(text.to_owned()))
            .ok_or_else(|| Refusal::value(format!("invalid --{flag}: expected a path in UTF-8")))
    }
}

impl Pattern {
    fn of(&self, name: &ContainerId) -> PathBuf {
        self.0.replace(NAME, name.as_str()).into()
    }
}

/// `NAME=VALUE`
#[derive(Debug, Clone, PartialEq, Eq)]
struct Annotation(String, String);

impl Value for Annotation {
    fn read(flag: &str, text: &OsStr) -> Result<Self, Refusal> {
        match text.to_str().and_then(|text| text.split_once('=')) {
            Some((name, value)) if !name.is_empty() => Ok(Self(name.to_owned(), value.to_owned())),
            _ => Err(Refusal::value(format!("invalid --{flag} {text:?}: expected NAME=VALUE"))),
        }
    }
}

flags! {
    struct CloneFlags {
        image_path: Option<PathBuf> = IMAGE_PATH,
        tcp_close: Option<bool> = TCP_CLOSE,
        manage_cgroups_mode: Option<CgroupMode> = MANAGE_CGROUPS_MODE,
        from: SourceFlags = Flag::group(),
        bundle: Option<PathBuf> = BUNDLE,
        count: Option<u32> =
            Flag::value("count", "N", "make N clones of each NAME, in which %d is the clone's number, from 1"),
        rootfs: Option<CloneRootfs> = Flag::value(
            "rootfs",
            "HOW",
            "overlay: a layer of its own over the bundle's root filesystem; shared-readonly; or copy (default: overlay)",
        ),
        clones_dir: Option<PathBuf> = Flag::value(
            "clones-dir",
            "DIR",
            "where each clone gets a directory for its bundle and root filesystem (default: clones in the bundle)",
        ),
        memory: Option<CloneMemory> = Flag::value(
            "memory",
            "HOW",
            "lazy: a page comes when it is touched, until `wait-memory` asks for the rest; background: it runs at once, and \
             its memory follows; whole: its memory is there first; auto: lazy if there is much (default: auto)",
        ),
        network: Option<Pattern> =
            Flag::value("netns", "PATTERN", "the network namespace that a clone joins: a path, in which %s is its name"),
        console_socket: Option<Pattern> =
            Flag::value("console-socket", "PATTERN", "the socket that receives a clone's terminal: a path, in which %s is its name"),
        output: Option<Pattern> = Flag::value(
            "output",
            "PATTERN",
            "append a clone's standard output and error to this file: a path, in which %s is its name (default: as hiber's own)",
        ),
        pid_file: Option<Pattern> =
            Flag::value("pid-file", "PATTERN", "write a clone's process id to this file: a path, in which %s is its name"),
        annotation: Vec<Annotation> =
            Flag::list("annotation", "NAME=VALUE", "an annotation of each clone, which finds it in /run/hiber/annotations.json"),
        env_file: Option<PathBuf> =
            Flag::value("env-file", "FILE", "what each clone finds in /run/hiber/environment"),
        share: bool = Flag::switch(
            "share",
            "let clones use devices of the host, and write to files of the host, at the same time",
        ),
        resources: Option<Resources> = Flag::value(
            "resources",
            "WORD",
            "the limits: those that were in force at the checkpoint, as `update` had changed them, or config.json's",
        ),
        parallel: Option<u32> =
            Flag::value("parallel", "N", "how many are made at the same time (default: two for each processor)"),
        keep_going: bool =
            Flag::switch("keep-going", "if a clone cannot be made, keep the others and make the rest"),
    }
}

pub(crate) const COMMAND: Command = Command::new(
    "clone",
    "<name> [name...]",
    "make many containers from one checkpoint",
    |m| Ok(Box::new(Clone::read(m)?)),
)
.description(
    "Each clone is a container of its own, with its own id, cgroup, host name, network namespace (as config.json has\n\
     it) and root filesystem, which is removed when the clone is deleted. The checkpoint's container may run meanwhile.\n\n\
     No two of them are the same: before its first instruction a clone finds /run/hiber/generation, memory that a\n\
     child would not have is wiped, and the program that the annotation org.hiber.hooks.restored names runs in it.\n\
     docs/clones.md says which programs need more than that.\n\n\
     All are made or none, unless --keep-going is given.",
)
.examples(&[
    ("clone --image-path /var/tmp/web.ckpt --bundle /srv/web web-1 web-2", "make two clones"),
    ("clone --image-path /var/tmp/web.ckpt --bundle /srv/web --count 100 web-%d", "make web-1 to web-100"),
])
.flags(CloneFlags::TABLE)
.takes(Count::AtLeast(1), &[Argument::Other]);

#[derive(Debug)]
struct Clone {
    names: Vec<ContainerId>,
    flags: CloneFlags,
}

impl Clone {
    fn read(m: &Matches) -> Result<Self, Refusal> {
        let flags = CloneFlags::read(m)?;
        flags.judge()?;
        let mut names = Vec::new();
        for name in &m.positionals {
            flags.names(&name.to_string_lossy(), &mut names)?;
        }
        let mut sorted: Vec<_> = names.iter().map(ContainerId::as_str).collect();
        sorted.sort_unstable();
        if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Refusal::value(format!("name {} is given twice", twice[0])));
        }
        let patterns = [("console-socket", &flags.console_socket), ("pid-file", &flags.pid_file)];
        for (flag, pattern) in patterns {
            if let Some(Pattern(text)) = pattern.as_ref().filter(|p| names.len() > 1 && !p.0.contains(NAME)) {
                let why = "is the same for all clones, expected %s in it, which is a clone's name";
                return Err(Refusal::value(format!("--{flag} {text:?} {why}")));
            }
        }
        Ok(Self { names, flags })
    }
}

impl CloneFlags {
    fn judge(&self) -> Result<(), Refusal> {
        self.from.judge(self.image_path.is_some())?;
        let unnamed = self.from.store.is_some() || self.from.checkpoint.is_some();
        if unnamed != self.from.of.is_some() {
            return Err(Refusal::value(
                "--of, whose checkpoint it is, belongs to --store and --checkpoint, and they need it",
            ));
        }
        if self.parallel == Some(0) {
            return Err(Refusal::value("--parallel 0: expected 1 or more"));
        }
        match self.count {
            Some(count @ (0 | MAX_CLONES..)) => {
                Err(Refusal::value(format!("--count {count}: expected 1 to {}", MAX_CLONES - 1)))
            }
            _ => Ok(()),
        }
    }

    /// The names that one of the command line stands for.
    fn names(&self, name: &str, to: &mut Vec<ContainerId>) -> Result<(), Refusal> {
        match self.count {
            None => to.push(name.parse()?),
            Some(count) if count > 1 && !name.contains(NUMBER) => {
                return Err(Refusal::value(format!(
                    "name {name:?}: --count {count} makes several, expected %d in it, which is a clone's number"
                )));
            }
            Some(count) => {
                for number in 1..=count {
                    to.push(name.replace(NUMBER, &number.to_string()).parse()?);
                }
            }
        }
        Ok(())
    }

    fn how(&self, name: &ContainerId, environment: Option<&[u8]>) -> CloneOptions {
        let mut how = CloneOptions::default()
            .rootfs(self.rootfs.unwrap_or_default())
            .share(self.share)
            .memory(self.memory.unwrap_or_default())
            .annotations(
                self.annotation
                    .iter()
                    .map(|Annotation(k, v)| (k.clone(), v.clone()))
                    .collect::<std::collections::BTreeMap<_, _>>(),
            );
        how.directory.clone_from(&self.clones_dir);
        how.network = self.network.as_ref().map(|pattern| pattern.of(name));
        how.environment = environment.map(<[u8]>::to_vec);
        how
    }

    fn restore<'a>(&self, cli: &Cli, stdio: Stdio<'a>) -> RestoreContainerOptions<'a> {
        RestoreContainerOptions::new(or_here(self.bundle.as_ref()))
            .criu_program(cli.global.criu.clone())
            .image_path(image_path(self.image_path.as_ref()))
            .tcp_close(self.tcp_close)
            .cgroups_mode(self.manage_cgroups_mode)
            .systemd_cgroup(cli.global.systemd_cgroup)
            .rootless(cli.global.rootless())
            .stdio(stdio)
            .trust_images(self.from.trust_images)
            .resources(self.resources)
    }
}

/// A command at work.
struct Work<'a> {
    cli: &'a Cli,
    flags: &'a CloneFlags,
    containers: &'a Containers,
    from: &'a Found,
    environment: Option<Vec<u8>>,
}

impl Work<'_> {
    /// Makes one.
    fn make(&self, name: &ContainerId) -> anyhow::Result<()> {
        let flags = self.flags;
        let console = flags.console_socket.as_ref().map(|pattern| connect_console(&pattern.of(name)));
        let console = console.transpose()?;
        let output = flags.output.as_ref().map(|pattern| {
            let path = pattern.of(name);
            let file = OpenOptions::new().append(true).create(true).open(&path);
            file.with_context(|| format!("open --output {}", path.display()))
        });
        let output = output.transpose()?;
        let null = std::fs::File::open("/dev/null").context("open /dev/null")?;
        let stdio = match (&console, &output) {
            (Some(socket), _) => Stdio::Console(socket.as_fd()),
            (None, Some(file)) => Stdio::Files([null.as_fd(), file.as_fd(), file.as_fd()]),
            (None, None) => Stdio::Inherit,
        };
        let pid_file = flags.pid_file.as_ref().map(|pattern| pattern.of(name));
        let tell = Tell::prepare(None, pid_file.as_deref())?;
        let how = flags.how(name, self.environment.as_deref());
        let restore = self.from.choose(flags.restore(self.cli, stdio));
        let task = self.containers.runtime.make_clone(name, &how, self.from.named(), restore)?;
        let init = task.init().context("the container has no process")?;
        self.containers.or_undo(name, tell.tell(init))
    }

    /// Makes all, several at the same time, and returns the failures.
    fn make_all(&self, names: &[ContainerId]) -> (Vec<ContainerId>, Vec<(ContainerId, anyhow::Error)>) {
        let usual = std::thread::available_parallelism().map_or(2, |n| 2 * n.get());
        let parallel = self.flags.parallel.map_or(usual, |n| usize::try_from(n).unwrap_or(usual));
        let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let (made, failures) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
        let work = || {
            while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                if failed.load(Ordering::Relaxed) && !self.flags.keep_going {
                    return;
                }
                match self.make(name) {
                    Ok(()) => made.lock().unwrap_or_else(PoisonError::into_inner).push(name.clone()),
                    Err(e) => {
                        failed.store(true, Ordering::Relaxed);
                        failures.lock().unwrap_or_else(PoisonError::into_inner).push((name.clone(), e));
                    }
                }
            }
        };
        std::thread::scope(|scope| (0..parallel.min(names.len())).for_each(|_| drop(scope.spawn(work))));
        let inner = PoisonError::into_inner;
        (
            made.into_inner().unwrap_or_else(inner),
            failures.into_inner().unwrap_or_else(PoisonError::into_inner),
        )
    }
}

impl Run for Clone {
    fn run(&self, cli: &Cli) -> anyhow::Result<ExitCode> {
        let containers = Containers::new(cli)?;
        let flags = &self.flags;
        let bundle = or_here(flags.bundle.as_ref());
        let environment = flags.env_file.as_deref().map(read_environment).transpose()?;
        let first = flags.from.of.as_ref().unwrap_or(&self.names[0]);
        let from = Found::find(&flags.from, first, &containers, &bundle)?;
        let work = Work { cli, flags, containers: &containers, from: &from, environment };
        let (made, failures) = work.make_all(&self.names);
        if failures.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        if !flags.keep_going {
            for name in &made {
                if let Err(e) = containers.runtime.force_delete(name) {
                    tracing::warn!("clone {name} stays: {e}");
                }
            }
        }
        for (name, e) in &failures[..failures.len() - 1] {
            tracing::error!("clone {name}: {e:#}");
        }
        let (name, e) =
            failures.into_iter().next_back().unwrap_or_else(|| (first.clone(), anyhow!("none was made")));
        let rest = if flags.keep_going { "" } else { "; none was made" };
        Err(e.context(format!("clone {name}{rest}")))
    }
}

/// Variables, of which each line is one.
fn read_environment(path: &Path) -> anyhow::Result<Vec<u8>> {
    let text = std::fs::read(path).with_context(|| format!("read --env-file {}", path.display()))?;
    let lines = text.split(|byte| *byte == b'\n').enumerate();
    let is_variable = |line: &[u8]| line.is_empty() || line[0] == b'#' || line.contains(&b'=');
    match lines.clone().find(|(_, line)| !is_variable(line)) {
        None => Ok(text),
        Some((number, line)) => Err(anyhow!(
            "--env-file {}: line {} is {:?}, expected NAME=VALUE",
            path.display(),
            number + 1,
            String::from_utf8_lossy(line)
        )),
    }
}
