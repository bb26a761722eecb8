//! The output of `--check`.

use std::fmt::Write as _;
use std::process::ExitCode;

use hiber::preflight::{Finding, Report, Severity};

use super::out;
use crate::line::value::Format;

/// How many findings of one kind are shown to people; JSON has all.
const MAX_OF_A_KIND: usize = 10;

/// Prints what preflight found; the status tells whether anything is in the way.
pub(crate) fn show(report: &Report, format: Format) -> anyhow::Result<ExitCode> {
    let text = match format {
        Format::Json => serde_json::to_string_pretty(report)? + "\n",
        Format::Table => table(report),
    };
    out::write(&text)?;
    Ok(if report.possible { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A verdict, then a line for each finding with what to do below it.
fn table(report: &Report) -> String {
    let errors = report.findings.iter().filter(|f| f.severity <= Severity::Loss).count();
    let mut text = match errors {
        0 => format!("{} of {}: nothing is in the way\n", report.operation, report.container),
        n => format!("{} of {}: would fail, {n} in the way\n", report.operation, report.container),
    };
    let mut of_a_kind = 0;
    for (i, finding) in report.findings.iter().enumerate() {
        let is_first = i == 0 || report.findings[i - 1].check != finding.check;
        let is_last = report.findings.get(i + 1).is_none_or(|next| next.check != finding.check);
        of_a_kind = if is_first { 1 } else { of_a_kind + 1 };
        if of_a_kind <= MAX_OF_A_KIND {
            line(&mut text, finding);
        }
        if !is_last {
            continue;
        }
        if of_a_kind > MAX_OF_A_KIND {
            let _ = writeln!(text, "{:9}{}: and {} more", "", finding.check, of_a_kind - MAX_OF_A_KIND);
        }
        if finding.severity <= Severity::Warning {
            let _ = writeln!(text, "{:9}to do: {}", "", finding.advice);
        }
    }
    text
}

/// Names and paths are the container's: control characters in them do not reach the terminal.
fn line(text: &mut String, finding: &Finding) {
    let _ = write!(text, "{:9}{}: ", finding.severity.to_string(), finding.check);
    for c in finding.to_string().chars() {
        match c {
            c if c.is_control() => drop(write!(text, "{}", c.escape_default())),
            c => text.push(c),
        }
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(severity: Severity, check: &'static str, what: &str) -> Finding {
        let mut finding = Finding::default();
        (finding.severity, finding.check, finding.what) = (severity, check, what.to_owned());
        finding.advice = "pass --a-flag".to_owned();
        finding
    }

    #[test]
    fn advice_is_given_once_for_each_kind() {
        let mut findings: Vec<_> =
            (0..12).map(|i| finding(Severity::Error, "file-lock", &format!("\u{1b}lock {i}"))).collect();
        findings.push(finding(Severity::Cost, "memory", "1 MiB"));
        let mut report = Report::default();
        (report.operation, report.container, report.findings) = ("checkpoint", "web".into(), findings);
        let text = table(&report);
        assert!(text.starts_with(
            "checkpoint of web: would fail, 12 in the way\nerror    file-lock: \\u{1b}lock 0\n"
        ));
        assert!(text.contains(
            "         file-lock: and 2 more\n         to do: pass --a-flag\ncost     memory: 1 MiB\n"
        ));
        assert_eq!(text.matches("to do").count(), 1, "{text}");
    }
}
