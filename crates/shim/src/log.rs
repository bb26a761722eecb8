//! The shim's log: text lines in the FIFO `log` of the bundle, which containerd copies into its own log.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use hiber_log::{Form, Logger};
use rustix::fs::OFlags;

/// Logs into the FIFO at `path` from now on.
///
/// # Errors
/// It cannot be opened; nothing is logged then.
pub(crate) fn to_fifo(path: &Path, debug: bool) -> std::io::Result<()> {
    // Both ways, so that it never breaks while containerd is away, and never waits: a full FIFO loses lines.
    let flags = OFlags::NONBLOCK.bits() as i32;
    let fifo = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?;
    start(Some(fifo), debug);
    Ok(())
}

/// Logs to standard error from now on: containerd shows what `delete` says there.
pub(crate) fn to_stderr() {
    start(None, false);
}

fn start(file: Option<File>, debug: bool) {
    let logger = Logger::new(Form::Text).field("runtime", "io.containerd.hiber.v2");
    logger.debug(debug).file(file).start();
}
