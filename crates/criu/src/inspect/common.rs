//! Things outside of a checkpoint that all containers which are made from it would use at the same time.

use std::collections::BTreeSet;

use criu_proto::Empty;
use criu_proto::images::files::{FileEntry, RegFileEntry};
use criu_proto::images::mnt::MntEntry;

use super::files::{Socket, arrow, inet};
use crate::error::Result;
use crate::images::{Images, Magic};

/// Character devices of which everybody may have one (null(4), random(4), tty(4), pts(4)), by their paths.
const HARMLESS: [&str; 8] = ["null", "zero", "full", "random", "urandom", "tty", "ptmx", "console"];
/// S_IFMT, S_IFCHR and S_IFBLK (inode(7)).
const FORMAT: u32 = 0o170_000;
const CHARACTER: u32 = 0o020_000;
const BLOCK: u32 = 0o060_000;
/// O_ACCMODE (open(2)); O_RDONLY is 0.
const ACCESS: u32 = 3;

/// Things that several containers of one checkpoint would share beyond what their configuration says. Each is a text for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Common {
    /// TCP connections, whose other ends know one container.
    pub connections: Vec<String>,
    /// Open devices of the host.
    pub devices: Vec<String>,
    /// Files of the host that are open for writing.
    pub files: Vec<String>,
    /// Whether files of the host are open, and some files are locked.
    pub locks: bool,
}

impl Images {
    /// The things that several containers of this checkpoint would share.
    ///
    /// # Errors
    /// As [`Images::entries`].
    pub fn common(&self) -> Result<Common> {
        let outside = self.outside()?;
        let (mut common, mut foreign) = (Common::default(), false);
        for entry in self.entries_if_any::<FileEntry>("files.img", Magic::FILES)?.into_iter().flatten() {
            let entry = entry?;
            if let Some(socket) = entry.isk.as_ref().map(inet).filter(is_connection) {
                common.connections.push(arrow(&socket));
            }
            let Some(file) = entry.reg.as_ref() else { continue };
            let path = || file.name.clone().unwrap_or_default();
            if is_device(file) {
                common.devices.extend((!is_harmless(file)).then(path));
            } else if file
                .mnt_id
                .and_then(|id| u32::try_from(id).ok())
                .is_some_and(|id| outside.contains(&id))
            {
                foreign = true;
                if file.flags.unwrap_or_default() & ACCESS != 0 {
                    common.files.push(path());
                }
            }
        }
        let locks = self.entries_if_any::<Empty>("filelocks.img", Magic::FILE_LOCKS)?;
        common.locks = foreign && locks.is_some_and(|mut all| all.next().is_some());
        for list in [&mut common.connections, &mut common.devices, &mut common.files] {
            list.sort();
            list.dedup();
        }
        Ok(common)
    }

    /// Mounts of the host's files below the root, by their numbers.
    fn outside(&self) -> Result<BTreeSet<u32>> {
        let mut outside = BTreeSet::new();
        for name in self.names()?.iter().filter(|name| name.starts_with("mountpoints-")) {
            for entry in self.entries::<MntEntry>(name, Magic::MNTS)? {
                let entry = entry?;
                let below =
                    entry.mountpoint.as_deref().is_some_and(|at| !at.trim_matches(['.', '/']).is_empty());
                if let (Some(id), true) = (entry.mnt_id, below && entry.ext_key.is_some()) {
                    outside.insert(id);
                }
            }
        }
        Ok(outside)
    }
}

fn is_connection(socket: &Socket) -> bool {
    socket.kind == "tcp" && !["listening", "closed"].contains(&socket.state)
}

fn is_device(file: &RegFileEntry) -> bool {
    matches!(file.mode.unwrap_or_default() & FORMAT, CHARACTER | BLOCK)
}

fn is_harmless(file: &RegFileEntry) -> bool {
    let name = file.name.as_deref().unwrap_or_default().trim_start_matches('/');
    name.strip_prefix("dev/").is_some_and(|name| HARMLESS.contains(&name) || name.starts_with("pts/"))
}
