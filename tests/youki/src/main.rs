//! `hiber-youki ROOTFS`: makes a container with youki's library, checkpoints and restores it through hiber-criu, and shows
//! that it goes on where it was. Youki itself can neither restore nor undo a checkpoint that fails.
//!
//! ROOTFS is a directory with busybox's applets; it is copied. Needs root, and CRIU in `$HIBER_CRIU` or PATH.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hiber_criu::{CgroupMode, Criu, DumpNotify, DumpOptions, RestoreNotify, RestoreOptions};
use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::signal::Signal;
use libcontainer::syscall::syscall::SyscallType;
use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountPropagationFlags, mount_bind_recursive, mount_change};
use rustix::process::{Pid, WaitOptions, waitpid};

/// Counts in its memory, and shows the count in a tmpfs, which is part of its images.
const COUNT: &str =
    "i=0; while :; do i=$((i+1)); echo $i >/tmp/.count; mv /tmp/.count /tmp/count; sleep 0.05; done";

fn main() -> Result<()> {
    let rootfs = std::env::args_os().nth(1).context("usage: hiber-youki ROOTFS")?;
    let scratch = Scratch::new()?;
    let result = round_trip(&scratch.0, Path::new(&rootfs));
    // youki's container must not outlive its bundle.
    let state = scratch.0.join("state/counter");
    if state.exists() {
        Container::load(state)?.delete(true).context("delete the container")?;
    }
    result
}

fn round_trip(scratch: &Path, rootfs: &Path) -> Result<()> {
    let mut container = made_by_youki(scratch, rootfs)?;
    container.start().context("start the container")?;
    let pid = container.pid().context("the container has no process")?.as_raw();
    wait_for("a count of 3", || count(pid) >= 3)?;

    let criu = Criu::find(None)?;
    let images = scratch.join("images");
    fs::DirBuilder::new().mode(0o700).create(&images)?;
    let before = count(pid);
    checkpoint(&criu, pid, &scratch.join("rootfs"), &images)?;
    // The first process was killed, and is ours to reap.
    waitpid(Pid::from_raw(pid), WaitOptions::empty()).context("reap the checkpointed process")?;
    println!("checkpointed at {before}");

    let pid = restore(&criu, scratch, &images)?;
    // From here on youki has it again.
    container.set_pid(pid).refresh_status()?;
    container.save()?;
    let after = count(pid);
    ensure!(after >= before, "the count fell from {before} to {after}");
    wait_for("the count to go on", || count(pid) > after)?;
    println!("restored at {after}, and counting");

    let mut again = Container::load(scratch.join("state/counter"))?;
    again.kill(Signal::try_from("SIGKILL")?, false).context("youki kills the restored container")?;
    waitpid(Pid::from_raw(pid), WaitOptions::empty())?;
    again.delete(false).context("youki deletes the restored container")?;
    println!("killed and deleted by youki");
    Ok(())
}

/// A bundle and a container of it, made by youki's library.
fn made_by_youki(scratch: &Path, rootfs: &Path) -> Result<Container> {
    let copied = Command::new("cp").arg("-a").arg(rootfs).arg(scratch.join("rootfs")).status()?;
    ensure!(copied.success(), "cp: {copied}");
    let json = serde_json::json!({
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs", "readonly": false},
        "process": {
            "terminal": false, "user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["sh", "-c", COUNT],
            "env": ["PATH=/bin:/usr/bin"], "noNewPrivileges": true
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}
        ],
        "linux": {
            "cgroupsPath": format!("/hiber-youki-{}", std::process::id()),
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}]
        }
    });
    fs::write(scratch.join("config.json"), serde_json::to_vec(&json)?)?;
    let null = || -> Result<OwnedFd> {
        Ok(File::options().read(true).write(true).open("/dev/null").context("/dev/null")?.into())
    };
    let builder = ContainerBuilder::new("counter".to_owned(), SyscallType::default())
        .with_root_path(scratch.join("state"))?
        .with_stdin(null()?)
        .with_stdout(null()?)
        .with_stderr(null()?);
    builder
        .as_init(scratch)
        .with_systemd(false)
        .with_detach(true)
        .build()
        .context("youki makes the container")
}

/// Writes the container's images. The container is gone afterwards; if this fails, it runs on.
fn checkpoint(criu: &Criu, pid: i32, rootfs: &Path, images: &Path) -> Result<()> {
    let mut options = DumpOptions::new(pid, File::open(images)?.into());
    options.common.root = Some(rootfs.to_owned());
    options.common.cgroups = Some(CgroupMode::Ignore);
    criu.start()?.dump(&options, |step| {
        if let DumpNotify::PostDump = step {
            // All images are written and the tasks still frozen: whoever wants to publish them, or to change their
            // mind, does it here.
            rustix::fs::syncfs(&File::open(images)?)?;
        }
        Ok(())
    })?;
    Ok(())
}

/// Makes the container's processes again; the first is a child of this process.
fn restore(criu: &Criu, scratch: &Path, images: &Path) -> Result<i32> {
    let root = scratch.join("root");
    fs::create_dir(&root)?;
    // CRIU wants a mount point for the root. In a namespace of this thread's own nothing of it stays.
    let restored = std::thread::scope(|scope| {
        let thread = scope.spawn(|| -> Result<i32> {
            unshare(CloneFlags::CLONE_NEWNS)?;
            mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
            mount_bind_recursive(scratch.join("rootfs"), &root)?;
            let mut options = RestoreOptions::new(File::open(images)?.into());
            options.common.root = Some(root.clone());
            options.common.cgroups = Some(CgroupMode::Ignore);
            options.common.evasive_devices = true;
            let mut last = 0;
            let pid = criu.start()?.restore(&options, |step| {
                if let RestoreNotify::PostRestore { pid } = step {
                    last = pid;
                }
                Ok(())
            })?;
            ensure!(pid == last, "CRIU tells of process {last}, then of {pid}");
            Ok(pid)
        });
        thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the restoring thread panicked")))
    });
    fs::remove_dir(&root)?;
    restored
}

/// The count that a running container shows.
fn count(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/root/tmp/count")).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

fn wait_for(what: &str, condition: impl Fn() -> bool) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(20);
    while !condition() {
        ensure!(Instant::now() < end, "waited 20 s in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// A directory of this run's own, which goes with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("hiber-youki-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_dir_all(&self.0) {
            eprintln!("{}: {e}", self.0.display());
        }
    }
}
