//! Mounts that are made on the host, for a container: their options.

use nix::mount::MsFlags;

use super::mount_options::{Effect, effect};

/// Options of a mount that the host itself makes, as mount(2) takes them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostOptions {
    /// MS_* flags, MS_BIND and MS_REC among them.
    pub flags: u64,
    /// Propagation changes in order, to be made afterwards.
    pub propagation: Vec<u64>,
    /// The options for the filesystem itself.
    pub data: Vec<String>,
}

impl HostOptions {
    /// Sorts the options of one mount. Options that only containers have are ignored.
    pub fn new<'a>(options: impl IntoIterator<Item = &'a str>) -> Self {
        let mut all = Self::default();
        let recursive = |recursive: bool| if recursive { MsFlags::MS_REC } else { MsFlags::empty() };
        for option in options {
            match effect(option) {
                Some(Effect::Set(flag)) => all.flags |= flag.bits(),
                Some(Effect::Clear(flag)) => all.flags &= !flag.bits(),
                Some(Effect::Bind(all_below)) => {
                    all.flags |= (MsFlags::MS_BIND | recursive(all_below)).bits();
                }
                Some(Effect::Propagation(flag, all_below)) => {
                    all.propagation.push((flag | recursive(all_below)).bits());
                }
                Some(_) => {}
                None => all.data.push(option.to_owned()),
            }
        }
        all
    }
}
