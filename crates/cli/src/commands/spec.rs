//! `spec`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use hiber::spec;

use crate::flags::process::BUNDLE;
use crate::line::command::{Cli, Command, Run};
use crate::line::flag::{Flag, Flags, flags};

flags! {
    struct SpecFlags {
        bundle: Option<PathBuf> = BUNDLE,
        rootless: bool = Flag::switch("rootless", "for the calling user, in a user namespace without network"),
    }
}

pub(crate) const COMMAND: Command =
    Command::new("spec", "", "write a config.json to start from", |m| Ok(Box::new(SpecFlags::read(m)?)))
        .description(
            "The configuration runs `sh` at a terminal, on a read-only root filesystem in the directory rootfs. To run\n\
             something else, change process.args; to run it detached, set process.terminal to false. An existing\n\
             config.json is not overwritten.\n\n\
             A plain user needs --rootless: a user namespace in which root is the calling user. Root of a user\n\
             namespace does not need it.",
        )
        .examples(&[("spec --bundle /srv/web", "write /srv/web/config.json")])
        .flags(SpecFlags::TABLE);

/// linux/magic.h
const CGROUP2_SUPER_MAGIC: rustix::fs::FsWord = 0x6367_7270;

impl Run for SpecFlags {
    fn run(&self, _: &Cli) -> anyhow::Result<ExitCode> {
        let bundle = self.bundle.as_deref().unwrap_or(Path::new("."));
        let kind = if self.rootless {
            let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
            spec::Kind::Rootless { uid: uid.as_raw(), gid: gid.as_raw() }
        } else {
            spec::Kind::Root
        };
        // only there is a cgroup namespace of use to a container
        let cgroup2 = rustix::fs::statfs("/sys/fs/cgroup").is_ok_and(|fs| fs.f_type == CGROUP2_SUPER_MAGIC);
        let config = spec::default_config(kind);
        spec::write(bundle, &if cgroup2 { config.with_cgroup_namespace() } else { config })?;
        Ok(ExitCode::SUCCESS)
    }
}
