#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::time::SystemTime;

use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber, span};

/// The look of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Form {
    /// `time="2026-01-02T03:04:05.678901234Z" level=error msg="no such file" pid=7`
    Text,
    /// `{"level":"error","msg":"no such file","pid":7,"time":"…"}`
    Json,
    /// `error: no such file pid=7`. Text on standard error looks so, too, if that is a terminal.
    Terminal,
}

/// Writes each event as a line.
#[derive(Debug)]
pub struct Logger {
    form: Form,
    max: LevelFilter,
    /// `None` is standard error.
    file: Option<File>,
    /// Fields of every line.
    fields: BTreeMap<&'static str, Value>,
}

impl Logger {
    /// Lines of this form on standard error, but for those of debugging.
    pub fn new(form: Form) -> Self {
        Self { form, max: LevelFilter::INFO, file: None, fields: BTreeMap::new() }
    }

    /// Writes to a file instead.
    #[must_use]
    pub fn file(mut self, file: impl Into<Option<File>>) -> Self {
        self.file = file.into();
        self
    }

    /// Writes lines for debugging, too, each with its place in the source.
    #[must_use]
    pub fn debug(mut self, debug: bool) -> Self {
        self.max = if debug { LevelFilter::DEBUG } else { LevelFilter::INFO };
        self
    }

    /// Adds a field to every line.
    #[must_use]
    pub fn field(mut self, name: &'static str, value: &str) -> Self {
        self.fields.insert(name, value.into());
        self
    }

    /// Logs all events of the program from now on. A second call keeps the first logger.
    pub fn start(self) {
        let _ = tracing::subscriber::set_global_default(self);
    }
}

impl Subscriber for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= &self.max
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.max)
    }

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields { message: String::new(), rest: self.fields.clone() };
        event.record(&mut fields);
        let metadata = event.metadata();
        if let (LevelFilter::DEBUG, Some(file), Some(line)) = (self.max, metadata.file(), metadata.line()) {
            fields.rest.insert("file", format!("{file}:{line}").into());
        }
        let form = match self.form {
            // Asked when there is a line: most commands have none.
            Form::Text if self.file.is_none() && io::stderr().is_terminal() => Form::Terminal,
            form => form,
        };
        let line = render(form, SystemTime::now(), *metadata.level(), &fields);
        // One write per line, so that processes that append to one file do not mix their lines.
        // A log that cannot be written must not stop the work.
        let _ = match &self.file {
            Some(file) => (&*file).write_all(line.as_bytes()),
            None => io::stderr().lock().write_all(line.as_bytes()),
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

/// The message and the other fields of an event.
struct Fields {
    message: String,
    rest: BTreeMap<&'static str, Value>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            ("message", other) => self.message = other.to_string(),
            // names of the line itself, and logrus's way out
            ("level", value) => drop(self.rest.insert("fields.level", value)),
            ("msg", value) => drop(self.rest.insert("fields.msg", value)),
            ("time", value) => drop(self.rest.insert("fields.time", value)),
            (name, value) => drop(self.rest.insert(name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, value.to_string().into());
    }
}

fn render(form: Form, time: SystemTime, level: Level, fields: &Fields) -> String {
    let time = humantime::format_rfc3339_nanos(time).to_string();
    let level = match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    };
    let mut line = match form {
        Form::Json => {
            let mut object = fields.rest.clone();
            object.extend([
                ("level", level.into()),
                ("msg", fields.message.as_str().into()),
                ("time", time.into()),
            ]);
            let object = object.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            return format!("{}\n", Value::Object(object));
        }
        Form::Text => {
            let message = quoted(&fields.message);
            format!("time={} level={level} msg={message}", quoted(&time))
        }
        Form::Terminal => format!("{level}: {}", fields.message),
    };
    for (name, value) in &fields.rest {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let _ = write!(line, " {name}={}", quoted(&value));
    }
    line.push('\n');
    line
}

/// The value as logrus writes it: bare if nothing in it needs quotes, and always one line.
fn quoted(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._/@^+".contains(c);
    if value.chars().all(plain) { value.to_owned() } else { format!("{value:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn line(form: Form, level: Level, message: &str, rest: &[(&'static str, Value)]) -> String {
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_767_323_045, 60_007);
        let fields = Fields { message: message.into(), rest: rest.iter().cloned().collect() };
        render(form, time, level, &fields)
    }

    #[test]
    fn text_lines() {
        assert_eq!(
            line(
                Form::Text,
                Level::ERROR,
                "no \"such\" file\n2",
                &[("pid", 7.into()), ("path", "/a b".into())]
            ),
            "time=\"2026-01-02T03:04:05.000060007Z\" level=error msg=\"no \\\"such\\\" file\\n2\" path=\"/a b\" pid=7\n"
        );
        assert!(line(Form::Text, Level::WARN, "word", &[]).ends_with(" level=warning msg=word\n"));
    }

    #[test]
    fn json_lines() {
        assert_eq!(
            line(Form::Json, Level::ERROR, "no \"such\" file\n2", &[("pid", 7.into())]),
            "{\"level\":\"error\",\"msg\":\"no \\\"such\\\" file\\n2\",\"pid\":7,\"time\":\"2026-01-02T03:04:05.000060007Z\"}\n"
        );
    }

    #[test]
    fn lines_on_a_terminal() {
        assert_eq!(line(Form::Terminal, Level::ERROR, "no such file", &[]), "error: no such file\n");
    }

    /// The lines that a logger with these settings writes to its file while `act` logs.
    fn logged(form: Form, max: LevelFilter, act: impl FnOnce()) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        let logger = Logger::new(form).debug(max == LevelFilter::DEBUG).file(file.reopen().unwrap());
        tracing::subscriber::with_default(logger, act);
        std::fs::read_to_string(file.path()).unwrap()
    }

    #[test]
    fn events_become_lines_with_their_fields() {
        let text = logged(Form::Json, LevelFilter::INFO, || {
            tracing::debug!("not asked for");
            tracing::warn!(msg = "mine", id = %"box", n = -1, ok = true, "about {}", "something");
        });
        let object: BTreeMap<String, Value> = serde_json::from_str(&text).unwrap();
        assert_eq!(object["msg"], "about something");
        assert_eq!(object["fields.msg"], "mine");
        assert_eq!(object["level"], "warning");
        assert_eq!((&object["id"], &object["n"], &object["ok"]), (&"box".into(), &(-1).into(), &true.into()));
        assert!(object["time"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn debug_lines_say_where_they_come_from() {
        let text = logged(Form::Text, LevelFilter::DEBUG, || tracing::debug!("detail"));
        assert!(text.contains("level=debug msg=detail file=") && text.contains("lib.rs:"), "{text}");
    }

    #[test]
    fn fields_of_every_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let logger = Logger::new(Form::Text).field("runtime", "io.containerd.hiber.v2");
        let logger = logger.file(file.reopen().unwrap());
        tracing::subscriber::with_default(logger, || tracing::warn!(id = "a b", "no \"x\"\nhere"));
        let text = std::fs::read_to_string(file.path()).unwrap();
        let rest = " level=warning msg=\"no \\\"x\\\"\\nhere\" id=\"a b\" runtime=io.containerd.hiber.v2\n";
        assert!(text.starts_with("time=\"") && text.ends_with(rest), "{text}");
    }
}
