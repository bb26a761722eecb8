//! The options of a checkpoint and of a restore. `hiber.json` records the first two, in the terms of their fields.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use derive_setters::Setters;
use hiber_criu::{CgroupMode, NetworkLock};
use serde::{Deserialize, Serialize, Serializer};

use super::unique::AsClone;
use super::words::Word;
use crate::container::stdio::Stdio;
use crate::helpers::lazy::Address;
use crate::helpers::lazy::stored::StoredMemory;
use crate::signature::{SigningKey, VerifyingKey};

/// The options of both a dump and a restore. Where a choice is `None`, a restore does as its dump did.
///
/// `hiber.json` records the choices of a dump under these names in camelCase, and a choice that is `None` as what a dump does then.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, Setters)]
#[serde(rename_all = "camelCase", default)]
#[expect(clippy::duplicated_attributes, reason = "both types have a field of that name")]
#[setters(
    into,
    generate_delegates(ty = "CheckpointOptions", field = "criu"),
    generate_delegates(ty = "RestoreContainerOptions<'_>", field = "criu")
)]
#[non_exhaustive]
pub struct CriuOptions {
    /// The criu program; `None` looks it up ($HIBER_CRIU, PATH).
    #[serde(skip)]
    #[setters(rename = "criu_program")]
    pub criu: Option<PathBuf>,
    /// Where the images are.
    #[serde(skip)]
    pub image_path: PathBuf,
    /// Where CRIU keeps its log and other files that are no images; the image directory if absent.
    #[serde(skip)]
    pub work_path: Option<PathBuf>,
    /// Save and restore established TCP connections.
    #[serde(with = "switch")]
    pub tcp_established: Option<bool>,
    /// Restore established TCP connections as closed ones.
    #[serde(with = "switch")]
    pub tcp_close: Option<bool>,
    /// Allow unix connections to processes outside of the container.
    #[serde(with = "switch")]
    pub ext_unix_sk: Option<bool>,
    /// Allow a session and a terminal from outside of the container.
    #[serde(with = "switch")]
    pub shell_job: Option<bool>,
    /// Save and restore file locks (flock(2), fcntl(2)).
    #[serde(with = "switch")]
    pub file_locks: Option<bool>,
    /// Leave memory behind at the dump, to be fetched by pages after the restore.
    pub lazy_pages: bool,
    /// Free pages in the images of a parent, or of a restore, as soon as they are not needed any more.
    pub auto_dedup: bool,
    /// How cgroups are treated; soft if absent.
    #[serde(serialize_with = "chosen_mode")]
    pub cgroups_mode: Option<CgroupMode>,
    /// How the network is locked during the dump; CRIU's choice if absent.
    pub network_lock: Option<NetworkLock>,
    /// Leave the network namespace's contents out.
    #[serde(with = "switch")]
    pub empty_network: Option<bool>,
}

/// The choices of a dump that `hiber.json` records, beside those that a restore shares.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, Setters)]
#[serde(rename_all = "camelCase", default)]
#[setters(into, generate_delegates(ty = "CheckpointOptions", field = "dump"))]
#[non_exhaustive]
pub struct DumpChoices {
    /// Drop TCP connections that are not yet accepted.
    pub tcp_skip_in_flight: bool,
    /// Save open files whose names are gone, by links beside them.
    pub link_remap: bool,
    /// Let the container run on.
    pub leave_running: bool,
    /// An earlier (pre-)dump to build on, relative to the image directory.
    pub parent_path: Option<PathBuf>,
    /// Send pages there instead of to disk; with lazy pages, serve them there.
    pub page_server: Option<Address>,
}

/// The options of a checkpoint. Each choice has a setter, those of [`criu`](Self::criu) and [`dump`](Self::dump), too:
///
/// ```
/// let options = hiber::CheckpointOptions::default().image_path("/var/lib/checkpoints/web").leave_running(true);
/// ```
#[derive(Debug, Default, Setters)]
#[setters(into)]
#[non_exhaustive]
pub struct CheckpointOptions {
    /// The options that a restore shares.
    pub criu: CriuOptions,
    /// The options that are recorded, too, and that a restore does not share.
    pub dump: DumpChoices,
    /// Only copy memory, for a later dump to build on.
    pub pre_dump: bool,
    /// CRIU writes a NUL byte here when lazy pages can be fetched.
    pub status_fd: Option<OwnedFd>,
    /// Serve whoever asks for lazy pages: daemons of CRIU's own know no token.
    pub any_peer: bool,
    /// Copy memory while the container runs, so that it is frozen for less long.
    pub pre_copy: PreCopy,
    /// Restore it on trial before the container is given up, and give up the checkpoint instead if that fails.
    pub prove: bool,
    /// Leave the hashes out of the manifest: a checkpoint that cannot be verified, frozen for less long.
    pub no_hash: bool,
    /// Sign the manifest with this key, and so the checkpoint.
    pub sign_key: Option<Arc<SigningKey>>,
    /// Do not wait until the checkpoint is on the disk: it may be lost when the machine loses power.
    pub no_sync: bool,
    /// Names of checks of [preflight](crate::checkpoint::preflight) that are losses: what is lost by them is accepted.
    pub accept: Vec<String>,
}

/// Whether memory is copied while the container still runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum PreCopyMode {
    /// Where there is much of it, and its processes can be tracked.
    #[default]
    Auto,
    /// Always; what cannot be tracked is an error.
    On,
    /// Never.
    Off,
}

impl Word for PreCopyMode {
    const CHOICE: &'static str = "pre-copy";
    const WORDS: &'static [&'static str] = &["auto", "on", "off"];
    const MEANINGS: &'static [Self] = &[Self::Auto, Self::On, Self::Off];
}

/// How memory is copied while the container still runs: all of it, then in rounds what was written meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Setters)]
#[setters(into)]
#[non_exhaustive]
pub struct PreCopy {
    /// Whether it is.
    pub mode: PreCopyMode,
    /// The container is frozen as soon as the rest can be copied in this time.
    pub max_frozen: Duration,
    /// It is frozen after so many rounds at the latest; 1 or more.
    #[setters(into = false)]
    pub max_rounds: u32,
    /// If copying the rest would take longer than this, there is no checkpoint, and the container is not stopped at all.
    pub at_most: Option<Duration>,
    /// Whether what is left then may stay in the container's processes, for a checkpoint that is given away.
    #[setters(skip)]
    pub(crate) leaves: Leaves,
}

/// When memory stays in the processes of a container that stands still, and follows its checkpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Leaves {
    #[default]
    Never,
    /// Where copying it would take longer than it may.
    OnMiss,
    /// In any case, and nothing is copied before.
    Always,
}

impl Default for PreCopy {
    fn default() -> Self {
        Self {
            mode: PreCopyMode::Auto,
            max_frozen: Duration::from_millis(50),
            max_rounds: 8,
            at_most: None,
            leaves: Leaves::Never,
        }
    }
}

/// The options of a restore. Each choice has a setter, those of [`criu`](Self::criu), too.
#[derive(Debug, Default, Setters)]
#[setters(into)]
#[non_exhaustive]
pub struct RestoreContainerOptions<'a> {
    /// The options that the dump shares.
    pub criu: CriuOptions,
    /// The bundle's directory.
    pub bundle: PathBuf,
    /// Have systemd make the cgroup: `linux.cgroupsPath` is `SLICE:PREFIX:NAME`.
    pub systemd_cgroup: bool,
    /// Go on where permission for cgroups is missing and nothing asks for one; None: where the caller is not the
    /// machine's root.
    pub rootless: Option<bool>,
    /// A terminal, or standard input, output and error where those of the dump were pipes.
    pub stdio: Stdio<'a>,
    /// `TYPE:NAME`.
    pub lsm_profile: Option<String>,
    /// The SELinux context of restored mounts (CRIU's `--lsm-mount-context`).
    pub lsm_mount_context: Option<String>,
    /// Restore what others could have changed, and processes with more privilege than config.json grants.
    pub trust_images: bool,
    /// Which limits the container gets, where others were in force at the dump than it was created with.
    pub resources: Option<Resources>,
    /// Where memory is fetched from that the dump has left behind; with lazy pages alone the caller runs a daemon of CRIU's.
    pub page_server: Option<Address>,
    /// Let the container run as soon as its processes exist: what of its memory can follow is brought from the images when it
    /// is touched, and all the rest meanwhile. [`Task::wait_for_memory`](crate::Task::wait_for_memory) waits.
    pub background: bool,
    /// The container may not be the only one of its checkpoint: before its first instruction it learns so by the files in
    /// `/run/hiber`, memory that a child would not have is wiped, and the hook and signal of its configuration follow.
    pub unique: bool,
    /// Keys, of which one must have signed the checkpoint; with none, nobody needs to, but for the host's policy.
    pub verify_keys: Vec<VerifyingKey>,
    /// The archive that the images came out of, which are gone soon.
    #[setters(skip)]
    pub(crate) archive: Option<PathBuf>,
    /// Whether the images were compared with their manifest when they came out of it.
    #[setters(skip)]
    pub(crate) compared: bool,
    /// The store that has the content of the files of pages, which are only holes among the images.
    #[setters(skip)]
    pub(crate) stored: Option<Arc<StoredMemory>>,
    /// Whether the images were in no hands but ours: those of a migration, and of a dump that is tried. Nobody signs them.
    #[setters(skip)]
    pub(crate) own: bool,
    /// Memory that is to follow comes only when it is touched, until somebody asks for it.
    #[setters(skip)]
    pub(crate) on_demand: bool,
    /// The container is a clone.
    #[setters(skip)]
    pub(crate) clone: Option<Arc<AsClone>>,
}

impl RestoreContainerOptions<'_> {
    /// A container of the bundle in this directory; all else as usual.
    pub fn new(bundle: impl Into<PathBuf>) -> Self {
        Self { bundle: bundle.into(), ..Self::default() }
    }
}

/// Which limits a restored container has. Where nothing is chosen they are those that were in force, and more than config.json
/// grants is refused: whoever could write the images could ask for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resources {
    /// Those that were in force at the dump, as `update` had changed them, but for what config.json has otherwise now.
    Checkpoint,
    /// Those of config.json.
    Config,
}

impl Word for Resources {
    const CHOICE: &'static str = "resources";
    const WORDS: &'static [&'static str] = &["checkpoint", "config"];
    const MEANINGS: &'static [Self] = &[Self::Checkpoint, Self::Config];
}

/// A choice in JSON: true or false.
mod switch {
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::ref_option, reason = "serde's interface")]
    pub(super) fn serialize<S: Serializer>(choice: &Option<bool>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bool(choice.unwrap_or(false))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<bool>, D::Error> {
        bool::deserialize(from).map(Some)
    }
}

#[expect(clippy::ref_option, reason = "serde's interface")]
fn chosen_mode<S: Serializer>(mode: &Option<CgroupMode>, to: S) -> Result<S::Ok, S::Error> {
    mode.unwrap_or_default().serialize(to)
}
