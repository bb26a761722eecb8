//! `checkpoint`

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use hiber::archive::{Compression, RootChanges};
use hiber::id::ContainerId;
use hiber::store::{CheckpointStore, Put};
use hiber::{Address, CheckpointName, CheckpointOptions, Task};

use crate::containers::Containers;
use crate::flags::archive::{self, COMPRESS, ENCRYPT_TO, KeyFile, Recipient, SIGN_KEY, STORE_KEY};
use crate::flags::criu::{
    ACCEPT, CheckFlags, CriuFlags, LINK_REMAP, Names, PreCopyFlags, TCP_SKIP_IN_FLIGHT, names,
};
use crate::line::command::{Cli, Command, Run};
use crate::line::flag::{Flag, Flags, flags};
use crate::line::refusal::{Refusal, belong_to, excludes};
use crate::line::scan::Matches;
use crate::output::{inspection, report};

flags! {
    pub(crate) struct CheckpointFlags {
        criu: CriuFlags = Flag::group(),
        parent_path: Option<PathBuf> =
            Flag::value("parent-path", "DIR", "earlier pre-dump to build on, relative to the image path"),
        leave_running: bool = Flag::switch("leave-running", "let the container run on afterwards"),
        tcp_skip_in_flight: bool = TCP_SKIP_IN_FLIGHT,
        link_remap: bool = LINK_REMAP,
        status_fd: Option<i32> =
            Flag::value("status-fd", "FD", "CRIU writes a NUL byte to FD when lazy pages can be fetched"),
        page_server: Option<Address> = Flag::value(
            "page-server",
            "ADDRESS:PORT",
            "send memory to a page server, or with --lazy-pages serve it there; IPv6 as [ADDRESS]:PORT",
        ),
        any_peer: bool = Flag::switch(
            "page-server-any-peer",
            "serve lazy pages to whoever asks, as a criu lazy-pages of your own does: it does not know the checkpoint's token",
        ),
        pre_dump: bool = Flag::switch("pre-dump", "write memory only, and let the container run on"),
        no_hash: bool = Flag::switch(
            "no-hash",
            "leave the files' hashes out of hiber.json: less time frozen, but `inspect --verify` cannot verify it",
        ),
        no_sync: bool = Flag::switch(
            "no-sync",
            "do not wait for the disk: less time frozen, but a power failure soon after may lose the checkpoint",
        ),
        export: Option<PathBuf> = Flag::value(
            "export",
            "FILE",
            "write an archive (tar, as podman's) instead of a directory, and nothing else to the disk; - is standard output, \
             and oci:DIR[:TAG] an image in an OCI image layout",
        ),
        store: Option<PathBuf> = Flag::value(
            "store",
            "DIR",
            "write into a store of checkpoints instead of a directory, which is made if there is none: what is there already is \
             not written again",
        ),
        checkpoint: Option<CheckpointName> =
            Flag::value("checkpoint", "NAME", "the checkpoint's name in the store (default: the time)"),
        store_key: Option<KeyFile> = STORE_KEY,
        compress: Option<Compression> = COMPRESS,
        encrypt_to: Vec<Recipient> = ENCRYPT_TO,
        sign_key: Option<PathBuf> = SIGN_KEY,
        with_rootfs: bool = Flag::switch(
            "with-rootfs",
            "export also what the container has changed in its root filesystem, an overlay, or compared with --base",
        ),
        base: Option<PathBuf> =
            Flag::value("base", "DIR", "as --with-rootfs, compared with DIR, the root filesystem as it was at first"),
        pre_copy: PreCopyFlags = Flag::group(),
        prove: bool = Flag::switch(
            "prove",
            "restore the images on trial first; if that fails the container runs on and there is no checkpoint",
        ),
        accept: Vec<Names> = ACCEPT,
        check: CheckFlags = Flag::group(),
    }
}

pub(crate) const COMMAND: Command =
    Command::on_container("checkpoint", "put a running container to sleep", |m| {
        Ok(Box::new(Checkpoint::read(m)?))
    })
    .description(
        "Writes the container's processes and memory with CRIU, to a directory, with --export into one file, or with --store\n\
         into a store, in which checkpoints share what they have in common.\n\
         The container is gone afterwards, unless it is left running. --check and docs/limits.md tell what CRIU cannot save.",
    )
    .examples(&[
        ("checkpoint --image-path /var/tmp/web.ckpt web", "put the container web to sleep"),
        ("checkpoint --export /var/tmp/web.tar.zst web", "put it into an archive, for podman or another machine"),
        ("checkpoint --store /var/tmp/store --leave-running web", "keep its present state where earlier ones are, too"),
        ("checkpoint --check web", "ask whether that would work"),
    ])
    .flags(CheckpointFlags::TABLE);

#[derive(Debug)]
pub(crate) struct Checkpoint {
    pub(crate) id: ContainerId,
    pub(crate) flags: CheckpointFlags,
}

impl Checkpoint {
    pub(crate) fn read(m: &Matches) -> Result<Self, Refusal> {
        let (id, flags) = (m.container()?, CheckpointFlags::read(m)?);
        flags.judge()?;
        Ok(Self { id, flags })
    }

    pub(crate) fn options(&self, cli: &Cli) -> anyhow::Result<CheckpointOptions> {
        let flags = &self.flags;
        Ok(CheckpointOptions::default()
            .criu(flags.criu.options(&cli.global))
            .parent_path(flags.parent_path.clone())
            .leave_running(flags.leave_running)
            .pre_dump(flags.pre_dump)
            .tcp_skip_in_flight(flags.tcp_skip_in_flight)
            .link_remap(flags.link_remap)
            .status_fd(flags.status_fd().map(open_status).transpose()?)
            .page_server(flags.page_server.clone())
            .any_peer(flags.any_peer)
            .no_hash(flags.no_hash)
            .no_sync(flags.no_sync)
            .pre_copy(flags.pre_copy.options())
            .prove(flags.prove)
            .accept(names(&flags.accept)))
    }
}

impl Run for Checkpoint {
    fn run(&self, cli: &Cli) -> anyhow::Result<ExitCode> {
        let containers = Containers::new(cli)?;
        if !rustix::process::geteuid().is_root() {
            tracing::warn!("checkpointing without root is untested");
        }
        let task = containers.task(&self.id)?;
        let key = archive::signing_key(self.flags.sign_key.as_ref())?;
        let options = self.options(cli)?.sign_key(key);
        if let Some(format) = self.flags.check.asked() {
            return report::show(&task.check_checkpoint(&options)?, format);
        }
        if let Some(path) = &self.flags.export {
            let flags = &self.flags;
            let mut export =
                archive::export(path, flags.compress, &flags.encrypt_to, flags.sign_key.as_ref())?;
            if flags.with_rootfs || flags.base.is_some() {
                let mut changes = RootChanges::default();
                changes.base.clone_from(&flags.base);
                export = export.rootfs(changes);
            }
            task.export(&export, options)?;
            return Ok(ExitCode::SUCCESS);
        }
        if let Some(dir) = &self.flags.store {
            return self.store(dir, &task, options);
        }
        task.checkpoint(&options)?;
        inspection::tell_written(&options.criu.image_path, options.criu.work_path.as_deref())?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Checkpoint {
    fn store(&self, dir: &Path, task: &Task, options: CheckpointOptions) -> anyhow::Result<ExitCode> {
        let flags = &self.flags;
        let name = flags.checkpoint.clone().unwrap_or_else(CheckpointName::of_now);
        let put = Put::new(CheckpointStore::make(dir)?, name)
            .key(archive::store_key(flags.store_key.as_ref())?)
            .compress(flags.compress.unwrap_or_default());
        let stored = task.store(&put, options)?;
        inspection::tell_stored(&self.id, &put.name, &stored)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl CheckpointFlags {
    /// Refuses what contradicts itself on the command line. The library judges the rest.
    fn judge(&self) -> Result<(), Refusal> {
        self.check.judge()?;
        let (export, store) = (self.export.is_some(), self.store.is_some());
        let image_path = ("image-path", self.criu.image_path.is_some());
        excludes("export", export, &[image_path], "")?;
        excludes("store", store, &[("export", export), image_path], "")?;
        let of_store = [("checkpoint", self.checkpoint.is_some()), ("store-key", self.store_key.is_some())];
        belong_to("store", store, &of_store)?;
        belong_to("export", export, &[("with-rootfs", self.with_rootfs), ("base", self.base.is_some())])?;
        if self.export.is_none() && self.store.is_none() && self.compress.is_some() {
            return Err(Refusal::value(
                "--compress needs --export or --store: images in a directory are not compressed",
            ));
        }
        if self.store.is_some() && !self.encrypt_to.is_empty() {
            return Err(Refusal::value(
                "--encrypt-to and --store exclude each other: --store-key seals checkpoints in a store",
            ));
        }
        if self.export.is_none() && !self.encrypt_to.is_empty() {
            return Err(Refusal::value(
                "--encrypt-to needs --export: images in a directory are not encrypted",
            ));
        }
        Ok(())
    }

    /// -1 is none, as with runc.
    pub(crate) fn status_fd(&self) -> Option<i32> {
        self.status_fd.filter(|fd| *fd != -1)
    }
}

/// Opens the caller's descriptor anew, which also shows that it is open and may be written.
fn open_status(number: i32) -> anyhow::Result<OwnedFd> {
    let path = Path::new("/proc/self/fd").join(number.to_string());
    if number < 0 || std::fs::symlink_metadata(&path).is_err() {
        bail!("invalid --status-fd argument {number}: not an open descriptor");
    }
    let file = std::fs::File::options().write(true).open(&path);
    Ok(file.with_context(|| format!("invalid --status-fd argument {number}: not writable"))?.into())
}
