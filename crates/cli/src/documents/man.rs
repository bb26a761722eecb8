//! Manual pages, from the declarations of commands and flags, in the macros of man(7).

use std::fmt::Write;

use super::help::{OVERVIEW, spelled};
use super::shown;
use crate::line::command::{Cli, Command};
use crate::line::flag::Flags;
use crate::line::global::Global;
use crate::line::shape::Entry;

/// Every page: its file's name and text. `date` is YYYY-MM-DD.
pub(crate) fn pages(cli: &Cli, date: &str) -> Vec<(String, String)> {
    let program = &cli.program;
    let page = |name: String, body: String| {
        let title = name.to_uppercase();
        let version = env!("CARGO_PKG_VERSION");
        let head = format!(".TH {title} 8 {date} \"{program} {version}\" \"System administration\"\n");
        (format!("{name}.8"), head + &body)
    };
    let commands = cli.commands.iter().map(|c| page(format!("{program}-{}", c.name), command(program, c)));
    [page(program.to_owned(), overview(cli))].into_iter().chain(commands).collect()
}

fn overview(cli: &Cli) -> String {
    let program = &cli.program;
    let mut body = format!(
        ".SH NAME\n{program} \\- Open Container Initiative runtime with checkpoint and restore\n\
         .SH SYNOPSIS\n.B {program}\n[global options] \\fIcommand\\fR [options] [arguments...]\n"
    );
    body.push_str(".SH DESCRIPTION\n");
    prose(&mut body, &OVERVIEW.replace("$PROGRAM", program));
    body.push_str(".SH COMMANDS\n");
    for command in cli.commands {
        let _ = writeln!(
            body,
            ".TP\n.BR {}\\-{} (8)\n{}",
            escaped(program),
            escaped(command.name),
            text(command.summary)
        );
    }
    body.push_str(".SH OPTIONS\nThey stand before the command.\n");
    options(&mut body, Global::TABLE);
    body.push_str(&AFTERWARDS.replace("$PROGRAM", program));
    body
}

fn command(program: &str, command: &Command) -> String {
    let name = escaped(command.name);
    let mut body = format!(".SH NAME\n{program}\\-{name} \\- {}\n.SH SYNOPSIS\n", text(command.summary));
    for (at, usage) in command.usage.split("  or  ").enumerate() {
        let line = text(usage).replace('<', "\\fI").replace('>', "\\fR");
        let again = if at > 0 { ".br\n" } else { "" };
        let _ = writeln!(body, "{again}.B {program} {name}\n{}", format!("[options] {line}").trim_end());
    }
    if !command.description.is_empty() {
        body.push_str(".SH DESCRIPTION\n");
        prose(&mut body, command.description);
    }
    body.push_str(".SH OPTIONS\n");
    options(&mut body, command.flags);
    if !command.examples.is_empty() {
        body.push_str(".SH EXAMPLES\n");
        for (line, what) in command.examples {
            let _ = writeln!(body, ".TP\n.B {program} {}\n{}", escaped(line), text(what));
        }
    }
    let _ = writeln!(body, ".SH SEE ALSO\n.BR {program} (8)");
    body
}

fn options(body: &mut String, table: &'static [Entry]) {
    for flag in shown(table) {
        let _ = writeln!(body, ".TP\n.B {}\n{}", escaped(&spelled(flag)), text(flag.help));
    }
}

/// Paragraphs. Text that is indented, or within braces, keeps its lines.
fn prose(body: &mut String, paragraphs: &str) {
    for (at, paragraph) in paragraphs.split("\n\n").enumerate() {
        let verbatim = paragraph.starts_with([' ', '{']);
        if verbatim {
            body.push_str(".PP\n.nf\n");
        } else if at > 0 {
            body.push_str(".PP\n");
        }
        for line in paragraph.lines() {
            let _ = writeln!(body, "{}", text(line));
        }
        if verbatim {
            body.push_str(".fi\n");
        }
    }
}

/// A line of text, which must not be read as a macro.
fn text(line: &str) -> String {
    let line = escaped(line);
    if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line }
}

/// Dashes are those that people type.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-")
}

const AFTERWARDS: &str = r#".SH EXIT STATUS
0 on success, 1 on failure, 3 if there is no such command.
.B run
and
.B restore
in the foreground end with the status of the container's process, and 128 and the signal's number
if a signal killed it;
.B exec
likewise, and with 255 if it could not run the process.
.SH ENVIRONMENT
.TP
.B HIBER_CRIU
the criu program, where
.B \-\-criu
is not given
.TP
.B HIBER_TRUST
the policy of trust, by its absolute path, in place of /etc/hiber/trust.toml
.TP
.B XDG_RUNTIME_DIR
where the state of a plain user's containers is kept
.SH FILES
.TP
.I /etc/hiber/trust.toml
the policy of trust: with
.B require\-signature = true
only checkpoints that one of the public keys in
.B keys
verifies are restored or imported (hiber's documentation, docs/archives.md)
.SH SEE ALSO
.BR criu (8),
.BR runc (8)
"#;
