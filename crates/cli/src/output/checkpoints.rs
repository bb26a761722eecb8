//! The output of `checkpoints ls`.

use std::time::{Duration, SystemTime};

use hiber::store::StoredCheckpoint;
use hiber::{Description, Verified};
use serde_json::{Value, json};

use super::inspection::bytes;
use super::table::table;
use crate::line::value::Format;

/// A checkpoint in a list.
pub(crate) struct Row {
    /// Its note, in containerd's form; of one in a store, its name and time alone.
    note: Value,
    name: String,
    created: String,
    exit: Option<bool>,
    size: u64,
    shared: u64,
    frozen_time: Option<Duration>,
    whole: bool,
    verified: Option<Verified>,
}

impl Row {
    /// One in a directory.
    ///
    /// # Errors
    /// None in practice: names and options are text.
    pub(crate) fn of(one: Description) -> serde_json::Result<Self> {
        Ok(Self {
            note: serde_json::to_value(&one.config)?,
            name: one.config.name.to_string(),
            created: one.config.created,
            exit: Some(one.config.exit),
            size: one.size,
            shared: one.shared,
            frozen_time: one.frozen_time,
            whole: one.whole,
            verified: one.verified,
        })
    }

    /// One in a store, where nothing is half.
    pub(crate) fn of_stored(one: StoredCheckpoint) -> Self {
        Self {
            note: json!({"name": one.name, "created": one.created}),
            name: one.name.to_string(),
            shared: one.shared(),
            created: one.created,
            exit: None,
            size: one.size,
            frozen_time: one.frozen_time,
            whole: true,
            verified: one.verified,
        }
    }

    fn age(&self) -> Option<Duration> {
        age(&self.created)
    }

    fn json(&self) -> Value {
        let mut json = self.note.clone();
        let micros = self.frozen_time.map(|time| time.as_micros());
        json["age"] = self.age().map(|age| age.as_secs()).into();
        json["size"] = self.size.into();
        json["shared"] = self.shared.into();
        json["frozenTime"] = json!(micros);
        json["whole"] = self.whole.into();
        json["verified"] = json!(self.verified);
        json
    }

    fn cells(&self) -> [String; 8] {
        let frozen = self.frozen_time.map(|time| format!("{:.1} ms", time.as_secs_f64() * 1000.0));
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        [
            self.name.clone(),
            self.created.clone(),
            or_none(self.exit.map(|exit| exit.to_string())),
            or_none(self.age().map(short)),
            bytes(self.size),
            bytes(self.shared),
            or_none(frozen),
            verdict(self.whole, self.verified.as_ref()),
        ]
    }
}

/// How long ago that was, if it is a time. The future is now.
fn age(created: &str) -> Option<Duration> {
    let created = humantime::parse_rfc3339(created).ok()?;
    Some(SystemTime::now().duration_since(created).unwrap_or_default())
}

/// The two largest parts of a time: `3m 12s`.
fn short(time: Duration) -> String {
    let text = humantime::format_duration(Duration::from_secs(time.as_secs())).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

fn verdict(whole: bool, verified: Option<&Verified>) -> String {
    match verified {
        _ if !whole => "not whole".to_owned(),
        None => "no".to_owned(),
        Some(Verified { problems, .. }) if !problems.is_empty() => format!("damaged ({})", problems.len()),
        Some(Verified { time, .. }) => {
            age(time).map_or_else(|| "yes".to_owned(), |age| format!("{} ago", short(age)))
        }
    }
}

/// The list for people, or for programs.
pub(crate) fn listed(all: &[Row], format: Format) -> String {
    match format {
        Format::Json => Value::from(all.iter().map(Row::json).collect::<Vec<_>>()).to_string() + "\n",
        Format::Table => {
            let header =
                ["NAME", "CREATED", "EXIT", "AGE", "SIZE", "SHARED", "FROZEN", "VERIFIED"].map(str::to_owned);
            table(&std::iter::once(header).chain(all.iter().map(Row::cells)).collect::<Vec<_>>())
        }
    }
}
