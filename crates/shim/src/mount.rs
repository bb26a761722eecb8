//! The root filesystem's mounts, which containerd leaves to the shim.

use std::path::{Component, Path, PathBuf};

use containerd_shim_protos::api;
use hiber_sandbox::plan::HostOptions;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;

use crate::error::{Context, Error, Result};
use crate::mapped::Maps;

/// The longest data of mount(2), with its terminating NUL; longer texts are cut off silently (one page).
const MAX_DATA: usize = 4096;

/// Mounts a task's root filesystem at the directory `rootfs`. If one mount fails none is left.
pub(crate) fn mount_all(mounts: &[api::Mount], rootfs: &Path) -> Result<()> {
    for (index, mount) in mounts.iter().enumerate() {
        let mounted =
            target(index, mount, rootfs).and_then(|target| mount_one(index, mount, rootfs, &target));
        if let Err(e) = mounted {
            if let Err(e) = unmount_all(rootfs) {
                tracing::warn!("after a failed mount: {}", crate::error::chain(&e));
            }
            return Err(e);
        }
    }
    Ok(())
}

/// Unmounts everything that is mounted at `rootfs`, which need not be there.
pub(crate) fn unmount_all(rootfs: &Path) -> Result<()> {
    loop {
        let unmount = |flags: MntFlags| nix::mount::umount2(rootfs, flags | MntFlags::UMOUNT_NOFOLLOW);
        let result = match unmount(MntFlags::empty()) {
            // With what is mounted below it, or is still used for a moment.
            Err(Errno::EBUSY) => unmount(MntFlags::MNT_DETACH),
            other => other,
        };
        match result {
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(e) => return Err(std::io::Error::from(e)).context(format!("unmount {}", rootfs.display())),
        }
    }
}

fn target(index: usize, mount: &api::Mount, rootfs: &Path) -> Result<PathBuf> {
    let below = Path::new(&mount.target);
    let below = below.strip_prefix("/").unwrap_or(below);
    if !below.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        let problem = format!("{:?} leads out of the root filesystem", mount.target);
        return Err(Error::invalid(format!("rootfs[{index}].target"), problem));
    }
    Ok(rootfs.join(below))
}

fn mount_one(index: usize, mount: &api::Mount, rootfs: &Path, target: &Path) -> Result<()> {
    let (maps, options) = Maps::take(index, &mount.options)?;
    let options = HostOptions::new(options);
    let mut flags = MsFlags::from_bits_retain(options.flags);
    if mount.type_ == "bind" {
        flags |= MsFlags::MS_BIND;
    }
    let what =
        || format!("rootfs[{index}]: mount {} from {:?} at {}", mount.type_, mount.source, target.display());
    let done = |result: nix::Result<()>| result.map_err(std::io::Error::from).context(what());
    let data = options.data.join(",");
    if flags.contains(MsFlags::MS_BIND) {
        let bind = flags & (MsFlags::MS_BIND | MsFlags::MS_REC);
        match &maps {
            Some(maps) => maps.bind(Path::new(&mount.source), target, flags.contains(MsFlags::MS_REC))?,
            None => {
                let source = Some(mount.source.as_str());
                done(nix::mount::mount(source, target, None::<&str>, bind, None::<&str>))?;
            }
        }
        // The kernel takes no other flags together with a bind (mount(2)).
        if flags != bind {
            let again = (flags | MsFlags::MS_REMOUNT) & !MsFlags::MS_REC;
            done(nix::mount::mount(None::<&str>, target, None::<&str>, again, None::<&str>))?;
        }
    } else if let Some(maps) = &maps {
        if mount.type_ != "overlay" {
            let problem =
                format!("has maps of ids for a mount of type {}: expected bind or overlay", mount.type_);
            return Err(Error::invalid(format!("rootfs[{index}].options"), problem));
        }
        maps.overlay(&options.data, flags, rootfs, target)?;
    } else if mount.type_ == "overlay" && data.len() >= MAX_DATA {
        mount_long_overlay(index, &options.data, flags, target)?;
    } else {
        let data = Some(data.as_str()).filter(|data| !data.is_empty());
        done(nix::mount::mount(
            Some(mount.source.as_str()),
            target,
            Some(mount.type_.as_str()),
            flags,
            data,
        ))?;
    }
    for change in options.propagation {
        let change = MsFlags::from_bits_retain(change);
        done(nix::mount::mount(None::<&str>, target, None::<&str>, change, None::<&str>))?;
    }
    Ok(())
}

/// An overlay of so many layers that their paths are too long: mounted with paths relative to the directory that
/// they have in common, on a thread that alone has it as its working directory.
fn mount_long_overlay(index: usize, options: &[String], flags: MsFlags, target: &Path) -> Result<()> {
    let (directory, data) = shorten(options).filter(|(_, data)| data.len() < MAX_DATA).ok_or_else(|| {
        let problem =
            format!("are longer than {MAX_DATA} bytes, also relative to the layers' common directory");
        Error::invalid(format!("rootfs[{index}].options"), problem)
    })?;
    let mount = || -> nix::Result<()> {
        nix::sched::unshare(CloneFlags::CLONE_FS)?;
        #[expect(
            clippy::disallowed_methods,
            reason = "this thread shares its working directory with no other"
        )]
        nix::unistd::chdir(&directory)?;
        nix::mount::mount(Some("overlay"), target, Some("overlay"), flags, Some(data.as_str()))
    };
    let mounted = std::thread::scope(|scope| scope.spawn(mount).join());
    mounted.unwrap_or(Err(Errno::ECANCELED)).map_err(std::io::Error::from).context(format!(
        "rootfs[{index}]: mount overlay at {} from {}",
        target.display(),
        directory.display()
    ))
}

/// The common directory of `lowerdir=`, and the options with layers relative to it.
fn shorten(options: &[String]) -> Option<(PathBuf, String)> {
    let layers = options.iter().find_map(|option| option.strip_prefix("lowerdir="))?;
    let layers: Vec<&Path> = layers.split(':').map(Path::new).collect();
    let mut common = layers.first()?.parent()?;
    while !layers.iter().all(|layer| layer.starts_with(common)) {
        common = common.parent()?;
    }
    let relative: Option<Vec<&str>> =
        layers.iter().map(|layer| layer.strip_prefix(common).ok()?.to_str()).collect();
    let lower = format!("lowerdir={}", relative?.join(":"));
    let others = options.iter().filter(|option| !option.starts_with("lowerdir=")).map(String::as_str);
    Some((common.into(), others.chain([lower.as_str()]).collect::<Vec<_>>().join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_relative_to_what_they_share() {
        let options =
            ["index=off", "lowerdir=/v/snapshots/9/fs:/v/snapshots/10/fs:/v/snapshots/1/fs", "upperdir=/u"];
        let (directory, data) = shorten(&options.map(String::from)).unwrap();
        assert_eq!(directory, Path::new("/v/snapshots"));
        assert_eq!(data, "index=off,upperdir=/u,lowerdir=9/fs:10/fs:1/fs");
        assert_eq!(shorten(&["upperdir=/u".into()]), None);
    }

    #[test]
    fn targets_stay_inside() {
        let mount = |target: &str| api::Mount { target: target.into(), ..api::Mount::default() };
        let rootfs = Path::new("/b/rootfs");
        assert_eq!(target(0, &mount(""), rootfs).unwrap(), rootfs.join(""));
        assert_eq!(target(0, &mount("/a/b"), rootfs).unwrap(), Path::new("/b/rootfs/a/b"));
        let error = target(1, &mount("a/../.."), rootfs).unwrap_err().to_string();
        assert_eq!(error, "rootfs[1].target: \"a/../..\" leads out of the root filesystem");
    }
}
