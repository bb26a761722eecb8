//! `ps`

use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::io::{self, IsTerminal as _};
use std::process::{self, ExitCode, Stdio};

use hiber::id::ContainerId;

use crate::containers::Containers;
use crate::flags::process::FORMAT;
use crate::line::command::{Cli, Command, Count, Run};
use crate::line::flag::{Flags, flags};
use crate::line::shape::Argument;
use crate::line::value::Format;
use crate::output::out;

flags! {
    struct PsFlags {
        format: Option<Format> = FORMAT,
    }
}

pub(crate) const COMMAND: Command =
    Command::new("ps", "<container-id> [ps option...]", "show the processes of a container", |m| {
        let options = m.positionals[1..].to_vec();
        Ok(Box::new(Ps { id: m.container()?, options, flags: PsFlags::read(m)? }))
    })
    .description(
        "Options after the container's id are given to ps(1) (default: -ef); its output must have a\n\
         PID column. With --format json only the process ids are printed.",
    )
    .examples(&[("ps web -o pid,ppid,args", "show the processes of web in these columns")])
    .flags(PsFlags::TABLE)
    .takes(Count::AtLeast(1), &[Argument::Container])
    .verbatim();

#[derive(Debug)]
struct Ps {
    id: ContainerId,
    /// Options for ps(1).
    options: Vec<OsString>,
    flags: PsFlags,
}

impl Run for Ps {
    fn run(&self, cli: &Cli) -> anyhow::Result<ExitCode> {
        let task = Containers::new(cli)?.task(&self.id)?;
        let pids = task.pids()?;
        let text = match self.flags.format.unwrap_or_default() {
            Format::Json => json(&pids),
            Format::Table => {
                let rows = rows_of(&run_ps(&self.options)?, &pids)?;
                // Programs that call hiber get runc's columns.
                match io::stdout().is_terminal() {
                    true => with_pids_inside(&rows, |pid| task.pid_inside(pid)),
                    false => rows,
                }
            }
        };
        out::write(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn json(pids: &[i32]) -> String {
    let pids: Vec<_> = pids.iter().map(i32::to_string).collect();
    format!("[{}]\n", pids.join(","))
}

/// Why `ps` failed.
#[derive(Debug, thiserror::Error)]
enum PsError {
    /// ps(1) could not be started.
    #[error("cannot run ps")]
    Start(#[source] io::Error),
    /// ps(1) did not like its options.
    #[error("ps: {status}: {output}")]
    Failed {
        /// How it ended.
        status: std::process::ExitStatus,
        /// Its output.
        output: String,
    },
    /// Without that column its lines cannot be told apart.
    #[error("couldn't find PID field in ps output")]
    NoPidColumn,
    /// A line of another shape than the header.
    #[error("unable to parse pid in ps output: {0:?}")]
    Pid(String),
}

fn run_ps(options: &[OsString]) -> Result<String, PsError> {
    let default = [OsString::from("-ef")];
    let options = if options.is_empty() { &default } else { options };
    let output = process::Command::new(OsStr::new("ps"))
        .args(options)
        .stdin(Stdio::null())
        .output()
        .map_err(PsError::Start)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if !output.status.success() {
        let said = text(&output.stdout) + &text(&output.stderr);
        return Err(PsError::Failed { status: output.status, output: said.trim().to_owned() });
    }
    Ok(text(&output.stdout))
}

/// The header and the lines of these processes.
fn rows_of(output: &str, pids: &[i32]) -> Result<String, PsError> {
    let mut lines = output.lines();
    let header = lines.next().unwrap_or_default();
    let column = header.split_whitespace().position(|name| name == "PID").ok_or(PsError::NoPidColumn)?;
    let mut rows = format!("{header}\n");
    for line in lines.filter(|line| !line.is_empty()) {
        let pid = line.split_whitespace().nth(column).and_then(|pid| pid.parse().ok());
        if pids.contains(&pid.ok_or_else(|| PsError::Pid(line.to_owned()))?) {
            rows.push_str(line);
            rows.push('\n');
        }
    }
    Ok(rows)
}

/// The table with each process's number in the container in front.
fn with_pids_inside(table: &str, inside: impl Fn(i32) -> Option<i32>) -> String {
    let header = table.lines().next().unwrap_or_default();
    let column = header.split_whitespace().position(|name| name == "PID").unwrap_or(usize::MAX);
    let mut text = format!("INSIDE {header}\n");
    for row in table.lines().skip(1) {
        let pid = row.split_whitespace().nth(column).and_then(|pid| pid.parse().ok());
        let number = pid.and_then(&inside).map_or_else(|| "?".to_owned(), |number| number.to_string());
        let _ = writeln!(text, "{number:>6} {row}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_found_by_the_pid_column() {
        let output = "USER       PID COMMAND\nroot         1 init\n\nroot        21 sh 1\n";
        assert_eq!(rows_of(output, &[21, 9]).unwrap(), "USER       PID COMMAND\nroot        21 sh 1\n");
        assert!(matches!(rows_of("USER COMMAND\n", &[1]), Err(PsError::NoPidColumn)));
        assert!(matches!(rows_of("", &[1]), Err(PsError::NoPidColumn)));
        assert!(matches!(rows_of("PID CMD\nx y\n", &[1]), Err(PsError::Pid(line)) if line == "x y"));
    }

    #[test]
    fn people_see_the_numbers_inside_too() {
        let table = "USER       PID COMMAND\nroot        21 sh 1\nroot        22 gone\n";
        assert_eq!(
            with_pids_inside(table, |pid| (pid == 21).then_some(1)),
            "INSIDE USER       PID COMMAND\n     1 root        21 sh 1\n     ? root        22 gone\n"
        );
    }

    #[test]
    fn pids_as_json() {
        assert_eq!(json(&[1, 22]), "[1,22]\n");
    }

    #[test]
    fn the_real_ps_lists_this_process() {
        let me = std::process::id();
        let text = rows_of(&run_ps(&[]).unwrap(), &[me as i32]).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.lines().nth(1).is_some_and(|row| row.contains(&me.to_string())), "{text}");
        let refused = run_ps(&["--no-such-option".into()]);
        assert!(matches!(refused, Err(PsError::Failed { output, .. }) if !output.is_empty()));
    }
}
