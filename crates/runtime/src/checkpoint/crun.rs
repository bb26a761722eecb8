//! Directories that crun masks: binds of an empty directory of its own, of which neither its dumps nor its restores give CRIU
//! the other side.

use std::path::Path;

use criu_proto::images::mnt::MntEntry;
use hiber_criu::images::Magic;
use hiber_criu::{External, Images};
use rustix::mount::MountFlags;

use super::utf8;
use crate::error::{Error, Result};

/// The directory's name, below crun's directory for state.
const NAME: &str = ".empty-directory";

/// Whether a mount's key is that directory.
pub(crate) fn is_empty_directory(key: &str) -> bool {
    Path::new(key).file_name().is_some_and(|name| name == NAME)
}

/// The key of masked directories, if the checkpoint has any that crun has masked.
pub(crate) fn empty_directory(images: &Images) -> Result<Option<String>> {
    for name in images.names()? {
        if !(name.starts_with("mountpoints-") && name.ends_with(".img")) {
            continue;
        }
        for mount in images.entries::<MntEntry>(&name, Magic::MNTS)? {
            let key = mount?.ext_key.filter(|key| is_empty_directory(key));
            if key.is_some() {
                return Ok(key);
            }
        }
    }
    Ok(None)
}

/// Mounts an empty file system at `at`, to be bound where `key` is: in the container it is then as a directory that hiber
/// masks. To be called in a mount namespace that nobody else uses.
pub(crate) fn supply(key: &str, at: &Path) -> Result<External> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY;
    rustix::mount::mount("tmpfs", at, "tmpfs", flags, c"size=0k")
        .map_err(|e| Error::sys("mount", "an empty tmpfs for masked directories", e))?;
    Ok(External::mount_source(key, utf8(at)?))
}
