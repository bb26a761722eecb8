//! `checkpoint` and `restore`.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use hiber::{Address, CgroupMode, CheckpointOptions, CriuOptions, RestoreContainerOptions, Stdio};

use super::args::{CgroupsMode, CheckpointArgs, CriuFlags, NetworkLock, PageServer, RestoreArgs};
use super::checkpoints::checkpoints_of;
use super::commands::{Session, connect_console};
use super::foreground::{self, Console, Signals};
use super::inspect;
use super::preflight::show;
use super::tell::Tell;

impl Session {
    /// `checkpoint`
    pub(crate) fn checkpoint(&self, args: &CheckpointArgs) -> anyhow::Result<ExitCode> {
        if !rustix::process::geteuid().is_root() {
            tracing::warn!("checkpointing without root is untested");
        }
        let task = self.task(&args.id)?;
        let options = self.checkpoint_options(args)?;
        if let Some(format) = args.check {
            return show(&task.check_checkpoint(&options)?, format);
        }
        task.checkpoint(&options)?;
        inspect::tell_written(&options.criu.image_path)?;
        Ok(ExitCode::SUCCESS)
    }

    /// `restore`
    pub(crate) fn restore(&self, args: &RestoreArgs) -> anyhow::Result<ExitCode> {
        if args.no_pivot {
            tracing::warn!(
                "--no-pivot has no effect on a restore: CRIU changes the root, by pivot_root alone"
            );
        }
        let bundle = args.bundle.as_deref().unwrap_or(Path::new("."));
        let all = || checkpoints_of(&args.id, args.checkpoint_dir.as_deref(), bundle);
        let named = args.checkpoint.as_ref().map(|name| all().get(name)).transpose()?;
        if let Some(format) = args.check {
            let options = self.restore_options(args, Stdio::Inherit);
            return show(&self.runtime.check_restore(&args.id, named.as_ref(), options), format);
        }
        if args.prove {
            let options = self.restore_options(args, Stdio::Inherit);
            self.runtime.try_restore(&args.id, named.as_ref(), options)?;
            return Ok(ExitCode::SUCCESS);
        }
        if !args.detach && !args.no_subreaper {
            let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
        }
        // Before the process exists, so that its death cannot be missed.
        let signals = (!args.detach).then(Signals::block).transpose()?;
        let given = args.console_socket.as_deref().map(connect_console).transpose()?;
        let stdio = match &given {
            Some(socket) => Stdio::Console(socket.as_fd()),
            None if !args.detach => Stdio::Attended,
            None => Stdio::Inherit,
        };
        let tell = Tell::prepare(None, args.pid_file.as_deref())?;
        let options = self.restore_options(args, stdio);
        let task = match &named {
            None => self.runtime.restore(&args.id, &options)?,
            Some(checkpoint) => self.runtime.start_from(&args.id, checkpoint, options)?,
        };
        let init = task.init().context("the container has no process")?;
        self.or_undo(&args.id, tell.tell(init))?;
        let Some(signals) = signals else {
            if !args.background {
                self.or_undo(&args.id, task.wait_for_memory().map_err(Into::into))?;
            }
            return Ok(ExitCode::SUCCESS);
        };
        // In the background; a container whose memory stays away is killed, which ends our attendance.
        let memory = std::thread::spawn({
            let task = task.clone();
            move || task.wait_for_memory()
        });
        let status = foreground::attend(init, &signals, Console::of(init)?)?;
        if let Ok(Err(e)) = memory.join() {
            self.delete(&args.id, true)?;
            return Err(e.into());
        }
        self.delete(&args.id, true)?;
        Ok(status.into())
    }

    pub(super) fn checkpoint_options(&self, args: &CheckpointArgs) -> anyhow::Result<CheckpointOptions> {
        Ok(CheckpointOptions {
            criu: self.criu_options(&args.criu),
            parent_path: args.parent_path.clone(),
            leave_running: args.leave_running,
            pre_dump: args.pre_dump,
            tcp_skip_in_flight: args.tcp_skip_in_flight,
            link_remap: args.link_remap,
            status_fd: args.status_fd.map(status_fd).transpose()?,
            page_server: args.page_server.clone().map(address),
            any_peer: args.any_peer,
            no_hash: args.no_hash,
            no_sync: args.no_sync,
            pre_copy: args.pre_copy,
            prove: args.prove,
            accept: args.accept.clone(),
        })
    }

    pub(super) fn restore_options<'a>(
        &self,
        args: &RestoreArgs,
        stdio: Stdio<'a>,
    ) -> RestoreContainerOptions<'a> {
        RestoreContainerOptions {
            criu: self.criu_options(&args.criu),
            bundle: args.bundle.clone().unwrap_or_else(|| PathBuf::from(".")),
            systemd_cgroup: self.systemd_cgroup,
            rootless: self.rootless,
            stdio,
            lsm_profile: args.lsm_profile.clone(),
            lsm_mount_context: args.lsm_mount_context.clone(),
            trust_images: args.trust_images,
            resources: args.resources,
            page_server: args.page_server.clone().map(address),
            background: args.background,
        }
    }

    pub(super) fn criu_options(&self, flags: &CriuFlags) -> CriuOptions {
        CriuOptions {
            criu: self.criu.clone(),
            image_path: flags.image_path.clone().unwrap_or_else(|| PathBuf::from("checkpoint")),
            work_path: flags.work_path.clone(),
            tcp_established: flags.tcp_established,
            tcp_close: flags.tcp_close,
            ext_unix_sk: flags.ext_unix_sk,
            shell_job: flags.shell_job,
            file_locks: flags.file_locks,
            lazy_pages: flags.lazy_pages,
            auto_dedup: flags.auto_dedup,
            cgroups_mode: flags.cgroups.map(|mode| match mode {
                CgroupsMode::Soft => CgroupMode::Soft,
                CgroupsMode::Full => CgroupMode::Full,
                CgroupsMode::Strict => CgroupMode::Strict,
                CgroupsMode::Ignore => CgroupMode::Ignore,
            }),
            network_lock: flags.network_lock.map(|lock| match lock {
                NetworkLock::Iptables => hiber::NetworkLock::Iptables,
                NetworkLock::Nftables => hiber::NetworkLock::Nftables,
                NetworkLock::Skip => hiber::NetworkLock::Skip,
            }),
            empty_network: flags.empty_network,
        }
    }
}

fn address(server: PageServer) -> Address {
    Address { host: server.address, port: server.port }
}

/// Opens the caller's descriptor anew, which also shows that it is open and may be written.
fn status_fd(number: i32) -> anyhow::Result<OwnedFd> {
    let path = Path::new("/proc/self/fd").join(number.to_string());
    if number < 0 || std::fs::symlink_metadata(&path).is_err() {
        bail!("invalid --status-fd argument {number}: not an open descriptor");
    }
    let file = std::fs::File::options().write(true).open(&path);
    Ok(file.with_context(|| format!("invalid --status-fd argument {number}: not writable"))?.into())
}
