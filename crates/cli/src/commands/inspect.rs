//! `inspect`

use std::path::PathBuf;
use std::process::ExitCode;

use crate::flags::archive::{self, IDENTITY, KeyFile, VERIFY_KEY};
use crate::line::command::{Cli, Command, Count, Run};
use crate::line::flag::{Flag, Flags, flags};
use crate::line::refusal::Refusal;
use crate::line::shape::Argument;
use crate::line::value::Format;
use crate::output::inspection;

flags! {
    pub(crate) struct InspectFlags {
        format: Option<Format> =
            Flag::value("format", "FORMAT", "table (a tree, for people) or json (default: table)").short("f"),
        identity: Vec<KeyFile> = IDENTITY,
        verify_key: Vec<KeyFile> = VERIFY_KEY,
        verify: bool = Flag::switch("verify", "compare the files with the manifest"),
    }
}

pub(crate) const COMMAND: Command =
    Command::new("inspect", "<directory or archive>", "show what a checkpoint holds", |m| {
        let path = m.positionals.first().map(PathBuf::from).unwrap_or_default();
        let flags = InspectFlags::read(m)?;
        if !flags.verify && !flags.verify_key.is_empty() {
            return Err(Refusal::value("--verify-key needs --verify: nothing else looks at signatures"));
        }
        Ok(Box::new(Inspect { path, flags }))
    })
    .description(
        "Shows the manifest, processes, memory, open files, sockets, mounts and cgroups of a checkpoint of\n\
         hiber, runc, crun or podman (an archive: tar, also with gzip or zstd, and encrypted if --identity opens it).\n\n\
         With --verify its files are compared with the manifest, hashes included; the exit status is 1\n\
         if anything is wrong, or if there are no hashes to compare.",
    )
    .examples(&[("inspect /var/tmp/web.ckpt", "show the checkpoint in that directory")])
    .flags(InspectFlags::TABLE)
    .takes(Count::Exactly(1), &[Argument::File]);

#[derive(Debug)]
struct Inspect {
    /// A directory or an archive.
    path: PathBuf,
    flags: InspectFlags,
}

impl Run for Inspect {
    fn run(&self, _: &Cli) -> anyhow::Result<ExitCode> {
        let format = self.flags.format.unwrap_or_default();
        let keys = archive::identities(&self.flags.identity)?;
        if self.flags.verify {
            return inspection::verify(
                &self.path,
                &keys,
                &archive::verifying_keys(&self.flags.verify_key)?,
                format,
            );
        }
        inspection::show(&self.path, &keys, format)?;
        Ok(ExitCode::SUCCESS)
    }
}
