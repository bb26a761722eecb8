//! The shim's log: logrus's text lines in the FIFO `log` of the bundle, which containerd copies into its own log.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::SystemTime;

use rustix::fs::OFlags;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber, span};

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
    let max = if debug { LevelFilter::DEBUG } else { LevelFilter::INFO };
    // a second call keeps the first subscriber
    let _ = tracing::subscriber::set_global_default(Logger { max, file });
}

struct Logger {
    max: LevelFilter,
    /// `None` is standard error.
    file: Option<File>,
}

impl Subscriber for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= &self.max
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.max)
    }

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let line = render(SystemTime::now(), *event.metadata().level(), &fields);
        // One write per line, which a FIFO keeps whole; a log that cannot be written must not stop the work.
        let _ = match &self.file {
            Some(file) => (&*file).write(line.as_bytes()),
            None => std::io::stderr().write(line.as_bytes()),
        };
    }

    // Spans are not used; every one gets the same number.
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[derive(Default)]
struct Fields {
    message: String,
    rest: String,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            let _ = write!(self.rest, " {}={:?}", field.name(), format!("{value:?}"));
        }
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message = value.into();
        } else {
            let _ = write!(self.rest, " {}={value:?}", field.name());
        }
    }
}

fn render(time: SystemTime, level: Level, fields: &Fields) -> String {
    let level = match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        _ => "debug",
    };
    let time = humantime::format_rfc3339_nanos(time);
    format!(
        "time=\"{time}\" level={level} msg={:?} runtime=io.containerd.hiber.v2{}\n",
        fields.message, fields.rest
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_as_logrus_writes_them() {
        let fields = Fields { message: "no \"x\"\nhere".into(), rest: " id=\"a\"".into() };
        assert_eq!(
            render(SystemTime::UNIX_EPOCH, Level::WARN, &fields),
            "time=\"1970-01-01T00:00:00.000000000Z\" level=warning msg=\"no \\\"x\\\"\\nhere\" \
             runtime=io.containerd.hiber.v2 id=\"a\"\n"
        );
    }
}
