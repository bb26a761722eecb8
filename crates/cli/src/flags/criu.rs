//! Flags that tell CRIU, and hiber's way of using it, what to do.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use hiber::{CgroupMode, CriuOptions, NetworkLock, PreCopy, PreCopyMode};

use crate::line::flag::{Flag, Value, flags};
use crate::line::global::Global;
use crate::line::refusal::Refusal;
use crate::line::value::Format;

/// A namespace whose contents are left out: the network's, which is the only one that CRIU can leave out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Network;

impl Value for Network {
    const WORDS: &'static [&'static str] = &["network"];
    fn read(flag: &str, text: &OsStr) -> Result<Self, Refusal> {
        let wrong =
            || Refusal::value(format!("namespace {text:?} is not supported by --{flag}: expected network"));
        (text == "network").then_some(Self).ok_or_else(wrong)
    }
}

flags! {
    /// Properties that a container may have and a checkpoint keeps, leaves out or refuses. Of `checkpoint`, `checkpoints create` and
    /// `restore`.
    pub(crate) struct Contents {
        work_path: Option<PathBuf> =
            Flag::value("work-path", "DIR", "directory of CRIU's logs and statistics"),
        tcp_established: Option<bool> =
            Flag::choice("tcp-established", "allow established TCP connections and keep them"),
        ext_unix_sk: Option<bool> = Flag::choice("ext-unix-sk", "allow unix sockets whose peer is outside"),
        shell_job: Option<bool> =
            Flag::choice("shell-job", "allow a session or terminal that comes from outside"),
        file_locks: Option<bool> = Flag::choice("file-locks", "allow file locks and keep them"),
        empty_ns: Vec<Network> = Flag::list(
            "empty-ns",
            "NAMESPACE",
            "keep the namespace, not its contents; only network is supported",
        ),
    }
}

flags! {
    /// The options for CRIU that `checkpoint` and `restore` share.
    pub(crate) struct CriuFlags {
        image_path: Option<PathBuf> = IMAGE_PATH,
        contents: Contents = Flag::group(),
        tcp_close: Option<bool> = TCP_CLOSE,
        lazy_pages: bool =
            Flag::switch("lazy-pages", "bring memory in when it is used (userfaultfd)"),
        auto_dedup: bool =
            Flag::switch("auto-dedup", "free a parent image's memory pages once they are superseded"),
        manage_cgroups_mode: Option<CgroupMode> = MANAGE_CGROUPS_MODE,
        network_lock: Option<NetworkLock> = NETWORK_LOCK,
    }
}

impl Contents {
    /// The library's options; all others are as if not given.
    pub(crate) fn options(&self, global: &Global) -> CriuOptions {
        CriuOptions::default()
            .criu_program(global.criu.clone())
            .image_path(image_path(None))
            .work_path(self.work_path.clone())
            .tcp_established(self.tcp_established)
            .ext_unix_sk(self.ext_unix_sk)
            .shell_job(self.shell_job)
            .file_locks(self.file_locks)
            .empty_network((!self.empty_ns.is_empty()).then_some(true))
    }
}

impl CriuFlags {
    /// The library's options.
    pub(crate) fn options(&self, global: &Global) -> CriuOptions {
        self.contents
            .options(global)
            .image_path(image_path(self.image_path.as_ref()))
            .tcp_close(self.tcp_close)
            .lazy_pages(self.lazy_pages)
            .auto_dedup(self.auto_dedup)
            .cgroups_mode(self.manage_cgroups_mode)
            .network_lock(self.network_lock)
    }
}

/// The directory that `--image-path` names, or the default.
pub(crate) fn image_path(given: Option<&PathBuf>) -> PathBuf {
    given.cloned().unwrap_or_else(|| "checkpoint".into())
}

flags! {
    /// How memory is copied while the container runs.
    pub(crate) struct PreCopyFlags {
        mode: Option<PreCopyMode> = PRE_COPY,
        max_frozen: Option<Duration> = Flag::value(
            "max-frozen",
            "TIME",
            "with --pre-copy: freeze the container as soon as the rest can be copied in TIME (default: 50ms)",
        ),
        max_rounds: Option<Rounds> = MAX_ROUNDS,
    }
}

/// A number of rounds, one or more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rounds(u32);

impl Value for Rounds {
    fn read(flag: &str, text: &OsStr) -> Result<Self, Refusal> {
        match u32::read(flag, text)? {
            0 => Err(Refusal::value(format!("--{flag} 0: expected 1 or more"))),
            rounds => Ok(Self(rounds)),
        }
    }
}

impl PreCopyFlags {
    /// The library's options.
    pub(crate) fn options(&self) -> PreCopy {
        let standard = PreCopy::default();
        standard
            .mode(self.mode.unwrap_or(standard.mode))
            .max_frozen(self.max_frozen.unwrap_or(standard.max_frozen))
            .max_rounds(self.max_rounds.map_or(standard.max_rounds, |Rounds(rounds)| rounds))
    }
}

/// Names, separated by commas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Names(Vec<String>);

impl Value for Names {
    fn read(_: &str, text: &OsStr) -> Result<Self, Refusal> {
        Ok(Self(text.to_string_lossy().split(',').map(str::to_owned).collect()))
    }
}

/// The names of all the times that a flag was given.
pub(crate) fn names(all: &[Names]) -> Vec<String> {
    all.iter().flat_map(|names| names.0.iter().cloned()).collect()
}

pub(crate) const IMAGE_PATH: Flag<Option<PathBuf>> =
    Flag::value("image-path", "DIR", "directory of CRIU's images (default: ./checkpoint)");
pub(crate) const MANAGE_CGROUPS_MODE: Flag<Option<CgroupMode>> = Flag::value(
    "manage-cgroups-mode",
    "MODE",
    "what CRIU does to cgroups: soft, full, strict or ignore (default: soft)",
);
pub(crate) const TCP_CLOSE: Flag<Option<bool>> =
    Flag::choice("tcp-close", "allow established TCP connections and close them");
pub(crate) const PRE_COPY: Flag<Option<PreCopyMode>> = Flag::value(
    "pre-copy",
    "WHEN",
    "copy memory while the container runs, so that it is frozen for less long: where there is much of it (auto, \
     the default), always (on, an error where that is not possible), or never (off)",
);
pub(crate) const MAX_ROUNDS: Flag<Option<Rounds>> = Flag::value(
    "max-rounds",
    "N",
    "with --pre-copy: freeze the container after N rounds at the latest (default: 8)",
);
pub(crate) const NETWORK_LOCK: Flag<Option<NetworkLock>> = Flag::value(
    "network-lock",
    "METHOD",
    "how packets are held back meanwhile: iptables, nftables or skip (default: CRIU's)",
);
pub(crate) const TCP_SKIP_IN_FLIGHT: Flag<bool> =
    Flag::switch("tcp-skip-in-flight", "leave TCP connections out that are still being made");
pub(crate) const LINK_REMAP: Flag<bool> =
    Flag::switch("link-remap", "give a deleted file that is still open a temporary name");
pub(crate) const ACCEPT: Flag<Vec<Names>> = Flag::list(
    "accept",
    "LIST",
    "do without what a restore would not bring back: names of checks that are a loss, separated by commas",
);
pub(crate) const CHECKPOINT_DIR: Flag<Option<PathBuf>> = Flag::value(
    "checkpoint-dir",
    "DIR",
    "directory of named checkpoints (default: checkpoints below the bundle)",
);

flags! {
    /// `--check`, and the form of its report.
    pub(crate) struct CheckFlags {
        check: bool = Flag::switch(
            "check",
            "only list what would make it fail or cost much; the exit status is 0 if nothing is in the way, else 1",
        ),
        format: Option<Format> =
            Flag::value("format", "FORMAT", "with --check: table or json (default: table)").short("f"),
    }
}

impl CheckFlags {
    /// The form of the report that is asked for, if one is.
    pub(crate) fn asked(&self) -> Option<Format> {
        self.check.then(|| self.format.unwrap_or_default())
    }

    /// # Errors
    /// A form without a report.
    pub(crate) fn judge(&self) -> Result<(), Refusal> {
        match (self.check, self.format) {
            (false, Some(_)) => Err(Refusal::value("--format needs --check: it is the form of its report")),
            _ => Ok(()),
        }
    }
}
