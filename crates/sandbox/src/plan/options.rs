//! Options from outside of config.json.

use std::path::PathBuf;

/// Choices that come from the command line or the embedder, not from config.json.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The container's id.
    pub id: String,
    /// The bundle's directory, absolute.
    pub bundle: PathBuf,
    /// Switch roots with MS_MOVE and chroot(2): for a root on a ramdisk, where pivot_root(2) cannot work.
    pub no_pivot: bool,
    /// Name of the session keyring; none to keep the caller's.
    pub keyring: Option<String>,
    /// How many descriptors from 3 on the process inherits.
    pub preserve_fds: u32,
    /// The runtime is a plain user's: it has no right that its containers lack.
    pub rootless: bool,
    /// The runtime itself is in a user namespace.
    pub in_user_namespace: bool,
}
