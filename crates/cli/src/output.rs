//! What `list`, `state` and `ps` print: runc's tables and documents.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::SystemTime;

use hiber::{CheckpointConfig, Facts, FollowingMemory, Status};
use serde::{Serialize, Serializer};

use super::args::{Format, ListArgs, PsArgs};

/// One container, as `state` and `list` show it. The names and their order are runc's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ContainerState {
    /// The specification's version that config.json names.
    pub oci_version: String,
    /// The container's id.
    pub id: String,
    /// The first process, in the host's numbers; 0 if there is none any more.
    pub pid: i32,
    /// creating, created, running, paused or stopped
    pub status: String,
    /// The bundle's absolute path.
    pub bundle: PathBuf,
    /// The root filesystem's absolute path.
    pub rootfs: PathBuf,
    /// When it was created; written in RFC 3339, UTC.
    #[serde(serialize_with = "rfc3339")]
    pub created: SystemTime,
    /// As in config.json.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Name, or `#` and number, of the user who owns the state; empty in `state`.
    pub owner: String,
    /// Whether the kernel has killed one of its processes for want of memory; only then is it told.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub oom_killed: bool,
    /// How far memory is that follows it after a restore; only then is it told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<FollowingMemory>,
    /// Whether a checkpoint that was killed has left it paused; only then is it told.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub left_paused: bool,
}

fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_nanos(*time))
}

/// The document of `state`.
///
/// # Errors
/// If a path is not valid UTF-8.
pub(crate) fn state(container: &ContainerState) -> serde_json::Result<String> {
    serde_json::to_string_pretty(container).map(|json| json + "\n")
}

/// What `list` prints, as it comes together.
pub(crate) enum List {
    /// `--quiet`
    Ids(Vec<String>),
    /// With the owner's name. Cells are made at the end: threads that make a list together wait for each other's allocations.
    Table(Vec<(Facts, Status, String)>),
    Json(Vec<ContainerState>),
}

impl List {
    pub(crate) fn new(args: ListArgs) -> Self {
        match args.format {
            _ if args.quiet => Self::Ids(Vec::new()),
            Format::Json => Self::Json(Vec::new()),
            Format::Table => Self::Table(Vec::new()),
        }
    }

    /// Adds what another list of that kind has.
    pub(crate) fn append(&mut self, other: Self) {
        match (self, other) {
            (Self::Ids(all), Self::Ids(more)) => all.extend(more),
            (Self::Table(all), Self::Table(more)) => all.extend(more),
            (Self::Json(all), Self::Json(more)) => all.extend(more),
            _ => {}
        }
    }

    /// The text.
    ///
    /// # Errors
    /// If a path is not valid UTF-8 (json only).
    pub(crate) fn finish(self) -> serde_json::Result<String> {
        match self {
            Self::Ids(ids) => Ok(ids.into_iter().map(|id| id + "\n").collect()),
            Self::Table(all) => {
                let header = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(Cow::Borrowed);
                let rows = all.iter().map(|(facts, status, owner)| row(facts, *status, owner));
                Ok(table(&std::iter::once(header).chain(rows).collect::<Vec<_>>()))
            }
            Self::Json(all) => serde_json::to_string(&all).map(|json| json + "\n"),
        }
    }
}

/// A container's line in the table.
fn row<'a>(facts: &'a Facts, status: Status, owner: &'a str) -> [Cow<'a, str>; 6] {
    [
        facts.id.as_str().into(),
        shown_pid(facts, status).to_string().into(),
        status.as_str().into(),
        facts.bundle.to_string_lossy(),
        humantime::format_rfc3339_nanos(facts.created).to_string().into(),
        owner.into(),
    ]
}

/// The first process; 0 if it is gone.
pub(crate) fn shown_pid(facts: &Facts, status: Status) -> i32 {
    if status == Status::Stopped { 0 } else { facts.pid }
}

/// What `checkpoints ls` prints.
///
/// # Errors
/// None in practice: names and options are text.
pub(crate) fn checkpoints(all: &[CheckpointConfig], format: Format) -> serde_json::Result<String> {
    match format {
        Format::Json => serde_json::to_string(all).map(|json| json + "\n"),
        Format::Table => {
            let header = ["NAME", "CREATED", "EXIT"].map(str::to_owned);
            let rows = all.iter().map(|c| [c.name.to_string(), c.created.clone(), c.exit.to_string()]);
            Ok(table(&std::iter::once(header).chain(rows).collect::<Vec<_>>()))
        }
    }
}

/// Columns at least 12 wide and 3 apart, the last one as it is.
fn table<const N: usize>(rows: &[[impl AsRef<str>; N]]) -> String {
    let width = |column: usize| {
        rows.iter().map(|r| r[column].as_ref().chars().count() + 3).max().unwrap_or(0).max(12)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        for (cell, width) in row.iter().zip(widths).take(N - 1) {
            let _ = write!(text, "{:width$}", cell.as_ref());
        }
        let _ = writeln!(text, "{}", row[N - 1].as_ref());
    }
    text
}

/// Why `ps` failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PsError {
    /// ps(1) could not be started.
    #[error("cannot run ps")]
    Start(#[source] io::Error),
    /// ps(1) did not like its options.
    #[error("ps: {status}: {output}")]
    Failed {
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it said.
        output: String,
    },
    /// Without that column its lines cannot be told apart.
    #[error("couldn't find PID field in ps output")]
    NoPidColumn,
    /// A line of another shape than the header.
    #[error("unable to parse pid in ps output: {0:?}")]
    Pid(String),
}

/// What `ps` prints of a container with these processes.
///
/// # Errors
/// If ps(1) fails or prints no PID column.
pub(crate) fn ps(pids: &[i32], args: &PsArgs) -> Result<String, PsError> {
    match args.format {
        Format::Json => {
            let pids: Vec<_> = pids.iter().map(i32::to_string).collect();
            Ok(format!("[{}]\n", pids.join(",")))
        }
        Format::Table => rows_of(&run_ps(&args.args)?, pids),
    }
}

fn run_ps(options: &[OsString]) -> Result<String, PsError> {
    let default = [OsString::from("-ef")];
    let options = if options.is_empty() { &default } else { options };
    let output =
        Command::new(OsStr::new("ps")).args(options).stdin(Stdio::null()).output().map_err(PsError::Start)?;
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

/// The table of [`ps`] with each process's number in the container in front.
pub(crate) fn with_pids_inside(table: &str, inside: impl Fn(i32) -> Option<i32>) -> String {
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
    use std::time::Duration;

    fn container(id: &str, annotations: &[(&str, &str)]) -> ContainerState {
        ContainerState {
            oci_version: "1.3.0".into(),
            id: id.into(),
            pid: 4321,
            status: "running".into(),
            bundle: "/srv/a/long/bundle".into(),
            rootfs: "/srv/a/long/bundle/rootfs".into(),
            created: SystemTime::UNIX_EPOCH + Duration::new(1_767_323_045, 60_007),
            annotations: annotations.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            owner: "root".into(),
            oom_killed: false,
            memory: None,
            left_paused: false,
        }
    }

    fn facts(id: &str) -> Facts {
        let shown = container(id, &[]);
        Facts {
            version: 1,
            id: shown.id,
            pid: shown.pid,
            start_time: 0,
            pidfd_inode: None,
            bundle: shown.bundle,
            rootfs: shown.rootfs,
            created: shown.created,
            cgroup: Default::default(),
            resctrl: Default::default(),
            put_root: false,
            host_root: None,
            namespaces: Vec::new(),
            streams: Vec::new(),
            keyring: None,
        }
    }

    #[test]
    fn tables_line_up() {
        let args = ListArgs { format: Format::Table, quiet: false };
        let table = |rows: &[(&str, Status)]| {
            let row = |(id, status): &(&str, Status)| (facts(id), *status, "root".into());
            let mut list = List::new(args);
            rows.iter().for_each(|cells| list.append(List::Table(vec![row(cells)])));
            list.finish().unwrap()
        };
        assert_eq!(
            table(&[("a", Status::Running), ("a-long-name", Status::Stopped)]),
            "ID            PID         STATUS      BUNDLE               CREATED                          OWNER\n\
             a             4321        running     /srv/a/long/bundle   2026-01-02T03:04:05.000060007Z   root\n\
             a-long-name   0           stopped     /srv/a/long/bundle   2026-01-02T03:04:05.000060007Z   root\n"
        );
        assert_eq!(table(&[]), "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n");
    }

    #[test]
    fn quiet_is_stronger_than_a_format() {
        let args = ListArgs { format: Format::Json, quiet: true };
        let mut list = List::new(args);
        list.append(List::Ids(vec!["a".into(), "b".into()]));
        assert_eq!(list.finish().unwrap(), "a\nb\n");
    }

    #[test]
    fn json_keeps_the_order_of_runc() {
        assert_eq!(
            List::Json(vec![container("a", &[("k", "v")])]).finish().unwrap(),
            "[{\"ociVersion\":\"1.3.0\",\"id\":\"a\",\"pid\":4321,\"status\":\"running\",\
             \"bundle\":\"/srv/a/long/bundle\",\"rootfs\":\"/srv/a/long/bundle/rootfs\",\
             \"created\":\"2026-01-02T03:04:05.000060007Z\",\"annotations\":{\"k\":\"v\"},\"owner\":\"root\"}]\n"
        );
        assert_eq!(List::Json(Vec::new()).finish().unwrap(), "[]\n");
        let state = state(&container("a", &[])).unwrap();
        assert!(state.starts_with("{\n  \"ociVersion\": \"1.3.0\",\n  \"id\": \"a\",\n"), "{state}");
        assert!(!state.contains("annotations"), "{state}");
    }

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
        let args = PsArgs { id: "a".parse().unwrap(), format: Format::Json, args: vec![] };
        assert_eq!(ps(&[1, 22], &args).unwrap(), "[1,22]\n");
    }

    #[test]
    fn the_real_ps_lists_this_process() {
        let args = PsArgs { id: "a".parse().unwrap(), format: Format::Table, args: vec![] };
        let me = std::process::id();
        let text = ps(&[me as i32], &args).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.lines().nth(1).is_some_and(|row| row.contains(&me.to_string())), "{text}");
        let args = PsArgs { args: vec!["--no-such-option".into()], ..args };
        assert!(matches!(ps(&[1], &args), Err(PsError::Failed { output, .. }) if !output.is_empty()));
    }
}
