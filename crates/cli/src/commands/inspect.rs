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
    Command::new("inspect", "<directory, archive or image>", "show what a checkpoint holds", |m| {
        let path = m.positionals.first().map(PathBuf::from).unwrap_or_default();
        let flags = InspectFlags::read(m)?;
        if !flags.verify && !flags.verify_key.is_empty() {
            return Err(Refusal::value("--verify-key needs --verify: nothing else looks at signatures"));
        }
        Ok(Box::new(Inspect { path, flags }))
    })
    .description(
        "Shows the manifest, processes, memory, open files, sockets, mounts and cgroups of a checkpoint of\n\
         hiber, runc, crun or podman (an archive: tar, also with gzip, zstd or LZ4, and encrypted if --identity opens it;\n\
         - is standard input, and oci:DIR[:TAG] an image in an OCI image layout).\n\n\
         With --verify its files are compared with the manifest, hashes included; the exit status is 1\n\
         if anything is wrong, or if there are no hashes to compare.",
    )
    .examples(&[("inspect /var/tmp/web.ckpt", "show the checkpoint in that directory")])
    .flags(InspectFlags::TABLE)
    .takes(Count::Exactly(1), &[Argument::File]);

#[derive(Debug)]
struct Inspect {
    /// A directory, an archive, or an image in a layout.
    path: PathBuf,
    flags: InspectFlags,
}

impl Run for Inspect {
    fn run(&self, _: &Cli) -> anyhow::Result<ExitCode> {
        let InspectFlags { format, identity, verify_key, verify } = &self.flags;
        let format = format.unwrap_or_default();
        let import = archive::import(&self.path, identity, verify_key)?;
        if *verify {
            return inspection::verify(&import.verify()?, format);
        }
        inspection::show(&import.inspect()?, format)?;
        Ok(ExitCode::SUCCESS)
    }
}
