//! Values of flags and arguments.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::str::FromStr;
use std::time::Duration;

use hiber::{PreCopyMode, Resources};
use hiber_sandbox::ids;
use nix::libc;
use nix::sys::signal::Signal;

use super::args::{CgroupsMode, Format, NetworkLock, PageServer, Shell};
use super::refusal::Refusal;

type Result<T> = std::result::Result<T, Refusal>;

/// Text where the OCI specification has a JSON string.
pub(super) fn text(flag: &str, value: &OsStr) -> Result<String> {
    let text =
        value.to_str().ok_or_else(|| Refusal::Value(format!("{flag} {value:?} is not valid UTF-8")))?;
    Ok(text.to_owned())
}

/// A number, or `default` where the flag is not given; its type's range is the flag's.
pub(super) fn number<T: FromStr>(value: Option<&OsStr>, flag: &str, default: T) -> Result<T> {
    let Some(value) = value else { return Ok(default) };
    value
        .to_str()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Refusal::Form(format!("invalid value {value:?} for flag -{flag}: expected a number")))
}

/// One of a few words.
fn word<T: Copy>(value: &OsStr, what: &str, words: &[(&str, T)]) -> Result<T> {
    words.iter().find(|(word, _)| value == *word).map(|(_, meaning)| *meaning).ok_or_else(|| {
        let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        Refusal::Value(format!("{what} {value:?}: expected {}", words.join(" or ")))
    })
}

pub(super) fn format(value: &OsStr) -> Result<Format> {
    word(value, "invalid format option", &[("table", Format::Table), ("json", Format::Json)])
}

pub(super) fn shell(value: &OsStr) -> Result<Shell> {
    word(value, "unknown shell", &[("bash", Shell::Bash), ("zsh", Shell::Zsh), ("fish", Shell::Fish)])
}

pub(super) fn pre_copy(value: &OsStr) -> Result<PreCopyMode> {
    word(
        value,
        "--pre-copy",
        &[("auto", PreCopyMode::Auto), ("on", PreCopyMode::On), ("off", PreCopyMode::Off)],
    )
}

pub(super) fn cgroups_mode(value: &OsStr) -> Result<CgroupsMode> {
    let modes = [
        ("soft", CgroupsMode::Soft),
        ("full", CgroupsMode::Full),
        ("strict", CgroupsMode::Strict),
        ("ignore", CgroupsMode::Ignore),
    ];
    word(value, "invalid manage-cgroups-mode", &modes)
}

pub(super) fn resources(value: &OsStr) -> Result<Resources> {
    word(value, "invalid resources", &[("checkpoint", Resources::Checkpoint), ("config", Resources::Config)])
}

pub(super) fn network_lock(value: &OsStr) -> Result<NetworkLock> {
    let methods = [
        ("iptables", NetworkLock::Iptables),
        ("nftables", NetworkLock::Nftables),
        ("skip", NetworkLock::Skip),
    ];
    word(value, "invalid network-lock", &methods)
}

/// `ADDRESS:PORT`, with IPv6 addresses in brackets.
pub(super) fn page_server(value: &OsStr) -> Result<PageServer> {
    let wrong =
        |why: &str| Refusal::Value(format!("invalid page-server {value:?}: {why}; expected ADDRESS:PORT"));
    let text = value.to_str().ok_or_else(|| wrong("not valid UTF-8"))?;
    let (address, port) = text.rsplit_once(':').ok_or_else(|| wrong("no port"))?;
    let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']'));
    if bare.is_none() && address.contains(':') {
        return Err(wrong("an IPv6 address needs brackets"));
    }
    let address = bare.unwrap_or(address);
    let port =
        port.parse().ok().filter(|&p| p > 0).ok_or_else(|| wrong("the port is no number from 1 to 65535"))?;
    if address.is_empty() {
        return Err(wrong("no address"));
    }
    Ok(PageServer { address: address.to_owned(), port })
}

/// `TYPE:NAME`, as CRIU wants it.
pub(super) fn lsm_profile(value: &OsStr) -> Result<String> {
    match value.to_str().and_then(|text| text.split_once(':')) {
        Some((kind, name)) if !kind.is_empty() && !name.is_empty() => Ok(format!("{kind}:{name}")),
        _ => Err(Refusal::Value(format!("invalid lsm-profile {value:?}: expected TYPE:NAME"))),
    }
}

/// A span of time as Go writes it.
pub(super) fn span(flag: &str, value: &OsStr) -> Result<Duration> {
    let text = value.to_string_lossy();
    humantime::parse_duration(&text)
        .map_err(|e| Refusal::Form(format!("invalid value {text:?} for flag -{flag}: {e}")))
}

/// A span of time as Go writes it, `1s`, `100ms` or `1m30s`; more than none.
pub(super) fn interval(value: &OsStr) -> Result<Duration> {
    let span = span("interval", value)?;
    if span.is_zero() {
        return Err(Refusal::Value("duration interval must be greater than 0".into()));
    }
    Ok(span)
}

/// `[CONTROLLER[,CONTROLLER…]:]PATH`, each; without controllers there can be only one.
pub(super) fn sub_cgroups<'a>(values: impl Iterator<Item = &'a OsStr>) -> Result<BTreeMap<String, String>> {
    let values = values.map(|v| text("cgroup", v)).collect::<Result<Vec<_>>>()?;
    let refuse = |why: String| Err(Refusal::Value(format!("invalid --cgroup argument: {why}")));
    let mut paths = BTreeMap::new();
    for value in &values {
        let Some((controllers, path)) = value.split_once(':') else {
            if values.len() != 1 {
                return refuse(format!("{value} (missing <controller>: prefix)"));
            }
            paths.insert(String::new(), value.clone());
            continue;
        };
        for controller in controllers.split(',') {
            if controller.is_empty() {
                return refuse(format!("{value} (empty <controller> prefix)"));
            }
            if paths.insert(controller.to_owned(), path.to_owned()).is_some() {
                return refuse(format!("controller {controller} specified multiple times"));
            }
        }
    }
    Ok(paths)
}

fn id_number(value: &str, what: &str) -> Result<u32> {
    let id = value.parse().ok().filter(|id| *id <= ids::MAX);
    id.ok_or_else(|| Refusal::Value(format!("bad {what}: {value:?} is no number from 0 to {}", ids::MAX)))
}

/// `UID[:GID]`
pub(super) fn user(value: &OsStr) -> Result<(u32, Option<u32>)> {
    let value = value.to_string_lossy();
    match value.split_once(':') {
        None => Ok((id_number(&value, "uid")?, None)),
        Some((uid, gid)) => Ok((id_number(uid, "uid")?, Some(id_number(gid, "gid")?))),
    }
}

pub(super) fn gid(value: &OsStr) -> Result<u32> {
    id_number(&value.to_string_lossy(), "gid for --additional-gids")
}

/// A signal by number or name; SIGTERM where none is given. Real-time signals have names, too:
/// `RTMIN+3`, as container managers send to systemd.
pub(super) fn signal(value: Option<&OsStr>) -> Result<i32> {
    let Some(value) = value.filter(|v| !v.is_empty()) else { return Ok(libc::SIGTERM) };
    let known = value.to_str().and_then(|text| match text.parse::<i32>() {
        Ok(number) => Some(number),
        Err(_) => named_signal(&text.to_ascii_uppercase()),
    });
    known
        .filter(|n| (0..=libc::SIGRTMAX()).contains(n))
        .ok_or_else(|| Refusal::Value(format!("unknown signal {value:?}")))
}

fn named_signal(name: &str) -> Option<i32> {
    let name = name.strip_prefix("SIG").unwrap_or(name);
    let real_time =
        |offset: &str| if offset.is_empty() { Some(0) } else { offset.parse::<u8>().ok().map(i32::from) };
    if let Some(offset) = name.strip_prefix("RTMIN") {
        return real_time(offset.strip_prefix('+').unwrap_or(offset)).map(|n| libc::SIGRTMIN() + n);
    }
    if let Some(offset) = name.strip_prefix("RTMAX") {
        return real_time(offset.strip_prefix('-').unwrap_or(offset)).map(|n| libc::SIGRTMAX() - n);
    }
    match name {
        "CLD" => Some(libc::SIGCHLD),
        "IOT" => Some(libc::SIGABRT),
        "POLL" => Some(libc::SIGIO),
        name => Signal::from_str(&format!("SIG{name}")).ok().map(|s| s as i32),
    }
}
