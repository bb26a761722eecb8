//! `restore`

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use hiber::archive::{Imported, MadeBundle, NewBundle};
use hiber::id::ContainerId;
use hiber::{Address, Resources, RestoreContainerOptions, Stdio, Task};

use super::source::{Found, SourceFlags};
use crate::containers::Containers;
use crate::flags::criu::{CheckFlags, CriuFlags};
use crate::flags::process::{BUNDLE, CONSOLE_SOCKET, DETACH, NO_SUBREAPER, PID_FILE, or_here};
use crate::line::command::{Cli, Command, Run};
use crate::line::flag::{Flag, Flags, Value, flags};
use crate::line::refusal::{Refusal, belong_to, excludes};
use crate::line::scan::Matches;
use crate::output::{inspection, report};
use crate::process::foreground::{self, Console, Signals, connect_console};
use crate::process::tell::Tell;

/// `TYPE:NAME`, as CRIU wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LsmProfile(pub String);

impl Value for LsmProfile {
    fn read(flag: &str, value: &OsStr) -> Result<Self, Refusal> {
        match value.to_str().and_then(|text| text.split_once(':')) {
            Some((kind, name)) if !kind.is_empty() && !name.is_empty() => Ok(Self(format!("{kind}:{name}"))),
            _ => Err(Refusal::value(format!("invalid {flag} {value:?}: expected TYPE:NAME"))),
        }
    }
}

flags! {
    pub(crate) struct RestoreFlags {
        criu: CriuFlags = Flag::group(),
        from: SourceFlags = Flag::group(),
        unique: bool = Flag::switch(
            "unique",
            "this may not be the only container of the checkpoint: let it know before its first instruction (as `clone` does)",
        ),
        with_rootfs: bool = Flag::switch(
            "with-rootfs",
            "make the changes of the archive in the bundle's root filesystem, where they stay",
        ),
        base: Option<PathBuf> = Flag::value(
            "base",
            "DIR",
            "make the bundle from the archive, with a copy of DIR, the root filesystem of the container's image",
        ),
        trust_spec: bool = Flag::switch(
            "trust-spec",
            "a bundle that is made from the archive grants whatever the archive's own configuration asks for",
        ),
        bundle: Option<PathBuf> = BUNDLE,
        console_socket: Option<PathBuf> = CONSOLE_SOCKET,
        pid_file: Option<PathBuf> = PID_FILE,
        detach: bool = DETACH,
        no_subreaper: bool = NO_SUBREAPER,
        no_pivot: bool =
            Flag::switch("no-pivot", "without effect here: CRIU changes the root, by pivot_root alone"),
        background: bool = Flag::switch(
            "background",
            "let it run at once: memory comes from the images when it is touched, and all the rest meanwhile (wait-memory waits)",
        ),
        page_server: Option<Address> = Flag::value(
            "page-server",
            "ADDRESS:PORT",
            "fetch memory from there, where `checkpoint --lazy-pages --page-server` serves it; IPv6 as [ADDRESS]:PORT",
        ),
        lsm_profile: Option<LsmProfile> =
            Flag::value("lsm-profile", "TYPE:NAME", "security profile to restore under instead of the dumped one"),
        lsm_mount_context: Option<String> =
            Flag::value("lsm-mount-context", "CONTEXT", "SELinux context for mounts instead of the dumped one"),
        resources: Option<Resources> = Flag::value(
            "resources",
            "WORD",
            "the limits: those that were in force at the checkpoint, as `update` had changed them, or config.json's \
             (default: checkpoint, and more than config.json grants is refused)",
        ),
        prove: bool = Flag::switch(
            "prove",
            "restore on trial only: up to the first instruction, without effect on anything; the exit status tells the result",
        ),
        check: CheckFlags = Flag::group(),
    }
}

pub(crate) const COMMAND: Command =
    Command::on_new_container("restore", "wake a container from a checkpoint", |m| {
        Ok(Box::new(Restore::read(m)?))
    })
    .description(
        "The bundle must be the one that the container was created from, or its like. A restore repeats the options\n\
         of the checkpoint (TCP connections, file locks and so on), which hiber.json records, unless a flag says\n\
         otherwise: --tcp-established=false.",
    )
    .examples(&[
        (
            "restore --image-path /var/tmp/web.ckpt --bundle /srv/web --detach web",
            "wake web, and return as soon as it runs",
        ),
        (
            "restore --import /var/tmp/web.tar.zst --bundle /srv/web --detach web",
            "the same from an archive",
        ),
        ("restore --store /var/tmp/store --bundle /srv/web --detach web", "the same from its newest checkpoint in a store"),
    ])
    .flags(RestoreFlags::TABLE);

#[derive(Debug)]
pub(crate) struct Restore {
    id: ContainerId,
    pub(crate) flags: RestoreFlags,
}

impl RestoreFlags {
    /// Refuses what contradicts itself on the command line. The library judges the rest.
    fn judge(&self) -> Result<(), Refusal> {
        self.check.judge()?;
        self.from.judge(self.criu.image_path.is_some())?;
        belong_to("store", self.from.store.is_some(), &[("of", self.from.of.is_some())])?;
        let elsewhere = [
            ("lazy-pages", self.criu.lazy_pages),
            ("auto-dedup", self.criu.auto_dedup),
            ("page-server", self.page_server.is_some()),
        ];
        excludes("import", self.from.import.is_some(), &elsewhere[..2], "")?;
        excludes("store", self.from.store.is_some(), &elsewhere, "")?;
        let with = [
            ("with-rootfs", self.with_rootfs),
            ("base", self.base.is_some()),
            ("trust-spec", self.trust_spec),
        ];
        belong_to("import", self.from.import.is_some(), &with)?;
        if self.with_rootfs && (self.prove || self.check.check) {
            return Err(Refusal::value(
                "--with-rootfs changes the root filesystem; --prove and --check change nothing",
            ));
        }
        let left = [
            ("lazy-pages", self.criu.lazy_pages),
            ("background", self.background),
            ("detach", self.detach),
            ("console-socket", self.console_socket.is_some()),
            ("pid-file", self.pid_file.is_some()),
            ("check", self.check.check),
            ("unique", self.unique),
        ];
        excludes("prove", self.prove, &left, ": nothing is left running")
    }
}

impl Restore {
    pub(crate) fn read(m: &Matches) -> Result<Self, Refusal> {
        let (id, flags) = (m.container()?, RestoreFlags::read(m)?);
        flags.judge()?;
        Ok(Self { id, flags })
    }

    pub(crate) fn options<'a>(&self, cli: &Cli, stdio: Stdio<'a>) -> RestoreContainerOptions<'a> {
        let flags = &self.flags;
        RestoreContainerOptions::new(or_here(flags.bundle.as_ref()))
            .criu(flags.criu.options(&cli.global))
            .systemd_cgroup(cli.global.systemd_cgroup)
            .rootless(cli.global.rootless())
            .stdio(stdio)
            .lsm_profile(flags.lsm_profile.as_ref().map(|LsmProfile(profile)| profile.clone()))
            .lsm_mount_context(flags.lsm_mount_context.clone())
            .trust_images(flags.from.trust_images)
            .unique(flags.unique)
            .resources(flags.resources)
            .page_server(flags.page_server.clone())
            .background(flags.background)
    }

    /// The bundle, made from the archive if there is none.
    fn bundle(&self, imported: &Imported, place: &Path) -> anyhow::Result<MadeBundle> {
        let flags = &self.flags;
        let mut how = NewBundle::default().trust_spec(flags.trust_spec).with_rootfs(flags.with_rootfs);
        how.base.clone_from(&flags.base);
        if imported.has_root_changes() && !flags.with_rootfs && flags.base.is_none() {
            tracing::warn!("the archive has changes of the root filesystem; --with-rootfs makes them");
        }
        Ok(imported.bundle(place, &how)?)
    }

    /// Stays until the first process has ended, and deletes the container.
    fn attend(&self, containers: &Containers, task: &Task, signals: &Signals) -> anyhow::Result<ExitCode> {
        let init = task.init().context("the container has no process")?;
        // A container whose memory stays away is killed, which ends our attendance.
        let memory = std::thread::spawn({
            let task = task.clone();
            move || task.wait_for_memory()
        });
        let status =
            foreground::attend(init, signals, Console::of(init)?, &|signal| drop(task.kill(signal)))?;
        let brought = memory.join();
        containers.runtime.force_delete(&self.id)?;
        match brought {
            Ok(Err(e)) => Err(e.into()),
            _ => Ok(status.into()),
        }
    }
}

impl Run for Restore {
    fn run(&self, cli: &Cli) -> anyhow::Result<ExitCode> {
        let containers = Containers::new(cli)?;
        let flags = &self.flags;
        if flags.no_pivot {
            tracing::warn!(
                "--no-pivot has no effect on a restore: CRIU changes the root, by pivot_root alone"
            );
        }
        let bundle = or_here(flags.bundle.as_ref());
        let from = Found::find(&flags.from, &self.id, &containers, &bundle)?;
        let made = from.imported().map(|imported| self.bundle(imported, &bundle)).transpose()?;
        let named = from.named();
        let options = |stdio| from.choose(self.options(cli, stdio));
        if let Some(format) = flags.check.asked() {
            let report = containers.runtime.check_restore(&self.id, named, options(Stdio::Inherit));
            return report::show(&report, format);
        }
        if flags.prove {
            containers.runtime.try_restore(&self.id, named, options(Stdio::Inherit))?;
            inspection::tell_tried(&self.id)?;
            return Ok(ExitCode::SUCCESS);
        }
        if !flags.detach && !flags.no_subreaper {
            foreground::become_subreaper();
        }
        // Before the process exists, so that its death cannot be missed.
        let signals = (!flags.detach).then(Signals::block).transpose()?;
        let given = flags.console_socket.as_deref().map(connect_console).transpose()?;
        let stdio = match &given {
            Some(socket) => Stdio::Console(socket.as_fd()),
            None if !flags.detach => Stdio::Attended,
            None => Stdio::Inherit,
        };
        let tell = Tell::prepare(None, flags.pid_file.as_deref())?;
        let options = options(stdio);
        let task = match named {
            None => containers.runtime.restore(&self.id, &options)?,
            Some(checkpoint) => containers.runtime.start_from(&self.id, checkpoint, options)?,
        };
        // A daemon that still brings memory has the files open.
        drop(from);
        let init = task.init().context("the container has no process")?;
        containers.or_undo(&self.id, tell.tell(init))?;
        made.into_iter().for_each(MadeBundle::keep);
        if let Some(signals) = signals {
            return self.attend(&containers, &task, &signals);
        }
        if !flags.background {
            containers.or_undo(&self.id, task.wait_for_memory().map_err(Into::into))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
