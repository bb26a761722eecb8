//! `man`

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;

use crate::documents::man::pages;
use crate::line::command::{Cli, Command, Count, Run};
use crate::line::shape::Argument;

pub(crate) const COMMAND: Command = Command::new("man", "<directory>", "write the manual pages", |m| {
    Ok(Box::new(Man { directory: m.positionals.first().map(PathBuf::from).unwrap_or_default() }))
})
.description(
    "One page for the program and one for each command, of section 8, into a directory, which is made.\n\
     With SOURCE_DATE_EPOCH in the environment that is their date.",
)
.examples(&[("man /usr/share/man/man8", "write them where man(1) looks for them")])
.takes(Count::Exactly(1), &[Argument::Directory]);

/// In seconds since 1970: what RFC 3339 cannot write any more.
const YEAR_10000: u64 = 253_402_300_800;

#[derive(Debug)]
struct Man {
    directory: PathBuf,
}

impl Run for Man {
    fn run(&self, cli: &Cli) -> anyhow::Result<ExitCode> {
        let date = date()?;
        let directory = &self.directory;
        std::fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
        for (name, text) in pages(cli, date.split('T').next().unwrap_or_default()) {
            let file = directory.join(name);
            std::fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// `$SOURCE_DATE_EPOCH` (seconds; reproducible-builds.org) or now, in RFC 3339.
fn date() -> anyhow::Result<String> {
    let date = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => {
            let seconds = text.parse().ok().filter(|seconds| *seconds < YEAR_10000);
            let seconds = seconds.with_context(|| format!("SOURCE_DATE_EPOCH {text:?}: expected seconds"))?;
            UNIX_EPOCH + Duration::from_secs(seconds)
        }
        Err(_) => SystemTime::now(),
    };
    Ok(humantime::format_rfc3339_seconds(date).to_string())
}
