//! The log of a command, in the two formats of runc: json lines of `--log` tell containerd the cause of a failure.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, Ordering};

use hiber_log::{Form, Logger};

use crate::line::global::{Global, LogFormat};

/// Whether people see the log on standard error.
static ON_STDERR: AtomicBool = AtomicBool::new(true);

/// Starts logging as the global flags say. To be called once, before anything is logged; an error of
/// the command line itself is logged as far as its global flags were understood.
///
/// # Errors
/// If the log file cannot be opened; logging then goes to standard error.
pub(crate) fn init(global: &Global) -> Result<(), String> {
    let (file, result) = match &global.log {
        None => (None, Ok(())),
        Some(path) => match OpenOptions::new().create(true).append(true).mode(0o644).open(path) {
            Ok(file) => (Some(file), Ok(())),
            Err(e) => (
                None,
                Err(format!(
                    "cannot open the log file {}: {}",
                    path.display(),
                    hiber_sandbox::error::plain(&e)
                )),
            ),
        },
    };
    ON_STDERR.store(file.is_none(), Ordering::Relaxed);
    let form = match global.log_format() {
        LogFormat::Json => Form::Json,
        LogFormat::Text => Form::Text,
    };
    Logger::new(form).debug(global.debug).file(file).start();
    result
}

/// Prints a line that is no log line.
pub(crate) fn plain(message: &str) {
    // there is nobody left to tell of a failure here
    let _ = writeln!(io::stderr(), "{message}");
}

/// Logs the error that ends the program; if the log is a file, also prints it for the person who waits.
pub(crate) fn fatal(message: &str) {
    let message = message.trim_end();
    tracing::error!("{message}");
    if !ON_STDERR.load(Ordering::Relaxed) {
        // there is nobody left to tell of a failure here
        let _ = writeln!(io::stderr(), "{message}");
    }
}
